"""Pictures: every kind for the tasks that have it, with names on the axes, no pyplot, no look at the test split; and a lesson for the tasks that do not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fivestep as fs
from fivestep.errors import UsageError
from fivestep.figures import COLOURS, GREY

sys.path.insert(0, str(Path(__file__).parent.parent / "results"))
from reported import QUIET, churn, houses, make

HAS = {
    "useful": {"loss", "predictions", "confusion", "roc", "precision_recall", "calibration", "importance"},
    "houses": {"loss", "predictions", "residuals", "importance"},
    "digits": {"loss", "confusion", "roc", "precision_recall", "calibration"},
    "arrays": {"loss", "predictions", "residuals", "importance"},
}
KINDS = ("loss", "predictions", "residuals", "confusion", "roc", "precision_recall", "calibration", "importance", "boundary")


class Untouchable:
    def __getattr__(self, name):
        raise AssertionError("the test split was looked at")


@pytest.fixture(scope="module")
def runs():
    made = {which: make(which, None) for which in HAS}
    for run in made.values():
        if "test" in run._encoded:
            run._encoded["test"] = Untouchable()
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", HAS)
def test_a_kind_is_drawn_or_refused_with_what_there_is(runs, which, kind, tmp_path):
    if kind not in HAS[which]:
        with pytest.raises(UsageError, match=r"plot|Importance"):
            runs[which].plot(kind)
        return
    made = runs[which].plot(kind)
    made.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5_000
    axes = made.axes[0]
    assert axes.get_xlabel() and (axes.get_ylabel() or kind == "importance")
    assert not hasattr(made, "number")  # pyplot numbers the figures that it keeps; this one is nobody's but the caller's


def test_a_kind_that_is_misspelt_is_told_the_near_one(runs):
    with pytest.raises(UsageError, match=r"confusion"):
        runs["useful"].plot("confussion")


def test_a_kind_of_another_task_is_told_all_that_this_one_has(runs):
    with pytest.raises(UsageError, match="is for a task of regression, and this run's is binary") as raised:
        runs["useful"].plot("residuals")
    offered = re.findall(r'"(\w+)"', str(raised.value).split("There is plot of")[1])
    assert offered == ["loss", "predictions", "confusion", "roc", "precision_recall", "calibration"]


def test_axes_bear_the_names_of_the_data(runs):
    residuals = runs["houses"].plot("residuals")
    assert residuals.axes[0].get_xlabel() == "predicted price"
    assert "CrossEntropyLoss" in runs["useful"].plot("loss").axes[0].get_ylabel() or "BCE" in runs["useful"].plot("loss").axes[0].get_ylabel()
    assert [label.get_text() for label in runs["useful"].plot("confusion").axes[0].get_yticklabels()] == ["no", "yes"]


def test_the_curve_over_one_input_stands_in_the_units_of_the_column():
    table = houses(100)
    run = fs.fit("linear", fs.Data.table({"size": table["size"], "price": table["price"]}, target="price").split(), epochs=2, folder=None, **QUIET)
    axes = run.plot("predictions").axes[0]
    assert axes.get_xlabel() == "size" and axes.get_ylabel() == "price"
    x = axes.lines[0].get_xdata()
    sizes = run.splits.train.data.typed.values("size")[torch.cat([run.splits.train.indices, run.splits.val.indices]).numpy()]
    assert x.min() == pytest.approx(sizes.min(), rel=1e-4) and x.max() == pytest.approx(sizes.max(), rel=1e-4)


@pytest.mark.parametrize("target", ["species", "body_mass_g"])
def test_a_boundary_is_drawn_over_two_numbers_in_their_units(target):
    drop = [name for name in ("species", "island", "sex", "year", "flipper_length_mm", "body_mass_g") if name != target]
    data = fs.Data.table(fs.datasets.penguins(), target=target, missing=["NA"], drop=drop, without_target="drop")
    axes = fs.fit("mlp", data.split(), epochs=2, folder=None, **QUIET).plot("boundary").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("bill_length_mm", "bill_depth_mm")
    low, high = axes.get_xlim()
    assert 25 < low < 40 and 50 < high < 70


def test_a_boundary_over_more_inputs_is_refused_with_their_names():
    run = fs.fit("linear", fs.Data.table(houses(60), target="price").split(), epochs=1, folder=None, **QUIET)
    with pytest.raises(UsageError, match=r"3 columns: size, noise, kind"):
        run.plot("boundary")


def test_splits_show_the_rows_of_each_part_and_the_targets_of_training_and_validation_rows_alone():
    splits = fs.Data.table(churn(200), target="churn").split(stratify=True)
    left, right = splits.plot().axes
    assert [round(bar.get_height()) for bar in left.patches] == [140, 30, 30]
    assert [label.get_text() for label in right.get_xticklabels()] == ["no", "yes"] and right.get_xlabel() == "churn"
    heights = np.array([bar.get_height() for bar in right.patches]).reshape(2, 2)
    assert np.allclose(heights.sum(1), 1)
    assert [each.get_text() for each in right.get_legend().get_texts()] == ["training", "validation"]  # looks at test targets are counted: a plot takes none
    prices = fs.Data.table(houses(50), target="price").split().plot().axes[1]
    assert prices.get_xlabel() == "price"
    assert [each.get_text() for each in prices.get_legend().get_texts()] == ["training", "validation"]
    x = torch.randn(30, 2)
    fs.Splits(train=(x, x), val=(x, x)).plot()


def test_each_colour_stands_out_from_white_as_wcag_asks_of_graphics():
    """Contrast of at least 3 to 1 (WCAG 2.2, 1.4.11; relative luminance of sRGB)."""
    for colour in (*COLOURS, GREY):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        assert 1.05 / (sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear)) + 0.05) >= 3, colour


LONG = "the growth of the yearly revenue per customer in the following twelve months (EUR)"


def longest_names(kind: str) -> fs.Run:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 120))
    target = {
        "numbers": 1e6 * a + 1e5 * b,
        "two classes": np.where(a > 0, f"no {LONG}", f"yes {LONG}"),
        "three classes": np.array([f"{name} {LONG}" for name in "abc"])[(a > 0).astype(int) + (b > 1)],
    }[kind]
    splits = fs.Data.table({f"first {LONG}": a, f"second {LONG}": b, LONG: target}, target=LONG).split()
    return fs.fit("linear", splits, epochs=2, folder=None, **QUIET)


@pytest.mark.parametrize("kind", ["numbers", "two classes", "three classes"])
def test_names_of_eighty_letters_leave_every_word_inside_the_figure(kind):
    run = longest_names(kind)
    drawn = 0
    for draw in [run.splits.plot, *(lambda kind=kind: run.plot(kind) for kind in KINDS)]:
        try:
            made = draw()
        except UsageError:
            continue  # a kind for another task
        drawn += 1
        made.canvas.draw()  # only this lays it out
        box, (width, height) = made.get_tightbbox(), made.get_size_inches()
        cut = max(-box.x0, -box.y0, box.x1 - width, box.y1 - height)
        assert cut < 0.03, made.axes[0].get_xlabel()  # inches: the corner of the box around a turned word
    assert drawn >= 5


def test_axes_bear_the_units_of_the_data():
    named = fs.Data.table(houses(), target="price", drop=["noise", "kind"], units={"price": "EUR", "size": "m²"}).split()
    run = fs.fit("linear", named, folder=None, epochs=2, **QUIET)
    (over,) = run.plot("predictions").axes
    assert (over.get_xlabel(), over.get_ylabel()) == ("size (m²)", "price (EUR)")
    assert run.plot("residuals").axes[0].get_ylabel() == "predicted - actual price (EUR)"
    assert "absolute error in EUR" in run.plot("importance").axes[0].get_xlabel()
    assert named.plot().axes[1].get_xlabel() == "price (EUR)"


@pytest.mark.parametrize(
    ("loss", "scaled", "told"),
    [
        ("MSELoss", "auto", "loss (MSELoss, standardised target)"),
        ("MSELoss", False, "loss (MSELoss, EUR²)"),
        ("L1Loss", False, "loss (L1Loss, EUR)"),
        ("SmoothL1Loss", False, "loss (SmoothL1Loss)"),  # squares near zero, distances beyond
    ],
)
def test_the_loss_is_measured_in_what_its_axis_says(loss, scaled, told):
    splits = fs.Data.table(houses(), target="price", scale_target=scaled, units={"price": "EUR"}).split()
    run = fs.fit("linear", splits, folder=None, epochs=1, loss=loss, **QUIET)
    assert run.plot("loss").axes[0].get_ylabel() == told


def test_a_loss_of_probabilities_is_measured_in_nats(runs):
    assert runs["useful"].plot("loss").axes[0].get_ylabel() == "loss (CrossEntropyLoss, nats)"
