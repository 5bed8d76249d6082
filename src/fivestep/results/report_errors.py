"""Where a model errs, by task: predicted against actual, confusion, ROC, precision and recall, calibration, thresholds.

Enters: `Predicted` rows. Leaves: figures and tables as HTML; what they show is computed in `diagnosis.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fivestep.results import diagnosis
from fivestep.results.figures_svg import Series, chart, histogram
from fivestep.results.page import Cell, figure, number_text, paragraph, table, text
from fivestep.results.report_verdict import SPLIT_NAMES, counted

MOST_CLASSES = 15  # classes whose confusion is shown as a whole
CURVES = 6  # classes with a curve of their own


def errors_section(run: Any, found: diagnosis.Predicted) -> str:
    where = paragraph(f"All of this is seen on the {counted(len(found), f'{SPLIT_NAMES[found.split]} row')}.")
    return where + {"regression": regression_figures, "multilabel": multilabel_figures}.get(found.task, class_figures)(found)


def regression_figures(found: diagnosis.Predicted) -> str:
    parts = []
    for target in range(min(4, found.values.shape[1])):
        name = found.target_names[target]
        actual, guess = found.targets[:, target], found.values[:, target]
        residuals = guess - actual
        points = diagnosis.evenly(len(found), 1_500)
        range_ = (float(torch.minimum(actual.min(), guess.min())), float(torch.maximum(actual.max(), guess.max())))
        range_ = range_ if range_[1] > range_[0] else None
        more = f" {len(points):,} of {len(found):,} rows are drawn." if len(points) < len(found) else ""
        parts.append(
            figure(
                chart(
                    f"Predicted against actual {name}", [Series(name, actual[points].tolist(), guess[points].tolist(), 1, points=True)],
                    x_label=f"actual {name}", y_label=f"predicted {name}", diagonal=True, x_range=range_, y_range=range_,
                ),
                f"Predicted against actual {name}. On the dotted line a prediction is right; above it is too high.{more}",
            )
        )  # fmt: skip
        bias = float(residuals.mean())
        parts.append(
            figure(
                chart(
                    f"Errors of {name} over the prediction", [Series(name, guess[points].tolist(), residuals[points].tolist(), 1, points=True)],
                    x_label=f"predicted {name}", y_label=f"predicted - actual {name}", level=0.0,
                ),
                f"Errors over the prediction; on average {number_text(bias)}. A slope, a bend or a funnel would be something that the model has not learned.",
            )
        )  # fmt: skip
        low, high = np.percentile(residuals.numpy(), [0.5, 99.5])
        low, high = min(low, 0.0), max(high, 0.0)  # the line of no error is in the picture
        edges = np.linspace(low, high if high > low else low + 1, 31)
        counts = np.histogram(np.clip(residuals.numpy(), edges[0], edges[-1]), edges)[0]
        half, most = np.quantile(residuals.abs().numpy(), [0.5, 0.9]).tolist()
        parts.append(
            figure(
                histogram(
                    f"How large errors of {name} are",
                    [("rows", counts.tolist())],
                    edges.tolist(),
                    x_label=f"predicted - actual {name}",
                    y_label="rows",
                    level=0.0,
                ),
                f"Half of the rows are off by less than {number_text(half, 3)}, nine of ten by less than {number_text(most, 3)}.",
            )
        )
    rest = found.values.shape[1] - 4
    return f'<div class="grid2">{"".join(parts)}</div>' + (
        paragraph(f"{counted(rest, 'more target')} {'is' if rest == 1 else 'are'} not drawn.") if rest > 0 else ""
    )


def class_figures(found: diagnosis.Predicted) -> str:
    matrix = diagnosis.confusion(found)
    parts = [confusion_table(found, matrix), class_table(found, matrix)]
    pictures = []
    counts = torch.bincount(found.targets, minlength=len(found.classes))
    if found.task == "binary":
        positives = [(found.classes[1], found.values[:, 1], found.targets == 1)]
    else:
        order = counts.argsort(descending=True, stable=True)[:CURVES].tolist()
        positives = [(found.classes[label], found.values[:, label], found.targets == label) for label in order]
    positives = [(name, score, positive) for name, score, positive in positives if 0 < int(positive.sum()) < len(positive)]
    if positives:
        pictures += curve_figures(positives, many=found.task != "binary" and len(found.classes) > CURVES)
    pictures.append(calibration_figure(found))
    if found.task == "binary":
        pictures.append(probability_figure(found))
    parts.append(f'<div class="grid2">{"".join(pictures)}</div>')
    if found.task == "binary" and positives:
        parts.append(threshold_table(found))
    return "".join(parts)


def confusion_table(found: diagnosis.Predicted, matrix: Tensor) -> str:
    if len(found.classes) > MOST_CLASSES:
        off = matrix.clone()
        off.fill_diagonal_(0)
        values, at = off.flatten().sort(descending=True)
        rows = [
            [found.classes[int(place) // len(found.classes)], found.classes[int(place) % len(found.classes)], Cell(f"{int(value):,}", "n")]
            for value, place in zip(values[:15], at[:15])
            if value
        ]
        return (
            table(
                f"Confusion: the classes most often taken for another, of {len(found.classes)} classes",
                ["true class", "was called", "rows"],
                rows,
            )
            if rows
            else ""
        )
    totals = matrix.sum(1)
    rows = []
    for true, name in enumerate(found.classes):
        cells: list[Any] = [name]
        for called in range(len(found.classes)):
            share = float(matrix[true, called]) / max(1, int(totals[true]))
            # A light tint only: the number on it must stay readable in light and dark.
            cells.append(
                Cell(
                    f"{'<b>' if true == called else ''}{int(matrix[true, called]):,}{'</b>' if true == called else ''}",
                    f"{'h' if true == called else 'x'}{round(share * 10)}",
                )
            )
        rows.append([*cells, Cell(f"{int(totals[true]):,}", "n")])
    heads = ["true \\ called", *found.classes, "rows"]
    right = int(matrix.diagonal().sum())
    caption = f"Confusion matrix: rows by their true class (down) and the class they were given (across); {right:,} of {int(matrix.sum()):,} are right (bold)"
    return "<h3>Confusion</h3>" + table(caption, heads, rows, look="heat")


def class_table(found: diagnosis.Predicted, matrix: Tensor) -> str:
    rows = []
    order = range(len(found.classes))
    if len(found.classes) > 30:
        recalls = matrix.diagonal() / matrix.sum(1)  # NaN of a class without rows, which comes last
        order = recalls.argsort(stable=True)[:30].tolist()  # type: ignore[assignment]
    for label in order:
        hits, there, called = int(matrix[label, label]), int(matrix[label].sum()), int(matrix[:, label].sum())
        recall = hits / there if there else None
        low, high = diagnosis.wilson(recall, there) if recall is not None else (0.0, 0.0)
        look = "bad" if recall is not None and high < 0.5 else ""
        shown = Cell("–", "n") if recall is None else Cell(f'<span class="{"tag " + look if look else ""}">{recall:.1%}</span>', "n")
        rows.append([
            found.classes[label], Cell(f"{there:,}", "n"), Cell(f"{called:,}", "n"), shown,
            Cell("–" if recall is None else f"{low:.0%} to {high:.0%}", "n"), Cell(f"{hits / called:.1%}" if called else "–", "n"),
        ])  # fmt: skip
    caption = "By class: recall is the share of its rows that were found, precision the share of those called so that are so"
    if len(found.classes) > 30:
        caption += f"; the 30 classes with the lowest recall of {len(found.classes)}"
    return table(caption, ["class", "rows", "called so", "recall", "95 % interval", "precision"], rows)


def curve_figures(positives: Sequence[tuple[str, Tensor, Tensor]], *, many: bool = False) -> list[str]:
    roc_series, pr_series, areas = [], [], []
    for colour, (name, score, positive) in enumerate(positives, 1):
        misses, hits = diagnosis.roc(score, positive)
        area = float(torch.trapezoid(hits, misses))
        recall, precision = diagnosis.precision_recall(score, positive)
        areas.append((name, area, float(positive.double().mean())))
        label = f"{name} ({area:.3f})" if len(positives) > 1 else name
        roc_series.append(Series(label, misses.tolist(), hits.tolist(), colour))
        pr_series.append(Series(name, recall.tolist(), precision.tolist(), colour))
    which = f"Each class against the others{', the most frequent ones' if many else ''}. " if len(positives) > 1 else f"Of the class {positives[0][0]!r}. "
    told = ", ".join(f"{name} {area:.3f}" for name, area, _ in areas)
    shares = ", ".join(f"{share:.1%}" for _, _, share in areas) if len(areas) == 1 else "its share of the rows"
    return [
        figure(
            chart(f"ROC curve, area {told}", roc_series, x_label="false positive rate", y_label="true positive rate (recall)", diagonal=True, x_range=(0, 1), y_range=(0, 1)),
            f"ROC. {which}Area under the curve: {told} (the dotted line, guessing, has 0.5).",
        ),
        figure(
            chart(
                "Precision and recall", pr_series, x_label="recall", y_label="precision", level=areas[0][2] if len(areas) == 1 else None,
                x_range=(0, 1), y_range=(0, 1),
            ),
            f"Precision and recall. Guessing has a precision of {shares}{' (dotted)' if len(areas) == 1 else ''} at every recall. Where few rows are positive this says more than ROC.",
        ),
    ]  # fmt: skip


def calibration_figure(found: diagnosis.Predicted) -> str:
    bins = diagnosis.calibration_bins(found)
    if not bins:
        return ""
    what = (
        f"probability of {found.classes[1]!r}"
        if found.task == "binary"
        else "probability of the label"
        if found.task == "multilabel"
        else "probability of the class it chose"
    )
    came = "share that was so" if found.task != "multiclass" else "share that was right"
    high = max(max(one.predicted for one in bins), max(one.high for one in bins))
    top = 1.0 if high > 0.5 else high * 1.05
    drawn = chart(
        "Calibration: " + "; ".join(f"predicted {one.predicted:.2f}, came true {one.observed:.2f}" for one in bins),
        [Series("bins of like size", [one.predicted for one in bins], [one.observed for one in bins], 1, points=True, low=[one.low for one in bins], high=[one.high for one in bins])],
        x_label=f"predicted {what}" if len(what) < 40 else "predicted probability", y_label=came, diagonal=True, x_range=(0, top), y_range=(0, top),
    )  # fmt: skip
    outside = sum(not one.low <= one.predicted <= one.high for one in bins)
    if outside > len(bins) // 10:
        told = f"probabilities cannot be taken at their word in {outside} of {counted(len(bins), 'bin')}"
    else:
        told = "probabilities can be taken at their word" if len(bins) > 2 else "so few bins show no difference"
    least, most = min(one.count for one in bins), max(one.count for one in bins)
    size = f"{least:,} to {most:,}" if least < most else f"{least:,}"
    of = "labels of rows" if found.task == "multilabel" else "rows"
    below = "the model is too sure" if found.task == "multiclass" else "it comes less often than predicted"
    return figure(drawn, f"Calibration, {size} {of} a bin with 95 % intervals: {told}. Below the dotted line {below}.")


def probability_figure(found: diagnosis.Predicted) -> str:
    edges = np.linspace(0, 1, 26)
    groups = []
    for label in (0, 1):
        values = found.values[found.targets == label, 1].numpy()
        counts = np.histogram(values, edges)[0] / max(1, len(values))
        groups.append((f"true class {found.classes[label]}", counts.tolist()))
    drawn = histogram(
        f"Probability of {found.classes[1]} by true class",
        groups,
        edges.tolist(),
        x_label=f"probability of {found.classes[1]}"[:60],
        y_label="share of the class",
        level=0.5,
    )
    return figure(drawn, "How probable the class was for rows of each true class. The less the two overlap, the better any threshold can part them.")


def threshold_table(found: diagnosis.Predicted) -> str:
    def percent(value: float | None) -> Cell:
        return Cell("–" if value is None else f"{value:.1%}", "n")

    rows = [
        [
            Cell(f"{one.threshold:.3g}{' ' + text('(' + one.why + ')') if one.why else ''}", "n"), Cell(f"{one.hits + one.false_alarms:,}", "n"), Cell(f"{one.hits:,}", "n"),
            Cell(f"{one.false_alarms:,}", "n"), Cell(f"{one.missed:,}", "n"), percent(one.precision), percent(one.recall), percent(one.f1),
        ]
        for one in diagnosis.thresholds(found.values[:, 1], found.targets == 1)
    ]  # fmt: skip
    caption = f"Thresholds: what calling a row {found.classes[1]!r} from this probability on would do. A threshold chosen here looks a little too good here"
    return "<h3>Thresholds</h3>" + table(caption, ["from", "called so", "right", "false alarms", "missed", "precision", "recall", "F1"], rows)


def multilabel_figures(found: diagnosis.Predicted) -> str:
    rows = []
    for label, name in list(enumerate(found.classes))[:40]:
        true, called = found.targets[:, label] == 1, found.values[:, label] >= 0.5
        hits, there, said = int((true & called).sum()), int(true.sum()), int(called.sum())
        rows.append(
            [
                name,
                Cell(f"{there:,}", "n"),
                Cell(f"{said:,}", "n"),
                Cell(f"{hits / there:.1%}" if there else "–", "n"),
                Cell(f"{hits / said:.1%}" if said else "–", "n"),
            ]
        )
    shown = table("By label, called where its probability is at least 0.5", ["label", "rows", "called so", "recall", "precision"], rows)
    return shown + f'<div class="grid2">{calibration_figure(found)}</div>'
