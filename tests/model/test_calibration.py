"""A temperature is kept only where it helps beyond noise, and the calibration error is torchmetrics'."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torchmetrics.functional as theirs

from fivestep.errors import DataError, UsageError
from fivestep.model.calibration import expected_calibration_error, fit_temperature


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_of(logits: torch.Tensor, seed: int = 1) -> torch.Tensor:
    """Labels drawn with the logits' own probabilities: a perfectly calibrated model."""
    return torch.multinomial(logits.softmax(1), 1, generator=draw(seed))[:, 0]


def nll(logits, targets, temperature):
    return torch.nn.functional.cross_entropy(logits.double() / temperature, targets).item()


@pytest.mark.parametrize("truth", [0.4, 2.5])
def test_the_temperature_that_was_put_in_is_found(truth):
    logits = 2 * torch.randn(3000, 4, generator=draw())
    found = fit_temperature(logits * truth, labels_of(logits), "multiclass")
    assert found == pytest.approx(truth, rel=0.1) and found.after < found.before
    assert ("too sure" in found.reason) == (truth > 1)


def test_no_temperature_nearby_has_a_lower_loss():
    logits = 2 * torch.randn(500, 3, generator=draw())
    targets = labels_of(logits)
    found = fit_temperature(logits * 3, targets, "multiclass")
    best = nll(logits * 3, targets, found)
    assert found.after == pytest.approx(best, rel=1e-12)
    assert all(best <= nll(logits * 3, targets, found * factor) for factor in (0.9, 0.999, 1.001, 1.1))


def test_binary_logits_of_one_or_two_columns_give_the_same():
    logits = 2 * torch.randn(800, 2, generator=draw(), dtype=torch.float64)
    targets = labels_of(logits)
    margin = (logits[:, 1] - logits[:, 0]) * 3
    found = [
        fit_temperature(z, targets, task) for z, task in ((logits * 3, "multiclass"), (logits * 3, "binary"), (margin, "binary"), (margin[:, None], "binary"))
    ]
    assert found == pytest.approx([found[0]] * 4) and found[0] > 2


def test_several_labels_share_one_temperature():
    logits = torch.randn(700, 5, generator=draw())
    targets = torch.bernoulli(logits.sigmoid(), generator=draw(1))
    assert fit_temperature(logits * 2, targets, "multilabel") == pytest.approx(2, rel=0.15)


def test_a_calibrated_model_is_left_alone_about_95_times_in_100():
    kept = 0
    for seed in range(200):
        logits = 1.5 * torch.randn(250, 3, generator=draw(seed))
        found = fit_temperature(logits, labels_of(logits, seed + 1000), "multiclass")
        kept += found != 1.0
        assert found == 1.0 or found.after < found.before
        assert found != 1.0 or "noise" in found.reason
    assert kept / 200 <= 0.10


def test_rows_that_are_all_right_say_nothing_about_how_sure_to_be():
    targets = torch.arange(3).repeat(10)
    found = fit_temperature(5.0 * torch.nn.functional.one_hot(targets, 3), targets, "multiclass")
    assert found == 1.0 and "how sure" in found.reason


def test_useless_logits_are_flattened():
    logits = 5 * torch.randn(400, 3, generator=draw())
    assert fit_temperature(logits, torch.randint(3, (400,), generator=draw(1)), "multiclass") > 5


def test_rows_to_ignore_and_weights_of_zero_are_the_same_as_rows_left_out():
    logits = 6 * torch.randn(300, 3, generator=draw())
    targets = labels_of(logits / 3)
    ignored, weights = targets.clone(), torch.ones(300)
    ignored[::3], weights[::3] = -100, 0
    keep = ignored >= 0
    expected = fit_temperature(logits[keep], targets[keep], "multiclass")
    assert expected > 1.5
    assert fit_temperature(logits, ignored, "multiclass") == pytest.approx(expected)
    assert fit_temperature(logits, targets, "multiclass", weights=weights) == pytest.approx(expected)


def test_classes_that_are_ruled_out_do_not_disturb():
    logits = 3 * torch.randn(400, 3, generator=draw())
    targets = labels_of(logits / 2)
    ruled_out = torch.cat([logits, torch.full((400, 1), -math.inf)], dim=1)
    assert fit_temperature(ruled_out, targets, "multiclass") == pytest.approx(fit_temperature(logits, targets, "multiclass"))


def test_what_cannot_be_fitted_stays_1_and_says_so():
    logits = torch.randn(20, 3, generator=draw())
    logits[4, 1] = math.nan
    assert "row 4" in fit_temperature(logits, torch.zeros(20), "multiclass").reason
    assert fit_temperature(torch.zeros(0, 3), torch.zeros(0), "multiclass") == 1.0
    ruled_out = torch.tensor([[-math.inf, 0.0], [0.0, 1.0]])
    assert "-inf" in fit_temperature(ruled_out, torch.tensor([0, 1]), "multiclass").reason
    with pytest.raises(UsageError, match="do not fit"):
        fit_temperature(torch.zeros(5, 3), torch.zeros(4), "multiclass")
    with pytest.raises(UsageError, match="regression"):
        fit_temperature(torch.zeros(5), torch.zeros(5), "regression")
    with pytest.raises(DataError, match="Row 2 has a label outside of 0 to 2"):
        fit_temperature(torch.zeros(5, 3), torch.tensor([0, 1, 3, 0, 0]), "multiclass")


def test_a_temperature_is_a_number_that_keeps_its_reason_when_copied():
    found = fit_temperature(torch.zeros(4, 2), torch.zeros(4), "multiclass")
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert other == found == 1.0 and other.reason == found.reason and other.before == found.before


@pytest.mark.parametrize("bins", [5, 15])
@pytest.mark.parametrize("classes", [None, 2, 4])
def test_calibration_error_equals_torchmetrics(bins, classes):
    logits = torch.randn(333, classes or 2, generator=draw())
    p, targets = (2 * logits).softmax(1), labels_of(logits)
    p[0] = torch.nn.functional.one_hot(torch.tensor(1), classes or 2)  # a probability of exactly 1 has its own bin
    if classes is None:
        expected = theirs.calibration_error(p[:, 1], targets, task="binary", n_bins=bins)
        found = expected_calibration_error(p[:, 1], targets, bins)
    else:
        expected = theirs.calibration_error(p, targets, task="multiclass", num_classes=classes, n_bins=bins)
        found = expected_calibration_error(p, targets, bins)
    assert found.value == pytest.approx(expected.item(), abs=1e-6) and found.low <= found.value <= found.high


def test_the_interval_of_the_calibration_error_covers_the_truth():
    truth, inside = None, 0
    for seed in range(-1, 200):
        n = 400_000 if seed < 0 else 500
        logits = 1.5 * torch.randn(n, 3, generator=draw(seed + 1))
        found = expected_calibration_error((2.5 * logits).softmax(1), labels_of(logits, seed + 999), samples=1 if seed < 0 else 300, seed=max(seed, 0))
        if seed < 0:
            truth = found.value
        else:
            inside += found.low <= truth <= found.high
    assert truth > 0.1 and 0.90 <= inside / 200 <= 0.99


def test_a_calibrated_model_is_not_shown_to_be_miscalibrated():
    logits = 1.5 * torch.randn(400, 3, generator=draw())
    found = expected_calibration_error(logits.softmax(1), labels_of(logits))
    assert found.low == 0.0 < found.value  # its percentiles alone would lie above 0.02, by noise


def test_no_bins_are_refused():
    with pytest.raises(UsageError, match="bins is 0"):
        expected_calibration_error(torch.tensor([0.5]), torch.tensor([1]), bins=0)
