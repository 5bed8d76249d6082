"""Which rows train, which choose and which test: pure functions from row numbers to row numbers.

Enters: the number of rows and at most one rule (fractions at random, by class, by group, by time, given indices, a column, a scikit-learn splitter). Leaves:
`SplitIndices`, int64 row numbers of train, val and test, with the record of how they were made. The decision that shaped it: a split is a function of (rule,
seed, number of rows) and of nothing that ran before, and a rule that cannot be kept is refused instead of being bent.
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from fractions import Fraction
from itertools import islice, pairwise
from typing import Any, Literal

import numpy as np
import torch

from fivestep.errors import DataError, UsageError
from fivestep.seeds import derive, generator, restored

NAMES = ("train", "val", "test")
DEFAULT = (0.7, 0.15, 0.15)

# How a column of a file may spell the three parts; compared without case and surrounding blanks.
SPELLINGS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class SplitMethod:
    """How a split was made, for the record of a run; `asdict` gives plain JSON.

    `sizes` are the numbers asked for (train, val, test), fractions or counts, None where the rule does not use them; `num_rows` are the rows that came out
    and `num_unused` those in no part. `unit` is what an interval on these rows must resample: "rows", whole "groups", or "blocks" of time. `fold` and
    `repeat` count from 0 and are None outside cross-validation. `column` is the name of the column that decided, where the caller knows one.
    """

    method: Literal["random", "stratified", "groups", "time", "file order", "indices", "column", "splitter"]
    seed: int | None
    sizes: tuple[float | int, float | int, float | int] | None
    num_rows: tuple[int, int, int]
    num_unused: int = 0
    unit: Literal["rows", "groups", "blocks"] = "rows"
    column: str | None = None
    splitter: str | None = None
    fold: int | None = None
    repeat: int | None = None
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Plain dict of JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, eq=False, repr=False)
class SplitIndices:
    """Row numbers, int64 (rows,), of train, val and test; None for a part that was not asked for. `how` says how they were made.

    Row numbers ascend, except that a split by time stands in the order of time and given indices stay in the order in which they were given.
    """

    train: np.ndarray
    val: np.ndarray | None
    test: np.ndarray | None
    how: SplitMethod

    @property
    def unit(self) -> str:
        """What an interval must resample: "rows", "groups" or "blocks"."""
        return self.how.unit

    def parts(self) -> dict[str, np.ndarray]:
        """The parts that exist, by name."""
        return {name: rows for name in NAMES if (rows := getattr(self, name)) is not None}

    def __repr__(self) -> str:
        sizes = " / ".join(f"{name} {len(rows):,}" for name, rows in self.parts().items())
        return f"SplitIndices({sizes}; {self.how.method}, seed {self.how.seed})"


# -- one split -----------------------------------------------------------------------------------------------------------------------------------------------


def split_indices(
    n: int,
    *,
    train: float | int | None = None,
    val: float | int | None = None,
    test: float | int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    labels: Any = None,
    groups: Any = None,
    times: Any = None,
    indices: Any = None,
    column_values: Any = None,
    splitter: Any = None,
    X: Any = None,
    y: Any = None,
    column: str | None = None,
) -> SplitIndices:
    """Rows 0..n-1 as train, val and test.

    Sizes: fractions (floats) that add up to 1, or counts (ints) that add up to at most n; those not named are 0, and 0.7/0.15/0.15 where none is named.
    Fractions are rounded by largest remainder (ties go to train, then val), and a part that is named gets at least one row. The rules, at most one of them:

    - none: at random. The test rows depend on (seed, n, number of test rows) only: another `val` does not move them. `shuffle=False`: file order, train first.
    - `labels` (n,): each class is divided like the whole, within one row, and totals stay within a few rows of the fractions.
    - `groups` (n,): no group on two sides. Groups come in random order and are then moved or swapped until sizes are within 1 % of the rows, or as near as
      single moves and swaps bring them. (Not nearer: the one best division would be the same for every seed.) `shuffle=False`: groups in file order.
    - `times` (n,): sorted; train strictly before val strictly before test, rows of one time together. Numbers, datetimes, dates, or text in ISO form.
    - `indices`: (train, val, test) or a dict by name; row numbers or masks. None for a part that is not there. Rows that are named nowhere are unused.
    - `column_values` (n,): texts "train", "val" (also "valid", "validation", "dev") or "test".
    - `splitter`: any object of scikit-learn's with `split(X, y, groups)`. Its first fold is taken as it is: its first part trains, its second part is test.
      With `val=` (a fraction of all rows, or a count) validation is carved from the training rows: by class, group or time where those are given, else at
      random. A splitter without `random_state` draws from `seed`.

    With `indices`, `column_values` or a `splitter`, `groups` and `times` are not a rule but a promise that is verified: no group on two sides, no later time in
    an earlier part. Raises UsageError for arguments that contradict each other and DataError for data that cannot keep the rule.

    >>> split_indices(10, train=0.8, test=0.2, shuffle=False).test
    array([8, 9])
    """
    if n < 1:
        raise DataError("There are no rows to split.")
    given = {"indices": indices is not None, "column": column_values is not None, "splitter": splitter is not None}
    chosen = [name for name, there in given.items() if there]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(f'{name}=' for name in chosen)} both say which row goes where, and may contradict each other. Give one of them.")
    if chosen and not shuffle:
        raise UsageError(f"shuffle=False takes the rows in file order, but {chosen[0]}= already says which row goes where. Leave one of them out.")
    labels, groups, times = _check_lengths(n, labels=labels, groups=groups, times=times)
    if splitter is not None:
        return _by_splitter(n, splitter, X=X, y=y, labels=labels, groups=groups, times=times, seed=seed, sizes=(train, val, test), column=column)
    if chosen:
        if labels is not None:
            raise UsageError(f"stratify= divides the classes evenly, but {chosen[0]}= already says which row goes where. Leave one of them out.")
        _refuse_sizes((train, val, test), chosen[0])
        if indices is not None:
            parts = _given_indices(n, indices)
        else:
            parts = _from_column(n, column_values, column)
        _verify(parts, groups, times)
        return _result("indices" if indices is not None else "column", parts, n, unit=_unit(groups, times), column=column)

    rules = [name for name, there in {"stratify": labels is not None, "group": groups is not None, "time": times is not None}.items() if there]
    if len(rules) > 1:
        help = "splitter=StratifiedGroupKFold(...) of scikit-learn does both" if set(rules) == {"stratify", "group"} else "give the rule that leakage threatens"
        raise UsageError(
            f"{' and '.join(f'{rule}=' for rule in rules)} are {len(rules)} rules for one split, which cannot all be kept in general. Give one; {help}."
        )
    sizes = requested_sizes(train, val, test)
    counts = row_counts(n, sizes)
    if sum(counts) < n and (groups is not None or times is not None):
        raise UsageError(
            f"The counts add up to {sum(counts):,} of {n:,} rows, and by {rules[0]} it is unclear which to leave out. Add up to {n:,}, or use fractions."
        )
    notes: tuple[str, ...] = ()
    if times is not None:
        parts = _by_time(n, times, counts)
        method = "time"
    elif groups is not None:
        parts = _by_group(n, groups, counts, seed, shuffle)
        method = "groups"
    elif labels is not None:
        parts, notes = _by_class(n, labels, counts, seed, shuffle)
        method = "stratified"
    else:
        parts = _cut(_order(n, seed, shuffle), counts, end=n if shuffle else sum(counts))
        method = "random" if shuffle else "file order"
    random = times is None and shuffle
    return _result(method, parts, n, unit=_unit(groups, times), column=column, seed=seed if random else None, sizes=sizes, notes=notes)


def requested_sizes(train: float | int | None, val: float | int | None, test: float | int | None) -> tuple[float | int, float | int, float | int]:
    """The sizes of train, val and test with the unnamed ones filled in; UsageError where they cannot be meant.

    >>> requested_sizes(None, None, None), requested_sizes(0.8, None, 0.2)
    ((0.7, 0.15, 0.15), (0.8, 0, 0.2))
    """
    named = {name: size for name, size in zip(NAMES, (train, val, test)) if size is not None}
    for name, size in named.items():
        if isinstance(size, (bool, np.bool_)) or not isinstance(size, numbers.Real) or not math.isfinite(size) or size < 0:
            raise UsageError(f"{name}={size!r} is no size. Give a fraction such as {name}=0.2 or a number of rows such as {name}=200.")
    sizes = {name: int(size) if isinstance(size, numbers.Integral) else float(size) for name, size in named.items()}
    positive = {name: size for name, size in sizes.items() if size > 0}
    if not positive:
        if named:
            raise UsageError(f"{_written(sizes)} leaves no rows at all. split() alone is 70/15/15; split(train=0.8, test=0.2) is the classic 80/20.")
        return DEFAULT
    kinds = {isinstance(size, int) for size in positive.values()}
    if len(kinds) > 1:
        raise UsageError(f"{_written(positive)} mixes fractions with numbers of rows. Use one kind, such as train=0.8, test=0.2 or train=800, test=200.")
    if kinds == {True}:
        if "train" not in positive:
            raise UsageError(f"{_written(positive)} names no training rows. Name them too, such as train=1000.")
        if positive == {"train": 1}:
            raise UsageError("train=1 is one row. All rows are train=1.0.")
    else:
        total = sum(positive.values())
        if abs(total - 1) > 1e-6:
            if total > 1:
                much = " (percentages are written as fractions: 0.7, not 70)" if total > 2 else ""
                fix = f"Lower one of them by {total - 1:.6g}{much}."
            else:
                missing = next((name for name in ("train", "test", "val") if name not in positive), "train")
                fix = f"The other {(1 - total):.3g} of the rows would be used nowhere. Name it, such as {missing}={positive.get(missing, 0) + 1 - total:.6g}."
            raise UsageError(f"{_written(positive)} add up to {total:.6g}, and the named fractions must add up to 1 (those not named are 0). {fix}")
        if "train" not in positive:
            raise UsageError(f"{_written(positive)} leaves nothing to train on. Name train, such as train=0.7, val=0.15, test=0.15.")
    return tuple(sizes.get(name, 0) for name in NAMES)  # type: ignore[return-value]


def row_counts(n: int, sizes: Sequence[float | int]) -> tuple[int, int, int]:
    """Numbers of rows for the sizes: counts as they are, fractions by largest remainder, each named part at least one row.

    >>> row_counts(10, (0.7, 0.15, 0.15))
    (7, 2, 1)
    """
    wanted = [size for size in sizes if size > 0]
    if all(isinstance(size, int) for size in wanted):
        if sum(wanted) > n:
            raise DataError(f"{_written(dict(zip(NAMES, sizes)))} asks for {sum(wanted):,} rows, and there are {n:,}. Ask for fewer, or use fractions.")
        return tuple(int(size) for size in sizes)  # type: ignore[return-value]
    if n < len(wanted):
        raise DataError(
            f"{n:,} {'row' if n == 1 else 'rows'} cannot give {len(wanted)} parts with a row in each. Name fewer parts, such as train=1.0, or bring more rows."
        )
    counts = _largest_remainder(n, _exact(sizes))
    for part, size in enumerate(sizes):
        if size > 0 and counts[part] == 0:
            counts[int(np.argmax(counts))] -= 1
            counts[part] = 1
    return tuple(counts)  # type: ignore[return-value]


# -- folds ---------------------------------------------------------------------------------------------------------------------------------------------------


def fold_indices(
    n: int,
    folds: int = 5,
    repeats: int = 1,
    *,
    seed: int = 0,
    shuffle: bool = True,
    labels: Any = None,
    groups: Any = None,
    times: Any = None,
    splitter: Any = None,
    X: Any = None,
    y: Any = None,
    val: float | int = 0,
    column: str | None = None,
) -> list[SplitIndices]:
    """`folds * repeats` splits for cross-validation: in each repeat every row is held out (as `test`) exactly once.

    `labels`: each class is spread evenly over the folds. `groups`: whole groups are held out, folds of like size. `times`: the rows are cut into `folds + 1`
    blocks of time, and fold k trains on all blocks before the one it holds out (so the first block is never held out, and `repeats` must be 1). A `splitter`
    gives its own folds. `val` (a fraction of all rows, or a count) carves validation rows from the training rows of each fold, by the same rule.
    """
    if isinstance(folds, bool) or not isinstance(folds, numbers.Integral) or folds < 2:
        raise UsageError(f"folds={folds!r}: cross-validation needs at least 2 folds, as each one is held out while the others train.")
    if isinstance(repeats, bool) or not isinstance(repeats, numbers.Integral) or repeats < 1:
        raise UsageError(f"repeats={repeats!r} must be a number from 1 on.")
    labels, groups, times = _check_lengths(n, labels=labels, groups=groups, times=times)
    rules = [name for name, there in {"stratify": labels is not None, "group": groups is not None, "time": times is not None}.items() if there]
    if len(rules) > 1 and splitter is None:
        raise UsageError(f"{' and '.join(f'{rule}=' for rule in rules)} are {len(rules)} rules for the same folds. Give one of them, or a splitter=.")
    if repeats > 1 and (times is not None or not shuffle or splitter is not None):
        reason = "blocks of time" if times is not None else "folds in file order" if not shuffle else "the splitter's folds"
        raise UsageError(
            f"repeats={repeats}: {reason} are the same in each repeat, and equal repeats would look like more evidence than they are. Use repeats=1."
        )
    unit = _unit(groups, times)
    found: list[SplitIndices] = []
    if splitter is not None:
        pairs = _splitter_folds(n, splitter, X=X, y=y, labels=labels, groups=groups, seed=seed)
        for fold, (rows, held) in enumerate(pairs):
            _verify({"train": rows, "test": held}, groups, times)
            parts = _with_validation(n, rows, held, val, seed, labels, groups, times)
            found.append(
                _result("splitter", parts, n, unit=unit, column=column, seed=seed if val else None, splitter=type(splitter).__name__, fold=fold, repeat=0)
            )
        return found
    if n < folds:
        raise DataError(f"{n:,} rows cannot be cut into {folds} folds. Use folds={n} or fewer.")
    if times is not None:
        values, codes = _ordered(times, "time")
        if len(values) < folds + 1:
            raise DataError(f"There are {len(values)} different times, and {folds} folds in time need {folds + 1}. Use fewer folds, or finer times.")
        sizes = np.bincount(codes)
        cuts = _cut_blocks(sizes, [n * (k + 1) // (folds + 1) - n * k // (folds + 1) for k in range(folds + 1)])
        by_time = np.argsort(codes, kind="stable")
        ends = np.concatenate([[0], np.cumsum(sizes)])[cuts]
        for fold in range(folds):
            rows, held = by_time[: ends[fold]], by_time[ends[fold] : ends[fold + 1]]
            parts = _with_validation(n, rows, held, val, seed, None, None, times)
            found.append(_result("time", parts, n, unit=unit, column=column, fold=fold, repeat=0))
        return found
    codes, notes = None, ()
    if labels is not None:
        _, codes, notes = _classes_of(labels, folds)
    elif groups is not None:
        values, codes = distinct(groups, "group")
        if len(values) < folds:
            raise DataError(f"There are {len(values)} groups, and {folds} folds need a group each. Use folds={len(values)} or fewer.")
    for repeat in range(repeats):
        fold_of = _fold_of_row(n, folds, codes, groups is not None, generator(seed, "split", repeat), shuffle)
        for fold in range(folds):
            rows, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            parts = _with_validation(n, rows, held, val, seed, labels, groups, None, fold + folds * repeat)
            method = "stratified" if labels is not None else "groups" if groups is not None else "random" if shuffle else "file order"
            found.append(_result(method, parts, n, unit=unit, column=column, seed=seed if shuffle else None, fold=fold, repeat=repeat, notes=notes))
    return found


def carve_validation(
    rows: np.ndarray, count: int, *, seed: int = 0, labels: Any = None, groups: Any = None, times: Any = None, number: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Training rows as (rest, validation of about `count` rows), by class, group or time where those are given; they have one value for each of `rows`.

    `number` tells several carvings with one seed apart (the fold).
    """
    if not 0 < count < len(rows):
        raise DataError(f"val asks for {count:,} of {len(rows):,} training rows. Each side needs at least one row; name a smaller val.")
    counts = (len(rows) - count, count, 0)
    if times is not None:
        parts = _by_time(len(rows), times, counts)
    elif groups is not None:
        parts = _by_group(len(rows), groups, counts, seed, True, "validation", number)
    elif labels is not None:
        parts, _ = _by_class(len(rows), labels, counts, seed, True, "validation", number)
    else:
        parts = _cut(_order(len(rows), seed, True, "validation", number), counts, end=len(rows))
    return rows[parts["train"]], rows[parts["val"]]


# -- the rules -----------------------------------------------------------------------------------------------------------------------------------------------


def _order(n: int, seed: int, shuffle: bool, purpose: str = "split", number: int | None = None) -> np.ndarray:
    """The rows in the order from which train, val and test are cut."""
    if not shuffle:
        return np.arange(n)
    return torch.randperm(n, generator=generator(seed, purpose, *([] if number is None else [number]))).numpy()


def _cut(order: np.ndarray, counts: Sequence[int], end: int) -> dict[str, np.ndarray]:
    """Train from the start of the order, val and test from `end` backwards, so that another `val` leaves the test rows where they are."""
    train, val, test = counts
    return {"train": np.sort(order[:train]), "val": np.sort(order[end - test - val : end - test]), "test": np.sort(order[end - test : end])}


def _by_class(
    n: int, labels: np.ndarray, counts: Sequence[int], seed: int, shuffle: bool, purpose: str = "split", number: int | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    values, codes, notes = _classes_of(labels, sum(count > 0 for count in counts))
    order = _order(n, seed, shuffle, purpose, number)
    order = order[np.argsort(codes[order], kind="stable")]  # all rows of the first class in random order, then those of the second, ...
    sizes = np.bincount(codes, minlength=len(values))
    shares = _exact([*counts, n - sum(counts)])  # the fourth share is used by nobody
    parts: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    start, given = 0, [0, 0, 0, 0]
    for size in sizes.tolist():
        # Every part gets the floor of its share of the class. The rest, at most one row each, goes where the totals so far are behind: rounding each class
        # alone would send all the small classes the same way (200 classes of 4 rows at 80/20: no test row at all).
        exact = [share * size for share in shares]
        part_sizes = [math.floor(value) for value in exact]
        behind = [share * (start + size) - already - floor for share, already, floor in zip(shares, given, part_sizes)]
        extra = sorted((part for part in range(4) if exact[part] != part_sizes[part]), key=lambda part: (-behind[part], part))
        for part in extra[: size - sum(part_sizes)]:
            part_sizes[part] += 1
        if part_sizes[0] == 0:  # a class that training never sees cannot be learned
            part_sizes[int(np.argmax(part_sizes))] -= 1
            part_sizes[0] = 1
        for part, name in enumerate(NAMES):
            begin = start + sum(part_sizes[:part])
            parts[name].append(order[begin : begin + part_sizes[part]])
        given = [already + more for already, more in zip(given, part_sizes)]
        start += size
    joined = {name: np.sort(np.concatenate(rows)) for name, rows in parts.items()}
    for name, count in zip(NAMES, counts):
        if count and not len(joined[name]):
            raise DataError(
                f"The classes have too few rows to give {name} any of its {count}: {_counted(values, sizes)}. Name a larger {name}, or leave stratify out."
            )
    return joined, notes


def _by_group(
    n: int, groups: np.ndarray, counts: Sequence[int], seed: int, shuffle: bool, purpose: str = "split", number: int | None = None
) -> dict[str, np.ndarray]:
    values, codes = distinct(groups, "group")
    sizes = np.bincount(codes)
    named = [part for part in range(3) if counts[part]]
    if len(sizes) < len(named):
        raise DataError(
            f"There {'is 1 group' if len(sizes) == 1 else f'are {len(sizes)} groups'} ({_counted(values, sizes)}), and {len(named)} parts need a group each, "
            "as no group may stand on two sides. Name fewer parts, or group by something finer."
        )
    targets = np.array([counts[part] for part in named])
    if not shuffle:
        first = np.full(len(sizes), n)
        np.minimum.at(first, codes, np.arange(n))
        order = np.argsort(first)  # groups as the file brings them
        cuts = [0, *_cut_blocks(sizes[order], targets)]
        part_of = np.empty(len(sizes), dtype=np.int64)
        for part in range(len(named)):
            part_of[order[cuts[part] : cuts[part + 1]]] = part
    else:
        part_of = _assign_groups(sizes, targets, _order(len(sizes), seed, True, purpose, number), tolerance=n / 100)
    rows = {name: np.empty(0, dtype=np.int64) for name in NAMES}
    for position, part in enumerate(named):
        rows[NAMES[part]] = np.flatnonzero(part_of[codes] == position)
    return rows


def _assign_groups(sizes: np.ndarray, targets: np.ndarray, order: np.ndarray, tolerance: float) -> np.ndarray:
    """The part of each group: in random order to the part that lacks most rows, then single moves and swaps while they bring the sizes nearer."""
    num_parts = len(targets)
    part_of = np.empty(len(sizes), dtype=np.int64)
    lacking = targets.astype(np.int64).copy()
    for position, group in enumerate(order.tolist()):
        empty = [part for part in range(num_parts) if not (part_of[order[:position]] == part).any()] if len(order) - position <= num_parts else []
        # The last groups go to parts that would have none.
        part = empty[0] if len(empty) == len(order) - position and empty else int(np.argmax(lacking))
        part_of[group] = part
        lacking[part] -= sizes[group]
    excess = -lacking
    for _ in range(10 * num_parts + 100):  # each round lowers the sum of squares; the bound only guards the time on odd data
        if np.abs(excess).max() <= tolerance:
            break
        best: tuple[float, list[tuple[int, int]]] = (0.0, [])
        for source in range(num_parts):
            here = order[part_of[order] == source]
            for target in range(num_parts):
                if target == source or excess[source] <= excess[target]:
                    continue
                # Moving s rows changes the sum of squares by 2s(s - (excess_source - excess_target)): best is s nearest to half the difference.
                half = (excess[source] - excess[target]) / 2
                moves: list[tuple[float, list[tuple[int, int]]]] = []
                if len(here) > 1:
                    group = here[int(np.argmin(np.abs(sizes[here] - half)))]
                    moves.append((float(sizes[group]), [(int(group), target)]))
                there = order[part_of[order] == target]
                there = there[np.argsort(sizes[there], kind="stable")]
                wanted = sizes[here] - half  # the size to get back for each group that could be given away
                place = np.searchsorted(sizes[there], wanted)
                for offset in (-1, 0):
                    back = there[np.clip(place + offset, 0, len(there) - 1)]
                    net = sizes[here] - sizes[back]
                    index = int(np.argmin(np.abs(net - half)))
                    moves.append((float(net[index]), [(int(here[index]), target), (int(back[index]), source)]))
                for net_rows, steps in moves:
                    change = 2 * net_rows * (net_rows - 2 * half)
                    if change < best[0]:
                        best = (change, steps)
        if not best[1]:
            break
        for group, part in best[1]:
            excess[part_of[group]] -= sizes[group]
            excess[part] += sizes[group]
            part_of[group] = part
    return part_of


def _by_time(n: int, times: np.ndarray, counts: Sequence[int]) -> dict[str, np.ndarray]:
    values, codes = _ordered(times, "time")
    named = [part for part in range(3) if counts[part]]
    if len(values) < len(named):
        raise DataError(
            f"There {'is 1 time' if len(values) == 1 else f'are {len(values)} different times'} ({', '.join(map(str, values[:3]))}), "
            f"and {len(named)} parts in time need one each, as train ends strictly before the next part begins. Name fewer parts, or give finer times."
        )
    sizes = np.bincount(codes)
    cuts = _cut_blocks(sizes, [counts[part] for part in named])
    ends = [0, *np.concatenate([[0], np.cumsum(sizes)])[cuts].tolist()]
    by_time = np.argsort(codes, kind="stable")
    rows = {name: np.empty(0, dtype=np.int64) for name in NAMES}
    for position, part in enumerate(named):
        rows[NAMES[part]] = by_time[ends[position] : ends[position + 1]]
    return rows


def _cut_blocks(sizes: np.ndarray, targets: Sequence[int] | np.ndarray) -> list[int]:
    """Where consecutive blocks (rows of one time, or one group) are cut: for each part the block after its last. Nearest to the targets, no part empty."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    cuts, last, wanted = [], 0, 0
    for part, target in enumerate(targets):
        wanted += target
        candidates = np.arange(last + 1, len(sizes) - (len(targets) - 1 - part) + 1)
        last = len(sizes) if part == len(targets) - 1 else int(candidates[np.argmin(np.abs(ends[candidates] - wanted))])
        cuts.append(last)
    return cuts


def _given_indices(n: int, indices: Any) -> dict[str, np.ndarray]:
    if isinstance(indices, Mapping):
        unknown = [key for key in indices if key not in NAMES]
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), NAMES, 1, 0.4)
            raise UsageError(f"indices={{{unknown[0]!r}: ...}}: a part is called train, val or test." + (f" Did you mean {near[0]!r}?" if near else ""))
        given = {name: indices.get(name) for name in NAMES}
    elif isinstance(indices, (tuple, list)) and len(indices) == 3:
        given = dict(zip(NAMES, indices))
    else:
        found = f"{len(indices)} of them" if isinstance(indices, (tuple, list)) else f"a {type(indices).__name__}"
        raise UsageError(f'indices= takes (train, val, test), None for a part that is not there, or {{"train": ..., "test": ...}}; this is {found}.')
    parts, problems = {}, []
    for name, rows in given.items():
        rows = [] if rows is None else rows
        array = rows.cpu().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows if hasattr(rows, "__array__") else list(rows))
        if array.dtype == bool:
            if array.shape != (n,):
                raise DataError(f"indices: the mask of {name} has shape {array.shape}, and there are {n:,} rows. Give one True or False for each row.")
            array = np.flatnonzero(array)
        if array.size == 0:
            array = np.empty(0, dtype=np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise DataError(
                f"indices: {name} has dtype {array.dtype} and shape {array.shape}. Give row numbers (integers from 0 on) or a mask of True and False."
            )
        array = array.astype(np.int64)
        outside = array[(array < 0) | (array >= n)]
        if len(outside):
            problems.append(f"{name} names row {outside[0]} ({len(outside):,} like it), and rows are numbered 0 to {n - 1:,}. Count from 0; none is negative.")
        values, times = np.unique(array, return_counts=True)
        if (times > 1).any():
            twice = values[times > 1]
            problems.append(
                f"{name} names row {twice[0]} {times[times > 1][0]} times ({len(twice):,} rows like it). Name each once; use weights to let rows count more."
            )
        parts[name] = array
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        both = np.intersect1d(parts[first], parts[second])
        if len(both):
            problems.append(
                f"{_few(both, 'row')} {'stand' if len(both) > 1 else 'stands'} in {first} and in {second}: a score on {second} would reward "
                f"what was memorised in {first}. Each row may stand in one part."
            )
    if not len(parts["train"]):
        problems.append("train names no rows, so there is nothing to train on.")
    if problems:
        raise DataError("indices: " + "\n".join(problems), problems)
    return parts


def _from_column(n: int, column_values: Any, column: str | None) -> dict[str, np.ndarray]:
    name = f"column {column!r}" if column else "the column"
    (values,) = _check_lengths(n, column=column_values)
    texts = np.array(["" if _is_missing(value) else str(value).strip() for value in values.tolist()], dtype=object)
    part_of = np.array([SPELLINGS.get(text.casefold(), "") for text in texts], dtype=object)
    unknown = np.flatnonzero(part_of == "")
    if len(unknown):
        found: dict[str, int] = {}
        for text in texts[unknown]:
            found[text] = found.get(text, 0) + 1
        listed = ", ".join(f"{text or 'no value'!r} ({count:,} {'row' if count == 1 else 'rows'})" for text, count in list(found.items())[:5]) + (
            ", ..." if len(found) > 5 else ""
        )
        near = difflib.get_close_matches(next(iter(found)).casefold(), SPELLINGS, 1, 0.6)
        raise DataError(
            f"{name} says {listed}, first in row {unknown[0]}; a row must say train, val (valid, validation, dev) or test. "
            + (f"Did you mean {near[0]!r}? " if near else "")
            + "Rows of no part would be lost silently; correct the values, or take those rows out."
        )
    parts = {part: np.flatnonzero(part_of == part) for part in NAMES}
    if not len(parts["train"]):
        raise DataError(f"{name} never says 'train', so there is nothing to train on. It says {', '.join(sorted(set(texts)))}.")
    return parts


def _by_splitter(
    n: int, splitter: Any, *, X: Any, y: Any, labels: Any, groups: Any, times: Any, seed: int, sizes: tuple[Any, Any, Any], column: str | None
) -> SplitIndices:
    train, val, test = sizes
    # (0.7, 0.15, 0.15) is what a caller passes on who was given no size.
    unnamed = all(size is None or size == 0 for size in sizes) or tuple(sizes) == DEFAULT
    if not unnamed and (train or test):
        raise UsageError(
            f"{_written({name: size for name, size in zip(NAMES, sizes) if size})} and {type(splitter).__name__} both set the sizes of train and test. "
            "The splitter's first fold gives train and test; beside it only val= may be named, which is carved from the training rows."
        )
    (rows, held), *_ = _splitter_folds(n, splitter, X=X, y=y, labels=labels, groups=groups, seed=seed, limit=1)
    _verify({"train": rows, "test": held}, groups, times)
    asked = 0 if unnamed else val
    parts = _with_validation(n, rows, held, asked, seed, labels, groups, times)
    return _result(
        "splitter",
        parts,
        n,
        unit=_unit(groups, times),
        column=column,
        seed=seed if asked else None,
        sizes=(0, asked, 0) if asked else None,
        splitter=type(splitter).__name__,
    )


def _splitter_folds(
    n: int, splitter: Any, *, X: Any, y: Any, labels: Any, groups: Any, seed: int, limit: int | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    if not callable(getattr(splitter, "split", None)):
        raise UsageError(f"splitter= takes an object with split(X, y, groups), such as scikit-learn's GroupKFold(5); this is a {type(splitter).__name__}.")
    y = labels if y is None else y
    if y is None and type(splitter).__name__.startswith(("Stratified", "RepeatedStratified")):
        raise UsageError(f"{type(splitter).__name__} divides by class and was given no labels. Give stratify=True or stratify= the labels.")
    if groups is None and "Group" in type(splitter).__name__:
        raise UsageError(f"{type(splitter).__name__} divides by group and was given no groups. Give group= a column or one value for each row.")
    try:
        with restored(derive(seed, "split")):  # without random_state they draw from numpy's global generator
            folds = [(np.asarray(rows), np.asarray(held)) for rows, held in islice(splitter.split(np.zeros((n, 1)) if X is None else X, y, groups), limit)]
    except (ValueError, TypeError) as error:
        raise DataError(f"{type(splitter).__name__}.split refused these {n:,} rows: {error}") from error
    if not folds:
        raise DataError(f"{type(splitter).__name__}.split gave no fold for {n:,} rows.")
    for fold, (rows, held) in enumerate(folds):
        try:
            checked = _given_indices(n, (rows, None, held))
        except DataError as error:
            raise DataError(f"Fold {fold} of {type(splitter).__name__}: {error}", error.problems) from error
        folds[fold] = (checked["train"], checked["test"])
    return folds


def _with_validation(
    n: int, rows: np.ndarray, held: np.ndarray, val: Any, seed: int, labels: Any, groups: Any, times: Any, number: int = 0
) -> dict[str, np.ndarray]:
    """Train, val and test, with validation carved from the training rows where `val` (a fraction of all n rows, or a count) asks for it."""
    empty = np.empty(0, dtype=np.int64)
    if not val:
        return {"train": rows, "val": empty, "test": held}
    if isinstance(val, bool) or not isinstance(val, numbers.Real) or val < 0 or (not isinstance(val, numbers.Integral) and float(val) >= 1):
        raise UsageError(f"val={val!r} must be a fraction of all rows below 1, such as 0.15, or a number of rows.")
    count = int(val) if isinstance(val, numbers.Integral) else max(1, round(Fraction(str(float(val))) * n))
    pick: Callable[[Any], Any] = lambda values: None if values is None else values[rows]  # noqa: E731
    rest, chosen = carve_validation(rows, count, seed=seed, labels=pick(labels), groups=pick(groups), times=pick(times), number=number)
    return {"train": rest, "val": chosen, "test": held}


def _fold_of_row(n: int, folds: int, codes: np.ndarray | None, whole_groups: bool, random: torch.Generator, shuffle: bool) -> np.ndarray:
    fold_of = np.empty(n, dtype=np.int64)
    if whole_groups:
        assert codes is not None
        sizes = np.bincount(codes)
        order = torch.randperm(len(sizes), generator=random).numpy() if shuffle else np.arange(len(sizes))
        order = order[
            np.argsort(-sizes[order], kind="stable")
        ]  # large ones first: what is left to even out then is small. Every group is held out once anyway.
        filled = np.zeros(folds, dtype=np.int64)
        fold_of_group = np.empty(len(sizes), dtype=np.int64)
        for group in order.tolist():
            fold_of_group[group] = np.argmin(filled)
            filled[fold_of_group[group]] += sizes[group]
        return fold_of_group[codes]
    order = torch.randperm(n, generator=random).numpy() if shuffle else np.arange(n)
    if codes is not None:
        # Dealt like cards, class after class: each class and each total is even to within one row.
        order = order[np.argsort(codes[order], kind="stable")]
        fold_of[order] = np.arange(n) % folds
    else:
        fold_of[order] = np.arange(n) * folds // n
    return fold_of


# -- what the values say -------------------------------------------------------------------------------------------------------------------------------------


def distinct(values: np.ndarray, argument: str = "group") -> tuple[list[Any], np.ndarray]:
    """The different values, and for each row the number of its value: int64 (n,). Sorted where they can be compared, else in order of appearance.

    Raises DataError where a row has no value: all rows without one would count as one group.
    """
    missing = _missing(values)
    if len(missing):
        raise DataError(
            f"{argument}= has no value in {_few(missing, 'row')} of {len(values):,}. All rows without one would be taken for one and the same {argument}. "
            "Give them a value, or take those rows out."
        )
    if values.dtype.kind != "O":
        found, codes = np.unique(values, return_inverse=True)
        return found.tolist(), codes.reshape(-1).astype(np.int64)
    seen = dict.fromkeys(values.tolist())
    try:
        ordered = sorted(seen)
    except TypeError:
        ordered = list(seen)
    number = {value: position for position, value in enumerate(ordered)}
    return ordered, np.array([number[value] for value in values.tolist()], dtype=np.int64)


def _ordered(times: np.ndarray, argument: str) -> tuple[list[Any], np.ndarray]:
    """Like `distinct`, for values whose order means time; text must hold numbers or be in ISO form."""
    if times.dtype.kind in "UT" or (times.dtype.kind == "O" and any(isinstance(value, str) for value in times.tolist())):
        times = _times_of_text(times)
    if times.dtype.kind not in "iufMmbO":
        raise DataError(f"time= has dtype {times.dtype}, which has no order in time. Give numbers, dates, datetimes, or text in ISO form.")
    values, codes = distinct(times, argument)
    if times.dtype.kind == "O" and not _comparable(values):
        kinds = ", ".join(sorted({type(value).__name__ for value in values}))
        raise DataError(
            f"time= holds values that cannot be compared with each other ({kinds}; or some with and some without a time zone). Give all in one form."
        )
    return values, codes


def _times_of_text(times: np.ndarray) -> np.ndarray:
    texts = [None if _is_missing(value) or not str(value).strip() else str(value).strip() for value in times.tolist()]
    present = [text for text in texts if text is not None]
    for read in (float, datetime.fromisoformat, _month):
        try:
            parsed = [None if text is None else read(text) for text in texts]
        except ValueError:
            continue
        return np.fromiter(parsed, dtype=object, count=len(parsed))
    odd = next((text for text in present if not _reads(datetime.fromisoformat, text)), present[0])
    raise DataError(
        f"time= holds text such as {odd!r}, which sorts as text: '10/2/2020' would come before '9/1/2020', and the test rows would not be the latest. "
        "Give dates in ISO form (2020-10-02, or 2020-10-02T08:30), datetimes or numbers."
    )


def _month(text: str) -> datetime:
    """A year and month in ISO form (2020-10)."""
    return datetime.strptime(text, "%Y-%m")


def _reads(read: Callable[[str], Any], text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True


def _comparable(values: list[Any]) -> bool:
    try:
        sorted(values)
    except TypeError:
        return False
    return True


def _classes_of(labels: np.ndarray, num_parts: int) -> tuple[list[Any], np.ndarray, tuple[str, ...]]:
    values, codes = distinct(labels, "stratify")
    sizes = np.bincount(codes, minlength=len(values))
    single = np.flatnonzero(sizes == 1)
    if len(single):
        what = f"{len(single):,} of {len(values):,} classes have one row each" if len(single) > 1 else f"class {values[single[0]]!r} has one row"
        many = len(values) > max(20, len(labels) // 3) and labels.dtype.kind in "fiu"
        raise DataError(
            f"stratify: {what} ({', '.join(repr(values[code]) for code in single[:5])}{', ...' if len(single) > 5 else ''}), "
            "and one row cannot stand on two sides. "
            + (
                "These values are numbers rather than classes: stratify by ranges of them (numpy.digitize), or leave stratify out."
                if many
                else "Join it with another class, bring more rows, or leave stratify out."
            )
        )
    few = np.flatnonzero(sizes < num_parts)
    notes = (f"{_counted([values[code] for code in few], sizes[few])}: fewer rows than the {num_parts} parts, so some part has none of it",) if len(few) else ()
    return values, codes, notes


def _check_lengths(n: int, **named: Any) -> list[Any]:
    argument = {"labels": "stratify", "groups": "group", "times": "time"}
    found = []
    for name, values in named.items():
        if values is not None:
            values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
            if not isinstance(values, np.ndarray):
                values = np.asarray(values) if hasattr(values, "__array__") else _array_of(list(values))
            if values.ndim != 1:
                if values.ndim == 2 and values.shape[1] == 1:
                    values = values[:, 0]
                else:
                    raise DataError(f"{argument.get(name, name)}= has shape {values.shape}. Give one value for each of the {n:,} rows.")
            if len(values) != n:
                raise DataError(f"{argument.get(name, name)}= has {len(values):,} values for {n:,} rows. Give one for each row, in the rows' order.")
        found.append(values)
    return found


def _array_of(values: list[Any]) -> np.ndarray:
    """One-dimensional array of a list; mixed values stay as they are (numpy would make 1 and "1" the same text)."""
    if len({type(value) for value in values}) == 1 and not isinstance(values[0], (tuple, list)):
        return np.asarray(values)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _is_missing(value: Any) -> bool:
    # NaN, NaT and pandas.NA are the values that do not equal themselves (pandas.NA answers with itself).
    if value is None:
        return True
    equal = value == value
    return equal is not True and not (isinstance(equal, (bool, np.bool_)) and bool(equal))


def _missing(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return np.flatnonzero(np.isnan(values))
    if values.dtype.kind in "Mm":
        return np.flatnonzero(np.isnat(values))
    if values.dtype.kind == "O":
        return np.array(
            [row for row, value in enumerate(values.tolist()) if _is_missing(value) or (isinstance(value, str) and not value.strip())], dtype=np.int64
        )
    if values.dtype.kind in "UT":
        return np.array([row for row, text in enumerate(values.tolist()) if not text.strip()], dtype=np.int64)
    return np.empty(0, dtype=np.int64)


def _verify(parts: Mapping[str, np.ndarray], groups: np.ndarray | None, times: np.ndarray | None) -> None:
    """A split that was given keeps what `group=` and `time=` promise, or DataError."""
    there = [(name, rows) for name, rows in parts.items() if len(rows)]
    if groups is not None:
        values, codes = distinct(groups, "group")
        for position, (first, rows) in enumerate(there):
            for second, others in there[position + 1 :]:
                crossing = np.intersect1d(codes[rows], codes[others])
                if len(crossing):
                    names = ", ".join(repr(values[code]) for code in crossing[:5]) + (", ..." if len(crossing) > 5 else "")
                    raise DataError(
                        f"{len(crossing):,} of {len(values):,} groups stand in {first} and in {second} ({names}): a score on {second} would reward "
                        "what was learned of the very same group. Let group= alone make the split, or leave group= out."
                    )
    if times is not None:
        values, codes = _ordered(times, "time")
        for (first, rows), (second, others) in pairwise(there):
            if codes[rows].max() >= codes[others].min():
                raise DataError(
                    f"{first} reaches to {values[codes[rows].max()]} and {second} begins at {values[codes[others].min()]}: "
                    "training would see the future of the rows it is scored on. Let time= alone make the split, or leave time= out."
                )


# -- small pieces --------------------------------------------------------------------------------------------------------------------------------------------


def _exact(sizes: Sequence[float | int]) -> list[Fraction]:
    """Shares that add up to exactly 1. Through the decimal text: 0.29 * 100 is 28.999999999999996 in floats and 29 here."""
    shares = [Fraction(str(size)) for size in sizes]
    total = sum(shares)
    return [share / total for share in shares]


def _largest_remainder(n: int, shares: Sequence[Fraction]) -> list[int]:
    exact = [share * n for share in shares]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda part: (counts[part] - exact[part], part))
    for part in by_remainder[: n - sum(counts)]:
        counts[part] += 1
    return counts


def _unit(groups: Any, times: Any) -> Literal["rows", "groups", "blocks"]:
    return "groups" if groups is not None else "blocks" if times is not None else "rows"


def _result(method: Any, parts: Mapping[str, np.ndarray], n: int, *, sizes: Any = None, seed: int | None = None, **facts: Any) -> SplitIndices:
    rows = {name: np.ascontiguousarray(parts[name], dtype=np.int64) for name in NAMES}
    counts = (len(rows["train"]), len(rows["val"]), len(rows["test"]))
    how = SplitMethod(method=method, seed=seed, sizes=sizes, num_rows=counts, num_unused=n - sum(counts), **facts)
    if how.num_unused and method != "time":
        how = replace(how, notes=(*how.notes, f"{how.num_unused:,} of {n:,} rows stand in no part"))
    return SplitIndices(rows["train"], rows["val"] if counts[1] else None, rows["test"] if counts[2] else None, how)


def _refuse_sizes(sizes: tuple[Any, Any, Any], chosen: str) -> None:
    named = {name: size for name, size in zip(NAMES, sizes) if size}
    if named and tuple(sizes) != DEFAULT:  # the default is what a caller passes on who was given no size
        raise UsageError(f"{_written(named)} sets sizes, but {chosen}= already says which row goes where. Leave one of them out.")


def _written(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def _counted(values: Sequence[Any], sizes: Any) -> str:
    return ", ".join(f"{value!r}: {int(size):,}" for value, size in list(zip(values, sizes))[:5]) + (", ..." if len(values) > 5 else "")


def _few(numbers_: np.ndarray, noun: str) -> str:
    shown = ", ".join(str(number) for number in numbers_[:5])
    return f"{noun}{'s' if len(numbers_) > 1 else ''} {shown}" + (f" and {len(numbers_) - 5:,} more" if len(numbers_) > 5 else "")
