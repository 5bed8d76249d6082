"""A finished run from its folder: as it stood before its first step, and the weights that it kept.

Enters: the folder, and the objects that no folder can hold. Leaves: a `Session` that has not trained yet, for `reproduce` to train and `load_run` to fill.
Nothing is written. The decision that shaped it: the start is built from recipe and seed wherever that gives the recorded bits, and comes from checkpoint step 0
where it does not (an instance, weights= of the user's), so that "again" means from the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fivestep import tensors
from fivestep.data.data import as_splits
from fivestep.errors import DataError, MissingInputError, SettingsError
from fivestep.model import building, models
from fivestep.model.decoding import Decoding
from fivestep.model.losses import LOSS_PREFIX
from fivestep.preparing import prepare
from fivestep.results import artifact as artifacts
from fivestep.results import runs
from fivestep.resuming import arguments_again, splits_again
from fivestep.session import Session
from fivestep.settings import Settings
from fivestep.train import checkpoints


@dataclass(frozen=True)
class Kept:
    """What a finished run left: the weights of its model, and its artifact (None where forward does not take the rows, as a GAN's)."""

    state: dict[str, Tensor]
    artifact: Any

    @property
    def weights_sha256(self) -> str:
        return building.parameter_hash(self.state)

    def put_into(self, session: Session) -> None:
        """The kept weights and decoding (with its temperature) into a session that has not trained."""
        session.training.model.load_state_dict(self.state)
        if self.artifact is None:
            return
        decoding = Decoding.from_json(self.artifact.decoding)
        session.decoding = decoding
        session.predictor = replace_fields(session.predictor, decoding=decoding)
        if session.predictor.head is not None:
            own = {name.removeprefix(LOSS_PREFIX): tensor for name, tensor in self.artifact.state.items() if name.startswith(LOSS_PREFIX)}
            session.predictor.head.load_state_dict(own)


def read_kept(folder: Path) -> Kept:
    """The kept weights of a run. Raises MissingInputError where it has not ended."""
    if (folder / "model.fivestep").is_dir():
        found = artifacts.read_artifact(folder / "model.fivestep", expected=models.expected_of_recipe)
        head = found.facts.get("head") is not None
        return Kept({name: tensor for name, tensor in found.state.items() if not (head and name.startswith(LOSS_PREFIX))}, found)
    if (folder / "weights.safetensors").is_file():
        return Kept(tensors.load_state_dict_file(folder / "weights.safetensors"), None)
    raise MissingInputError(f"{folder} has not ended: it holds no model yet. Go on with it: fivestep resume {folder}")


def class_again(recipe: dict[str, Any]) -> Any:
    """The user's class of a run, imported; None for a built-in. SettingsError for an instance, whose making no record holds."""
    if recipe["kind"] == "instance":
        raise SettingsError(
            f"The run was given an instance of {recipe['module']}.{recipe['qualname']}. Give one again: load_run(folder, model={recipe['qualname']}(...))."
        )
    return None if recipe["kind"] == "built-in" else building._found_again(recipe)


def prepare_from_start(folder: Path, recorded: Settings, objects: dict[str, Any], defaults: dict[str, Any], verb: str) -> Session:
    """The run as it was before its first step, quiet and without a folder."""
    ask = arguments_again(recorded, objects, defaults, verb)
    splits = as_splits(objects["splits"]) if "splits" in objects else splits_again(recorded.data, verb)
    if splits.fingerprint != recorded.data["fingerprint"]:
        raise DataError(
            f"The data is not what {folder} was trained on: {recorded.data.get('source')}, or its split, has changed since. "
            f"Restore the file, or give the same splits: {verb}(folder, splits=...)."
        )
    torch.set_num_threads(runs.read(folder, "environment.json", {}).get("threads", torch.get_num_threads()))
    built = building.rebuild(recorded.model, seed=ask["seed"], model=objects.get("model"))
    ask |= dict(model=objects.get("model"), splits=splits, built=replace_fields(built, recipe=recorded.model), folder=None, name=None, quiet=True, checks=False)
    ask |= dict(observers=(), watch_test=False, checkpoint=None)
    session = prepare(ask, defaults)
    session.settings = recorded
    first = folder / "checkpoints" / checkpoints.name_of(0)
    if not built.rebuildable or recorded.asked.get("weights") is not None:
        if not first.is_dir():
            raise SettingsError(
                f"{folder} began with weights that cannot be built again (an instance, or weights=), and has no checkpoint of step 0: it was made with "
                "checkpoint=None. Train again with checkpoints."
            )
        checkpoints.restore(session.training, *checkpoints.read_parts(first))
        session.training.streams = None
    return session


def environment_differs(folder: Path, device: torch.device) -> str:
    """What of torch, device and processor is not as it was in the run, in words; empty where nothing is."""
    environment, now = runs.read(folder, "environment.json", {}), runs.environment(device)
    differing = [key for key in ("fivestep", "torch", "device", "device_name", "cpu_capability") if environment.get(key) != now[key]]
    return ", ".join(f"{key} was {environment.get(key)} and is {now[key]}" for key in differing)
