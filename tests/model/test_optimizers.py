"""Optimizers and schedules: every one of torch trains, its state survives JSON to the bit, and a schedule that was stopped goes on as if it never was."""

from __future__ import annotations

import copy
import inspect
import json
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from fivestep.errors import ArtifactError, SettingsError, UsageError
from fivestep.model import optimizers
from fivestep.model.optimizers import RATES, SPECIAL, Optimizers, hidden_matrices, join_state, make_optimizer, make_schedule, restore_optimizer, split_state

EVERY_OPTIMIZER = sorted(
    n for n, v in vars(torch.optim).items() if inspect.isclass(v) and issubclass(v, torch.optim.Optimizer) and v is not torch.optim.Optimizer
)
EVERY_SCHEDULER = sorted(
    n for n, v in vars(lr_scheduler).items() if inspect.isclass(v) and issubclass(v, lr_scheduler.LRScheduler) and n[0] != "_" and n != "LRScheduler"
)


class Small(nn.Module):
    """3 -> 5 -> 7 -> 5 -> 2: two hidden matrices."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.first = nn.Linear(3, 5, dtype=dtype)
        self.body = nn.Sequential(nn.Linear(5, 7, dtype=dtype), nn.Tanh(), nn.Linear(7, 5, dtype=dtype))
        self.norm = nn.LayerNorm(5, dtype=dtype)
        self.last = nn.Linear(5, 2, dtype=dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.norm(self.body(self.first(inputs).tanh())).tanh())


class Words(nn.Module):
    """A bag of words: an embedding with sparse gradients, and nothing else unless asked."""

    def __init__(self, head: bool = False):
        super().__init__()
        self.embedding = nn.EmbeddingBag(11, 2, sparse=True, mode="sum")
        if head:
            self.head = nn.Linear(2, 2)

    def forward(self, words: Tensor) -> Tensor:
        found = self.embedding(words)
        return self.head(found) if hasattr(self, "head") else found


def fresh(name: str, dtype: torch.dtype = torch.float32):
    """(model, inputs, target, optimizer's spec) for an optimizer by name, the same each time."""
    torch.manual_seed(1)
    model = Words() if name == "SparseAdam" else Small(dtype)
    inputs = torch.randint(0, 11, (8, 4)) if name == "SparseAdam" else torch.randn(8, 3, dtype=dtype)
    return model, inputs, torch.randn(8, 2, dtype=dtype if name != "SparseAdam" else torch.float32)


def step(model, optimizer, inputs, target) -> float:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.mse_loss(model(inputs), target)
        value.backward()
        return value

    if optimizer.needs_closure:
        return float(optimizer.step(closure).detach())
    value = float(closure().detach())
    optimizer.step()
    return value


def through_json(state):
    """What a checkpoint does: tensors beside, the rest as text."""
    tensors, entry = split_state(state)
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    return join_state(tensors, json.loads(json.dumps(entry, allow_nan=False)))


def same(one, other) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


# -- every optimizer ------------------------------------------------------------------------------------------------------------------------------------------


def test_every_optimizer_of_torch_has_a_rate_and_special_ones_a_reason():
    assert set(RATES) == set(EVERY_OPTIMIZER)
    assert set(SPECIAL) <= set(EVERY_OPTIMIZER)


@pytest.mark.parametrize("name", EVERY_OPTIMIZER)
def test_every_optimizer_lowers_the_loss(name):
    model, inputs, target = fresh(name)
    optimizer = make_optimizer(name, model)
    assert optimizer.needs_closure == (name == "LBFGS")
    losses = [step(model, optimizer, inputs, target) for _ in range(40)]
    assert losses[-1] < 0.98 * losses[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", EVERY_OPTIMIZER)
def test_a_restored_optimizer_goes_on_with_the_same_bits(name, dtype):
    if (name == "SparseAdam" and dtype != torch.float32) or (name == "LBFGS" and dtype == torch.bfloat16):
        pytest.skip("one dtype is enough")
    model, inputs, target = fresh(name, dtype)
    optimizer = make_optimizer(name, model)
    for _ in range(3):
        step(model, optimizer, inputs, target)
    saved, weights = through_json(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    assert same(saved, optimizer.state_dict())

    other, _, _ = fresh(name, dtype)
    resumed = make_optimizer(name, other)
    other.load_state_dict(weights)
    restore_optimizer(resumed, saved)
    for _ in range(4):
        assert step(model, optimizer, inputs, target) == step(other, resumed, inputs, target)
    assert all(torch.equal(one, two) for one, two in zip(model.state_dict().values(), other.state_dict().values()))
    assert same(optimizer.state_dict(), resumed.state_dict())


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "SGD", "momentum": 0.9, "nesterov": True},
        {"name": "Adam", "amsgrad": True, "betas": [0.8, 0.95]},
        {"name": "RMSprop", "centered": True, "momentum": 0.5},
        {"name": "LBFGS", "line_search_fn": "strong_wolfe", "max_iter": 4},
        {"name": "Adam", "lr": torch.tensor(1e-3), "foreach": False},
        {"first": "SGD", "*": "NAdam"},
    ],
    ids=lambda spec: "-".join(map(str, spec)),
)
def test_variants_go_on_with_the_same_bits(spec):
    model, inputs, target = fresh("Adam")
    optimizer = make_optimizer(spec, model)
    for _ in range(3):
        step(model, optimizer, inputs, target)
    other = copy.deepcopy(model)
    resumed = make_optimizer(spec, other)
    restore_optimizer(resumed, through_json(optimizer.state_dict()))
    for _ in range(4):
        assert step(model, optimizer, inputs, target) == step(other, resumed, inputs, target)


def test_state_of_channels_last_weights_keeps_its_memory_order():
    """A fused kernel walks weights and state in memory order; a state that came back contiguous would be applied to the wrong weights."""

    def build():
        torch.manual_seed(2)
        return nn.Conv2d(3, 5, (2, 3)).to(memory_format=torch.channels_last)

    model, inputs = build(), torch.randn(2, 3, 6, 7).to(memory_format=torch.channels_last)
    optimizer = make_optimizer("AdamW", model)
    assert optimizer.recorded["arguments"]["fused"]
    for _ in range(3):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    saved = through_json(optimizer.state_dict())
    assert not saved["state"][0]["exp_avg"].is_contiguous()
    other = build()
    other.load_state_dict(model.state_dict())
    resumed = make_optimizer("AdamW", other)
    restore_optimizer(resumed, saved)
    for one, its in ((model, optimizer), (other, resumed)):
        its.zero_grad()
        one(inputs).square().mean().backward()
        its.step()
    assert torch.equal(model.weight, other.weight)


def test_a_restored_state_does_not_share_memory_with_what_it_came_from():
    model, inputs, target = fresh("Adam")
    optimizer = make_optimizer("Adam", model)
    step(model, optimizer, inputs, target)
    tensors, entry = split_state(optimizer.state_dict())
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    restore_optimizer(optimizer, join_state(kept, entry))
    before = {name: tensor.clone() for name, tensor in kept.items()}
    step(model, optimizer, inputs, target)
    assert all(torch.equal(before[name], kept[name]) for name in kept)


def test_state_of_another_model_is_refused():
    model, inputs, target = fresh("Adam")
    optimizer = make_optimizer("Adam", model)
    step(model, optimizer, inputs, target)
    state = through_json(optimizer.state_dict())
    with pytest.raises(ArtifactError, match="does not fit"):
        restore_optimizer(make_optimizer("Adam", nn.Linear(3, 2)), state)
    state["state"][0]["exp_avg"] = torch.zeros(1, 1)
    with pytest.raises(ArtifactError, match="shape"):
        restore_optimizer(optimizer, state)
    with pytest.raises(ArtifactError):
        restore_optimizer(optimizer, {})
    with pytest.raises(ArtifactError):
        restore_optimizer(make_optimizer({"first": "SGD", "*": "Adam"}, model), {"first": {}})


# -- the codec ------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -0.0, 0.1, 1e308, 5e-324, float("inf"), float("-inf"), 2**70, "", "ü\x00\ud7ff", [], (), {}, [[], ()], (1, (2.0, [3])),
        {0: 1, "0": 2, (1, 2): None, None: True}, {"dict": [1]}, {"tensor": "x"}, {"tuple": 3}, torch.float16,
        {"a": torch.arange(6).reshape(2, 3)}, {"a": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)}, [torch.tensor(3.5), torch.empty(0, 3)],
        {"a.b": torch.ones(1), "a": {"b": torch.zeros(2)}}, torch.randn(4, 3).t(), torch.randn(5, dtype=torch.bfloat16), torch.randn(6)[1:3],
    ],
    ids=repr,
)  # fmt: skip
def test_state_comes_back_with_every_type_and_bit(value):
    assert same(through_json(value), value)


def test_nan_comes_back_and_what_cannot_be_saved_is_refused():
    assert repr(through_json(float("nan"))) == "nan"
    assert through_json(torch.zeros(3).expand(2, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]
    for value in ({"seen": {1, 2}}, object(), b"x", 1j, torch.eye(3).to_sparse()):
        with pytest.raises(SettingsError, match="cannot be saved"):
            split_state(value)


@pytest.mark.parametrize(
    "entry",
    [
        {"tensor": "missing"}, {"tensor": 3}, {"tensor": "a", "extra": 1}, {"dict": [[1]]}, {"dict": [[1, 2], [1, 3]]}, {"dict": [[[1], 2]]}, {"dict": 3},
        {"tuple": 3}, {"float": "1e999"}, {"float": 3}, {"dtype": "os"}, {"dtype": "load"}, {}, {"tensor": "a", "stride": [10**12, 1]}, {"tensor": "a", "stride": [1]},
        {"tensor": "a", "stride": [0, 0]}, {"tensor": "a", "stride": [1, 1]}, {"tensor": "a", "stride": "11"}, {"tensor": "a", "stride": [True, 2]}, 3,
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_state_is_refused(entry):
    with pytest.raises(ArtifactError):
        join_state({"a": torch.zeros(2, 3)}, entry)


# -- making ---------------------------------------------------------------------------------------------------------------------------------------------------


def test_an_optimizer_is_made_from_every_way_to_write_it():
    model = Small()
    assert type(make_optimizer(None, model)) is type(make_optimizer("auto", model)) is torch.optim.AdamW
    made = make_optimizer({"name": "SGD", "momentum": 0.9}, model, lr=0.3)
    assert made.param_groups[0]["lr"] == 0.3 and made.param_groups[0]["momentum"] == 0.9
    assert make_optimizer({"name": torch.optim.SGD, "lr": 0.2}, model, lr="auto").param_groups[0]["lr"] == 0.2
    assert make_optimizer(torch.optim.RMSprop, model).param_groups[0]["lr"] == RATES["RMSprop"][0]
    by_function = make_optimizer(lambda model: torch.optim.SGD(model.last.parameters(), lr=0.5), model)
    assert by_function.param_groups[0]["lr"] == 0.5 and "first.weight" in by_function.said[0]
    assert make_optimizer({"name": lambda model, rate: torch.optim.SGD(model.parameters(), lr=rate), "rate": 0.7}, model).param_groups[0]["lr"] == 0.7
    pair = make_optimizer(lambda model: {"a": torch.optim.SGD(model.first.parameters()), "b": torch.optim.SGD(model.last.parameters())}, model)
    assert isinstance(pair, Optimizers) and list(pair.named) == ["a", "b"]

    class Own(torch.optim.SGD):
        def __init__(self, params, speed=0.1):
            super().__init__(params, lr=speed)

    assert make_optimizer({"name": Own, "speed": 0.4}, model).param_groups[0]["lr"] == 0.4


def test_by_name_the_fastest_variant_is_taken_and_recorded_and_a_class_is_as_given():
    model = Small()
    assert make_optimizer("AdamW", model, lr=0.1).recorded == {"class": "torch.optim.AdamW", "arguments": {"lr": 0.1, "fused": True}, "parameters": "all"}
    assert make_optimizer("Adam", model).param_groups[0]["fused"] is True
    assert make_optimizer("SGD", model).recorded["arguments"] == {"lr": 0.01, "foreach": False}
    assert make_optimizer({"name": "Adam", "foreach": True}, model).recorded["arguments"] == {"lr": 0.001, "foreach": True}
    assert make_optimizer(torch.optim.Adam, model, lr=0.1).recorded["arguments"] == {"lr": 0.1}
    assert "fused" not in make_optimizer("AdamW", model, device="meta").recorded["arguments"]
    complex_model = nn.Linear(3, 2, dtype=torch.complex64)
    assert "fused" not in make_optimizer("AdamW", complex_model).recorded["arguments"]
    assert "lr: 0.001" in " ".join(make_optimizer("AdamW", model).said)


def test_a_hand_loop_with_the_recorded_arguments_gives_the_same_bits():
    model, inputs, target = fresh("AdamW")
    by_hand = copy.deepcopy(model)
    optimizer = make_optimizer({"name": "AdamW", "weight_decay": 0.1}, model, lr=0.01)
    path, arguments = optimizer.recorded["class"].rsplit(".", 1)[1], optimizer.recorded["arguments"]
    hand = getattr(torch.optim, path)(by_hand.parameters(), **arguments)
    hand.needs_closure = False
    for _ in range(5):
        assert step(model, optimizer, inputs, target) == step(by_hand, hand, inputs, target)


def test_frozen_parameters_are_left_out_and_those_of_the_loss_are_included():
    model = Small()
    model.first.requires_grad_(False)
    loss = nn.AdaptiveLogSoftmaxWithLoss(4, 3, [1], div_value=1.0)
    optimizer = make_optimizer("AdamW", model, loss=loss)
    taken = {id(parameter) for parameter in optimizer.param_groups[0]["params"]}
    assert id(model.first.weight) not in taken and id(model.last.weight) in taken
    assert {id(parameter) for parameter in loss.parameters()} <= taken
    pair = make_optimizer({"loss:*": "SGD", "*": "AdamW"}, model, loss=loss)
    assert len(pair.named["loss:*"].param_groups[0]["params"]) == len(list(loss.parameters()))
    model.requires_grad_(False)
    with pytest.raises(SettingsError, match="all 10 parameters are frozen"):
        make_optimizer("AdamW", model)
    with pytest.raises(SettingsError, match="no shape yet"):
        make_optimizer("AdamW", nn.LazyLinear(3))


def test_groups_have_their_own_options_and_the_rest_the_common_ones():
    model = Small()
    optimizer = make_optimizer("AdamW", model, lr=1e-3, groups={"body.*": {"lr": 1e-5}, "last": {"weight_decay": 0.0}})
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [
        (1e-5, 0.01, 4),
        (1e-3, 0.0, 2),
        (1e-3, 0.01, 4),
    ]
    assert optimizer.recorded["parameters"][0] == {"names": ["body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"], "lr": 1e-5}


def test_the_first_pattern_that_matches_takes_a_parameter():
    model = Small()
    pair = make_optimizer({"body.*.weight": "Muon", "body": {"name": "SGD", "momentum": 0.5}, "*": "AdamW"}, model, lr=0.1)
    assert [len(one.param_groups[0]["params"]) for one in pair.named.values()] == [2, 2, 6]
    assert [group["lr"] for group in pair.param_groups] == [0.1] * 3
    rates = make_optimizer({"body": {"name": "SGD", "lr": 0.5}, "*": "AdamW"}, model).param_groups
    assert [group["lr"] for group in rates] == [0.5, 1e-3]
    with pytest.raises(SettingsError, match="contradict"):
        make_optimizer({"name": "SGD", "lr": 0.5}, model, lr=0.1)


def test_muon_alone_takes_hidden_matrices_and_says_so():
    model = Small()
    assert hidden_matrices(model, optimizers.trainable(model)) == ["body.0.weight", "body.2.weight"]
    pair = make_optimizer("Muon", model)
    assert [type(one).__name__ for one in pair.named.values()] == ["Muon", "AdamW"]
    assert "body.0.weight, body.2.weight" in pair.said[0]
    assert pair.named["Muon"].recorded["arguments"] == {"lr": 1e-3, "adjust_lr_fn": "match_rms_adamw"}
    assert sum(len(group["params"]) for group in pair.param_groups) == len(list(model.parameters()))
    text = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 6), nn.Linear(6, 3))
    assert hidden_matrices(text, optimizers.trainable(text)) == ["1.weight"], "the embedding is the input layer, 2 the output"
    assert hidden_matrices(text, optimizers.trainable(text, nn.AdaptiveLogSoftmaxWithLoss(4, 3, [1], div_value=1.0))) == ["1.weight", "2.weight"]
    with pytest.raises(SettingsError, match="no hidden matrix"):
        make_optimizer("Muon", nn.Linear(3, 2))
    with pytest.raises(SettingsError, match="matrices only"):
        make_optimizer({"body": "Muon", "*": "AdamW"}, model)


@pytest.mark.parametrize(
    ("spec", "options", "match"),
    [
        ("Adamw", {}, 'Did you mean "AdamW"'),
        ("adam", {}, 'Did you mean "Adam"'),
        ({"name": "SGD", "momentun": 0.9}, {}, 'Did you mean "momentum"'),
        ({"name": "SGD", "momentum": -1}, {}, "Invalid momentum"),
        ({"momentum": 0.9}, {}, 'no "name"'),
        ({}, {}, "names no optimizer"),
        (3, {}, "is no optimizer"),
        ("AdamW", {"lr": -1.0}, "at least 0"),
        ("AdamW", {"lr": float("nan")}, "at least 0"),
        ("AdamW", {"lr": "fast"}, "at least 0"),
        ("AdamW", {"groups": {"backbone.*": {"lr": 1e-5}}}, "matches no parameter"),
        ("AdamW", {"groups": {"bodi": {"lr": 1e-5}}}, "Near are: body"),
        ("AdamW", {"groups": {"body.*": {"learning_rate": 1e-5}}}, "no argument 'learning_rate'"),
        ("AdamW", {"groups": {"body.*": 1e-5}}, "table of options"),
        ("LBFGS", {"groups": {"body.*": {"lr": 1e-5}}}, "no parameter groups"),
        ({"body": "SGD"}, {}, "no pattern takes first.weight"),
        ({"*": "SGD", "body": "AdamW"}, {}, "taken by the patterns before"),
        ({"body": "LBFGS", "*": "AdamW"}, {}, "cannot move together"),
        ({"body": lambda model: None, "*": "AdamW"}, {}, "whole model"),
        (lambda model: torch.optim.SGD(model.parameters()), {"lr": 0.1}, "cannot reach"),
        (lambda model: None, {}, "returned NoneType"),
        (torch.optim.SGD([torch.zeros(2, requires_grad=True)]), {}, "before the run"),
        ("SparseAdam", {}, "sparse gradients"),
    ],
)
def test_what_cannot_train_is_refused_with_the_way_out(spec, options, match):
    with pytest.raises(SettingsError, match=match):
        make_optimizer(spec, Small(), **options)


def test_a_group_of_frozen_parameters_is_said():
    model = Small()
    model.body.requires_grad_(False)
    with pytest.raises(SettingsError, match="only frozen"):
        make_optimizer("AdamW", model, groups={"body.*": {"lr": 1e-5}})


def test_sparse_embeddings_need_an_optimizer_that_takes_them():
    model = Words(head=True)
    with pytest.raises(SettingsError, match=r'"embedding.weight": "SparseAdam"'):
        make_optimizer("AdamW", model)
    pair = make_optimizer({"embedding": "SparseAdam", "*": "AdamW"}, model)
    model(torch.randint(0, 11, (8, 4))).sum().backward()
    pair.step()


def test_several_optimizers_move_like_each_alone():
    model, inputs, target = fresh("Adam")
    other = copy.deepcopy(model)
    pair = make_optimizer({"first": "SGD", "*": "AdamW"}, model)
    alone = [make_optimizer("SGD", other.first), torch.optim.AdamW([p for n, p in other.named_parameters() if not n.startswith("first")], lr=1e-3, fused=True)]
    for _ in range(3):
        step(model, pair, inputs, target)
        other.zero_grad()
        nn.functional.mse_loss(other(inputs), target).backward()
        for one in alone:
            one.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


def test_several_optimizers_move_under_a_gradient_scaler():
    model, inputs, target = fresh("Adam")
    pair = make_optimizer({"first": "SGD", "*": "AdamW"}, model)
    before = [parameter.clone() for parameter in model.parameters()]
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(nn.functional.mse_loss(model(inputs), target)).backward()
    scaler.unscale_(pair)
    scaler.step(pair)
    scaler.update()
    by_hand, _, _ = fresh("Adam")
    optimizer = make_optimizer({"first": "SGD", "*": "AdamW"}, by_hand)
    step(by_hand, optimizer, inputs, target)
    for one, other, start in zip(model.parameters(), by_hand.parameters(), before):
        assert not torch.equal(one, start)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# -- schedules ------------------------------------------------------------------------------------------------------------------------------------------------

ARGUMENTS = {
    "LambdaLR": {"lr_lambda": lambda epoch: 0.95**epoch},
    "MultiplicativeLR": {"lr_lambda": lambda epoch: 0.9 + epoch * 1e-3},
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [2, 5, 5, 9]},
    "ExponentialLR": {"gamma": 0.9},
    "CyclicLR": {"base_lr": 1e-4, "step_size_up": 3, "mode": "exp_range", "gamma": 0.99},
    "CosineAnnealingWarmRestarts": {"T_0": 4, "T_mult": 2},
    "ChainedScheduler": {"schedulers": [{"name": "ConstantLR", "factor": 0.5, "total_iters": 4}, {"name": "ExponentialLR", "gamma": 0.9}]},
    "SequentialLR": {"schedulers": [{"name": "LinearLR", "total_iters": 4}, {"name": "MultiStepLR", "milestones": [2, 6]}], "milestones": [4]},
    "ReduceLROnPlateau": {"patience": 1, "factor": 0.5, "cooldown": 1},
}
SEQUENCE = [{"name": "LinearLR", "every": "step", "epochs": 1.5}, {"name": "MultiStepLR", "milestones": [1, 3], "epochs": 4}, {"name": "OneCycleLR"}]
EPOCHS, STEPS = 12, 4
METRICS = [1.0, 0.9, 0.95, 0.93, 0.99, float("nan"), 0.8, 0.81, float("inf"), 0.79, 0.9, 0.9]


def spec_of(name: str):
    return SEQUENCE if name == "sequence" else {"name": name, **ARGUMENTS.get(name, {})}


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
    assert set(optimizers.schedulers()) == set(EVERY_SCHEDULER)
    assert set(ARGUMENTS) <= set(EVERY_SCHEDULER)


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
    arguments = ARGUMENTS.get(name, {}) | schedule.filled_in
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
