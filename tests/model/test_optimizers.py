"""Optimizers: every one of torch trains, and is made from every way to write it, with the groups and the variant that were asked for."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import EVERY_OPTIMIZER, Small, Words, fresh, step
from torch import nn

from fivestep.errors import SettingsError
from fivestep.model import optimizers
from fivestep.model.optimizers import RATES, SPECIAL, Optimizers, hidden_matrices, make_optimizer


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
