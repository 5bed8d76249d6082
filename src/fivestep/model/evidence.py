"""All predictions and targets of a split, gathered by row, checked, and added up.

Enters: probabilities or numbers, targets, weights, and the units that are drawn again (`resampling.Units`). Leaves: sums over the rows of each unit, by name
(`SUMS`), each computed once however many metrics use it. What cannot be scored is refused here: shapes that would broadcast, logits in place of
probabilities, labels that are no class.

Axis letters: `n` rows, `c` classes, labels or targets, `u` units, `k` resamples.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fivestep.errors import DataError, UsageError
from fivestep.model.resampling import Units

IGNORED_LABEL = -100  # torch's ignore_index: such rows count in no score
ECE_BINS = 15


class Evidence:
    """All predictions and targets of a split, and sums over them by unit, each computed once.

    Where `units` is None, all rows are one unit. `weights` (n,) multiply every row's part, like scikit-learn's `sample_weight`.
    """

    def __init__(
        self,
        task: str | None,
        predictions: Tensor | None = None,
        targets: Any = None,
        *,
        weights: Tensor | None = None,
        units: Units | None = None,
        outputs: Any = None,
        as_stored: Any = None,
        loss: tuple[Tensor, Tensor] | None = None,
    ):
        self.task, self.units, self.loss = task, units, loss
        self.outputs = predictions if outputs is None else outputs
        self.raw_targets = targets if as_stored is None else as_stored  # what a function gets: the shape it meets while training
        self.finite = True
        self.kept: Tensor | None = None  # (n,) bool where some rows carry the label to ignore
        self.num_rows = count_rows(predictions, self.outputs, targets, loss)
        self.weights = None if weights is None else _checked_weights(weights, self.num_rows)
        self.sums: dict[str, Tensor] = {}
        if task is None:
            return
        if predictions is None or targets is None:
            raise UsageError(f"A {task} task is scored from predictions and targets; {'predictions' if predictions is None else 'targets'} are missing.")
        # float16 and bfloat16 are clipped like float32: their own epsilon (1e-3, 8e-3) would cut what they can tell apart near 0
        self.epsilon = torch.finfo(torch.float64 if predictions.dtype == torch.float64 else torch.float32).eps
        self.predictions = predictions.detach().cpu().double()  # (n, c), or (n,) for one regression target
        self.targets = targets.detach().cpu()
        # The sum tells almost always, and 8 times faster than asking every number.
        self.finite = math.isfinite(float(self.predictions.sum())) or bool(torch.isfinite(self.predictions).all())
        {"regression": self._take_regression, "multilabel": self._take_multilabel}.get(task, self._take_classes)()

    def _take_regression(self) -> None:
        if self.predictions.shape != self.targets.shape:
            raise UsageError(
                f"Predictions have the shape {tuple(self.predictions.shape)}, targets {tuple(self.targets.shape)}. Their difference would broadcast to "
                f"another shape and score pairs that do not belong together. Reshape one: predictions.reshape(targets.shape)."
            )
        self.predictions, self.targets = self.predictions.reshape(self.num_rows, -1), self.targets.reshape(self.num_rows, -1).double()
        if not bool(torch.isfinite(self.targets).all()):
            row = int((~torch.isfinite(self.targets)).any(1).nonzero()[0])
            raise DataError(f"The target of row {row} is {self.targets[row].tolist()}: nothing can be scored against it. Leave rows without a target out.")
        self.center = self.targets.mean(0)  # sums of squares are taken around it: around 0 they would cancel for targets such as years

    def _take_classes(self) -> None:
        if self.task == "binary" and self.predictions.shape in ((self.num_rows,), (self.num_rows, 1)):
            probability = self.predictions.reshape(self.num_rows)
            self.predictions = torch.stack([1 - probability, probability], dim=1)
        if self.predictions.ndim != 2 or (self.task == "binary" and self.predictions.shape[1] != 2):
            shape = "(n, 2) or (n,)" if self.task == "binary" else "(n, classes)"
            raise UsageError(f"Predictions of a {self.task} task are probabilities of shape {shape}; these have {tuple(self.predictions.shape)}.")
        num_classes = self.predictions.shape[1]
        labels = self._whole_numbers((self.num_rows,))
        if bool((ignored := labels == IGNORED_LABEL).any()):
            self.kept = ~ignored
            labels = labels.clamp(min=0).where(self.kept, 0)
            self.weights = self.kept.double() if self.weights is None else self.weights * self.kept
        if bool((wrong := (labels < 0) | (labels >= num_classes)).any()):
            row = int(wrong.nonzero()[0])
            raise DataError(
                f"The label of row {row} is {int(labels[row])}, but predictions are for {num_classes} classes (0 to {num_classes - 1}). It would be counted "
                "for another class or for none. Give the model as many outputs as there are classes, or number the labels from 0."
            )
        self.targets = labels
        self._check_probabilities(sum_to_one=True)

    def _take_multilabel(self) -> None:
        if self.predictions.ndim != 2:
            raise UsageError(f"Predictions of a multilabel task are probabilities of shape (n, labels); these have {tuple(self.predictions.shape)}.")
        self.targets = self._whole_numbers(tuple(self.predictions.shape))
        if bool((wrong := (self.targets != 0) & (self.targets != 1)).any()):
            row, column = wrong.nonzero()[0].tolist()
            raise DataError(f"Label {column} of row {row} is {int(self.targets[row, column])}; the labels of a multilabel task are 0 or 1.")
        self._check_probabilities(sum_to_one=False)

    def _whole_numbers(self, shape: tuple[int, ...]) -> Tensor:
        targets = self.targets
        if targets.shape != shape and targets.shape != (*shape, 1):
            raise UsageError(f"Targets of a {self.task} task have the shape {shape} here, as the predictions have; these have {tuple(targets.shape)}.")
        whole = targets.reshape(shape).long()
        if targets.is_floating_point() and bool((fraction := whole != targets.reshape(shape)).any()):
            where = fraction.nonzero()[0].tolist()
            raise DataError(f"The target at row {where[0]} is {float(targets.reshape(shape)[tuple(where)])}; labels are whole numbers.")
        return whole

    def _check_probabilities(self, *, sum_to_one: bool) -> None:
        if not self.finite or not self.num_rows:
            return
        low, high = float(self.predictions.min()), float(self.predictions.max())
        if low < -1e-3 or high > 1 + 1e-3:
            function = "sigmoid" if self.task == "multilabel" else "softmax"
            raise DataError(
                f"Predictions of a {self.task} task are probabilities, but these lie between {low:.4g} and {high:.4g}. Scored as they are, thresholds and "
                f"log loss would mean nothing. If they are logits, pass torch.{function}(logits{', dim=1' if sum_to_one else ''})."
            )
        if sum_to_one:
            worst = float((self.predictions.sum(1) - 1).abs().max())
            if worst > 2e-2:  # bfloat16 sums are off by up to 1e-2
                raise DataError(f"The probabilities of a row must sum to 1; one row is off by {worst:.4g}. Several labels at once are a multilabel task.")
        if low < 0 or high > 1:
            self.predictions = self.predictions.clamp(0, 1)

    def with_constant(self, constant: Tensor) -> Evidence:
        """The same rows, each predicted by the same `constant` (1, c)."""
        beside = copy.copy(self)
        beside.predictions, beside.finite = constant.expand(self.num_rows, -1), True
        beside.sums = {name: sums for name, sums in self.sums.items() if name in OF_TARGETS}
        beside.__dict__.pop("chosen", None)
        return beside

    @property
    def num_counted(self) -> int:
        """Rows that count: all but those with the label to ignore."""
        return self.num_rows if self.kept is None else int(self.kept.sum())

    @functools.cached_property
    def chosen(self) -> Tensor:
        """The label that each row is given (n,), or for several labels 0 or 1 for each (n, c). A tie of a binary task is class 0, as in torchmetrics."""
        if self.task == "multilabel":
            return (self.predictions > 0.5).long()
        return (self.predictions[:, 1] > 0.5).long() if self.task == "binary" else self.predictions.argmax(1)

    def by_unit(self, name: str) -> Tensor:
        """The sums called `name` over the rows of each unit: (u, columns) float64. What each is stands in `SUMS`."""
        if name not in self.sums:
            self.sums[name] = SUMS[name](self)
        return self.sums[name]

    def add_up(self, values: Tensor) -> Tensor:
        """Sums by unit of one number or row of numbers per row: (n,) or (n, f) -> (u, f)."""
        values = values.double().reshape(self.num_rows, -1)
        if self.weights is not None:
            values = values * self.weights[:, None]
        return values.sum(0, keepdim=True) if self.units is None else self.units.sum_by_unit(values)

    def count(self, labels: Tensor, where: Tensor | None = None) -> Tensor:
        """How many rows (or how much weight) of each unit have each label: (n,) -> (u, c), only rows with `where`. Never builds (n, c)."""
        num_classes = self.predictions.shape[1]
        num_units, unit = (1, None) if self.units is None else (self.units.num_units, self.units.unit_of_row)
        if unit is None:
            unit = torch.zeros_like(labels) if self.units is None else torch.arange(self.num_rows)
        parts = torch.ones(self.num_rows, dtype=torch.float64) if self.weights is None else self.weights
        if where is not None:
            parts = parts * where
        return torch.bincount(unit * num_classes + labels, weights=parts, minlength=num_units * num_classes).view(num_units, num_classes)

    def row_weights(self, counts: Tensor) -> Tensor:
        """(n, k) counts of rows in k resamples -> (n, k) what each row weighs there."""
        return counts if self.weights is None else counts * self.weights[:, None].to(counts.dtype)

    def total(self, name: str) -> Tensor:
        """(1, columns): the sums over all rows."""
        return self.by_unit(name).sum(0, keepdim=True)


# --- what can be summed over rows ----------------------------------------------------------------------------------------------------------------------


def _error(e: Evidence) -> Tensor:
    return e.predictions - e.targets


def _hits(e: Evidence) -> Tensor:
    return e.add_up(e.chosen * e.targets) if e.task == "multilabel" else e.count(e.targets, e.chosen == e.targets)


def _support(e: Evidence) -> Tensor:
    return e.add_up(e.targets) if e.task == "multilabel" else e.count(e.targets)


def _chosen(e: Evidence) -> Tensor:
    return e.add_up(e.chosen) if e.task == "multilabel" else e.count(e.chosen)


def _log_loss_sum(e: Evidence) -> Tensor:
    likely = e.predictions if e.task == "multilabel" else e.predictions.gather(1, e.targets[:, None])
    likely = torch.where(e.targets == 1, likely, 1 - likely) if e.task == "multilabel" else likely
    # A probability of 0 or 1 is clipped as scikit-learn does: one sure and wrong row would otherwise make the loss of all rows infinite.
    return e.add_up(-likely.clamp(e.epsilon, 1 - e.epsilon).log().mean(1))


def _brier_sum(e: Evidence) -> Tensor:
    if e.task == "multilabel":
        return e.add_up((e.predictions - e.targets).square().mean(1))
    if e.task == "binary":
        return e.add_up((e.predictions[:, 1] - e.targets).square())
    squares = e.predictions.square().sum(1)  # sum over classes of (p - y)^2 without building y
    return e.add_up(squares - 2 * e.predictions.gather(1, e.targets[:, None])[:, 0] + 1)


def calibration_sums(e: Evidence, bins: int = ECE_BINS) -> Tensor:
    """Weight, confidence and rightness of each bin: three times (bins + 1) columns, the last bin for a confidence of exactly 1, as in torchmetrics."""
    if e.task == "binary":
        confidence, right = e.predictions[:, 1], e.targets
    else:
        confidence, right = e.predictions.amax(1), e.chosen == e.targets
    bin_of_row = torch.bucketize(confidence.float(), torch.linspace(0, 1, bins + 1), right=True) - 1
    in_bin = torch.nn.functional.one_hot(bin_of_row, bins + 1).double()
    return e.add_up(torch.cat([in_bin, in_bin * confidence[:, None], in_bin * right[:, None]], dim=1))


def _placement_sums(e: Evidence) -> Tensor:
    """Per class: placement values of the positive rows and their weight, then those of the negative rows and their weight (u, 4c).

    A positive row's placement value is the share of negative rows that it beats, a negative row's the share of positive rows that beat it; ties are half.
    The mean of either is the AUROC, and over resamples mean + mean - AUROC is the AUROC but for a term smaller by 1/sqrt(n) (DeLong, DeLong &
    Clarke-Pearson 1988; Hoeffding's decomposition). Half the AUROC is taken off each value here, so that the two means simply add up.
    """
    columns: list[Tensor] = []
    weights = torch.ones(e.num_rows, dtype=torch.float64) if e.weights is None else e.weights
    for scores, positive in against_rest(e):
        negative = 1 - positive
        total_positive, total_negative = (weights * positive).sum(), (weights * negative).sum()
        order = scores.argsort()
        first, last = ties(scores[order])
        beaten, beating = torch.empty_like(weights), torch.empty_like(weights)
        beaten[order] = weight_around(weights[order] * negative[order], first, last) / total_negative
        beating[order] = 1 - weight_around(weights[order] * positive[order], first, last) / total_positive
        half = (weights * positive * beaten).sum() / total_positive / 2
        parts = [positive * (beaten - half), positive, negative * (beating - half), negative]
        columns.append(e.add_up(torch.stack(parts, dim=1)))
    return torch.stack(columns, dim=2).flatten(1)  # (u, 4, c) -> (u, 4c)


SUMS: dict[str, Callable[[Evidence], Tensor]] = {
    "weight": lambda e: e.add_up(torch.ones(e.num_rows)),
    "loss": lambda e: e.add_up(e.loss[0]),  # type: ignore[index]
    "loss_weight": lambda e: e.add_up(e.loss[1]),  # type: ignore[index]
    "error": lambda e: e.add_up(_error(e)),
    "squared_error": lambda e: e.add_up(_error(e).square()),
    "absolute_error": lambda e: e.add_up(_error(e).abs()),
    "target": lambda e: e.add_up(e.targets - e.center),
    "target_squared": lambda e: e.add_up((e.targets - e.center).square()),
    "prediction": lambda e: e.add_up(e.predictions - e.center),
    "prediction_squared": lambda e: e.add_up((e.predictions - e.center).square()),
    "product": lambda e: e.add_up((e.predictions - e.center) * (e.targets - e.center)),
    "absolute_target": lambda e: e.add_up(e.targets.abs()),
    "relative_error": lambda e: e.add_up(_error(e).abs() / e.targets.abs().clamp(min=1.17e-6)),  # torchmetrics' floor
    "symmetric_error": lambda e: e.add_up(2 * _error(e).abs() / (e.targets.abs() + e.predictions.abs()).clamp(min=1.17e-6)),
    "squared_log_error": lambda e: e.add_up((e.predictions.log1p() - e.targets.log1p()).square()),
    "hits": _hits,
    "support": _support,
    "chosen": _chosen,
    "log_loss": _log_loss_sum,
    "brier": _brier_sum,
    "calibration": calibration_sums,
    "placements": _placement_sums,
}


OF_TARGETS = ("weight", "target", "target_squared", "absolute_target", "support")  # the same whatever is predicted


def against_rest(e: Evidence) -> list[tuple[Tensor, Tensor]]:
    """(scores (n,), positive (n,) 0 or 1) of each class against the rest; one pair for a binary task, one per label for several."""
    if e.task == "binary":
        return [(e.predictions[:, 1], e.targets.double())]
    if e.task == "multilabel":
        return [(e.predictions[:, label].contiguous(), e.targets[:, label].double()) for label in range(e.predictions.shape[1])]
    return [(e.predictions[:, label].contiguous(), (e.targets == label).double()) for label in range(e.predictions.shape[1])]


def ties(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """For sorted scores (n,): where the run of equal scores around each row begins, and where it ends (n,) int64."""
    _, run, lengths = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    ends = lengths.cumsum(0)
    return (ends - lengths)[run], ends[run]


def weight_around(weights: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The weight below each sorted row, with half of the weight that ties with it: (n,) or (n, k) in order -> the same shape."""
    running = torch.cat([weights.new_zeros(1, *weights.shape[1:]), weights.cumsum(0)])
    return (running[first] + running[last]) / 2


def _checked_weights(weights: Tensor, num_rows: int) -> Tensor:
    weights = torch.as_tensor(weights).detach().cpu().double()
    if weights.shape != (num_rows,):
        raise UsageError(f"weights has the shape {tuple(weights.shape)}; there is one weight per row, shape ({num_rows},).")
    if bool((wrong := ~(torch.isfinite(weights) & (weights >= 0))).any()) or not bool((weights > 0).any()):
        row = int(wrong.nonzero()[0]) if bool(wrong.any()) else 0
        raise DataError(f"The weight of row {row} is {float(weights[row])}; weights are 0 or more, finite, and not all 0.")
    return weights


# --- rows of anything ------------------------------------------------------------------------------------------------------------------------------------


def take_rows(value: Any, rows: Tensor) -> Any:
    """The given rows of a tensor, an array, or a tuple, list or dict of them."""
    if isinstance(value, Tensor):
        return value[rows.to(value.device)] if value.ndim else value
    if isinstance(value, Mapping):
        return {name: take_rows(part, rows) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(*(take_rows(part, rows) for part in value)) if hasattr(value, "_fields") else type(value)(take_rows(part, rows) for part in value)
    return value[rows.numpy()] if hasattr(value, "__array__") else value


def leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Mapping):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in leaves(part)]
    return [value] if hasattr(value, "shape") and len(value.shape) else []


def count_numbers(value: Any) -> int:
    return sum(int(torch.Size(leaf.shape).numel()) for leaf in leaves(value))


def count_rows(*values: Any) -> int:
    """The number of rows that all given values have; raises UsageError where they differ."""
    lengths = [int(leaf.shape[0]) for value in values for leaf in leaves(value)]
    if not lengths:
        raise UsageError("Nothing was given to score: no predictions, no outputs, no losses of rows.")
    if len(set(lengths)) > 1:
        raise UsageError(f"Predictions, outputs, targets and losses belong to the same rows, but have {', '.join(map(str, lengths))} of them.")
    return lengths[0]


def describe(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}({', '.join(describe(part) for part in value)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {describe(part)}" for name, part in value.items()) + "}"
    return f"of shape {tuple(value.shape)}" if hasattr(value, "shape") else f"a {type(value).__name__}"
