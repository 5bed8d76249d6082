"""Training one group of a plan: stacked in the same steps, in worker processes, or one after another.

Enters: a `Task` (what all groups of a sweep share) and a group of jobs. Leaves: each job's `Trial` as soon as it has ended, and the error that refused it, if one
did. A stacked group leaves its trials together, all scored in one pass over the validation rows.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fivestep import workflow
from fivestep.errors import FivestepError
from fivestep.experiments import processes
from fivestep.experiments.pruning import Halving, Prune
from fivestep.experiments.stack_checkpoints import StackKeeper
from fivestep.experiments.stacking import Group, Job, session_of, share_rows, shared_validation
from fivestep.experiments.trials import Trial, curve_of, fit_job, trial_of
from fivestep.results.measuring import measure, measure_all
from fivestep.session import Session
from fivestep.train.population import Member, Population
from fivestep.train.signals import Listener
from fivestep.train.tracing import Unstackable, out_of_memory

Ended = Iterator[tuple[Trial, FivestepError | None]]


@dataclass(frozen=True)
class Task:
    """What all groups of a sweep share. `folds`: the jobs are folds of a cross-validation, which have other validation rows each."""

    make_model: Any
    folder: Path | None
    metric: str
    mode: str | None
    prune: Prune | None = None
    folds: bool = False
    checks: bool = True
    compile_step: bool = False
    checkpoint: Any = "5min"
    on_checkpoint_error: str = "stop"
    heard: Listener = field(default_factory=Listener)
    say: Callable[[str], None] = print
    replan: Callable[[list[Group]], None] = lambda instead: None  # jobs went another way than planned: the plan is to tell what ran


def train_group(task: Task, group: Group, workers: int | None) -> Ended:
    """Every job's trial, in the order of their ends."""
    if group.how == "stacked":
        try:
            keeper = None if task.folder is None else keeper_of(task, group)
            ended: list[Stacked] | None = train_stacked(task, group, keeper)
        except Unstackable as told:
            group = alone_instead(task, group, str(told))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or len(group.jobs) < 2:
                raise
            ended = None  # what follows waits until the error is gone: it holds the frames, and they hold all members
        if group.how == "stacked":
            if ended is None:
                if keeper is not None and keeper.folder.exists():
                    keeper.ended()
                yield from in_halves(task, group, workers)
                return
            for trial in score_stacked(task, ended):
                yield trial, None
            if keeper is not None:
                keeper.ended()
            return
    if group.how == "workers" and len(group.jobs) > 1:
        yield from in_workers(task, group, workers or 1)
        return
    for job in group.jobs:
        yield fit_job(task.make_model, job, task.folder, task.metric, task.mode, task.prune)


def in_halves(task: Task, group: Group, workers: int | None) -> Ended:
    """A stack that took more memory than was measured before, or more than is left since: half as many members at once."""
    middle = len(group.jobs) // 2
    task.say(f"  {len(group.jobs)} stacked need more memory than there is: {middle} and {len(group.jobs) - middle} after each other")
    gc.collect()
    reason = f"{group.reason}; {len(group.jobs)} at once needed more memory than there was"
    halves = [replace(group, jobs=jobs, reason=reason) for jobs in (group.jobs[:middle], group.jobs[middle:])]
    task.replan(halves)
    for half in halves:
        yield from train_group(task, half, workers)


def alone_instead(task: Task, group: Group, reason: str) -> Group:
    """The group one after another, for a reason that only showed when it was tried."""
    task.say(f"  one after another after all: {reason}")
    alone = replace(group, how="alone", reason=reason)
    task.replan([alone])
    return alone


# -- stacked -----------------------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Stacked:
    """One job's end in a stack: the session as `finish` takes it, how it ended, and its share of the seconds."""

    job: Job
    session: Session
    status: str
    reason: str
    seconds: float


def keeper_of(task: Task, group: Group) -> StackKeeper:
    assert task.folder is not None
    names = [job.name for job in group.jobs]
    return StackKeeper(task.folder, names, checkpoint=task.checkpoint, on_error=task.on_checkpoint_error, heard=task.heard)


def train_stacked(task: Task, group: Group, keeper: StackKeeper | None = None) -> list[Stacked]:
    """Train a stacked group; every session ends as if it had been trained alone, to rounding. Raises FindingsError where a check of the first member stops it,
    Interrupted where a signal ended it at the edge of an epoch."""
    began = time.perf_counter()
    # The members share data, model and loss, so the checks before a run are made once, on the first of them.
    sessions: list[Session] = []
    for position, job in enumerate(group.jobs):
        sessions.append(session_of(task.make_model, job, checks=task.checks and position == 0))
        if job.splits is group.jobs[0].splits:
            share_rows(sessions[-1], sessions[0])
    # Of the observers only the user's own: the console and the checks of one run do not look at a stack.
    sessions = [replace(session, plan=replace(session.plan, observers=tuple(job.settings.get("observers", ())))) for session, job in zip(sessions, group.jobs)]
    members = [Member(session.training, session.plan) for session in sessions]
    keys = [(job.variant, job.seed) for job in group.jobs]

    def prune_members(epoch: int, values: dict[int, float]) -> set[int]:
        assert task.prune is not None
        stopped = task.prune(epoch, {keys[k]: value for k, value in values.items()})
        return {k for k in values if keys[k] in stopped}

    population = Population(
        members, shared=group.shared, validation=shared_validation(sessions[0]) if group.shared else None, compile_step=task.compile_step,
        prune=None if task.prune is None else prune_members, after_epoch=None if keeper is None else keeper.after_epoch,
    )  # fmt: skip
    population.prepare()
    if keeper is None:
        population.run()
    else:
        if keeper.begin(population):
            task.say(f"  the stacked trainings go on after epoch {population.epoch}")
            if isinstance(task.prune, Halving):
                for key, member in zip(keys, members):
                    task.prune.read(key, dict(curve_of(member.training.history, task.metric)))
        with keeper.heard.polling("epoch"):
            population.run()
    share = (time.perf_counter() - began) / len(members)
    for session in sessions:
        session.checks = None  # what watches a run saw no steps of it
    return [Stacked(job, session, member.status, member.reason, share) for job, session, member in zip(group.jobs, sessions, members)]


def score_stacked(task: Task, ended: list[Stacked]) -> Iterator[Trial]:
    finished = [workflow.finish(one.session, save=False) for one in ended]
    scored = [k for k, one in enumerate(ended) if one.status not in ("diverged", "pruned")]
    if task.folds:  # folds have other rows each, and are their own resamples
        measured = {k: measure(finished[k], task.metric, mode=task.mode, samples=0) for k in scored}
    else:
        measured = dict(zip(scored, measure_all([finished[k] for k in scored], task.metric, mode=task.mode)))
    for k, (one, run) in enumerate(zip(ended, finished)):
        yield trial_of(one.job, run, one.status, one.reason, one.seconds, "stacked", task.metric, measured.get(k))


# -- in worker processes -----------------------------------------------------------------------------------------------------------------------------------


def in_workers(task: Task, group: Group, workers: int) -> Ended:
    train = functools.partial(fit_one, task.make_model, task.folder, task.metric, task.mode)
    reason = processes.why_not_sent(train, group.jobs)
    if reason is not None:
        return train_group(task, alone_instead(task, group, f"a worker process cannot be given these objects ({reason})"), None)
    return processes.trained(train, group.jobs, workers)


def fit_one(make_model: Any, folder: Path | None, metric: str, mode: str | None, job: Job) -> tuple[Trial, FivestepError | None]:
    return fit_job(make_model, job, folder, metric, mode)
