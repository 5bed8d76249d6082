"""A sweep on the disk: what it was asked, its plan, and one small file for each training that has ended.

Enters: jobs, groups, trials. Leaves: `SWEEP/sweep.json`, `plan.json`, `trials/*.json`, and the way back. The decision that shaped it: a sweep has no state of its
own; what has ended is read back from its files, so the same call goes on after a kill.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fivestep import files
from fivestep.errors import ArtifactError
from fivestep.experiments.stacking import Group, Job
from fivestep.experiments.trials import Trial, job_name
from fivestep.results import runs
from fivestep.settings import record
from fivestep.strict_json import write_json
from fivestep.train import checkpoints

FORMAT = 1
CHANGE_NO_NUMBER = ("folder", "name", "quiet", "observers", "checkpoint", "keep_checkpoints", "on_checkpoint_error")


def fingerprint(kind: str, make_model: Any, changes: Sequence[Mapping[str, Any]], settings: Sequence[Mapping[str, Any]], jobs: Sequence[Job]) -> str:
    """Of everything that the numbers depend on: a sweep with the same one goes on in its folder."""
    facts = {
        "format": FORMAT,
        "kind": kind,
        "model": record(make_model),
        "changes": [record(one) for one in changes],
        "variants": [{key: value for key, value in record(one).items() if key not in CHANGE_NO_NUMBER} for one in settings],
        "jobs": [[job.name, job.splits.fingerprint] for job in jobs],
    }
    return checkpoints.settings_hash(facts)


def found_again(parent: Path, name: str | None, kind: str, wanted: str, jobs: Sequence[Job]) -> Path | None:
    """The folder of an unfinished sweep with the fingerprint `wanted`; by its name also a finished one."""
    if not parent.is_dir():
        return None
    candidates = [parent / name] if name is not None else sorted(path for path in parent.glob(f"{kind}-*") if (path / "sweep.json").exists())
    for path in reversed(candidates):
        table = runs.read(path, "sweep.json") if path.is_dir() else None
        if table is None or table.get("fingerprint") != wanted:
            continue
        if name is not None or any(not (path / "trials" / f"{job.name}.json").exists() for job in jobs):
            return path
    return None


def begin(parent: Path, name: str | None, kind: str, wanted: str, *, changes: Any, given: Mapping[str, Any], jobs: Sequence[Job]) -> Path:
    """A new sweep's folder."""
    folder = runs.create(parent, name, kind)
    settings = record({key: value for key, value in given.items() if key != "observers"})
    table = {"format": FORMAT, "kind": kind, "fingerprint": wanted, "variants": [record(one) for one in changes], "settings": settings}
    table |= {"trainings": [job.name for job in jobs], "fold_ratio": fold_ratio(jobs) if kind == "cross-validation" else None}
    runs.write(folder, "sweep.json", table)
    return folder


def fold_ratio(jobs: Sequence[Job]) -> float:
    """Held-out rows / training rows, over all folds."""
    return sum(len(job.splits.val) for job in jobs) / sum(len(job.splits.train) for job in jobs)


def read_trials(folder: Path | None, jobs: Sequence[Job]) -> dict[str, Trial]:
    """What has ended, by its job's name."""
    found = {}
    for job in jobs if folder is not None else ():
        table = runs.read(folder / "trials", f"{job.name}.json")  # type: ignore[operator]
        if table is not None:
            found[job.name] = trial_from(table, folder / "trials" / f"{job.name}.json")  # type: ignore[operator]
    return found


def trial_from(table: dict[str, Any], path: Path) -> Trial:
    """What `keep_trial` wrote. Raises ArtifactError for what another version wrote."""
    try:
        return Trial(**table | {"resampled": None if table["resampled"] is None else tuple(table["resampled"]), "curve": tuple(map(tuple, table["curve"]))})
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path} was written by another version of fivestep ({error}). Sweep again under another name=, or with that version.") from error


def remove_refused(folder: Path) -> None:
    """A sweep's folder in which no training could begin: nothing in it is worth keeping, and it would be in the way of the corrected call."""
    if not any((path / "settings.json").exists() for path in folder.iterdir() if path.is_dir()):
        shutil.rmtree(folder)


def read_all_trials(folder: Path) -> list[Trial]:
    """Every training that is kept in a sweep's folder, by variant and seed."""
    stubs = []
    for path in sorted((folder / "trials").glob("v*.json")):
        table = runs.read(path.parent, path.name)
        one = trial_from(table, path)
        stubs.append(Job(one.variant, one.seed, {}, None, one.fold))
    return list(read_trials(folder, stubs).values())


def keep_trial(folder: Path | None, trial: Trial) -> None:
    if folder is not None:
        files.make_folder(folder / "trials", exist_ok=True)
        files.write_atomic(folder / "trials" / f"{job_name(trial)}.json", write_json(asdict(trial), indent=None))


def keep_plan(folder: Path | None, asked: Mapping[str, Any], groups: Sequence[Group]) -> None:
    if folder is not None:
        rows = [{"jobs": [job.name for job in group.jobs], "how": group.how, "reason": group.reason, "shared": group.shared} for group in groups]
        runs.write(folder, "plan.json", {"asked": dict(asked), "groups": rows})


def read_plan(folder: Path | None, asked: Mapping[str, Any] | None, jobs: Sequence[Job], ended: Mapping[str, Trial]) -> list[Group]:
    """The groups of before. Where another plan is asked for now (`asked`; None: nothing is), only what has ended of them.

    A plan depends on the memory that was free: made anew, a stack of another size could end in other bits.
    """
    table = None if folder is None else runs.read(folder, "plan.json")
    if table is None:
        return []
    by_name = {job.name: job for job in jobs if table["asked"] == asked or job.name in ended}
    groups = [Group(tuple(by_name[name] for name in row["jobs"] if name in by_name), row["how"], row["reason"], row["shared"]) for row in table["groups"]]
    return [group for group in groups if group.jobs]
