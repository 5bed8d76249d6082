"""Averages of the weights are torch's: SWA that of `AveragedModel`, EMA the formula; the model's own weights come back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import fivestep as fs
from fivestep.errors import SettingsError
from fivestep.train.averaging import Average, make_average

PLAIN = dict(folder=None, quiet=True, device="cpu", checks=False, loss="MSELoss", optimizer="SGD", lr=0.1, batch_size="all", keep="last")


def net():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def data(rows: int = 24):
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    return x, x[:, :1] * torch.tensor([1.0, 2.0]) + 0.5


def by_hand(epochs: int, after_epoch, make=net):
    torch.manual_seed(0)
    model = make()
    x, y = data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        after_epoch(epoch, model)


def close(one, other, tolerance=1e-6):
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize(("spec", "first"), [("SWA", 6), ({"name": "SWA", "start": 0.0}, 0), ({"name": "SWA", "start": 0.5}, 4)], ids=str)
def test_swa_is_torchs_averaged_model(spec, first):
    averaged = []

    def after_epoch(epoch, model):
        if not averaged:
            averaged.append(AveragedModel(model))
        if epoch >= first:
            averaged[0].update_parameters(model)

    by_hand(8, after_epoch)
    run = fs.fit(net, fs.Splits(data()), average=spec, epochs=8, **PLAIN)
    close(run.model, averaged[0].module)


def test_ema_is_its_formula_after_each_step():
    shadow = []

    def after_epoch(epoch, model):
        if epoch == 0:
            torch.manual_seed(0)
            shadow.extend(parameter.detach().clone() for parameter in net().parameters())
        for mean, parameter in zip(shadow, model.parameters()):
            mean.mul_(0.8).add_(parameter.detach(), alpha=0.2)

    by_hand(6, after_epoch)
    run = fs.fit(net, fs.Splits(data()), average={"name": "EMA", "decay": 0.8}, epochs=6, **PLAIN)
    for mean, parameter in zip(shadow, run.model.parameters()):
        torch.testing.assert_close(mean, parameter.detach(), rtol=0, atol=1e-6)


def test_validation_and_the_kept_weights_are_those_of_the_average():
    x, y = data()
    run = fs.fit(net, fs.Splits((x, y), (x[:9], y[:9])), average={"name": "EMA", "decay": 0.9}, epochs=5, **PLAIN)
    with torch.no_grad():
        value = float(F.mse_loss(run.model(x[:9]), y[:9]))
    assert value == pytest.approx(run.history[-1]["val_loss"], rel=1e-5)


def test_the_models_own_weights_come_back_and_training_is_not_touched():
    model = net()
    average = Average(model, "EMA", decay=0.5)
    own = copy.deepcopy(model.state_dict())
    with average.applied():  # before the first update nothing is exchanged
        assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    average.update()
    with pytest.raises(RuntimeError), average.applied():
        torch.testing.assert_close(model[0].bias, own["0.bias"] + 0.5)
        raise RuntimeError
    torch.testing.assert_close(model[0].bias, own["0.bias"] + 1)


def test_batch_norms_statistics_are_averaged_and_its_counter_is_not():
    model = nn.BatchNorm1d(3)
    average = Average(model, "EMA", decay=0.5)
    model(torch.full((4, 3), 10.0) + torch.randn(4, 3))
    average.update()
    with average.applied():
        assert float(model.running_mean.mean()) == pytest.approx(0.5, abs=0.1) and int(model.num_batches_tracked) == 1


def test_a_state_goes_out_and_in():
    one, other = Average(net(), "EMA", decay=0.5), Average(net(), "EMA", decay=0.5)
    one.update()
    other.load_state_dict(one.state_dict())
    assert other.count == 1 and all(map(torch.equal, one.averaged, other.averaged))


def test_the_layer_of_a_loss_is_averaged_as_well():
    loss = {"name": "AdaptiveLogSoftmaxWithLoss", "in_features": 2, "n_classes": 4, "cutoffs": [2]}
    settings = PLAIN | {"loss": loss}
    x, labels = data()[0], torch.arange(24) % 4
    start = fs.fit(net, fs.Splits((x, labels)), epochs=1, **settings | {"lr": 0.0})
    run = fs.fit(net, fs.Splits((x, labels)), epochs=3, average={"name": "EMA", "decay": 1.0}, **settings)
    for one, other in zip(start._predictor.head.parameters(), run._predictor.head.parameters()):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("spec", ["EWA", {"name": "EMA", "beta": 0.9}, {"decay": 0.9}], ids=str)
def test_what_is_not_known_is_refused(spec):
    with pytest.raises(SettingsError, match="EMA"):
        make_average(spec, net())
    assert make_average(None, net()) is None
