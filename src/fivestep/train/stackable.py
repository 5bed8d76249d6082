"""Whether trainings can share their steps, as far as their plans alone tell.

Enters: members of a population to be. Leaves: the reason against it, for the plan's line, or None. What only a trace finds comes later (`tracing.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fivestep.data.batches import InMemoryBatches
from fivestep.train import loop
from fivestep.train.epochs import Plan, Training
from fivestep.train.stacked_optimizer import group_names, hyperparameters


@dataclass
class Member:
    """One variant in a population. `status` is "running", "stopped" (early stopping), "pruned", "diverged" or "done"; `reason` says in words how it ended."""

    training: Training
    plan: Plan
    status: str = "running"
    reason: str = ""
    seconds: float = 0.0
    final_state: dict[str, Tensor] | None = None


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


def batch_size(member: Member) -> Any:
    return getattr(member.plan.batches, "batch_size", None)


def switches(member: Member) -> Any:
    return [
        (group.get("nesterov"), group.get("maximize"), group.get("amsgrad"), bool(group.get("momentum"))) for group in member.training.optimizer.param_groups
    ]


def clip_kind(member: Member) -> tuple[bool, float | None]:
    clipping = member.plan.clipping
    return (False, None) if clipping is None else (clipping[1] is not None, clipping[2])
