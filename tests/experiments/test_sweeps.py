"""Sweeps and cross-validations: a kill costs nothing that had ended, the winner is one plain run, chosen on validation rows only, folds are fitted on their own rows."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from swept import QUIET, Net, arrays
from torch import nn

import fivestep as fs


def test_real_fits_a_variant_beside_itself_could_be_luck_and_a_useless_rate_is_worse(splits: Any) -> None:
    found = fs.sweep(Net, splits, {"lr": [0.03, 0.0300001, 1e-6]}, seeds=5, epochs=15, **QUIET)
    verdicts = {row.name: row.verdict for row in found.comparison.rows}
    assert sorted(verdicts.values()) == ["best", "could be luck", "worse"] and verdicts["lr=1e-06"] == "worse"


def test_stacked_and_alone_give_the_same_table_to_rounding(splits: Any) -> None:
    over = {"lr": [0.003, 0.03], "optimizer.weight_decay": [0.0, 0.1]}
    stacked, alone = (fs.sweep(Net, splits, over, seeds=2, same_order=False, epochs=6, stack=stack, **QUIET) for stack in (True, False))
    assert {trial.how for trial in stacked.trials} == {"stacked"} and {trial.how for trial in alone.trials} == {"alone"}
    for one, other in zip(stacked.trials, alone.trials):
        assert one.value == pytest.approx(other.value, rel=1e-5) and one.epochs == other.epochs


def test_the_plan_names_what_sets_its_groups_apart(splits: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fs.sweep(Net, splits, {"lr": [0.01, 0.02], "optimizer": ["SGD", "AdamW"]}, epochs=1, stack=True, **QUIET | {"quiet": False})
    told = capsys.readouterr().err
    assert "2 stacked (optimizer=SGD): one graph" in told and "2 stacked (optimizer=AdamW): one graph" in told


def test_an_observer_sees_the_epochs_of_all_members_of_a_stack(splits: Any) -> None:
    seen = []
    found = fs.sweep(Net, splits, {"lr": [0.01, 0.02, 0.03]}, epochs=2, observers=[lambda event: seen.append(type(event).__name__)], stack=True, **QUIET)
    assert {trial.how for trial in found.trials} == {"stacked"}
    assert [seen.count(name) for name in ("RunStarted", "EpochEnded", "RunEnded")] == [3, 6, 3]


def test_the_winner_is_a_plain_run_of_its_settings_to_the_bit_and_looks_at_test_once(splits: Any, tmp_path: Path) -> None:
    found = fs.sweep(Net, splits, {"lr": [0.001, 0.05]}, seeds=2, epochs=4, **QUIET | {"folder": tmp_path})
    best = found.best
    alone = fs.fit(Net, splits, lr=found.best_settings["lr"], epochs=4, seed=0, **QUIET)
    assert best.weights_sha256 == alone.weights_sha256
    assert not (tmp_path / "looks.jsonl").exists()  # nothing has looked at the test rows so far
    assert best.evaluate("test").looks == 1
    assert fs.resume(best.folder, splits=splits, model=Net, quiet=True).weights_sha256 == best.weights_sha256


def test_the_winner_of_a_stack_ejects_to_a_script_that_ends_in_its_weights(splits: Any, tmp_path: Path) -> None:
    found = fs.sweep("mlp", splits, {"lr": [0.001, 0.05]}, epochs=2, stack=True, quiet=True, device="cpu", folder=tmp_path / "runs")
    assert {trial.how for trial in found.trials} == {"stacked"}
    found.best.eject(tmp_path / "train.py")
    told = subprocess.run([sys.executable, "-I", tmp_path / "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0 and found.best.weights_sha256 in told.stdout, told.stderr


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
    seen: list[Any] = []
    call = lambda: fs.sweep(  # noqa: E731
        Net, splits, {"lr": [0.001, 0.05]}, epochs=2, quiet=True, device="cpu", folder=tmp_path, name="rates", observers=[seen.append]
    )
    first, trained, second = call(), len(seen), call()
    assert trained and len(seen) == trained and [str(group) for group in second.plan] == [str(group) for group in first.plan]
    assert [trial.value for trial in first.trials] == [trial.value for trial in second.trials]


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


def test_a_score_that_was_not_finite_for_an_epoch_is_kept_as_none_and_read_back(splits: Any, tmp_path: Path) -> None:
    from fivestep.experiments import folders
    from fivestep.experiments.stacking import Job
    from fivestep.experiments.trials import curve_of, trial_of

    run = fs.fit("linear", splits, epochs=2, **QUIET)
    run.history[0]["val_loss"] = float("nan")
    job = Job(0, 0, {}, splits)
    trial = trial_of(job, run, "done", "", 0.1, "alone", "loss", None)
    folders.keep_trial(tmp_path, trial)
    assert trial.curve[0] == (1, None) and trial.curve == curve_of(run.history, "loss")
    assert folders.read_trials(tmp_path, [job])[job.name] == trial


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


def test_an_instance_is_refused_as_its_weights_would_go_from_variant_to_variant(splits: Any) -> None:
    with pytest.raises(fs.UsageError, match="fresh model"):
        fs.sweep(Net(4), splits, {"lr": [0.1]}, **QUIET)


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


@pytest.mark.parametrize("stack", [True, False])
def test_folds_are_repeated_stratified_grouped_or_after_their_past(stack: bool) -> None:
    import polars

    x, _ = arrays(60)
    row = torch.arange(60)
    labels, groups = (row % 3 == 0).long(), row // 5
    frame = polars.DataFrame({"a": x[:, 0].numpy(), "b": x[:, 1].numpy(), "y": labels.numpy(), "patient": groups.numpy(), "day": row.flip(0).numpy()})
    fold_parts = lambda options: [  # noqa: E731
        (trial.value, job.splits.train.indices, job.splits.val.indices)
        for found in [
            fs.cross_validate("linear", fs.Data.table(frame, target="y", **options.pop("read", {})), epochs=1, checks=False, stack=stack, **options, **QUIET)
        ]
        for trial, job in zip(found.trials, found.jobs)
    ]
    repeated = fold_parts({"folds": 3, "repeats": 2})
    assert len(repeated) == 6
    for half in (repeated[:3], repeated[3:]):
        assert torch.cat([held for _, _, held in half]).sort().values.equal(row)
    assert not repeated[0][2].equal(repeated[3][2])
    stratified = fold_parts({"folds": 4, "stratify": True})
    assert [int(labels[held].sum()) for _, _, held in stratified] == [5, 5, 5, 5]
    grouped = fold_parts({"folds": 4, "group": "patient"})
    assert all(not set(groups[kept].tolist()) & set(groups[held].tolist()) for _, kept, held in grouped)
    in_time = fold_parts({"folds": 4, "time": "day"})
    day = row.flip(0)
    assert all(day[kept].max() < day[held].min() for _, kept, held in in_time) and len(in_time) == 4
    assert all(value is not None for part in (repeated, stratified, grouped, in_time) for value, _, _ in part)


def test_no_epoch_is_chosen_on_held_out_rows() -> None:
    with pytest.raises(fs.SettingsError, match="too hopeful"):
        fs.cross_validate(Net, fs.Data.arrays(*arrays()), keep="best", **QUIET)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_sweep_stopped_in_the_shell_tells_the_command_that_goes_on(tmp_path: Path) -> None:
    x, y = arrays()
    rows = "\n".join(f"{float(a)},{float(b)}" for a, b in zip(x[:, 0], y[:, 0]))
    (tmp_path / "rows.csv").write_text(f"a,y\n{rows}\n")
    (tmp_path / "net.py").write_text(
        textwrap.dedent("""
        import os, signal
        from pathlib import Path
        from torch import nn

        class Net(nn.Module):
            def __init__(self, num_inputs: int, num_outputs: int = 1, width: int = 2):
                super().__init__()
                if width == 3 and not Path("stopped").exists():
                    Path("stopped").touch()
                    os.kill(os.getpid(), signal.SIGTERM)
                self.layers = nn.Sequential(nn.Linear(num_inputs, width), nn.Tanh(), nn.Linear(width, num_outputs))

            def forward(self, x):
                return self.layers(x)
        """)
    )
    asked = "--quiet sweep rows.csv --target y --model net.py:Net --over lr=0.01,0.02 --over model.width=2,3 --epochs 1 --folder 'my runs'"
    run = lambda words: subprocess.run([sys.executable, "-m", "fivestep", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)  # noqa: E731
    stopped = run(shlex.split(asked))
    assert stopped.returncode == 143 and "Stopped by SIGTERM" in stopped.stderr, stopped.stderr
    program, *words = shlex.split(stopped.stderr.split("go on with: ")[1])
    again = run(words)
    assert program == "fivestep" and again.returncode == 0, again.stderr
    assert "4 trainings" in again.stdout and len(list((tmp_path / "my runs").glob("sweep-*/sweep.json"))) == 1


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
    other = ["fit", "rows.csv", "--target", "y", "--model", "linear", "--epochs", "1", "--name", "other", "--quiet"]
    assert subprocess.run([*command, *other], cwd=tmp_path, capture_output=True, timeout=300).returncode == 0
    compared = subprocess.run([*command, "compare", told["best"], "runs/other", "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert compared.returncode == 0, compared.stderr
    assert json.loads(compared.stdout)["metric"] == "loss" and len(json.loads(compared.stdout)["rows"]) == 2


@pytest.mark.parametrize("kind", ["auto", "lr", "parallel", "time"])
def test_a_sweep_draws_its_pictures(splits: Any, kind: str) -> None:
    found = fs.sweep(Net, splits, {"lr": [0.01, 0.1], "model.width": [2, 3]}, seeds=2, epochs=1, **QUIET)
    assert found.plot(kind).axes[0].get_ylabel()
    with pytest.raises(fs.UsageError, match="not known"):
        found.plot("cake")


def test_the_front_of_score_against_time_is_the_one_found_by_hand_in_table_and_picture(splits: Any) -> None:
    found = fs.sweep("linear", splits, {"lr": [0.01, 0.02, 0.03, 0.04, 0.05]}, epochs=1, checks=False, **QUIET)
    # 0: the best. 1: worse, faster. 2: worse and slower than 1. 3: the fastest, as good as 1, which it so beats. 4: as fast as 0, worse than it.
    scores, seconds = (1.0, 2.0, 3.0, 2.0, 1.5), (9.0, 5.0, 6.0, 4.0, 9.0)
    found.trials = [replace(trial, value=score, resampled=None, seconds=time) for trial, score, time in zip(found.trials, scores, seconds)]
    on_front = dict(zip(found.table["variant"], found.table["pareto"]))
    assert on_front == {0: True, 1: False, 2: False, 3: True, 4: False}
    axes = found.plot("time").axes[0]
    assert sorted(tuple(line.get_xydata()[0]) for line in axes.lines[1:]) == [(4.0, 2.0), (9.0, 1.0)]
    assert "seconds" in axes.get_xlabel() and "lower is better" in axes.get_ylabel()


def test_pictures_have_the_houses_colours_and_scales_that_fit_the_factors(splits: Any) -> None:
    from fivestep.experiments.plots import factor_heights
    from fivestep.figures import COLOURS

    found = fs.sweep(Net, splits, {"lr": [0.01, 0.1], "model.width": [2, 3]}, epochs=1, checks=False, **QUIET)
    axes = found.plot("lr").axes[0]
    assert {line.get_color() for line in axes.lines} <= set(COLOURS) and axes.get_xscale() == "log"
    assert (
        factor_heights([0.001, 0.01, 0.1]) == pytest.approx([0, 0.5, 1]) and factor_heights([1, 2, 3]) == [0, 0.5, 1] and factor_heights(["b", "a"]) == [0, 1]
    )


def test_a_refused_sweep_leaves_no_folder_behind(splits: Any, tmp_path: Path) -> None:
    for stack in (True, False):
        with pytest.raises(fs.errors.FivestepError):
            fs.sweep("mlp", splits, {"lr": [0.01, 0.1]}, optimizer="NoSuch", stack=stack, epochs=1, quiet=True, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_sweeps_folder_of_another_version_is_told_as_such(splits: Any, tmp_path: Path) -> None:
    from fivestep.experiments.sweeps import read_sweep

    found = fs.sweep("linear", splits, {"lr": [0.01, 0.1]}, epochs=1, quiet=True, folder=tmp_path)
    assert found.folder is not None
    trial = next((found.folder / "trials").iterdir())
    trial.write_text(trial.read_text().replace('"resampled"', '"other"'))
    with pytest.raises(fs.errors.ArtifactError, match="another version"):
        read_sweep(found.folder)
    table = found.folder / "sweep.json"
    table.write_text(table.read_text().replace('"fold_ratio"', '"other"'))
    with pytest.raises(fs.errors.ArtifactError, match="no fold_ratio"):
        read_sweep(found.folder)
