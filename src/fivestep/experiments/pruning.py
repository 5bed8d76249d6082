"""Which variants are left off before their end: successive halving, by validation scores at a few epochs (rungs).

Enters: for each training the monitored score at an epoch. Leaves: which of them stop. The rule is the asynchronous one (Li et al. 2020, A system for massively
parallel hyperparameter tuning): at a rung a variant goes on if it is among the best third of all that have come there so far, so a stack that arrives together
and single runs one after another follow the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fivestep.train.events import EpochEnded

Key = tuple[int, int]  # (variant, seed)
Prune = Callable[[int, dict[Key, float]], set[Key]]  # (epoch, values) -> those that stop


class Pruned(Exception):
    """A training is left off here: raised by an observer inside `fit`, caught by the sweep."""


class Halving:
    """`halving(epoch, {(variant, seed): value})` -> those that stop. A variant is judged by the mean over its seeds that have come to the rung.

    >>> Halving(epochs=9)(1, {(0, 0): 0.1, (1, 0): 0.2, (2, 0): 0.3})
    {(1, 0), (2, 0)}
    """

    def __init__(self, epochs: int, *, factor: int = 3, higher_is_better: bool = False):
        self.factor, self.sign = factor, -1.0 if higher_is_better else 1.0
        self.rungs = {epochs // factor**power for power in range(1, 20) if epochs // factor**power >= 1}
        self.seen: dict[int, dict[int, dict[int, float]]] = {rung: {} for rung in self.rungs}  # rung -> variant -> seed -> value

    def __call__(self, epoch: int, values: dict[Key, float]) -> set[Key]:
        if epoch not in self.rungs:
            return set()
        seen = self.seen[epoch]
        for (variant, seed), value in values.items():
            self._note(epoch, (variant, seed), value)
        ranked = sorted(seen, key=lambda variant: sum(seen[variant].values()) / len(seen[variant]))
        kept = set(ranked[: max(1, len(ranked) // self.factor)])
        return {key for key in values if key[0] not in kept}

    def read(self, key: Key, curve: Mapping[int, float | None]) -> None:
        """A training of before: what it had at the rungs it came to."""
        for epoch, value in curve.items():
            if epoch in self.rungs:
                self._note(epoch, key, value)

    def _note(self, epoch: int, key: Key, value: float | None) -> None:
        """What is not finite ranks last, however the score is read."""
        self.seen[epoch].setdefault(key[0], {})[key[1]] = math.inf if value is None or not math.isfinite(value) else self.sign * value


def watcher(prune: Prune, key: Key, monitor: str, curve: dict[int, float]) -> Callable[[Any], None]:
    """An observer of one run: notes the monitored score of each epoch in `curve`, and raises Pruned where the rule says so."""

    def see(event: Any) -> None:
        if isinstance(event, EpochEnded) and event.val_loss is not None:
            value = event.val_loss if monitor == "loss" else event.metrics[monitor]
            curve[event.epoch] = value
            if event.epoch < event.epochs and key in prune(event.epoch, {key: value}):
                raise Pruned(f"left off after epoch {event.epoch}: {monitor} {value:.5g}")

    return see
