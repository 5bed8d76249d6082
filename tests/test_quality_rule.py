"""`model="auto"`: what is chosen, that each part can be said by name, that it is recorded and resumed, and that nothing but training rows decides."""

from __future__ import annotations

import numpy
import pytest
import torch

import fivestep as fs
from fivestep.data.augmenting import ShiftAndFlip, make_augment, mirror_keeps_class
from fivestep.datasets import digits
from fivestep.errors import SettingsError
from fivestep.model import choosing, models

QUICK = dict(folder=None, quiet=True, checks=False, device="cpu", epochs=2)


def columns_of(rows: int = 200, cities: int = 3, target: str = "number") -> dict:
    draw = numpy.random.default_rng(0)
    size = draw.normal(size=rows) * 5 + 20
    city = draw.integers(cities, size=rows)
    price = size * 2 + city + draw.normal(size=rows)
    wanted = price if target == "number" else numpy.where(price > numpy.median(price), "dear", "cheap")
    return {"size": size, "city": [f"c{number}" for number in city], "flag": draw.integers(2, size=rows).astype(bool), "y": wanted}


def table(rows: int = 200, cities: int = 3, target: str = "number") -> fs.Data:
    return fs.Data.table(columns_of(rows, cities, target), target="y")


# -- the rule --------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "batch_size", "lr", "epochs", "patience"),
    [
        (500, 32, 1e-3, 100, 12), (1_500, 32, 2e-3, 100, 12), (9_999, 64, 2e-3, 100, 12), (14_000, 128, 1e-2, 60, None), (40_000, 128, 1e-2, 30, None),
        (229_000, 512, 1e-2, 8, None),
    ],
)  # fmt: skip
def test_a_table_gets_eight_networks_in_one_and_settings_by_its_rows(rows: int, batch_size: int, lr: float, epochs: int, patience: int | None) -> None:
    choice = choosing.choose("regression", 13, None, rows)
    assert choice.model == "ensemble" and choice.args["members"] == 8 and f"{rows:,} rows" in choice.sentence and "\n" not in choice.sentence
    got = choice.settings
    assert (got["batch_size"], got["lr"], got["epochs"], got["patience"]) == (batch_size, lr, epochs, patience)
    if patience is None:  # the rate has come down only at the end
        assert got["scheduler"]["name"] == "OneCycleLR" and f"over {epochs} epochs" in choice.sentence
    else:
        assert got["scheduler"]["patience"] + 1 == patience / 2  # torch cuts after one epoch more than its patience
    models.expected_tensors("ensemble", choice.args | {"num_inputs": 13, "num_outputs": 1})


def test_whoever_takes_the_training_outputs_himself_gets_rows_and_not_members() -> None:
    assert choosing.choose("regression", 13, None, 500, own_loss=True).model == "mlp"
    splits = table().split(seed=0)
    run = fs.fit(
        "auto", splits, compute=lambda model, x, y: (model(x) - y[0]).square().mean() if isinstance(y, tuple) else (model(x) - y).square().mean(), **QUICK
    )
    assert type(run.model) is models.MLP


def test_very_many_numbers_get_no_cosines_and_then_the_plain_network() -> None:
    assert choosing.choose("binary", 300, None, 500).args["cosine_outputs"] == 0
    assert [choosing.choose("binary", width, None, 500).args["dropout"] for width in (49, 50)] == [0.1, 0.25]
    assert choosing.choose("binary", 5_000, None, 500).model == "mlp"


@pytest.mark.parametrize(
    ("shape", "channels", "numbers"),
    [
        ((1, 8, 8), [32, 64, 64, 128, 128, 128], 128), ((3, 32, 32), [16, 32, 32, 64, 64, 64, 128, 128, 128], 128 * 2 * 2),
        ((1, 28, 28), [16, 32, 32, 64, 64, 64, 128, 128, 128], 128 * 2 * 2), ((3, 224, 200), [16, 32, 32, *[64] * 3, *[128] * 9], 128 * 4 * 4),
        ((1, 1, 1), [32], 32),
    ],
)  # fmt: skip
def test_images_get_convolutions_that_end_at_a_small_map_and_can_be_built(shape: tuple[int, int, int], channels: list[int], numbers: int) -> None:
    choice = choosing.choose("multiclass", None, shape, 100)
    assert choice.model == "cnn" and choice.args["channels"] == channels and choice.args["residual"]
    assert choice.settings["scheduler"] == {"name": "OneCycleLR"} and choice.settings["patience"] is None
    assert models.expected_tensors("cnn", choice.args | {"num_outputs": 10})["head.weight"][1] == (10, numbers)


@pytest.mark.parametrize(("rows", "epochs", "batch_size"), [(4_999, 60, 32), (5_000, 30, 128), (19_999, 30, 128), (20_000, 10, 128)])
def test_more_images_are_seen_fewer_times(rows: int, epochs: int, batch_size: int) -> None:
    choice = choosing.choose("multiclass", None, (1, 28, 28), rows)
    assert (choice.settings["epochs"], choice.settings["batch_size"]) == (epochs, batch_size) and f"over {epochs} epochs" in choice.sentence


def test_images_whose_target_is_a_number_are_never_moved_nor_mirrored() -> None:
    assert "augment" not in choosing.choose("regression", None, (1, 28, 28), 100, mirrored=True).settings
    assert choosing.choose("multiclass", None, (1, 28, 28), 100, mirrored=True).settings["augment"] == {"shift": 1, "flip": True}
    assert choosing.choose("multiclass", None, (3, 224, 224), 100).settings["augment"] == {"shift": 8, "flip": False}


# -- by name ---------------------------------------------------------------------------------------------------------------------------------------------------


def test_every_chosen_part_can_be_said_by_name(capsys) -> None:
    splits = table().split(seed=0)
    run = fs.fit("auto", splits, model_args={"members": 2, "width": 16, "dropout": 0.0}, lr=0.01, batch_size=50, scheduler=None, **QUICK | {"quiet": False})
    told = " ".join(capsys.readouterr().err.split())
    assert "In place of these, as you said: model.members=2, model.width=16, model.dropout=0.0, batch_size=50, lr=0.01, scheduler=None, epochs=2." in told
    assert isinstance(run.model, models.Ensemble) and run.model.members == 2 and run.settings.model["args"]["widths"] == [16, 16]
    assert run.history[0]["lr"] == [0.01] or run.history[0]["lr"] == 0.01
    assert not {"lr", "batch_size", "scheduler", "epochs"} & run.settings.chosen["auto"].keys()
    assert run.settings.chosen["auto"]["optimizer"] == {"name": "AdamW", "weight_decay": 1e-2}


def test_another_optimizer_comes_with_its_own_rate() -> None:
    run = fs.fit("auto", table().split(seed=0), optimizer="SGD", **QUICK)
    assert "lr" not in run.settings.chosen["auto"] and run.settings.chosen["optimizer"]["arguments"]["lr"] == 1e-2


def test_a_number_of_epochs_that_was_said_is_kept_to_the_end() -> None:
    run = fs.fit("auto", table().split(seed=0), **QUICK | {"epochs": 30})
    assert len(run.history) == 30 and run.settings.chosen["patience"] is None


def test_without_validation_rows_the_rate_falls_on_a_cosine_and_the_last_epoch_is_kept() -> None:
    run = fs.fit("auto", table().split(train=0.8, test=0.2, seed=0), **QUICK | {"epochs": "auto"})
    assert run.settings.chosen["auto"]["scheduler"] == {"name": "CosineAnnealingLR"} and run.settings.chosen["keep"] == "last"
    assert len(run.history) == run.settings.chosen["epochs"] == 30


# -- what is fitted --------------------------------------------------------------------------------------------------------------------------------------------


def test_medians_and_quartiles_come_from_training_rows_and_only_numbers_are_clipped() -> None:
    splits = table().split(seed=0)
    run = fs.fit("auto", splits, **QUICK)
    names = splits.columns.input_names
    assert [names[position] for position in run.settings.model["args"]["number_columns"]] == ["size"]
    encoded = splits.encoded(splits.train).inputs[:, names.index("size")]
    assert run.settings.model["args"]["center"] == pytest.approx([float(encoded.double().quantile(0.5))])
    frame = columns_of()
    for row in splits.test.indices.tolist():  # another value in a test row changes nothing
        frame["size"][row] = 1e4
    other = fs.Data.table(frame, target="y").split(indices=(splits.train.indices, splits.val.indices, splits.test.indices))
    assert fs.fit("auto", other, **QUICK).weights_sha256 == run.weights_sha256


def test_very_many_categories_become_codes_and_the_run_and_its_artifact_know(tmp_path) -> None:
    data = table(rows=3_000, cities=290)
    run = fs.fit("auto", data.split(seed=0), **QUICK | {"folder": tmp_path})
    assert run.settings.data["options"]["categories"] == "codes" and len(run.model.embeddings) == 1
    frame = {"size": [20.0, 21.0], "city": ["c7", "never seen"], "flag": [True, False]}
    loaded = fs.load(run.folder)
    assert numpy.array_equal(loaded.predict(frame)["y"], run.predict(frame)["y"])
    few = fs.fit("auto", table().split(seed=0), **QUICK)
    assert few.settings.data["options"]["categories"] == "auto" and not len(few.model.embeddings)


def test_the_validation_loss_is_that_of_the_averaged_prediction_and_the_training_loss_the_members_mean() -> None:
    splits = table(target="class").split(seed=0)
    run = fs.fit("auto", splits, batch_size="all", model_args={"dropout": 0.0}, lr=0.0, calibrate=False, **QUICK | {"epochs": 1})
    inputs, (targets,) = (lambda source: (source.inputs, source.targets))(splits.encoded(splits.train))
    with torch.no_grad():
        members = run.model.member_outputs(inputs)
        alone = torch.stack([torch.nn.functional.cross_entropy(outputs, targets) for outputs in members]).mean()
    assert run.history[0]["train_loss"] == pytest.approx(float(alone), rel=1e-6)
    probabilities = numpy.asarray(run.predict("val", probabilities=True))
    right = probabilities[numpy.arange(len(splits.val)), splits.encoded(splits.val).targets[0].numpy()]
    assert run.history[0]["val_loss"] == pytest.approx(float(-numpy.log(right).mean()), rel=1e-5)


def test_a_stopped_run_of_auto_ends_in_the_same_bits_when_resumed(tmp_path) -> None:
    splits = table(target="class").split(seed=0)
    whole = fs.fit("auto", splits, **QUICK | {"epochs": 6, "folder": tmp_path / "a", "name": "whole"})

    class Stop(Exception):
        pass

    def stop(event) -> None:
        if type(event).__name__ == "EpochEnded" and event.epoch == 4:
            raise Stop

    with pytest.raises(Stop):
        fs.fit("auto", splits, checkpoint="epoch", observers=[stop], **QUICK | {"epochs": 6, "folder": tmp_path / "b", "name": "part"})
    resumed = fs.resume(tmp_path / "b" / "part", splits=splits, observers=[], quiet=True)
    assert resumed.weights_sha256 == whole.weights_sha256 and resumed.history[-1]["lr"] == whole.history[-1]["lr"]


# -- the spread of members -------------------------------------------------------------------------------------------------------------------------------------


def test_spread_is_the_members_deviation_in_the_targets_unit_and_of_the_probability() -> None:
    splits = table().split(seed=0)
    run = fs.fit("auto", splits, **QUICK)
    rows = {"size": [20.0, 30.0], "city": ["c0", "c1"], "flag": [True, False]}
    got = run.predict(rows, spread=True)
    with torch.no_grad():
        outputs = run.model.eval().member_outputs(splits.columns.encode(rows))[..., 0].double()
    expected = outputs.std(0) * splits.columns.target_scale
    assert got["y_spread"] == pytest.approx(expected.numpy(), rel=1e-4)
    classed = fs.fit("auto", table(target="class").split(seed=0), **QUICK)
    got = classed.predict(rows, probabilities=True, spread=True)
    assert got["spread_cheap"] == pytest.approx(got["spread_dear"]) and (got["spread_cheap"] > 0).all()
    assert classed.predict(rows, spread=True)["spread"] == pytest.approx(got["spread_cheap"])
    values, spread = run.predict("val", spread=True)
    assert len(values) == len(spread) == len(splits.val)


@pytest.mark.parametrize(("model", "args", "told"), [("linear", {}, "LinearModel is one model"), ("ensemble", {"members": 1}, "a single member")])
def test_spread_of_what_has_no_members_is_refused_by_name(model: str, args: dict, told: str) -> None:
    run = fs.fit(model, table().split(seed=0), model_args=args, **QUICK)
    with pytest.raises(fs.UsageError, match=told):
        run.predict({"size": [20.0], "city": ["c0"], "flag": [True]}, spread=True)


# -- images ----------------------------------------------------------------------------------------------------------------------------------------------------


def test_shifts_move_every_pixel_alike_and_flips_mirror_half() -> None:
    images = torch.arange(1.0, 65.0).reshape(1, 1, 8, 8).repeat(400, 1, 1, 1)
    moved = ShiftAndFlip(1, False)(images, torch.Generator().manual_seed(0))
    seen = {tuple(image[0, 3:5, 3:5].flatten().tolist()) for image in moved}
    assert len(seen) == 9 and all(block[1] - block[0] == 1 and block[2] - block[0] == 8 for block in seen)
    assert (moved == 0).any() and torch.equal(ShiftAndFlip(0, False)(images, torch.Generator()), images)
    flipped = ShiftAndFlip(0, True)(images, torch.Generator().manual_seed(0))
    mirrored = (flipped[:, 0, 0, 0] == 8).sum()
    assert 150 < mirrored < 250 and torch.equal(flipped[flipped[:, 0, 0, 0] == 8][0, 0], images[0, 0].flip(1))
    again = ShiftAndFlip(1, True)(images, torch.Generator().manual_seed(5))
    assert torch.equal(again, ShiftAndFlip(1, True)(images, torch.Generator().manual_seed(5)))


def test_digits_are_not_mirrored_and_symmetric_shapes_are() -> None:
    images, labels = digits()
    images, labels = torch.as_tensor(images).float().reshape(-1, 1, 8, 8), torch.as_tensor(labels)
    assert not mirror_keeps_class(images, labels)
    assert mirror_keeps_class(images + images.flip(3), labels)


@pytest.mark.parametrize("spec", [{"shift": -1}, {"shift": True}, {"turn": 3}, {"flip": 1}, "flip", 3])
def test_what_is_no_augmentation_is_refused(spec) -> None:
    with pytest.raises(SettingsError, match="augment="):
        make_augment(spec)


def test_auto_on_images_records_its_augmentation_and_false_turns_it_off() -> None:
    draw = torch.Generator().manual_seed(0)
    splits = fs.Data.images(torch.rand(60, 8, 8, generator=draw).numpy(), torch.arange(60).remainder(3).numpy()).split(seed=0)
    run = fs.fit("auto", splits, **QUICK)
    assert run.settings.chosen["auto"]["augment"]["shift"] == 1
    plain = fs.fit("auto", splits, augment=False, **QUICK)
    assert "augment" not in plain.settings.chosen["auto"] and plain.weights_sha256 != run.weights_sha256


@pytest.mark.parametrize("compile", [None, "step"])
def test_a_stopped_run_of_auto_on_images_ends_in_the_same_bits_when_resumed(tmp_path, compile) -> None:
    images, labels = digits()
    splits = fs.Data.images(images[:150], labels[:150]).split(seed=0)
    options = QUICK | {"epochs": 3, "compile": compile}
    whole = fs.fit("auto", splits, **options | {"folder": tmp_path / "a", "name": "whole"})

    class Stop(Exception):
        pass

    def stop(event) -> None:
        if type(event).__name__ == "EpochEnded" and event.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        fs.fit("auto", splits, checkpoint="epoch", observers=[stop], **options | {"folder": tmp_path / "b", "name": "part"})
    resumed = fs.resume(tmp_path / "b" / "part", splits=splits, observers=[], quiet=True)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert numpy.array_equal(fs.load(resumed.folder).predict(images[:5]), whole.predict(images[:5]))
