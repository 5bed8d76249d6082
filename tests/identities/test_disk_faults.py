"""C7, C8, C9: the disk fails (full, failing) or the process is killed at the i-th call that touches it, for every i of a whole run: checkpoints, history, model.

After each: one typed error with exit code 74 and a line that says path, cause, bytes needed and free; nothing half written; the newest checkpoint is valid; and the
run, resumed on a disk that works again, ends in the bits of one that met no fault.
"""

import errno
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep import files
from fivestep.train import checkpoints

SRC = str(Path(fs.__file__).parents[1])


def net():
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, 1))


def splits():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=g), torch.randn(40, 1, generator=g)
    return fs.Splits((x[:30], y[:30]), val=(x[30:], y[30:]))


SETTINGS = dict(loss="MSELoss", lr=0.01, epochs=2, batch_size=10, quiet=True, checks=False, checkpoint=2, keep_checkpoints=2)


def fit(folder):
    return fs.fit(net, splits(), folder=folder, name="run", **SETTINGS)


class Fails:
    """Stands for `files._io`: the `at`-th call fails as a full disk does, `all_after` that every one."""

    def __init__(self, at, code, all_after=False):
        self.at, self.code, self.all_after, self.count, self.met = at, code, all_after, 0, False

    def __call__(self, call, *arguments, **named):
        self.count += 1
        if self.count == self.at or (self.all_after and self.count > self.at):
            self.met = True
            if call is os.close:
                call(*arguments)
            raise OSError(self.code, os.strerror(self.code))
        return call(*arguments, **named)


def failed_at(folder, at, code, all_after, monkeypatch, whole):
    """Whether the run was hit at its `at`-th call; all that must hold afterwards is asserted."""
    fault = Fails(at, code, all_after)
    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched.setattr(files, "_io", fault)
        try:
            run = fit(folder)
        except fs.StorageError as error:
            run, message = None, str(error)
            assert error.exit_code == 74 and error.errno == code and "\n" not in message, message
            assert str(folder) in message and os.strerror(code) in message
            assert re.search(r"bytes needed, [\d,]+ free|cannot remove", message), message
    if run is not None:
        # A file that could not be removed after all was saved is no failure of the run.
        assert run.weights_sha256 == whole and (not fault.met or fs.verify(run.folder) == [])
        return fault.met
    run = folder / "run"
    newest = files.newest_valid(run / "checkpoints", checkpoints.PREFIX, checkpoints.FILES, parse=checkpoints.parsed, set_aside=False)
    assert newest.damaged == ()
    left = [path for path in folder.rglob("*") if ".tmp-" in path.name]
    assert all_after or "cannot remove" in message or not left, "the temporary folder is still there"
    if newest.published is None:
        shutil.rmtree(run, ignore_errors=True)  # before its first checkpoint: nothing can be resumed, nothing was lost
        assert fit(folder).weights_sha256 == whole
    else:
        assert fs.resume(run, splits=splits(), model=net, quiet=True).weights_sha256 == whole
    assert [finding for finding in fs.verify(run) if finding.severity == "error"] == []
    assert not [path for path in run.rglob("*") if ".tmp-" in path.name or ".bad" in path.name]
    return True


def at_every_call(tmp_path, monkeypatch, code, all_after, every):
    whole, at, hits = fit(tmp_path / "whole").weights_sha256, 1, 0
    while failed_at(tmp_path / str(at), at, code, all_after, monkeypatch, whole):
        shutil.rmtree(tmp_path / str(at))
        at, hits = at + every, hits + 1
    return hits


def test_c7_c8_c9_the_disk_fails_at_some_calls_of_a_run(tmp_path, monkeypatch):
    assert at_every_call(tmp_path, monkeypatch, errno.ENOSPC, False, 9) > 10


@pytest.mark.slow
@pytest.mark.parametrize("all_after", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_c7_c8_c9_the_disk_fails_at_every_call_of_a_run(tmp_path, monkeypatch, code, all_after):
    hits = at_every_call(tmp_path, monkeypatch, code, all_after, 1)
    print(f"{os.strerror(code)} at each of {hits} calls{' and all after' if all_after else ''}: every run went on to the same bits")
    assert hits > 100


def test_c7_there_must_be_room_for_the_checkpoints_to_come(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda path: 12_345)
    with pytest.warns(UserWarning, match=r"12,345 bytes free; 5 checkpoints of [\d,]+ bytes want"):
        fit(tmp_path)


def test_c6_a_model_that_is_not_finite_is_not_published(tmp_path):
    run = fit(tmp_path)
    with torch.no_grad():
        run.model[0].weight[0, 0] = float("inf")
    with pytest.raises(fs.TrainingError, match="not saved"):
        run.save(tmp_path / "broken.fivestep")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


STRACED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import test_disk_faults as here
from pathlib import Path
here.fit(Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (apt-get install strace)")
def test_c9_strace_sees_all_of_a_run_synced_before_each_rename(tmp_path):
    """Of a whole run: checkpoints, settings, findings, the model. history.jsonl is left out: each checkpoint holds it too."""
    trace = tmp_path / "trace"
    calls = "trace=openat,creat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,ftruncate"
    command = [
        "strace",
        "-f",
        "-y",
        "-qq",
        "-s",
        "0",
        "-e",
        calls,
        "-o",
        str(trace),
        sys.executable,
        "-c",
        STRACED,
        str(Path(__file__).parent),
        str(tmp_path / "runs"),
    ]
    environment = os.environ | {"PYTHONPATH": SRC, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "Operation not permitted" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr[:200]}")
    assert done.returncode == 0, done.stderr
    dirty, unsynced, renames = set(), [], 0  # written, or a folder with a new name in it, and not synced since
    for line in trace.read_text().splitlines():
        if str(tmp_path / "runs") not in line or re.search(r"= -\d", line):
            continue
        descriptor = re.search(r"(?:write|fsync|pwrite64|writev|fdatasync|ftruncate)\(\d+<([^>]+)>", line)
        if re.search(r"\b(write|pwrite64|writev|ftruncate)\(", line) and descriptor:
            dirty.add(descriptor[1])
        elif re.search(r"\b(fsync|fdatasync)\(", line) and descriptor:
            dirty.discard(descriptor[1])
        elif match := re.search(r"\b(?:openat|creat)\(.*O_CREAT.*= \d+<([^>]+)>", line):
            dirty |= {match[1], str(Path(match[1]).parent)}
        elif match := re.search(r"\brename\w*\(.*?\"([^\"]+)\",.*\"([^\"]+)\"", line):
            renames += 1
            source = match[1]
            unsynced += [path for path in dirty if path == source or path.startswith(source + "/")]
            dirty.add(str(Path(match[2]).parent))
    # At least: step 0 and two or three more checkpoints, settings, environment, findings, the model; and the renames of pruning.
    assert renames >= 8 and unsynced == []
    left = {path for path in dirty if not path.endswith(("history.jsonl", ".lock"))}
    assert left <= {str(tmp_path / "runs" / "run"), str(tmp_path / "runs" / "run" / "checkpoints")}, (
        left
    )  # names of history.jsonl and .lock, and of what was pruned
