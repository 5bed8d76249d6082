"""A run's findings are those of the mistakes in it, and none on a healthy one; checks change no bit."""

import json

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.checks.catalogue import CATALOGUE

QUIET = dict(folder=None, quiet=True, device="cpu", epochs=8)


def regression(rows=200, width=3):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=draw)
    return x, x.sum(1, keepdim=True) + 0.1 * torch.randn(rows, 1, generator=draw)


def codes(findings):
    return {finding.code for finding in findings if finding.severity != "note"}


def test_every_rule_of_the_catalogue_explains_itself():
    rules = CATALOGUE.values() if isinstance(CATALOGUE, dict) else CATALOGUE
    assert len(list(rules)) > 80
    for rule in rules:
        assert rule.name and rule.wrong not in ("", "-") and rule.right not in ("", "-"), rule.code


def test_a_healthy_run_is_left_alone():
    x, y = regression()
    run = fs.fit(nn.Linear(3, 1), fs.Data.arrays(x, y).split(), loss="MSELoss", optimizer="Adam", lr=0.05, **QUIET)
    assert codes(run.findings) == set()


def test_a_shape_that_would_broadcast_stops_the_run():
    x, y = regression()
    with pytest.raises(fs.FindingsError) as stopped:
        fs.fit(nn.Linear(3, 1), fs.Data.arrays(x, y.flatten()).split(), loss="L1Loss", **QUIET)
    assert "L05" in codes(stopped.value.findings)
    json.dumps([finding.to_json() for finding in stopped.value.findings])


def test_a_finding_can_be_accepted():
    x, y = regression()
    x[:, 2] *= 1e4
    found = fs.check(nn.Linear(3, 1), fs.Data.arrays(x, y).split(), loss="MSELoss", epochs=20)
    assert "D01" in codes(found)
    assert "D01" not in codes(fs.check(nn.Linear(3, 1), fs.Data.arrays(x, y).split(), loss="MSELoss", epochs=20, ignore=["D01"]))


def test_checks_change_no_bit_of_the_weights():
    x, y = regression()
    make = lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.BatchNorm1d(8), nn.Linear(8, 1))  # noqa: E731
    with_checks, without = (fs.fit(make, fs.Data.arrays(x, y).split(), loss="MSELoss", checks=checks, **QUIET) for checks in (True, False))
    assert with_checks.weights_sha256 == without.weights_sha256
