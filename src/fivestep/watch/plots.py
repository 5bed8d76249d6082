"""Pictures of a run as matplotlib figures.

Enters: a `Run` and what is to be seen. Leaves: a `Figure` of its own, without pyplot. The numbers come from `results/diagnosis.py`, as those of the report do;
all but the learning curves are of validation rows (training rows where there are none), and the test split is never drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fivestep.data.plots import names_of_targets
from fivestep.errors import UsageError
from fivestep.figures import BLUE, COLOURS, GREEN, GREY, LINES, ORANGE, figure, literal, name_ticks, shortened, tell_left_out
from fivestep.model.building import nearest
from fivestep.results import diagnosis
from fivestep.results.importance import importance
from fivestep.results.page import number_text
from fivestep.results.predictor import ArrayRows

SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
MOST_LETTERS = 30  # of a name on an axis or in a legend: with "predicted - actual" before it it fills the height of a figure
CLASSES = ("binary", "multiclass")
TASKS: dict[str, tuple[str, ...]] = {  # of the plots that compare predictions with targets row by row: for which tasks there is one
    "predictions": ("regression", "binary"), "residuals": ("regression",), "confusion": CLASSES, "roc": CLASSES, "precision_recall": CLASSES,
    "calibration": (*CLASSES, "multilabel"), "boundary": (*CLASSES, "regression"),
}  # fmt: skip
MOST_CLASSES = 20  # classes whose names and counts can still be read in a confusion matrix
MOST_TARGETS = 3  # side by side, as many as are still read at the width of a page
MOST_NAMED = 12  # classes in a legend: a longer one leaves the axes no room
MARKERS = "o^sDvPX"  # seven, with six colours: only every 42nd class looks like an earlier one


def plot_run(run: Any, kind: str) -> Any:
    """The figure of this kind. Raises UsageError for a kind that is not known or that this task does not have."""
    kinds = {
        "loss": plot_loss, "predictions": plot_predictions, "residuals": plot_residuals, "confusion": plot_confusion, "roc": plot_roc,
        "precision_recall": plot_precision_recall, "calibration": plot_calibration, "importance": plot_importance, "boundary": plot_boundary,
    }  # fmt: skip
    if kind not in kinds:
        raise UsageError(f"plot({kind!r}) is not known. Use {', '.join(map(repr, kinds))}.{nearest(str(kind), kinds)}")
    return kinds[kind](run)


def seen(run: Any, kind: str) -> diagnosis.Predicted:
    """Predictions of the rows that are drawn, of a run whose task has this plot."""
    task = run._predictor.decoding.task
    if task not in TASKS[kind]:
        others = ", ".join(f'"{other}"' for other in ("loss", *(other for other, tasks in TASKS.items() if task in tasks and other != "boundary")))
        told = f"this run's is {task}" if task else "from this run's loss none can be told"
        raise UsageError(f'plot("{kind}") is for a task of {" or ".join(TASKS[kind])}, and {told}. There is plot of {others}.')
    found = diagnosis.predicted(run, diagnosis.drawn_part(run))
    if found is None:
        raise UsageError(
            f'plot("{kind}") compares predictions with targets row by row, and the outputs of this model cannot be compared so. There is plot("loss").'
        )
    return found


def rows_of(found: diagnosis.Predicted) -> str:
    return f"{len(found):,} {SPLIT_NAMES[found.split]} row{'s' * (len(found) != 1)}"


def plot_loss(run: Any) -> Any:
    """Training, validation and (where watched) test loss over epochs; the kept epoch marked; logarithmic where the loss falls by more than 20 times."""
    made, axes = figure()
    drawn: list[float] = []
    for key, label, colour, line in (
        ("train_loss", "training", BLUE, "-"),
        ("val_loss", "validation", ORANGE, "--"),
        ("test_loss", "test (watched)", GREEN, ":"),
    ):
        rows = [(row["epoch"], row[key]) for row in run.history if row.get(key) is not None]
        if rows:
            axes.plot(*zip(*rows), label=label, color=colour, linestyle=line, marker="o" if len(rows) == 1 else None)
            drawn += [value for _, value in rows]
    if drawn and min(drawn) > 0 and max(drawn) > 20 * min(drawn):
        axes.set_yscale("log")
    if run.best and run.settings.chosen.get("keep") == "best":
        axes.axvline(run.best["epoch"], color=GREY, linestyle=":", label=f"kept: epoch {run.best['epoch']}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    known = ", ".join(filter(None, (diagnosis.training_loss(run), diagnosis.loss_unit(run))))
    axes.set(xlabel="epoch", ylabel=f"loss ({literal(known)})" if known else "loss")
    axes.legend()
    return made


def plot_predictions(run: Any) -> Any:
    """With one input column: data and predictions over it. For numbers predicted against actual; for two classes the probability by true class."""
    numbers = numbers_of(getattr(run._encoded["train"], "inputs", None))
    if numbers is not None and numbers.dim() == 2 and numbers.shape[1] == 1 and run._predictor.decoding.task == "regression":
        return plot_over_one_input(run)
    if run._predictor.decoding.task == "binary":
        return plot_probabilities(run)
    found = seen(run, "predictions")
    width = min(MOST_TARGETS, found.values.shape[1])
    made, axes = figure(width)
    for target, one in enumerate(np.atleast_1d(axes)):
        name = literal(found.target_names[target], MOST_LETTERS)
        actual, guess = found.targets[:, target].numpy(), found.values[:, target].numpy()
        one.scatter(actual, guess, s=16, color=BLUE, alpha=0.5 if len(found) < 2_000 else 0.2, linewidths=0, label=rows_of(found), rasterized=True)
        one.axline((actual.min(), actual.min()), slope=1, color=GREY, linestyle=":", label="right")
        one.set(xlabel=f"actual {name}", ylabel=f"predicted {name}")
        one.legend()
    tell_left_out(made, found.values.shape[1] - width)
    return made


def numbers_of(inputs: Any) -> Tensor | None:
    """The numbers of inputs, also of a table's that have codes of categories beside them but no category; None where there is more than numbers."""
    if isinstance(inputs, tuple) and len(inputs) == 2 and inputs[1].dim() == 2 and inputs[1].shape[1] == 0:
        inputs = inputs[0]
    return inputs if isinstance(inputs, Tensor) else None


def outputs_for(run: Any, numbers: Tensor) -> Any:
    """The model's outputs for inputs that were made up: with the empty codes beside them where its rows have these."""
    inputs = run._encoded["train"].inputs
    return run._predictor.outputs(ArrayRows((numbers, inputs[1].new_zeros(len(numbers), 0)) if isinstance(inputs, tuple) else numbers))


def plot_over_one_input(run: Any) -> Any:
    """Targets of training and validation rows over the one input, and the model's curve, one axes for each target; a table's in its columns' own numbers."""
    columns, data = run._predictor.columns, run.splits.train.data
    name, center, scale = "input", 0.0, 1.0
    if columns is not None and len(columns.inputs) == 1 and columns.inputs[0].kind == "number":
        name, center, scale = data.with_unit(columns.inputs[0].name), columns.inputs[0].center[0], columns.inputs[0].scale[0]
    parts = {}  # of each split: the numbers of its rows, and their targets (rows, targets)
    for part in ("train", "val"):
        if part in run._encoded:
            places = diagnosis.evenly(len(run._encoded[part]), 5_000)
            x = numbers_of(run._encoded[part].inputs)
            assert x is not None  # as those of the training rows were
            parts[part] = x[:, 0], places, run._targets(part).reshape(len(run._encoded[part]), -1)[places]
    everything = torch.cat([x for x, _, _ in parts.values()])
    grid = torch.linspace(float(everything.min()), float(everything.max()), 300, dtype=everything.dtype)[:, None]
    curves = np.asarray(run._predictor.decode(outputs_for(run, grid)), dtype=float).reshape(len(grid), -1)
    count = parts["train"][2].shape[1]
    names = names_of_targets(run.splits, count)
    width = min(MOST_TARGETS, count, curves.shape[1])
    made, axes = figure(width)
    for target, one in enumerate(np.atleast_1d(axes)):
        for (part, (x, places, targets)), colour, marker in zip(parts.items(), (BLUE, ORANGE), "o^"):
            one.scatter(
                x[places].double() * scale + center, targets[:, target], s=10, alpha=0.6, color=colour, marker=marker, label=SPLIT_NAMES[part], linewidths=0
            )
        one.plot(grid[:, 0].double() * scale + center, curves[:, target], color="black", label="predicted")
        one.set(xlabel=literal(name, MOST_LETTERS), ylabel=literal(names[target], MOST_LETTERS))
        one.legend()
    tell_left_out(made, count - width)
    return made


def plot_probabilities(run: Any) -> Any:
    """How probable class 1 was for rows of each true class, as shares of the class."""
    found = seen(run, "predictions")
    made, axes = figure()
    for label, (colour, line) in enumerate(zip((BLUE, ORANGE), ("-", "--"))):
        values = found.values[found.targets == label, 1].numpy()
        if len(values):
            axes.hist(values, bins=np.linspace(0, 1, 31), weights=np.full(len(values), 1 / len(values)), histtype="step", color=colour, linestyle=line, linewidth=1.6,
                      label=f"true class {literal(found.classes[label], MOST_LETTERS)} ({len(values):,} rows)")  # fmt: skip
    axes.axvline(0.5, color=GREY, linestyle=":")
    axes.set(xlabel=f"predicted probability of {literal(found.classes[1], MOST_LETTERS)}", ylabel="share of the class", xlim=(0, 1))
    axes.legend()
    return made


def plot_residuals(run: Any) -> Any:
    """Errors over the prediction, and how large they are; below each other for each target, whose units may differ."""
    found = seen(run, "residuals")
    width = min(MOST_TARGETS, found.values.shape[1])
    made, axes = figure(2, width)
    for target, (left, right) in enumerate(np.atleast_2d(axes)):
        name = literal(found.target_names[target], MOST_LETTERS)
        errors = (found.values[:, target] - found.targets[:, target]).numpy()
        left.scatter(
            found.values[:, target], errors, s=16, alpha=0.5 if len(found) < 2_000 else 0.2, color=BLUE, linewidths=0, label=rows_of(found), rasterized=True
        )
        low, high = np.percentile(errors, [0.5, 99.5])
        right.hist(np.clip(errors, low, high), bins=min(40, max(8, int(len(errors) ** 0.5))), histtype="step", linewidth=1.6, color=BLUE)
        left.axhline(0, color=GREY, linestyle=":")
        right.axvline(0, color=GREY, linestyle=":")
        left.set(xlabel=f"predicted {name}", ylabel=f"predicted - actual {name}")
        right.set(xlabel=f"predicted - actual {name}", ylabel="rows")
        left.legend()
    tell_left_out(made, found.values.shape[1] - width)
    return made


def plot_confusion(run: Any) -> Any:
    """Rows by true class and by the class they were given; the shade is the share of the true class.

    Of very many classes the largest are shown, and the last column counts those of their rows that were called one of the others.
    """
    found = seen(run, "confusion")
    matrix = diagnosis.confusion(found)
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    rows, columns = list(found.classes), list(found.classes)
    told = rows_of(found)
    if len(rows) > MOST_CLASSES:
        by_size = matrix.sum(1).argsort(descending=True, stable=True)
        kept, others = by_size[:MOST_CLASSES].sort().values, by_size[MOST_CLASSES:]
        # What a row was called is a share of all rows of its class: shares among the shown columns were 1.0 where a class had most of its rows elsewhere.
        matrix, shares = (torch.cat([every[kept][:, kept], every[kept][:, others].sum(1, keepdim=True)], 1) for every in (matrix, shares))
        rows = [rows[position] for position in kept.tolist()]
        columns = [*rows, f"{len(others)} other{'s' * (len(others) != 1)}"]
        told = f"{int(matrix.sum()):,} of {told}: the {MOST_CLASSES} largest of {len(found.classes)} classes"
    made, axes = figure()
    side = max(4.2, 0.36 * len(rows) + 2)
    made.set_size_inches(side * 1.35, side)
    shown = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    size = 10 if len(rows) <= 10 else 7
    for true in range(len(rows)):
        for called in range(len(columns)):
            if matrix[true, called] or len(rows) <= 10:
                axes.text(
                    called,
                    true,
                    f"{int(matrix[true, called]):,}",
                    ha="center",
                    va="center",
                    fontsize=size,
                    color="white" if shares[true, called] > 0.55 else "black",
                )
    if len(columns) > len(rows):
        axes.axvline(len(rows) - 0.5, color=GREY, linewidth=0.8)
    name_ticks(axes, columns, 18, 50)
    axes.set_yticks(range(len(rows)), [literal(name, 18) for name in rows])
    axes.set(xlabel="called", ylabel="true class", title=told)
    made.colorbar(shown, ax=axes, label="share of the true class")
    return made


def one_against_the_rest(found: diagnosis.Predicted) -> list[tuple[str, Tensor, Tensor]]:
    """(class, its probabilities, whether rows are of it): class 1 of two, else the six most frequent ones that have rows on both sides."""
    if found.task == "binary":
        chosen = [1]
    else:
        chosen = torch.bincount(found.targets, minlength=len(found.classes)).argsort(descending=True, stable=True)[:6].tolist()
    curves = [(found.classes[label], found.values[:, label], found.targets == label) for label in chosen]
    curves = [(name, scores, positive) for name, scores, positive in curves if 0 < int(positive.sum()) < len(positive)]
    if not curves:
        raise UsageError(f"All {rows_of(found)} are of one class, so there is nothing to tell apart.")
    return curves


def plot_roc(run: Any) -> Any:
    """True against false positive rate at every threshold, with the area under the curve."""
    found = seen(run, "roc")
    made, axes = figure()
    for (name, scores, positive), colour, line in zip(one_against_the_rest(found), COLOURS, LINES):
        misses, hits = diagnosis.roc(scores, positive)
        axes.plot(misses, hits, color=colour, linestyle=line, label=f"{literal(name, MOST_LETTERS)}: area {float(torch.trapezoid(hits, misses)):.3f}")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="guessing: area 0.5")
    axes.set(xlabel="false positive rate", ylabel="true positive rate (recall)", title=rows_of(found), xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(loc="lower right")
    return made


def plot_precision_recall(run: Any) -> Any:
    """Precision against recall at every threshold; guessing has the class's share as its precision."""
    found = seen(run, "precision_recall")
    made, axes = figure()
    for (name, scores, positive), colour, line in zip(one_against_the_rest(found), COLOURS, LINES):
        recall, precision = diagnosis.precision_recall(scores, positive)
        share = float(positive.double().mean())
        axes.plot(recall, precision, color=colour, linestyle=line, label=f"{literal(name, MOST_LETTERS)} (guessing: {share:.1%})")
        axes.axhline(share, color=colour, linestyle=":", linewidth=0.8)
    axes.set(xlabel="recall", ylabel="precision", title=rows_of(found), xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend()
    return made


def plot_calibration(run: Any) -> Any:
    """How often what was predicted came true, in bins of like size with 95 % intervals, and how often each probability was predicted."""
    found = seen(run, "calibration")
    bins = diagnosis.calibration_bins(found)
    made, (left, right) = figure(2)
    x, y = np.array([one.predicted for one in bins]), np.array([one.observed for one in bins])
    spread = [y - np.array([one.low for one in bins]), np.array([one.high for one in bins]) - y]
    left.errorbar(x, y, yerr=np.maximum(spread, 0), fmt="o", color=BLUE, capsize=3, label=f"{bins[0].count:,} rows a bin, 95 %")
    left.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="as predicted")
    what = (
        f"probability of {literal(found.classes[1], MOST_LETTERS)}"
        if found.task == "binary"
        else "probability of a label"
        if found.task == "multilabel"
        else "probability of the class it chose"
    )
    left.set(xlabel=f"predicted {what}", ylabel="share that was so", title=rows_of(found), xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    left.legend()
    sure = found.values[:, 1] if found.task == "binary" else found.values.flatten() if found.task == "multilabel" else found.values.max(1).values
    right.hist(sure.numpy(), bins=np.linspace(0, 1, 31), color=BLUE, alpha=0.8)
    right.set(xlabel=f"predicted {what}", ylabel="rows")
    return made


def plot_importance(run: Any) -> Any:
    """How much worse rows are predicted when a column's values are dealt anew among them, with 95 % intervals; the 20 largest."""
    found = importance(run, diagnosis.drawn_part(run), seed=run._seed)
    if isinstance(found, str):
        raise UsageError(f'plot("importance"): {found}')
    rows = found.rows[:20][::-1]
    made, axes = figure()
    made.set_size_inches(6.4, max(2.4, 0.3 * len(rows) + 1.2))
    values = np.array([row.value for row in rows])
    spread = np.nan_to_num(np.array([[row.value - row.low for row in rows], [row.high - row.value for row in rows]]))
    axes.barh(
        range(len(rows)), values, xerr=np.maximum(spread, 0), color=[BLUE if row.matters else "#BBBBBB" for row in rows], ecolor="black", capsize=2, height=0.65
    )
    axes.set_yticks(range(len(rows)), [literal(row.name, MOST_LETTERS) for row in rows])
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set(
        xlabel=f"growth of the {literal(found.loss_name)} (from {number_text(found.base, 3)}{' nats' if found.loss_name == 'log loss' else ''})",
        ylim=(-0.8, len(rows) - 0.2),
    )
    axes.locator_params(axis="x", nbins=6)  # long numbers would run into each other
    told = f"{found.num_rows:,} {SPLIT_NAMES[found.split]} rows; grey: not shown to matter"
    if len(found.rows) > len(rows):
        told += f"; {len(rows)} of {len(found.rows):,} columns"
    axes.set_title(told, loc="right", fontsize="medium")  # its room is to the left, over the names
    return made


def plot_boundary(run: Any) -> Any:
    """What the model says over the plane of its two number inputs, with the rows on it."""
    names = diagnosis.two_inputs(run)
    found = seen(run, "boundary")
    inputs = numbers_of(run._encoded[found.split].inputs)
    assert inputs is not None  # `two_inputs` refuses others
    inputs, columns = inputs[found.places], run._predictor.columns
    center, scale = np.zeros(2), np.ones(2)
    if columns is not None:
        center, scale = (np.array([getattr(column, key)[0] for column in columns.inputs]) for key in ("center", "scale"))
    low, high = inputs[:, :2].min(0).values, inputs[:, :2].max(0).values
    room = (high - low).clamp(min=1e-6) * 0.08
    axis = [torch.linspace(float(low[k] - room[k]), float(high[k] + room[k]), 160) for k in (0, 1)]
    plane = torch.cartesian_prod(*axis).to(inputs.dtype)
    if inputs.shape[1] > 2:  # marks of missing values stand beside the two numbers: none is missing here
        plane = torch.cat([plane, torch.zeros(len(plane), inputs.shape[1] - 2, dtype=plane.dtype)], 1)
    outputs = outputs_for(run, plane)
    made, axes = figure()
    grid = [np.asarray(axis[k], dtype=float) * scale[k] + center[k] for k in (0, 1)]
    places = diagnosis.evenly(len(inputs), 2_000)
    x, y = ((inputs[places, k].double().numpy() * scale[k] + center[k]) for k in (0, 1))
    if found.task == "regression":
        values = np.asarray(run._predictor.decode(outputs), dtype=float).reshape(len(plane), -1)[:, 0].reshape(160, 160).T
        shown = axes.contourf(*grid, values, levels=15, cmap="cividis")
        axes.scatter(x, y, c=found.targets[places, 0], cmap="cividis", norm=shown.norm, s=24, edgecolors="white", linewidths=0.5)
        made.colorbar(shown, ax=axes, label=f"predicted {literal(found.target_names[0], MOST_LETTERS)} (dots: actual)")
        tell_left_out(made, found.values.shape[1] - 1)
    else:
        chances = run._predictor.decode(outputs, probabilities=True).reshape(160, 160, -1)
        from matplotlib.colors import to_rgb

        colours = np.array([to_rgb(COLOURS[label % len(COLOURS)]) for label in range(chances.shape[2])])
        mixed = 1 - (1 - chances.numpy() @ colours) * 0.45  # paler where classes mix, so that dots stand out
        if len(colours) > len(COLOURS):  # two classes of one colour may be neighbours
            called = chances.argmax(2).numpy()
            mixed[1:][called[1:] != called[:-1]] = 1
            mixed[:, 1:][called[:, 1:] != called[:, :-1]] = 1
        axes.imshow(np.clip(mixed, 0, 1).transpose(1, 0, 2), origin="lower", aspect="auto", extent=(grid[0][0], grid[0][-1], grid[1][0], grid[1][-1]))
        counts = torch.bincount(found.targets[places], minlength=chances.shape[2])
        named = counts.argsort(descending=True, stable=True)[:MOST_NAMED].tolist()
        for label in counts.nonzero().flatten().tolist():
            at = (found.targets[places] == label).numpy()
            axes.scatter(
                x[at],
                y[at],
                s=26,
                color=COLOURS[label % len(COLOURS)],
                marker=MARKERS[label % len(MARKERS)],
                edgecolors="white",
                linewidths=0.5,
                label=literal(found.classes[label], MOST_LETTERS) if label in named else None,
            )
        drawn = int((counts > 0).sum())
        if drawn > MOST_NAMED:
            axes.plot([], [], linestyle="", label=f"and {drawn - MOST_NAMED} more")
        if drawn > len(COLOURS):  # so many names would lie over the rows
            longest = max(len(shortened(found.classes[label], MOST_LETTERS)) for label in named)
            made.set_size_inches(7 + 0.09 * longest, 4.2)
            made.legend(title="true class", loc="outside right upper")
        else:
            axes.legend(title="true class")
    axes.set(
        xlabel=literal(names[0], MOST_LETTERS),
        ylabel=literal(names[1], MOST_LETTERS),
        title=rows_of(found),
        xlim=(grid[0][0], grid[0][-1]),
        ylim=(grid[1][0], grid[1][-1]),
    )
    return made
