"""Learning-rate schedules from plain arguments. Kernel: imports only torch, stdlib, `errors` and kernel modules.

Enters: a torch name, a class, a table, or a list of tables that follow each other. Leaves: a `Schedule`. The decision that shaped it: a schedule's state is how
often it was moved and what it was shown. It is rebuilt and replayed, because torch's own scheduler state does not survive JSON (MultiStepLR's Counter keys become
strings, and the rate is silently wrong).
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

from fivestep.errors import ArtifactError, SettingsError, UsageError
from fivestep.model.optimizer_state import number_from_json, number_to_json
from fivestep.model.optimizers import Optimizers, check_names

_PER_STEP = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)


@dataclass(frozen=True)
class Stage:
    """One scheduler of a schedule: how it is built on an optimizer, after how many ticks it moves (0: by a metric), and how many ticks it lasts (None: on and on)."""

    name: str
    build: Callable[[Optimizer], Any]
    period: int
    ticks: int | None


class Schedule:
    """Moves the learning rates: `step()` once every `.every` ("step", "epoch"), `step(metric)` after a validation where `.wants_metric`.

    `.filled_in` are the arguments taken from the run ({"T_max": 50}), `.depends_on_epochs` says that the number of epochs is among them: a run made longer then
    has other rates than one that was longer from the start.
    """

    def __init__(self, stages: Sequence[Stage], optimizer: Any, *, every: str, filled_in: Mapping[str, Any] | None = None, depends_on_epochs: bool = False):
        self.every = every
        self.filled_in = dict(filled_in or {})
        self.depends_on_epochs = depends_on_epochs
        self.wants_metric = any(stage.period == 0 for stage in stages)
        self._stages = tuple(stages)
        self._optimizers: list[Optimizer] = _each(optimizer)
        self._start = _options(self._optimizers)  # before any scheduler has touched them
        self._begin()
        self._built = _options(self._optimizers)

    def step(self, metric: float | None = None) -> None:
        """After an optimizer step or an epoch (no metric), or after a validation (with the monitored value)."""
        if metric is not None:
            self._metrics.append((self._steps, float(metric)))
            if self._stages[self._number].period == 0:
                for scheduler in self._schedulers:
                    scheduler.step(self._metrics[-1][1])
            return
        if self.every == "validation":
            raise UsageError("ReduceLROnPlateau moves by the monitored value of a validation: schedule.step(value).")
        self._steps += 1
        self._ticks += 1
        stage = self._stages[self._number]
        if stage.ticks is not None and self._ticks >= stage.ticks and self._number + 1 < len(self._stages):
            self._number += 1
            self._ticks = 0
            self._build()
        elif stage.period and self._ticks % stage.period == 0 and (stage.ticks is None or self._ticks <= stage.ticks):
            for scheduler in self._schedulers:
                scheduler.step()

    @property
    def last_lr(self) -> list[float]:
        """The learning rate of each parameter group, over all optimizers."""
        return [float(group["lr"]) for optimizer in self._optimizers for group in optimizer.param_groups]

    def preview(self, steps: int, steps_per_epoch: int) -> list[list[float]]:
        """The rates of the first `steps` optimizer steps, one list over all groups each, from a run's start. Nothing moves; a plateau is never reported."""
        dummies = []
        for optimizer, groups in zip(self._optimizers, self._start):
            # torch's base class with the same options over parameters that are nobody's: schedulers ask an optimizer for no more.
            dummy = Optimizer([{"params": [torch.zeros(1)], **options} for options in groups], dict(optimizer.defaults))
            dummy._opt_called = True  # type: ignore[attr-defined]
            dummies.append(dummy)
        schedule = Schedule(self._stages, Optimizers({str(position): dummy for position, dummy in enumerate(dummies)}), every=self.every)
        rates = []
        for step in range(1, steps + 1):
            rates.append(schedule.last_lr)
            if self.every == "step" or (self.every == "epoch" and step % steps_per_epoch == 0):
                schedule.step()
        return rates

    def state_dict(self) -> dict[str, Any]:
        """JSON: how often the schedule was moved, and each metric it was shown with the number of moves before it."""
        return {"steps": self._steps, "metrics": [[steps, number_to_json(value)] for steps, value in self._metrics]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Build the schedule anew and replay it. Load the optimizer first: what its groups hold then (rates that somebody changed by hand) stays as it is.

        Without a loaded optimizer the replayed rates stand; they are the same bits. Functions in it (`lr_lambda`) must give the same for the same count.
        """
        steps, metrics = _read_moves(state)
        found = _options(self._optimizers)
        self._begin()
        for optimizer in self._optimizers:
            optimizer._opt_called = True  # type: ignore[attr-defined]  # torch warns of a scheduler moved before its optimizer; that happened before the save
        for before, metric in [*metrics, (steps, None)]:
            while self._steps < before:
                self.step()
            if metric is not None:
                self.step(metric)
        if not _same(found, self._built):
            _set_options(self._optimizers, found)

    def _begin(self) -> None:
        self._steps = self._ticks = self._number = 0
        self._metrics: list[tuple[int, float]] = []
        self._build()

    def _build(self) -> None:
        """Start the stage: from the rates as they were set, as torch's SequentialLR does."""
        _set_options(self._optimizers, self._start)
        self._schedulers = [self._stages[self._number].build(optimizer) for optimizer in self._optimizers]

    def __repr__(self) -> str:
        return f"Schedule({' then '.join(stage.name for stage in self._stages)}, every={self.every!r}, lr={self.last_lr})"


def make_schedule(spec: Any, optimizer: Any, *, epochs: int, steps_per_epoch: int, mode: str | None = None) -> Schedule | None:
    """The schedule of an optimizer (each of several gets its own), or None for None and "auto".

    `spec`: a name of torch.optim.lr_scheduler, a class, a function `scheduler(optimizer)`, a table `{"name": either, **arguments}`, or a list of these in sequence:
    each lasts its `"epochs"` (or `"steps"`), the last one the rest, and each starts from the rates as they were set (torch's SequentialLR).
    `"every"` is "step" for OneCycleLR and CyclicLR, else "epoch"; in a sequence that mixes them an epoch is `steps_per_epoch` steps. ReduceLROnPlateau moves after
    a validation (`mode` is filled in). total_steps, T_max and total_iters are filled in with the length (ConstantLR: where it is given), max_lr with the optimizer's rates.

    >>> optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=1.0)
    >>> schedule = make_schedule([{"name": "LinearLR", "epochs": 2}, "CosineAnnealingLR"], optimizer, epochs=10, steps_per_epoch=5)
    >>> schedule.filled_in
    {'LinearLR.total_iters': 2, 'CosineAnnealingLR.T_max': 8}
    """
    if spec is None or spec == "auto":
        return None
    if epochs < 1 or steps_per_epoch < 1:
        raise UsageError(f"epochs={epochs} and steps_per_epoch={steps_per_epoch} must be at least 1.")
    tables = [_table(one) for one in (spec if isinstance(spec, (list, tuple)) else [spec])]
    if not tables:
        raise SettingsError('scheduler=[] names none. Use scheduler=None, or a list such as [{"name": "LinearLR", "epochs": 2}, "CosineAnnealingLR"].')
    if any("initial_lr" in group for one in _each(optimizer) for group in one.param_groups):
        raise UsageError(
            "This optimizer has had a schedule already, so the rates it was made with are gone. Make the schedule first, then load the optimizer's state."
        )
    per = [_every(table, optimizer) for table in tables]
    unit = "step" if "step" in per else "epoch" if "epoch" in per else "validation" if len(per) == 1 else "epoch"
    total = epochs * steps_per_epoch if unit == "step" else epochs
    stages, filled, depends, used = [], {}, False, 0
    for position, (table, every) in enumerate(zip(tables, per)):
        last = position + 1 == len(tables)
        name, length = _label(table["name"]), _length(table, unit, steps_per_epoch, last)
        if length is not None and used + length > total:
            raise SettingsError(
                f"scheduler: the first {position + 1} parts last {used + length} {unit}s, and the run has {total}. Shorten them, or train longer."
            )
        rest = total - used if length is None else length
        if rest < 1:
            raise SettingsError(f"scheduler: nothing is left for {name}: the parts before it last all {total} {unit}s of the run.")
        period = 0 if every == "validation" else steps_per_epoch if (unit, every) == ("step", "epoch") else 1
        moves = math.ceil(rest / max(period, 1))
        build, taken = _builder(table, moves, optimizer, mode, length is not None)
        filled |= {f"{name}.{key}" if len(tables) > 1 else key: value for key, value in taken.items()}
        depends = depends or (length is None and any(key in taken for key in ("T_max", "total_steps", "total_iters")))
        stages.append(Stage(name, build, period, length))
        used += rest
    return Schedule(stages, optimizer, every=unit, filled_in=filled, depends_on_epochs=depends)


def _table(spec: Any) -> dict[str, Any]:
    """`{"name": class or function, ...}` of any way to write a scheduler."""
    table = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    if "name" not in table:
        raise SettingsError(f'scheduler={table!r} has no "name". Write it as {{"name": "StepLR", "step_size": 10}}.')
    name = table["name"]
    if isinstance(name, str):
        names = schedulers()
        if name not in names:
            plain = {known.lower().removesuffix("lr"): known for known in names} | {known.lower(): known for known in names}
            near = difflib.get_close_matches(name.lower().removesuffix("lr"), plain, n=1, cutoff=0.4)
            hint = f' Did you mean "{plain[near[0]]}"?' if near else ""
            raise SettingsError(f'scheduler="{name}" is none of torch.optim.lr_scheduler.{hint} There are: {", ".join(names)}.')
        table["name"] = getattr(lr_scheduler, name)
    elif not callable(name):
        hint = " It belongs to an optimizer from before the run." if isinstance(name, lr_scheduler.LRScheduler) else ""
        raise SettingsError(f"scheduler={name!r} cannot be used.{hint} Give a torch name, a class with its arguments, or a function scheduler(optimizer).")
    return table


def schedulers() -> list[str]:
    """The names of torch.optim.lr_scheduler's schedulers, its base class left out."""
    base = lr_scheduler.LRScheduler
    return [name for name, value in vars(lr_scheduler).items() if inspect.isclass(value) and issubclass(value, base) and value is not base and name[0] != "_"]


def _label(made_by: Any) -> str:
    return getattr(made_by, "__name__", type(made_by).__name__)


def _every(table: dict[str, Any], optimizer: Any) -> str:
    """When a scheduler moves: its "every", or what its kind asks for. A function is called once to see what it makes."""
    cls: Any = table["name"]
    every = table.pop("every", None)
    if not inspect.isclass(cls):
        one = _each(optimizer)[0]
        before = _options([one])
        try:
            made = cls(one, **{key: value for key, value in table.items() if key not in ("name", "epochs", "steps")})
        except TypeError as error:
            raise SettingsError(
                f"scheduler: the function {_label(cls)} failed on the optimizer: {error}. It is called as scheduler(optimizer) and returns a scheduler; "
                'a function of the epoch goes into {"name": "LambdaLR", "lr_lambda": function}.'
            ) from error
        cls = type(made)
        _set_options([one], before)
    if issubclass(cls, lr_scheduler.ReduceLROnPlateau):
        if every not in (None, "validation"):
            raise SettingsError(f'scheduler: ReduceLROnPlateau looks at a validation, so "every": {every!r} cannot be. Leave it out.')
        return "validation"
    if every is None:
        return "step" if issubclass(cls, _PER_STEP) else "epoch"
    if every not in ("step", "epoch"):
        raise SettingsError(f'scheduler: "every": {every!r} must be "step" or "epoch".')
    return every


def _length(table: dict[str, Any], unit: str, steps_per_epoch: int, last: bool) -> int | None:
    """How many ticks a part lasts: its "epochs" or "steps". OneCycleLR's own `epochs` means the same and is read here too."""
    name, length_epochs, length_steps = _label(table["name"]), table.pop("epochs", None), table.pop("steps", None)
    if length_epochs is not None and length_steps is not None:
        raise SettingsError(f'scheduler: {name} has both "epochs" and "steps". Leave one of them out.')
    if length_steps is not None and unit != "step":
        raise SettingsError(f'scheduler: {name} lasts {length_steps} steps, but moves once an epoch. Add "every": "step", or give its "epochs".')
    if length_epochs is None and length_steps is None:
        if not last:
            raise SettingsError(f'scheduler: {name} is followed by another, so it must say how long it lasts: "epochs": 2, or "steps": 500.')
        return None
    table.pop("steps_per_epoch", None)
    given: Any = length_epochs if length_steps is None else length_steps
    valid = isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
    length = given * (steps_per_epoch if length_steps is None and unit == "step" else 1) if valid else 0
    if round(length) < 1 or (unit == "epoch" and length != round(length)):
        raise SettingsError(f"scheduler: {name} cannot last {given!r} {'steps' if length_steps is not None else 'epochs'}.")
    return round(length)


def _builder(table: dict[str, Any], moves: int, optimizer: Any, mode: str | None, bounded: bool = False) -> tuple[Callable[[Optimizer], Any], dict[str, Any]]:
    """(build(optimizer) -> scheduler, what was filled in)."""
    arguments = dict(table)
    made_by: Any = arguments.pop("name")
    name = _label(made_by)
    if not inspect.isclass(made_by):

        def build_by_function(one: Optimizer) -> Any:
            scheduler = made_by(one, **arguments)
            if not callable(getattr(scheduler, "step", None)):
                raise SettingsError(f"scheduler: the function {name} returned {type(scheduler).__name__}, which has no step(). Return a scheduler.")
            return scheduler

        return build_by_function, {}
    construct: Any = made_by
    accepted = inspect.signature(construct).parameters
    nested = [_builder(_nested(one), moves, optimizer, mode) for one in arguments.pop("schedulers", [])]
    filled: dict[str, Any] = {}
    if not (made_by is lr_scheduler.ConstantLR and not bounded):  # constant to the end of the run would be another rate and no schedule: torch's 5 stands
        filled |= {key: moves for key in ("T_max", "total_iters", "total_steps") if key in accepted and key not in arguments}
    if mode is not None and issubclass(made_by, lr_scheduler.ReduceLROnPlateau) and "mode" not in arguments:
        filled["mode"] = mode
    check_names(name, arguments, {key: value for key, value in accepted.items() if key not in ("optimizer", "last_epoch")}, "scheduler")
    wants_rate = "max_lr" in accepted and "max_lr" not in arguments
    may_cycle = "cycle_momentum" in accepted and "cycle_momentum" not in arguments

    def build(one: Optimizer) -> Any:
        extra = dict(filled)
        if wants_rate:
            extra["max_lr"] = [float(group["lr"]) for group in one.param_groups]
        if may_cycle and not _has_momentum(one):
            extra["cycle_momentum"] = False  # torch refuses its own default here
        if nested:
            extra["schedulers"] = [inner(one) for inner, _ in nested]
        try:
            return construct(optimizer=one, **(extra | arguments))
        except (TypeError, ValueError) as error:
            takes = ", ".join(key for key in accepted if key not in ("optimizer", "last_epoch"))
            raise SettingsError(f"{name} cannot be built with {extra | arguments}: {error}. It takes: {takes}.") from error

    shown = filled | ({"max_lr": [float(group["lr"]) for one in _each(optimizer) for group in one.param_groups]} if wants_rate else {})
    if may_cycle and not all(map(_has_momentum, _each(optimizer))):
        shown["cycle_momentum"] = False
    for _, inner_filled in nested:
        shown |= inner_filled
    return build, shown


def _has_momentum(optimizer: Optimizer) -> bool:
    return "momentum" in optimizer.defaults or "betas" in optimizer.defaults


def _nested(spec: Any) -> dict[str, Any]:
    table = _table(spec)
    for key in ("every", "epochs", "steps"):
        if key in table:
            raise SettingsError(
                f'scheduler: "{key}" stands inside ChainedScheduler or SequentialLR, whose parts move together. Use a list of schedulers instead.'
            )
    return table


def _each(optimizer: Any) -> list[Optimizer]:
    return list(optimizer.named.values()) if isinstance(optimizer, Optimizers) else [optimizer]


def _options(optimizers: Sequence[Optimizer]) -> list[list[dict[str, Any]]]:
    """A copy of all options of all parameter groups."""
    return [
        [{key: value.clone() if isinstance(value, Tensor) else value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        for optimizer in optimizers
    ]


def _set_options(optimizers: Sequence[Optimizer], options: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Give all parameter groups exactly these options. A rate that is a tensor stays the same tensor: a captured step holds on to it."""
    for optimizer, saved in zip(optimizers, options):
        for group, values in zip(optimizer.param_groups, saved):
            for key in [key for key in group if key != "params" and key not in values]:
                del group[key]
            for key, value in values.items():
                if isinstance(value, Tensor) and isinstance(group.get(key), Tensor):
                    group[key].copy_(value)
                else:
                    group[key] = value.clone() if isinstance(value, Tensor) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one == other


def _read_moves(state: Any) -> tuple[int, list[tuple[int, float]]]:
    if not isinstance(state, Mapping) or set(state) != {"steps", "metrics"} or type(state["steps"]) is not int or not isinstance(state["metrics"], list):
        raise ArtifactError("The state of a schedule must hold steps (a whole number) and metrics (a list).")
    metrics, before = [], 0
    for entry in state["metrics"]:
        if not isinstance(entry, list) or len(entry) != 2 or type(entry[0]) is not int or not before <= entry[0] <= state["steps"]:
            raise ArtifactError("The metrics of a schedule must be pairs [steps before, value], in order.")
        before = entry[0]
        metrics.append((before, number_from_json(entry[1])))
    if state["steps"] < 0:
        raise ArtifactError(f"A schedule cannot have moved {state['steps']} times.")
    return state["steps"], metrics
