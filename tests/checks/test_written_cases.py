"""The cases of `written_cases` and `engineer_cases`: each mistake is found by `check` (or by the run, where `check` alone cannot see it), and `check` is silent on its mended twin."""

from __future__ import annotations

import sys
from typing import Any

import engineer_cases
import pytest
import written_cases
from adapter import CASES as FOLDER

import fivestep

CASES = written_cases.CASES | engineer_cases.CASES
pytestmark = pytest.mark.skipif(not (FOLDER / "judge.py").exists(), reason="the shared judge does not lie beside this checkout")


def judge() -> Any:
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    import judge

    return judge


def before(case: dict[str, Any]) -> set[str]:
    model, splits, settings, rows = judge().arguments(fivestep, case)
    return {finding.code for finding in fivestep.check(model, splits, predict_rows=rows, **settings) if finding.severity != "note"}


def test_no_two_cases_share_a_name() -> None:
    assert len(CASES) == len(written_cases.CASES) + len(engineer_cases.CASES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_a_mistake_written_another_way_is_found(name: str) -> None:
    code, accepted, make = CASES[name]
    fair = {code, *accepted}
    if not before(make(True)) & fair:
        assert {found for found, severity in judge().findings(fivestep, make(True)).items() if severity != "note"} & fair


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_mended_it_is_silent(name: str) -> None:
    assert not before(CASES[name][2](False))
