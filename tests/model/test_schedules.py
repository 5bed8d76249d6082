"""Schedules: every one of torch gives its rates, and one that was stopped goes on as if it never was."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch
from small_models import EVERY_SCHEDULER, SCHEDULER_ARGUMENTS, fresh, same, step, through_json
from torch import nn
from torch.optim import lr_scheduler

from fivestep.errors import ArtifactError, SettingsError, UsageError
from fivestep.model.optimizer_state import restore_optimizer
from fivestep.model.optimizers import make_optimizer
from fivestep.model.schedules import make_schedule, schedulers

SEQUENCE = [{"name": "LinearLR", "every": "step", "epochs": 1.5}, {"name": "MultiStepLR", "milestones": [1, 3], "epochs": 4}, {"name": "OneCycleLR"}]
EPOCHS, STEPS = 12, 4
METRICS = [1.0, 0.9, 0.95, 0.93, 0.99, float("nan"), 0.8, 0.81, float("inf"), 0.79, 0.9, 0.9]


def spec_of(name: str):
    return SEQUENCE if name == "sequence" else {"name": name, **SCHEDULER_ARGUMENTS.get(name, {})}


def run(model, optimizer, schedule, end: int, inputs, target, begin: int = 0):
    """The rates and momenta of the steps `begin` to `end`, moving the schedule as `epochs.py` does."""
    seen = []
    for number in range(begin, end):
        step(model, optimizer, inputs, target)
        seen.append(([group["lr"] for group in optimizer.param_groups], [group.get("momentum", group.get("betas")) for group in optimizer.param_groups]))
        if schedule.every == "step":
            schedule.step()
        if (number + 1) % STEPS == 0:
            if schedule.every == "epoch":
                schedule.step()
            if schedule.wants_metric:
                schedule.step(METRICS[number // STEPS])
    return seen


def test_every_scheduler_of_torch_is_tried():
    assert set(schedulers()) == set(EVERY_SCHEDULER)
    assert set(SCHEDULER_ARGUMENTS) <= set(EVERY_SCHEDULER)


@pytest.mark.parametrize("order", ["optimizer first", "schedule first"])
@pytest.mark.parametrize("stop", [1, 8, 30])
@pytest.mark.parametrize("optimizer_spec", [{"name": "SGD", "momentum": 0.9}, "AdamW", {"first": "Adam", "*": "SGD"}], ids=["SGD", "AdamW", "two"])
@pytest.mark.parametrize("name", [*EVERY_SCHEDULER, "sequence"])
def test_a_schedule_that_was_stopped_gives_the_rates_of_one_that_never_was(name, optimizer_spec, stop, order):
    def build():
        model, inputs, target = fresh("Adam")
        optimizer = make_optimizer(optimizer_spec, model, lr=0.02, groups={"last": {"lr": 0.01}})
        return model, optimizer, make_schedule(spec_of(name), optimizer, epochs=EPOCHS, steps_per_epoch=STEPS), inputs, target

    model, optimizer, schedule, inputs, target = build()
    straight = run(model, optimizer, schedule, EPOCHS * STEPS, inputs, target)
    assert len({repr(rates) for rates, _ in straight}) > 1, "the rates must change for the test to mean something"

    model, optimizer, schedule, inputs, target = build()
    first = run(model, optimizer, schedule, stop, inputs, target)
    text = json.dumps({"schedule": schedule.state_dict()}, allow_nan=False)
    state, weights = through_json(optimizer.state_dict()), copy.deepcopy(model.state_dict())

    model, optimizer, schedule, inputs, target = build()
    model.load_state_dict(weights)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a replay must not warn of an order that was right when it happened
        if order == "optimizer first":
            restore_optimizer(optimizer, state)
        schedule.load_state_dict(json.loads(text)["schedule"])
        if order == "schedule first":
            restore_optimizer(optimizer, state)
    assert same(through_json(optimizer.state_dict()), state), "the optimizer's state is as it was restored"
    assert schedule.state_dict() == json.loads(text)["schedule"]
    assert repr(first + run(model, optimizer, schedule, EPOCHS * STEPS, inputs, target, begin=stop)) == repr(straight)


@pytest.mark.parametrize("optimizer_spec", [{"name": "SGD", "momentum": 0.9}, {"first": "Adam", "*": "SGD"}, "LBFGS"], ids=["SGD", "two", "LBFGS"])
@pytest.mark.parametrize("name", [*sorted(set(EVERY_SCHEDULER) - {"ReduceLROnPlateau"}), "sequence"])
def test_a_preview_gives_the_rates_of_the_run_and_moves_nothing(name, optimizer_spec):
    model, inputs, target = fresh("Adam")
    optimizer = make_optimizer(optimizer_spec, model, lr=0.02)
    schedule = make_schedule(spec_of(name), optimizer, epochs=EPOCHS, steps_per_epoch=STEPS)
    before = through_json(optimizer.state_dict())
    expected = schedule.preview(EPOCHS * STEPS, STEPS)
    assert same(before, through_json(optimizer.state_dict()))
    first = [rates for rates, _ in run(model, optimizer, schedule, 6, inputs, target)]
    assert schedule.preview(EPOCHS * STEPS, STEPS) == expected, "a preview starts at the run's start, wherever the schedule is"
    assert first + [rates for rates, _ in run(model, optimizer, schedule, EPOCHS * STEPS, inputs, target, begin=6)] == expected


@pytest.mark.parametrize("name", EVERY_SCHEDULER)
def test_a_schedule_gives_the_rates_of_torchs_own_scheduler(name):
    """A hand loop with the arguments of the spec and what was filled in."""
    optimizer, hand = (torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.02, momentum=0.9) for _ in range(2))
    schedule = make_schedule(spec_of(name), optimizer, epochs=EPOCHS, steps_per_epoch=STEPS)
    assert schedule.every == {"OneCycleLR": "step", "CyclicLR": "step", "ReduceLROnPlateau": "validation"}.get(name, "epoch")
    arguments = SCHEDULER_ARGUMENTS.get(name, {}) | schedule.filled_in
    if "schedulers" in arguments:
        parts = [dict(part) for part in arguments["schedulers"]]
        arguments = arguments | {"schedulers": [getattr(lr_scheduler, part.pop("name"))(hand, **part) for part in parts]}
    theirs = getattr(lr_scheduler, name)(optimizer=hand, **arguments)
    for number in range(EPOCHS * (STEPS if schedule.every == "step" else 1)):
        assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] for group in hand.param_groups] == schedule.last_lr
        optimizer.step(), hand.step()
        extra = (METRICS[number],) if schedule.wants_metric else ()
        schedule.step(*extra), theirs.step(*extra)


def test_a_list_is_torchs_sequential():
    optimizer, hand = (torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.02) for _ in range(2))
    schedule = make_schedule(
        [{"name": "LinearLR", "epochs": 3}, {"name": "ExponentialLR", "gamma": 0.8, "epochs": 4}, "CosineAnnealingLR"],
        optimizer,
        epochs=10,
        steps_per_epoch=STEPS,
    )
    assert schedule.filled_in == {"LinearLR.total_iters": 3, "CosineAnnealingLR.T_max": 3} and schedule.depends_on_epochs
    parts = [lr_scheduler.LinearLR(hand, total_iters=3), lr_scheduler.ExponentialLR(hand, 0.8), lr_scheduler.CosineAnnealingLR(hand, 3)]
    theirs = lr_scheduler.SequentialLR(hand, parts, [3, 7])
    for _ in range(10):
        assert schedule.last_lr == pytest.approx([hand.param_groups[0]["lr"]], rel=1e-14)
        optimizer.step(), hand.step()
        schedule.step(), theirs.step()


def test_a_warm_up_by_step_is_followed_by_a_decay_by_epoch():
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=1.0)
    schedule = make_schedule(
        [{"name": "LinearLR", "every": "step", "start_factor": 0.5, "epochs": 1}, {"name": "StepLR", "step_size": 1}], optimizer, epochs=3, steps_per_epoch=2
    )
    seen = []
    for _ in range(6):
        seen.append(schedule.last_lr[0])
        optimizer.step()
        schedule.step()
    assert schedule.every == "step" and seen == [0.5, 0.75, 1.0, 1.0, 0.1, 0.1]


def test_a_warm_up_is_followed_by_a_plateau():
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=1.0)
    schedule = make_schedule(
        [{"name": "LinearLR", "epochs": 2}, {"name": "ReduceLROnPlateau", "patience": 0}], optimizer, epochs=6, steps_per_epoch=2, mode="max"
    )
    assert schedule.every == "epoch" and schedule.wants_metric and schedule.filled_in["ReduceLROnPlateau.mode"] == "max"
    for metric in (0.1, 0.2, 0.9, 0.8):
        optimizer.step()
        schedule.step()
        schedule.step(metric)
    assert schedule.last_lr == [pytest.approx(0.1)]


def test_what_somebody_set_by_hand_survives_the_replay():
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=1.0)
    schedule = make_schedule({"name": "ExponentialLR", "gamma": 0.5}, optimizer, epochs=9, steps_per_epoch=1)
    optimizer.step()
    schedule.step()
    optimizer.param_groups[0]["lr"] = 0.3
    state, moves = through_json(optimizer.state_dict()), schedule.state_dict()
    other = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=1.0)
    resumed = make_schedule({"name": "ExponentialLR", "gamma": 0.5}, other, epochs=9, steps_per_epoch=1)
    restore_optimizer(other, state)
    resumed.load_state_dict(moves)
    assert resumed.last_lr == [0.3]
    other.step()
    resumed.step()
    assert resumed.last_lr == [0.15]


def test_without_the_optimizers_state_the_replayed_rates_stand():
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=1.0)
    schedule = make_schedule({"name": "StepLR", "step_size": 2}, optimizer, epochs=9, steps_per_epoch=1)
    schedule.load_state_dict({"steps": 5, "metrics": []})
    assert schedule.last_lr == [pytest.approx(0.01)]


def test_a_rate_that_is_a_tensor_stays_the_same_tensor():
    rate = torch.tensor(1.0)
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=rate)
    schedule = make_schedule([{"name": "LinearLR", "epochs": 2}, {"name": "StepLR", "step_size": 1}], optimizer, epochs=5, steps_per_epoch=1)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] is rate and schedule.last_lr == [pytest.approx(0.01)]


def test_a_schedule_is_made_from_every_way_to_write_it():
    def build(spec, **defaults):
        return make_schedule(spec, torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=1.0, **defaults), epochs=5, steps_per_epoch=3)

    assert build(None) is None and build("auto") is None
    assert build("CosineAnnealingLR").filled_in == {"T_max": 5}
    assert build({"name": "CosineAnnealingLR", "every": "step"}).filled_in == {"T_max": 15}
    assert (
        build({"name": "CosineAnnealingLR", "epochs": 3}).filled_in == {"T_max": 3} and not build({"name": "CosineAnnealingLR", "epochs": 3}).depends_on_epochs
    )
    assert build({"name": "CosineAnnealingLR", "T_max": 7}).filled_in == {}
    assert build("OneCycleLR").filled_in == {"total_steps": 15, "max_lr": [1.0]}
    assert build(lr_scheduler.PolynomialLR).filled_in == {"total_iters": 5}
    assert build(lambda optimizer: lr_scheduler.StepLR(optimizer, 2)).every == "epoch"
    assert build(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=15)).every == "step"
    assert build(lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer)).every == "validation"
    adagrad = make_schedule("OneCycleLR", torch.optim.Adagrad(nn.Linear(3, 2).parameters()), epochs=5, steps_per_epoch=3)
    assert adagrad.filled_in["cycle_momentum"] is False


def test_after_its_length_a_last_part_leaves_the_rate_alone():
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=1.0)
    schedule = make_schedule({"name": "OneCycleLR", "epochs": 2}, optimizer, epochs=5, steps_per_epoch=3)
    for _ in range(15):  # torch's own would raise after 7
        optimizer.step()
        schedule.step()
    assert schedule.filled_in["total_steps"] == 6


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("CosineLR", "Did you mean"),
        ("cosine_annealing", 'Did you mean "CosineAnnealing'),
        ({"T_max": 3}, 'no "name"'),
        ("StepLR", "It takes: step_size, gamma"),
        ({"name": "StepLR", "stepsize": 3}, 'Did you mean "step_size"'),
        ({"name": "StepLR", "step_size": 3, "every": "batch"}, '"step" or "epoch"'),
        ({"name": "ReduceLROnPlateau", "every": "step"}, "looks at a validation"),
        (["LinearLR", "CosineAnnealingLR"], "how long it lasts"),
        ([{"name": "LinearLR", "epochs": 6}, "CosineAnnealingLR"], "the run has 5"),
        ([{"name": "LinearLR", "epochs": 5}, "CosineAnnealingLR"], "nothing is left"),
        ([{"name": "LinearLR", "steps": 4}, "CosineAnnealingLR"], '"every": "step"'),
        ([{"name": "LinearLR", "epochs": 1.5}, "CosineAnnealingLR"], "cannot last 1.5"),
        ([{"name": "LinearLR", "epochs": "two"}, "CosineAnnealingLR"], "cannot last 'two'"),
        ([], "names none"),
        (3, "cannot be used"),
        (lambda epoch: 0.9**epoch, "LambdaLR"),
        (lambda optimizer: None, "has no step"),
        ({"name": "ChainedScheduler", "schedulers": [{"name": "StepLR", "step_size": 2, "every": "step"}]}, "Use a list"),
    ],
)
def test_a_schedule_that_means_nothing_is_refused(spec, match):
    with pytest.raises(SettingsError, match=match):
        make_schedule(spec, torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=1.0), epochs=5, steps_per_epoch=3)


def test_a_schedule_is_made_before_the_state_is_loaded():
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=1.0)
    make_schedule("CosineAnnealingLR", optimizer, epochs=5, steps_per_epoch=3)
    with pytest.raises(UsageError, match="Make the schedule first"):
        make_schedule("CosineAnnealingLR", optimizer, epochs=5, steps_per_epoch=3)


@pytest.mark.parametrize("state", [{}, {"steps": -1, "metrics": []}, {"steps": True, "metrics": []}, {"steps": 2, "metrics": [[3, 1.0]]}, {"steps": 2, "metrics": [[1, "x"]]}, {"steps": 2, "metrics": [1]}, None])  # fmt: skip
def test_moves_that_mean_nothing_are_refused(state):
    schedule = make_schedule("CosineAnnealingLR", torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=1.0), epochs=5, steps_per_epoch=3)
    with pytest.raises(ArtifactError):
        schedule.load_state_dict(state)
