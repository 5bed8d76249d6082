"""The same five steps on K models at once: members that share a graph and differ in numbers (weights, rates, seeds, rows) only.

Enters: for each member its `Training` and `Plan`, as `epochs.train` takes them. Leaves: the same objects, each moved to the end of its run. The decision that
shaped it: forward, loss and gradients of all members are traced once into plain calls of torch (`make_fx` over autograd through a vmapped forward) and replayed
under `no_grad`; what functorch costs is its dispatch, and a replay has none (8x against 4.6x for 32 small networks, SPEED.md). All weights lie in one flat
tensor, so a line of the optimizer is one call whatever the number of layers, with each member's rate beside each of its weights. The members' modules are views
of it: a member's validation, checkpoint or prediction is the module's own.

Axis letters: `K` members, `G` parameter groups.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.data.batches import Batch, InMemoryBatches, map_tensors, tensors_of
from fivestep.train import epochs, loop
from fivestep.train.epochs import Plan, Training
from fivestep.train.events import EpochEnded, RunEnded, RunStarted

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}  # of the first gradients, stacked against alone: rounding is far below, another function far above
MOST_SHAPES = 8  # batches of more different shapes than this would be traced more often than replayed


class Unstackable(Exception):
    """These members cannot be trained stacked; the text says why, as a reason beside the plan."""


@dataclass
class Member:
    """One variant in a population. `status` is "running", "stopped" (early stopping), "pruned", "diverged" or "done"; `reason` says in words how it ended."""

    training: Training
    plan: Plan
    status: str = "running"
    reason: str = ""
    seconds: float = 0.0
    final_state: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Validation:
    """Validation rows that all members share, for one stacked pass: `batches` in order, `weigh(batch)` what a batch's mean is over."""

    batches: Sequence[Batch]
    weigh: Callable[[Batch], Any]


@dataclass
class Report:
    """What a population did: for the plan's line and the bench."""

    steps: int = 0
    cuts: list[tuple[int, int]] = field(default_factory=list)  # (epoch, members left)
    trace_seconds: float = 0.0


# -- can it be stacked -----------------------------------------------------------------------------------------------------------------------------------------


def why_alone(members: Sequence[Member]) -> str | None:
    """The reason why these members cannot share steps, from their plans alone; None where nothing speaks against it. What a trace finds comes later."""
    for member in members:
        training, plan = member.training, member.plan
        if plan.user_step is not None:
            return "step= makes the five steps itself"
        if plan.compute is not None:
            return "compute= calls the module itself"
        if training.loss_module is not None:
            return "the loss has parameters of its own"
        if training.average is not None:
            return f"{training.average.name} averages weights after each step"
        if training.scaler is not None or (plan.autocast is not loop.OFF and not isinstance(plan.autocast, contextlib.nullcontext)):
            return "mixed precision"
        if plan.split is not None:
            return "part_size= cuts batches into parts"
        if plan.watch_test is not None:
            return "watch_test= looks at the test rows every epoch"
        if type(training.optimizer) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
            return f"{type(training.optimizer).__name__} has no stacked form here (SGD, Adam and AdamW have)"
        if not isinstance(plan.batches, InMemoryBatches):
            return "the rows are not in memory"
        if plan.batches.chosen is not None:
            return "batches= chooses the rows of each step"
        if plan.batches.augment is not None:
            return "augment= draws for each batch"
        if any(isinstance(module, (nn.LSTM, nn.GRU, nn.RNN)) for module in training.model.modules()):
            return "recurrent layers (LSTM, GRU, RNN) have no batching rule in torch.func"
        trained = {id(parameter) for group in training.optimizer.param_groups for parameter in group["params"]}
        if trained != {id(parameter) for parameter in training.model.parameters() if parameter.requires_grad}:
            return "the optimizer does not hold all of the model's parameters"
        kinds = {parameter.dtype for parameter in training.model.parameters() if parameter.requires_grad}
        if len(kinds) != 1:
            return "parameters of several dtypes"
        options = [hyperparameters(group) for group in training.optimizer.param_groups]
        if any(isinstance(value, Tensor) for one in options for value in one.values()):
            return "a rate that is a tensor"
        if any(one.get("momentum") == 0 and one.get("dampening") for one in options):
            return "dampening without momentum"
    first = members[0]
    for member in members[1:]:
        for what, one, other in (
            ("optimizer", type(first.training.optimizer), type(member.training.optimizer)),
            ("weights", shapes(first.training.model), shapes(member.training.model)),
            ("parameter groups", group_names(first.training), group_names(member.training)),
            ("epochs", first.plan.epochs, member.plan.epochs),
            ("validation rhythm", first.plan.validate_every, member.plan.validate_every),
            ("steps an epoch", first.plan.batches.steps(0), member.plan.batches.steps(0)),
            ("batch size", batch_size(first), batch_size(member)),
            ("optimizer's switches", switches(first), switches(member)),
            ("clipping", clip_kind(first), clip_kind(member)),
        ):
            if one != other:
                return f"the {what} differ{'s' if not what.endswith('s') else ''} between members"
    return None


def shapes(model: nn.Module) -> list[Any]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(name, tuple(t.shape), t.dtype, getattr(t, "requires_grad", False)) for name, t in tensors] + [type(module) for module in model.modules()]


def group_names(training: Training) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in training.model.named_parameters()}
    return [[names.get(id(parameter), "?") for parameter in group["params"]] for group in training.optimizer.param_groups]


def batch_size(member: Member) -> Any:
    return getattr(member.plan.batches, "batch_size", None)


def switches(member: Member) -> Any:
    return [
        (group.get("nesterov"), group.get("maximize"), group.get("amsgrad"), bool(group.get("momentum"))) for group in member.training.optimizer.param_groups
    ]


def clip_kind(member: Member) -> tuple[bool, float | None]:
    clipping = member.plan.clipping
    return (False, None) if clipping is None else (clipping[1] is not None, clipping[2])


def hyperparameters(group: dict[str, Any]) -> dict[str, Any]:
    """What may differ between members: numbers that a line of the optimizer multiplies or adds."""
    found = {key: group[key] for key in ("lr", "momentum", "dampening", "weight_decay", "eps") if key in group}
    if "betas" in group:
        found["beta1"], found["beta2"] = group["betas"]
    return found


# -- the stack: all weights in one flat tensor ---------------------------------------------------------------------------------------------------------------


class Stack:
    """K members' trainable weights in one flat tensor, one block for each parameter: `views[name]` is (K, *shape) and contiguous.

    `held` are frozen parameters and buffers, (K, *shape) each. The members' modules point into both.
    """

    def __init__(self, modules: Sequence[nn.Module], names: Sequence[str]):
        self.modules = list(modules)
        self.names = list(names)
        parameters = [dict(module.named_parameters()) for module in modules]
        self.shapes = [parameters[0][name].shape for name in names]
        self.numels = [shape.numel() for shape in self.shapes]
        self.flat = torch.cat([torch.stack([one[name].detach() for one in parameters]).reshape(-1) for name in names])
        tensors = [dict(module.named_parameters()) | dict(module.named_buffers()) for module in modules]
        self.held_names = [name for name in tensors[0] if name not in set(names)]
        self.held = [torch.stack([one[name].detach() for one in tensors]) for name in self.held_names]
        self._index()
        self._point()

    @property
    def K(self) -> int:
        return len(self.modules)

    def _index(self) -> None:
        device = self.flat.device
        self.views = self.views_of(self.flat)
        self.member_of_element = torch.cat([torch.arange(self.K, device=device).repeat_interleave(numel) for numel in self.numels])

    def views_of(self, flat: Tensor) -> list[Tensor]:
        """(K, *shape) views of a tensor laid out like `flat`."""
        found, start = [], 0
        for shape, numel in zip(self.shapes, self.numels):
            found.append(flat[start : start + self.K * numel].view(self.K, *shape))
            start += self.K * numel
        return found

    def _point(self) -> None:
        """The members' modules become views: what reads a module reads the stack."""
        for k, module in enumerate(self.modules):
            named = dict(module.named_parameters()) | dict(module.named_buffers())
            for name, view in [*zip(self.names, self.views), *zip(self.held_names, self.held)]:
                named[name].data = view[k]

    def release(self, k: int) -> None:
        """Member k's module gets tensors of its own again."""
        module = self.modules[k]
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.data = tensor.detach().clone()

    def kept(self, flat: Tensor, members: Sequence[int]) -> Tensor:
        """A tensor laid out like `flat`, for these members only."""
        chosen = torch.tensor(list(members), device=flat.device)
        return torch.cat([view.index_select(0, chosen).reshape(-1) for view in self.views_of(flat)])

    def cut(self, members: Sequence[int]) -> None:
        """Only these members stay; the others' modules own their tensors again."""
        for k in range(self.K):
            if k not in members:
                self.release(k)
        self.flat = self.kept(self.flat, members)
        chosen = torch.tensor(list(members), device=self.flat.device)
        self.held = [tensor.index_select(0, chosen) for tensor in self.held]
        self.modules = [self.modules[k] for k in members]
        self._index()
        self._point()


class Streams(nn.Module):
    """Each member's own random stream, as its run alone would draw from torch's global generator: seeded by (seed, epoch), masks in the order of the forward.

    Members with the same seed get the same masks, drawn once.
    """

    def __init__(self, member_seeds: Sequence[int], device: torch.device):
        super().__init__()
        self.device = device
        self.cut(member_seeds)

    def cut(self, member_seeds: Sequence[int]) -> None:
        self.distinct = list(dict.fromkeys(member_seeds))
        self.stream_of_member = torch.tensor([self.distinct.index(seed) for seed in member_seeds], device=self.device)
        self.generators = [torch.Generator(self.device) for _ in self.distinct]

    def seed(self, epoch: int) -> None:
        for seed, generator in zip(self.distinct, self.generators):
            generator.manual_seed(seeds.derive(seed, "forward", epoch))

    def forward(self, shape: Sequence[int], probability: float, dtype: torch.dtype, members: Sequence[int] | None = None) -> Tensor:
        """0 or 1 of the shape (K, ...), each member's part from its own stream."""
        drawn = [torch.empty(shape[1:], dtype=dtype, device=self.device).bernoulli_(probability, generator=generator) for generator in self.generators]
        if len(drawn) == 1:
            return drawn[0].expand(shape).contiguous()  # written to in place: each member its own copy
        return torch.stack(drawn).index_select(0, self.stream_of_member)


# -- tracing -----------------------------------------------------------------------------------------------------------------------------------------------------


def one_member(template: nn.Module, names: Sequence[str], held_names: Sequence[str], loss: Callable[..., Any]) -> Callable[..., Any]:
    """`loss = f(weights, held, inputs, targets, weights of rows)` of one member, as torch.func wants it."""

    def value_of(weights: Sequence[Tensor], held: Sequence[Tensor], inputs: Any, targets: Any, row_weights: Any) -> Tensor:
        state = dict(zip(names, weights)) | dict(zip(held_names, held))
        arguments = inputs if isinstance(inputs, (tuple, list)) else () if isinstance(inputs, dict) else (inputs,)
        outputs = torch.func.functional_call(template, state, tuple(arguments), inputs if isinstance(inputs, dict) else None)
        value = loss(outputs, targets) if row_weights is None else loss(outputs, targets, row_weights)
        if isinstance(value, tuple):
            value = value[0] / value[1]
        return value

    return value_of


def traced(
    stack: Stack,
    template: nn.Module,
    loss: Callable[..., Any],
    batch: Batch,
    *,
    shared: bool,
    training: bool,
    streams: Streams,
    frozen: Sequence[nn.Module] = (),
) -> Any:
    """`(losses (K,), gradients) = f(*weights, *held, *batch)` as a graph of plain torch calls; without gradients where not `training`.

    `shared`: the batch is the same for all members, else its tensors are (K, batch, ...). Raises Unstackable for what torch.func cannot do.
    """
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.attention import SDPBackend, sdpa_kernel

    num_weights, num_held = len(stack.names), len(stack.held)
    value_of = one_member(template, stack.names, stack.held_names, loss)
    leaves = tensors_of(tuple(batch))

    def rebuilt(given: Sequence[Tensor]) -> Batch:
        remaining = iter(given)
        return Batch(*map_tensors(lambda _: next(remaining), tuple(batch)))

    def function(*flat: Tensor) -> Any:
        weights, held = list(flat[:num_weights]), list(flat[num_weights : num_weights + num_held])
        inputs, targets, row_weights = rebuilt(flat[num_weights + num_held :])
        dims = tuple(None if shared or part is None else 0 for part in (inputs, targets, row_weights))  # one number stands for a whole nest
        losses = torch.vmap(value_of, in_dims=(0, 0, *dims), randomness="different")(weights, held, inputs, targets, row_weights)
        if losses.dim() != 1:
            raise Unstackable("the loss is no single number")
        if not training:
            return losses, []
        gradients = torch.autograd.grad(losses.sum(), weights, allow_unused=True)
        return losses, [gradient if gradient is not None else None for gradient in gradients]

    flags = [(module, module.training) for module in template.modules()]
    template.train(training)
    for module in frozen:
        module.eval()
    try:
        # The fused kernels of attention have no batching rule (each member would be computed alone); the plain formula has.
        with seeds.restored(), torch.enable_grad() if training else torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            weights = [view.detach().clone().requires_grad_(training) for view in stack.views]
            graph = make_fx(function)(*weights, *[tensor.detach().clone() for tensor in stack.held], *leaves)
    except Unstackable:
        raise
    except Exception as error:  # whatever torch.func cannot do with a user's module comes as its own error
        text = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise Unstackable(f"torch.func cannot stack it: {type(error).__name__}: {text[:200]}") from error
    finally:
        for module, flag in flags:
            module.training = flag
    draw_from(graph, streams, stack.K)
    simplify(graph)
    return graph


def draw_from(graph: Any, streams: Streams, num_members: int) -> None:
    """Random calls of the graph become draws from each member's own stream; Unstackable for those that are none of dropout's."""
    aten = torch.ops.aten
    graph.add_submodule("streams", streams)
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        value = node.meta.get("val")
        if node.target not in (aten.bernoulli.p, aten.bernoulli_.float) or value is None or value.shape[:1] != (num_members,):
            raise Unstackable(f"the model draws random numbers by {node.target}, which has no stream for each member here (dropout has)")
        with graph.graph.inserting_before(node):
            drawn = graph.graph.call_module("streams", (tuple(value.shape), node.args[1] if len(node.args) > 1 else 0.5, value.dtype))
            drawn.meta = dict(node.meta)
            if node.target is aten.bernoulli_.float:
                copied = graph.graph.call_function(aten.copy_.default, (node.args[0], drawn))
                copied.meta = dict(node.meta)
                drawn = copied
        node.replace_all_uses_with(drawn)
        graph.graph.erase_node(node)


def simplify(graph: Any) -> None:
    """Calls that change nothing leave the graph: detach, a view or expand to the same shape, times 1, a transpose undone by the next. Each costs 1 to 2 us."""
    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or not node.args:
            continue
        source = node.args[0]
        before, after = getattr(source, "meta", {}).get("val"), node.meta.get("val")
        if before is None or after is None or not isinstance(after, Tensor) or not isinstance(before, Tensor):
            continue
        same = before.shape == after.shape and before.stride() == after.stride()
        nothing = node.target is aten.detach.default
        nothing |= same and node.target in (aten.expand.default, aten.view.default, aten._unsafe_view.default)
        nothing |= node.target is aten.mul.Scalar and node.args[1] == 1 and before.dtype == after.dtype
        if nothing:
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
            continue
        undone = node.target is aten.transpose.int and source.op == "call_function" and source.target is aten.transpose.int
        if undone and {axis % after.dim() for axis in node.args[1:]} == {axis % after.dim() for axis in source.args[1:]}:
            node.replace_all_uses_with(source.args[0])
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def peak_bytes(graph: Any) -> int:
    """The most bytes of intermediate tensors alive at once when the graph runs, each freed after its last use."""
    nodes = list(graph.graph.nodes)
    last_use = {source: position for position, node in enumerate(nodes) for source in node.all_input_nodes}
    storages: dict[Any, int] = {}
    alive, most, ends = 0, 0, {}
    for position, node in enumerate(nodes):
        value = node.meta.get("val")
        if node.op in ("call_function", "call_module") and isinstance(value, Tensor):
            aliased = next((source for source in node.all_input_nodes if source in storages and is_view(node)), None)
            if aliased is None:
                storages[node] = value.numel() * value.element_size()
                alive += storages[node]
                ends.setdefault(last_use.get(node, position), []).append(node)
        most = max(most, alive)
        for done in ends.pop(position, ()):
            alive -= storages[done]
    return most


def is_view(node: Any) -> bool:
    return node.target in VIEWS


VIEWS = {
    torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.expand.default, torch.ops.aten.transpose.int, torch.ops.aten.t.default,
    torch.ops.aten.permute.default, torch.ops.aten.unsqueeze.default, torch.ops.aten.squeeze.dim, torch.ops.aten.detach.default, torch.ops.aten.slice.Tensor,
    torch.ops.aten.select.int,
}  # fmt: skip


# -- the optimizer on stacked tensors -----------------------------------------------------------------------------------------------------------------------


class StackedOptimizer:
    """SGD, Adam or AdamW on the flat tensor, one call a line; a number that differs between members or groups stands beside each weight, else it is a float.

    The formulas are torch's own (torch.optim.SGD, Adam, AdamW), so a member moves as it would alone, to rounding.
    """

    def __init__(self, stack: Stack, members: Sequence[Member]):
        self.stack = stack
        first = members[0].training
        self.kind = type(first.optimizer)
        self.names = group_names(first)
        self.groups = [list(member.training.optimizer.param_groups) for member in members]  # [member][group]
        self.decoupled = self.kind is torch.optim.AdamW
        group = self.groups[0][0]
        self.nesterov, self.maximize, self.amsgrad = group.get("nesterov", False), group.get("maximize", False), group.get("amsgrad", False)
        self.state: dict[str, Tensor] = {}
        self.steps = 0
        self._index()

    def _index(self) -> None:
        group_of_name = {name: number for number, names in enumerate(self.names) for name in names}
        stack = self.stack
        group_of_element = torch.cat([torch.full((stack.K * numel,), group_of_name[name]) for name, numel in zip(stack.names, stack.numels)])
        self.row_of_element = group_of_element.to(stack.flat.device) * stack.K + stack.member_of_element
        self.table: dict[str, list[float]] = {}
        self.numbers: dict[str, Any] = {}
        self.read()

    def read(self) -> None:
        """Take the rates from the members' own optimizers, where their schedules move them."""
        rows = [[hyperparameters(groups[g]) for groups in self.groups] for g in range(len(self.names))]  # [group][member]
        for key in rows[0][0]:
            values = [one[key] for group in rows for one in group]
            if self.table.get(key) != values:
                self.table[key] = values
                uniform = all(value == values[0] for value in values)
                self.numbers[key] = values[0] if uniform else self._beside(values)

    def read_rates(self) -> None:
        """As `read`, for lr alone: what a schedule moves every step."""
        values = [groups[g]["lr"] for g in range(len(self.names)) for groups in self.groups]
        if self.table["lr"] != values:
            self.table["lr"] = values
            uniform = all(value == values[0] for value in values)
            self.numbers["lr"] = values[0] if uniform else self._beside(values)

    def _beside(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).to(self.stack.flat).index_select(0, self.row_of_element)

    def cut(self, members: Sequence[int], stack_before: Callable[[Tensor], Tensor]) -> None:
        """Called before the stack itself is cut: the state of these members stays."""
        self.state = {key: stack_before(tensor) for key, tensor in self.state.items()}
        self.groups = [self.groups[k] for k in members]

    def step(self, gradient: Tensor) -> None:
        """5. step, for all members. `gradient` is laid out like the weights and may be overwritten."""
        weights, numbers, state = self.stack.flat, self.numbers, self.state
        self.steps += 1
        if self.maximize:
            gradient.neg_()
        lr, decay = numbers["lr"], numbers.get("weight_decay", 0)
        if self.decoupled:
            if not (isinstance(decay, float | int) and decay == 0):
                weights.mul_(1 - lr * decay)
        elif not (isinstance(decay, float | int) and decay == 0):
            add_product(gradient, weights, decay)
        if self.kind is torch.optim.SGD:
            momentum, dampening = numbers["momentum"], numbers["dampening"]
            if not (isinstance(momentum, float | int) and momentum == 0):
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = gradient.clone()
                elif isinstance(dampening, float | int) and dampening == 0:
                    state["momentum_buffer"].mul_(momentum).add_(gradient)
                else:
                    state["momentum_buffer"].mul_(momentum).add_(gradient * (1 - dampening))
                if self.nesterov:
                    add_product(gradient, state["momentum_buffer"], momentum)
                else:
                    gradient = state["momentum_buffer"]
            add_product(weights, gradient, lr, -1.0)
            return
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weights), torch.zeros_like(weights)
            if self.amsgrad:
                state["max_exp_avg_sq"] = torch.zeros_like(weights)
        beta1, beta2, eps = numbers["beta1"], numbers["beta2"], numbers["eps"]
        if all(isinstance(number, float | int) for number in (beta1, beta2, eps)) and weights.device.type == "cpu":
            # torch's fused kernel with rate 1 on a tensor of zeros gives the direction in one pass over memory; each member's own rate then multiplies it.
            if "direction" not in self.__dict__ or self.direction.numel() != weights.numel():
                self.direction, self.count = torch.zeros_like(weights), torch.tensor(float(self.steps - 1))
            self.direction.zero_()
            self.count.add_(1)
            torch._fused_adam_(
                [self.direction], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [state["max_exp_avg_sq"]] if self.amsgrad else [], [self.count],
                lr=1.0, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=eps, amsgrad=self.amsgrad, maximize=False,
            )  # fmt: skip
            add_product(weights, self.direction, lr)
            return
        state["exp_avg"].add_((gradient - state["exp_avg"]) * (1 - beta1))
        state["exp_avg_sq"].mul_(beta2).add_(gradient.square() * (1 - beta2))
        correction1, correction2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        second = state["exp_avg_sq"]
        if self.amsgrad:
            second = torch.maximum(state["max_exp_avg_sq"], second, out=state["max_exp_avg_sq"])
        denominator = second.sqrt() / correction2**0.5 + eps
        weights.sub_(state["exp_avg"] / denominator * (lr / correction1))


def add_product(target: Tensor, tensor: Tensor, factor: Any, sign: float = 1.0) -> None:
    """target += sign * factor * tensor, in place; `factor` is a number or a tensor beside each element."""
    if isinstance(factor, Tensor):
        target.addcmul_(tensor, factor, value=sign)
    else:
        target.add_(tensor, alpha=sign * factor)


def clip_members(stack: Stack, gradient: Tensor, clip_norms: Tensor | None, clip_value: float | None) -> None:
    """Clip each member's gradients by value, then by their common 2-norm, as `precision.clip` does for one."""
    if clip_value is not None:
        gradient.clamp_(-clip_value, clip_value)
    if clip_norms is not None:
        norms = torch.stack([torch.linalg.vector_norm(view.reshape(stack.K, -1), dim=1) for view in stack.views_of(gradient)])
        total = torch.linalg.vector_norm(norms, dim=0)  # (K,)
        factor = (clip_norms / (total + 1e-6)).clamp(max=1.0)
        gradient.mul_(factor.index_select(0, stack.member_of_element))


# -- a population's run -------------------------------------------------------------------------------------------------------------------------------------------


class Population:
    """K members trained in the same steps. `run()` moves all of them to the end of their runs.

    `shared`: all members see the batches of the first one; else each has its own rows and order. `prune(epoch, {member: monitored value})` may name members that
    are to stop after this epoch. Raises Unstackable (from `prepare`) with the reason.
    """

    def __init__(
        self, members: Sequence[Member], *, shared: bool, validation: Validation | None = None, compile_step: bool = False,
        prune: Callable[[int, dict[int, float]], set[int]] | None = None,
    ):  # fmt: skip
        self.members, self.prune = list(members), prune
        self.shared, self.validation, self.compile_step = shared, validation, compile_step
        reason = why_alone(self.members)
        if reason is not None:
            raise Unstackable(reason)
        self.alive = list(range(len(members)))  # positions in `members` of those in the stack, in the stack's order
        first = self.members[0]
        self.frozen = tuple(first.plan.frozen)
        # Tensors of its own, not views of the stack: functional_call swaps them for the trace's and puts them back.
        self.template = first.training.model
        self.stack = Stack([member.training.model for member in self.members], [name for names in group_names(first.training) for name in names])
        self.device = self.stack.flat.device
        self.streams = Streams([member.plan.seed for member in self.members], self.device)
        self.optimizer = StackedOptimizer(self.stack, self.members)
        self.best: Tensor | None = None
        self.best_held: list[Tensor] = []
        self.graphs: dict[Any, Any] = {}
        self.report = Report()
        self._read_clipping()

    def _read_clipping(self) -> None:
        clipping = [self.members[k].plan.clipping for k in self.alive]
        self.clip_value = None if clipping[0] is None else clipping[0][2]
        norms = [None if one is None else one[1] for one in clipping]
        self.clip_norms = None if norms[0] is None else torch.tensor(norms, dtype=self.stack.flat.dtype, device=self.device)

    # -- graphs

    def graph(self, batch: Batch, *, shared: bool, training: bool, stack: Stack | None = None, streams: Streams | None = None, key: Any = ()) -> Any:
        wanted = (training, shared, key, tuple(tensor.shape for tensor in tensors_of(tuple(batch))))
        if wanted not in self.graphs:
            if len(self.graphs) >= 4 * MOST_SHAPES:
                raise Unstackable(f"batches come in more than {4 * MOST_SHAPES} different shapes")
            began = time.perf_counter()
            graph = traced(
                stack or self.stack, self.template, self.members[self.alive[0]].plan.loss, batch, shared=shared, training=training,
                streams=streams or self.streams, frozen=self.frozen,
            )  # fmt: skip
            self.graphs[wanted] = torch.compile(graph, dynamic=False) if self.compile_step else graph
            self.report.trace_seconds += time.perf_counter() - began
        return self.graphs[wanted]

    def prepare(self) -> Any:
        """Trace the first step, and compare its losses and gradients with those of members alone. Returns the graph; raises Unstackable."""
        try:
            return self._prepare()
        except BaseException:
            self.release()
            raise

    def _prepare(self) -> Any:
        _, batch = next(iter(self._batches(0)))
        graph = self.graph(batch, shared=self.shared, training=True)
        dtype = self.stack.flat.dtype
        self.streams.seed(0)
        held = [tensor.clone() for tensor in self.stack.held]
        with torch.no_grad():
            losses, gradients = graph(*self.stack.views, *self.stack.held, *tensors_of(tuple(batch)))
        self._restore_held(held)
        for k in {0, self.stack.K - 1}:
            member = self.members[self.alive[k]]
            module, plan = member.training.model, member.plan
            own = batch if self.shared else Batch(*map_tensors(lambda tensor, k=k: tensor[k], tuple(batch)))
            module.train()
            for frozen in plan.frozen:
                frozen.eval()
            with seeds.restored(seeds.derive(plan.seed, "forward", 0)):
                outputs = loop.forward(module, own.inputs)
                value = plan.loss(outputs, own.targets) if own.weights is None else plan.loss(outputs, own.targets, own.weights)
                value = value[0] / value[1] if isinstance(value, tuple) else value
                named = dict(module.named_parameters())
                alone = torch.autograd.grad(value, [named[name] for name in self.stack.names], allow_unused=True)
            self._restore_held(held)
            if any((one is None) != (other is None) for one, other in zip(alone, gradients)) or any(one is None for one in alone):
                raise Unstackable("some parameters take no part in the loss")
            difference = math.sqrt(sum(float((one - other[k]).double().square().sum()) for one, other in zip(alone, gradients)))
            size = math.sqrt(sum(float(one.double().square().sum()) for one in alone))
            wrong = abs(float(losses[k]) - float(value.detach())) > TOLERANCE.get(dtype, 1e-4) * max(1.0, abs(float(value.detach())))
            if math.isfinite(size) and (wrong or difference > TOLERANCE.get(dtype, 1e-4) * max(size, 1e-3)):
                raise Unstackable(f"stacked, its first gradients differ from those alone (by {difference / max(size, 1e-12):.1e} of their size)")
        return graph

    def _restore_held(self, held: Sequence[Tensor]) -> None:
        for tensor, before in zip(self.stack.held, held):
            tensor.copy_(before)

    # -- batches

    def _batches(self, epoch: int) -> Any:
        """(groups, batch) of each step. `groups` is None where all members take part alike, else a list of (positions in the stack, batch)."""
        if self.shared:
            for batch in self.members[self.alive[0]].plan.batches.epoch(epoch):
                yield None, batch
            return
        sources = [source for k in self.alive if isinstance(source := self.members[k].plan.batches, InMemoryBatches)]  # all: `why_alone` has seen to it
        size = sources[0].batch_size
        data = []
        for source in sources:
            order = torch.cat(source._lists(epoch)) if source.shuffle else None
            data.append(Batch(*map_tensors(lambda t, order=order: t if order is None else t.index_select(0, order.to(t.device)), tuple(source.data))))
        least = min(source.num_rows for source in sources)
        whole = least // size * size
        for begin in range(0, whole, size):
            yield None, stacked_rows([slice_rows(one, begin, begin + size) for one in data])
        left = [source.num_rows - whole for source in sources]
        if not any(left):
            return
        if len(set(left)) == 1:
            yield None, stacked_rows([slice_rows(one, whole, whole + left[0]) for one in data])
            return
        groups = []
        for count in sorted(set(left)):  # folds of unlike size: their last batches differ by a row
            positions = [k for k, rows in enumerate(left) if rows == count]
            groups.append((positions, stacked_rows([slice_rows(data[k], whole, whole + count) for k in positions])))
        yield groups, groups[0][1]

    # -- the five steps

    def step(self, groups: Any, batch: Batch) -> Tensor:
        """One update of all members; returns their losses (K,)."""
        stack = self.stack
        if groups is None:
            graph = self.graph(batch, shared=self.shared, training=True)
            losses, gradients = graph(*stack.views, *stack.held, *tensors_of(tuple(batch)))  # 1. forward  2. loss  4. backward (3.: they are fresh)
            gradient = torch.cat([one.reshape(-1) for one in gradients])
        else:
            losses, gradient = self._grouped(groups)
        if self.clip_norms is not None or self.clip_value is not None:
            clip_members(stack, gradient, self.clip_norms, self.clip_value)
        self.optimizer.step(gradient)  # 5. step
        return losses

    def _grouped(self, groups: Any) -> tuple[Tensor, Tensor]:
        """A step in which members have batches of several sizes: each size is a stack of its own."""
        stack = self.stack
        losses = torch.zeros(stack.K, dtype=stack.flat.dtype, device=self.device)
        gradient = torch.zeros_like(stack.flat)
        into = stack.views_of(gradient)
        for positions, batch in groups:
            chosen = torch.tensor(positions, device=self.device)
            part = PartOfStack(stack, chosen)
            streams = Streams([self.members[self.alive[k]].plan.seed for k in positions], self.device)
            streams.generators = [self.streams.generators[self.streams.distinct.index(seed)] for seed in streams.distinct]
            graph = self.graph(batch, shared=False, training=True, stack=part, streams=streams, key=tuple(positions))  # type: ignore[arg-type]
            values, gradients = graph(*part.views, *part.held, *tensors_of(tuple(batch)))
            losses[chosen] = values
            for target, one in zip(into, gradients):
                target[chosen] = one
            for tensor, one in zip(stack.held, part.held):
                tensor[chosen] = one
        return losses, gradient

    # -- epochs

    def run(self) -> Report:
        """All remaining epochs of all members, as `epochs.train` does for one."""
        began = time.perf_counter()
        first = self.members[0].plan
        for member in self.members:
            epochs.notify(member.plan, RunStarted(first.epochs, first.batches.steps(0), 0))
            member.training.optimizer._opt_called = True  # else torch's schedulers warn that the optimizer itself has not moved
        try:
            for epoch in range(first.epochs):
                self._epoch(epoch)
                if not self.running():
                    break
                if 2 * len(self.running()) <= self.stack.K:
                    self.cut(epoch)
        finally:
            self.release()
        for member in self.members:
            self._finish(member, time.perf_counter() - began)
        return self.report

    def running(self) -> list[int]:
        """Positions in the stack of members that still train."""
        return [position for position, k in enumerate(self.alive) if self.members[k].status == "running"]

    def _epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        members = [self.members[k] for k in self.alive]
        self.streams.seed(epoch)
        by_step = [member.training.schedule for member in members if member.training.schedule is not None and member.training.schedule.every == "step"]
        collected = []
        with torch.no_grad():
            for groups, batch in self._batches(epoch):
                collected.append(self.step(groups, batch))
                if by_step:
                    for schedule in by_step:
                        schedule.step()
                    self.optimizer.read_rates() if not self._moves_more else self.optimizer.read()
        losses = torch.stack(collected)  # (steps, K); the one place in an epoch that waits for the device
        self.report.steps += len(collected)
        finite = torch.isfinite(losses)
        rows = losses.double().t().tolist()
        bad = (~finite).double().argmax(0).tolist()
        all_finite = finite.all(0).tolist()
        weights_finite = self._weights_finite()
        for position, member in enumerate(members):
            if member.status != "running":
                continue
            member.training.step += len(collected)
            member.training.epoch = epoch + 1
            if not all_finite[position] or not weights_finite[position]:
                member.status = "diverged"
                step = member.training.step - len(collected) + (bad[position] if not all_finite[position] else len(collected) - 1) + 1
                member.reason = f"the loss was not finite at step {step}" if not all_finite[position] else f"the weights were not finite after step {step}"
        self._end_of_epoch(epoch, rows, time.perf_counter() - started)

    @property
    def _moves_more(self) -> bool:
        """Whether a schedule moves momentum or betas too (OneCycleLR, CyclicLR)."""
        names = {type(inner).__name__ for member in self.members if member.training.schedule for inner in getattr(member.training.schedule, "schedulers", ())}
        return bool(names & {"OneCycleLR", "CyclicLR"}) or any("base_momentum" in g or "max_momentum" in g for groups in self.optimizer.groups for g in groups)

    def _weights_finite(self) -> list[bool]:
        sums = torch.zeros(self.stack.K, dtype=torch.float64, device=self.device)
        for view in self.stack.views:
            sums += view.reshape(self.stack.K, -1).sum(1, dtype=torch.float64)
        return torch.isfinite(sums).tolist()

    def _end_of_epoch(self, epoch: int, rows: list[list[float]], seconds: float) -> None:
        positions = self.running()
        members = [self.members[k] for k in self.alive]
        share = seconds / max(1, len(positions))
        plan = self.members[0].plan
        last = epoch + 1 == plan.epochs
        validated: dict[int, tuple[float, dict[str, float]]] = {}
        if plan.validate is not None and ((epoch + 1) % plan.validate_every == 0 or last):
            began = time.perf_counter()
            if self.validation is not None:
                values = self._validate_stacked()
                validated = {position: (values[position], {}) for position in positions}
            else:
                validated = {position: validate(members[position].plan) for position in positions}
            share += (time.perf_counter() - began) / max(1, len(positions))
        improved = []
        for position in positions:
            member = members[position]
            training, plan = member.training, member.plan
            rates = tuple(float(group["lr"]) for group in training.optimizer.param_groups)
            val_loss, metrics = validated.get(position, (None, {}))
            is_best = False
            if val_loss is not None:
                is_best = training.stopping.update(val_loss if plan.monitor == "loss" else metrics[plan.monitor], training.epoch)
                if is_best and plan.keep == "best":
                    training.best_epoch = training.epoch
                    improved.append(position)
            losses = rows[position]
            event = EpochEnded(
                epoch=training.epoch, epochs=plan.epochs, step=training.step, train_loss=sum(losses) / len(losses) if losses else math.nan, val_loss=val_loss,
                test_loss=None, metrics=metrics, lr=rates, seconds=share, is_best=is_best, losses=tuple(losses) if plan.observers else (),
            )  # fmt: skip
            schedule = training.schedule
            if schedule is not None and schedule.every == "epoch":
                schedule.step()
            if schedule is not None and schedule.wants_metric and val_loss is not None:
                schedule.step(epochs.monitored(plan, event))
            training.history.append(event.as_row())
            member.seconds += share
            epochs.notify(plan, event)
        if improved:
            self._keep_best(improved)
        if self.prune is not None and validated:
            values = {self.alive[p]: v if plan.monitor == "loss" else m[plan.monitor] for p, (v, m) in validated.items()}
            for k in self.prune(epoch + 1, values):
                self.members[k].status, self.members[k].reason = "pruned", f"left off after epoch {epoch + 1}"
                self.members[k].final_state = epochs.copy_state(self.members[k].training)
        for position in positions:
            member = members[position]
            if member.training.stopping.done and member.status == "running":
                member.status = "stopped"
                member.reason = f"no better {member.plan.monitor} for {member.training.stopping.patience} validations"
                member.final_state = epochs.copy_state(member.training)
        self.optimizer.read()

    def _validate_stacked(self) -> list[float]:
        """The mean validation loss of each member, over the same rows."""
        assert self.validation is not None
        total, weight_sum = torch.zeros(self.stack.K, dtype=torch.float64, device=self.device), 0.0
        with torch.no_grad():
            for batch in self.validation.batches:
                graph = self.graph(batch, shared=True, training=False)
                values = graph(*self.stack.views, *self.stack.held, *tensors_of(tuple(batch)))[0]
                weight = self.validation.weigh(batch)
                weight = None if weight is None else float(weight)
                if weight != 0:
                    total += values.double() * (1.0 if weight is None else weight)
                    weight_sum += weight or 0.0
        return (total / weight_sum if weight_sum else total).tolist()

    def _keep_best(self, improved: Sequence[int]) -> None:
        """The weights of members that have just been better than ever, kept beside the stack: one call for all."""
        if self.best is None:
            self.best, self.best_held = self.stack.flat.clone(), [tensor.clone() for tensor in self.stack.held]
            return
        mask = torch.zeros(self.stack.K, dtype=torch.bool, device=self.device)
        mask[list(improved)] = True
        torch.where(mask.index_select(0, self.stack.member_of_element), self.stack.flat, self.best, out=self.best)
        for best, now in zip(self.best_held, self.stack.held):
            best[mask] = now[mask]

    def _take_best(self, position: int) -> None:
        """Member's best weights out of the stack, as `epochs` keeps them for a run alone."""
        member = self.members[self.alive[position]]
        if self.best is None or member.training.best_epoch == 0 or member.training.best_state is not None:
            return
        own = dict(zip(self.stack.names, (view[position] for view in self.stack.views_of(self.best))))
        own |= dict(zip(self.stack.held_names, (tensor[position] for tensor in self.best_held)))
        # Tied weights stand in a state_dict under each of their names; buffers that are not saved do not.
        names = {id(tensor): name for name, tensor in [*member.training.model.named_parameters(), *member.training.model.named_buffers()]}
        state = member.training.model.state_dict(keep_vars=True)
        member.training.best_state = {key: own[names[id(tensor)]].clone() for key, tensor in state.items() if id(tensor) in names}

    def cut(self, epoch: int) -> None:
        """Members that have stopped leave the stack, and the graphs are traced again for those that are left."""
        keep = self.running()
        for position in range(self.stack.K):
            if position not in keep:
                self._take_best(position)
        stack = self.stack
        self.optimizer.cut(keep, lambda tensor: stack.kept(tensor, keep))
        if self.best is not None:
            chosen = torch.tensor(keep, device=self.device)
            self.best = stack.kept(self.best, keep)
            self.best_held = [tensor.index_select(0, chosen) for tensor in self.best_held]
        stack.cut(keep)
        self.alive = [self.alive[position] for position in keep]
        self.template = self.members[self.alive[0]].training.model
        self.frozen = tuple(self.members[self.alive[0]].plan.frozen)
        self.streams = Streams([self.members[k].plan.seed for k in self.alive], self.device)
        self.optimizer._index()
        self._read_clipping()
        self.graphs.clear()
        self.report.cuts.append((epoch + 1, len(keep)))

    def release(self) -> None:
        """Every module owns its tensors again, and the best weights are the members' own."""
        for position in range(self.stack.K):
            self._take_best(position)
            self.stack.release(position)

    def _finish(self, member: Member, seconds: float) -> None:
        training, plan = member.training, member.plan
        if member.status == "running":
            member.status, member.reason = "done", f"all {plan.epochs} epochs done"
        if plan.keep == "best" and training.best_state is not None:
            epochs.load_state(training, training.best_state)
            kept = training.best_epoch
        else:
            if member.final_state is not None:
                epochs.load_state(training, member.final_state)
            kept = training.epoch
        member.final_state = None
        epochs.notify(plan, RunEnded(training.epoch, training.step, member.reason, kept, member.seconds))


class PartOfStack:
    """Some members of a stack, copied out, for a step in which batches have several sizes."""

    def __init__(self, stack: Stack, chosen: Tensor):
        self.names, self.held_names = stack.names, stack.held_names
        self.views = [view.index_select(0, chosen) for view in stack.views]
        self.held = [tensor.index_select(0, chosen) for tensor in stack.held]
        self.K = len(chosen)


def validate(plan: Plan) -> tuple[float, dict[str, float]]:
    assert plan.validate is not None
    return plan.validate()


def slice_rows(batch: Batch, begin: int, end: int) -> Batch:
    return Batch(*map_tensors(lambda tensor: tensor[begin:end], tuple(batch)))


def stacked_rows(batches: Sequence[Batch]) -> Batch:
    """Batches of one shape as one batch of (K, ...) tensors."""
    columns = [iter(tensors_of(tuple(batch))) for batch in batches]
    return Batch(*map_tensors(lambda _: torch.stack([next(column) for column in columns]), tuple(batches[0])))
