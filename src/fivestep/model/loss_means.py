"""How a loss is called with outputs and targets, and what its mean is over. Kernel: imports only torch, the standard library and kernel modules.

Enters: a loss as `losses.make_loss` gives it, outputs, targets, sample weights. Leaves: its value, the value of each row, and the weight of its mean. The decision
that shaped it: a loss is called as it was given, with torch's own mean. Divisors are computed here only to join parts of a batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fivestep.errors import SettingsError, UsageError
from fivestep.model.losses import LOSSES, Loss, Outputs, argument_of, counted_labels, kind_of, loss_name


def feed(loss: Loss, *, weighted: bool = False) -> Callable[..., Any]:
    """`value = feed(loss)(outputs, targets)`: the loss called as torch wants it. Chosen once, so that the plain case costs one call.

    `outputs` is a Tensor or a tuple of them, `targets` a tuple. With `weighted=True` (a loss made with `per_example=True`) the function takes
    `(outputs, targets, weights)` and returns the weighted mean.
    """
    name = loss_name(loss)
    if weighted:
        call = _values_of_adaptive(loss) if name == "AdaptiveLogSoftmaxWithLoss" else feed(loss)
        return lambda outputs, targets, weights=None: _weighted_mean(loss, name, call(outputs, targets), targets, weights)
    if name == "AdaptiveLogSoftmaxWithLoss":
        return lambda outputs, targets: loss(outputs, *targets).loss
    if name == "GaussianNLLLoss":  # torch wants the target between the two outputs
        return lambda outputs, targets: loss(outputs[0], *targets, outputs[1])
    if name is not None and LOSSES[name].num_outputs == 1:
        return lambda outputs, targets: loss(outputs, *targets)
    if name is not None:
        return lambda outputs, targets: loss(*outputs, *targets)
    return lambda outputs, targets: loss(*outputs, *targets) if isinstance(outputs, (tuple, list)) else loss(outputs, *targets)


def call_loss(loss: Loss, outputs: Outputs, targets: Sequence[Tensor]) -> Any:
    """The loss of outputs and targets, called once as torch wants it; see `feed`."""
    return feed(loss)(outputs, targets)


def mean_with_weights(loss: Loss, outputs: Outputs, targets: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
    """The mean of a per-example loss by sample weights (n,): `sum(weight * value) / sum(weight)`; with equal weights it is torch's own mean.

    Where an example has several values (a row of outputs, the labels of a sequence) their mean stands for it; labels that are ignored do not count, and class
    weights multiply the sample weight, as in torch's mean. Raises SettingsError where the loss does not return a value per example.
    """
    return feed(loss, weighted=True)(outputs, targets, weights)


def by_row(loss: Loss, outputs: Outputs, targets: Sequence[Tensor], weights: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
    """`(totals, counts)`, float64 (n,) each: what every example adds to the loss and to what its mean is over, so the loss is `totals.sum() / counts.sum()`.

    None where a loss gives no value per example: a sum, "batchmean", lengths of its own (CTC), no target, or a function of the user's.

    >>> totals, counts = by_row(nn.MSELoss(), torch.tensor([[1.0], [2.0]]), (torch.tensor([[0.0], [5.0]]),))
    >>> totals.tolist(), counts.tolist()
    ([1.0, 9.0], [1.0, 1.0])
    """
    kind, name = kind_of(loss), loss_name(loss)
    if kind is None or not isinstance(loss, nn.Module) or kind.mean_over == "lengths" or not targets or not targets[0].dim():
        return None
    if name == "AdaptiveLogSoftmaxWithLoss":
        values = _values_of_adaptive(loss)(outputs, targets)
    else:
        if argument_of(loss, "reduction", "mean") not in ("mean", "none"):
            return None
        single = copy.copy(loss)  # its parameters and buffers are the loss's own
        single.reduction = "none"  # type: ignore[assignment]
        values = call_loss(single, outputs, targets)
    target = targets[0]
    if not isinstance(values, Tensor) or not values.dim() or len(values) != len(target):
        return None
    totals = values.to(_exact(values)).reshape(len(values), -1)
    if kind.mean_over == "labels" and not target.is_floating_point():
        counts = _label_weights(loss, target).to(totals.dtype).reshape(len(values), -1).sum(1)
        totals = totals.sum(1)
    else:  # an example of several values: their mean where examples are weighed, else each of them counts
        counts = totals.new_full((len(values),), 1.0 if weights is not None else totals.shape[1])
        totals = totals.mean(1) if weights is not None else totals.sum(1)
    if weights is not None:
        totals, counts = totals * weights.to(totals), counts * weights.to(totals)
    return totals.cpu().double(), counts.cpu().double()


def _values_of_adaptive(loss: Loss) -> Callable[..., Tensor]:
    return lambda outputs, targets: -loss(outputs, *targets).output  # it has no reduction: its first result is the log-probability of each target


def _weighted_mean(loss: Loss, name: str | None, values: Any, targets: Sequence[Any], weights: Tensor | None) -> Tensor:
    if not isinstance(values, Tensor) or values.dim() == 0 or (weights is not None and len(values) != len(weights)):
        found = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        count = "one per example" if weights is None else f"{len(weights)} values, one per example"
        raise SettingsError(
            f"Sample weights (weight=) need {count}, and the loss {name or getattr(loss, '__name__', type(loss).__name__)} returned {found}: "
            'the weights would have no effect. Return the values without their mean (reduction="none").'
        )
    if weights is None:
        weights = values.new_ones(len(values))
    if name == "CTCLoss":  # torch's mean is over losses per symbol, its "none" gives losses per sequence
        values = values / torch.as_tensor(targets[2], device=values.device).clamp_min(1)
    if name is not None and LOSSES[name].mean_over == "labels" and not targets[0].is_floating_point():
        counted = _label_weights(loss, targets[0]).to(values.dtype)
        spread = weights.to(values.dtype).reshape(-1, *[1] * (values.dim() - 1))
        return (values * spread).sum() / (counted * spread).sum()
    values = values.reshape(len(values), -1).mean(1) if values.dim() > 1 else values
    return (values * weights).sum() / weights.sum()


# -- weighing -------------------------------------------------------------------------------------------------------------------------------------------------


def batch_weight(loss: Loss, targets: Sequence[Any], *, weights: Tensor | None = None, num_examples: int | None = None) -> float | Tensor | None:
    """What the loss's mean over these targets is a mean of: elements, examples, or the class weights of all labels not ignored. None: the loss is a sum.

    The mean over a batch is `sum(part_mean * part_weight) / sum(part_weight)`; a part of weight 0 has no mean (0/0) and is left out.
    `weights` are sample weights: then it is the divisor of `mean_with_weights`. `num_examples` is needed where there are no targets (TripletMarginLoss).
    A function of the user's own counts as a mean over examples. A number on the CPU; on an accelerator labels give a 0-d tensor that has not been waited for.

    >>> batch_weight(nn.CrossEntropyLoss(ignore_index=0), (torch.tensor([0, 2, 1, 0]),))
    2.0
    """
    kind = kind_of(loss)
    if weights is None and kind is not None and argument_of(loss, "reduction", "mean") == "sum":
        return None
    if kind is not None and kind.mean_over == "labels":
        target = targets[0]
        if target.is_floating_point():  # class probabilities: every example counts as one, whatever the class weights
            return _number(weights.sum(dtype=_exact(weights))) if weights is not None else float(_rows(target) * math.prod(target.shape[2:]))
        counted = _label_weights(loss, target)
        if weights is not None:
            counted = counted * weights.to(counted.dtype).reshape(-1, *[1] * (counted.dim() - 1))
        return _number(counted.sum())
    if weights is not None:
        return _number(weights.sum(dtype=_exact(weights)))
    if kind is None or not len(targets):
        return float(_count(targets, num_examples))
    target = targets[0]
    if kind.mean_over == "lengths":
        return float(len(targets[1]))
    if kind.mean_over == "rows" or argument_of(loss, "reduction", "mean") == "batchmean":
        return float(_rows(target))
    if kind.mean_over == "row elements":
        return float(target.numel() // max(target.shape[-1], 1)) if target.dim() else 1.0
    return float(target.numel())


def _label_weights(loss: Any, target: Tensor) -> Tensor:
    """For each class number its class weight (1 where there are none), 0 where it is ignored."""
    counted = counted_labels(loss, target)
    class_weights = argument_of(loss, "weight", None)
    if class_weights is None:
        return counted.to(_exact(target))
    picked = class_weights.to(_exact(target))[torch.where(counted, target, 0)]
    return torch.where(counted, picked, 0.0)


def _exact(tensor: Tensor) -> torch.dtype:
    """Weights are added in float64, in which the parts of a batch add up to it; MPS has none."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _number(value: Tensor) -> float | Tensor:
    return value.item() if value.device.type == "cpu" else value


def _rows(target: Tensor) -> int:
    return target.shape[0] if target.dim() else 1


def _count(targets: Sequence[Any], num_examples: int | None) -> int:
    if num_examples is not None:
        return num_examples
    if not len(targets):
        raise UsageError("This loss has no targets, so the number of examples must be given: batch_weight(loss, (), num_examples=n).")
    first = targets[0]
    return _rows(first) if isinstance(first, Tensor) else len(first)
