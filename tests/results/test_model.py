"""A model on its way to the disk and back: plain weights, the user's class, `output=`, and all of it as one module."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import load_file
from small_runs import Net, arrays, fit
from torch import nn

import fivestep as fs
from fivestep.errors import ArtifactError, CannotCreateError, UsageError


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return {"other": x, "main": self.layer(x)}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_plain_weights_load_in_plain_torch(suffix, tmp_path):
    run, (x, _) = fit(), arrays()
    path = run.save(tmp_path / f"weights{suffix}")
    model = Net(3)
    model.load_state_dict(torch.load(path, weights_only=True) if suffix == ".pt" else load_file(path))
    with torch.no_grad():
        assert torch.equal(model.eval()(x), run.model.eval()(x))


@pytest.mark.parametrize(
    "model", [Net, lambda: Net(3, width=7), lambda: nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(2))], ids=["class", "function", "lazy"]
)
def test_a_users_model_is_loaded_with_model(model, tmp_path):
    run, (x, _) = fit(model), arrays()
    run.save(tmp_path / "m.fivestep")
    with pytest.raises(UsageError, match="model="):
        fs.load(tmp_path / "m.fivestep")
    assert torch.equal(fs.load(tmp_path / "m.fivestep", model=model).predict(x), run.predict(x))
    instance = model(3) if model is Net else model()
    assert torch.equal(fs.load(tmp_path / "m.fivestep", model=instance).predict(x), run.predict(x))


def test_another_model_is_refused(tmp_path):
    fit().save(tmp_path / "m.fivestep")
    with pytest.raises(ArtifactError, match="do not fit"):
        fs.load(tmp_path / "m.fivestep", model=Net(3, width=8))


def test_a_loaded_model_scores_new_data(tmp_path):
    run, (x, y) = fit(), arrays()
    run.save(tmp_path / "m.fivestep")
    loaded = fs.load(tmp_path / "m.fivestep", model=Net)
    assert loaded.evaluate((x, y))["mae"].value == pytest.approx(run.evaluate((x, y))["mae"].value)


def test_output_by_key_is_saved_and_a_function_is_told_of(tmp_path):
    x, _ = arrays()
    run = fit(Named, output="main")
    run.save(tmp_path / "key.fivestep")
    assert torch.equal(fs.load(tmp_path / "key.fivestep", model=Named).predict(x), run.predict(x))
    fit(Named, output=lambda outputs: outputs["main"]).save(tmp_path / "function.fivestep")
    with pytest.raises(UsageError, match="function"):
        fs.load(tmp_path / "function.fivestep", model=Named)


def test_a_folder_that_is_no_artifact_is_not_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(CannotCreateError):
        fit().save(tmp_path / "mine")


def test_the_full_model_is_columns_model_and_unit():
    run, (x, _) = fit(), arrays()
    torch.testing.assert_close(run.full_model(x).float(), run.predict(x).float(), rtol=0, atol=1e-6)


def test_the_full_model_of_two_inputs_takes_them_as_the_model_does():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, left, right):
            return self.layer(left) + right

    x, y = arrays()
    run = fit(Two, fs.Data.arrays({"left": x, "right": y}, y).split(seed=0))
    torch.testing.assert_close(run.full_model(left=x, right=y).float(), run.predict({"left": x, "right": y}).float(), rtol=0, atol=1e-6)


def test_i05_categories_that_training_did_not_have_are_told_aloud(tmp_path):
    table = {"city": ["Bern", "Chur", "Genf"] * 20, "x": [float(number) for number in range(60)], "y": [float(number % 7) for number in range(60)]}
    run = fs.fit("linear", fs.Data.table(table, target="y").split(), epochs=1, folder=None, quiet=True, checks=False)
    with pytest.warns(UserWarning, match=r"column 'city': 2 of 3 values are categories that training did not have \('bern', 'Basel'; first"):
        run.predict({"city": ["bern", "Chur", "Basel"], "x": [1.0, 2.0, 3.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.predict({"city": ["Bern", "Chur"], "x": [1.0, 2.0]})
