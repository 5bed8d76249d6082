"""The same five steps on K models at once: members that share a graph and differ in numbers (weights, rates, seeds, rows) only.

Enters: for each member its `Training` and `Plan`, as `epochs.train` takes them. Leaves: the same objects, each moved to the end of its run. The decision that
shaped it: forward, loss and gradients of all members are one graph of plain calls (`tracing.py`), all weights lie in one flat tensor (`stack.py`) that one
optimizer moves (`stacked_optimizer.py`), and the members' modules are views of it, so validating, saving and predicting stay the module's own.

Axis letters: `K` members.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fivestep import seeds
from fivestep.data.batches import Batch, InMemoryBatches, map_tensors, tensors_of
from fivestep.errors import Interrupted
from fivestep.train import epochs, loop
from fivestep.train.epochs import Plan
from fivestep.train.events import EpochEnded, RunEnded, RunStarted
from fivestep.train.signals import StopSignal
from fivestep.train.stack import PartOfStack, Stack, Streams
from fivestep.train.stackable import Member, why_alone
from fivestep.train.stacked_optimizer import StackedOptimizer, clip_members, group_names
from fivestep.train.tracing import Unstackable, compiled, traced

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}  # of the first gradients, stacked against alone: rounding is far below, another function far above
MOST_SHAPES = 8  # batches of more different shapes than this would be traced more often than replayed


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


# -- a population's run -------------------------------------------------------------------------------------------------------------------------------------------


class Population:
    """K members trained in the same steps. `run()` moves all of them to the end of their runs.

    `shared`: all members see the batches of the first one; else each has its own rows and order. `prune(epoch, {member: monitored value})` may name members that
    are to stop after this epoch. `after_epoch(population)` is called at the edge of each epoch that another one follows: there `population_state` can capture
    everything; what it raises ends the run. Raises Unstackable (from `prepare`) with the reason.
    """

    def __init__(
        self, members: Sequence[Member], *, shared: bool, validation: Validation | None = None, compile_step: bool = False,
        prune: Callable[[int, dict[int, float]], set[int]] | None = None, after_epoch: Callable[[Population], None] | None = None,
    ):  # fmt: skip
        self.members, self.prune, self.after_epoch = list(members), prune, after_epoch
        self.epoch = 0  # whole epochs that are done
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
        self.optimizer = StackedOptimizer(self.stack, [member.training for member in self.members])
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
            given = (stack or self.stack).views, (stack or self.stack).held, tensors_of(tuple(batch))
            self.graphs[wanted] = compiled(graph, [tensor for part in given for tensor in part]) if self.compile_step else graph
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

    def try_step(self) -> None:
        """The first step, and the first block of validation rows: what they take can be measured. The members have moved by it, and are not to be trained on."""
        try:
            with torch.no_grad():
                for groups, batch in self._batches(0):
                    self.step(groups, batch)
                    break
                if self.validation is not None:
                    self._validate_stacked()
        finally:
            self.release()

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
            epochs.notify(member.plan, RunStarted(first.epochs, first.batches.steps(0), self.epoch))
            member.training.optimizer._opt_called = True  # else torch's schedulers warn that the optimizer itself has not moved
        try:
            while self.epoch < first.epochs and self.running():
                self._epoch(self.epoch)
                self.epoch += 1
                if self.running() and 2 * len(self.running()) <= self.stack.K:
                    self.cut()
                if self.after_epoch is not None and self.epoch < first.epochs and self.running():
                    self.after_epoch(self)
        except BaseException as error:  # observers are told, as of a run alone: trackers close what they have opened
            status = "stopped" if isinstance(error, (Interrupted, KeyboardInterrupt, StopSignal)) else "failed"
            for member in self.members:
                training = member.training
                ended = RunEnded(training.epoch, training.step, str(error) or type(error).__name__, training.epoch, time.perf_counter() - began, status)
                epochs.notify(member.plan, ended)
            raise
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

    def cut(self) -> None:
        """Members that have stopped leave the stack; the others go on in a smaller one."""
        keep = self.running()
        for position in range(self.stack.K):
            if position not in keep:
                self._take_best(position)
        self.keep_only([self.alive[position] for position in keep])
        self.report.cuts.append((self.epoch, len(keep)))

    def keep_only(self, members: Sequence[int]) -> None:
        """Only these members stay in the stack, and the graphs are traced again for them; the others' modules own their tensors."""
        if list(members) == self.alive:
            return
        keep = [self.alive.index(k) for k in members]
        stack = self.stack
        self.optimizer.cut(keep, lambda tensor: stack.kept(tensor, keep))
        if self.best is not None:
            chosen = torch.tensor(keep, device=self.device)
            self.best = stack.kept(self.best, keep)
            self.best_held = [tensor.index_select(0, chosen) for tensor in self.best_held]
        stack.cut(keep)
        self.alive = list(members)
        self.template = self.members[self.alive[0]].training.model
        self.frozen = tuple(self.members[self.alive[0]].plan.frozen)
        self.streams = Streams([self.members[k].plan.seed for k in self.alive], self.device)
        self.optimizer._index()
        self._read_clipping()
        self.graphs.clear()

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


def validate(plan: Plan) -> tuple[float, dict[str, float]]:
    assert plan.validate is not None
    return plan.validate()


def slice_rows(batch: Batch, begin: int, end: int) -> Batch:
    return Batch(*map_tensors(lambda tensor: tensor[begin:end], tuple(batch)))


def stacked_rows(batches: Sequence[Batch]) -> Batch:
    """Batches of one shape as one batch of (K, ...) tensors."""
    columns = [iter(tensors_of(tuple(batch))) for batch in batches]
    return Batch(*map_tensors(lambda _: torch.stack([next(column) for column in columns]), tuple(batches[0])))
