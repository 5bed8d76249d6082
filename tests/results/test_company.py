"""The company of a score: the linear model is scikit-learn's, trees are stopped on validation, who does better is named, and test rows stay unseen."""

from __future__ import annotations

import numpy
import pytest
import torch

import fivestep as fs
from fivestep.model.resampling import make_units, standard_errors
from fivestep.results import company as companions

QUICK = dict(folder=None, quiet=True, checks=False, device="cpu", calibrate=False)


def table(target: str, rows: int = 300) -> fs.Data:
    draw = numpy.random.default_rng(0)
    a, b, group = draw.normal(size=rows), draw.normal(size=rows), draw.integers(3, size=rows)
    value = 3 * a - 2 * b + group + 0.1 * draw.normal(size=rows)
    y = value if target == "number" else numpy.where(value + draw.normal(size=rows) > 1, "high", numpy.where(value < -2, "low", "middle"))
    return fs.Data.table({"a": a, "b": b, "group": [f"g{number}" for number in group], "y": y}, target="y")


@pytest.mark.parametrize("target", ["number", "class"])
def test_the_linear_model_is_scikit_learns_on_the_same_rows(target: str) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    splits = table(target).split(seed=0)
    train, val = splits.encoded(splits.train), splits.encoded(splits.val)
    classes = len(splits.classes) if target == "class" else 0
    fitted = companions.fit_linear(train.inputs.double(), train.targets[0], classes, None)
    got = companions.predict_linear(val.inputs.double(), fitted, classes)
    y = train.targets[0].numpy()
    peer = linear.LogisticRegression(C=1.0, max_iter=2_000, tol=1e-8) if classes else linear.Ridge(alpha=1.0)
    peer.fit(train.inputs.double().numpy(), y if classes else y[:, 0])
    expected = peer.predict_proba(val.inputs.double().numpy()) if classes else peer.predict(val.inputs.double().numpy())[:, None]
    numpy.testing.assert_allclose(got.numpy(), expected, atol=2e-4)


def test_sample_weights_count_like_repeated_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=draw).double(), torch.randn(40, 1, generator=draw).double()
    labels, weights = torch.arange(40) % 3, torch.arange(40) % 3 + 1.0
    times = weights.long()
    for targets, classes in ((y, 0), (labels, 3)):
        weighted = companions.fit_linear(x, targets, classes, weights.double())
        repeated = companions.fit_linear(x.repeat_interleave(times, 0), targets.repeat_interleave(times, 0), classes, None)
        for one, other in zip(weighted, repeated):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_who_does_better_is_named_plainly_and_who_does_not_is_not() -> None:
    splits = table("number").split(seed=0)
    poor = fs.fit("mlp", splits, epochs=1, lr=1e-5, **QUICK).company()
    assert poor.better[0].name == "linear model" and "BETTER than this model" in repr(poor) and "ahead on these rows: linear model" in repr(poor)
    good = fs.fit("linear", splits, epochs=300, lr=0.05, batch_size=64, **QUICK).company()
    assert "linear model" not in [one.name for one in good.better] and "ahead on these rows: linear model" not in repr(good)
    assert good.measure == "RMSE" and good.ours < good.no_skill


def test_groups_that_were_drawn_make_the_noise_of_a_difference() -> None:
    """Within a group all rows differ alike: 10 groups of 50 rows are 10 things, not 500."""
    differences = torch.randn(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64).repeat_interleave(50)
    by_row = companions.paired(differences, None, make_units(500))[1]
    by_group = companions.paired(differences, None, make_units(500, groups=torch.arange(10).repeat_interleave(50)))[1]
    assert by_row == pytest.approx(float(differences.std(correction=0)) / 500**0.5 * standard_errors(500) / 1.96)
    assert by_group == pytest.approx(by_row * 50**0.5 * standard_errors(10) / standard_errors(500))


def test_a_class_that_training_lacks_makes_no_model_look_skilled() -> None:
    """Labels that no input tells, 60 classes in 300 rows: what a constant loses on a class that it never saw is bounded, and told alike in both places."""
    draw = numpy.random.default_rng(0)
    better = 0
    for seed in range(6):
        data = fs.Data.table({"x": draw.normal(size=300), "y": [f"class {number}" for number in draw.integers(0, 60, 300)]}, target="y")
        run = fs.fit("linear", data.split(seed=seed), epochs=3, **QUICK)
        score = run.evaluate("val")["log_loss"]
        better += score.verdict == "better"
        assert run.company().no_skill == pytest.approx(score.baseline, rel=1e-6)
    assert better <= 1


def test_our_error_is_that_of_evaluate_and_no_skill_is_the_best_constant() -> None:
    splits = table("class").split(seed=0)
    run = fs.fit("auto", splits, epochs=3, **QUICK)
    found, scores = run.company(), run.evaluate("val")
    assert found.ours == pytest.approx(scores["log_loss"].value, rel=1e-6) and found.no_skill == pytest.approx(scores["log_loss"].baseline, rel=1e-6)
    assert found.to_json()["companions"][0]["verdict"] in ("better", "worse", "alike")


def test_trees_are_stopped_where_validation_is_best() -> None:
    pytest.importorskip("sklearn")
    run = fs.fit("linear", table("number").split(seed=0), epochs=1, **QUICK)
    trees = run.company().companions[1]
    assert trees.name == "gradient-boosted trees" and trees.error < run.company().no_skill


def test_test_rows_stay_unseen_until_they_are_scored() -> None:
    run = fs.fit("linear", table("number").split(seed=0), epochs=1, **QUICK)
    with pytest.raises(fs.UsageError, match=r'run.evaluate\("test"\)'):
        run.company("test")
    with pytest.raises(fs.UsageError, match="remembers most"):
        run.company("train")
    run.evaluate("test")
    assert run.company("test").split == "test"


def test_what_is_no_table_has_no_company() -> None:
    run = fs.fit("linear", fs.Data.arrays(torch.randn(50, 2), torch.randn(50, 1)).split(seed=0), epochs=1, **QUICK)
    with pytest.raises(fs.UsageError, match="table"):
        run.company()


def test_codes_and_missing_values_are_no_obstacle() -> None:
    draw = numpy.random.default_rng(0)
    a = draw.normal(size=200)
    gaps = [None if number % 7 == 0 else float(value) for number, value in enumerate(a)]
    data = fs.Data.table({"a": gaps, "city": [f"c{number % 5}" for number in range(200)], "y": a * 2}, target="y", categories="codes")
    run = fs.fit("ensemble", data.split(seed=0), epochs=1, **QUICK)
    assert all(numpy.isfinite(one.error) for one in run.company().companions)


def test_a_notebook_shows_the_company_the_lowest_error_first() -> None:
    run = fs.fit("linear", table("number").split(seed=0), epochs=1, **QUICK)
    found = run.company()
    errors = [error for _, error, _ in found.rows()]
    shown = found._repr_html_()
    assert errors == sorted(errors) and {"this model", "no skill: a constant", "linear model"} <= {name for name, _, _ in found.rows()}
    assert shown.index("linear model") < shown.index("this model") and "BETTER than this model" in shown
    assert companions.Company.from_json(found.to_json()) == found
