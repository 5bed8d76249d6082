"""A run again, from its folder: the record of its settings turned back into the arguments of `fit`, and the newest valid checkpoint into its state.

What no folder can hold (a notebook's class, arrays, functions that cannot be imported) is asked for by its name in `fit`.
"""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import torch

from fivestep import files
from fivestep.data.data import Data, Splits, as_splits
from fivestep.errors import DataError, MissingInputError, SettingsError, UsageError
from fivestep.model import building
from fivestep.preparing import prepare
from fivestep.results import runs
from fivestep.session import Session
from fivestep.settings import Settings
from fivestep.train import checkpoints


def prepare_again(
    folder: Path, recorded: Settings, epochs: int | None, allow_inexact: bool, objects: dict[str, Any], defaults: dict[str, Any]
) -> tuple[Settings, Session, bool]:
    """-> (settings with the new number of epochs, the session as its newest checkpoint left it, whether nothing is left to do)."""
    files.remove_dead_temporaries(folder)
    newest = checkpoints.read_newest(folder / "checkpoints")
    assert newest.published is not None
    facts = newest.published.facts
    if facts.get("settings") != checkpoints.settings_hash(recorded.to_json()):
        raise SettingsError(f"{folder / 'settings.json'} is not what it was when the run began, so it cannot go on from there. Start a new run instead.")

    ask = arguments_again(recorded, objects, defaults)
    before = recorded.asked.get("epochs", recorded.chosen.get("epochs", 100))
    if type(before) is not int:  # the one setting that the checkpoint's hash leaves free
        raise SettingsError(f"{folder / 'settings.json'} tells epochs={before!r}, which is no number; it was damaged or changed. Put it back from a copy.")
    if epochs is not None:
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < before:
            raise UsageError(f"epochs={epochs!r}: the run was made for {before} epochs and can only become longer.")
        ask["epochs"] = epochs

    environment = runs.read_environment(folder)
    splits = as_splits(objects["splits"]) if "splits" in objects else splits_again(recorded.data)
    if splits.fingerprint != recorded.data["fingerprint"]:
        raise DataError(
            f"The data is not what {folder} was trained on: {recorded.data.get('source')}, or its split, has changed since. "
            "Restore the file, or give the same splits: resume(folder, splits=...)."
        )
    if recorded.data["options"].get("categories") == "codes" and splits.train.data.options.get("categories") == "auto":
        splits = splits.with_categories("codes")  # as the run chose for them, which were given again
    torch.set_num_threads(environment.get("threads", torch.get_num_threads()))
    built = building.rebuild(recorded.model, seed=ask["seed"], model=objects.get("model"))
    ask |= dict(model=None, splits=splits, built=replace_fields(built, recipe=recorded.model), folder=folder, name=None)
    session = prepare(ask, defaults)
    now = runs.environment(session.device)
    differing = [key for key in ("fivestep", "torch", "device", "device_name", "cpu_capability") if environment.get(key) != now[key]]
    ways = {"compile": (recorded.chosen.get("compile"), session.settings.chosen.get("compile"))}
    differing += [key for key, (was, is_now) in ways.items() if was != is_now]
    reasons = ["{} was {} and is {}".format(key, *ways.get(key, (environment.get(key), now.get(key)))) for key in differing]
    reasons += list(map(str, environment.get("inexact", [])))
    unheld = checkpoints.restore(session.training, *newest.parsed)
    if unheld and not environment.get("inexact"):
        reasons.append(f"{', '.join(unheld[:4])} had changed and could not be held in the checkpoint")
    if reasons:
        told = "; ".join(reasons)
        if not allow_inexact:
            raise SettingsError(f"Here the run would not end in the same bits: {told}. If that is fine: resume(folder, allow_inexact=True), --allow-inexact.")
        session.said.append(f"Exactness is not promised: {told}.")
    training = session.training
    session.said.append(f"Going on after step {training.step} (epoch {training.epoch + 1}), from {newest.published.path}.")
    settings = recorded
    if ask["epochs"] > before:
        settings = replace_fields(recorded, asked=recorded.asked | {"epochs": epochs})
        fitted = [
            "the schedule" if training.schedule is not None and training.schedule.depends_on_epochs else None,
            "whether compiling pays" if recorded.asked.get("compile") == "auto" else None,
            "when SWA begins" if training.average is not None and training.average.name == "SWA" else None,
            f"the validation after epoch {before}" if training.epoch >= before and before % ask["validate_every"] else None,
        ]
        if any(fitted):
            told = " and ".join(filter(None, fitted))
            session.said.append(
                f"Made longer, from {before} to {epochs} epochs: {told} depended on that number, so a run that was longer from the start differs."
            )
    session.settings = settings
    artifact = folder / ("model.fivestep" if session.can_predict else "weights.safetensors")
    return settings, session, artifact.exists() and not training.unvalidated and (training.epoch >= ask["epochs"] or training.stopping.done)


def arguments_again(recorded: Settings, objects: dict[str, Any], defaults: dict[str, Any], verb: str = "resume") -> dict[str, Any]:
    """The arguments of `fit` from a run's record; `objects` are those that its folder cannot hold. What "auto" picked stays picked."""
    # `patience` would be another with another number of epochs.
    picked = {key: recorded.chosen[key] for key in ("epochs", "batch_size", "patience", "keep", "compile") if key in recorded.chosen}
    asked = dict(recorded.asked) | recorded.chosen.get("auto", {}) | picked
    for left_out in ("weights", "model_args", "folder", "name"):  # every weight comes from the checkpoint, the arguments from the recipe
        asked.pop(left_out, None)
    may_be_given = {"model", "splits", "observers", "quiet", "checkpoint", "keep_checkpoints", "on_checkpoint_error"}
    may_be_given |= {key for key, value in asked.items() if is_object(value)}
    for key in objects:
        if key not in may_be_given:
            known = "cannot be changed in the middle of a run; start a new one" if key in defaults else "is no setting of fit"
            takes = "epochs=, allow_inexact= and " if verb == "resume" else ""
            raise UsageError(f"{verb}({key}=...): {key} {known}. It takes {takes}what cannot be read from the run's folder.")
    ask = dict(defaults)
    ask |= {key: found_again(key, value, verb) for key, value in asked.items() if key not in objects}
    return ask | {key: value for key, value in objects.items() if key != "splits"}


def splits_again(recorded: dict[str, Any], verb: str = "resume") -> Splits:
    """The splits of a run from its record, where its data was one file or folder, or one for each split. Raises UsageError where it was not, MissingInputError."""
    options = dict(recorded["split_options"])
    own_files = options.pop("given", False)

    def read_again(source: str, how: dict[str, Any]) -> Data:
        if recorded["kind"] not in ("table", "images") or (recorded["kind"] == "table" and not Path(source).suffix):
            raise UsageError(
                f"The data of this run did not come from a file, so it must be given again: {verb}(folder, splits=...); or name a file to evaluate."
            )
        if not Path(source).exists():
            seen_from = "" if Path(source).is_absolute() else f" (seen from {Path.cwd()}; it was named from where the run was made)"
            raise MissingInputError(
                f"The data of this run was {source}, and it is not there{seen_from}. Put it back, go where the run was made, or give the data: {verb}(folder, splits=...)."
            )
        return (Data.table if recorded["kind"] == "table" else Data.images)(source, **how)

    train = read_again(recorded["source"], recorded["options"])
    if not own_files:
        return train.split(**options)
    parts = {
        name: part if isinstance(part, float) else read_again(part["source"], part["options"]) for name, part in options.items() if name in ("val", "test")
    }
    return Splits(train, **parts, seed=options["seed"])


def is_object(value: Any) -> bool:
    """Whether a recorded setting is, or holds, what JSON cannot hold: a class, a function, an instance, a large array."""
    if isinstance(value, dict):
        return bool(value.keys() & {"import", "instance", "tensor", "array"}) or any(map(is_object, value.values()))
    return isinstance(value, list) and any(map(is_object, value))


def found_again(name: str, value: Any, verb: str = "resume") -> Any:
    """A recorded setting as fit takes it: classes and functions are imported. Raises UsageError, naming the argument, for what must be given."""
    if isinstance(value, list):
        return [found_again(name, item, verb) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"import"}:
        module, _, qualname = value["import"].partition(":")
        with contextlib.suppress(ImportError, AttributeError):
            found: Any = importlib.import_module(module)
            for part in qualname.split("."):
                found = getattr(found, part)
            return found
        raise UsageError(f"{name} of this run was {module}.{qualname}, which cannot be imported here. Give it: {verb}(folder, {name}=...).")
    if value.keys() & {"instance", "tensor", "array"}:
        kind = value.get("instance") or "a large array"
        raise UsageError(f"{name} of this run was {kind}, which a run's folder cannot hold. Give it: {verb}(folder, {name}=...).")
    return {key: found_again(name, item, verb) for key, item in value.items()}
