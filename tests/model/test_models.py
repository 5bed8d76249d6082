"""The built-in networks: a closed list, checked before anything is allocated, and an ensemble whose members do not know of each other."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fivestep import seeds
from fivestep.errors import ArtifactError, SettingsError
from fivestep.model import models

# All axes differ: 3 inputs, 2 outputs, batches of 5, images 4 x 9 x 7, codes of 6 and 11 categories.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "linear": {"num_inputs": 3, "num_outputs": 2},
    "mlp": {"num_inputs": 3, "num_outputs": 2, "widths": [13, 8], "dropout": 0.5},
    "resnet": {"num_inputs": 3, "num_outputs": 2, "width": 13, "depth": 4},
    "cnn": {"image_shape": [4, 9, 7], "num_outputs": 2, "channels": [6, 10], "dropout": 0.5},
    "ensemble": {"num_inputs": 3, "num_outputs": 2, "members": 4, "widths": [13, 8], "number_columns": [2, 0]},
}
RESIDUAL = ("cnn", {**ARGUMENTS["cnn"], "channels": [4, 10, 10], "pooled": [0, 2], "residual": 1})
CODED = [("mlp", {**ARGUMENTS["mlp"], "num_categories": [6, 11]}), ("ensemble", {**ARGUMENTS["ensemble"], "num_categories": [6, 11]})]


def example(name: str, args: dict[str, Any], batch: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(batch, *(args["image_shape"] if name == "cnn" else [args["num_inputs"]]), generator=generator)
    codes = [torch.randint(0, count, (batch,), generator=generator) for count in args.get("num_categories") or ()]
    return (inputs, torch.stack(codes, 1)) if codes else (inputs,)


def test_every_built_in_is_exercised_here() -> None:
    assert set(ARGUMENTS) == set(models.BUILT_IN)


@pytest.mark.parametrize(("name", "args"), [*ARGUMENTS.items(), RESIDUAL, *CODED])
def test_forward_gives_one_row_of_outputs_for_each_example_and_every_parameter_learns(name: str, args: dict[str, Any]) -> None:
    with seeds.restored(7):
        module = models.build_built_in(name, args).eval()
        outputs = module(*example(name, args))
    assert outputs.shape == (5, 2) and outputs.dtype == torch.float32
    outputs.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize(("name", "args"), [*ARGUMENTS.items(), RESIDUAL, *CODED])
def test_a_prediction_does_not_depend_on_the_other_rows_of_its_batch(name: str, args: dict[str, Any]) -> None:
    with seeds.restored(7):
        module = models.build_built_in(name, args).double().eval()
    rows = tuple(part.double() if part.is_floating_point() else part for part in example(name, args))
    alone = torch.cat([module(*(part[row : row + 1] for part in rows)) for row in range(5)])
    torch.testing.assert_close(module(*rows), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "args"), [*ARGUMENTS.items(), RESIDUAL, *CODED])
def test_expected_tensors_are_those_of_the_module_and_draw_no_random_number(name: str, args: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    expected = models.expected_tensors(name, args)
    assert torch.equal(torch.get_rng_state(), before)
    with seeds.restored(7):
        state = models.build_built_in(name, args).state_dict()
    assert expected == {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in state.items()}
    assert list(expected) == list(state)


@pytest.mark.parametrize(("name", "args"), [*ARGUMENTS.items(), RESIDUAL, *CODED])
def test_arguments_come_back_from_json_and_build_the_same_bits(name: str, args: dict[str, Any]) -> None:
    complete = models.complete_arguments(name, args)
    again = json.loads(json.dumps(complete))
    assert again == complete == models.complete_arguments(name, again) and set(complete) == set(models.BUILT_IN[name].arguments)
    built = []
    for arguments in (args, again):
        with seeds.restored(7):
            built.append(models.build_built_in(name, arguments).state_dict())
    assert all(torch.equal(built[0][key], built[1][key]) for key in built[0])


def test_looking_up_shapes_imports_nothing_slow() -> None:
    """A normal draw or a product on the meta device imports hundreds of modules (sympy, torch._dynamo): an artifact would load a second later."""
    lines = [f"models.expected_tensors({name!r}, {args!r})" for name, args in [*ARGUMENTS.items(), RESIDUAL, *CODED]]
    code = "import sys; from fivestep.model import models; before = set(sys.modules)\n" + "\n".join(lines) + "\nprint(len(set(sys.modules) - before) < 20)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_the_mlp_is_the_network_that_one_writes_by_hand() -> None:
    torch_state = torch.get_rng_state()
    torch.manual_seed(11)
    by_hand = nn.Sequential(nn.Linear(3, 13), nn.ReLU(), nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 2))
    torch.manual_seed(11)
    mlp = models.build_built_in("mlp", {"num_inputs": 3, "num_outputs": 2, "widths": [13, 8]})
    torch.set_rng_state(torch_state)
    (inputs,) = example("mlp", ARGUMENTS["mlp"])
    assert torch.equal(mlp(inputs), by_hand(inputs))


def test_names_of_weights_do_not_depend_on_dropout() -> None:
    with_dropout = models.expected_tensors("mlp", {**ARGUMENTS["mlp"], "dropout": 0.5})
    assert with_dropout == models.expected_tensors("mlp", {**ARGUMENTS["mlp"], "dropout": 0.0})


def test_width_and_depth_are_short_for_widths() -> None:
    short = models.complete_arguments("mlp", {"num_inputs": 3, "num_outputs": 2, "width": 5, "depth": 4})
    assert short["widths"] == [5, 5, 5, 5] and "width" not in short
    with pytest.raises(SettingsError, match="contradict"):
        models.complete_arguments("mlp", {"num_inputs": 3, "num_outputs": 2, "width": 5, "widths": [5]})


def test_flat_images_are_the_same_images_and_others_are_not_scrambled() -> None:
    with seeds.restored(7):
        cnn = models.build_built_in("cnn", ARGUMENTS["cnn"]).eval()
    (images,) = example("cnn", ARGUMENTS["cnn"])
    assert torch.equal(cnn(images), cnn(images.flatten(1)))
    with pytest.raises(RuntimeError):
        cnn(images.permute(0, 2, 3, 1))


def test_a_residual_cnn_adds_what_a_layer_makes_of_as_many_channels_as_it_got() -> None:
    args = {"image_shape": [4, 9, 7], "num_outputs": 2, "channels": [4, 6, 6], "pooled": [1], "residual": 1}
    with seeds.restored(7):
        cnn: Any = models.build_built_in("cnn", args).eval()
    (images,) = example("cnn", args)
    first, *second, halving, third = cnn.features
    by_hand = images + torch.nn.Sequential(*first)(images)
    by_hand = halving(torch.nn.Sequential(*second)(by_hand))
    by_hand = by_hand + torch.nn.Sequential(*third)(by_hand)
    torch.testing.assert_close(cnn(images), cnn.head(by_hand.flatten(1)))
    plain = models.expected_tensors("cnn", args | {"residual": 0})
    assert sorted(shape for _, shape in plain.values()) == sorted(shape for _, shape in models.expected_tensors("cnn", args).values())


def test_a_cnn_gives_the_same_bits_whatever_the_order_of_its_images_in_memory() -> None:
    args = {"image_shape": [1, 9, 7], "num_outputs": 2, "channels": [6, 10]}
    with seeds.restored(7):
        cnn = models.build_built_in("cnn", args)
    (images,) = example("cnn", args)
    strided = images.as_strided(images.shape, (63, 1, 7, 1))  # one channel: the same numbers at the same places, called channels_last
    padded = torch.zeros(5, 1, 11, 9)
    padded[:, :, 1:-1, 1:-1] = images
    gradients = []
    for same in (images, strided, padded[:, :, 1:-1, 1:-1], images.contiguous(memory_format=torch.channels_last)):
        cnn.zero_grad()
        cnn(same).square().sum().backward()
        gradients.append([parameter.grad for parameter in cnn.parameters()])
        assert models.channels_together(same).stride() == (63, 1, 7, 1)
    assert all(torch.equal(one, other) for others in gradients[1:] for one, other in zip(gradients[0], others))


def test_codes_out_of_range_are_no_silent_neighbours() -> None:
    for name, args in CODED:
        with seeds.restored(7):
            module = models.build_built_in(name, args).eval()
        with pytest.raises(IndexError):
            module(torch.zeros(5, 3), torch.full((5, 2), 6))


# -- the ensemble ----------------------------------------------------------------------------------------------------------------------------------------------


def of_member(ensemble: nn.Module, member: int) -> nn.Module:
    """A lone network with the weights of one member."""
    alone = models.build_built_in("ensemble", {**ARGUMENTS["ensemble"], "members": 1, "dropout": 0.0})
    state = {key: tensor if tensor.shape == alone.state_dict()[key].shape else tensor[member : member + 1] for key, tensor in ensemble.state_dict().items()}
    alone.load_state_dict(state)
    return alone.double()


def ensemble_without_dropout() -> nn.Module:
    with seeds.restored(7):
        return models.build_built_in("ensemble", {**ARGUMENTS["ensemble"], "dropout": 0.0}).double()


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.MSELoss(), torch.linspace(-1, 1, 10).double().reshape(5, 2)),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]).double(), ignore_index=-1), torch.tensor([0, 1, -1, 1, 0])),
        (nn.BCEWithLogitsLoss(), torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0], [1, 0]]).double()),
    ],
)
def test_each_members_gradient_is_that_of_a_network_trained_alone(loss: nn.Module, targets: torch.Tensor) -> None:
    ensemble = ensemble_without_dropout()
    (inputs,) = (example("ensemble", ARGUMENTS["ensemble"])[0].double(),)
    value = models.member_loss(loss)(ensemble(inputs), targets)
    value.backward()
    alone = []
    for member in range(4):
        network = of_member(ensemble, member)
        alone.append(loss(network(inputs)[0], targets))
        alone[-1].backward()
        for (name, stacked), lone in zip(ensemble.named_parameters(), network.parameters()):
            assert stacked.grad is not None and lone.grad is not None
            torch.testing.assert_close(stacked.grad[member] * 4, lone.grad[0], rtol=0, atol=1e-12, msg=f"{name} of member {member}")
    torch.testing.assert_close(value, torch.stack(alone).mean(), rtol=0, atol=1e-12)


def test_member_loss_takes_tuples_of_targets_and_weights_per_example() -> None:
    outputs, targets, weights = torch.randn(4, 5, 2), torch.randn(5, 2), torch.rand(5)

    def weighted(outputs: torch.Tensor, targets: tuple[torch.Tensor, ...], weights: torch.Tensor) -> torch.Tensor:
        return ((outputs - targets[0]).square().mean(1) * weights).sum() / weights.sum()

    by_member = torch.stack([weighted(member, (targets,), weights) for member in outputs]).mean()
    torch.testing.assert_close(models.member_loss(weighted)(outputs, (targets,), weights), by_member)
    one = outputs[0]
    assert torch.equal(models.member_loss(weighted)(one, (targets,), weights), weighted(one, (targets,), weights))  # in evaluation: the loss as it is


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass", "multilabel", None])
@pytest.mark.parametrize("num_outputs", [1, 2])
def test_in_evaluation_it_is_the_average_of_values_or_of_probabilities(task: str | None, num_outputs: int) -> None:
    with seeds.restored(7):
        ensemble = models.build_built_in("ensemble", {**ARGUMENTS["ensemble"], "num_outputs": num_outputs, "task": task}).double().eval()
    inputs = example("ensemble", ARGUMENTS["ensemble"])[0].double() * 4
    members, average = ensemble.member_outputs(inputs), ensemble(inputs)  # type: ignore[operator]
    assert members.shape == (4, 5, num_outputs) and average.shape == (5, num_outputs)
    if task == "multiclass" or (task == "binary" and num_outputs == 2):
        torch.testing.assert_close(average.softmax(1), members.softmax(2).mean(0))
        torch.testing.assert_close(average.logsumexp(1), torch.zeros(5).double())  # log-probabilities already: nothing is lost in another log_softmax
    elif task in ("binary", "multilabel"):
        torch.testing.assert_close(average.sigmoid(), members.sigmoid().mean(0))
    else:
        torch.testing.assert_close(average, members.mean(0))


def test_averages_of_very_sure_members_stay_finite() -> None:
    for task, width in (("binary", 1), ("multiclass", 3)):
        ensemble = models.Ensemble(3, width, members=2, task=task)
        assert torch.isfinite(ensemble.average(torch.tensor([-1e4, 1e4]).reshape(2, 1, 1).expand(2, 5, width))).all()


def test_members_begin_differently_and_only_number_columns_are_clipped() -> None:
    ensemble = ensemble_without_dropout()
    for parameter in ensemble.parameters():
        assert len(torch.unique(parameter.flatten(1), dim=0)) == 4
    sane, typo = torch.zeros(1, 3).double(), torch.tensor([[1e9, 0.0, 0.0]]).double()
    # A typo counts as at most 3 deviations, however large it is; column 1 is no number here and enters as it is.
    assert (ensemble.eval()(typo) - ensemble(sane)).abs().max() < 10
    assert (ensemble(torch.tensor([[0.0, 1e9, 0.0]]).double()) - ensemble(sane)).abs().max() > 1e3


def test_center_and_scale_are_applied_to_their_columns() -> None:
    plain, args = ensemble_without_dropout(), {**ARGUMENTS["ensemble"], "dropout": 0.0, "center": [10.0, -5.0], "scale": [2.0, 8.0]}  # of columns 2 and 0
    with seeds.restored(7):
        moved = models.build_built_in("ensemble", args).double()
    inputs = example("ensemble", args)[0].double()
    there = torch.stack([inputs[:, 0] * 8 - 5, inputs[:, 1], inputs[:, 2] * 2 + 10], dim=1)
    torch.testing.assert_close(moved.eval()(there), plain.eval()(inputs))


def test_an_ensemble_may_have_no_numbers_or_only_codes() -> None:
    with seeds.restored(7):
        flags = models.build_built_in("ensemble", {**ARGUMENTS["ensemble"], "number_columns": []}).eval()
        coded = models.build_built_in("ensemble", {**ARGUMENTS["ensemble"], "num_inputs": 0, "number_columns": None, "num_categories": [6, 11]}).eval()
    assert flags(torch.ones(5, 3)).shape == coded(torch.zeros(5, 0), torch.ones(5, 2, dtype=torch.int64)).shape == (5, 2)


def test_median_and_quartiles_ignore_a_typo_and_survive_constant_columns() -> None:
    numbers = torch.arange(101.0).reshape(-1, 1).repeat(1, 3)
    numbers[:, 1] = 4.0
    numbers[:, 2] = (numbers[:, 2] > 90).float()  # half of it and more is one value
    typo = numbers.clone()
    typo[100, 0] = 1e9
    assert models.median_and_quartiles(numbers) == ([50.0, 4.0, 0.0], [50.0, 1.0, 0.5])
    assert models.median_and_quartiles(typo) == models.median_and_quartiles(numbers)


# -- A1: the closed list and its limits ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mpl", {}, "Did you mean 'mlp'"),
        ("mlp", {"activaton": "ReLU"}, "Did you mean 'activation'"),
        ("mlp", {"activation": "relu"}, "'ReLU'"),
        ("mlp", {"activation": "Linear"}, "not known"),
        ("mlp", {"activation": ["ReLU"]}, "not known"),
        ("mlp", {"num_inputs": True}, "type bool"),
        ("mlp", {"num_inputs": "3"}, "type str"),
        ("mlp", {"num_inputs": 3.0}, "type float"),
        ("mlp", {"num_inputs": None}, "missing"),
        ("mlp", {"num_inputs": -1}, "out of bounds"),
        ("mlp", {"num_inputs": 0}, "nothing to predict from"),
        ("mlp", {"num_inputs": 10**5000}, "out of bounds"),
        ("mlp", {"num_inputs": 2**20 + 1}, "out of bounds"),
        ("mlp", {"num_outputs": 0}, "out of bounds"),
        ("mlp", {"widths": [4, True]}, "holds True"),
        ("mlp", {"widths": [4, 2**16 + 1]}, "out of bounds"),
        ("mlp", {"widths": [1] * 257}, "257 entries"),
        ("mlp", {"widths": 64}, "type int"),
        ("mlp", {"widths": [2**16] * 2}, "parameters"),
        ("mlp", {"dropout": float("nan")}, "out of bounds"),
        ("mlp", {"dropout": 1.0}, "out of bounds"),
        ("mlp", {"num_categories": [2**24] * 100}, "parameters"),
        ("mlp", {"num_categories": [0]}, "out of bounds"),
        ("resnet", {"depth": 10**9}, "out of bounds"),
        ("resnet", {"width": 2**16, "hidden_factor": 64}, "parameters"),
        ("cnn", {"image_shape": [4, 9]}, "2 entries"),
        ("cnn", {"image_shape": [4096, 4096, 4096], "channels": [4096]}, "first layer"),
        ("ensemble", {"members": 1025}, "out of bounds"),
        ("ensemble", {"members": 1024, "widths": [2**12] * 2}, "parameters"),
        ("ensemble", {"number_columns": [0, 0]}, "different positions"),
        ("ensemble", {"number_columns": [3]}, "different positions"),
        ("ensemble", {"center": [1.0]}, "1 values for 2 numbers"),
        ("ensemble", {"scale": [1.0, 0.0]}, "out of bounds"),
        ("ensemble", {"scale": [1.0, float("inf")]}, "out of bounds"),
        ("ensemble", {"center": [1.0, 1e300]}, "out of bounds"),
        ("ensemble", {"task": "ranking"}, "not known"),
    ],
)
def test_a1_arguments_out_of_bounds_are_refused_before_anything_is_allocated(
    name: str, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in models.BUILT_IN:
        known = models.BUILT_IN[name]

        def on_the_meta_device_only(**args: Any) -> nn.Module:
            assert torch.get_default_device().type == "meta", "it was built for real"
            return known.make(**args)

        monkeypatch.setitem(models.BUILT_IN, name, replace(known, make=on_the_meta_device_only))
    args = {**ARGUMENTS.get(name, {}), **change}
    with pytest.raises(SettingsError, match=message):
        models.build_built_in(name, args)
    with pytest.raises(ArtifactError):
        models.expected_of_recipe({"kind": "built-in", "name": name, "args": args})


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"kind": "pickle"},
        {"kind": ["built-in"]},
        {"kind": "built-in", "name": "linear"},
        {"kind": "built-in", "name": ["linear"], "args": {}},
        {"kind": "built-in", "name": "linear", "args": [3, 2]},
        {"kind": "built-in", "name": "linear", "args": ARGUMENTS["linear"], "module": "os"},
        {"kind": "built-in", "name": "mlp", "args": {"num_inputs": 3, "num_outputs": 2}},  # a default might not be what it was trained with
    ],
)
def test_a1_recipes_of_artifacts_are_exactly_what_this_version_writes(recipe: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError):
        models.expected_of_recipe(recipe)


def test_a1_the_weights_of_a_users_own_model_are_not_known_beforehand() -> None:
    assert models.expected_of_recipe({"kind": "import", "module": "os", "qualname": "system"}) is None
    args = models.complete_arguments("linear", ARGUMENTS["linear"])
    assert models.expected_of_recipe({"kind": "built-in", "name": "linear", "args": args}) == models.expected_tensors("linear", args)
