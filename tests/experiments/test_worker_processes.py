"""A sweep in worker processes that is killed or stopped in the middle: what the user is told, no process is left, and the same call ends in the same table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="signals, and processes as Linux shows them")

# In the second epoch every process tells its number and waits while there is a file "hold": all of them are in the middle of a training when a signal comes.
SCRIPT = """
    import os, sys, time, torch, fivestep as fs
    from pathlib import Path
    from torch import nn

    folder, workers, held = Path(sys.argv[1]), int(sys.argv[2]), False

    class Net(nn.Module):
        def __init__(self, num_inputs, width):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(num_inputs, width), nn.Tanh(), nn.Linear(width, 1))

        def forward(self, x):
            return self.layers(x)

    def see(event):
        global held
        if type(event).__name__ == "EpochEnded" and event.epoch == 2:
            (folder / f"process-{os.getpid()}").touch()
            while (folder / "hold").exists():
                held = True
                time.sleep(0.01)
        if held:
            time.sleep(0.05)  # so that what a signal is to end would take long without it

    if __name__ == "__main__":
        x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
        splits = fs.Data.arrays(x, x[:, :1]).split()
        found = fs.sweep(Net, splits, {"lr": [0.001, 0.01], "model.width": [3, 4]}, epochs=50, stack=False, workers=workers, folder=folder / "runs", observers=[see],
                         patience=None, device="cpu", checks=False)
        print([(trial.value, trial.weights_sha256) for trial in found.trials])
"""


@pytest.fixture(scope="module")
def straight(script: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return swept(script, tmp_path_factory.mktemp("straight"), workers=1).stdout


def swept(script: Path, folder: Path, workers: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, script, folder, str(workers)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def living(session: int) -> set[int]:
    """The processes of a session that run."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended
        if int(fields[3]) == session and fields[0] != "Z":
            found.add(int(path.parent.name))
    return found


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def struck(script: Path, folder: Path, strike: Callable[[int, int], None]) -> tuple[int, str]:
    """A sweep with two processes; `strike(parent, worker)` comes while both are in the second epoch of a training. -> (exit status, what was told), when all have ended."""
    (folder / "hold").touch()
    parent = subprocess.Popen([sys.executable, script, folder, "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until(lambda: len(list(folder.glob("process-*"))) == 2 or parent.poll() is not None)
        (worker,) = {int(path.name.split("-")[1]) for path in folder.glob("process-*")} - {parent.pid}
        strike(parent.pid, worker)
        time.sleep(0.1)  # the signal has arrived
        (folder / "hold").unlink()
        _, told = parent.communicate(timeout=120)
        wait_until(lambda: not living(parent.pid), seconds=30)
        return parent.returncode, told
    finally:
        for left in living(parent.pid):
            os.kill(left, signal.SIGKILL)


def test_a_killed_worker_ends_the_sweep_with_its_reason_and_the_same_call_goes_on(script: Path, straight: str, tmp_path: Path) -> None:
    status, told = struck(script, tmp_path, lambda parent, worker: os.kill(worker, signal.SIGKILL))
    assert status == 1 and "TrainingError: A worker process died." in told and "the same call with a folder goes on" in told
    (folder,) = (tmp_path / "runs").iterdir()
    kept = len(list((folder / "trials").iterdir()))
    assert kept >= 1  # what this process had trained meanwhile
    again = swept(script, tmp_path, workers=2)
    assert again.stdout == straight and f"{kept} of 4 trainings have ended before" in again.stderr
    assert list((tmp_path / "runs").iterdir()) == [folder]


@pytest.mark.parametrize(("how", "whom"), [("SIGTERM", "the parent"), ("SIGINT", "all, as a terminal's Ctrl-C")])
def test_a_stopped_sweep_leaves_no_process_and_goes_on_in_the_middle_of_its_trainings(script: Path, straight: str, tmp_path: Path, how: str, whom: str) -> None:
    number = getattr(signal, how)
    status, told = struck(script, tmp_path, lambda parent, worker: os.kill(parent, number) if whom == "the parent" else os.killpg(parent, number))
    assert status == 1 and told.count("Stopping after this step") == 1
    assert f"Stopped by {how}" in told and "of 4 trainings have ended and are kept in" in told and "the same call goes on from there" in told
    (folder,) = (tmp_path / "runs").iterdir()
    begun = [path for path in folder.glob("v*") if any(path.glob("checkpoints/*"))]
    assert len(begun) == 2 and not any((path / "model.fivestep").exists() for path in begun)  # that of the worker too was stopped and saved
    again = swept(script, tmp_path, workers=1)
    assert again.stdout == straight and list((tmp_path / "runs").iterdir()) == [folder]


def test_the_workers_of_a_killed_sweep_end_with_it(script: Path, straight: str, tmp_path: Path) -> None:
    status, _ = struck(script, tmp_path, lambda parent, worker: os.kill(parent, signal.SIGKILL))
    assert status == -signal.SIGKILL
    assert swept(script, tmp_path, workers=1).stdout == straight
