"""Everything that changes during a run: to disk atomically, and back to the bit.

Enters: a `Training`. Leaves: folders `checkpoints/step-000000000100` (tensors as safetensors, the rest as JSON, never pickle), of which the newest valid one
puts a fresh `Training` into the state it had. Checkpoints are taken at the edges of optimizer steps only, and taking one changes nothing that training sees.
"""

from __future__ import annotations

import hashlib
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fivestep import files, seeds, tensors
from fivestep.errors import ArtifactError, FivestepError, Interrupted, MissingInputError, SettingsError, StorageError
from fivestep.model.optimizer_state import join_state, restore_optimizer, split_state
from fivestep.strict_json import read_json, write_json
from fivestep.train.epochs import Plan, StopAsked, Training, check_weights, gather
from fivestep.train.signals import Listener

PREFIX = "step-"
FILES = ("state.safetensors", "state.json")
LIMIT = 256_000_000  # bytes of state.json: the history of a million epochs
RETRY_SECONDS = 60.0
DEFAULT_SECONDS = 300.0  # checkpoint="5min"


# -- what changes during a run -----------------------------------------------------------------------------------------------------------------------------------


def capture(training: Training) -> tuple[dict[str, Tensor], Any]:
    """All of `training`, and the global random streams, as (tensors by name, JSON). The tensors are live: write them before the next step."""
    losses = gather(training.losses_in_epoch)
    on_device = bool(training.losses_in_epoch) and isinstance(training.losses_in_epoch[0], Tensor)
    return split_state(
        {
            "model": module_state(training.model),
            "loss": None if training.loss_module is None else module_state(training.loss_module),
            "optimizer": training.optimizer.state_dict(),
            "schedule": None if training.schedule is None else training.schedule.state_dict(),
            "scaler": None if training.scaler is None else training.scaler.state_dict(),
            "average": None if training.average is None else training.average.state_dict(),
            "stopping": training.stopping.state_dict(),
            "epoch": training.epoch,
            "step": training.step,
            "step_in_epoch": training.step_in_epoch,
            "unvalidated": training.unvalidated,
            # Float64 holds Python's floats to the bit; float32 says that they were tensors which nobody had waited for.
            "losses_in_epoch": torch.tensor(losses, dtype=torch.float32 if on_device else torch.float64),
            "history": training.history,
            "best_state": training.best_state,
            "best_epoch": training.best_epoch,
            "test_looks": training.test_looks,
            "attributes": {} if training.attributes is None else training.attributes.capture(),
            "unheld": [] if training.attributes is None else training.attributes.unheld(),
            "streams": streams_as_tensors(seeds.capture()),
        }
    )


def restore(training: Training, state_tensors: Mapping[str, Tensor], entry: Any) -> list[str]:
    """Put into `training` what `capture` took out of one made from the same settings; returns the names of attributes that had changed and could not be held.
    Raises ArtifactError where the two do not fit.

    The order matters: weights, then the optimizer, then the schedule (it replays and must find the optimizer's rates); the random streams come last, when
    `epochs.train` has everything else ready.
    """
    state = join_state(state_tensors, entry)
    try:
        device = next((tensor.device for tensor in training.model.parameters()), torch.device("cpu"))
        restore_module(training.model, state["model"])
        for name in ("loss", "schedule", "scaler", "average"):
            mine = training.loss_module if name == "loss" else getattr(training, name)
            if (mine is None) != (state[name] is None):
                raise ArtifactError(f"The checkpoint was made {'without' if state[name] is None else 'with'} {name}, and this run is not.")
        if training.loss_module is not None:
            restore_module(training.loss_module, state["loss"])
        restore_optimizer(training.optimizer, state["optimizer"])
        if training.schedule is not None:
            training.schedule.load_state_dict(state["schedule"])
        if training.scaler is not None:
            training.scaler.load_state_dict(state["scaler"])
        if training.average is not None:
            training.average.load_state_dict(state["average"])
        if training.attributes is not None:
            training.attributes.restore(state["attributes"])
        training.stopping.load_state_dict(state["stopping"])
        training.epoch, training.step, training.step_in_epoch = state["epoch"], state["step"], state["step_in_epoch"]
        training.unvalidated = state["unvalidated"]
        losses = state["losses_in_epoch"]
        training.losses_in_epoch = losses.tolist() if losses.dtype == torch.float64 else list(losses.to(device))
        training.history, training.best_epoch, training.test_looks = state["history"], state["best_epoch"], state["test_looks"]
        best = state["best_state"]
        training.best_state = None if best is None else {name: value.to(device) if isinstance(value, Tensor) else value for name, value in best.items()}
        training.streams = streams_from_tensors(state["streams"])
        return state["unheld"]
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if isinstance(error, FivestepError):
            raise
        raise ArtifactError(f"The checkpoint does not fit this run: {type(error).__name__}: {error}") from error


def module_state(module: nn.Module) -> dict[str, Any]:
    """Parameters, all buffers (those that no state_dict holds too), which parameters are trained, and extra state."""
    return {
        "parameters": {name: parameter.detach() for name, parameter in module.named_parameters()},
        "buffers": {name: buffer.detach() for name, buffer in module.named_buffers()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in module.named_parameters()},
        "extra": {name: value for name, value in module.state_dict().items() if name.rpartition(".")[2] == "_extra_state"},
    }


@torch.no_grad()
def restore_module(module: nn.Module, state: Mapping[str, Any]) -> None:
    parameters = dict(module.named_parameters())
    if parameters.keys() != state["parameters"].keys():
        differing = sorted(parameters.keys() ^ state["parameters"].keys())
        raise ArtifactError(f"The checkpoint is of another model: only one of the two has {', '.join(differing[:4])}. Give the model the run was made with.")
    for name, parameter in parameters.items():
        saved = state["parameters"][name]
        if saved.shape != parameter.shape or saved.dtype != parameter.dtype:
            raise ArtifactError(
                f"The checkpoint is of another model: {name} is {saved.dtype} {tuple(saved.shape)} there and {parameter.dtype} {tuple(parameter.shape)} here."
            )
        parameter.copy_(saved)
        parameter.requires_grad_(state["requires_grad"][name])
    device = next((parameter.device for parameter in parameters.values()), torch.device("cpu"))
    buffers = dict(module.named_buffers())
    if lacking := sorted(buffers.keys() - state["buffers"].keys()):
        raise ArtifactError(f"The checkpoint lacks the model's buffers {', '.join(lacking[:4])}. Give the model the run was made with.")
    for name, saved in state["buffers"].items():
        mine = buffers.get(name)
        if mine is not None and mine.shape == saved.shape and mine.dtype == saved.dtype and not mine.is_inference():
            mine.copy_(saved)
            continue
        # A buffer that grows while training (a cache), or was made under inference_mode and cannot be written to.
        path, _, last = name.rpartition(".")
        module.get_submodule(path)._buffers[last] = saved.to(device if mine is None else mine.device)
    if state["extra"]:
        module.load_state_dict(state["extra"], strict=False)


def streams_as_tensors(state: dict[str, Any]) -> dict[str, Any]:
    """The random streams with Python's and numpy's long lists of numbers as tensors."""
    kept = dict(state)
    version, words, gauss = kept["random"]
    kept["random"] = (version, torch.tensor(words, dtype=torch.int64), gauss)
    if "numpy" in kept:
        name, keys, position, has_gauss, cached = kept["numpy"]
        kept["numpy"] = (name, torch.tensor(keys.tolist(), dtype=torch.int64), int(position), int(has_gauss), float(cached))
    return kept


def streams_from_tensors(state: dict[str, Any]) -> dict[str, Any]:
    found = dict(state)
    version, words, gauss = found["random"]
    found["random"] = (version, tuple(words.tolist()), gauss)
    if "numpy" in found:
        import numpy

        name, keys, position, has_gauss, cached = found["numpy"]
        found["numpy"] = (name, numpy.array(keys.tolist(), dtype=numpy.uint32), position, has_gauss, cached)
    if "cuda" in found and (not torch.cuda.is_initialized() or torch.cuda.device_count() < len(found["cuda"])):
        del found["cuda"]  # another machine: exactness was not promised
    if "mps" in found and not torch.backends.mps.is_available():
        del found["mps"]
    return found


# -- to disk and back --------------------------------------------------------------------------------------------------------------------------------------------


def name_of(step: int) -> str:
    return f"{PREFIX}{step:012d}"


def write(parent: Path, training: Training, facts: Mapping[str, Any], *, replace: bool = False, may_be_infinite: frozenset[str] = frozenset()) -> Path:
    """The folder of a new checkpoint, durable when this returns. Raises StorageError, with nothing changed; NonFiniteError where weights or state are not finite."""
    check_weights(training, [], may_be_infinite)
    state_tensors, entry = capture(training)
    contents = contents_of(state_tensors, entry)
    places = {"step": training.step, "epoch": training.epoch, "step_in_epoch": training.step_in_epoch}
    return files.publish(parent, name_of(training.step), contents, facts=places | dict(facts), replace=replace)


def contents_of(state_tensors: Mapping[str, Tensor], entry: Any) -> dict[str, Any]:
    """The files of a checkpoint, as `files.publish` takes them."""
    return {"state.safetensors": tensors.StateWriter(state_tensors), "state.json": write_json(entry, indent=None)}


def parsed(published: files.Published) -> tuple[dict[str, Tensor], Any]:
    """(tensors, JSON) of a checkpoint's verified bytes, for `restore`. Raises ArtifactError."""
    what = str(published.path / "state.safetensors")
    found = tensors.state_from_bytes(published.contents["state.safetensors"], what=what, finite=False)
    return found, read_json(published.contents["state.json"], limit=LIMIT, what=str(published.path / "state.json"))


def read_newest(parent: Path) -> files.Newest:
    """The newest valid checkpoint; `.parsed` is (tensors, JSON) for `restore`. Damaged ones are set aside as `.bad` and told (C3)."""

    newest = files.newest_valid(parent, PREFIX, FILES, parse=parsed)
    for path, reason in newest.damaged:
        warnings.warn(f"{path} is damaged and was passed over: {reason}", stacklevel=3)
    if newest.published is None:
        raise MissingInputError(
            f"{parent.parent} holds no checkpoint: it was made with checkpoint=None, or ended before its first one. Start a new run with the same settings: "
            f"fivestep fit ... --config {parent.parent / 'settings.json'}"
        )
    return newest


def read_parts(path: Path) -> tuple[dict[str, Tensor], Any]:
    """(tensors, JSON) of one checkpoint's folder, for `restore`. Raises ArtifactError where a byte of it is damaged."""
    published = files.read_published(path, FILES)
    found = tensors.state_from_bytes(published.contents["state.safetensors"], what=str(path / "state.safetensors"), finite=False)
    return found, read_json(published.contents["state.json"], limit=LIMIT, what=str(path / "state.json"))


def settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 of a run's settings as JSON without the number of epochs, the one setting that may grow, and without what cannot change a weight."""
    free = ("epochs", "checkpoint", "keep_checkpoints", "on_checkpoint_error")
    kept = {
        key: {name: item for name, item in value.items() if name not in free} if key in ("fit", "chosen") else value
        for key, value in settings.items()
    }  # fmt: skip
    return hashlib.sha256(write_json(kept)).hexdigest()


# -- when ------------------------------------------------------------------------------------------------------------------------------------------------------------


def read_rhythm(checkpoint: Any) -> tuple[str, float]:
    """`checkpoint=` as ("seconds" | "steps" | "epoch" | "never", how many)."""
    if checkpoint is None:
        return "never", 0
    if checkpoint == "epoch":
        return "epoch", 1
    if isinstance(checkpoint, int) and not isinstance(checkpoint, bool) and checkpoint >= 1:
        return "steps", checkpoint
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|min|h)", checkpoint) if isinstance(checkpoint, str) else None
    if match and float(match[1]) > 0:
        return "seconds", float(match[1]) * {"s": 1, "sec": 1, "min": 60, "h": 3600}[match[2]]
    raise SettingsError(f'checkpoint={checkpoint!r} is not known. Use a time ("5min", "30s"), "epoch", a number of steps, or None.')


def wait_seconds(every: float, save_seconds: float) -> float:
    """Until the next checkpoint. The default rhythm stretches where saving takes long, so that it costs at most 1 % of the time; one that was chosen is kept."""
    return max(every, 99 * save_seconds if every == DEFAULT_SECONDS else 0.0)


class Keeper:
    """Writes checkpoints at the edges of steps and epochs, and ends the run there when a signal asks for it.

    `after_step` and `after_epoch` are the hooks of `Plan`; where nothing is due they look at a flag and a clock (0.2 us).
    """

    def __init__(self, parent: Path, plan: Plan, *, checkpoint: Any, keep: int, on_error: str, facts: Mapping[str, Any]):
        self.parent, self.plan, self.keep, self.on_error, self.facts = parent, plan, keep, on_error, facts
        self.rhythm, self.every = read_rhythm(checkpoint)
        self.heard = Listener()  # hears nothing, until `workflow` gives the one that does
        self.stopped = False  # whether the run was ended by a signal before its end
        self.saved_step = -1
        self.save_seconds = 0.0  # of the last checkpoint
        self.told = False  # which attributes no checkpoint can hold
        self.due_step = sys.maxsize
        self.due_time = float("inf")

    def begin(self, training: Training) -> None:
        """Before the first step: the start is a checkpoint, and the disk must have room for those to come."""
        files.make_folder(self.parent, exist_ok=True)
        files.remove_dead_temporaries(self.parent)
        if (self.parent / name_of(training.step)).is_dir():
            self.saved_step = training.step  # resumed
        else:
            self._write(training)
        size = sum(path.stat().st_size for path in (self.parent / name_of(training.step)).iterdir())
        free, wanted = files.free_bytes(self.parent), (self.keep + 3) * size
        if free is not None and free < wanted:
            warnings.warn(f"{self.parent} has {free:,} bytes free; {self.keep + 3} checkpoints of {size:,} bytes want {wanted:,}", stacklevel=2)
        self._next(training)

    def after_step(self, training: Training) -> bool:
        if self.heard.number is not None:
            return self._stop(training)
        if (training.step >= self.due_step or time.monotonic() >= self.due_time) and training.step_in_epoch < self.plan.batches.steps(training.epoch):
            self._save(training)  # at the last step of an epoch it waits for the validation: one name, one state
        return False

    def after_epoch(self, training: Training) -> bool:
        ended = not training.unvalidated and (training.epoch >= self.plan.epochs or training.stopping.done)
        if self.heard.number is not None and not ended:
            return self._stop(training)
        if ended or self.rhythm == "epoch" or training.step >= self.due_step or time.monotonic() >= self.due_time:
            # A run that a signal stopped between the last step and the end of its validation has this step's name already, with the state before it.
            self._save(training, replace=ended)
        return False

    def polled(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches of a validation, until a signal comes."""
        for batch in batches:
            if self.heard.number is not None:
                raise StopAsked
            yield batch

    def _stop(self, training: Training) -> bool:
        self.stopped = True
        if training.step != self.saved_step:
            self._write(training)
        return True

    def _save(self, training: Training, *, replace: bool = False) -> None:
        if training.step == self.saved_step and not replace:
            return
        try:
            self._write(training, replace=replace)
        except StorageError as error:
            if self.on_error != "retry":
                raise
            warnings.warn(f"{error}. Training goes on and tries again (on_checkpoint_error='retry').", stacklevel=2)
            if self.rhythm == "seconds":
                self.due_time = time.monotonic() + min(self.every, RETRY_SECONDS)
            return
        self._next(training)

    def _write(self, training: Training, *, replace: bool = False) -> None:
        began = time.monotonic()
        try:
            write(self.parent, training, self.facts, replace=replace, may_be_infinite=self.plan.may_be_infinite)
        except (SettingsError, ValueError) as error:
            if isinstance(error, FivestepError) and not isinstance(error, StorageError):
                error.args = (f"{error.args[0]} Or train without checkpoints: checkpoint=None.", *error.args[1:])
            raise
        self.saved_step = training.step
        unheld = [] if training.attributes is None or self.told else training.attributes.unheld()
        if unheld:
            self.told = True
            warnings.warn(
                f"{', '.join(unheld[:4])} changes while the model trains and cannot be held in a checkpoint (it is no number, text, tensor, list or dict of these), "
                "so a resumed run would not end in the same bits. Keep it in a buffer or a number.",
                stacklevel=2,
            )
        best = next((row["step"] for row in reversed(training.history) if row["epoch"] == training.best_epoch), None)
        protected = {name_of(0)} | (set() if best is None else {name_of(best)})
        files.prune(self.parent, self.keep, protected, prefix=PREFIX)
        self.save_seconds = time.monotonic() - began

    def _next(self, training: Training) -> None:
        if self.rhythm == "steps":
            self.due_step = (training.step // int(self.every) + 1) * int(self.every)
        elif self.rhythm == "seconds":
            self.due_time = time.monotonic() + wait_seconds(self.every, self.save_seconds)

    def interrupted(self, training: Training, folder: Path) -> Interrupted:
        """What to raise after the run was ended by a signal."""
        number = self.heard.number or signal.SIGINT
        return Interrupted(
            f"Stopped by {signal.Signals(number).name} after step {training.step} (epoch {training.epoch + 1}); everything is saved in "
            f"{self.parent / name_of(training.step)}. Go on with: fivestep resume {folder}   or in Python fs.resume({str(folder)!r})",
            exit_code=128 + number,
        )
