"""Improve: many variants of one model, and the truth about what helped. `sweep`, `cross_validate` and `compare`.

Enters: a model that can be built again, splits, and what is to be varied. Leaves: a `Sweep`, whose table gives each variant with intervals over rows and seeds,
and whose `best` is one plain run, trained again alone. The decisions that shaped it: everything is chosen on validation rows, the test rows are looked at once,
for the winner, when the user asks; and every finished training is one small file, so a killed sweep goes on by the same call.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from torch import nn

from fivestep import displays, terminal, workflow
from fivestep.data.data import Data, Part, Splits, as_data, as_splits
from fivestep.data.splits import fold_indices
from fivestep.errors import ArtifactError, FivestepError, Interrupted, MissingInputError, SettingsError, TrainingError, UsageError
from fivestep.experiments import folders, stacking, variants
from fivestep.experiments.pruning import Halving, Prune
from fivestep.experiments.stacking import Group, Job
from fivestep.experiments.training import Task, train_group
from fivestep.experiments.trials import Trial, fit_in, job_name, objects_of, reopened
from fivestep.fit_arguments import asked_settings
from fivestep.locks import Lock
from fivestep.model import metrics as scoring
from fivestep.model.building import nearest
from fivestep.results import page, runs
from fivestep.results.comparing import (
    Comparison,
    Effect,
    Measured,
    aligned,
    between,
    compare_measured,
    estimate,
    finite,
    main_effects,
    number,
    pareto,
    signed,
)
from fivestep.results.run import Run
from fivestep.settings import record
from fivestep.train import signals
from fivestep.watch import notebook


def sweep(
    make_model: Any,
    splits: Any,
    over: Mapping[str, Any] | None = None,
    *,
    seeds: int | Sequence[int] = 1,
    search: str = "grid",
    trials: int | None = None,
    storage: Any = None,
    same_order: bool = True,
    stack: bool | str = "auto",
    workers: int | None = None,
    **fit_settings: Any,
) -> Sweep:
    """Train all variants of a model that `over` makes, each with every seed, and return the table of what helped.

    `over` holds lists by the name of a setting: "lr", "batch_size", "optimizer", "optimizer.momentum", "loss.delta", "dropout", "model.width" (an argument of the
    model); with search="random" and `trials` also distributions: {"low": 1e-4, "high": 1e-1, "log": True}. search="halving" leaves two thirds of the variants off
    at a 27th, a 9th and a third of the epochs; search="optuna" lets Optuna propose them, with `storage` a journal file or a database's URL. `seeds` is a number (from `seed` on) or a list: with
    one seed nothing can be said to be better. Everything else goes to `fit`; `monitor` is what variants are ranked by, on validation rows.

    Variants that share a graph are trained in the same steps where that is faster (`stack="auto"`; True wherever it is possible; False never), the rest one
    after another or in `workers` processes; the plan and its reasons are told first. With `same_order` members of one stack see the rows in the first seed's
    order; False gives each seed its own, as a run alone has. Called again after a kill, with the same arguments, it goes on where it was.

    >>> import torch, fivestep as fs
    >>> x = torch.linspace(-1, 1, 60)[:, None]
    >>> splits = fs.Data.arrays(x, 0.7 * x + 0.3).split(train=0.7, val=0.3)
    >>> found = fs.sweep("linear", splits, {"lr": [0.001, 0.1]}, seeds=2, epochs=3, optimizer="SGD", folder=None, quiet=True)
    >>> found.best_settings
    {'lr': 0.1}
    """
    given = checked(fit_settings)
    splits = as_splits(splits)
    if isinstance(make_model, nn.Module):
        raise UsageError(
            f"sweep builds a fresh model for each variant, and this is one {type(make_model).__name__} that is built already: the second variant would go on from "
            f"the weights of the first. Give the class or a function: {type(make_model).__name__}, or lambda: {type(make_model).__name__}(...)."
        )
    if splits.val is None:
        raise SettingsError("A sweep chooses on validation rows, and these splits have none. Split with val=0.15, or use cross_validate.")
    first = given.pop("seed", 0)
    chosen_seeds = read_seeds(seeds, first)
    if search not in ("grid", "random", "halving", "optuna"):
        raise UsageError(f"search={search!r} is not known. Use 'grid', 'random', 'halving' or 'optuna'.")
    if storage is not None and search != "optuna":
        raise UsageError("storage= is where an Optuna study is kept: give search='optuna' too. Every other sweep is kept in its folder.")
    if search == "optuna":
        from fivestep.experiments.studies import run_study

        return run_study(Sweep("sweep", make_model, [], [], splits, given, []), over or {}, chosen_seeds, trials=trials, storage=storage)
    drawn = search == "random" or trials is not None
    changes = variants.expand(over or {}, search="random" if drawn else "grid", trials=trials, seed=first)
    settings = [variants.applied(given, change, workflow.defaults()) for change in changes]
    jobs = [Job(v, seed, one, splits) for v, one in enumerate(settings) for seed in chosen_seeds]
    made = Sweep("sweep", make_model, changes, settings, splits, given, jobs)
    if search == "halving":
        if workers is not None:
            raise UsageError("search='halving' ranks trainings while they run, which worker processes cannot. Leave workers out.")
        num_epochs = given.get("epochs", "auto")
        made.prune = Halving(100 if num_epochs == "auto" else num_epochs, higher_is_better=made.higher_is_better)
    return made.run(stack=stack, same_order=same_order, workers=workers)


def cross_validate(
    model: Any,
    data: Any,
    *,
    folds: int = 5,
    repeats: int = 1,
    stratify: Any = None,
    group: Any = None,
    time: Any = None,
    stack: bool | str = "auto",
    workers: int | None = None,
    **fit_settings: Any,
) -> Sweep:
    """Train the model `folds * repeats` times, each time scored on rows that it has not seen; returns the folds' scores and their mean with its interval.

    `stratify=True` (or a column) keeps class shares, `group` keeps groups together, `time` trains on what came before. In each fold the columns are fitted on
    its training rows alone. The held-out rows only score: no epoch is chosen on them, so keep is "last" and there is no early stopping. The interval is that
    of Nadeau & Bengio (2003). `.best` is the same model trained on all rows.

    >>> import torch, fivestep as fs
    >>> x = torch.randn(60, 3)
    >>> scores = fs.cross_validate("linear", fs.Data.arrays(x, x[:, :1]), folds=3, epochs=2, folder=None, quiet=True)
    >>> len(scores.trials)
    3
    """
    given = checked(fit_settings)
    data = as_data(data)
    if isinstance(model, nn.Module):
        raise UsageError(f"cross_validate builds a fresh model for each fold. Give the class or a function, not an instance of {type(model).__name__}.")
    for key, allowed in (("keep", ("auto", "last")), ("patience", ("auto", None))):
        if given.get(key, allowed[0]) not in allowed:
            raise SettingsError(
                f"{key}={given[key]!r} would choose the epoch on the rows that are to score the model, and the score would be too hopeful. "
                f"Leave {key} out; choose the number of epochs by a sweep with a validation split."
            )
    given |= {"keep": "last", "patience": None}
    seed = given.pop("seed", 0)
    labels = data._labels() if stratify is True else data._values(stratify, "stratify")
    found = fold_indices(len(data), folds, repeats, seed=seed, labels=labels, groups=data._values(group, "group"), times=data._values(time, "time"))
    jobs = []
    for number_, rows in enumerate(found):
        assert rows.test is not None
        parts = [Part("train", data, torch.as_tensor(rows.train)), Part("val", data, torch.as_tensor(rows.test)), None]
        options = {"folds": folds, "repeats": repeats, "seed": seed, "fold": number_, "given": True}
        jobs.append(Job(0, seed, given, Splits._of(parts, how=rows, options=options, groups=group, times=time), number_))
    made = Sweep("cross-validation", model, [{}], [given], data, given, jobs, fold_ratio=folders.fold_ratio(jobs))
    return made.run(stack=stack, same_order=False, workers=workers)


# -- what a sweep is -------------------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Sweep:
    """Variants that were trained, and what can be said of them: `table`, `comparison`, `effects`, `best`, `best_settings`, `plot()`.

    `trials` are the single trainings, `plan` the groups they were trained in and why, `folder` where all of it stands (None: nowhere).
    """

    kind: str
    make_model: Any
    changes: list[dict[str, Any]]
    settings: list[dict[str, Any]]
    data: Any
    given: dict[str, Any]
    jobs: list[Job]
    trials: list[Trial] = field(default_factory=list)
    plan: list[Group] = field(default_factory=list)
    folder: Path | None = None
    seconds: float = 0.0
    prune: Prune | None = None
    fold_ratio: float | None = None  # of a cross-validation: held-out rows / training rows

    # -- running

    def run(self, *, stack: bool | str = "auto", same_order: bool = True, workers: int | None = None) -> Sweep:
        """Train every job that has not ended yet."""
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise UsageError(f"workers={workers!r}: the number of processes, at least 1, or None.")
        began = clock.perf_counter()
        quiet = self.given.get("quiet", False)
        say = (lambda text: None) if quiet else notebook.Lines() if notebook.running() else (lambda text: terminal.print_lines(text, sys.stderr))
        with self.locked_folder(say), self._stopped_by_signals() as heard:
            ended = folders.read_trials(self.folder, self.jobs)
            if ended:
                say(f"{len(ended)} of {len(self.jobs)} trainings have ended before and are read back from {self.folder}.")
            left = [job for job in self.jobs if job.name not in ended]
            if isinstance(self.prune, Halving):
                for trial in ended.values():
                    self.prune.read((trial.variant, trial.seed), dict(trial.curve))
            asked = {"stack": stack, "same_order": same_order, "workers": workers}
            self.plan = folders.read_plan(self.folder, asked, self.jobs, ended)
            planned = {job.name for group in self.plan for job in group.jobs}
            if new := [job for job in left if job.name not in planned]:
                self.plan = self.plan + stacking.plan_groups(self.make_model, new, **asked)
            groups = [one for group in self.plan if (one := to_train(group, ended)).jobs]
            if left:
                folders.keep_plan(self.folder, asked, self.plan)
                say(f"{self.kind}: {len(self.changes)} variant{'s' * (len(self.changes) != 1)}, {len(left)} trainings")
                for group in groups:
                    say(f"  {self.told_group(group)}")

            def replan(instead: list[Group]) -> None:
                self.plan = replanned(self.plan, instead)
                folders.keep_plan(self.folder, asked, self.plan)

            task = Task(
                self.make_model, self.folder, self.metric, self.mode, self.prune, folds=self.kind == "cross-validation", checks=self.given.get("checks", True),
                compile_step=self.given.get("compile") == "step", checkpoint=self.given.get("checkpoint", "5min"),
                on_checkpoint_error=self.given.get("on_checkpoint_error", "stop"), heard=heard, say=say, replan=replan,
            )  # fmt: skip
            errors: list[FivestepError] = []
            for group in groups:
                for trial, error in train_group(task, group, workers):
                    if error is not None:
                        errors.append(error)
                    if job_name(trial) in ended:
                        continue  # of a stack that was killed while its trainings were being kept
                    ended[job_name(trial)] = trial
                    folders.keep_trial(self.folder, trial)
                    if trial.how != "stacked" or len(group.jobs) <= 8:  # what ends together is told together
                        say(f"  [{len(ended)}/{len(self.jobs)}] {self._told(trial)}")
                if len(group.jobs) > 8 and group.how == "stacked":
                    say(f"  [{len(ended)}/{len(self.jobs)}] {len(group.jobs)} ended, after {clock.perf_counter() - began:.3g} s")
            if errors and all(trial.status == "refused" for trial in ended.values()):
                raise errors[0]  # not one variant could be trained: the reason is the answer
        self.trials = [ended[job.name] for job in self.jobs]
        self.seconds = clock.perf_counter() - began
        say(f"{len(self.trials)} trainings in {self.seconds:.3g} s" + (f", kept in {self.folder}" if self.folder is not None else ""))
        return self

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that the numbers depend on: a sweep with the same one goes on in its folder."""
        return folders.fingerprint(self.kind, self.make_model, self.changes, self.settings, self.jobs)

    @contextlib.contextmanager
    def locked_folder(self, say: Any) -> Any:
        """This sweep's folder, found again or made, is this process's alone; without one (folder=None) nothing is."""
        parent, name = self.given.get("folder", "runs"), self.given.get("name")
        if parent is None:
            yield
            return
        self.folder = folders.found_again(Path(parent), name, self.kind, self.fingerprint, self.jobs)
        new = self.folder is None
        if self.folder is None:
            self.folder = folders.begin(Path(parent), name, self.kind, self.fingerprint, changes=self.changes, given=self.given, jobs=self.jobs)
        else:
            say(f"going on in {self.folder}")
        try:
            with Lock(self.folder):
                yield
        except Interrupted:
            raise
        except FivestepError:
            if new and all(trial.status == "refused" for trial in folders.read_trials(self.folder, self.jobs).values()):
                folders.remove_refused(self.folder)
            raise

    @contextlib.contextmanager
    def _stopped_by_signals(self) -> Any:
        """SIGTERM and SIGINT end what is inside with Interrupted, which says how to go on. Without a folder they are left to the caller, as `fit` leaves them."""
        if self.folder is None:
            yield signals.Listener()
            return
        with signals.listening() as heard:
            try:
                yield heard
            except signals.StopSignal as stop:
                raise Interrupted(self._way_on(f"Stopped by {Signals(stop.number).name}"), exit_code=128 + stop.number) from None
            except Interrupted as told:
                raise Interrupted(self._way_on(str(told).split("; everything is saved")[0]), exit_code=told.exit_code) from None

    def _way_on(self, told: str) -> str:
        count = len(folders.read_trials(self.folder, self.jobs))
        return f"{told.rstrip('.')}. {count} of {len(self.jobs)} trainings have ended and are kept in {self.folder}; the same call goes on from there."

    # -- what can be said

    @property
    def metric(self) -> str:
        return self.given.get("monitor", "loss")

    @property
    def mode(self) -> str | None:
        return self.given.get("mode")

    @property
    def higher_is_better(self) -> bool:
        if self.mode is not None:
            return self.mode == "max"
        return self.metric != "loss" and (
            next((trial.higher_is_better for trial in self.trials if trial.value is not None), None) or scoring.direction(self.metric) == "max"
        )

    @cached_property
    def measured(self) -> list[Measured]:
        """The scores of each variant, as comparisons take them."""
        found = []
        for v, change in enumerate(self.changes):
            mine = [trial for trial in self.trials if trial.variant == v]
            values = torch.tensor([math.nan if trial.value is None else trial.value for trial in mine], dtype=torch.float64)
            whole = all(trial.resampled is not None for trial in mine) and len({len(trial.resampled or ()) for trial in mine}) == 1
            resampled = torch.tensor([trial.resampled for trial in mine], dtype=torch.float64) if whole and self.kind == "sweep" else None
            names = tuple((trial.seed, trial.fold) for trial in mine)
            independent = min((trial.num_independent for trial in mine), default=0)
            lost = next((trial.status for trial in mine if trial.status in ("pruned", "refused")), "diverged")
            found.append(Measured(variants.label(change), values, resampled, names, independent, self.fold_ratio, lost))
        return found

    @cached_property
    def comparison(self) -> Comparison:
        """The variants, best first, each beside the best."""
        facts = [self._facts(v) for v in range(len(self.changes))]
        return compare_measured(self.measured, metric=self.metric, higher_is_better=self.higher_is_better, facts=facts)

    def _facts(self, v: int) -> dict[str, Any]:
        mine = [trial for trial in self.trials if trial.variant == v]
        return {
            "variant": v,
            "epochs": sum(trial.epochs for trial in mine) / max(1, len(mine)),
            "seconds": sum(trial.seconds for trial in mine),
            "how": "/".join(dict.fromkeys(trial.how for trial in mine)),
            "status": "/".join(dict.fromkeys(trial.status for trial in mine)),
        }

    @cached_property
    def effects(self) -> list[Effect]:
        """Which factor helped by how much, averaged over the others."""
        return main_effects(self.measured, self.changes, higher_is_better=self.higher_is_better)

    @property
    def table(self) -> Any:
        """A polars frame, best first: the settings of each variant, its score with interval, its difference to the best, verdict, time, and whether no other is
        at once better and faster (`pareto`)."""
        import polars

        rows = []
        order = self.comparison.rows
        front = pareto([row.score.value for row in order], [row.facts["seconds"] for row in order], higher_is_better=self.higher_is_better)
        for row, on_front in zip(order, front):
            v = row.facts["variant"]
            shown = {
                name: value if isinstance(value, (int, float, str, bool)) or value is None else str(record(value)) for name, value in self.changes[v].items()
            }
            difference = row.difference
            rows.append(
                {"variant": v} | shown | {
                    self.metric: finite(row.score.value), "low": finite(row.score.low), "high": finite(row.score.high),
                    "to_best": None if difference is None else finite(difference.value), "to_best_low": None if difference is None else finite(difference.low),
                    "to_best_high": None if difference is None else finite(difference.high), "verdict": row.verdict, "replicates": row.replicates,
                    "epochs": row.facts["epochs"], "seconds": round(row.facts["seconds"], 4), "pareto": on_front, "how": row.facts["how"], "status": row.facts["status"],
                }
            )  # fmt: skip
        return polars.DataFrame(rows, infer_schema_length=None, strict=False)

    @property
    def best_settings(self) -> dict[str, Any]:
        """What the best variant was given, of what was varied."""
        return dict(self.changes[self._best_variant])

    @property
    def _best_variant(self) -> int:
        best = self.comparison.rows[0]
        if not math.isfinite(best.score.value):
            raise TrainingError("No variant can be called the best: each diverged in at least one seed. Try smaller learning rates, or clip_norm=1.0.")
        return best.facts["variant"]

    @cached_property
    def best(self) -> Run:
        """The best variant as one plain run, trained again alone with the first seed, so that it resumes and ejects; `best.evaluate("test")` is the one look.

        The seed is not chosen by its score: a lucky one would not be lucky again. After `cross_validate` it is trained on all rows.
        """
        v = self._best_variant
        job = next(job for job in self.jobs if job.variant == v)
        trial = next(trial for trial in self.trials if trial.variant == v)
        if self.kind == "cross-validation":
            splits: Any = Splits(self.data if isinstance(self.data, Data) else self.data.train.data)
        else:
            splits = job.splits
            if trial.folder is not None and Path(trial.folder).is_dir():
                return reopened(trial.folder, **objects_of(self.make_model, Path(trial.folder), job))
        settings = dict(job.settings) | {"seed": job.seed, "quiet": True}
        if self.folder is None:
            return fit_in(None, None, self.make_model, splits, settings)
        wanted = asked_settings(workflow.defaults() | settings, workflow.defaults())
        for count in range(1, 1000):
            name = f"{self.folder.name}-best" + (f"-{count}" if count > 1 else "")
            path = self.folder.parent / name
            if not path.exists():
                break
            recorded = runs.read_settings(path).asked if (path / "settings.json").exists() else {}
            if {key: value for key, value in recorded.items() if key not in ("folder", "name")} == {
                k: v for k, v in wanted.items() if k not in ("folder", "name")
            }:
                return reopened(path, **objects_of(self.make_model, path, replace(job, splits=splits)))
        return fit_in(self.folder.parent, name, self.make_model, splits, settings)

    def plot(self, kind: str = "auto") -> Any:
        """A matplotlib figure: "lr" (score against learning rate), "parallel" (all factors), "time" (score against seconds), or "folds"."""
        from fivestep.experiments.plots import plot_sweep

        return plot_sweep(self, kind)

    def told_group(self, group: Group) -> str:
        """A group of the plan in one line, with what its variants share and others do not have."""
        within = [self.changes[job.variant] for job in group.jobs] if self.kind == "sweep" else [{}]
        common = {
            key: value
            for key, value in within[0].items()
            if all(one.get(key) == value for one in within) and any(one.get(key) != value for one in self.changes)
        }
        return group.told(variants.label(common) if common else "")

    def _told(self, trial: Trial) -> str:
        name = variants.label(self.changes[trial.variant]) if self.kind == "sweep" else f"fold {trial.fold}"
        score = f"{self.metric} {trial.value:.5g}" if trial.value is not None else f"{trial.status}: {trial.reason.splitlines()[0] if trial.reason else ''}"
        return f"{name}, seed {trial.seed}: {score} ({trial.seconds:.2g} s, {trial.how})"

    def __repr__(self) -> str:
        return self.told()

    def told(self, width: int | None = None) -> str:
        """As text, for a terminal of `width` characters (None: as wide as it is)."""
        if not self.trials:
            return f"Sweep: {len(self.jobs)} trainings, none has ended"
        lines = []
        if self.kind == "cross-validation":
            one = self.measured[0]
            whole = estimate({0: 1.0}, self.measured)
            lines.append(
                f"Cross-validation of {model_name(self.make_model)}: {len(self.trials)} folds, {self.metric} {number(whole.value)}"
                + (f" ({between(whole)})" if whole.low is not None else "")
            )
            lines += [f"  fold {trial.fold}: {number(math.nan if trial.value is None else trial.value)}" for trial in self.trials]
            lines.append("  " + self.comparison.notes[0] if one.finite and self.comparison.notes else "")
        else:
            lines.append(f"Sweep of {model_name(self.make_model)}: {len(self.changes)} variants, {len(self.trials)} trainings, {self.seconds:.3g} s")
            comparison = self.comparison
            many = len(comparison.rows) > 20
            lines.append(
                replace(comparison, rows=comparison.rows[:20]).told(width) + (f"\n  ... and {len(comparison.rows) - 20} more in .table" if many else "")
            )
            lines += aligned(effects) if (effects := self._effect_rows()) else []
            refused = [trial for trial in self.trials if trial.status in ("refused", "diverged")]
            if refused:
                lines.append(f"  not scored: {self._told(refused[0])}" + (f" and {len(refused) - 1} more" if len(refused) > 1 else ""))
        if self.folder is not None:
            lines.append(f"  folder {self.folder}")
        return "\n".join(line for line in lines if line)

    def _effect_rows(self) -> list[tuple[str, ...]]:
        """What helped, under a row of heads; nothing where only one setting was varied, which the variants show already."""
        if len({effect.factor for effect in self.effects}) < 2:
            return []
        rows = [("what helped", "", "mean", "to the best", "corrected interval", "")]
        for effect in self.effects:
            difference = effect.difference
            rows.append((effect.factor, variants.shown(effect.level), number(effect.mean), "" if difference is None else signed(difference.value),
                         "" if difference is None else between(difference, signed), effect.verdict))  # fmt: skip
        return rows

    def report(self, path: str | Path | None = None) -> Path:
        """Write the sweep as one HTML file, complete in itself, and return its path: `path`, else report.html in the sweep's folder (in the current one without)."""
        from fivestep.experiments import report

        name = self.folder.name if self.folder is not None else f"{self.kind} of {model_name(self.make_model)}"
        return page.write_page(report.render(self, name), path if path is not None else self.folder or Path("."))

    def _repr_html_(self) -> str:
        if not self.trials:
            return displays.lines([repr(self)])
        head = f"{self.kind} of {model_name(self.make_model)}: {len(self.changes)} variants, {len(self.trials)} trainings, {self.seconds:.3g} s"
        if self.kind == "cross-validation":
            rows = [(f"fold {trial.fold}", "-" if trial.value is None else trial.value) for trial in self.trials]
            return displays.table(rows, ("", self.metric), caption=head) + self.comparison._repr_html_()
        where = [f"folder {self.folder}"] if self.folder is not None else []
        effects = self._effect_rows()
        helped = displays.table(effects[1:], effects[0]) if effects else ""
        return displays.lines([head]) + self.comparison._repr_html_() + helped + displays.lines(where)


def read_sweep(folder: str | Path) -> Sweep:
    """A finished sweep or cross-validation from its folder, as far as its table, pictures and report go; to train its best, call `sweep` again with the same arguments and its name."""
    folder = Path(folder)
    table = runs.read(folder, "sweep.json")
    if table is None:
        raise MissingInputError(f"{folder} is no sweep's folder: it holds no sweep.json.")
    written_by = table.get("format")
    lacking = [key for key in ("kind", "variants", "settings", "trainings", "fold_ratio") if key not in table]
    if written_by != folders.FORMAT or lacking:
        what = f"format {written_by}, and this version reads {folders.FORMAT}" if written_by != folders.FORMAT else f"no {', '.join(lacking)} in its sweep.json"
        raise ArtifactError(
            f"{folder} was written by another version of fivestep ({what}), so its table cannot be told from its files. The runs in it can still be opened "
            "(fs.resume, fivestep report RUN); or call the sweep again under another name."
        )
    if (folder / "study.journal").exists():
        raise UsageError(
            f"{folder} is an Optuna study's folder. Call the sweep again with the same arguments: it trains nothing twice, and its report() is there."
        )
    trials = folders.read_all_trials(folder)
    wanted = len(table["trainings"])
    if len(trials) < wanted:
        raise UsageError(f"{len(trials)} of {wanted} trainings of {folder} have ended. Call the sweep again, and it goes on; then there is something to tell.")
    made = Sweep(table["kind"], "the model", table["variants"], [], None, table["settings"], [], trials=trials, folder=folder, fold_ratio=table["fold_ratio"])
    made.seconds = sum(trial.seconds for trial in trials)
    made.plan = folders.read_plan(
        folder, None, [Job(trial.variant, trial.seed, {}, None, trial.fold) for trial in trials], {job_name(one): one for one in trials}
    )
    return made


# -- small things ------------------------------------------------------------------------------------------------------------------------------------------------


def checked(fit_settings: dict[str, Any]) -> dict[str, Any]:
    allowed = workflow.defaults()
    for key in fit_settings:
        if key not in allowed:
            raise UsageError(f"{key!r} is neither an argument here nor a setting of fit.{nearest(key, allowed)}")
    return dict(fit_settings)


def read_seeds(seeds: int | Sequence[int], first: int) -> list[int]:
    if isinstance(seeds, bool) or not isinstance(seeds, (int, list, tuple, range)):
        raise UsageError(f"seeds={seeds!r}: a number of seeds, or a list of them.")
    chosen = list(range(first, first + seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen or len(set(chosen)) < len(chosen) or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in chosen):
        raise UsageError(f"seeds={seeds!r}: at least one seed, each a whole number and each once.")
    return chosen


def to_train(group: Group, ended: Mapping[str, Trial]) -> Group:
    """What is left of a group; of a stack all members while one is left, as its checkpoint holds all of them."""
    left = tuple(job for job in group.jobs if job.name not in ended)
    return group if left and group.how == "stacked" else replace(group, jobs=left)


def replanned(plan: Sequence[Group], instead: Sequence[Group]) -> list[Group]:
    """The plan with the jobs of `instead`, all of one group, in those groups."""
    moved = {job.name for group in instead for job in group.jobs}
    made: list[Group] = []
    for group in plan:
        rest = tuple(job for job in group.jobs if job.name not in moved)
        if rest:
            made.append(replace(group, jobs=rest))
        if len(rest) < len(group.jobs):
            made += instead
    return made


def model_name(make_model: Any) -> str:
    return make_model if isinstance(make_model, str) else getattr(make_model, "__name__", type(make_model).__name__)
