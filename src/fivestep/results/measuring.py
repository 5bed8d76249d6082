"""One number of a trained model on one split, and the same number on a thousand resamples of its rows: what a comparison is made of.

Enters: a `Run` and the name of a metric (or "loss"). Leaves: frozen `Measurement`. All runs on the same rows are resampled alike, so their differences are paired.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fivestep.errors import UsageError
from fivestep.model import metrics as scoring
from fivestep.model.evidence import Evidence
from fivestep.model.formulas import DEFAULTS, LOSS
from fivestep.model.resampling import make_units
from fivestep.results.run import Run, group_codes, time_order

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
    part = run.splits.part(split)
    units = make_units(
        len(part), groups=group_codes(run.splits.values_of(run.splits.group, part)), times=time_order(run.splits.values_of(run.splits.time, part)), seed=0
    )
    if metric == "loss":
        found = run._evaluate_loss(split)
        if found is None:
            raise UsageError("This run was made by step=, which has no loss of ours to compare. Name a metric: metric='mae'.")
        if not isinstance(found, tuple) or len(found[0]) != len(part):  # a loss that cannot be told by rows
            value = float(found[0].sum() / found[1].sum()) if isinstance(found, tuple) else float(found)
            return Measurement("loss", value, None, units.num_independent, False)
        if not bool(torch.isfinite(found[0]).all()):
            return Measurement("loss", math.nan, None, units.num_independent, False)
        rows = found
        evidence, chosen = Evidence(None, units=units, loss=rows), LOSS
    else:
        decoding, targets = run._predictor.decoding, run._targets(split)
        outputs = run._predictor.outputs(run._encoded[split])
        own = (
            run._metrics.get(metric)
            if isinstance(run._metrics, dict)
            else next((f for f in run._metrics or () if getattr(f, "__name__", None) == metric), None)
        )
        (chosen,) = scoring._resolve({metric: own} if callable(own) else [metric], decoding.task).values()
        if targets is None:
            raise UsageError(f"metric={metric!r} needs targets, and these rows have none that are known.")
        by_outputs = chosen.of_outputs
        predictions = None if by_outputs else run._predictor.decode(outputs, probabilities=decoding.task != "regression")
        if isinstance(predictions, Tensor) and decoding.task == "regression":
            predictions = predictions.reshape(targets.shape)
        elif decoding.task in ("binary", "multiclass"):
            targets = targets.long().flatten()
        evidence = Evidence(None if by_outputs else decoding.task, predictions, targets, units=units, outputs=outputs)
    value = float(chosen.value(evidence))
    resampled = scoring.resample({metric: (evidence, chosen)}, units, samples, 0).get(metric) if evidence.finite else None
    higher = mode == "max" if mode is not None else chosen.higher_is_better
    if higher is None:
        raise UsageError(f"It cannot be told whether a larger {metric!r} is better, so nothing can be chosen by it. Say mode='max' or mode='min'.")
    return Measurement(metric, value, None if resampled is None else torch.as_tensor(resampled), units.num_independent, bool(higher))


def main_metric(run: Run) -> str:
    """The first of the task's own metrics; "loss" where the task is not known."""
    names: Any = DEFAULTS.get(run._task or "", ())
    return names[0] if names else "loss"
