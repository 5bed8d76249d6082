"""What each column of a table means: number, boolean, category, date, datetime, time; or left out, with the reason.

Enters: a `Table`, the names of target and weight, overrides. Leaves: a `TypedTable`, or one `DataError` with all problems. The deciding
choice: a kind is decided on all rows, and one stray word in a number column is an error that names it, never a quiet change to text. Nothing is fitted here: no
mean, no vocabulary (`columns` does that, on training rows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fivestep.data.column_lines import examples_of
from fivestep.data.records import Limits, shown
from fivestep.data.strays import decimal_problem, stray_problem
from fivestep.data.tables import ReadOptions, Table, data_error, listed, near, unknown_columns
from fivestep.data.typed_tables import TypedColumn, TypedTable
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
from fivestep.errors import UsageError

if TYPE_CHECKING:
    import polars

FLOAT32_MAX = float(np.finfo(np.float32).max)
CLOCK = r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}(?:\.[0-9]+)?))?"
LEAST_ROWS = 20  # with fewer rows "every value differs" and "counts up by one" are chance


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
            problems.append(f'{where} has no value in any row; it tells nothing: columns={{{name!r}: "drop"}}')
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
            problems.append(f'{where} has no value in any row; it tells nothing: columns={{{name!r}: "drop"}}')
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
    decimal = decimal_problem(table, name, texts, counts, total)
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
            if all(_equal(target.values[:rows], column.values[:rows]) for rows in (100, None)):  # few columns get beyond their first rows
                notes.append(f"column {column.name!r} equals the target {target.name!r} in every row, so it gives the answer away: drop=[{column.name!r}]")
    return notes


def _equal(a: np.ndarray | polars.Series, b: np.ndarray | polars.Series) -> bool:
    """The same values in every row; a number equals the text that it would be as a category."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b, equal_nan=True))
    a, b = (number_text(side) if isinstance(side, np.ndarray) else side for side in (a, b))
    return bool(a.equals(b))


def _show_number(value: float) -> str:
    return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
