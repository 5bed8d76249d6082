"""A population: who may share steps and who is sent the other way, with the reason; each member's own stream, stopping and divergence; the cut."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fivestep import workflow
from fivestep.data.data import Splits
from fivestep.preparing import prepare
from fivestep.session import Session
from fivestep.train import epochs
from fivestep.train.population import Member, Population
from fivestep.train.stack import Stack, Streams
from fivestep.train.stackable import why_alone
from fivestep.train.tracing import Unstackable


@pytest.fixture
def splits() -> Splits:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(60, 5, generator=draw)
    return Splits((x, x[:, :1] * x[:, 1:2]), val=0.25)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1))


def session(make: Any, splits: Any, **settings: Any) -> Session:
    allowed = workflow.defaults()
    plain = dict(model=make, splits=splits, epochs=4, batch_size=15, folder=None, quiet=True, checks=False, device="cpu")
    return prepare(allowed | plain | settings, allowed)


def members(sessions: list[Session]) -> list[Member]:
    return [Member(one.training, one.plan) for one in sessions]


def pair(make: Any, splits: Any, **settings: Any) -> list[Member]:
    return members([session(make, splits, lr=lr, **settings) for lr in (0.01, 0.02)])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.LSTM(5, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(x[:, None])[0][:, -1])


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x + 0.1 * torch.randn_like(x))


class Asks(nn.Module):
    """Which way it goes depends on the numbers it gets: a trace would freeze the way of the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x) if x.sum() > 0 else -self.last(x)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"optimizer": "RMSprop"}, "RMSprop"),
        ({"average": "EMA"}, "EMA"),
        ({"part_size": 5}, "part_size"),
        ({"compute": lambda model, inputs, targets: (model(inputs) - targets[0]).square().mean()}, "compute"),
        ({"batches": lambda epoch, generator: [[0, 1, 2], [3, 4]]}, "batches"),
        ({"augment": lambda inputs, generator: inputs}, "augment"),
        ({"precision": "bf16"}, "mixed precision"),
        ({"optimizer": {"0.*": "SGD", "*": "AdamW"}}, "Optimizers"),
    ],
)
def test_what_has_no_stacked_form_is_sent_the_other_way_with_its_reason(splits: Splits, settings: dict[str, Any], reason: str) -> None:
    told = why_alone(pair(net, splits, **settings))
    assert told is not None and reason in told


@pytest.mark.parametrize(("make", "reason"), [(Recurrent, "recurrent"), (Noisy, "no stream for each member"), (Asks, "torch.func cannot stack it")])
def test_a_model_that_cannot_be_stacked_is_refused_with_its_reason(splits: Splits, make: Any, reason: str) -> None:
    with pytest.raises(Unstackable, match=reason):
        Population(pair(make, splits), shared=True).prepare()


def test_a_refused_population_leaves_its_members_as_they_were_so_they_train_alone(splits: Splits) -> None:
    expected = session(Noisy, splits, lr=0.01)
    refused = [session(Noisy, splits, lr=lr) for lr in (0.01, 0.02)]
    with pytest.raises(Unstackable):
        Population(members(refused), shared=True).prepare()
    for one in (expected, refused[0]):
        epochs.train(one.training, one.plan)
    assert all(torch.equal(a, b) for a, b in zip(expected.training.model.parameters(), refused[0].training.model.parameters()))


def test_dropout_inside_attention_is_refused_where_its_masks_are_not_those_of_the_run_alone(splits: Splits) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.TransformerEncoderLayer(5, 1, 7, dropout=0.3, batch_first=True), nn.Linear(5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.layer(x[:, None].expand(-1, 3, -1)).mean(1))

    with pytest.raises(Unstackable, match="first gradients differ"):
        Population(pair(Net, splits), shared=True).prepare()


@pytest.mark.parametrize(("key", "values"), [("batch_size", (15, 20)), ("optimizer", ("SGD", "AdamW")), ("epochs", (3, 4))])
def test_members_that_differ_in_more_than_numbers_are_not_stacked(splits: Splits, key: str, values: Any) -> None:
    told = why_alone(members([session(net, splits, lr=0.01, **{key: value}) for value in values]))
    assert told is not None and "between members" in told


def test_a_member_that_diverges_is_said_so_and_harms_no_other(splits: Splits) -> None:
    expected = session(net, splits, lr=0.01, optimizer="SGD")
    epochs.train(expected.training, expected.plan)
    both = [session(net, splits, lr=lr, optimizer="SGD") for lr in (1e30, 0.01)]
    population = Population(members(both), shared=True)
    population.prepare()
    population.run()
    assert [member.status for member in population.members] == ["diverged", "done"]
    assert "not finite" in population.members[0].reason
    for one, other in zip(both[1].training.model.parameters(), expected.training.model.parameters()):
        assert torch.allclose(one, other, rtol=1e-5)


def test_a_group_is_cut_when_half_of_it_has_stopped_and_the_rest_ends_as_alone(splits: Splits) -> None:
    settings = dict(patience=2, epochs=30, optimizer="AdamW")
    rates = (0.0, 0.0, 0.001, 0.002)  # a rate of 0 never improves: it stops after 3 validations
    stacked = [session(net, splits, lr=lr, **settings) for lr in rates]
    alone = [session(net, splits, lr=lr, **settings) for lr in rates]
    work: dict[int, int] = {}  # by epoch: multiplications and additions of its last step

    class Counted(Population):
        def step(self, groups: Any, batch: Any) -> torch.Tensor:
            with FlopCounterMode(display=False) as counter:
                losses = super().step(groups, batch)
            work[self.epoch] = counter.get_total_flops()
            return losses

    population = Counted(members(stacked), shared=True)
    population.prepare()
    report = population.run()
    assert report.cuts[0] == (3, 2) and population.stack.K == 2
    assert work[0] == work[2] == 2 * work[3] > 0  # what has stopped costs nothing any more
    for one, other in zip(stacked, alone):
        epochs.train(other.training, other.plan)
        assert len(one.training.history) == len(other.training.history)
        for a, b in zip(one.training.model.parameters(), other.training.model.parameters()):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


def test_modules_are_views_of_the_stack_while_it_trains_and_own_their_weights_afterwards() -> None:
    modules = [net() for _ in range(3)]
    before = [parameter.detach().clone() for parameter in modules[1].parameters()]
    stack = Stack(modules, [name for name, _ in modules[0].named_parameters()])
    stack.flat.add_(1.0)
    assert all(torch.equal(a, b + 1) for a, b in zip(modules[1].parameters(), before))
    stack.release(1)
    stack.flat.add_(1.0)
    assert all(torch.equal(a, b + 1) for a, b in zip(modules[1].parameters(), before))


def test_each_members_stream_is_that_of_its_run_alone_and_equal_seeds_share_masks() -> None:
    streams = Streams([7, 8, 7], torch.device("cpu"))
    streams.seed(epoch=2)
    drawn = streams((3, 4, 5), 0.5, torch.float32)
    from fivestep import seeds

    with seeds.restored(seeds.derive(8, "forward", 2)):
        alone = torch.empty(4, 5).bernoulli_(0.5)
    assert torch.equal(drawn[1], alone) and torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


def test_folds_of_unlike_size_end_as_alone() -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(61, 5, generator=draw, dtype=torch.float64)
    y = x[:, :1] * x[:, 1:2]
    make = lambda: net().double()  # noqa: E731
    different = [Splits((x[: 47 + k], y[: 47 + k]), val=(x[50:], y[50:])) for k in (0, 1, 1)]  # 47 and 48 rows: batches of 15 leave 2 and 3
    stacked, alone = ([session(make, one, lr=0.01, optimizer="AdamW") for one in different] for _ in range(2))
    population = Population(members(stacked), shared=False)
    population.prepare()
    population.run()
    for one, other in zip(stacked, alone):
        epochs.train(other.training, other.plan)
        for a, b in zip(one.training.model.parameters(), other.training.model.parameters()):
            assert torch.allclose(a, b, rtol=1e-11, atol=1e-13)


def test_the_users_random_state_is_left_as_it_was_by_tracing(splits: Splits) -> None:
    make = lambda: nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5), nn.Linear(3, 1))  # noqa: E731
    population = Population(pair(make, splits), shared=True)
    before = torch.get_rng_state()
    population.prepare()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.parametrize("between", [nn.Tanh, lambda: nn.Dropout(0.3)])
def test_a_compiled_stack_ends_as_the_same_stack_to_rounding(splits: Splits, between: Any) -> None:
    make = lambda: nn.Sequential(nn.Linear(5, 3), between(), nn.Linear(3, 1))  # noqa: E731
    plain, compiled = (pair(make, splits, optimizer="AdamW") for _ in range(2))
    for group, compile_step in ((plain, False), (compiled, True)):
        population = Population(group, shared=True, compile_step=compile_step)
        population.prepare()
        population.run()
    for one, other in zip(plain, compiled):
        for a, b in zip(one.training.model.parameters(), other.training.model.parameters()):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)
