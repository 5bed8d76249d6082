"""search="optuna": Optuna proposes each next variant from the scores of those before it, and leaves off what looks hopeless.

Enters: what `sweep` was given. Leaves: a `Sweep` of the trials that ended. A study lives in its storage (a journal file or a database), so many processes or
machines work on one study, and an interrupted one goes on by the same call; without `storage` it is a journal file in the sweep's folder.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fivestep import workflow
from fivestep.errors import MissingInputError, TrainingError, UsageError
from fivestep.experiments import variants
from fivestep.experiments.pruning import Key
from fivestep.experiments.stacking import Group, Job
from fivestep.experiments.trials import Trial, fit_job
from fivestep.seeds import derive


def run_study(made: Any, over: Mapping[str, Any], seeds: list[int], *, trials: int | None, storage: str | Path | None) -> Any:
    """Train variants that Optuna proposes until the study holds `trials` that ended or were left off, those of other processes counted.

    `made` is the `Sweep` to fill, with its model, splits and settings.
    """
    given, splits = made.given, made.data
    try:
        import optuna
    except ImportError as error:
        raise MissingInputError("search='optuna' needs Optuna: pip install 'fivestep[search]'. Without it there are search='random' and 'halving'.") from error
    if trials is None or isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise UsageError(f"search='optuna' needs trials=, how many variants to try, at least 1; it is {trials!r}.")
    spaces = {name: variants.read_space(name, values) for name, values in over.items()}
    if not spaces:
        raise UsageError("search='optuna' has nothing to vary: give over={'lr': {'low': 1e-4, 'high': 1e-1, 'log': True}}.")
    began = time.perf_counter()
    # The fingerprint stands for all that the numbers depend on: a study of other data or settings is another study, even in the same storage.
    settings = variants.applied(given, {name: first_of(space) for name, space in spaces.items()}, workflow.defaults())
    made.changes, made.settings = [{name: repr(space) for name, space in spaces.items()}], [settings]
    made.jobs = [Job(0, seed, settings, splits) for seed in seeds]
    direction = "maximize" if made.higher_is_better else "minimize"
    quiet = given.get("quiet", False)
    with made.locked_folder(lambda text: None) if storage is None else shared_folder(made):
        if storage is None and made.folder is not None:
            storage = made.folder / "study.journal"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=opened(storage), study_name=f"fivestep-{made.fingerprint[:16]}", direction=direction, load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        )  # fmt: skip
        # From one seed alone a study that goes on would propose its first variants again, and two processes the same ones.
        alone = storage is None or str(storage).endswith("study.journal")
        study.sampler = optuna.samplers.TPESampler(seed=derive(seeds[0], "study", len(study.get_trials(deepcopy=False))) % 2**32 if alone else None)
        ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL)
        while sum(one.state in ended for one in study.get_trials(deepcopy=False)) < trials:
            asked = study.ask()
            change = {name: suggested(asked, name, space) for name, space in spaces.items()}
            run_trial(made, study, asked, change, given, splits, seeds, optuna, quiet)
        found = [one for one in study.get_trials(deepcopy=False) if one.state in ended and "trials" in one.user_attrs]
        made.changes, made.settings, made.jobs, made.trials = [], [], [], []
        for v, one in enumerate(found):
            change = {name: value_of(space, one.params[name]) for name, space in spaces.items()}
            made.changes.append(change)
            made.settings.append(variants.applied(given, change, workflow.defaults()))
            for row in json.loads(one.user_attrs["trials"]):
                resampled = None if row["resampled"] is None else tuple(row["resampled"])
                made.trials.append(Trial(**row | {"variant": v, "resampled": resampled, "curve": tuple(map(tuple, row["curve"]))}))
            made.jobs += [Job(v, seed, made.settings[-1], splits) for seed in seeds]
    made.plan = [Group(tuple(made.jobs), "alone", "each variant is proposed from the scores of those before it")]
    made.seconds = time.perf_counter() - began
    if not any(trial.value is not None for trial in made.trials):
        raise TrainingError(f"None of {len(found)} trials ended with a score; the last one: {made.trials[-1].reason if made.trials else 'nothing was tried'}")
    return made


def run_trial(
    made: Any, study: Any, asked: Any, change: dict[str, Any], given: dict[str, Any], splits: Any, seeds: list[int], optuna: Any, quiet: bool
) -> None:
    """One proposed variant with all its seeds; the pruner hears the epochs of the first seed."""
    settings = variants.applied(given, change, workflow.defaults())
    done: list[Trial] = []

    def prune(epoch: int, values: dict[Key, float]) -> set[Key]:
        for key, value in values.items():
            if key[1] == seeds[0]:
                asked.report(value, epoch)
                if asked.should_prune():
                    return {key}
        return set()

    for seed in seeds:
        trial, _ = fit_job(made.make_model, Job(asked.number, seed, settings, splits), None, made.metric, made.mode, prune)
        done.append(trial)
        if trial.value is None:
            break  # one seed that diverged, was left off or refused decides for the variant
    asked.set_user_attr("trials", json.dumps([asdict(trial) for trial in done]))
    values = [trial.value for trial in done if trial.value is not None]
    if len(values) == len(seeds):
        study.tell(asked, sum(values) / len(values))
    else:
        study.tell(asked, state=optuna.trial.TrialState.PRUNED if done[-1].status == "pruned" else optuna.trial.TrialState.FAIL)
    if not quiet:
        told = f"{made.metric} {sum(values) / len(values):.5g}" if len(values) == len(seeds) else f"{done[-1].status}: {done[-1].reason.splitlines()[0]}"
        print(f"  [{asked.number + 1}] {variants.label(change)}: {told}", file=sys.stderr, flush=True)


def shared_folder(made: Any) -> Any:
    """With a storage of its own a study has no folder: several processes work on it. Its winner goes where runs go."""
    import contextlib

    return contextlib.nullcontext()


def opened(storage: str | Path | None) -> Any:
    """None: in memory. A URL (sqlite:///..., postgresql://...) as Optuna takes it; anything else is a journal file."""
    if storage is None or "://" in str(storage):
        return None if storage is None else str(storage)
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(storage)))


def suggested(asked: Any, name: str, space: Any) -> Any:
    if isinstance(space, list):
        return value_of(space, asked.suggest_categorical(name, space if simple(space) else list(range(len(space)))))
    if space.get("int"):
        return asked.suggest_int(name, space["low"], space["high"], log=bool(space.get("log")))
    return asked.suggest_float(name, space["low"], space["high"], log=bool(space.get("log")))


def value_of(space: Any, recorded: Any) -> Any:
    """What Optuna records is the value, or its place in the list where it cannot hold it (a class, a list)."""
    return space[recorded] if isinstance(space, list) and not simple(space) else recorded


def simple(values: list[Any]) -> bool:
    return all(value is None or isinstance(value, (bool, int, float, str)) for value in values)


def first_of(space: Any) -> Any:
    return space[0] if isinstance(space, list) else space["low"]
