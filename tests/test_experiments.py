"""Sweeps and comparisons: what is said is true (a variant with itself is not called better, a real gain is), a kill costs nothing that had ended, the winner is one
plain run, chosen on validation rows only."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fivestep as fs
from fivestep import experiments, stacking, variants
from fivestep.results.comparing import Interval, Measured, compare_measured, estimate, main_effects, t_quantile

QUIET: dict[str, Any] = dict(folder=None, quiet=True, device="cpu")


def arrays(rows: int = 120, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=draw)
    return x, x[:, :1].sin() + x[:, 1:2] + 0.3 * torch.randn(rows, 1, generator=draw)


@pytest.fixture
def splits() -> Any:
    return fs.Data.arrays(*arrays()).split()


class Net(nn.Module):
    def __init__(self, num_inputs: int, width: int = 3, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_inputs, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


# -- the truth -----------------------------------------------------------------------------------------------------------------------------------------------


def simulated(generator: torch.Generator, *, seeds: int, gain: float, first_seed: int, rows: int = 60, of_seed: float = 0.1, of_both: float = 1.0) -> Measured:
    """Scores of one variant: each seed trains a model that is better or worse on all rows (`of_seed`) and on each row (`of_both`)."""
    values = gain + of_seed * torch.randn(seeds, 1, generator=generator) + of_both * torch.randn(seeds, rows, generator=generator)
    drawn = torch.Generator().manual_seed(0)  # the rows are resampled alike for both
    counts = torch.zeros(150, rows).scatter_add_(1, torch.randint(rows, (150, rows), generator=drawn), torch.ones(150, rows))
    return Measured(f"{first_seed}", values.mean(1), values @ counts.T / rows, tuple(range(first_seed, first_seed + seeds)), rows)


@pytest.mark.parametrize(("seeds", "of_seed"), [(5, 0.1), (5, 0.0), (3, 0.5)])
def test_in_200_comparisons_of_a_variant_with_itself_under_other_seeds_better_is_said_in_at_most_5_percent(seeds: int, of_seed: float) -> None:
    generator = torch.Generator().manual_seed(11)
    said = 0
    for _ in range(200):
        pair = [simulated(generator, seeds=seeds, gain=0.0, first_seed=first, of_seed=of_seed) for first in (0, 100)]
        said += compare_measured(pair, metric="loss", higher_is_better=False).better
    assert said <= 10


def test_the_best_of_many_equal_variants_is_not_called_better_than_the_worst() -> None:
    generator = torch.Generator().manual_seed(12)
    said = 0
    for _ in range(100):
        many = [simulated(generator, seeds=5, gain=0.0, first_seed=0) for _ in range(6)]
        said += any(row.verdict == "worse" for row in compare_measured(many, metric="loss", higher_is_better=False).rows)
    assert said <= 5


def test_a_planted_gain_of_four_standard_errors_is_found_nearly_always() -> None:
    generator = torch.Generator().manual_seed(13)
    # 5 seeds: the difference of two means has the standard error sqrt(2 * (0.1^2 + 1 / 60) / 5) = 0.103
    found = sum(
        compare_measured([simulated(generator, seeds=5, gain=gain, first_seed=0) for gain in (0.0, 0.5)], metric="loss", higher_is_better=False).better
        for _ in range(60)
    )
    assert found >= 50


def test_one_seed_each_is_never_called_better() -> None:
    generator = torch.Generator().manual_seed(14)
    pair = [simulated(generator, seeds=1, gain=gain, first_seed=0) for gain in (0.0, 50.0)]
    compared = compare_measured(pair, metric="loss", higher_is_better=False)
    assert compared.rows[1].verdict == "could be luck (one seed)" and not compared.better
    difference = compared.rows[1].difference
    assert difference is not None and difference.low is not None and difference.low > 0  # these two models do differ, and that is shown


def test_the_interval_of_many_comparisons_is_wider_than_that_of_one() -> None:
    pair = [Measured("a", torch.tensor([1.0, 1.2, 0.9]), None, (0, 1, 2)), Measured("b", torch.tensor([2.0, 2.1, 2.2]), None, (0, 1, 2))]
    one, many = (estimate({1: 1.0, 0: -1.0}, pair, comparisons=count) for count in (1, 28))
    assert one.low is not None and many.low is not None and many.low < one.low
    differences = torch.tensor([1.0, 0.9, 1.3], dtype=torch.float64)
    assert one.low == pytest.approx(float(differences.mean() - t_quantile(0.975, 2) * differences.std() / 3**0.5), rel=1e-6)


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"), [(0.975, 1, 12.7062), (0.975, 4, 2.7764), (0.995, 10, 3.1693), (0.9999, 4, 13.0337), (0.975, 1e9, 1.95996)]
)
def test_the_quantiles_of_students_t_are_those_of_the_tables(probability: float, degrees: float, expected: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-4)


def test_a_variant_that_diverged_in_one_seed_is_never_the_best() -> None:
    nan = float("nan")
    compared = compare_measured(
        [Measured("a", torch.tensor([0.1, nan]), None, (0, 1)), Measured("b", torch.tensor([0.5, 0.6]), None, (0, 1))], metric="loss", higher_is_better=False
    )
    assert compared.best == "b" and compared["a"].verdict == "diverged"


def test_main_effects_find_the_factor_that_matters_and_not_the_other() -> None:
    settings = [{"lr": lr, "width": width} for lr in (1, 2) for width in (3, 4)]
    noise = torch.Generator().manual_seed(5)
    measured = [Measured(str(one), one["lr"] + 0.05 * torch.randn(5, generator=noise), None, tuple(range(5))) for one in settings]
    effects = {(effect.factor, effect.level): effect for effect in main_effects(measured, settings, higher_is_better=False)}
    assert effects["lr", 1].verdict == "best" and effects["lr", 2].verdict == "worse"
    difference = effects["lr", 2].difference
    assert isinstance(difference, Interval) and difference.value == pytest.approx(1.0, abs=0.1)
    assert {effects["width", width].verdict for width in (3, 4)} == {"best", "could be luck"}


def test_real_fits_a_variant_beside_itself_could_be_luck_and_a_useless_rate_is_worse(splits: Any) -> None:
    found = fs.sweep(Net, splits, {"lr": [0.03, 0.0300001, 1e-6]}, seeds=5, epochs=15, **QUIET)
    verdicts = {row.name: row.verdict for row in found.comparison.rows}
    assert sorted(verdicts.values()) == ["best", "could be luck", "worse"] and verdicts["lr=1e-06"] == "worse"


# -- sweeps --------------------------------------------------------------------------------------------------------------------------------------------------


def test_stacked_and_alone_give_the_same_table_to_rounding(splits: Any) -> None:
    over = {"lr": [0.003, 0.03], "optimizer.weight_decay": [0.0, 0.1]}
    stacked, alone = (fs.sweep(Net, splits, over, seeds=2, same_order=False, epochs=6, stack=stack, **QUIET) for stack in (True, False))
    assert {trial.how for trial in stacked.trials} == {"stacked"} and {trial.how for trial in alone.trials} == {"alone"}
    for one, other in zip(stacked.trials, alone.trials):
        assert one.value == pytest.approx(other.value, rel=1e-5) and one.epochs == other.epochs


def test_an_observer_sees_the_epochs_of_all_members_of_a_stack(splits: Any) -> None:
    seen = []
    found = fs.sweep(Net, splits, {"lr": [0.01, 0.02, 0.03]}, epochs=2, observers=[lambda event: seen.append(type(event).__name__)], stack=True, **QUIET)
    assert {trial.how for trial in found.trials} == {"stacked"}
    assert [seen.count(name) for name in ("RunStarted", "EpochEnded", "RunEnded")] == [3, 6, 3]


def test_the_plan_puts_what_shares_a_graph_together_and_tells_why_the_rest_is_alone(splits: Any) -> None:
    found = fs.sweep(Net, splits, {"lr": [0.01, 0.1], "model.width": [3, 5], "optimizer": ["AdamW", "RMSprop"]}, epochs=1, **QUIET)
    ways = sorted((group.how, len(group.jobs)) for group in found.plan)
    assert ways == [("alone", 4), ("stacked", 2), ("stacked", 2)]
    assert any("RMSprop has no stacked form" in group.reason for group in found.plan)


def test_what_is_bound_by_arithmetic_is_not_stacked() -> None:
    x, y = arrays(300)
    splits = fs.Splits((x.repeat(1, 8), y), val=0.2)
    wide = lambda: nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))  # noqa: E731
    jobs = [stacking.Job(v, 0, {"lr": lr, "batch_size": 64, "loss": "MSELoss"}, splits) for v, lr in enumerate((0.1, 0.01))]
    (group,) = stacking.plan_groups(wide, jobs)
    assert group.how == "alone" and "million multiplications" in group.reason


def test_a_group_is_cut_to_fit_the_memory(splits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [stacking.Job(v, 0, {"lr": 0.01 * (v + 1), "batch_size": 16, "loss": "MSELoss"}, splits) for v in range(6)]
    (whole,) = stacking.plan_groups(Net, jobs)
    monkeypatch.setattr(stacking, "available_bytes", lambda device: 8_000)
    groups = stacking.plan_groups(Net, jobs)
    assert len(whole.jobs) == 6 and len(groups) > 1 and sum(len(group.jobs) for group in groups) == 6


def test_the_winner_is_a_plain_run_of_its_settings_to_the_bit_and_looks_at_test_once(splits: Any, tmp_path: Path) -> None:
    found = fs.sweep(Net, splits, {"lr": [0.001, 0.05]}, seeds=2, epochs=4, **QUIET | {"folder": tmp_path})
    best = found.best
    alone = fs.fit(Net, splits, lr=found.best_settings["lr"], epochs=4, seed=0, **QUIET)
    assert best.weights_sha256 == alone.weights_sha256
    assert not (tmp_path / "looks.jsonl").exists()  # nothing has looked at the test rows so far
    assert best.evaluate("test").looks == 1
    assert fs.resume(best.folder, splits=splits, model=Net, quiet=True).weights_sha256 == best.weights_sha256


def test_the_choice_does_not_depend_on_the_test_rows() -> None:
    x, y = arrays()
    chosen = []
    for shift in (0.0, 100.0):
        other = y.clone()
        other[90:] += shift
        splits = fs.Data.arrays(x, other).split(indices=(range(60), range(60, 90), range(90, 120)))
        chosen.append([trial.value for trial in fs.sweep(Net, splits, {"lr": [0.001, 0.05]}, epochs=3, **QUIET).trials])
    assert chosen[0] == chosen[1]


def test_a_killed_sweep_goes_on_where_it_was_and_ends_in_the_same_numbers(tmp_path: Path) -> None:
    code = """
        import sys, os, torch, fivestep as fs
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(80, 4, generator=draw)
        splits = fs.Data.arrays(x, x[:, :1]).split()
        count = [0]
        def see(event):
            if type(event).__name__ == "EpochEnded":
                count[0] += 1
                if count[0] == int(sys.argv[2]):
                    os._exit(9)
        found = fs.sweep("mlp", splits, {"lr": [0.001, 0.01], "model.widths": [[4], [6]]}, epochs=4, stack=False, folder=sys.argv[1], quiet=True,
                         observers=[see], checkpoint="epoch", device="cpu")
        print(found.folder, [trial.value for trial in found.trials], [trial.weights_sha256 for trial in found.trials], sep="|")
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    run = lambda folder, at: subprocess.run([sys.executable, script, tmp_path / folder, str(at)], capture_output=True, text=True, timeout=300)  # noqa: E731
    assert run("killed", 7).returncode == 9  # in the second epoch but one of the second variant
    again, straight = run("killed", 10_000), run("straight", 10_000)
    assert again.returncode == straight.returncode == 0, again.stderr
    assert again.stdout.split("|")[1:] == straight.stdout.split("|")[1:]
    assert len(list((tmp_path / "killed").glob("sweep-*"))) == 1


def test_a_sweep_that_has_ended_is_read_back_under_its_name_and_trains_nothing(splits: Any, tmp_path: Path) -> None:
    call = lambda: fs.sweep(Net, splits, {"lr": [0.001, 0.05]}, epochs=2, quiet=True, device="cpu", folder=tmp_path, name="rates")  # noqa: E731
    first, second = call(), call()
    assert second.plan == [] and [trial.value for trial in first.trials] == [trial.value for trial in second.trials]


def test_workers_give_the_numbers_of_one_process(splits: Any) -> None:
    over = {"lr": [0.003, 0.03]}
    alone, workers = (fs.sweep("mlp", splits, over, epochs=2, stack=False, workers=count, **QUIET) for count in (None, 2))
    assert [trial.weights_sha256 for trial in alone.trials] == [trial.weights_sha256 for trial in workers.trials]
    assert {group.how for group in workers.plan} == {"workers"}


def test_a_diverging_rate_is_a_row_and_not_the_end(splits: Any) -> None:
    for stack in (True, False):
        found = fs.sweep(Net, splits, {"lr": [0.01, 1e30]}, epochs=2, optimizer="SGD", loss="MSELoss", stack=stack, checks=False, **QUIET)
        assert found.best_settings == {"lr": 0.01} and found.table["status"].to_list() == ["done", "diverged"]
        assert "diverged" in repr(found)


def test_where_no_variant_can_be_trained_the_reason_is_raised(splits: Any) -> None:
    with pytest.raises(fs.SettingsError, match="no_such"):
        fs.sweep(Net, splits, {"model.no_such": [1, 2]}, epochs=1, **QUIET)


def test_the_table_names_settings_scores_verdicts_time_and_the_pareto_front(splits: Any) -> None:
    table = fs.sweep(Net, splits, {"lr": [0.01, 0.02]}, seeds=2, epochs=2, **QUIET).table
    for name in ("lr", "loss", "low", "high", "to_best", "to_best_low", "verdict", "seconds", "pareto", "how"):
        assert name in table.columns
    assert table["pareto"].any() and table["verdict"][0] == "best"


def test_a_sweep_by_a_metric_that_is_better_when_higher_puts_the_highest_first() -> None:
    x, _ = arrays()
    splits = fs.Data.arrays(x, (x[:, 0] > 0).long()).split()
    found = fs.sweep(lambda num_inputs: nn.Linear(num_inputs, 2), splits, {"lr": [1e-5, 0.1]}, seeds=2, epochs=5, monitor="accuracy", checks=False, **QUIET)
    values = [row.score.value for row in found.comparison.rows]
    assert found.higher_is_better and values == sorted(values, reverse=True) and found.best_settings == {"lr": 0.1}


# -- over ----------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over", "options", "words"),
    [
        ({"lerning_rate": [1]}, {}, "there is no setting"),
        ({"lr": 0.1}, {}, r"write \[0.1\]"),
        ({"lr": {"low": 1e-4, "high": 1e-1}}, {}, "search='random'"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, {"search": "random", "trials": 2}, "logarithmic"),
        ({"lr": [0.1]}, {"search": "random"}, "trials="),
        ({"seed": [1, 2]}, {}, "seeds=5"),
        ({"loss.delta": [1.0]}, {}, "Name it: loss="),
        ({"lr": []}, {}, "empty"),
    ],
)
def test_what_cannot_be_varied_is_refused_with_the_way_on(splits: Any, over: Any, options: Any, words: str) -> None:
    with pytest.raises(fs.UsageError, match=words):
        fs.sweep(Net, splits, over, **options, **QUIET)


def test_settings_go_where_they_are_named() -> None:
    from fivestep.workflow import defaults

    changes = {"lr": 0.1, "optimizer.betas": [0.8, 0.9], "model.width": 7, "dropout": 0.2, "loss.delta": 2.0}
    made = variants.applied({"loss": "HuberLoss", "epochs": 3}, changes, defaults())
    assert made == {
        "loss": {"name": "HuberLoss", "delta": 2.0}, "epochs": 3, "lr": 0.1, "optimizer": {"name": "AdamW", "betas": [0.8, 0.9]},
        "model_args": {"width": 7, "dropout": 0.2},
    }  # fmt: skip


def test_random_draws_lie_in_their_ranges_and_depend_on_the_seed_alone() -> None:
    over = {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "model.width": {"low": 3, "high": 6, "int": True}}
    drawn = variants.expand(over, search="random", trials=200, seed=3)
    assert drawn == variants.expand(over, search="random", trials=200, seed=3) and drawn != variants.expand(over, search="random", trials=200, seed=4)
    assert {one["model.width"] for one in drawn} == {3, 4, 5, 6}
    below = sum(one["lr"] < 10**-2.5 for one in drawn)
    assert all(1e-4 <= one["lr"] <= 1e-1 for one in drawn) and 70 < below < 130  # half of them below the middle of the decades


def test_an_instance_is_refused_as_its_weights_would_go_from_variant_to_variant(splits: Any) -> None:
    with pytest.raises(fs.UsageError, match="fresh model"):
        fs.sweep(Net(4), splits, {"lr": [0.1]}, **QUIET)


# -- cross-validation and comparisons ----------------------------------------------------------------------------------------------------------------------


def test_stacked_folds_give_the_scores_of_folds_alone() -> None:
    data = fs.Data.arrays(*arrays(62))  # 5 folds of 12 and 13 rows
    stacked, alone = (fs.cross_validate(Net, data, epochs=4, lr=0.02, batch_size=12, stack=stack, **QUIET) for stack in (True, False))
    assert {trial.how for trial in stacked.trials} == {"stacked"}
    for one, other in zip(stacked.trials, alone.trials):
        assert one.value == pytest.approx(other.value, rel=1e-5)


def test_each_fold_fits_its_columns_on_its_own_training_rows() -> None:
    import polars

    x, y = arrays(40)
    frame = polars.DataFrame({"a": x[:, 0].numpy(), "y": y[:, 0].numpy()})
    found = fs.cross_validate("linear", fs.Data.table(frame, target="y"), folds=4, epochs=1, checks=False, **QUIET)
    values = frame["a"].to_numpy()
    for job in found.jobs:
        held = job.splits.val.indices.numpy()
        rest = [row for row in range(40) if row not in set(held)]
        assert job.splits.train.indices.tolist() == rest
        encoded = job.splits.encoded(job.splits.train).inputs[:, 0]
        assert torch.allclose(encoded.double(), torch.as_tensor((values[rest] - values[rest].mean()) / values[rest].std()).double(), atol=1e-4)


def test_no_epoch_is_chosen_on_held_out_rows() -> None:
    with pytest.raises(fs.SettingsError, match="too hopeful"):
        fs.cross_validate(Net, fs.Data.arrays(*arrays()), keep="best", **QUIET)


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


def test_a_comparison_on_test_rows_counts_a_look_for_each_run(splits: Any, tmp_path: Path) -> None:
    runs = [fs.fit(Net, splits, lr=lr, epochs=1, quiet=True, device="cpu", folder=tmp_path) for lr in (0.01, 0.02)]
    fs.compare(*runs, split="test")
    assert runs[0].evaluate("test").looks == 3


def test_the_shell_sweeps_and_compares(tmp_path: Path) -> None:
    x, y = arrays(80)
    lines = ["a,b,c,d,y", *(",".join(f"{value:.4f}" for value in [*row, target]) for row, target in zip(x.tolist(), y[:, 0].tolist()))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "fivestep"]
    asked = ["sweep", "rows.csv", "--target", "y", "--over", "lr=0.1,0.01", "--seeds", "2", "--model", "linear", "--epochs", "2", "--json", "--quiet"]
    done = subprocess.run([*command, *asked], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["table"]) == 2 and Path(tmp_path, told["best"]).is_dir()
    compared = subprocess.run([*command, "compare", told["best"], told["best"], "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert compared.returncode == 0, compared.stderr
    assert json.loads(compared.stdout)["metric"] == "loss"


def test_a_measured_difference_of_a_run_with_itself_is_nothing(splits: Any) -> None:
    run = fs.fit(Net, splits, lr=0.03, epochs=2, **QUIET)
    found = experiments.measure(run)
    assert found.resampled is not None and found.value == pytest.approx(run.evaluate("val")["loss"].value)
    assert float(found.resampled.mean()) == pytest.approx(found.value, rel=0.2)


# -- search ----------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [True, False])
def test_halving_leaves_off_what_is_behind_and_ends_with_the_best(splits: Any, stack: bool) -> None:
    rates = [0.03, 1e-6, 1e-5, 1e-4, 1e-3, 2e-6]
    found = fs.sweep(Net, splits, {"lr": rates}, search="halving", epochs=9, stack=stack, **QUIET)
    assert found.best_settings == {"lr": 0.03}
    statuses = {found.changes[trial.variant]["lr"]: trial.status for trial in found.trials}
    assert statuses[0.03] == "done" and list(statuses.values()).count("pruned") >= 4
    assert sum(trial.epochs for trial in found.trials) < 6 * 9 / 2
    assert found.comparison["lr=1e-06"].verdict == "pruned"


def test_a_halving_ranks_the_mean_over_seeds() -> None:
    from fivestep.pruning import Halving

    halving = Halving(epochs=9)
    values = {(0, 0): 0.0, (0, 1): 1.0, (1, 0): 0.3, (1, 1): 0.3, (2, 0): 2.0, (2, 1): 2.0}
    assert halving(1, values) == {(0, 0), (0, 1), (2, 0), (2, 1)} and halving(2, values) == set()


def test_optuna_proposes_variants_and_an_interrupted_study_goes_on(splits: Any, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    over = {"lr": {"low": 1e-5, "high": 0.1, "log": True}, "model.width": [2, 4]}
    call = lambda trials: fs.sweep(Net, splits, over, search="optuna", trials=trials, storage=tmp_path / "study.log", epochs=3, **QUIET)  # noqa: E731
    first, more = call(3), call(6)
    assert len(first.changes) == 3 and len(more.changes) == 6 and more.changes[:3] == first.changes
    assert [trial.value for trial in more.trials[: len(first.trials)]] == [trial.value for trial in first.trials]
    assert more.best.settings.asked["lr"] == more.best_settings["lr"]


def test_two_processes_work_on_one_study(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    code = """
        import sys, torch, fivestep as fs
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(60, 4, generator=draw)
        splits = fs.Data.arrays(x, x[:, :1]).split()
        found = fs.sweep("linear", splits, {"lr": {"low": 1e-3, "high": 1e-1, "log": True}}, search="optuna", trials=6, storage=sys.argv[1], epochs=2, folder=None,
                         quiet=True, checks=False, device="cpu")
        print(len(found.changes))
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(code))
    command = [sys.executable, tmp_path / "script.py", tmp_path / "study.log"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert all(process.returncode == 0 for process in both), outputs
    assert max(int(out) for out, _ in outputs) in (6, 7)  # both may have asked for the last one at the same moment


@pytest.mark.parametrize("kind", ["auto", "lr", "parallel", "time"])
def test_a_sweep_draws_its_pictures(splits: Any, kind: str) -> None:
    found = fs.sweep(Net, splits, {"lr": [0.01, 0.1], "model.width": [2, 3]}, seeds=2, epochs=1, **QUIET)
    assert found.plot(kind).axes[0].get_ylabel()
    with pytest.raises(fs.UsageError, match="not known"):
        found.plot("cake")
