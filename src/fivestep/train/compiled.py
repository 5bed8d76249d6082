"""The same five steps captured: one step, or a chunk of steps as torch's scan, in one compiled graph. Kernel: imports only torch and other kernel modules.

Enters: model, loss, optimizers and the first batches of a run, before its first step. Leaves: a `Program` that makes steps whose numbers are eager's to rounding,
or `CannotCompile` with the reason in the user's words; then the run stays eager. The decision that shaped it: only whole chunks of full batches are compiled. The
first step of a run (it is where an optimizer makes its state) and the last batches of an epoch that fill no chunk are plain eager steps: a graph of their own
costs seconds, which one step an epoch wins back after 25,000 epochs. What is captured is the optimizer's own `step`, so every optimizer that torch can trace works.
Events, checkpoints, signals and the guard stand at the edges of chunks; which step is in which chunk depends on (epoch, step) only, so a resumed run cuts the same.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import operator
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fivestep import seeds
from fivestep.data.batches import Batch, Stacked
from fivestep.errors import SettingsError
from fivestep.train import loop

WAYS = (None, "step", "epoch", "auto")
LONGEST = 512  # steps of a chunk: the work around a chunk costs about 60 us, which is then 0.1 us a step
WORK = (
    2e9  # multiply-adds of a chunk, about a second on one core: a signal waits that long at most (convolutions use a weight often, so it can be some seconds)
)
SMALL = 16_384  # multiply-adds up to which a product is written as multiply-and-sum: see `write_out_small_products`
CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative, of the first losses of a compiled chunk to the traced steps; half precision 5e-2

BRANCHING = ("RAdam", "ASGD")  # these decide by their counts unless "capturable"; for the others the formula without it is the eager one

# The written sum behind "auto" (never a clock: the weights are a function of settings and data only). SPEED.md: a compile costs 2 to 9 s by size, and what is
# saved on a small model is the Python of a step, 100 us; on a large one more. W1 (two weight tensors, 2.5 s) pays after 25,000 steps. Convolutions bring kernels
# for padding, pooling and their gradients: W4 (two of them) took 20 s of processor time where two layers of an MLP took 3.
SAVED_A_STEP = 100e-6
COMPILE_SECONDS, COMPILE_SECONDS_A_TENSOR, COMPILE_SECONDS_A_CONVOLUTION = 1.5, 0.5, 8.0


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


# -- whether -------------------------------------------------------------------------------------------------------------------------------------------------------


def pays(steps: int, num_tensors: int, num_convolutions: int = 0) -> tuple[bool, str]:
    """Whether compiling wins back its seconds in `steps` steps, and the sum in words. `num_tensors` are all weight tensors of the model.

    >>> pays(24_000, 2)[0], pays(26_000, 2)[0]
    (False, True)
    """
    seconds = COMPILE_SECONDS + COMPILE_SECONDS_A_TENSOR * num_tensors + COMPILE_SECONDS_A_CONVOLUTION * num_convolutions
    needed = math.ceil(seconds / SAVED_A_STEP)
    told = f"{steps:,} steps are planned, and compiling (about {seconds:g} s) pays from {needed:,} steps on"
    return steps >= needed, told


def refuse(parts: Parts, *, user_step: bool, split: bool, device: torch.device) -> None:
    """Raise CannotCompile for what is known before anything is traced."""
    if user_step:
        raise CannotCompile("step= makes the five steps itself, and they are not ours to capture")
    if split:
        raise CannotCompile("part_size= cuts batches into parts whose number and shares are decided in Python")
    if getattr(parts.optimizer, "needs_closure", False):
        raise CannotCompile(f"{type(parts.optimizer).__name__} calls the model in its own step, as often as its line search asks")
    if parts.scaler is not None:
        raise CannotCompile('precision="fp16" decides in each step whether it is skipped; "bf16" needs no such decision')
    if device.type not in ("cpu", "cuda"):
        raise CannotCompile(f"torch compiles no training step for {device.type}")
    for optimizer in parts.optimizers:
        if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            raise CannotCompile(f"{type(optimizer).__name__} has hooks of its own around its step")
    if device.type == "cpu" and (missing := no_compiler()):
        raise CannotCompile(missing)
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise CannotCompile("torch needs the package triton to compile for CUDA, and it is not installed")


def no_compiler() -> str | None:
    """Why torch finds no C++ compiler, or None where it finds one."""
    try:
        from torch._inductor import cpp_builder, exc
    except ImportError as error:
        return f"this torch has no compiler of its own ({error})"
    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, OSError):
        return "torch needs a C++ compiler, and none is found: install g++ (or clang++), or set CXX to one"
    return None


def chunk_length(full_batches: int, num_weights: int, batch_size: int) -> int:
    """Steps of a chunk: at most 512, less for large models, and so that few batches of an epoch are left over.

    >>> chunk_length(312, 9, 32), chunk_length(390, 20_993, 256), chunk_length(3, 9, 32)
    (312, 39, 3)
    """
    longest = max(1, min(LONGEST, int(WORK / (6 * max(1, num_weights) * batch_size)), full_batches))
    fewest = -(-full_batches // longest)
    chunks = min(
        range(fewest, 2 * fewest + 1), key=lambda count: (full_batches % max(1, full_batches // count) if full_batches >= count else full_batches, count)
    )
    return max(1, full_batches // max(1, chunks))


# -- what a step changes -------------------------------------------------------------------------------------------------------------------------------------------


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


# -- the step as one function of tensors -----------------------------------------------------------------------------------------------------------------------------


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


# -- the graph -------------------------------------------------------------------------------------------------------------------------------------------------------


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


def write_out_small_products(graph: fx.GraphModule, limit: int = SMALL) -> int:
    """Matrix products of at most `limit` multiply-adds become multiply-and-sum, which the compiler fuses with what stands around; returns how many.

    A call of the matrix library costs more than the arithmetic of such a product. Measured by `bench/small_products.py` (one layer, one core): at 256 (W1) 2.1x
    faster written out, at 8,192 1.4x to 1.7x, at 16,384 1.2x, at 32,768 0.96x, at 65,536 0.67x.
    """
    aten = torch.ops.aten
    written = 0
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        left, right = node.args[-2:]
        if "val" not in left.meta or "val" not in right.meta or not left.meta["val"].is_floating_point():
            continue
        (rows, inner), columns = left.meta["val"].shape, right.meta["val"].shape[1]
        if rows * inner * columns > limit or left.meta["val"].dtype in (torch.float16, torch.bfloat16):
            continue
        with graph.graph.inserting_before(node):
            call = graph.graph.call_function
            product = call(aten.mul.Tensor, (call(aten.unsqueeze.default, (left, 2)), call(aten.unsqueeze.default, (right, 0))))
            result = call(aten.sum.dim_IntList, (product, [1]))
            if node.target is aten.addmm.default:
                result = call(aten.add.Tensor, (result, node.args[0]))
        result.meta = dict(node.meta)
        node.replace_all_uses_with(result)
        graph.graph.erase_node(node)
        written += 1
    graph.recompile()
    return written


def as_scan(step: fx.GraphModule, num_state: int, num_batch: int, num_outside: int) -> fx.GraphModule:
    """`chunk(*state, rates, *batches, *outside) -> [*state, losses]`: the step as the body of torch's scan; rates and batches have a leading axis of steps."""
    from torch._higher_order_ops.scan import scan_op

    graph = fx.Graph()
    state = [graph.placeholder(f"state_{i}") for i in range(num_state)]
    sequence = [graph.placeholder("rates"), *[graph.placeholder(f"batch_{i}") for i in range(num_batch)]]
    outside = [graph.placeholder(f"outside_{i}") for i in range(num_outside)]
    scanned = graph.call_function(scan_op, (graph.get_attr("step"), state, sequence, tuple(outside)))
    graph.output([graph.call_function(operator.getitem, (scanned, i)) for i in range(num_state + 1)])
    return fx.GraphModule({"step": step}, graph)


def compile_graph(graph: fx.GraphModule, examples: Sequence[Tensor], device: torch.device) -> Callable[..., Sequence[Tensor]]:
    """The graph as machine code. torch's settings are changed only inside; its cache on disk is the default one."""
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # fallback_random: dropout draws from torch's own stream, so a checkpoint holds where it stands, and its masks are eager's where the dropped tensor is contiguous
    # (in attention it is a transposed one, and eager fills a mask in the order of memory).
    # Kernels and the calls between them are built apart (the calls at -O1): 3.6 s instead of 9.1 s of g++ for a small MLP, once torch's headers are precompiled.
    options: dict[str, Any] = {"fallback_random": True, "cpp_wrapper": device.type == "cpu", "triton.cudagraphs": device.type == "cuda"}
    if hasattr(config, "cpp_wrapper_build_separate"):
        options["cpp_wrapper_build_separate"] = device.type == "cpu"
    # Shapes as numbers: left to itself torch compiles them as symbols here, and no loop knows its bounds.
    mode = FakeTensorMode(shape_env=ShapeEnv())
    fixed = [mode.from_tensor(example, static_shapes=True) for example in examples]
    with torch.no_grad(), config.patch(options), tracing(TracingContext(mode)):
        return compile_fx(graph, fixed)  # type: ignore[return-value]


# -- a compiled run ----------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Program:
    """Steps as machine code. `mode` "epoch": `length` steps in one call; "step": one call each, and `length` is how far two edges stand apart."""

    mode: str
    length: int
    slots: Slots
    call: Callable[..., Sequence[Tensor]]
    outside: list[Tensor]
    spec: Any
    constants: list[Any]
    shapes: list[tuple[torch.Size, torch.dtype]]
    options: list[dict[str, Any]]
    device: torch.device
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)

    def fits(self, batch: Batch) -> bool:
        """Whether a batch has the shapes that were compiled."""
        leaves, spec = pytree.tree_flatten(tuple(batch))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return (
            len(leaves) == len(self.constants)
            and [(tensor.shape, tensor.dtype) for tensor in tensors] == self.shapes
            and spec == self.spec
            and all(kept is Tensor or kept == leaf for kept, leaf in zip(self.constants, leaves))
        )

    def run(self, batches: Stacked | Sequence[Batch], table: Tensor) -> tuple[list[Tensor], Tensor]:
        """-> (the state after these steps, their losses). Nothing of the run has changed yet: `accept` makes it so. `table` are the rates, (steps, groups)."""
        live = self.slots.live()
        state: Sequence[Tensor] = [widened(tensor) for tensor in live]
        with torch.no_grad():
            if isinstance(batches, Stacked):
                *state, losses = self.call(*state, table, *tensors_in(batches), *self.outside)
                return list(state), losses
            collected = []
            for row, batch in zip(table, batches):
                if self.device.type == "cuda":
                    # A CUDA graph writes each result where the one before stood: kept at once, so on CUDA the chunk is accepted as it runs.
                    torch.compiler.cudagraph_mark_step_begin()
                    *state, value = self.call(*[widened(tensor) for tensor in live], row, *tensors_in(batch), *self.outside)
                    torch._foreach_copy_(live, list(state))
                    collected.append(value.clone())
                else:
                    *state, value = self.call(*state, row, *tensors_in(batch), *self.outside)
                    collected.append(value)
            return list(state) if self.device.type == "cpu" else live, torch.stack(collected)

    def accept(self, state: Sequence[Tensor], steps: int) -> None:
        """The run goes on from `state`."""
        live = self.slots.live()
        if state[0] is not live[0]:
            with torch.no_grad():
                torch._foreach_copy_(live, list(state))
        if self.slots.has_average:
            self.slots.parts.average.count += steps


def tensors_in(batch: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tuple(batch)) if isinstance(leaf, Tensor)]


def make_program(parts: Parts, way: str, length: int, pieces: Iterable[Any], device: torch.device) -> Program:
    """Capture and compile a run's steps before it begins. Everything is as before when this returns: weights, optimizer, random streams.

    `pieces` are the run's first batches, stacked where `way` is "epoch". Raises CannotCompile. One eager step is made and taken back: it gives the optimizers
    their state, whose shapes a graph must know.
    """
    started = time.perf_counter()
    first = next(iter(pieces), None)
    if first is None:
        raise CannotCompile("the batches of an epoch have not one shape, or fill no chunk")
    batch: Batch = first.singly()[0] if isinstance(first, Stacked) else first[0] if isinstance(first, list) else first
    leaves, spec = pytree.tree_flatten(tuple(batch))
    for leaf in leaves:
        if not (leaf is None or isinstance(leaf, (Tensor, bool, int, float, str))):
            raise CannotCompile(f"the model's inputs hold a {type(leaf).__name__}, and a graph takes tensors only")
    constants = [Tensor if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    with seeds.restored(), taken_back(parts):
        parts.model.train()
        for module in parts.frozen:
            module.eval()
        slots = Slots.of(parts)
        before = [(tensor, tensor._version, tensor.clone()) for tensor in buffers_of(slots)]
        loop.train_step(
            parts.model, parts.loss, parts.optimizer, (batch,), (None,), compute=parts.compute, autocast=parts.autocast, clipping=parts.clipping
        )  # fmt: skip
        parts.optimizer.zero_grad()
        # By value too: BatchNorm's kernel writes its statistics without counting a version.
        changed = {
            name
            for name, now, (tensor, version, was) in zip(slots.buffer_names, buffers_of(slots), before)
            if now is not tensor or now._version != version or not torch.equal(now, was)
        }
        probe_schedule(parts)
        slots = Slots.of(parts)
        options = slots.other_options()
        with frozen_would_be_noticed(parts):
            graph, outside, examples = traced(slots, spec, constants, changed, batch, device)
        if changed != set(slots.buffer_names):  # traced again: a buffer that nothing changes (a mask, positions) need not be carried from step to step
            slots = Slots.of(parts, set(changed))
            graph, outside, examples = traced(slots, spec, constants, changed, batch, device)
        write_out_small_products(graph)
        num_state = len(slots.live())
        said: list[str] = []
        if way == "epoch" and device.type != "cpu":
            way = "step"
            said.append("on CUDA a chunk is a CUDA graph of one step, replayed")
        elif way == "epoch" and (length < 2 or not isinstance(first, Stacked)):
            way = "step"
            said.append("an epoch has no two full batches of one shape in a row, so each step is a call of its own")
        mode, call = way, None
        if mode == "epoch" and isinstance(first, Stacked):
            rates = torch.tensor([slots.rates()] * length, dtype=torch.float64, device=device)
            inputs = [*examples[:num_state], rates, *tensors_in(first), *outside]
            try:
                call = compile_graph(as_scan(graph, num_state, len(tensors_in(first)), len(outside)), inputs, device)
                checked(graph, call, inputs, slots, len(tensors_in(first)))
            except Exception as error:
                said.append(f"the chunk as a scan is not possible ({told(error)}), so each step is a call of its own")
                call = None
        if call is None:
            mode = "step"
            try:
                call = compile_graph(graph, [*examples, *outside], device)
                call(*examples, *outside)
            except CannotCompile:
                raise
            except Exception as error:
                raise CannotCompile(f"torch cannot compile it: {told(error)}") from error
    shapes = [(leaf.shape, leaf.dtype) for leaf in leaves if isinstance(leaf, Tensor)]
    return Program(mode, length, slots, call, outside, spec, constants, shapes, options, device, time.perf_counter() - started, said)


def traced(
    slots: Slots, spec: Any, constants: Sequence[Any], changed: set[tuple[int, str]], batch: Batch, device: torch.device
) -> tuple[fx.GraphModule, list[Tensor], list[Tensor]]:
    rates = torch.tensor(slots.rates(), dtype=torch.float64, device=device)
    examples = [*[widened(tensor.detach()).clone() for tensor in slots.live()], rates, *tensors_in(batch)]
    graph, outside = capture(step_function(slots, spec, constants, changed), examples)
    return graph, outside, examples


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def checked(step: fx.GraphModule, call: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], slots: Slots, num_batch: int) -> None:
    """Raise CannotCompile where a compiled chunk does not do what its steps do one by one: torch calls its scan a prototype that may miscompile.

    The first losses must agree closely, and what the chunk changed (weights, each buffer, each kind of optimizer state, averages) to a tenth of the change:
    some weights have a gradient of rounding only (a bias before BatchNorm), which Adam makes large.
    """
    kinds = ["the weights"] * len(slots.weights) + [f"buffer {name}" for _, name in slots.buffer_names] + [key for _, _, key in slots.state_names]
    kinds += ["the averages"] * (len(slots.live()) - len(kinds))
    num_state = len(kinds)
    state, sequence, outside = list(inputs[:num_state]), inputs[num_state : num_state + 1 + num_batch], inputs[num_state + 1 + num_batch :]
    with torch.no_grad():
        with seeds.restored():
            *found, losses = call(*inputs)
        expected = []
        with seeds.restored():
            for position in range(len(sequence[0])):
                *state, value = step(*state, *[tensor[position] for tensor in sequence], *outside)
                expected.append(value)
        wanted, seen = torch.stack(expected[:3]).double(), losses[:3].double()
        if not torch.allclose(seen, wanted, rtol=CLOSE.get(losses.dtype, 5e-2), atol=1e-6, equal_nan=True):
            raise CannotCompile(f"its first losses were {seen.tolist()} instead of {wanted.tolist()}")
        if not torch.isfinite(torch.stack(expected)).all():
            return  # a run that breaks is the guard's business
        for kind in dict.fromkeys(kinds):
            rows = [[tensor.double() for tensor in row] for name, *row in zip(kinds, inputs, found, state) if name == kind]
            apart = sum(float((mine - step_by_step).square().sum()) for _, mine, step_by_step in rows) ** 0.5
            change = sum(float((step_by_step - before).square().sum()) for before, _, step_by_step in rows) ** 0.5
            size = sum(float(step_by_step.square().sum()) for *_, step_by_step in rows) ** 0.5
            if not apart <= 0.1 * change + 1e-4 * size + 1e-6:
                raise CannotCompile(f"after its {len(expected)} steps {kind} were {apart:.1e} from where single steps lead, of a change of {change:.1e}")


@contextlib.contextmanager
def frozen_would_be_noticed(parts: Parts) -> Iterator[None]:
    """Raise CannotCompile where forward moved what a graph cannot: a number kept in a module, Python's or numpy's generator."""

    def drawn() -> list[str]:
        state = seeds.capture()
        return [repr(state["random"]), repr(state.get("numpy"))]

    before, streams = numbers_of(parts), drawn()
    yield
    after = numbers_of(parts)
    moved = [(module, key) for (module, key), value in before.items() if after.get((module, key), value) != value]
    if moved:
        module, key = moved[0]
        raise CannotCompile(
            f"forward changes {key} of {type(module).__name__} in Python, and a graph would freeze it (a registered buffer is carried from step to step)"
        )
    if drawn() != streams:
        raise CannotCompile("forward draws from Python's or numpy's random generator, and a graph would freeze the first draw (torch.rand is drawn anew)")


def numbers_of(parts: Parts) -> dict[tuple[nn.Module, str], Any]:
    """Plain values that modules hold as attributes: what forward may count in."""
    modules = {module for root in parts.modules for module in root.modules()}
    return {(module, key): value for module in modules for key, value in vars(module).items() if isinstance(value, (bool, int, float, str))}


@contextlib.contextmanager
def taken_back(parts: Parts) -> Iterator[None]:
    """Weights, buffers, training flags and other numbers in modules, the optimizers' state and groups are afterwards as they were."""
    tensors = [tensor for module in parts.modules for tensor in (*module.parameters(), *module.buffers())]
    with torch.no_grad():
        before = [tensor.detach().clone() for tensor in tensors]
    numbers = numbers_of(parts)
    states = [(optimizer, optimizer.state.copy(), [dict(group) for group in optimizer.param_groups]) for optimizer in parts.optimizers]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, was in zip(tensors, before):
                tensor.copy_(was)
        for (module, key), value in numbers.items():
            setattr(module, key, value)
        parts.optimizer.zero_grad()
        for optimizer, state, groups in states:
            optimizer.state.clear()
            optimizer.state.update(state)
            for group, own in zip(optimizer.param_groups, groups):
                group.clear()
                group.update(own)


def probe_schedule(parts: Parts) -> None:
    """Raise CannotCompile where a schedule moves more than the rate (OneCycleLR's momentum): a graph holds the rest as constants."""
    schedule = parts.schedule
    if schedule is None or getattr(schedule, "wants_metric", False):
        return
    state, options = schedule.state_dict(), Slots.of(parts).other_options()
    try:
        for _ in range(3):
            schedule.step()
        moved = Slots.of(parts).other_options() != options
    finally:
        schedule.load_state_dict(state)
    if moved:
        raise CannotCompile("the schedule moves momentum or betas beside the rate; cycle_momentum=False leaves them alone")


# -- epochs ------------------------------------------------------------------------------------------------------------------------------------------------------------


def make(parts: Parts, wish: str, batches: Any, *, steps: int, rows: int, batch_size: int, device: torch.device, **facts: Any) -> tuple[Program | None, str]:
    """-> (a program for `compile=wish`, or None to stay eager; what to tell the user). `steps` are those of the whole run, `rows` those of the training split."""
    weights = [parameter for group in parts.groups for parameter in group["params"]]
    way, reckoned = wish, ""
    try:
        if wish == "auto":
            worth, reckoned = pays(steps, len(weights), sum(weight.dim() > 2 for weight in weights))
            if not worth:
                return None, f'compile="auto": stays eager: {reckoned}.'
            way, reckoned = "epoch", f" {reckoned[0].upper()}{reckoned[1:]}."
        refuse(parts, device=device, **facts)
        length = chunk_length(max(1, rows // batch_size), sum(weight.numel() for weight in weights), batch_size)
        program = make_program(parts, way, length, pieces(batches, 0, 0, length, 0, stack=way == "epoch"), device)
    except CannotCompile as reason:
        return None, f"compile={wish!r}: stays eager, because {reason}."
    what = f"chunks of {program.length} steps are one graph" if program.mode == "epoch" else "each step is one graph"
    notes = "".join(f"; {note}" for note in program.said)
    return program, f"compile={wish!r}: {what}, compiled in {program.seconds:.1f} s{notes}.{reckoned}"


def pieces(batches: Any, epoch: int, start: int, length: int, alone: int, program: Program | None = None, stack: bool = True) -> Iterator[Any]:
    """An epoch from step `start` on, in order: the first `alone` batches as they are, then chunks of `length` batches, and singly what fills none.

    Data in memory gives a chunk as one view (`stacked`); others are stacked here, or kept as a list where `stack` is False. In a list a chunk may be shorter.
    """
    if stack and hasattr(batches, "stacked") and (views := batches.stacked(epoch, start, length, alone)) is not None:
        yield from views
        return
    waiting: list[Batch] = []
    for number, batch in enumerate(batches.epoch(epoch, start)):
        if program is None and waiting:
            fitting = shapes_of(batch) == shapes_of(waiting[0])
        else:
            fitting = program is None or program.fits(batch)
        if number < alone or not fitting:
            yield from flushed(waiting, stack)
            waiting = []
            yield batch
            continue
        waiting.append(batch)
        if len(waiting) == length:
            yield stacked_batches(waiting) if stack else waiting
            waiting = []
    yield from flushed(waiting, stack)


def flushed(waiting: list[Batch], stack: bool) -> Iterator[Any]:
    if stack:
        yield from waiting
    elif waiting:
        yield waiting


def shapes_of(batch: Batch) -> list[Any]:
    return [leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in pytree.tree_leaves(tuple(batch))]


def stacked_batches(batches: Sequence[Batch]) -> Stacked:
    """Batches of one shape as one, with a leading axis of steps."""
    columns = [pytree.tree_flatten(tuple(batch))[0] for batch in batches]
    spec = pytree.tree_flatten(tuple(batches[0]))[1]
    joined = [torch.stack(column) if isinstance(column[0], Tensor) else column[0] for column in zip(*columns)]
    return Stacked(*pytree.tree_unflatten(joined, spec))


def train_epoch(
    program: Program,
    batches: Any,
    epoch: int,
    start: int,
    *,
    after_steps: Callable[..., bool],
    schedule: Any = None,
    wait: bool = True,
) -> list[Any]:
    """An epoch from step `start` on: whole chunks by the program, the others eagerly. Returns the losses as `loop.train_epoch` does.

    `after_steps(*losses)` is called at each edge. Raises NonFiniteLoss with `.steps_before`: the weights are then as they were before the step that broke.
    """
    parts, slots = program.slots.parts, program.slots
    average = parts.average if slots.has_average else None
    alone = 0 if slots.ready() else 1

    def eager(batch: Batch) -> Any:
        (value,) = loop.train_epoch(
            parts.model, parts.loss, parts.optimizer, [batch], schedule=schedule, average=average,
            compute=parts.compute, autocast=parts.autocast, clipping=parts.clipping, wait=wait,
        )  # fmt: skip
        return value

    losses: list[Any] = []
    for piece in pieces(batches, epoch, start, program.length, alone, program, stack=program.mode == "epoch"):
        if isinstance(piece, Batch) and not isinstance(piece, Stacked):
            values = [eager(piece)]
        else:
            values = chunk(program, piece, schedule, eager, wait)
        losses += values
        if after_steps(*values):
            break
    if parts.optimizer is not None and losses:
        parts.optimizer.zero_grad()  # what an eager step left would look like the last gradient
    return losses


def chunk(program: Program, piece: Any, schedule: Any, eager: Callable[[Batch], Any], wait: bool) -> list[Any]:
    """The steps of one chunk: its losses are looked at before its state is accepted."""
    slots = program.slots
    steps = len(piece) if isinstance(piece, list) else program.length
    before: Any = None if schedule is None else schedule.state_dict()
    stream = torch.default_generator.get_state() if wait else None
    rates = [slots.rates()]
    if schedule is None:
        table = torch.tensor(rates, dtype=torch.float64, device=program.device).repeat(steps, 1)
    else:
        for _ in range(steps):
            schedule.step()
            rates.append(slots.rates())
        table = torch.tensor(rates[:-1], dtype=torch.float64, device=program.device)
    if slots.other_options() != program.options:
        raise SettingsError(
            "The schedule changed an option of the optimizer beside lr in the middle of the run, and the compiled graph holds the old one. Leave compile out."
        )
    state, found = program.run(piece, table)
    if not wait:
        program.accept(state, steps)
        return list(found.unbind())
    values = found.tolist()
    if all(map(math.isfinite, values)):
        program.accept(state, steps)
        return values
    broken = next(position for position, value in enumerate(values) if not math.isfinite(value))
    # The state of the chunk is thrown away; its good steps are made again eagerly, so the weights stand where the loss broke.
    if schedule is not None and before is not None:
        schedule.load_state_dict(before)
        for group, rate in zip(slots.parts.groups, rates[0], strict=True):
            group["lr"] = rate  # a schedule that is loaded leaves the rates as it finds them
    assert stream is not None
    torch.default_generator.set_state(stream)
    done = 0
    try:
        for batch in (piece if isinstance(piece, list) else piece.singly())[: broken + 1]:
            eager(batch)
            done += 1
    except loop.NonFiniteLoss:
        pass
    failure = loop.NonFiniteLoss()
    failure.steps_before = min(done, broken)
    raise failure
