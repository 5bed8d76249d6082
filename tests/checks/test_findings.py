"""Findings read well, survive JSON, and every code that a rule can give is explained."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from adapter import CASES as SHARED

import fivestep.checks
from fivestep.checks.before import first_things_first
from fivestep.checks.findings import CATALOGUE, Finding, worst


def test_a_finding_survives_json_with_values_that_json_has_not() -> None:
    evidence = {
        "nan": float("nan"),
        "tensor": torch.tensor([1.5, 2.0]),
        "array": numpy.arange(3),
        "numpy": numpy.float64(1 / 3),
        4: (1, None, True),
        "inf": float("inf"),
    }
    finding = Finding("L09", "error", "what", evidence, "cause", "fix")
    text = json.dumps(finding.to_json(), allow_nan=False)
    assert Finding.from_json(json.loads(text)) == finding
    assert finding.evidence == {"nan": "nan", "tensor": [1.5, 2.0], "array": [0, 1, 2], "numpy": 0.333333, "4": [1, None, True], "inf": "inf"}


def test_a_finding_reads_as_a_lesson_and_says_what_accepts_it() -> None:
    text = str(Finding("L09", "error", "Targets go from -1 to 1.", {}, "It falls without bound.", "Map them."))
    assert text.splitlines() == [
        "L09 error: BCE targets outside [0, 1]",
        "  seen   Targets go from -1 to 1.",
        "  costs  It falls without bound.",
        '  fix    Map them. (ignore=["L09"] accepts it.)',
    ]
    assert "ignore" not in str(Finding("T06", "note", "what", {}, "cause", "fix"))


def test_an_unknown_severity_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        Finding("L09", "loud", "what")


def test_worst_is_the_most_severe() -> None:
    assert worst([Finding("T06", "note", ""), Finding("L09", "error", ""), Finding("M02", "warning", "")]) == "error"
    assert worst([]) is None


def test_every_code_that_a_rule_gives_is_explained() -> None:
    folder = Path(fivestep.checks.__file__).parent
    given = set()
    for path in folder.glob("*.py"):
        given |= set(re.findall(r'Finding\(\s*"([A-Z]\d\d)"', path.read_text()))
    assert len(given) > 90
    assert given <= set(CATALOGUE)
    for code, rule in CATALOGUE.items():
        assert rule.code == code and rule.letter == code[0] and rule.name and rule.explanation and rule.wrong and rule.right
        assert rule.when in ("data", "probe", "during", "after", "verify", "never") and rule.severity in ("note", "warning", "error")


def test_the_catalogue_covers_the_shared_one() -> None:
    path = SHARED / "CATALOGUE.md"
    if not path.exists():
        pytest.skip(f"no {path}: this checkout stands alone")
    codes = set(re.findall(r"^\| ([A-Z]\d\d) \|", path.read_text(), re.M))
    assert len(codes) > 100 and codes <= set(CATALOGUE)


def test_what_is_likely_to_come_of_another_finding_says_to_mend_that_first():
    pixels, large, reported = (Finding(code, "warning", "seen", {}, "cause", "its own fix") for code in ("D02", "M16", "P02"))
    assert [finding.fix for finding in first_things_first([large, pixels, reported])] == [
        "Mend D02 first: this is likely to come of it.",
        "its own fix",
        "its own fix",
    ]
    stuck = Finding("T04", "warning", "seen", {}, "cause", "its own fix")
    assert first_things_first([stuck], [reported])[0].fix == "its own fix"
    assert first_things_first([stuck], [pixels, reported])[0].fix == "Mend D02 first: this is likely to come of it."
    assert first_things_first([stuck], [replace(pixels, severity="note")])[0].fix == "its own fix"
