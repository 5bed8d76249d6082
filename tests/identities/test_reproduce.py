"""Promise: a finished run fitted again from its record ends in the same weights, and loaded from its folder it is the run that fit returned."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.errors import MissingInputError, SettingsError, UsageError
from fivestep.results import runs


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["size,city,price"] + [f"{rng.normal():.3f},{'ab'[rng.integers(2)]},{rng.normal():.3f}" for _ in range(60)]
    (tmp_path / "houses.csv").write_text("\n".join(lines) + "\n")
    return fs.Data.table("houses.csv", target="price").split(seed=4)


def fit(model, splits, **settings):
    return fs.fit(model, splits, **(dict(quiet=True, device="cpu", epochs=4, model_args={"widths": [7], "dropout": 0.2}) | settings))


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_fitted_again_from_its_record_has_the_same_weights_and_nothing_is_written(table, capsys):
    run = fit("mlp", table, scheduler="OneCycleLR", average="EMA", patience=2)
    before, stream = files_of(run.folder.parent), torch.get_rng_state()
    assert fs.reproduce(run.folder) is True
    assert capsys.readouterr().out.splitlines() == [f"run    {run.weights_sha256}", f"again  {run.weights_sha256}"]
    assert files_of(run.folder.parent) == before and torch.equal(stream, torch.get_rng_state())


def test_a_run_from_given_weights_begins_with_them_again(table):
    first = fit("mlp", table, epochs=1, folder=None)
    run = fit("mlp", table, weights={name: tensor.clone() for name, tensor in first.model.state_dict().items()})
    assert fs.reproduce(run.folder)


def test_an_instance_and_arrays_are_given_again(tmp_path):
    x = torch.arange(0, 1, 0.02)[:, None]
    splits = fs.Data.arrays(x, 0.7 * x).split()
    run = fs.fit(nn.Linear(1, 1), splits, epochs=3, lr=0.1, quiet=True)
    with pytest.raises(UsageError, match=r"reproduce\(folder, splits=...\)"):
        fs.reproduce(run.folder)
    with pytest.raises(SettingsError, match="an instance of"):
        fs.reproduce(run.folder, splits=splits)
    assert fs.reproduce(run.folder, splits=splits, model=nn.Linear(1, 1))
    assert fs.load_run(run.folder, splits=splits, model=nn.Linear(1, 1)).weights_sha256 == run.weights_sha256


def test_other_weights_are_told(table, capsys):
    run = fit("mlp", table)
    settings = json.loads((run.folder / "settings.json").read_text())
    settings["fit"]["seed"] = 1
    (run.folder / "settings.json").write_text(json.dumps(settings))
    assert fs.reproduce(run.folder) is False
    shown = capsys.readouterr().out.split()
    assert shown[1] == run.weights_sha256 != shown[3]


def test_in_the_shell_the_exit_code_tells(table, tmp_path):
    run = fit("mlp", table)

    def shell(*words):
        return subprocess.run([sys.executable, "-m", "fivestep", *map(str, words)], capture_output=True, text=True, cwd=tmp_path, timeout=120)

    same = shell("reproduce", run.folder)
    assert same.returncode == 0 and same.stdout.count(run.weights_sha256) == 2, same.stderr
    assert json.loads(shell("show", run.folder, "--json").stdout)["weights_sha256"] == run.weights_sha256
    ejected = shell("eject", run.folder, "-o", "train.py")
    assert ejected.returncode == 0 and ejected.stdout.splitlines()[0] == "train.py", ejected.stderr
    assert run.weights_sha256 in (tmp_path / "train.py").read_text()
    again = shell("eject", run.folder, "-o", "train.py")
    assert again.returncode == 73 and "Traceback" not in again.stderr
    settings = json.loads((run.folder / "settings.json").read_text())
    settings["fit"]["seed"] = 1
    (run.folder / "settings.json").write_text(json.dumps(settings))
    assert shell("reproduce", run.folder).returncode == 70


def test_a_loaded_run_is_the_run_that_fit_returned(table, tmp_path):
    run = fit("mlp", table, patience=2)
    loaded = fs.load_run(run.folder)
    assert loaded.weights_sha256 == run.weights_sha256 and loaded.history == runs.read_history(run.folder)
    assert [finding.code for finding in loaded.findings] == [finding.code for finding in run.findings]
    assert loaded.evaluate("val").to_json() == run.evaluate("val").to_json()
    new = {"size": [0.5, 1.0], "city": ["a", "b"]}
    assert loaded.predict(new)["price"].tolist() == run.predict(new)["price"].tolist()
    assert loaded.plot() is not None
    loaded.save(tmp_path / "again.fivestep")
    assert fs.load(tmp_path / "again.fivestep").predict(new)["price"].tolist() == run.predict(new)["price"].tolist()


def test_the_temperature_of_a_loaded_run_is_the_kept_one():
    splits = fs.Data.table(fs.datasets.penguins(), target="species").split()
    run = fit("mlp", splits, epochs=8)
    loaded = fs.load_run(run.folder)
    assert torch.equal(loaded.predict("val", probabilities=True), run.predict("val", probabilities=True))


def test_without_its_data_a_run_predicts_and_says_what_it_cannot_do(table, tmp_path):
    run = fit("mlp", table)
    (tmp_path / "houses.csv").unlink()
    loaded = fs.load_run(run.folder)
    new = {"size": [0.5, 1.0], "city": ["a", "b"]}
    assert loaded.predict(new)["price"].tolist() == run.predict(new)["price"].tolist() and len(loaded.history) == len(run.history)
    assert "without its data" in repr(loaded)
    for what in (lambda: loaded.evaluate("val"), loaded.predict, lambda: loaded.eject("train.py"), lambda: loaded.plot("predictions")):
        with pytest.raises(UsageError, match=r"houses\.csv, and it is not there"):
            what()
    loaded.save(tmp_path / "again.fivestep")
    assert fs.load(tmp_path / "again.fivestep").predict(new)["price"].tolist() == run.predict(new)["price"].tolist()


def test_a_run_that_has_not_ended_is_resumed_first(table):
    run = fit("mlp", table)
    import shutil

    shutil.rmtree(run.folder / "model.fivestep")
    with pytest.raises(MissingInputError, match="has not ended"):
        fs.load_run(run.folder)
