"""Each loss of torch.nn is called as torch wants it, and its parts add up to the whole batch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from losses_of_torch import VARIANTS, C, D, N, case, draw, ending, labels
from torch import Tensor, nn

from fivestep.errors import UsageError
from fivestep.model.decoding import outputs_from
from fivestep.model.loss_means import batch_weight, by_row, call_loss, feed, mean_with_weights
from fivestep.model.loss_targets import shape_problem
from fivestep.model.losses import LOSSES, make_loss

UNEVEN = [0, 1, 4, 5, 10, 12, 20, N]  # seven parts of 1, 3, 1, 5, 2, 8 and 3 examples


def leaves(loss, outputs) -> list[Tensor]:
    tensors = list(outputs) if isinstance(outputs, tuple) else [outputs]
    return tensors + (list(loss.parameters()) if isinstance(loss, nn.Module) else [])


def take(nest, begin: int, end: int):
    return tuple(tensor[begin:end] for tensor in nest) if isinstance(nest, tuple) else nest[begin:end]


def index(nest, rows: Tensor):
    return tuple(tensor[rows] for tensor in nest) if isinstance(nest, tuple) else nest[rows]


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


@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_what_every_row_adds_is_torchs_own_mean(name, arguments):
    own, outputs, targets = case(name)
    outputs = ending(name, outputs)
    loss = make_loss({"name": name, **own, **arguments})
    found = by_row(loss, outputs, targets)
    if name in ("CTCLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss") or arguments.get("reduction") in ("sum", "batchmean"):
        assert found is None
        return
    assert found is not None
    totals, counts = found
    assert len(totals) == len(counts) == len(targets[0])
    torch.testing.assert_close(totals.sum() / counts.sum(), call_loss(loss, outputs, targets).detach().double(), rtol=1e-5, atol=1e-6)


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


def test_the_plain_case_is_one_call_with_torchs_bits():
    outputs, target = torch.randn(5, 3), torch.randn(5, 3)
    loss = nn.MSELoss()
    assert torch.equal(feed(loss)(outputs, (target,)), loss(outputs, target))
    mean, variance = torch.randn(5, 2), torch.rand(5, 2) + 0.1
    assert torch.equal(feed(nn.GaussianNLLLoss())((mean, variance), (target[:, :2],)), nn.GaussianNLLLoss()(mean, target[:, :2], variance))
    assert feed(lambda a, b, target: (a, b, target))((1, 2), (3,)) == (1, 2, 3)
    assert feed(lambda a, target: (a, target))(1, (3,)) == (1, 3)
