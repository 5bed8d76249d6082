"""What outputs and targets a loss takes: a table's target made to fit, and what does not fit told before torch would broadcast it. Kernel, as `losses`.

Enters: a loss, the shape of the outputs or the outputs themselves, targets. Leaves: the target as the loss wants it, or one sentence on what is wrong. The
decision that shaped it: nothing is made to fit in silence but the dtype and a trailing 1; shapes that would broadcast are a lesson, not a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fivestep.model.losses import LOSSES, Loss, LossKind, Outputs, argument_of, counted_labels, kind_of, loss_name


def prepare_target(loss_or_kind: Any, target: Tensor, output_shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """A table's target (n,) or (n, k) in the dtype of the loss and with the model's trailing 1; what does not fit is left for `shape_problem` to name.

    Class numbers become int64 (n,) (probabilities in the output's shape stay), 0/1 of SoftMarginLoss becomes -1/1, everything else takes `dtype`, that of the
    outputs. A loss of the user's own keeps integer targets as int64 and gets the trailing 1 for floats only.

    >>> prepare_target("MSELoss", torch.zeros(5), (5, 1)).shape
    torch.Size([5, 1])
    """
    kind = loss_or_kind if isinstance(loss_or_kind, LossKind) else LOSSES.get(loss_or_kind) if isinstance(loss_or_kind, str) else kind_of(loss_or_kind)
    shape = tuple(output_shape)
    rule = kind.target if kind is not None else "same" if target.is_floating_point() else "special"
    if rule in ("none", "special"):
        return target if target.is_floating_point() else target.long()
    if rule == "index":
        if target.is_floating_point() and target.dim() > 1 and tuple(target.shape) == shape:
            return target.to(dtype)
        if target.dim() > 1 and target.shape[-1] == 1 and target.dim() >= len(shape):
            target = target.squeeze(-1)
        return target.long()
    target = target.to(dtype)
    if rule == "sign":
        target = torch.where(target == 0, -1.0, target)
    if len(shape) == target.dim() + 1 and shape[-1] == 1:
        return target.unsqueeze(-1)
    if target.dim() == len(shape) + 1 and target.shape[-1] == 1:
        return target.squeeze(-1)
    return target


def shape_problem(loss: Loss, outputs: Outputs, targets: Sequence[Tensor]) -> str | None:
    """What is wrong with these outputs and targets for this loss, as a lesson; None where nothing is, or the loss is the user's own.

    Shapes that would broadcast, class numbers out of range, dtypes that torch refuses in backward. It looks at values: for a first batch, not for every step.

    >>> print(shape_problem(torch.nn.MSELoss(), torch.zeros(32, 1), (torch.zeros(32),)))
    MSELoss compares outputs of shape (32, 1) with targets of shape (32,). They would broadcast to (32, 32): every output is compared with every target, and ...
    """
    name, kind = loss_name(loss), kind_of(loss)
    if name is None or kind is None:
        return None
    listed = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    if isinstance(outputs, (tuple, list)) and kind.num_outputs == 1:
        return (
            f"{name} takes one output, and the model returns {len(listed)} ({', '.join(map(_describe, listed))}). Say which one the loss is to see: output=0."
        )
    if len(listed) != kind.num_outputs:
        return f"{name} takes {kind.num_outputs} outputs, and the model returns {len(listed)} ({', '.join(map(_describe, listed))}). {kind.notes}"
    if len(targets) != kind.num_targets:
        given = ", ".join(map(_describe, targets)) or "none"
        return f"{name} takes {_plural(kind.num_targets, 'target')}, and the data give {len(targets)} ({given}). {kind.notes}"
    wrong = [value for value in (*listed, *targets) if not isinstance(value, Tensor)]
    if wrong:
        return (
            f"{name} takes tensors, and got {type(wrong[0]).__name__}. If the model returns a dict or an object, say which entry the loss is to see: output=."
        )
    if name == "CTCLoss":
        return _ctc_problem(loss, listed[0], targets)
    first = listed[0]
    for other in listed[1:]:
        if other.shape != first.shape and not (name == "GaussianNLLLoss" and other.shape in (first.shape[:-1], (*first.shape[:-1], 1))):
            return f"{name} takes outputs of one shape, and the model returns {', '.join(map(_describe, listed))}. {kind.notes}"
    if not first.is_floating_point():
        return f"{name} needs floating-point outputs, and the model returns {_describe(first)}: nothing could be learned from them."
    if kind.target == "none":
        return None
    target = targets[0]
    if kind.target == "index":
        return _label_problem(loss, name, first, target)
    if name == "MultiLabelMarginLoss":
        if target.dtype == torch.int64 and target.shape == first.shape and bool((target < first.shape[-1]).all()) and bool((target >= -1).all()):
            return None
        numbers = f"label numbers 0 to {first.shape[-1] - 1}, then -1"
        return f"{name} takes targets int64 in the shape of the outputs {tuple(first.shape)}: {numbers}. These are {_describe(target)}."
    expected = first.shape[:-1] if name == "CosineEmbeddingLoss" else first.shape
    if target.shape != expected:
        return _broadcast_problem(name, first, target, expected)
    if not target.is_floating_point() and kind.target != "sign":
        return f"{name} takes floating-point targets, and these are {_describe(target)}: torch refuses them in backward. Convert them once: targets.float()."
    if target.is_floating_point() and target.dtype != first.dtype and kind.target != "sign":
        fix = f"Convert the targets once: targets.to({first.dtype})."
        return f"{name} gets outputs of {_dtype(first)} and targets of {_dtype(target)}, which torch refuses in backward. {fix}"
    return _value_problem(loss, name, kind, listed, target)


def _label_problem(loss: Any, name: str, output: Tensor, target: Tensor) -> str | None:
    if name in ("AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"):  # these take features and make the scores of the classes themselves
        in_features, num_classes = (loss.in_features, loss.n_classes) if name == "AdaptiveLogSoftmaxWithLoss" else (loss.linear.in_features, loss.num_classes)
        if output.dim() != 2 or output.shape[1] != in_features:
            fix = f"Build it with in_features={output.shape[-1] if output.dim() else 1}."
            return f"{name} was built for {in_features} features a row, and the model returns {_describe(output)}. {fix}"
        scores = (output.shape[0], num_classes, *getattr(loss, "out_features", ()))
    else:
        scores: tuple[int, ...] = tuple(output.shape)
        if not scores:
            return f"{name} takes scores (n, classes), and the model returns a single number."
        num_classes = scores[:2][-1]
    if target.is_floating_point():
        if name in ("CrossEntropyLoss", "LinearCrossEntropyLoss") and tuple(target.shape) == scores:
            return None
        return (
            f"{name} takes class numbers 0 to {num_classes - 1} as int64, and these targets are {_describe(target)}. "
            'Convert them with targets.long() if they are class numbers; if they are quantities to predict, this is a regression: loss="MSELoss".'
        )
    if len(scores) > 1 and num_classes == 1:
        return (
            f"{name} over one output is 0 for every example, so nothing would be learned. For two classes use two outputs, "
            'or loss="BCEWithLogitsLoss" with float targets (n, 1).'
        )
    expected = scores[:1] + scores[2:] if len(scores) > 1 else ()
    if tuple(target.shape) != expected:
        hint = " Take the trailing 1 away: targets.squeeze(-1)." if tuple(target.shape) == (*expected, 1) else ""
        hint = " One-hot targets become class numbers by targets.argmax(1)." if tuple(target.shape) == scores else hint
        return f"{name} takes class numbers of shape {expected} for scores of shape {scores}, and these targets are {_describe(target)}.{hint}"
    if target.dtype != torch.int64:
        return f"{name} takes class numbers as int64, and these targets are {_describe(target)}. Convert them once: targets.long()."
    counted = target[counted_labels(loss, target)] if LOSSES[name].mean_over == "labels" else target
    low, high = (int(counted.min()), int(counted.max())) if counted.numel() else (0, 0)
    if low < 0 or high >= num_classes:
        hint = f" The model needs {high + 1} outputs for labels up to {high}." if low >= 0 else ""
        hint = f" Labels 1 to {num_classes} start at 1: subtract 1." if low == 1 and high == num_classes else hint
        return f"{name} over {num_classes} classes takes class numbers 0 to {num_classes - 1}, and these targets run from {low} to {high}.{hint}"
    class_weights = argument_of(loss, "weight", None)
    if class_weights is not None and len(class_weights) != num_classes:
        return f"{name} holds {len(class_weights)} class weights for {num_classes} classes. Give one weight a class, in the order of the classes."
    if name in ("NLLLoss", "NLLLoss2d") and bool((output > 1e-3).any()):
        return (
            f"{name} takes log-probabilities, which are never above 0, and the largest output is {float(output.max()):.4g}. "
            'End the model in log_softmax(dim=1), or use loss="CrossEntropyLoss" on the logits.'
        )
    return None


def _value_problem(loss: Loss, name: str, kind: LossKind, outputs: list[Tensor], target: Tensor) -> str | None:
    if not target.numel():
        return None
    low, high = float(target.min()), float(target.max())
    if kind.target == "binary" and (low < 0 or high > 1):
        return f'{name} takes targets between 0 and 1, and these run from {low:.4g} to {high:.4g}. Classes are 0 and 1; for quantities use loss="MSELoss".'
    if kind.target == "sign" and not bool(((target == 1) | (target == -1)).all()):
        return f"{name} takes targets of -1 and 1, and these run from {low:.4g} to {high:.4g}. From 0 and 1: 2 * targets - 1."
    if name == "BCELoss" and (float(outputs[0].min()) < 0 or float(outputs[0].max()) > 1):
        return (
            f"BCELoss takes probabilities, and the outputs run from {float(outputs[0].min()):.4g} to {float(outputs[0].max()):.4g}. "
            'Use loss="BCEWithLogitsLoss" on the logits, or end the model in a sigmoid.'
        )
    pos_weight = argument_of(loss, "pos_weight", None)
    if (
        name == "BCEWithLogitsLoss"
        and pos_weight is not None
        and pos_weight.numel() > 1
        and tuple(pos_weight.shape) != tuple(outputs[0].shape[-pos_weight.dim() :])
    ):
        return (
            f"BCEWithLogitsLoss holds {pos_weight.numel()} positive weights for outputs of shape {tuple(outputs[0].shape)}, which would broadcast. "
            "Give one weight a label; for two classes one number, negatives / positives."
        )
    if name == "GaussianNLLLoss" and bool((outputs[1] < 0).any()):
        return f"GaussianNLLLoss takes a variance, and the model's second output falls to {float(outputs[1].min()):.4g}. Pass it through softplus or exp."
    if name == "PoissonNLLLoss" and low < 0:
        return f"PoissonNLLLoss takes counts, and the smallest target is {low:.4g}. A scaled or centred target is no count: scale_target=False."
    if name == "KLDivLoss" and not argument_of(loss, "log_target", False) and low < 0:
        return f"KLDivLoss takes probabilities as targets, and the smallest is {low:.4g}. Give probabilities, or log_target=True for their logarithms."
    return None


def _broadcast_problem(name: str, output: Tensor, target: Tensor, expected: Sequence[int]) -> str:
    text = f"{name} compares outputs of shape {tuple(output.shape)} with targets of shape {tuple(target.shape)}."
    fix = f" Give targets of shape {tuple(expected)}"
    if tuple(target.shape) == (*expected, 1):
        fix += ": targets.squeeze(-1)."
    elif (*target.shape, 1) == tuple(expected):
        fix += ": targets.unsqueeze(-1), or end the model in squeeze(-1)."
    else:
        fix += ", or change the model's last layer."
    try:
        both = tuple(torch.broadcast_shapes(output.shape, target.shape))
    except RuntimeError:
        return text + " They do not fit together." + fix
    if name == "CosineEmbeddingLoss":
        return text + fix
    return text + f" They would broadcast to {both}: every output is compared with every target, and the loss would fall to that of a constant." + fix


def _ctc_problem(loss: Loss, output: Tensor, targets: Sequence[Tensor]) -> str | None:
    labels, input_lengths, target_lengths = targets
    if output.dim() != 3:
        return f"CTCLoss takes log-probabilities (time, n, classes), and the model returns {_describe(output)}."
    time, count, num_classes = output.shape
    if len(input_lengths) != count or len(target_lengths) != count or (labels.dim() == 2 and len(labels) != count):
        return (
            f"CTCLoss takes the example on the second axis: outputs {tuple(output.shape)} hold {count} examples, the labels {tuple(labels.shape)}, the lengths "
            f"{len(input_lengths)} and {len(target_lengths)}. If the model returns (n, time, classes), transpose it: outputs.transpose(0, 1)."
        )
    if int(input_lengths.max()) > time:
        return f"CTCLoss: an input length is {int(input_lengths.max())}, and the model returns {time} time steps."
    if bool((target_lengths > input_lengths).any()):
        return "CTCLoss: a target is longer than its input, so no alignment exists and the loss is infinite. Shorten these, or set zero_infinity=True."
    if labels.dim() == 2:
        valid = torch.arange(labels.shape[1], device=labels.device)[None] < target_lengths[:, None]
        used = labels[valid]
        blank = argument_of(loss, "blank", 0)
        if used.numel() and (int(used.min()) < 0 or int(used.max()) >= num_classes or bool((used == blank).any())):
            allowed = f"labels 0 to {num_classes - 1} without the blank {blank}"
            return f"CTCLoss over {num_classes} classes takes {allowed}; these run from {int(used.min())} to {int(used.max())}."
    if bool((output > 1e-3).any()):
        largest = f"{float(output.max()):.4g}"
        return f"CTCLoss takes log-probabilities, which are never above 0, and the largest output is {largest}. End the model in log_softmax(dim=-1)."
    return None


def _describe(value: Any) -> str:
    return f"{_dtype(value)} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
