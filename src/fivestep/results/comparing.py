"""What helped, and what could be luck: differences between variants with intervals that know both of their sources of chance.

Enters: for each variant its scores (one for each seed or fold) and the same scores on resampled validation rows. Leaves: frozen `Comparison`. The decision that
shaped it: a score is uncertain because other rows could have been drawn *and* because another seed would have trained another model. Rows alone find the two
models of any two seeds "different", seeds alone forget that all of them were measured on the same few rows; so both variances are added, and with one seed
nothing is called better.

Axis letters: `v` variants, `s` seeds (or folds), `k` resamples of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fivestep import displays
from fivestep.errors import UsageError

METHOD = (
    "Intervals (95 %): Student's t over the sum of two variances, of the validation rows (paired bootstrap) and of the {replicates}; degrees of freedom after "
    "Satterthwaite (1946). Both together are a little too careful (Owen 2007, the pigeonhole bootstrap)."
)
METHOD_FOLDS = "Intervals (95 %): Student's t over folds with the variance of Nadeau & Bengio (2003), as the training rows of folds overlap."


@dataclass(frozen=True, eq=False)
class Measured:
    """The scores of one variant: `values` (s,) one for each replicate, `resampled` (s, k) the same on k resamples of the rows (None: not known).

    `replicates` names the seeds (or folds); variants that share names are compared pair by pair. `num_independent` is how many things were drawn when the
    rows were resampled; `fold_ratio` (validation rows / training rows of a fold) says that the replicates are folds.
    """

    name: str
    values: Tensor
    resampled: Tensor | None = None
    replicates: tuple[Any, ...] = ()
    num_independent: int = 0
    fold_ratio: float | None = None
    lost: str = "diverged"  # what a variant without a score is called: "diverged", "pruned" or "refused"

    @property
    def finite(self) -> bool:
        return bool(torch.isfinite(self.values).all()) and len(self.values) > 0

    @property
    def mean(self) -> float:
        return float(self.values.double().mean()) if len(self.values) else math.nan


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval; `low` and `high` are None where the source of chance has been seen once only."""

    value: float
    low: float | None = None
    high: float | None = None
    degrees: float = 0.0
    p: float | None = None

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def estimate(weights: Mapping[int, float], measured: Sequence[Measured], *, comparisons: int = 1, rows_only: bool = False) -> Interval:
    """sum of weights[v] * (mean score of variant v), with its interval at 95 % for `comparisons` such statements together (Bonferroni).

    Paired by seed where all variants have the same seeds, else the variances of the variants' means are added (Welch). With one seed (or fold) there is no
    interval, unless `rows_only`: then it is for these trained models, not for their settings.

    >>> one, other = Measured("a", torch.tensor([1.0, 1.1, 0.9]), replicates=(0, 1, 2)), Measured("b", torch.tensor([2.0, 2.1, 1.9]), replicates=(0, 1, 2))
    >>> estimate({0: 1.0, 1: -1.0}, [one, other]).excludes_zero
    True
    """
    used = {v: weight for v, weight in weights.items() if weight != 0}
    chosen = [measured[v] for v in used]
    value = sum(weight * measured[v].mean for v, weight in used.items())
    parts: list[tuple[float, float]] = []  # (variance, degrees of freedom)
    same = len({one.replicates for one in chosen}) == 1 and len(chosen[0].values) > 1
    folds = [one.fold_ratio for one in chosen if one.fold_ratio is not None]
    if folds:
        if not same or len(folds) < len(chosen):
            raise UsageError("Scores of folds are compared fold by fold; these variants were not measured on the same folds.")
        differences = sum(weight * measured[v].values.double() for v, weight in used.items())
        count = len(differences)  # type: ignore[arg-type]
        parts.append((float(differences.var()) * (1 / count + folds[0]), count - 1))  # type: ignore[union-attr]
    else:
        if all(one.resampled is not None for one in chosen):
            resampled = sum(weight * measured[v].resampled.double().mean(0) for v, weight in used.items())  # type: ignore[union-attr]
            resampled = resampled[torch.isfinite(resampled)]  # type: ignore[index]
            independent = min(one.num_independent for one in chosen)
            if len(resampled) > 1 and independent > 1:
                # A bootstrap's variance is too small by (m - 1) / m: each resample is centred on the sample, not on the population.
                parts.append((float(resampled.var()) * independent / (independent - 1), independent - 1))
        if same:
            differences = sum(weight * measured[v].values.double() for v, weight in used.items())
            parts.append((float(differences.var()) / len(differences), len(differences) - 1))  # type: ignore[arg-type, union-attr]
        elif all(len(one.values) > 1 for one in chosen):
            parts += [
                (weight**2 * float(measured[v].values.double().var()) / len(measured[v].values), len(measured[v].values) - 1) for v, weight in used.items()
            ]
        elif not (rows_only and parts):
            return Interval(value)
    total = sum(variance for variance, _ in parts)
    if not parts or not math.isfinite(total):
        return Interval(value)
    if total == 0:
        return Interval(value, value, value, parts[0][1], None if value == 0 else 0.0)
    degrees = total**2 / sum(variance**2 / degrees for variance, degrees in parts if variance > 0)
    error = math.sqrt(total)
    width = t_quantile(1 - 0.025 / comparisons, degrees) * error
    p = min(1.0, comparisons * 2 * (1 - t_cdf(abs(value) / error, degrees)))
    return Interval(value, value - width, value + width, degrees, p)


# -- variants against the best -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """One variant beside the best: `score` with its own 95 % interval, `difference` (this one minus the best; the interval is for all pairs together)."""

    name: str
    score: Interval
    difference: Interval | None
    verdict: str
    replicates: int = 1
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Variants, best first, each beside the best: `rows`, `best`, `better` (whether the best is shown better than all others), `notes` (how it was told)."""

    rows: tuple[Compared, ...]
    metric: str
    higher_is_better: bool
    split: str = "val"
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        return self.rows[0].name

    @property
    def better(self) -> bool:
        """Whether the best is shown to be better than every other one."""
        return len(self.rows) > 1 and all(row.verdict in ("worse", "diverged", "pruned", "refused") for row in self.rows[1:])

    def __getitem__(self, name: str) -> Compared:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} was not compared; there are {', '.join(row.name for row in self.rows)}.")

    def __len__(self) -> int:
        return len(self.rows)

    def to_json(self) -> dict[str, Any]:
        def bounds(one: Interval | None) -> Any:
            return None if one is None else {"value": finite(one.value), "low": finite(one.low), "high": finite(one.high), "p": finite(one.p)}

        rows = [
            {"name": r.name, "score": bounds(r.score), "difference": bounds(r.difference), "verdict": r.verdict, "replicates": r.replicates} for r in self.rows
        ]
        return {"metric": self.metric, "higher_is_better": self.higher_is_better, "split": self.split, "rows": rows, "notes": list(self.notes)}

    def told(self, width: int | None = None) -> str:
        """As text, for a terminal of `width` characters: where the table does not fit, verdicts come before intervals and those of the scores are left out; where
        that does not fit either, each variant is a sentence."""
        lines: list[tuple[str, ...]] = [("", self.metric, "95 % interval", "to the best", "corrected interval", "")]
        for row in self.rows:
            difference = row.difference
            lines.append((row.name, number(row.score.value), between(row.score), "" if difference is None else signed(difference.value),
                          "" if difference is None else between(difference, signed), row.verdict))  # fmt: skip
        table = aligned(lines)
        if width is not None and max(map(len, table)) > width:
            table = aligned([(line[0], line[1], line[5], line[3], line[4]) for line in lines])
        if width is not None and max(map(len, table)) > width:
            table = [
                f"  {name}: {score}, {verdict}{f', {apart} to the best ({bounds})' if apart else ''}" for name, score, _, apart, bounds, verdict in lines[1:]
            ]
        return "\n".join([f"{self.split}, {'higher' if self.higher_is_better else 'lower'} is better", *table, *("  " + note for note in self.notes)])

    def __repr__(self) -> str:
        return self.told()

    def report(self, path: str | Path = "comparison.html") -> Path:
        """Write the comparison as one HTML file, complete in itself, and return its path."""
        from fivestep.results import comparison_report, page

        return page.write_page(comparison_report.render(self), path)

    def _repr_html_(self) -> str:
        head = ("", self.metric, "95 % interval", "to the best", "corrected interval", "")
        rows = [
            (row.name, number(row.score.value), between(row.score), "" if row.difference is None else signed(row.difference.value),
             "" if row.difference is None else between(row.difference, signed), row.verdict)
            for row in self.rows[:50]
        ]  # fmt: skip
        better = "higher" if self.higher_is_better else "lower"
        more = f"; {len(self.rows) - 50} more" if len(self.rows) > 50 else ""
        return displays.table(rows, head, caption=f"{self.split}, {better} is better{more}") + displays.lines(self.notes)


def compare_measured(
    measured: Sequence[Measured], *, metric: str, higher_is_better: bool, split: str = "val", facts: Sequence[dict[str, Any]] = ()
) -> Comparison:
    """All variants beside the best of them. "worse" is said only where the corrected interval of the difference lies on one side of zero.

    The best was picked by looking at these very scores, so it could be any of them: the intervals hold for all v(v-1)/2 pairs at once (Bonferroni), and a
    difference between the best and another is one of these.
    """
    if not measured:
        raise UsageError("There is nothing to compare.")
    sign = -1.0 if higher_is_better else 1.0
    order = sorted(range(len(measured)), key=lambda v: (not measured[v].finite, sign * measured[v].mean if measured[v].finite else 0.0))
    usable = [v for v in order if measured[v].finite]
    comparisons = max(1, len(usable) * (len(usable) - 1) // 2)
    best = order[0]
    rows = []
    for v in order:
        one = measured[v]
        extra = dict(facts[v]) if facts else {}
        if not one.finite:
            rows.append(Compared(one.name, Interval(math.nan), None, one.lost, len(one.values), extra))
            continue
        score = estimate({v: 1.0}, measured, rows_only=True)
        if v == best:
            rows.append(Compared(one.name, score, None, "best", len(one.values), extra))
            continue
        difference = estimate({v: 1.0, best: -1.0}, measured, comparisons=comparisons)
        if (
            difference.low is None
        ):  # one seed: an interval over the rows alone, for these two models; whether the variant is worse or its seed was unlucky is not told
            difference = estimate({v: 1.0, best: -1.0}, measured, comparisons=comparisons, rows_only=True)
            verdict = "worse with this seed" if difference.excludes_zero else "could be luck (one seed)"
        else:
            verdict = "worse" if difference.excludes_zero else "could be luck"
        rows.append(Compared(one.name, score, difference, verdict, len(one.values), extra))
    return Comparison(tuple(rows), metric, higher_is_better, split, tuple(notes_on(measured, usable, comparisons)))


def notes_on(measured: Sequence[Measured], usable: Sequence[int], comparisons: int) -> list[str]:
    notes = []
    counts = {len(measured[v].values) for v in usable}
    if any(measured[v].fold_ratio is not None for v in usable):
        notes.append(METHOD_FOLDS)
    elif counts and min(counts) > 1:
        notes.append(METHOD.format(replicates="seeds"))
    elif counts:
        told = "One seed each" if max(counts) == 1 else "A variant with one seed"
        notes.append(f"{told}: the intervals are for these trained models on other rows; whether setting or seed made the difference needs seeds=5 or more.")
    if any(measured[v].resampled is None for v in usable) and not any(measured[v].fold_ratio is not None for v in usable):
        notes.append("The rows could not be resampled for this score, so only the seeds count.")
    if comparisons > 1:
        notes.append(f"Differences are corrected for {comparisons} pairs (Bonferroni), since the best was picked by looking.")
    for what, told in (("diverged", "diverged in at least one seed"), ("pruned", "were left off early"), ("refused", "could not be trained")):
        count = sum(one.lost == what and not one.finite for one in measured)
        if count:
            notes.append(f"{count} of {len(measured)} {told} and cannot be the best.")
    return notes


# -- which factor helped ---------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """One value of one factor, averaged over all others: `mean` score of its variants, `difference` to the factor's best value (None for that one)."""

    factor: str
    level: Any
    mean: float
    difference: Interval | None
    verdict: str
    num_variants: int


def main_effects(measured: Sequence[Measured], settings: Sequence[Mapping[str, Any]], *, higher_is_better: bool) -> list[Effect]:
    """For each factor with few values: its values, best first, each with its difference to the best, averaged over matched combinations of the other factors.

    Only combinations that are finite for both values count, so a value is not blamed for a partner that diverged. Corrected (Bonferroni) over the pairs of
    values of all factors.
    """
    factors = list(dict.fromkeys(key for one in settings for key in one))
    levels = {factor: list({repr(one[factor]): one[factor] for one in settings if factor in one}.values()) for factor in factors}
    levels = {
        factor: values for factor, values in levels.items() if len(values) > 1 and len(values) * 2 <= max(len(settings), 2 * len(values) * (len(factors) == 1))
    }
    pairs = sum(len(values) * (len(values) - 1) // 2 for values in levels.values())
    sign = -1.0 if higher_is_better else 1.0
    found: list[Effect] = []
    for factor, values in levels.items():
        by_level: dict[str, dict[str, int]] = {}
        for v, one in enumerate(settings):
            if measured[v].finite and factor in one:
                others = repr(sorted((key, repr(value)) for key, value in one.items() if key != factor))
                by_level.setdefault(repr(one[factor]), {})[others] = v
        means = {level: sum(measured[v].mean for v in chosen.values()) / len(chosen) for level, chosen in by_level.items()}
        ranked = sorted(means, key=lambda level: sign * means[level])
        for level in [*ranked, *(repr(value) for value in values if repr(value) not in means)]:
            shown = next(value for value in values if repr(value) == level)
            if level not in means:
                found.append(Effect(factor, shown, math.nan, None, "diverged", 0))
                continue
            if level == ranked[0]:
                found.append(Effect(factor, shown, means[level], None, "best", len(by_level[level])))
                continue
            matched = [others for others in by_level[level] if others in by_level[ranked[0]]]
            difference, verdict = None, "no matched pairs"
            if matched:
                weights = {by_level[level][others]: 1 / len(matched) for others in matched} | {
                    by_level[ranked[0]][others]: -1 / len(matched) for others in matched
                }
                difference = estimate(weights, measured, comparisons=max(1, pairs))
                verdict = "could be luck (one seed)" if difference.low is None else "worse" if difference.excludes_zero else "could be luck"
            found.append(Effect(factor, shown, means[level], difference, verdict, len(by_level[level])))
    return found


def pareto(scores: Sequence[float], costs: Sequence[float], *, higher_is_better: bool) -> list[bool]:
    """For each variant whether none is at once better (or equal) in score and cheaper (or equal) in cost, and better in one of them.

    >>> pareto([0.1, 0.2, 0.3], [3.0, 1.0, 2.0], higher_is_better=False)
    [True, True, False]
    """
    sign = -1.0 if higher_is_better else 1.0
    points = [(sign * score, cost) for score, cost in zip(scores, costs)]
    return [
        math.isfinite(score) and not any(a <= score and b <= cost and (a < score or b < cost) for a, b in points if math.isfinite(a)) for score, cost in points
    ]


# -- Student's t -------------------------------------------------------------------------------------------------------------------------------------------------


def t_cdf(t: float, degrees: float) -> float:
    """P(T <= t) for Student's t: 1 - I_x(degrees/2, 1/2)/2 with x = degrees/(degrees + t^2) (Abramowitz & Stegun 26.7.1)."""
    half = 0.5 * incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)
    return 1 - half if t > 0 else half


def t_quantile(probability: float, degrees: float) -> float:
    """The t with P(T <= t) = probability, for probability >= 0.5, by bisection.

    >>> round(t_quantile(0.975, 4), 4)
    2.7764
    """
    tail, low, high = 1 - probability, 0.0, 1.0
    upper = lambda t: 0.5 * incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)  # noqa: E731  the tail itself: 1 - cdf would cancel
    while upper(high) > tail and high < 1e12:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if upper(middle) > tail else (low, middle)
    return (low + high) / 2


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22, Lentz's way); scipy is no dependency."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    fraction = d
    for m in range(1, 500):
        for term in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 + term * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + term / c
            c = c if abs(c) > tiny else tiny
            fraction *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * fraction


# -- text --------------------------------------------------------------------------------------------------------------------------------------------------------


def finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def number(value: float) -> str:
    return "-" if not math.isfinite(value) else f"{value:.4g}"


def signed(value: float) -> str:
    return "-" if not math.isfinite(value) else f"{value:+.3g}"


def between(one: Interval, show: Any = number) -> str:
    return "" if one.low is None or one.high is None else f"{show(one.low)} to {show(one.high)}"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as columns under each other, empty columns left out."""
    used = [column for column in range(len(lines[0])) if any(line[column] for line in lines[1:])]
    widths = {column: max(len(line[column]) for line in lines) for column in used}
    return ["  " + "  ".join(line[column].ljust(widths[column]) for column in used).rstrip() for line in lines]
