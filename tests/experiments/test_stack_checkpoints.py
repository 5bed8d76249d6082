"""A group that is killed while it trains stacked goes on from its last checkpoint, and the sweep ends in the same bits as one that was never killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
    import os, signal, sys, torch, fivestep as fs
    from fivestep.experiments import folders
    from torch import nn

    folder, kill_at, kill_when_kept, how = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(90, 4, generator=draw)
    splits = fs.Data.arrays(x, x[:, :1].sin() + 0.1 * torch.randn(90, 1, generator=draw)).split()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 1))

        def forward(self, x):
            return self.layers(x)

    epochs = [0]
    def see(event):
        if type(event).__name__ == "RunEnded":
            print("observer told:", event.status, file=sys.stderr)
        if type(event).__name__ == "EpochEnded":
            epochs[0] += 1
            if epochs[0] == kill_at:
                os.kill(os.getpid(), getattr(signal, how))

    kept, keep_trial = [0], folders.keep_trial
    def keep(*given):
        keep_trial(*given)
        kept[0] += 1
        if kept[0] == kill_when_kept:
            os.kill(os.getpid(), signal.SIGKILL)
    folders.keep_trial = keep

    settings = {
        "stopping": dict(over={"lr": [0.0, 1e-9, 0.01, 0.1], "patience": [2]}, optimizer="AdamW", scheduler={"name": "StepLR", "step_size": 4}, epochs=12),
        "halving": dict(over={"lr": [0.1, 0.03, 1e-6, 1e-5, 1e-4, 1e-7]}, optimizer={"name": "SGD", "momentum": 0.9}, search="halving", epochs=9),
        "past its best": dict(over={"lr": [0.3, 1.0, 2.0]}, optimizer="AdamW", patience=None, epochs=12),
    }[sys.argv[5]]
    found = fs.sweep(Net, splits, folder=folder, quiet=False, observers=[see], checkpoint="epoch", device="cpu", stack=True, checks=False, batch_size=16, **settings)
    print([(trial.status, trial.epochs, trial.value, trial.weights_sha256, trial.how) for trial in found.trials])
"""


def swept(script: Path, folder: Path, kind: str, *, kill_at: int = -1, kept: int = -1, how: str = "SIGKILL") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, script, folder, str(kill_at), str(kept), how, kind]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def straight(script: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    done = {kind: swept(script, tmp_path_factory.mktemp("straight"), kind) for kind in ("stopping", "halving", "past its best")}
    assert all(one.returncode == 0 for one in done.values()), done
    return {kind: one.stdout for kind, one in done.items()}


# "stopping": two of four stop after epoch 3 and the stack is cut, so an epoch is 4 events until then and 2 after. "halving": six members, four leave after epoch 1.
# "past its best": the best weights are those of an epoch long before the kill.
@pytest.mark.parametrize(
    ("kind", "kill_at", "kept", "epoch"),
    [("stopping", 7, -1, 1), ("stopping", 17, -1, 5), ("halving", 9, -1, 2), ("past its best", 31, -1, 10), ("stopping", -1, 2, 11)],
)
def test_a_sweep_killed_while_stacked_loses_at_most_the_interval_and_ends_in_the_same_bits(
    script: Path, straight: dict[str, str], tmp_path: Path, kind: str, kill_at: int, kept: int, epoch: int
) -> None:
    killed = swept(script, tmp_path, kind, kill_at=kill_at, kept=kept)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = swept(script, tmp_path, kind)
    assert again.returncode == 0, again.stderr
    assert f"go on after epoch {epoch}" in again.stderr
    assert again.stdout == straight[kind] and "stacked" in again.stdout
    assert len(list(tmp_path.glob("sweep-*"))) == 1 and not any((next(tmp_path.glob("sweep-*")) / "stacks").iterdir())


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_stack_at_the_edge_of_its_epoch_and_the_same_call_goes_on(script: Path, straight: dict[str, str], tmp_path: Path, how: str) -> None:
    stopped = swept(script, tmp_path, "stopping", kill_at=6, how=how)
    assert stopped.returncode == 1 and f"Stopped by {how}. The stacked trainings are saved after epoch 2. 0 of 4 trainings have ended" in stopped.stderr
    assert stopped.stderr.count("observer told: stopped") == 4
    again = swept(script, tmp_path, "stopping")
    assert again.returncode == 0 and again.stdout == straight["stopping"]


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(script: Path, straight: dict[str, str], tmp_path: Path) -> None:
    swept(script, tmp_path, "stopping", kill_at=14)
    *_, newest = sorted(next(tmp_path.glob("sweep-*/stacks/*")).glob("epoch-*"))
    weights = newest / "state.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    again = swept(script, tmp_path, "stopping")
    assert again.returncode == 0 and "is damaged and was passed over" in again.stderr and again.stdout == straight["stopping"]
