"""The plan: what shares a graph is stacked where it is faster and fits the memory, the rest goes the other way with its reason."""

from __future__ import annotations

from typing import Any

import pytest
from swept import QUIET, Net, arrays
from torch import nn

import fivestep as fs
from fivestep.experiments import stacking


def test_the_plan_puts_what_shares_a_graph_together_and_tells_why_the_rest_is_alone(splits: Any) -> None:
    found = fs.sweep(Net, splits, {"lr": [0.01, 0.1], "model.width": [3, 5], "optimizer": ["AdamW", "RMSprop"]}, epochs=1, **QUIET)
    ways = sorted((group.how, len(group.jobs)) for group in found.plan)
    assert ways == [("alone", 4), ("stacked", 2), ("stacked", 2)]
    assert any("RMSprop has no stacked form" in group.reason for group in found.plan)


def test_what_is_bound_by_arithmetic_is_not_stacked() -> None:
    x, y = arrays(300)
    splits = fs.Splits((x.repeat(1, 8), y), val=0.2)
    wide = lambda: nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))  # noqa: E731
    jobs = [stacking.Job(v, 0, {"lr": lr, "batch_size": 64, "loss": "MSELoss"}, splits) for v, lr in enumerate((0.1, 0.01))]
    (group,) = stacking.plan_groups(wide, jobs)
    assert group.how == "alone" and "million multiplications" in group.reason


def test_a_group_is_cut_to_fit_the_memory(splits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [stacking.Job(v, 0, {"lr": 0.01 * (v + 1), "batch_size": 16, "loss": "MSELoss"}, splits) for v in range(6)]
    (whole,) = stacking.plan_groups(Net, jobs)
    monkeypatch.setattr(stacking, "available_bytes", lambda device: 8_000)
    groups = stacking.plan_groups(Net, jobs)
    assert len(whole.jobs) == 6 and len(groups) > 1 and sum(len(group.jobs) for group in groups) == 6
