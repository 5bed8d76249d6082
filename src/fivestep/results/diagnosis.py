"""The numbers behind the pictures of a trained model: where it errs, how sure it may be, and for which groups of rows it is worse.

Enters: a `Run` and the name of a split. Leaves: plain tensors and frozen rows, which `watch/plots.py` draws and `results/report_*.py` write down. Nothing here
looks at a split that it was not asked for, and nothing moves a global random state.

Axis letters: `n` rows, `c` classes or labels, `t` targets, `m` thresholds that occur.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fivestep.data.values import TIMES, as_text
from fivestep.errors import FivestepError, UsageError
from fivestep.model import metrics as scoring
from fivestep.model.evidence import IGNORED_LABEL

CLASSED = ("binary", "multiclass", "multilabel")
FEW_UNITS = 5  # fewer groups or times tell nothing of a subgroup
FEW_GROUPS = 12  # a column with more values is no set of subgroups


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions beside targets, row by row. `rows` (n,) are row numbers in the split's data.

    `values` float64: probabilities (n, c), or numbers (n, t) in the targets' units. `targets`: int64 labels (n,), 0/1 (n, c), or float64 (n, t). `losses`
    (n,) say how wrong each row is: minus the log of the right answer's probability, or the absolute error (`loss_name` says which). `classes` are texts, and
    `target_names` have their units where the data tells them.
    """

    split: str
    task: str
    rows: Tensor
    places: Tensor  # (n,) where the rows stand in the split
    values: Tensor
    targets: Tensor
    losses: Tensor
    loss_name: str
    classes: tuple[str, ...]
    target_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Tensor:
        """The most probable class of each row, int64 (n,)."""
        return self.values.argmax(1)


def predicted(run: Any, split: str, places: Tensor | None = None) -> Predicted | None:
    """Predictions and targets of a split (or of the rows at `places` in it); None where outputs are no prediction of a target: a GAN, labels of a sequence.

    Scores nothing and counts no look: whoever asks for "test" must have counted it.
    """
    targets = run._targets(split) if run.can_predict else None
    task = run._predictor.decoding.task
    if task is None or not isinstance(targets, Tensor):
        return None
    source = run._encoded[split]
    places = torch.arange(len(source)) if places is None else places
    try:
        outputs = run._predictor.outputs(source, places)
        values = run._predictor.decode(outputs, probabilities=task in CLASSED)
    except FivestepError:  # quantile heads and the like: the outputs are no prediction of the target
        return None
    if not isinstance(values, Tensor):
        return None
    return beside(run, split, places, values, targets[places])


def beside(run: Any, split: str, places: Tensor, values: Tensor, targets: Tensor) -> Predicted | None:
    """Predictions that are there already, beside their targets; None where the two do not fit each other row by row."""
    decoding = run._predictor.decoding
    task, count = decoding.task, len(places)
    values, targets = values.detach().cpu().double(), targets.detach().cpu()
    if task in ("binary", "multiclass"):
        if values.dim() != 2 or targets.numel() != count:
            return None
        targets = targets.long().reshape(count)
        kept = targets != IGNORED_LABEL
        places, values, targets = places[kept], values[kept], targets[kept]
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < values.shape[1]:
            return None
    elif task == "multilabel":
        if values.dim() != 2 or targets.shape != values.shape:
            return None
        targets = targets.long()
    else:
        if values.numel() != targets.numel() or count == 0:
            return None
        values, targets = values.reshape(count, -1), targets.double().reshape(count, -1)
    if not len(places) or not bool(torch.isfinite(values).all()):
        return None
    data = run.splits.train.data
    names = tuple(map(str, decoding.target_names or data.target_names or ()))
    names = tuple(map(data.with_unit, names))
    if task == "regression" and len(names) != values.shape[1]:
        names = ("target",) if values.shape[1] == 1 else tuple(f"target {position}" for position in range(values.shape[1]))
    width = values.shape[1]
    classes = (
        tuple(map(str, decoding.classes or range(width)))
        if task in ("binary", "multiclass")
        else tuple(map(str, names if len(names) == width else range(width)))
    )
    several = task == "regression" and width > 1  # only then are errors measured in deviations of the training targets, which take time to read
    losses, loss_name = row_losses(task, values, targets, run._targets("train") if several else None)
    loss_name += f" in {run._target_unit}" if run._target_unit else ""
    part = run.splits.part(split)
    return Predicted(split, task, part.indices[places], places, values, targets, losses, loss_name, classes, names)


def row_losses(task: str, values: Tensor, targets: Tensor, train_targets: Tensor | None = None) -> tuple[Tensor, str]:
    """How wrong each row is, float64 (n,), and its name: log loss of classes, absolute error of a number, mean of |error| / deviation of several numbers."""
    tiny = torch.finfo(torch.float32).eps
    if task in ("binary", "multiclass"):
        return -values.gather(1, targets[:, None])[:, 0].clamp(min=tiny).log(), "log loss"
    if task == "multilabel":
        right = torch.where(targets == 1, values, 1 - values)
        return -right.clamp(min=tiny).log().mean(1), "log loss"
    errors = (values - targets).abs()
    if errors.shape[1] == 1:
        return errors[:, 0], "absolute error"
    reference = targets if train_targets is None else train_targets.double().reshape(len(train_targets), -1)
    deviations = reference.std(0, correction=0)
    deviations = torch.where(deviations > 1e-12 * reference.abs().amax(0), deviations, 1.0)  # a target that is constant in training
    return (errors / deviations).mean(1), "absolute error in deviations"


def dependence(run: Any, split: str, places: Tensor) -> dict[str, Any]:
    """`groups=` or `blocks_of_time=` for an interval on these rows of a split, as it was made; empty where rows were drawn one by one."""
    splits, part = run.splits, run.splits.part(split)
    for given, key in ((splits.group, "groups"), (splits.time, "blocks_of_time")):
        values = splits.values_of(given, part)
        if values is not None:
            return {key: torch.as_tensor(np.unique(np.asarray(values)[places.numpy()], return_inverse=True)[1].astype("int64"))}
    return {}


# -- classes --------------------------------------------------------------------------------------------------------------------------------------------------


def confusion(found: Predicted) -> Tensor:
    """int64 (c, c): rows of the true class (first axis) that were given the class of the second axis."""
    width = found.values.shape[1]
    return torch.bincount(found.targets * width + found.labels, minlength=width * width).reshape(width, width)


def roc(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """(false positive rate, true positive rate), each (m,), from (0, 0) to (1, 1); NaN where one of the two classes has no row.

    >>> [axis.tolist() for axis in roc(torch.tensor([0.9, 0.4, 0.1]), torch.tensor([True, False, False]))]
    [[0.0, 0.0, 0.5, 1.0], [0.0, 1.0, 1.0, 1.0]]
    """
    hits, misses = counts_above(scores, positive)[:2]
    start = hits.new_zeros(1)
    return torch.cat([start, misses]) / misses[-1], torch.cat([start, hits]) / hits[-1]


def precision_recall(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """(recall, precision), each (m,): recall goes up to 1 as more rows are called positive."""
    hits, misses = counts_above(scores, positive)[:2]
    return hits / hits[-1], hits / (hits + misses)


def counts_above(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(hits, false alarms, thresholds), each float64 (m,): rows of each kind with a score at or above each threshold, which are the scores that occur."""
    order = scores.argsort(descending=True, stable=True)
    ordered, kind = scores[order], positive[order].double()
    last = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool)])  # equal scores are called positive together
    return kind.cumsum(0)[last], (1 - kind).cumsum(0)[last], ordered[last]


@dataclass(frozen=True)
class Threshold:
    """What calling rows positive from this probability on would do: counts of the rows, and the rates that follow (None where nothing is divided)."""

    threshold: float
    hits: int
    false_alarms: int
    missed: int
    rejected: int
    why: str = ""

    @property
    def precision(self) -> float | None:
        flagged = self.hits + self.false_alarms
        return self.hits / flagged if flagged else None

    @property
    def recall(self) -> float | None:
        there = self.hits + self.missed
        return self.hits / there if there else None

    @property
    def f1(self) -> float | None:
        below = 2 * self.hits + self.false_alarms + self.missed
        return 2 * self.hits / below if below else None


def thresholds(scores: Tensor, positive: Tensor) -> list[Threshold]:
    """A table of thresholds, lowest first: steps from 0.05 to 0.95, and the one that F1 is largest at on these rows (`why` says so)."""

    def at(threshold: float, why: str = "") -> Threshold:
        called = scores >= threshold
        hits, flagged, there = int((called & positive).sum()), int(called.sum()), int(positive.sum())
        return Threshold(threshold, hits, flagged - hits, there - hits, len(scores) - flagged - there + hits, why)

    rows = [at(step, "as predicted" if step == 0.5 else "") for step in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)]
    if bool(positive.any()):
        hits, misses, levels = counts_above(scores, positive)
        f1 = 2 * hits / (hits + misses + positive.sum())
        rows.append(at(float(levels[int(f1.argmax())]), "largest F1 here"))
    return sorted(rows, key=lambda row: row.threshold)


@dataclass(frozen=True)
class Bin:
    """Rows of like probability: their number, the mean that was predicted, the share that came true, and its 95 % interval (Wilson 1927)."""

    count: int
    predicted: float
    observed: float
    low: float
    high: float


def calibration_bins(found: Predicted, bins: int = 10) -> list[Bin]:
    """Up to `bins` bins of like size, equal probabilities in one: probability of class 1 against its share (two classes, labels), else how sure against how often
    right."""
    if found.task == "binary":
        sure, right = found.values[:, 1], (found.targets == 1).double()
    elif found.task == "multilabel":
        sure, right = found.values.flatten(), found.targets.flatten().double()
    else:
        sure, right = found.values.max(1).values, (found.labels == found.targets).double()
    order = sure.argsort(stable=True)
    ordered, count = sure[order], max(1, min(bins, len(order) // 10))
    ends = torch.tensor([len(order) * (position + 1) // count for position in range(count)])
    ends = torch.searchsorted(ordered, ordered[ends - 1], right=True).unique()
    made = []
    for chunk in order.tensor_split(ends[:-1]):
        count, share = len(chunk), float(right[chunk].mean())
        made.append(Bin(count, float(sure[chunk].mean()), share, *wilson(share, count)))
    return made


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` rows (Wilson's score interval), inside 0 and 1 for every share.

    >>> [round(bound, 3) for bound in wilson(0.0, 10)]
    [0.0, 0.278]
    """
    z = 1.959964
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, center - half), min(1.0, center + half)


# -- rows ---------------------------------------------------------------------------------------------------------------------------------------------------


def worst(found: Predicted, count: int = 10) -> Tensor:
    """int64: where in `found` its most wrong rows stand, the worst first."""
    return found.losses.argsort(descending=True, stable=True)[:count]


def input_values(run: Any, split: str, row: int, names: Sequence[str]) -> list[Any]:
    """The values of a table's row (a row number of the split's data) in these columns, as they were read; yes, no and times as they are written there."""
    typed = run.splits.part(split).data.typed
    return [values_as_written(typed, name, np.array([row]))[0] for name in names]


def values_as_written(typed: Any, name: str, rows: np.ndarray) -> np.ndarray:
    """A column's values at `rows`: float64, or an object array of texts and None. A boolean is "Yes" or "No" if that stands in the file, not 1 or 0, and a date
    is no number of seconds."""
    values = typed.column(name).values
    if typed.column(name).kind in ("boolean", *TIMES):
        values = as_text(typed.table.column(name).gather(rows), typed.options)
    elif isinstance(values, np.ndarray):
        return values[rows]
    else:
        values = values.gather(rows)
    return np.array([*values.to_list(), None], dtype=object)[:-1]


# -- subgroups -----------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subgroup:
    """The score of the rows with one value of a column. `apart`: its whole interval (of groups or blocks of time, where the split is) lies on the bad side of the
    score of all rows."""

    column: str
    value: str
    score: Any
    num_rows: int
    apart: bool


def subgroups(run: Any, found: Predicted, columns: Sequence[str] | None = None) -> tuple[str, float, list[Subgroup]]:
    """(metric, its value on all rows, subgroups): the score of each value of each column that has 2 to 12 values, on the rows of `found`.

    Tables only; columns left out of the inputs count too. Numbers are scored by mae, classes by balanced accuracy where a majority of 80 % would hide the
    rest in accuracy, else by accuracy.
    """
    if run.splits.train.data.kind != "table":
        return "", math.nan, []
    if found.task == "regression":
        metric = "mae"
    else:
        largest = float(torch.bincount(found.targets).max()) / len(found) if found.task != "multilabel" else 0.0
        metric = "balanced_accuracy" if largest >= 0.8 else "accuracy"
    typed = run.splits.part(found.split).data.typed
    whole = scored(found, metric, torch.arange(len(found)))
    train_targets, resampling = run._targets("train"), dependence(run, found.split, found.places)
    rows = []
    for column in typed.columns:
        if column.use == "target" or column.name in run.splits.train.data.target_names or (columns is not None and column.name not in columns):
            continue
        if column.kind not in ("category", "boolean"):
            continue
        values = values_as_written(typed, column.name, found.rows.numpy())
        texts = np.array(
            ["-" if value is None else value for value in values] if values.dtype == object else [value_text(value) for value in values], dtype=object
        )
        names, counts = np.unique(texts, return_counts=True)
        if not 2 <= len(names) <= FEW_GROUPS:
            continue
        for name, count in zip(names, counts):
            at = torch.as_tensor(np.flatnonzero(texts == name))
            if metric == "balanced_accuracy" and len(found.targets[at].unique()) < len(found.targets.unique()):
                continue  # a mean of other recalls than that of all rows
            try:
                score = scored(found, metric, at, train_targets, **{key: codes[at] for key, codes in resampling.items()})
            except FivestepError:
                continue  # a group without a score
            bad = score.low is not None and (score.high < float(whole) if score.higher_is_better else score.low > float(whole))
            bad = bad and all(len(codes[at].unique()) >= FEW_UNITS for codes in resampling.values())
            rows.append(Subgroup(column.name, str(name), score, int(count), bool(bad)))
    return metric, float(whole), sorted(rows, key=lambda row: not row.apart)


def scored(found: Predicted, metric: str, at: Tensor, train_targets: Tensor | None = None, **resampling: Any) -> Any:
    """One metric of some rows of `found`, with its interval (see `dependence`) and baseline."""
    values, targets = found.values[at], found.targets[at]
    if isinstance(train_targets, Tensor) and found.task in ("binary", "multiclass"):
        train_targets = train_targets.long().flatten()
    return scoring.score(found.task, values, targets, metrics=[metric], train_targets=train_targets, samples=500, split=found.split, **resampling)[metric]


def value_text(value: Any) -> str:
    """A value of a column as people read it: 3.0 as 3 and an id with all its digits, a missing one as a dash.

    >>> value_text(3.0), value_text(0.123456789), value_text(1000269.0), value_text(None)
    ('3', '0.123457', '1000269', '-')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    return str(value)


# -- what is drawn -------------------------------------------------------------------------------------------------------------------------------------------


def drawn_part(run: Any) -> str:
    """The split whose rows a report judges by: validation where there is one, else training rows, on which every model looks too good."""
    return "val" if run.splits.val is not None else "train"


NATURAL = ("CrossEntropyLoss", "NLLLoss", "BCELoss", "BCEWithLogitsLoss", "KLDivLoss")  # losses that are means of natural logarithms of probabilities


def loss_unit(run: Any) -> str:
    """In what the loss is measured, for an axis: "nats", "standardised target", "USD²"; "" where it is not known."""
    loss, unit = training_loss(run), run._target_unit
    if loss in NATURAL:
        return "nats"
    if run._predictor.decoding.target_scale is not None:
        return "standardised target"
    return {"L1Loss": unit, "MSELoss": f"{unit}²" if unit.isalpha() else f"({unit})²"}.get(loss, "") if unit else ""


def training_loss(run: Any) -> str:
    """The name of the loss; "" for a function of the user's that has none."""
    loss = run.settings.chosen.get("loss") or run.settings.asked.get("loss")
    return loss if isinstance(loss, str) else ""


def two_inputs(run: Any) -> tuple[str, str]:
    """Names of the two number inputs that a decision boundary can be drawn over. Raises UsageError where the model has others."""
    columns = run._predictor.columns
    inputs = getattr(run._encoded["train"], "inputs", None)
    if columns is not None:
        if len(columns.inputs) == 2 and all(column.kind == "number" for column in columns.inputs):
            return run.splits.train.data.with_unit(columns.inputs[0].name), run.splits.train.data.with_unit(columns.inputs[1].name)
        told = f"this model sees {len(columns.inputs)} columns: {', '.join(column.name for column in columns.inputs[:6])}"
    elif isinstance(inputs, Tensor) and inputs.dim() == 2 and inputs.shape[1] == 2:
        return "input 0", "input 1"
    else:
        told = f"this model's inputs have the shape {tuple(inputs.shape) if isinstance(inputs, Tensor) else 'of a Dataset'}"
    raise UsageError(f'plot("boundary") draws over two inputs that are numbers, and {told}. For others plot("importance") tells what the model looks at.')


def evenly(count: int, most: int) -> Tensor:
    """At most `most` of the places 0..count-1, evenly chosen."""
    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).round().long()
