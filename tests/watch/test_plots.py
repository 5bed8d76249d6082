"""Pictures: every kind for the tasks that have it, with names on the axes, no pyplot, no look at the test split; and a lesson for the tasks that do not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fivestep as fs
from fivestep.errors import UsageError

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
