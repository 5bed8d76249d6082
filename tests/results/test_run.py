"""A run: what stands in its folder, how looks at the test split are counted, and that every container gives the same predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import PLAIN, Net, arrays, fit, table

import fivestep as fs
from fivestep.errors import CannotCreateError, FivestepError, UsageError

# -- the folder ------------------------------------------------------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_was_asked_what_happened_and_the_model():
    run = fit(folder="runs", loss="MSELoss", epochs=3)
    assert run.folder == Path("runs/net-0001") or run.folder == Path("runs/net-0001").absolute()
    assert {entry.name for entry in run.folder.iterdir()} >= {"settings.json", "environment.json", "history.jsonl", "findings.json", "model.fivestep"}
    settings, environment = (json.loads((run.folder / name).read_text()) for name in ("settings.json", "environment.json"))
    assert settings["fit"]["epochs"] == 3 and environment["torch"] == torch.__version__
    rows = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3] and rows[-1]["train_loss"] == run.history[-1]["train_loss"]
    assert fs.verify(run.folder) == []
    x, _ = arrays()
    assert torch.equal(fs.load(run.folder, model=Net).predict(x), run.predict(x))
    assert fit(folder="runs").folder.name == "net-0002"


def test_a_used_name_is_refused_and_nothing_is_overwritten():
    run = fit(folder="runs", name="first")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(CannotCreateError, match="first"):
        fit(folder="runs", name="first", epochs=1)
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["../out", ".hidden", "a/b", ""])
def test_a_name_that_is_no_folders_name_is_refused(name):
    with pytest.raises(CannotCreateError):
        fit(folder="runs", name=name)


def test_without_a_folder_nothing_is_written(tmp_path):
    run = fit()
    run.evaluate("test")
    assert run.folder is None and list(tmp_path.iterdir()) == []


# -- looks at the test split -----------------------------------------------------------------------------------------------------------------------------------


def test_looks_are_counted_over_all_runs_on_the_same_data_and_split():
    splits = fs.Data.arrays(*arrays()).split(seed=0)
    first, second = fit(splits=splits, folder="runs"), fit(splits=splits, folder="runs", seed=1)
    assert [first.evaluate("test").looks, second.evaluate("test").looks, first.evaluate("test").looks] == [1, 2, 3]
    assert first.evaluate("val").looks is None
    assert fit(splits=fs.Data.arrays(*arrays()).split(seed=1), folder="runs").evaluate("test").looks == 1
    assert "4" in str(second.evaluate("test"))


def test_watching_the_test_counts_each_look():
    run = fit(folder="runs", watch_test=True, epochs=3)
    assert all(row["test_loss"] is not None for row in run.history)
    assert run.evaluate("test").looks == 4


def test_looks_without_a_folder_are_counted_for_the_process():
    splits = fs.Data.arrays(arrays()[0] + 17, arrays()[1]).split(seed=0)
    assert [fit(splits=splits).evaluate("test").looks for _ in range(2)] == [1, 2]


# -- predictions -----------------------------------------------------------------------------------------------------------------------------------------------


def test_arrays_give_back_their_kind_of_container():
    run, (x, _) = fit(), arrays()
    given = run.predict(x)
    assert isinstance(given, torch.Tensor) and given.shape == (40, 2) and not given.requires_grad
    assert isinstance(run.predict(x.numpy()), np.ndarray) and np.array_equal(run.predict(x.numpy()), given.numpy())
    assert torch.equal(run.predict(fs.Data.arrays(x)), given)
    assert torch.equal(run.predict("train"), given[run.splits.train.indices])
    with torch.no_grad():
        torch.testing.assert_close(given.float(), run.model.eval()(x), rtol=0, atol=1e-6)


def test_a_table_gives_back_its_kind_of_container(tmp_path):
    import pandas
    import polars

    run = fit(splits=fs.Data.table(table(), target="y").split(seed=0), model_args={"num_outputs": 1})
    rows = {key: value for key, value in table().items() if key != "y"}
    polars.DataFrame(rows).write_csv(tmp_path / "rows.csv")
    frame = pandas.DataFrame(rows, index=range(100, 140))
    as_dict, as_polars, as_pandas, as_file = (run.predict(given) for given in (rows, polars.DataFrame(rows), frame, tmp_path / "rows.csv"))
    assert (
        isinstance(as_dict, dict)
        and isinstance(as_polars, polars.DataFrame)
        and isinstance(as_pandas, pandas.DataFrame)
        and isinstance(as_file, polars.DataFrame)
    )
    assert list(as_pandas.index) == list(range(100, 140))
    for other in (as_polars["y"].to_numpy(), as_pandas["y"].to_numpy(), as_file["y"].to_numpy()):
        assert np.array_equal(as_dict["y"], other)
    assert 60 < as_dict["y"].mean() < 140  # in the target's own unit


def test_probabilities_add_up_and_agree_with_the_labels():
    x, _ = arrays()
    run = fit(splits=fs.Data.arrays(x, torch.arange(40) % 3).split(seed=0), model_args={"num_outputs": 3}, epochs=4)
    probabilities = run.predict(x, probabilities=True)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(40, dtype=probabilities.dtype))
    assert torch.equal(probabilities.argmax(1), torch.as_tensor(run.predict(x)))
    with pytest.raises(UsageError, match="numbers"):
        fit().predict(x, probabilities=True)


def test_probabilities_of_a_table_are_named():
    data = table() | {"y": ["yes" if value > 100 else "no" for value in table()["y"]]}
    run = fit("linear", fs.Data.table(data, target="y").split(seed=0), loss="auto")
    frame = run.predict({key: value for key, value in data.items() if key != "y"}, probabilities=True)
    assert set(frame) == {"y", "probability_no", "probability_yes"}
    assert np.allclose(frame["probability_no"] + frame["probability_yes"], 1) and set(frame["y"]) <= {"yes", "no"}


def test_repr_and_report_card_say_what_was_kept():
    run = fit(folder="runs", epochs=3)
    assert "Net, 3 epochs" in repr(run) and str(run.folder) in repr(run)
    assert "kept epoch" in run._repr_html_() and str(run.folder) in run._repr_html_()
    assert "trained with fivestep" in (run.folder / "model.fivestep" / "README.md").read_text()


def test_spread_needs_members():
    with pytest.raises(FivestepError, match="members"):
        fit().predict(arrays()[0], spread=True)


def test_a_model_of_images_predicts_and_scores_files_as_it_does_arrays(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 5), dtype=np.uint8)
    for number, image in enumerate(pixels):
        (tmp_path / "images" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / "ab"[number % 2] / f"{number:02}.png")
    run = fs.fit("cnn", fs.Data.images(tmp_path / "images").split(), epochs=1, folder=tmp_path / "runs", **PLAIN)
    for model in (run, fs.load(run.folder)):
        frame = model.predict(tmp_path / "images", probabilities=True)
        order = [*range(0, 40, 2), *range(1, 40, 2)]
        assert frame["file"].to_list() == [f"{'ab'[number % 2]}/{number:02}.png" for number in order]
        assert frame["prediction"].to_list() == list(model.predict(pixels[order]))
        assert np.array_equal(frame.select("probability_a", "probability_b").to_numpy(), model.predict(pixels[order], probabilities=True))
        assert model.predict(tmp_path / "images" / "b" / "03.png")["file"].to_list() == ["03.png"]
        right = np.mean([name[0] == label for name, label in zip(frame["file"], frame["prediction"], strict=True)])
        assert model.evaluate(tmp_path / "images")["accuracy"].value == pytest.approx(right)
    Image.fromarray(pixels[0]).resize((10, 12)).convert("RGB").save(tmp_path / "large.png")
    with pytest.warns(UserWarning, match="1 of 1 images are not 6 x 5"):
        assert len(run.predict(tmp_path / "large.png")) == 1


def test_rows_to_score_are_numbered_by_the_labels_of_training():
    x, _ = arrays(60)
    labels = np.array(["low", "mid", "high"])[np.digitize(x[:, 0].numpy(), [-0.5, 0.5])]
    run = fs.fit("linear", fs.Data.arrays(x, labels).split(), loss="CrossEntropyLoss", epochs=1, folder=None, **PLAIN)
    some = labels != "high"
    right = float(np.mean(np.array(run.predict(x[some])) == labels[some]))
    assert run.evaluate((x[some], labels[some]))["accuracy"].value == pytest.approx(right)
    with pytest.raises(FivestepError, match="'huge', which training has not"):
        run.evaluate((x[:2], np.array(["low", "huge"])))
