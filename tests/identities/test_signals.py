"""P2: SIGTERM and SIGINT at any time end a run with 143 or 130 and a sentence that says what stands; never with 0, never with a traceback; a second one at once.

Real processes. The script sends the signals to itself, so that each comes at the moment it is meant for.
"""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fivestep as fs

SRC = str(Path(fs.__file__).parents[1])
pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX signals")

SCRIPT = """
import os, signal, sys, time
import torch
from torch import nn
import fivestep as fs
from fivestep.train.events import EpochEnded, RunEnded
torch.set_num_threads(1)
where, number, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
STEPS = 0
def send(times=1):
    for _ in range(times):
        os.kill(os.getpid(), number)
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, row):
        if where == "reading":
            send()
        return torch.full((3,), row / 40) + torch.randn(3), torch.ones(1)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.2), nn.Linear(5, 1))
        if where == "building":
            send()
    def forward(self, x):
        global STEPS
        STEPS += self.training
        if where == "validation" and STEPS >= 5 and not self.training:
            send()
        if self.training and STEPS == 7 and where in ("step", "without checkpoints"):
            send()
        if self.training and STEPS == 7 and where == "twice":
            send(2)
            print("still here", flush=True)
        if self.training and STEPS == 7 and where == "group":
            os.killpg(0, number)
        if where == "finish" and ENDED and not self.training:
            send()
        return self.body(x)
ENDED = False
def see(event):
    global ENDED
    ENDED = isinstance(event, RunEnded)
    if where == "last epoch" and isinstance(event, EpochEnded) and event.epoch == 3:
        send()
# The file that is being written when the signal comes.
WRITING = {"first checkpoint": ("step-000000000000", "state.json"), "saving a checkpoint": ("step-000000000004", "state.json"),
           "saving the model": ("model.fivestep", "weights.safetensors"), "settings": ("settings.json",)}
if where in WRITING:
    plain_open, sent = os.open, []
    def opened(path, *rest, **more):
        descriptor = plain_open(path, *rest, **more)
        if all(part in str(path) for part in WRITING[where]) and rest[0] & os.O_CREAT and not sent:
            sent.append(path)
            send()
        return descriptor
    os.open = opened
splits = lambda: fs.Splits(fs.Data.dataset(Data(), workers=2 if where == "group" else 0), val=fs.Data.dataset(Data()))
if __name__ == "__main__":
    try:
        if where == "resume":
            run = fs.resume(folder, splits=splits(), model=Net, quiet=True)
        else:
            checkpoint = None if where == "without checkpoints" else 4 if where == "saving a checkpoint" else 100
            run = fs.fit(Net, splits(), loss="MSELoss", lr=0.05, epochs=3, batch_size=8, quiet=True, checks=False, checkpoint=checkpoint, folder=".",
                         name=folder, observers=[see])
        print(run.weights_sha256)
    except fs.Interrupted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    (folder / "script.py").write_text(textwrap.dedent(SCRIPT))
    (folder / "data.csv").write_text("a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 3}.5\n" for i in range(60)))
    whole = run_script(folder, "whole", signal.SIGTERM, "whole")
    assert whole.returncode == 0, whole.stderr
    (folder / "hash").write_text(whole.stdout)
    return folder


def ignoring_sigint():
    """As a shell starts a job in the background: `nohup command &`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_script(workplace, where, number, folder, ignored=False):
    environment = os.environ | {"PYTHONPATH": SRC, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "script.py", where, str(int(number)), folder], cwd=workplace, env=environment, capture_output=True, text=True, timeout=240,
        preexec_fn=ignoring_sigint if ignored else None, start_new_session=True,
    )  # fmt: skip


CASES = [
    ("reading", signal.SIGTERM, False, "before the first step"),
    ("building", signal.SIGINT, True, "before the first step"),
    ("step", signal.SIGINT, True, "after step 7"),
    ("group", signal.SIGTERM, False, "after step 7"),
    ("group", signal.SIGINT, False, "after step 7"),
    ("finish", signal.SIGTERM, False, "Training is done, its scores and model are not saved yet"),
    ("last epoch", signal.SIGINT, False, "Training is done, its scores and model are not saved yet"),
    ("settings", signal.SIGTERM, False, "before the first step"),
    ("first checkpoint", signal.SIGINT, False, "before its first checkpoint was whole"),
    ("saving a checkpoint", signal.SIGTERM, False, "after step 5"),
    ("validation", signal.SIGINT, False, "after step 5"),
    ("saving the model", signal.SIGINT, False, "Training is done, its scores and model are not saved yet"),
    ("without checkpoints", signal.SIGTERM, False, "checkpoint=None"),
]


@pytest.mark.parametrize("where,number,ignored,said", CASES, ids=lambda value: str(value)[:20])
def test_p2_a_signal_at_any_time_is_told_and_nothing_is_lost(workplace, where, number, ignored, said):
    name = f"{where}-{int(number)}".replace(" ", "-")
    stopped = run_script(workplace, where, number, name, ignored)
    assert stopped.returncode == 128 + number, stopped.stderr
    assert said in stopped.stderr and signal.Signals(number).name in stopped.stderr and "Traceback" not in stopped.stderr
    assert stopped.stdout == "" and not (workplace / name / "model.fivestep").exists()
    if where in ("step", "group", "finish", "last epoch", "saving a checkpoint", "validation", "saving the model"):
        assert f"fivestep resume {name}" in stopped.stderr
        resumed = run_script(workplace, "resume", number, name)
        assert resumed.returncode == 0 and resumed.stdout == (workplace / "hash").read_text(), resumed.stderr
    elif where in ("first checkpoint", "settings"):
        assert "Start it again" in stopped.stderr
        again = run_script(workplace, "whole", number, f"{name}-again")
        assert again.returncode == 0 and again.stdout == (workplace / "hash").read_text(), again.stderr
    assert not [path for path in workplace.rglob("*") if ".tmp-" in path.name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_p2_a_second_signal_quits_at_once(workplace, number):
    name = f"twice-{int(number)}"
    killed = run_script(workplace, "twice", number, name)
    assert killed.returncode == -number and "still here" not in killed.stdout
    resumed = run_script(workplace, "resume", number, name)
    assert resumed.returncode == 0 and resumed.stdout == (workplace / "hash").read_text()


NET = """
import os, signal, torch
plain_open = os.open
def opened(path, *rest, **more):
    if os.environ.get("WHERE") == "reporting" and "report.html" in str(path):
        os.environ["WHERE"] = ""
        os.kill(os.getpid(), signal.SIGTERM)
    return plain_open(path, *rest, **more)
os.open = opened
class Net(torch.nn.Module):
    def __init__(self, num_inputs):
        super().__init__()
        self.body = torch.nn.Linear(num_inputs, 1)
        if os.environ.get("WHERE") == "building":
            os.kill(os.getpid(), signal.SIGINT)
    def forward(self, x):
        if os.environ.get("WHERE") == "predicting" and not self.training:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.body(x)
"""


def test_p2_p3_the_shell_ends_with_the_signals_code_and_without_a_traceback(workplace):
    (workplace / "net.py").write_text(textwrap.dedent(NET))

    def shell(where, *words):
        environment = os.environ | {"PYTHONPATH": SRC, "OMP_NUM_THREADS": "1", "WHERE": where}
        return subprocess.run(
            [sys.executable, "-m", "fivestep", *words], cwd=workplace, env=environment, capture_output=True, text=True, preexec_fn=ignoring_sigint, timeout=240
        )

    fit = ("fit", "data.csv", "--target", "y", "--model", "net.py:Net", "--epochs", "2", "--quiet")
    stopped = shell("building", *fit, "--name", "one")
    assert stopped.returncode == 130 and "before the first step" in stopped.stderr and "Traceback" not in stopped.stderr
    assert shell("", *fit, "--name", "two").returncode == 0
    stopped = shell("predicting", "predict", "runs/two", "data.csv", "--model", "net.py:Net", "-o", "out.csv")
    assert stopped.returncode == 143 and "SIGTERM" in stopped.stderr and "Traceback" not in stopped.stderr
    assert not [path for path in workplace.iterdir() if path.name.startswith("out.csv")]
    stopped = shell("predicting", "evaluate", "runs/two", "--split", "val", "--model", "net.py:Net")
    assert stopped.returncode == 143 and "SIGTERM" in stopped.stderr and "Traceback" not in stopped.stderr
    before = sorted((workplace / "runs/two").rglob("*"))
    stopped = shell("reporting", "report", "runs/two", "--model", "net.py:Net")
    assert stopped.returncode == 143 and "SIGTERM" in stopped.stderr and "Traceback" not in stopped.stderr
    assert sorted((workplace / "runs/two").rglob("*")) == before
    stopped = shell("reporting", *fit, "--name", "three")  # all is saved by then but the report
    assert stopped.returncode == 143 and "SIGTERM after training was done" in stopped.stderr and "fivestep resume runs/three makes them" in stopped.stderr
    assert (workplace / "runs/three/model.fivestep").exists() and not (workplace / "runs/three/report.html").exists()
    assert shell("", "resume", "runs/three", "--model", "net.py:Net").returncode == 0 and (workplace / "runs/three/report.html").exists()
