"""compile=: what is captured is the eager step to rounding; what cannot be captured stays eager and says why; "auto" does a written sum.

Compiling costs seconds, so most tests replay the captured step without compiling it: the same aten calls in the same order.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.data.batches import Batch, InMemoryBatches, Stacked
from fivestep.errors import NonFiniteError, SettingsError
from fivestep.train import capturing, chunks, graphs, loop, programs
from fivestep.train.averaging import make_average
from fivestep.train.capturing import CannotCompile, Parts, Slots
from fivestep.train.chunks import chunk_length, pieces
from fivestep.train.compiled import pays

CPU = torch.device("cpu")


def mlp(width: int = 7) -> nn.Sequential:
    torch.manual_seed(3)  # no bias before BatchNorm: its gradient is rounding alone, which optimizers that divide by it make large
    return nn.Sequential(nn.Linear(3, width, bias=False), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 2))


def batches_of(count: int, rows: int = 5) -> list[Batch]:
    draw = torch.Generator().manual_seed(1)
    return [Batch(torch.randn(rows, 3, generator=draw), (torch.randn(rows, 2, generator=draw),), None) for _ in range(count)]


def objective(outputs, targets):
    return nn.functional.mse_loss(outputs, *targets)


def parts_of(model: nn.Module, optimizer, **more) -> Parts:
    return Parts(model, None, optimizer, more.pop("loss", objective), **more)


def capture(parts: Parts, batch: Batch):
    """The captured step after one eager one, as a function `(state, rates, batch) -> (state, loss)`, and its slots."""
    leaves, spec = torch.utils._pytree.tree_flatten(tuple(batch))
    constants = [torch.Tensor if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    slots = Slots.of(parts)
    graph, outside, _ = capturing.traced(slots, spec, constants, set(), batch, CPU)

    def step(state, rates, piece):
        with torch.no_grad():
            *state, value = graph(*state, torch.tensor(rates, dtype=torch.float64), *capturing.tensors_in(piece), *outside)
        return state, value

    return step, slots


def eager(parts: Parts, batch: Batch) -> float:
    (value,) = loop.train_epoch(
        parts.model, parts.loss, parts.optimizer, [batch], average=parts.average, compute=parts.compute, autocast=parts.autocast, clipping=parts.clipping
    )
    return value


def assert_captured_is_eager(make_optimizer, rtol: float = 1e-5, **more) -> None:
    """Four steps replayed from the captured graph against four eager ones from the same state."""
    model = more.pop("model", None) or mlp()
    average = make_average(more.pop("average", None), model)
    optimizer = make_optimizer(model)
    clip = more.pop("clip", None)
    clipping = None if clip is None else ([p for group in optimizer.param_groups for p in group["params"]], *clip)
    parts = parts_of(model, optimizer, average=average, clipping=clipping, **more)
    first, *others = batches_of(5)
    eager(parts, first)
    step, slots = capture(parts, first)
    state = [capturing.widened(tensor.clone()) for tensor in slots.live()]
    found = []
    torch.manual_seed(7)
    for batch in others:
        state, value = step(state, slots.rates(), batch)
        found.append(float(value))
    torch.manual_seed(7)
    wanted = [eager(parts, batch) for batch in others]
    assert found == pytest.approx(wanted, rel=rtol) and len(set(wanted)) == 4
    for live, mine in zip(slots.live(), state, strict=True):
        torch.testing.assert_close(mine.to(live.dtype), live, rtol=rtol, atol=rtol)


OPTIMIZERS = {
    "SGD": dict(lr=0.1),
    "SGD with momentum": dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "SGD with dampening": dict(lr=0.1, momentum=0.9, dampening=0.3, maximize=True),
    "Adam": dict(lr=0.01, amsgrad=True),
    "AdamW": dict(lr=0.01),
    "RMSprop": dict(lr=0.01, centered=True, momentum=0.5),
    "Adagrad": dict(lr=0.1, lr_decay=0.1),
    "Adadelta": dict(lr=1.0),
    "Adamax": dict(lr=0.01),
    "NAdam": dict(lr=0.01),
    "RAdam": dict(lr=0.01),
    "ASGD": dict(lr=0.01),
    "Rprop": dict(lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_captured_step_of_every_optimizer_is_the_eager_step_to_rounding(name):
    kind = getattr(torch.optim, name.split()[0])
    assert_captured_is_eager(lambda model: kind(model.parameters(), **OPTIMIZERS[name]))


def test_the_fused_variant_of_the_eager_step_is_met_to_rounding():
    assert_captured_is_eager(lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True))


@pytest.mark.parametrize("clip", [(0.05, None), (None, 0.01), (0.05, 0.02)])
def test_clipping_is_captured(clip):
    assert_captured_is_eager(lambda model: torch.optim.SGD(model.parameters(), lr=0.5), clip=clip)


def test_an_average_of_the_weights_is_captured_with_batch_norms_buffers():
    assert_captured_is_eager(lambda model: torch.optim.SGD(model.parameters(), lr=0.5), average={"name": "EMA", "decay": 0.7})


def test_dropout_draws_the_masks_of_eager_when_the_stream_is_the_same():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 11), nn.Dropout(0.4), nn.Linear(11, 2))
    assert_captured_is_eager(lambda model: torch.optim.SGD(model.parameters(), lr=0.1), model=model)


def test_frozen_weights_tied_weights_and_groups_with_rates_of_their_own():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
            self.second.weight = self.first.weight
            self.last.bias.requires_grad_(False)

        def forward(self, x):
            return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))

    torch.manual_seed(0)
    model = Tied()
    groups = [{"params": [model.first.weight, model.first.bias], "lr": 0.3}, {"params": [model.second.bias, model.last.weight]}]
    assert_captured_is_eager(lambda model: torch.optim.SGD(groups, lr=0.05, momentum=0.5), model=model)


def test_a_loss_of_a_total_and_its_weight_and_a_compute_function():
    assert_captured_is_eager(lambda model: torch.optim.SGD(model.parameters(), lr=0.1), loss=lambda o, t: (((o - t[0]) ** 2).sum(), torch.tensor(3.0)))
    compute = lambda model, inputs, targets: (model(inputs) - targets[0]).abs().mean()  # noqa: E731
    assert_captured_is_eager(lambda model: torch.optim.SGD(model.parameters(), lr=0.1), compute=compute)


def test_small_products_written_out_are_the_products():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    parts = parts_of(model, torch.optim.SGD(model.parameters(), lr=0.1))
    (batch,) = batches_of(1)
    _, spec = torch.utils._pytree.tree_flatten(tuple(batch))
    graph, _, examples = capturing.traced(Slots.of(parts), spec, [torch.Tensor, torch.Tensor, None], set(), batch, CPU)
    before = graph(*examples)
    assert graphs.write_out_small_products(graph, limit=5 * 3 * 4) >= 4  # forward, and both gradients of the second layer
    assert graphs.write_out_small_products(graph, limit=5 * 3 * 4) == 0
    for a, b in zip(before, graph(*examples), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_numbers_that_many_elements_share_are_computed_once_with_the_same_bits():
    model = nn.Sequential(nn.Linear(3, 100), nn.Tanh(), nn.Linear(100, 2))
    parts = parts_of(model, torch.optim.Adam(model.parameters(), lr=0.01))
    first, second = batches_of(2)
    eager(parts, first)
    _, spec = torch.utils._pytree.tree_flatten(tuple(first))
    graph, _, examples = capturing.traced(Slots.of(parts), spec, [torch.Tensor, torch.Tensor, None], set(), second, CPU)
    before = graph(*examples)
    kept = graphs.compute_scalars_once(graph, least=200)
    assert kept == 4  # both corrections of Adam, for each of the two weights of 200 elements and more; of the biases none
    assert graphs.compute_scalars_once(graph, least=200) == 0
    held = [node for node in graph.graph.nodes if node.target is torch.ops.aten.as_strided.default]
    assert len(held) == kept and all(user.meta["val"].numel() >= 200 for node in held for user in node.users)
    for a, b in zip(before, graph(*examples), strict=True):
        assert torch.equal(a, b)


def test_steps_written_one_after_another_are_the_steps_one_by_one_to_the_bit():
    parts = parts_of(mlp(), None)
    parts.optimizer = torch.optim.Adam(parts.model.parameters(), lr=0.01)
    first, *others = batches_of(4)
    eager(parts, first)
    _, spec = torch.utils._pytree.tree_flatten(tuple(first))
    slots = Slots.of(parts)
    graph, outside, _ = capturing.traced(slots, spec, [torch.Tensor, torch.Tensor, None], set(), first, CPU)
    state = [capturing.widened(tensor.clone()) for tensor in slots.live()]
    rates = torch.tensor([[0.01], [0.02], [0.03]], dtype=torch.float64)
    chunk = graphs.unrolled(graph, 3, len(state), 2, len(outside))
    with torch.no_grad():
        *found, losses = chunk(*state, rates, *capturing.tensors_in(chunks.stacked_batches(others)), *outside)
        for batch, rate, loss in zip(others, rates, losses, strict=True):
            *state, value = graph(*state, rate, *capturing.tensors_in(batch), *outside)
            assert torch.equal(value, loss)
    assert all(torch.equal(a, b) for a, b in zip(found, state, strict=True))


# -- where chunks begin and end --------------------------------------------------------------------------------------------------------------------------------------


def test_an_epoch_cut_at_any_chunk_edge_goes_on_with_the_same_chunks():
    x = torch.arange(46.0)[:, None]
    batches = InMemoryBatches(x, (x,), None, batch_size=4, seed=5)

    def cut(start, alone=0):
        return [tuple(piece.inputs.shape[:-1]) for piece in pieces(batches, 1, start, 3, alone)]

    assert cut(0) == [(3, 4), (3, 4), (3, 4), (4,), (4,), (2,)]
    assert cut(3) == cut(0)[1:] and cut(10) == cut(0)[4:]
    assert cut(0, alone=1)[0] == (4,)
    rows = torch.cat([piece.inputs.reshape(-1) for piece in pieces(batches, 1, 0, 3, 1)])
    assert torch.equal(rows, torch.cat([batch.inputs.reshape(-1) for batch in batches.epoch(1)]))


def test_batches_that_come_one_by_one_are_stacked_and_an_odd_one_ends_the_chunk():
    sizes = [4, 4, 4, 3, 4, 4]

    class OneByOne:
        def epoch(self, n, start=0):
            return iter([Batch(torch.full((size, 2), float(i)), (), None) for i, size in enumerate(sizes)][start:])

    class FitsFour:
        @staticmethod
        def fits(batch):
            return len(batch.inputs) == 4

    found = list(pieces(OneByOne(), 0, 0, 2, 0, FitsFour))  # type: ignore[arg-type]
    assert [tuple(piece.inputs.shape) for piece in found] == [(2, 4, 2), (4, 2), (3, 2), (2, 4, 2)]
    assert isinstance(found[0], Stacked) and float(found[0].inputs[1, 0, 0]) == 1.0
    assert [len(piece) for piece in pieces(OneByOne(), 0, 0, 2, 0, FitsFour, stack=False) if isinstance(piece, list)] == [2, 1, 2]  # type: ignore[arg-type]


def test_the_length_of_chunks_leaves_few_batches_over_and_shrinks_with_the_work():
    for full in (1, 2, 5, 97, 312, 1000, 4099):
        length = chunk_length(full, 9, 32)
        assert 1 <= length <= min(full, chunks.LONGEST)
        assert full % length <= full / length, "fewer left over than there are chunks"
    assert chunk_length(1000, 10_000_000, 32) == 1 and chunk_length(1000, 200_000, 128) <= 12


def test_auto_compiles_only_where_the_number_of_steps_pays_for_it(capsys):
    assert not pays(20_000, 2)[0] and pays(25_001, 2)[0] and not pays(25_001, 6)[0]
    assert not pays(45_000, 6, 2)[0] and pays(205_001, 6, 2)[0], "a convolution compiles for seconds"
    run = fit(compile="auto")
    assert run.settings.chosen["compile"] is None
    told = capsys.readouterr().err
    assert "24 steps are planned" in told and "25,000 steps on" in told


# -- what stays eager, and why ---------------------------------------------------------------------------------------------------------------------------------------


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x):
        y = self.line(x)
        return y if y.sum() > 0 else -y


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.line = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.line(self.cells(x[:, None])[0][:, -1])


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.line, self.calls = nn.Linear(3, 2), 0

    def forward(self, x):
        self.calls += 1
        return self.line(x) / self.calls


class Draws(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x):
        return self.line(x) + random.random()


class TwoRates(torch.optim.SGD):
    """Counts in Python."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
        return super().step(closure)


def line() -> nn.Module:
    return nn.Linear(3, 2)


def arrays(rows: int = 45):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(rows, 3, generator=draw), torch.randn(rows, 2, generator=draw)


def fit(model=line, **settings):
    plain = dict(loss="MSELoss", optimizer="SGD", lr=0.05, epochs=4, batch_size=8, folder=None, device="cpu", checks=False, compile="epoch")
    return fs.fit(model, fs.Splits(arrays()), **(plain | settings))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (dict(model=Branch), "torch.where says the same"),
        (dict(model=Recurrent), "LSTM"),
        (dict(model=Counts), "forward changes calls of Counts in Python"),
        (dict(model=Draws), "Python's or numpy's random generator"),
        (dict(optimizer="LBFGS"), "LBFGS calls the model in its own step"),
        (dict(optimizer=TwoRates), "TwoRates counts in Python"),
        (dict(part_size=4), "part_size= cuts batches"),
        (dict(scheduler={"name": "OneCycleLR", "max_lr": 0.1}, optimizer={"name": "SGD", "momentum": 0.9}), "cycle_momentum=False"),
        (dict(step=lambda model, optimizer, x, y: {"loss": model(x).sum()}, loss="auto"), "step= makes the five steps itself"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_compiled_stays_eager_says_why_and_ends_in_the_same_bits(settings, reason, capsys):
    run = fit(**settings)
    told = capsys.readouterr().err
    assert "stays eager, because" in told and reason in told
    assert run.settings.chosen["compile"] is None
    plain = fit(**settings, compile=None)
    assert all(torch.equal(a, b) for a, b in zip(run.model.state_dict().values(), plain.model.state_dict().values()))


def test_without_a_compiler_the_run_stays_eager_and_says_what_to_install(tmp_path):
    code = """
        import torch, fivestep as fs
        x = torch.randn(40, 3)
        fs.fit(torch.nn.Linear(3, 1), fs.Splits((x, x[:, :1])), loss="MSELoss", epochs=2, folder=None, device="cpu", checks=False, compile="epoch")
    """
    environment = os.environ | {"CXX": "/nonexistent", "PATH": str(tmp_path), "PYTHONPATH": str(Path(fs.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "stays eager, because torch needs a C++ compiler, and none is found: install g++" in done.stderr


def test_an_unknown_way_is_refused_by_name():
    with pytest.raises(SettingsError, match=r"compile='epoch_' is not known"):
        fit(compile="epoch_")


def test_a_graph_among_the_inputs_is_refused_by_its_type():
    class Graph:
        pass

    parts = parts_of(mlp(), None)
    with pytest.raises(CannotCompile, match="hold a Graph"):
        programs.make_program(parts, "step", 1, [Batch((torch.ones(2, 3), Graph()), (), None)], CPU)


# -- compiled ---------------------------------------------------------------------------------------------------------------------------------------------------------


def test_a_loss_that_breaks_in_a_chunk_is_located_and_the_last_good_weights_stand():
    """Step 19 of 20 an epoch: the chunk's losses are looked at before its state is accepted."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 3, generator=draw), torch.randn(80, 2, generator=draw)
    x[74] = float("nan")
    errors, weights = [], []
    for way in (None, "epoch"):
        model = line()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.1)
        with pytest.raises(NonFiniteError) as caught:
            fs.fit(model, fs.Splits((x, y)), loss="MSELoss", optimizer="SGD", lr=0.05, epochs=4, batch_size=4, shuffle=False, folder=None, device="cpu", checks=False, quiet=True, compile=way)  # fmt: skip
        errors.append(caught.value)
        weights.append([parameter.detach().clone() for parameter in model.parameters()])
    assert errors[1].step == 19 and errors[1].rows == errors[0].rows == (74,)
    for one, other in zip(*weights):
        torch.testing.assert_close(one, other)
        assert torch.isfinite(other).all()
    assert all(torch.isfinite(weight).all() for weight in weights[1])


def test_step_by_step_where_an_epoch_holds_one_batch():
    """Full-batch training: no chunk can be longer than an epoch's one step."""
    x, y = arrays(24)
    runs = [
        fs.fit(
            line,
            fs.Splits((x, y)),
            loss="MSELoss",
            optimizer="Adam",
            lr=0.05,
            epochs=9,
            batch_size="all",
            folder=None,
            device="cpu",
            checks=False,
            quiet=True,
            compile=way,
        )
        for way in (None, "epoch")
    ]
    assert runs[1].settings.chosen["compile"] == "step"
    for a, b in zip(*(run.model.parameters() for run in runs)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert [row["train_loss"] for row in runs[0].history] == pytest.approx([row["train_loss"] for row in runs[1].history], rel=1e-5)
