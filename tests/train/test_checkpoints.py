"""Checkpoints: what they hold, when they are written, what happens to damaged ones and on a full disk."""

import contextlib
import errno
import json
import os
import re
import timeit

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep import files
from fivestep.strict_json import read_json, write_json
from fivestep.train import checkpoints
from fivestep.train.averaging import Average
from fivestep.train.epochs import Plan, Training
from fivestep.train.stopping import Stopping


def net():
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, 1))


def data():
    g = torch.Generator().manual_seed(0)
    return torch.randn(40, 3, generator=g), torch.randn(40, 1, generator=g)


def splits():
    x, y = data()
    return fs.Splits((x[:30], y[:30]), val=(x[30:], y[30:]))


def fit(folder, **settings):
    given = dict(loss="MSELoss", lr=0.01, epochs=4, batch_size=10, quiet=True, checks=False, checkpoint="epoch") | settings
    return fs.fit(net, splits(), folder=folder, name="run", **given)


def resume(folder, **more):
    return fs.resume(folder / "run", splits=splits(), quiet=True, model=net, **more)


def names(folder):
    return sorted(path.name for path in (folder / "run" / "checkpoints").iterdir())


class Die(Exception):
    pass


def dies_after(epoch):
    def observer(event):
        if getattr(event, "epoch", None) == epoch and hasattr(event, "val_loss"):
            raise Die

    return observer


def training(scaler=False):
    model = net()
    optimizer = torch.optim.NAdam(model.parameters(), lr=0.01)
    average = Average(model, "EMA", decay=0.5)
    scaled = torch.amp.GradScaler("cpu", init_scale=7.0) if scaler else None
    return Training(model, nn.Bilinear(1, 1, 1), optimizer, None, scaled, average, Stopping(3))


def test_s2_everything_comes_back_to_the_bit():
    import random

    import numpy

    one = training(scaler=True)
    one.scaler.scale(torch.ones(()))
    x, y = data()
    for _ in range(3):
        one.optimizer.zero_grad()
        nn.functional.mse_loss(one.model(x), y).backward()
        one.optimizer.step()
        one.average.update()
    one.model[0].bias.requires_grad_(False)
    one.stopping.update(0.1, 2)
    one.epoch, one.step, one.step_in_epoch, one.losses_in_epoch = 2, 7, 1, [0.1, 1 / 3]
    one.history, one.best_state, one.best_epoch, one.test_looks = [{"epoch": 1, "step": 3, "x": float("inf")}], dict(one.model.state_dict()), 1, 4
    tensors, entry = checkpoints.capture(one)
    written = read_json(write_json(entry), what="state.json")
    draws = torch.rand(3), random.random(), numpy.random.rand()

    two = training(scaler=True)
    checkpoints.restore(two, {name: tensor.clone() for name, tensor in tensors.items()}, written)
    checkpoints.seeds.restore(two.streams)
    assert torch.equal(torch.rand(3), draws[0]) and random.random() == draws[1] and numpy.random.rand() == draws[2]
    again, same = checkpoints.capture(two)
    assert again.keys() == tensors.keys()
    stream = {name for name in tensors if name.startswith("streams")}
    assert all(torch.equal(again[name], tensors[name]) for name in tensors.keys() - stream)
    without = lambda nest: [pair for pair in nest["dict"] if pair[0] != "streams"]  # noqa: E731
    assert without(same) == without(written)
    assert not two.model[0].bias.requires_grad


def test_losses_nobody_waited_for_come_back_as_tensors():
    one, two = training(), training()
    one.losses_in_epoch = [torch.tensor(0.1), torch.tensor(0.2)]
    checkpoints.restore(two, *checkpoints.capture(one))
    assert all(isinstance(loss, torch.Tensor) for loss in two.losses_in_epoch) and [float(loss) for loss in two.losses_in_epoch] == [
        float(torch.tensor(0.1)),
        float(torch.tensor(0.2)),
    ]


def test_a_checkpoint_of_another_model_is_refused():
    one, two = training(), training()
    two.model = nn.Linear(3, 1)
    with pytest.raises(fs.ArtifactError, match="another model"):
        checkpoints.restore(two, *checkpoints.capture(one))
    two = training()
    two.average = None
    with pytest.raises(fs.ArtifactError, match="average"):
        checkpoints.restore(two, *checkpoints.capture(one))


def test_c4_the_start_the_best_and_the_newest_are_kept(tmp_path):
    run = fit(tmp_path, epochs=9, keep_checkpoints=2, lr=0.05)
    best = run.best["step"]
    expected = {0, best, 24, 27}
    assert names(tmp_path) == [checkpoints.name_of(step) for step in sorted(expected)]


@pytest.mark.parametrize("checkpoint,steps", [(2, [0, 2, 4, 6, 8, 10, 12]), ("epoch", [0, 3, 6, 9, 12]), ("1h", [0, 12]), (100, [0, 12])])
def test_when_checkpoints_are_written(tmp_path, checkpoint, steps):
    fit(tmp_path, checkpoint=checkpoint, keep_checkpoints=20)
    assert names(tmp_path) == [checkpoints.name_of(step) for step in steps]


def test_none_writes_none_and_the_weights_are_the_same(tmp_path):
    hashes = {fit(tmp_path / str(rhythm), checkpoint=rhythm).weights_sha256 for rhythm in (None, 1, "epoch", "5min")}
    assert len(hashes) == 1  # S6
    assert not (tmp_path / "None" / "run" / "checkpoints").exists()
    with pytest.raises(fs.MissingInputError, match="no checkpoint"):
        resume(tmp_path / "None")


@pytest.mark.parametrize(
    "wrong", [dict(checkpoint="often"), dict(checkpoint=0), dict(checkpoint=True), dict(keep_checkpoints=1), dict(on_checkpoint_error="?")]
)
def test_meaningless_settings_are_refused(tmp_path, wrong):
    with pytest.raises(fs.SettingsError):
        fit(tmp_path, **wrong)


def test_c3_a_damaged_newest_is_passed_over_told_and_kept(tmp_path):
    whole = fit(tmp_path / "whole")
    with pytest.raises(Die):
        fit(tmp_path, observers=[dies_after(4)])
    newest = tmp_path / "run" / "checkpoints" / checkpoints.name_of(9)
    raw = bytearray((newest / "state.safetensors").read_bytes())
    raw[-1] ^= 1
    (newest / "state.safetensors").chmod(0o600)
    (newest / "state.safetensors").write_bytes(raw)
    with pytest.warns(UserWarning, match="SHA-256"):
        run = resume(tmp_path)
    assert run.weights_sha256 == whole.weights_sha256
    assert any(name.endswith(".bad") for name in names(tmp_path))


def test_c3_none_valid_is_an_error_and_never_a_silent_restart(tmp_path):
    with pytest.raises(Die):
        fit(tmp_path, observers=[dies_after(2)])
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        (folder / "state.json").chmod(0o600)
        (folder / "state.json").write_text("{}")
    with pytest.raises(fs.MissingInputError, match="none is valid"):
        resume(tmp_path)


def test_c5_what_dead_writers_left_is_removed(tmp_path):
    with pytest.raises(Die):
        fit(tmp_path, observers=[dies_after(2)])
    (tmp_path / "run" / "checkpoints" / "step-000000000099.tmp-12345").mkdir()
    resume(tmp_path)
    assert not any("tmp" in name for name in names(tmp_path))


def full_disk(monkeypatch, calls):
    """`files.publish` fails as on a full disk from its second call on, `calls` times."""
    real, count = files.publish, [0]

    def publish(parent, name, *arguments, **named):
        count[0] += parent.name == "checkpoints"
        if parent.name == "checkpoints" and 1 < count[0] <= 1 + calls:
            error = fs.StorageError(f"cannot write {parent / name}: No space left on device")
            error.errno = errno.ENOSPC
            raise error
        return real(parent, name, *arguments, **named)

    monkeypatch.setattr(files, "publish", publish)


def test_c7_a_full_disk_stops_and_the_run_goes_on_later(tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole")
    with monkeypatch.context() as patched:
        full_disk(patched, 1)
        with pytest.raises(fs.StorageError, match="No space left"):
            fit(tmp_path)
    assert names(tmp_path) == [checkpoints.name_of(0)]
    assert resume(tmp_path).weights_sha256 == whole.weights_sha256


def test_c7_retry_trains_on(tmp_path, monkeypatch):
    full_disk(monkeypatch, 1)
    with pytest.warns(UserWarning, match="tries again"):
        fit(tmp_path, on_checkpoint_error="retry")
    assert names(tmp_path) == [checkpoints.name_of(step) for step in (0, 6, 9, 12)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_c9_killed_at_every_call_to_the_disk_the_run_can_be_resumed(tmp_path):
    """A child dies at the i-th call that touches the disk, for every i: what stands is either no checkpoint yet, or resumes to the same bits."""
    settings = dict(epochs=2, checkpoint="epoch", keep_checkpoints=2)
    whole = fit(tmp_path / "whole", **settings).weights_sha256
    i, ended, without = 0, False, 0
    while not ended:
        i += 1
        folder = tmp_path / str(i)
        child = os.fork()
        if child == 0:
            real, count = files._io, [0]

            def dying(call, *arguments, real=real, count=count, i=i, **named):
                count[0] += 1
                if count[0] == i:
                    os._exit(9)
                return real(call, *arguments, **named)

            files._io = dying
            try:
                fit(folder, **settings)
            finally:
                os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        if not (folder / "run" / "checkpoints").is_dir() or not any(re.fullmatch(r"step-\d+", name) for name in names(folder)):
            without += 1
            continue
        with contextlib.redirect_stderr(None):
            assert resume(folder).weights_sha256 == whole, i
        assert fs.verify(folder / "run") == []
        assert not any("tmp" in name or "bad" in name for name in names(folder)), i
    assert i > 60 and without < i / 2


def test_p6_nothing_non_finite_is_saved(tmp_path):
    one = training()
    with torch.no_grad():
        one.model[0].weight[0, 0] = float("nan")
    with pytest.raises(fs.NonFiniteError):
        checkpoints.write(tmp_path, one, {})
    assert not list(tmp_path.iterdir())


def test_s1_other_data_and_edited_settings_are_refused(tmp_path):
    with pytest.raises(Die):
        fit(tmp_path, observers=[dies_after(2)])
    x, y = data()
    x[0, 0] += 1
    with pytest.raises(fs.DataError, match="not what"):
        fs.resume(tmp_path / "run", splits=fs.Splits((x[:30], y[:30]), val=(x[30:], y[30:])), model=net, quiet=True)
    with pytest.raises(fs.UsageError, match="lr"):
        resume(tmp_path, lr=0.5)
    with pytest.raises(fs.UsageError, match="longer"):
        resume(tmp_path, epochs=2)
    with pytest.raises(fs.UsageError, match="splits="):
        fs.resume(tmp_path / "run", model=net)
    path = tmp_path / "run" / "settings.json"
    path.write_text(path.read_text().replace('"lr": 0.01', '"lr": 0.02', 1))
    with pytest.raises(fs.SettingsError, match=r"settings\.json"):
        resume(tmp_path)


def test_s1_another_torch_needs_to_be_allowed(tmp_path):
    whole = fit(tmp_path / "whole")
    with pytest.raises(Die):
        fit(tmp_path, observers=[dies_after(2)])
    path = tmp_path / "run" / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"torch": "1.0"}))
    with pytest.raises(fs.SettingsError, match=r"torch was 1\.0"):
        resume(tmp_path)
    assert resume(tmp_path, allow_inexact=True).weights_sha256 == whole.weights_sha256


def test_the_users_own_functions_are_asked_for_by_name(tmp_path):
    def own_loss(outputs, targets):
        return (outputs - targets).abs().mean()

    with pytest.raises(Die):
        fit(tmp_path, loss=own_loss, observers=[dies_after(2)])
    with pytest.raises(fs.UsageError, match=r"loss=\.\.\."):
        resume(tmp_path)
    assert resume(tmp_path, loss=own_loss).weights_sha256 == fit(tmp_path / "whole", loss=own_loss).weights_sha256


def test_c4_the_default_rhythm_stretches_where_saving_takes_long(tmp_path, monkeypatch):
    """A save of 20 seconds every 5 minutes would cost 7 %; a rhythm that was chosen is kept."""
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    real = checkpoints.write

    def slow(*arguments, **named):
        now[0] += 20.0
        return real(*arguments, **named)

    monkeypatch.setattr(checkpoints, "write", slow)
    for rhythm, expected in (("5min", 20 + 99 * 20), ("1min", 20 + 60), ("10min", 20 + 600)):
        now[0] = 0.0
        plan = Plan(epochs=1, seed=0, batches=None, loss=None)
        keeper = checkpoints.Keeper(tmp_path / rhythm, plan, checkpoint=rhythm, keep=3, on_error="stop", facts={})
        keeper.begin(training())
        assert keeper.due_time == expected


def test_a_step_costs_less_than_a_microsecond(tmp_path):
    one = training()
    plan = Plan(epochs=1, seed=0, batches=None, loss=None)
    keeper = checkpoints.Keeper(tmp_path, plan, checkpoint="5min", keep=3, on_error="stop", facts={})
    keeper._next(one)
    assert min(timeit.repeat(lambda: keeper.after_step(one), number=10_000, repeat=5)) / 10_000 < 1e-6
