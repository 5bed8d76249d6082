"""Promise: killed anywhere and resumed, a run ends in the same bits as one that was never killed (RELIABILITY S1 to S7)."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

import fivestep as fs

ROWS, BATCH, EPOCHS = 57, 8, 4  # 6 steps an epoch of 45 training rows, the last of 5 rows
SRC = str(Path(fs.__file__).parents[1])


class Killed(BaseException):
    pass


class Killer(nn.Module):
    """Not part of the model: counts training forwards over all runs of a process, and dies in the one that was asked for."""

    at: int | None = None
    count = 0

    @classmethod
    def arm(cls, at):
        cls.at, cls.count = at, 0

    def forward(self, x):
        if self.training:
            Killer.count += 1
            if Killer.count == Killer.at:
                raise Killed
        return x


class Net(nn.Module):
    """Dropout, BatchNorm, a buffer that no state_dict holds, and draws from Python's and numpy's global generators."""

    def __init__(self, width=7):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 1))
        self.killer = Killer()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.killer(x)
        if self.training:
            self.seen += 0.01
            x = x + 0.01 * random.random() + 0.01 * numpy.random.rand()
        return self.body(x) + self.seen.detach()


def arrays(n=ROWS, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=g)
    return x, (x @ torch.tensor([[1.0], [-2.0], [0.5]])) + 0.1 * torch.randn(n, 1, generator=g)


def tensors_splits():
    x, y = arrays()
    return fs.Splits((x[:45], y[:45]), val=(x[45:], y[45:]))


class Noisy(torch.utils.data.Dataset):
    """Augments at random from the global generators, as many Datasets do."""

    def __init__(self, n=45, seed=1):
        self.x, self.y = arrays(n, seed)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row] + 0.1 * torch.randn(3) + 0.1 * float(numpy.random.rand()), self.y[row]


def loader_splits(workers=0):
    return fs.Splits(fs.Data.dataset(Noisy(), workers=workers), val=fs.Data.dataset(Noisy(12, 2)))


def noisy_loss(model, x, y):
    """A loss that draws, as a diffusion model's does."""
    return (model(x + 0.1 * torch.randn_like(x)) - y[0]).square().mean()


def own_step(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = noisy_loss(model, x, y)
    loss.backward()
    optimizer.step()
    return {"loss": loss}


CASES = {
    "dropout, schedule, parts": dict(scheduler="OneCycleLR", part_size=3, optimizer={"name": "SGD", "momentum": 0.9}),
    "early stopping, plateau": dict(patience=1, scheduler={"name": "ReduceLROnPlateau", "patience": 0}, lr=0.5, epochs=12),
    "EMA": dict(average={"name": "EMA", "decay": 0.9}, optimizer="AdamW"),
    "SWA, last": dict(average={"name": "SWA", "start": 0.5}, keep="last", validate_every=2),
    "NAdam, clipped": dict(optimizer="NAdam", clip_norm=0.1, scheduler="CosineAnnealingLR"),
    "LBFGS": dict(optimizer="LBFGS", batch_size="all"),
    "own batches": dict(batches=lambda epoch, g: [torch.randperm(45, generator=g)[:9] + 0 * int(torch.randint(5, ())) for _ in range(5)]),
    "augmented": dict(augment=lambda x, g: x + 0.1 * torch.randn(x.shape, generator=g)),
    "autocast": dict(precision="bf16", optimizer="AdamW"),
    "compute": dict(compute=noisy_loss, loss="auto"),
    "step": dict(step=own_step, loss="auto", validate_every=None),
}
SETTINGS = dict(loss="MSELoss", lr=0.05, epochs=EPOCHS, batch_size=BATCH, quiet=True, checks=False)


def fit(folder, splits, **settings):
    return fs.fit(Net, splits, folder=folder, name="run", **(SETTINGS | settings))


def killed_and_resumed(folder, splits, at, *, kills=(), **settings):
    """Fit, die in the `at`-th training forward, resume (and die again at each of `kills`)."""
    objects = {key: settings[key] for key in ("batches", "augment", "compute", "step") if key in settings}
    Killer.arm(at)
    try:
        run = fit(folder, splits, **settings)
    except Killed:
        run = None
    for again in (*kills, None):
        if run is None:
            Killer.arm(again)
            try:
                run = fs.resume(folder / "run", splits=splits, quiet=True, **objects)
            except Killed:
                run = None
    Killer.arm(None)
    return run


def rows_of(run):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.history]


def check_equal(run, whole):
    assert run.weights_sha256 == whole.weights_sha256
    assert rows_of(run) == rows_of(whole)
    lines = (run.folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [row["epoch"] for row in whole.history]  # S7


@pytest.mark.parametrize("case", CASES)
def test_s6_killed_at_any_step_and_resumed_is_never_killed(case, tmp_path):
    settings = CASES[case]
    splits = tensors_splits()
    Killer.arm(None)
    whole = fit(tmp_path / "whole", splits, checkpoint=None, **settings)
    forwards = Killer.count
    Killer.arm(10**9)
    fit(tmp_path / "counted", splits, checkpoint=None, **settings)
    forwards = Killer.count
    parts = 3 if "part_size" in settings else 1
    edges = {1, 2, 5, 6, 7, 8, 12, 13, 14, forwards // parts - 1, forwards // parts}
    for number, at in enumerate(sorted(edge * parts for edge in edges if 0 < edge * parts <= forwards)):
        checkpoint = ("epoch", 1, 4)[number % 3]
        run = killed_and_resumed(tmp_path / str(number), splits, at, kills=(3 * parts,), checkpoint=checkpoint, **settings)
        check_equal(run, whole)


def test_s6_a_dataset_with_random_augmentation_resumes_to_the_bit(tmp_path):
    splits = loader_splits()
    Killer.arm(None)
    whole = fit(tmp_path / "whole", splits, checkpoint=None)
    for at in (1, 3, 6, 7, 8, 20):
        check_equal(killed_and_resumed(tmp_path / str(at), splits, at, checkpoint=2), whole)


def test_s6_killed_with_workers_and_resumed_with_another_number_of_them(tmp_path):
    Killer.arm(None)
    whole = fit(tmp_path / "whole", loader_splits(), checkpoint=None)
    Killer.arm(9)
    with pytest.raises(Killed):
        fit(tmp_path / "cut", loader_splits(workers=2), checkpoint=2)
    for workers in (1, 2):
        shutil.copytree(tmp_path / "cut", tmp_path / str(workers))
        Killer.arm(None)
        check_equal(fs.resume(tmp_path / str(workers) / "run", splits=loader_splits(workers), quiet=True), whole)


class Draws(nn.Module):
    """Draws in evaluation too, from all global generators."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.3), nn.Linear(5, 1))

    def forward(self, x):
        if not self.training:
            torch.randn(2), numpy.random.rand(), random.random()
        return self.body(x)


def test_s5_evaluation_does_not_move_the_training(tmp_path):
    """However often it is made, and whatever the model draws in it: on the validation rows, on none, and by an observer after every step."""
    x, y = arrays()
    given = SETTINGS | dict(keep="last", folder=None)
    looked = fs.fit(Draws, tensors_splits(), **given)
    seldom = fs.fit(Draws, tensors_splits(), **given | dict(validate_every=EPOCHS))
    never = fs.fit(Draws, fs.Splits((x[:45], y[:45])), **given)
    assert looked.weights_sha256 == seldom.weights_sha256 == never.weights_sha256


def test_s1_made_longer_equals_longer_from_the_start(tmp_path):
    splits = tensors_splits()
    Killer.arm(None)
    whole = fit(tmp_path / "whole", splits, epochs=7)
    fit(tmp_path / "short", splits, epochs=3)
    check_equal(fs.resume(tmp_path / "short" / "run", epochs=7, splits=splits, quiet=True), whole)
    assert fs.verify(tmp_path / "short" / "run") == []


def test_s4_a_finished_run_stays_as_it_is(tmp_path, capsys):
    splits = tensors_splits()
    run = fit(tmp_path, splits)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in run.folder.rglob("*") if path.is_file() and path.name != ".lock"}
    again = fs.resume(run.folder, splits=splits, quiet=True)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in run.folder.rglob("*") if path.is_file() and path.name != ".lock"} == before
    check_equal(again, run)
    assert "has finished" in capsys.readouterr().err


def test_s5_the_users_streams_are_given_back(tmp_path):
    splits = tensors_splits()
    run = fit(tmp_path, splits)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fs.resume(run.folder, epochs=6, splits=splits, quiet=True)
    assert torch.equal(before, torch.get_rng_state())


class Stops(nn.Module):
    """Sends its own process a signal in the `at`-th forward of validation (4 batches of 64 rows each time; one forward before the run)."""

    at, seen = 0, 0

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, 1))

    def forward(self, x):
        if not self.training:
            Stops.seen += 1
            if Stops.seen == Stops.at:
                os.kill(os.getpid(), signal.SIGTERM)
        return self.body(x)


@pytest.mark.parametrize(
    "settings", [dict(average="SWA", keep="last"), dict(patience=1, lr=0.5), dict(scheduler={"name": "ReduceLROnPlateau", "patience": 0})], ids=str
)
def test_p2_a_signal_in_validation_leaves_it_off_and_resume_makes_it(settings, tmp_path):
    splits = fs.Splits(fs.Data.dataset(Noisy()), val=fs.Data.dataset(Noisy(250, 2)))
    given = SETTINGS | dict(checkpoint="epoch", epochs=3) | settings
    Stops.at, Stops.seen = 0, 0
    whole = fs.fit(Stops, splits, folder=tmp_path, name="whole", **given)
    for at in sorted({2, 3, 4, 6, 7, 4 * len(whole.history), 4 * len(whole.history) + 1}):
        Stops.at, Stops.seen = at, 0
        name = f"run-{at}"
        with pytest.raises(fs.Interrupted) as stopped:
            fs.fit(Stops, splits, folder=tmp_path, name=name, **given)
        assert stopped.value.exit_code == 143
        assert ("Training is done" in str(stopped.value)) == (at % 4 == 1)  # after the last batch of the last validation it is complete
        Stops.at = 0
        history = (tmp_path / name / "history.jsonl").read_text().splitlines() if (tmp_path / name / "history.jsonl").exists() else []
        assert len(history) == (at - 2) // 4 + (at % 4 == 1)
        run = fs.resume(tmp_path / name, splits=splits, quiet=True)
        check_equal(run, whole)
        fs.resume(tmp_path / name, splits=splits, quiet=True)


# -- real processes, killed for real -----------------------------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys
import torch
from torch import nn
import fivestep as fs
torch.set_num_threads(1)
what, folder, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
COUNT = VALIDATED = 0
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Dropout(0.3), nn.Linear(7, 1))
    def forward(self, x):
        global COUNT, VALIDATED
        VALIDATED += not self.training and what.endswith("in validation")
        COUNT += self.training
        if self.training or VALIDATED:
            if (COUNT if not VALIDATED else VALIDATED) == at and what != "resume":
                os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[what.split()[0]])
        return self.body(x)
splits = fs.Data.table("data.csv", target="y").split()
if __name__ == "__main__":
    try:
        if what == "resume":
            run = fs.resume(folder, model=Net, quiet=True)
        else:
            run = fs.fit(Net, splits, loss="MSELoss", lr=0.05, epochs=4, batch_size=8, quiet=True, checks=False, checkpoint=3, folder=".", name=folder)
        print(run.weights_sha256)
    except fs.Interrupted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(textwrap.dedent(SCRIPT))
    x, y = arrays(80)
    lines = ["a,b,c,y", *(",".join(f"{value:.6f}" for value in (*row, target)) for row, (target,) in zip(x.tolist(), y.tolist()))]
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return folder


def script(workplace, what, folder, at=0):
    environment = os.environ | {"PYTHONPATH": SRC, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "script.py", what, folder, str(at)], cwd=workplace, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "what,at,code",
    [("kill", 10, -9), ("kill", 7, -9), ("term", 9, 143), ("term", 7, 143), ("int", 14, 130), ("term", 28, 143), ("term in validation", 2, 143)],
)  # fmt: skip
def test_p2_a_killed_process_is_resumed_by_another(workplace, what, at, code):
    name = f"{what}-{at}".replace(" ", "-")
    whole = script(workplace, "kill", f"whole-{name}")
    assert whole.returncode == 0, whole.stderr
    dead = script(workplace, what, f"run-{name}", at)
    assert dead.returncode == code, dead.stderr
    if code in (130, 143):
        assert f"fivestep resume run-{name}" in dead.stderr and f"step {7 * (at - 1) if 'validation' in what else at} " in dead.stderr
    resumed = script(workplace, "resume", f"run-{name}")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == whole.stdout
    assert "has finished" in script(workplace, "resume", f"run-{name}").stderr


def test_the_shell_resumes_a_table(workplace):
    shell = [sys.executable, "-m", "fivestep"]
    environment = os.environ | {"PYTHONPATH": SRC, "OMP_NUM_THREADS": "1"}

    def call(*words):
        return subprocess.run([*shell, *words, "--json", "--quiet"], cwd=workplace, env=environment, capture_output=True, text=True, timeout=120)

    long = call("fit", "data.csv", "--target", "y", "--epochs", "6", "--name", "long")
    short = call("fit", "data.csv", "--target", "y", "--epochs", "2", "--name", "short")
    assert long.returncode == short.returncode == 0, long.stderr + short.stderr
    grown = call("resume", "runs/short", "--epochs", "6")
    assert grown.returncode == 0, grown.stderr
    assert json.loads(grown.stdout)["weights_sha256"] == json.loads(long.stdout)["weights_sha256"]
    again = call("resume", "runs/short")
    assert again.returncode == 0 and "has finished" in again.stderr
    assert call("resume", "runs/none").returncode == 66


def test_p1_a_second_process_is_refused(tmp_path):
    from fivestep.locks import Lock

    splits = tensors_splits()
    run = fit(tmp_path, splits)
    with Lock(run.folder), pytest.raises(fs.LockedError):
        fs.resume(run.folder, splits=splits, quiet=True)


def test_a_signal_handler_of_the_user_is_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    fit(tmp_path, tensors_splits())
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
