"""Values that do not fit their column, told in one sentence: the first with its line, how many, and the option that accepts them.

Enters: a table, a column's name and kind, the rows that hold something else. Leaves: text for a `DataError` or a note. The decision that shaped it:
nothing is repaired or guessed; each sentence ends in what its reader can type, and one stand-in for missing is told from a column that is no number at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fivestep.data.records import shown
from fivestep.data.tables import Table
from fivestep.data.values import NUMBER, NUMBER_COMMA

if TYPE_CHECKING:
    import polars

THOUSANDS = r"^[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?$"
STAND_INS = (
    "?",
    "-",
    "--",
    ".",
    "*",
    "x",
    "unknown",
    "missing",
    "n.a.",
    "nil",
    "inf",
    "-inf",
    "infinity",
    "-infinity",
    "+inf",
    "blank",
    "no data",
    "not available",
)


def stray_problem(table: Table, name: str, kind: str, rows: np.ndarray, form: str) -> str:
    """One text for values that do not fit their column: the first with its line, how many, and the option that accepts them."""
    import polars

    series = table.column(name)
    text = stray_text(table, name, kind, rows, form)
    if series.dtype != polars.String:
        if kind == "number" and series.dtype.is_float():
            return f"{text}; it would make every loss infinite. Replace it by null, or drop=[{name!r}]"
        return f"{text} (the column holds {series.dtype}); convert the column, or drop=[{name!r}]"
    words = series[rows].head(1000).str.strip_chars().unique(maintain_order=True)
    if kind == "number":
        decimal = decimal_problem(table, name, words, np.ones(len(words)), len(words))
        if decimal and not words.str.to_lowercase().is_in(list(STAND_INS)).all():
            return decimal + (f" ({len(rows):,} such values)" if len(rows) > 1 else "")
        if words.str.contains("^[+-]?(?:[0-9]+_[0-9_]*|0[xXbBoO][0-9a-fA-F]+)$").any():
            text += ". Numbers are written [+-]digits[.digits][e+-digits], without underscores and in base ten"
    stand_ins = words.str.to_lowercase().is_in(list(STAND_INS)).all()
    other = f'columns={{{name!r}: "category"}}' if len(words) <= 20 else f'columns={{{name!r}: "text"}} (left out) or "category"'
    if len(words) == 1 or (len(words) <= 3 and stand_ins):
        tokens = ", ".join(f'"{word}"' for word in sorted(words.to_list()))
        return f'{text}. If it means "no value": missing=[{tokens}]; if the column is no {kind}: {other}'
    return f'{text}. Correct the values; or, if the column is no {kind}: {other}; or, if they mean "no value": missing=["{words[0]}", …]'


def stray_text(table: Table, name: str, kind: str, rows: np.ndarray, form: str) -> str:
    """What `stray_problem` found, without its advice."""
    found = table.column(name)[rows]
    values = found.unique(maintain_order=True)
    written = f" (dates here are written {form})" if kind in ("date", "datetime") and form else ""
    text = f"column {name!r}, {table.place(int(rows[0]))}: {shown(values[0])} is no {kind}{written}"
    if len(rows) > 1:
        text += f"; {len(rows):,} such values ({table.places(rows)})"
    if len(values) > 1:
        text += f", {len(values)} different ones ({', '.join(shown(value, 20) for value in values[:3])}{', …' if len(values) > 3 else ''})"
    return text


def decimal_problem(table: Table, name: str, texts: polars.Series, counts: np.ndarray, total: float) -> str:
    """Numbers written with another decimal sign or grouped by thousands, with the option that accepts them; "" where these texts are neither."""
    other, option = (NUMBER_COMMA, '","') if table.options.decimal == "." else (NUMBER, '"."')
    fits = texts.str.contains(other).to_numpy()
    grouped = texts.str.contains(THOUSANDS).to_numpy()
    plain = texts.str.contains(NUMBER).to_numpy()
    series = table.column(name)
    if counts[fits].sum() >= 0.9 * total and not (grouped[~plain]).all():
        row = _first_row(series, texts.filter(_mask(fits & ~plain))[0]) if (fits & ~plain).any() else 0
        return f"column {name!r}, {table.place(row)}: {shown(series[row])} looks like a number written with another decimal sign: decimal={option}"
    if counts[grouped | plain].sum() >= 0.9 * total and grouped.any() and table.options.decimal == ".":
        row = _first_row(series, texts.filter(_mask(grouped))[0])
        return (
            f"column {name!r}, {table.place(row)}: {shown(series[row])} groups its digits by thousands, or has a decimal comma; no guess is made. "
            f'Write it without the comma, or decimal="," where the comma is the decimal sign, or columns={{{name!r}: "category"}}'
        )
    return ""


def _mask(values: np.ndarray) -> polars.Series:
    import polars

    return polars.Series(values)


def _first_row(series: polars.Series, text: str) -> int:
    return int((series.str.strip_chars() == text).arg_max() or 0)
