"""What is seen while training goes on: gradients and weights at a few epochs' ends, and the course of the loss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.checks.during import Watch, is_sampled, rule_diverged, rule_exploding, rule_t02, rule_t08, rule_t09
from fivestep.checks.subject import Subject, part_of

QUIET: dict[str, Any] = dict(folder=None, quiet=True, device="cpu")


def watch_of(model: nn.Module, **more: Any) -> Watch:
    x = torch.randn(40, 4)
    subject = Subject(model=model, train=part_of(x, x[:, :1]), optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **more)
    return Watch(subject, probe=SimpleNamespace(pair=None, release=lambda: None))  # type: ignore[arg-type]


def seen(watch: Watch, model: nn.Module, epochs: int, gradient: Any, move: Any = None) -> None:
    """Epochs in which each parameter's gradient has the norm `gradient(epoch, name)` and each weight moves by `move(epoch)` of its size."""
    for epoch in range(1, epochs + 1):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.ones_like(parameter) * gradient(epoch, name) / parameter.numel() ** 0.5
            if move is not None:
                with torch.no_grad():
                    parameter.mul_(1 + move(epoch))
        watch.model_seen(model, epoch)
        watch.epoch_ended(epoch - 1, 1.0)


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 1))


def test_epochs_are_looked_at_ever_more_rarely() -> None:
    assert [epoch for epoch in range(1, 70) if is_sampled(epoch)] == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(("vanishes", "code"), [(True, "T02"), (False, None)])
def test_a_layer_whose_gradient_vanishes_is_named(vanishes: bool, code: str | None) -> None:
    model = two_layers()
    watch = watch_of(model)
    seen(watch, model, 16, lambda epoch, name: 1e-9 if vanishes and name.startswith("0") and epoch > 2 else 1.0)
    found = rule_t02(watch)
    assert (found.code if found else None) == code
    assert found is None or (found.severity == "warning" and "0.weight" in found.what)


def test_gradients_that_become_small_together_are_no_finding() -> None:
    model = two_layers()
    watch = watch_of(model)
    seen(watch, model, 32, lambda epoch, name: 10.0**-epoch)
    assert rule_t02(watch) is None


@pytest.mark.parametrize(("norm", "code"), [(5e3, "T01"), (50.0, None)])
def test_a_gradient_that_explodes_names_layer_and_epoch(norm: float, code: str | None) -> None:
    model = two_layers()
    watch = watch_of(model)
    seen(watch, model, 8, lambda epoch, name: norm if epoch == 8 and name == "2.weight" else 1.0)
    found = rule_exploding(watch)
    assert (found.code if found else None) == code
    assert found is None or ("2.weight" in found.what and "epoch 8" in found.what)


@pytest.mark.parametrize(("move", "code"), [(-2.0, "T08"), (1e-9, "T08"), (1e-2, None)])
def test_weights_that_move_too_far_or_not_at_all_are_noted(move: float, code: str | None) -> None:
    model = two_layers().double()
    watch = watch_of(model)
    seen(watch, model, 16, lambda epoch, name: 1.0, lambda epoch: move)
    found = rule_t08(watch)
    assert (found.code if found else None) == code


@pytest.mark.parametrize(("clip", "code"), [(3.0, "T09"), (50.0, None)])
def test_a_clip_that_is_always_active_is_noted(clip: float, code: str | None) -> None:
    model = two_layers()
    watch = watch_of(model, clip_norm=clip)
    each = 3.0 / 4**0.5  # four parameters, the whole norm is 3
    seen(watch, model, 16, lambda epoch, name: each)
    found = rule_t09(watch)
    assert (found.code if found else None) == code


@pytest.mark.parametrize(("losses", "code"), [([5, 2, 1, 0.4, 0.2, 0.2, 3, 3, 3.5], "O01"), ([5, 2, 1, 0.4, 0.2, 0.2, 0.25, 0.21, 0.3], None)])
def test_a_run_that_falls_apart_is_told_with_its_best_epoch(losses: list[float], code: str | None) -> None:
    watch = watch_of(two_layers())
    for epoch, loss in enumerate(losses):
        watch.epoch_ended(epoch, loss)
    found = rule_diverged(watch)
    assert (found.code if found else None) == code
    assert found is None or "epoch 5" in found.what


def line(rows: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    return x, x.sum(1, keepdim=True)


@pytest.mark.parametrize(("total", "code"), [(100_000, "O16"), (200, None)])
def test_a_warm_up_longer_than_the_run_is_found(total: int, code: str | None) -> None:
    schedule = {"name": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total), "every": "step"}
    found = fs.check(nn.Linear(3, 1), fs.Data.arrays(*line()).split(), loss="MSELoss", optimizer="SGD", lr=0.1, scheduler=schedule, epochs=40)
    assert ("O16" in {finding.code for finding in found if finding.severity == "warning"}) == (code is not None)


def test_a_run_looks_at_gradients_without_touching_a_bit() -> None:
    make = lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))  # noqa: E731
    settings = dict(loss="MSELoss", optimizer="Adam", lr=0.01, epochs=9, **QUIET)
    watched, alone = (fs.fit(make, fs.Data.arrays(*line()).split(), checks=checks, **settings) for checks in (True, False))  # type: ignore[arg-type]
    assert watched.weights_sha256 == alone.weights_sha256


def test_epochs_in_messages_count_from_one() -> None:
    x = torch.randn(70, 6, generator=torch.Generator().manual_seed(0))
    y = 0.7 * x[:, :1] + 1.5 * torch.randn(70, 1, generator=torch.Generator().manual_seed(1))
    parts = fs.Splits((x[:35], y[:35]), val=(x[35:], y[35:]))
    net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 1))
    run = fs.fit(net, parts, loss="MSELoss", optimizer="Adam", lr=0.02, epochs=200, keep="last", batch_size=10, **QUIET)
    overfitted = [finding for finding in run.findings if finding.code == "T05"]
    best = min(run.history, key=lambda row: row["val_loss"])["epoch"]
    assert overfitted and overfitted[0].evidence["best_epoch"] == best


def test_dead_units_that_grow_are_told_with_their_epochs() -> None:
    X = torch.randn(400, 4, generator=torch.Generator().manual_seed(1))
    subject = Subject(model=two_relus(), train=part_of(X, X[:, :1].clone()), loss=nn.MSELoss(), loss_name="MSELoss")
    watch, model = Watch(subject), subject.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for epoch in range(1, 5):
        watch.steps_ended([1.0] * 250)
        watch.epoch_ended(epoch - 1, 1.0)
        if epoch == 2:
            with torch.no_grad():
                model[0].bias.fill_(-100.0)
            before["0.bias"] = model[0].bias.detach().clone()
        watch.model_seen(model, epoch)
    watch.trained(model)
    (finding,) = [found for found in watch.findings() if found.code == "T03"]
    assert finding.severity == "warning" and finding.evidence["since_epoch"] == 2 and "100% after epoch 4" in finding.what
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def two_relus() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.LeakyReLU(), nn.Linear(16, 1))
