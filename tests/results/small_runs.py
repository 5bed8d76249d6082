"""Runs of a small network on 40 rows, of arrays or a table."""

from __future__ import annotations

import torch
from torch import nn

import fivestep as fs

PLAIN = dict(quiet=True, device="cpu", checks=False)


class Net(nn.Module):
    def __init__(self, num_inputs: int, width: int = 5, num_outputs: int = 2):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_inputs, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, num_outputs))

    def forward(self, x):
        return self.layers(x)


def arrays(rows: int = 40):
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    return x, x[:, :1] * torch.tensor([1.0, 2.0])


def table(rows: int = 40):
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    kind = [["red", "green", "blue"][row % 3] for row in range(rows)]
    return {"a": x[:, 0].double().numpy(), "b": x[:, 1].double().numpy(), "kind": kind, "y": (x[:, 0] * 30 + 100).double().numpy()}


def fit(model=Net, splits=None, **settings):
    return fs.fit(model, splits or fs.Data.arrays(*arrays()).split(seed=0), **(PLAIN | {"loss": "auto", "epochs": 2, "folder": None} | settings))
