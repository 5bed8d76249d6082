"""What each column of a table means: number, boolean, category, date, datetime, time; or left out, with the reason.

Enters: a `Table`, the names of target and weight, overrides. Leaves: a `TypedTable` (float64 numbers with NaN for missing, text for categories), or one
`DataError` with all problems. The deciding choice: a kind is decided on all rows, and one stray word in a number column is an error that names it, never a
quiet change to text. Nothing is fitted here: no mean, no vocabulary (`columns` does that, on training rows).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fivestep.data.records import Limits, shown
from fivestep.data.tables import ReadOptions, Table, data_error, listed, near, origin_of, try_read, unknown_columns
from fivestep.data.values import (
    DAYS,
    FALSE,
    MISSING,
    NUMBER,
    NUMBER_COMMA,
    TIMES,
    TRUE,
    as_text,
    count_missing,
    missing_mask,
    missing_tokens,
    number_text,
    read_as,
    times_of,
)
from fivestep.errors import DataError, UsageError

if TYPE_CHECKING:
    import polars

THOUSANDS = r"^[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?$"
FLOAT32_MAX = float(np.finfo(np.float32).max)
CLOCK = r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}(?:\.[0-9]+)?))?"
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
LEAST_ROWS = 20  # with fewer rows "every value differs" and "counts up by one" are chance


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


@dataclass(frozen=True)
class FileReport:
    """All that one pass over a file tells: its columns, notes, and every problem. Nothing is raised for what stands in the file."""

    path: str
    num_rows: int
    columns: ColumnLines
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    fingerprint: str

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        parts = [f"{self.path}: {self.num_rows:,} rows, {len(self.columns.lines)} columns"]
        if self.columns.lines:
            parts.append(str(self.columns))
        if self.notes:
            parts.append("notes\n" + "\n".join(f"  - {note}" for note in self.notes))
        parts.append(
            f"{len(self.problems)} problem{'s' * (len(self.problems) != 1)}\n" + "\n".join(f"  - {text}" for text in self.problems)
            if self.problems
            else "no problems"
        )
        return "\n\n".join(parts)


def read_columns(
    table: Any,
    *,
    target: str | Sequence[str] | None = None,
    drop: str | Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    missing: Sequence[str] | None = None,
    decimal: str | None = None,
    without_target: str = "refuse",
    weight: str | None = None,
    limits: Limits | None = None,
) -> TypedTable:
    """Decide on all rows what each column means; raises one `DataError` with all problems.

    `target`: one name, several (all numbers) or None. `drop`: left out of the inputs, but there for splitting. `columns`, `missing`, `decimal`: added to
    those that the table was read with. `without_target="drop"` drops rows whose target is missing. `weight`: a column of numbers >= 0, one weight an example.
    """
    from fivestep.data.tables import read_table

    if not isinstance(table, Table):
        table = read_table(table)
    typed, problems = try_columns(table, target, drop, columns, missing, decimal, without_target, weight, limits or Limits())
    if problems:
        raise data_error(table.origin, problems)
    return typed


def inspect_file(path: Any, target: str | Sequence[str] | None = None, *, limits: Limits | None = None, **options: Any) -> FileReport:
    """Everything that one pass over a file can tell (`fivestep check FILE`): columns, notes, and all problems at once.

    `options` are those of `read_table` and `read_columns`. Raises only for arguments that mean nothing and for a file that is not there.
    """
    reading = {name: options.pop(name) for name in ("delimiter", "encoding", "decimal", "quote") if name in options}
    missing, columns = options.pop("missing", None), options.pop("columns", None)
    arguments = {"drop": (), "without_target": "refuse", "weight": None}
    unknown = [name for name in options if name not in arguments]
    if unknown:
        names = [*arguments, "delimiter", "encoding", "decimal", "quote", "missing", "columns"]
        raise UsageError(f"{unknown[0]!r} is no option of reading a file{near(unknown[0], names).replace('its columns', 'the options')}")
    read_options = ReadOptions(columns or {}, None if missing is None else tuple([missing] if isinstance(missing, str) else missing), **reading)
    table, problems = try_read(path, read_options, limits or Limits())
    if table is None:
        return FileReport(origin_of(path), 0, ColumnLines(()), (), tuple(problems), "")
    arguments.update(options)
    if problems and table.num_rows == 0:  # nothing is left to look at
        return FileReport(table.origin, 0, ColumnLines(()), table.notes, tuple(problems), table.fingerprint)
    typed, more = try_columns(table, target, arguments["drop"], None, None, None, arguments["without_target"], arguments["weight"], limits or Limits())
    return FileReport(table.origin, table.num_rows, typed.describe(), typed.notes, (*problems, *more), table.fingerprint)


def try_columns(
    table: Table,
    target: str | Sequence[str] | None,
    drop: str | Sequence[str],
    columns: Mapping[str, str] | None,
    missing: Sequence[str] | None,
    decimal: str | None,
    without_target: str,
    weight: str | None,
    limits: Limits,
) -> tuple[TypedTable, list[str]]:
    """What can be decided, and all problems (a column with a problem is left out)."""
    options = table.options
    if columns:
        options = replace(options, columns={**options.columns, **columns})
    if missing is not None:
        options = replace(options, missing=tuple([missing] if isinstance(missing, str) else missing))
    if decimal is not None:
        options = replace(options, decimal=decimal)
    table = replace(table, options=options)
    if without_target not in ("refuse", "drop"):
        raise UsageError(f'without_target={without_target!r}: rows without target are an error ("refuse") or left out ("drop")')
    targets = () if target is None else (target,) if isinstance(target, str) else tuple(target)
    dropped = {drop} if isinstance(drop, str) else set(drop)
    problems = [
        f"{argument} {name!r}: no such column{near(name, table.names)}" for argument, name in _named(targets, dropped, weight) if name not in table.names
    ]
    problems += unknown_columns(table)
    for name in targets:
        if name in dropped or options.columns.get(name) == "drop":
            problems.append(f"the target {name!r} is dropped; a target stays: take it out of drop")
    if len(set(targets)) < len(targets):
        problems.append(f"target={list(targets)!r} names a column twice")
    if weight is not None and weight in targets:
        problems.append(f"{weight!r} is target and weight at once")
    if table.num_rows == 0:
        problems.append("the table has a header and no rows; there is nothing to learn from")
    notes = list(table.notes)
    typed: list[TypedColumn] = []
    for name in table.names:
        use = "target" if name in targets else "weight" if name == weight else "input"
        column, more_notes, more_problems = decide(table, name, use, len(targets), limits)
        if name in dropped or options.columns.get(name) == "drop":
            typed.append(replace(column, use="left out", why="dropped on request"))  # what is wrong with it does not matter
            continue
        typed.append(column)
        notes += more_notes
        problems += more_problems if table.num_rows else []
    rows = np.arange(table.num_rows)
    result = TypedTable(tuple(typed), table, rows, targets, weight if weight in table.names else None, None, (), without_target, limits)
    by_name = {column.name: column for column in typed}
    without = np.zeros(table.num_rows, bool)
    for name in targets:
        if name in by_name and by_name[name].use == "target":
            without |= missing_mask(by_name[name].values)
    if without.any():
        places, num_without = table.places(np.flatnonzero(without)), int(without.sum())
        which = ", ".join(repr(name) for name in targets)
        if without.all():
            problems.append(f"the target {which} has no value in any row; there is nothing to learn from")
        elif without_target == "refuse":
            problems.append(f'the target {which} is missing in {num_without:,} of {len(without):,} rows ({places}); without_target="drop" leaves them out')
        else:
            notes.append(f"{num_without:,} of {len(without):,} rows left out, their target {which} is missing ({places})")
            result = result.take(np.flatnonzero(~without))
    if not problems and not result.inputs:
        others = [column for column in result.columns if column.use == "left out"]
        told = "; ".join(f"{column.name!r} {column.why}" for column in others[:10]) or "the target is the only one"
        way = (
            f"columns={{{others[0].name!r}: {'number' if others[0].kind == 'number' else 'category'!r}}} uses one all the same"
            if others
            else "add columns to predict from"
        )
        problems.append(f"no column is left as an input: {told}; {way}")
    task, more_notes, more_problems = _task(result)
    notes += more_notes + _copies_of_target(result)
    return replace(result, task=task, notes=tuple(notes)), problems + ([] if problems and not result.num_rows else more_problems)


def _named(targets: Sequence[str], dropped: set[str], weight: str | None) -> list[tuple[str, str]]:
    """Each name that an argument speaks of, with the argument."""
    return [*(("target", name) for name in targets), *(("drop", name) for name in sorted(dropped)), *([("weight", weight)] if weight is not None else [])]


def class_texts(column: TypedColumn) -> list[str]:
    """The classes of a target as text, in the order of their codes: whole numbers by value, else by letter."""
    texts = column.values.drop_nulls().unique().to_list()
    return sorted(texts, key=int) if column.form == "integer" else sorted(texts)


def class_labels(texts: Sequence[str], form: str) -> tuple[str | bool | int, ...]:
    """The labels as they are given back: what the file or frame held."""
    return tuple(int(text) if form == "integer" else text == "true" if form == "boolean" else text for text in texts)


def _bare(value: Any, length: int) -> str:
    """A value without quotes, where it is text that has neither blanks at its ends nor anything that must be escaped."""
    plain = isinstance(value, str) and value.isprintable() and value == value.strip() and value != ""
    if not plain:
        return shown(value, length)
    return value if len(value) <= length else value[: length - 1] + "…"


def _use_text(column: TypedColumn) -> str:
    return f"left out: {column.why}" if column.use == "left out" else column.use


# ------------------------------------------------------------------------------------------------------------------------ deciding


def decide(table: Table, name: str, use: str, num_targets: int, limits: Limits) -> tuple[TypedColumn, list[str], list[str]]:
    """What one column means: (the column, notes, problems)."""
    import polars

    series, options = table.column(name), table.options
    asked, _, form = options.columns.get(name, "").partition(":")
    notes: list[str] = []
    problems: list[str] = []
    where = f"column {name!r}"

    def finish(kind: str, values: Any, *, why: str = "", form: str = "") -> tuple[TypedColumn, list[str], list[str]]:
        values = values if isinstance(values, np.ndarray) else values.rename(name)
        column = TypedColumn(name, kind, "left out" if why else use, values, count_missing(values), why, form, examples_of(series, options))
        if use == "target" and why:
            problems.append(f'the target {name!r} cannot be used: {why}. To use it as classes: columns={{{name!r}: "category"}}')
        return column, notes, problems

    if asked == "drop":
        return finish("text", as_text(series, options), why="dropped on request")
    if asked == "text":
        return finish("text", as_text(series, options), why="text, as asked")
    declared = series.dtype in (polars.Categorical, polars.Enum)
    if series.dtype == polars.String:
        kind, form, found = _kind_of_text(table, name, series, asked, form)
    else:
        kind, found = asked or _kind_of_dtype(series.dtype, declared), []
    if found:
        problems += found
        return replace(finish("text", as_text(series, options))[0], use="left out", why="see the problems"), notes, problems
    if use == "target" and num_targets == 1 and (kind == "boolean" or kind == "category"):
        return _decide_classes(finish, table, name, series, kind, asked, form, notes, problems)
    if use == "weight" and kind != "number":
        problems.append(f"the weight {name!r} is a {kind}, not a number; weights are numbers >= 0")
        return finish(kind, as_text(series, options), why="not a number")
    if kind in ("category", "text"):
        values = as_text(series, options)
        return _decide_category(finish, where, values, series, asked, declared, options, limits, notes, problems)
    values, stray = read_as(series, kind, form, options)
    if stray.any():
        problems.append(stray_problem(table, name, kind, np.flatnonzero(stray), form))
        return finish(kind, values, why="see the problems")
    present = ~np.isnan(values)
    if not present.any():
        if len(values):
            problems.append(f"{where} has no value in any row; it tells nothing: drop=[{name!r}]")
        return finish(kind, values, why="all missing")
    if kind == "number":
        done = _decide_number(finish, table, name, series, values, present, use, asked, num_targets, notes, problems)
        if done is not None:
            return done
    elif use == "target":
        problems.append(
            f'the target {name!r} is a {kind}; targets are numbers or classes. Compute a number from it (days until …), or columns={{{name!r}: "category"}}'
        )
    if use == "input" and present.all() and bool((values == values[0]).all()) and not asked:
        return finish(kind, values, why=f"constant ({_show_number(values[0]) if kind == 'number' else shown(series[0])} in every row)", form=form)
    if kind == "boolean" and series.dtype == polars.String:
        notes += _variants(where, as_text(series, options))
    return finish(kind, values, form=form)


def _decide_number(
    finish: Any,
    table: Table,
    name: str,
    series: polars.Series,
    values: np.ndarray,
    present: np.ndarray,
    use: str,
    asked: str,
    num_targets: int,
    notes: list,
    problems: list,
) -> Any:
    """What is special about a number column; None where it is an ordinary one."""
    import polars

    where, some = f"column {name!r}", values[present]
    huge = np.abs(values) > FLOAT32_MAX  # NaN compares false
    if huge.any():
        rows = np.flatnonzero(huge)
        problems.append(
            f"{where}, {table.place(int(rows[0]))}: {shown(series[int(rows[0])])} is beyond float32 (3.4e38) and would become infinite"
            + (f"; so are {len(rows)} values" if len(rows) > 1 else "")
            + f"; rescale the column, or drop=[{name!r}]"
        )
        return finish("number", values, why="see the problems")
    whole = bool((some == np.floor(some)).all())
    if whole and np.abs(some).max() >= 2**53:
        notes.append(
            f"{where} holds integers of 2^53 and more, which float64 rounds "
            f"({shown(series[int(np.flatnonzero(np.abs(values) == np.abs(some).max())[0])])}); an id? drop=[{name!r}]"
        )
    if use == "weight":
        if not present.all() or (some < 0).any() or some.sum() == 0:
            row = int(np.flatnonzero(~present | (values < 0))[0]) if (~present | (values < 0)).any() else 0
            problems.append(f"the weight {name!r}, {table.place(row)}: {shown(series[row])}; weights are numbers >= 0, none missing, not all 0")
        return None
    if use == "target":
        zero_one = whole and set(np.unique(some)[:3].tolist()) == {0.0, 1.0}
        if zero_one and num_targets == 1 and asked != "number":
            if series.dtype == polars.String or series.dtype.is_integer():
                texts = number_text(values)
                return finish("category", texts, form="integer")
        elif num_targets == 1 and not asked and whole and 2 < len(np.unique(some)) <= 20 and len(some) >= LEAST_ROWS:
            notes.append(
                f"the target {name!r} has {len(np.unique(some))} different whole numbers and is predicted as a number; as "
                f'classes: columns={{{name!r}: "category"}}'
            )
        if (some == some[0]).all():
            problems.append(f"the target {name!r} is {_show_number(some[0])} in every row; there is nothing to learn from")
        return None
    if asked:
        return None
    if whole and present.all() and len(values) >= LEAST_ROWS:
        steps = np.diff(values)
        if (steps == 1).all() and values[0] in (0, 1):
            return finish("number", values, why=f'it counts the rows; to use it: columns={{{name!r}: "number"}}')
        if _sounds_like_id(name) and len(np.unique(values)) == len(values):
            return finish("number", values, why=f'an id: every row has its own; to use it: columns={{{name!r}: "number"}}')
        if (steps == 1).all():
            notes.append(f"{where} grows by one from row to row; a counter tells nothing about new rows: drop=[{name!r}]")
    if series.dtype == polars.String and whole:
        codes = series.str.strip_chars().str.contains("^0[0-9]+$").sum()
        if codes:
            notes.append(
                f'{where} has {codes:,} numbers with leading zeros, so it may be a code; it is used as a number. Else columns={{{name!r}: "category"}}'
            )
    single = some.astype(np.float32)
    if (some != some[0]).any() and (single == single[0]).all():
        notes.append(
            f"{where} is constant in float32 ({_show_number(some.min())} to {_show_number(some.max())}); it is standardised "
            "in float64, which keeps the differences"
        )
    return None


def _decide_category(
    finish: Any, where: str, values: Any, series: Any, asked: str, declared: bool, options: ReadOptions, limits: Limits, notes: list, problems: list
) -> Any:
    name, present = series.name, values.drop_nulls()
    if not len(present):
        if len(values):
            problems.append(f"{where} has no value in any row; it tells nothing: drop=[{name!r}]")
        return finish("category", values, why="all missing")
    distinct = present.n_unique()
    override = f'columns={{{name!r}: "category"}}'
    if not asked:
        if distinct == 1 and len(present) == len(values):
            return finish("category", values, why=f"constant ({shown(present[0])} in every row)")
        if not declared and len(present) >= LEAST_ROWS:
            length = present.str.len_chars().mean()
            if distinct == len(present):
                free = length > 40
                return finish("text", values, why=f"{'free text' if free else 'an id: every value differs'}; to use it: {override}")
            if distinct > 0.5 * len(present) or (distinct > 50 and length > 40):
                return finish("text", values, why=f"free text ({distinct:,} different values in {len(present):,} rows); to use it: {override}")
        if distinct > limits.num_categories:
            return finish("category", values, why=f"{distinct:,} categories, more than {limits.num_categories:,}; to use it: {override}")
    elif distinct > 100 * limits.num_categories:
        problems.append(
            f"{where} has {distinct:,} categories, more than {100 * limits.num_categories:,}; drop=[{name!r}], or limits=Limits(num_categories={distinct})"
        )
    notes += _variants(where, present)
    if options.missing is None:
        tokens = present.filter(present.str.strip_chars().is_in([*MISSING, "?", "-", ".", "*"]))
        if len(tokens):
            token = tokens[0].strip()
            notes.append(f"{where} has {len(tokens):,} values {token!r}, which are kept as a category; to take them for missing: missing=[{token!r}]")
    return finish("category", values)


def _decide_classes(finish: Any, table: Table, name: str, series: Any, kind: str, asked: str, form: str, notes: list, problems: list) -> Any:
    """A target of classes: text for every row, and how the labels are given back."""
    import polars

    options = table.options
    if series.dtype == polars.Boolean:
        return finish("category", as_text(series, options), form="boolean")
    if series.dtype.is_numeric():
        values, stray = read_as(series, "number", "", options)
        if stray.any():
            problems.append(stray_problem(table, name, "number", np.flatnonzero(stray), ""))
        texts = number_text(values)
    elif asked == "boolean":  # "yes", "YES" and "yes " are one class, named by the commonest spelling
        values, stray = read_as(series, "boolean", form, options)
        if stray.any():
            problems.append(stray_problem(table, name, "boolean", np.flatnonzero(stray), ""))
        words = {}
        for value in (0.0, 1.0):
            spelled = series.filter(polars.Series(values == value)).str.strip_chars()
            if len(spelled):
                words[value] = spelled.value_counts(sort=True)[name][0]
        texts = polars.Series(name, [words.get(value) for value in values.tolist()], dtype=polars.String)
    else:
        texts = as_text(series, options)
        notes += _variants(f"the target {name!r}", texts)
    present = texts.drop_nulls()
    distinct = present.n_unique() if len(present) else 0
    if distinct > 2 and len(present) >= LEAST_ROWS and not asked and distinct > 0.5 * len(present):
        return finish("text", texts, why=f"{distinct:,} different texts in {len(present):,} rows are no classes")
    whole = len(present) > 0 and bool(present.str.contains("^(?:0|-?[1-9][0-9]{0,15})$").all())
    return finish("category", texts, form="integer" if whole else "text")


def _kind_of_dtype(dtype: Any, declared: bool) -> str:
    import polars

    if declared:
        return "category"
    if dtype == polars.Boolean:
        return "boolean"
    if dtype == polars.Date:
        return "date"
    if dtype == polars.Datetime:
        return "datetime"
    if dtype == polars.Time:
        return "time"
    return "number"


def _kind_of_text(table: Table, name: str, series: polars.Series, asked: str, form: str) -> tuple[str, str, list[str]]:
    """What a column of text holds, decided on its distinct values (so on all rows): (kind, how dates are written, problems)."""
    import polars

    options = table.options
    counted = polars.DataFrame({"text": series.str.strip_chars().fill_null("")}).group_by("text").len()
    counted = counted.filter(~polars.col("text").is_in(missing_tokens(options)))
    texts, counts = counted["text"], counted["len"].to_numpy().astype(np.float64)
    total = counts.sum()
    if asked in TIMES and not form:
        asked_form = _day_form(texts, name, [])
        return asked, asked_form or "%Y-%m-%d", []
    if asked:
        return asked, form, []
    if not len(texts):
        return "number", "", []  # all missing, told by `decide`
    numbers = texts.str.contains(NUMBER if options.decimal == "." else NUMBER_COMMA).to_numpy()
    share = counts[numbers].sum() / total
    if share == 1:
        return "number", "", []
    words = {text.casefold() for text in texts.head(20).to_list()} if len(texts) <= 20 else set()
    if words and any(words <= {true, false} for true, false in zip(TRUE, FALSE)):
        return "boolean", "", []
    problems: list[str] = []
    form = _day_form(texts, name, problems)
    if problems:
        return "text", "", problems
    if form:
        has_clock = bool(texts.str.contains(":").any())
        return ("datetime" if has_clock else "date"), form, []
    clocks = texts.str.contains(f"^{CLOCK}$").to_numpy()
    if clocks.all():
        return "time", "", []
    strays = texts.filter(polars.Series(~numbers)).to_list()
    few_words = len(strays) <= 3 and share >= 0.1 and numbers.sum() > 10
    if share >= 0.5 or few_words:
        stray_texts = set(strays)
        rows = np.flatnonzero(series.str.strip_chars().is_in(list(stray_texts)).to_numpy())
        return "number", "", [stray_problem(table, name, "number", rows, "")]
    decimal = _decimal_problem(table, name, texts, counts, total)
    if decimal:
        return "number", "", [decimal]
    dates = np.zeros(len(texts), bool)
    for day, pattern in DAYS.items():
        dates |= texts.str.contains(rf"^{pattern}(?:[ T]{CLOCK}.*)?$").to_numpy()
        if counts[dates].sum() >= 0.5 * total:
            bad = set(texts.filter(polars.Series(~dates)).to_list())
            _, wrong = times_of(texts, day, "datetime")
            bad |= set(texts.filter(polars.Series(wrong)).to_list())
            rows = np.flatnonzero(series.str.strip_chars().is_in(list(bad)).to_numpy())
            return "date", day, [stray_problem(table, name, "date", rows, day)]
    return "category", "", []


def _day_form(texts: polars.Series, name: str, problems: list[str]) -> str:
    """How all these texts write a day, or "" where they are no dates. Day and month that can be told by no row are a problem, not a guess."""
    first = texts.head(200)
    fitting = []
    for form, pattern in DAYS.items():
        if first.str.contains(rf"^{pattern}(?:[ T]{CLOCK}.*)?$").all():
            _, wrong = times_of(texts, form, "datetime")
            if not wrong.any():
                fitting.append(form)
    if len(fitting) == 2:
        problems.append(
            f"column {name!r}: {shown(texts[0])} may be day/month or month/day, and no row decides it; name it: "
            f'columns={{{name!r}: "date:{fitting[0]}"}} or columns={{{name!r}: "date:{fitting[1]}"}}'
        )
    return fitting[0] if fitting else ""


def _decimal_problem(table: Table, name: str, texts: polars.Series, counts: np.ndarray, total: float) -> str:
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
        decimal = _decimal_problem(table, name, words, np.ones(len(words)), len(words))
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
    values = found.head(1000).unique(maintain_order=True).to_list()
    written = f" (dates here are written {form})" if kind in ("date", "datetime") and form else ""
    text = f"column {name!r}, {table.place(int(rows[0]))}: {shown(values[0])} is no {kind}{written}"
    if len(rows) > 1:
        text += f"; {len(rows):,} such values ({table.places(rows)})"
    if len(values) > 1:
        text += f", {len(values)} different ones ({', '.join(shown(value, 20) for value in values[:3])}{', …' if len(values) > 3 else ''})"
    return text


def _sounds_like_id(name: str) -> bool:
    word = name.strip().casefold()
    return (
        word in ("id", "index", "key", "uuid", "guid", "rowid", "row", "row_id")
        or word.endswith(("_id", " id", "-id", ".id"))
        or name.endswith(("Id", "ID"))
        or word.startswith("unnamed:")
    )


def _variants(where: str, texts: polars.Series) -> list[str]:
    """A note on categories that differ only in case or blanks."""
    import polars

    counted = polars.DataFrame({"text": texts}).drop_nulls().group_by("text").len()
    if counted.height > 10_000:
        return []
    spellings: dict[str, list[tuple[str, int]]] = {}
    for text, count in sorted(counted.rows(), key=lambda row: (-row[1], row[0])):
        spellings.setdefault(" ".join(text.split()).casefold(), []).append((text, count))
    groups = [group for group in spellings.values() if len(group) > 1]
    if not groups:
        return []
    told = "; ".join(" / ".join(f"{shown(text, 30)} ({count:,})" for text, count in group[:4]) for group in groups[:3])
    more = f" and {len(groups) - 3} more" if len(groups) > 3 else ""
    return [f"{where}: spellings that differ only in case or blanks count as different: {told}{more}; write them alike if they mean the same"]


def _task(typed: TypedTable) -> tuple[str | None, list[str], list[str]]:
    """The task that the targets make, with what is worth telling about the classes."""
    columns = [column for column in typed.columns if column.name in typed.targets]
    if not columns or any(column.use != "target" for column in columns) or len(columns) < len(typed.targets):
        return None, [], []
    if len(columns) > 1:
        odd = [column for column in columns if column.kind not in ("number", "boolean")]
        if odd:
            return (
                None,
                [],
                [f"the target {odd[0].name!r} is a {odd[0].kind}; with several targets all are numbers. Fit classes one at a time: target={odd[0].name!r}"],
            )
        if all(column.num_missing == 0 and len(column.values) and set(np.unique(column.values)[:3]) <= {0.0, 1.0} for column in columns):
            return "multilabel", [], []
        return "regression", [], []
    column = columns[0]
    if column.kind != "category":
        return "regression", [], []
    counted = column.values.drop_nulls().value_counts()
    counts = dict(zip(counted[column.name].to_list(), counted["count"].to_list()))
    if len(counts) < 2:
        only = shown(next(iter(counts), "missing"))
        return (
            None,
            [],
            [f"the target {column.name!r} has one class only ({only}); classes can be told apart when there are two or more: another target, or more rows"],
        )
    if len(counts) > typed.limits.num_categories:
        told = f"the target {column.name!r} has {len(counts):,} classes, more than {typed.limits.num_categories:,}"
        return None, [], [f"{told}; to accept them: limits=Limits(num_categories={len(counts)})"]
    single = sorted(text for text, count in counts.items() if count < 2)
    notes = []
    if single:
        notes.append(
            f"the target {column.name!r}: {len(single)} class{'es have' if len(single) > 1 else ' has'} one row only "
            f"({listed([shown(text, 30) for text in single])}), in one split at most"
        )
    return ("binary" if len(counts) == 2 else "multiclass"), notes, []


def _copies_of_target(typed: TypedTable) -> list[str]:
    notes = []
    for target in (column for column in typed.columns if column.use == "target"):
        for column in typed.columns:
            if column.use != "input":
                continue
            a, b = target.values, column.values
            if isinstance(a, np.ndarray) != isinstance(b, np.ndarray):
                a, b = (number_text(a), b) if isinstance(a, np.ndarray) else (a, number_text(b))
            same = np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) else bool(a.equals(b))
            if same:
                notes.append(f"column {column.name!r} equals the target {target.name!r} in every row, so it gives the answer away: drop=[{column.name!r}]")
    return notes


def _show_number(value: float) -> str:
    return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


LONG_DECIMAL = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)


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
