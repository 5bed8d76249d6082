"""Rows that sweeps are made on."""

from __future__ import annotations

from typing import Any

import pytest
from swept import arrays

import fivestep as fs


@pytest.fixture
def splits() -> Any:
    return fs.Data.arrays(*arrays()).split()
