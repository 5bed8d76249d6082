"""Which variants are trained in the same steps, and which alone: a plan with a reason for each group, made before anything is trained.

Enters: jobs, each the arguments of one `fit`. Leaves: `Group`s of jobs. A group may be stacked when its members share a graph and differ in numbers only; that
is proven on the first batch (`train/population.py`), and chosen only where the overhead saved is more than the arithmetic, which no stacking saves. The choice
depends on the model and the data, never on a clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fivestep import workflow
from fivestep.data.batches import tensors_of
from fivestep.experiments.memory import Allocations, available_bytes
from fivestep.feeding import evaluation_batches, evaluation_rows, weigher
from fivestep.fit_arguments import choose_device
from fivestep.preparing import prepare
from fivestep.session import Session
from fivestep.settings import record
from fivestep.train import loop
from fivestep.train.population import Member, Population, Validation
from fivestep.train.stackable import why_alone
from fivestep.train.tracing import Unstackable

# What may differ between members of one stack: numbers beside each weight, and what each member's own objects decide.
NUMBERS = ("lr", "seed", "scheduler", "clip_norm", "patience")
OPTIMIZER_NUMBERS = ("betas", "momentum", "weight_decay", "eps", "lr", "dampening")

# Arithmetic of a forward pass up to which stacking is taken. A step alone costs 60 to 600 us of Python and dispatch (SPEED.md), and one core does about 50
# multiply-adds a nanosecond at best: at 4 million (12 with backward) both are alike. Measured: M (0.8 million) 3.4x, W2 (10.6 million) 1.04x.
MOST_FLOPS = 4_000_000
MOST_MEMBERS = 256  # beyond, the weights of small networks leave the cache and a larger stack gains nothing (S: 8.0x at 32, 10x at 128)
SHARE_OF_MEMORY = 0.5


@dataclass(frozen=True)
class Job:
    """One training: the number of its variant, its seed, its fold (None outside cross-validation), its splits, and the arguments of `fit`."""

    variant: int
    seed: int
    settings: Mapping[str, Any]
    splits: Any
    fold: int | None = None

    @property
    def name(self) -> str:
        return f"v{self.variant:04d}-s{self.seed}" + ("" if self.fold is None else f"-f{self.fold}")


@dataclass(frozen=True)
class Group:
    """Jobs that are trained together (`how` "stacked") or one after another ("alone", "workers"), and why."""

    jobs: tuple[Job, ...]
    how: str
    reason: str
    shared: bool = True  # all members see the same batches

    def __str__(self) -> str:
        return self.told()

    def told(self, which: str = "") -> str:
        """How many are trained in which way, and why; `which` names what sets them apart from other groups."""
        count = len(self.jobs)
        how = {"stacked": f"{count} stacked", "alone": f"{count} one after another", "workers": f"{count} in worker processes"}[self.how]
        return f"{how}{f' ({which})' if which else ''}: {self.reason}"


def signature(job: Job) -> str:
    """What members of one stack must share: all settings but the numbers; equal for two jobs means that nothing in their settings keeps them apart."""
    kept = {key: value for key, value in job.settings.items() if key not in NUMBERS}
    optimizer = kept.get("optimizer")
    if isinstance(optimizer, Mapping):
        kept["optimizer"] = {key: value for key, value in optimizer.items() if key not in OPTIMIZER_NUMBERS}
        if set(kept["optimizer"]) == {"name"}:
            kept["optimizer"] = kept["optimizer"]["name"]
    # Without momentum SGD has no buffer: another step.
    kept["momentum"] = isinstance(optimizer, Mapping) and bool(optimizer.get("momentum"))
    kept["clipped"] = job.settings.get("clip_norm") is not None
    return json.dumps(record(kept), sort_keys=True, default=str)


def plan_groups(make_model: Any, jobs: Sequence[Job], *, stack: bool | str = "auto", same_order: bool = True, workers: int | None = None) -> list[Group]:
    """Every job in exactly one group, stacked where that is possible and faster. `stack=True` leaves out the question whether it is faster, False stacks none."""
    otherwise = "workers" if workers else "alone"
    if isinstance(make_model, nn.Module):
        return [Group(tuple(jobs), otherwise, "the model is an instance")]
    by_signature: dict[Any, list[Job]] = {}
    for job in jobs:
        by_signature.setdefault((signature(job), job.fold is None and id(job.splits)), []).append(job)
    groups: list[Group] = []
    for alike in by_signature.values():
        if any(job.settings.get("lr") == "find" for job in alike):
            groups.append(Group(tuple(alike), otherwise, "lr='find' makes a test of its own before each run"))
        elif stack is False:
            groups.append(Group(tuple(alike), otherwise, "stack=False"))
        elif len(alike) == 1:
            groups.append(Group(tuple(alike), otherwise, "no other variant shares its graph"))
        else:
            groups += plan_alike(make_model, alike, force=stack is True, same_order=same_order, otherwise=otherwise)
    return [*(group for group in groups if group.how == "stacked"), *joined([group for group in groups if group.how != "stacked"])]


def joined(groups: Sequence[Group]) -> list[Group]:
    """Groups with the same way and reason as one."""
    found: dict[tuple[str, str], list[Job]] = {}
    for group in groups:
        found.setdefault((group.how, group.reason), []).extend(group.jobs)
    return [Group(tuple(jobs), how, reason) for (how, reason), jobs in found.items()]


def plan_alike(make_model: Any, jobs: Sequence[Job], *, force: bool, same_order: bool, otherwise: str) -> list[Group]:
    """Groups of jobs with one signature: two of them are built and make their first step, which finds what cannot be stacked, the memory and the arithmetic."""
    folds = any(job.fold is not None for job in jobs)
    shared = not folds and (same_order or len({job.seed for job in jobs}) == 1)
    try:
        flops, per_member, device = tried(make_model, [jobs[0], jobs[-1]], shared, force, otherwise)
    except Unstackable as told:
        return [Group(tuple(jobs), otherwise, str(told))]
    free = available_bytes(device)
    most = max(1, min(MOST_MEMBERS, int(SHARE_OF_MEMORY * free / max(1.0, per_member))))
    if most < 2:
        return [Group(tuple(jobs), otherwise, f"one member needs {per_member / 1e6:,.2g} MB, and {free / 1e6:,.2g} MB are free")]
    count = -(-len(jobs) // most)
    size = -(-len(jobs) // count)
    told = f"one graph, {flops / 1e6:.2g} million multiplications and additions a forward pass, {per_member / 1e6:.2g} MB a member"
    told += "" if shared else "; each has its own rows in its own order" if folds else "; each has its own order of rows"
    if count > 1:
        told += (
            f"; {len(jobs)} cut into {count} to fit half of the {free / 1e6:,.0f} MB that are free"
            if most < MOST_MEMBERS
            else f"; at most {MOST_MEMBERS} at once"
        )
    return [Group(tuple(jobs[start : start + size]), "stacked", told, shared) for start in range(0, len(jobs), size)]


def tried(make_model: Any, probes: Sequence[Job], shared: bool, force: bool, otherwise: str) -> tuple[int, float, torch.device]:
    """-> (arithmetic of a forward pass, bytes that one more member takes, device), from building and moving two members. Raises Unstackable with the reason.

    The bytes are the most that were taken at once beyond the rows that all share: weights, tracing, one step with the optimizer's state, and one block of validation rows.
    """
    with Allocations(choose_device(probes[0].settings.get("device", "auto"))) as seen:
        sessions = [session_of(make_model, job, checks=False) for job in probes]
        if probes[0].splits is probes[-1].splits:
            share_rows(sessions[-1], sessions[0])
        before = seen.mark() if shared else 0  # of folds each member has its own rows, which count too
        members = [Member(session.training, session.plan) for session in sessions]
        reason = why_alone(members)
        if reason is not None:
            raise Unstackable(reason)
        flops = forward_flops(sessions[0])
        if flops > MOST_FLOPS and not force and sessions[0].device.type == "cpu":
            raise Unstackable(
                f"a forward pass does {flops / 1e6:.0f} million multiplications and additions, more than the {MOST_FLOPS / 1e6:.0f} million up to which stacking gains"
                + ("" if otherwise == "workers" else "; worker processes gain on several cores (workers=2)")
            )
        validation = shared_validation(sessions[0]) if shared else None
        population = Population(members, shared=shared, validation=None if validation is None else replace(validation, batches=validation.batches[:1]))
        population.prepare()
        population.try_step()
        weights = population.stack.flat.numel() * population.stack.flat.element_size()
        taken = seen.most - before + weights  # which the modules held before the stack did
    return flops, taken / len(probes), sessions[0].device


def shared_validation(first: Session) -> Validation | None:
    """The validation rows in memory, where the members are scored by nothing but the loss on the same rows."""
    if first.plan.validate is None or first.plan.monitor != "loss" or first.arguments["metrics"] is not None or "val" not in first.encoded:
        return None
    source = first.encoded["val"]
    if not hasattr(source, "inputs"):
        return None
    dtype = next(parameter.dtype for parameter in first.training.model.parameters() if parameter.is_floating_point())
    return Validation(list(evaluation_batches(source, evaluation_rows(source), first.device, dtype)), weigher(first.loss))


def share_rows(session: Session, first: Session) -> None:
    """Training rows that are equal are held once: a session copies them out of the user's arrays, and K copies would be all that a large group holds."""
    mine, its = tensors_of(tuple(session.plan.batches.data)), tensors_of(tuple(first.plan.batches.data))  # type: ignore[attr-defined]
    if len(mine) == len(its) and all(one.dtype == other.dtype and torch.equal(one, other) for one, other in zip(mine, its)):
        session.plan.batches.data = first.plan.batches.data  # type: ignore[attr-defined]
        session.encoded["train"] = first.encoded["train"]


def session_of(make_model: Any, job: Job, *, checks: bool) -> Session:
    """A job's parts, composed as `fit` does, without a folder."""
    allowed = workflow.defaults()
    changed = dict(model=make_model, splits=job.splits, seed=job.seed, folder=None, name=None, quiet=True, checks=checks, compile=None)
    return prepare(allowed | dict(job.settings) | changed, allowed)


def forward_flops(session: Session) -> int:
    """Multiplications and additions of one forward pass of one batch (matrix products, convolutions, attention), as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = next(iter(session.plan.batches.epoch(0)))
    with FlopCounterMode(display=False) as counter, loop.evaluating(session.training.model):
        loop.forward(session.training.model, batch.inputs)
    return counter.get_total_flops()
