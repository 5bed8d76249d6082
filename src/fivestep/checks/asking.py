"""Questions that rules put to a loss, a metric or an optimizer: its value at outputs of our own making, its slope, which of two answers it prefers.

Enters: a probe and made-up outputs. Leaves: numbers and tensors; NaN or None where what is asked refuses. Nothing here judges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fivestep import seeds
from fivestep.checks.probe import Probe
from fivestep.checks.subject import Subject


def value_of(probe: Probe, outputs: Any, targets: tuple[Any, ...]) -> float:
    """The loss of made-up outputs as a number; NaN where the loss refuses them."""
    try:
        with torch.no_grad(), seeds.restored(0):
            return float(probe.loss_of(outputs, targets))
    except Exception:  # made-up outputs need not be legal for every loss: then nothing can be said by them
        return math.nan


def raw_value(probe: Probe, outputs: Tensor, target: Tensor) -> float:
    """As `value_of`, but a refusal counts as finite: only a value that was computed can be infinite."""
    try:
        with torch.no_grad(), seeds.restored(0):
            return float(probe.loss_of(outputs, (target,)))
    except Exception:  # a loss may refuse exact zeros and ones with its own message
        return 0.0


def metric_value(function: Callable[..., Any], outputs: Tensor, target: Tensor) -> float:
    """A metric's value as a number, NaN where it refuses."""
    try:
        with torch.no_grad(), seeds.restored(0):
            return float(function(outputs, target))
    except Exception:  # made-up outputs need not suit every metric
        return math.nan


def single_target(probe: Probe) -> Tensor | None:
    """The batch's one target tensor, or None."""
    targets = probe.batch[1]
    return targets[0] if len(targets) == 1 and isinstance(targets[0], Tensor) else None


def class_axis(output: Tensor, target: Tensor) -> int | None:
    """The axis of the output that counts classes: the one whose removal leaves the target's shape; axis 1 where both could be."""
    if output.dim() != target.dim() + 1:
        return None
    for axis in (1, output.dim() - 1):
        if axis < output.dim() and (*output.shape[:axis], *output.shape[axis + 1 :]) == tuple(target.shape):
            return axis
    return None


def answers(probe: Probe, output: Tensor, target: Tensor, *, size: float = 3.0, wrong: bool = False) -> Tensor | None:
    """Outputs that say each row's class clearly (or a wrong one): one-hot times `size`, or plus and minus `size` for yes/no; None for other targets."""
    if not target.is_floating_point():
        axis = class_axis(output, target)
        if axis is not None and output.shape[axis] > 1:
            count = output.shape[axis]
            labels = target.clamp(0, count - 1)
            labels = (labels + 1) % count if wrong else labels
            return (torch.nn.functional.one_hot(labels, count).movedim(-1, axis) * size).to(output.dtype)
    if target.numel() == output.numel() and bool(((target == 0) | (target == 1)).all()) and probe.loss_family != "distance":
        signs = (2 * target.to(output.dtype) - 1).reshape(output.shape)
        return signs * (-size if wrong else size)
    return None


def permutation(size: int) -> Tensor:
    """A fixed order in which no row keeps its place."""
    return torch.arange(size).roll(max(1, size // 3))


def output_gradient(probe: Probe) -> Tensor | None:
    """d loss / d outputs for the batch, detached; None where there is no single output or no graph."""
    if not probe.has_loss or not probe.training.single:
        return None
    output = probe.training.picked.detach().clone().requires_grad_(True)
    if not output.is_floating_point():
        return None
    with torch.enable_grad(), seeds.restored(0):
        value = probe.loss_of(output, probe.batch[1])
        if not value.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(value, output, allow_unused=True)
    return torch.zeros_like(output).detach() if gradient is None else gradient.detach()


def prefers_wrong(subject: Subject, probe: Probe) -> bool | None:
    """Whether the loss is lower for wrong answers than for right ones; None where it cannot be asked."""
    target, output = single_target(probe), probe.training.output
    if target is None or output is None or not probe.training.single:
        return None
    verdicts = []
    right, wrong = answers(probe, output, target), answers(probe, output, target, wrong=True)
    if right is not None and wrong is not None:
        forms: list[tuple[Any, Any]] = [(right, wrong)]
        axis = None if target.is_floating_point() else class_axis(output, target)
        forms.append((right.sigmoid(), wrong.sigmoid()) if axis is None else (right.softmax(axis), wrong.softmax(axis)))
    elif target.is_floating_point() and target.shape == output.shape and probe.loss_family is None:
        values = target.to(output.dtype)
        spread = max(float(values.std()), 1e-6)
        forms = [(values, values + 3 * spread), (values, values - 3 * spread)]
    else:
        return None
    for good, bad in forms:
        at_good, at_bad = value_of(probe, good, (target,)), value_of(probe, bad, (target,))
        if math.isfinite(at_good) and math.isfinite(at_bad) and at_good != at_bad:
            verdicts.append(at_good > at_bad)
    return None if not verdicts else all(verdicts)


SCALE_FREE = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "Rprop", "Lion", "Adafactor", "Muon", "SparseAdam", "LBFGS")


def is_scale_free(optimizer: Any) -> bool:
    """Whether the optimizer divides the gradient by its own size, so that the loss's factor does not matter."""
    inner = getattr(optimizer, "named", None)
    kinds = [type(item).__name__ for item in (inner.values() if isinstance(inner, dict) else [getattr(optimizer, "optimizer", optimizer)])]
    return all(any(kind.startswith(name) for name in SCALE_FREE) for kind in kinds)


def rates(optimizer: Any) -> list[float]:
    return [float(group.get("lr", 0.0)) for group in optimizer.param_groups] if optimizer is not None else []


def maximizes(optimizer: Any) -> bool:
    return optimizer is not None and any(bool(group.get("maximize", False)) for group in optimizer.param_groups)


def compares_values(subject: Subject, probe: Probe) -> bool:
    """Whether a loss of the user's is least where outputs equal targets: then both are in one unit."""
    target, output = probe.batch[1], probe.training.output
    if len(target) != 1 or output is None or not isinstance(target[0], Tensor) or target[0].numel() != output.numel() or not probe.training.single:
        return False
    values = target[0].to(output.dtype).reshape(output.shape)
    spread = max(float(values.std()), 1e-6)
    try:
        with torch.no_grad():
            at, *others = (float(probe.loss_of(values + shift * spread, target)) for shift in (0.0, 0.01, -0.01, 1.0, -1.0))
    except Exception:  # a loss that cannot take its own targets as outputs (log of a negative) compares nothing
        return False
    # The small shifts tell the lowest place from a slope: (output - log(target))**2 is lower to one side.
    return math.isfinite(at) and all(at < other for other in others)
