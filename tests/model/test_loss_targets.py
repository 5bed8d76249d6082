"""A target takes what its loss wants, and a wrong batch is named before it broadcasts."""

from __future__ import annotations

import re

import pytest
import torch
from losses_of_torch import EVERY_LOSS, case, ending
from torch import nn

from fivestep.model.loss_targets import prepare_target, shape_problem
from fivestep.model.losses import make_loss


@pytest.mark.parametrize(
    ("loss", "target", "output_shape", "shape", "dtype"),
    [
        ("MSELoss", torch.zeros(6, dtype=torch.float64), (6, 1), (6, 1), torch.float32),
        ("MSELoss", torch.zeros(6, 1), (6,), (6,), torch.float32),
        ("MSELoss", torch.zeros(6), (6,), (6,), torch.float32),
        ("MSELoss", torch.zeros(6, 3, dtype=torch.int64), (6, 3), (6, 3), torch.float32),
        (nn.CrossEntropyLoss(), torch.zeros(6), (6, 4), (6,), torch.int64),
        ("CrossEntropyLoss", torch.zeros(6, 1, dtype=torch.int32), (6, 4), (6,), torch.int64),
        ("CrossEntropyLoss", torch.zeros(6, 4), (6, 4), (6, 4), torch.float32),
        ("BCEWithLogitsLoss", torch.zeros(6, dtype=torch.int64), (6, 1), (6, 1), torch.float32),
        ("BCEWithLogitsLoss", torch.zeros(6, dtype=torch.int64), (6,), (6,), torch.float32),
        ("MSELoss", torch.zeros(6), (6, 2), (6,), torch.float32),
        (lambda outputs, target: 0, torch.zeros(6), (6, 1), (6, 1), torch.float32),
        (lambda outputs, target: 0, torch.zeros(6, dtype=torch.int32), (6, 1), (6,), torch.int64),
    ],
)
def test_a_tables_target_takes_the_dtype_of_the_loss_and_the_models_trailing_one(loss, target, output_shape, shape, dtype):
    prepared = prepare_target(loss, target, output_shape)
    assert tuple(prepared.shape) == shape and prepared.dtype == dtype


def test_classes_of_soft_margin_become_signs():
    assert prepare_target("SoftMarginLoss", torch.tensor([0, 1, 0]), (3, 1)).flatten().tolist() == [-1, 1, -1]


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_a_right_batch_has_no_problem(name):
    torch.manual_seed(5)
    arguments, outputs, targets = case(name)
    assert shape_problem(make_loss({"name": name, **arguments}), ending(name, outputs), targets) is None


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "match"),
    [
        (nn.MSELoss(), torch.zeros(32, 1), (torch.zeros(32),), r"\(32, 1\).*\(32,\).*broadcast to \(32, 32\).*unsqueeze"),
        (nn.L1Loss(), torch.zeros(32), (torch.zeros(32, 1),), r"broadcast to \(32, 32\).*squeeze"),
        (nn.HuberLoss(), torch.zeros(32, 3), (torch.zeros(32, 2),), "do not fit together"),
        (nn.BCEWithLogitsLoss(), torch.zeros(8, 1), (torch.zeros(8),), r"\(8, 8\)"),
        (nn.SoftMarginLoss(), torch.zeros(8, 1), (torch.ones(8),), r"\(8, 8\)"),
        (nn.MSELoss(), torch.zeros(8, 1), (torch.zeros(8, 1, dtype=torch.int64),), "floating-point targets"),
        (nn.MSELoss(), torch.zeros(8, 1), (torch.zeros(8, 1, dtype=torch.float64),), "float64"),
        (nn.CrossEntropyLoss(), torch.zeros(8, 3), (torch.tensor([0, 1, 2, 3, 0, 0, 0, 0]),), "run from 0 to 3.*4 outputs"),
        (nn.CrossEntropyLoss(), torch.zeros(3, 3), (torch.tensor([1, 2, 3]),), "start at 1"),
        (nn.CrossEntropyLoss(), torch.zeros(3, 3), (torch.tensor([-1, 2, 0]),), "run from -1 to 2"),
        (nn.CrossEntropyLoss(), torch.zeros(8, 3), (torch.zeros(8),), "targets.long"),
        (nn.CrossEntropyLoss(), torch.zeros(8, 3), (torch.zeros(8, dtype=torch.int32),), "int64"),
        (nn.CrossEntropyLoss(), torch.zeros(8, 3), (torch.zeros(8, 1, dtype=torch.int64),), "squeeze"),
        (nn.CrossEntropyLoss(), torch.zeros(8, 3), (torch.zeros(8, 3, dtype=torch.int64),), "argmax"),
        (nn.CrossEntropyLoss(), torch.zeros(8, 1), (torch.zeros(8, dtype=torch.int64),), "over one output"),
        (nn.CrossEntropyLoss(weight=torch.ones(4)), torch.zeros(8, 3), (torch.zeros(8, dtype=torch.int64),), "4 class weights for 3"),
        (nn.NLLLoss(), torch.ones(8, 3), (torch.zeros(8, dtype=torch.int64),), "log_softmax"),
        (nn.BCELoss(), torch.full((8, 1), 2.0), (torch.zeros(8, 1),), "BCEWithLogitsLoss"),
        (nn.BCEWithLogitsLoss(), torch.zeros(8, 1), (torch.full((8, 1), 7.0),), "between 0 and 1"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(2)), torch.zeros(8, 1), (torch.ones(8, 1),), "positive weights"),
        (nn.SoftMarginLoss(), torch.zeros(8), (torch.zeros(8),), "-1 and 1"),
        (nn.MSELoss(), (torch.zeros(8), torch.zeros(8)), (torch.zeros(8),), "output=0"),
        (nn.GaussianNLLLoss(), torch.zeros(8, 1), (torch.zeros(8, 1),), "2 outputs"),
        (nn.GaussianNLLLoss(), (torch.zeros(8, 1), -torch.ones(8, 1)), (torch.zeros(8, 1),), "softplus"),
        (nn.PoissonNLLLoss(), torch.zeros(8, 1), (-torch.ones(8, 1),), "counts"),
        (nn.MSELoss(), torch.zeros(8, 1), (), "1 target, and the data give 0"),
        (nn.MSELoss(), {"logits": 1}, (torch.zeros(8),), "output="),
        (nn.MSELoss(), torch.zeros(8, dtype=torch.int64), (torch.zeros(8),), "floating-point outputs"),
        (nn.CTCLoss(), torch.zeros(6, 9, 5).log_softmax(-1), (torch.ones(6, 3, dtype=torch.int64), torch.full((6,), 9), torch.full((6,), 3)), "transpose"),
        (nn.CosineEmbeddingLoss(), (torch.zeros(8, 3), torch.zeros(8, 3)), (torch.ones(8, 1),), "squeeze"),
        (nn.MultiLabelMarginLoss(), torch.zeros(8, 3), (torch.full((8, 3), 3),), "label numbers"),
    ],
)  # fmt: skip
def test_a_wrong_batch_is_named_before_it_broadcasts(loss, outputs, targets, match):
    problem = shape_problem(loss, outputs, targets)
    assert problem is not None
    assert re.search(match, problem), problem


def test_ignored_labels_are_in_range_and_a_users_loss_is_not_judged():
    assert shape_problem(nn.CrossEntropyLoss(), torch.zeros(3, 2), (torch.tensor([0, -100, 1]),)) is None
    assert shape_problem(lambda outputs, target: 0, torch.zeros(3, 2), (torch.zeros(3),)) is None
