"""C9, S6: killed with SIGKILL at random moments, over and over, each kind of run ends in the bits of one that was never killed.

A child is forked from this process (so that torch is imported once), trains or resumes, and is killed after a random time; then the next one goes on. Checkpoints
are taken every few steps, so that many kills come while one is written, pruned or renamed. `make test-slow` kills 200 times and more.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import warnings

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep import files
from fivestep.train import checkpoints

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the kills are real, of forked children")


def mlp(bias=True):
    return nn.Sequential(nn.Linear(4, 16, bias=bias), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))


def without_bias():
    """Under Adam the bias before a BatchNorm follows the rounding of a gradient that is 0, and a scan rounds in another order."""
    return mlp(bias=False)


class Counts(nn.Module):
    """A plain attribute that forward changes, and a generator of its own."""

    def __init__(self):
        super().__init__()
        self.body, self.count, self.rng = mlp(), 0, torch.Generator().manual_seed(4)

    def forward(self, x):
        if self.training:
            self.count += 1
            x = x + 0.01 * self.count + 0.01 * torch.randn(x.shape, generator=self.rng)
        return self.body(x)


def cnn():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(4 * 36, 3))


class Pictures(torch.utils.data.Dataset):
    """Turned and made noisy at random, in worker processes."""

    def __init__(self, count=60, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % 3
        self.pictures = torch.randn(count, 1, 8, 8, generator=g) + self.labels[:, None, None, None]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        picture = self.pictures[row] + 0.1 * torch.randn(1, 8, 8)
        return (picture.flip(-1) if random.random() < 0.5 else picture), self.labels[row]


def numbers():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(120, 4, generator=g)
    y = x[:, :1] - 2 * x[:, 1:2] + torch.randn(120, 1, generator=g)
    return fs.Splits((x[:90], y[:90]), val=(x[90:], y[90:]))


def pictures(workers):
    return fs.Splits(fs.Data.dataset(Pictures(), workers=workers), val=fs.Data.dataset(Pictures(18, 1)))


KINDS = {
    "dropout, schedule, accumulation": (mlp, numbers, dict(loss="MSELoss", scheduler="OneCycleLR", part_size=5, optimizer="AdamW", epochs=40, checkpoint=2)),
    "workers and random augmentation": (cnn, lambda: pictures(2), dict(loss="CrossEntropyLoss", optimizer="SGD", lr=0.05, epochs=6, checkpoint=1)),
    "early stopping on a plateau": (mlp, numbers, dict(loss="L1Loss", patience=3, scheduler={"name": "ReduceLROnPlateau", "patience": 0}, lr=0.05, epochs=40, checkpoint=3)),
    "EMA and clipping": (mlp, numbers, dict(loss="MSELoss", average={"name": "EMA", "decay": 0.95}, clip_norm=0.5, optimizer="NAdam", epochs=30, checkpoint=1)),
    "plain attributes": (Counts, numbers, dict(loss="HuberLoss", optimizer="RMSprop", epochs=40, checkpoint=5)),
    "compiled in chunks": (without_bias, numbers, dict(loss="MSELoss", compile="epoch", optimizer="AdamW", scheduler="CosineAnnealingLR", average="EMA", epochs=300, checkpoint=7)),
    "compiled by step": (mlp, numbers, dict(loss="MSELoss", compile="step", optimizer={"name": "SGD", "momentum": 0.9}, clip_norm=0.5, epochs=120, checkpoint=4)),
}  # fmt: skip


def train(kind, folder):
    """In a child: the run from its start, or from where it stands."""
    model, splits, settings = KINDS[kind]
    if (folder / "run" / "checkpoints").is_dir():
        run = fs.resume(folder / "run", splits=splits(), model=model, quiet=True)
    else:
        run = fs.fit(model, splits(), folder=folder, name="run", quiet=True, checks=False, batch_size=15, **settings)
    (folder / "hash").write_text(run.weights_sha256)


def in_child(kind, folder, seconds=None):
    """Whether the child came to its end; False where it was killed after `seconds`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            warnings.simplefilter("ignore")
            torch.set_num_threads(1)
            sys.stderr = open(folder / "stderr", "w")  # noqa: SIM115
            train(kind, folder)
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    until = time.monotonic() + (seconds if seconds is not None else 300)
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0, (folder / "stderr").read_text()
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def newest_step(folder):
    """The step of the newest valid checkpoint; every damaged one would be told here. None where the first is not written yet."""
    parent = folder / "run" / "checkpoints"
    if not parent.is_dir():
        return None
    newest = files.newest_valid(parent, checkpoints.PREFIX, checkpoints.FILES, parse=checkpoints.parsed, set_aside=False)
    assert newest.damaged == ()
    return None if newest.published is None else newest.published.facts["step"]


def killed_again_and_again(kind, folder, kills, seed=0):
    """-> (kills, runs, kills before the first checkpoint, resumes from step 0)."""
    draw = random.Random(seed)
    for name in ("warm", "whole"):
        (folder / name).mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(kind, folder / "warm")  # so that no child spends its life on imports
    began = time.monotonic()
    assert in_child(kind, folder / "whole")
    seconds, whole = time.monotonic() - began, (folder / "whole" / "hash").read_text()
    # A compiled run spends most of its life compiling, each time anew, when there is nothing to lose: most kills come after that.
    compiling = json.loads((folder / "whole" / "run" / "environment.json").read_text()).get("compile", {}).get("seconds", 0.0)
    assert bool(compiling) == ("compile" in KINDS[kind][2])
    done = runs = early = 0
    while done < kills:
        here = folder / str(runs)
        here.mkdir()
        runs, step = runs + 1, None
        while not in_child(kind, here, draw.uniform(0.7 * compiling, compiling + 0.7 * (seconds - compiling)) if done < kills else None):
            done += 1
            now = newest_step(here)
            assert step is None or (now is not None and now >= step), "a run that had a checkpoint went back"
            if now is None:
                early += 1
                shutil.rmtree(here / "run", ignore_errors=True)  # killed before anything was saved: there is nothing to resume
            step = now
        assert (here / "hash").read_text() == whole
        assert not [path for path in here.rglob("*") if ".bad" in path.name or ".tmp-" in path.name]
        assert fs.verify(here / "run") == []
        shutil.rmtree(here)
    return done, runs, early


def test_c9_a_few_random_kills_and_the_bits_are_those_of_the_run_that_was_never_killed(tmp_path):
    done, _, _ = killed_again_and_again("dropout, schedule, accumulation", tmp_path, 4)
    assert done >= 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_c9_s6_two_hundred_random_kills_of_all_kinds_of_runs(kind, tmp_path):
    done, runs, early = killed_again_and_again(kind, tmp_path, int(os.environ.get("FIVESTEP_KILLS", "32")))
    print(f"{kind}: {done} kills in {runs} runs, {early} of them before the first checkpoint; all hashes equal")
    assert done > 2 * early, "too many kills came before there was anything to lose"
