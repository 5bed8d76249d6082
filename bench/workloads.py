"""The four workloads of SPEED.md: the same data, network, loss, optimizer and batch size for every way to train them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Workload:
    """`layers` says the network in words that every framework can be told: ("linear", out), ("relu",), ("conv", out), ("pool",), ("flatten",)."""

    data: Callable[[], tuple[Tensor, Tensor]]
    shape: tuple[int, ...]  # of one row
    layers: tuple[tuple[Any, ...], ...]
    loss: str
    optimizer: str
    lr: float
    batch: int
    epochs: int  # that are timed, after a first one
    recorded: dict[str, Any] = field(default_factory=dict)  # the arguments that fivestep records: the tuned loop's

    def make(self) -> nn.Module:
        """The network in torch; its weights come from torch's global generator."""
        width, modules = self.shape[0], []
        side = self.shape[1] if len(self.shape) == 3 else 1
        for kind, *given in self.layers:
            if kind == "linear":
                modules.append(nn.Linear(width, given[0]))
                width = given[0]
            elif kind == "conv":
                modules.append(nn.Conv2d(width, given[0], 3, padding=1))
                width = given[0]
            elif kind == "relu":
                modules.append(nn.ReLU())
            elif kind == "pool":
                modules.append(nn.MaxPool2d(2))
                side //= 2
            elif kind == "flatten":
                modules.append(nn.Flatten())
                width *= side * side
        return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def regression(rows: int, width: int) -> tuple[Tensor, Tensor]:
    """x (rows, width), y (rows, 1): a line and a tenth of noise."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=draw)
    return x, x @ torch.randn(width, 1, generator=draw) + 0.1 * torch.randn(rows, 1, generator=draw)


def pictures(rows: int, flat: bool) -> tuple[Tensor, Tensor]:
    """x (rows, 1, 28, 28), or (rows, 784) where flat; ten classes, each with a bright patch of its own, so that there is something to learn."""
    draw = torch.Generator().manual_seed(0)
    x, labels = 0.5 * torch.rand(rows, 1, 28, 28, generator=draw), torch.randint(0, 10, (rows,), generator=draw)
    for label in range(10):
        begin = 2 + 2 * label
        x[labels == label, :, begin : begin + 4, 8:20] += 0.3
    return x.flatten(1) if flat else x, labels


WORKLOADS = {
    "W1": Workload(lambda: regression(10_000, 8), (8,), (("linear", 1),), "MSELoss", "SGD", 0.01, 32, 10, {"foreach": False}),
    "W2": Workload(
        lambda: regression(100_000, 32), (32,), (("linear", 128), ("relu",), ("linear", 128), ("relu",), ("linear", 1)),
        "MSELoss", "AdamW", 1e-3, 256, 2, {"fused": True},
    ),
    "W3": Workload(lambda: pictures(60_000, True), (784,), (("linear", 256), ("relu",), ("linear", 10)), "CrossEntropyLoss", "Adam", 1e-3, 128, 2, {"fused": True}),
    "W4": Workload(
        lambda: pictures(20_000, False), (1, 28, 28),
        (("conv", 16), ("relu",), ("pool",), ("conv", 32), ("relu",), ("pool",), ("flatten",), ("linear", 10)),
        "CrossEntropyLoss", "Adam", 1e-3, 64, 1, {"fused": True},
    ),
}  # fmt: skip
