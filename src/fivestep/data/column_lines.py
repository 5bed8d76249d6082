"""How a table's columns are shown: one line each, with kind, use, missing values and a few examples.

Enters: what is known of each column, before or after fitting. Leaves: `ColumnLines`, text that is ready to print and still gives its rows. The decision that
shaped it: what was read (`typed_tables`) and what was fitted (`columns`) are told in the same lines, so that a reader can lay one beside the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fivestep.data.records import shown
from fivestep.data.tables import ReadOptions
from fivestep.data.values import missing_tokens

if TYPE_CHECKING:
    import numpy as np
    import polars

LONG_DECIMAL = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class ColumnLine:
    """One column as it is shown: its name and kind, how it is used or why it is left out, how many values are missing, a few examples."""

    name: str
    kind: str
    use: str
    num_missing: int
    examples: tuple[str, ...] = ()


class ColumnLines(str):
    """The table of columns as text, ready to print; `.lines` holds its rows, `["age"]` the row of one column."""

    lines: tuple[ColumnLine, ...]

    def __new__(cls, lines: Sequence[ColumnLine]) -> ColumnLines:
        head = ("column", "kind", "use", "missing", "examples")
        cells = [head, *((_bare(line.name, 32), line.kind, line.use, f"{line.num_missing:,}", ", ".join(line.examples)) for line in lines)]
        widths = [min(max(len(row[at]) for row in cells), 100) for at in range(4)]
        table = super().__new__(cls, "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[4]]).rstrip() for row in cells))
        table.lines = tuple(lines)
        return table

    def __getitem__(self, name: Any) -> Any:
        return {line.name: line for line in self.lines}[name] if isinstance(name, str) else super().__getitem__(name)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from fivestep import displays

        rows = [(line.name, line.kind, line.use, line.num_missing, ", ".join(line.examples)) for line in self.lines]
        return displays.table(rows, ("column", "kind", "use", "missing", "examples"))


def examples_of(series: polars.Series, options: ReadOptions, rows: np.ndarray | None = None) -> tuple[str, ...]:
    """Up to three different values from the first of these rows (None: all), as they are written; decimals that are longer than a table has room for, to six digits."""
    found: list[str] = []
    tokens = missing_tokens(options)
    for value in (series.head(100) if rows is None else series[rows[:100]]).to_list():
        if value is None or value != value or (isinstance(value, str) and value.strip() in tokens):
            continue
        text = _bare(value, 24)
        if len(text) > 10 and LONG_DECIMAL.fullmatch(text):
            text = f"{float(text):.6g}"
        if text not in found:
            found.append(text)
        if len(found) == 3:
            break
    return tuple(found)


def _bare(value: Any, length: int) -> str:
    """A value without quotes, where it is text that has neither blanks at its ends nor anything that must be escaped."""
    plain = isinstance(value, str) and value.isprintable() and value == value.strip() and value != ""
    if not plain:
        return shown(value, length)
    return value if len(value) <= length else value[: length - 1] + "…"
