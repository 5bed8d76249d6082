"""THE FIVE STEPS: forward, loss, zero_grad, backward, step. Kernel: imports only torch, the standard library and other kernel modules.

Enters: the user's own module, `loss(outputs, targets)` as a callable, an optimizer and an iterable of batches. Leaves: the losses, in order. Nothing here knows
tables, folders or settings. Whatever can change a weight has its own line; on an accelerator nothing in a step waits for the device.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fivestep.data.batches import Batch, map_tensors, tensors_of
from fivestep.train.precision import clip

OFF = contextlib.nullcontext()


class NonFiniteLoss(ArithmeticError):
    """The loss of a step is NaN or infinite; the optimizer has not moved. `epochs` turns it into an error that names step, layer and rows."""

    steps_before = 0  # good steps of the same chunk that were not counted yet, where steps are made in chunks


def forward(model: nn.Module, inputs: Any) -> Any:
    """Call the model the way its inputs ask for: a tensor as `model(x)`, a tuple as `model(*x)`, a dict as `model(**x)`."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(inputs)  # a graph batch or another object of the user's


def train_step(
    model: nn.Module,
    loss: Callable[..., Any],
    optimizer: Any,
    parts: Sequence[Batch],
    shares: Sequence[Any],
    *,
    compute: Callable[..., Any] | None = None,
    autocast: contextlib.AbstractContextManager[Any] = OFF,
    scaler: torch.amp.GradScaler | None = None,
    clipping: tuple[list[nn.Parameter], float | None, float | None] | None = None,
    wait: bool = True,
) -> Any:
    """One update of the weights from one batch; returns its loss: a float where `wait`, else a 0-d tensor that has not been waited for.

    `parts` are the batch, in one piece or in several (`part_size`); `shares` say what each part's mean counts for in the batch's mean, None where there is
    nothing to say (one part, or a loss that is a sum). `loss` or `compute` may return `(total, weight)`: then the gradients are divided by the sum of weights.
    """
    total_loss: Any = 0.0
    total_weight: Any = None
    for number, (inputs, targets, weights) in enumerate(parts):
        with autocast:
            if compute is None:
                outputs = forward(model, inputs)  # 1. forward
                value = loss(outputs, targets) if weights is None else loss(outputs, targets, weights)  # 2. loss
            else:
                value = compute(model, inputs, targets)  # 1. and 2. in the user's own function
        if isinstance(value, tuple):
            value, weight = value
            if len(parts) == 1:
                value = value / weight
            else:
                total_weight = weight if total_weight is None else total_weight + weight
        elif shares[number] is not None:
            # The mean over parts of unequal weight is not the batch mean: with ignore_index the update was off by 2e-2.
            value = value * shares[number]
        total_loss += value.item() if wait else value.detach()
        if wait and scaler is None and not math.isfinite(total_loss):  # the guard, before the optimizer moves (measured 1.003x on CPU)
            raise NonFiniteLoss
        if number == 0:
            optimizer.zero_grad()  # 3. zero the gradients
        if scaler is None:
            value.backward()  # 4. backward
        else:
            scaler.scale(value).backward()  # 4. backward, scaled into fp16's range
    if total_weight is not None:
        gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"] if parameter.grad is not None]
        torch._foreach_div_(gradients, total_weight)
        total_loss = total_loss / float(total_weight) if wait else total_loss / total_weight
    if clipping is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        clip(*clipping)
    if scaler is None:
        optimizer.step()  # 5. step
    else:
        scaler.step(optimizer)  # 5. step, skipped where a gradient overflowed
        scaler.update()
    return total_loss


def train_step_plain(model: nn.Module, loss: Callable[..., Any], optimizer: Any, parameters: Sequence[nn.Parameter], batch: Batch) -> float:
    """The same five steps where nothing else is on: one part, the device's own precision, no clipping, a loss that can be read. Returns the loss.

    `train_step` with nothing to ask: W1 takes 0.91 of the tuned hand loop's time instead of 1.08. The bits are the same; `train_epoch` takes it where it can.
    """
    inputs, targets, weights = batch
    outputs = model(inputs) if isinstance(inputs, Tensor) else forward(model, inputs)  # 1. forward
    value = loss(outputs, targets) if weights is None else loss(outputs, targets, weights)  # 2. loss
    if isinstance(value, tuple):
        value = value[0] / value[1]
    total_loss = value.item()
    if not math.isfinite(total_loss):  # the guard, before the optimizer moves
        raise NonFiniteLoss
    for parameter in parameters:
        parameter.grad = None  # 3. zero the gradients: what `optimizer.zero_grad()` does, without what it keeps for torch's profiler
    value.backward()  # 4. backward
    optimizer.step()  # 5. step
    return total_loss


def train_step_closure(
    model: nn.Module,
    loss: Callable[..., Any],
    optimizer: Any,
    parts: Sequence[Batch],
    shares: Sequence[Any],
    *,
    compute: Callable[..., Any] | None = None,
    autocast: contextlib.AbstractContextManager[Any] = OFF,
    scaler: torch.amp.GradScaler | None = None,
    clipping: tuple[list[nn.Parameter], float | None, float | None] | None = None,
    wait: bool = True,
) -> Any:
    """The same five steps for LBFGS, whose `step` calls forward, loss, zero_grad and backward itself as often as its line search asks.

    Returns the loss before the first move, as `train_step` does.
    """
    first: list[Tensor] = []

    def closure() -> Tensor:
        total: Any = None
        total_weight: Any = None
        for number, ((inputs, targets, weights), share) in enumerate(zip(parts, shares)):
            with autocast:
                if compute is None:
                    outputs = forward(model, inputs)  # 1. forward
                    value = loss(outputs, targets) if weights is None else loss(outputs, targets, weights)  # 2. loss
                else:
                    value = compute(model, inputs, targets)
            if isinstance(value, tuple):
                value, weight = value
                total_weight = weight if total_weight is None else total_weight + weight
            elif share is not None:
                value = value * share
            if number == 0:
                optimizer.zero_grad()  # 3. zero the gradients
            value.backward()  # 4. backward
            total = value.detach() if total is None else total + value.detach()
        if total_weight is not None:
            gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"] if parameter.grad is not None]
            torch._foreach_div_(gradients, total_weight)
            total = total / total_weight
        if not first and not math.isfinite(total.item()):
            raise NonFiniteLoss
        if clipping is not None:
            clip(*clipping)
        first.append(total)
        return total

    optimizer.step(closure)  # 5. step
    return first[0].item() if wait else first[0]


def train_epoch(
    model: nn.Module,
    loss: Callable[..., Any],
    optimizer: Any,
    batches: Iterable[Batch],
    *,
    step: Callable[..., Any] = train_step,
    split: Callable[[Batch], tuple[Sequence[Batch], Sequence[Any]]] | None = None,
    schedule: Any = None,
    average: Any = None,
    after_step: Callable[[Any], bool] | None = None,
    **options: Any,
) -> list[Any]:
    """Each batch once; returns the loss of each step, in order (floats, or 0-d tensors where `wait=False`).

    `split(batch)` cuts a batch into parts and their shares; without it a batch is one part. `schedule` and `average` are moved after each step.
    `after_step(loss)` may write a checkpoint and ends the epoch early by returning True (a signal).
    """
    losses: list[Any] = []
    plain = step is train_step and split is None and type(optimizer).zero_grad is torch.optim.Optimizer.zero_grad and nothing_else(**options)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]] if plain else []
    if plain and schedule is None and average is None and after_step is None:
        for batch in batches:
            losses.append(train_step_plain(model, loss, optimizer, parameters, batch))  # a comprehension is a frame more
        return losses
    for batch in batches:
        if plain:
            value = train_step_plain(model, loss, optimizer, parameters, batch)
        else:
            parts, shares = ((batch,), (None,)) if split is None else split(batch)
            if not parts:
                continue  # nothing in this batch counts (every label ignored)
            value = step(model, loss, optimizer, parts, shares, **options)
        if schedule is not None:
            schedule.step()
        if average is not None:
            average.update()
        losses.append(value)
        if after_step is not None and after_step(value):
            break
    return losses


def nothing_else(
    compute: Any = None, autocast: Any = OFF, scaler: Any = None, clipping: Any = None, wait: bool = True
) -> bool:  # fmt: skip
    """Whether the options of `train_step` ask for nothing beyond the five steps."""
    return wait and compute is None and scaler is None and clipping is None and isinstance(autocast, contextlib.nullcontext)


def split_batch(batch: Batch, part_size: int, weigh: Callable[[Batch], Any]) -> tuple[list[Batch], list[Any]]:
    """A batch in parts of at most `part_size` examples, and the share of each in the batch's mean.

    `weigh(batch)` is what the loss's mean over it is a mean of; None where parts add up as they are (a sum). Parts of weight 0 are left out: their mean is 0/0.
    """
    num_rows = len(tensors_of(batch.inputs)[0])
    if num_rows <= part_size:
        return [batch], [None]
    parts = [Batch(*map_tensors(lambda tensor, begin=begin: tensor[begin : begin + part_size], tuple(batch))) for begin in range(0, num_rows, part_size)]
    part_weights = [weigh(part) for part in parts]
    if any(weight is None for weight in part_weights):
        return parts, [None] * len(parts)
    batch_weight = sum(part_weights)
    kept = [(part, weight / batch_weight) for part, weight in zip(parts, part_weights) if weight > 0]
    return [part for part, _ in kept], [share for _, share in kept]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Any:
    """`eval()` and `no_grad` inside; each module's own training flag as it was afterwards.

    Not `inference_mode`: a forward that takes derivatives itself (physics-informed, under `torch.enable_grad()`) works as in a loop by hand, and what a lazy
    module or a cache makes can be trained later.
    """
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def evaluate(
    model: nn.Module,
    loss: Callable[..., Any],
    batches: Iterable[Batch],
    *,
    weigh: Callable[[Batch], Any],
    compute: Callable[..., Any] | None = None,
    autocast: contextlib.AbstractContextManager[Any] = OFF,
    keep_outputs: bool = False,
) -> tuple[float, list[Any]]:
    """The mean loss over all batches, and the outputs of each batch where asked. Weighted by what each batch's mean is over, so the batching does not matter."""
    found: list[tuple[Any, Any]] = []  # of each batch, read after the last one: an accelerator is not waited for in between
    kept = []
    with evaluating(model):
        for batch in batches:
            inputs, targets, weights = batch
            outputs = None
            with autocast:
                if compute is None:
                    outputs = forward(model, inputs)
                    value = loss(outputs, targets) if weights is None else loss(outputs, targets, weights)
                else:
                    value = compute(model, inputs, targets)
            found.append((map_tensors(Tensor.detach, value), None if isinstance(value, tuple) else weigh(batch)))
            if keep_outputs:
                kept.append(outputs)
    total, weight_sum = 0.0, 0.0
    for value, weight in found:
        if isinstance(value, tuple):
            total, weight_sum = total + float(value[0]), weight_sum + float(value[1])
        elif weight is None:
            total += float(value)
        elif (weight := float(weight)) != 0:  # a mean over nothing is 0/0
            total, weight_sum = total + float(value) * weight, weight_sum + weight
    return (total / weight_sum if weight_sum else total), kept


def predict(
    model: nn.Module, blocks: Iterable[tuple[Any, slice]], *, autocast: contextlib.AbstractContextManager[Any] = OFF, pick: Callable[[Any], Any] | None = None
) -> Any:
    """The outputs for all rows, on the CPU, in input order: a nest like the model's own output.

    `blocks` yields `(inputs, places of the rows that count)`. Blocks of one size make a row's answer independent of its neighbours to the bit; what the places
    between and behind the rows gave is left out here.
    """
    gathered: list[Any] = []
    with evaluating(model):
        for inputs, places in blocks:
            with autocast:
                outputs = forward(model, inputs)
            if pick is not None:
                outputs = pick(outputs)
            gathered.append(map_tensors(lambda tensor, places=places: tensor[places].cpu() if tensor.dim() else tensor.cpu()[None], outputs))
    return concatenate(gathered)


def concatenate(pieces: Sequence[Any]) -> Any:
    """Nests of tensors joined along their first axis; None where there is nothing to join."""
    if not pieces:
        return None
    first = pieces[0]
    if isinstance(first, Tensor):
        return torch.cat(list(pieces))
    if isinstance(first, dict):
        return {key: concatenate([piece[key] for piece in pieces]) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(concatenate([piece[position] for piece in pieces]) for position in range(len(first)))
    return first
