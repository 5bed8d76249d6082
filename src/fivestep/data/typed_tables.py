"""A table whose columns have a meaning: values by name, the classes of its target, rows taken out of it, its columns told in lines.

Enters: what `kinds` decided. Leaves: `TypedTable`, which splits, fitting and predictions ask. The decision that shaped it: a column is float64 with NaN for missing,
or text with null; columns that are left out stay, with the reason, as one may still split by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fivestep.data.column_lines import ColumnLine, ColumnLines
from fivestep.data.records import Limits
from fivestep.data.tables import ReadOptions, Table, near
from fivestep.data.values import count_missing, missing_mask
from fivestep.errors import DataError, UsageError


@dataclass(frozen=True, eq=False)
class TypedColumn:
    """One column with its meaning. `values`: float64 with NaN for missing (numbers; booleans as 0 and 1; dates as seconds since 1970, times since midnight), or
    polars text with null for missing (categories and text). `use`: "input", "target", "weight" or "left out"; `why` gives the reason for the last."""

    name: str
    kind: str
    use: str
    values: Any
    num_missing: int
    why: str = ""
    form: str = ""  # how a date is written ("%d/%m/%Y"); "integer", "boolean" or "text" for a target's labels
    examples: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"TypedColumn({self.name!r}, {self.kind}, {self.use}{': ' + self.why if self.why else ''}, {self.num_missing} missing)"


@dataclass(frozen=True, eq=False)
class TypedTable:
    """A table whose columns have a meaning. `rows` are positions in the table that was read (all, unless rows without target were dropped)."""

    columns: tuple[TypedColumn, ...]
    table: Table
    rows: np.ndarray
    targets: tuple[str, ...] = ()
    weight: str | None = None
    task: str | None = None
    notes: tuple[str, ...] = ()
    without_target: str = "refuse"
    limits: Limits = field(default_factory=Limits)

    @property
    def num_rows(self) -> int:
        return self.table.num_rows

    def __len__(self) -> int:
        return self.num_rows

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def inputs(self) -> list[str]:
        """Names of the columns that a model sees."""
        return [column.name for column in self.columns if column.use == "input"]

    @property
    def origin(self) -> str:
        return self.table.origin

    @property
    def fingerprint(self) -> str:
        return self.table.fingerprint

    @property
    def options(self) -> ReadOptions:
        return self.table.options

    def column(self, name: str) -> TypedColumn:
        """One column by name, used or left out; a name that is not there is a `DataError` with near names."""
        for column in self.columns:
            if column.name == name:
                return column
        raise DataError(f"no column {name!r} in {self.origin}{near(name, self.names)}")

    def values(self, name: str) -> np.ndarray:
        """A column as numpy: float64 with NaN, or an object array of str with None; for splitting by group, time or class."""
        values = self.column(name).values
        return values if isinstance(values, np.ndarray) else np.array([*values.to_list(), None], dtype=object)[:-1]

    def weights(self, rows: Any = None) -> Tensor | None:
        """The weight column of these rows (None: all) as float64, or None where there is none."""
        if self.weight is None:
            return None
        values = self.values(self.weight)
        return torch.from_numpy(values if rows is None else values[np.asarray(rows, dtype=np.int64)])

    def place(self, row: int) -> str:
        return self.table.place(row)

    def take(self, rows: Any) -> TypedTable:
        """The rows at these positions, in this order, with the same meaning."""
        rows = np.asarray(rows, dtype=np.int64)
        columns = []
        for column in self.columns:
            values = column.values[rows]
            columns.append(replace(column, values=values, num_missing=count_missing(values)))
        return replace(self, columns=tuple(columns), table=self.table.take(rows), rows=self.rows[rows])

    @property
    def _class_texts(self) -> list[str] | None:
        """The classes of the target as text, in the order of their codes."""
        if self.task not in ("binary", "multiclass"):
            return None
        return class_texts(self.column(self.targets[0]))

    @property
    def classes(self) -> tuple[str | bool | int, ...] | None:
        """The labels of the target in the order of their codes (all rows); None where numbers are predicted."""
        texts = self._class_texts
        return None if texts is None else class_labels(texts, self.column(self.targets[0]).form)

    def class_codes(self) -> np.ndarray:
        """The code of each row's class, int64 (n,); for a split that keeps the classes' shares."""
        texts = self._class_texts
        if texts is None:
            raise UsageError("the target is not classes")
        codes = {text: code for code, text in enumerate(texts)}
        return np.array([codes[text] for text in self.values(self.targets[0])], dtype=np.int64)

    def split_values(self, name: str) -> np.ndarray:
        """A column to split by (group, time, class): every row needs a value. Dropped columns can be used, too."""
        values = self.values(name)
        missing = missing_mask(self.column(name).values)
        if missing.any():
            where = self.table.places(np.flatnonzero(missing))
            raise DataError(
                f"column {name!r} has no value in {int(missing.sum()):,} rows ({where}), so these cannot be put on a side; fill "
                "them, or split by another column"
            )
        return values if values.dtype.kind == "f" else values.astype(str)

    def describe(self) -> ColumnLines:
        """What each column is taken for, one line each."""
        return ColumnLines(tuple(ColumnLine(column.name, column.kind, _use_text(column), column.num_missing, column.examples) for column in self.columns))

    def __repr__(self) -> str:
        return f"TypedTable({self.origin}: {self.num_rows:,} rows; {len(self.inputs)} inputs, target {', '.join(self.targets) or 'none'})"


def class_texts(column: TypedColumn) -> list[str]:
    """The classes of a target as text, in the order of their codes: whole numbers by value, else by letter."""
    texts = column.values.drop_nulls().unique().to_list()
    return sorted(texts, key=int) if column.form == "integer" else sorted(texts)


def class_labels(texts: Sequence[str], form: str) -> tuple[str | bool | int, ...]:
    """The labels as they are given back: what the file or frame held."""
    return tuple(int(text) if form == "integer" else text == "true" if form == "boolean" else text for text in texts)


def _use_text(column: TypedColumn) -> str:
    return f"left out: {column.why}" if column.use == "left out" else column.use
