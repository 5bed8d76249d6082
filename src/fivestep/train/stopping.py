"""Early stopping: a number in, yes or no out."""

from __future__ import annotations

import math
from typing import Any


class Stopping:
    """Remembers the best value seen and says when `patience` validations have passed without a better one.

    `mode` is "min" or "max"; `patience=None` never stops. A NaN is never better.

    >>> stopping = Stopping(patience=2, mode="min")
    >>> [stopping.update(value, epoch) for epoch, value in enumerate([3.0, 2.0, 2.5, 2.5])]
    [True, True, False, False]
    >>> stopping.done, stopping.best_epoch
    (True, 1)
    """

    def __init__(self, patience: int | None, mode: str = "min"):
        self.patience, self.mode = patience, mode
        self.best = math.inf if mode == "min" else -math.inf
        self.best_epoch = -1
        self.waited = 0

    def update(self, value: float, epoch: int) -> bool:
        """True where `value` is the best so far."""
        better = value < self.best if self.mode == "min" else value > self.best
        if better:
            self.best, self.best_epoch, self.waited = value, epoch, 0
        else:
            self.waited += 1
        return better

    @property
    def done(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"best": None if math.isinf(self.best) else self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["best"] is not None:
            self.best = state["best"]
        self.best_epoch, self.waited = state["best_epoch"], state["waited"]
