"""The variants of `more_cases` through `check`, `fit` and the scores, as the shared judge asks: each mistake found, nothing on what is done right."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import classic_models
import pytest
from adapter import CASES as FOLDER
from more_cases import CASES, HEALTHY

import fivestep

pytestmark = pytest.mark.skipif(not (FOLDER / "judge.py").exists(), reason="the shared judge does not lie beside this checkout")


def loud(case: dict[str, Any]) -> set[str]:
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    import judge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {code for code, severity in judge.findings(fivestep, case).items() if severity != "note"}


@pytest.mark.parametrize("name", CASES)
def test_the_mistake_is_found(name: str) -> None:
    code, accepted, wrong, _ = CASES[name]
    assert loud(wrong()) & {code, *accepted}


@pytest.mark.parametrize("name", CASES)
def test_done_right_it_is_silent(name: str) -> None:
    assert not loud(CASES[name][3]())


@pytest.mark.parametrize("name", classic_models.HEALTHY)
def test_the_models_of_tutorials_are_left_alone(name: str) -> None:
    assert not loud(classic_models.HEALTHY[name]())


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_are_left_alone(name: str) -> None:
    assert not loud(HEALTHY[name]())
