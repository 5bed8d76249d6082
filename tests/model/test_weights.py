"""Weights from elsewhere: what fits is loaded, what does not is named, and nothing is loaded by half."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from fivestep import seeds
from fivestep.errors import ArtifactError, MissingInputError, SettingsError, UsageError
from fivestep.model import weights
from fivestep.model.weights import freeze, load_weights, parameter_hash


class Net(nn.Module):
    def __init__(self, num_outputs: int = 2):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 7))
        self.norm = nn.BatchNorm1d(7, affine=False)
        self.head = nn.Linear(7, num_outputs)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.backbone(inputs)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 5, bias=False), nn.Linear(3, 5, bias=False)
        self.decoder.weight = self.encoder.weight
        self.bias = nn.Parameter(torch.zeros(4))


def net(seed: int, num_outputs: int = 2) -> Net:
    with seeds.restored(seed):
        return Net(num_outputs)


def hash_of(module: nn.Module) -> str:
    return parameter_hash(module.state_dict())


# -- loading ---------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["dict", "pt", "pth", "safetensors", "str"])
def test_weights_come_from_dicts_and_files_to_the_bit(form: str, tmp_path: Path) -> None:
    trained, fresh = net(1), net(2)
    state: Any = trained.state_dict()
    given: Any = state
    if form != "dict":
        given = tmp_path / f"weights.{'pt' if form == 'str' else form}"
        save_file(state, given) if form == "safetensors" else torch.save(state, given)
        given = str(given) if form == "str" else given
    before = torch.get_rng_state()
    report = load_weights(fresh, given)
    assert hash_of(fresh) == hash_of(trained) and torch.equal(torch.get_rng_state(), before)
    assert report.complete and report.share == 1 and len(report.matched) == len(state) and "(100% of its numbers)" in str(report)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module.", "model.", "net."])
def test_p02_prefixed_names_are_taken_without_the_prefix_and_said(prefix: str) -> None:
    trained, fresh = net(1), net(2)
    for strict in (True, False):
        report = load_weights(fresh, {prefix + name: tensor for name, tensor in trained.state_dict().items()}, strict=strict)
        assert report.complete and hash_of(fresh) == hash_of(trained)
        assert prefix.split(".")[0] in " ".join(report.said)


def test_a_compiled_part_may_stand_anywhere_and_the_module_may_be_the_wrapped_one() -> None:
    trained, fresh = net(1), net(2)
    inside = {name.replace("backbone.", "backbone._orig_mod."): tensor for name, tensor in trained.state_dict().items()}
    assert load_weights(fresh, inside).complete and hash_of(fresh) == hash_of(trained)
    wrapped = nn.DataParallel(net(3))
    assert load_weights(wrapped, trained.state_dict()).complete and hash_of(wrapped.module) == hash_of(trained)


def test_a_submodule_that_is_really_called_module_keeps_its_name() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.weight = nn.Linear(3, 2, bias=False), nn.Parameter(torch.zeros(2, 3))

    one, other = Holder(), Holder()
    assert load_weights(other, one.state_dict()).said == () and torch.equal(other.module.weight, one.module.weight)


def test_strict_names_everything_that_does_not_fit_and_changes_nothing() -> None:
    fresh = net(2)
    before = hash_of(fresh)
    state = net(1, num_outputs=4).state_dict()
    state["bakbone.0.weight"] = state.pop("backbone.0.weight")
    with pytest.raises(SettingsError) as told:
        load_weights(fresh, state)
    text = str(told.value)
    assert "the model has backbone.0.weight, the weights have not; is it their bakbone.0.weight?" in text
    assert "the weights have bakbone.0.weight, the model has not; is it backbone.0.weight?" in text
    assert "head.weight: the weights have (4, 7), the model (2, 7)" in text and "weights_strict=False" in text
    assert hash_of(fresh) == before


def test_without_strict_what_fits_is_loaded_and_the_rest_is_reported() -> None:
    trained, fresh = net(1, num_outputs=4), net(2)
    head = fresh.head.weight.clone()
    report = load_weights(fresh, {**trained.state_dict(), "extra": torch.zeros(3)}, strict=False)
    assert torch.equal(fresh.backbone[0].weight, trained.backbone[0].weight) and torch.equal(fresh.head.weight, head)
    assert report.unexpected == ("extra",) and {name for name, _, _ in report.mismatched} == {"head.weight", "head.bias"} and not report.missing
    head_size, total = 2 * 7 + 2, sum(tensor.numel() for tensor in fresh.state_dict().values())
    assert report.share == pytest.approx(1 - head_size / total)
    assert len(str(report).splitlines()) == 4 and repr(report) == str(report)


def test_p02_nothing_that_fits_is_an_error_even_without_strict() -> None:
    with pytest.raises(SettingsError, match=r"None of the 2 tensors.*random weights.*backbone.0.weight"):
        load_weights(net(1), {"a.b": torch.zeros(2), "c.d": torch.zeros(3)}, strict=False)


def test_floats_are_converted_and_said_other_kinds_are_refused() -> None:
    trained, fresh = net(1), net(2)
    state = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in trained.state_dict().items()}
    assert "float64 to float32" in str(load_weights(fresh, state)) and hash_of(fresh) == hash_of(trained)
    state["head.bias"] = torch.tensor([1, 2])  # load_state_dict would cast it in silence
    with pytest.raises(SettingsError, match=r"head.bias: the weights have \(2,\) int64, the model \(2,\) float32"):
        load_weights(fresh, state)


def test_a_tied_tensor_saved_once_is_complete(tmp_path: Path) -> None:
    trained, fresh = Tied(), Tied()
    nn.init.ones_(trained.encoder.weight)
    save_model(trained, str(tmp_path / "tied.safetensors"))
    report = load_weights(fresh, tmp_path / "tied.safetensors")
    assert len(report.matched) == 2 and report.complete and report.share == 1 and hash_of(fresh) == hash_of(trained)


def test_lazy_modules_get_their_shapes_from_the_weights() -> None:
    lazy = nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 2))
    trained = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    assert load_weights(lazy, trained.state_dict()).complete and torch.equal(lazy[0].weight, trained[0].weight)  # type: ignore[arg-type]


def test_what_are_no_weights_is_a_lesson(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save(net(1).state_dict(), folder / "best.pt")
    torch.save(net(1), tmp_path / "pickled.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x99\0\0\0\0\0\0\0{")
    for given, kind, message in (
        (net(1), SettingsError, r"state_dict\(\)"),
        (3, SettingsError, "is a int"),
        ({"model": net(1).state_dict(), "epoch": 3}, SettingsError, r"checkpoint\['model'\]"),
        ({"epoch": 3}, SettingsError, "no tensors"),
        (folder, SettingsError, "best.pt"),
        (folder / "bset.pt", MissingInputError, "Did you mean 'best.pt'"),
        (tmp_path / "pickled.pt", ArtifactError, "run its code"),
        (tmp_path / "cut.safetensors", ArtifactError, "cut.safetensors"),
    ):
        with pytest.raises(kind, match=message):
            load_weights(net(2), given)


# -- freezing --------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["backbone", "backbone.*", "back*"])
def test_a_frozen_module_neither_learns_nor_moves_its_running_mean(pattern: str) -> None:
    model = net(1)
    names, still = freeze(model, [pattern])
    assert names == [name for name, _ in model.named_parameters() if name.startswith("backbone.")] and still == [model.backbone]
    frozen_before, head_before = parameter_hash(model.backbone.state_dict()), parameter_hash(model.head.state_dict())
    model.train()
    for module in still:
        module.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(6, 3)).square().sum().backward()
    optimizer.step()
    assert parameter_hash(model.backbone.state_dict()) == frozen_before and parameter_hash(model.head.state_dict()) != head_before


def test_single_parameters_and_modules_without_parameters_can_be_named() -> None:
    model = net(1)
    names, still = freeze(model, ["*.bias"])
    assert names and all(name.endswith(".bias") for name in names) and still == [] and model.head.weight.requires_grad
    assert freeze(net(1), "backbone.1")[1][0].__class__ is nn.BatchNorm1d
    model = net(1)
    assert freeze(model, ["norm"]) == ([], [model.norm])


def test_tied_parameters_are_frozen_under_both_names() -> None:
    model = Tied()
    names, still = freeze(model, ["decoder.weight"])
    assert names == ["encoder.weight", "decoder.weight"] and still == [model.encoder, model.decoder]


def test_a_pattern_that_names_nothing_changes_nothing() -> None:
    model = net(1)
    with pytest.raises(SettingsError, match="Did you mean 'backbone'"):
        freeze(model, ["head", "bakbone"])
    with pytest.raises(SettingsError, match="leaves no parameter"):
        freeze(model, "*")
    assert all(parameter.requires_grad for parameter in model.parameters())


# -- the hash --------------------------------------------------------------------------------------------------------------------------------------------------


def test_the_hash_depends_on_names_dtypes_shapes_and_bits_only() -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(True)}
    same = [
        {"b": torch.tensor(True), "a": torch.arange(6.0).reshape(2, 3)},
        {"a": torch.arange(6.0).reshape(2, 3).t().contiguous().t(), "b": torch.tensor(True)},
        {"a": nn.Parameter(torch.arange(6.0).reshape(2, 3)), "b": torch.tensor(True)},
    ]
    other = [
        {"a": base["a"]},
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"].reshape(3, 2), "b": base["b"]},
        {"a": base["a"].double(), "b": base["b"]},
        {"a": base["a"].nextafter(torch.tensor(9.0)), "b": base["b"]},
        {"a": base["a"] * torch.tensor([-1.0, 1, 1]), "b": base["b"]},  # -0.0 is not 0.0
        {"a": base["a"], "b": torch.tensor(1, dtype=torch.uint8)},
        {"a": base["a"], "b": base["b"], "empty": torch.zeros(0)},
    ]
    assert {parameter_hash(state) for state in same} == {parameter_hash(base)}
    assert len({parameter_hash(state) for state in [base, *other]}) == len(other) + 1


def test_the_hash_is_this_number_in_every_version_and_on_every_machine() -> None:
    by_hand = b'["n", "int64", [], 8]\n' + struct.pack("<q", 3) + b'["w", "float32", [1, 2], 8]\n' + struct.pack("<2f", 1.0, -2.0)
    assert parameter_hash({"w": torch.tensor([[1.0, -2.0]]), "n": torch.tensor(3)}) == hashlib.sha256(by_hand).hexdigest()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64, torch.int8, torch.float8_e4m3fn])
def test_every_dtype_has_a_hash(dtype: torch.dtype) -> None:
    assert parameter_hash({"w": torch.zeros(3).to(dtype)}) != parameter_hash({"w": torch.ones(3).to(dtype)})


def test_extra_state_counts_and_what_has_no_numbers_is_refused() -> None:
    assert parameter_hash({"_extra_state": {"b": 1, "a": [2]}}) == parameter_hash({"_extra_state": {"a": [2], "b": 1}}) != parameter_hash({"_extra_state": {}})
    for state in (nn.LazyLinear(2).state_dict(), nn.Linear(3, 2, device="meta").state_dict(), {"_extra_state": object()}):
        with pytest.raises(UsageError):
            parameter_hash(state)


def test_same_bits_tells_nan_from_numbers_and_minus_zero_from_zero() -> None:
    nan = torch.tensor([float("nan")])
    assert weights.same_bits(nan, nan.clone()) and not weights.same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
