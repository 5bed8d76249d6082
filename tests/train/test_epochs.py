"""A run of epochs: which weights are kept, when it ends, what it tells, and that watching changes no bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fivestep as fs
from fivestep.errors import SettingsError
from fivestep.train.events import EpochEnded, RunEnded, RunStarted

PLAIN = dict(folder=None, quiet=True, device="cpu", checks=False)


def net():
    return nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.2), nn.Tanh(), nn.Linear(5, 2))


def splits(val: bool = True, test: bool = False):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    y = x[:, :1] * torch.tensor([1.0, 2.0]) + torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    return fs.Splits((x[:24], y[:24]), (x[24:33], y[24:33]) if val else None, (x[33:], y[33:]) if test else None)


def fit(**settings):
    return fs.fit(settings.pop("model", net), settings.pop("splits", None) or splits(), **(PLAIN | {"loss": "MSELoss", "lr": 0.05} | settings))


def val_loss(run):
    source = run.splits.val.data.source
    with torch.no_grad():
        return float(F.mse_loss(run.model.eval()(source.inputs), source.targets[0]))


def test_the_best_weights_are_restored():
    run = fit(epochs=30, lr=0.3)
    losses = [row["val_loss"] for row in run.history]
    best = min(range(30), key=losses.__getitem__)
    assert best < 29, "the last epoch must not be the best for the test to mean something"
    assert val_loss(run) == pytest.approx(losses[best], rel=1e-6) and run.best["epoch"] == best + 1


def test_keep_last_keeps_the_last():
    run = fit(epochs=30, lr=0.3, keep="last")
    assert val_loss(run) == pytest.approx(run.history[-1]["val_loss"], rel=1e-6)
    assert run.best["epoch"] == 30


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_ends_the_run_that_many_validations_after_the_best(patience):
    run = fit(epochs=200, lr=0.3, patience=patience)
    losses = [row["val_loss"] for row in run.history]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == best + 1 + patience < 200
    assert val_loss(run) == pytest.approx(losses[best], rel=1e-6)


def test_patience_none_never_ends_a_run():
    assert len(fit(epochs=40, lr=0.3, patience=None).history) == 40


def test_validate_every_validates_then_and_at_the_end():
    run = fit(epochs=7, validate_every=3)
    assert [row["epoch"] for row in run.history if row.get("val_loss") is not None] == [3, 6, 7]
    assert torch.equal(fit(epochs=7, keep="last").model[0].weight, fit(epochs=7, keep="last", validate_every=3).model[0].weight)


def test_plateau_is_asked_after_a_validation_only():
    run = fit(epochs=6, validate_every=2, optimizer="SGD", scheduler={"name": "ReduceLROnPlateau", "patience": 0, "threshold": 1e9}, lr=0.1)
    assert [row["lr"][0] for row in run.history] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def labelled():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] + 0.5 * torch.randn(60, generator=torch.Generator().manual_seed(2)) > 0).long()
    return fs.Splits((x[:40], y[:40]), (x[40:], y[40:]))


def test_a_metric_may_choose_the_epoch():
    run = fit(splits=labelled(), loss="CrossEntropyLoss", monitor="accuracy", epochs=12, lr=0.1, calibrate=False)
    accuracies = [row["accuracy"] for row in run.history]
    assert run.best["accuracy"] == max(accuracies) and run.best["epoch"] == accuracies.index(max(accuracies)) + 1
    assert run.evaluate("val")["accuracy"].value == pytest.approx(max(accuracies))


def test_a_function_may_choose_the_epoch_and_says_its_direction():
    def largest(outputs, targets):
        return float(outputs.abs().max())

    with pytest.raises(SettingsError, match="mode="):
        fit(splits=labelled(), loss="CrossEntropyLoss", metrics=[largest], monitor="largest", epochs=2)
    run = fit(splits=labelled(), loss="CrossEntropyLoss", metrics={"largest": largest}, monitor="largest", mode="max", epochs=5)
    assert run.best["largest"] == max(row["largest"] for row in run.history)


def test_a_metric_that_is_nan_is_never_the_best():
    values = iter([1.0, math.nan, 3.0, math.nan])
    run = fit(metrics={"odd": lambda outputs, targets: next(values)}, monitor="odd", mode="max", epochs=4)
    assert run.best["epoch"] == 3


def test_keep_best_without_validation_is_refused():
    with pytest.raises(SettingsError, match="validation"):
        fit(splits=splits(val=False), keep="best", epochs=1)


def test_observers_are_told_in_order_and_change_no_bit():
    events = []

    def observer(event):
        torch.rand(7)  # a plot may draw random numbers
        events.append(event)

    watched, plain = fit(epochs=3, observers=[observer], keep="last"), fit(epochs=3, keep="last")
    assert [type(event) for event in events] == [RunStarted, EpochEnded, EpochEnded, EpochEnded, RunEnded]
    assert watched.weights_sha256 == plain.weights_sha256
    assert [event.epoch for event in events[1:4]] == [1, 2, 3]
    assert events[1].step == 1 and len(events[1].losses) == 1


def test_s3_no_draw_of_foreign_code_moves_the_training(monkeypatch):
    """Observers, metrics and augmentation that seed and draw from every global generator: dropout's masks and the order of rows stay as they are."""
    import random

    import numpy

    def disturb(*_):
        torch.manual_seed(7)
        random.seed(7)
        numpy.random.seed(7)
        return torch.rand(3) + random.random() + numpy.random.rand()

    def augment(inputs, generator):
        disturb()
        return inputs

    def batches(epoch, generator):
        disturb()
        return torch.randperm(24, generator=generator).split(6)

    plain = fit(
        epochs=3, keep="last", augment=lambda inputs, generator: inputs, batches=lambda epoch, generator: torch.randperm(24, generator=generator).split(6)
    )
    disturbed = fit(
        epochs=3, keep="last", augment=augment, batches=batches, observers=[disturb], metrics={"odd": lambda outputs, targets: float(disturb().sum())}
    )
    assert plain.weights_sha256 == disturbed.weights_sha256


def test_validation_and_watching_the_test_change_no_bit():
    with_val, without = fit(epochs=4, keep="last"), fit(epochs=4, splits=splits(val=False))
    watched = fit(epochs=4, keep="last", splits=splits(test=True), watch_test=True)
    assert with_val.weights_sha256 == without.weights_sha256 == watched.weights_sha256
    assert all(row["test_loss"] is not None for row in watched.history)


def test_the_training_loss_is_the_mean_over_steps():
    run = fit(epochs=2, batch_size=10, keep="last")
    assert all(math.isfinite(row["train_loss"]) for row in run.history) and run.history[-1]["step"] == 6


def test_best_weights_of_the_loss_are_restored_too():
    loss = {"name": "AdaptiveLogSoftmaxWithLoss", "in_features": 2, "n_classes": 4, "cutoffs": [2]}
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 4
    run = fit(splits=fs.Splits((x[:30], labels[:30]), (x[30:], labels[30:])), loss=loss, epochs=25, lr=0.2)
    assert run.best["epoch"] < 25
    with torch.no_grad():
        value = float(run._predictor.head(run.model.eval()(x[30:]), labels[30:]).loss)
    assert value == pytest.approx(run.best["val_loss"], rel=1e-5)


def test_the_layer_of_a_loss_starts_from_the_runs_seed():
    loss = {"name": "AdaptiveLogSoftmaxWithLoss", "in_features": 2, "n_classes": 4, "cutoffs": [2]}
    heads = []
    for seed in (0, 0, 1):
        torch.rand(5)
        run = fit(splits=fs.Splits((torch.ones(9, 3), torch.arange(9) % 4)), loss=loss, epochs=1, seed=seed)
        heads.append(next(run._predictor.head.parameters()).detach().clone())
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
