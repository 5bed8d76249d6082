"""Observers that write a run where TensorBoard or MLflow shows it. Events enter; files or a tracking server's records leave; the run is not touched.

An observer is a function of one event, so these two are functions that return one: `fs.fit(..., observers=[fs.watch.tensorboard("logs")])`. Both packages are
optional (`pip install 'fivestep[track]'`), and neither one's global state (an active run, a tracking address) is changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fivestep.errors import UsageError
from fivestep.train.events import EpochEnded, RunEnded, RunStarted

Observer = Callable[[Any], None]
STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}  # how MLflow calls the ends of a run


def tensorboard(folder: str | Path) -> Observer:
    """An observer that writes losses, metrics, learning rates and settings to `folder`, one point an epoch; `tensorboard --logdir FOLDER` shows them.

    A resumed run goes on in the same folder: epochs that it trains again replace what stood there. Raises UsageError where tensorboard is not installed.

    >>> fs.fit(Net, splits, observers=[fs.watch.tensorboard("logs/first")])  # doctest: +SKIP
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("fs.watch.tensorboard needs the package tensorboard: pip install 'fivestep[track]'.") from error
    writer: Any = None

    def see(event: Any) -> None:
        nonlocal writer
        if isinstance(event, RunStarted):
            writer = SummaryWriter(str(folder), purge_step=event.start_epoch + 1)  # what a killed run wrote after its checkpoint
            writer.add_text("settings", "\n".join(f"- `{name}`: {value}" for name, value in flat(event.facts).items()), event.start_epoch)
        elif isinstance(event, EpochEnded):
            for name, value in scalars(event).items():
                writer.add_scalar(name, value, event.epoch)
            writer.flush()  # a run that is killed has written all epochs that ended
        elif isinstance(event, RunEnded) and writer is not None:
            kept = f"; kept epoch {event.kept_epoch}" if event.status == "done" else ""
            writer.add_text("ended", f"{event.status}: {event.reason}{kept}", event.epoch)
            writer.close()

    return see


def mlflow(experiment: str = "fivestep", *, uri: str | None = None, name: str | None = None, run_id: str | None = None) -> Observer:
    """An observer that records settings, losses, metrics and learning rates as a run of an MLflow experiment, one point an epoch.

    `uri` is the tracking server, or a folder as "file:///..." (MLflow 3 wants MLFLOW_ALLOW_FILE_STORE=true for that; None: MLflow's own default), `name` the run's name there; `run_id` goes on in a run that is there, for `fs.resume`.
    A run that is stopped by a signal ends as KILLED, one that fails as FAILED, and gone on with it is RUNNING again. Infinite and NaN values are left out, as not every store takes them. Raises UsageError where mlflow is not installed.

    >>> fs.fit(Net, splits, observers=[fs.watch.mlflow("houses", uri="http://localhost:5000")])  # doctest: +SKIP
    """
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
    except ImportError as error:
        raise UsageError("fs.watch.mlflow needs the package mlflow-skinny: pip install 'fivestep[track]'.") from error
    client = MlflowClient(tracking_uri=uri)
    run: Any = run_id

    def see(event: Any) -> None:
        nonlocal run
        if isinstance(event, RunStarted) and run_id is not None:
            client.update_run(run_id, "RUNNING")
        elif isinstance(event, RunStarted) and run is None:
            known = client.get_experiment_by_name(experiment)
            run = client.create_run(client.create_experiment(experiment) if known is None else known.experiment_id, run_name=name).info.run_id
            client.log_batch(run, params=[Param(key, str(value)[:500]) for key, value in flat(event.facts).items()])
        elif isinstance(event, EpochEnded):
            now = milliseconds()
            client.log_batch(run, [Metric(key.replace(",", " "), value, now, event.epoch) for key, value in scalars(event).items() if math.isfinite(value)])
        elif isinstance(event, RunEnded) and run is not None:
            if event.status == "done":
                client.set_tag(run, "kept_epoch", str(event.kept_epoch))
            client.set_tag(run, "ended", event.reason)
            client.set_terminated(run, STATUS[event.status])

    return see


def scalars(event: EpochEnded) -> dict[str, float]:
    """What an epoch is told by, named as both programs group it: `loss/train`, `loss/validation`, `metric/mae`, `lr`."""
    found = {"loss/train": event.train_loss, "loss/validation": event.val_loss, "loss/test": event.test_loss}
    kept = {name: float(value) for name, value in found.items() if value is not None}
    kept |= {f"metric/{name}": float(value) for name, value in event.metrics.items()}
    kept |= {"lr" if len(event.lr) == 1 else f"lr/{place}": value for place, value in enumerate(event.lr)}
    return kept | {"seconds": event.seconds}


def flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings with dotted names.

    >>> flat({"optimizer": {"name": "SGD"}, "epochs": 3})
    {'optimizer.name': 'SGD', 'epochs': 3}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def milliseconds() -> int:
    import time

    return int(time.time() * 1000)
