"""How the outputs of a model are read that was trained with a loss. Kernel: imports only torch, the standard library, `errors` and kernel modules.

Enters: outputs, and the loss by which they were trained. Leaves: labels, probabilities, values in the target's own unit. The decision that shaped it: everything
that is needed to read them is plain values (`Decoding`), so that a saved model is read as the trained one is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from fivestep.errors import ArtifactError, UsageError
from fivestep.model.losses import LOSSES, Outputs, kind_of, loss_name, torch_class

HEADS = ("identity", "softmax", "sigmoid", "log_softmax", "probability", "exp")
TASKS = ("regression", "binary", "multiclass", "multilabel", None)


@dataclass(frozen=True)
class Decoding:
    """From a model's outputs to what its user asked for: labels, probabilities, values in the target's own unit.

    `head` is that of `LossKind`. `classes` are the labels in the order of the outputs, None where classes are numbers. A standardised target is
    `value = output * target_scale + target_center`, one of each a target. `temperature` divides the logits (fitted on validation). All maths in float64.
    Where the model returns several outputs the first one is the prediction (GaussianNLLLoss: the mean).
    """

    head: str = "identity"
    task: str | None = None
    classes: tuple[str | int | float | bool, ...] | None = None
    target_center: tuple[float, ...] | None = None
    target_scale: tuple[float, ...] | None = None
    temperature: float = 1.0
    target_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise UsageError(f"head={self.head!r} is not known; there are {', '.join(HEADS)}.")
        if self.task not in TASKS:
            raise UsageError(f"task={self.task!r} is not known; there are regression, binary, multiclass, multilabel and None.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"temperature={self.temperature!r} must be a number above 0: it divides the logits.")
        if (self.target_center is None) != (self.target_scale is None) or len(self.target_center or ()) != len(self.target_scale or ()):
            raise UsageError("target_center and target_scale go together, one number of each a target.")
        if not all(map(math.isfinite, (*(self.target_center or ()), *(self.target_scale or ())))):
            raise UsageError(f"target_center={self.target_center} and target_scale={self.target_scale} must be finite.")

    def probabilities(self, outputs: Outputs) -> Tensor:
        """Probabilities in float64: (n, 2) for two classes whatever the model's width, (n, classes, ...), or (n, labels) one by one for several labels."""
        first = _first(outputs)
        if self.head in ("softmax", "log_softmax"):
            axis = 1 if first.dim() > 1 else -1
            return first.exp() if self.head == "log_softmax" and self.temperature == 1.0 else (first / self.temperature).softmax(axis)
        if self.head not in ("sigmoid", "probability"):
            raise UsageError(
                f'These outputs are read by "{self.head}" (task: {self.task}): they hold no probabilities. Ask for values, or train with a loss of classes.'
            )
        if self.head == "probability" and self.temperature == 1.0:
            positive, negative = first, 1 - first
        else:
            logits = self._logits(first)
            positive, negative = logits.sigmoid(), (-logits).sigmoid()  # 1 - sigmoid(x) has no digits left beyond x = 37
        if self.task == "multilabel":
            return positive
        positive, negative = (value.squeeze(-1) if value.dim() > 1 and value.shape[-1] == 1 else value for value in (positive, negative))
        return torch.stack([negative, positive], 1 if positive.dim() else 0)

    def labels(self, outputs: Outputs) -> Any:
        """The most probable class of each example: a list of labels where `classes` are known, else class numbers int64 (n, ...).

        Several labels give 0 and 1 (n, labels). Of two equally probable classes the first. The temperature does not change a label.
        """
        first = _first(outputs)
        if self.task not in ("binary", "multiclass", "multilabel"):
            raise UsageError(f"A model of task {self.task!r} has no labels; ask for values.")
        if self.head in ("softmax", "log_softmax") or self.head in ("identity", "exp"):
            numbers = first.argmax(1 if first.dim() > 1 else -1)
        else:
            numbers = (first > (0.5 if self.head == "probability" else 0.0)).long()
            if self.task == "multilabel":
                return numbers
            numbers = numbers.squeeze(-1) if numbers.dim() > 1 and numbers.shape[-1] == 1 else numbers
        return numbers if self.classes is None else _named(numbers.tolist(), self.classes)

    def values(self, outputs: Outputs) -> Tensor:
        """The prediction in the target's own unit, float64, in the shape of the model's first output. Without a task (embeddings) the outputs themselves."""
        first = _first(outputs)
        if self.task is None:
            return first
        if self.head == "exp":
            first = first.exp()
        elif self.head == "sigmoid":
            first = self._logits(first).sigmoid()
        elif self.head in ("softmax", "log_softmax"):
            first = self.probabilities(first)
        if self.target_center is None or self.target_scale is None:
            return first
        if len(self.target_center) == 1:
            return first * self.target_scale[0] + self.target_center[0]
        return first * first.new_tensor(self.target_scale) + first.new_tensor(self.target_center)

    def _logits(self, first: Tensor) -> Tensor:
        logits = torch.logit(first) if self.head == "probability" else first
        return logits if self.temperature == 1.0 else logits / self.temperature

    def to_json(self) -> dict[str, Any]:
        """Strings, numbers and lists only; `from_json` gives an equal Decoding."""
        return {field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value for field in fields(self)}

    @classmethod
    def from_json(cls, entry: Any) -> Decoding:
        """The Decoding that `to_json` wrote. Raises ArtifactError for anything else: unknown or missing keys, wrong types, values that mean nothing."""
        names = {field.name for field in fields(cls)}
        if not isinstance(entry, dict) or set(entry) != names:
            found = sorted(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
            raise ArtifactError(f"The decoding of outputs must have exactly the keys {sorted(names)}; found {found}.")
        for name, item_types in (
            ("classes", (str, int, float, bool)),
            ("target_center", (float, int)),
            ("target_scale", (float, int)),
            ("target_names", (str,)),
        ):
            value, may_be_null = entry[name], name != "target_names"
            if not (isinstance(value, list) and all(type(item) in item_types for item in value)) and not (value is None and may_be_null):
                kinds = "/".join(kind.__name__ for kind in item_types)
                raise ArtifactError(f"decoding.{name}={_shortened(value)} must be a list of {kinds}{' or null' if may_be_null else ''}.")
        if type(entry["head"]) is not str or type(entry["task"]) not in (str, type(None)) or type(entry["temperature"]) not in (float, int):
            raise ArtifactError("decoding.head must be text, decoding.task text or null, decoding.temperature a number.")
        classes = None if entry["classes"] is None else tuple(entry["classes"])
        if classes is not None and (
            len({(type(label), label) for label in classes}) != len(classes) or not all(math.isfinite(label) for label in classes if type(label) is float)
        ):
            raise ArtifactError(f"decoding.classes={_shortened(list(classes))} names a class twice, or one that is not finite.")
        try:
            center, scale = (None if entry[name] is None else tuple(map(float, entry[name])) for name in ("target_center", "target_scale"))
            return cls(entry["head"], entry["task"], classes, center, scale, float(entry["temperature"]), tuple(entry["target_names"]))
        except (UsageError, OverflowError) as error:
            raise ArtifactError(f"The decoding of outputs means nothing: {error}") from error


def decoding_for(
    loss: Any,
    task: str | None = None,
    *,
    output_shape: Sequence[int] | None = None,
    classes: Sequence[Any] | None = None,
    target_center: Sequence[float] | float | None = None,
    target_scale: Sequence[float] | float | None = None,
    temperature: float = 1.0,
    target_names: Sequence[str] = (),
) -> Decoding:
    """How outputs of a model trained with `loss` (an instance, a function, or a torch name) are read for `task` (None: the loss's own).

    For a loss of the user's own the task decides: classes are read as logits, numbers as they are. `output_shape` (batch axis first) tells two classes at one
    output from two at two outputs there, and several labels from two classes under BCEWithLogitsLoss.
    """
    kind = LOSSES.get(loss) if isinstance(loss, str) else kind_of(loss)
    width = 1 if output_shape is None or len(output_shape) < 2 else output_shape[-1]
    if task is None and kind is not None:
        task = "multilabel" if kind.task == "binary" and width > 1 else kind.task
    if kind is not None and (kind.head != "identity" or task in ("regression", None)):
        head = kind.head
    else:
        head = "sigmoid" if task == "multilabel" or (task == "binary" and width == 1) else "softmax" if task in ("binary", "multiclass") else "identity"
    return Decoding(
        head,
        task,
        None if classes is None else tuple(_plain(label) for label in classes),
        _floats(target_center),
        _floats(target_scale),
        float(temperature),
        tuple(target_names),
    )


def outputs_from(loss: Any) -> Callable[[Outputs], Tensor] | None:
    """For a loss that holds the model's last layer: the function from the model's features (n, in_features) to what a Decoding reads. None for all others.

    AdaptiveLogSoftmaxWithLoss gives log-probabilities (n, classes), LinearCrossEntropyLoss logits (n, classes, *out_features).
    """
    name = loss_name(loss)
    if name == "AdaptiveLogSoftmaxWithLoss":
        return lambda features: _beside(loss, features, loss.log_prob)
    if name == "LinearCrossEntropyLoss":
        return lambda features: _beside(loss, features, lambda own: loss.linear(own).reshape(-1, loss.num_classes, *loss.out_features))
    return None


def _beside(loss: nn.Module, features: Outputs, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of the features where the loss's own layer lies; the answer where the features lay (collected outputs are on the CPU)."""
    first, own = _first(features, None), next(loss.parameters())
    return function(first.to(own.device, own.dtype)).to(first.device)


def head_to_json(loss: Any) -> dict[str, Any] | None:
    """How to build a loss that holds the model's last layer again, without its weights; None for all others.

    >>> head_to_json(nn.AdaptiveLogSoftmaxWithLoss(6, 4, [2]))["cutoffs"]
    [2]
    """
    name = loss_name(loss)
    if name == "AdaptiveLogSoftmaxWithLoss":
        own = {"in_features": loss.in_features, "n_classes": loss.n_classes, "cutoffs": list(loss.cutoffs[:-1])}
        return {"name": name, **own, "div_value": loss.div_value, "head_bias": loss.head_bias}
    if name == "LinearCrossEntropyLoss":
        own = {"in_features": loss.linear.in_features, "num_classes": loss.num_classes, "out_features": list(loss.out_features)}
        return {"name": name, **own, "bias": loss.linear.bias is not None}
    return None


def head_from_json(entry: Any) -> nn.Module:
    """The inverse of `head_to_json`, on the meta device: it takes no memory until real weights are assigned. Raises ArtifactError for any other entry."""
    fields_of = {
        "AdaptiveLogSoftmaxWithLoss": {"in_features", "n_classes", "cutoffs", "div_value", "head_bias"},
        "LinearCrossEntropyLoss": {"in_features", "num_classes", "out_features", "bias"},
    }
    arguments = dict(entry) if isinstance(entry, Mapping) else {}
    name = arguments.pop("name", None)
    if name not in LOSSES or set(arguments) != fields_of.get(name):
        raise ArtifactError(f"The artifact's loss {str(entry)[:80]!r} is none whose layer this version knows.")
    if "out_features" in arguments:
        arguments["out_features"] = tuple(arguments["out_features"])
    try:
        return torch_class(name)(**arguments, device="meta")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"The artifact's loss {name} cannot be built from {arguments}: {error}") from error


def _first(outputs: Outputs, dtype: torch.dtype | None = torch.float64) -> Tensor:
    """The output that is the prediction, in float64 (in the widest type where the device has none)."""
    first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    return first if dtype is None else first.to(torch.float32 if first.device.type == "mps" else dtype)


def _named(numbers: Any, classes: Sequence[Any]) -> Any:
    return [_named(number, classes) for number in numbers] if isinstance(numbers, list) else classes[numbers]


def _plain(label: Any) -> Any:
    """A label as Python's own type: numpy's and torch's scalars do not go into JSON."""
    return label.item() if hasattr(label, "item") else label


def _floats(values: Any) -> tuple[float, ...] | None:
    if values is None:
        return None
    values = values.tolist() if hasattr(values, "tolist") else values
    return tuple(map(float, values)) if isinstance(values, (list, tuple)) else (float(values),)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
