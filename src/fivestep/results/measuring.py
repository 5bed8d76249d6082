"""One number of a trained model on one split, and the same number on a thousand resamples of its rows: what a comparison is made of.

Enters: a `Run` and the name of a metric (or "loss"). Leaves: frozen `Measurement`. All runs on the same rows are resampled alike, so their differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fivestep.errors import UsageError
from fivestep.model import metrics as scoring
from fivestep.model.evidence import Evidence
from fivestep.model.formulas import DEFAULTS, LOSS, Metric
from fivestep.model.resampling import Units, group_codes, make_units, time_order
from fivestep.results.run import Run

SAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Measurement:
    """`value` of a metric, `resampled` (k,) the same on resamples of the rows (None: it cannot be told by rows), `num_independent` how many things were drawn."""

    metric: str
    value: float
    resampled: Tensor | None
    num_independent: int
    higher_is_better: bool


def measure(run: Run, metric: str = "loss", split: str = "val", *, mode: str | None = None, samples: int = SAMPLES) -> Measurement:
    """The metric of the weights that the run kept. "loss" is the run's own loss, in the unit it was trained in; a metric's name is as in `evaluate`.

    Raises UsageError where the run knows no such number.
    """
    return measure_all([run], metric, split, mode=mode, samples=samples)[0]


def measure_all(runs: Sequence[Run], metric: str = "loss", split: str = "val", *, mode: str | None = None, samples: int = SAMPLES) -> list[Measurement]:
    """`measure` of runs on the same rows: the resamples are drawn once for all of them (for 32 runs that was half of a sweep's time). `samples=0` draws none."""
    if not runs:
        return []
    part, splits = runs[0].splits.part(split), runs[0].splits
    units = make_units(len(part), groups=group_codes(splits.values_of(splits.group, part)), times=time_order(splits.values_of(splits.time, part)), seed=0)
    found = [evidence_of(run, metric, split, units) for run in runs]
    drawable = {k: (evidence, chosen) for k, (_, evidence, chosen) in enumerate(found) if evidence is not None and evidence.finite}
    resampled = scoring.resample(drawable, units, samples, 0) if samples and drawable else {}
    measured = []
    for k, (value, _, chosen) in enumerate(found):
        higher = mode == "max" if mode is not None else chosen.higher_is_better
        if higher is None:
            raise UsageError(f"It cannot be told whether a larger {metric!r} is better, so nothing can be chosen by it. Say mode='max' or mode='min'.")
        measured.append(Measurement(metric, value, resampled.get(k), units.num_independent, bool(higher)))
    return measured


def evidence_of(run: Run, metric: str, split: str, units: Units) -> tuple[float, Evidence | None, Metric]:
    """(value, what it is computed from by rows, the metric); None in the middle where the rows cannot be told apart."""
    if metric == "loss":
        found = run._evaluate_loss(split)
        if found is None:
            raise UsageError("This run was made by step=, which has no loss of ours to compare. Name a metric: metric='mae'.")
        if not isinstance(found, tuple) or len(found[0]) != units.num_rows:  # a loss that cannot be told by rows
            return float(found[0].sum() / found[1].sum()) if isinstance(found, tuple) else float(found), None, LOSS
        if not bool(torch.isfinite(found[0]).all()):
            return math.nan, None, LOSS
        evidence = Evidence(None, units=units, loss=found)
        return float(LOSS.value(evidence)), evidence, LOSS
    decoding, targets = run._predictor.decoding, run._targets(split)
    outputs = run._predictor.outputs(run._encoded[split])
    own = scoring.user_functions(run._metrics).get(metric)
    (chosen,) = scoring._resolve([metric] if own is None else {metric: own}, decoding.task).values()
    if targets is None:
        raise UsageError(f"metric={metric!r} needs targets, and these rows have none that are known.")
    if chosen.of_outputs:  # a function of the user's gets what it gets in `evaluate`: outputs in the target's unit, targets as they are stored
        evidence = Evidence(None, None, targets, units=units, outputs=run._predictor.outputs_in_unit(outputs))
        return float(chosen.value(evidence)), evidence, chosen
    predictions = run._predictor.decode(outputs, probabilities=decoding.task != "regression")
    if isinstance(predictions, Tensor) and decoding.task == "regression":
        predictions = predictions.reshape(targets.shape)
    elif decoding.task in ("binary", "multiclass"):
        targets = targets.long().flatten()
    evidence = Evidence(decoding.task, predictions, targets, units=units, outputs=outputs)
    return float(chosen.value(evidence)), evidence, chosen


def main_metric(run: Run) -> str:
    """The first of the task's own metrics; "loss" where the task is not known."""
    names: Any = DEFAULTS.get(run._task or "", ())
    return names[0] if names else "loss"
