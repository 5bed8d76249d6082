"""P6: where a run stopped being finite is told exactly (step, layer, rows), after the last good state was restored and the steps replayed with every check on."""

import dataclasses
import itertools

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fivestep as fs
from fivestep import workflow
from fivestep.data.batches import batch_order
from fivestep.preparing import prepare
from fivestep.train import epochs

ROWS, BATCH = 45, 8  # 6 steps an epoch, the last of 5 rows


def data(zero_row=None):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 3, generator=g)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    if zero_row is not None:
        x[zero_row] = 0
    return fs.Splits((x, y), val=(torch.randn(9, 3, generator=g), torch.randn(9, 1, generator=g)))


class Root(nn.Module):
    """sqrt has no slope at zero: forward is finite there, backward is not."""

    def forward(self, x):
        return x.abs().sqrt()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.root, self.drop, self.last = nn.Linear(3, 5, bias=False), Root(), nn.Dropout(0.2), nn.Linear(5, 1)

    def forward(self, x):
        return self.last(self.drop(self.root(self.first(x))))


def step_of(row, epoch=0):
    """The step, from 1, in which a row is drawn first."""
    return batch_order(ROWS, 0, epoch, True).tolist().index(row) // BATCH + 1 + 6 * epoch


def fit(model=Net, splits=None, **settings):
    given = dict(loss="MSELoss", optimizer="SGD", lr=0.01, epochs=4, batch_size=BATCH, folder=None, quiet=True, checks=False) | settings
    return fs.fit(model, data() if splits is None else splits, **given)


@pytest.mark.parametrize("row", [3, 17, 40])
@pytest.mark.parametrize(
    "settings", [dict(), dict(part_size=3), dict(clip_norm=1.0, optimizer="Adam"), dict(scheduler="OneCycleLR"), dict(average="EMA")], ids=str
)
def test_p6_a_gradient_that_is_not_finite_is_found_in_its_step_and_row(row, settings):
    with pytest.raises(fs.NonFiniteError) as told:
        fit(splits=data(row), **settings)
    error = told.value
    # Dropout may have hidden it: the gradient of what was dropped is 0 * inf all the same.
    assert (error.step, error.origin, error.layer, error.rows) == (step_of(row), "gradient", "first", (row,)), str(error)
    assert f"row {row}" in str(error) and "as it was at the start" in str(error) and error.exit_code == 70


class Late(nn.Module):
    """Breaks in its `at`-th training forward, counted in a buffer, so that a replay from a checkpoint counts on."""

    def __init__(self, at=15, how="output"):
        super().__init__()
        self.body, self.bad, self.drop = nn.Linear(3, 4), nn.Identity(), nn.Dropout(0.3)
        self.last, self.at, self.how = nn.Linear(4, 1), at, how
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        h = self.drop(self.body(x))
        if self.training:
            self.count += 1
            if self.how == "output" and self.count == self.at:
                h = torch.where(torch.arange(len(h))[:, None] == 2, h / 0, h)
            if self.how == "gradient" and self.count == self.at:
                h.register_hook(lambda gradient: gradient * float("inf"))
        return self.last(self.bad(h))


@pytest.mark.parametrize("checkpoint,stands", [(None, "at the start"), (4, "after step 12"), ("epoch", "after step 12"), ("5min", "after step 0")])
@pytest.mark.parametrize("how", ["output", "gradient"])
def test_p6_the_replay_begins_at_the_newest_checkpoint_and_the_model_is_left_there(checkpoint, stands, how, tmp_path):
    model = Late(15, how)
    with pytest.raises(fs.NonFiniteError, match=stands) as told:
        fit(model, folder=tmp_path, name="run", checkpoint=checkpoint, optimizer="Adam")
    error = told.value
    assert error.step == 15
    if how == "output":
        row = batch_order(ROWS, 0, 2, True)[2 * BATCH + 2].item()
        assert (error.origin, error.layer, error.rows) == ("layer", "bad", (row,)) and "operation in forward" in str(error)
    else:
        assert error.origin == "gradient"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())
    for path in tmp_path.rglob("*.safetensors"):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(path).values() if tensor.is_floating_point())
    if checkpoint == 4:
        assert int(model.count) == 12


def test_p6_what_the_last_line_of_forward_makes_is_no_fault_of_the_loss():
    class Log(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x):
            return torch.log(self.layer(x) * 0 - 1)

    with pytest.raises(fs.NonFiniteError, match=r"the model's output is not finite.*an operation in forward did") as told:
        fit(Log())
    assert told.value.origin == "layer" and "BCE" not in told.value.fix


@pytest.mark.parametrize("at", [7, 12, 13])
def test_p6_where_nothing_waits_for_the_device_the_step_is_exact_all_the_same(at):
    """As on an accelerator: the losses are looked at when the epoch has ended."""
    ask = workflow.defaults() | dict(model=Late(at), splits=data(), loss="MSELoss", lr=0.01, epochs=4, batch_size=BATCH, folder=None, quiet=True, checks=False)
    session = prepare(ask, workflow.defaults())
    session.plan = dataclasses.replace(session.plan, wait=False)
    with pytest.raises(fs.NonFiniteError) as told, workflow.located_where_not_finite(session, None):
        epochs.train(session.training, session.plan)
    assert told.value.step == at and told.value.layer == "bad"


def test_p6_the_optimizers_state_counts_too(tmp_path):
    """A gradient of 1e25 has a square beyond float32: Adam's weights stay finite and never move again."""
    with pytest.raises(fs.NonFiniteError) as told:
        fit(
            nn.Linear(3, 1),
            loss=lambda outputs, targets: ((outputs - targets) * 1e25).abs().mean(),
            optimizer="Adam",
            folder=tmp_path,
            name="run",
            checkpoint=1,
        )
    assert told.value.step == 1 and "exp_avg_sq of weight" in str(told.value)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000000000000"]
    with pytest.raises(fs.NonFiniteError) as told:  # S6: the same without checkpoints
        fit(nn.Linear(3, 1), loss=lambda outputs, targets: ((outputs - targets) * 1e25).abs().mean(), optimizer="Adam")
    assert told.value.step == 1


def test_p6_the_rows_whose_loss_is_not_finite_are_named():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(24, 3, generator=g) + 1
    x[11] *= -1
    with pytest.raises(fs.NonFiniteError) as told:
        fit(
            nn.Sequential(nn.Linear(3, 1, bias=False)),
            fs.Splits((x, torch.rand(24, 1))),
            loss=lambda outputs, targets: (outputs.log() - targets).square().mean(),
            weights={"0.weight": torch.ones(1, 3)},
            batch_size=6,
        )
    assert (told.value.origin, told.value.rows) == ("loss", (11,))


class Masked(nn.Module):
    """A mask of -inf in a buffer, handed to a module, and rows of NaN that the model replaces."""

    def __init__(self, late=False):
        super().__init__()
        self.body, self.softmax, self.last, self.late = nn.Linear(3, 4), nn.Softmax(-1), nn.Linear(4, 1), late
        self.register_buffer("mask", torch.tensor([0.0, 0.0, -torch.inf, 0.0]))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        h = self.softmax(self.body(torch.nan_to_num(x)) + self.mask)
        self.count += self.training
        return self.last(h / (0 if self.late and self.count == 9 else 1))


@pytest.mark.parametrize("average", [None, "EMA", "SWA"])
def test_p6_infinities_by_design_train_and_are_saved(average, tmp_path):
    splits = data()
    run = fit(Masked, splits, folder=tmp_path, name="run", checkpoint="epoch", average=average)
    assert fs.verify(run.folder) == []
    assert fs.load(run.folder, model=Masked).model.mask.tolist() == [0.0, 0.0, -torch.inf, 0.0]
    loaded = fs.load(run.folder, model=Masked)
    assert loaded.save(tmp_path / "again.fivestep").exists()


def test_p6_what_is_infinite_in_every_step_is_not_taken_for_the_cause():
    splits = data()
    splits.train.data.source.inputs[5] = float("nan")
    with pytest.raises(fs.NonFiniteError) as told:
        fit(lambda: Masked(late=True), splits, keep="last")
    assert (told.value.step, told.value.layer, told.value.origin) == (9, "last", "layer")


def test_p6_what_does_not_happen_again_is_said():
    count = itertools.count(1)

    def loss(outputs, targets):
        return (outputs - targets).square().mean() * (float("nan") if torch.is_grad_enabled() and next(count) == 15 else 1)

    with pytest.raises(fs.NonFiniteError, match="not repeatable"):
        fit(loss=loss)


def test_p6_replaying_gives_the_users_streams_and_hooks_back():
    model = Late(15)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(fs.NonFiniteError):
        fit(model)
    assert torch.equal(before, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
