"""A run's steps as machine code. Kernel: imports only torch and other kernel modules.

Enters: the parts of a run and its first batches, before its first step. Leaves: a `Program`, which makes steps whose numbers are eager's to rounding, or
`CannotCompile`. The decision that shaped it: the run is afterwards as it was (weights, optimizer, random streams), and what was compiled is compared with the traced
step before it is trusted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fivestep import seeds
from fivestep.data.batches import Batch, Stacked
from fivestep.train import loop
from fivestep.train.capturing import CannotCompile, Parts, Slots, buffers_of, tensors_in, traced, widened
from fivestep.train.graphs import as_scan, compile_graph, compute_scalars_once, unrolled, unrolled_length, write_out_small_products

CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative, of the first losses of a compiled chunk to the traced steps; half precision 5e-2


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
        if state[0].data_ptr() != live[0].data_ptr():  # on CUDA it has been copied step by step
            with torch.no_grad():
                torch._foreach_copy_(live, list(state))
        if self.slots.has_average:
            self.slots.parts.average.count += steps


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
        if device.type == "cpu":
            compute_scalars_once(graph)
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
            counts = (num_state, len(tensors_in(first)), len(outside))
            ways = [(length, "as a scan", as_scan), (few := unrolled_length(len(graph.graph.nodes), length), f"of {few} steps one after another", unrolled)]
            for steps, what, chunk_of in ways:
                if steps < 2:
                    continue
                rates = torch.tensor([slots.rates()] * steps, dtype=torch.float64, device=device)
                inputs = [*examples[:num_state], rates, *[tensor[:steps] for tensor in tensors_in(first)], *outside]
                try:
                    call = compile_graph(chunk_of(graph, steps, *counts), inputs, device)
                    checked(graph, call, inputs, slots, counts[1])
                    length = steps
                    break
                except Exception as error:
                    said.append(f"a chunk {what} is not possible ({told(error)})")
                    call = None
            if call is None:
                said.append("so each step is a call of its own")
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
