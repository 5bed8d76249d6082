"""What TensorBoard and MLflow are given is read back with their own readers and is what the run's history says."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fivestep as fs


def fitted(observer: Callable[[Any], None] | None, **settings: Any) -> Any:
    x = torch.linspace(0, 1, 100)[:, None]
    splits = fs.Data.arrays(x, 3 * x + 1).split()
    given = {"epochs": 5, "folder": None, "metrics": ["mae"], "lr": 0.01, "optimizer": {"name": "SGD", "momentum": 0.5}, "scheduler": "ConstantLR"}
    return fs.fit("linear", splits, quiet=True, **(given | {"observers": [] if observer is None else [observer]} | settings))


def points_of_tensorboard(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    points = {name: [(event.step, event.value) for event in read.Scalars(name)] for name in read.Tags()["scalars"]}
    texts = [read.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in read.Tags()["tensors"]]
    return points, "\n".join(texts)


def points_of_mlflow(uri: str, experiment: str, name: str) -> tuple[dict[str, list[tuple[int, float]]], Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([known.experiment_id], filter_string=f"tags.mlflow.runName = '{name}'")
    keys = run.data.metrics
    return {key: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)] for key in keys}, run


def events_of_tensorboard(folder: Path) -> list[Any]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [event for file in folder.glob("events.out.*") for event in EventFileLoader(str(file)).Load()]


def runs_of_mlflow(uri: str, experiment: str) -> list[Any]:
    """All runs of an experiment, the first one first."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(experiment)
    return list(client.search_runs([known.experiment_id], order_by=["attributes.start_time ASC"]))


def expected(history: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    names = {"loss/train": "train_loss", "loss/validation": "val_loss", "metric/mae": "mae"}
    found = {name: [(row["epoch"], pytest.approx(row[key])) for row in history] for name, key in names.items()}
    return found | {"lr": [(row["epoch"], pytest.approx(row["lr"][0])) for row in history]}


def test_tensorboard_reads_back_the_history_and_the_settings(tmp_path: Path) -> None:
    run = fitted(fs.watch.tensorboard(tmp_path))
    points, texts = points_of_tensorboard(tmp_path)
    assert {name: values for name, values in points.items() if name != "seconds"} == expected(run.history)
    assert "`optimizer.arguments.momentum`: 0.5" in texts and "kept epoch" in texts


def names_and_steps(logs: Path) -> dict[str, list[int]]:
    """The steps of each log that TensorBoard shows below a folder, by its place there."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    read = EventMultiplexer().AddRunsFromDirectory(str(logs))
    read.Reload()
    return {name: [event.step for event in read.Scalars(name, "loss/train")] for name in read.Runs()}


def killed_after(epoch: int, folder: Path, name: str | None, observer: Callable[[Any], None], **settings: Any) -> None:
    """A run with a checkpoint after each epoch but the last that its log holds."""

    def killed(event: Any) -> None:
        if type(event).__name__ == "EpochEnded" and event.epoch == epoch:
            raise MemoryError("the machine is gone")

    with pytest.raises(MemoryError):
        fitted(None, folder=folder, name=name, checkpoint="epoch", observers=[observer, killed], **settings)


def resumed(folder: Path, observer: Callable[[Any], None]) -> Any:
    # TensorBoard reads a log's files in the order of their names, which hold whole seconds and then, in one process, a number: "10" comes before "9".
    time.sleep(1)
    x = torch.linspace(0, 1, 100)[:, None]
    return fs.resume(folder, splits=fs.Data.arrays(x, 3 * x + 1).split(), observers=[observer], quiet=True)


def test_epochs_that_a_resumed_run_trains_again_stand_in_tensorboard_once(tmp_path: Path) -> None:
    def killed(event: Any) -> None:
        if getattr(event, "epoch", 0) == 3:
            raise MemoryError("the machine is gone")

    x = torch.linspace(0, 1, 100)[:, None]
    splits = fs.Data.arrays(x, 3 * x + 1).split()
    logs, runs = tmp_path / "logs", tmp_path / "runs"
    with pytest.raises(MemoryError):  # the newest checkpoint is the start, and three epochs are in the log
        fs.fit("linear", splits, lr=0.01, epochs=5, checkpoint=1000, folder=runs, name="a", quiet=True, observers=[fs.watch.tensorboard(logs), killed])
    run = resumed(runs / "a", fs.watch.tensorboard(logs))
    points, _ = points_of_tensorboard(logs)
    assert points["loss/train"] == [(row["epoch"], pytest.approx(row["train_loss"])) for row in run.history]
    assert len(run.history) == 5


@pytest.mark.parametrize("observers", ["one", "two"])
def test_a_second_run_into_one_folder_is_logged_beside_the_first(tmp_path: Path, observers: str) -> None:
    first = fs.watch.tensorboard(tmp_path)
    second = first if observers == "one" else fs.watch.tensorboard(tmp_path)
    runs = [fitted(observer, epochs=epochs, seed=epochs) for observer, epochs in ((first, 3), (second, 2), (second, 4))]
    for run, folder in zip(runs, (tmp_path, tmp_path / "2", tmp_path / "3")):
        points, texts = points_of_tensorboard(folder)
        assert points["loss/train"] == expected(run.history)["loss/train"] and f"`epochs`: {len(run.history)}" in texts
        assert not any(event.HasField("session_log") for event in events_of_tensorboard(folder))  # by which one that is resumed hides what stood there
    assert names_and_steps(tmp_path) == {".": [1, 2, 3], "2": [1, 2], "3": [1, 2, 3, 4]}


@pytest.mark.parametrize("name", ["a", None])
def test_a_resumed_run_goes_on_in_its_own_log_and_leaves_later_ones_alone(tmp_path: Path, name: str | None) -> None:
    logs, runs = tmp_path / "logs", tmp_path / "runs"
    killed_after(3, runs, name, fs.watch.tensorboard(logs), seed=1)
    killed_after(3, runs, "b", fs.watch.tensorboard(logs), seed=2)
    fitted(fs.watch.tensorboard(logs), epochs=4, seed=3)
    run = resumed(runs / (name or "linear-0001"), fs.watch.tensorboard(logs))
    assert names_and_steps(logs) == {".": [1, 2, 3, 4, 5], "2": [1, 2, 3], "3": [1, 2, 3, 4]}
    assert points_of_tensorboard(logs)[0]["loss/train"] == expected(run.history)["loss/train"]
    resumed(runs / "b", fs.watch.tensorboard(logs))
    assert names_and_steps(logs) == {".": [1, 2, 3, 4, 5], "2": [1, 2, 3, 4, 5], "3": [1, 2, 3, 4]}


def test_a_resumed_run_that_was_never_logged_gets_a_log_of_its_own(tmp_path: Path) -> None:
    logs, runs = tmp_path / "logs", tmp_path / "runs"
    killed_after(3, runs, "a", lambda event: None, seed=1)
    fitted(fs.watch.tensorboard(logs), epochs=4, seed=2)
    resumed(runs / "a", fs.watch.tensorboard(logs))
    assert names_and_steps(logs) == {".": [1, 2, 3, 4], "2": [3, 4, 5]}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
@pytest.mark.parametrize("over", ["variants", "folds"])
def test_a_stacked_sweep_is_refused_at_its_start_and_stack_false_gives_each_training_a_log(tmp_path: Path, tracking: str, tracker: str, over: str) -> None:
    x = torch.linspace(0, 1, 100)[:, None]
    data = fs.Data.arrays(x, 3 * x + 1)
    observer = fs.watch.tensorboard(tmp_path / "logs") if tracker == "tensorboard" else fs.watch.mlflow("swept", uri=tracking)

    def swept(stack: bool) -> None:
        given = dict(epochs=2, optimizer="SGD", folder=tmp_path / "runs", quiet=True, observers=[observer], stack=stack)
        if over == "variants":
            fs.sweep("linear", data.split(), {"lr": [0.01, 0.02, 0.03]}, **given)
        else:
            fs.cross_validate("linear", data, folds=3, lr=0.01, **given)

    with pytest.raises(fs.UsageError, match=f"many models in one loop.*watch.{tracker}.*stack=False"):
        swept(stack=True)
    assert not (tmp_path / "logs").exists() and not any((tmp_path / "runs").iterdir())
    swept(stack=False)
    if tracker == "tensorboard":
        assert names_and_steps(tmp_path / "logs") == {".": [1, 2], "2": [1, 2], "3": [1, 2]}
    else:
        assert [run.info.status for run in runs_of_mlflow(tracking, "swept")] == ["FINISHED"] * 3


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder as tracking store: mlflow-skinny has no database."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 wants to be asked for it
    return (tmp_path / "mlruns").as_uri()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mlflow_reads_back_the_history_and_the_settings(tracking: str) -> None:
    run = fitted(fs.watch.mlflow("lines", uri=tracking, name="first"))
    points, recorded = points_of_mlflow(tracking, "lines", "first")
    assert {name: values for name, values in points.items() if name != "seconds"} == expected(run.history)
    assert recorded.data.params["optimizer.arguments.momentum"] == "0.5" and recorded.data.params["epochs"] == "5"
    assert recorded.info.status == "FINISHED" and recorded.data.tags["kept_epoch"] == str(run.best["epoch"])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mlflow_takes_further_runs_and_goes_on_in_one_by_its_id(tracking: str) -> None:
    fitted(fs.watch.mlflow("lines", uri=tracking, name="first"), epochs=1)
    fitted(fs.watch.mlflow("lines", uri=tracking, name="second"), epochs=2)
    _, first = points_of_mlflow(tracking, "lines", "first")
    fitted(fs.watch.mlflow("lines", uri=tracking, run_id=first.info.run_id), epochs=2)
    points, _ = points_of_mlflow(tracking, "lines", "first")
    assert sorted(step for step, _ in points["loss/train"]) == [1, 1, 2]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_one_mlflow_observer_makes_a_run_of_each_fit_and_a_resumed_one_goes_on_in_its_own(tracking: str, tmp_path: Path) -> None:
    observer = fs.watch.mlflow("lines", uri=tracking)
    killed_after(3, tmp_path, "a", observer, seed=1)
    fitted(observer, folder=tmp_path, name="b", epochs=2, seed=2)
    points, second = points_of_mlflow(tracking, "lines", "b")
    assert sorted(points["loss/train"])[0][0] == 1 and len(points["loss/train"]) == 2 and second.data.params["seed"] == "2"
    assert [(run.info.run_name, run.info.status) for run in runs_of_mlflow(tracking, "lines")] == [("a", "FAILED"), ("b", "FINISHED")]
    resumed(tmp_path / "a", observer)
    points, first = points_of_mlflow(tracking, "lines", "a")
    assert sorted({step for step, _ in points["loss/train"]}) == [1, 2, 3, 4, 5] and first.data.params["seed"] == "1"
    assert [(run.info.run_name, run.info.status) for run in runs_of_mlflow(tracking, "lines")] == [("a", "FINISHED"), ("b", "FINISHED")]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_fit_that_fails_before_it_starts_does_not_end_the_run_before_it_again(tracking: str, tmp_path: Path) -> None:
    def refuses(event: Any) -> None:
        if isinstance(event, fs.watch.RunStarted):
            raise ValueError("no start")

    for observer in (fs.watch.mlflow("lines", uri=tracking), fs.watch.tensorboard(tmp_path / "logs")):
        fitted(observer, epochs=1)
        with pytest.raises(ValueError, match="no start"):
            fitted(None, epochs=1, observers=[refuses, observer])
    (run,) = runs_of_mlflow(tracking, "lines")
    assert run.info.status == "FINISHED" and "no start" not in run.data.tags["ended"]
    assert len(list((tmp_path / "logs").iterdir())) == 1  # a closed log that is written to again gets a second file


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_names_that_mlflow_refuses_are_told_with_underscores_and_stay_apart(tracking: str) -> None:
    within = {f"within {share} {sign}": lambda outputs, targets, share=share: float(share) for share, sign in ((5, "%"), (10, "%"))}
    clash = {"a%": lambda outputs, targets: 1.0, "a_": lambda outputs, targets: 2.0, "a,": lambda outputs, targets: 3.0, "b//c": lambda outputs, targets: 4.0}
    groups = {"*bias*": {"weight_decay": 0.0}, "*weight*": {"lr": 0.02}}
    run = fitted(fs.watch.mlflow("lines", uri=tracking, name="first"), epochs=2, validate_every=2, metrics=within | clash, groups=groups)
    points, recorded = points_of_mlflow(tracking, "lines", "first")
    assert recorded.data.params["groups._bias_.weight_decay"] == "0.0" and recorded.data.params["groups._weight_.lr"] == "0.02"
    told = {key.removeprefix("metric/"): values for key, values in points.items() if key.startswith("metric/")}
    names = {"within 5 _": "within 5 %", "within 10 _": "within 10 %", "a_": "a_", "a__2": "a%", "a__3": "a,", "b/_/c": "b//c"}
    assert told == {key: [(2, run.history[-1][name])] for key, name in names.items()}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mlflow_runs_are_named_by_the_folder_or_each_by_itself_and_no_random_state_moves(tracking: str, tmp_path: Path) -> None:
    fitted(fs.watch.mlflow("lines", uri=tracking), epochs=1, folder=tmp_path, name="houses-a")
    for _ in range(3):  # one seed
        fitted(fs.watch.mlflow("lines", uri=tracking), epochs=1)
    names = [run.info.run_name for run in runs_of_mlflow(tracking, "lines")]
    assert names[0] == "houses-a" and len(set(names)) == 4 and all(name.startswith("linear-") for name in names[1:])
    before = random.getstate()
    fs.watch.mlflow("lines", uri=tracking)(fs.watch.RunStarted(1, 1, facts={"model": "linear"}))
    assert random.getstate() == before


def ended_early(observer: Callable[[Any], None], by: BaseException | int, folder: Path) -> None:
    """A run that in its third epoch gets a signal (a number), or whose observer raises."""

    def see(event: Any) -> None:
        if type(event).__name__ == "EpochEnded" and event.epoch == 3:
            if isinstance(by, BaseException):
                raise by
            os.kill(os.getpid(), by)

    with pytest.raises(type(by) if isinstance(by, BaseException) else fs.Interrupted):
        fitted(observer, folder=folder, name="a", observers=[see, observer])


ENDS = [
    (signal.SIGTERM, "stopped", "KILLED", "SIGTERM"),
    (signal.SIGINT, "stopped", "KILLED", "SIGINT"),
    (ValueError("no luck"), "failed", "FAILED", "no luck"),
]


@pytest.mark.parametrize("by, status, ended, told", ENDS, ids=["SIGTERM", "Ctrl-C", "error"])
def test_a_run_that_is_stopped_or_fails_closes_its_tensorboard_log_and_says_so(tmp_path: Path, by: Any, status: str, ended: str, told: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ended_early(fs.watch.tensorboard(tmp_path / "logs"), by, tmp_path)
    read = EventAccumulator(str(tmp_path / "logs"))
    read.Reload()
    (last,) = [event.tensor_proto.string_val[0].decode() for event in read.Tensors("ended/text_summary")]
    assert last.startswith(f"{status}: ") and told in last and "kept epoch" not in last


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("by, status, ended, told", ENDS, ids=["SIGTERM", "Ctrl-C", "error"])
def test_a_run_that_is_stopped_or_fails_is_told_to_mlflow_and_runs_again_when_resumed(
    tracking: str, tmp_path: Path, by: Any, status: str, ended: str, told: str
) -> None:
    ended_early(fs.watch.mlflow("lines", uri=tracking, name="first"), by, tmp_path)
    _, recorded = points_of_mlflow(tracking, "lines", "first")
    assert recorded.info.status == ended and told in recorded.data.tags["ended"] and "kept_epoch" not in recorded.data.tags
    if status == "stopped":
        x = torch.linspace(0, 1, 100)[:, None]
        seen = []
        observers = [fs.watch.mlflow("lines", uri=tracking, run_id=recorded.info.run_id), lambda event: seen.append(status_now())]

        def status_now() -> str:
            return points_of_mlflow(tracking, "lines", "first")[1].info.status

        fs.resume(tmp_path / "a", splits=fs.Data.arrays(x, 3 * x + 1).split(), observers=observers, quiet=True)
        assert seen[0] == "RUNNING" and seen[-1] == "FINISHED"


def test_watching_changes_no_bit(tmp_path: Path) -> None:
    assert fitted(fs.watch.tensorboard(tmp_path)).weights_sha256 == fitted(None).weights_sha256


@pytest.mark.parametrize("package, call", [("tensorboard", "tensorboard('logs')"), ("mlflow", "mlflow()")])
def test_without_the_package_the_error_says_what_to_install(package: str, call: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None\nimport fivestep as fs\ntry: fs.watch.{call}\nexcept fs.UsageError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "fivestep[track]" in done.stdout, done.stderr
