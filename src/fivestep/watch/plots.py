"""Pictures of a run as matplotlib figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fivestep.errors import UsageError
from fivestep.figures import BLUE, GREEN, GREY, ORANGE, figure


def plot_run(run: Any, kind: str) -> Any:
    kinds = {"loss": plot_loss, "predictions": plot_predictions}
    if kind not in kinds:
        raise UsageError(f"plot({kind!r}) is not known. Use {', '.join(map(repr, kinds))}.")
    return kinds[kind](run)


def plot_loss(run: Any) -> Any:
    """Training, validation and (where watched) test loss over epochs; the kept epoch marked."""
    made, axes = figure()
    for key, label, colour in (("train_loss", "training", BLUE), ("val_loss", "validation", ORANGE), ("test_loss", "test (watched)", GREEN)):
        rows = [(row["epoch"], row[key]) for row in run.history if row.get(key) is not None]
        if rows:
            axes.plot(*zip(*rows), label=label, color=colour)
    if run.best and run.settings.chosen.get("keep") == "best":
        axes.axvline(run.best["epoch"], color=GREY, linestyle=":", label=f"kept: epoch {run.best['epoch']}")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.legend()
    return made


def plot_predictions(run: Any) -> Any:
    """With one input column: data and predictions over it. Else predicted against actual, for the split that was kept apart."""
    made, axes = figure()
    part = "test" if run.splits.test is not None and run._watched_test else "val" if run.splits.val is not None else "train"
    inputs = getattr(run._encoded["train"], "inputs", None)
    if isinstance(inputs, Tensor) and inputs.dim() == 2 and inputs.shape[1] == 1:
        for name, colour in (("train", BLUE), ("val", ORANGE), ("test", GREEN)):
            if name in run._encoded:
                axes.scatter(run._encoded[name].inputs[:, 0], run._targets(name).reshape(-1), s=8, color=colour, label=name)
        axes.scatter(run._encoded[part].inputs[:, 0], np.asarray(run.predict(part)).reshape(-1), s=8, color=GREY, marker="x", label=f"predicted ({part})")
        axes.set(xlabel="input", ylabel="target")
    else:
        actual, predicted = np.asarray(run._targets(part), dtype=float).reshape(-1), np.asarray(run.predict(part), dtype=float).reshape(-1)
        axes.scatter(actual, predicted, s=8, color=BLUE, alpha=0.5, label=part)
        axes.axline((actual.min(), actual.min()), slope=1, color=GREY, linestyle=":")
        axes.set(xlabel="actual", ylabel="predicted")
    axes.legend()
    return made
