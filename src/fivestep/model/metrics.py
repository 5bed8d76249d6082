"""Honest scores: from all predictions of a split at once, each with a 95 % interval and beside the best constant predictor.

Enters: predictions and targets gathered by row (never batch means), and how the split was made. Leaves: `Scores`. The decision that shaped it: a metric is a
short formula over *sums of rows* (`METRICS`), so one formula gives the value, the thousand resamples and the baseline; only what ranks rows or comes as a
function is computed again and again. Names and definitions are torchmetrics' own; where two definitions exist, the comment says which one and why.

Axis letters: `n` rows, `c` classes, labels or targets, `u` units that are drawn again, `k` resamples.
"""

from __future__ import annotations

import difflib
import inspect
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fivestep.errors import DataError, UsageError
from fivestep.model.evidence import IGNORED_LABEL, Evidence, count_numbers, count_rows, describe, leaves, take_rows
from fivestep.model.formulas import ALIASES, DEFAULTS, LOSS, METRICS, ONE_LABEL, TASKS, Metric
from fivestep.model.resampling import MOST_UNITS, Units, interval, make_units
from fivestep.model.scores import Score, Scores

MANY_CLASSES = 100  # above, auroc is no default: it sorts all rows once per class (1,000 classes x 50,000 rows: 5 s)
EXACT_RANKS = 5_000  # rows x classes up to which each resample is ranked anew; above, auroc goes by placement values
RANKED_CELLS = 40_000_000  # rows x classes x resamples that metrics without placement values may rank (about 1.5 s)
CALLS, FEWEST_CALLS = 200, 50  # resamples for which a function is called; fewer than 50 give no usable interval
CALLED_CELLS = 40_000_000  # numbers (outputs and targets together) that may be gathered for a function, all its calls together
SLOW_CALL_SECONDS = 0.05  # a function slower than this gets no interval: 200 calls would take over 10 s


Asked = str | Callable[..., Any]  # a metric by name, or a function f(outputs, targets) -> number


# --- scores -------------------------------------------------------------------------------------------------------------------------------------------


def score(
    task: str | None,
    predictions: Tensor | None,
    targets: Any,
    *,
    metrics: Sequence[Asked] | Mapping[str, Asked] | Asked | None = None,
    outputs: Any = None,
    as_stored: Any = None,
    loss: float | Tensor | tuple[Tensor, Tensor] | None = None,
    classes: Sequence[Any] | None = None,
    unit: str | None = None,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
    blocks_of_time: Tensor | bool | None = None,
    train_targets: Tensor | None = None,
    samples: int = 1000,
    seed: int = 0,
    split: str = "val",
) -> Scores:
    """Scores of all rows of a split, with 95 % bootstrap intervals and the best constant predictor beside them.

    `task` "regression": predictions and targets (n,) or (n, t) in the target's own unit. "binary", "multiclass": probabilities (n, classes) ((n,) or (n, 1) of
    class 1 for binary too) and labels (n,); rows labelled -100 do not count. "multilabel": probabilities and 0/1 of shape (n, labels). None: only the loss and
    functions are scored; `predictions` and `targets` may then be anything whose rows can be taken.

    `metrics` are names, functions `f(outputs, targets) -> number`, or {name: either}; None is the task's own. `outputs` is what functions get (None: the
    predictions), beside `as_stored` (None: `targets`). `loss` is one number (no interval), the losses of all rows (n,), or (losses, what each counts) for a mean over labels or class weights.
    `weights` (n,) weigh rows. The interval draws again what the split was made of: rows, whole `groups` (n,), or `blocks_of_time` (n,) times, or True where
    rows stand in order of time. `train_targets` are what the constant predictor is fitted on; without them there is no baseline. `seed` fixes all draws.

    What ranks rows is ranked again for few rows; for many, AUROC goes by placement values, and average precision by fewer resamples. Functions and
    torchmetrics' other functionals are called on up to 200 resamples, unless n is too large or one call takes over 0.05 s; `Score.samples` and `Score.note`
    tell.

    Raises UsageError for shapes and names that do not fit, DataError for targets or probabilities that are none. Predictions that are not finite give NaN
    scores and a note, as a run that ends badly should still be told its numbers.

    >>> scores = score("regression", torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 4.0]), train_targets=torch.tensor([1.0, 2.0, 6.0]))
    >>> round(scores["mae"].value, 4), round(scores["mae"].baseline, 4)
    (0.3333, 1.3333)
    """
    num_rows = count_rows(predictions, outputs, targets, loss if isinstance(loss, Tensor) else loss[0] if isinstance(loss, tuple) else None)
    if num_rows == 0:
        raise DataError(f"The {split} split has no rows: there is nothing to score. Give it a share: split(val=0.15).")
    width = predictions.shape[1] if isinstance(predictions, Tensor) and predictions.ndim == 2 else 1
    asked = _resolve(metrics, task, width)
    # Sums by unit are (units, classes) matrices: with 1,000 classes 2,000 units keep them at 50 MB and move the interval's width by 2 %.
    units = make_units(num_rows, groups=groups, times=blocks_of_time, seed=seed, most=max(2_000, min(MOST_UNITS, 2_000_000 // width)))
    evidence = Evidence(task, predictions, targets, weights=weights, units=units, outputs=outputs, as_stored=as_stored, loss=_losses_by_row(loss, num_rows))
    if task in ONE_LABEL and classes is not None and len(classes) != evidence.predictions.shape[1]:
        raise UsageError(f"{len(classes)} classes are named, predictions are for {evidence.predictions.shape[1]}: names would stand at the wrong numbers.")

    jobs: dict[str, Metric] = ({"loss": LOSS} if evidence.loss is not None else {}) | asked
    values: dict[str, float] = {}
    slow: set[str] = set()
    for name, metric in jobs.items():
        values[name], seconds = _timed_value(metric, evidence)
        if metric.whole is not None and seconds > SLOW_CALL_SECONDS:
            slow.add(name)
    constants = _constants(task, asked, train_targets, evidence)
    baselines = {name: metric.value(constants[kind]) for name, metric in asked.items() if (kind := metric.constant(task)) in constants}

    # Constants are resampled with the model where that costs one more column; a ranking does not change with a constant, so there it is a number.
    drawn = {name: (evidence, metric) for name, metric in jobs.items() if name not in slow and (evidence.finite or metric.of_outputs)}
    beside = {
        (name, "constant"): (constants[metric.constant(task) or ""], metric)
        for name, metric in asked.items()
        if name in baselines and name in drawn and metric.ranked is None
    }
    resampled = resample({**drawn, **beside}, units, samples, seed)

    scores = [Score("loss", float(loss), higher_is_better=False, note="given as one number, so without interval")] if isinstance(loss, (int, float)) else []
    for name, metric in jobs.items():
        again = resampled.get(name)
        bounds = None if again is None else bounds_of(metric, values[name], again, units)
        baseline, difference = baselines.get(name), None
        if baseline is not None and again is not None:
            against = resampled.get((name, "constant"))
            differences = again - (baseline if against is None else against)
            # Resamples without a score (R² of one row drawn five times) show neither better nor worse. Left out they made R² "better" where RMSE was not.
            difference = interval(differences, units.num_independent) and interval(differences.where(~differences.isnan(), 0.0), units.num_independent)
        scores.append(
            Score(
                name,
                values[name],
                *(bounds or (None, None)),
                baseline=baseline,
                higher_is_better=metric.higher_is_better,
                unit={"1": unit, "2": f"{unit}²"}.get(metric.unit) if unit else None,
                difference=difference,
                samples=0 if again is None or bounds is None else len(again),
                note=_note(name, metric, evidence, units, slow=name in slow, resampled=again, bounds=bounds, classes=classes),
            )
        )
    notes = []
    if evidence.kept is not None:
        notes.append(f"{num_rows - evidence.num_counted:,} of {num_rows:,} rows are labelled {IGNORED_LABEL} (to be ignored) and count in no score.")
    if not evidence.finite:
        bad = (~torch.isfinite(evidence.predictions)).any(1).nonzero()[:, 0]
        notes.append(f"The predictions of {len(bad):,} of {num_rows:,} rows are not finite (first: row {int(bad[0])}); their scores are NaN.")
    if 1 < units.num_independent < 10:
        notes.append(f"Only {units.num_independent} {units.kind} were there to draw from: the intervals are rough.")
    return Scores(
        scores=tuple(scores),
        num_rows=evidence.num_counted,
        split=split,
        task=task,
        resampled=units.kind,
        num_independent=units.num_independent,
        samples=min((one.samples for one in scores if one.samples), default=0),
        seed=seed,
        notes=tuple(notes),
    )


def bounds_of(metric: Metric, value: float, resampled: Tensor, units: Units) -> tuple[float, float] | None:
    """The 95 % interval of a metric from its resamples."""
    bounds = interval(resampled, units.num_independent)
    if bounds is not None and bounds[0] == bounds[1] and metric is METRICS["accuracy"] and value in (0.0, 1.0):
        # All right, or all wrong: every resample is too, and the bootstrap's interval is a point. The exact one of Clopper and Pearson (1934) is not.
        unseen = 1 - 0.025 ** (1 / units.num_independent)
        return (1 - unseen, 1.0) if value else (0.0, unseen)
    if bounds is None or not metric.reflected:
        return bounds
    # Noise makes every bin look miscalibrated, in each resample once more than in the value: percentiles lie too high. Mirrored at the value they lie as
    # much lower as the value itself is too high (the basic bootstrap interval).
    return max(0.0, 2 * value - bounds[1]), max(value, 2 * value - bounds[0])


def _note(
    name: str,
    metric: Metric,
    evidence: Evidence,
    units: Units,
    *,
    slow: bool,
    resampled: Tensor | None,
    bounds: tuple[float, float] | None,
    classes: Sequence[Any] | None,
) -> str | None:
    parts = []
    if evidence.task == "binary" and classes is not None and metric.constant("binary") == "positive":
        parts.append(f"of the class {str(classes[1])!r}")
    if metric.whole is not None and evidence.weights is not None and evidence.kept is None:
        parts.append("the weights of rows are not used by this metric")
    if slow:
        parts.append(f"no interval: one call takes over {SLOW_CALL_SECONDS} s and {CALLS} would be needed")
    elif resampled is None and (evidence.finite or metric.of_outputs):
        parts.append(f"no interval: {FEWEST_CALLS} calls on {evidence.num_rows:,} rows would gather too much")
    elif bounds is not None and bounds[0] == bounds[1]:
        parts.append("all resamples agree, so the interval cannot show what rows unlike these would change")
    elif bounds is None and resampled is not None:
        parts.append("no interval: " + (f"there is only 1 of {units.kind}" if units.num_independent < 2 else "most resamples give no finite value"))
    return "; ".join(parts) or None


def _timed_value(metric: Metric, evidence: Evidence) -> tuple[float, float]:
    """The metric of all rows, and the seconds that a call takes."""
    began = time.perf_counter()
    value = metric.value(evidence)
    seconds = time.perf_counter() - began
    if metric.whole is not None and SLOW_CALL_SECONDS < seconds < 20 * SLOW_CALL_SECONDS:  # it may have waited for another process: once more
        began = time.perf_counter()
        metric.value(evidence)
        seconds = min(seconds, time.perf_counter() - began)
    return value, seconds


class Difference(NamedTuple):
    """A metric of the first predictions minus that of the second, and the 95 % interval of this difference (NaN where none can be given)."""

    difference: float
    low: float
    high: float


def compare_paired(
    metric: Asked,
    task: str | None,
    first: Any,
    second: Any,
    targets: Any,
    *,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
    blocks_of_time: Tensor | bool | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Difference:
    """(difference, low, high): `metric` of `first` minus `metric` of `second`, two sets of predictions for the same rows.

    Both are scored on the same resamples, so what is hard for both cancels: the interval is that of the difference, often far narrower than the scores'
    own. Only with zero outside of it may "better" be said. `metric` is a name of the task or a function f(outputs, targets); then `first` and `second` are
    outputs. `metric="loss"`: `first` and `second` are the losses of all rows (n,), `targets` is not used.

    >>> targets = torch.tensor([0.0, 1.0, 2.0, 3.0])
    >>> compare_paired("mae", "regression", targets + 1, targets + 0.5, targets)
    Difference(difference=0.5, low=0.5, high=0.5)
    """
    num_rows, other = count_rows(first, None, None, None), count_rows(second, None, None, None)
    if num_rows != other:
        raise UsageError(f"The first predictions are for {num_rows} rows, the second for {other}. Paired means: the same rows, in the same order.")
    units = make_units(num_rows, groups=groups, times=blocks_of_time, seed=seed)
    if metric == "loss":
        chosen = LOSS
        pair = [Evidence(None, weights=weights, units=units, loss=_losses_by_row(losses, num_rows)) for losses in (first, second)]
    else:
        (chosen,) = _resolve([metric], task).values()
        by_outputs = chosen.of_outputs
        pair = [
            Evidence(None if by_outputs else task, None if by_outputs else predictions, targets, weights=weights, units=units, outputs=predictions)
            for predictions in (first, second)
        ]
    return _differences(chosen, pair[:1], pair[1], units, samples, seed)[0]


def compare_losses(
    losses: Sequence[Tensor], base: Tensor, *, groups: Tensor | None = None, blocks_of_time: Tensor | bool | None = None, samples: int = 1000, seed: int = 0
) -> list[Difference]:
    """For each of `losses` (n,): its mean minus that of `base` (n,), as `compare_paired("loss", ...)` tells it, with one set of resamples for all."""
    units = make_units(len(base), groups=groups, times=blocks_of_time, seed=seed)
    first, second = ([Evidence(None, units=units, loss=_losses_by_row(one, len(base))) for one in some] for some in (losses, [base]))
    return _differences(LOSS, first, second[0], units, samples, seed)


def _differences(metric: Metric, first: Sequence[Evidence], second: Evidence, units: Units, samples: int, seed: int) -> list[Difference]:
    """The metric of each of `first` minus that of `second`, all on the same resamples."""
    jobs = {position: (evidence, metric) for position, evidence in enumerate([second, *first]) if evidence.finite}
    resampled, base, found = resample(jobs, units, samples, seed), metric.value(second), []
    for position, evidence in enumerate(first, 1):
        bounds = interval(resampled[position] - resampled[0], units.num_independent) if position in resampled and 0 in resampled else None
        found.append(Difference(metric.value(evidence) - base, *(bounds or (float("nan"), float("nan")))))
    return found


def resample(jobs: Mapping[Any, tuple[Evidence, Metric]], units: Units, samples: int, seed: int) -> dict[Any, Tensor]:
    """Each job's metric on the same resamples, (k,) float64 by name; those that are called or ranked may stop earlier, those too dear are left out."""
    by_formula: dict[Any, tuple[Evidence, Metric]] = {}
    by_row: dict[Any, tuple[Evidence, Metric, int]] = {}
    for name, (evidence, metric) in jobs.items():
        if metric.ranked is not None:
            cells = evidence.num_rows * evidence.predictions.shape[1]
            if metric.formula is not None and cells > EXACT_RANKS:
                by_formula[name] = evidence, metric
            else:
                by_row[name] = evidence, metric, min(samples, max(100, RANKED_CELLS // cells))
        elif metric.whole is not None:
            numbers = count_numbers(evidence.outputs) + count_numbers(evidence.raw_targets)
            calls = min(samples, CALLS, CALLED_CELLS // max(1, numbers))
            if calls >= min(samples, FEWEST_CALLS):
                by_row[name] = evidence, metric, calls
        else:
            by_formula[name] = evidence, metric

    # The sums that all formulas need, side by side in one matrix: every sum once, however many metrics use it.
    blocks = {(id(evidence), sums): evidence for evidence, metric in by_formula.values() for sums in metric.sums}
    columns = {key: units.sums_of_blocks(evidence.by_unit(key[1])) for key, evidence in blocks.items()}
    widths = [block.shape[1] for block in columns.values()]
    matrix = torch.cat(list(columns.values()), dim=1) if columns else torch.zeros(units.num_units, 0, dtype=torch.float64)
    sums, results, done = [], {name: [] for name in by_row}, 0
    for drawn in units.drawn(samples if by_formula else max((count for _, _, count in by_row.values()), default=0), seed):
        if by_formula:
            sums.append(drawn.double() @ matrix)  # float64: differences of sums of squares cancel
        for part in drawn.split(max(1, 4_000_000 // units.num_rows)):
            wanted = {name: count - done for name, (_, _, count) in by_row.items() if count > done}
            if wanted:
                counts = units.counts_of_rows(part)  # (n, k)
                for name, missing in wanted.items():
                    results[name].append(_by_row(*by_row[name][:2], counts[:, :missing]))
            done += len(part)
    found = {name: torch.cat(parts) for name, parts in results.items()}
    if by_formula:
        shared = dict(zip(columns, torch.cat(sums).split(widths, dim=1)))
        for name, (evidence, metric) in by_formula.items():
            assert metric.formula is not None
            found[name] = metric.formula({sums: shared[id(evidence), sums] for sums in metric.sums}, evidence.task or "")
    return found


def _by_row(evidence: Evidence, metric: Metric, counts: Tensor) -> Tensor:
    """A metric that must see rows again: (n, k) counts -> (k,) values."""
    if metric.ranked is not None:
        return metric.ranked(evidence, evidence.row_weights(counts)).double()
    assert metric.whole is not None
    rows = torch.arange(evidence.num_rows)
    return torch.tensor([metric.whole(evidence, rows.repeat_interleave(count.long())) for count in counts.unbind(1)], dtype=torch.float64)


# --- constant predictors --------------------------------------------------------------------------------------------------------------------------------


def _constants(task: str | None, metrics: Mapping[str, Metric], train_targets: Tensor | None, evidence: Evidence) -> dict[str, Evidence]:
    """For each kind of constant that a metric asks for: what predicting it for every row would give, as evidence on the same rows and weights."""
    kinds = {kind for metric in metrics.values() if (kind := metric.constant(task)) is not None}
    if task is None or train_targets is None or not kinds:
        return {}
    train = torch.as_tensor(train_targets).detach().cpu()
    width = evidence.predictions.shape[1]
    if task == "regression":
        train = train.double().reshape(len(train), -1)
        expected: tuple[int, ...] = (len(train), width)
    else:
        train = (train.reshape(len(train), -1) if task == "multilabel" else train.reshape(-1)).long()
        train = train if task == "multilabel" else train[train != IGNORED_LABEL]
        expected = (len(train), width) if task == "multilabel" else (len(train),)
    if train.shape != expected or len(train) == 0 or (task in ONE_LABEL and not 0 <= int(train.min()) <= int(train.max()) < width):
        raise UsageError(
            f"train_targets {tuple(torch.as_tensor(train_targets).shape)} do not fit targets {tuple(evidence.targets.shape)} of {width} columns or classes."
        )
    return {kind: evidence.with_constant(_constant(kind, task, train, width)) for kind in sorted(kinds)}


def class_shares(counts: Tensor) -> Tensor:
    """The shares of classes that a model without any skill would tell, from their counts in training. A class without a training row is taken to have had one: the
    log loss of a constant that rules a class out has no bound on a row of it, and any model would look skilled beside that.

    >>> class_shares(torch.tensor([3, 6, 0])).tolist()
    [0.3, 0.6, 0.1]
    """
    counts = counts.double() + (counts == 0)
    return counts / counts.sum()


def _constant(kind: str, task: str, train: Tensor, width: int) -> Tensor:
    """The constant (1, width) that does best on the training targets: which mean or median is best belongs to the metric."""
    if kind == "mean":
        return train.mean(0, keepdim=True)
    if kind == "median":
        return train.quantile(0.5, dim=0, keepdim=True) if len(train) < 1_000_000 else train.median(0, keepdim=True).values
    if kind == "log_mean":
        return train.log1p().mean(0, keepdim=True).expm1()
    if kind == "relative_median":  # the median of rows weighted by 1 / |target| makes the mean of |error| / |target| least
        ordered = train.sort(dim=0).values
        share = (1 / ordered.abs().clamp(min=1.17e-6)).cumsum(0)
        return ordered.gather(0, (share >= share[-1:] / 2).double().argmax(0, keepdim=True))
    if kind == "shares":
        return (train.double().mean(0) if task == "multilabel" else class_shares(torch.bincount(train, minlength=width)))[None]
    if kind == "positive":
        return torch.ones(1, width, dtype=torch.float64) if task == "multilabel" else torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    raise AssertionError(kind)


# --- from what the user asked for to metrics ----------------------------------------------------------------------------------------------------------


def _resolve(metrics: Sequence[Asked] | Mapping[str, Asked] | Asked | None, task: str | None, num_classes: int = 0) -> dict[str, Metric]:
    if task is not None and task not in TASKS:
        raise UsageError(f"The task {task!r} is not known; tasks are {', '.join(TASKS)}, or None where none can be told.")
    if metrics is None:
        names = DEFAULTS.get(task or "", ())
        return {name: METRICS[name] for name in names if not (name == "auroc" and num_classes > MANY_CLASSES)}
    found: dict[str, Metric] = {}
    for name, asked in _with_names(metrics):
        if name in found or name == "loss":
            raise UsageError(f"Two scores would be called {name!r}. Name them apart: metrics={{'one': ..., 'another': ...}}.")
        found[name] = _named(asked, task) if isinstance(asked, str) else _of_function(asked, name)
    return found


def user_functions(metrics: Sequence[Asked] | Mapping[str, Asked] | Asked | None) -> dict[str, Callable[..., Any]]:
    """The metrics that are functions of the user's own, under the names that their scores have.

    >>> list(user_functions(["mae", max, lambda outputs, targets: 0.0]))
    ['max', 'metric_3']
    """
    return {} if metrics is None else {name: asked for name, asked in _with_names(metrics) if callable(asked)}


def _with_names(metrics: Sequence[Asked] | Mapping[str, Asked] | Asked) -> list[tuple[str, Asked]]:
    if isinstance(metrics, str) or callable(metrics):
        metrics = [metrics]
    named = list(metrics.items()) if isinstance(metrics, Mapping) else [(None, metric) for metric in metrics]
    found: list[tuple[str, Asked]] = []
    for position, (name, asked) in enumerate(named, start=1):
        if not isinstance(asked, str) and not callable(asked):
            raise UsageError(f"metrics holds {asked!r}; a metric is a name or a function f(outputs, targets) -> number.")
        if isinstance(asked, str) and name is None and asked == "loss":
            continue  # the loss is always scored where it is known
        found.append((name or (asked if isinstance(asked, str) else _function_name(asked, position)), asked))
    return found


def _function_name(function: Callable[..., Any], position: int) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return f"metric_{position}" if name in ("<lambda>", "partial") else name


def _canonical(name: str) -> str:
    """`MeanAbsoluteError`, `mean-absolute-error` and `mean_absolute_error` are all "mae"."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip()).lower().replace("-", "_").replace(" ", "_")
    return ALIASES.get(name, name)


def _named(asked: str, task: str | None) -> Metric:
    name = _canonical(asked)
    known = METRICS.get(name)
    if task is None:
        raise UsageError(
            f"The metric {asked!r} needs a task, and from this loss none can be told. Give a function f(outputs, targets) in its place, "
            "or a loss whose task is known."
        )
    if known is not None and task in known.tasks:
        return known
    from_torchmetrics = _torchmetrics_function(name if known is None else _spelled_out(name), task)
    if from_torchmetrics is not None:
        return from_torchmetrics
    mine = [other for other, metric in METRICS.items() if task in metric.tasks]
    if known is not None:
        raise UsageError(f"The metric {asked!r} is for {' and '.join(known.tasks)}, this task is {task}. Metrics of a {task} task: {', '.join(mine)}.")
    candidates = [*mine, *(alias for alias, other in ALIASES.items() if other in mine), *_torchmetrics_names(task)]
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"The metric {asked!r} is not known for a {task} task.{meant} There are {', '.join(mine)}, and torchmetrics' own functionals.")


def _spelled_out(name: str) -> str:
    return next((alias for alias, other in ALIASES.items() if other == name and "_" in alias), name)


def _torchmetrics_names(task: str) -> list[str]:
    import torchmetrics.functional as functional
    from torchmetrics.functional import classification, regression

    if task == "regression":
        return [name for name in regression.__all__ if callable(getattr(functional, name, None))]
    names = [name for name in classification.__all__ if callable(getattr(functional, name, None))]
    return [name for name in names if "task" in inspect.signature(getattr(functional, name)).parameters]


def _torchmetrics_function(name: str, task: str) -> Metric | None:
    """A metric that calls torchmetrics' functional of this name with its `task` filled in, or None where there is none."""
    import torchmetrics.functional as functional

    if name not in _torchmetrics_names(task):
        return None
    function = getattr(functional, name)

    def whole(e: Evidence, rows: Tensor | None) -> float:
        if e.kept is not None:
            rows = torch.arange(e.num_rows) if rows is None else rows
            rows = rows[e.kept[rows]]
        predictions, targets = (e.predictions, e.targets) if rows is None else (e.predictions[rows], e.targets[rows])
        arguments: dict[str, Any] = {}
        if task == "regression":
            predictions, targets = (predictions.squeeze(1), targets.squeeze(1)) if targets.shape[1] == 1 else (predictions, targets)
        else:
            arguments["task"] = task
            predictions = predictions[:, 1] if task == "binary" else predictions
            arguments |= {"multiclass": {"num_classes": e.predictions.shape[1]}, "multilabel": {"num_labels": e.predictions.shape[1]}}.get(task, {})
        try:
            value = function(predictions, targets, **arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"torchmetrics.functional.{name} cannot be computed here: {error}. If it needs arguments of its own, give a function: "
                f"metrics={{{name!r}: lambda outputs, targets: ...}}."
            ) from error
        return _scalar(value, name)

    return Metric(name, (task,), _direction_by_words(name), whole=whole)


def _of_function(function: Callable[..., Any], name: str) -> Metric:
    if isinstance(function, type):
        raise UsageError(f"The metric {name!r} is a class; give an instance or a function f(outputs, targets) -> number.")

    def whole(e: Evidence, rows: Tensor | None) -> float:
        outputs, targets = (e.outputs, e.raw_targets) if rows is None else (take_rows(e.outputs, rows), take_rows(e.raw_targets, rows))
        try:
            value = function(outputs, targets)
        except Exception as error:
            raise UsageError(
                f"The metric {name!r} failed with {type(error).__name__}: {error}. It was called as f(outputs, targets) with outputs {describe(outputs)} and "
                f"targets {describe(targets)}."
            ) from error
        if hasattr(function, "reset"):  # torchmetrics' objects would keep all resamples otherwise
            function.reset()
        return _scalar(value, name)

    return Metric(name, TASKS, _direction_by_words(name), whole=whole, of_outputs=True)


def _scalar(value: Any, name: str) -> float:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    if len(leaves(value)) > 1 or count_numbers(value) > 1:
        raise UsageError(f"The metric {name!r} gives {describe(value)}, not one number: take the mean of it, or the entry that you mean.")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The metric {name!r} gives a {type(value).__name__}; a metric gives one number.") from error


# --- while training: values only ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EpochMetric:
    """A metric as the epoch's end calls it: `metric(values, targets) -> float`, no interval. `takes` says what `values` are: "predictions" (as in `score`) for
    a named metric, "outputs" (the model's own) for a function. `direction` is "max", "min" or None where the name does not tell."""

    name: str
    task: str | None
    takes: str
    direction: str | None
    metric: Metric

    def __call__(self, values: Any, targets: Any) -> float:
        if self.takes == "outputs":
            return self.metric.value(Evidence(None, None, targets, outputs=values))
        return self.metric.value(Evidence(self.task, values, targets))


def epoch_metrics(metrics: Sequence[Asked] | Mapping[str, Asked] | Asked | None, task: str | None) -> dict[str, EpochMetric]:
    """The metrics to compute after each epoch, by name: the same values as `score`, without intervals. None is the task's own; "loss" is not among them.

    >>> epoch_metrics(["mae"], "regression")["mae"](torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    1.0
    """
    return {
        name: EpochMetric(name, task, "outputs" if metric.of_outputs else "predictions", _word(metric.higher_is_better), metric)
        for name, metric in _resolve(metrics, task).items()
    }


def direction(name: str) -> str | None:
    """ "max" or "min": which way a score of this name gets better; None where the name does not tell.

    >>> direction("auroc"), direction("val_loss"), direction("cosine_thing")
    ('max', 'min', None)
    """
    known = METRICS.get(_canonical(name))
    return _word(known.higher_is_better if known is not None else _direction_by_words(name))


def _word(higher_is_better: bool | None) -> str | None:
    return None if higher_is_better is None else "max" if higher_is_better else "min"


_LESS = {"loss", "err", "error", "deviance", "distance", "divergence", "perplexity", "nll", "brier", "ece", "eer", "rse", "cost", "rate"}
_LESS |= {name for name, metric in METRICS.items() if metric.higher_is_better is False}
_MORE = {
    "acc",
    "score",
    "auc",
    "f1",
    "corrcoef",
    "similarity",
    "correlation",
    "dice",
    "iou",
    "index",
    "fbeta",
    "match",
    "recall",
    "precision",
    "logauc",
    "reward",
}
_MORE |= {name for name, metric in METRICS.items() if metric.higher_is_better}


def _direction_by_words(name: str) -> bool | None:
    words = set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_").split("_"))
    words |= {_canonical(name), _canonical(name).removeprefix("val_").removeprefix("test_")}
    less, more = bool(words & _LESS), bool(words & _MORE)
    return None if less == more and not less else not less  # "brier_score_loss" and "error_rate" are losses whatever else they are called


def _losses_by_row(loss: float | Tensor | tuple[Tensor, Tensor] | None, num_rows: int) -> tuple[Tensor, Tensor] | None:
    if loss is None or isinstance(loss, (int, float)):
        return None
    totals, counted = loss if isinstance(loss, tuple) else (loss, None)
    if not isinstance(totals, Tensor) or totals.shape != (num_rows,):
        raise UsageError(f"loss is one number, the losses of all rows of shape ({num_rows},), or (losses, what each counts); this is {describe(totals)}.")
    totals = totals.detach().cpu().double()
    return totals, torch.ones_like(totals) if counted is None else counted.detach().cpu().double()
