"""Everything that changes while a population trains, at the edge of an epoch: to plain tensors and JSON, and back to the bit.

Enters: a `Population`. Leaves: (tensors by name, JSON), as a checkpoint of one run has them. Order of rows, dropout's masks and schedules are functions of (seed,
epoch), so at the edge of an epoch no random state has to be kept; in the middle of one there is no checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fivestep.errors import ArtifactError, FivestepError
from fivestep.model.optimizer_state import join_state, split_state
from fivestep.train.checkpoints import module_state, restore_module
from fivestep.train.population import Member, Population


def capture(population: Population) -> tuple[dict[str, Tensor], Any]:
    """All of `population` after a whole epoch. The tensors are live: write them before the next step."""
    stack, optimizer = population.stack, population.optimizer
    return split_state(
        {
            "epoch": population.epoch,
            "alive": population.alive,
            "weights": stack.flat,
            "held": stack.held,
            "optimizer": optimizer.state,
            "optimizer_steps": optimizer.steps,
            "best": population.best,
            "best_held": population.best_held,
            "report": {"steps": population.report.steps, "cuts": population.report.cuts},
            "members": [member_state(member, in_stack=k in population.alive) for k, member in enumerate(population.members)],
        }
    )


def member_state(member: Member, *, in_stack: bool) -> dict[str, Any]:
    training = member.training
    return {
        "status": member.status,
        "reason": member.reason,
        "seconds": member.seconds,
        "epoch": training.epoch,
        "step": training.step,
        "stopping": training.stopping.state_dict(),
        "schedule": None if training.schedule is None else training.schedule.state_dict(),
        "history": training.history,
        "best_epoch": training.best_epoch,
        "best_state": training.best_state,
        "final_state": member.final_state,
        "module": None if in_stack else module_state(training.model),  # those in the stack are views of it
    }


def restore(population: Population, tensors: Mapping[str, Tensor], entry: Any) -> None:
    """Put into a fresh population of the same members what `capture` took out of one. Raises ArtifactError where the two do not fit."""
    state = join_state(tensors, entry)
    try:
        if len(state["members"]) != len(population.members):
            raise ArtifactError(f"The checkpoint is of {len(state['members'])} members, and these are {len(population.members)}.")
        for member, saved in zip(population.members, state["members"]):
            restore_member(member, saved)
        population.keep_only(state["alive"])
        for k, saved in enumerate(state["members"]):
            if saved["module"] is not None:
                restore_module(population.members[k].training.model, saved["module"])
        stack, optimizer = population.stack, population.optimizer
        with torch.no_grad():
            for mine, saved in [(stack.flat, state["weights"]), *zip(stack.held, state["held"], strict=True)]:
                if mine.shape != saved.shape or mine.dtype != saved.dtype:
                    raise ArtifactError(f"The checkpoint is of other weights: {saved.dtype} {tuple(saved.shape)}, here {mine.dtype} {tuple(mine.shape)}.")
                mine.copy_(saved)
        device = population.device
        optimizer.state = {key: tensor.to(device) for key, tensor in state["optimizer"].items()}
        optimizer.steps = state["optimizer_steps"]
        optimizer.read()
        population.best = None if state["best"] is None else state["best"].to(device)
        population.best_held = [tensor.to(device) for tensor in state["best_held"]]
        population.report.steps, population.report.cuts = state["report"]["steps"], [tuple(cut) for cut in state["report"]["cuts"]]
        population.epoch = state["epoch"]
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError) as error:
        if isinstance(error, FivestepError):
            raise
        raise ArtifactError(f"The checkpoint does not fit these members: {type(error).__name__}: {error}") from error


def restore_member(member: Member, saved: Mapping[str, Any]) -> None:
    training = member.training
    member.status, member.reason, member.seconds, member.final_state = saved["status"], saved["reason"], saved["seconds"], saved["final_state"]
    training.epoch, training.step = saved["epoch"], saved["step"]
    training.stopping.load_state_dict(saved["stopping"])
    if (training.schedule is None) != (saved["schedule"] is None):
        raise ArtifactError(f"The checkpoint was made {'without' if saved['schedule'] is None else 'with'} a schedule, and this member is not.")
    if training.schedule is not None:
        training.schedule.load_state_dict(saved["schedule"])
    training.history, training.best_epoch, training.best_state = saved["history"], saved["best_epoch"], saved["best_state"]
