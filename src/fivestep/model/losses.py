"""How each loss of torch.nn is fed, and what its mean is over. Kernel: imports only torch, the standard library, `errors`.

Enters: a loss as the user wrote it (a torch name, a class, an instance, a table, a function), outputs and targets. Leaves: a callable `(outputs, targets)` and
the weight of its mean. The decision that shaped it: a loss is called as it was given, with torch's own mean. Divisors are computed here only to join
parts, and one table (`LOSSES`) says everything that differs between losses.
"""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fivestep.errors import SettingsError, UsageError

Loss = Callable[..., Any]
Outputs = Any  # a Tensor, or a tuple of them


@dataclass(frozen=True)
class LossKind:
    """What distinguishes one loss of torch.nn from another.

    `num_outputs`, `num_targets`: how many tensors it takes from the model and from the data.
    `target`: "same" (floats in the shape of the output), "index" (class numbers, int64), "binary" (0 ... 1 in the shape of the output), "sign" (-1 or 1),
    "none" (no target), "special" (see `notes`).
    `head`: how its outputs are read: "identity", "softmax" and "sigmoid" (logits), "log_softmax" (log-probabilities), "probability", "exp" (log of a rate).
    `task`: what such a model predicts, None where it is neither a number nor a class.
    `mean_over`: what "mean" divides by: "elements" of the target, "rows", "row elements" (rows and all axes but the last), "labels" (those not ignored, by
    class weight), "lengths" (sequences).
    `scales_target`: a table's target may be standardised inside: the loss measures a distance, so only its unit changes.
    `class_weights`: the argument that takes one weight a class; None where there is none.
    `notes`: how it is fed, for the docs.
    """

    num_outputs: int
    num_targets: int
    target: str
    head: str
    task: str | None
    mean_over: str
    scales_target: bool = False
    class_weights: str | None = None
    notes: str = ""


_DISTANCE = LossKind(1, 1, "same", "identity", "regression", "elements", scales_target=True, notes="loss(output, target): equal shapes, one number each.")
_LABELS = LossKind(1, 1, "index", "softmax", "multiclass", "labels", class_weights="weight")
_LOGITS = LossKind(1, 1, "binary", "sigmoid", "binary", "elements")
_SIGNS = LossKind(2, 1, "sign", "identity", None, "elements")
_TRIPLET = LossKind(3, 0, "none", "identity", None, "rows", notes="The model returns (anchor, positive, negative), each (n, size); no target.")

_KINDS: dict[str, LossKind] = {
    # numbers
    "MSELoss": _DISTANCE,
    "L1Loss": _DISTANCE,
    "SmoothL1Loss": replace(_DISTANCE, notes="As MSELoss; beta is in the scaled unit where the target is standardised."),
    "HuberLoss": replace(_DISTANCE, notes="As MSELoss; delta is in the scaled unit where the target is standardised."),
    "GaussianNLLLoss": replace(
        _DISTANCE, num_outputs=2, scales_target=False, notes="The model returns (mean, variance), variance > 0; called as loss(mean, target, variance)."
    ),
    "PoissonNLLLoss": replace(_DISTANCE, head="exp", scales_target=False, notes="Counts >= 0; the output is the log of the rate (log_input=False: the rate)."),
    # classes
    "CrossEntropyLoss": replace(
        _LABELS, notes="Logits (n, classes, ...) and class numbers (n, ...) int64, or probabilities in the shape of the logits as float."
    ),
    "NLLLoss": replace(
        _LABELS, head="log_softmax", notes="As CrossEntropyLoss on log-probabilities: the model ends in log_softmax(dim=1). Class numbers only."
    ),
    "NLLLoss2d": replace(_LABELS, head="log_softmax", notes="The old name of NLLLoss."),
    "LinearCrossEntropyLoss": replace(
        _LABELS, notes="Takes features (n, in_features) and holds the last linear layer itself: it is trained, saved and used to predict."
    ),
    "AdaptiveLogSoftmaxWithLoss": replace(
        _LABELS,
        head="log_softmax",
        mean_over="rows",
        class_weights=None,
        notes="Takes features (n, in_features) and holds the softmax itself: it is trained, saved, and predicts by its log_prob.",
    ),
    "MultiMarginLoss": replace(
        _LABELS,
        mean_over="rows",
        notes="Scores (n, classes) and class numbers (n,). The softmax of its scores ranks classes; it was not fitted as a probability.",
    ),
    "BCELoss": replace(_LOGITS, head="probability", notes="As BCEWithLogitsLoss (the stable form) on probabilities: the model ends in a sigmoid."),
    "BCEWithLogitsLoss": replace(
        _LOGITS,
        class_weights="pos_weight",
        notes="Logits, and targets 0 ... 1 as float in their shape: (n,) or (n, 1) for two classes, (n, labels) for several labels.",
    ),
    "SoftMarginLoss": replace(_LOGITS, target="sign", notes="Logits, and targets -1 or 1 as float in their shape (a table's 0 becomes -1)."),
    "MultiLabelSoftMarginLoss": replace(
        _LOGITS, task="multilabel", mean_over="row elements", notes="Logits (n, labels), and targets 0 or 1 as float in their shape."
    ),
    "MultiLabelMarginLoss": LossKind(
        1, 1, "special", "identity", None, "rows", notes="Scores (n, labels), and targets (n, labels) int64: the numbers of the true labels, then -1."
    ),
    "KLDivLoss": replace(
        _DISTANCE,
        head="log_softmax",
        task=None,
        scales_target=False,
        notes='Log-probabilities against probabilities of their shape; reduction="batchmean" is the divergence, "mean" divides by the classes too.',
    ),
    # sequences and embeddings
    "CTCLoss": LossKind(
        1,
        3,
        "special",
        "identity",
        None,
        "lengths",
        notes="The model returns log-probabilities (time, n, classes). Targets: labels (n, length), input lengths (n,), target lengths (n,).",
    ),
    "CosineEmbeddingLoss": replace(_SIGNS, notes="The model returns two embeddings (n, size); targets -1 or 1 (n,)."),
    "MarginRankingLoss": replace(_SIGNS, notes="The model returns two scores of one shape; targets 1 where the first should rank higher, else -1."),
    "HingeEmbeddingLoss": replace(_SIGNS, num_outputs=1, notes="The model returns a distance; targets 1 (alike) or -1, in its shape."),
    "TripletMarginLoss": _TRIPLET,
    "TripletMarginWithDistanceLoss": _TRIPLET,
}

LOSS_PREFIX = "loss:"  # before the names of the weights of a loss that has its own, where they stand beside the model's

LOSSES: dict[str, LossKind] = {name: kind for name, kind in _KINDS.items() if hasattr(nn, name)}  # LinearCrossEntropyLoss came with torch 2.13

# torch.nn.functional has the same losses as functions; one of them given as `loss=` is understood as its class with the same arguments.
_FUNCTIONS: dict[Any, str] = {
    getattr(F, function): name
    for function, name in {
        "mse_loss": "MSELoss",
        "l1_loss": "L1Loss",
        "smooth_l1_loss": "SmoothL1Loss",
        "huber_loss": "HuberLoss",
        "gaussian_nll_loss": "GaussianNLLLoss",
        "poisson_nll_loss": "PoissonNLLLoss",
        "cross_entropy": "CrossEntropyLoss",
        "nll_loss": "NLLLoss",
        "multi_margin_loss": "MultiMarginLoss",
        "binary_cross_entropy": "BCELoss",
        "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
        "soft_margin_loss": "SoftMarginLoss",
        "multilabel_soft_margin_loss": "MultiLabelSoftMarginLoss",
        "multilabel_margin_loss": "MultiLabelMarginLoss",
        "kl_div": "KLDivLoss",
        "ctc_loss": "CTCLoss",
        "cosine_embedding_loss": "CosineEmbeddingLoss",
        "margin_ranking_loss": "MarginRankingLoss",
        "hinge_embedding_loss": "HingeEmbeddingLoss",
        "triplet_margin_loss": "TripletMarginLoss",
        "triplet_margin_with_distance_loss": "TripletMarginWithDistanceLoss",
    }.items()
}


# -- making ----------------------------------------------------------------------------------------------------------------------------------------------------


def make_loss(spec: Any, *, class_weights: Tensor | None = None, per_example: bool = False) -> Loss:
    """The loss that `spec` stands for: a torch name, a class, an instance or function (as it is), or a table `{"name": any of these, **arguments}`.

    `class_weights`, one number a class, goes to the argument the loss has for it (`weight`, or `pos_weight` of BCEWithLogitsLoss). `per_example=True` gives the
    loss with `reduction="none"`, for sample weights; a function must return a value per example itself, which `mean_with_weights` checks.
    Raises SettingsError for an unknown name (with the nearest spelling), arguments the loss does not take, or class weights it has no place for.

    >>> make_loss({"name": "HuberLoss", "delta": 2.0})
    HuberLoss()
    """
    arguments: dict[str, Any] = {}
    if isinstance(spec, Mapping):
        arguments = dict(spec)
        if "name" not in arguments:
            raise SettingsError(f'loss={dict(spec)!r} has no "name". Write it as {{"name": "HuberLoss", "delta": 1.0}}.')
        spec = arguments.pop("name")
    if isinstance(spec, str):
        spec = _torch_loss(spec)
    name = loss_name(spec)
    if class_weights is not None:
        place = None if name is None else LOSSES[name].class_weights
        if place is None or not (inspect.isclass(spec) or spec in _FUNCTIONS):
            where = name or getattr(spec, "__name__", type(spec).__name__)
            why = "was given as an instance, which holds its own weights" if place is not None else "has no argument for class weights"
            raise SettingsError(
                f"class_weights={class_weights.tolist()} cannot be used: the loss {where} {why}, so they would have been ignored. "
                "Leave them out, or name a loss that takes them: " + ", ".join(known for known, kind in LOSSES.items() if kind.class_weights) + "."
            )
        if place in arguments:
            raise SettingsError(f"Class weights are given twice: class_weights= and {place}= of {name}. Leave one of them out.")
        arguments[place] = class_weights
    if name is not None:
        asked = arguments.get("reduction", _option(spec, "reduction", "mean"))
        if asked == "none" and not per_example:
            raise SettingsError(
                f'{name} with reduction="none" gives a value per example, and one number is needed to go backward from. Leave out reduction=; '
                "for a weighted mean give sample weights (weight=), which set it themselves."
            )
        if per_example and asked not in ("mean", "none"):
            raise SettingsError(
                f'{name} with reduction="{asked}" has no weighted mean: sample weights (weight=) need a value per example, and their mean is taken by weight. '
                'Leave out reduction=, or use reduction="mean".'
            )
    if inspect.isclass(spec):
        if per_example and (name == "NLLLoss2d" or "reduction" in inspect.signature(spec).parameters):  # NLLLoss2d takes *args, **kwargs
            arguments["reduction"] = "none"
        return _construct(spec, arguments)
    if not callable(spec):
        raise SettingsError(
            f'loss={spec!r} is no loss. Give a torch name ("HuberLoss"), a class, an instance, a table {{"name": ...}} or a function loss(outputs, targets).'
        )
    if arguments and isinstance(spec, nn.Module):
        raise SettingsError(
            f"loss: {type(spec).__name__} is an instance already, so {', '.join(arguments)} cannot be passed to it. Put the class in its place."
        )
    if per_example and name is not None:
        if isinstance(spec, nn.Module):
            if hasattr(spec, "reduction"):
                spec = copy.copy(spec)  # shallow: a loss with parameters of its own keeps these very parameters
                spec.reduction = "none"  # type: ignore[assignment]
        else:
            arguments["reduction"] = "none"
    return functools.partial(spec, **arguments) if arguments else spec


def auto_loss(task: str | None, output_shape: Sequence[int]) -> str:
    """The loss of a task: MSELoss; CrossEntropyLoss; for two classes CrossEntropyLoss where the model has two outputs, else BCEWithLogitsLoss; several labels
    BCEWithLogitsLoss. Several numbers (a regression with several targets) are one MSELoss over all of them. `output_shape` is the model's, batch axis first.

    >>> auto_loss("binary", (32, 1))
    'BCEWithLogitsLoss'
    """
    width = output_shape[-1] if len(output_shape) > 1 else 1
    if task == "regression":
        return "MSELoss"
    if task == "multiclass" or (task == "binary" and width == 2):
        return "CrossEntropyLoss"
    if task in ("binary", "multilabel"):
        return "BCEWithLogitsLoss"
    raise SettingsError(
        'loss="auto" needs a task, and these targets do not tell one (float: regression; int64: classes; 0/1 in several columns: labels). '
        'Name the loss, for example loss="MSELoss".'
    )


def loss_name(loss: Any) -> str | None:
    """The torch.nn name of a loss (an instance, a class, a function of torch.nn.functional or a partial of one); None for a loss of the user's own.

    A subclass counts as its parent only while it keeps the parent's forward: a focal loss that derives from CrossEntropyLoss has a mean of its own.
    """
    if isinstance(loss, functools.partial):
        loss = loss.func
    if isinstance(loss, nn.Module) or inspect.isclass(loss):
        cls: Any = loss if inspect.isclass(loss) else type(loss)
        for parent in cls.__mro__:
            if parent.__name__ in LOSSES and torch_class(parent.__name__) is parent:
                return parent.__name__ if cls.forward is parent.forward else None
        return None
    try:
        return _FUNCTIONS.get(loss)
    except TypeError:  # a callable that cannot be hashed is none of torch's
        return None


def kind_of(loss: Any) -> LossKind | None:
    """What `LOSSES` says of this loss, with what its arguments change (PoissonNLLLoss(log_input=False) predicts the rate itself). None: the user's own."""
    name = loss_name(loss)
    if name is None:
        return None
    kind = LOSSES[name]
    if name == "PoissonNLLLoss" and not _option(loss, "log_input", True):
        kind = replace(kind, head="identity")
    return kind


def _torch_loss(name: str) -> type[nn.Module]:
    if name in LOSSES:
        return torch_class(name)
    plain = {known.lower().removesuffix("loss"): known for known in LOSSES} | {known.lower(): known for known in LOSSES}
    near = difflib.get_close_matches(name.lower().replace("_", ""), plain, n=1, cutoff=0.4)
    hint = f' Did you mean "{plain[near[0]]}"?' if near else ""
    raise SettingsError(f'loss="{name}" is no loss of torch.nn.{hint} There are: {", ".join(LOSSES)}. A loss of your own is given as a function or class.')


def torch_class(name: str) -> Any:
    return getattr(nn, name)


def _construct(cls: Any, arguments: dict[str, Any]) -> Loss:
    try:
        return cls(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        takes = ", ".join(name for name in inspect.signature(cls).parameters if name not in ("size_average", "reduce", "device", "dtype"))
        raise SettingsError(f"{cls.__name__} cannot be built from {arguments or 'no arguments'}: {error}. It takes: {takes}.") from error


def _option(loss: Any, name: str, default: Any) -> Any:
    """An argument of a loss: an attribute of a module, a keyword of a partial, or torch's default."""
    if isinstance(loss, functools.partial):
        return loss.keywords.get(name, default)
    return default if inspect.isclass(loss) else getattr(loss, name, default)


# -- feeding ---------------------------------------------------------------------------------------------------------------------------------------------------


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
        if _option(loss, "reduction", "mean") not in ("mean", "none"):
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


# -- weighing --------------------------------------------------------------------------------------------------------------------------------------------------


def batch_weight(loss: Loss, targets: Sequence[Any], *, weights: Tensor | None = None, num_examples: int | None = None) -> float | Tensor | None:
    """What the loss's mean over these targets is a mean of: elements, examples, or the class weights of all labels not ignored. None: the loss is a sum.

    The mean over a batch is `sum(part_mean * part_weight) / sum(part_weight)`; a part of weight 0 has no mean (0/0) and is left out.
    `weights` are sample weights: then it is the divisor of `mean_with_weights`. `num_examples` is needed where there are no targets (TripletMarginLoss).
    A function of the user's own counts as a mean over examples. A number on the CPU; on an accelerator labels give a 0-d tensor that has not been waited for.

    >>> batch_weight(nn.CrossEntropyLoss(ignore_index=0), (torch.tensor([0, 2, 1, 0]),))
    2.0
    """
    kind = kind_of(loss)
    if weights is None and kind is not None and _option(loss, "reduction", "mean") == "sum":
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
    if kind.mean_over == "rows" or _option(loss, "reduction", "mean") == "batchmean":
        return float(_rows(target))
    if kind.mean_over == "row elements":
        return float(target.numel() // max(target.shape[-1], 1)) if target.dim() else 1.0
    return float(target.numel())


def _label_weights(loss: Any, target: Tensor) -> Tensor:
    """For each class number its class weight (1 where there are none), 0 where it is ignored."""
    counted = _counted(loss, target)
    class_weights = _option(loss, "weight", None)
    if class_weights is None:
        return counted.to(_exact(target))
    picked = class_weights.to(_exact(target))[torch.where(counted, target, 0)]
    return torch.where(counted, picked, 0.0)


def _counted(loss: Any, target: Tensor) -> Tensor:
    """Which class numbers are not ignored."""
    ignored = _option(loss, "ignore_index", -100)
    return target != (-100 if ignored is None else ignored)  # LinearCrossEntropyLoss writes None for -100


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


# -- targets ---------------------------------------------------------------------------------------------------------------------------------------------------


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

    >>> print(shape_problem(nn.MSELoss(), torch.zeros(32, 1), (torch.zeros(32),)))
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
    counted = target[_counted(loss, target)] if LOSSES[name].mean_over == "labels" else target
    low, high = (int(counted.min()), int(counted.max())) if counted.numel() else (0, 0)
    if low < 0 or high >= num_classes:
        hint = f" The model needs {high + 1} outputs for labels up to {high}." if low >= 0 else ""
        hint = f" Labels 1 to {num_classes} start at 1: subtract 1." if low == 1 and high == num_classes else hint
        return f"{name} over {num_classes} classes takes class numbers 0 to {num_classes - 1}, and these targets run from {low} to {high}.{hint}"
    class_weights = _option(loss, "weight", None)
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
    pos_weight = _option(loss, "pos_weight", None)
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
    if name == "KLDivLoss" and not _option(loss, "log_target", False) and low < 0:
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
        blank = _option(loss, "blank", 0)
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
