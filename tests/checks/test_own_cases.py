"""Our own cases: for each rule a mistake that it finds by its own code, the same done right, and healthy runs that look like mistakes."""

from __future__ import annotations

import warnings

import pytest
from adapter import findings_of, loud
from cases import CASES, HEALTHY

AFTER = ("D05", "E01", "E13", "M21", "P01", "P06", "S15", "T03", "T05", "T07")  # these need a trained model
SECONDS = 5.0  # what is found here must not depend on how busy the machine is


@pytest.mark.parametrize("name", CASES)
def test_the_mistake_is_found(name: str) -> None:
    code, accepted, wrong, _ = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, _ = findings_of(wrong(), training=code in AFTER, seconds=SECONDS)
    exact = name not in ("m25 statistics of the batch",)  # mean and deviation over the batch: M07 names it as well
    assert loud(found) & ({code} if exact else {code, *accepted}), [str(finding) for finding in found]


@pytest.mark.parametrize("name", CASES)
def test_done_right_it_is_silent(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, _ = findings_of(CASES[name][3](), seconds=SECONDS)
    assert not loud(found), [str(finding) for finding in found]


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_are_left_alone(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, _ = findings_of(HEALTHY[name](), seconds=SECONDS)
    assert not loud(found), [str(finding) for finding in found]
