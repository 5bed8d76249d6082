"""Mistakes that end a run before the checks could be asked are findings too, and say which column, weight or label it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep.errors import SettingsError

QUIET: dict[str, Any] = dict(folder=None, quiet=True, device="cpu", epochs=2)


def rows(count: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


def test_a_row_number_that_the_model_counts_on_is_named() -> None:
    x, y = rows()
    table = {"row": range(80), "a": x[:, 0], "b": x[:, 1], "y": y}
    splits = fs.Data.table(table, target="y").split()
    found = fs.check(nn.Linear(3, 2), splits, loss="CrossEntropyLoss")
    assert [finding.code for finding in found] == ["D13"] and "'row'" in found[0].what and "takes 3 numbers, the table gives 2" in found[0].what
    with pytest.raises(fs.FindingsError, match="counts the rows"):
        fs.fit(nn.Linear(3, 2), splits, loss="CrossEntropyLoss", **QUIET)
    noted = fs.check(nn.Linear(2, 2), splits, loss="CrossEntropyLoss", optimizer="SGD", lr=0.1, epochs=20)
    assert ("D13", "note") in {(finding.code, finding.severity) for finding in noted}


def test_any_other_width_lists_the_columns() -> None:
    x, y = rows()
    table = {"city": ["Bern", "Chur", "Genf", "Zug"] * 20, "a": x[:, 0], "y": y}
    with pytest.raises(SettingsError, match=r"gives 5 numbers a row(.|\n)*city"):
        fs.fit(nn.Linear(2, 2), fs.Data.table(table, target="y").split(), loss="CrossEntropyLoss", **QUIET)


@pytest.mark.parametrize("checks", [True, False])
def test_a_frozen_model_is_told_as_a_finding_where_checks_are_on(checks: bool) -> None:
    model = nn.Linear(3, 2).requires_grad_(False)
    with pytest.raises(fs.FindingsError if checks else SettingsError, match="frozen"):
        fs.fit(model, fs.Data.arrays(*rows()).split(), loss="CrossEntropyLoss", checks=checks, **QUIET)


def test_weights_of_which_none_fits_are_told_as_a_finding() -> None:
    state = {f"inner.module.{key}": value for key, value in nn.Conv2d(1, 2, 3).state_dict().items()}
    found = fs.check(nn.Linear(3, 2), fs.Data.arrays(*rows()).split(), loss="CrossEntropyLoss", weights=state, weights_strict=False)
    assert [(finding.code, finding.severity) for finding in found] == [("P02", "error")]


def test_labels_out_of_range_without_checks_are_a_lesson_and_no_index_error() -> None:
    x, y = rows()
    with pytest.raises(SettingsError, match="start at 1: subtract 1"):
        fs.fit(nn.Linear(3, 2), fs.Data.arrays(x, y + 1).split(), loss="CrossEntropyLoss", checks=False, **QUIET)


def test_a_function_of_ones_own_meets_outputs_and_targets_in_one_shape_and_unit() -> None:
    x, y = rows()
    t = y[:, None].float()
    share = lambda outputs, targets: ((outputs > 0).float() == targets).float().mean()  # noqa: E731
    model = nn.Linear(3, 1)
    run = fs.fit(model, fs.Data.arrays(x, t).split(), loss="BCEWithLogitsLoss", optimizer="Adam", lr=0.1, metrics={"share": share}, **QUIET | dict(epochs=20))
    assert run.evaluate("test")["share"].value == pytest.approx(float(share(run.model(x[run.splits.test.indices]), t[run.splits.test.indices])))


def test_a_function_of_ones_own_gets_a_scaled_target_back_in_its_unit() -> None:
    x, _ = rows()
    table = {"a": x[:, 0], "b": x[:, 1], "price": 2e5 + 5e4 * x[:, 0]}
    error = lambda outputs, targets: (outputs - targets).abs().mean()  # noqa: E731
    run = fs.fit(
        nn.Linear(2, 1),
        fs.Data.table(table, target="price").split(),
        loss="MSELoss",
        optimizer="Adam",
        lr=0.1,
        metrics={"away": error, "mae": "mae"},
        **QUIET | dict(epochs=40),
    )
    scores = run.evaluate("test")
    assert scores["away"].value == pytest.approx(scores["mae"].value, rel=1e-5)
    assert run.history[-1]["away"] == pytest.approx(run.history[-1]["mae"], rel=1e-5)


def test_class_numbers_in_a_distance_over_several_outputs_stop_before_the_first_step(tmp_path: Path) -> None:
    x, y = rows()
    splits = fs.Data.arrays(x, y).split()
    with pytest.raises(fs.FindingsError, match="CrossEntropyLoss") as stopped:
        fs.fit(nn.Linear(3, 2), splits, loss="MSELoss", folder=tmp_path, quiet=True, device="cpu", epochs=2)
    assert [finding.code for finding in stopped.value.findings if finding.severity == "error"] == ["L32"]
    assert not any(path.is_dir() for path in tmp_path.iterdir())
    right = fs.check(nn.Linear(3, 2), splits, loss="CrossEntropyLoss", optimizer="SGD", lr=0.1, epochs=20)
    assert "L32" not in {finding.code for finding in right}


def test_a_loss_of_the_users_own_that_raises_is_only_noted() -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not today")

    found = fs.check(nn.Linear(3, 2), fs.Data.arrays(*rows()).split(), loss=loss)
    assert all(finding.severity != "error" for finding in found) and any("not today" in finding.what for finding in found if finding.code == "C00")
