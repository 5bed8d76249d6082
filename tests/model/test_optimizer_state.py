"""An optimizer's state survives JSON to the bit: restored, it goes on as if it never stopped."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import EVERY_OPTIMIZER, fresh, same, step, through_json
from torch import nn

from fivestep.errors import ArtifactError, SettingsError
from fivestep.model.optimizer_state import join_state, restore_optimizer, split_state
from fivestep.model.optimizers import make_optimizer


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
