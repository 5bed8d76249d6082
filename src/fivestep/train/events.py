"""What observers get: frozen events with numbers about a run, never the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunStarted:
    """Before the first step: what is about to happen."""

    epochs: int
    steps_per_epoch: int
    start_epoch: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepEnded:
    """A group of optimizer steps has ended: `step` counts from 1 over the whole run, `losses` are those of the group."""

    epoch: int
    step: int
    losses: tuple[float, ...]


@dataclass(frozen=True)
class EpochEnded:
    """An epoch and its validation have ended. `epoch` counts from 1; `val_loss` is None where nothing was validated."""

    epoch: int
    epochs: int
    step: int
    train_loss: float
    val_loss: float | None
    test_loss: float | None
    metrics: dict[str, float]
    lr: tuple[float, ...]
    seconds: float
    is_best: bool
    losses: tuple[float, ...] = ()

    def as_row(self) -> dict[str, Any]:
        """The line of history.jsonl: JSON values only."""
        row: dict[str, Any] = {"epoch": self.epoch, "step": self.step, "train_loss": self.train_loss}
        if self.val_loss is not None:
            row["val_loss"] = self.val_loss
        if self.test_loss is not None:
            row["test_loss"] = self.test_loss
        return row | self.metrics | {"lr": list(self.lr), "seconds": round(self.seconds, 4), "best": self.is_best}


@dataclass(frozen=True)
class RunEnded:
    """The run is over: `reason` says in words why, `kept_epoch` whose weights the model holds now.

    `status`: "done", "stopped" (by a signal or Ctrl-C, and may be resumed) or "failed" (an error goes on to the caller). A process that is killed tells nothing.
    """

    epoch: int
    step: int
    reason: str
    kept_epoch: int
    seconds: float
    status: str = "done"
