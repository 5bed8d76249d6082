"""The plan: what shares a graph is stacked where it is faster and fits the memory, the rest goes the other way with its reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from swept import QUIET, Net, arrays
from torch import nn

import fivestep as fs
from fivestep.experiments import memory, stacking
from fivestep.experiments.sweeps import read_sweep


def test_the_plan_puts_what_shares_a_graph_together_and_tells_why_the_rest_is_alone(splits: Any) -> None:
    found = fs.sweep(Net, splits, {"lr": [0.01, 0.1], "model.width": [3, 5], "optimizer": ["AdamW", "RMSprop"]}, epochs=1, **QUIET)
    ways = sorted((group.how, len(group.jobs)) for group in found.plan)
    assert ways == [("alone", 4), ("stacked", 2), ("stacked", 2)]
    assert any("RMSprop has no stacked form" in group.reason for group in found.plan)


def test_with_and_without_momentum_are_two_groups(splits: Any) -> None:
    found = fs.sweep(Net, splits, {"optimizer.momentum": [0, 0.5, 0.9]}, seeds=2, optimizer="SGD", epochs=1, **QUIET)
    assert sorted((group.how, len(group.jobs)) for group in found.plan) == [("stacked", 2), ("stacked", 4)]


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
    monkeypatch.setattr(stacking, "available_bytes", lambda device: 12_000)
    groups = stacking.plan_groups(Net, jobs)
    assert len(whole.jobs) == 6 and len(groups) > 1 and sum(len(group.jobs) for group in groups) == 6


WIDE = """
import resource, sys, torch
from torch import nn
import fivestep as fs
from fivestep.experiments import memory, stacking
torch.set_num_threads(1)
x = torch.randn(4000, 8)
splits = fs.Splits((x[:3000], x[:3000, :1]), val=(x[3000:], x[3000:, :1]))
net = lambda: nn.Sequential(nn.Linear(8, 200), nn.Tanh(), nn.Tanh(), nn.Tanh(), nn.Tanh(), nn.Tanh(), nn.Linear(200, 1))
given = dict(loss="MSELoss", optimizer="SGD", batch_size=3000, epochs=1, device="cpu", checks=False, stack=True)
fs.sweep(net, splits, {"lr": [0.001, 0.01]}, folder=None, **given)  # everything is imported
if sys.argv[1] == "uncut":
    stacking.SHARE_OF_MEMORY = 100
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 600_000_000, resource.RLIM_INFINITY))
found = fs.sweep(net, splits, {"lr": [0.0001 * k for k in range(1, 61)]}, folder=sys.argv[2], **given)
print([len(group.jobs) for group in found.plan], {trial.how for trial in found.trials}, len(found.trials), found.plan[0].reason)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on a process's memory")
def test_where_the_memory_is_too_small_for_all_at_once_the_cut_groups_fit_and_an_uncut_one_is_halved(tmp_path: Path) -> None:
    run = lambda way: subprocess.run([sys.executable, "-c", WIDE, way, tmp_path / way], capture_output=True, text=True)  # noqa: E731
    cut, halved = run("cut"), run("uncut")
    assert cut.returncode == 0, cut.stderr
    assert len(sizes_of(cut.stdout)) > 1 and "{'stacked'} 60 " in cut.stdout and "to fit half of the" in cut.stdout and "more memory" not in cut.stderr
    assert halved.returncode == 0, halved.stderr
    assert "60 stacked need more memory than there is: 30 and 30" in halved.stderr and "{'stacked'} 60 " in halved.stdout
    # The plan that is shown, stored and read again is what ran.
    sizes = sizes_of(halved.stdout)
    assert len(sizes) > 1 and sum(sizes) == 60 and "60 at once needed more memory than there was" in halved.stdout
    (folder,) = (tmp_path / "uncut").iterdir()
    stored = json.loads((folder / "plan.json").read_text())["groups"]
    assert [len(group["jobs"]) for group in stored] == sizes and all("60 at once needed more memory" in group["reason"] for group in stored)
    assert [len(group.jobs) for group in read_sweep(folder).plan] == sizes


def sizes_of(told: str) -> list[int]:
    return json.loads(told[: told.index("]") + 1])


def test_the_bytes_of_a_member_are_counted_while_it_trains() -> None:
    with memory.Allocations(torch.device("cpu")) as seen:
        kept = torch.zeros(1000)
        held = seen.mark()
        torch.zeros(5000).view(50, 100).add_(1).sum()
        kept.add_(1)
    assert held == 4000 and seen.most == 4000 + 20_000 + 4 and seen.mark() == 4000


def test_a_container_and_a_process_leave_less_than_the_machine(tmp_path: Path) -> None:
    assert memory.of_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert memory.of_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory.of_container(tmp_path) == 900
