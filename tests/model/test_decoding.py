"""Outputs are read as their loss means them: probabilities, labels, values in the target's own unit; and a decoding survives JSON."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from fivestep.errors import ArtifactError, UsageError
from fivestep.model.decoding import Decoding, decoding_for, outputs_from

N, C, T, D = 23, 5, 11, 7  # examples, classes, time steps, features: all axes different


def test_probabilities_of_two_classes_have_two_columns_whatever_the_models_width():
    logits = torch.tensor([[-2.0], [0.5], [40.0]])
    wide = torch.cat([torch.zeros(3, 1), logits], 1)
    by_one = decoding_for("BCEWithLogitsLoss", "binary").probabilities(logits)
    by_two = decoding_for("CrossEntropyLoss", "binary").probabilities(wide)
    flat = decoding_for("BCEWithLogitsLoss", "binary").probabilities(logits[:, 0])
    by_sigmoid = decoding_for("BCELoss", "binary").probabilities(logits.double().sigmoid())
    assert by_one.shape == (3, 2) and by_one.dtype == torch.float64
    assert by_one[2, 0] > 0, "1 - sigmoid(40) is 0 in float64: log loss would be infinite"
    torch.testing.assert_close(by_one, by_two)
    torch.testing.assert_close(by_one, flat)
    torch.testing.assert_close(by_one, by_sigmoid, rtol=0, atol=1e-15)


def test_labels_are_the_most_probable_class_and_the_temperature_does_not_change_them():
    outputs = torch.tensor([[0.1, 2.0, -1.0], [3.0, 0.0, 0.0]])
    for temperature in (1.0, 2.5):
        decoding = decoding_for("CrossEntropyLoss", "multiclass", classes=["red", "green", "blue"], temperature=temperature)
        assert decoding.labels(outputs) == ["green", "red"]
        assert decoding.probabilities(outputs).argmax(1).tolist() == [1, 0]
    assert decoding_for("CrossEntropyLoss").labels(outputs).tolist() == [1, 0]
    assert decoding_for("BCEWithLogitsLoss", classes=("no", "yes")).labels(torch.tensor([[-1.0], [2.0]])) == ["no", "yes"]
    assert decoding_for("BCELoss", classes=("no", "yes")).labels(torch.tensor([0.4, 0.6])) == ["no", "yes"]
    assert decoding_for("BCEWithLogitsLoss", "multilabel").labels(torch.tensor([[-1.0, 2.0], [3.0, -4.0]])).tolist() == [[0, 1], [1, 0]]
    images = torch.randn(2, 3, 4, 5)
    assert decoding_for("CrossEntropyLoss").labels(images).shape == (2, 4, 5)
    assert decoding_for("CrossEntropyLoss").probabilities(images).sum(1).allclose(torch.ones(2, 4, 5, dtype=torch.float64))


def test_a_temperature_divides_the_logits_whichever_form_the_outputs_have():
    logits = torch.randn(4, 3)
    cool = decoding_for("CrossEntropyLoss", temperature=2.0).probabilities(logits)
    torch.testing.assert_close(cool, (logits.double() / 2).softmax(1))
    torch.testing.assert_close(decoding_for("NLLLoss", temperature=2.0).probabilities(logits.double().log_softmax(1)), cool)
    one = torch.randn(4)
    torch.testing.assert_close(
        decoding_for("BCELoss", temperature=2.0).probabilities(one.double().sigmoid()), decoding_for("BCEWithLogitsLoss", temperature=2.0).probabilities(one)
    )


def test_values_come_back_in_the_targets_unit_in_float64():
    target = torch.tensor([[1e6 + 1.0, -3.0], [1e6 + 2.0, 5.0]], dtype=torch.float64)
    center, scale = target.mean(0), target.std(0)
    decoding = decoding_for("MSELoss", "regression", target_center=center, target_scale=scale, target_names=("a", "b"))
    torch.testing.assert_close(decoding.values((target - center) / scale), target, rtol=1e-15, atol=1e-9)
    one = decoding_for("MSELoss", target_center=3.0, target_scale=2.0)
    assert one.values(torch.tensor([[1.0], [2.0]])).tolist() == [[5.0], [7.0]]
    assert one.values(torch.tensor([1.0, 2.0])).tolist() == [5.0, 7.0]


def test_the_head_of_the_loss_is_applied_to_values():
    assert decoding_for("PoissonNLLLoss").values(torch.tensor([0.0, 1.0])).tolist() == [1.0, math.e]
    assert decoding_for(nn.PoissonNLLLoss(log_input=False)).values(torch.tensor([2.0])).tolist() == [2.0]
    assert decoding_for("GaussianNLLLoss").values((torch.tensor([2.0]), torch.tensor([9.0]))).tolist() == [2.0]
    assert decoding_for(lambda outputs, target: 0, "binary", output_shape=(9, 2)).head == "softmax"
    assert decoding_for(lambda outputs, target: 0, "binary", output_shape=(9, 1)).head == "sigmoid"
    assert decoding_for("BCEWithLogitsLoss", output_shape=(9, 3)).task == "multilabel"
    with pytest.raises(UsageError, match="no probabilities"):
        decoding_for("MSELoss").probabilities(torch.zeros(3))


def test_adaptive_log_softmax_predicts_by_its_own_log_prob():
    loss = nn.AdaptiveLogSoftmaxWithLoss(D, C, [2])
    features = torch.randn(N, D)
    predict = outputs_from(loss)
    decoding = decoding_for(loss)
    assert torch.equal(decoding.labels(predict(features)), loss.predict(features))
    torch.testing.assert_close(decoding.probabilities(predict(features)).sum(1), torch.ones(N, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert outputs_from(nn.MSELoss()) is None


def test_a_decoding_survives_json_to_the_bit():
    for decoding in (
        Decoding(),
        decoding_for("MSELoss", target_center=[0.1, 1 / 3], target_scale=[2 / 7, 5e-324], target_names=["preis €", "b"]),
        decoding_for("CrossEntropyLoss", classes=[True, False], temperature=1.2345678901234567),
        decoding_for("CrossEntropyLoss", classes=torch.tensor([1, 2, 3])),
        decoding_for("CrossEntropyLoss", classes=["1", "2"]),
        decoding_for("CrossEntropyLoss", classes=[1.0, 2.0]),
    ):
        back = Decoding.from_json(json.loads(json.dumps(decoding.to_json(), allow_nan=False)))
        assert back == decoding and repr(back) == repr(decoding)


@pytest.mark.parametrize(
    "change",
    [
        {"head": "eval"}, {"head": 3}, {"head": None}, {"head": {}}, {"task": "world"}, {"extra": 1}, {"target_names": None}, {"target_names": [1]},
        {"temperature": 0}, {"temperature": -1.0}, {"temperature": True}, {"temperature": "1"}, {"temperature": float("nan")}, {"temperature": float("inf")},
        {"classes": "ab"}, {"classes": [["a"]]}, {"classes": [None]}, {"classes": ["a", "a"]}, {"classes": [float("inf")]},
        {"target_center": [1.0]}, {"target_scale": 3.0}, {"target_center": [1.0], "target_scale": [1.0, 2.0]}, {"target_center": [True], "target_scale": [1.0]},
        {"target_center": [float("nan")], "target_scale": [1.0]}, {"target_center": [10**400], "target_scale": [1.0]},
    ],
)  # fmt: skip
def test_a_decoding_that_means_nothing_is_refused(change):
    with pytest.raises(ArtifactError):
        Decoding.from_json(Decoding().to_json() | change)


@pytest.mark.parametrize("entry", [None, [], "x", {}, {"head": "identity"}])
def test_what_is_no_decoding_is_refused(entry):
    with pytest.raises(ArtifactError):
        Decoding.from_json(entry)
