"""What happens inside a forward or a loss: which torch functions are called on what, and which operation an output comes from.

Enters: a model or loss that is run under `Recorder`. Leaves: a list of calls, in order. It is a torch function mode, so `nn.ReLU`, `F.relu`, `torch.relu` and
`x.relu()` look the same, a layer hidden in a plain function is seen, and nothing is patched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Views and copies: they move an activation about and change none of its values.
VIEWS = (
    "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Permute", "T", "Clone", "Alias", "Slice", "Select", "Expand", "ToCopy", "Contiguous",
    "Cat", "Stack", "Unbind", "Split", "Index", "Movedim", "AsStrided", "Swapaxes", "Narrow", "Flatten", "Unflatten", "Chunk",
)  # fmt: skip
WEIGHT_OPERATIONS = ("linear", "conv1d", "conv2d", "conv3d", "matmul", "mm", "bmm", "addmm", "baddbmm", "gru", "lstm", "rnn_tanh", "rnn_relu", "bilinear", "einsum",
                     "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "multi_head_attention_forward", "__matmul__", "__rmatmul__")  # fmt: skip
RELUS = ("relu", "relu_", "relu6", "threshold")
KEPT = {
    *WEIGHT_OPERATIONS, *RELUS, "clamp", "clamp_", "clamp_min", "clamp_max", "hardtanh", "tanh", "tanh_", "sigmoid", "sigmoid_", "softmax", "log_softmax", "softplus",
    "softmin", "hardsigmoid", "logsigmoid", "embedding", "dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
    "layer_norm", "group_norm", "instance_norm", "batch_norm", "rms_norm", "normalize", "mean", "std", "var", "norm", "sum", "amax", "max", "argmax",
    "randn", "rand", "randn_like", "rand_like", "normal", "normal_", "bernoulli", "bernoulli_", "multinomial", "randint", "randperm", "uniform_",
    "gumbel_softmax", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_", "trunc_normal_", "orthogonal_", "median",
    "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
    "multilabel_soft_margin_loss", "soft_margin_loss", "gaussian_nll_loss", "poisson_nll_loss", "kl_div", "hinge_embedding_loss", "log", "sub",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call of a torch function: its name, what it was given and what it returned."""

    name: str
    module: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    position: int

    def get(self, name: str, place: int, default: Any = None) -> Any:
        """An argument by keyword or by place."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[place] if len(self.args) > place else default

    @property
    def input(self) -> Any:
        return self.args[0] if self.args else self.kwargs.get("input", self.kwargs.get("tensor"))


class Recorder(TorchFunctionMode):
    """Records the calls in KEPT. `replace={position: value}` puts a constant in place of that call's result, to see what a later bound would give."""

    def __init__(self, replace: dict[int, float] | None = None):
        super().__init__()
        self.calls: list[Call] = []
        self.replace = replace or {}
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        try:
            result = func(*args, **kwargs)
        except Exception:
            if name in KEPT:  # what a loss refused is worth knowing: labels out of range, shapes that do not fit
                self.calls.append(Call(name, getattr(func, "__module__", None) or "", args, kwargs, None, self.count))
            raise
        if name in KEPT:
            position = self.count
            self.count += 1
            if position in self.replace and isinstance(result, Tensor):
                result = torch.full_like(result, self.replace[position])
            self.calls.append(Call(name, getattr(func, "__module__", None) or "", args, kwargs, result, position))
        return result

    def named(self, *names: str) -> list[Call]:
        return [call for call in self.calls if call.name in names]


def node_name(node: Any) -> str:
    """`ReluBackward0` -> `Relu`."""
    return type(node).__name__.split("Backward")[0]


def last_operations(output: Tensor) -> set[str]:
    """The names of the operations that an output comes from, seen through views, copies and concatenation: {"Relu"}, {"Sigmoid"}, {"Addmm"}.

    Empty where the output has no graph (all parameters frozen, or the gradient cut).
    """
    found: set[str] = set()
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node_name(node) in VIEWS:
            waiting += [following for following, _ in node.next_functions]
        else:
            found.add(node_name(node))
    return found


def through_constants(output: Tensor) -> set[str]:
    """As `last_operations`, also seen through multiplication and addition of constants: {"Sigmoid"} for `10 * torch.sigmoid(x) - 5`."""
    found: set[str] = set()
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        following = [successor for successor, _ in node.next_functions if successor is not None]
        if node_name(node) in VIEWS or (
            node_name(node) in ("Mul", "Add", "Sub", "Div", "Neg", "Rsub")
            and len(following) == 1
            and node_name(following[0]) != "torch::autograd::AccumulateGrad"
        ):
            waiting += following
        else:
            found.add(node_name(node))
    return found


def weight_depth(output: Tensor) -> int:
    """The most weight layers (linear, convolution, matrix product) on one path from the parameters to the output: 2 for Linear-ReLU-Linear."""
    depth: dict[Any, int] = {}
    stack: list[tuple[Any, bool]] = [(output.grad_fn, False)]
    while stack:
        node, returning = stack.pop()
        if node is None or (node in depth and not returning):
            continue
        following = [successor for successor, _ in node.next_functions if successor is not None]
        if not returning:
            depth.setdefault(node, 0)
            stack.append((node, True))
            stack += [(successor, False) for successor in following if successor not in depth]
        else:
            own = node_name(node) in ("Addmm", "Mm", "Bmm", "Convolution", "Baddbmm", "Linear", "Addmv", "Mv", "MkldnnLinear")
            depth[node] = own + max((depth.get(successor, 0) for successor in following), default=0)
    return depth.get(output.grad_fn, 0)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors of a nest of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "__dict__") and hasattr(value, "to_tuple"):  # Hugging Face outputs
        yield from tensors_in(value.to_tuple())
