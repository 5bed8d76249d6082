"""Where a run stopped being finite, exactly: the last good state is restored and the steps are taken again with every check on (RELIABILITY P6).

Enters: the `Training` that broke, its `Plan`, and a way back to a good state (the newest checkpoint, or the start held in memory). Leaves: a NonFiniteError that
names step, layer and rows; the model is in the good state again. The loop itself looks at one number a step, as all checks on every step cost more than half of
it; but a loss that is NaN was often made by a gradient some steps before, so the place is found here, where time does not matter.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.data.batches import Batch
from fivestep.errors import FivestepError, NonFiniteError
from fivestep.train import checkpoints, epochs, loop
from fivestep.train.epochs import Plan, Training

Restore = Callable[[], str]
"""Puts the `Training` back into a good state; returns which one, in words."""


def held_in_memory(training: Training) -> Restore:
    """The state as it is now, copied to the CPU: where nothing is written, it is what a replay begins with."""
    state, entry = checkpoints.capture(training)
    copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
    step = training.step

    def restore() -> str:
        checkpoints.restore(training, copies, entry)
        return f"as it was after step {step}" if step else "as it was at the start"

    return restore


def newest_on_disk(training: Training, parent: Path) -> Restore:
    """The newest valid checkpoint in `parent`."""

    def restore() -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged one is told when the run is resumed
            newest = checkpoints.read_newest(parent)
        checkpoints.restore(training, *newest.parsed)
        return f"as it was after step {training.step} ({parent / checkpoints.name_of(training.step)})"

    return restore


def located(training: Training, plan: Plan, error: NonFiniteError, restore: Restore, *, asked_to_stop: Callable[[], bool] = lambda: False) -> NonFiniteError:
    """The exact error behind `error`: which step, which layer first, for which rows. `error` itself where the replay does not meet it again, and says so."""
    try:
        restore()
        found = replayed(training, plan, error.step, asked_to_stop)
        stands = restore()
    except FivestepError as refused:  # no checkpoint can be read any more, or the data cannot
        return with_more(error, f" It could not be located by a replay: {refused}")
    if found is None:
        return with_more(error, f" The model is {stands}.") if asked_to_stop() else not_met_again(error, stands)
    return found.error(training, stands)


def with_more(error: NonFiniteError, sentence: str) -> NonFiniteError:
    return NonFiniteError(error.seen + sentence, step=error.step, layer=error.layer, rows=error.rows, origin=error.origin, fix=error.fix)


def not_met_again(error: NonFiniteError, stands: str) -> NonFiniteError:
    return with_more(
        error, f" When the steps were taken again it did not happen: something in model, loss or data is not repeatable from the seed. The model is {stands}."
    )


def replayed(training: Training, plan: Plan, last_step: int, asked_to_stop: Callable[[], bool]) -> Place | None:
    """Train on from the state that is, all checks on, until something is not finite; None where `last_step` and its epoch end without."""
    watch = Watch(training, plan)
    inner = plan.step if plan.user_step is None else epochs.user_step(plan.user_step)

    def checked(model: nn.Module, loss: Any, optimizer: Any, parts: Sequence[Batch], shares: Any, **options: Any) -> Any:
        watch.begin(training.step + 1)
        try:
            value = inner(model, loss, optimizer, watch.through(parts), shares, **(options | {"wait": True}))
        except loop.NonFiniteLoss:
            raise Met(watch.place("loss")) from None
        broken = epochs.first_broken(training, plan.may_be_infinite)
        if broken is not None:
            raise Met(watch.place("weights", broken))
        watch.end()
        return value

    def after_step(one: Training) -> bool:
        if asked_to_stop():
            return True
        return one.step > last_step + plan.batches.steps(one.epoch)

    again = replace(  # eager, also where the run was compiled: a graph has no place to look into
        plan,
        step=checked,
        user_step=None,
        program=None,
        batches=watch.batches(),
        observers=(),
        watch_test=None,
        after_step=after_step,
        after_epoch=lambda _: asked_to_stop(),
    )
    before = seeds.capture()
    try:
        with watch.hooked(), contextlib.suppress(NonFiniteError):
            epochs.train(training, again)
    except Met as met:
        return met.place
    finally:
        seeds.restore(before)
    return None


class Met(Exception):
    """The replay has come to the step that was looked for."""

    def __init__(self, place: Place):
        super().__init__()
        self.place = place


@dataclass(frozen=True)
class Place:
    """What was first not finite: `kind` is "inputs", "targets", "layer", "before layer", "output", "gradient", "loss" or "weights"; `name` the layer or tensor."""

    kind: str
    step: int
    epoch: int
    name: str | None = None
    rows: tuple[int, ...] = ()
    lr: float = 0.0
    value: str = "NaN or infinite"

    def error(self, training: Training, stands: str) -> NonFiniteError:
        rows = f" for training row{'s' if len(self.rows) > 1 else ''} {', '.join(map(str, self.rows[:10]))}{' ...' if len(self.rows) > 10 else ''}"
        where = rows if self.rows else ""
        lower = f"lower lr (now {self.lr:g}), or clip the gradients: clip_norm=1.0."
        layer = self.name
        seen, fix, origin = {
            "inputs": (f"the inputs hold NaN or infinity{where}", "Fill or drop these rows.", "inputs"),
            "targets": (f"the targets or weights hold NaN or infinity{where}", "Fill or drop these rows.", "inputs"),
            "layer": (f"layer {self.name} gave the first output that is not finite{where}", f"Look at what comes into this layer; {lower}", "layer"),
            "before layer": (
                f"what comes into layer {self.name} is not finite{where}, and no layer before it gave that: an operation in forward did",
                f"Look at the lines before this layer (a division, a log, a root); {lower}",
                "layer",
            ),
            "output": (
                f"the model's output is not finite{where}, and no layer within it gave that: an operation in forward did, or its numbers grew too large",
                f"{lower[0].upper() + lower[1:]} With a usual lr, look at the last lines of forward (a division, a log, a root).",
                "layer",
            ),
            "loss": (
                f"the outputs are finite{where and ', the loss is not' + where}, so the loss itself overflowed or took the log of zero",
                "Use the form that takes logits (BCEWithLogitsLoss for BCELoss, F.logsigmoid(x) for x.sigmoid().log(), log_softmax for softmax().log()), or keep the "
                f"argument of log, sqrt and / away from zero in your loss: p.clamp(1e-6, 1 - 1e-6). Where the outputs grew from step to step, {lower}",
                "loss",
            ),
            "gradient": (
                f"outputs and loss are finite, the gradient is not: first at {self.name}{where}",
                f"A root or a norm at zero, or an overflow, has such a gradient; {lower}",
                "gradient",
            ),
            "weights": (f"outputs, loss and gradients are finite, and after the update {self.name} is not", lower[0].upper() + lower[1:], "weights"),
        }[self.kind]
        return NonFiniteError(
            f"Step {self.step} (epoch {self.epoch}) is not finite: {seen}. Nothing of this is saved; the model is {stands}.",
            fix=fix,
            step=self.step,
            layer=layer,
            rows=self.rows,
            origin=origin,
        )


class Watch:
    """Looks at every layer's inputs, outputs and gradients during a step, and remembers the first of each kind that is not finite.

    What was not finite in a step that ended well (a mask of -inf that is handed on, a NaN that the model replaces) is no cause: it is passed over.
    """

    def __init__(self, training: Training, plan: Plan):
        self.training, self.plan = training, plan
        self.number = 0  # of the batch in its epoch
        self.batch: Batch | None = None
        self.where: tuple[int, int] = (0, 0)  # the first row of the part in its batch, and how many it has
        self.step = 0
        self.usual: set[tuple[str, str | None]] = set()
        self.seen: list[tuple[str, str | None, Tensor | None, tuple[int, int]]] = []
        self.outputs: list[tuple[Any, Batch]] = []
        self.part: Batch | None = None

    # -- a step

    def begin(self, step: int) -> None:
        self.step, self.seen, self.outputs = step, [], []

    def end(self) -> None:
        self.usual |= {(kind, name) for kind, name, _, _ in self.seen}

    def through(self, parts: Sequence[Batch]) -> Sequence[Batch]:
        """The same parts; while one is worked on, it is known which."""
        watch = self

        class Parts(list):  # a list, as the step asks for its length and unpacks it
            def __iter__(self) -> Iterator[Batch]:
                for part in super().__iter__():
                    watch.part, watch.where = part, watch.place_of(part)
                    for kind, value in (("inputs", part.inputs), ("targets", (part.targets, part.weights))):
                        watch.look(kind, None, value)
                    yield part

        return Parts(parts)

    def batches(self) -> Any:
        """The plan's batches, each remembered while it is worked on."""
        watch, inner = self, self.plan.batches

        class Remembered:
            def epoch(self, n: int, start: int = 0) -> Iterator[Batch]:
                for watch.number, batch in enumerate(inner.epoch(n, start), start):
                    watch.batch = batch
                    yield batch

            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

        return Remembered()

    # -- looking

    def look(self, kind: str, name: str | None, value: Any) -> None:
        for tensor in loop.tensors_of(value):
            if (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() and not bool(torch.isfinite(tensor).all()):
                mask = ~torch.isfinite(tensor.detach()).reshape(len(tensor), -1).all(1) if tensor.dim() else None
                self.seen.append((kind, name, mask, self.where))
                return

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks on every module and parameter, which look and change nothing."""
        handles: list[Any] = []
        for name, module in self.training.model.named_modules():
            if name:
                handles.append(module.register_forward_pre_hook(self._before(name)))
            handles.append(module.register_forward_hook(self._after(name)))
        for name, parameter in self.training.model.named_parameters():
            if parameter.requires_grad:
                handles.append(parameter.register_hook(self._gradient(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            if torch.is_grad_enabled() and inputs:
                self.look("before layer", name, inputs[0])  # the first: masks of -inf come behind it

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            if not torch.is_grad_enabled():
                return  # a validation
            if not name and self.part is not None:
                self.outputs.append((outputs, self.part))
            self.look("layer" if name else "output", name or None, outputs)
            for tensor in loop.tensors_of(outputs):
                if tensor.requires_grad and not tensor.is_leaf:
                    tensor.register_hook(self._gradient(f"the output of {name}" if name else "the model's output"))

        return hook

    def _gradient(self, name: str) -> Callable[[Tensor], None]:
        where = self.where  # of the part whose forward made this output; a parameter's gradient is of no part

        def hook(gradient: Tensor) -> None:
            if gradient.layout is torch.strided:
                self.where = where
                self.look("gradient", name, gradient)

        return hook

    # -- the answer

    def place(self, failed: str, broken: str | None = None) -> Place:
        """What was first, where a step failed: at its loss, or (`broken` names the tensor) after its update."""
        unusual = [one for one in self.seen if (one[0], one[1]) not in self.usual]
        if failed == "loss":
            unusual = [one for one in unusual if one[0] != "gradient"]  # of an earlier part, which was finite
        given = next((one for one in unusual if one[0] in ("inputs", "targets")), None)
        lr = float(self.training.optimizer.param_groups[0]["lr"])
        facts: dict[str, Any] = dict(step=self.step, epoch=self.training.epoch + 1, lr=lr)
        first_layer = next((one[1] for one in unusual if one[0] == "layer"), None)
        if given is not None:
            return Place(given[0], name=first_layer, rows=self.rows(given[2], given[3]), **facts)
        if unusual:
            kind, name, mask, where = unusual[0]
            rows = self.rows(mask, where) if kind != "gradient" or (name or "").startswith("the ") else ()
            return Place(kind, name=(name or "").removeprefix("the output of ") or None, rows=rows, **facts)
        if failed == "loss":
            return Place("loss", rows=self.rows_of_loss(), **facts)
        return Place("weights", name=broken, **facts)

    def rows_of_loss(self) -> tuple[int, ...]:
        """The rows whose own loss is not finite, where loss and outputs can be taken row by row."""
        if self.plan.compute is not None or self.plan.user_step is not None or not self.outputs:
            return ()
        outputs, part = self.outputs[-1]
        if not isinstance(outputs, Tensor) or not outputs.dim() or part.weights is not None:
            return ()
        if len(outputs) != self.where[1]:
            return ()  # an ensemble's outputs have its members first
        wrong = torch.zeros(len(outputs), dtype=torch.bool)
        with torch.no_grad():
            for row in range(len(outputs)):
                try:
                    value = self.plan.loss(outputs[row : row + 1], loop.map_tensors(lambda tensor, row=row: tensor[row : row + 1], part.targets))
                    value = value[0] if isinstance(value, tuple) else value
                    wrong[row] = not math.isfinite(float(value))
                except Exception:  # the loss does not take single rows: then they stay unnamed
                    return ()
        return self.rows(wrong, self.where) if bool(wrong.any()) and not bool(wrong.all()) else ()

    def place_of(self, part: Batch) -> tuple[int, int]:
        """How many rows of the batch come before this part, which is a view of it, and how many it has."""
        one, whole = loop.tensors_of(part.inputs), loop.tensors_of(part.inputs if self.batch is None else self.batch.inputs)
        if not one or not one[0].dim():
            return 0, 0
        first = 0 if part is self.batch or not whole[0].stride(0) else (one[0].storage_offset() - whole[0].storage_offset()) // whole[0].stride(0)
        return first, len(one[0])

    def rows(self, mask: Tensor | None, where: tuple[int, int]) -> tuple[int, ...]:
        """Positions in the training split of the marked rows of a part; () where the mask is not one of rows."""
        rows = self.plan.batches.rows(self.training.epoch, self.number)
        first, count = where
        if mask is None or len(mask) != count or first + count > len(rows):
            return ()
        return tuple(rows[first : first + count][mask.cpu()].tolist())
