"""What all tests share: one thread each, an empty folder to stand in, and the same random numbers every time, in whatever order and process they run."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported, here and in every process that a test starts: two workers with two threads each are slower than with one, and numbers with other
# thread counts differ in their last bits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")  # no window is opened

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("same-every-time", derandomize=True, deadline=None)  # a slow machine is no failure
hypothesis.settings.load_profile("same-every-time")

# Tensors drawn while tests are collected stand in the tests' names, and pytest-xdist refuses to run where two workers collected different names.
torch.manual_seed(0)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts in its own empty folder, as `fit` writes to ./runs, and from the same seed: no test sees what another left, on disk or in a generator."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
