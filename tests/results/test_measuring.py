"""A metric is one number, whoever asks: after an epoch, in `evaluate`, in a comparison or sweep; under one name, with the same inputs."""

from __future__ import annotations

import functools

import pytest
import torchmetrics

import fivestep as fs
from fivestep.results.measuring import measure

KNOWN = {"epoch", "step", "train_loss", "val_loss", "test_loss", "lr", "seconds", "best"}


def distance(outputs, targets, power=1):
    return ((outputs - targets).abs() ** power).double().mean()


def highest(outputs, targets):
    return outputs.double().max()  # of raw outputs above 1 or below, of probabilities never above 1


GIVEN = {
    "a name of one's own": lambda function: {"mine": function},
    "a function": lambda function: [function],
    "a lambda": lambda function: [lambda outputs, targets: function(outputs, targets)],
    "a partial": lambda function: [functools.partial(function)],
    "beside a name": lambda function: ["loss", function],
}


@pytest.mark.parametrize("how", GIVEN)
@pytest.mark.parametrize(("target", "function"), [("body_mass_g", distance), ("species", highest)])
def test_a_function_of_ones_own_gives_one_number_whoever_asks(target, function, how):
    splits = fs.Data.table(fs.datasets.penguins(), target=target, missing=["NA"], without_target="drop").split(seed=0)
    run = fs.fit("linear", splits, metrics=GIVEN[how](function), epochs=1, lr=0.1, folder=None, quiet=True, checks=False, calibrate=False, device="cpu")
    (name,) = set(run.history[-1]) - KNOWN
    after_the_epoch, scored = run.history[-1][name], run.evaluate("val")[name].value
    assert after_the_epoch == pytest.approx(scored) and measure(run, name, mode="min").value == pytest.approx(scored)


def test_an_object_of_torchmetrics_is_measured_in_the_unit_of_the_target():
    splits = fs.Data.table(fs.datasets.penguins(), target="body_mass_g", missing=["NA"], without_target="drop").split(seed=0)
    run = fs.fit("linear", splits, metrics=[torchmetrics.MeanAbsoluteError()], epochs=1, folder=None, quiet=True, checks=False, device="cpu")
    assert measure(run, "MeanAbsoluteError").value == pytest.approx(run.evaluate("val", metrics=["mae"])["mae"].value, rel=1e-5)
