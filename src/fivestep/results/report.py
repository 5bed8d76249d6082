"""The report of a run: one HTML file that tells in words and pictures what was trained, on what, how good it is against no skill, and where it errs.

Enters: a `Run`. Leaves: `report.html`, complete in itself, without a script or an address, below 2 MB. The decision that shaped it: pictures are drawn from
validation rows; the test split is scored by nobody but who asked for it, and then the report says how often.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fivestep import files
from fivestep._version import __version__
from fivestep.errors import FivestepError
from fivestep.model.scores import Scores
from fivestep.results import diagnosis, runs
from fivestep.results.figures_svg import Series, bar, chart, histogram, spark, strip
from fivestep.results.page import Cell, code, figure, folded, image, number, number_text, page, paragraph, section, table, text

METRIC_NAMES = {
    "loss": "loss", "rmse": "RMSE", "mae": "mean absolute error", "r2": "R²", "log_loss": "log loss", "accuracy": "accuracy", "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy", "f1": "F1",
}  # fmt: skip
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test", "data": "given"}
MOST_COLUMNS = 60  # columns that are shown one by one
MOST_CLASSES = 15  # classes whose confusion is shown as a whole
CURVES = 6  # classes with a curve of their own


def write(run: Any, path: str | Path | None = None) -> Path:
    """Write the report of a run as one HTML file and return its path: `path`, else `report.html` in the run's folder (in the current one without)."""
    target = Path(path) if path is not None else (run.folder or Path(".")) / "report.html"
    if target.is_dir():
        target = target / "report.html"
    files.write_atomic(target, render(run).encode("utf-8", "replace"))
    return target


def render(run: Any) -> str:
    """The report as HTML text."""
    started = time.perf_counter()
    split = diagnosis.drawn_part(run)
    found = diagnosis.predicted(run, split)
    scores = run.scored(split)
    looks, test = run.looked()
    measured = diagnosis.importance(run, split, seed=run._seed) if found is not None else "The outputs of this model are no prediction of its target."
    name = run.folder.name if run.folder is not None else type(run.model).__name__
    sections = [
        ("scores", "Scores", scores_section(run, scores, looks, test)),
        ("training", "Training", training_section(run)),
        ("errors", "Where it errs", errors_section(run, found) if found is not None else ""),
        ("rows", "Worst rows", rows_section(run, found, measured) if found is not None else ""),
        ("importance", "What it looks at", importance_section(measured)),
        ("subgroups", "Subgroups", subgroups_section(run, found) if found is not None else ""),
        ("data", "Data and splits", data_section(run)),
        ("findings", "Findings", findings_section(run.findings)),
        ("settings", "Settings and versions", settings_section(run)),
        ("again", "Do it again", again_section(run)),
    ]
    there = [(anchor, title, content) for anchor, title, content in sections if content]
    links = "".join(f'<li><a href="#{anchor}">{text(title)}</a></li>' for anchor, title, _ in there)
    header = (
        f'<header><h1>{text(name)}: {text(headline(run))}</h1><p class="soft">{text(run.splits.train.data.origin)}; written '
        f"{datetime.datetime.now().strftime('%Y-%m-%d %H:%M')} by fivestep {text(__version__)}</p></header>"
    )
    body = "\n".join(section(anchor, title, content) for anchor, title, content in there)
    took = time.perf_counter() - started
    footer = f"<footer>Made offline in {took:.1f} s. This page holds no script and fetches nothing. Checksums in MANIFEST.json prove that nothing changed by accident.</footer>"
    return page(
        f"{name}: fivestep report",
        f'{header}\n<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>{verdict(run, scores, found, looks)}{tiles(run, scores)}\n{body}</main>\n{footer}',
    )


# -- in words -----------------------------------------------------------------------------------------------------------------------------------------------


def headline(run: Any) -> str:
    splits = run.splits
    names = splits.train.data.target_names
    task = run._predictor.decoding.task
    if task in ("binary", "multiclass"):
        count = len(run.classes) if run.classes else run.splits.num_outputs
        return f"{names[0] if names else 'a class'} ({counted(count, 'class', 'classes')})" if count else "classes"
    if names:
        return ", ".join(map(str, names[:4])) + (" ..." if len(names) > 4 else "")
    return {"regression": "numbers", "multilabel": "several labels"}.get(task or "", f"{type(run.model).__name__}, scored by its loss")


def counted(count: int, one: str, many: str | None = None) -> str:
    """
    >>> counted(1, "epoch"), counted(2000, "row")
    ('1 epoch', '2,000 rows')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def what_was_done(run: Any) -> list[str]:
    """What was trained, on what, and which weights are kept, in sentences."""
    data, splits = run.splits.train.data, run.splits
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    goal = f" to predict {headline(run)}" if run._predictor.decoding.task else ""
    columns = f" from {counted(len(splits.columns.inputs), 'column')}" if splits.columns is not None else ""
    sizes = ", ".join(f"{len(part):,} for {SPLIT_NAMES[part.name]}" for part in (splits.val, splits.test) if part is not None)
    done = [
        f"{article(type(run.model).__name__)} with {counted(parameters, 'parameter')} was trained{goal}{columns} of {data.origin}, on {counted(len(splits.train), 'row')}"
        + (f" ({sizes} kept apart)." if sizes else " (none kept apart).")
    ]
    if run.history:
        best = run.best or run.history[-1]
        kept = run.settings.chosen.get("keep") or run.settings.asked.get("keep")
        told = f"{counted(len(run.history), 'epoch')} {'was' if len(run.history) == 1 else 'were'} run"
        if kept == "best" and best.get("val_loss") is not None:
            told += f"; the weights of epoch {best['epoch']} are kept, the best on validation rows"
            if best["epoch"] == len(run.history) and len(run.history) > 1:
                told += " and the last one, so more epochs may do better"
        else:
            told += "; the last weights are kept"
        done.append(told + ".")
    return done


def article(name: str) -> str:
    """
    >>> article("MLP"), article("Ensemble"), article("Net")
    ('An MLP', 'An Ensemble', 'A Net')
    """
    aloud = name[0] in "AEFHILMNORSX" if name[:2].isupper() else name[0].upper() in "AEIO"
    return f"{'An' if aloud else 'A'} {name}"


def skill(scores: Scores) -> tuple[str, str]:
    """("good" | "warn" | "bad" | "none", what may be said of the model against a constant, in one sentence)."""
    judged = [score for score in scores.values() if score.verdict is not None]
    better = [score for score in judged if score.verdict == "better"]
    others = [score for score in judged if score.verdict != "better"]
    if not judged:
        return "none", "There is no constant prediction to compare these scores with, so it cannot be told whether the model has skill."
    constant = "a constant that ignores the inputs"
    if not better:
        return "bad", f"By none of its scores is the model shown to be better than {constant}. As it stands, it is of no use."
    if others:
        listed = ", ".join(METRIC_NAMES.get(score.name, score.name) for score in others)
        return "warn", f"The model is better than {constant} by {len(better)} of {len(judged)} scores, but not by {listed}."
    return "good", f"The model is better than {constant} by {'its score' if len(judged) == 1 else f'all {len(judged)} of its scores'}."


def imbalance(scores: Scores, found: diagnosis.Predicted | None) -> str:
    """What accuracy hides where one class holds most rows; "" where none does."""
    if found is None or found.task not in ("binary", "multiclass"):
        return ""
    counts = torch.bincount(found.targets, minlength=len(found.classes))
    most = int(counts.argmax())
    share = float(counts[most]) / len(found)
    if share < 0.8:
        return ""
    matrix = diagnosis.confusion(found)
    rest = int(len(found) - counts[most])
    hits = int(matrix.diagonal().sum() - matrix[most, most])
    others = [name for position, name in enumerate(found.classes) if position != most]
    of_rest = f"class {others[0]!r}" if len(others) == 1 else "the other classes"
    accuracy = float(matrix.diagonal().sum()) / len(found)
    found_told = f"finds {hits:,} of the {counted(rest, 'row')} of {of_rest}" + (f" ({hits / rest:.0%})" if rest else "")
    return (
        f"Accuracy says little here: {share:.1%} of these rows are of class {found.classes[most]!r}, so always answering {found.classes[most]!r} is right in {share:.1%} "
        f"and finds nothing. This model is right in {accuracy:.1%} and {found_told}. Judge it by balanced accuracy, precision and recall."
    )


def verdict(run: Any, scores: Scores, found: diagnosis.Predicted | None, looks: int) -> str:
    """The first thing on the page: what was done, and whether it is any good."""
    look, told = skill(scores)
    hidden = imbalance(scores, found)
    if hidden and look == "good":
        look = "warn" if "finds 0 of" not in hidden else "bad"
    on = f"On {counted(scores.num_rows, f'{SPLIT_NAMES.get(scores.split, scores.split)} row')}: "
    caution = ""
    if scores.split == "train":
        caution = "There are no validation rows: these are scores on the rows that the model was trained on, which every model looks too good on."
    elif run.splits.test is not None and not looks:
        caution = "Validation rows chose the epoch, so their scores are a little too hopeful. The test rows are untouched: score them once, at the end."
    elif run.splits.test is not None:
        caution = f"The test rows have been looked at {'once' if looks == 1 else f'{looks:,} times'}; each further look makes their score too hopeful."
    mark = {"good": "✓ ", "warn": "! ", "bad": "✗ "}.get(look, "")
    body = (
        paragraph(*what_was_done(run))
        + f"<p><strong>{mark}{text(on + told[:1].lower() + told[1:], 900)}</strong></p>"
        + (paragraph(hidden) if hidden else "")
        + (paragraph(caution) if caution else "")
    )
    return f'<div class="verdict {look if look != "none" else "warn"}">{body}</div>'


def tiles(run: Any, scores: Scores) -> str:
    """A few large numbers, each score beside what no skill would get."""
    chosen = [name for name in ("r2", "mae", "balanced_accuracy", "f1", "accuracy", "log_loss", "rmse", "auroc") if name in scores][:3] or list(scores)[:2]
    items = []
    for name in chosen:
        score = scores[name]
        value, interval, baseline, told = score.texts()
        look = {"better": "good", "unclear": "bad", "worse": "bad"}.get(score.verdict or "", "")
        items.append(
            f"<li><span>{text(METRIC_NAMES.get(name, name))}</span><b>{text(value)}</b>"
            + (f"<span>95 %: {text(interval)}</span>" if interval else "")
            + (f"<span>no skill: {text(baseline)}</span>" if baseline else "")
            + (f'<span class="tag {look}">{text(short_verdict(told))}</span>' if told else "")
            + "</li>"
        )
    warnings = [finding for finding in run.findings if finding.severity != "note"]
    items.append(
        f"<li><span>epochs</span><b>{len(run.history):,}</b><span>{text(seconds_text(sum(row.get('seconds', 0) for row in run.history)))} of training</span></li>"
    )
    items.append(
        f"<li><span>findings</span><b>{len(warnings)}</b><span>{'no warning' if not warnings else text(', '.join(f.code for f in warnings))}</span></li>"
    )
    return f'<ul class="tiles">{"".join(items)}</ul>'


def short_verdict(told: str) -> str:
    return {"better than no skill": "better", "NOT shown better than no skill": "not shown better", "WORSE than no skill": "worse"}.get(told, told)


def seconds_text(seconds: float) -> str:
    """
    >>> seconds_text(0.25), seconds_text(75.0), seconds_text(7300.0)
    ('0.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


# -- scores -------------------------------------------------------------------------------------------------------------------------------------------------


def scores_section(run: Any, scores: Scores, looks: int, test: Scores | None) -> str:
    parts = [scores_table(scores)]
    if run.splits.test is None:
        parts.append(paragraph("There is no test split: nothing here is a score on rows that no choice was made by."))
    elif test is not None:
        parts += ["<h3>Test rows</h3>", scores_table(test)]
    elif looks:
        parts.append(paragraph(f"The test rows were looked at {counted(looks, 'time')}, but not with these weights, so no score of theirs stands here."))
    else:
        name = run.folder if run.folder is not None else "RUN"
        how = f"fivestep evaluate {name} --split test" if run.folder is not None else 'run.evaluate("test")'
        parts.append(f"<p>The {len(run.splits.test):,} test rows were not looked at. Once all choices are made: <code>{text(how)}</code></p>")
    return "".join(parts)


def scores_table(scores: Scores) -> str:
    rows = []
    any_baseline = any(score.baseline is not None for score in scores.values())
    for score in scores.values():
        value, interval, baseline, told = score.texts()
        look = {"better": "good", "unclear": "bad", "worse": "bad"}.get(score.verdict or "", "")
        better = {True: "higher is better", False: "lower is better"}.get(score.higher_is_better) if score.higher_is_better is not None else ""  # type: ignore[arg-type]
        drawn = ""
        if interval or baseline:
            drawn = strip(f"{value}, interval {interval or 'none'}, no skill {baseline or 'none'}", score.value, score.low, score.high, score.baseline)
        row: list[Any] = [METRIC_NAMES.get(score.name, score.name), Cell(text(value), "n"), Cell(text(interval or "–"), "n")]
        if any_baseline:
            row += [Cell(text(baseline or "–"), "n"), Cell(f'<span class="tag {look}">{text(told)}</span>' if told else ""), Cell(drawn)]
        rows.append([*row, Cell(text(better))])
    heads = ["score", "value", "95 % interval", *(["no skill", "against no skill", "bar: interval, line: no skill"] if any_baseline else []), "note"]
    notes = scores._footnotes()
    return table(scores._headline(), heads, rows) + (paragraph(*notes) if notes else "")


# -- training -----------------------------------------------------------------------------------------------------------------------------------------------


def training_section(run: Any) -> str:
    history = run.history
    if not history:
        return ""
    series = []
    for key, label, colour in (("train_loss", "training", 1), ("val_loss", "validation", 2), ("test_loss", "test (watched, chose nothing)", 3)):
        rows = [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
        if rows:
            series.append(Series(label, [row[0] for row in rows], [row[1] for row in rows], colour))
    best = run.best
    keeps_best = (run.settings.chosen.get("keep") or run.settings.asked.get("keep")) == "best"
    marks = [(float(best["epoch"]), f"kept: epoch {best['epoch']}")] if best and keeps_best else []
    values = [value for one in series for value in one.y if value is not None and math.isfinite(value)]
    log = bool(values) and min(values) > 0 and max(values) / min(values) > 20
    first, last = history[0], history[-1]
    told = f"The training loss went from {number_text(first['train_loss'])} to {number_text(last['train_loss'])}"
    if best and best.get("val_loss") is not None:
        lowest = min((row for row in history if row.get("val_loss") is not None), key=lambda row: row["val_loss"])
        told += f", the validation loss was lowest, {number_text(lowest['val_loss'])}, in epoch {lowest['epoch']}"
        if last.get("val_loss") is not None and last["val_loss"] > 1.1 * lowest["val_loss"] and lowest["epoch"] < last["epoch"]:
            told += f" and rose to {number_text(last['val_loss'])} by the end: what was learned after that epoch does not carry over to new rows"
    drawn = chart(
        f"Learning curves. {told}.", series, x_label="epoch", whole_x=True, y_label="loss" + (" (logarithmic)" if log else ""), log_y=log, marks=marks
    )
    parts = [figure(drawn, told + ".")]
    after = ""
    rates = [(row["epoch"], rate) for row in history for rate in row.get("lr", [])[:1]]
    if rates:
        lrs = [rate for _, rate in rates]
        constant = max(lrs) == min(lrs)
        if constant:
            after = paragraph(f"The learning rate was {number_text(lrs[0])} throughout.")
        else:
            log_rate = min(lrs) > 0 and max(lrs) / min(lrs) > 20
            drawn = chart(
                f"Learning rate from {number_text(lrs[0])} to {number_text(lrs[-1])}.", [Series("lr", [e for e, _ in rates], lrs)],
                x_label="epoch", whole_x=True, y_label="learning rate" + (" (logarithmic)" if log_rate else ""), log_y=log_rate,
            )  # fmt: skip
            parts.append(figure(drawn, f"The learning rate went from {number_text(lrs[0])} to {number_text(lrs[-1])}."))
    known = {"epoch", "step", "train_loss", "val_loss", "test_loss", "lr", "seconds", "best"}
    for name in [str(key) for key in last if key not in known and isinstance(last[key], (int, float))][:4]:
        rows = [(row["epoch"], row[name]) for row in history if isinstance(row.get(name), (int, float))]
        drawn = chart(
            f"{name} on validation rows",
            [Series(name, [e for e, _ in rows], [v for _, v in rows], 2)],
            x_label="epoch",
            whole_x=True,
            y_label=METRIC_NAMES.get(name, name) or name,
            marks=marks,
        )
        parts.append(figure(drawn, f"{METRIC_NAMES.get(name, name)} on validation rows after each epoch."))
    stride = max(1, len(history) // 40)
    heads = ["epoch", "training loss", *(["validation loss"] if any("val_loss" in row for row in history) else []), "learning rate", "seconds"]
    rows = []
    for position, row in enumerate(history):
        if position % stride and row is not last and row is not best:
            continue
        shown = [f"{row['epoch']}{' (kept)' if row is best else ''}", number(row.get("train_loss"))]
        shown += [number(row.get("val_loss"))] if len(heads) == 5 else []
        rows.append([*shown, Cell(", ".join(number_text(rate) for rate in row.get("lr", [])), "n"), number(row.get("seconds"))])
    caption = "Epochs" if stride == 1 else f"Every {stride}th epoch, the kept one and the last; all stand in history.jsonl"
    return f'<div class="grid2">{"".join(parts)}</div>' + after + folded("Losses as a table", table(caption, heads, rows))


# -- where it errs --------------------------------------------------------------------------------------------------------------------------------------------


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
                    x_label=f"predicted {name}", y_label="predicted - actual", level=0.0,
                ),
                f"Errors over the prediction; on average {number_text(bias)}. A slope, a bend or a funnel would be something that the model has not learned.",
            )
        )  # fmt: skip
        low, high = np.percentile(residuals.numpy(), [0.5, 99.5])
        edges = np.linspace(low, high if high > low else low + 1, 31)
        counts = np.histogram(np.clip(residuals.numpy(), edges[0], edges[-1]), edges)[0]
        half, most = (float(residuals.abs().quantile(share)) if len(residuals) < 1_000_000 else math.nan for share in (0.5, 0.9))
        parts.append(
            figure(
                histogram(
                    f"How large errors of {name} are", [("rows", counts.tolist())], edges.tolist(), x_label="predicted - actual", y_label="rows", level=0.0
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
        recalls = matrix.diagonal() / matrix.sum(1).clamp(min=1)
        order = recalls.argsort()[:30].tolist()  # type: ignore[assignment]
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
    told = "can be taken at their word" if outside <= max(1, len(bins) // 10) else f"cannot be taken at their word in {outside} of {len(bins)} bins"
    return figure(drawn, f"Calibration, {bins[0].count:,} rows a bin with 95 % intervals: probabilities {told}. Below the dotted line the model is too sure.")


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


# -- single rows ----------------------------------------------------------------------------------------------------------------------------------------------


def rows_section(run: Any, found: diagnosis.Predicted, measured: Any) -> str:
    at = diagnosis.worst(found, 10)
    kind = run.splits.train.data.kind
    pixels = example_images(run, found)
    names: list[str] = []
    if kind == "table":
        names = [column.name for column in run.splits.columns.inputs]
        if len(names) > 10 and isinstance(measured, diagnosis.Importances):
            names = [row.name for row in measured.rows[:10]]
        names = names[:10]
    rows = []
    for place in at.tolist():
        row = int(found.rows[place])
        told: list[Any] = [Cell(f"{row:,}", "n")]
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
                Cell(text(diagnosis.value_text(value), 40), "long" if isinstance(value, str) else "n")
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


def importance_section(measured: diagnosis.Importances | str) -> str:
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
    return words + table(caption, ["column", "growth", "95 % interval", "drawn", "told"], rows)


def subgroups_section(run: Any, found: diagnosis.Predicted) -> str:
    metric, whole, rows = diagnosis.subgroups(run, found)
    if not rows:
        return ""
    shown = []
    first = min([row.score.low if row.score.low is not None else row.score.value for row in rows])
    last = max([row.score.high if row.score.high is not None else row.score.value for row in rows])
    first = min(first, 0.0) if metric == "mae" else first
    for row in rows[:60]:
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


# -- data ---------------------------------------------------------------------------------------------------------------------------------------------------


def data_section(run: Any) -> str:
    splits = run.splits
    parts = [part for part in (splits.train, splits.val, splits.test) if part is not None]
    total = sum(map(len, parts))
    how = split_words(splits)
    rows = [[SPLIT_NAMES[part.name], Cell(f"{len(part):,}", "n"), Cell(f"{len(part) / total:.1%}", "n"), part.data.origin] for part in parts]
    shown = table(f"Rows. {how}".rstrip("."), ["split", "rows", "share", "from"], rows) + class_shares(run)
    if splits.columns is None:
        shape = getattr(getattr(splits.train.data.source, "inputs", None), "shape", None)
        return shown + (paragraph(f"Inputs have the shape {tuple(shape)}, rows first.") if shape is not None else "")
    drifts = diagnosis.drift(splits)
    by_name: dict[str, list[diagnosis.ColumnDrift]] = {}
    for one in drifts:
        by_name.setdefault(one.name, []).append(one)
    lines = []
    described_columns = splits.columns.describe().lines
    for line in described_columns[:MOST_COLUMNS]:
        found = by_name.get(line.name, [])
        sketches = "".join(
            f'<div class="pair"><span>{text(SPLIT_NAMES[one.split])}</span>{spark(f"{line.name} in training (filled) and {SPLIT_NAMES[one.split]} rows", *one.histograms, colour=2 if one.split == "val" else 3)}</div>'
            for one in found
        )
        differing = [one for one in found if one.differs]
        told = "; ".join(
            f"{SPLIT_NAMES[one.split]} differs by {one.distance:.2f}: {one.told[0]} in training, {one.told[1]} there"
            if one.told[0]
            else f"{SPLIT_NAMES[one.split]} differs by {one.distance:.2f}"
            for one in differing
        )
        lines.append([
            line.name, line.kind, Cell(text(line.use), "long"), Cell(f"{line.num_missing:,}" if line.num_missing else "0", "n"), Cell(text(", ".join(map(str, line.examples)), 60), "long"),
            Cell(sketches), Cell(f'<span class="tag warn">differs</span> {text(told)}' if differing else ("alike" if found else ""), "long"),
        ])  # fmt: skip
    differing_names = sorted({one.name for one in drifts if one.differs})
    words = (
        paragraph(
            f"{counted(len(differing_names), 'column')} {'is' if len(differing_names) == 1 else 'are'} distributed otherwise than in training: {', '.join(differing_names[:8])}. "
            "A score on such rows is a score on another kind of rows."
        )
        if differing_names
        else paragraph("No column is distributed otherwise in the other splits than in training, beyond chance.")
    )
    caption = "Columns and how each is read; training rows are filled, the other split is the line. Targets of test rows are not looked at"
    if len(described_columns) > MOST_COLUMNS:
        caption += f". The first {MOST_COLUMNS} of {len(described_columns):,}"
    return shown + words + table(caption, ["column", "kind", "use", "missing in training", "examples", "in the other splits", "against training"], lines)


def class_shares(run: Any) -> str:
    """How often each class stands in training and validation rows."""
    task = run._predictor.decoding.task
    if task not in ("binary", "multiclass"):
        return ""
    counts = {}
    for name in ("train", "val"):
        targets = run._targets(name) if name in run._encoded else None
        if isinstance(targets, Tensor) and targets.numel() == len(targets):
            labels = targets.long().flatten()
            counts[name] = torch.bincount(labels[labels >= 0])
    if not counts:
        return ""
    width = max(len(each) for each in counts.values())
    names = list(map(str, run.classes or range(width)))
    if len(names) > 30 or len(names) < width:
        return ""
    rows = []
    for label, name in enumerate(names):
        row: list[Any] = [name]
        for each in counts.values():
            count = int(each[label]) if label < len(each) else 0
            row += [Cell(f"{count:,}", "n"), Cell(f"{count / max(1, int(each.sum())):.1%}", "n")]
        rows.append(row)
    heads = ["class", *(title for name in counts for title in (f"{SPLIT_NAMES[name]} rows", "share"))]
    return table("Classes of the target", heads, rows)


def split_words(splits: Any) -> str:
    """How the split was made, in a sentence."""
    options = splits.options
    if options.get("given"):
        return "The data came already split" + (", or validation rows were drawn from the training data" if splits.val is not None else "") + "."
    method = getattr(getattr(splits.how, "how", None), "method", "")
    column = next((str(options[key]) for key in ("group", "time", "stratify", "column") if isinstance(options.get(key), str)), "")
    told = {
        "random": f"Drawn at random with seed {options.get('seed')}.",
        "stratified": f"Drawn with equal shares of each class, seed {options.get('seed')}.",
        "groups": f"No group{f' of {column}' if column else ''} stands on two sides.",
        "time": f"In order of time{f' ({column})' if column else ''}: the latest rows are the last split.",
        "file order": "In the order of the file.",
        "indices": "By given row numbers.",
        "column": f"By the column {column}.",
        "splitter": "By a splitter of scikit-learn's.",
    }
    return told.get(method, "")


def findings_section(findings: Sequence[Any]) -> str:
    if not findings:
        return paragraph("Nothing was found. What is looked for stands in docs/findings.md; a rule tells what it means by: fivestep explain CODE.")
    order = {"error": 0, "warning": 1, "note": 2}
    parts = []
    for finding in sorted(findings, key=lambda one: order.get(one.severity, 3)):
        accept = f' To accept it: <code>ignore=["{text(finding.code)}"]</code>.' if finding.severity != "note" else ""
        body = f"<p><strong>{text(finding.code)} {text(finding.severity)}: {text(finding.name)}</strong></p><p>{text(finding.what, 1500)}</p>"
        body += f"<p><b>Costs:</b> {text(finding.cause, 1500)}</p>" if finding.cause else ""
        body += f"<p><b>Fix:</b> {text(finding.fix, 1500)}{accept}</p>" if finding.fix else ""
        parts.append(f'<div class="finding {text(finding.severity)}">{body}</div>')
    return "".join(parts)


# -- record -------------------------------------------------------------------------------------------------------------------------------------------------


def settings_section(run: Any) -> str:
    settings = run.settings
    rows = [[name, Cell(text(shortly(value), 400), "long"), "asked for"] for name, value in settings.asked.items() if name not in ("folder", "name")]
    rows += [[name, Cell(text(shortly(value), 400), "long"), 'picked by "auto"'] for name, value in settings.chosen.items()]
    shown = (
        table("Settings of fit; those not named stand at their defaults", ["setting", "value", "from"], rows)
        if rows
        else paragraph("All settings stand at their defaults.")
    )
    environment = runs.read(run.folder, "environment.json", {}) if run.folder is not None else {}
    environment = environment or runs.environment(run._predictor.device)
    facts = [[name, Cell(text(" ".join(map(str, value)) if isinstance(value, list) else value, 200), "long")] for name, value in environment.items()]
    facts += [
        ["data and split, SHA-256", Cell(f"<code>{text(run.splits.fingerprint)}</code>", "long")],
        ["weights, SHA-256", Cell(f"<code>{text(run.weights_sha256)}</code>", "long")],
    ]
    try:
        from fivestep.model.summary import describe

        source = run._encoded["train"]
        summary = describe(run.model, source.take(torch.arange(min(2, len(source))))[0])
        layers = [
            [layer.name, layer.type, layer.output_shape or "–", Cell("–" if layer.parameters is None else f"{layer.parameters:,}", "n"), layer.trainable or "–"]
            for layer in summary.layers[:80]
        ]
        model = folded(
            "The model, layer by layer",
            table(f"{summary.name}: {summary._totals()[0]}", ["layer", "type", "output for 2 rows", "parameters", "trained"], layers),
        )
    except Exception as error:  # a user's module may refuse anything; the report is worth more than its layers
        model = paragraph(f"The model's layers could not be listed: {type(error).__name__}: {error}")
    return shown + model + "<h3>What the bits depend on</h3>" + table("Versions, machine and data", ["what", "value"], facts)


def shortly(value: Any) -> str:
    """A setting as it was typed: an imported class by its name, a text without quotes."""
    if isinstance(value, dict) and set(value) == {"import"}:
        return str(value["import"]).replace(":", ".")
    if isinstance(value, dict) and {"class", "arguments"} <= set(value):
        arguments = ", ".join(f"{name}={part!r}" for name, part in value["arguments"].items())
        return f"{value['class']}({arguments})" + (f" for {value['parameters']}" if value.get("parameters") not in (None, "all") else "")
    return value if isinstance(value, str) else repr(value)


def again_section(run: Any) -> str:
    folder = run.folder
    parts = []
    if folder is not None:
        artifact = f"{folder}/model.fivestep"
        own = own_model(run._recipe)
        given = "" if run._recipe.get("kind") == "built-in" else f", model={type(run.model).__name__}"
        commands = []
        source = run.splits.train.data.origin
        if run.splits.train.data.kind in ("table", "images") and Path(source).exists() and not run.splits.options.get("given"):
            commands += ["# the same run again, from its record", f"fivestep fit {quoted(source)} --config {quoted(f'{folder}/settings.json')}"]
        if run.splits.test is not None:
            commands += ["# the test rows, once, at the end", f"fivestep evaluate {quoted(folder)} --split test{own}"]
        if run.splits.columns is not None:
            commands += ["# predict new rows", f"fivestep predict {quoted(folder)} NEW.csv -o out.csv{own}"]
        if commands:
            parts += ["<h3>In the shell</h3>", code(*commands)]
        parts += ["<h3>In plain PyTorch</h3>", plain_pytorch(run, artifact)]
        parts += [
            "<h3>In Python</h3>",
            code(
                "import fivestep as fs",
                f"model = fs.load({artifact!r}{given})",
                "model.predict(new_rows)",
            ),
        ]
    else:
        parts.append(paragraph("This run was made with folder=None, so nothing of it lies on the disk. run.save(path) keeps the model."))
    script = ejected(run)
    if script:
        parts += ["<h3>The whole training as a script</h3>", paragraph("Plain PyTorch, without fivestep:"), folded("train.py", code(*script.splitlines()))]
    return "".join(parts)


def plain_pytorch(run: Any, artifact: str) -> str:
    """The two lines that load the weights into a module of the user's, without fivestep."""
    name = type(run.model).__name__
    weights = f"{artifact}/weights.safetensors"
    if not run.can_predict:
        weights = f"{run.folder}/weights.safetensors"
    load = f"model.load_state_dict(load_file({weights!r}))"
    if run._predictor.head is not None:
        load = f"model.load_state_dict({{k: v for k, v in load_file({weights!r}).items() if not k.startswith('loss:')}})"
    before = f"# model = {name}(...), built as for training"
    if run._recipe.get("kind") == "built-in":
        before = f"# model: the {name} of fivestep.model.models, or of the script that `fivestep eject` writes"
    told = "Weights alone; inputs must be encoded as in training." if run.splits.columns is not None else ""
    return code(before, "from safetensors.torch import load_file", load) + (paragraph(told) if told else "")


def own_model(recipe: dict[str, Any]) -> str:
    """` --model FILE:CLASS` where the shell needs it."""
    if recipe.get("kind") != "built-in" and recipe.get("file") and recipe.get("qualname"):
        return f" --model {recipe['file']}:{recipe['qualname']}"
    return ""


def quoted(value: Any) -> str:
    import shlex

    return shlex.quote(str(value))


def ejected(run: Any) -> str:
    """The training as a plain PyTorch script, where this run can be written as one; "" where it cannot."""
    eject = getattr(run, "eject", None)
    if eject is None:
        return ""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        try:
            eject(Path(folder) / "train.py")
        except FivestepError as error:
            return f"# This run cannot be written as a script: {error}"
        return (Path(folder) / "train.py").read_text()
