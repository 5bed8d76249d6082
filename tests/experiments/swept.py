"""A small model and rows for tests of sweeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

QUIET: dict[str, Any] = dict(folder=None, quiet=True, device="cpu")


def arrays(rows: int = 120, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=draw)
    return x, x[:, :1].sin() + x[:, 1:2] + 0.3 * torch.randn(rows, 1, generator=draw)


class Net(nn.Module):
    def __init__(self, num_inputs: int, width: int = 3, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_inputs, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
