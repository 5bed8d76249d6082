"""Comparisons of runs and of cross-validations: the same rows, seeds as one variant, each look at test rows counted."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from swept import QUIET, Net, arrays

import fivestep as fs
from fivestep.results.comparing import Measured, compare_measured
from fivestep.results.measuring import measure
from fivestep.train.events import EpochEnded


def test_cross_validations_are_compared_fold_by_fold() -> None:
    data = fs.Data.arrays(*arrays())
    good, bad = (fs.cross_validate("linear", data, epochs=6, lr=lr, checks=False, **QUIET) for lr in (0.05, 1e-6))
    compared = fs.compare(good, bad)
    assert compared.best.startswith("1:") and compared.rows[1].verdict == "worse"
    other = fs.cross_validate("linear", data, epochs=1, lr=0.05, seed=1, checks=False, **QUIET)
    with pytest.raises(fs.DataError, match="held out different rows"):
        fs.compare(good, other)


def test_runs_with_other_seeds_are_one_variant_and_runs_on_other_rows_are_refused(splits: Any) -> None:
    runs = [fs.fit(Net, splits, lr=lr, seed=seed, epochs=8, **QUIET) for lr in (0.03, 1e-6) for seed in range(4)]
    compared = fs.compare(*runs)
    assert len(compared) == 2 and compared.rows[0].replicates == 4 and compared.rows[1].verdict == "worse" and compared.better
    other = fs.fit(Net, fs.Data.arrays(*arrays()).split(seed=1), epochs=1, **QUIET)
    with pytest.raises(fs.DataError, match="not the same"):
        fs.compare(runs[0], other)


def test_rows_are_named_by_the_model_and_by_what_was_said_of_it(splits: Any) -> None:
    told = [fs.fit(Net, splits, epochs=1, **QUIET), fs.fit(Net, splits, model_args={"width": 8}, optimizer={"name": "SGD", "momentum": 0.9}, epochs=1, **QUIET)]
    names = {row.name for row in fs.compare(*told).rows}
    assert names == {"model=Net optimizer=default", "model=Net(width=8) optimizer=SGD(momentum=0.9)"}


def test_a_comparison_on_test_rows_counts_a_look_for_each_run(splits: Any, tmp_path: Path) -> None:
    runs = [fs.fit(Net, splits, lr=lr, epochs=1, quiet=True, device="cpu", folder=tmp_path) for lr in (0.01, 0.02)]
    fs.compare(*runs, split="test")
    assert runs[0].evaluate("test").looks == 3


def test_a_run_that_has_not_ended_is_refused_and_not_trained_on(splits: Any, tmp_path: Path) -> None:
    def stop(event: Any) -> None:
        if isinstance(event, EpochEnded) and event.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    ended = fs.fit("linear", splits, epochs=1, quiet=True, device="cpu", folder=tmp_path)
    with pytest.raises(fs.Interrupted):
        fs.fit("linear", splits, epochs=5, quiet=True, device="cpu", folder=tmp_path, name="half", observers=[stop])
    before = (tmp_path / "half" / "history.jsonl").read_bytes()
    with pytest.raises(fs.MissingInputError, match=r"has not ended.*fivestep resume"):
        fs.compare(ended, tmp_path / "half", splits=splits)
    assert (tmp_path / "half" / "history.jsonl").read_bytes() == before


def test_one_training_given_twice_is_refused_and_two_settings_that_end_alike_are_not(splits: Any, tmp_path: Path) -> None:
    runs = [fs.fit("linear", splits, epochs=2, patience=patience, folder=tmp_path, name=name, quiet=True) for name, patience in (("a", 5), ("b", 5), ("c", 6))]
    with pytest.raises(fs.UsageError, match=r"a and .*b are one training"):
        fs.compare(*runs)
    assert runs[0].weights_sha256 == runs[2].weights_sha256 and len(fs.compare(runs[0], runs[2]).rows) == 2


def test_a_measured_difference_of_a_run_with_itself_is_nothing(splits: Any) -> None:
    run = fs.fit(Net, splits, lr=0.03, epochs=2, **QUIET)
    found = measure(run)
    assert found.resampled is not None and found.value == pytest.approx(run.evaluate("val")["loss"].value)
    assert float(found.resampled.mean()) == pytest.approx(found.value, rel=0.2)


def test_models_in_a_comparison_are_told_by_name_and_by_the_arguments_in_which_they_differ(splits: Any) -> None:
    def trained(model: str, **settings: Any) -> Any:
        return fs.fit(model, splits, **{**QUIET, "epochs": 1}, **settings)

    names = [row.name for row in fs.compare(trained("mlp", model_args={"width": 8}), trained("mlp", model_args={"width": 16}), trained("linear")).rows]
    assert sum("model=linear" in name and "activation" not in name for name in names) == 1
    assert sum("widths=[8,8]" in name for name in names) == 1 and not any("activation" in name for name in names)


def test_a_comparison_fits_a_narrow_terminal_line_by_line() -> None:
    draw = torch.Generator().manual_seed(0)
    resampled = torch.randn(2, 200, generator=draw, dtype=torch.float64)
    measured = [Measured(f"lr=0.00{k} model.width=32", torch.tensor([1.0 + k]), resampled[k][None], (0,), 200) for k in range(2)]
    found = compare_measured(measured, metric="loss", higher_is_better=False)
    for width in (60, 80, 140):
        lines = found.told(width).splitlines()
        assert any("could be luck (one seed)" in line and "model.width=32" in line for line in lines)
    assert found.told(140) == found.told(None) == repr(found) and "95 % interval" not in found.told(80)
