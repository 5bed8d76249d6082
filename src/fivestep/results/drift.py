"""How far the splits differ: each column of the training rows beside the same column of another split.

Enters: `Splits` of a table. Leaves: `ColumnDrift`, one for each column and split. Targets of test rows are not looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from fivestep import seeds

MOST_DRIFT_ROWS = 20_000  # rows of a split whose values are compared with the training rows


@dataclass(frozen=True, eq=False)
class ColumnDrift:
    """One column in the training rows and in another split.

    `distance` is between 0 (alike) and 1 (nothing in common): the largest gap between the two distribution functions for numbers (Kolmogorov and Smirnov),
    half the sum of differences of shares for categories. `missing` are the shares without a value, `unseen` the other split's share of categories that the training
    rows never had. `reasons` say in what the two differ by more than chance on so many rows and columns, and by more than 0.1; empty where they do not.
    `histograms` are shares in common bins, training first.
    """

    name: str
    kind: str
    split: str
    distance: float
    reasons: tuple[str, ...]
    histograms: tuple[tuple[float, ...], tuple[float, ...]]
    missing: tuple[float, float]
    unseen: float = 0.0

    @property
    def differs(self) -> bool:
        return bool(self.reasons)


def drift(splits: Any, *, with_target: bool = True, seed: int = 0) -> list[ColumnDrift]:
    """Every column that the model sees, and the target of validation rows, in each split beside the training rows. A test split's targets are not looked at."""
    if splits.train.data.kind != "table":
        return []
    columns = splits.columns
    names = [column.name for column in columns.inputs]
    others = [part for part in (splits.val, splits.test) if part is not None]
    places = {part.name: some_places(part, seed) for part in (splits.train, *others)}
    groups = {part.name: splits.values_of(splits.group, part) for part in (splits.train, *others)}
    found = []
    for name in [*names, *(columns.target_names if with_target else ())]:
        compared = [part for part in others if name in names or part.name == "val"]
        tables = {id(part.data.typed): part.data.typed for part in (splits.train, *compared)}
        whole = {key: table.values(name) for key, table in tables.items()}  # a column is read once, whatever splits share its table
        values = {part.name: whole[id(part.data.typed)][part.indices.numpy()[places[part.name]]] for part in (splits.train, *compared)}
        kind = splits.train.data.typed.column(name).kind
        tests = max(1, len(others) * len(names))
        share = min(independent_share(each, groups[part], places[part]) for part, each in values.items())
        found += [compare_columns(name, kind, part.name, values["train"], values[part.name], tests, share) for part in compared]
    return found


def some_places(part: Any, seed: int) -> np.ndarray:
    """Where rows stand in a split, MOST_DRIFT_ROWS of them at most."""
    if len(part) <= MOST_DRIFT_ROWS:
        return np.arange(len(part))
    return torch.randperm(len(part), generator=seeds.generator(seed, "drift"))[:MOST_DRIFT_ROWS].numpy()


def independent_share(values: np.ndarray, groups: Any, places: np.ndarray) -> float:
    """The share of rows that count for chance where whole groups were drawn: a value counts once in each group. A column that is one per group has as many
    independent values as there are groups."""
    if groups is None or not len(values):
        return 1.0
    of_group = np.unique(np.asarray(groups)[places], return_inverse=True)[1].astype(np.int64)
    of_value = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)[1].astype(np.int64)
    return len(np.unique(of_group * (of_value.max() + 1) + of_value)) / len(values)


def compare_columns(name: str, kind: str, split: str, one: np.ndarray, other: np.ndarray, tests: int = 1, share: float = 1.0) -> ColumnDrift:
    """One column in two sets of rows, `share` of which are independent. The limit of chance is 1 % over all `tests` together (Bonferroni)."""
    level = 0.01 / tests
    reasons = []
    if one.dtype == object:
        counts = [Counter(values.tolist()) for values in (one, other)]  # texts and None; a generator in between makes it four times as long
        missing = (counts[0][None] / max(1, len(one)), counts[1][None] / max(1, len(other)))
        for each in counts:
            each["-"] += each.pop(None, 0)
        texts = sorted(counts[0] | counts[1])
        first, second = (np.array([count[each] for each in texts], dtype=np.int64) for count in counts)
        p, q = first / max(1, len(one)), second / max(1, len(other))
        distance = float(np.abs(p - q).sum() / 2)
        if distance > 0.1 and chi_square_tail(first * share, second * share) < level:
            most = (", ".join(f"{texts[at]} {part[at]:.0%}" for at in np.argsort(-part, kind="stable")[:2] if part[at] > 0) for part in (p, q))
            reasons.append("by {:.2f}: {} in training, {} there".format(distance, *most))
        unseen = float(q[first == 0].sum())
        if is_unseen_beyond_chance(first, second):
            reasons.append(f"{unseen:.0%} of its rows have values that training never had")
        order = np.argsort(-p, kind="stable")[:20]
        return ColumnDrift(name, kind, split, distance, tuple(reasons), (tuple(p[order].tolist()), tuple(q[order].tolist())), missing, unseen)
    missing = (float(np.isnan(one).mean()), float(np.isnan(other).mean()))
    both = (missing[0] * len(one) + missing[1] * len(other)) / max(1, len(one) + len(other))
    deviation = math.sqrt(both * (1 - both) * (1 / max(1, len(one)) + 1 / max(1, len(other))) / share)
    if abs(missing[0] - missing[1]) > max(0.1, NormalDist().inv_cdf(1 - level / 2) * deviation):
        reasons.append(f"{missing[0]:.0%} missing in training, {missing[1]:.0%} there")
    one, other = np.sort(one[np.isfinite(one)]), np.sort(other[np.isfinite(other)])
    if not len(one) or not len(other):
        return ColumnDrift(name, kind, split, 0.0, tuple(reasons), ((), ()), missing)
    everything = np.concatenate([one, other])
    gap = np.searchsorted(one, everything, side="right") / len(one) - np.searchsorted(other, everything, side="right") / len(other)
    distance = float(np.abs(gap).max())
    # P(D > d) <= 2 exp(-2 d^2 nm/(n+m)): Smirnov's limit
    chance = math.sqrt(-math.log(level / 2) / 2 * (len(one) + len(other)) / (len(one) * len(other) * share))
    low, high = np.percentile(everything, [1, 99])
    edges = np.linspace(low, high if high > low else low + 1, 21)
    shares = [np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values) for values in (one, other)]
    if distance > max(chance, 0.1):
        told = ": {} in training, {} there".format(*(f"{values.mean():.4g} ± {values.std():.3g}" for values in (one, other)))
        reasons.append(f"by {distance:.2f}" + (told if kind in ("number", "boolean") else ""))
    return ColumnDrift(name, kind, split, distance, tuple(reasons), (tuple(shares[0].tolist()), tuple(shares[1].tolist())), missing)


def is_unseen_beyond_chance(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether values without a row in `first` are more frequent in `second` than those that `first` has once let expect (Good and Turing's estimate), by more than
    0.1 and four standard errors."""
    expected = (first == 1).sum() / max(1, first.sum())
    error = math.sqrt(max(expected, 1 / max(1, first.sum())) * (1 / max(1, first.sum()) + 1 / max(1, second.sum())))
    return bool(second[first == 0].sum() / max(1, second.sum()) - expected > max(0.1, 4 * error))


def chi_square_tail(first: np.ndarray, second: np.ndarray) -> float:
    """P of a chi-square statistic of two rows of counts as large as this, were both drawn alike; rare values (expected below 5) are counted together."""
    total = first + second
    share = second.sum() / max(1, total.sum())
    rare = total * min(share, 1 - share) < 5
    if rare.any():
        first, second = (np.append(counts[~rare], counts[rare].sum()) for counts in (first, second))
        total = first + second
    kept = total > 0
    first, second, total = first[kept], second[kept], total[kept]
    if len(total) < 2 or not first.sum() or not second.sum():
        return 1.0
    expected_first, expected_second = total * (1 - share), total * share
    statistic = ((first - expected_first) ** 2 / expected_first + (second - expected_second) ** 2 / expected_second).sum()
    half = torch.tensor([(len(total) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))
