"""Pictures: every kind for the tasks that have it, with names on the axes, no pyplot, no look at the test split; and a lesson for the tasks that do not."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.cbook import is_math_text
from matplotlib.text import Text

import fivestep as fs
from fivestep.errors import UsageError
from fivestep.experiments.plots import plot_sweep
from fivestep.figures import COLOURS, GREY, literal
from fivestep.results import diagnosis
from fivestep.watch import plots

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


# -- what is not drawn is said, and what is drawn is one thing ----------------------------------------------------------------------------------------------


def drawn(made) -> str:
    """All words of a figure that has been laid out: a formula that cannot be read is only found by this."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a letter that the font has not would be a box
        made.canvas.draw()
    return "\n".join(text.get_text() for text in made.findobj(Text))


def of_labels(true: torch.Tensor, called: torch.Tensor, count: int) -> diagnosis.Predicted:
    values, places = torch.nn.functional.one_hot(called, count).double(), torch.arange(len(true))
    names = tuple(f"class {label}" for label in range(count))
    return diagnosis.Predicted("val", "multiclass", places, places, values, true, torch.zeros(len(true)), "log loss", names, ())


def test_shades_of_a_large_confusion_matrix_are_shares_of_all_rows_of_the_true_class(monkeypatch):
    true = torch.arange(42).repeat_interleave(torch.where(torch.arange(42) < 20, 42, 3))  # the first 20 classes have 42 rows each
    called = true.clone()
    called[12:42] = 30  # of class 0 only 12 rows are called so, and 30 are called a class that is not shown
    monkeypatch.setattr(plots, "seen", lambda run, kind: of_labels(true, called, 42))
    made = plots.plot_confusion(None)
    axes = made.axes[0]
    shares = np.asarray(axes.images[0].get_array())
    assert shares.shape == (20, 21) and np.allclose(shares.sum(1), 1)
    assert shares[0, 0] == pytest.approx(12 / 42) and shares[0, 20] == pytest.approx(30 / 42) and shares[1, 1] == 1
    assert [label.get_text() for label in axes.get_xticklabels()][-2:] == ["class 19", "22 others"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"class {label}" for label in range(20)]
    assert axes.get_title() == "840 of 906 validation rows: the 20 largest of 42 classes"
    assert {text.get_text() for text in axes.texts if text.get_position()[1] == 0} == {"12", "30"}
    made.canvas.draw()


def several(count: int, **options) -> fs.Splits:
    """A table with `count` targets of different sizes and units, of two inputs or (`inputs=1`) one."""
    draw = np.random.default_rng(2)
    inputs = {name: draw.normal(size=150) for name in ("size", "age")[: options.pop("inputs", 2)]}
    targets = {f"t{target}": 100.0**target * (inputs["size"] + target) for target in range(count)}
    return fs.Data.table(inputs | targets, target=list(targets), units={"t0": "EUR"} | ({"t1": "kg"} if count > 1 else {}), **options).split()


@pytest.mark.parametrize(
    ("count", "categories", "told"),
    [(1, "onehot", ""), (3, "codes", ""), (4, "onehot", "1 more target is not drawn"), (5, "codes", "2 more targets are not drawn")],
)
def test_each_target_has_axes_with_its_name_and_unit_and_those_left_out_are_counted(count, categories, told):
    names = ["t0 (EUR)", "t1 (kg)", "t2"][:count]
    run = fs.fit("mlp", several(count, categories=categories), epochs=1, folder=None, **QUIET)
    predictions, residuals, splits = run.plot("predictions"), run.plot("residuals"), run.splits.plot()
    assert [axes.get_xlabel() for axes in predictions.axes] == [f"actual {name}" for name in names]
    assert [axes.get_ylabel() for axes in residuals.axes[::2]] == [axes.get_xlabel() for axes in residuals.axes[1::2]]
    assert [axes.get_xlabel() for axes in residuals.axes[::2]] == [f"predicted {name}" for name in names]
    assert [axes.get_xlabel() for axes in splits.axes[1:]] == names
    over = fs.fit("mlp", several(count, inputs=1, categories=categories), epochs=1, folder=None, **QUIET).plot("predictions")
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in over.axes] == [("size", name) for name in names]
    for made in (predictions, residuals, splits, over):
        assert made.get_suptitle() == told


def test_each_of_several_targets_is_drawn_with_its_own_numbers():
    run = fs.fit("mlp", several(3), epochs=1, folder=None, **QUIET)
    over_run = fs.fit("mlp", several(3, inputs=1), epochs=1, folder=None, **QUIET)
    splits, residuals, over = run.splits.plot(), run.plot("residuals"), over_run.plot("predictions")
    for target, size in enumerate((1, 100, 10_000)):
        low, high = splits.axes[1 + target].dataLim.intervalx
        assert size < high - low < 10 * size
        assert np.ptp(np.asarray(residuals.axes[2 * target].collections[0].get_offsets())[:, 1]) < 10 * size
        values = over_run.splits.train.data.typed.values(f"t{target}")[over_run.splits.train.indices.numpy()]
        assert np.allclose(np.asarray(over.axes[target].collections[0].get_offsets())[:, 1], values)
        grid = np.linspace(-1, 1, 5)
        wanted = np.asarray(over_run.predict({"size": grid})[f"t{target}"])
        assert np.allclose(np.interp(grid, *over.axes[target].lines[0].get_data()), wanted, atol=0.02 * size)


def test_targets_side_by_side_in_an_array_are_not_pooled():
    x = torch.randn(40, 2)
    made = fs.Data.arrays(x, torch.stack([x[:, 0], 1_000 + x[:, 1], x[:, 0], x[:, 0], x[:, 0]], 1)).split().plot()
    assert [axes.get_xlabel() for axes in made.axes[1:]] == ["target 0", "target 1", "target 2"]
    assert made.axes[1].dataLim.x1 < 10 and made.axes[2].dataLim.x0 > 900
    assert made.get_suptitle() == "2 more targets are not drawn"
    two = fs.Data.arrays(x, (x[:, 0], x)).split().plot()
    assert [axes.get_xlabel() for axes in two.axes[1:]] == ["target 0", "target 1", "target 2"]


def test_of_labels_the_share_of_rows_that_have_each_is_drawn():
    x = torch.arange(80)
    labels = torch.stack([x % 2 == 0, x % 4 == 0, x >= 0], 1).float()
    splits = fs.Data.arrays(x[:, None].float(), labels).split()
    right = splits.plot().axes[1]
    assert splits.task == "multilabel" and right.get_xlabel() == "label"
    heights = np.array([bar.get_height() for bar in right.patches]).reshape(2, 3)
    assert np.allclose(heights, [labels[splits.train.indices].mean(0), labels[splits.val.indices].mean(0)])
    many = torch.ones(60, 40)
    many[5:, 3:13] = 0  # ten that are rarer than the others
    made = fs.Data.arrays(torch.randn(60, 2), many).split(train=0.8, val=0.2, shuffle=False).plot()
    assert [label.get_text() for label in made.axes[1].get_xticklabels()] == [str(label) for label in range(40) if not 3 <= label < 13]
    assert made.get_suptitle() == "10 more labels are not drawn"


@pytest.mark.parametrize("labels", [[-1, 1], [0, 1, -100], [True, False]])
def test_splits_are_drawn_of_labels_as_torch_takes_them(labels):
    targets = torch.tensor(labels).repeat(20)
    right = fs.Data.arrays(torch.randn(len(targets), 2), targets).split().plot().axes[1]
    heights = np.array([bar.get_height() for bar in right.patches]).reshape(2, 2)
    assert (heights > 0).all() and np.allclose(heights.sum(1), 1)


# -- names ----------------------------------------------------------------------------------------------------------------------------------------------------


def as_read(text: str) -> str:
    """What stands in the picture: matplotlib draws the dollar of an escaped one, and nothing for a space of no width."""
    return text.replace("\\$", "$").replace("\u200b", "")


@pytest.mark.parametrize("task", ["classes", "numbers"])
def test_names_are_drawn_letter_for_letter(task):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 200))
    classes = np.array(["$0-$50K", "_low", r"$\frac$"])[(a > 0).astype(int) + (b > 0.5)]
    table = {r"$\first$": a, "_second": b, "$y$": 3 * a + b if task == "numbers" else classes}
    splits = fs.Data.table(table, target="$y$", units={"$y$": "$/m$", "_second": "$"}).split()
    run = fs.fit("linear", splits, epochs=2, folder=None, **QUIET)
    kinds = (
        ("loss", "predictions", "residuals", "importance", "boundary")
        if task == "numbers"
        else ("confusion", "roc", "precision_recall", "calibration", "boundary")
    )
    pictures = {"splits": run.splits.plot(), **{kind: run.plot(kind) for kind in kinds}}
    words = {kind: drawn(made) for kind, made in pictures.items()}  # "$\frac$" as a formula is a ValueError here
    for made in pictures.values():
        for text in made.findobj(Text):
            assert not is_math_text(text.get_text())
    if task == "numbers":
        assert as_read(pictures["residuals"].axes[0].get_xlabel()) == "predicted $y$ ($/m$)"
        assert as_read(pictures["boundary"].axes[0].get_ylabel()) == "_second ($)"
        assert "absolute error in $/m$" in as_read(words["importance"])
    else:
        for kind in ("roc", "precision_recall", "boundary"):
            told = [as_read(text.get_text()) for text in pictures[kind].axes[0].get_legend().get_texts()]
            for name in ("$0-$50K", "_low", r"$\frac$"):
                assert any(one.startswith(name) for one in told), (kind, name, told)
        assert [as_read(label.get_text()) for label in pictures["confusion"].axes[0].get_yticklabels()] == sorted(["$0-$50K", "_low", r"$\frac$"])


def test_a_name_may_have_as_many_letters_as_are_seen():
    name = "$" * 20
    assert as_read(literal(name, 20)) == name and as_read(literal("_" + name, 21)) == "_" + name
    assert len(as_read(literal("_" + name, 12))) == 12


def test_pictures_of_a_sweep_draw_the_name_of_a_score_letter_for_letter():
    trials = [SimpleNamespace(fold=fold, value=fold / 2) for fold in (1, 2)]
    made = plot_sweep(SimpleNamespace(trials=trials, metric=r"$\frac$", higher_is_better=False), "folds")
    assert as_read(made.axes[0].get_ylabel()).startswith(r"$\frac$ of the held-out rows") and drawn(made)


# -- boundaries of many classes -------------------------------------------------------------------------------------------------------------------------------


def of_many_classes(count: int, **options) -> fs.Run:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 900))
    label = np.argsort(np.argsort(a)) * count // 900
    splits = fs.Data.table({"a": a, "b": b, "y": np.array([f"class {one:02d}" for one in label])}, target="y", **options).split(stratify=True)
    return fs.fit("mlp", splits, epochs=1, folder=None, **QUIET)


def test_no_two_of_thirty_classes_look_alike_and_the_legend_names_twelve():
    made = of_many_classes(30).plot("boundary")
    made.canvas.draw()
    axes = made.axes[0]
    looks = [(tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes()) for dots in axes.collections]
    assert len(looks) == 30 == len(set(looks))
    (legend,) = made.legends
    told = [text.get_text() for text in legend.get_texts()]
    assert len(told) == 13 and told[-1] == "and 18 more" and all(name.startswith("class ") for name in told[:12])
    width, height = axes.get_window_extent().size / made.dpi
    assert width > 4 and height > 2.5  # inches: the legend leaves the axes their room


def test_few_classes_are_all_named_inside_the_axes():
    made = of_many_classes(4).plot("boundary")
    assert [text.get_text() for text in made.axes[0].get_legend().get_texts()] == [f"class {one:02d}" for one in range(4)] and not made.legends


def test_a_boundary_is_the_same_where_a_table_without_categories_asks_for_codes():
    codes, onehot = (of_many_classes(3, categories=categories).plot("boundary").axes[0] for categories in ("codes", "onehot"))
    assert np.array_equal(codes.images[0].get_array(), onehot.images[0].get_array())
    run = fs.fit("mlp", several(2, categories="codes"), epochs=1, folder=None, **QUIET)
    made = run.plot("boundary")
    assert made.axes[0].get_xlabel() == "size" and made.get_suptitle() == "1 more target is not drawn"
