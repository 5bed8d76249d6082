"""Rules on arrays that come in for prediction: do they lie where the training rows lay? (Of tables `data/columns.py` tells, value by value.)

Enters: the rows, and what was kept of the training rows. Leaves: findings. The decision that shaped it: a few numbers for each column are kept
(`TrainingStatistics`), not rows, so that whoever holds them needs no training data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from fivestep.checks.findings import Finding
from fivestep.checks.subject import Subject


def check_prediction_rows(statistics: TrainingStatistics | None, rows: Any, *, ignore: Sequence[str] = ()) -> list[Finding]:
    """I01 where prediction rows lie elsewhere than the training rows did, I02 where another order of the columns would put them right.

    `rows` is a matrix (n, columns) of what the model would get. Few rows are held against the training range, more against mean and spread.
    """
    if statistics is None or rows is None:
        return []
    given = rows.detach().cpu() if isinstance(rows, Tensor) else numpy.asarray(rows)
    if given.ndim != statistics.axes or len(given) == 0:
        return []
    whole = (not isinstance(given, Tensor) and given.dtype.kind in "iu") or (isinstance(given, Tensor) and not given.is_floating_point())
    few = len(given) < 5
    by = by_column(numpy.asarray(given, dtype=numpy.float64) if whole else given)
    if by is None or by.shape[1] != len(statistics.mean):
        return []
    rows = by
    steady = statistics.steady & numpy.isfinite(rows).all(0)
    if steady.sum() < 1:
        return []
    found: list[Finding] = []
    mean, deviation = statistics.mean, numpy.maximum(statistics.deviation, 1e-12)
    if few:
        width = statistics.most - statistics.least
        outside = ((rows < statistics.least - width) | (rows > statistics.most + width)).mean(0)[steady]
        if float((outside > 0.5).mean()) > 0.3:
            found.append(elsewhere(float((outside > 0.5).mean()), "lie a whole training range outside of it", {}))
        return [finding for finding in found if finding.code not in ignore]
    shift = numpy.abs(rows.mean(0) - mean) / deviation
    ratio = numpy.maximum(rows.std(0), 1e-12) / deviation
    odd = shift > 3
    if len(rows) >= 20:
        odd |= numpy.maximum(ratio, 1 / ratio) > 4
    share = float(odd[steady].mean())
    order = (
        better_order(rows, mean, deviation, steady)
        if len(rows) >= 20 and steady.sum() >= 3 and (share > 0.3 or float((shift[steady] > 1).mean()) > 0.3)
        else None
    )
    if order is not None:
        found.append(Finding(
            "I02", "warning", f"{share:.0%} of the columns are far from where they were in training, and in the order {order} all of them fit.", {"order": order, "share": share},
            "The columns come in another order than in training: each weight meets another column.", "Predict a frame with named columns, or restore the order.",
        ))  # fmt: skip
    elif share > 0.3:
        found.append(
            elsewhere(
                share,
                f"have means {numpy.median(shift[steady]):.3g} training deviations away or another spread (times {numpy.median(ratio[steady]):.3g})",
                {"shift": float(numpy.median(shift[steady])), "ratio": float(numpy.median(ratio[steady]))},
            )
        )
    return [finding for finding in found if finding.code not in ignore]


def elsewhere(share: float, seen: str, evidence: dict[str, Any]) -> Finding:
    return Finding(
        "I01", "warning", f"{share:.0%} of the columns of these rows {seen}.", {"share": share, **evidence}, "They were not prepared as the training rows were: predictions are those of a stranger.",
        "Apply the scaling fitted in training (mean and deviation of the training rows), or let Data.table do it.",
    )  # fmt: skip


def better_order(rows: numpy.ndarray, mean: numpy.ndarray, deviation: numpy.ndarray, steady: numpy.ndarray) -> list[int] | None:
    """An order of the columns in which rows fit the training statistics, or None: the cheapest pairs first."""
    columns = numpy.flatnonzero(steady)
    if len(columns) > 300:
        return None
    given_mean, given_spread = rows.mean(0)[columns], numpy.maximum(rows.std(0)[columns], 1e-12)
    cost = numpy.abs(given_mean[:, None] - mean[columns][None]) / deviation[columns][None] + numpy.abs(
        numpy.log(given_spread[:, None] / deviation[columns][None])
    )
    if float(cost.diagonal().mean()) < 0.5:
        return None
    remaining, order, costs = cost.copy(), list(range(len(mean))), []
    for _ in columns:
        place, wanted = numpy.unravel_index(int(remaining.argmin()), remaining.shape)
        costs.append(float(cost[place, wanted]))
        order[int(columns[wanted])] = int(columns[place])
        remaining[place], remaining[:, wanted] = numpy.inf, numpy.inf
    return order if max(costs) < 0.5 and order != list(range(len(mean))) else None


@dataclass(frozen=True)
class TrainingStatistics:
    """What the training rows looked like, column by column: float64 arrays (columns,). `steady` are columns whose mean and spread mean something."""

    mean: numpy.ndarray
    deviation: numpy.ndarray
    least: numpy.ndarray
    most: numpy.ndarray
    steady: numpy.ndarray
    names: tuple[str, ...] = ()
    axes: int = 2


def training_statistics(subject: Subject) -> TrainingStatistics | None:
    """Statistics of the training inputs, to hold prediction rows against; None where inputs are no matrix, sequences or pictures of numbers (or wider than 4,096)."""
    inputs = subject.train.inputs
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.dim() not in (2, 3, 4) or len(inputs) < 10:
        return None
    if inputs.shape[1 if inputs.dim() == 4 else -1] > 4096:
        return None
    rows = by_column(inputs)
    assert rows is not None
    modal = numpy.array([numpy.unique(column[:2000], return_counts=True)[1].max() / len(column[:2000]) for column in rows.T])
    with numpy.errstate(invalid="ignore"):
        deviation = rows.std(0)
    return TrainingStatistics(rows.mean(0), deviation, rows.min(0), rows.max(0), (modal < 0.8) & (deviation > 0), tuple(subject.used), inputs.dim())


def by_column(values: Any) -> numpy.ndarray | None:
    """Rows as (values, columns): a matrix as it is, sequences (n, time, features) by feature, pictures (n, channels, height, width) by channel; None for others.

    Floating (and 8-bit) values only; at most about a million of them, spread over the rows.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) and values.dtype != torch.bfloat16 else values
    if (
        not isinstance(array, numpy.ndarray)
        or array.ndim not in (2, 3, 4)
        or len(array) == 0
        or (array.dtype.kind != "f" and not (array.ndim == 4 and array.dtype == numpy.uint8))
    ):
        return None
    array = array[:: max(1, array.size // 1_000_000)]
    if array.ndim == 4:
        array = numpy.moveaxis(array, 1, -1)
    return array.reshape(-1, array.shape[-1]).astype(numpy.float64)
