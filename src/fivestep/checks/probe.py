"""What the rules measure, each thing once and on copies: a batch, its outputs, gradients over a few batches, five steps of training, a rehearsal of the first twenty.

Enters: a Subject. Leaves: cached measurements. The decision that shaped it: nothing here touches the user's model, data or random state. The model is copied
before it is called, rows are cloned before a forward sees them, a Dataset is copied before it is read, and `before` runs all of it inside `seeds.restored`.
Expensive measurements ask `has_time` (the thread's own time, so that a busy machine does not change what is found), and the batch is as large as a forward of
about 8 ms allows; `before` names the rules for which no time was left.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.checks.arrays import FLAT, Column, as_numbers, concatenate, count_rows, flatten, held_bytes, number_tensors, row_step
from fivestep.checks.recording import Call, Recorder, last_operations, tensors_in
from fivestep.checks.subject import Part, Subject, select
from fivestep.data.batches import map_tensors
from fivestep.model.models import Ensemble
from fivestep.train.loop import forward

SECONDS = 0.9  # what all checks before a run may take together
ROWS = 256
FORWARD_SECONDS = 0.008  # all rules together ask for some fifty forwards of the batch
ELEMENTS = 2_000_000  # at most so many input values in a probe's batch: 256 rows of a table, 13 photographs
COPY_BYTES = 200_000_000  # a Dataset that holds more is read in place


class CannotCheck(Exception):
    """A measurement is impossible for this model or data; the rules that need it are skipped and one note says why."""


@dataclass(frozen=True)
class View:
    """The rows of one split that the checks may look at: all of them in memory, a sample where rows are read one by one."""

    inputs: Any
    targets: tuple[Any, ...]
    complete: bool

    @property
    def target(self) -> Tensor | None:
        return self.targets[0] if self.targets and isinstance(self.targets[0], Tensor) else None


@dataclass(frozen=True)
class Pass:
    """One forward: raw outputs, what the loss sees of them, the calls inside, the loss and the calls inside the loss (None where it was not asked)."""

    outputs: Any
    picked: Any
    calls: list[Call]
    changed_inputs: float = 0.0  # the share of input values that forward has changed
    names: dict[int, str] = field(default_factory=dict)  # id of each parameter -> its name
    loss: Tensor | None = None
    loss_calls: list[Call] = field(default_factory=list)

    @property
    def output(self) -> Tensor | None:
        """The one output tensor, or the first of several."""
        return next(iter(tensors_in(self.picked)), None)

    @property
    def single(self) -> bool:
        return isinstance(self.picked, Tensor)


@dataclass(frozen=True)
class Gradients:
    """Over up to seven batches: which parameters got a gradient at all, which ever a non-zero one, each one's norms, and the whole norm of each batch."""

    reached: set[str]
    nonzero: set[str]
    norms: dict[str, list[float]]
    totals: list[float]
    fired: set[str]
    batches: int


@dataclass(frozen=True)
class Rehearsal:
    """The first steps of the real plan on a copy: the relative weight change of each step, losses, and one fixed batch's loss before and after."""

    changes: list[float]
    losses: list[float]
    first: float
    last: float
    travelled: float  # sum over steps of norm(step) / norm(weights)


class Probe:
    """Measures on demand; every property is computed at the first question and kept."""

    def __init__(self, subject: Subject, seconds: float = SECONDS):
        self.subject = subject
        self.deadline = time.thread_time() + seconds
        self.seconds = seconds
        self.views: dict[str, View] = {}
        self.flats: dict[str, numpy.ndarray | None] = {}
        self.shared: dict[tuple[str, str], tuple[float, int] | None] = {}  # which rows of one split stand in another
        self.known_rows: dict[str, tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]] = {}  # of a split: its rows, sixteen columns, a key for each row
        self.forward_seconds = 0.0  # of one row
        self.refusal: str | None = None  # what the loss said about the first batch, where it refused it

    def has_time(self, share: float = 0.0) -> bool:
        """Whether more than `share` of the seconds is left."""
        return time.thread_time() < self.deadline - share * self.seconds

    def release(self) -> None:
        """Let go of batches, graphs and trained copies; what a later rule compares with stays (the model's start, the rows that were read)."""
        for name in (
            "calm",
            "batch",
            "evaluation",
            "training",
            "training_copy",
            "gradients",
            "after_five_steps",
            "rehearsal",
            "columns",
            "target_column",
            "loss_copy",
        ):
            self.__dict__.pop(name, None)
        self.flats.clear()
        self.known_rows.clear()

    # model

    @cached_property
    def pair(self) -> tuple[nn.Module, Any]:
        """Copies of the model and its optimizer, never run themselves."""
        try:
            return copy_together(self.subject.model, self.subject.optimizer)
        except Exception as error:
            raise CannotCheck(f"the model cannot be copied ({type(error).__name__}: {error})") from error

    def fresh(self) -> nn.Module:
        """A copy of the model as it was given."""
        return copy_together(self.pair[0])[0]

    @cached_property
    def calm(self) -> nn.Module:
        """One copy in eval mode for all rules that only ask for outputs."""
        return self.fresh().eval()

    def fresh_pair(self) -> tuple[nn.Module, Any]:
        """A copy of the model and of its optimizer, tied to each other as the originals are."""
        return copy_together(*self.pair)

    @cached_property
    def device(self) -> torch.device:
        return next((parameter.device for parameter in self.subject.model.parameters()), torch.device("cpu"))

    # data

    @cached_property
    def readable(self) -> dict[str, Part]:
        """The splits; those that read a Dataset are copies of it where it is small enough, as a Dataset may change itself when it is read."""
        parts = self.subject.parts
        if all(part.inputs is not None for part in parts.values()) or held_bytes(self.subject.dataset) > COPY_BYTES:
            return parts
        with contextlib.suppress(Exception):  # open files and the like: then the rows are read as training would read them
            return copy.deepcopy(parts)
        return parts

    def view(self, name: str) -> View | None:
        """The rows of a split, or None where there is no such split."""
        if name not in self.readable:
            return None
        if name not in self.views:
            part = self.readable[name]
            if part.inputs is not None:
                self.views[name] = View(part.inputs, part.targets or (), True)
            else:
                limit = min(len(part), 2000 if name == "train" else 500)
                chunks, start = [], time.perf_counter()
                order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:limit]
                for chunk in order.split(32):
                    chunks.append(part.take(chunk)[:2])
                    if time.perf_counter() - start > 0.12 * self.seconds:
                        break
                read = sum(count_rows(chunk[0]) for chunk in chunks)
                inputs = concatenate([chunk[0] for chunk in chunks])
                targets = tuple(concatenate([chunk[1][place] for chunk in chunks]) for place in range(len(chunks[0][1])))
                self.views[name] = View(inputs, targets, read == len(part))
        return self.views[name]

    @property
    def train(self) -> View:
        view = self.view("train")
        assert view is not None
        return view

    def flat(self, name: str) -> numpy.ndarray | None:
        """Floating (and 8-bit) inputs of a split side by side: float32 (rows, values); every k-th row of large ones. None where inputs are codes only."""
        if name not in self.flats:
            view = self.view(name)
            self.flats[name] = None if view is None else flatten(view.inputs)
        return self.flats[name]

    def whole_flat(self, name: str) -> numpy.ndarray | None:
        """As `flat`, with all rows up to 20 million values."""
        view = self.view(name)
        return None if view is None else flatten(view.inputs, 20_000_000)

    def target_rows(self, name: str) -> numpy.ndarray | None:
        """The first target of a split as float64 (rows, values per row); every k-th row of large ones."""
        view = self.view(name)
        if view is None or view.target is None or view.target.dim() == 0 or len(view.target) == 0:
            return None
        step = max(1, view.target.numel() // FLAT)
        return (
            view.target[::step].detach().cpu().double().flatten(1).numpy()
            if view.target.dim() > 1
            else view.target[::step].detach().cpu().double()[:, None].numpy()
        )

    def aligned(self, name: str) -> tuple[numpy.ndarray, numpy.ndarray] | None:
        """`flat` and the one target of the same rows, (rows, values) and (rows,); None where either is missing or a row has several targets."""
        flat, view = self.flat(name), self.view(name)
        if flat is None or view is None or view.target is None or view.target.dim() == 0 or len(view.target) == 0 or view.target[0].numel() != 1:
            return None
        target = view.target[:: row_step(view.inputs, FLAT)].detach().cpu().double().reshape(-1).numpy()
        return (flat, target) if len(flat) == len(target) else None

    @cached_property
    def classes_of_rows(self) -> dict[str, numpy.ndarray] | None:
        """Class labels of each split as int64 (rows,), where the targets are one class for each row; None otherwise.

        Integers with a loss over classes, or one float column of 0 and 1 with a binary loss; a regression target with few values is not a label.
        """
        found = {}
        for name in self.readable:
            view = self.view(name)
            target = None if view is None else view.target
            if target is None or target.dim() == 0 or target[0].numel() != 1:
                return None
            if target.is_floating_point() and not (self.subject.task in ("binary", "multiclass") or self.loss_family == "binary"):
                return None
            if not target.is_floating_point() and self.subject.task == "regression":
                return None
            values = target.detach().cpu().reshape(-1)
            if target.is_floating_point() and not bool(torch.all(values == values.round())):
                return None
            found[name] = values.long().numpy()
        return found

    @cached_property
    def columns(self) -> list[Column]:
        """Raw feature columns over all rows: of the table where there is one (dropped ones included), else of a floating matrix of inputs."""
        subject = self.subject
        if subject.table is not None:
            found = []
            for name, values in subject.table.items():
                if name == subject.target:
                    continue
                values = numpy.asarray(values)
                numbers, kind = as_numbers(values)
                if numbers is not None:
                    found.append(Column(name, numbers, str(values.dtype), name in subject.used, subject.kinds.get(name, kind)))
            return found
        views = [self.view(name) for name in self.readable]
        tensors = [[tensor for tensor in tensors_in(view.inputs) if tensor.dim() == 2 and tensor.is_floating_point()] for view in views if view is not None]
        found = []
        for place in range(min(map(len, tensors))):
            joined = torch.cat([group[place].detach().cpu() for group in tensors]).numpy()
            if joined.shape[1] > 512 or len({group[place].shape[1] for group in tensors}) > 1:
                continue
            joined = joined[self.column_order]
            prefix = "column" if len(tensors[0]) == 1 else f"input {place} column"
            found += [
                Column(f"{prefix} {number}", joined[:, number].astype(numpy.float64), str(joined.dtype), place=number) for number in range(joined.shape[1])
            ]
        return found

    @cached_property
    def original_order(self) -> numpy.ndarray | None:
        """For arrays: how to put the joined splits back into the order of the original data; None where that is not known."""
        parts = self.readable.values()
        if self.subject.table is not None or any(part.rows is None or part.inputs is None for part in parts):
            return None
        return numpy.argsort(numpy.concatenate([part.rows for part in parts if part.rows is not None]), kind="stable")

    @cached_property
    def target_column(self) -> numpy.ndarray | None:
        """The target aligned with `columns`: float64 (rows,) with codes for labels; None where there is none or it has several values for a row."""
        subject = self.subject
        if subject.table is not None:
            if subject.target is None or subject.target not in subject.table:
                return None
            values = numpy.asarray(subject.table[subject.target])
            numbers, _ = as_numbers(values)
            return numbers if numbers is not None else numpy.unique(values.astype(str), return_inverse=True)[1].astype(numpy.float64)
        targets = [view.target for view in map(self.view, self.readable) if view is not None]
        if any(target is None or target.dim() == 0 or len(target) == 0 or target[0].numel() != 1 for target in targets):
            return None
        joined = torch.cat([target.detach().cpu().double().reshape(-1) for target in targets if target is not None]).numpy()
        return joined[self.column_order]

    @cached_property
    def column_order(self) -> numpy.ndarray:
        """For arrays: which of the joined rows `columns` and `target_column` hold, in the original order where it is known; every k-th row of large arrays."""
        views = [view for view in map(self.view, self.readable) if view is not None]
        order = self.original_order if self.original_order is not None else numpy.arange(sum(count_rows(view.inputs) for view in views))
        return order[:: max(1, sum(tensor.numel() for view in views for tensor in number_tensors(view.inputs)) // (2 * FLAT))]

    @cached_property
    def in_train(self) -> numpy.ndarray:
        """Which rows of `columns` are training rows: bool (rows,)."""
        rows = self.readable["train"].rows
        if self.subject.table is not None:
            mask = numpy.zeros(len(next(iter(self.subject.table.values()))), bool)
            mask[slice(None) if rows is None else rows] = True
            return mask
        return self.column_order < count_rows(self.train.inputs)

    @cached_property
    def has_classes(self) -> bool:
        """Whether the target names classes."""
        if self.subject.table is not None and self.subject.task is not None:
            return self.subject.task in ("binary", "multiclass")
        return self.classes_of_rows is not None

    # a batch and its passes

    @cached_property
    def batch(self) -> tuple[Any, tuple[Any, ...]]:
        """Up to 256 training rows, spread over the split; the same ones each time."""
        view = self.train
        total = count_rows(view.inputs)
        per_row = max(1, sum(tensor[:1].numel() for tensor in tensors_in(view.inputs)))
        size = max(2, min(ROWS, total, ELEMENTS // per_row))
        order = torch.randperm(total, generator=torch.Generator().manual_seed(1))[:size]
        # A model that takes longer gets fewer rows, nine at least (a rule on mixing needs them): 3 ms for 8 rows, then the whole batch.
        for tried in (min(8, size), size):
            with contextlib.suppress(Exception):  # what forward cannot take is told by the rules that call it
                with seeds.restored(0):
                    self.outputs(self.calm, self.rows(order[:2])[0])
                    begun = time.thread_time()
                    self.outputs(self.calm, self.rows(order[:tried])[0])
                took = time.thread_time() - begun
                self.forward_seconds = took / tried
                if took > (0.3 if tried < size else 1.0) * FORWARD_SECONDS * self.seconds / SECONDS:
                    size = max(min(9, size), int(tried * FORWARD_SECONDS * self.seconds / SECONDS / took))
                    break
        return self.rows(order[:size])

    def rows(self, order: Tensor) -> tuple[Any, tuple[Any, ...]]:
        """Clones of rows of `train`, on the model's device."""
        view = self.train
        with contextlib.suppress(TypeError, IndexError, AttributeError):
            return (
                map_tensors(lambda tensor: tensor.detach().clone().to(self.device), select(view.inputs, order)),
                tuple(map_tensors(lambda tensor: tensor.detach().clone().to(self.device), select(target, order)) for target in view.targets),
            )
        raise CannotCheck("the inputs are neither tensors nor tuples or dicts of tensors")

    def batches(self, limit: int) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        """Training batches of the planned size, the smaller of it and what the probe may hold."""
        total = count_rows(self.train.inputs)
        size = min(self.subject.batch_size, total, max(2, count_rows(self.batch[0])))
        order = torch.randperm(total, generator=torch.Generator().manual_seed(2))
        for start in range(0, max(1, total - size + 1), size):
            if limit <= 0:
                return
            limit -= 1
            yield self.rows(order[start : start + size])

    def loss_of(self, outputs: Any, targets: tuple[Any, ...]) -> Tensor:
        """The loss of what `pick` has left, as one number with its graph."""
        subject = self.subject
        if subject.feed is not None:
            value = subject.feed(outputs, targets)
        elif self.loss_copy is not None:
            given = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
            value = self.loss_copy(*given, *targets)
        else:
            raise CannotCheck("there is no loss function to look at (compute= or step= is given)")
        if isinstance(value, tuple):
            value = value[0] / value[1]
        if not isinstance(value, Tensor):
            value = torch.as_tensor(float(value))
        return value.mean() if value.dim() else value

    @cached_property
    def loss_copy(self) -> Any:
        """A copy of the loss, as a loss may keep state too."""
        if isinstance(self.subject.loss, nn.Module) or hasattr(self.subject.loss, "__dict__"):
            with contextlib.suppress(Exception):
                return copy.deepcopy(self.subject.loss).to(self.device) if isinstance(self.subject.loss, nn.Module) else copy.deepcopy(self.subject.loss)
        return self.subject.loss

    def picked(self, outputs: Any) -> Any:
        return outputs if self.subject.pick is None else self.subject.pick(outputs)

    def run(self, model: nn.Module, inputs: Any, *, replace: dict[int, float] | None = None) -> Pass:
        """One recorded forward with gradients."""
        recorder = Recorder(replace)
        given = map_tensors(lambda tensor: tensor.clone(), inputs)
        with torch.enable_grad(), recorder:
            outputs = forward(model, given)
        changed = max(
            (
                float((before.nan_to_num() != after.nan_to_num()).float().mean())
                for before, after in zip(tensors_in(inputs), tensors_in(given))
                if before.numel()
            ),
            default=0.0,
        )
        return Pass(outputs, self.picked(outputs), recorder.calls, changed, {id(parameter): name for name, parameter in model.named_parameters()})

    def outputs(self, model: nn.Module, inputs: Any) -> Tensor:
        """The (first) output without a graph, detached."""
        with torch.no_grad():
            outputs = self.picked(forward(model, map_tensors(lambda tensor: tensor.clone(), inputs)))
        output = next(iter(tensors_in(outputs)), None)
        if output is None:
            raise CannotCheck("the model returns no tensor")
        return output

    @cached_property
    def evaluation(self) -> Pass:
        """The batch through a copy in eval mode."""
        with seeds.restored(0):
            return self.run(self.fresh().eval(), self.batch[0])

    @cached_property
    def training(self) -> Pass:
        """The batch through a copy in train mode, and its loss."""
        with seeds.restored(0):
            self.training_copy = self.fresh().train()  # kept alive: `names` go by id
            made = self.run(self.training_copy, self.batch[0])
            if self.subject.loss is None and self.subject.feed is None:
                return made
            recorder, value = Recorder(), None
            try:
                with torch.enable_grad(), recorder:
                    value = self.loss_of(made.picked, self.batch[1])
            except Exception as error:  # rules on outputs and targets can still be asked, and one of them may say why
                self.refusal = f"{type(error).__name__}: {error}"
            # In training an ensemble gives each member's outputs and its loss takes those of one as well: rules are asked about one, (rows, outputs).
            picked = made.picked[0] if isinstance(self.training_copy, Ensemble) else made.picked
            return Pass(made.outputs, picked, made.calls, made.changed_inputs, made.names, value, recorder.calls)

    @property
    def has_loss(self) -> bool:
        return (self.subject.loss is not None or self.subject.feed is not None) and self.subject.step is None

    def loss_calls(self, *names: str) -> list[Call]:
        """Calls of torch losses inside the loss, whatever it is wrapped in."""
        return [call for call in self.training.loss_calls if call.name in names] if self.has_loss else []

    @cached_property
    def is_custom(self) -> bool:
        """Whether the loss is the user's own function."""
        return self.has_loss and self.subject.loss_name is None

    @cached_property
    def loss_family(self) -> str | None:
        """ "classes" for cross-entropy and NLL, "binary" for the BCE family, "distance" for MSE and its kin, None for another or the user's own arithmetic."""
        name = self.subject.loss_name
        families = {
            "classes": ("CrossEntropyLoss", "NLLLoss", "NLLLoss2d", "MultiMarginLoss", "cross_entropy", "nll_loss"),
            "binary": ("BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "MultiLabelSoftMarginLoss"),
            "distance": ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
        }
        for family, names in families.items():
            if name in names or (name is None and self.has_loss and any(call.name in names for call in self.training.loss_calls)):
                return family
        return None

    @cached_property
    def output_operations(self) -> set[str]:
        """The last operations of the output in eval mode, seen through views."""
        output = self.evaluation.output
        return set() if output is None else last_operations(output)

    # gradients and short trainings

    @cached_property
    def objective_name(self) -> str:
        return "compute" if self.subject.compute is not None else "loss"

    def objective(self, model: nn.Module, inputs: Any, targets: tuple[Any, ...]) -> Tensor:
        """What training minimises, for one batch."""
        if self.subject.step is not None:
            raise CannotCheck("a step of your own replaces the five steps")
        if self.subject.compute is not None:
            value = self.subject.compute(model, inputs, targets)
            return value[0] / value[1] if isinstance(value, tuple) else value
        return self.loss_of(self.picked(forward(model, inputs)), targets)

    @cached_property
    def gradients(self) -> Gradients:
        """Gradients of up to seven training batches, and of more where some parameter had none and there is time."""
        model = self.fresh().train()
        parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        fired: set[str] = set()
        for name, module in model.named_modules():
            module.register_forward_hook(lambda module, inputs, output, name=name: fired.add(name))
        reached: set[str] = set()
        nonzero: set[str] = set()
        norms: dict[str, list[float]] = {name: [] for name in parameters}
        totals: list[float] = []
        done = 0
        wanted = 7 if self.forward_seconds * min(self.subject.batch_size, count_rows(self.batch[0])) < 0.004 else 3
        with seeds.restored(0), torch.enable_grad():
            for inputs, targets in self.batches(40):
                if (done >= wanted and len(reached) == len(parameters)) or (done and not self.has_time(0.5)):
                    break
                value = self.objective(model, inputs, targets)
                done += 1
                if not value.requires_grad:
                    continue
                model.zero_grad(set_to_none=True)
                value.backward()
                total = 0.0
                for name, parameter in parameters.items():
                    if parameter.grad is None:
                        continue
                    reached.add(name)
                    norm = float(parameter.grad.coalesce().values().norm() if parameter.grad.is_sparse else parameter.grad.norm())
                    norms[name].append(norm)
                    total += norm * norm
                    if norm != 0:
                        nonzero.add(name)
                totals.append(math.sqrt(total))
        return Gradients(reached, nonzero, norms, totals, fired, done)

    @cached_property
    def after_five_steps(self) -> nn.Module | None:
        """A copy after five steps of Adam (rate 1e-2), in eval mode; None where there was no time or nothing to train."""
        if not self.has_time(0.3):
            return None
        model = self.fresh().train()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not parameters:
            return None
        optimizer = torch.optim.Adam(parameters, lr=1e-2)
        with seeds.restored(0), torch.enable_grad():
            for inputs, targets in self.batches(5):
                value = self.objective(model, inputs, targets)
                if not value.requires_grad or not bool(torch.isfinite(value)):
                    return None
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
        return model.eval()

    @cached_property
    def rehearsal(self) -> Rehearsal | None:
        """Up to twenty steps with the real optimizer, rates and clipping on copies; None where that is not possible or would take too long."""
        subject = self.subject
        if subject.optimizer is None or subject.step is not None or not self.has_time(0.35):
            return None
        with contextlib.redirect_stderr(io.StringIO()):
            model, optimizer = self.fresh_pair()
        model.train()
        weights = [parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.requires_grad]
        if not weights or is_closure_optimizer(optimizer):
            return None
        # Twenty steps, or as many as take a sixth of the time (a step is about three forwards), three at least.
        one = 3 * self.forward_seconds * min(subject.batch_size, count_rows(self.batch[0]))
        steps = min(subject.num_steps, max(3, min(20, int(0.17 * self.seconds / max(one, 1e-9)))))
        rates = list(subject.schedule(steps)) if subject.schedule is not None else None
        start_rate = max(float(group["lr"]) for group in optimizer.param_groups)
        # A zero-initialised weight moves infinitely far at its first step; it is held against the size it would usually start with.
        usual = math.sqrt(sum(weight.numel() / (3 * max(1, weight[0].numel())) for weight in weights if weight.dim() > 1))
        changes, losses = [], []
        with seeds.restored(0), torch.enable_grad():
            fixed = self.batch
            was = self.mode_free_loss(model, fixed)
            for number, (inputs, targets) in enumerate(self.cycled(steps)):
                if number >= 3 and not self.has_time(0.2):
                    break
                if rates is not None and start_rate > 0 and number < len(rates):
                    for group in optimizer.param_groups:
                        group["lr"] = group.get("initial_lr", start_rate) * rates[number] / max(start_rate, max(rates))
                before = [weight.detach().clone() for weight in weights]
                optimizer.zero_grad()
                value = self.objective(model, inputs, targets)
                losses.append(float(value))
                if not value.requires_grad or not math.isfinite(losses[-1]):
                    break
                value.backward()
                if subject.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(weights, subject.clip_norm)
                if subject.clip_value is not None:
                    torch.nn.utils.clip_grad_value_(weights, subject.clip_value)
                optimizer.step()
                pairs = [(old, new) for old, new in zip(before, weights) if old.dim() > 1]
                moved = math.sqrt(sum(float((new.detach() - old).norm()) ** 2 for old, new in pairs))
                size = math.sqrt(sum(float(old.norm()) ** 2 for old, _ in pairs))
                changes.append(moved / max(size, usual, 1e-12))
            now = self.mode_free_loss(model, fixed)
        return Rehearsal(changes, losses, was, now, sum(changes))

    def cycled(self, steps: int) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        """Exactly `steps` batches, going round where the data is shorter."""
        while steps > 0:
            for batch in self.batches(steps):
                steps -= 1
                yield batch

    def mode_free_loss(self, model: nn.Module, batch: tuple[Any, tuple[Any, ...]]) -> float:
        """The batch's loss in train mode under one seed, on a copy, so that statistics do not move."""
        with seeds.restored(3), torch.no_grad():
            inputs = map_tensors(lambda tensor: tensor.clone(), batch[0])
            return float(self.objective(copy_together(model)[0].train(), inputs, batch[1]))


def copy_together(model: nn.Module, optimizer: Any = None) -> tuple[nn.Module, Any]:
    """Deep copies that belong to each other. A tensor with a graph that the model has kept from an earlier forward is copied without its graph."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            for tensor in tensors_in(value):
                if not tensor.is_leaf and tensor.grad_fn is not None:
                    memo[id(tensor)] = tensor.detach().clone()
    copied = copy.deepcopy(model, memo)
    return copied, None if optimizer is None else copy.deepcopy(optimizer, memo)


def is_closure_optimizer(optimizer: Any) -> bool:
    """LBFGS and its kin, whose step asks for the loss itself."""
    return isinstance(optimizer, torch.optim.LBFGS) or bool(getattr(optimizer, "needs_closure", False))
