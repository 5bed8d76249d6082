"""`verify` finds whatever is damaged or exchanged in a run folder, says nothing of a sound one, and changes nothing (RELIABILITY P5)."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.results.verifying import problems_of_history


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def fit(folder, name="run", **settings):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 3, generator=g), torch.randn(30, 1, generator=g)
    splits = fs.Splits((x[:20], y[:20]), val=(x[20:], y[20:]))
    given = dict(loss="MSELoss", lr=0.01, epochs=3, batch_size=10, quiet=True, checks=False, checkpoint="epoch") | settings
    model = given.pop("model", net)
    return fs.fit(model, splits, folder=folder, name=name, **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A user's model, a built-in one, and a second run with another rate."""
    folder = tmp_path_factory.mktemp("made")
    return fit(folder).folder, fit(folder, "mlp", model="mlp").folder, fit(folder, "other", lr=0.02).folder


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "run")
    return tmp_path / "run"


def test_p5_a_sound_run_has_no_findings_and_is_left_as_it_is(made):
    for folder in made:
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        assert fs.verify(folder) == fs.verify(folder / "model.fivestep") == []
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def flip(path, at=-1):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(raw)


def lines(path, change):
    path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))


STEP = "checkpoints/step-00000000000"
DAMAGE = {
    "weights of the model": (lambda run: flip(run / "model.fivestep/weights.safetensors"), "P08"),
    "card of the model": (lambda run: flip(run / "model.fivestep/README.md"), "P08"),
    "self-test": (lambda run: flip(run / "model.fivestep/self_test.safetensors"), "P08"),
    "newest checkpoint": (lambda run: flip(run / f"{STEP}6/state.safetensors"), "P09"),
    "first checkpoint": (lambda run: flip(run / f"{STEP}0/state.json"), "P09"),
    "manifest of a checkpoint": (lambda run: flip(run / f"{STEP}2/MANIFEST.json", 40), "P09"),
    "a checkpoint under another name": (lambda run: (run / f"{STEP}6").rename(run / f"{STEP}9"), "P09"),
    "settings cut": (lambda run: (run / "settings.json").write_text((run / "settings.json").read_text()[:-9]), "P10"),
    "settings of another shape": (lambda run: (run / "settings.json").write_text("[1]"), "P10"),
    "no settings": (lambda run: (run / "settings.json").unlink(), "P10"),
    "no environment": (lambda run: (run / "environment.json").unlink(), "P10"),
    "findings": (lambda run: (run / "findings.json").write_text('[{"code": 1}]'), "P10"),
    "scores": (lambda run: (run / "scores.json").write_text("{}"), "P10"),
    "epoch twice": (lambda run: lines(run / "history.jsonl", lambda rows: [*rows, rows[-1]]), "P11"),
    "epoch missing": (lambda run: lines(run / "history.jsonl", lambda rows: [rows[0], rows[2]]), "P11"),
    "line that is no JSON": (lambda run: lines(run / "history.jsonl", lambda rows: ["{]", *rows[1:]]), "P11"),
    "more epochs than asked": (
        lambda run: lines(run / "history.jsonl", lambda rows: [*rows, json.dumps(json.loads(rows[-1]) | {"epoch": 4, "step": 8})]),
        "P11",
    ),
    "another loss in history": (
        lambda run: lines(run / "history.jsonl", lambda rows: [json.dumps(json.loads(rows[0]) | {"train_loss": 0.5}), *rows[1:]]),
        "P12",
    ),
    "edited settings": (lambda run: (run / "settings.json").write_text((run / "settings.json").read_text().replace("0.01", "0.03")), "P12"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_p5_damage_is_found_and_named(what, run):
    act, code = DAMAGE[what]
    act(run)
    found = fs.verify(run)
    assert code in {finding.code for finding in found if finding.severity == "error"}
    assert all(str(run) in finding.what for finding in found) and "ignore=" not in "".join(map(str, found))


def test_p5_checkpoints_and_a_model_of_another_run_are_found(run, made):
    shutil.rmtree(run / f"{STEP}6")
    shutil.copytree(made[2] / f"{STEP}6", run / f"{STEP}6")
    assert {finding.code for finding in fs.verify(run)} == {"P12"}


def test_p5_a9_a_built_in_model_with_the_weights_of_another_answers_otherwise(made, tmp_path):
    """Sizes and hashes fit (whoever exchanges the weights can write a manifest too): the self-test tells."""
    from fivestep.results import artifact as artifacts

    other = fit(tmp_path, "other", model="mlp", seed=5).folder / "model.fivestep"
    mine, theirs = artifacts.read_artifact(made[1] / "model.fivestep"), artifacts.read_artifact(other)
    swapped = artifacts.save_artifact(
        tmp_path / "swapped.fivestep", recipe=mine.recipe, state=theirs.state, columns=mine.columns, decoding=mine.decoding, self_test=mine.self_test,
        facts=mine.facts, card=mine.card,
    )  # fmt: skip
    (finding,) = fs.verify(swapped)
    assert finding.code == "P08" and "self-test" in finding.what
    with pytest.raises(fs.ArtifactError, match="self-test"):
        fs.load(swapped)
    with pytest.raises(fs.ArtifactError, match="self-test"):
        fs.load(swapped, model=mine.recipe["name"])


def test_p5_a_run_that_was_stopped_and_leftovers_are_notes(run):
    shutil.rmtree(run / "model.fivestep")
    (run / "checkpoints/step-000000000005.tmp-99").mkdir()
    (run / f"{STEP}2").rename(run / f"{STEP}2.bad")
    found = fs.verify(run)
    assert [(finding.code, finding.severity) for finding in found] == [("P14", "note"), ("P14", "note"), ("P13", "note")]


def test_p5_a_metric_that_is_nan_does_not_make_a_run_unsound(tmp_path):
    values = iter([1.0, float("nan")] * 3)
    run = fit(tmp_path, metrics={"odd": lambda outputs, targets: next(values)}, monitor="odd", mode="max", epochs=4)
    assert fs.verify(run.folder) == []


def test_s7_history_tells_each_epoch_once():
    rows = [{"epoch": 1, "step": 4}, {"epoch": 2, "step": 8}]
    assert problems_of_history(rows) == [] == problems_of_history([])
    assert "twice" in problems_of_history([*rows, rows[0]])[0]
    assert "missing" in problems_of_history(rows[1:])[0]
    assert "before" in problems_of_history([rows[0], {"epoch": 2, "step": 3}])[0]
    assert problems_of_history([{"epoch": True, "step": 1}])


def test_p5_the_shell_ends_with_0_or_66(run, made):
    def shell(*words):
        return subprocess.run([sys.executable, "-m", "fivestep", "verify", *map(str, words)], capture_output=True, text=True)

    sound = shell(run, "--json")
    assert sound.returncode == 0 and json.loads(sound.stdout) == {"path": str(run), "sound": True, "problems": [], "findings": []}
    assert shell(run.parent / "nothing").returncode == 66
    flip(run / f"{STEP}6/state.safetensors")
    told = shell(run)
    assert told.returncode == 66 and "P09 error" in told.stdout and "step-000000000006" in told.stdout and told.stderr == ""
    assert [finding["code"] for finding in json.loads(shell(run, "--json").stdout)["findings"]] == ["P09"]
