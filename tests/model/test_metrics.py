"""Scores are torchmetrics' and scikit-learn's numbers, their intervals hold the truth, and "better than no skill" is said only where it is shown."""

from __future__ import annotations

import copy
import json
import math
import pickle
import time

import numpy
import pytest
import torch
import torchmetrics.functional as theirs
from sklearn import metrics as sklearn_metrics

from fivestep.errors import DataError, UsageError
from fivestep.model import metrics as module
from fivestep.model.evidence import Evidence
from fivestep.model.formulas import METRICS
from fivestep.model.metrics import compare_paired, direction, epoch_metrics, score
from fivestep.model.resampling import interval, make_units
from fivestep.model.scores import Scores


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_regression(n: int = 61, t: int | None = None, seed: int = 0):
    g = draw(seed)
    shape = (n,) if t is None else (n, t)
    targets = torch.rand(shape, generator=g) * 3 + 0.5
    return (targets + 0.4 * torch.randn(shape, generator=g)).abs() + 0.01, targets


def some_classes(n: int = 157, c: int = 3, seed: int = 0, skill: float = 1.0, decimals: int | None = None):
    g = draw(seed)
    targets = torch.multinomial(torch.arange(1.0, c + 1), n, replacement=True, generator=g)
    logits = torch.randn(n, c, generator=g)
    logits[torch.arange(n), targets] += skill
    probabilities = logits.double().softmax(1)
    if decimals is not None and c == 2:  # ties
        positive = probabilities[:, 1].mul(10**decimals).round() / 10**decimals
        probabilities = torch.stack([1 - positive, positive], dim=1)
    return probabilities, targets


def some_labels(n: int = 83, labels: int = 4, seed: int = 0):
    g = draw(seed)
    probabilities = torch.rand(n, labels, generator=g, dtype=torch.float64)
    return probabilities, (torch.rand(n, labels, generator=g) < 0.2 + 0.6 * probabilities).long()


# --- the values ----------------------------------------------------------------------------------------------------------------------------------------

REGRESSION = {
    "mse": theirs.mean_squared_error,
    "rmse": lambda p, t: theirs.mean_squared_error(p, t, squared=False),
    "mae": theirs.mean_absolute_error,
    "r2": theirs.r2_score,
    "explained_variance": theirs.explained_variance,
    "mape": theirs.mean_absolute_percentage_error,
    "smape": theirs.symmetric_mean_absolute_percentage_error,
    "wmape": theirs.weighted_mean_absolute_percentage_error,
    "msle": theirs.mean_squared_log_error,
    "pearson": lambda p, t: theirs.pearson_corrcoef(p, t).mean(),
    "spearman": lambda p, t: theirs.spearman_corrcoef(p, t).mean(),
}


@pytest.mark.parametrize("columns", [None, 2])
@pytest.mark.parametrize("name", REGRESSION)
def test_regression_values_equal_torchmetrics(name, columns):
    predictions, targets = some_regression(t=columns)
    ours = score("regression", predictions, targets, metrics=[name], samples=10)[name].value
    assert ours == pytest.approx(
        float(REGRESSION[name](predictions.double(), targets.double())), abs=1e-7 if name == "spearman" else 1e-9
    )  # their ranks are float32


def classification(function: str, **fixed):
    def call(p, t, task):
        sizes = {"multiclass": {"num_classes": p.shape[1]}, "multilabel": {"num_labels": p.shape[1]}}.get(task, {})
        return getattr(theirs, function)(p[:, 1] if task == "binary" else p, t, task=task, **sizes, **fixed)

    return call


CLASSIFICATION = {
    "accuracy": classification("accuracy"),
    "f1": classification("f1_score", average="macro"),
    "precision": classification("precision", average="macro"),
    "recall": classification("recall", average="macro"),
    "specificity": classification("specificity", average="macro"),
    "jaccard": classification("jaccard_index"),
    "auroc": classification("auroc"),
    "average_precision": classification("average_precision"),
    "mcc": classification("matthews_corrcoef"),
    "kappa": classification("cohen_kappa"),
    "ece": classification("calibration_error"),
    "balanced_accuracy": classification("recall", average="macro"),
}


@pytest.mark.parametrize(("name", "task"), [(name, task) for name in CLASSIFICATION for task in METRICS[name].tasks])
def test_classification_values_equal_torchmetrics(name, task):
    predictions, targets = some_labels() if task == "multilabel" else some_classes(c=2 if task == "binary" else 5)
    ours = score(task, predictions, targets, metrics=[name], samples=10)[name].value
    if name == "balanced_accuracy" and task == "binary":
        expected = sklearn_metrics.balanced_accuracy_score(targets, predictions[:, 1] > 0.5)
    else:
        expected = float(CLASSIFICATION[name](predictions, targets, task))
    assert ours == pytest.approx(expected, abs=1e-6 if name in ("ece", "auroc", "average_precision", "jaccard", "specificity") else 1e-7)


def test_every_metric_of_ours_is_compared_with_someone_elses():
    compared = set(REGRESSION) | set(CLASSIFICATION) | {"log_loss", "brier"}
    assert set(METRICS) == compared


@pytest.mark.parametrize("weighted", [False, True])
def test_values_equal_scikit_learn_with_sample_weight(weighted):
    g = draw(3)
    predictions, targets = some_regression(n=71)
    w = torch.rand(71, generator=g) + 0.1 if weighted else None
    got = score("regression", predictions, targets, weights=w, metrics=["mse", "rmse", "mae", "r2", "explained_variance", "mape", "msle"], samples=10)
    p, t, kw = predictions.double().numpy(), targets.double().numpy(), {"sample_weight": None if w is None else w.double().numpy()}
    assert got["mse"].value == pytest.approx(sklearn_metrics.mean_squared_error(t, p, **kw))
    assert got["rmse"].value == pytest.approx(sklearn_metrics.root_mean_squared_error(t, p, **kw))
    assert got["mae"].value == pytest.approx(sklearn_metrics.mean_absolute_error(t, p, **kw))
    assert got["r2"].value == pytest.approx(sklearn_metrics.r2_score(t, p, **kw))
    assert got["explained_variance"].value == pytest.approx(sklearn_metrics.explained_variance_score(t, p, **kw))
    assert got["mape"].value == pytest.approx(sklearn_metrics.mean_absolute_percentage_error(t, p, **kw))
    assert got["msle"].value == pytest.approx(sklearn_metrics.mean_squared_log_error(t, p, **kw))

    for c, task, average in ((2, "binary", "binary"), (4, "multiclass", "macro")):
        p, t = some_classes(n=131, c=c)
        w = torch.rand(131, generator=g, dtype=torch.float64) + 0.1 if weighted else None
        kw = {"sample_weight": None if w is None else w.numpy()}
        names = ["log_loss", "brier", "accuracy", "balanced_accuracy", "f1", "precision", "recall", "mcc", "kappa", "jaccard", "auroc", "average_precision"]
        got = score(task, p, t, weights=w, metrics=names, samples=10)
        chosen = p.argmax(1).numpy()
        assert got["log_loss"].value == pytest.approx(sklearn_metrics.log_loss(t, p, **kw))
        assert got["brier"].value == pytest.approx(sklearn_metrics.brier_score_loss(t, p[:, 1] if c == 2 else p, **kw))
        assert got["accuracy"].value == pytest.approx(sklearn_metrics.accuracy_score(t, chosen, **kw))
        assert got["balanced_accuracy"].value == pytest.approx(sklearn_metrics.balanced_accuracy_score(t, chosen, **kw))
        for name, function in (("f1", "f1_score"), ("precision", "precision_score"), ("recall", "recall_score"), ("jaccard", "jaccard_score")):
            assert got[name].value == pytest.approx(getattr(sklearn_metrics, function)(t, chosen, average=average, **kw)), name
        assert got["mcc"].value == pytest.approx(sklearn_metrics.matthews_corrcoef(t, chosen, **kw))
        assert got["kappa"].value == pytest.approx(sklearn_metrics.cohen_kappa_score(t, chosen, **kw))
        if c == 2:
            assert got["auroc"].value == pytest.approx(sklearn_metrics.roc_auc_score(t, p[:, 1], **kw))
            assert got["average_precision"].value == pytest.approx(sklearn_metrics.average_precision_score(t, p[:, 1], **kw))
        else:
            one_hot = torch.nn.functional.one_hot(t, c)
            assert got["average_precision"].value == pytest.approx(sklearn_metrics.average_precision_score(one_hot, p, average="macro", **kw))
            assert got["auroc"].value == pytest.approx(sklearn_metrics.roc_auc_score(one_hot, p, average="macro", **kw))


def test_several_labels_equal_scikit_learn():
    p, t = some_labels()
    got = score("multilabel", p, t, samples=10, metrics=["log_loss", "brier", "accuracy", "f1", "auroc"])
    each = range(t.shape[1])
    assert got["log_loss"].value == pytest.approx(numpy.mean([sklearn_metrics.log_loss(t[:, i], p[:, i]) for i in each]))
    assert got["brier"].value == pytest.approx(numpy.mean([sklearn_metrics.brier_score_loss(t[:, i], p[:, i]) for i in each]))
    assert got["accuracy"].value == pytest.approx(((p > 0.5) == (t == 1)).double().mean().item())
    assert got["f1"].value == pytest.approx(sklearn_metrics.f1_score(t, p > 0.5, average="macro"))
    assert got["auroc"].value == pytest.approx(sklearn_metrics.roc_auc_score(t, p, average="macro"))


def test_ties_count_half_in_auroc_and_form_one_threshold_in_average_precision():
    p, t = some_classes(n=211, c=2, decimals=1)
    got = score("binary", p, t, metrics=["auroc", "average_precision"], samples=10)
    assert got["auroc"].value == pytest.approx(sklearn_metrics.roc_auc_score(t, p[:, 1]))
    assert got["average_precision"].value == pytest.approx(sklearn_metrics.average_precision_score(t, p[:, 1]))


def test_a_sure_and_wrong_probability_is_clipped_as_scikit_learn_does():
    p, t = torch.tensor([[1.0, 0.0], [0.2, 0.8]]), torch.tensor([1, 1])
    assert score("binary", p, t, samples=10)["log_loss"].value == pytest.approx(sklearn_metrics.log_loss(t, p.numpy(), labels=[0, 1]))


def test_targets_far_from_zero_do_not_cancel():
    g = draw(5)
    targets = 1e8 + torch.randn(50, generator=g, dtype=torch.float64)
    predictions = targets + 0.1 * torch.randn(50, generator=g, dtype=torch.float64)
    got = score("regression", predictions, targets, metrics=["r2", "pearson"], samples=50)
    small = score("regression", predictions - 1e8, targets - 1e8, metrics=["r2", "pearson"], samples=50)
    for name in got:
        assert got[name].value == pytest.approx(small[name].value, abs=1e-6) and got[name].low == pytest.approx(small[name].low, abs=1e-6)


def test_a_class_without_rows_is_left_out_of_macro_means():
    p = torch.tensor([[0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.8, 0.1, 0.1]])
    got = score("multiclass", p, torch.tensor([1, 1, 0]), metrics=["auroc", "balanced_accuracy", "f1"], samples=10)
    assert got["auroc"].value == 1.0  # torchmetrics puts 0 in for the class that does not occur: 0.667
    assert got["balanced_accuracy"].value == 0.75
    p, t = some_classes(n=60, c=3)
    four = torch.cat([p, torch.zeros(60, 1)], dim=1)  # a fourth class that neither occurs nor is chosen
    assert score("multiclass", four, t, samples=10)["f1"].value == pytest.approx(score("multiclass", p, t, samples=10)["f1"].value)


def test_rows_labelled_minus_100_count_in_no_score():
    p, t = some_classes(n=90)
    ignored = t.clone()
    ignored[::4] = -100
    names = ["log_loss", "accuracy", "f1", "auroc", "ece", "average_precision", "hamming_distance"]
    got, kept = score("multiclass", p, ignored, metrics=names, samples=20), score("multiclass", p[ignored >= 0], t[ignored >= 0], metrics=names, samples=20)
    for name in names:
        assert got[name].value == pytest.approx(kept[name].value), name
    assert got.num_rows == kept.num_rows == 67 and "23 of 90" in got.notes[0]


# --- names and functions -------------------------------------------------------------------------------------------------------------------------------------


def test_names_may_be_torchmetrics_own_in_any_spelling():
    predictions, targets = some_regression()
    got = score("regression", predictions, targets, metrics=["MeanAbsoluteError", "mean_absolute_error", "mae"], samples=10)
    assert list(got) == ["MeanAbsoluteError", "mean_absolute_error", "mae"] and len({one.value for one in got.values()}) == 1


def test_other_functionals_of_torchmetrics_are_found_with_their_task():
    p, t = some_classes(c=5)
    got = score("multiclass", p, t, metrics=["hamming_distance", "hinge_loss"], samples=60)
    assert got["hamming_distance"].value == pytest.approx(theirs.hamming_distance(p, t, task="multiclass", num_classes=5).item())
    assert got["hinge_loss"].samples == 60 and got["hinge_loss"].low < got["hinge_loss"].value < got["hinge_loss"].high
    predictions, targets = some_regression()
    assert score("regression", predictions, targets, metrics=["log_cosh_error"], samples=10)["log_cosh_error"].value == pytest.approx(
        theirs.log_cosh_error(predictions.double(), targets.double()).item()
    )
    p, t = some_classes(c=2)
    assert score("binary", p, t, metrics=["hamming_distance"], samples=10)["hamming_distance"].value == pytest.approx(
        theirs.hamming_distance(p[:, 1], t, task="binary").item()
    )


@pytest.mark.parametrize(
    ("task", "metrics", "said"),
    [
        ("regression", ["mean_absolut_error"], "mean_absolute_error"),
        ("multiclass", ["acuracy"], "'accuracy'"),
        ("regression", ["auroc"], "binary and multiclass"),
        ("multiclass", ["confusion_matrix"], "not one number"),
        ("multiclass", ["precision_at_fixed_recall"], "give a function"),
        (None, ["mae"], "needs a task"),
        ("ranking", None, "tasks are regression"),
        ("regression", ["mae", "mae"], "Name them apart"),
        ("regression", [3], "a name or a function"),
        ("regression", {"mine": lambda o, t: o}, "not one number"),
        ("regression", {"mine": lambda o, t: o.nothing}, "AttributeError"),
        ("regression", {"mine": lambda o, t: "good"}, "gives a str"),
    ],
)
def test_what_cannot_be_scored_is_said_with_the_way_out(task, metrics, said):
    predictions, targets = some_classes() if task == "multiclass" else some_regression()
    with pytest.raises(UsageError, match=said):
        score(task, predictions, targets, metrics=metrics, samples=60)


def test_functions_get_the_raw_outputs_and_targets_and_an_interval():
    predictions, targets = some_regression(n=40)
    outputs = {"mean": predictions * 10, "extra": (torch.arange(40), torch.zeros(40, 3))}

    def gap(outputs, targets):
        assert outputs["mean"].shape == targets.shape == outputs["extra"][0].shape == outputs["extra"][1].shape[:1]
        return (outputs["mean"] / 10 - targets).abs().mean()

    got = score("regression", predictions, targets, metrics=["mae", gap], outputs=outputs)
    assert got["gap"].value == pytest.approx(got["mae"].value, rel=1e-6) and got["gap"].samples == 200
    assert got["gap"].low == pytest.approx(got["mae"].low, rel=0.05) and got["gap"].high == pytest.approx(got["mae"].high, rel=0.05)


def test_without_a_task_only_loss_and_functions_are_scored():
    losses = torch.rand(30, generator=draw())
    got = score(None, torch.rand(30, 2), (torch.rand(30), torch.rand(30, 4)), metrics={"first": lambda o, t: t[0].mean()}, loss=losses)
    assert list(got) == ["loss", "first"] and got["loss"].baseline is None and got["loss"].low < losses.mean() < got["loss"].high
    assert list(score(None, None, None, loss=losses)) == ["loss"]
    one_number = score(None, torch.rand(30, 2), None, loss=0.25)["loss"]
    assert (one_number.value, one_number.low) == (0.25, None) and "one number" in (one_number.note or "")


def test_a_loss_may_be_a_mean_over_something_else_than_rows():
    totals, counted = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([1.0, 2.0, 0.0])
    assert score(None, None, None, loss=(totals, counted))["loss"].value == pytest.approx(7 / 3)


def test_a_slow_function_and_one_with_too_much_to_gather_have_no_interval_and_say_why(monkeypatch):
    predictions, targets = some_regression()

    def slow(outputs, targets):
        time.sleep(0.06)
        return 1.0

    got = score("regression", predictions, targets, metrics=[slow])["slow"]
    assert got.low is None and "one call takes" in (got.note or "")
    monkeypatch.setattr(module, "CALLED_CELLS", 100)
    got = score("regression", predictions, targets, metrics=["spearman"])["spearman"]
    assert got.low is None and "too much" in (got.note or "")


def test_a_torchmetrics_object_is_a_function_and_does_not_pile_up_resamples():
    import torchmetrics

    predictions, targets = some_regression(n=33)
    metric = torchmetrics.MeanAbsoluteError()
    got = score("regression", predictions, targets, metrics={"theirs": metric, "mae": "mae"}, samples=60)
    assert got["theirs"].value == pytest.approx(got["mae"].value, rel=1e-6) and int(metric.total) == 0
    with pytest.raises(UsageError, match="is a class"):
        score("regression", predictions, targets, metrics=[torchmetrics.MeanAbsoluteError])


# --- what is refused, and what is told ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "predictions", "targets", "error", "said"),
    [
        ("regression", torch.zeros(5, 1), torch.zeros(5), UsageError, "broadcast"),
        ("regression", torch.zeros(5), torch.zeros(4), UsageError, "have 5, 4 of them"),
        ("regression", torch.zeros(2), torch.tensor([0.0, math.nan]), DataError, "target of row 1"),
        ("multiclass", torch.randn(5, 3, generator=draw()) * 5, torch.zeros(5).long(), DataError, "softmax"),
        ("multiclass", torch.full((5, 3), 0.5), torch.zeros(5).long(), DataError, "sum to 1"),
        ("multilabel", torch.full((5, 3), 1.5), torch.zeros(5, 3), DataError, "sigmoid"),
        ("multiclass", torch.full((2, 4), 0.25), torch.tensor([1, 4]), DataError, "label of row 1 is 4"),
        ("multiclass", torch.full((2, 4), 0.25), torch.tensor([1, 1.5]), DataError, "whole numbers"),
        ("multilabel", torch.full((2, 3), 0.25), torch.tensor([[0, 1, 1], [0, 2, 1]]), DataError, "Label 1 of row 1 is 2"),
        ("binary", torch.full((2, 3), 1 / 3), torch.tensor([0, 1]), UsageError, r"\(n, 2\)"),
        ("multiclass", None, torch.tensor([0, 1]), UsageError, "predictions are missing"),
        ("regression", torch.zeros(0), torch.zeros(0), DataError, "no rows"),
    ],
)
def test_predictions_that_would_be_scored_wrongly_are_refused(task, predictions, targets, error, said):
    with pytest.raises(error, match=said):
        score(task, predictions, targets, samples=10)


def test_weights_groups_and_times_must_be_one_per_row():
    predictions, targets = some_regression(n=20)
    for name, wrong in (("weights", torch.ones(19)), ("groups", torch.zeros(19)), ("blocks_of_time", torch.zeros(20, 1))):
        with pytest.raises(UsageError, match=name):
            score("regression", predictions, targets, **{name: wrong})
    with pytest.raises(DataError, match="weight of row 2"):
        score("regression", predictions, targets, weights=torch.ones(20).index_fill(0, torch.tensor([2]), -1.0))
    with pytest.raises(UsageError, match="Both groups and times"):
        score("regression", predictions, targets, groups=torch.zeros(20), blocks_of_time=True)
    with pytest.raises(UsageError, match="belongs to no unit"):
        score("regression", predictions, targets, blocks_of_time=torch.full((20,), math.nan))


def test_predictions_that_are_not_finite_give_nan_and_a_note_and_functions_are_still_scored():
    predictions, targets = some_regression(n=20)
    predictions[7] = math.inf
    got = score("regression", predictions, targets, metrics=["mae", lambda o, t: t.mean()], train_targets=targets)
    assert math.isnan(got["mae"].value) and got["mae"].low is None and got["mae"].verdict is None and got["metric_2"].low is not None
    assert "row 7" in got.notes[0] and "row 7" in repr(got)


def test_binary_probabilities_may_be_one_column():
    p, t = some_classes(c=2)
    both, one = score("binary", p, t, samples=20), score("binary", p[:, 1:], t[:, None].float(), samples=20)
    assert [one[name].value for name in one] == pytest.approx([both[name].value for name in both])


# --- intervals ----------------------------------------------------------------------------------------------------------------------------------------------


def coverage(truth: float, draw_scores, repeats: int) -> float:
    inside = [one.low <= truth <= one.high for one in (draw_scores(seed) for seed in range(repeats))]
    return sum(inside) / repeats


def test_intervals_cover_the_truth_about_95_times_in_100():
    n, repeats = 60, 300
    truth = {"mae": math.sqrt(2 / math.pi), "rmse": 1.0, "r2": 0.8}
    inside = dict.fromkeys(truth, 0)
    for seed in range(repeats):
        g = draw(seed)
        errors, signal = torch.randn(n, generator=g), 2 * torch.randn(n, generator=g)
        got = score("regression", signal, signal + errors, samples=400, seed=seed, metrics=["mae", "rmse", "r2"])
        for name, value in truth.items():
            inside[name] += got[name].low <= value <= got[name].high
    assert all(0.90 <= count / repeats <= 0.98 for count in inside.values()), inside


def test_intervals_of_accuracy_and_auroc_cover_the_truth():
    n, repeats = 150, 300
    truth = {"accuracy": 0.5 * (1 + math.erf(0.75 / math.sqrt(2))), "auroc": 0.5 * (1 + math.erf(1.5 / 2))}  # normal scores, 1.5 apart
    inside = dict.fromkeys(truth, 0)
    for seed in range(repeats):
        g = draw(seed)
        targets = (torch.rand(n, generator=g) < 0.5).long()
        logits = 1.5 * (torch.randn(n, generator=g) + 1.5 * targets - 0.75)  # the log odds of the two normal densities
        got = score("binary", logits.sigmoid(), targets, samples=300, seed=seed, metrics=["accuracy", "auroc"])
        for name, value in truth.items():
            inside[name] += got[name].low <= value <= got[name].high
    assert all(0.90 <= count / repeats <= 0.98 for count in inside.values()), inside


def test_rows_of_one_group_are_drawn_together_and_cover_what_drawing_rows_does_not():
    groups = torch.arange(15).repeat_interleave(8)
    truth = math.sqrt(2 / math.pi) * math.sqrt(2)

    def one(seed: int, **how):
        g = draw(seed)
        errors = torch.randn(15, generator=g)[groups] + torch.randn(120, generator=g)
        return score("regression", torch.zeros(120), errors, metrics=["mae"], samples=400, seed=seed, **how)["mae"]

    assert coverage(truth, lambda seed: one(seed, groups=groups), 200) >= 0.90
    assert coverage(truth, one, 200) < 0.85


def test_blocks_of_time_cover_what_drawing_rows_does_not():
    n, memory = 600, 0.7
    truth = math.sqrt(2 / math.pi) / math.sqrt(1 - memory**2)

    def one(seed: int, **how):
        noise = torch.randn(n + 50, generator=draw(seed)).tolist()
        errors = [0.0]
        for value in noise:
            errors.append(memory * errors[-1] + value)
        return score("regression", torch.zeros(n), torch.tensor(errors[-n:]), metrics=["mae"], samples=300, seed=seed, **how)["mae"]

    assert coverage(truth, lambda seed: one(seed, blocks_of_time=True), 200) >= 0.89
    assert coverage(truth, one, 200) < 0.87


def test_times_in_any_order_are_the_same_blocks_as_rows_in_order():
    predictions, targets = some_regression(n=90)
    order = torch.randperm(90, generator=draw(1))
    straight = score("regression", predictions, targets, blocks_of_time=True)
    mixed = score("regression", predictions[order], targets[order], blocks_of_time=order * 0.5 + 2000)
    assert straight["mae"].low == pytest.approx(mixed["mae"].low) and straight.num_independent == 9


def test_every_row_is_drawn_equally_often_in_circular_blocks():
    units = make_units(23, times=True)
    counts = torch.cat([units.counts_of_rows(drawn) for drawn in units.drawn(4000, seed=0)], dim=1)
    assert counts.shape == (23, 4000) and units.block_length == 5
    assert bool((counts.sum(0) == 25).all())  # five blocks of five
    assert float((counts.mean(1) - 25 / 23).abs().max()) < 0.1


@pytest.mark.parametrize("how", ["rows", "groups", "times"])
def test_sums_of_units_equal_sums_over_the_drawn_rows(how):
    values = torch.rand(37, 3, generator=draw(), dtype=torch.float64)
    given = {"rows": {}, "groups": {"groups": torch.randint(6, (37,), generator=draw(1))}, "times": {"times": torch.randint(11, (37,), generator=draw(1))}}
    units = make_units(37, **given[how])
    (drawn,) = units.drawn(13, seed=4)
    by_unit = drawn.double() @ units.sums_of_blocks(units.sum_by_unit(values))
    assert torch.allclose(by_unit, units.counts_of_rows(drawn).double().t() @ values)


def test_buckets_of_many_rows_give_the_interval_that_rows_give():
    g = draw(7)
    errors = torch.randn(30_000, generator=g).exp()
    widths = []
    for most in (30_000, 3_000):
        units = make_units(30_000, most=most)
        e = Evidence("regression", torch.zeros(30_000), errors, units=units)
        got = module.resample({"rmse": (e, METRICS["rmse"])}, units, 2000, seed=0)["rmse"]
        low, high = interval(got, 30_000)
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.08)


def test_placement_values_give_the_interval_that_ranking_again_gives(monkeypatch):
    p, t = some_classes(n=900, c=3)
    exact = score("multiclass", p, t, metrics=["auroc"])["auroc"]
    monkeypatch.setattr(module, "EXACT_RANKS", 0)
    placed = score("multiclass", p, t, metrics=["auroc"])["auroc"]
    assert placed.value == exact.value
    assert abs(placed.low - exact.low) < 0.06 * (exact.high - exact.low) and abs(placed.high - exact.high) < 0.06 * (exact.high - exact.low)


def test_a_small_number_of_groups_widens_the_interval_and_is_said():
    predictions, targets = some_regression(n=40)
    got = score("regression", predictions, targets, groups=torch.arange(40) % 4)
    assert any("Only 4 groups" in note for note in got.notes)
    alone = score("regression", predictions, targets, groups=torch.zeros(40))["mae"]
    assert alone.low is None and "only 1" in (alone.note or "")


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    p, t = some_classes()
    first, again, other = (score("multiclass", p, t, seed=seed, train_targets=t) for seed in (1, 1, 2))
    assert first == again and first["auroc"].low != other["auroc"].low and first["auroc"].value == other["auroc"].value


def test_scoring_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    score("multiclass", *some_classes(), metrics=["auroc", "hinge_loss"], samples=60)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("n", [50_000, 336_000])
def test_default_scores_of_many_rows_take_seconds_on_one_core(n):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        p, t = some_classes(n=n, c=7)
        predictions, targets = some_regression(n=n)
        began = time.process_time()
        score("multiclass", p, t, train_targets=t)
        score("regression", predictions, targets, train_targets=targets)
        assert time.process_time() - began < (2 if n == 50_000 else 6)
    finally:
        torch.set_num_threads(threads)


# --- no skill ------------------------------------------------------------------------------------------------------------------------------------------------


def test_baselines_are_the_best_constants_of_the_training_targets():
    train, targets = torch.tensor([0.0, 1.0, 2.0, 9.0, 3.0]), torch.tensor([1.0, 4.0, 2.0])
    got = score("regression", targets + 0.1, targets, train_targets=train, metrics=["mse", "rmse", "r2", "mae", "pearson", "spearman"], samples=10)
    assert got["mse"].baseline == pytest.approx((targets - 3).square().mean().item())
    assert got["rmse"].baseline == pytest.approx((targets - 3).square().mean().sqrt().item())
    assert got["r2"].baseline == pytest.approx(theirs.r2_score(torch.full((3,), 3.0), targets).item(), abs=1e-5)
    assert got["mae"].baseline == pytest.approx((targets - 2).abs().mean().item())
    assert got["pearson"].baseline is None and got["spearman"].baseline is None

    p, t = some_classes(n=200, c=3)
    train = torch.tensor([2, 2, 2, 1, 0])
    got = score("multiclass", p, t, train_targets=train, samples=10, metrics=["log_loss", "accuracy", "balanced_accuracy", "auroc", "ece", "mcc"])
    shares = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    assert got["log_loss"].baseline == pytest.approx(-shares[t].log().mean().item())
    assert got["accuracy"].baseline == pytest.approx((t == 2).double().mean().item())
    assert got["balanced_accuracy"].baseline == pytest.approx(1 / 3)
    assert got["auroc"].baseline == 0.5 and got["mcc"].baseline == 0.0 and got["ece"].baseline is None


def test_the_constant_beside_f1_says_positive_to_everything():
    p, t = some_classes(n=200, c=2)
    got = score("binary", p, t, train_targets=torch.tensor([0, 0, 0, 1]), metrics=["f1", "precision", "recall", "average_precision"], samples=10)
    share = t.double().mean().item()
    assert got["f1"].baseline == pytest.approx(2 * share / (1 + share)) and got["precision"].baseline == pytest.approx(share)
    assert got["recall"].baseline is None and got["average_precision"].baseline == pytest.approx(share)


@pytest.mark.parametrize("name", ["mse", "mae", "mape", "msle", "wmape"])
def test_no_other_constant_does_better_on_the_training_targets(name):
    _, train = some_regression(n=101)
    best = score("regression", train, train, train_targets=train, metrics=[name], samples=10)[name].baseline
    for constant in numpy.linspace(0.5, 3.5, 61):
        other = score("regression", torch.full_like(train, float(constant)), train, metrics=[name], samples=1)[name].value
        assert best <= other + 1e-9


def test_better_is_said_only_where_the_paired_difference_shows_it():
    g = draw(2)
    targets = torch.randn(300, generator=g)
    clear = score("regression", targets + 0.5 * torch.randn(300, generator=g), targets, train_targets=targets, metrics=["mae"])["mae"]
    useless = score("regression", 0.05 * torch.randn(300, generator=g), targets, train_targets=targets, metrics=["mae"])
    harmful = score("regression", 2 * torch.randn(300, generator=g), targets, train_targets=targets, metrics=["mae"])["mae"]
    assert clear.verdict == "better" and clear.better_than_baseline is True and clear.difference[1] < 0
    assert useless["mae"].verdict == "unclear" and harmful.verdict == "worse"
    assert "NOT shown better than no skill" in repr(useless) and "constant that ignores the inputs" in repr(useless)
    assert "WORSE than no skill" in repr(harmful)


def test_a_small_gain_on_every_row_shows_although_the_interval_overlaps_the_baseline():
    targets = torch.randn(100, generator=draw(8)) ** 3
    got = score("regression", 0.1 * targets, targets, train_targets=torch.tensor([0.0]), metrics=["mae"])["mae"]
    assert got.low < got.baseline < got.high and got.verdict == "better"  # each error is 0.9 of the constant's
    assert got.difference == pytest.approx((got.value - got.baseline, got.value - got.baseline), rel=0.5)


def test_training_labels_to_ignore_do_not_count_for_the_constant():
    p, t = some_classes(n=50, c=3)
    with_ignored = score("multiclass", p, t, train_targets=torch.tensor([0, 1, 2, 2, -100, -100]), samples=10)
    assert with_ignored["log_loss"].baseline == score("multiclass", p, t, train_targets=torch.tensor([0, 1, 2, 2]), samples=10)["log_loss"].baseline


def test_training_targets_that_do_not_fit_are_refused():
    p, t = some_classes(n=50, c=3)
    for wrong in (torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.zeros(0)):
        with pytest.raises(UsageError, match="train_targets"):
            score("multiclass", p, t, train_targets=wrong, samples=10)


def test_a_skilless_model_is_seldom_called_better():
    called = 0
    for seed in range(200):
        g = draw(seed)
        targets = (torch.rand(120, generator=g) < 0.5).long()
        p = torch.rand(120, 1, generator=g)
        called += (
            score("binary", torch.cat([1 - p, p], dim=1), targets, train_targets=torch.tensor([0, 1]), metrics=["auroc"], samples=200)["auroc"].verdict
            == "better"
        )
    assert called / 200 <= 0.06


# --- what travels ---------------------------------------------------------------------------------------------------------------------------------------------


def test_scores_go_through_json_and_back():
    predictions, targets = some_regression()
    predictions[3] = math.nan
    got = score("regression", predictions, targets, metrics=["mae", lambda o, t: t.mean()], train_targets=targets, unit="kg", split="test").with_looks(2)
    assert Scores.from_json(json.loads(json.dumps(got.to_json(), allow_nan=False))) == got
    p, t = some_classes()
    got = score("multiclass", p, t, train_targets=t)
    assert Scores.from_json(json.loads(json.dumps(got.to_json(), allow_nan=False))) == got
    assert pickle.loads(pickle.dumps(got)) == copy.deepcopy(got) == got


def test_the_table_says_unit_interval_baseline_and_looks():
    predictions, targets = some_regression(n=1200)
    got = score("regression", predictions, targets, train_targets=targets, unit="kg", metrics=["mae", "mse", "r2"], split="test").with_looks(3)
    text = repr(got)
    assert "test: 1,200 rows; 95 % intervals from 1,000 resamples of rows; look 3 at this split" in text
    assert " kg " in text and " kg² " in text and "better than no skill" in text
    assert "<table>" in got._repr_html_() and "kg²" in got._repr_html_()
    with pytest.raises(KeyError, match="rmse"):
        got["rmse"]


def test_the_positive_class_is_named():
    p, t = some_classes(c=2)
    got = score("binary", p, t, classes=["no", "<yes>"], metrics=["f1"])
    assert got["f1"].note == "of the class '<yes>'" and "&lt;yes&gt;" in got._repr_html_()
    with pytest.raises(UsageError, match="3 classes are named"):
        score("binary", p, t, classes=["a", "b", "c"])


# --- comparing, and while training ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["mae", "spearman", lambda outputs, targets: (outputs - targets).abs().mean()])
def test_a_paired_comparison_sees_what_two_intervals_hide(metric):
    g = draw(4)
    targets = torch.randn(150, generator=g)
    shared = torch.randn(150, generator=g)
    first, second = targets + shared + 0.1 * torch.randn(150, generator=g), targets + 1.2 * shared
    found = compare_paired(metric, "regression", first, second, targets)
    alone = [score("regression", one, targets, metrics={"it": metric})["it"] for one in (first, second)]
    assert found.difference == pytest.approx(alone[0].value - alone[1].value)
    assert found.low < found.difference < found.high and (found.low > 0 or found.high < 0)
    assert max(one.low for one in alone) < min(one.high for one in alone)  # the intervals overlap


def test_paired_auroc_and_losses_and_groups():
    p, t = some_classes(n=2600, c=2)
    worse, _ = some_classes(n=2600, c=2, seed=0, skill=0.7)
    found = compare_paired("auroc", "binary", p, worse, t)
    assert 0 < found.low < found.difference < found.high
    losses = torch.rand(80, generator=draw())
    groups = torch.arange(80) // 8
    assert compare_paired("loss", None, losses + 0.25, losses, None, groups=groups) == pytest.approx((0.25, 0.25, 0.25))
    with pytest.raises(UsageError, match="the same rows"):
        compare_paired("loss", None, losses, losses[:-1], None)


def test_a_model_compared_with_itself_is_never_better():
    p, t = some_classes()
    assert compare_paired("f1", "multiclass", p, p, t) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass", "multilabel"])
def test_metrics_of_an_epoch_equal_the_final_scores(task):
    make = {"regression": some_regression, "binary": lambda: some_classes(c=2), "multiclass": some_classes, "multilabel": some_labels}[task]
    predictions, targets = make()
    final = score(task, predictions, targets, samples=10)
    for name, metric in epoch_metrics(None, task).items():
        assert metric.takes == "predictions" and metric(predictions, targets) == pytest.approx(final[name].value, rel=1e-12)
        assert metric.direction == direction(name)


def test_functions_of_an_epoch_take_outputs():
    found = epoch_metrics({"mine": lambda outputs, targets: outputs["a"].sum() - targets.sum(), "mae": "mae"}, "regression")
    assert found["mine"].takes == "outputs" and found["mine"]({"a": torch.ones(3)}, torch.ones(3)) == 0.0
    assert math.isnan(found["mae"](torch.tensor([math.nan, 1.0]), torch.ones(2)))
    assert epoch_metrics(["loss"], None) == {}


def test_directions():
    up = ["accuracy", "f1", "auroc", "r2", "R2Score", "val_accuracy", "top5_acc", "pearson", "iou", "dice_score"]
    down = [
        "loss",
        "val_loss",
        "mae",
        "MeanSquaredError",
        "log_loss",
        "error_rate",
        "brier_score_loss",
        "tweedie_deviance_score",
        "word_error_rate",
    ]
    assert [direction(name) for name in up] == ["max"] * len(up)
    assert [direction(name) for name in down] == ["min"] * len(down)
    assert direction("cosine") is None and direction("mine") is None


@pytest.mark.parametrize("right", [True, False])
def test_of_no_error_among_few_rows_the_accuracys_interval_is_no_point(right):
    targets = torch.arange(30) % 3
    probabilities = torch.nn.functional.one_hot(targets if right else (targets + 1) % 3, 3).double()
    found = score("multiclass", probabilities, targets)["accuracy"]
    rare = 1 - 0.025 ** (1 / 30)  # Clopper and Pearson's bound for 0 of 30
    assert (found.low, found.high) == pytest.approx((1 - rare, 1) if right else (0, rare))
    assert "all resamples agree" in (score("multiclass", probabilities, targets)["balanced_accuracy"].note or "")


def test_r2_is_better_than_no_skill_only_where_rmse_is():
    """R² of a resample that drew one row again and again is no number. Left out, such resamples made it better than no skill on five rows where RMSE was not."""
    better = 0
    for seed in range(60):
        draw = torch.Generator().manual_seed(seed)
        targets = torch.randn(5, generator=draw, dtype=torch.float64)
        scores = score("regression", targets + 0.5 * torch.randn(5, generator=draw, dtype=torch.float64), targets, train_targets=targets)
        if scores["r2"].verdict == "better":
            better += 1
            assert scores["rmse"].verdict == "better", seed
    assert better  # there is something to assert


def test_a_unit_stands_beside_what_is_measured_in_it():
    targets = torch.arange(40.0)
    scores = score("regression", targets + 1, targets, metrics=["mse", "mae", "r2"], unit="km", train_targets=targets)
    assert [scores[name].unit for name in ("mse", "mae", "r2")] == ["km²", "km", None]
    assert "mae 1 km" in repr(scores["mae"])
