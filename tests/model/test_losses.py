"""Losses: each one of torch.nn is fed as torch wants it, and its parts add up to the whole batch."""

from __future__ import annotations

import functools
import itertools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fivestep.errors import SettingsError, UsageError
from fivestep.model import losses
from fivestep.model.decoding import outputs_from
from fivestep.model.losses import (
    LOSSES,
    auto_loss,
    batch_weight,
    call_loss,
    feed,
    make_loss,
    mean_with_weights,
    prepare_target,
    shape_problem,
)

N, C, T, D = 23, 5, 11, 7  # examples, classes, time steps, features: all axes different

EVERY_LOSS = sorted(name for name in dir(nn) if name.endswith(("Loss", "Loss2d")))


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def labels(*shape: int) -> Tensor:
    return torch.randint(0, C, shape)


def signs(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape).double() * 2 - 1


def case(name: str) -> tuple[dict, Tensor | tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Arguments, raw model outputs of N examples (before what `ending` does) and targets for a loss by name."""
    if name in ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"):
        return {}, draw(N, 3), (draw(N, 3),)
    if name == "GaussianNLLLoss":
        return {}, (draw(N, 3), draw(N, 3)), (draw(N, 3),)
    if name == "PoissonNLLLoss":
        return {"full": True}, draw(N, 3), (torch.randint(0, 6, (N, 3)).double(),)
    if name in ("CrossEntropyLoss", "NLLLoss"):
        return {}, draw(N, C), (labels(N),)
    if name == "NLLLoss2d":
        return {}, draw(N, C, 2, 3), (labels(N, 2, 3),)
    if name == "LinearCrossEntropyLoss":
        return {"in_features": D, "num_classes": C, "dtype": torch.float64}, draw(N, D), (labels(N),)
    if name == "AdaptiveLogSoftmaxWithLoss":
        return {"in_features": D, "n_classes": C, "cutoffs": [2], "div_value": 2.0, "dtype": torch.float64}, draw(N, D), (labels(N),)
    if name == "MultiMarginLoss":
        return {}, draw(N, C), (labels(N),)
    if name in ("BCELoss", "BCEWithLogitsLoss", "MultiLabelSoftMarginLoss"):
        return {}, draw(N, 3), (torch.randint(0, 2, (N, 3)).double(),)
    if name in ("SoftMarginLoss", "HingeEmbeddingLoss"):
        return {}, draw(N, 3), (signs(N, 3),)
    if name == "MultiLabelMarginLoss":
        lists = torch.full((N, C), -1)
        lists[:, 0], lists[::2, 1] = 3, 1
        return {}, draw(N, C), (lists,)
    if name == "KLDivLoss":
        return {}, draw(N, C), (draw(N, C).softmax(1),)
    if name == "CTCLoss":
        return {}, draw(N, T, C), (torch.randint(1, C, (N, 4)), torch.randint(8, T + 1, (N,)), torch.randint(1, 5, (N,)))
    if name == "CosineEmbeddingLoss":
        return {"margin": 0.2}, (draw(N, D), draw(N, D)), (signs(N),)
    if name == "MarginRankingLoss":
        return {"margin": 0.2}, (draw(N), draw(N)), (signs(N),)
    if name in ("TripletMarginLoss", "TripletMarginWithDistanceLoss"):
        return {}, (draw(N, D), draw(N, D), draw(N, D)), ()
    raise AssertionError(f"no case for {name}: LOSSES and this test must learn it")


VARIANTS = [(name, {}) for name in EVERY_LOSS] + [
    ("CrossEntropyLoss", {"ignore_index": 2}),
    ("CrossEntropyLoss", {"weight": torch.tensor([0.5, 1.0, 2.0, 0.25, 4.0], dtype=torch.float64)}),
    ("CrossEntropyLoss", {"weight": torch.tensor([0.5, 1.0, 2.0, 0.25, 4.0], dtype=torch.float64), "ignore_index": 0, "label_smoothing": 0.1}),
    ("NLLLoss", {"weight": torch.tensor([0.5, 1.0, 2.0, 0.25, 4.0], dtype=torch.float64), "ignore_index": 4}),
    ("NLLLoss2d", {"ignore_index": 1}),
    ("LinearCrossEntropyLoss", {"weight": torch.tensor([0.5, 1.0, 2.0, 0.25, 4.0], dtype=torch.float64), "ignore_index": 3}),
    ("MultiMarginLoss", {"weight": torch.tensor([0.5, 1.0, 2.0, 0.25, 4.0], dtype=torch.float64), "p": 2}),
    ("BCEWithLogitsLoss", {"pos_weight": torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)}),
    ("KLDivLoss", {"reduction": "batchmean"}),
]  # fmt: skip


def ending(name: str, outputs):
    """What the model of this loss ends in."""
    if name in ("NLLLoss", "NLLLoss2d", "KLDivLoss"):
        return outputs.log_softmax(1)
    if name == "CTCLoss":
        return outputs.transpose(0, 1).log_softmax(-1)  # time first
    if name == "BCELoss":
        return outputs.sigmoid()
    if name == "GaussianNLLLoss":
        return outputs[0], F.softplus(outputs[1]) + 0.01
    return outputs


def leaves(loss, outputs) -> list[Tensor]:
    tensors = list(outputs) if isinstance(outputs, tuple) else [outputs]
    return tensors + (list(loss.parameters()) if isinstance(loss, nn.Module) else [])


def take(nest, begin: int, end: int):
    return tuple(tensor[begin:end] for tensor in nest) if isinstance(nest, tuple) else nest[begin:end]


def gradients(loss, name: str, outputs, targets, edges: list[int], weights: Tensor | None = None) -> tuple[float, list[Tensor]]:
    """The loss and the gradients of outputs and loss parameters, accumulated over the parts between `edges`."""
    wanted = leaves(loss, outputs)
    for tensor in wanted:
        tensor.requires_grad_(True)
        tensor.grad = None
    fed = feed(loss, weighted=weights is not None)
    parts = [(take(outputs, a, b), take(targets, a, b), None if weights is None else weights[a:b], b - a) for a, b in itertools.pairwise(edges)]
    part_weights = [batch_weight(loss, part[1], weights=part[2], num_examples=part[3]) for part in parts]
    total = 0.0
    for (part_outputs, part_targets, part_sample_weights, _), part_weight in zip(parts, part_weights):
        assert part_weight is not None
        if part_weight == 0:
            continue
        extra = () if part_sample_weights is None else (part_sample_weights,)
        value = fed(ending(name, part_outputs), part_targets, *extra)
        if len(parts) > 1:
            value = value * (part_weight / sum(part_weights))
        value.backward()
        total += float(value.detach())
    return total, [tensor.grad if tensor.grad is not None else torch.zeros_like(tensor) for tensor in wanted]


UNEVEN = [0, 1, 4, 5, 10, 12, 20, N]  # seven parts of 1, 3, 1, 5, 2, 8 and 3 examples


def test_every_loss_of_torch_nn_is_known():
    assert set(LOSSES) == set(EVERY_LOSS)
    assert all(kind.notes for kind in LOSSES.values())


@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_parts_add_up_to_the_whole_batch(name, arguments):
    torch.manual_seed(3)
    fixed, outputs, targets = case(name)
    if "ignore_index" in arguments:
        targets[0][1:4] = arguments["ignore_index"]  # the second part holds ignored labels only: its mean would be 0/0
    loss = make_loss({"name": name, **fixed, **arguments})
    whole, whole_gradients = gradients(loss, name, outputs, targets, [0, N])
    parts, part_gradients = gradients(loss, name, outputs, targets, UNEVEN)
    assert math.isclose(whole, parts, rel_tol=1e-12, abs_tol=1e-12)
    for one, other in zip(whole_gradients, part_gradients):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [pair for pair in VARIANTS if "reduction" not in pair[1]],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_equal_sample_weights_give_torchs_own_mean_and_unequal_ones_add_up(name, arguments):
    torch.manual_seed(4)
    fixed, outputs, targets = case(name)
    if "ignore_index" in arguments:
        targets[0][1:4] = arguments["ignore_index"]
    plain = make_loss({"name": name, **fixed, **arguments})
    loss = make_loss({"name": name, **fixed, **arguments}, per_example=True)
    if isinstance(plain, nn.Module):
        loss.load_state_dict(plain.state_dict())
    ended = ending(name, outputs)
    torch.testing.assert_close(
        mean_with_weights(loss, ended, targets, torch.full((N,), 3.0, dtype=torch.float64)), call_loss(plain, ended, targets), rtol=1e-12, atol=1e-12
    )
    weights = torch.rand(N, dtype=torch.float64) + 0.1
    whole, whole_gradients = gradients(loss, name, outputs, targets, [0, N], weights)
    parts, part_gradients = gradients(loss, name, outputs, targets, UNEVEN, weights)
    assert math.isclose(whole, parts, rel_tol=1e-12, abs_tol=1e-12)
    for one, other in zip(whole_gradients, part_gradients):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    # An example of weight 0 has no influence: the same as leaving it out.
    weights[5:9] = 0
    kept = torch.cat([torch.arange(5), torch.arange(9, N)])
    without = mean_with_weights(loss, ending(name, index(outputs, kept)), index(targets, kept), weights[kept])
    torch.testing.assert_close(mean_with_weights(loss, ended, targets, weights), without, rtol=1e-12, atol=1e-12)


def index(nest, rows: Tensor):
    return tuple(tensor[rows] for tensor in nest) if isinstance(nest, tuple) else nest[rows]


def test_soft_labels_count_examples():
    loss = make_loss({"name": "CrossEntropyLoss", "weight": torch.rand(C, dtype=torch.float64)})
    outputs, target = draw(N, C, 2), draw(N, C, 2).softmax(1)
    assert batch_weight(loss, (target,)) == N * 2
    whole = gradients(loss, "CrossEntropyLoss", outputs, (target,), [0, N])[1]
    parts = gradients(loss, "CrossEntropyLoss", outputs, (target,), UNEVEN)[1]
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-12)


def test_linear_cross_entropy_over_several_axes():
    if "LinearCrossEntropyLoss" not in LOSSES:
        pytest.skip("torch 2.13 brought it")
    loss = make_loss({"name": "LinearCrossEntropyLoss", "in_features": D, "num_classes": C, "out_features": (2, 3), "dtype": torch.float64, "bias": True})
    outputs, target = draw(N, D), labels(N, 2, 3)
    assert batch_weight(loss, (target,)) == N * 6
    assert shape_problem(loss, outputs, (target,)) is None
    logits = outputs_from(loss)(outputs)
    torch.testing.assert_close(F.cross_entropy(logits, target), call_loss(loss, outputs, (target,)), rtol=1e-12, atol=1e-12)


def test_a_sum_has_no_weight_and_a_users_loss_counts_examples():
    assert batch_weight(nn.MSELoss(reduction="sum"), (torch.zeros(4, 3),)) is None
    assert batch_weight(lambda outputs, target: 0, (torch.zeros(4, 3),)) == 4
    assert batch_weight(lambda outputs: 0, (), num_examples=6) == 6
    with pytest.raises(UsageError, match="num_examples"):
        batch_weight(nn.TripletMarginLoss(), ())


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

    assert losses.loss_name(Focal()) is None
    assert losses.loss_name(Named()) == "CrossEntropyLoss"
    assert batch_weight(Focal(ignore_index=0), (torch.tensor([0, 1, 2]),)) == 3


def test_the_plain_case_is_one_call_with_torchs_bits():
    outputs, target = torch.randn(5, 3), torch.randn(5, 3)
    loss = nn.MSELoss()
    assert torch.equal(feed(loss)(outputs, (target,)), loss(outputs, target))
    mean, variance = torch.randn(5, 2), torch.rand(5, 2) + 0.1
    assert torch.equal(feed(nn.GaussianNLLLoss())((mean, variance), (target[:, :2],)), nn.GaussianNLLLoss()(mean, target[:, :2], variance))
    assert feed(lambda a, b, target: (a, b, target))((1, 2), (3,)) == (1, 2, 3)
    assert feed(lambda a, target: (a, target))(1, (3,)) == (1, 3)


# -- making ---------------------------------------------------------------------------------------------------------------------------------------------------


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


# -- targets --------------------------------------------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_what_every_row_adds_is_torchs_own_mean(name, arguments):
    own, outputs, targets = case(name)
    outputs = ending(name, outputs)
    loss = make_loss({"name": name, **own, **arguments})
    found = losses.by_row(loss, outputs, targets)
    if name in ("CTCLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss") or arguments.get("reduction") in ("sum", "batchmean"):
        assert found is None
        return
    assert found is not None
    totals, counts = found
    assert len(totals) == len(counts) == len(targets[0])
    torch.testing.assert_close(totals.sum() / counts.sum(), losses.call_loss(loss, outputs, targets).detach().double(), rtol=1e-5, atol=1e-6)
