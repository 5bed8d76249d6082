"""The report of a sweep or a cross-validation: the comparison's page, with what helped, score against rate and time, and every training below.

Enters: a `Sweep`. Leaves: HTML text, complete in itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fivestep.experiments import variants
from fivestep.results import comparison_report
from fivestep.results.comparing import pareto
from fivestep.results.figures_svg import Series, chart
from fivestep.results.page import Cell, figure, folded, number, number_text, table, text

MOST_TRAININGS = 1_000


def render(sweep: Any, name: str) -> str:
    """The report as HTML text."""
    sections = [
        ("effects", "What helped", effects(sweep)),
        ("pictures", "Rate and time", f'<div class="grid2">{over_rate(sweep)}{over_time(sweep)}</div>' if sweep.kind == "sweep" else folds(sweep)),
        ("plan", "How they were trained", plan(sweep)),
        ("trainings", "Every training", folded("As a table", trainings(sweep))),
    ]
    return comparison_report.render(sweep.comparison, title=name, sections=sections)


def effects(sweep: Any) -> str:
    rows = []
    for one in sweep.effects:
        difference = one.difference
        rows.append([
            f"{one.factor} = {variants.shown(one.level)}", number(one.mean), Cell("" if difference is None else text(number_text(difference.value)), "n"),
            Cell("" if difference is None else text(comparison_report.interval(difference)), "n"), one.verdict, number(one.num_variants),
        ])  # fmt: skip
    heads = ["setting", f"mean {sweep.metric}", "to the best value", "corrected interval", "", "variants"]
    return table("Each value averaged over matched combinations of the others", heads, rows) if rows else ""


def over_rate(sweep: Any) -> str:
    points = [(sweep.changes[row.facts["variant"]].get("lr"), row.score) for row in sweep.comparison.rows]
    points = sorted(((lr, score) for lr, score in points if isinstance(lr, (int, float)) and lr > 0 and math.isfinite(score.value)), key=lambda one: one[0])
    if len(points) < 2:
        return ""
    low = [score.value if score.low is None else score.low for _, score in points]
    high = [score.value if score.high is None else score.high for _, score in points]
    series = Series("score", [math.log10(lr) for lr, _ in points], [score.value for _, score in points], points=True, low=low, high=high)
    drawn = chart(
        f"{sweep.metric} over learning rates", [series], x_label="log10 of the learning rate", y_label=f"validation {sweep.metric}", x_range=padded(series.x)
    )
    return figure(drawn, "Each variant with its 95 % interval.")


def over_time(sweep: Any) -> str:
    rows = [row for row in sweep.comparison.rows if math.isfinite(row.score.value)]
    if not rows:
        return ""
    scores, seconds = [row.score.value for row in rows], [row.facts["seconds"] for row in rows]
    front = sorted((x, y) for x, y, on in zip(seconds, scores, pareto(scores, seconds, higher_is_better=sweep.higher_is_better)) if on)
    series = [Series("variants", seconds, scores, points=True), Series("none is better and faster", [x for x, _ in front], [y for _, y in front], 2)]
    drawn = chart(f"{sweep.metric} over seconds", series, x_label="seconds", y_label=f"validation {sweep.metric}", x_range=padded(seconds))
    return figure(drawn, "Score against time; of the variants on the line none is at once better and faster than another.")


def padded(values: Sequence[float]) -> tuple[float, float]:
    """The range with room at both ends, so that no point lies on the frame."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return low - room, high + room


def folds(sweep: Any) -> str:
    there = [trial for trial in sweep.trials if trial.value is not None]
    series = [Series("folds", [trial.fold for trial in there], [trial.value for trial in there], points=True)]
    return figure(
        chart("Score of each fold", series, x_label="fold", y_label=sweep.metric, whole_x=True), "Each fold was scored on rows its model has not seen."
    )


def plan(sweep: Any) -> str:
    return f"<ul>{''.join(f'<li>{text(sweep.told_group(group), 600)}</li>' for group in sweep.plan)}</ul>" if sweep.plan else ""


def trainings(sweep: Any) -> str:
    rows = [
        [variants.label(sweep.changes[trial.variant]), number(trial.seed), *([number(trial.fold)] if trial.fold is not None else []), number(trial.value),
         number(trial.epochs), number(trial.seconds), trial.how, trial.status]
        for trial in sweep.trials[:MOST_TRAININGS]
    ]  # fmt: skip
    fold = ["fold"] if sweep.kind == "cross-validation" else []
    more = f"; {len(sweep.trials) - MOST_TRAININGS:,} more in .trials" if len(sweep.trials) > MOST_TRAININGS else ""
    return table(f"Trainings{more}", ["variant", "seed", *fold, sweep.metric, "epochs", "seconds", "how", "status"], rows)
