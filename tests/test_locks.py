"""P1: one process alone works on a folder, and a lock ends with its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fivestep.errors import FivestepError, LockedError, MissingInputError
from fivestep.locks import Lock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="locks are tried with fork and SIGKILL")


def test_P1_a_second_process_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    code = "import sys; from fivestep.locks import Lock; lock = Lock(sys.argv[1]).__enter__(); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {other.pid}") as caught, Lock(tmp_path):
            pass
        assert caught.value.exit_code == 75
        other.kill()
        other.wait()
        with Lock(tmp_path):  # the kernel dropped it
            assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_P1_the_lock_is_given_back_and_not_held_twice(tmp_path: Path) -> None:
    with Lock(tmp_path), pytest.raises(LockedError), Lock(tmp_path):
        pass
    with Lock(tmp_path):
        pass
    with pytest.raises(MissingInputError), Lock(tmp_path / "nowhere"):
        pass


def test_P1_a_forked_worker_that_outlives_its_trainer_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from fivestep.locks import Lock\n"
        "lock = Lock(sys.argv[1]).__enter__()\n"
        "if os.fork() == 0: print('forked', flush=True); time.sleep(20); os._exit(0)\n"
        "time.sleep(20)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "forked\n"
        try:
            other.kill()
            other.wait()
            with Lock(tmp_path):
                pass
        finally:
            os.killpg(other.pid, signal.SIGKILL)


def test_P1_the_lock_file_is_not_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("keep")
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(FivestepError), Lock(tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "keep"
