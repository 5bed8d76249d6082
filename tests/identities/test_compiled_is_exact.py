"""Promise: compiled against compiled is exact (the same run twice; killed and resumed), and compiled against eager agrees to a stated tolerance.

The tolerance: weights after these runs differ by at most 1e-5 of their size plus 1e-6 (float32; the compiled update adds in another order).
"""

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.data.batches import InMemoryBatches
from fivestep.train import chunks, loop, programs
from fivestep.train.capturing import Parts

TOLERANCE = dict(rtol=1e-5, atol=1e-6)


class Killed(BaseException):
    pass


class Killer(nn.Module):
    """Not part of the model: dies in the training forward of the last, short batch of the epoch that was asked for; such batches are eager steps."""

    epoch: int | None = None
    count = 0

    def forward(self, x):
        if self.training and len(x) == 5:
            Killer.count += 1
            if Killer.count == Killer.epoch:
                raise Killed
        return x


class Net(nn.Module):
    """BatchNorm, dropout, a buffer that forward moves and one that it does not."""

    def __init__(self):
        super().__init__()
        self.killer = Killer()
        self.body = nn.Sequential(nn.Linear(3, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.3), nn.Linear(7, 1))
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.register_buffer("mask", torch.tensor([1.0, 1.0, 0.5]))

    def forward(self, x):
        if self.training:
            self.seen += 0.01
        return self.body(self.killer(x) * self.mask) + self.seen.detach()


class Noisy(Net):
    """Normal noise in forward, which torch's scan refuses: its chunks are unrolled."""

    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x) if self.training else x)


def splits():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(117, 3, generator=draw)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * torch.randn(117, 1, generator=draw)
    return fs.Splits((x[:101], y[:101]), val=(x[101:], y[101:]))  # 12 full batches of 8 and one of 5 an epoch


def fit(folder, name, way="epoch", epoch=None, model=Net, **settings):
    Killer.epoch, Killer.count = epoch, 0
    everything = dict(
        loss="MSELoss", optimizer={"name": "SGD", "momentum": 0.9}, lr=0.01, scheduler={"name": "CosineAnnealingLR", "every": "step"}, clip_norm=0.5, average={"name": "EMA", "decay": 0.9},
        epochs=4, batch_size=8, device="cpu", checks=False, quiet=True, keep="last", patience=None, folder=folder, name=name, checkpoint=4, compile=way,
    )  # fmt: skip
    return fs.fit(model, splits(), **(everything | settings))


def weights(run):
    return {**run.model.state_dict(), "seen": run.model.seen}


@pytest.fixture
def chunks_of_four(monkeypatch):
    monkeypatch.setattr(chunks, "LONGEST", 4)


@pytest.mark.parametrize("model", [Net, Noisy], ids=["as a scan", "unrolled"])
def test_compiled_is_eager_to_the_tolerance_and_killed_and_resumed_compiled_is_compiled_to_the_bit(tmp_path, chunks_of_four, model, capsys):
    whole = fit(tmp_path, "whole", model=model, quiet=False)
    assert whole.settings.chosen["compile"] == "epoch"
    told = capsys.readouterr().err
    assert "chunks of 4 steps are one graph" in told and ("as a scan is not possible (" in told) == (model is Noisy), told
    eager = fit(tmp_path, "eager", None, model=model)
    for (name, a), b in zip(weights(whole).items(), weights(eager).values(), strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
    for one, other in zip(whole.history, eager.history, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5) and one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-5)
        assert one["lr"] == other["lr"] and one["step"] == other["step"]

    with pytest.raises(Killed):
        fit(tmp_path, "killed", epoch=3, model=model)
    Killer.epoch = None
    assert (tmp_path / "killed" / "checkpoints" / "step-000000000038").is_dir()  # 2 epochs of 13 and 3 chunks of 4: in the middle of an epoch
    resumed = fs.resume(tmp_path / "killed", splits=splits(), model=model, quiet=True)
    for (name, a), b in zip(weights(whole).items(), weights(resumed).values(), strict=True):
        assert torch.equal(a, b), name
    assert [row["train_loss"] for row in whole.history] == [row["train_loss"] for row in resumed.history]


def test_a_compiled_cnn_is_as_close_to_float64_as_eager_is_and_in_float64_both_are_one():
    """Labels that cannot be learned. Compiled and eager part by rounding, which W4 amplifies (`bench/drift.py`); the same steps in float64 are the referee."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(61 * 16, 1, 12, 12, generator=draw), torch.randint(0, 10, (61 * 16,), generator=draw)

    def trained(dtype, way):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(150, 10)).to(dtype)
        parts = Parts(model, None, torch.optim.Adam(model.parameters(), lr=0.02), lambda outputs, targets: nn.functional.cross_entropy(outputs, *targets))
        first, *others = InMemoryBatches(x.to(dtype), (y,), None, batch_size=16, shuffle=False).epoch(0)
        program = None
        if way is not None:
            program = programs.make_program(parts, "epoch", 10, [chunks.stacked_batches(others[:10])], torch.device("cpu"))
        for batch in (first, *(others if program is None else ())):
            loop.train_epoch(parts.model, parts.loss, parts.optimizer, [batch])
        if program is not None:
            assert program.mode == "epoch"
            for begin in range(0, 60, 10):
                state, _ = program.run(chunks.stacked_batches(others[begin : begin + 10]), torch.full((10, 1), 0.02, dtype=torch.float64))
                program.accept(state, 10)
        return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])

    referee = trained(torch.float64, None)
    assert float((trained(torch.float64, "epoch") - referee).abs().max()) < 1e-9
    eager_apart = float((trained(torch.float32, None) - referee).abs().max())
    compiled_apart = float((trained(torch.float32, "epoch") - referee).abs().max())
    assert 0 < compiled_apart < 10 * eager_apart


@pytest.mark.slow
def test_the_same_compiled_run_twice_is_the_same_bits(tmp_path):
    one, other = fit(tmp_path, "one"), fit(tmp_path, "other")
    assert all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values()))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["step", "epoch"])
@pytest.mark.parametrize(
    "settings",
    [
        dict(optimizer="SGD"),
        dict(optimizer={"name": "SGD", "momentum": 0.9}, clip_value=0.1, clip_norm=None),
        dict(optimizer="AdamW"),
        dict(optimizer="Adam", average=None, scheduler={"name": "StepLR", "step_size": 1}),
        dict(optimizer="RMSprop", precision="float64"),
        dict(loss="L1Loss", batch_size=101),
    ],
    ids=["sgd", "momentum", "adamw", "adam", "rmsprop float64", "full batch"],
)
def test_the_wide_matrix_agrees_with_eager(settings, way):
    runs = [fit(None, None, each, **settings) for each in (None, way)]
    assert runs[1].settings.chosen["compile"] in ("step", "epoch")
    for (name, a), b in zip(weights(runs[0]).items(), weights(runs[1]).values(), strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
def test_class_weights_sample_weights_several_inputs_and_frozen_layers():
    draw = torch.Generator().manual_seed(1)
    x, z, w = torch.randn(70, 3, generator=draw), torch.randn(70, 2, generator=draw), torch.rand(70, generator=draw) + 0.1
    y = torch.randint(0, 3, (70,), generator=draw)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 5), nn.Linear(7, 3)

        def forward(self, x, z):
            return self.second(torch.cat([torch.relu(self.first(x)), z], 1))

    def train(way, **more):
        return fs.fit(
            Two, fs.Splits(fs.Data.arrays((x, z), y, **more.pop("data", {}))), loss="CrossEntropyLoss", optimizer="AdamW", lr=0.01, epochs=3, batch_size=8,
            device="cpu", checks=False, quiet=True, folder=None, compile=way, **more,
        )  # fmt: skip

    for more in (dict(class_weights="balanced", freeze=["first"]), dict(data={"weight": w})):
        one, other = train(None, **dict(more)), train("epoch", **dict(more))
        assert other.settings.chosen["compile"] == "epoch"
        for a, b in zip(one.model.parameters(), other.model.parameters()):
            torch.testing.assert_close(a, b, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gru", "cnn", "transformer"])
def test_models_of_other_kinds(kind):
    class Gru(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells, self.line = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.line(self.cells(x)[0][:, -1])

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
            self.line = nn.Linear(4, 2)

        def forward(self, x):
            return self.line(self.layer(x).mean(1))

    draw = torch.Generator().manual_seed(1)
    make, shape = {
        "gru": (Gru, (6, 3)),
        "cnn": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 2)), (1, 6, 6)),
        "transformer": (Transformer, (5, 4)),
    }[kind]
    x, y = torch.randn(50, *shape, generator=draw), torch.randint(0, 2, (50,), generator=draw)
    runs = [
        fs.fit(
            make,
            fs.Splits((x, y)),
            loss="CrossEntropyLoss",
            optimizer="SGD",
            lr=0.05,
            epochs=3,
            batch_size=8,
            device="cpu",
            checks=False,
            quiet=True,
            folder=None,
            compile=way,
        )
        for way in (None, "epoch")
    ]
    assert runs[1].settings.chosen["compile"] in ("epoch", "step"), kind
    for a, b in zip(*(run.model.parameters() for run in runs)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_dropout_inside_attention_draws_other_masks_and_trains_as_well():
    """Eager draws a mask in the order in which the dropped tensor lies in memory, and attention's is a transposed one: there the masks differ, their law does not."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(200, 5, 4, generator=draw)
    y = x.mean((1, 2))[:, None]

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.line = nn.MultiheadAttention(4, 2, dropout=0.2, batch_first=True), nn.Linear(4, 1)

        def forward(self, x):
            return self.line(x.mean(1) + self.attention(x, x, x, need_weights=False)[0].mean(1))

    runs = [
        fs.fit(
            Attends,
            fs.Splits((x, y)),
            loss="MSELoss",
            optimizer="SGD",
            lr=0.1,
            epochs=8,
            batch_size=20,
            device="cpu",
            checks=False,
            quiet=True,
            folder=None,
            compile=way,
        )
        for way in (None, "epoch")
    ]
    eager, compiled_ = ([row["train_loss"] for row in run.history] for run in runs)
    assert compiled_[-1] < 0.2 * compiled_[0] and compiled_[-1] == pytest.approx(eager[-1], rel=0.5)
