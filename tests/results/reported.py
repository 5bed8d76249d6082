"""Runs whose reports are looked at: a useless and a useful imbalanced one with hostile names, numbers, long names, images, arrays of a user's own model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import fivestep as fs

HOSTILE = '<script>alert("x")</script>'
QUIET = dict(quiet=True, device="cpu", checks=False)


class Net(nn.Module):
    def __init__(self, num_inputs: int, num_outputs: int):
        super().__init__()
        self.layer = nn.Linear(num_inputs, num_outputs)

    def forward(self, x):
        return self.layer(x)


def churn(rows: int = 900, skill: bool = False) -> dict[str, Any]:
    """A table whose class 'yes' holds about 3 % of the rows, by chance (or, with `skill`, for those with a large `a`). Names and values are hostile."""
    draw = np.random.default_rng(0)
    a = draw.normal(size=rows)
    yes = a > 1.75 if skill else draw.random(rows) < 0.03
    city = draw.choice(["Bonn", "Oslo", '"><img src=x onerror=alert(1)>'], rows)
    return {"a": a, HOSTILE: draw.normal(size=rows), "city": city, "empty\u202ename": draw.normal(size=rows), "churn": np.where(yes, "yes", "no")}


def houses(rows: int = 400) -> dict[str, Any]:
    draw = np.random.default_rng(1)
    size, noise, kind = draw.normal(100, 20, rows), draw.normal(size=rows), draw.choice(["flat", "house"], rows)
    return {"size": size, "noise": noise, "kind": kind, "price": 3 * size + 50 * (kind == "house") + draw.normal(size=rows)}


def make(which: str, folder: Path | None) -> Any:
    """A small trained run, in a folder below `folder`."""
    options = dict(folder=folder, name=which, **QUIET)
    if which in ("useless", "useful"):
        splits = fs.Data.table(churn(skill=which == "useful"), target="churn").split(stratify=True)
        return fs.fit("mlp", splits, **(options | dict(epochs=3 if which == "useless" else 25)))
    if which == "houses":
        return fs.fit("mlp", fs.Data.table(houses(), target="price").split(), **(options | dict(epochs=30, scheduler={"name": "CosineAnnealingLR"})))
    if which == "digits":
        images, labels = fs.datasets.digits()
        return fs.fit("cnn", fs.Data.images(images[:400], labels[:400]).split(), **(options | dict(epochs=2)))
    if which == "long-names":
        table = {f"{name} of which there are very many words, in kg per day": values for name, values in houses().items() if name != "price"}
        target = "growth of the yearly revenue per customer in the following twelve months (EUR)"
        return fs.fit("mlp", fs.Data.table(table | {target: 1e4 * houses()["price"]}, target=target).split(), **(options | dict(epochs=3)))
    x = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
    return fs.fit(Net, fs.Data.arrays(x, x[:, :1] * 2).split(train=0.8, val=0.2), **(options | dict(epochs=1, loss="MSELoss")))
