"""Rules on rows that come in for prediction."""

from __future__ import annotations

import torch
from adapter import subject_of
from cases import mlp, regress

from fivestep.checks.after_prediction import check_prediction_rows, training_statistics


def test_i01_i02_and_rows_that_fit() -> None:
    X = torch.randn(400, 5) * torch.tensor([1.0, 3, 2, 5, 0.5]) + torch.tensor([0.0, 40, -30, 9, -5])
    statistics = training_statistics(subject_of(regress(mlp(5, 1), X=X, y=X[:, :1])))
    rows = torch.randn(60, 5) * torch.tensor([1.0, 3, 2, 5, 0.5]) + torch.tensor([0.0, 40, -30, 9, -5])
    assert check_prediction_rows(statistics, rows) == []
    assert check_prediction_rows(statistics, rows[:1]) == []
    (finding,) = check_prediction_rows(statistics, rows[:, [4, 2, 0, 1, 3]])
    assert finding.code == "I02" and torch.equal(rows[:, [4, 2, 0, 1, 3]][:, finding.evidence["order"]], rows)
    assert [finding.code for finding in check_prediction_rows(statistics, rows * 40)] == ["I01"]
    assert [finding.code for finding in check_prediction_rows(statistics, rows[:1] * 40 + 500)] == ["I01"]
    assert check_prediction_rows(statistics, rows * 40, ignore=["I01"]) == []
    assert check_prediction_rows(None, rows) == [] and check_prediction_rows(statistics, rows[:, :3]) == []
