"""A step of a run as a graph of plain aten calls: what it changes, and the five steps as one function of tensors. Kernel: imports only torch and other kernel modules.

Enters: model, loss, optimizers and one batch. Leaves: a graph `(state, rates, batch, outside) -> (state, loss)` without a side effect, or `CannotCompile` with the
reason in the user's words. The decision that shaped it: what is captured is the optimizer's own `step`, so every optimizer that torch can trace works.
"""

from __future__ import annotations

import contextlib
import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fivestep.data.batches import Batch
from fivestep.train import loop

BRANCHING = ("RAdam", "ASGD")  # these decide by their counts unless "capturable"; for the others the formula without it is the eager one


class CannotCompile(Exception):
    """Why this run stays eager, as the end of the sentence "compile=...: stays eager, because ..."."""


@dataclass
class Parts:
    """What of a run takes part in a step: objects that change in place, so the same ones that the eager loop has."""

    model: nn.Module
    loss_module: nn.Module | None
    optimizer: Any  # torch's own, or several in `.named`
    loss: Callable[..., Any]
    compute: Callable[..., Any] | None = None
    schedule: Any = None  # of the run; its `.every` says whether it moves with the steps
    average: Any = None
    clipping: tuple[list[nn.Parameter], float | None, float | None] | None = None
    autocast: contextlib.AbstractContextManager[Any] = loop.OFF
    scaler: Any = None
    frozen: Sequence[nn.Module] = ()

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        return list(getattr(self.optimizer, "named", {"": self.optimizer}).values())

    @property
    def groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups  # `Optimizers` gives those of all, in order

    @property
    def modules(self) -> list[nn.Module]:
        return [self.model] if self.loss_module is None else [self.model, self.loss_module]


@dataclass(frozen=True)
class Slots:
    """Where the tensors live that a step changes: weights, buffers, the optimizers' state, the average. `live()` gives them in this order."""

    parts: Parts
    weights: tuple[nn.Parameter, ...]
    weight_names: tuple[tuple[int, str], ...]  # (number of the module, name)
    buffer_names: tuple[tuple[int, str], ...]
    state_names: tuple[tuple[int, int, str], ...]  # (number of the optimizer, number of the weight, key)

    @classmethod
    def of(cls, parts: Parts, changed_buffers: set[tuple[int, str]] | None = None) -> Slots:
        names = {id(parameter): (number, name) for number, module in enumerate(parts.modules) for name, parameter in module.named_parameters()}
        weights = [parameter for group in parts.groups for parameter in group["params"]]
        if any(id(weight) not in names for weight in weights):
            raise CannotCompile("the optimizer moves weights that are not among the model's parameters")
        buffers = [(number, name) for number, module in enumerate(parts.modules) for name, _ in module.named_buffers()]
        states = []
        for number, optimizer in enumerate(parts.optimizers):
            for position, weight in enumerate(weights):
                states += [(number, position, key) for key, value in optimizer.state.get(weight, {}).items() if isinstance(value, Tensor)]
        kept = tuple(name for name in buffers if changed_buffers is None or name in changed_buffers)
        return cls(parts, tuple(weights), tuple(names[id(weight)] for weight in weights), kept, tuple(states))

    @property
    def has_average(self) -> bool:
        return self.parts.average is not None and self.parts.average.name == "EMA"

    def ready(self) -> bool:
        """Whether the optimizers have the state that was captured; they make it in the first step of a run."""
        optimizers = self.parts.optimizers
        return all(key in optimizers[number].state.get(self.weights[position], {}) for number, position, key in self.state_names)

    def live(self) -> list[Tensor]:
        """The tensors themselves, looked up anew: a restored checkpoint may have put others in their place."""
        modules, optimizers = self.parts.modules, self.parts.optimizers
        found: list[Tensor] = [weight.detach() for weight in self.weights]
        found += [modules[number].get_buffer(name) for number, name in self.buffer_names]
        found += [optimizers[number].state[self.weights[position]][key] for number, position, key in self.state_names]
        return found + (list(self.parts.average.averaged) if self.has_average else [])

    def rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.parts.groups]

    def other_options(self) -> list[dict[str, Any]]:
        """What a graph holds as constants: all options of the groups but the rate."""
        return [{key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr")} for group in self.parts.groups]


def widened(tensor: Tensor) -> Tensor:
    """Counts and rates of an optimizer in float64 inside a chunk: `1 - beta**step` is Python arithmetic in the eager step (float32 was off by 6e-5 at step 1)."""
    return tensor.double() if tensor.dim() == 0 and tensor.is_floating_point() else tensor


class RatesAsTensors(TorchFunctionMode):
    """torch's update rules give the rate as `alpha=` or `value=`, which must be numbers; here it is a tensor, so the product is written out."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if name in ("add", "add_", "sub", "sub_") and isinstance(kwargs.get("alpha"), Tensor):
            args = (args[0], args[1] * kwargs.pop("alpha"))
        elif name in ("addcmul", "addcmul_", "addcdiv", "addcdiv_") and isinstance(kwargs.get("value"), Tensor):
            args = (args[0], args[1] * kwargs.pop("value"), args[2])
        return function(*args, **kwargs)


@contextlib.contextmanager
def moved_weights(optimizer: torch.optim.Optimizer, fresh: dict[int, Tensor], state: Any, rates: Sequence[Tensor]) -> Iterator[None]:
    """The optimizer holds other weights, state and rates inside, and its own again afterwards."""
    own_state, own_groups = optimizer.state, [dict(group) for group in optimizer.param_groups]
    try:
        optimizer.state = state
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["params"] = [fresh[id(parameter)] for parameter in group["params"]]
            group["lr"] = rate
            group |= {key: False for key in ("foreach", "fused") if key in group}
            if "capturable" in group and (rate.device.type == "cuda" or type(optimizer).__name__ in BRANCHING):
                group["capturable"] = True  # torch's word for: no decision by a tensor's value
        yield
    finally:
        optimizer.state = own_state
        for group, own in zip(optimizer.param_groups, own_groups, strict=True):
            group.clear()
            group.update(own)


@contextlib.contextmanager
def as_if_compiling() -> Iterator[None]:
    """torch's optimizers read counts as numbers (`.item()`) unless they are being compiled."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def plain_step(optimizer: torch.optim.Optimizer) -> Callable[..., Any]:
    """The class's own `step` without torch's wrapper for profiles and hooks."""
    function = type(optimizer).step
    return getattr(function, "__wrapped__", function) if getattr(function, "hooked", False) else function


def step_function(slots: Slots, spec: Any, constants: Sequence[Any], changed: set[tuple[int, str]]) -> Callable[..., list[Tensor]]:
    """`step(*state, rates, *batch) -> [*state, loss]`: the five steps without a side effect. Fills `changed` with the buffers that forward changes."""
    parts, num_weights, num_buffers = slots.parts, len(slots.weights), len(slots.buffer_names)
    num_state, num_averaged = len(slots.state_names), len(parts.average.averaged) if slots.has_average else 0
    total = num_weights + num_buffers + num_state + num_averaged
    from torch.nn.utils.stateless import _reparametrize_module

    def step(*flat: Tensor) -> list[Tensor]:
        state, rates, tensors = flat[:total], flat[total], iter(flat[total + 1 :])
        inputs, targets, weights = pytree.tree_unflatten([next(tensors) if item is Tensor else item for item in constants], spec)
        named: list[dict[str, Tensor]] = [{} for _ in parts.modules]
        leaves = [tensor.clone().requires_grad_() for tensor in state[:num_weights]]
        buffers = [tensor.clone() for tensor in state[num_weights : num_weights + num_buffers]]
        for (number, name), tensor in zip((*slots.weight_names, *slots.buffer_names), (*leaves, *buffers)):
            named[number][name] = tensor
        versions = [buffer._version for buffer in buffers]
        with contextlib.ExitStack() as stack, torch.enable_grad():
            for module, mine in zip(parts.modules, named):
                stack.enter_context(_reparametrize_module(module, mine, tie_weights=True))
            stack.enter_context(parts.autocast)
            if parts.compute is None:
                outputs = loop.forward(parts.model, inputs)  # 1. forward
                value = parts.loss(outputs, targets) if weights is None else parts.loss(outputs, targets, weights)  # 2. loss
            else:
                value = parts.compute(parts.model, inputs, targets)  # 1. and 2. in the user's own function
            if isinstance(value, tuple):
                value = value[0] / value[1]
        new_buffers = [named[number][name] for number, name in slots.buffer_names]
        changed.update(name for name, old, new, version in zip(slots.buffer_names, buffers, new_buffers, versions) if new is not old or new._version != version)
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)  # 3. and 4. gradients that start from nothing
        with torch.no_grad():
            fresh = [leaf.detach().clone() for leaf in leaves]
            for weight, gradient in zip(fresh, gradients):
                weight.grad = gradient
            if parts.clipping is not None:
                _, clip_norm, clip_value = parts.clipping  # as precision.clip, without foreach: its norms have no compiled form
                if clip_value is not None:
                    torch.nn.utils.clip_grad_value_(fresh, clip_value, foreach=False)
                if clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(fresh, clip_norm, foreach=False)
            begin = num_weights + num_buffers
            states: list[Any] = [defaultdict(dict) for _ in parts.optimizers]
            for number, optimizer in enumerate(parts.optimizers):
                for weight, old in zip(fresh, slots.weights):
                    if old in optimizer.state:
                        states[number][weight] = {key: item for key, item in optimizer.state[old].items() if not isinstance(item, Tensor)}
            for (number, position, key), tensor in zip(slots.state_names, state[begin : begin + num_state]):
                states[number][fresh[position]][key] = tensor.clone()
            first = 0
            by_id = {id(old): new for old, new in zip(slots.weights, fresh)}
            for optimizer, own in zip(parts.optimizers, states):
                here = rates[first : first + len(optimizer.param_groups)].unbind()
                first += len(here)
                before = numbers_in(own)
                with moved_weights(optimizer, by_id, own, here), as_if_compiling(), RatesAsTensors():
                    options = [{key: item for key, item in group.items() if key != "params"} for group in optimizer.param_groups]
                    plain_step(optimizer)(optimizer)  # 5. step
                    after = [{key: item for key, item in group.items() if key != "params"} for group in optimizer.param_groups]
                if numbers_in(own) != before or any(one[key] is not other[key] for one, other in zip(options, after) for key in one):
                    raise CannotCompile(f"{type(optimizer).__name__} counts in Python what it does, which a graph would freeze")
            new_state = [states[number][fresh[position]][key] for number, position, key in slots.state_names]
            averaged = []
            if slots.has_average:
                now: dict[int, Tensor] = {id(old): new for old, new in zip((*slots.weights, *buffers_of(slots)), (*fresh, *new_buffers))}
                for mine, own in zip(state[begin + num_state :], parts.average.live):
                    moved: Tensor = now[id(own)].detach() if id(own) in now else own.detach()
                    averaged.append(mine.clone().lerp_(moved, 1 - parts.average.decay))
            return [*[weight.detach() for weight in fresh], *new_buffers, *new_state, *averaged, value.detach().clone()]

    return step


def buffers_of(slots: Slots) -> list[Tensor]:
    return [slots.parts.modules[number].get_buffer(name) for number, name in slots.buffer_names]


def numbers_in(state: Any) -> list[tuple[str, Any]]:
    return [(key, item) for entry in state.values() for key, item in entry.items() if not isinstance(item, Tensor)]


def capture(function: Callable[..., list[Tensor]], examples: Sequence[Tensor]) -> tuple[fx.GraphModule, list[Tensor]]:
    """The step as plain aten calls, and the tensors it closes over (frozen weights, class weights), which become inputs after the batch."""
    from torch.fx.experimental.proxy_tensor import make_fx

    try:
        graph = make_fx(function, tracing_mode="real")(*examples)
        if any("mkldnn_rnn" in str(node.target) for node in graph.graph.nodes):
            raise CannotCompile("torch has no compiled form of an LSTM's own kernel on the CPU; nn.GRU has one")
        outside = lift_constants(graph)
        name_what_is_written(graph)
        # Once more without writes in place: the scan refuses lists of tensors that are written to (clipping's foreach).
        return make_fx(torch.func.functionalize(graph, remove="mutations"), tracing_mode="real")(*examples, *outside), outside
    except CannotCompile:
        raise
    except Exception as error:
        raise CannotCompile(why_not_traced(error)) from error


def name_what_is_written(graph: fx.GraphModule) -> None:
    """`native_batch_norm` moves its running statistics without saying so; its sibling says so. Inside a scan they stood still otherwise, without an error."""
    aten = torch.ops.aten
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target is aten.native_batch_norm.default:
            values, weight, bias, mean, variance, *rest = node.args
            legit = aten._native_batch_norm_legit
            node.target, node.args = (
                (legit.no_stats, (values, weight, bias, *rest)) if mean is None else (legit.default, (values, weight, bias, mean, variance, *rest))
            )
    graph.recompile()


def lift_constants(graph: fx.GraphModule) -> list[Tensor]:
    """Tensors that the graph holds become its last inputs, each one once; returns them, live."""
    outside: list[Tensor] = []
    places: dict[Any, fx.Node] = {}
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        value = operator.attrgetter(node.target)(graph)
        if not isinstance(value, Tensor):
            continue
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else id(value)
        if key not in places:
            with graph.graph.inserting_after(last):
                last = places[key] = graph.graph.placeholder(f"outside_{len(outside)}")
            outside.append(value.detach())
        node.replace_all_uses_with(places[key])
        graph.graph.erase_node(node)
    graph.recompile()
    return outside


def why_not_traced(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "_local_scalar_dense" in text or "data-dependent" in text.lower() or "trying to get value out of a tracing" in text:
        return (
            "forward, loss or optimizer decide by the value of a tensor (an if, .item(), a mask of unknown size), and a graph would freeze the first decision. "
            "torch.where says the same without a branch"
        )
    return f"torch cannot trace it: {type(error).__name__}: {text[:200]}"


def traced(
    slots: Slots, spec: Any, constants: Sequence[Any], changed: set[tuple[int, str]], batch: Batch, device: torch.device
) -> tuple[fx.GraphModule, list[Tensor], list[Tensor]]:
    rates = torch.tensor(slots.rates(), dtype=torch.float64, device=device)
    examples = [*[widened(tensor.detach()).clone() for tensor in slots.live()], rates, *tensors_in(batch)]
    graph, outside = capture(step_function(slots, spec, constants, changed), examples)
    return graph, outside, examples


def tensors_in(batch: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tuple(batch)) if isinstance(leaf, Tensor)]
