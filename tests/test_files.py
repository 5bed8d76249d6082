"""What reaches the disk is whole and proven, or not there: under kills and failures at every single call, under flipped bits, and against hostile folders.

The kills are real: a forked child sends itself SIGKILL at the i-th call to the disk, for every i there is, before the call, after it, and halfway through a
write.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fivestep import files
from fivestep.errors import ArtifactError, CannotCreateError, MissingInputError, StorageError, UsageError
from fivestep.strict_json import read_json, write_json

NAMES = ("state.json", "weights.bin")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the faults are injected with fork and SIGKILL")


def contents(number: int) -> dict[str, files.Contents]:
    """Two files that differ for every number; the second comes from a writer, in three parts."""

    def writer(write: Callable[[Any], None]) -> None:
        for part in range(3):
            write(bytes([number % 256, part]) * 500)

    return {"state.json": write_json({"number": number}), "weights.bin": writer}


def publish(parent: Path, number: int, **options: Any) -> Path:
    return files.publish(parent, f"step-{number:012d}", contents(number), facts={"step": number}, **options)


def number_in(published: files.Published) -> int:
    number = read_json(published.contents["state.json"], what="state.json")["number"]
    assert bytes(published.contents["weights.bin"]) == b"".join(bytes([number % 256, part]) * 500 for part in range(3))
    return number


class Fault:
    """Stands for `files._io`: counts the calls, and at call `at` (from 1; with `persistent` from there on) does `act` with the call."""

    def __init__(self, at: int, act: Callable[[Callable[..., Any], tuple[Any, ...]], Any] | None = None, persistent: bool = False):
        self.at, self.act, self.persistent, self.count, self.calls = at, act, persistent, 0, []

    def __call__(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        self.count += 1
        self.calls.append((getattr(call, "__name__", str(call)), arguments))
        if self.act is not None and (self.count == self.at or (self.persistent and self.count > self.at)):
            return self.act(call, arguments)
        return call(*arguments, **named)


def fails(code: int) -> Callable[[Callable[..., Any], tuple[Any, ...]], Any]:
    def act(call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if getattr(call, "__name__", "") == "renameat2":  # a C function: it says so by its result
            import ctypes

            ctypes.set_errno(code)
            return -1
        if call is os.close:
            call(*arguments)
        raise OSError(code, os.strerror(code))

    return act


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    call(*arguments)
    die()


def die_halfway(call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if call is os.write:
        os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
    die()


def killed(action: Callable[[], Any], at: int, act: Callable[..., Any]) -> bool:
    """Whether a forked child was killed while it did `action`; False when it ended by itself, as it made fewer than `at` calls."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            files._io = Fault(at, act)
            action()
            code = 0
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)


# ---------------------------------------------------------------------------------------------------------------------------------------------- C1-C4


def test_C1_what_is_published_reads_back_equal_with_its_facts(tmp_path: Path) -> None:
    path = publish(tmp_path, 7)
    found = files.read_published(path, NAMES)
    assert path == tmp_path / "step-000000000007" and found.facts == {"step": 7} and number_in(found) == 7
    assert found.digest == hashlib.sha256((path / files.MANIFEST).read_bytes()).hexdigest()
    assert found.versions["python"] == ".".join(map(str, sys.version_info[:3])) and "fivestep" in found.versions
    assert os.listdir(tmp_path) == [path.name]
    assert {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(path)} == dict.fromkeys((*NAMES, files.MANIFEST), 0o600)


def order_of_events(calls: list[tuple[str, tuple[Any, ...]]]) -> list[str]:
    told = []
    for name, arguments in calls:
        if name == "open":
            told.append("open " + re.sub(r"-\d+$", "-PID", Path(arguments[0]).name))
        elif name == "fsync" and told[-1].startswith("open"):
            told.append("sync")
        elif name == "rename":
            told.append("rename")
        elif name in ("write", "fsync", "mkdir"):
            told.append({"write": "write", "fsync": "sync", "mkdir": "mkdir"}[name])
    return [event for event, before in zip(told, [None, *told]) if event != "write" or before != "write"]


def test_C1_each_file_is_synced_then_the_folder_then_renamed_then_the_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Fault(0)
    monkeypatch.setattr(files, "_io", record)
    publish(tmp_path, 7)
    expected = ["mkdir"]
    for name in (*NAMES, files.MANIFEST):
        expected += [f"open {name}", "write", "sync"]
    expected += ["open step-000000000007.tmp-PID", "sync", "rename", f"open {tmp_path.name}", "sync"]
    assert order_of_events(record.calls) == [re.sub(r"-\d+$", "-PID", event) if "tmp" not in event else event for event in expected]


def test_C1_nothing_is_written_in_place_and_no_name_is_reused(tmp_path: Path) -> None:
    publish(tmp_path, 7)
    with pytest.raises(CannotCreateError, match="exists already"):
        publish(tmp_path, 7)
    leftover = tmp_path / f"step-000000000008.tmp-{os.getpid()}"  # of a dead process with our number: every process of a container is number 1
    leftover.mkdir()
    publish(tmp_path, 8)
    assert leftover.exists() and number_in(files.read_published(tmp_path / "step-000000000008", NAMES)) == 8


def test_C1_temporary_files_stand_beside_their_place_not_in_TMPDIR(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    publish(tmp_path, 1)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "a\0b", files.MANIFEST])
def test_A6_names_with_paths_are_refused_when_writing(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        files.publish(tmp_path, name, {"a": b""}, facts={})
    with pytest.raises(UsageError):
        files.publish(tmp_path, "folder", {name: b""}, facts={})
    assert not os.listdir(tmp_path)


def test_C2_every_flipped_bit_and_every_truncation_is_found(tmp_path: Path) -> None:
    path = publish(tmp_path, 7)
    tried = 0
    for name in (*NAMES, files.MANIFEST):
        whole = (path / name).read_bytes()
        places = range(len(whole)) if name != "weights.bin" else range(0, len(whole), 97)
        for place in places:
            for damaged in (whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :], whole[:place]):
                (path / name).write_bytes(damaged)
                with pytest.raises(ArtifactError):
                    files.read_published(path, NAMES)
                tried += 1
        (path / name).write_bytes(whole + b"\n")
        with pytest.raises(ArtifactError):
            files.read_published(path, NAMES)
        (path / name).write_bytes(whole)
    assert number_in(files.read_published(path, NAMES)) == 7 and tried > 1000


@pytest.mark.parametrize("wrong", ["extra", "lacking", "unlisted optional", "not listed", "directory", "link", "fifo", "link manifest", "no manifest"])
def test_C2_A6_the_set_of_files_is_exact_and_each_is_regular(tmp_path: Path, wrong: str) -> None:
    path = publish(tmp_path, 7)
    weights, names, optional = path / "weights.bin", set(NAMES), set()
    if wrong == "extra":
        (path / "conftest.py\x1b[2J").write_text("raise SystemExit")
    elif wrong == "unlisted optional":
        (path / "average.bin").write_bytes(b"")
        optional = {"average.bin"}
    elif wrong == "lacking":
        weights.unlink()
    elif wrong == "not listed":
        names.add("optimizer.bin")
    elif wrong == "no manifest":
        (path / files.MANIFEST).unlink()
    else:
        victim = path / files.MANIFEST if wrong == "link manifest" else weights
        victim.rename(tmp_path / "elsewhere")
        {"directory": victim.mkdir, "fifo": lambda: os.mkfifo(victim)}.get(wrong, lambda: victim.symlink_to(tmp_path / "elsewhere"))()
    began = time.monotonic()
    with pytest.raises(ArtifactError) as caught:
        files.read_published(path, names, optional=optional)
    assert time.monotonic() - began < 2 and "\x1b" not in str(caught.value) and str(path) in str(caught.value)


def test_C2_an_optional_file_may_be_there_or_not(tmp_path: Path) -> None:
    path = publish(tmp_path, 7)
    assert set(files.read_published(path, NAMES[:1], optional=NAMES[1:]).contents) == set(NAMES)
    assert set(files.read_published(path, NAMES, optional=["more"]).contents) == set(NAMES)


def test_C2_a_larger_file_than_the_manifest_says_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = publish(tmp_path, 7)
    os.truncate(path / "weights.bin", 1 << 42)  # sparse: reading it would take hours and all memory
    with pytest.raises(ArtifactError, match="its manifest says"):
        files.read_published(path, NAMES)


def test_C2_a_renamed_checkpoint_is_not_valid(tmp_path: Path) -> None:
    publish(tmp_path, 7)
    publish(tmp_path, 5).rename(tmp_path / "step-000000000009")
    found = files.newest_valid(tmp_path, "step-", NAMES)
    assert found.published is not None and number_in(found.published) == 7 and "written as step 5" in found.damaged[0][1]


def test_C3_the_newest_valid_one_is_taken_and_damaged_ones_are_told_and_set_aside(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4, 10):
        publish(tmp_path, number)
    (tmp_path / "step-000000000010/weights.bin").write_bytes(b"x")
    (tmp_path / "step-000000000004" / files.MANIFEST).write_bytes(b"{}")
    (tmp_path / "step-000000000004.bad").mkdir()
    looked = files.newest_valid(tmp_path, "step-", NAMES, set_aside=False)
    assert [path.name for path, _ in looked.damaged] == ["step-000000000010", "step-000000000004"]
    found = files.newest_valid(tmp_path, "step-", NAMES, parse=lambda published: published.facts["step"])
    assert found.parsed == 3 and [path.name for path, _ in found.damaged] == ["step-000000000010.bad", "step-000000000004.bad-1"]
    assert "weights.bin" in found.damaged[0][1] and all(path.exists() for path, _ in found.damaged)
    assert files.newest_valid(tmp_path, "step-", NAMES).damaged == ()


def test_C3_contents_that_cannot_be_parsed_count_as_damaged(tmp_path: Path) -> None:
    publish(tmp_path, 1), publish(tmp_path, 2)

    def parse(published: files.Published) -> int:
        if number_in(published) == 2:
            raise ArtifactError("a tensor is missing")
        return 1

    found = files.newest_valid(tmp_path, "step-", NAMES, parse=parse)
    assert found.parsed == 1 and [reason for _, reason in found.damaged] == ["a tensor is missing"]


def test_C3_checkpoints_of_which_none_is_valid_are_an_error_and_none_at_all_is_not(tmp_path: Path) -> None:
    assert files.newest_valid(tmp_path, "step-", NAMES).published is None
    assert files.newest_valid(tmp_path / "nowhere", "step-", NAMES).published is None
    for number in (1, 2):
        (publish(tmp_path, number) / "state.json").unlink()
    with pytest.raises(MissingInputError, match="2 checkpoints and none is valid") as caught:
        files.newest_valid(tmp_path, "step-", NAMES)
    assert caught.value.exit_code == 66 and sorted(os.listdir(tmp_path)) == ["step-000000000001.bad", "step-000000000002.bad"]


def test_C3_one_made_by_a_newer_version_is_neither_skipped_nor_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, 1)
    monkeypatch.setattr(files, "FORMAT", 2)
    publish(tmp_path, 2)
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="newer version"):
        files.newest_valid(tmp_path, "step-", NAMES)
    assert (tmp_path / "step-000000000002").exists()


def test_C4_the_newest_stay_and_the_protected(tmp_path: Path) -> None:
    for number in range(8):
        publish(tmp_path, number)
    removed = files.prune(tmp_path, 3, {"step-000000000000", "step-000000000003"})
    assert removed == [f"step-{number:012d}" for number in (1, 2, 4)]
    assert sorted(os.listdir(tmp_path)) == [f"step-{number:012d}" for number in (0, 3, 5, 6, 7)]
    with pytest.raises(UsageError, match="at least 2"):
        files.prune(tmp_path, 1)


@pytest.mark.parametrize("act", [die, die_after])
def test_C4_killed_while_pruning_no_half_checkpoint_stands(tmp_path: Path, act: Callable[..., Any]) -> None:
    at = 1
    while True:
        parent = tmp_path / str(at)
        parent.mkdir()
        for number in range(5):
            publish(parent, number)
        if not killed(lambda parent=parent: files.prune(parent, 2, {"step-000000000000"}), at, act):
            break
        for entry in os.scandir(parent):
            assert ".tmp-" in entry.name or number_in(files.read_published(entry.path, NAMES)) >= 0
        files.remove_dead_temporaries(parent)
        assert all(".tmp-" not in name for name in os.listdir(parent)) and {f"step-{number:012d}" for number in (0, 3, 4)} <= set(os.listdir(parent))
        at += 1
    assert at == 5  # two folders, two calls each


def test_C5_temporaries_of_dead_writers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    keep = ["step-000000000001", "notes.tmp", "tmp-12", "a.tmp-x", "step-000000000002.bad"]
    for name in keep:
        (tmp_path / name).mkdir()
    (tmp_path / "step-000000000003.tmp-123").mkdir()
    (tmp_path / "step-000000000003.tmp-123/state.json").write_text("{")
    (tmp_path / "history.jsonl.tmp-1-2").write_text("x")
    (tmp_path / "link.tmp-5").symlink_to(tmp_path / "notes.tmp")
    removed = files.remove_dead_temporaries(tmp_path)
    assert [path.name for path in removed] == ["history.jsonl.tmp-1-2", "link.tmp-5", "step-000000000003.tmp-123"]
    assert sorted(os.listdir(tmp_path)) == sorted(keep)
    assert files.remove_dead_temporaries(tmp_path / "nowhere") == []


# ---------------------------------------------------------------------------------------------------------------------------------------------- C7-C9


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_C7_C8_C9_an_error_at_any_call_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    at = 1
    while True:
        parent = tmp_path / str(at)
        parent.mkdir()
        publish(parent, 1), publish(parent, 2)
        fault = Fault(at, fails(code))
        monkeypatch.setattr(files, "_io", fault)
        try:
            publish(parent, 3)
            break
        except StorageError as error:
            message = str(error)
            assert error.exit_code == 74 and error.errno == code and isinstance(error.__cause__, OSError) and "\n" not in message
            assert str(parent / "step-000000000003") in message and os.strerror(code) in message
            assert re.search(r"at least [\d,]+ bytes needed, [\d,]+ free", message) and "step-000000000002 stands unchanged, and 1 older" in message
        finally:
            monkeypatch.undo()
        # C8: after a failed fsync there was no other fsync on that file
        if fault.calls[at - 1][0] == "fsync":
            assert all(call[0] != "fsync" for call in fault.calls[at:])
        assert sorted(os.listdir(parent)) == ["step-000000000001", "step-000000000002"]
        publish(parent, 3)  # written anew
        newest = files.newest_valid(parent, "step-", NAMES)
        assert newest.published is not None and number_in(newest.published) == 3 and not newest.damaged
        at += 1
    assert at > 20


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_C7_a_disk_that_refuses_everything_from_some_call_on_still_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    at = 1
    while True:
        parent = tmp_path / str(at)
        parent.mkdir()
        publish(parent, 1)
        monkeypatch.setattr(files, "_io", Fault(at, fails(code), persistent=True))
        try:
            publish(parent, 2)
            break
        except StorageError as error:
            complete = "is complete" in str(error)
        finally:
            monkeypatch.undo()
        newest = files.newest_valid(parent, "step-", NAMES)
        assert newest.published is not None and number_in(newest.published) == (2 if complete else 1) and not newest.damaged
        files.remove_dead_temporaries(parent)
        assert len(os.listdir(parent)) == 1 + complete
        at += 1
    assert at > 20


def test_C7_a_real_limit_of_the_system_is_told_in_one_line_with_exit_74(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from fivestep import files, errors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: files.publish('.', 'step-1', {'a': b'x' * 5000}, facts={'step': 1})\n"
        "except errors.StorageError as error: print(error); sys.exit(error.exit_code)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 74 and found.stdout.count("\n") == 1 and "5,000 bytes needed" in found.stdout and not os.listdir(tmp_path)


@pytest.mark.parametrize("act", [die, die_after, die_halfway])
def test_C9_killed_at_any_call_the_newest_is_valid(tmp_path: Path, act: Callable[..., Any]) -> None:
    at = 1
    while True:
        parent = tmp_path / str(at)
        parent.mkdir()
        publish(parent, 1)
        ended = not killed(lambda parent=parent: publish(parent, 2), at, act)
        newest = files.newest_valid(parent, "step-", NAMES)
        assert newest.published is not None and not newest.damaged
        assert number_in(newest.published) == (2 if ended else newest.published.facts["step"])
        files.remove_dead_temporaries(parent)
        assert len(os.listdir(parent)) == newest.published.facts["step"]
        if ended:
            break
        at += 1
    assert at > 20


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("act", [die, die_after, die_halfway])
def test_C9_killed_at_any_call_of_a_replacement_the_old_or_the_new_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[..., Any], atomic: bool
) -> None:
    if not atomic:
        no_exchange(monkeypatch)
    at, seen = 1, set()
    while True:
        parent = tmp_path / str(at)
        parent.mkdir()
        files.publish(parent, "model.fivestep", contents(1), facts={})
        ended = not killed(lambda parent=parent: files.publish(parent, "model.fivestep", contents(2), facts={}, replace=True), at, act)
        if atomic and sys.platform == "linux":
            number_in(files.read_published(parent / "model.fivestep", NAMES))  # at every moment, before anything is tidied
        files.remove_dead_temporaries(parent)
        assert os.listdir(parent) == ["model.fivestep"]
        seen.add(number_in(files.read_published(parent / "model.fivestep", NAMES)))
        if ended:
            break
        at += 1
    assert seen == {1, 2}


@pytest.mark.parametrize("atomic", [True, False])
def test_C9_an_error_at_any_call_of_a_replacement_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool) -> None:
    at = 1
    while True:
        parent = tmp_path / str(at)
        parent.mkdir()
        files.publish(parent, "model.fivestep", contents(1), facts={})
        fault, failed = Fault(at, fails(errno.EIO)), None
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            if not atomic:
                no_exchange(patch)
            patch.setattr(files, "_io", fault)
            try:
                files.publish(parent, "model.fivestep", contents(2), facts={}, replace=True)
            except StorageError as error:
                failed = error
        assert number_in(files.read_published(parent / "model.fivestep", NAMES)) == (1 if failed else 2)
        if failed:
            assert "the earlier model.fivestep stands unchanged" in str(failed) and os.listdir(parent) == ["model.fivestep"]
        elif fault.count >= at:  # the fault hit the removal of the old one: the new one is durable, so this is no failure to save
            assert fault.calls[at - 1][0] == "rmtree" and "could not be removed" in str(warned[0].message)
        else:
            break
        at += 1
    assert at > 20


def test_C6_a_replacement_never_deletes_what_fivestep_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years")
    (tmp_path / "file").write_text("x")
    path = files.publish(tmp_path, "model.fivestep", contents(1), facts={})
    (path / "notes.txt").write_text("mine")
    for name in ("thesis", "file", "model.fivestep"):
        with pytest.raises(CannotCreateError, match="not replaced"):
            files.publish(tmp_path, name, contents(2), facts={}, replace=True)
    assert (tmp_path / "thesis/chapter.tex").read_text() == "years" and (path / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_C9_two_hundred_random_kills_and_the_newest_is_always_usable(tmp_path: Path) -> None:
    rng, number, kills = random.Random(0), 0, 0
    publish(tmp_path, 0)
    began = time.monotonic()
    for _ in range(5):
        publish(tmp_path, number := number + 1)
    seconds = (time.monotonic() - began) / 5
    while kills < 200:
        child = os.fork()
        if child == 0:
            for step in range(number + 1, number + 10_000):
                publish(tmp_path, step)
                files.prune(tmp_path, 3, {"step-000000000000"})
            os._exit(1)
        time.sleep(rng.uniform(0, 6 * seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        newest = files.newest_valid(tmp_path, "step-", NAMES)
        assert newest.published is not None and not newest.damaged and number_in(newest.published) >= number
        number = number_in(newest.published)
        files.remove_dead_temporaries(tmp_path)
    assert number > 50 and len(os.listdir(tmp_path)) <= 6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_C9_strace_sees_every_file_and_folder_synced_before_the_rename(tmp_path: Path) -> None:
    parent = tmp_path / "checkpoints"
    code = (
        "from fivestep import files\n"
        f"files.make_folder({str(parent)!r})\n"
        f"for step in range(3): files.publish({str(parent)!r}, f'step-{{step:012d}}', {{'a': b'x' * 70000, 'b': b''}}, facts={{'step': step}})\n"
        f"files.write_atomic({str(parent / 'settings.json')!r}, b'{{}}')"
    )
    trace = tmp_path / "trace"
    calls = "trace=openat,open,creat,write,pwrite64,writev,fsync,fdatasync,close,rename,renameat,renameat2,mkdir,mkdirat,ftruncate"
    subprocess.run(["strace", "-f", "-y", "-qq", "-s", "0", "-e", calls, "-o", str(trace), sys.executable, "-c", code], check=True)
    dirty: set[str] = set()  # written, or a folder with a new name in it, and not synced since
    unsynced_before_rename, renames = [], 0
    for line in trace.read_text().splitlines():
        if str(tmp_path) not in line or re.search(r"= -\d", line):
            continue
        descriptor = re.search(r"(?:write|fsync|pwrite64|writev|fdatasync|ftruncate)\(\d+<([^>]+)>", line)
        if re.search(r"\b(write|pwrite64|writev|ftruncate)\(", line) and descriptor:
            dirty.add(descriptor[1])
        elif re.search(r"\b(fsync|fdatasync)\(", line) and descriptor:
            dirty.discard(descriptor[1])
        elif match := re.search(r"\b(?:openat|creat)\(.*O_CREAT.*= \d+<([^>]+)>", line):
            dirty |= {match[1], str(Path(match[1]).parent)}
        elif match := re.search(r"\bmkdir(?:at)?\(.*\"([^\"]+)\"", line):
            dirty |= {str(Path(match[1]).parent)}
        elif match := re.search(r"\brename\w*\(\"([^\"]+)\", \"([^\"]+)\"", line) or re.search(r"\brename\w*\(.*\"([^\"]+)\",.*\"([^\"]+)\"", line):
            renames += 1
            source = match[1]
            unsynced_before_rename += [path for path in dirty if path == source or path.startswith(source + "/")]
            dirty.add(str(Path(match[2]).parent))
    assert renames == 4 and unsynced_before_rename == []
    assert dirty == set(), "something was still unsynced when all had returned"


FULL_DISK = """
import errno, os, sys
from fivestep import errors, files
os.chdir(sys.argv[2])
for step in range(1, 100):
    try:
        files.publish(".", f"step-{step:012d}", {"state": bytes([step]) * 50_000}, facts={"step": step})
    except errors.StorageError as error:
        print(error)
        assert error.errno == errno.ENOSPC and error.exit_code == 74 and "50,000 bytes needed" in str(error)
        break
newest = files.newest_valid(".", "step-", ["state"])
assert newest.published.facts == {"step": step - 1} and not newest.damaged and step > 2 and not any("tmp" in name for name in os.listdir("."))
try:
    files.write_atomic("step-000000000001.csv", b"x" * 200_000)
    raise SystemExit("a full disk took more")
except errors.StorageError:
    assert len(os.listdir(".")) == step - 1
files.prune(".", 2)
files.publish(".", f"step-{step:012d}", {"state": bytes([step]) * 50_000}, facts={"step": step})
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, to mount a small disk of its own")
def test_C7_a_disk_that_is_really_full_is_told_and_what_stands_stays_valid(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    small_disk = f'mount -t tmpfs -o size=300k tmpfs {tmp_path}/disk || exit 99; exec {sys.executable} -c "$0" {tmp_path} {tmp_path}/disk'
    found = subprocess.run(["unshare", "-rm", "sh", "-c", small_disk, FULL_DISK], capture_output=True, text=True)
    if found.returncode == 99 or "unshare" in found.stderr:
        pytest.skip(f"no small disk can be mounted here: {found.stderr}")
    assert found.returncode == 0, found.stderr
    assert "No space left on device" in found.stdout and "stands unchanged" in found.stdout


# ---------------------------------------------------------------------------------------------------------------------------------------- single files


def test_a_file_is_the_old_or_the_new_one_wherever_the_writer_is_killed(tmp_path: Path) -> None:
    for act in (die, die_after, die_halfway):
        at = 1
        while True:
            path = tmp_path / f"{act.__name__}-{at}" / "settings.json"
            path.parent.mkdir()
            files.write_atomic(path, b"old" * 100)
            ended = not killed(lambda path=path: files.write_atomic(path, b"new" * 100), at, act)
            assert path.read_bytes() in ({b"new" * 100} if ended else {b"old" * 100, b"new" * 100})
            files.remove_dead_temporaries(path.parent)
            assert os.listdir(path.parent) == ["settings.json"]
            if ended:
                break
            at += 1
        assert at > 5


def test_C7_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write_atomic(tmp_path / "settings.json", b"old")
    at = 1
    while True:
        fault = Fault(at, fails(errno.ENOSPC))
        monkeypatch.setattr(files, "_io", fault)
        try:
            files.write_atomic(path, b"new")
            break
        except StorageError as error:
            assert "the earlier settings.json stands" in str(error) and "3 bytes needed" in str(error)
        finally:
            monkeypatch.undo()
        # only the sync of the folder comes after the rename: by then the new one is there, whole
        assert path.read_bytes() == (b"new" if any(call[0] == "replace" for call in fault.calls[: at - 1]) else b"old")
        assert os.listdir(tmp_path) == ["settings.json"]
        path.write_bytes(b"old")
        at += 1
    assert at > 5


def test_a_file_is_not_overwritten_where_that_was_not_asked_and_never_a_device_or_link(tmp_path: Path) -> None:
    path = files.write_atomic(tmp_path / "out.csv", b"1")
    with pytest.raises(CannotCreateError, match="exists already"):
        files.write_atomic(path, b"2", replace=False)
    (tmp_path / "link").symlink_to(path)
    for place in (tmp_path / "link", tmp_path):
        with pytest.raises(CannotCreateError, match="link, a folder or a device"):
            files.write_atomic(place, b"2")
    with pytest.raises(CannotCreateError, match="does not exist"):
        files.write_atomic(tmp_path / "nowhere/out.csv", b"2")
    assert path.read_bytes() == b"1"


def test_S7_lines_are_appended_whole_and_a_cut_off_one_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    files.append_line_durably(path, b'{"step": 1}')
    files.append_line_durably(path, b'{"step": 2}\n')
    with open(path, "ab") as file:
        file.write(b'{"step": ' + b"9" * 100_000)  # a kill in the middle of a write
    files.append_line_durably(path, b'{"step": 3}')
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    path.write_bytes(b"no newline at all")
    files.append_line_durably(path, b"first")
    assert path.read_bytes() == b"first\n"
    with pytest.raises(UsageError):
        files.append_line_durably(path, b"two\nlines")


def test_S7_killed_at_any_call_a_line_is_there_or_not(tmp_path: Path) -> None:
    for act in (die, die_after, die_halfway):
        at = 1
        while True:
            path = tmp_path / f"{act.__name__}-{at}.jsonl"
            ended = not killed(lambda path=path: files.append_line_durably(path, b"1234567890"), at, act)
            files.append_line_durably(path, b"next")
            assert path.read_bytes() in (b"next\n", b"1234567890\nnext\n")
            if ended:
                break
            at += 1


def test_C7_a_line_that_cannot_be_written_leaves_the_lines_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.jsonl"
    at = 1
    while True:
        path.write_bytes(b"1\n")
        monkeypatch.setattr(files, "_io", Fault(at, fails(errno.ENOSPC)))
        try:
            files.append_line_durably(path, b"2")
            break
        except StorageError:
            assert path.read_bytes() == b"1\n"
        finally:
            monkeypatch.undo()
        at += 1
    assert at == 4  # open, write, fsync


def test_folders_are_made_with_those_above_them_and_never_twice(tmp_path: Path) -> None:
    assert files.make_folder(tmp_path / "runs/houses-0001").is_dir()
    with pytest.raises(CannotCreateError, match="exists already"):
        files.make_folder(tmp_path / "runs/houses-0001")
    files.make_folder(tmp_path / "runs", exist_ok=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreateError):
        files.make_folder(tmp_path / "file/run", exist_ok=True)


def test_C7_free_bytes_of_a_path_that_is_still_to_be_made(tmp_path: Path) -> None:
    assert files.free_bytes(tmp_path / "a/b/c") > 0


# ------------------------------------------------------------------------------------------------------------------------------------------------ A2


def test_A2_only_regular_files_within_the_limit_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert files.open_regular(path, 5) == b"12345"
    with pytest.raises(ArtifactError, match="5 bytes, at most 4"):
        files.open_regular(path, 4)
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "."):
        with pytest.raises(ArtifactError):
            files.open_regular(tmp_path / name)
    with pytest.raises(ArtifactError, match="device"):
        files.open_regular("/dev/zero")
    with pytest.raises(MissingInputError, match="is not there"):
        files.open_regular(tmp_path / "nowhere")
    import socket

    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(tmp_path):
        listening.bind("socket")
        with pytest.raises(ArtifactError):
            files.open_regular("socket")


def test_A2_refusals_leave_no_file_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    path = publish(tmp_path, 1)
    (path / "extra").mkdir()
    for _ in range(3):
        for refused in (lambda: files.open_regular(tmp_path), lambda: files.read_published(path, NAMES), lambda: files.open_regular("/dev/null", 0)):
            with pytest.raises(ArtifactError):
                refused()
    assert len(os.listdir("/proc/self/fd")) == before


# ------------------------------------------------------------------------------------------------------------------------------------------------ A6


def reseal(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """What an attacker does: change the manifest and make its seal fit."""
    manifest = json.loads((path / files.MANIFEST).read_bytes())
    manifest.pop("seal")
    manifest = change(manifest) or manifest
    seal = hashlib.sha256(write_json(manifest)).hexdigest()
    (path / files.MANIFEST).write_bytes(write_json({**manifest, "seal": seal}))


HOSTILE_MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no format": lambda m: m.pop("format") and None,
    "format is true": lambda m: m.update(format=True),
    "format is text": lambda m: m.update(format="1"),
    "format is 1.0": lambda m: m.update(format=1.0),
    "format is 0": lambda m: m.update(format=0),
    "format is newer": lambda m: m.update(format=2),
    "unknown key": lambda m: m.update(run="os.system"),
    "no facts": lambda m: m.pop("facts") and None,
    "facts is a list": lambda m: m.update(facts=[]),
    "files is a list": lambda m: m.update(files=[]),
    "versions hold numbers": lambda m: m["versions"].update(torch=2),
    "a path upwards": lambda m: m["files"].update({"../secret": m["files"].pop("weights.bin")}),
    "an absolute path": lambda m: m["files"].update({"/etc/passwd": m["files"].pop("weights.bin")}),
    "a path beside": lambda m: m["files"].update({"../secret": dict(m["files"]["weights.bin"])}),
    "itself": lambda m: m["files"].update({files.MANIFEST: dict(m["files"]["weights.bin"])}),
    "the empty name": lambda m: m["files"].update({"": dict(m["files"]["weights.bin"])}),
    "a file less": lambda m: m["files"].pop("weights.bin") and None,
    "negative size": lambda m: m["files"]["weights.bin"].update(bytes=-1),
    "size is true": lambda m: m["files"]["weights.bin"].update(bytes=True),
    "size is a float": lambda m: m["files"]["weights.bin"].update(bytes=3000.0),
    "huge size": lambda m: m["files"]["weights.bin"].update(bytes=2**63),
    "another size": lambda m: m["files"]["weights.bin"].update(bytes=2999),
    "hash is short": lambda m: m["files"]["weights.bin"].update(sha256="00"),
    "hash in capitals": lambda m: m["files"]["weights.bin"].update(sha256=m["files"]["weights.bin"]["sha256"].upper()),
    "hash with newline": lambda m: m["files"]["weights.bin"].update(sha256=m["files"]["weights.bin"]["sha256"] + "\n"),
    "hash is null": lambda m: m["files"]["weights.bin"].update(sha256=None),
    "another hash": lambda m: m["files"]["weights.bin"].update(sha256="0" * 64),
    "entry is a text": lambda m: m["files"].update({"weights.bin": "x"}),
    "entry has more": lambda m: m["files"]["weights.bin"].update(path="/etc/passwd"),
}


@pytest.mark.parametrize("name", HOSTILE_MANIFESTS)
def test_A6_hostile_manifests_are_refused_even_with_a_fitting_seal(tmp_path: Path, name: str) -> None:
    path = publish(tmp_path, 7)
    (tmp_path / "secret").write_bytes((path / "weights.bin").read_bytes())
    reseal(path, lambda manifest: None)
    files.read_published(path, NAMES)  # resealing alone is no damage: integrity, not authenticity
    reseal(path, HOSTILE_MANIFESTS[name])
    with pytest.raises(ArtifactError):
        files.read_published(path, NAMES)


def test_A2_a_manifest_over_a_megabyte_is_not_read(tmp_path: Path) -> None:
    path = publish(tmp_path, 7)
    os.truncate(path / files.MANIFEST, 1 << 40)
    with pytest.raises(ArtifactError, match="at most 1,000,000"):
        files.read_published(path, NAMES)


def test_where_the_system_knows_no_directory_handles_or_nofollow_links_are_refused_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_HAS_DIRECTORY_HANDLES": False, "_NOFOLLOW": 0, "_DIRECTORY": 0, "_READ": os.O_RDONLY}.items():  # as on Windows
        monkeypatch.setattr(files, name, value)
    path = publish(tmp_path, 7)
    assert number_in(files.read_published(path, NAMES)) == 7
    (path / "weights.bin").rename(tmp_path / "elsewhere")
    (path / "weights.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="symbolic link"):
        files.read_published(path, NAMES)
    with pytest.raises(MissingInputError, match="not there"):
        files.read_published(tmp_path / "nowhere", NAMES)


def test_files_and_locks_import_neither_torch_nor_numpy() -> None:
    code = "import sys, fivestep.files, fivestep.locks; assert not {'torch', 'numpy', 'msgspec', 'ctypes', 'safetensors'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
