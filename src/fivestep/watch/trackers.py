"""Observers that write a run where TensorBoard or MLflow shows it. Events enter; files or a tracking server's records leave; the run is not touched.

An observer is a function of one event, so these two are functions that return one: `fs.fit(..., observers=[fs.watch.tensorboard("logs")])`. Both packages are
optional (`pip install 'fivestep[track]'`), and neither one's global state (an active run, a tracking address) is changed. One observer may see many runs, one
after another (a grid search, a sweep with stack=False): each has a log of its own, and a resumed run goes on in the log whose settings are its own.
"""

from __future__ import annotations

import itertools
import math
import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fivestep.errors import UsageError
from fivestep.train.events import EpochEnded, RunEnded, RunStarted

Observer = Callable[[Any], None]
STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}  # how MLflow calls the ends of a run
# What may be another when a run is resumed: `resume` takes these anew, and knows the run's own folder where `fit` knew the one it was made in.
MAY_DIFFER = {"epochs", "folder", "compile", "checkpoint", "keep_checkpoints", "on_checkpoint_error"}


def tensorboard(folder: str | Path) -> Observer:
    """An observer that writes losses, metrics, learning rates and settings to `folder`, one point an epoch; `tensorboard --logdir FOLDER` shows them.

    Where `folder` holds a log already, a new run is logged beside it: in `folder/2`, `folder/3` and so on. A resumed run goes on in the newest of these logs
    whose settings (and name, where `fit` was given one) are its own; epochs that it trains again replace what stood there. Raises UsageError where tensorboard
    is not installed, and at the start of a stacked sweep, whose trainings share one loop.

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
            refuse_stacked(event, "tensorboard")
            again = is_resumed(event)
            log = (log_of(event, Path(folder)) if again else None) or free_log(folder)
            # Purging hides what a killed run wrote after its checkpoint; for a new run it would hide another run that stands in this folder.
            writer = SummaryWriter(str(log), purge_step=event.start_epoch + 1 if again else None)
            writer.add_text("settings", settings_text(event), event.start_epoch)
            writer.flush()  # by its settings a run that is killed in its first epoch finds this log again
        elif isinstance(event, EpochEnded):
            for name, value in scalars(event).items():
                writer.add_scalar(name, value, event.epoch)
            writer.flush()  # a run that is killed has written all epochs that ended
        elif isinstance(event, RunEnded) and writer is not None:
            kept = f"; kept epoch {event.kept_epoch}" if event.status == "done" else ""
            writer.add_text("ended", f"{event.status}: {event.reason}{kept}", event.epoch)
            writer.close()
            writer = None  # a later run that fails before it starts has no log, and this one has ended

    return see


def mlflow(experiment: str = "fivestep", *, uri: str | None = None, name: str | None = None, run_id: str | None = None) -> Observer:
    """An observer that records settings, losses, metrics and learning rates as a run of an MLflow experiment, one point an epoch.

    `uri` is the tracking server, or a folder as "file:///..." (MLflow 3 wants MLFLOW_ALLOW_FILE_STORE=true for that; None: MLflow's own default), `name` the
    run's name there (None: that of the run's folder where the settings tell it, else the model's with random digits); `run_id` goes on in a run that is there,
    for `fs.resume`. Every fit is a run of its own, and one that is resumed under the observer which began it goes on. Stopped by a signal it ends as KILLED,
    failed as FAILED, and gone on with it is RUNNING again. Infinite and NaN values are left out, as not every store takes them, and characters which
    MLflow refuses in names are "_". Raises UsageError where mlflow is not installed, and at the start of a stacked sweep, whose trainings share one loop.

    >>> fs.fit(Net, splits, observers=[fs.watch.mlflow("houses", uri="http://localhost:5000")])  # doctest: +SKIP
    """
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
    except ImportError as error:
        raise UsageError("fs.watch.mlflow needs the package mlflow-skinny: pip install 'fivestep[track]'.") from error
    client = MlflowClient(tracking_uri=uri)
    begun: list[tuple[str, str]] = []  # (settings, id) of each run that this observer has begun
    run: Any = None

    def see(event: Any) -> None:
        nonlocal run
        if isinstance(event, RunStarted):
            refuse_stacked(event, "mlflow")
            run = run_id or next((one for told, one in reversed(begun) if is_resumed(event) and is_same_run(told, settings_text(event))), None)
            if run is not None:
                client.update_run(run, "RUNNING")
                return
            known = client.get_experiment_by_name(experiment)
            # MLflow would draw a name from Python's `random`, which the run has seeded: all runs of a seed would have the same one.
            called = name or run_name(event) or f"{event.facts.get('model', 'run')}-{secrets.token_hex(3)}"
            run = client.create_run(client.create_experiment(experiment) if known is None else known.experiment_id, run_name=called).info.run_id
            begun.append((settings_text(event), run))
            settings = settings_of(event)
            keys = mlflow_keys(settings)
            client.log_batch(run, params=[Param(keys[key], str(value)[:500]) for key, value in settings.items()])
        elif isinstance(event, EpochEnded):
            now, values = milliseconds(), scalars(event)
            keys = mlflow_keys(values)
            client.log_batch(run, [Metric(keys[key], value, now, event.epoch) for key, value in values.items() if math.isfinite(value)])
        elif isinstance(event, RunEnded) and run is not None:
            if event.status == "done":
                client.set_tag(run, "kept_epoch", str(event.kept_epoch))
            client.set_tag(run, "ended", event.reason)
            client.set_terminated(run, STATUS[event.status])
            run = None  # a later run that fails before it starts is no end of this one

    return see


# -- whose events they are -------------------------------------------------------------------------------------------------------------------------------------


def refuse_stacked(event: RunStarted, tracker: str) -> None:
    """Raises UsageError for the events of a stack: a run's start tells its settings, and the members of a stack start without any."""
    if not event.facts:
        raise UsageError(
            f"A stacked sweep trains many models in one loop, and its events are of all of them without saying of which: fs.watch.{tracker} would mix their "
            "epochs in one log. For one log each give stack=False to fs.sweep or fs.cross_validate, or leave the observer out."
        )


def is_resumed(event: RunStarted) -> bool:
    """Whether the run goes on from a checkpoint. In its first epoch only the folder tells: `resume` gives the run's own, `fit` the one that it is made in."""
    folder = event.facts.get("folder")
    return event.start_epoch > 0 or (folder is not None and (Path(folder) / "settings.json").is_file())


def run_name(event: RunStarted) -> str | None:
    """The name of the run's folder, None where the settings do not tell it: the folder of a new run without name= gets a number."""
    given, folder = event.facts.get("name"), event.facts.get("folder")
    return Path(folder).name if given is None and folder is not None and is_resumed(event) else given


def settings_of(event: RunStarted) -> dict[str, Any]:
    """The settings by dotted names, with the run's name where it is known."""
    name = run_name(event)
    return flat(event.facts if name is None else event.facts | {"name": name})


def settings_text(event: RunStarted) -> str:
    return "\n".join(f"- `{name}`: {value}" for name, value in settings_of(event).items())


def is_same_run(one: str, other: str) -> bool:
    """Whether two texts of settings can be of one run: all that both tell and that stays when a run is resumed is equal."""
    first, second = (dict(re.findall(r"^- `(.+?)`: (.*)$", text, re.MULTILINE)) for text in (one, other))
    return all(first[key] == second[key] for key in first.keys() & second.keys() if key.partition(".")[0] not in MAY_DIFFER)


# -- where they are logged -------------------------------------------------------------------------------------------------------------------------------------


def free_log(folder: str | Path) -> str | Path:
    """`folder` itself where nothing is logged in it yet, else a new folder in it, named by the next free number from 2 on."""
    if not event_files(Path(folder)):
        return folder
    for number in itertools.count(2):
        try:
            (Path(folder) / str(number)).mkdir()  # fails where it is there: another process may look for a number at the same moment
        except FileExistsError:
            continue
        break
    return Path(folder) / str(number)


def log_of(event: RunStarted, folder: Path) -> Path | None:
    """The newest log in `folder` that may be of the run that is resumed; None where none is."""
    numbered = sorted((path for path in folder.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name), reverse=True)
    for path in [*numbered, folder]:
        told = next((text for file in event_files(path) if (text := logged_settings(file)) is not None), None)
        if told is not None and is_same_run(told, settings_text(event)):
            return path
    return None


def event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def logged_settings(file: Path) -> str | None:
    """The text of settings in one of TensorBoard's files; None where it has none."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = (value for event in EventFileLoader(str(file)).Load() for value in event.summary.value if value.tag == "settings/text_summary")
    text = next(found, None)
    return None if text is None else text.tensor.string_val[0].decode()


def mlflow_keys(names: Iterable[str]) -> dict[str, str]:
    """Each name as MLflow takes it, all of them different: what it refuses is "_", and of names that would become equal the later ones get a number.

    MLflow takes letters, digits, "_", "-", ".", ":", spaces and "/", no path that would resolve to another one, and 250 characters.

    >>> mlflow_keys(["groups.*bias*.lr", "groups.+bias+.lr", "metric/within 5 %"])
    {'groups.*bias*.lr': 'groups._bias_.lr', 'groups.+bias+.lr': 'groups._bias_.lr_2', 'metric/within 5 %': 'metric/within 5 _'}
    """
    allowed = {name: "/".join(part if part.strip(".") else "_" for part in re.sub(r"[^\w\-.: /]", "_", name).split("/"))[:240] for name in names}
    taken: set[str] = set()
    keys = dict(allowed)
    for name in sorted(allowed, key=lambda name: allowed[name] != name):  # first those that stay as they are
        number = 2
        while keys[name] in taken:
            keys[name], number = f"{allowed[name]}_{number}", number + 1
        taken.add(keys[name])
    return keys


# -- what they tell --------------------------------------------------------------------------------------------------------------------------------------------


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
