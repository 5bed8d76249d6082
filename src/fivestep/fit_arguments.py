"""What the arguments of `fit` mean: what is refused, what "auto" stands for, and what of them is recorded.

Enters: the arguments as one dict, the splits. Leaves: nothing where all is well, else a `SettingsError` with the way on; the device, the batch size, what is
watched; the record that settings.json holds. The decision that shaped it: what means nothing is refused before anything is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch

from fivestep.data.data import Splits
from fivestep.errors import SettingsError
from fivestep.model import building
from fivestep.model import metrics as scoring
from fivestep.settings import record
from fivestep.train import checkpoints, compiled


@dataclass(frozen=True)
class Watching:
    """What is watched at the end of an epoch, and what follows: which epoch is kept, and after how many without gain the run ends."""

    monitor: str
    mode: str
    scores: dict[str, Callable[..., Any]]  # metrics of every epoch beside the loss
    keep: str
    patience: int | None


def check_arguments(ask: dict[str, Any], splits: Splits) -> None:
    """Refuse what means nothing, each with the way on, before anything is built."""
    for key in ("epochs", "batch_size", "part_size", "validate_every"):
        value = ask[key]
        if value is not None and not isinstance(value, str) and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise SettingsError(f"{key}={value!r}: it must be a whole number of at least 1.")
    patience = ask["patience"]
    if patience not in (None, "auto") and (isinstance(patience, bool) or not isinstance(patience, Integral) or patience < 0):
        raise SettingsError(f'patience={patience!r}: it must be a whole number of validations, None or "auto".')
    for key in ("clip_norm", "clip_value"):
        if ask[key] is not None and (isinstance(ask[key], bool) or not isinstance(ask[key], Real) or not ask[key] > 0):
            raise SettingsError(f"{key}={ask[key]!r}: it must be a number above 0.")
    for key in ("folder", "name"):
        if ask[key] is not None and not isinstance(ask[key], (str, Path)):
            raise SettingsError(f"{key}={ask[key]!r}: it must be a text.")
    if isinstance(ask["seed"], bool) or not isinstance(ask["seed"], int):
        raise SettingsError(f"seed={ask['seed']!r}: a seed is a whole number.")
    if isinstance(ask["batch_size"], str) and ask["batch_size"] not in ("auto", "all"):
        raise SettingsError(f'batch_size={ask["batch_size"]!r} is not known. Use a number, "all" (the whole training split in each step) or "auto".')
    if isinstance(ask["epochs"], str) and ask["epochs"] != "auto":
        raise SettingsError(f'epochs={ask["epochs"]!r} is not known. Use a number or "auto".')
    if ask["keep"] not in ("auto", "best", "last"):
        raise SettingsError(f'keep={ask["keep"]!r} is not known. Use "best", "last" or "auto".')
    if ask["mode"] not in (None, "min", "max"):
        raise SettingsError(f'mode={ask["mode"]!r} is not known. Use "min" or "max".')
    if isinstance(ask["lr"], str) and ask["lr"] != "auto":
        raise SettingsError(f'lr={ask["lr"]!r}: give a number, "auto", or "find" (a learning-rate test before the run; by fit, not by check).')
    if isinstance(ask["lr"], (int, float)) and not isinstance(ask["lr"], bool) and not 0 <= ask["lr"] < float("inf"):
        raise SettingsError(f"lr={ask['lr']!r}: a learning rate is a finite number of at least 0.")
    checkpoints.read_rhythm(ask["checkpoint"])
    kept = ask["keep_checkpoints"]
    if isinstance(kept, bool) or not isinstance(kept, int) or kept < 2:
        raise SettingsError(f"keep_checkpoints={kept!r}: at least 2 are kept, so that a damaged newest one leaves another.")
    if ask["on_checkpoint_error"] not in ("stop", "retry"):
        raise SettingsError(f'on_checkpoint_error={ask["on_checkpoint_error"]!r} is not known. Use "stop" or "retry".')
    if ask["compile"] not in compiled.WAYS:
        raise SettingsError(f'compile={ask["compile"]!r} is not known. Use "step", "epoch", "auto" or None (eager).')
    if ask["step"] is not None:
        for key in ("part_size", "compute", "clip_norm", "clip_value"):
            if ask[key] is not None:
                raise SettingsError(f"{key}= does not go with step=: your own function makes the five steps, so it must do this itself.")
    if ask["compute"] is not None and ask["loss"] != "auto":
        raise SettingsError("compute= replaces forward and loss; leave loss= out, or use the loss inside compute.")


def choose_device(device: str | torch.device) -> torch.device:
    """ "auto": CUDA where there is one, then MPS, else the CPU."""
    if device != "auto":
        try:
            found = torch.device(device)
        except RuntimeError as error:
            raise SettingsError(f"device={device!r} is not known. Use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'.") from error
        if found.type == "cuda" and not torch.cuda.is_available():
            raise SettingsError("device='cuda' was asked for, and torch sees no CUDA device here. Use device='auto' or 'cpu'.")
        return found
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


def choose_batch_size(built: building.Built, splits: Splits) -> int:
    """32 for a user's module (INTERFACE); for built-in ones 32 to 256 by rows: a table of thousands of rows trains in seconds and no worse."""
    if built.recipe.get("kind") != "built-in":
        return 32
    rows = len(splits.train)
    return 32 if rows < 2_000 else 64 if rows < 10_000 else 128 if rows < 50_000 else 256


def watching(ask: dict[str, Any], splits: Splits, task: str | None) -> Watching:
    """The arguments about metrics, the kept epoch and patience, with what is left open filled in. Raises SettingsError where they contradict each other."""
    metrics = ask["metrics"] if ask["metrics"] is not None or ask["monitor"] == "loss" else [ask["monitor"]]
    scores = {} if metrics is None else scoring.epoch_metrics(metrics, task)  # the task's own metrics every epoch would cost 1 ms each
    monitor = ask["monitor"]
    if monitor != "loss" and monitor not in scores:
        raise SettingsError(f"monitor={monitor!r} is neither 'loss' nor one of the metrics: {', '.join(scores) or 'none given'}.")
    mode = ask["mode"] or ("min" if monitor == "loss" else scoring.direction(monitor))
    if mode is None:
        raise SettingsError(f"It cannot be told whether a larger {monitor!r} is better. Say mode='max' or mode='min'.")
    keep = ("best" if splits.val is not None else "last") if ask["keep"] == "auto" else ask["keep"]
    if keep == "best" and splits.val is None:
        raise SettingsError("keep='best' chooses the epoch on validation rows, and there are none. Give a validation split, or keep='last'.")
    patience = ask["patience"]
    if patience == "auto":
        patience = 10 if splits.val is not None and ask["epochs"] == "auto" else None
    return Watching(monitor, mode, scores, keep, patience)


def asked_settings(arguments: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The arguments that differ from fit's defaults, as JSON can hold them."""
    skip = ("model", "splits", "observers", "quiet")
    return {
        key: record(value) for key, value in arguments.items() if key in defaults and key not in skip and value is not defaults[key] and value != defaults[key]
    }


def data_record(splits: Splits) -> dict[str, Any]:
    data = splits.train.data
    sizes = {part.name: len(part) for part in (splits.train, splits.val, splits.test) if part is not None}
    kept = record({"kind": data.kind, "source": data.origin, "rows": len(data), "options": data.options, "split_options": splits.options, "sizes": sizes})
    return kept | {"fingerprint": splits.fingerprint, "task": splits.task, "classes": record(list(splits.classes)) if splits.classes else None}


def run_stem(splits: Splits, model: Any) -> str:
    """What the run's folder is called before its number: the file's name, else the model's."""
    data = splits.train.data
    if data.kind in ("table", "images") and (Path(data.origin).suffix or Path(data.origin).is_dir()):
        return Path(data.origin).stem or Path(data.origin).resolve().name
    return (model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)).lower()
