"""What all tests share: one thread each, an empty folder to stand in, and examples of hypothesis that are the same every time."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported, here and in every process that a test starts: two workers with two threads each are slower than with one, and numbers with other
# thread counts differ in their last bits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")  # no window is opened

import hypothesis
import pytest

hypothesis.settings.register_profile("same-every-time", derandomize=True, deadline=None)  # a slow machine is no failure
hypothesis.settings.load_profile("same-every-time")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts in its own empty folder: `fit` writes to ./runs, and no test may find what another left, or leave it in the repository."""
    monkeypatch.chdir(tmp_path)
