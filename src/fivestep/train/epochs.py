"""A run: epochs in order, every acting feature on its own line.

Enters: `Training`, all that changes during a run, and `Plan`, all that does not. Leaves: the same `Training`, moved to the end of the run, and a sentence why
it ended. Observers get frozen events; the random stream of the forward is swapped out around them and around validation.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.data.batches import Batch, Batches
from fivestep.errors import NonFiniteError
from fivestep.train import compiled, loop, programs
from fivestep.train.attributes import Attributes
from fivestep.train.averaging import Average
from fivestep.train.events import EpochEnded, RunEnded, RunStarted
from fivestep.train.stopping import Stopping

Validate = Callable[[], tuple[float, dict[str, float]]]


class StopAsked(Exception):
    """A signal came during validation, which is left off; `train` ends and the epoch's validation is made when the run is resumed."""


@dataclass
class Training:
    """Everything that changes during a run, and therefore stands in every checkpoint."""

    model: nn.Module
    loss_module: nn.Module | None  # a loss with parameters of its own is trained and saved beside the model
    optimizer: Any
    schedule: Any = None
    scaler: torch.amp.GradScaler | None = None
    average: Average | None = None
    stopping: Stopping = field(default_factory=lambda: Stopping(None))
    epoch: int = 0  # epochs completed
    step: int = 0  # optimizer steps taken
    step_in_epoch: int = 0
    losses_in_epoch: list[Any] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    best_state: dict[str, Tensor] | None = None
    best_epoch: int = 0  # counts from 1; 0: none yet
    test_looks: int = 0
    unvalidated: bool = False  # the epoch that is completed still waits for its validation: a signal came meanwhile
    attributes: Attributes | None = None  # what model, loss and the user's objects keep beside parameters and buffers
    streams: dict[str, Any] | None = None  # the random streams in the middle of an epoch, from a checkpoint: given back last, before the next step


@dataclass(frozen=True)
class Plan:
    """Everything that stays as it is during a run."""

    epochs: int
    seed: int
    batches: Batches
    loss: Callable[..., Any]
    monitor: str = "loss"
    keep: str = "last"
    compute: Callable[..., Any] | None = None
    user_step: Callable[..., dict[str, Any]] | None = None
    split: Callable[[Batch], tuple[Sequence[Batch], Sequence[Any]]] | None = None
    step: Callable[..., Any] = loop.train_step
    autocast: contextlib.AbstractContextManager[Any] = loop.OFF
    clipping: tuple[list[nn.Parameter], float | None, float | None] | None = None
    wait: bool = True  # False on an accelerator: nothing in a step waits for it
    validate: Validate | None = None
    validate_every: int = 1
    watch_test: Validate | None = None
    frozen: Sequence[nn.Module] = ()  # modules whose parameters are all frozen stay in eval(): BatchNorm would go on learning
    observers: Sequence[Callable[[Any], None]] = ()
    facts: dict[str, Any] = field(default_factory=dict)  # the settings, as observers are told them
    program: programs.Program | None = None  # the steps as machine code, in chunks; None: eager
    may_be_infinite: frozenset[str] = frozenset()  # buffers that were infinite before the first step
    after_step: Callable[[Training], bool] | None = None  # checkpoints and signals; True ends the run at this step
    after_epoch: Callable[[Training], bool] | None = None


def train(training: Training, plan: Plan) -> str:
    """Run the remaining epochs; returns why the run ended, in words."""
    started = time.perf_counter()
    steps = plan.batches.steps(training.epoch)
    notify(plan, RunStarted(plan.epochs, steps, training.epoch, plan.facts))
    reason = f"all {plan.epochs} epochs done"
    per_step = training.schedule if training.schedule is not None and training.schedule.every == "step" else None
    training_step = plan.step if plan.user_step is None else user_step(plan.user_step)

    stopped = False
    batches_read = 0  # more than steps where a batch counts for nothing and is left out (every label ignored)

    def after_step(*losses: Any) -> bool:
        nonlocal stopped
        training.step += len(losses)
        training.step_in_epoch = training.step_in_epoch + len(losses) if plan.split is None else batches_read
        training.losses_in_epoch += losses
        stopped = plan.after_step is not None and plan.after_step(training)
        return stopped

    def counted(batches: Iterable[Batch]) -> Iterator[Batch]:
        nonlocal batches_read
        for batches_read, batch in enumerate(batches, training.step_in_epoch + 1):  # noqa: B007
            yield batch

    while training.unvalidated or (training.epoch < plan.epochs and not training.stopping.done):
        epoch_started = time.perf_counter()
        if not training.unvalidated:
            if training.step_in_epoch == 0:
                seeds.seed_everything(seeds.derive(plan.seed, "forward", training.epoch))
                training.losses_in_epoch = []
            training.model.train()
            for module in plan.frozen:
                module.eval()
            batches: Iterable[Batch] = ()  # resumed after an epoch's last step: only its validation is left
            if training.step_in_epoch == 0 or training.step_in_epoch < plan.batches.steps(training.epoch):
                batches = plan.batches.epoch(training.epoch, training.step_in_epoch)
            if training.step_in_epoch and training.streams is not None:
                seeds.restore(training.streams)
            training.streams = None
            try:
                if plan.program is not None:
                    begin = training.step_in_epoch if batches else plan.batches.steps(training.epoch)
                    losses = compiled.train_epoch(
                        plan.program, plan.batches, training.epoch, begin, after_steps=after_step, schedule=per_step, wait=plan.wait
                    )  # fmt: skip
                else:
                    losses = loop.train_epoch(
                        training.model,
                        plan.loss,
                        training.optimizer,
                        batches if plan.after_step is None or plan.split is None else counted(batches),
                        step=training_step,
                        split=plan.split,
                        schedule=per_step,
                        average=training.average if training.average is not None and training.average.name == "EMA" else None,
                        after_step=after_step if plan.after_step is not None else None,
                        compute=plan.compute,
                        autocast=plan.autocast,
                        scaler=training.scaler,
                        clipping=plan.clipping,
                        wait=plan.wait,
                    )
            except loop.NonFiniteLoss as found:
                training.step, training.step_in_epoch = training.step + found.steps_before, training.step_in_epoch + found.steps_before
                counted_steps = plan.after_step is not None or plan.program is not None
                step = training.step + (1 if counted_steps else plan.batches.steps(training.epoch))
                raise NonFiniteError(f"The loss of {'step' if counted_steps else 'a step up to'} {step} is not finite.", step=step) from None
            if plan.after_step is None and plan.program is None:
                training.step += len(losses)
                training.losses_in_epoch = losses
            elif stopped:
                return "stopped by a signal"
            training.epoch += 1
            training.step_in_epoch = 0
        epoch_losses = gather(training.losses_in_epoch)  # the one place in an epoch that waits for the device
        if not training.unvalidated:
            check_weights(training, epoch_losses, plan.may_be_infinite)
            if training.average is not None:
                training.average.update_epoch(training.epoch - 1, plan.epochs)
            training.unvalidated = True
        try:
            event = end_of_epoch(training, plan, epoch_losses, time.perf_counter() - epoch_started)
        except StopAsked:
            if plan.after_epoch is not None:
                plan.after_epoch(training)
            return "stopped by a signal"
        training.unvalidated = False
        if training.schedule is not None and training.schedule.every == "epoch":
            training.schedule.step()
        if training.schedule is not None and training.schedule.wants_metric and event.val_loss is not None:
            training.schedule.step(monitored(plan, event))
        training.history.append(event.as_row())
        notify(plan, event)
        if plan.after_epoch is not None and plan.after_epoch(training):
            return "stopped by a signal"
    if training.stopping.done:
        reason = f"no better {plan.monitor} for {training.stopping.patience} validations"
    if plan.keep == "best" and training.best_state is not None:
        load_state(training, training.best_state)
        kept = training.best_epoch
    else:
        if training.average is not None and training.average.count:
            load_state(training, averaged_state(training))
        kept = training.epoch
    notify(plan, RunEnded(training.epoch, training.step, reason, kept, time.perf_counter() - started))
    return reason


def end_of_epoch(training: Training, plan: Plan, losses: list[float], seconds: float) -> EpochEnded:
    """Validate, remember the best weights, and return what happened. The training streams are untouched: the next epoch seeds its own."""
    val_loss, test_loss, metrics = None, None, {}
    is_best = False
    lr = tuple(float(group["lr"]) for group in training.optimizer.param_groups)
    last = training.epoch == plan.epochs
    if plan.validate is not None and (training.epoch % plan.validate_every == 0 or last):
        with training.average.applied() if training.average is not None else contextlib.nullcontext():
            val_loss, metrics = plan.validate()
            is_best = training.stopping.update(val_loss if plan.monitor == "loss" else metrics[plan.monitor], training.epoch)
            if is_best and plan.keep == "best":
                training.best_state, training.best_epoch = copy_state(training), training.epoch
    if plan.watch_test is not None and (training.epoch % plan.validate_every == 0 or last):
        test_loss = plan.watch_test()[0]
        training.test_looks += 1
    return EpochEnded(
        epoch=training.epoch,
        epochs=plan.epochs,
        step=training.step,
        train_loss=sum(losses) / len(losses) if losses else math.nan,
        val_loss=val_loss,
        test_loss=test_loss,
        metrics=metrics,
        lr=lr,
        seconds=seconds,
        is_best=is_best,
        losses=tuple(losses),
    )


def monitored(plan: Plan, event: EpochEnded) -> float:
    assert event.val_loss is not None
    return event.val_loss if plan.monitor == "loss" else event.metrics[plan.monitor]


def user_step(function: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """The user's own five steps (`step=`: a GAN), with the arguments of `train_step`; the first scalar it returns is the loss shown."""

    def step(model: nn.Module, loss: Any, optimizer: Any, parts: Sequence[Batch], shares: Any, **options: Any) -> Any:
        (batch,) = parts
        scalars = function(model, getattr(optimizer, "named", optimizer), batch.inputs, batch.targets)
        if not isinstance(scalars, dict) or not scalars:
            raise TypeError("step= must return a dict of scalars such as {'loss': value}; it returned " + type(scalars).__name__)
        value = next(iter(scalars.values()))
        value = value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))
        if options.get("wait") and not math.isfinite(value.item()):
            raise loop.NonFiniteLoss
        return value.item() if options.get("wait") else value

    return step


def gather(losses: Sequence[Any]) -> list[float]:
    """Losses as floats: on an accelerator this is where the device is waited for."""
    if losses and isinstance(losses[0], Tensor):
        return torch.stack([loss.float() for loss in losses]).tolist()
    return list(losses)


def copy_state(training: Training) -> dict[str, Tensor]:
    """A copy of all weights: the model's `state_dict` under its own names, the loss's own parameters under `loss.`."""
    state = {name: tensor.detach().clone() for name, tensor in training.model.state_dict().items()}
    if training.loss_module is not None:
        state |= {f"loss:{name}": tensor.detach().clone() for name, tensor in training.loss_module.state_dict().items()}
    return state


def averaged_state(training: Training) -> dict[str, Tensor]:
    assert training.average is not None
    with training.average.applied():
        return copy_state(training)


def load_state(training: Training, state: dict[str, Tensor]) -> None:
    """Put a state made by `copy_state` back."""
    training.model.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("loss:")})
    if training.loss_module is not None:
        training.loss_module.load_state_dict({name[5:]: tensor for name, tensor in state.items() if name.startswith("loss:")})


def notify(plan: Plan, event: Any) -> None:
    """Observers look. What they draw leaves no trace in the training streams."""
    if plan.observers:
        with seeds.restored():
            for observer in plan.observers:
                observer(event)


def check_weights(training: Training, losses: Sequence[float], may_be_infinite: frozenset[str] = frozenset()) -> None:
    """At the end of an epoch and before a checkpoint all losses and all state must be finite; fp16's skipped steps are exempt, as the scaler handles them."""
    if training.scaler is None and not all(map(math.isfinite, losses)):
        step = training.step - len(losses) + next(k for k, loss in enumerate(losses) if not math.isfinite(loss)) + 1
        raise NonFiniteError(
            f"The loss became {losses[step - 1 - training.step + len(losses)]} at step {step}.",
            fix="Lower lr, clip the gradients (clip_norm=1.0) or look at the inputs.",
            step=step,
        )
    broken = first_broken(training, may_be_infinite)
    if broken is not None:
        raise NonFiniteError(
            f"After step {training.step} (epoch {training.epoch}) {broken} is not finite: a gradient before was infinite or NaN. Nothing of this is saved.",
            fix="Lower lr, or clip the gradients: clip_norm=1.0.",
            step=training.step,
            layer=broken,
            origin="weights",
        )


def first_broken(training: Training, may_be_infinite: frozenset[str] = frozenset()) -> str | None:
    """The name of the first tensor that holds NaN or infinity among weights, buffers, averages and the optimizer's state; None where all are finite.

    `may_be_infinite` names buffers that were infinite from the start (a mask of -inf): of them only NaN is told. Waits for the device once.
    """
    named = list(state_tensors(training))
    checked = [(name, tensor) for name, tensor in named if tensor.is_floating_point() and tensor.numel() and tensor.layout is torch.strided]
    plain = [tensor.detach() for name, tensor in checked if name not in may_be_infinite]
    if not checked:
        return None
    try:
        largest = torch.stack([norm.to(torch.float64 if norm.device.type == "cpu" else torch.float32) for norm in torch._foreach_norm(plain, math.inf)])
        sound = bool(torch.isfinite(largest).all())  # one kernel and one look: 4 us where a look at each tensor costs 5 us a tensor
    except (RuntimeError, NotImplementedError, IndexError):  # 8-bit floats, tensors on several devices, none at all
        sound = False
    if sound and len(plain) == len(checked):
        return None
    for name, tensor in checked:
        values = tensor.detach().float() if tensor.element_size() == 1 else tensor.detach()
        if bool((values.isnan() if name in may_be_infinite else ~values.isfinite()).any()):
            return name
    return None


def state_tensors(training: Training) -> Iterator[tuple[str, Tensor]]:
    """All tensors that a checkpoint holds and a step may break, by the name a user knows them by."""
    yield from training.model.named_parameters()
    yield from training.model.named_buffers()
    if training.loss_module is not None:
        for name, tensor in (*training.loss_module.named_parameters(), *training.loss_module.named_buffers()):
            yield f"loss:{name}", tensor
    if training.average is not None:
        for position, tensor in enumerate(training.average.averaged):
            yield f"the average of tensor {position}", tensor
    names = {id(parameter): name for name, parameter in training.model.named_parameters()}
    for optimizer in getattr(training.optimizer, "named", {"": training.optimizer}).values():
        states = getattr(optimizer, "state", None)
        if not isinstance(states, dict):
            continue
        for parameter, state in states.items():
            for key, value in state.items() if isinstance(state, dict) else ():
                for tensor in value if isinstance(value, list) else (value,):
                    if isinstance(tensor, Tensor) and tensor.dim():
                        yield f"the optimizer's {key} of {names.get(id(parameter), 'a parameter')}", tensor


def infinite_by_design(model: nn.Module) -> frozenset[str]:
    """Names of buffers that hold infinities before the first step: attention masks and the like."""
    return frozenset(
        name
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point() and buffer.element_size() > 1 and bool(buffer.isinf().any()) and not bool(buffer.isnan().any())
    )
