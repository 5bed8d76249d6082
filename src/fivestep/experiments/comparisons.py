"""Runs beside each other on the same rows, and cross-validations on the same folds: `compare`.

Enters: runs, their folders, or results of `cross_validate`. Leaves: a `Comparison` (results/comparing.py). Here is decided only what may be compared (the same
rows, or the same folds) and what is one variant (the same settings under other seeds); the numbers are made there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fivestep import workflow
from fivestep.errors import DataError, UsageError
from fivestep.experiments import variants
from fivestep.experiments.sweeps import Sweep, model_name
from fivestep.results import runs
from fivestep.results.comparing import Comparison, Measured, compare_measured
from fivestep.results.measuring import Measurement, main_metric, measure
from fivestep.results.run import Run
from fivestep.settings import record


def compare(*runs_or_folders: Any, split: str = "val", metric: str | None = None, **objects: Any) -> Comparison:
    """Runs beside each other on the same rows: each score with its interval, and its difference to the best, paired by row and seed.

    `runs_or_folders` are runs, their folders, or results of `cross_validate` on the same folds. Runs with the same settings but other seeds are one variant;
    a variant with one seed is never called better or worse. `metric` is "loss" or a metric's name; by default the loss where all runs have the same one, else the
    first metric of the task. `split="test"` counts a look for each run. `objects` are what `load_run` takes where a folder cannot hold it.

    Raises DataError for runs on other rows, UsageError for one training given twice, MissingInputError for a run that has not ended.
    """
    if len(runs_or_folders) < 2:
        raise UsageError("compare needs at least two runs: fs.compare(run, other), or fivestep compare RUN RUN.")
    if all(isinstance(one, Sweep) for one in runs_or_folders):
        return compare_folds(runs_or_folders)
    opened = [one if isinstance(one, Run) else workflow.load_run(one, **objects) for one in runs_or_folders]
    first = opened[0].splits.part(split)
    for one in opened[1:]:
        part = one.splits.part(split)
        if part.data.fingerprint != first.data.fingerprint or not torch.equal(part.indices, first.indices):
            raise DataError(
                f"The {split} rows of these runs are not the same ({len(first):,} and {len(part):,} rows), so their scores cannot be paired: a difference "
                "between them could be one of the rows. Train both on the same splits."
            )
    if metric is None:
        losses = {json.dumps(record(one.settings.asked.get("loss", one.settings.chosen.get("loss"))), sort_keys=True) for one in opened}
        metric = "loss" if len(losses) == 1 else main_metric(opened[0])
    if split == "test":
        for one in opened:
            runs.count_look(one.folder, one.splits.fingerprint, "test")
    by_settings: dict[str, list[Run]] = {}
    for one in opened:
        facts = {key: value for key, value in one.settings.asked.items() if key not in ("seed", "folder", "name", "model_args")} | {"model": model_facts(one)}
        by_settings.setdefault(json.dumps(facts, sort_keys=True, default=str), []).append(one)
    for alike in by_settings.values():
        refuse_twice(alike)
    tables = [json.loads(key) for key in by_settings]
    differing = [key for key in dict.fromkeys(key for table in tables for key in table) if len({json.dumps(table.get(key)) for table in tables}) > 1]
    measured = []
    higher = False
    for table, alike in zip(tables, by_settings.values()):
        found = [measure(one, metric, split) for one in alike]
        higher = found[0].higher_is_better
        told = {key: model_beside(table, tables) if key == "model" else table.get(key, "default") for key in differing}
        name = variants.label({key: flat(value) for key, value in told.items()})
        if alike[0].folder is not None and len(alike) == 1:
            name = f"{alike[0].folder.name} ({name})"
        names = tuple(one.settings.asked.get("seed", 0) for one in alike)
        measured.append(measured_of(name, found, names if len(set(names)) == len(names) else tuple(range(len(alike)))))
    return compare_measured(measured, metric=metric, higher_is_better=higher, split=split)


def compare_folds(results: Sequence[Sweep]) -> Comparison:
    """Cross-validations of several models on the same folds, fold by fold."""
    if any(one.kind != "cross-validation" for one in results):
        raise UsageError("compare takes runs, or results of cross_validate; a sweep has its own table: sweep.table, sweep.comparison.")
    prints = {tuple(job.splits.fingerprint for job in one.jobs) for one in results}
    if len(prints) > 1:
        raise DataError("These cross-validations held out different rows. Use the same data, folds and seed for both.")
    metrics = {one.metric for one in results}
    if len(metrics) > 1:
        raise UsageError(f"These cross-validations were scored by {', '.join(sorted(metrics))}; give the same monitor= to both.")
    measured = [replace(one.measured[0], name=f"{position + 1}: {model_name(one.make_model)}") for position, one in enumerate(results)]
    return compare_measured(measured, metric=results[0].metric, higher_is_better=results[0].higher_is_better, split="held-out folds")


# -- small things ------------------------------------------------------------------------------------------------------------------------------------------------


def refuse_twice(alike: Sequence[Run]) -> None:
    """UsageError where two runs with the same settings have the same weights: they would count as two seeds that agree."""
    seen: dict[str, Run] = {}
    for one in alike:
        other = seen.setdefault(one.weights_sha256, one)
        if other is not one:
            names = " and ".join(str(run.folder) if run.folder is not None else "a run without a folder" for run in (other, one))
            raise UsageError(
                f"{names} are one training: the same settings, the same weights. It would count twice, as two seeds that agree. Name it once; "
                "another seed= or another setting makes a second one."
            )


def measured_of(name: str, found: Sequence[Measurement], replicates: tuple[Any, ...]) -> Measured:
    values = torch.tensor([one.value for one in found], dtype=torch.float64)
    resampled = torch.stack([one.resampled for one in found if one.resampled is not None]) if all(one.resampled is not None for one in found) else None
    return Measured(name, values, resampled, replicates, min(one.num_independent for one in found))


def model_facts(run: Run) -> dict[str, Any]:
    recipe = run.settings.model
    return {key: recipe[key] for key in ("name", "class", "qualname", "args") if key in recipe}


def model_beside(table: dict[str, Any], tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The model as what sets it apart from the others: its name, and of its arguments those in which another model of that name differs."""
    alike = [one["model"] for one in tables if {**one["model"], "args": None} == {**table["model"], "args": None}]
    own = table["model"].get("args") or {}
    return {**table["model"], "args": {key: value for key, value in own.items() if any((one.get("args") or {}).get(key) != value for one in alike)} or None}


def flat(value: Any) -> Any:
    """A setting as one short word for a table."""
    if isinstance(value, dict):
        inner = {key: flat(one) for key, one in value.items() if one is not None and key not in ("num_inputs", "num_outputs", "num_categories")}
        name = inner.pop("name", inner.pop("qualname", inner.pop("import", None)))
        arguments = ",".join(one if key == "args" else f"{key}={one}" for key, one in inner.items() if one != "")
        return f"{name}({arguments})" if name and arguments else name or arguments or ""
    return value
