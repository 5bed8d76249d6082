"""lr="find": the rate is picked by its rule from training rows alone, recorded and said, and the run with it is the run that was given it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.rates import pick

QUIET: dict[str, Any] = dict(folder=None, device="cpu", checks=False)


def splits(scale: float = 1.0, wreck: float = 0.0) -> Any:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(120, 4, generator=draw)
    y = scale * (x[:, :1] + 0.1 * torch.randn(120, 1, generator=draw))
    x[90:] += wreck
    return fs.Data.arrays(x, y).split(indices=(range(90), range(90, 105), range(105, 120)))


def net(num_inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(num_inputs, 5), nn.Tanh(), nn.Linear(5, 1))


def test_the_run_is_that_of_the_rate_found_which_is_recorded_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    run = fs.fit(net, splits(), lr="find", epochs=2, **QUIET)
    rate = run.settings.asked["lr"]
    assert "found on training rows" in capsys.readouterr().err and run.settings.chosen["lr_found"]["picked"] == rate
    assert run.weights_sha256 == fs.fit(net, splits(), lr=rate, epochs=2, quiet=True, **QUIET).weights_sha256


def test_validation_and_test_rows_have_no_say_in_the_rate() -> None:
    rates = [fs.fit(net, splits(wreck=wreck), lr="find", epochs=1, quiet=True, **QUIET).settings.asked["lr"] for wreck in (0.0, 1e3)]
    assert rates[0] == rates[1]


def test_an_instance_is_not_trained_by_the_test_before_its_run() -> None:
    torch.manual_seed(0)
    model = net(4)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    run = fs.fit(model, splits(), lr="find", epochs=1, quiet=True, **QUIET)
    with torch.no_grad():
        for parameter, before in zip(model.parameters(), start):
            parameter.copy_(before)
    again = fs.fit(model, splits(), lr=run.settings.asked["lr"], epochs=1, quiet=True, **QUIET)
    assert run.settings.asked["lr"] == again.settings.asked["lr"] and len(run.history) == 1


def test_what_cannot_be_stacked_is_tested_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    run = fs.fit(net, splits(), lr="find", optimizer="RMSprop", epochs=1, **QUIET)
    assert "RMSprop has no stacked form" in capsys.readouterr().err and 1e-5 < run.settings.asked["lr"] < 1


def test_the_rate_found_trains_better_than_most_others() -> None:
    found = fs.fit(net, splits(), lr="find", epochs=10, quiet=True, **QUIET)
    others = fs.sweep(net, splits(), {"lr": [10**k for k in (-5, -4, -3, -2, -1, 0)]}, epochs=10, quiet=True, **QUIET)
    assert found.best["val_loss"] <= sorted(trial.value for trial in others.trials if trial.value is not None)[1] * 1.2


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.5, 0.2, 0.21, 0.9], 10**-2.5),  # the middle of the two that are as good
        ([0.9, 0.5, 0.2, 0.21, math.inf], 10**-2.5),
        ([0.9, 0.5, 0.5, 0.2, math.inf], 10**-2),
        ([0.9, 0.5, 0.5, 0.2, 0.19], 10**-1.5),
    ],
)
def test_the_rule_takes_the_middle_of_what_is_as_good(scores: list[float], expected: float) -> None:
    assert pick([10.0**k for k in (-5, -4, -3, -2, -1)], scores, start=1.0)[0] == pytest.approx(expected)


def test_the_rule_stays_below_what_diverged() -> None:
    assert pick([0.01, 0.02, 0.04], [0.5, 0.2, math.inf], start=1.0)[0] == pytest.approx(0.04 / 3)


def test_where_no_rate_helps_it_is_said() -> None:
    with pytest.raises(fs.SettingsError, match="not what is in the way"):
        pick([0.1, 1.0], [2.0, math.inf], start=1.0)
