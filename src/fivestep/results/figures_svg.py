"""Charts as inline SVG text: lines, points, bars and intervals, drawn by a few functions of our own.

Enters: numbers and labels. Leaves: SVG that takes its colours from the page (`--c1` ... `--c6`, `currentColor`), so that one picture serves light, dark and
print; matplotlib's SVG has its colours fixed, is ten times as large, and takes half a second to import. A picture is `role="img"` with its content in words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from fivestep.figures import shortened
from fivestep.results.page import text

MOST_POINTS = 1_500  # points of a scatter; of more, evenly chosen ones are drawn, and the caller says so
MOST_LINE_POINTS = 400
DASHES = ("", "7 4", "2 3", "9 3 2 3", "12 4", "4 4")  # lines are told apart by more than their colour


@dataclass(frozen=True)
class Series:
    """One line or cloud of points. `colour` counts from 1; `low` and `high` draw an interval at each point."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 1
    points: bool = False
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())


def chart(
    told: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    diagonal: bool = False,
    level: float | None = None,
    marks: Sequence[tuple[float, str]] = (),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    whole_x: bool = False,
    width: int = 420,
    height: int = 285,
) -> str:
    """A chart with axes, ticks and a legend. `told` is the picture in words, for those who cannot see it. `diagonal` draws y = x, `level` a horizontal line,
    `marks` vertical lines with a label; `whole_x`: x counts something, so that its ticks are whole numbers."""
    xs = [value for one in series for value in one.x if math.isfinite(value)]
    ys = [value for one in series for values in (one.y, one.low, one.high) for value in values if math.isfinite(value) and (value > 0 or not log_y)]
    if not xs or not ys:
        return ""
    x_low, x_high = x_range or widened(min(xs), max(xs), 0.0)
    y_low, y_high = y_range or (widened(min(ys), max(ys), 0.04) if not log_y else (min(ys) / 1.1, max(ys) * 1.1))
    if level is not None and y_range is None:
        y_low, y_high = min(y_low, level), max(y_high, level)
    y_ticks = log_ticks(y_low, y_high) if log_y else ticks(y_low, y_high, 5)
    x_ticks = [tick for tick in ticks(x_low, x_high, 5) if not whole_x or tick == round(tick)]
    left, right, top, bottom = 58, 6 + 4 * max((len(tick_text(tick, gap(x_ticks))) for tick in x_ticks), default=0), 14, 46
    left = max(left, 30 + 8 * max((len(tick_text(tick, gap(y_ticks))) for tick in y_ticks), default=0))  # the axis' name stands left of the longest number
    frame_width, frame_height = width - left - right, height - top - bottom

    def at_x(value: float) -> float:
        return left + (value - x_low) / (x_high - x_low) * frame_width

    def at_y(value: float) -> float:
        if log_y:
            value, low, high = (math.log(max(number, 1e-300)) for number in (value, y_low, y_high))
        else:
            low, high = y_low, y_high
        return top + frame_height - (min(max(value, low), high) - low) / (high - low) * frame_height

    parts = []
    for tick in y_ticks:
        y = at_y(tick)
        parts.append(
            f'<path class="grid" d="M{left} {y:.1f}H{width - right}"/><text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_text(tick, gap(y_ticks))}</text>'
        )
    for tick in x_ticks:
        x = at_x(tick)
        parts.append(
            f'<path class="grid" d="M{x:.1f} {top}V{top + frame_height}"/><text x="{x:.1f}" y="{height - bottom + 17}" text-anchor="middle">{tick_text(tick, gap(x_ticks))}</text>'
        )
    if diagonal:
        low, high = max(x_low, y_low), min(x_high, y_high)
        if high > low:
            parts.append(f'<path class="guide" d="M{at_x(low):.1f} {at_y(low):.1f}L{at_x(high):.1f} {at_y(high):.1f}"/>')
    if level is not None:
        parts.append(f'<path class="guide" d="M{left} {at_y(level):.1f}H{width - right}"/>')
    for x, label in marks:
        beyond = at_x(x) > left + frame_width * 0.6
        anchor, shift = ("end", -5) if beyond else ("start", 5)
        parts.append(f'<path class="guide" d="M{at_x(x):.1f} {top}V{top + frame_height}"/>')
        parts.append(f'<text x="{at_x(x) + shift:.1f}" y="{top + 11}" text-anchor="{anchor}">{text(label)}</text>')
    for position, one in enumerate(series):
        pairs = [(x, y) for x, y in zip(one.x, one.y) if math.isfinite(x) and math.isfinite(y)]
        if one.low:
            bars = "".join(f"M{at_x(x):.1f} {at_y(low):.1f}V{at_y(high):.1f}" for x, low, high in zip(one.x, one.low, one.high))
            parts.append(f'<path class="line c{one.colour}" d="{bars}"/>')
        if one.points:
            dots = "".join(f"M{at_x(x):.1f} {at_y(y):.1f}h0" for x, y in thinned(pairs, MOST_POINTS))
            parts.append(f'<path class="dots c{one.colour}{" big" if len(pairs) < 60 else ""}" d="{dots}"/>')
        elif pairs:
            joined = "L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in thinned(pairs, MOST_LINE_POINTS))
            if len(pairs) == 1:
                parts.append(f'<path class="dots big c{one.colour}" d="M{joined}h0"/>')
            else:
                parts.append(f'<path class="line c{one.colour}" stroke-dasharray="{DASHES[position % len(DASHES)]}" d="M{joined}"/>')
    parts.append(f'<path class="axis" d="M{left} {top}V{top + frame_height}H{width - right}"/>')
    parts.append(f'<text class="label" x="{left + frame_width / 2:.0f}" y="{height - 6}" text-anchor="middle">{text(shortened(x_label, 44))}</text>')
    parts.append(
        f'<text class="label" transform="translate(13 {top + frame_height / 2:.0f}) rotate(-90)" text-anchor="middle">{text(shortened(y_label, 28))}</text>'
    )
    drawn = svg(told, width, height, "".join(parts))
    return drawn + (
        legend([(one.label, one.colour, "dot" if one.points else DASHES[k % len(DASHES)]) for k, one in enumerate(series)]) if len(series) > 1 else ""
    )


def histogram(
    told: str, groups: Sequence[tuple[str, Sequence[float]]], edges: Sequence[float], *, x_label: str, y_label: str, level: float | None = None
) -> str:
    """Counts (or shares) in common bins as steps, one line for each group; `level` marks a place on the x axis."""
    series = []
    for colour, (label, counts) in enumerate(groups, 1):
        xs, ys = [edges[0]], [0.0]
        for position, count in enumerate(counts):
            xs += [edges[position], edges[position + 1]]
            ys += [count, count]
        series.append(Series(label, [*xs, edges[-1]], [*ys, 0.0], colour))
    marks = [] if level is None else [(level, "")]
    top = max((max(counts, default=0) for _, counts in groups), default=1) or 1
    return chart(told, series, x_label=x_label, y_label=y_label, marks=marks, y_range=(0, top * 1.05), x_range=(edges[0], edges[-1]))


def spark(told: str, one: Sequence[float], other: Sequence[float], *, width: int = 110, height: int = 26, colour: int = 2) -> str:
    """Two histograms in common bins, small: the first filled, the second as a line over it."""
    if not one:
        return ""
    top = max(*one, *other, 1e-12)
    step = width / len(one)

    def outline(values: Sequence[float]) -> str:
        return "".join(f"V{height - 1 - value / top * (height - 3):.1f}H{(position + 1) * step:.1f}" for position, value in enumerate(values))

    filled = f'<path class="fill c1" d="M0 {height - 1}{outline(one)}V{height - 1}Z"/>'
    return svg(told, width, height, f'{filled}<path class="line thin c{colour}" d="M0 {height - 1}{outline(other)}V{height - 1}"/>', kind="spark")


def strip(told: str, value: float, low: float | None, high: float | None, baseline: float | None, *, width: int = 150, height: int = 24) -> str:
    """A score as a dot on its interval, the no-skill baseline as a line across: one look tells whether they touch."""
    there = [number for number in (value, low, high, baseline) if number is not None and math.isfinite(number)]
    if not there or not math.isfinite(value):
        return ""
    first, last = min(there), max(there)
    first, last = widened(first, last, 0.08)

    def at(number: float) -> float:
        return 4 + (number - first) / (last - first) * (width - 8)

    parts = [f'<path class="grid" d="M2 {height / 2}H{width - 2}"/>']
    if low is not None and high is not None:
        parts.append(f'<path class="line c1 thick" d="M{at(low):.1f} {height / 2}H{at(high):.1f}"/>')
    parts.append(f'<path class="dots big c1" d="M{at(value):.1f} {height / 2}h0"/>')
    if baseline is not None:
        parts.append(f'<path class="line c2" d="M{at(baseline):.1f} 3V{height - 3}"/>')
    return svg(told, width, height, "".join(parts), kind="spark")


def bar(told: str, value: float, low: float, high: float, first: float, last: float, *, width: int = 220, height: int = 20) -> str:
    """A bar from 0 to the value with its interval, on an axis from `first` to `last` that all bars of a table share."""
    if not last > first:
        first, last = widened(first, last, 0.1)

    def at(number: float) -> float:
        return 3 + (min(max(number, first), last) - first) / (last - first) * (width - 6)

    zero = at(0)
    begin, end = sorted((zero, at(value)))
    parts = [
        f'<rect class="fill c1" x="{begin:.1f}" y="4" width="{max(end - begin, 0.5):.1f}" height="{height - 8}"/>',
        f'<path class="axis" d="M{zero:.1f} 1V{height - 1}"/>',
    ]
    if math.isfinite(low) and math.isfinite(high):
        parts.append(f'<path class="line ink" d="M{at(low):.1f} {height / 2}H{at(high):.1f}M{at(low):.1f} 6V{height - 6}M{at(high):.1f} 6V{height - 6}"/>')
    return svg(told, width, height, "".join(parts), kind="spark")


def svg(told: str, width: int, height: int, inner: str, *, kind: str = "chart") -> str:
    return f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{text(told)}">{inner}</svg>'


def legend(entries: Sequence[tuple[str, int, str]]) -> str:
    """What each line or dot stands for: (label, colour, dashes of the line or "dot")."""
    items = []
    for label, colour, dashes in entries:
        drawn = (
            f'<path class="dots big c{colour}" d="M13 6h0"/>' if dashes == "dot" else f'<path class="line c{colour}" stroke-dasharray="{dashes}" d="M0 6H26"/>'
        )
        items.append(f'<li><svg class="key" viewBox="0 0 26 12" aria-hidden="true">{drawn}</svg>{text(label)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


# -- axes -----------------------------------------------------------------------------------------------------------------------------------------------------


def widened(low: float, high: float, share: float) -> tuple[float, float]:
    """The range with some air; one value alone gets a range around it."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return low - share * (high - low), high + share * (high - low)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between low and high: steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0.0, 1.0, 5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(position * step, 12) if step > 1e-9 else position * step for position in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between low and high, with 2 and 5 times them where there are few.

    >>> log_ticks(0.9, 30.0)
    [1.0, 2.0, 5.0, 10.0, 20.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    found = [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
    return found if len(found) >= 2 else ticks(low, high, 4)


def gap(ticks: Sequence[float]) -> float:
    """The least step between neighbours."""
    return min((after - before for before, after in itertools.pairwise(ticks)), default=0.0)


def tick_text(value: float, step: float = 0.0) -> str:
    """A tick of an axis whose ticks are `step` apart, with the digits that tell it from its neighbours.

    >>> tick_text(0.30000000000000004), tick_text(250000.0), tick_text(-2.0)
    ('0.3', '250k', '\N{MINUS SIGN}2')
    >>> tick_text(1000.5, 0.5), tick_text(20010000.0, 10000.0)
    ('1,000.5', '2.001e7')
    """
    if abs(value) >= 1e7 or (value and abs(value) < 1e-3):
        digits = max(3, math.floor(math.log10(abs(value) / step) + 1e-9) + 1) if step > 0 else 3
        told = f"{value:.{min(digits, 12)}g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    elif abs(value) >= 100_000:
        told = f"{value / 1000:,.10g}k"
    elif abs(value) >= 1_000:
        told = f"{value:,.{max(0, math.ceil(-math.log10(step) - 1e-9)) if step > 0 else 0}f}"
    else:
        told = f"{round(value, 10):.10g}"
    return told.replace("-", "\N{MINUS SIGN}", 1) if told.startswith("-") else told


def thinned(pairs: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most about `most` of the pairs, evenly chosen, the first and the last kept."""
    if len(pairs) <= most:
        return list(pairs)
    return [pairs[round(position * (len(pairs) - 1) / (most - 1))] for position in range(most)]
