"""Averages of the weights: EMA after each step, SWA after each epoch of the last part of a run.

Enters: the model while it trains. Leaves: a second set of floating-point parameters and buffers that evaluation, the kept weights and the artifact use.
Sources: EMA, Polyak & Juditsky 1992; SWA, Izmailov et al. 2018 (https://arxiv.org/abs/1803.05407).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fivestep.errors import SettingsError


class Average:
    """`name` "EMA": average = decay * average + (1 - decay) * weights after each step. "SWA": the plain mean of the weights at the end of each epoch from
    `start` (a fraction of the epochs) on. Buffers that are floats (BatchNorm's statistics) are averaged in the same way; others are taken as they are, and so
    are those that begin with infinities (a mask): the mean of -inf and -inf is NaN.
    """

    def __init__(self, model: nn.Module, name: str, *, decay: float = 0.999, start: float = 0.75):
        self.name, self.decay, self.start = name, decay, start
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point() and bool(buffer.isfinite().all())]
        self.live: list[Tensor] = [*(parameter for parameter in model.parameters() if parameter.is_floating_point()), *buffers]
        self.averaged: list[Tensor] = [tensor.detach().clone() for tensor in self.live]
        self.count = 0

    @torch.no_grad()
    def update(self) -> None:
        """After an optimizer step (EMA only)."""
        if self.name == "EMA":
            self.count += 1
            torch._foreach_lerp_(self.averaged, [tensor.detach() for tensor in self.live], 1 - self.decay)

    @torch.no_grad()
    def update_epoch(self, epoch: int, epochs: int) -> None:
        """After an epoch (SWA only); `epoch` counts from 0."""
        if self.name == "SWA" and epoch >= self.start * epochs - 1e-9:
            self.count += 1
            torch._foreach_lerp_(self.averaged, [tensor.detach() for tensor in self.live], 1 / self.count)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averaged weights inside, its own afterwards. Before the first update nothing is exchanged."""
        if not self.count:
            yield
            return
        with torch.no_grad():
            own = [tensor.detach().clone() for tensor in self.live]
            torch._foreach_copy_([tensor.detach() for tensor in self.live], self.averaged)
            try:
                yield
            finally:
                torch._foreach_copy_([tensor.detach() for tensor in self.live], own)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "averaged": self.averaged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        for mine, theirs in zip(self.averaged, state["averaged"], strict=True):
            mine.copy_(theirs)


def make_average(spec: Any, model: nn.Module) -> Average | None:
    """From None, "EMA", "SWA" or a table such as {"name": "EMA", "decay": 0.999}."""
    if spec is None:
        return None
    table: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = str(table.pop("name", "")).upper()
    allowed = {"EMA": {"decay"}, "SWA": {"start"}}
    if name not in allowed:
        raise SettingsError(f'average={spec!r} is not known. Use "EMA", "SWA" or a table such as {{"name": "EMA", "decay": 0.999}}.')
    if unknown := set(table) - allowed[name]:
        raise SettingsError(f"average: {name} has no argument {sorted(unknown)[0]!r}; it takes {', '.join(sorted(allowed[name]))}.")
    return Average(model, name, **table)
