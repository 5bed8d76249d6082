"""Pictures of a sweep as matplotlib figures: score against learning rate, all factors side by side, score against time, scores of folds."""

from __future__ import annotations

import math
from typing import Any

from fivestep.errors import UsageError
from fivestep.figures import BLUE, GREY, ORANGE, figure


def plot_sweep(sweep: Any, kind: str) -> Any:
    """`sweep` has `changes` (settings of each variant), `comparison.rows`, `trials`, `metric`. "auto" picks folds, lr (where only it was varied) or parallel."""
    kinds = {"lr": plot_lr, "parallel": plot_parallel, "time": plot_time, "folds": plot_folds}
    if kind == "auto":
        factors = list(dict.fromkeys(name for change in sweep.changes for name in change))
        kind = "folds" if sweep.kind == "cross-validation" else "lr" if factors == ["lr"] else "parallel" if factors else "time"
    if kind not in kinds:
        raise UsageError(f"plot({kind!r}) is not known. Use 'auto', {', '.join(map(repr, kinds))}.")
    return kinds[kind](sweep)


def plot_lr(sweep: Any) -> Any:
    """Score over learning rate, each variant's mean with its interval; variants that differ in more than the rate are joined where the rest is equal."""
    made, axes = figure()
    lines: dict[str, list[tuple[float, Any]]] = {}
    for row in sweep.comparison.rows:
        change = sweep.changes[row.facts["variant"]]
        if isinstance(change.get("lr"), (int, float)):
            rest = ", ".join(f"{name}={value}" for name, value in change.items() if name != "lr")
            lines.setdefault(rest, []).append((change["lr"], row))
    if not lines:
        raise UsageError("plot('lr') shows scores over learning rates, and lr was not varied. Use plot('parallel').")
    for place, (rest, points) in enumerate(lines.items()):
        beside = 1.04 ** (place - (len(lines) - 1) / 2)  # intervals at the same rate stand side by side, not over each other
        points = sorted(((lr, row) for lr, row in points if math.isfinite(row.score.value)), key=lambda point: point[0])
        values = [row.score.value for _, row in points]
        below = [max(0.0, row.score.value - row.score.low) if row.score.low is not None else 0.0 for _, row in points]
        above = [max(0.0, row.score.high - row.score.value) if row.score.high is not None else 0.0 for _, row in points]
        axes.errorbar([lr * beside for lr, _ in points], values, yerr=[below, above], marker="o", capsize=2, label=rest or None)
    axes.set(xscale="log", xlabel="learning rate", ylabel=f"validation {sweep.metric} (95 % interval)")
    if any(lines):
        axes.legend()
    return made


def plot_parallel(sweep: Any) -> Any:
    """One line for each variant through the values of all factors to its score; the best is drawn over the others."""
    made, axes = figure()
    factors = list(dict.fromkeys(name for change in sweep.changes for name in change))
    rows = [row for row in sweep.comparison.rows if math.isfinite(row.score.value)]
    columns = [[sweep.changes[row.facts["variant"]].get(name) for row in rows] for name in factors] + [[row.score.value for row in rows]]
    places = [places_of(column) for column in columns]
    for position in reversed(range(len(rows))):
        best = position == 0
        heights = [column[position] for column in places]
        axes.plot(range(len(places)), heights, color=ORANGE if best else BLUE, linewidth=2.5 if best else 1, alpha=1.0 if best else 0.35)
    for place, column in enumerate(columns):
        axes.axvline(place, color=GREY, linewidth=0.5)
        for value, height in (
            {str(value): (value, height) for value, height in zip(column, places[place])}.values() if place < len(factors) else ends(column, places[place])
        ):
            axes.annotate(f"{value:.3g}" if isinstance(value, float) else str(value), (place, height), fontsize=8, xytext=(4, 2), textcoords="offset points")
    axes.set_xticks(range(len(columns)), [*factors, f"validation {sweep.metric}"])
    axes.set(ylabel="each axis from its least to its most")
    axes.set_yticks([])  # each axis has its own values beside it
    axes.margins(x=0.08)
    return made


def ends(values: list[Any], heights: list[float]) -> list[tuple[Any, float]]:
    """The least and the most of an axis, with their heights."""
    pairs = sorted(zip(values, heights), key=lambda pair: pair[1])
    return [pairs[0], pairs[-1]]


def places_of(values: list[Any]) -> list[float]:
    """Values as heights from 0 to 1: numbers by size (by logarithm where they span two decades), anything else by order."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in values):
        numbers = [float(value) for value in values]
        if min(numbers) > 0 and max(numbers) >= 100 * min(numbers):
            numbers = [math.log(value) for value in numbers]
    else:
        names = list(dict.fromkeys(map(str, values)))
        numbers = [float(names.index(str(value))) for value in values]
    low, high = min(numbers), max(numbers)
    return [0.5 if high == low else (value - low) / (high - low) for value in numbers]


def plot_time(sweep: Any) -> Any:
    """Score over seconds; the variants that no other beats in both are joined (the Pareto front)."""
    from fivestep.results.comparing import pareto

    made, axes = figure()
    rows = [row for row in sweep.comparison.rows if math.isfinite(row.score.value)]
    seconds, scores = [row.facts["seconds"] for row in rows], [row.score.value for row in rows]
    axes.scatter(seconds, scores, color=BLUE, s=14)
    front = sorted((second, score) for second, score, on in zip(seconds, scores, pareto(scores, seconds, higher_is_better=sweep.higher_is_better)) if on)
    axes.plot(*zip(*front), color=ORANGE, label="none is better and faster")
    axes.set(xlabel="seconds", ylabel=f"validation {sweep.metric}")
    axes.legend()
    return made


def plot_folds(sweep: Any) -> Any:
    """The score of each fold, and their mean."""
    made, axes = figure()
    trials = [trial for trial in sweep.trials if trial.value is not None]
    axes.scatter([trial.fold for trial in trials], [trial.value for trial in trials], color=BLUE)
    axes.axhline(sum(trial.value for trial in trials) / len(trials), color=ORANGE, label="mean")
    axes.set(xlabel="fold", ylabel=sweep.metric)
    axes.legend()
    return made
