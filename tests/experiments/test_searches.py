"""Search: halving leaves off what is behind, Optuna's studies go on and are shared."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from swept import QUIET, Net

import fivestep as fs


@pytest.mark.parametrize("stack", [True, False])
def test_halving_leaves_off_what_is_behind_and_ends_with_the_best(splits: Any, stack: bool) -> None:
    rates = [0.03, 1e-6, 1e-5, 1e-4, 1e-3, 2e-6]
    found = fs.sweep(Net, splits, {"lr": rates}, search="halving", epochs=9, stack=stack, **QUIET)
    assert found.best_settings == {"lr": 0.03}
    statuses = {found.changes[trial.variant]["lr"]: trial.status for trial in found.trials}
    assert statuses[0.03] == "done" and list(statuses.values()).count("pruned") >= 4
    assert sum(trial.epochs for trial in found.trials) < 6 * 9 / 2
    assert found.comparison["lr=1e-06"].verdict == "pruned"


def test_a_halving_ranks_the_mean_over_seeds() -> None:
    from fivestep.experiments.pruning import Halving

    halving = Halving(epochs=9)
    values = {(0, 0): 0.0, (0, 1): 1.0, (1, 0): 0.3, (1, 1): 0.3, (2, 0): 2.0, (2, 1): 2.0}
    assert halving(1, values) == {(0, 0), (0, 1), (2, 0), (2, 1)} and halving(2, values) == set()


def test_a_halving_that_goes_on_ranks_what_was_not_finite_last() -> None:
    from fivestep.experiments.pruning import Halving

    for higher in (False, True):
        halving = Halving(epochs=9, higher_is_better=higher)
        for variant, score in enumerate((0.5, float("nan"), None)):
            halving.read((variant, 0), {1: score})
        assert halving(1, {(3, 0): 0.9 if higher else 0.1, (0, 0): 0.5}) == {(0, 0)}
        assert halving.seen[1][1] == halving.seen[1][2] == {0: float("inf")}


def test_optuna_proposes_variants_and_an_interrupted_study_goes_on(splits: Any, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    over = {"lr": {"low": 1e-5, "high": 0.1, "log": True}, "model.width": [2, 4]}
    call = lambda trials: fs.sweep(Net, splits, over, search="optuna", trials=trials, storage=tmp_path / "study.log", epochs=3, **QUIET)  # noqa: E731
    first, more = call(3), call(6)
    assert len(first.changes) == 3 and len(more.changes) == 6 and more.changes[:3] == first.changes
    assert [trial.value for trial in more.trials[: len(first.trials)]] == [trial.value for trial in first.trials]
    assert more.best.settings.asked["lr"] == more.best_settings["lr"]


def test_two_processes_work_on_one_study(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    code = """
        import sys, torch, fivestep as fs
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(60, 4, generator=draw)
        splits = fs.Data.arrays(x, x[:, :1]).split()
        found = fs.sweep("linear", splits, {"lr": {"low": 1e-3, "high": 1e-1, "log": True}}, search="optuna", trials=6, storage=sys.argv[1], epochs=2, folder=None,
                         quiet=True, checks=False, device="cpu")
        print(len(found.changes))
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(code))
    command = [sys.executable, tmp_path / "script.py", tmp_path / "study.log"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert all(process.returncode == 0 for process in both), outputs
    assert max(int(out) for out, _ in outputs) in (6, 7)  # both may have asked for the last one at the same moment


@pytest.mark.parametrize("storage", ["in the folder", "database"])
def test_a_study_whose_process_was_killed_goes_on(tmp_path: Path, storage: str) -> None:
    pytest.importorskip("optuna")
    code = """
        import os, signal, sys, torch, fivestep as fs
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(60, 4, generator=draw)
        splits = fs.Data.arrays(x, x[:, :1]).split()
        begun = [0]
        def see(event):
            if type(event).__name__ == "EpochEnded" and event.epoch == 1:
                begun[0] += 1
                if begun[0] == int(sys.argv[1]):
                    os.kill(os.getpid(), signal.SIGKILL)
        found = fs.sweep("linear", splits, {"lr": {"low": 1e-3, "high": 1e-1, "log": True}}, search="optuna", trials=4, epochs=2, quiet=True, checks=False,
                         device="cpu", observers=[see], folder="runs", storage=STORAGE)
        print(begun[0], *[f"{change['lr']}={trial.value}" for change, trial in zip(found.changes, found.trials)])
    """
    place = {"in the folder": "None", "database": "'sqlite:///study.db'"}[storage]
    (tmp_path / "script.py").write_text(textwrap.dedent(code).replace("STORAGE", place))
    run = lambda at: subprocess.run([sys.executable, "script.py", str(at)], cwd=tmp_path, capture_output=True, text=True, timeout=300)  # noqa: E731
    assert run(3).returncode == -9  # inside the third training
    again = run(0)
    assert again.returncode == 0, again.stderr
    trained, *told = again.stdout.split()
    assert int(trained) == 2 and len(told) == 4  # two had ended and are kept, two are trained
