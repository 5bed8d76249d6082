"""The one place that knows everybody: fit, evaluate, predict, check, load. Composition only; each step is done by the module that owns it.

One value walks through like this: file -> Table -> indices -> columns fitted on training rows -> Source -> batches -> the five steps -> history -> artifact.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace as replace_fields
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from torch import nn

from fivestep import seeds
from fivestep.checks.findings import Finding, Findings
from fivestep.errors import DataError, FindingsError, FivestepError, Interrupted, MissingInputError, NonFiniteError, SettingsError, UsageError
from fivestep.feeding import what_the_loss_refuses
from fivestep.locks import Lock
from fivestep.model import building, models
from fivestep.preparing import prepare
from fivestep.reproducing import class_again, environment_differs, prepare_from_start, read_kept
from fivestep.results import artifact as artifacts
from fivestep.results import runs
from fivestep.results.model import Model
from fivestep.results.run import Run, RunWithoutData
from fivestep.results.verifying import verify_path
from fivestep.resuming import prepare_again
from fivestep.session import Session
from fivestep.train import checkpoints, replaying, signals
from fivestep.train import epochs as training_epochs
from fivestep.train.events import RunEnded
from fivestep.watch import console


def fit(
    model: Any,
    splits: Any,
    *,
    model_args: dict[str, Any] | None = None,
    weights: Any = None,
    weights_strict: bool = True,
    freeze: Sequence[str] = (),
    groups: dict[str, dict[str, Any]] | None = None,
    loss: Any = "auto",
    class_weights: Any = None,
    output: Any = None,
    compute: Callable[..., Any] | None = None,
    step: Callable[..., Any] | None = None,
    optimizer: Any = "auto",
    lr: float | str | None = "auto",
    scheduler: Any = "auto",
    clip_norm: float | None = None,
    clip_value: float | None = None,
    average: Any = None,
    epochs: int | str = "auto",
    batch_size: int | str = "auto",
    shuffle: bool = True,
    part_size: int | None = None,
    batches: Callable[..., Any] | None = None,
    augment: Callable[..., Any] | None = None,
    precision: str = "float32",
    compile: str | None = None,
    metrics: Any = None,
    calibrate: bool | str = "auto",
    validate_every: int = 1,
    watch_test: bool = False,
    monitor: str = "loss",
    mode: str | None = None,
    patience: int | str | None = "auto",
    keep: str = "auto",
    checks: bool = True,
    ignore: Sequence[str] = (),
    seed: int = 0,
    device: str | torch.device = "auto",
    folder: str | Path | None = "runs",
    name: str | None = None,
    checkpoint: str | int | None = "5min",
    keep_checkpoints: int = 3,
    on_checkpoint_error: str = "stop",
    observers: Sequence[Callable[[Any], None]] = (),
    quiet: bool = False,
) -> Run:
    """Train `model` on `splits.train`, choose the epoch on `splits.val`, and return the run.

    `model` is an nn.Module (instance, class or function) or the name of a built-in ("linear", "mlp", "resnet", "cnn", "ensemble", "auto"). `"auto"` picks by a
    written rule and says what it picked; `None` means none. Raises FindingsError where a check finds an error, SettingsError, UsageError, DataError,
    NonFiniteError, Interrupted on a signal, and CannotCreateError or StorageError where its folder cannot be written.

    The model:

    - `model_args`: arguments of a class, a function or a built-in model, as a dict.
    - `weights`, `weights_strict`: a state_dict or file to begin with; False takes of it what fits.
    - `freeze`, `groups`: patterns of names of parameters that stay as they are, or have settings of their own: `{"body.*": {"lr": 1e-4}}`.

    The five steps:

    - `loss`: a name of torch.nn, a class, an instance or `f(outputs, targets)`; `class_weights`: one number a class, `{class: number}`, or "balanced".
    - `output`: which of the model's outputs the loss sees: a key, a place or a function.
    - `compute`: forward and loss in one, `f(model, inputs, targets)`; `step`: all five steps, `f(model, optimizers, inputs, targets)`, which returns a dict of numbers.
    - `optimizer`: a name of torch.optim, a class, a table with arguments, a function of the model, or several by patterns of names; "auto" is AdamW.
    - `lr`: a number, "auto" (by optimizer) or "find" (tried out on training rows).
    - `scheduler`: a name, a class, a table, a function, or a list of them in sequence; "auto" is none.
    - `clip_norm`, `clip_value`: the largest norm of all gradients together, the largest value of each entry.
    - `average`: "EMA", "SWA" or a table such as `{"name": "EMA", "decay": 0.999}`: averaged weights are validated, kept and saved.
    - `epochs`, `batch_size`: whole numbers, or "auto"; `batch_size="all"` takes all rows in each step.
    - `shuffle`: a new order of rows in each epoch, by seed; `batches`: your own, `f(epoch, generator)` gives the rows of each step.
    - `part_size`: how many rows of a batch are computed at once; the parts add up to the whole batch.
    - `augment`: `f(inputs, generator)`, or `{"shift": 2, "flip": True}` for images, on training batches alone; False: none, where `model="auto"` would choose.
    - `precision`: "float32", "bf16" or "fp16"; `compile`: "step", "epoch", "auto" or None (eager).

    Validation and the end:

    - `metrics`: names, functions `f(outputs, targets)` or a dict of them, in each validation; `monitor`, `mode`: what chooses the epoch, and "min" or "max".
    - `validate_every`: epochs between validations; `watch_test`: the test loss in the history too, each time counted as a look.
    - `patience`: validations without gain until the run ends; `keep`: "best" or "last", whose weights are kept.
    - `calibrate`: a temperature for probabilities, fitted on validation rows and kept where it helps; False: none.

    Around it:

    - `checks`, `ignore`: whether mistakes are looked for; codes of findings that are accepted.
    - `seed`, `device`: of all that is drawn; "auto" is CUDA where there is one, then MPS, else the CPU.
    - `folder`, `name`: where the run's folder is made (None: nothing is written), and its name.
    - `checkpoint`, `keep_checkpoints`: "5min", "epoch", a number of steps or None; how many stay. `on_checkpoint_error`: "stop" or "retry" when the disk fails.
    - `observers`, `quiet`: functions of one event; True shows no progress.

    >>> import torch, fivestep as fs
    >>> x = torch.arange(0, 1, 0.02)[:, None]
    >>> splits = fs.Data.arrays(x, 0.7 * x + 0.3).split(train=0.8, test=0.2, shuffle=False)
    >>> run = fs.fit(torch.nn.Linear(1, 1), splits, loss="L1Loss", optimizer="SGD", lr=0.01, epochs=3, folder=None, quiet=True)
    >>> len(run.history)
    3
    """
    arguments = dict(locals())
    before = seeds.capture()  # the global generators belong to the user: given back as they were found
    try:
        with stopped_by_signals(folder) as heard:
            if lr == "find":
                from fivestep.rates import find_rate

                rate, sentence, table = find_rate(arguments, defaults())
                arguments |= {"lr": rate, "rate_found": (sentence, table)}
            session = heard.session = prepare(arguments, defaults())
            with kept_on_disk(session) as keeper, console.shown(session.progress):
                with heard.polled_by(keeper), told_of_the_end(session, keeper), located_where_not_finite(session, keeper), told_what_the_loss_refuses(session):
                    training_epochs.train(session.training, session.plan)
                return finish(session, keeper)
    finally:
        seeds.restore(before)


def resume(folder: str | Path, *, epochs: int | None = None, allow_inexact: bool = False, **objects: Any) -> Run:
    """Go on with a run from its newest valid checkpoint; it ends in the same bits as if it had never stopped. `epochs` makes it longer.

    Settings, model and data come from the run's folder. What no folder can hold is given again under its name in `fit`: `splits=` where the data was not one
    file, `model=` where it was an instance or a notebook's class, `loss=`, `compute=`, `metrics=` and so on where they are your own functions and cannot be
    imported; also `observers=` and `quiet=`. On another torch, device or processor the bits may differ: then `allow_inexact=True` is needed. Raises
    MissingInputError where there is no valid checkpoint, DataError where the data has changed, SettingsError, LockedError.

    >>> fs.resume("runs/houses-0007", epochs=200)  # doctest: +SKIP
    """
    folder = Path(folder)
    recorded = runs.read_settings(folder)
    before, threads = seeds.capture(), torch.get_num_threads()
    with Lock(folder), stopped_by_signals(folder) as heard:
        try:
            settings, session, finished = prepare_again(folder, recorded, epochs, allow_inexact, objects, defaults())
            if finished:
                more = f"resume {folder} --epochs {2 * session.plan.epochs}"
                session.said.append(f"{folder} has finished: {session.training.epoch} epochs are done and nothing is left to do. To train longer: {more}")
                print(session.said[-1], file=sys.stderr)
                session.plan = replace_fields(session.plan, observers=())
                training_epochs.train(session.training, session.plan)
                return finish(session, save=False)
            if settings != recorded:
                runs.write(folder, "settings.json", settings.to_json())
            runs.rewrite_history(folder, session.training.history)
            with kept_on_disk(session, locked=True) as keeper, console.shown(session.progress):
                heard.session = session
                with heard.polled_by(keeper), told_of_the_end(session, keeper), located_where_not_finite(session, keeper):
                    training_epochs.train(session.training, session.plan)
                return finish(session, keeper)
        finally:
            seeds.restore(before)
            torch.set_num_threads(threads)


def defaults() -> dict[str, Any]:
    """The arguments of `fit` as they are where nothing is said."""
    return {name: parameter.default for name, parameter in inspect.signature(fit).parameters.items()}


class Heard:
    """What a signal finds: the session, once there is one, and the listener."""

    def __init__(self, listener: signals.Listener):
        self.listener = listener
        self.session: Session | None = None

    def polled_by(self, keeper: Any) -> contextlib.AbstractContextManager[None]:
        """While the keeper looks at each step's edge a signal only sets a flag; without a keeper nothing could be saved, and it ends the run at once."""
        if keeper is None:
            return contextlib.nullcontext()
        keeper.heard = self.listener
        return self.listener.polling()


@contextlib.contextmanager
def stopped_by_signals(folder: Any) -> Iterator[Heard]:
    """SIGTERM and SIGINT end what is inside with Interrupted, which says what stands and how to go on. Where nothing is written they are left
    to the caller: `folder=None` must not take Ctrl-C away from a notebook."""
    if folder is None:
        yield Heard(signals.Listener())
        return
    with signals.listening() as listener:
        heard = Heard(listener)
        try:
            yield heard
        except signals.StopSignal as stop:
            raise Interrupted(what_stands(heard.session, stop.number), exit_code=128 + stop.number) from None


def what_stands(session: Session | None, number: int) -> str:
    """The sentence for a signal that came before the first step, after the last one, or into a run without checkpoints."""
    name = Signals(number).name
    if session is None or session.folder is None:
        return f"Stopped by {name} before the first step; nothing was trained or lost. Start it again."
    training, parent = session.training, session.folder / "checkpoints"
    if session.arguments["checkpoint"] is not None and not any(path.name.removeprefix(checkpoints.PREFIX).isdigit() for path in parent.glob("*")):
        return (
            f"Stopped by {name} before the first step, and before its first checkpoint was whole; nothing was trained or lost. "
            f"Start it again, under another name: {session.folder} is taken."
        )
    if not parent.is_dir():
        return (
            f"Stopped by {name} after step {training.step}. Nothing of it was saved, as checkpoint=None. Start it again, with checkpoint='5min' for instance."
        )
    done = not training.unvalidated and (training.epoch >= session.plan.epochs or training.stopping.done)
    left = "Training is done, its scores and model are not saved yet" if done else f"It had come to step {training.step}"
    return f"Stopped by {name}. {left}; the checkpoints stand in {parent}. Go on with: fivestep resume {session.folder}"


@contextlib.contextmanager
def kept_on_disk(session: Session, *, locked: bool = False) -> Any:
    """Where the run has a folder: this process alone works on it, and checkpoints go there. Gives the `Keeper`, or None."""
    ask, folder = session.arguments, session.folder
    if folder is None:
        yield None
        return
    with contextlib.nullcontext() if locked else Lock(folder):
        if ask["checkpoint"] is None:
            yield None
            return
        facts = {"settings": checkpoints.settings_hash(session.settings.to_json()), "data": session.splits.fingerprint}
        keeper = checkpoints.Keeper(
            folder / "checkpoints", session.plan, checkpoint=ask["checkpoint"], keep=ask["keep_checkpoints"], on_error=ask["on_checkpoint_error"], facts=facts
        )
        keeper.begin(session.training)
        session.keepers.append(keeper)
        session.plan = replace_fields(session.plan, after_step=keeper.after_step, after_epoch=keeper.after_epoch)
        yield keeper


def check(model: Any, splits: Any, *, predict_rows: Any = None, **fit_settings: Any) -> list[Finding]:
    """The findings that `fit` would have before it trains: same arguments, nothing is trained or written, model, data and random state stay as they are.

    `predict_rows`, a matrix as the model would get it, are rows that are to be predicted: findings I01 and I02 tell where they lie elsewhere than the training
    rows, or have their columns in another order. Raises SettingsError and UsageError for arguments that mean nothing.

    >>> import torch, fivestep as fs
    >>> x = torch.arange(0, 1, 0.02)[:, None]
    >>> splits = fs.Data.arrays(x, x[:, 0]).split()  # targets (n,) beside outputs (n, 1)
    >>> [finding.code for finding in fs.check("linear", splits, loss="MSELoss") if finding.severity == "error"]
    ['L05']
    """
    allowed = defaults()
    for given in fit_settings:
        if given not in allowed:
            raise UsageError(f"check takes the arguments of fit; {given!r} is none of them.{building.nearest(given, allowed)}")
    arguments = allowed | fit_settings
    arguments |= dict(model=model, splits=splits, folder=None, quiet=True, predict_rows=predict_rows)
    arguments["lr"] = "auto" if arguments["lr"] == "find" else arguments["lr"]  # nothing is trained here
    import copy

    if isinstance(model, nn.Module):
        with contextlib.suppress(Exception):  # what cannot be copied is looked at as it is, in eval() and without gradients kept
            arguments["model"] = copy.deepcopy(model)
    with seeds.restored():
        try:
            session = prepare(arguments, allowed, only_check=True)
        except FindingsError as stopped:
            return Findings(stopped.findings)
        return Findings(session.findings)


@contextlib.contextmanager
def told_of_the_end(session: Session, keeper: Any) -> Iterator[None]:
    """Observers are told of the end of a run that did not come to its own: trackers close what they have opened, and show no run as running that is not."""
    training, started = session.training, time.perf_counter()

    def tell(status: str, reason: str) -> None:
        seconds = time.perf_counter() - started
        training_epochs.notify(session.plan, RunEnded(training.epoch, training.step, reason, training.epoch, seconds, status))

    try:
        yield
    except (KeyboardInterrupt, signals.StopSignal) as stop:
        tell("stopped", f"stopped by {Signals(stop.number).name if isinstance(stop, signals.StopSignal) else 'Ctrl-C'}")
        raise
    except BaseException as error:
        tell("failed", f"{type(error).__name__}: {error}")
        raise
    if keeper is not None and keeper.stopped:
        tell("stopped", f"stopped by {Signals(keeper.heard.number).name}")


@contextlib.contextmanager
def located_where_not_finite(session: Session, keeper: Any) -> Iterator[None]:
    """Where something stops being finite inside, the last good state is restored and the steps are replayed to find where."""
    parent = None if session.folder is None else session.folder / "checkpoints"
    on_disk = parent is not None and parent.is_dir()
    restore = replaying.newest_on_disk(session.training, parent) if on_disk else replaying.held_in_memory(session.training)  # type: ignore[arg-type]
    try:
        yield
    except NonFiniteError as error:
        exact = replaying.located(session.training, session.plan, error, restore, asked_to_stop=lambda: keeper is not None and keeper.heard.number is not None)
        if session.checks is not None:  # beside the findings of before the run: D03, L21 or T01
            exact.findings = [*session.findings, session.checks.non_finite(exact)]
        raise exact from None


@contextlib.contextmanager
def told_what_the_loss_refuses(session: Session) -> Iterator[None]:
    """An error of torch's loss (checks=False, so nobody looked before) is told as what is wrong with the targets, where that is what it was."""
    try:
        yield
    except (IndexError, RuntimeError, ValueError) as error:
        lesson = None if isinstance(error, FivestepError) else what_the_loss_refuses(session)
        if lesson is None:
            raise
        raise SettingsError(lesson) from error


def finish(session: Session, keeper: Any = None, *, save: bool = True) -> Run:
    """Everything after the last step: temperature, scores of validation, findings, the artifact. Raises Interrupted where a signal ended the run before."""
    ask, splits = session.arguments, session.splits
    if keeper is not None and keeper.stopped:
        raise keeper.interrupted(session.training, session.folder)
    if keeper is not None and keeper.heard.number is not None:  # it came when no step was left to stop after
        raise signals.StopSignal(keeper.heard.number)
    if session.checks is not None:
        late = session.checks.after()
        session.findings += late
        if not ask["quiet"]:
            console.say_findings(late)
    run = run_of(session)
    if (
        ask["calibrate"]
        and splits.val is not None
        and session.task in ("binary", "multiclass")
        and ask["step"] is None
        and ask["compute"] is None
        and session.loss is not None
    ):
        run.calibrate()
    if session.folder is not None and save:
        runs.write(session.folder, "findings.json", [finding.to_json() for finding in session.findings])
        run.save(session.folder / ("model.fivestep" if run.can_predict else "weights.safetensors"), replace="built" in ask)
    return run


def run_of(session: Session, **changed: Any) -> Run:
    """The `Run` that users hold, of a session whose weights are the kept ones."""
    facts: dict[str, Any] = dict(
        splits=session.splits,
        history=session.training.history,
        settings=session.settings,
        findings=Findings(session.findings),
        folder=session.folder,
        task=session.task,
        metrics=session.arguments["metrics"],
        recipe=session.built.recipe,
        encoded=session.encoded,
        targets_in_unit=session.targets_in_unit,
        seed=session.arguments["seed"],
        watched_test=session.training.test_looks,
        evaluate_loss=session.evaluate_loss,
        can_predict=session.can_predict,
        checks=session.checks,
        prepared=session,
        may_be_infinite=session.plan.may_be_infinite,
    )
    return Run(session.predictor, **(facts | changed))


# -- loading -----------------------------------------------------------------------------------------------------------------------------------------------------


def load(path: str | Path, model: Any = None, *, sha256: str | None = None) -> Model:
    """The trained model of an artifact (or of a run's folder): `.predict`, `.evaluate`, `.full_model`.

    A built-in model needs nothing else; for a user's own give the class or an instance: `load(path, model=Net)`. Nothing in the artifact is executed, every
    byte is verified, and its self-test rows must give the recorded outputs. `sha256` is that of its MANIFEST.json, where you were told it: the only proof of
    who made it. Raises ArtifactError where it is damaged or does not answer as it did, MissingInputError where nothing is, or no model, UsageError where the
    class must be given.

    >>> import tempfile, torch, fivestep as fs
    >>> x = torch.arange(0, 1, 0.02)[:, None]
    >>> run = fs.fit("linear", fs.Data.arrays(x, 2 * x).split(), epochs=1, folder=None, quiet=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model = fs.load(run.save(f"{folder}/line.fivestep"))
    >>> torch.equal(model.predict(x), run.predict(x))
    True
    """
    path = Path(path)
    if (path / "model.fivestep").is_dir():
        path = path / "model.fivestep"
    runs.refuse_sweep(path)
    found = artifacts.read_artifact(path, expected=models.expected_of_recipe, sha256=sha256)
    return Model.from_artifact(found, model)


def load_run(folder: str | Path, **objects: Any) -> Run:
    """A finished run from its folder, as `fit` returned it: history, findings, settings; evaluate, predict, plot, eject, save.

    `objects` are what no folder can hold, under their names in `fit` (`splits=`, `model=`, `loss=`, ...), as for `resume`. Where the data cannot be read again
    and is not given, the run predicts and says of everything else what it would need. Raises MissingInputError where the run has not ended.

    >>> fs.load_run("runs/houses-0007").evaluate("val")  # doctest: +SKIP
    """
    folder = Path(folder)
    recorded = runs.read_settings(folder)
    kept = read_kept(folder)
    findings = Findings(Finding.from_json(entry) for entry in runs.read(folder, "findings.json", []))
    history = runs.read_history(folder)
    before = seeds.capture()
    try:
        session = prepare_from_start(folder, recorded, objects, defaults(), "load_run")
    except (UsageError, MissingInputError, DataError) as error:
        if set(objects) - {"model"} or kept.artifact is None:
            raise
        model = objects.get("model") or class_again(recorded.model)
        return RunWithoutData(
            Model.from_artifact(kept.artifact, model), str(error), history=history, settings=recorded, findings=findings, folder=folder,
            self_test=kept.artifact.self_test,
        )  # fmt: skip
    finally:
        seeds.restore(before)
    kept.put_into(session)
    session.folder = folder
    run = run_of(session, history=history, findings=findings, settings=recorded)
    if kept.artifact is not None:
        run._self_test(*kept.artifact.self_test)
    return run


def reproduce(folder: str | Path, **objects: Any) -> bool:
    """Whether a finished run, fitted again from its record, ends in the same weights, bit for bit; prints the SHA-256 of both. Nothing is written.

    `objects` as for `load_run`. Where torch, device or processor are others than in the run, and the bits are not equal, that is printed too.

    >>> fs.reproduce("runs/houses-0007")  # doctest: +SKIP
    """
    folder = Path(folder)
    recorded = runs.read_settings(folder)
    kept = read_kept(folder)
    before, threads = seeds.capture(), torch.get_num_threads()
    try:
        session = prepare_from_start(folder, recorded, objects, defaults(), "reproduce")
        training_epochs.train(session.training, session.plan)
    finally:
        seeds.restore(before)
        torch.set_num_threads(threads)
    again = building.parameter_hash(session.training.model.state_dict())
    print(f"run    {kept.weights_sha256}\nagain  {again}")
    if again != kept.weights_sha256 and (told := environment_differs(folder, session.device)):
        print(f"Equal bits are not promised here: {told}.")
    return again == kept.weights_sha256


def verify(path: str | Path) -> list[Finding]:
    """What is damaged or does not belong together in an artifact or a whole run folder; empty where all is sound, notes aside.

    Each byte of each checkpoint and of the model is compared with its manifest, settings, findings, scores and history are read, and it is seen whether they
    are of one run. Nothing is changed, and no lock is needed. Findings P08 to P14; severity "error" is damage. Raises MissingInputError where nothing is.

    >>> fs.verify("runs/houses-0007")  # doctest: +SKIP
    []
    """
    return verify_path(Path(path))
