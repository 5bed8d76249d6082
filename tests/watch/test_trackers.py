"""What TensorBoard and MLflow are given is read back with their own readers and is what the run's history says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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


def expected(history: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    names = {"loss/train": "train_loss", "loss/validation": "val_loss", "metric/mae": "mae"}
    found = {name: [(row["epoch"], pytest.approx(row[key])) for row in history] for name, key in names.items()}
    return found | {"lr": [(row["epoch"], pytest.approx(row["lr"][0])) for row in history]}


def test_tensorboard_reads_back_the_history_and_the_settings(tmp_path: Path) -> None:
    run = fitted(fs.watch.tensorboard(tmp_path))
    points, texts = points_of_tensorboard(tmp_path)
    assert {name: values for name, values in points.items() if name != "seconds"} == expected(run.history)
    assert "`optimizer.arguments.momentum`: 0.5" in texts and "kept epoch" in texts


def test_epochs_that_a_resumed_run_trains_again_stand_in_tensorboard_once(tmp_path: Path) -> None:
    def killed(event: Any) -> None:
        if getattr(event, "epoch", 0) == 3:
            raise MemoryError("the machine is gone")

    x = torch.linspace(0, 1, 100)[:, None]
    splits = fs.Data.arrays(x, 3 * x + 1).split()
    logs, runs = tmp_path / "logs", tmp_path / "runs"
    with pytest.raises(MemoryError):  # the newest checkpoint is the start, and three epochs are in the log
        fs.fit("linear", splits, lr=0.01, epochs=5, checkpoint=1000, folder=runs, name="a", quiet=True, observers=[fs.watch.tensorboard(logs), killed])
    run = fs.resume(runs / "a", splits=splits, observers=[fs.watch.tensorboard(logs)], quiet=True)
    points, _ = points_of_tensorboard(logs)
    assert points["loss/train"] == [(row["epoch"], pytest.approx(row["train_loss"])) for row in run.history]
    assert len(run.history) == 5


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
