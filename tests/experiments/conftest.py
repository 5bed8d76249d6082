"""Rows that sweeps are made on, and a sweep as a script for tests that kill its process."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from swept import arrays

import fivestep as fs


@pytest.fixture
def splits() -> Any:
    return fs.Data.arrays(*arrays()).split()


@pytest.fixture(scope="module")
def script(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test module's SCRIPT as a file, for processes of its own."""
    path = tmp_path_factory.mktemp("script") / "sweep.py"
    path.write_text(textwrap.dedent(request.module.SCRIPT))
    return path
