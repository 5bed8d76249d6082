"""The five steps: one update is what a person writes by hand, in one part or several, and a loss that is not finite moves nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fivestep.data.batches import Batch
from fivestep.model import loss_means
from fivestep.train import loop


def batch_of(rows: int = 11, dtype: torch.dtype = torch.float64) -> Batch:
    return Batch(torch.randn(rows, 3, dtype=dtype), (torch.randn(rows, 2, dtype=dtype),), None)


def mse(outputs, targets):
    return F.mse_loss(outputs, targets[0])


def pair(outputs, targets):
    return F.mse_loss(outputs, targets[0], reduction="sum"), targets[0].numel()


def stepped(step=loop.train_step, loss=mse, part_size=None, make=torch.optim.SGD, **options):
    """The weights after one step from the same start, and its loss."""
    torch.manual_seed(3)
    batch = batch_of()
    model = nn.Linear(3, 2).double()
    optimizer = make(model.parameters(), lr=0.1)
    parts, shares = ([batch], [None]) if part_size is None else loop.split_batch(batch, part_size, lambda part: part.targets[0].numel())
    value = step(model, loss, optimizer, parts, shares, **options)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), value


def test_the_inputs_decide_how_the_model_is_called():
    called = []

    class Net(nn.Module):
        def forward(self, *arguments, **named):
            called.append((arguments, named))

    for inputs in (torch.ones(2), (torch.ones(2), torch.zeros(2)), {"left": torch.ones(2)}, "a graph"):
        loop.forward(Net(), inputs)
    assert [(len(arguments), list(named)) for arguments, named in called] == [(1, []), (2, []), (0, ["left"]), (1, [])]


def test_one_step_is_the_five_lines():
    weights, value = stepped()
    torch.manual_seed(3)
    x, (y,), _ = batch_of()
    model = nn.Linear(3, 2).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outputs = model(x)
    loss = F.mse_loss(outputs, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    assert torch.equal(weights, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])) and value == loss.item()


@pytest.mark.parametrize("loss", [mse, pair], ids=["a mean", "(total, weight)"])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.LBFGS])
@pytest.mark.parametrize("part_size", [1, 4, 10, 11])
def test_parts_give_the_step_and_the_loss_of_the_batch(part_size, make, loss):
    step = loop.train_step if make is torch.optim.SGD else loop.train_step_closure
    weights, value = stepped(step, loss, part_size, make)
    expected, expected_value = stepped(step, mse, None, make)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)
    assert value == pytest.approx(expected_value, abs=1e-12)


def test_a_pair_of_unequal_weights_is_one_mean_over_all_parts():
    def weighted(outputs, targets):
        weight = targets[0][:, :1].abs()
        return (weight * (outputs - targets[0]) ** 2).sum(), weight.sum()

    for step, make in ((loop.train_step, torch.optim.SGD), (loop.train_step_closure, torch.optim.LBFGS)):
        torch.testing.assert_close(stepped(step, weighted, 4, make)[0], stepped(step, weighted, None, make)[0], rtol=0, atol=1e-12)


def test_a_sum_adds_up_without_shares():
    def total(outputs, targets):
        return F.mse_loss(outputs, targets[0], reduction="sum")

    batch = batch_of()
    parts, shares = loop.split_batch(batch, 4, lambda part: None)
    assert [len(part.inputs) for part in parts] == [4, 4, 3] and shares == [None] * 3
    torch.manual_seed(3)
    whole, _ = stepped(loss=total)
    torch.manual_seed(3)
    data, model = batch_of(), nn.Linear(3, 2).double()
    parts, shares = loop.split_batch(data, 4, lambda part: None)
    loop.train_step(model, total, torch.optim.SGD(model.parameters(), lr=0.1), parts, shares)
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in model.parameters()]), whole, rtol=0, atol=1e-12)


def test_parts_in_which_nothing_counts_are_left_out():
    labels = torch.tensor([-100, -100, 1, 0, -100])
    batch = Batch(torch.randn(5, 3), (labels,), None)
    parts, shares = loop.split_batch(batch, 2, lambda part: loss_means.batch_weight(nn.CrossEntropyLoss(), part.targets))
    assert [part.targets[0].tolist() for part in parts] == [[1, 0]] and shares == [1.0]


def test_an_epoch_leaves_out_a_batch_of_which_no_part_counts():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [batch_of(4, torch.float32)] * 3
    steps = loop.train_epoch(model, mse, optimizer, batches, split=lambda batch: ([], []))
    assert steps == []


def test_an_epoch_ends_where_after_step_says_so():
    model = nn.Linear(3, 2)
    seen = []
    steps = loop.train_epoch(
        model, mse, torch.optim.SGD(model.parameters(), lr=0.1), [batch_of(4, torch.float32)] * 5, after_step=lambda loss: seen.append(loss) or len(seen) == 2
    )
    assert steps == seen and len(steps) == 2


@pytest.mark.parametrize("step", [loop.train_step, loop.train_step_closure])
def test_a_loss_that_is_not_finite_moves_nothing(step):
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if step is loop.train_step else torch.optim.LBFGS(model.parameters())
    batch = batch_of(4, torch.float32)
    batch.inputs[2, 1] = math.inf
    with pytest.raises(loop.NonFiniteLoss):
        step(model, mse, optimizer, [batch], [None])
    assert torch.equal(model.weight, before)


def test_without_waiting_a_step_returns_a_tensor():
    _, value = stepped(wait=False)
    assert isinstance(value, Tensor) and value.dim() == 0 and not value.requires_grad


def test_evaluating_gives_each_module_its_flag_back():
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[0].eval()
    with loop.evaluating(model):
        assert not model[1].training and not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert model.training and not model[0].training and model[1].training


@pytest.mark.parametrize("sizes", [[11], [4, 4, 3], [1] * 11], ids=str)
@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(ignore_index=0), nn.CrossEntropyLoss(reduction="sum"), nn.CrossEntropyLoss(weight=torch.tensor([0.1, 5.0]))], ids=str
)
def test_the_loss_of_all_rows_does_not_depend_on_the_batching(sizes, loss):
    torch.manual_seed(4)
    model, x, y = nn.Linear(3, 2), torch.randn(11, 3), torch.arange(11) % 2
    batches = [Batch(a, (b,), None) for a, b in zip(x.split(sizes), y.split(sizes))]
    value, kept = loop.evaluate(model, loss_means.feed(loss), batches, weigh=lambda batch: loss_means.batch_weight(loss, batch.targets), keep_outputs=True)
    assert value == pytest.approx(float(loss(model(x), y)), rel=1e-5)
    torch.testing.assert_close(torch.cat(kept), model(x))


def test_predict_cuts_the_padding_and_keeps_the_models_own_nest():
    class Net(nn.Module):
        def forward(self, x):
            return {"twice": 2 * x, "both": (x, -x)}

    x = torch.arange(10.0).reshape(5, 2)
    blocks = [(x[:3], slice(0, 3)), (x[[3, 3, 4, 4, 3]], slice(0, 4, 2))]
    outputs = loop.predict(Net(), blocks)
    assert torch.equal(outputs["twice"], 2 * x) and torch.equal(outputs["both"][1], -x)
    assert torch.equal(loop.predict(Net(), blocks, pick=lambda o: o["twice"]), 2 * x)
    assert loop.predict(Net(), []) is None
