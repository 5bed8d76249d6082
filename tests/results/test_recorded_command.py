"""What a run's record says was typed."""

from __future__ import annotations

import sys

import pytest

from fivestep.results import runs


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["/home/a/.venv/bin/fivestep", "demo"], ["fivestep", "demo"]),
        (["/home/a/lib/fivestep/__main__.py", "fit", "t.csv"], ["python", "-m", "fivestep", "fit", "t.csv"]),
        (["train.py"], ["train.py"]),
        ([""], []),
    ],
)
def test_the_command_is_what_was_typed(monkeypatch, argv, told):
    monkeypatch.setattr(sys, "argv", argv)
    assert runs.command() == told
