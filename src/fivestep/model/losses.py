"""The losses of torch.nn, what distinguishes them, and a loss made from what the user wrote. Kernel: imports only torch, the standard library, `errors`.

Enters: a loss as the user wrote it (a torch name, a class, an instance, a table, a function), or the task that asks for one. Leaves: the loss, its name and its
kind. The decision that shaped it: one table (`LOSSES`) says everything that differs between losses; how they are called and what their mean is over
(`loss_means`), and what they take (`loss_targets`), is read from it.
"""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fivestep.errors import SettingsError

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
        asked = arguments.get("reduction", argument_of(spec, "reduction", "mean"))
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
    if name == "PoissonNLLLoss" and not argument_of(loss, "log_input", True):
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


def argument_of(loss: Any, name: str, default: Any) -> Any:
    """An argument of a loss: an attribute of a module, a keyword of a partial, or torch's default."""
    if isinstance(loss, functools.partial):
        return loss.keywords.get(name, default)
    return default if inspect.isclass(loss) else getattr(loss, name, default)


def counted_labels(loss: Any, target: Tensor) -> Tensor:
    """Which class numbers are not ignored."""
    ignored = argument_of(loss, "ignore_index", -100)
    return target != (-100 if ignored is None else ignored)  # LinearCrossEntropyLoss writes None for -100
