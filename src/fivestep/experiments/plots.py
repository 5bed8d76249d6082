"""Pictures of a sweep as matplotlib figures: score against learning rate, all factors side by side, score against time, scores of folds.

Enters: a `Sweep`. Leaves: a `Figure`. All scores are those of validation rows. The decision that shaped it: an axis is logarithmic where its values lie more evenly so
(factors), or where the largest score or time is 20 times the least, as in the pictures of a run.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from fivestep.errors import UsageError
from fivestep.experiments.variants import label, shown
from fivestep.figures import BLUE, COLOURS, GREY, LINES, ORANGE, figure, literal
from fivestep.results.comparing import pareto

MARKERS = ("o", "s", "^", "D", "v", "P")
MOST_NAMED = 12  # lines or points that are told apart by name; a longer legend than this is not read
MOST_VALUES = 8  # values that are written beside an axis without covering each other
LOG_FROM = 20  # times the least


def plot_sweep(sweep: Any, kind: str) -> Any:
    """`sweep` has `changes` (settings of each variant), `comparison.rows`, `trials`, `metric`. "auto" picks folds, lr (where only it was varied) or parallel."""
    kinds = {"lr": plot_lr, "parallel": plot_parallel, "time": plot_time, "folds": plot_folds}
    if kind == "auto":
        factors = list(dict.fromkeys(name for change in sweep.changes for name in change))
        kind = "folds" if sweep.kind == "cross-validation" else "lr" if factors == ["lr"] else "parallel" if factors else "time"
    if kind not in kinds:
        raise UsageError(f"plot({kind!r}) is not known. Use 'auto', {', '.join(map(repr, kinds))}.")
    return kinds[kind](sweep)


def told_score(sweep: Any) -> str:
    return f"validation {literal(sweep.metric)} ({'higher' if sweep.higher_is_better else 'lower'} is better)"


def scored(sweep: Any) -> list[Any]:
    """The rows of the comparison that have a score, best first."""
    return [row for row in sweep.comparison.rows if math.isfinite(row.score.value)]


# -- score against learning rate -------------------------------------------------------------------------------------------------------------------------------


def plot_lr(sweep: Any) -> Any:
    """Score over learning rate, each variant's mean with its interval; variants that differ in more than the rate are joined where the rest is equal, the lines in
    the order of their best."""
    lines: dict[str, list[tuple[float, Any]]] = {}
    for row in scored(sweep):
        change = sweep.changes[row.facts["variant"]]
        if isinstance(change.get("lr"), (int, float)):
            rest = {name: value for name, value in change.items() if name != "lr"}
            lines.setdefault(label(rest) if rest else "", []).append((change["lr"], row))
    if not lines:
        raise UsageError("plot('lr') shows scores over learning rates, and lr was not varied. Use plot('parallel').")
    joined = any(len(points) > 1 for points in lines.values())
    if not joined:  # drawn at random: no two differ in the rate alone
        lines = {"": [point for points in lines.values() for point in points]}
    made, axes = figure()
    for place, (rest, points) in enumerate(lines.items()):
        beside = 1.04 ** (place - (len(lines) - 1) / 2) if len(lines) <= MOST_NAMED else 1.0  # intervals at one rate stand side by side, not over each other
        points = sorted(points, key=lambda point: point[0])
        values = [row.score.value for _, row in points]
        below = [max(0.0, row.score.value - row.score.low) if row.score.low is not None else 0.0 for _, row in points]
        above = [max(0.0, row.score.high - row.score.value) if row.score.high is not None else 0.0 for _, row in points]
        named = place < MOST_NAMED
        told = wrapped(rest) if named else f"{len(lines) - MOST_NAMED} more" if place == MOST_NAMED else None
        look = {"color": COLOURS[place % 6], "linestyle": LINES[(place + place // 6) % 6] if joined else "", "marker": MARKERS[place % 6], "markersize": 5} if named else {
            "color": GREY, "alpha": 0.4, "linewidth": 0.8}  # fmt: skip
        bars = axes.errorbar([lr * beside for lr, _ in points], values, yerr=[below, above], capsize=2, label=told or None, zorder=3 if named else 2, **look)
        for bar in bars[2]:
            bar.set_linestyle("-")
    axes.set(
        xscale="log", xlabel="learning rate", ylabel=f"{told_score(sweep)}\nwith 95 % interval", yscale=score_scale([row.score.value for row in scored(sweep)])
    )
    rates = sorted({lr for points in lines.values() for lr, _ in points})
    if len(rates) <= MOST_VALUES:
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.minorticks_off()
        axes.tick_params(axis="y", which="minor", left=True)
    if any(lines):
        with_legend(made, ncols=1 if max(map(len, lines)) > 40 else 2)
    return made


def score_scale(scores: Sequence[float]) -> str:
    return "log" if min(scores) > 0 and max(scores) > LOG_FROM * min(scores) else "linear"


def wrapped(name: str) -> str:
    """A variant's name in lines that a legend has room for."""
    return literal("\n".join(textwrap.wrap(name, 75, break_on_hyphens=False)))


def with_legend(made: Any, *, ncols: int = 1, **options: Any) -> None:
    """A legend below the axes, for which the picture grows."""
    legend = made.legend(loc="outside lower left", fontsize=8, ncols=ncols, **options)
    width, height = made.get_size_inches()
    lines = sum(told.get_text().count("\n") + 1 for told in [*legend.get_texts(), legend.get_title()])
    made.set_size_inches(width, height + 0.16 * -(-lines // ncols))


# -- all factors -----------------------------------------------------------------------------------------------------------------------------------------------


def plot_parallel(sweep: Any) -> Any:
    """One line for each variant through the values of all factors to its score, the better the darker; the best is drawn over the others."""
    factors = list(dict.fromkeys(name for change in sweep.changes for name in change))
    rows = scored(sweep)
    variants = [row.facts["variant"] for row in rows]
    scores = [row.score.value for row in rows]
    places = [factor_heights([change.get(name) for change in sweep.changes]) for name in factors]
    columns = [[heights[v] for v in variants] for heights in places] + [heights_of(scores, log=score_scale(scores) == "log")]
    made, axes = figure()
    made.set_size_inches(max(6.4, 1.5 * len(columns)), 4.2)
    for position in reversed(range(len(rows))):
        best = position == 0
        dark = 1 - position / len(rows)
        heights = [column[position] for column in columns]
        axes.plot(range(len(columns)), heights, color=ORANGE if best else BLUE, linewidth=2.5 if best else 1, alpha=1.0 if best else 0.15 + 0.6 * dark,
                  label="the best" if best else f"the other {len(rows) - 1}, the better the darker" if position == 1 else None)  # fmt: skip
    for place, name in enumerate(factors):
        axis_values(axes, place, [(sweep.changes[v].get(name), height) for v, height in zip(range(len(sweep.changes)), places[place])])
    last = sorted(zip(scores, columns[-1]), key=lambda pair: pair[1])
    axis_values(axes, len(factors), [last[0], last[-1]])
    axes.set_xticks(range(len(columns)), [*(folded(name) for name in factors), f"validation\n{literal(sweep.metric)}"])
    axes.set(
        ylabel=f"each axis from its least to its most\n({'higher' if sweep.higher_is_better else 'lower'} {literal(sweep.metric)} is better)",
        xlim=(-0.15, len(columns) - 0.45),
    )
    axes.set_yticks([])  # each axis has its own values beside it
    made.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, reverse=True)
    return made


def axis_values(axes: Any, place: int, pairs: Sequence[tuple[Any, float]]) -> None:
    """An axis and its values beside it: all of a few, else the least and the most."""
    axes.axvline(place, color=GREY, linewidth=0.5)
    beside = sorted({shown(f"{value:.3g}" if isinstance(value, float) else value): height for value, height in pairs}.items(), key=lambda pair: pair[1])
    for told, height in beside if len(beside) <= MOST_VALUES else [beside[0], beside[-1]]:
        axes.annotate(literal(told if len(told) <= 18 else told[:17] + "…"), (place, height), fontsize=8, xytext=(5, 0), textcoords="offset points", va="center",
                      bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}, zorder=5)  # fmt: skip


def folded(name: str) -> str:
    """A long name of a setting in two lines: `optimizer.` over `weight_decay`."""
    return literal(name.replace(".", ".\n", 1) if len(name) > 10 else name)


def factor_heights(values: Sequence[Any]) -> list[float]:
    """Values as heights from 0 to 1: numbers by size, on the scale on which they lie more evenly; anything else in the order in which it was given."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in values):
        numbers = [float(value) for value in values]
        distinct = sorted(set(numbers))
        return heights_of(numbers, log=distinct[0] > 0 and unevenness([math.log(value) for value in distinct]) < 0.9 * unevenness(distinct))
    names = list(dict.fromkeys(map(shown, values)))
    return heights_of([float(names.index(shown(value))) for value in values])


def unevenness(ascending: Sequence[float]) -> float:
    """How far values lie from evenly spaced ones between the same ends, at most, as a share of the range."""
    span = ascending[-1] - ascending[0]
    return max((abs((value - ascending[0]) / span - place / (len(ascending) - 1)) for place, value in enumerate(ascending)), default=0.0) if span else 0.0


def heights_of(values: Sequence[float], *, log: bool = False) -> list[float]:
    numbers = [math.log(value) for value in values] if log else values
    low, high = min(numbers), max(numbers)
    return [0.5 if high == low else (value - low) / (high - low) for value in numbers]


# -- score against time ----------------------------------------------------------------------------------------------------------------------------------------


def plot_time(sweep: Any) -> Any:
    """Score over seconds; the variants that no other beats in both (the Pareto front) are named, and the line is the best score that can be had in a time."""
    made, axes = figure()
    rows = scored(sweep)
    seconds, scores = [row.facts["seconds"] for row in rows], [row.score.value for row in rows]
    on_front = pareto(scores, seconds, higher_is_better=sweep.higher_is_better)
    axes.scatter(
        [x for x, on in zip(seconds, on_front) if not on],
        [y for y, on in zip(scores, on_front) if not on],
        color=BLUE,
        s=18,
        label="another is better and faster",
    )
    front = sorted((second, score, row.name) for second, score, row, on in zip(seconds, scores, rows, on_front) if on)
    axes.step([x for x, _, _ in front], [y for _, y, _ in front], where="post", color=ORANGE, linewidth=1)
    for number, (x, y, name) in enumerate(front):
        axes.plot(x, y, color=ORANGE, marker=MARKERS[number % 6], markersize=8, linestyle="", label=wrapped(name) if number < MOST_NAMED else None, zorder=3)
    told = ", ".join(dict.fromkeys(row.facts["how"] for row in rows))
    axes.set(xlabel=f"training seconds of a variant, all its seeds ({told})", ylabel=told_score(sweep), xscale=score_scale(seconds), yscale=score_scale(scores))
    with_legend(made, title="none is better and faster than these (orange)", title_fontsize=8, alignment="left")
    return made


def plot_folds(sweep: Any) -> Any:
    """The score of each fold, and their mean."""
    made, axes = figure()
    trials = [trial for trial in sweep.trials if trial.value is not None]
    axes.scatter([trial.fold for trial in trials], [trial.value for trial in trials], color=BLUE, label="a fold")
    axes.axhline(sum(trial.value for trial in trials) / len(trials), color=ORANGE, linestyle="--", label="mean")
    axes.set(xlabel="fold", ylabel=f"{literal(sweep.metric)} of the held-out rows ({'higher' if sweep.higher_is_better else 'lower'} is better)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    return made
