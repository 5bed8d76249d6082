"""How far the splits differ: each column of the training rows beside the same column of another split.

Enters: `Splits` of a table. Leaves: `ColumnDrift`, one for each column and split. Targets of test rows are not looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fivestep import seeds

MOST_DRIFT_ROWS = 20_000  # rows of a split whose values are compared with the training rows


@dataclass(frozen=True, eq=False)
class ColumnDrift:
    """One column in the training rows and in another split.

    `distance` is between 0 (alike) and 1 (nothing in common): the largest gap between the two distribution functions for numbers (Kolmogorov and Smirnov),
    half the sum of differences of shares for categories. `differs`: more than chance on so many rows and columns, and more than 0.1. `histograms` are shares
    in common bins, training first.
    """

    name: str
    kind: str
    split: str
    distance: float
    differs: bool
    histograms: tuple[tuple[float, ...], tuple[float, ...]]
    missing: tuple[float, float]
    told: tuple[str, str]


def drift(splits: Any, *, with_target: bool = True, seed: int = 0) -> list[ColumnDrift]:
    """Every column that the model sees, and the target of validation rows, in each split beside the training rows. A test split's targets are not looked at."""
    if splits.train.data.kind != "table":
        return []
    columns = splits.columns
    names = [column.name for column in columns.inputs]
    others = [part for part in (splits.val, splits.test) if part is not None]
    rows = {part.name: some_rows(part, seed) for part in (splits.train, *others)}
    found = []
    for name in [*names, *(columns.target_names if with_target else ())]:
        compared = [part for part in others if name in names or part.name == "val"]
        tables = {id(part.data.typed): part.data.typed for part in (splits.train, *compared)}
        whole = {key: table.values(name) for key, table in tables.items()}  # a column is read once, whatever splits share its table
        one, *rest = (whole[id(part.data.typed)][rows[part.name]] for part in (splits.train, *compared))
        kind = splits.train.data.typed.column(name).kind
        tests = max(1, len(others) * len(names))
        found += [compare_columns(name, kind, part.name, one, other, tests) for part, other in zip(compared, rest)]
    return found


def some_rows(part: Any, seed: int) -> np.ndarray:
    """Row numbers of a split, MOST_DRIFT_ROWS of them at most."""
    rows = part.indices
    if len(rows) > MOST_DRIFT_ROWS:
        rows = rows[torch.randperm(len(rows), generator=seeds.generator(seed, "drift"))[:MOST_DRIFT_ROWS]]
    return rows.numpy()


def compare_columns(name: str, kind: str, split: str, one: np.ndarray, other: np.ndarray, tests: int = 1) -> ColumnDrift:
    """One column in two sets of rows. The limit of chance is 1 % over all `tests` together (Bonferroni)."""
    level = 0.01 / tests
    if one.dtype == object:
        counts = [Counter(values.tolist()) for values in (one, other)]  # texts and None; a generator in between makes it four times as long
        missing = (counts[0][None] / max(1, len(one)), counts[1][None] / max(1, len(other)))
        for each in counts:
            each["-"] += each.pop(None, 0)
        texts = sorted(counts[0] | counts[1])
        first, second = (np.array([count[each] for each in texts], dtype=np.int64) for count in counts)
        p, q = first / max(1, len(one)), second / max(1, len(other))
        distance = float(np.abs(p - q).sum() / 2)
        differs = chi_square_tail(first, second) < level
        order = np.argsort(-p, kind="stable")[:20]
        told = tuple(", ".join(f"{texts[at]} {share[at]:.0%}" for at in np.argsort(-share, kind="stable")[:2] if share[at] > 0) for share in (p, q))
        return ColumnDrift(name, kind, split, distance, bool(differs and distance > 0.1), (tuple(p[order].tolist()), tuple(q[order].tolist())), missing, told)  # type: ignore[arg-type]
    missing = (float(np.isnan(one).mean()), float(np.isnan(other).mean()))
    one, other = np.sort(one[np.isfinite(one)]), np.sort(other[np.isfinite(other)])
    if not len(one) or not len(other):
        return ColumnDrift(name, kind, split, 0.0, False, ((), ()), missing, ("", ""))
    everything = np.concatenate([one, other])
    gap = np.searchsorted(one, everything, side="right") / len(one) - np.searchsorted(other, everything, side="right") / len(other)
    distance = float(np.abs(gap).max())
    # P(D > d) <= 2 exp(-2 d^2 nm/(n+m)): Smirnov's limit
    chance = math.sqrt(-math.log(level / 2) / 2 * (len(one) + len(other)) / (len(one) * len(other)))
    low, high = np.percentile(everything, [1, 99])
    edges = np.linspace(low, high if high > low else low + 1, 21)
    shares = [np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values) for values in (one, other)]
    told = tuple(f"{values.mean():.4g} ± {values.std():.3g}" if kind in ("number", "boolean") else "" for values in (one, other))
    return ColumnDrift(name, kind, split, distance, distance > max(chance, 0.1), (tuple(shares[0].tolist()), tuple(shares[1].tolist())), missing, told)  # type: ignore[arg-type]


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
