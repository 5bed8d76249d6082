"""The numbers behind the pictures: equal to scikit-learn's and scipy's where they have them, and right about data whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from reported import QUIET, houses, make

import fivestep as fs
from fivestep.results import diagnosis, drift
from fivestep.results.importance import importance
from fivestep.results.report_rows import rows_section

sklearn = pytest.importorskip("sklearn.metrics")


def scores_and_classes(ties: bool = False):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(200, generator=generator, dtype=torch.float64)
    if ties:
        scores = (scores * 7).round() / 7
    return scores, torch.rand(200, generator=generator) < scores.float()


@pytest.mark.parametrize("ties", [False, True])
def test_roc_and_precision_recall_are_those_of_scikit_learn(ties):
    scores, positive = scores_and_classes(ties)
    misses, hits = diagnosis.roc(scores, positive)
    theirs = sklearn.roc_curve(positive, scores, drop_intermediate=False)
    assert np.allclose(misses, theirs[0]) and np.allclose(hits, theirs[1])
    recall, precision = diagnosis.precision_recall(scores, positive)
    their_precision, their_recall, _ = sklearn.precision_recall_curve(positive, scores)
    assert np.allclose(recall.flip(0), their_recall[:-1]) and np.allclose(precision.flip(0), their_precision[:-1])


def test_thresholds_are_those_of_scikit_learn_and_one_has_the_largest_f1():
    scores, positive = scores_and_classes()
    rows = diagnosis.thresholds(scores, positive)
    for row in rows:
        called = scores >= row.threshold
        assert row.recall == pytest.approx(sklearn.recall_score(positive, called)) and row.f1 == pytest.approx(sklearn.f1_score(positive, called))
        assert row.hits + row.false_alarms + row.missed + row.rejected == 200
    best = next(row for row in rows if row.why == "largest F1 here")
    assert best.f1 == max(sklearn.f1_score(positive, scores >= level) for level in scores.tolist())


def test_the_chi_square_tail_and_the_interval_of_a_share_are_those_of_scipy_and_statsmodels():
    from scipy.stats import chi2_contingency

    first, second = np.array([40, 30, 30]), np.array([20, 45, 35])
    assert drift.chi_square_tail(first, second) == pytest.approx(chi2_contingency(np.stack([first, second]), correction=False).pvalue)
    assert diagnosis.wilson(0.3, 50) == pytest.approx((0.19103, 0.43749), abs=1e-4)  # statsmodels proportion_confint(15, 50, method="wilson")


def test_the_largest_gap_between_numbers_is_that_of_scipy():
    from scipy.stats import ks_2samp

    draw = np.random.default_rng(0)
    one, other = draw.normal(size=300), draw.normal(0.5, size=200)
    found = drift.compare_columns("a", "number", "val", one, other)
    assert found.distance == pytest.approx(ks_2samp(one, other).statistic) and found.differs
    assert not drift.compare_columns("a", "number", "val", one[:150], one[150:]).differs


def test_drift_is_found_in_the_column_that_moved_and_in_no_other(tmp_path):
    table = houses(600)
    table["size"][500:] += 100
    table["kind"][500:] = "boat"
    table["kind"][0] = "boat"
    splits = fs.Data.table(table, target="price").split(train=400, val=100, test=100, shuffle=False)
    moved = {(one.name, one.split) for one in drift.drift(splits) if one.differs}
    assert moved == {("size", "test"), ("kind", "test")}
    assert ("price", "test") not in {(one.name, one.split) for one in drift.drift(splits)}  # a test split's targets are not looked at


def shops(column: str, seed: int = 0):
    """60 groups of 20 rows. `shop` is the group itself, `size` a number and `kind` a letter that each group has one of, `x` one a row; split by group."""
    draw = np.random.default_rng(seed)
    group = np.arange(60).repeat(20)
    table = {"shop": np.array([f"shop {number:02}" for number in group]), "size": draw.normal(size=60)[group], "kind": draw.choice(list("abc"), 60)[group],
             "x": draw.normal(size=1200), "gid": group}  # fmt: skip
    table["y"] = table["x"] + draw.normal(size=60)[group] * 3
    return fs.Data.table({name: table[name] for name in (column, "x", "gid", "y")}, target="y", drop=["gid"]).split(group="gid", seed=seed)


def test_values_that_training_never_had_are_drift():
    found = [one for one in drift.drift(shops("shop")) if one.name == "shop"]
    assert [one.unseen for one in found] == [1.0, 1.0] and all("100% of its rows have values that training never had" in one.reasons for one in found)
    rare = np.array([f"name {number}" for number in np.random.default_rng(0).integers(0, 2000, 1000)], dtype=object)  # most names once: new ones are no wonder
    assert not drift.compare_columns("name", "category", "val", rare[:800], rare[800:]).differs


@pytest.mark.parametrize("column", ["size", "kind"])
def test_where_groups_were_drawn_a_column_that_each_group_has_one_of_is_no_drift(column):
    assert not [one for seed in range(10) for one in drift.drift(shops(column, seed)) if one.differs and one.name != "y"]


def test_missing_numbers_are_drift():
    draw = np.random.default_rng(0)
    one, other = draw.normal(size=400), np.where(np.arange(90) < 64, np.nan, draw.normal(size=90))
    assert drift.compare_columns("z", "number", "test", one, other).reasons == ("0% missing in training, 71% there",)
    assert drift.compare_columns("z", "number", "test", one, np.full(90, np.nan)).reasons == ("0% missing in training, 100% there",)
    assert not drift.compare_columns("z", "number", "test", one, one[:90]).differs


def test_importance_is_large_for_what_is_used_and_holds_nothing_against_noise(tmp_path):
    found = importance(make("houses", None), "val")
    by_name = {row.name: row for row in found.rows}
    assert [row.name for row in found.rows][:2] == ["size", "kind"]
    assert by_name["size"].matters and by_name["kind"].matters and not by_name["noise"].matters
    assert by_name["size"].low < by_name["size"].value < by_name["size"].high


def test_importance_is_the_same_every_time_and_leaves_random_state_and_model_alone():
    run = make("houses", None)
    before, weights = torch.random.get_rng_state(), run.weights_sha256
    assert importance(run, "val") == importance(run, "val")
    assert torch.equal(torch.random.get_rng_state(), before) and run.weights_sha256 == weights


def test_columns_of_codes_are_dealt_anew_too():
    splits = fs.Data.table(houses(200), target="price", categories="codes").split()

    class Codes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.by_kind = torch.nn.Embedding(4, 1)

        def forward(self, numbers, codes):
            return self.by_kind(codes[:, 0])

    run = fs.fit(Codes, splits, epochs=40, lr=0.1, folder=None, **QUIET)
    found = {row.name: row.value for row in importance(run, "val").rows}
    assert found["size"] == 0.0 and found["noise"] == 0.0 and found["kind"] > 0


def test_subgroups_name_the_group_that_is_served_worse():
    table = houses(1000)
    draw = np.random.default_rng(2)
    table["price"] = table["price"] + np.where(table["kind"] == "house", draw.normal(0, 100, 1000), 0)
    run = fs.fit("linear", fs.Data.table(table, target="price").split(), epochs=30, folder=None, **QUIET)
    metric, _, rows = diagnosis.subgroups(run, diagnosis.predicted(run, "val"))
    assert metric == "mae" and {row.value: row.apart for row in rows} == {"flat": False, "house": True}
    assert sum(row.num_rows for row in rows) == len(run.splits.val)


def test_subgroups_of_a_split_by_group_are_told_as_surely_as_its_scores():
    """No subgroup differs in truth: where rows were drawn again one by one, a quarter of them looked worse."""
    worse = 0
    for seed in range(6):
        run = fs.fit("linear", shops("kind", seed), epochs=5, folder=None, **QUIET)
        worse += sum(row.apart for row in diagnosis.subgroups(run, diagnosis.predicted(run, "val"))[2])
    assert worse <= 1


def test_a_subgroup_that_lacks_a_class_has_no_balanced_accuracy():
    run = make("useless", None)
    found = diagnosis.predicted(run, "val")
    metric, _, rows = diagnosis.subgroups(run, found)
    with_both = {
        city
        for city in ("Bonn", "Oslo")
        if len({int(target) for row, target in zip(found.rows, found.targets) if run.splits.val.data.typed.column("city").values[int(row)] == city}) == 2
    }
    assert metric == "balanced_accuracy" and {row.value for row in rows if row.column == "city"} & {"Bonn", "Oslo"} == with_both


def test_a_target_that_is_constant_in_training_is_measured_in_its_own_unit():
    values, targets = torch.tensor([[1.0, 5.5]]), torch.tensor([[0.0, 5.0]])
    losses, _ = diagnosis.row_losses("regression", values.double(), targets.double(), torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    assert losses.tolist() == [0.75]


def test_rows_are_found_again_by_their_number_their_id_and_their_date():
    table = {
        "when": ["2024-03-11", "2024-03-12"] * 60,
        "id": [1000000 + number * 7 % 120 for number in range(120)],
        "y": [None] * 20 + [float(number % 7) for number in range(100)],
    }
    data = fs.Data.table(table, target="y", columns={"id": "number", "when": "date"}, without_target="drop")
    run = fs.fit("linear", data.split(), epochs=1, folder=None, **QUIET)
    found = diagnosis.predicted(run, "val")
    row = int(found.rows[diagnosis.worst(found, 1)])
    assert diagnosis.input_values(run, "val", row, ["when"])[0] == table["when"][row + 20] and diagnosis.value_text(float(table["id"][row + 20])).isdigit()
    assert f'<th scope="row" class="n">{row + 20}</th>' in rows_section(run, found, None)


def test_the_worst_rows_are_those_of_the_data_in_order_of_their_loss():
    run = make("useless", None)
    found = diagnosis.predicted(run, "val")
    at = diagnosis.worst(found, 5)
    losses = found.losses[at]
    assert torch.equal(losses, losses.sort(descending=True).values) and losses[0] == found.losses.max()
    churned = run.splits.train.data.typed.values("churn")
    assert [churned[row] for row in found.rows[at].tolist()] == [found.classes[code] for code in found.targets[at].tolist()]


def test_losses_of_rows_add_up_to_the_score():
    run = make("useless", None)
    found = diagnosis.predicted(run, "val")
    assert float(found.losses.mean()) == pytest.approx(run.evaluate("val")["log_loss"].value, rel=1e-6)
    run = make("houses", None)
    assert float(diagnosis.predicted(run, "val").losses.mean()) == pytest.approx(run.evaluate("val")["mae"].value, rel=1e-6)


def test_equal_probabilities_stand_in_one_bin_of_calibration():
    """Rows sorted by class: cut in the middle of a tie, a bin would hold one class alone."""
    sure = torch.tensor([0.4] * 60 + [0.6] * 40).double()
    targets = torch.tensor([0] * 36 + [1] * 24 + [0] * 16 + [1] * 24)
    found = replace(diagnosis.predicted(make("useless", None), "val"), values=torch.stack([1 - sure, sure], 1), targets=targets)
    assert [(one.count, round(one.predicted, 3), round(one.observed, 3)) for one in diagnosis.calibration_bins(found)] == [(60, 0.4, 0.4), (40, 0.6, 0.6)]


def test_bins_of_calibration_hold_all_rows_once():
    found = diagnosis.predicted(make("useful", None), "val")
    bins = diagnosis.calibration_bins(found)
    assert sum(one.count for one in bins) == len(found) and len(bins) == 10
    assert sum(one.count * one.observed for one in bins) == pytest.approx(int((found.targets == 1).sum()))
    assert all(one.low <= one.observed <= one.high for one in bins)
