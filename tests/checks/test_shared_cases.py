"""All cases of ../shared/cases: every mistake found, no false finding on a twin or a healthy run."""

from __future__ import annotations

import warnings

import pytest
from adapter import CASES, case_names, findings_of, load_case, loud

SIDES = [(name, side) for name in case_names() for side in (("build",) if name.startswith("h") else ("build", "twin"))]


def test_the_cases_are_there() -> None:
    if not SIDES:
        pytest.skip(f"no cases at {CASES}: this checkout stands alone")


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_mistakes_are_found_and_healthy_runs_left_alone(name: str, side: str) -> None:
    case = getattr(load_case(name), side)(seed=0)
    expected, accepted = case["expect"], {case["expect"], *case["accept"]}
    case = {key: value for key, value in case.items() if key not in ("expect", "accept") and not key.startswith("_")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, _ = findings_of(case)
    if expected:
        assert loud(found) & accepted, [str(finding) for finding in found]
    else:
        assert not loud(found), [str(finding) for finding in found]
