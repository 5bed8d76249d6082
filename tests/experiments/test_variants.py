"""From `over` to variants: settings go where they are named, draws lie in their ranges, and what cannot be read is refused with the way on."""

from __future__ import annotations

from typing import Any

import pytest
from swept import QUIET, Net

import fivestep as fs
from fivestep import workflow
from fivestep.experiments import variants


@pytest.mark.parametrize(
    ("over", "options", "words"),
    [
        ({"lerning_rate": [1]}, {}, "there is no setting"),
        ({"lr": 0.1}, {}, r"write \[0.1\]"),
        ({"lr": {"low": 1e-4, "high": 1e-1}}, {}, "search='random'"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, {"search": "random", "trials": 2}, "logarithmic"),
        ({"lr": [0.1]}, {"search": "random"}, "trials="),
        ({"seed": [1, 2]}, {}, "seeds=5"),
        ({"loss.delta": [1.0]}, {}, "Name it: loss="),
        ({"lr": []}, {}, "empty"),
        ({"lr": [0.1, 0.2, 0.1]}, {}, "0.1 twice"),
    ],
)
def test_what_cannot_be_varied_is_refused_with_the_way_on(splits: Any, over: Any, options: Any, words: str) -> None:
    with pytest.raises(fs.UsageError, match=words):
        fs.sweep(Net, splits, over, **options, **QUIET)


def test_settings_go_where_they_are_named() -> None:
    from fivestep.workflow import defaults

    changes = {"lr": 0.1, "optimizer.betas": [0.8, 0.9], "model.width": 7, "dropout": 0.2, "loss.delta": 2.0}
    made = variants.applied({"loss": "HuberLoss", "epochs": 3}, changes, defaults())
    assert made == {
        "loss": {"name": "HuberLoss", "delta": 2.0}, "epochs": 3, "lr": 0.1, "optimizer": {"name": "AdamW", "betas": [0.8, 0.9]},
        "model_args": {"width": 7, "dropout": 0.2},
    }  # fmt: skip


def test_random_draws_lie_in_their_ranges_and_depend_on_the_seed_alone() -> None:
    over = {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "model.width": {"low": 3, "high": 6, "int": True}}
    drawn = variants.expand(over, search="random", trials=200, seed=3)
    assert drawn == variants.expand(over, search="random", trials=200, seed=3) and drawn != variants.expand(over, search="random", trials=200, seed=4)
    assert {one["model.width"] for one in drawn} == {3, 4, 5, 6}
    below = sum(one["lr"] < 10**-2.5 for one in drawn)
    assert all(1e-4 <= one["lr"] <= 1e-1 for one in drawn) and 70 < below < 130  # half of them below the middle of the decades


def test_a_name_that_other_libraries_use_is_answered_with_ours(splits: Any) -> None:
    for given, ours in (("learning_rate", "'lr'"), ("weight_decay", "'optimizer.weight_decay'"), ("momentum", "'optimizer.momentum'")):
        with pytest.raises(fs.errors.UsageError, match=f"Did you mean {ours}"):
            variants.applied({}, {given: 0.1}, workflow.defaults())
