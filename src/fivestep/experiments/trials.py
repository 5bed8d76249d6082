"""One training of a sweep: by `fit`, or by `resume` where it was begun before; what fails is a row of the table and no end of the sweep.

Enters: a `Job`, and the folder of the sweep. Leaves: a frozen `Trial`, small enough for a file of its own.
"""

from __future__ import annotations

import contextlib
import io
import math
import time as clock
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fivestep import workflow
from fivestep.errors import DataError, FindingsError, FivestepError, Interrupted, MissingInputError, NonFiniteError, SettingsError, UsageError
from fivestep.experiments.pruning import Prune, Pruned, watcher
from fivestep.experiments.stacking import Job
from fivestep.results import runs
from fivestep.results.comparing import finite
from fivestep.results.measuring import SAMPLES, Measurement, measure
from fivestep.results.run import Run
from fivestep.resuming import is_object


@dataclass(frozen=True)
class Trial:
    """One training that has ended. `value` is the monitored score on validation rows (None: it diverged or was refused), `resampled` the same on resamples."""

    variant: int
    seed: int
    fold: int | None
    status: str
    reason: str
    value: float | None
    resampled: tuple[float, ...] | None
    num_independent: int
    higher_is_better: bool
    epochs: int
    steps: int
    seconds: float
    how: str
    folder: str | None = None
    weights_sha256: str | None = None
    curve: tuple[tuple[int, float | None], ...] = ()  # (epoch, monitored score; None: not finite) as it trained


def fit_job(
    make_model: Any, job: Job, folder: Path | None, metric: str, mode: str | None, prune: Prune | None = None
) -> tuple[Trial, FivestepError | None]:  # fmt: skip
    """One job by `fit`, or by `resume` where its run folder is there already; a training that fails is a row of the table and no end of the sweep."""
    began = clock.perf_counter()
    settings = dict(job.settings) | {"seed": job.seed, "quiet": True}
    error: FivestepError | None = None
    curve: dict[int, float] = {}
    if prune is not None:
        settings["observers"] = [*settings.get("observers", ()), watcher(prune, (job.variant, job.seed), metric, curve)]
    try:
        if folder is None:
            run = fit_in(None, None, make_model, job.splits, settings)
        else:
            run = fit_or_resume(make_model, job, folder, settings)
        measured = measure(run, metric, mode=mode, samples=0 if job.fold is not None else SAMPLES)  # folds are their own resamples
        return trial_of(job, run, "done", "", clock.perf_counter() - began, "alone", metric, measured), None
    except Interrupted:
        raise
    except Pruned as told:
        seconds = clock.perf_counter() - began
        epochs = max(curve, default=0)
        return Trial(
            job.variant, job.seed, job.fold, "pruned", str(told), None, None, 0, False, epochs, 0, seconds, "alone", curve=told_curve(curve.items())
        ), None
    except NonFiniteError as told:
        status, error = "diverged", told
    except (FindingsError, SettingsError, DataError, UsageError) as told:
        status, error = "refused", told
    seconds = clock.perf_counter() - began
    return Trial(job.variant, job.seed, job.fold, status, str(error), None, None, 0, False, 0, 0, seconds, "alone"), error


def fit_in(folder: Path | None, name: str | None, make_model: Any, splits: Any, settings: Mapping[str, Any]) -> Run:
    arguments: dict[str, Any] = {**settings, "folder": folder, "name": name}
    return workflow.fit(make_model, splits, **arguments)


def fit_or_resume(make_model: Any, job: Job, folder: Path, settings: dict[str, Any]) -> Run:
    """The job's run folder below the sweep's: gone on with where it holds a checkpoint, else begun under a fresh name."""
    for attempt in range(1, 1000):
        name = job.name if attempt == 1 else f"{job.name}-{attempt}"
        path = folder / name
        if not path.exists():
            return fit_in(folder, name, make_model, job.splits, settings)
        try:
            return reopened(path, **objects_of(make_model, path, job), observers=settings.get("observers", ()))
        except MissingInputError:
            continue  # killed before its first checkpoint: nothing is in it, and it stays as it is
    raise UsageError(f"{folder / job.name} was begun a thousand times and never reached its first checkpoint. Look for what stops it there.")


def reopened(folder: str | Path, **objects: Any) -> Run:
    """A run from its folder, gone on with to its end where it has not ended. What `resume` says of a finished run is not told."""
    objects = {"quiet": True} | objects
    with contextlib.redirect_stderr(io.StringIO()):
        return workflow.resume(folder, **objects)


def objects_of(make_model: Any, path: Path, job: Job) -> dict[str, Any]:
    """What a run folder may not hold, as `resume` takes it."""
    asked = runs.read_settings(path).asked
    objects = {key: job.settings[key] for key, value in asked.items() if is_object(value) and key in job.settings}
    if not isinstance(make_model, str):
        objects["model"] = make_model
    return objects | {"splits": job.splits}


def trial_of(job: Job, run: Run, status: str, reason: str, seconds: float, how: str, metric: str, measured: Measurement | None) -> Trial:
    """`measured` is the monitored score on validation rows, None where the training diverged or was left off."""
    value = None if measured is None else finite(measured.value)
    resampled = None if measured is None or measured.resampled is None else tuple(measured.resampled.tolist())
    if resampled is not None and not all(map(math.isfinite, resampled)):
        resampled = None
    last = run.history[-1] if run.history else {}
    return Trial(
        job.variant, job.seed, job.fold, "diverged" if value is None and status != "pruned" else status, reason, value, resampled, 0 if measured is None else measured.num_independent,
        False if measured is None else measured.higher_is_better, len(run.history), last.get("step", 0), seconds, how,
        str(run.folder) if run.folder is not None else None, run.weights_sha256,
        curve_of(run.history, metric),
    )  # fmt: skip


def curve_of(history: Sequence[Mapping[str, Any]], metric: str) -> tuple[tuple[int, float | None], ...]:
    """(epoch, monitored score) of each validation."""
    return told_curve((row["epoch"], row["val_loss" if metric == "loss" else metric]) for row in history if row.get("val_loss") is not None)


def told_curve(scores: Iterable[tuple[int, float]]) -> tuple[tuple[int, float | None], ...]:
    """As a file holds it, which has no NaN: None where the score was not finite."""
    return tuple((epoch, finite(score)) for epoch, score in scores)


def job_name(trial: Trial) -> str:
    return Job(trial.variant, trial.seed, {}, None, trial.fold).name
