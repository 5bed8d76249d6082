"""What a report says first: whether the model is any good, in words, in a few large numbers, and in the table of its scores.

Enters: a `Run` and its `Scores`. Leaves: HTML. The decision that shaped it: a score is never shown without what no skill would get, and where one class holds
most rows it is said what accuracy hides.
"""

from __future__ import annotations

from typing import Any

import torch

from fivestep.model.scores import Scores
from fivestep.results import diagnosis
from fivestep.results.company import TELLS, Company
from fivestep.results.figures_svg import strip
from fivestep.results.page import Cell, number, number_text, paragraph, table, text

METRIC_NAMES = {
    "loss": "loss", "rmse": "RMSE", "mae": "mean absolute error", "r2": "R²", "log_loss": "log loss", "accuracy": "accuracy", "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy", "f1": "F1", "ece": "calibration error",
}  # fmt: skip
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test", "data": "given"}


def verdict(run: Any, scores: Scores, found: diagnosis.Predicted | None, looks: int, company: Company | None = None) -> str:
    """The first thing on the page: what was done, and whether it is any good."""
    look, told = skill(scores)
    beaten = ""
    if company is not None and company.better:
        best = company.better[0]
        look = "warn" if look == "good" else look
        beaten = (
            f"On the same rows the {best.name}, trained in {best.seconds:.1f} s, came out ahead: {company.measure} {number_text(best.error)} against "
            f"{number_text(company.ours)}. Use what does better, or find out what it sees."
        )
    hidden = imbalance(scores, found)
    if hidden and look == "good":
        look = "warn" if "finds 0 of" not in hidden else "bad"
    on = f"On {counted(scores.num_rows, f'{SPLIT_NAMES.get(scores.split, scores.split)} row')}: "
    caution = ""
    if scores.split == "train" and look == "good":
        look = "warn"
    if scores.split == "train":
        caution = "There are no validation rows: these are scores on the rows that the model was trained on, which every model looks too good on."
    elif run.splits.test is not None and not looks:
        chose = "Validation rows chose the epoch, so their scores are a little too hopeful. " if keeps_best(run) else ""
        caution = f"{chose}The test rows are untouched: score them once, at the end."
    elif run.splits.test is not None:
        caution = f"The test rows have been looked at {'once' if looks == 1 else f'{looks:,} times'}; each further look makes their score too hopeful."
    mark = {"good": "✓ ", "warn": "! ", "bad": "✗ "}.get(look, "")
    body = (
        paragraph(*what_was_done(run))
        + f"<p><strong>{mark}{text(on + told[:1].lower() + told[1:], 900)}</strong></p>"
        + (paragraph(beaten) if beaten else "")
        + (paragraph(hidden) if hidden else "")
        + (paragraph(caution) if caution else "")
    )
    return f'<div class="verdict {look if look != "none" else "warn"}">{body}</div>'


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
        told = f"{counted(len(run.history), 'epoch')} {'was' if len(run.history) == 1 else 'were'} run"
        if keeps_best(run) and best.get("val_loss") is not None:
            told += f"; the weights of epoch {best['epoch']} are kept, the best on validation rows"
            if best["epoch"] == len(run.history) and len(run.history) > 1:
                told += " and the last one, so more epochs may do better"
        else:
            told += "; the last weights are kept"
        done.append(told + ".")
    return done


def keeps_best(run: Any) -> bool:
    """Whether the weights of the best epoch were kept, not those of the last."""
    return (run.settings.chosen.get("keep") or run.settings.asked.get("keep")) == "best"


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
    if not rest:
        return f"All of these rows are of class {found.classes[most]!r}: whether the model tells classes apart cannot be seen on them."
    hits = int(matrix.diagonal().sum() - matrix[most, most])
    others = [name for position, name in enumerate(found.classes) if position != most]
    of_rest = f"class {others[0]!r}" if len(others) == 1 else "the other classes"
    accuracy = float(matrix.diagonal().sum()) / len(found)
    found_told = f"finds {hits:,} of the {counted(rest, 'row')} of {of_rest} ({hits / rest:.0%})"
    return (
        f"Accuracy says little here: {share:.1%} of these rows are of class {found.classes[most]!r}, so always answering {found.classes[most]!r} is right in {share:.1%} "
        f"and finds nothing. This model is right in {accuracy:.1%} and {found_told}. Judge it by balanced accuracy, precision and recall."
    )


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
    told = text(", ".join(finding.code for finding in warnings)) if warnings else "checks were off" if unchecked(run) else "no warning"
    items.append(f"<li><span>findings</span><b>{len(warnings)}</b><span>{told}</span></li>")
    return f'<ul class="tiles">{"".join(items)}</ul>'


def scores_section(run: Any, scores: Scores, looks: int, test: Scores | None, company: Company | None = None) -> str:
    parts = [scores_table(scores), *([company_table(company)] if company is not None else [])]
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


def company_table(company: Company) -> str:
    """Ours, no skill and the companions by one error, the lowest first."""
    rows = []
    for name, error, one in company.rows():
        look = {"better": "bad", "worse": "good"}.get(one.verdict) if one else None
        told = "" if one is None else f'<span class="tag {look}">{TELLS[one.verdict]}</span>' if look else TELLS[one.verdict]
        rows.append([name, number(error), Cell(told), "; ".join(filter(None, (f"{one.seconds:.1f} s", one.note))) if one else ""])
    caption = f"In company: other models of the same rows and columns, {SPLIT_NAMES[company.split]} rows, lowest {company.measure} first"
    return table(caption, ["model", company.measure, "against this model", "trained in"], rows)


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
    return table(scores._headline(), heads, rows) + "".join(paragraph(note if note.endswith(".") else f"{note}.") for note in notes)


def unchecked(run: Any) -> bool:
    return run.settings.asked.get("checks") is False


def short_verdict(told: str) -> str:
    return {"better than no skill": "better", "NOT shown better than no skill": "not shown better", "WORSE than no skill": "worse"}.get(told, told)


def counted(count: int, one: str, many: str | None = None) -> str:
    """
    >>> counted(1, "epoch"), counted(2000, "row")
    ('1 epoch', '2,000 rows')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def article(name: str) -> str:
    """
    >>> article("MLP"), article("Ensemble"), article("Net")
    ('An MLP', 'An Ensemble', 'A Net')
    """
    aloud = name[0] in "AEFHILMNORSX" if name[:2].isupper() else name[0].upper() in "AEIO"
    return f"{'An' if aloud else 'A'} {name}"


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
