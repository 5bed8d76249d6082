"""Single rows, columns and groups of a report: the most wrong rows, example images, permutation importance, scores by subgroup.

Enters: a `Run` with its `Predicted` rows or `Importances`. Leaves: tables and pictures as HTML.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fivestep.results import diagnosis
from fivestep.results.figures_svg import bar
from fivestep.results.importance import Importances
from fivestep.results.page import Cell, image, number, number_text, paragraph, table, text
from fivestep.results.report_verdict import METRIC_NAMES, SPLIT_NAMES, counted

MOST_GROUPS = 60  # subgroups that are shown one by one


def rows_section(run: Any, found: diagnosis.Predicted, measured: Any) -> str:
    at = diagnosis.worst(found, 10)
    kind = run.splits.train.data.kind
    pixels = example_images(run, found)
    names: list[str] = []
    if kind == "table":
        names = [column.name for column in run.splits.columns.inputs]
        if len(names) > 10 and isinstance(measured, Importances):
            names = [row.name for row in measured.rows[:10]]
        names = names[:10]
    typed = run.splits.part(found.split).data.typed if kind == "table" else None
    numbers = typed.rows if typed is not None else range(int(found.rows.max()) + 1)  # rows without a target were left out of the data, and count in the file
    rows = []
    for place in at.tolist():
        row = int(found.rows[place])
        told: list[Any] = [Cell(f"{int(numbers[row]):,}", "n")]
        if found.task in ("binary", "multiclass"):
            label, true = int(found.labels[place]), int(found.targets[place])
            told += [
                found.classes[true],
                Cell(f"{float(found.values[place, true]):.3g}", "n"),
                found.classes[label],
                Cell(f"{float(found.values[place, label]):.3g}", "n"),
            ]
        elif found.task == "regression" and found.values.shape[1] == 1:
            actual, guess = float(found.targets[place, 0]), float(found.values[place, 0])
            told += [number(actual), number(guess), number(guess - actual)]
        else:
            told += [number(float(found.losses[place]))]
        if names:
            told += [
                Cell(text(diagnosis.value_text(value), 40), ("long" if len(value) > 20 else "") if isinstance(value, str) else "n")
                for value in diagnosis.input_values(run, found.split, row, names)
            ]
        rows.append(told)
    if found.task in ("binary", "multiclass"):
        heads = ["row", "true class", "its probability", "called", "with probability"]
    elif found.task == "regression" and found.values.shape[1] == 1:
        heads = ["row", "actual", "predicted", "error"]
    else:
        heads = ["row", found.loss_name]
    left_out = f"; {len(names)} of {len(run.splits.columns.inputs)} columns" if names and len(names) < len(run.splits.columns.inputs) else ""
    caption = f"The {len(rows)} most wrong of {len(found):,} {SPLIT_NAMES[found.split]} rows, by {found.loss_name} (row 0 is the first of the data{left_out})"
    words = paragraph("Look at these first: a wrong label, a broken value or a kind of row that training never saw are told apart by eye.")
    return words + table(caption, [*heads, *names], rows) + pixels


def example_images(run: Any, found: diagnosis.Predicted) -> str:
    """The most wrong images and some drawn at random, with what was predicted."""
    if run.splits.image_shape is None and run.splits.train.data.kind != "images":
        return ""
    source = run._encoded[found.split]
    wrong = diagnosis.worst(found, 8)
    some = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:8]
    parts = []
    for title, chosen in (("The most wrong images", wrong), ("Images drawn at random", some)):
        inputs = source.take(found.places[chosen])[0]
        if not isinstance(inputs, Tensor) or inputs.dim() != 4:
            return ""
        items = []
        for place, picture in zip(chosen.tolist(), inputs):
            told = described(found, place)
            items.append(f"<li>{image(picture_pixels(picture), f'row {int(found.rows[place])}: {told}')}<span>{text(told)}</span></li>")
        parts.append(f'<h3>{title}</h3><ul class="pictures">{"".join(items)}</ul>')
    return "".join(parts)


def described(found: diagnosis.Predicted, place: int) -> str:
    if found.task in ("binary", "multiclass"):
        label, true = int(found.labels[place]), int(found.targets[place])
        sure = f"{float(found.values[place, label]):.0%}"
        return f"{found.classes[label]} ({sure}), right" if label == true else f"called {found.classes[label]} ({sure}), is {found.classes[true]}"
    if found.values.shape[1] > 1:
        return f"{found.loss_name} {number_text(float(found.losses[place]), 3)}"
    return f"predicted {number_text(float(found.values[place, 0]), 3)}, is {number_text(float(found.targets[place, 0]), 3)}"


def picture_pixels(picture: Tensor) -> np.ndarray:
    """(channels, height, width) of any range as uint8 pixels, 128 at most on a side; the range is stretched to 0..255 where it is not 0..1 already."""
    values = picture.detach().float().cpu()
    values = values[:3] if values.shape[0] >= 3 else values[:1]
    stride = max(1, math.ceil(max(values.shape[1:]) / 128))
    values = values[:, ::stride, ::stride]
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        values = (values - low) / max(high - low, 1e-12)
    pixels = (values.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def importance_section(measured: Importances | str) -> str:
    if isinstance(measured, str):
        return paragraph(measured)
    shown = measured.rows[:30]
    first = min(0.0, *(row.low if math.isfinite(row.low) else row.value for row in shown))
    last = max(0.0, *(row.high if math.isfinite(row.high) else row.value for row in shown))
    rows = []
    for row in shown:
        interval = f"{number_text(row.low, 2)} to {number_text(row.high, 2)}" if math.isfinite(row.low) else "–"
        drawn = bar(f"{number_text(row.value, 3)}, interval {interval}", row.value, row.low, row.high, first, last)
        rows.append([row.name, number(row.value, 3), Cell(text(interval), "n"), Cell(drawn, "w"), "" if row.matters else "not shown to matter"])
    rest = f" {counted(len(measured.rows) - 30, 'more column')} with less." if len(measured.rows) > 30 else ""
    words = paragraph(
        f"How much the {measured.loss_name} of {counted(measured.num_rows, SPLIT_NAMES[measured.split] + ' row')} grows (from {number_text(measured.base, 3)}) when the values of one column are dealt anew among "
        f"the rows. Columns that tell the same hide each other, and this says what the model uses, not what causes the target.{rest} {measured.note}"
    )
    caption = f"Permutation importance, {counted(measured.repeats, 'deal')} each, 95 % intervals over rows"
    return words + table(caption, ["column", "growth", "95 % interval", "drawn", ""], rows)


def subgroups_section(run: Any, found: diagnosis.Predicted) -> str:
    metric, whole, rows = diagnosis.subgroups(run, found)
    if not rows:
        return ""
    shown = []
    first = min([row.score.low if row.score.low is not None else row.score.value for row in rows])
    last = max([row.score.high if row.score.high is not None else row.score.value for row in rows])
    first = min(first, 0.0) if metric == "mae" else first
    for row in rows[:MOST_GROUPS]:
        value, interval, _, _ = row.score.texts()
        drawn = strip_on(f"{value}, interval {interval or 'none'}", row.score, whole, first, last)
        shown.append([f"{row.column} = {row.value}", Cell(f"{row.num_rows:,}", "n"), Cell(text(value), "n"), Cell(text(interval or "–"), "n"), Cell(drawn),
                      Cell('<span class="tag bad">worse than all rows</span>' if row.apart else "")])  # fmt: skip
    apart = [row for row in rows if row.apart]
    told = (
        f"{counted(len(apart), 'group')} of {len(rows)} {'is' if len(apart) == 1 else 'are'} worse than all rows together ({number_text(whole, 3)})"
        if apart
        else f"None of {counted(len(rows), 'group')} is shown to be worse than all rows together ({number_text(whole, 3)})"
    )
    caution = f". With {len(rows)} groups, about {max(1, round(len(rows) * 0.025))} would look so by chance alone." if len(rows) > 20 else "."
    name = METRIC_NAMES.get(metric, metric)
    caption = f"{name[0].upper()}{name[1:]} by the values of each category column, {SPLIT_NAMES[found.split]} rows; the line is all rows together"
    if len(rows) > MOST_GROUPS:
        caption += f". {MOST_GROUPS} of {len(rows)} groups, those that are worse first"
    return paragraph(told + caution) + table(caption, ["group", "rows", name, "95 % interval", "drawn", "against all rows"], shown)


def strip_on(told: str, score: Any, whole: float, first: float, last: float) -> str:
    """A strip whose axis is that of all groups, so that their dots can be compared."""
    from fivestep.results.figures_svg import svg, widened

    first, last = widened(min(first, whole), max(last, whole), 0.04)

    def at(value: float) -> float:
        return 4 + (value - first) / (last - first) * 142

    parts = '<path class="grid" d="M2 12H148"/>'
    if score.low is not None and math.isfinite(score.low) and math.isfinite(score.high):
        parts += f'<path class="line c1 thick" d="M{at(score.low):.1f} 12H{at(score.high):.1f}"/>'
    if math.isfinite(score.value):
        parts += f'<path class="dots big c1" d="M{at(score.value):.1f} 12h0"/>'
    return svg(told, 150, 24, parts + f'<path class="line c2" d="M{at(whole):.1f} 2V22"/>', kind="spark")
