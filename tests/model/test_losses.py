"""Losses: each one of torch.nn is known, and one is made from every way to write it."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from losses_of_torch import EVERY_LOSS, C, D, N, draw
from torch import nn

from fivestep.errors import SettingsError
from fivestep.model.loss_means import batch_weight, mean_with_weights
from fivestep.model.losses import LOSSES, auto_loss, loss_name, make_loss


def test_every_loss_of_torch_nn_is_known():
    assert set(LOSSES) == set(EVERY_LOSS)
    assert all(kind.notes for kind in LOSSES.values())


def test_functions_of_torch_are_understood_as_their_classes():
    target = torch.tensor([0, 1, -100, 2])
    assert batch_weight(F.cross_entropy, (target,)) == 3
    assert batch_weight(functools.partial(F.cross_entropy, ignore_index=1), (target,)) == 3
    assert batch_weight(functools.partial(F.mse_loss, reduction="sum"), (torch.zeros(3, 2),)) is None
    assert make_loss(F.cross_entropy) is F.cross_entropy
    weighted = make_loss(F.mse_loss, per_example=True)
    outputs, wanted = draw(N, 2), draw(N, 2)
    torch.testing.assert_close(mean_with_weights(weighted, outputs, (wanted,), torch.ones(N)), F.mse_loss(outputs, wanted))


def test_a_subclass_with_a_forward_of_its_own_is_the_users():
    class Focal(nn.CrossEntropyLoss):
        def forward(self, input, target):
            return (super().forward(input, target) ** 2).mean()

    class Named(nn.CrossEntropyLoss):
        pass

    assert loss_name(Focal()) is None
    assert loss_name(Named()) == "CrossEntropyLoss"
    assert batch_weight(Focal(ignore_index=0), (torch.tensor([0, 1, 2]),)) == 3


def test_a_loss_is_made_from_every_way_to_write_it():
    assert make_loss("HuberLoss").delta == 1.0
    assert make_loss({"name": "HuberLoss", "delta": 2.0}).delta == 2.0
    assert make_loss({"name": nn.HuberLoss, "delta": 2.0}).delta == 2.0
    assert isinstance(make_loss(nn.L1Loss), nn.L1Loss)
    instance = nn.L1Loss()
    assert make_loss(instance) is instance

    def quantile(outputs, target, level=0.5):
        return torch.maximum(level * (target - outputs), (level - 1) * (target - outputs)).mean()

    assert make_loss(quantile) is quantile
    assert make_loss({"name": quantile, "level": 0.9})(torch.zeros(2), torch.ones(2)) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("MSEloss", 'Did you mean "MSELoss"'),
        ("mse", 'Did you mean "MSELoss"'),
        ("cross_entropy", 'Did you mean "CrossEntropyLoss"'),
        ({"delta": 1.0}, 'no "name"'),
        ({"name": "HuberLoss", "detla": 1.0}, "It takes: reduction, delta"),
        ("AdaptiveLogSoftmaxWithLoss", "in_features, n_classes, cutoffs"),
        (3, "is no loss"),
        (None, "is no loss"),
        ({"name": nn.MSELoss(), "reduction": "sum"}, "instance already"),
        ({"name": "MSELoss", "reduction": "none"}, "one number is needed"),
        (nn.MSELoss(reduction="none"), "one number is needed"),
    ],
)
def test_what_is_no_loss_is_refused_with_the_way_out(spec, match):
    with pytest.raises(SettingsError, match=match):
        make_loss(spec)


def test_class_weights_go_where_the_loss_has_a_place_for_them():
    weights = torch.tensor([1.0, 2.0])
    for name in ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss"):
        assert torch.equal(make_loss(name, class_weights=weights).weight, weights)
    assert torch.equal(make_loss("BCEWithLogitsLoss", class_weights=weights).pos_weight, weights)
    assert make_loss(F.cross_entropy, class_weights=weights).keywords["weight"] is weights
    for spec in ("MSELoss", nn.CrossEntropyLoss(), lambda outputs, target: 0):
        with pytest.raises(SettingsError, match="class_weights"):
            make_loss(spec, class_weights=weights)
    with pytest.raises(SettingsError, match="twice"):
        make_loss({"name": "CrossEntropyLoss", "weight": weights}, class_weights=weights)


def test_sample_weights_need_a_value_per_example():
    instance = nn.CrossEntropyLoss(label_smoothing=0.1)
    made = make_loss(instance, per_example=True)
    assert made.reduction == "none" and instance.reduction == "mean" and made.label_smoothing == 0.1
    with pytest.raises(SettingsError, match="no weighted mean"):
        make_loss({"name": "MSELoss", "reduction": "sum"}, per_example=True)
    with pytest.raises(SettingsError, match="no weighted mean"):
        make_loss(nn.KLDivLoss(reduction="batchmean"), per_example=True)
    with pytest.raises(SettingsError, match="one per example"):
        mean_with_weights(lambda outputs, target: (outputs - target).mean(), torch.zeros(4), (torch.ones(4),), torch.ones(4))
    own = mean_with_weights(lambda outputs, target: (outputs - target) ** 2, torch.zeros(3), (torch.tensor([1.0, 2.0, 3.0]),), torch.tensor([1.0, 0.0, 3.0]))
    assert own == pytest.approx((1 + 27) / 4)


def test_a_loss_with_parameters_keeps_them_under_sample_weights():
    if "LinearCrossEntropyLoss" not in LOSSES:
        pytest.skip("torch 2.13 brought it")
    instance = nn.LinearCrossEntropyLoss(D, C)
    assert make_loss(instance, per_example=True).linear.weight is instance.linear.weight


def test_the_loss_of_each_task():
    assert auto_loss("regression", (9, 1)) == auto_loss("regression", (9, 3)) == "MSELoss"
    assert auto_loss("multiclass", (9, 4)) == auto_loss("binary", (9, 2)) == "CrossEntropyLoss"
    assert auto_loss("binary", (9, 1)) == auto_loss("binary", (9,)) == auto_loss("multilabel", (9, 3)) == "BCEWithLogitsLoss"
    with pytest.raises(SettingsError, match="Name the loss"):
        auto_loss(None, (9, 1))
