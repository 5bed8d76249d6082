"""The one place that knows everybody: fit, evaluate, predict, check, load. Composition only; each step is done by the module that owns it.

One value walks through like this: file -> Table -> indices -> columns fitted on training rows -> Source -> batches -> the five steps -> history -> artifact.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fivestep import files, seeds
from fivestep.checks import gate
from fivestep.data import sources
from fivestep.data.batches import Batch, Counted, InMemoryBatches, LoaderBatches, count_examples, map_tensors, mover, tensors_of
from fivestep.data.data import Data, Part, Splits, as_splits
from fivestep.errors import DataError, FindingsError, MissingInputError, NonFiniteError, SettingsError, UsageError
from fivestep.model import building, losses, models, optimizers
from fivestep.model import metrics as scoring
from fivestep.results import artifact as artifacts
from fivestep.results import runs
from fivestep.results.predictor import Predictor
from fivestep.results.run import Model, Run
from fivestep.settings import Settings, record
from fivestep.train import checkpoints, loop
from fivestep.train import epochs as training_epochs
from fivestep.train import precision as precisions
from fivestep.train.averaging import make_average
from fivestep.train.epochs import Plan, Training
from fivestep.train.events import EpochEnded
from fivestep.train.stopping import Stopping
from fivestep.watch import console

if TYPE_CHECKING:
    from fivestep.checks.findings import Finding

BLOCK = 256  # rows of a prediction block; recorded in the artifact, as a row's bits depend on it


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

    `model` is an nn.Module (instance, class or function) or the name of a built-in ("linear", "mlp", "resnet", "cnn", "auto"). `"auto"` picks by a written rule
    and says what it picked; `None` means none. Raises FindingsError where a check finds an error, SettingsError, DataError, NonFiniteError.

    >>> import torch, fivestep as fs
    >>> x = torch.arange(0, 1, 0.02)[:, None]
    >>> splits = fs.Data.arrays(x, 0.7 * x + 0.3).split(train=0.8, test=0.2, shuffle=False)
    >>> run = fs.fit(torch.nn.Linear(1, 1), splits, loss="L1Loss", optimizer="SGD", lr=0.01, epochs=3, folder=None, quiet=True)
    >>> len(run.history)
    3
    """
    arguments = dict(locals())
    before = seeds.capture()  # the global generators belong to the user: given back as they were found
    session = prepare(arguments)
    try:
        with kept_on_disk(session) as keeper:
            with keeper.listening() if keeper is not None else contextlib.nullcontext():
                training_epochs.train(session.training, session.plan)
            return finish(session, keeper)
    except NonFiniteError as error:
        explain_non_finite(session, error)
        raise
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
    with files.Lock(folder):
        try:
            settings, session, finished = prepare_again(folder, recorded, epochs, allow_inexact, objects)
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
            with kept_on_disk(session, locked=True) as keeper:
                with keeper.listening() if keeper is not None else contextlib.nullcontext():
                    training_epochs.train(session.training, session.plan)
                return finish(session, keeper)
        finally:
            seeds.restore(before)
            torch.set_num_threads(threads)


def prepare_again(folder: Path, recorded: Settings, epochs: int | None, allow_inexact: bool, objects: dict[str, Any]) -> tuple[Settings, Session, bool]:
    """-> (settings with the new number of epochs, the session as its newest checkpoint left it, whether nothing is left to do)."""
    import inspect

    parameters = inspect.signature(fit).parameters
    files.remove_dead_temporaries(folder)
    newest = checkpoints.read_newest(folder / "checkpoints")
    assert newest.published is not None
    facts = newest.published.facts
    if facts.get("settings") != checkpoints.settings_hash(recorded.to_json()):
        raise SettingsError(f"{folder / 'settings.json'} is not what it was when the run began, so it cannot go on from there. Start a new run instead.")

    # What "auto" picked stays picked: `patience` would be another with another number of epochs.
    asked = dict(recorded.asked) | {key: recorded.chosen[key] for key in ("epochs", "batch_size", "patience", "keep") if key in recorded.chosen}
    for left_out in ("weights", "model_args", "folder", "name"):  # every weight comes from the checkpoint, the arguments from the recipe
        asked.pop(left_out, None)
    may_be_given = {"model", "splits", "observers", "quiet", "checkpoint", "keep_checkpoints", "on_checkpoint_error"}
    may_be_given |= {key for key, value in asked.items() if is_object(value)}
    for key in objects:
        if key not in may_be_given:
            known = "cannot be changed in the middle of a run; start a new one" if key in parameters else "is no setting of fit"
            raise UsageError(f"resume({key}=...): {key} {known}. It takes epochs=, allow_inexact= and what cannot be read from the run's folder.")
    ask = {key: parameter.default for key, parameter in parameters.items()}
    ask |= {key: found_again(key, value) for key, value in asked.items() if key not in objects}
    ask |= {key: value for key, value in objects.items() if key != "splits"}
    before = asked.get("epochs", 100)
    if epochs is not None:
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < before:
            raise UsageError(f"epochs={epochs!r}: the run was made for {before} epochs and can only become longer.")
        ask["epochs"] = epochs

    environment = runs.read(folder, "environment.json", {})
    splits = as_splits(objects["splits"]) if "splits" in objects else splits_again(recorded.data)
    if splits.fingerprint != recorded.data["fingerprint"]:
        raise DataError(
            f"The data is not what {folder} was trained on: {recorded.data.get('source')}, or its split, has changed since. "
            "Restore the file, or give the same splits: resume(folder, splits=...)."
        )
    torch.set_num_threads(environment.get("threads", torch.get_num_threads()))
    built = building.rebuild(recorded.model, seed=ask["seed"], model=objects.get("model"))
    ask |= dict(model=None, splits=splits, built=replace_fields(built, recipe=recorded.model), folder=folder, name=None)
    session = prepare(ask)
    now = runs.environment(session.device)
    differing = [key for key in ("fivestep", "torch", "device", "device_name", "cpu_capability") if environment.get(key) != now[key]]
    if differing:
        told = ", ".join(f"{key} was {environment.get(key)} and is {now[key]}" for key in differing)
        if not allow_inexact:
            raise SettingsError(f"Here the run would not end in the same bits: {told}. If that is fine: resume(folder, allow_inexact=True), --allow-inexact.")
        session.said.append(f"Exactness is not promised: {told}.")
    checkpoints.restore(session.training, *newest.parsed)
    training = session.training
    session.said.append(f"Going on after step {training.step} (epoch {training.epoch + 1}), from {newest.published.path}.")
    settings = recorded
    if ask["epochs"] > before:
        settings = replace_fields(recorded, asked=recorded.asked | {"epochs": epochs})
        fitted = [
            "the schedule" if training.schedule is not None and training.schedule.depends_on_epochs else None,
            "when SWA begins" if training.average is not None and training.average.name == "SWA" else None,
            f"the validation after epoch {before}" if training.epoch >= before and before % ask["validate_every"] else None,
        ]
        if any(fitted):
            told = " and ".join(filter(None, fitted))
            session.said.append(
                f"Made longer, from {before} to {epochs} epochs: {told} depended on that number, so a run that was longer from the start differs."
            )
    session.settings = settings
    artifact = folder / ("model.fivestep" if session.can_predict else "weights.safetensors")
    return settings, session, artifact.exists() and not training.unvalidated and (training.epoch >= ask["epochs"] or training.stopping.done)


def splits_again(recorded: dict[str, Any]) -> Splits:
    """The splits of a run from its record, where its data was one file or folder."""
    options = {key: value for key, value in recorded["split_options"].items() if key != "given"}
    if (
        recorded["kind"] not in ("table", "images")
        or recorded["split_options"].get("given")
        or (not Path(recorded["source"]).suffix and recorded["kind"] == "table")
    ):
        raise UsageError("The data of this run did not come from one file, so it must be given again: resume(folder, splits=...).")
    if not Path(recorded["source"]).exists():
        raise MissingInputError(
            f"The data of this run was {recorded['source']}, and it is not there. Put it back, or give the data: resume(folder, splits=...)."
        )
    make = Data.table if recorded["kind"] == "table" else Data.images
    return make(recorded["source"], **recorded["options"]).split(**options)


def is_object(value: Any) -> bool:
    """Whether a recorded setting is, or holds, what JSON cannot hold: a class, a function, an instance, a large array."""
    if isinstance(value, dict):
        return bool(value.keys() & {"import", "instance", "tensor", "array"}) or any(map(is_object, value.values()))
    return isinstance(value, list) and any(map(is_object, value))


def found_again(name: str, value: Any) -> Any:
    """A recorded setting as fit takes it: classes and functions are imported. Raises UsageError, naming the argument, for what must be given."""
    if isinstance(value, list):
        return [found_again(name, item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"import"}:
        module, _, qualname = value["import"].partition(":")
        with contextlib.suppress(ImportError, AttributeError):
            found: Any = importlib.import_module(module)
            for part in qualname.split("."):
                found = getattr(found, part)
            return found
        raise UsageError(f"{name} of this run was {module}.{qualname}, which cannot be imported here. Give it: resume(folder, {name}=...).")
    if value.keys() & {"instance", "tensor", "array"}:
        kind = value.get("instance") or "a large array"
        raise UsageError(f"{name} of this run was {kind}, which a run's folder cannot hold. Give it: resume(folder, {name}=...).")
    return {key: found_again(name, item) for key, item in value.items()}


@contextlib.contextmanager
def kept_on_disk(session: Session, *, locked: bool = False) -> Any:
    """Where the run has a folder: this process alone works on it, and checkpoints go there. Gives the `Keeper`, or None."""
    ask, folder = session.arguments, session.folder
    if folder is None:
        yield None
        return
    with contextlib.nullcontext() if locked else files.Lock(folder):
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
    """The findings that `fit` would have before it trains: same arguments, nothing is trained or written, model, data and random state stay as they are."""
    import inspect

    allowed = inspect.signature(fit).parameters
    for given in fit_settings:
        if given not in allowed:
            raise UsageError(f"check takes the arguments of fit; {given!r} is none of them.{building.nearest(given, allowed)}")
    arguments = {key: parameter.default for key, parameter in allowed.items()} | fit_settings
    arguments |= dict(model=model, splits=splits, folder=None, quiet=True, predict_rows=predict_rows)
    import copy

    if isinstance(model, nn.Module):
        with contextlib.suppress(Exception):  # what cannot be copied is looked at as it is, in eval() and without gradients kept
            arguments["model"] = copy.deepcopy(model)
    with seeds.restored():
        try:
            session = prepare(arguments, only_check=True)
        except FindingsError as stopped:
            return stopped.findings
        return session.findings


@dataclass
class Session:
    """All parts of one fit, composed: what `prepare` made and `finish` needs."""

    arguments: dict[str, Any]
    settings: Settings
    splits: Splits
    built: building.Built
    training: Training
    plan: Plan
    decoding: losses.Decoding
    loss: Any
    loss_name: str | None
    predictor: Predictor
    task: str | None
    device: torch.device
    folder: Path | None
    encoded: dict[str, Any]
    targets_in_unit: Callable[[str], Tensor | None]
    evaluate_loss: Callable[[str], float | None]
    findings: list[Finding] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    started: float = field(default_factory=clock.perf_counter)
    weights_report: Any = None
    can_predict: bool = True
    checks: Any = None
    batch_size: int = 32
    user_metrics: dict[str, Callable[..., Any]] = field(default_factory=dict)
    keepers: list[checkpoints.Keeper] = field(default_factory=list)


def prepare(arguments: dict[str, Any], *, only_check: bool = False) -> Session:
    """Everything before the first step."""
    ask = arguments
    splits = as_splits(ask["splits"])
    seed, device = ask["seed"], choose_device(ask["device"])
    check_arguments(ask, splits)
    said: list[str] = list(splits.train.data.notes)
    chosen: dict[str, Any] = {}

    # model
    facts = {"num_inputs": splits.num_inputs, "num_outputs": splits.num_outputs, "num_categories": splits.num_categories, "task": splits.task}
    model, model_args = ask["model"], dict(ask["model_args"] or {})
    if model == "auto":
        model, defaults, sentence = models.choose(splits.task, splits.num_inputs, splits.image_shape, len(splits.train))
        model_args = defaults | model_args
        said.append(sentence)
        chosen["model"] = model
    if model == "cnn" and splits.image_shape is not None:
        facts["image_shape"] = splits.image_shape
    built = ask.get("built")  # by `resume`, from the recipe
    if built is None:
        built = building.build_model(model, model_args, facts={key: value for key, value in facts.items() if value is not None}, seed=seed)
    said += list(built.said)
    module = built.module
    report = None
    if ask["weights"] is not None:
        report = building.load_weights(module, ask["weights"], strict=ask["weights_strict"])
        said.append(str(report).splitlines()[0])
    _, frozen_modules = building.freeze(module, ask["freeze"]) if ask["freeze"] else ([], [])
    module.to(device)
    dtype = next((parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()), torch.float32)

    # data, encoded by what the training rows say
    encoded = {part.name: as_model_sees(splits, part, dtype) for part in (splits.train, splits.val, splits.test) if part is not None}
    pick = picker(ask["output"])
    own_step = ask["compute"] is not None or ask["step"] is not None
    try:
        outputs = first_outputs(module, encoded["train"], device, pick, seed)
    except SettingsError:
        if not own_step:
            raise
        outputs = None  # with compute= or step= forward need not take the training rows (a GAN's takes noise)

    # loss, targets, decoding
    task = splits.task
    spec = ask["loss"]
    if ask["compute"] is None and ask["step"] is None and spec == "auto":
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else None
        spec = losses.auto_loss(task, shape or ())
        chosen["loss"] = spec
    weighted = any(getattr(source, "weights", None) is not None for source in encoded.values())
    class_weights = ask["class_weights"]
    if isinstance(class_weights, str):
        class_weights = balanced_weights(class_weights, spec, splits, encoded["train"], outputs).to(dtype)
    elif class_weights is not None:
        class_weights = torch.as_tensor(class_weights, dtype=dtype)
    with seeds.restored(seeds.derive(seed, "loss")):  # a loss may hold a layer of its own, which starts from random weights
        raw_loss = None if own_step else losses.make_loss(spec, class_weights=class_weights, per_example=weighted)
    loss_module = raw_loss.to(device=device, dtype=dtype) if isinstance(raw_loss, nn.Module) else None
    loss_name = losses.loss_name(raw_loss) if raw_loss is not None else None
    kind = losses.LOSSES.get(loss_name or "")
    task = task or (kind.task if kind is not None else None)
    center, scale = target_scale(splits, ask, kind)
    if splits.columns is not None and raw_loss is not None:
        for part_name, source in encoded.items():
            encoded[part_name] = scaled_targets(source, raw_loss, outputs, center, scale, dtype, getattr(splits, part_name))
    elif raw_loss is not None:
        encoded = {part_name: targets_as_loss_wants(source, dtype) for part_name, source in encoded.items()}
    decoding = losses.decoding_for(
        raw_loss, task, output_shape=tuple(outputs.shape) if isinstance(outputs, Tensor) else None, classes=splits.classes, target_center=center,
        target_scale=scale, target_names=splits.train.data.target_names,
    )  # fmt: skip
    objective = objective_of(raw_loss, pick, weighted)
    if isinstance(module, models.Ensemble):
        objective = models.member_loss(objective)  # each member's gradient is its own

    # optimizer and schedule
    num_epochs = 100 if ask["epochs"] == "auto" else ask["epochs"]
    batch_size = len(encoded["train"]) if ask["batch_size"] == "all" else choose_batch_size(built, splits) if ask["batch_size"] == "auto" else ask["batch_size"]
    if ask["epochs"] == "auto":
        chosen["epochs"] = num_epochs
    if ask["batch_size"] == "auto":
        chosen["batch_size"] = batch_size
    train_batches = make_batches(splits, encoded["train"], ask, device, dtype, batch_size, seed)
    optimizer = optimizers.make_optimizer(
        ask["optimizer"], module, lr=None if ask["lr"] == "auto" else ask["lr"], groups=ask["groups"] or {}, loss=loss_module, device=str(device.type)
    )
    said += list(getattr(optimizer, "said", []))
    chosen["optimizer"] = getattr(optimizer, "recorded", {})
    # what is watched and kept
    watched = ask["metrics"] if ask["metrics"] is not None or ask["monitor"] == "loss" else [ask["monitor"]]
    epoch_scores = {} if watched is None else scoring.epoch_metrics(watched, task)  # the task's own metrics every epoch would cost 1 ms each
    monitor = ask["monitor"]
    if monitor != "loss" and monitor not in epoch_scores:
        raise SettingsError(f"monitor={monitor!r} is neither 'loss' nor one of the metrics: {', '.join(epoch_scores) or 'none given'}.")
    mode = ask["mode"] or ("min" if monitor == "loss" else scoring.direction(monitor))
    if mode is None:
        raise SettingsError(f"It cannot be told whether a larger {monitor!r} is better. Say mode='max' or mode='min'.")
    schedule = optimizers.make_schedule(
        None if ask["scheduler"] == "auto" else ask["scheduler"], optimizer, epochs=num_epochs, steps_per_epoch=train_batches.steps(0), mode=mode
    )
    keep = ("best" if splits.val is not None else "last") if ask["keep"] == "auto" else ask["keep"]
    patience = ask["patience"]
    if patience == "auto":
        patience = (10 if splits.val is not None and ask["epochs"] == "auto" else None) if splits.val is not None else None
        chosen["patience"] = patience
    if keep == "best" and splits.val is None:
        raise SettingsError("keep='best' chooses the epoch on validation rows, and there are none. Give a validation split, or keep='last'.")
    chosen["keep"] = keep

    predictor = Predictor(
        module,
        decoding,
        splits.columns,
        block_size(encoded["train"]),
        pick,
        loss_module if losses.outputs_from(raw_loss) is not None else None,
        precisions.autocast(ask["precision"], device),
        dtype,
    )
    weigh = weigher(raw_loss)
    autocast = precisions.autocast(ask["precision"], device)
    scaler = precisions.gradient_scaler(ask["precision"], device)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    keepers: list[checkpoints.Keeper] = []  # the one that hears signals, once the run has begun

    def validate(part_name: str) -> Callable[[], tuple[float, dict[str, float]]]:
        source = encoded[part_name]
        rows = evaluation_rows(source)

        def run_validation() -> tuple[float, dict[str, float]]:
            batches = evaluation_batches(source, rows, device, dtype)
            value, kept = loop.evaluate(
                module,
                objective,
                keepers[0].polled(batches) if keepers and part_name == "val" else batches,
                weigh=weigh,
                compute=ask["compute"],
                autocast=autocast,
                keep_outputs=bool(epoch_scores),
            )
            if not epoch_scores:
                return value, {}
            gathered = loop.concatenate([map_tensors(lambda tensor: tensor.cpu(), pick(item) if pick else item) for item in kept])
            targets = targets_in_unit(part_name)
            return value, {
                key: float(function(metric_inputs(predictor, gathered, task, key, ask["metrics"]), targets)) for key, function in epoch_scores.items()
            }

        return run_validation

    def targets_in_unit(part_name: str) -> Tensor | None:
        return true_targets(splits, splits.part(part_name), encoded[part_name])

    def evaluate_loss(part_name: str) -> float | None:
        """The loss on all rows of a split, with the weights that were kept; None where the user's step= has no loss of ours."""
        if ask["step"] is not None:
            return None
        source = encoded[part_name]
        batches = evaluation_batches(source, evaluation_rows(source), device, dtype)
        return loop.evaluate(module, objective, batches, weigh=weigh, compute=ask["compute"], autocast=autocast)[0]

    average = make_average(ask["average"], module if loss_module is None else nn.ModuleList([module, loss_module]))
    training = Training(
        module,
        loss_module if loss_module is not None and list(loss_module.parameters()) else None,
        optimizer,
        schedule,
        scaler,
        average,
        Stopping(patience, mode),
    )
    clipping = (parameters, ask["clip_norm"], ask["clip_value"]) if ask["clip_norm"] is not None or ask["clip_value"] is not None else None
    part_size = ask["part_size"]
    observers = list(ask["observers"])
    can_validate = splits.val is not None and ask["step"] is None
    plan = Plan(
        epochs=num_epochs,
        seed=seed,
        batches=train_batches,
        loss=objective,
        monitor=monitor,
        keep=keep if can_validate else "last",
        compute=ask["compute"],
        user_step=ask["step"],
        split=None if part_size is None else partial(loop.split_batch, part_size=part_size, weigh=weigh),
        step=loop.train_step_closure if getattr(optimizer, "needs_closure", False) else loop.train_step,
        autocast=autocast,
        clipping=clipping,
        wait=device.type == "cpu",
        validate=validate("val") if can_validate else None,
        validate_every=ask["validate_every"],
        watch_test=validate("test") if ask["watch_test"] and splits.test is not None and ask["step"] is None else None,
        frozen=frozen_modules,
        observers=observers,
    )
    settings = Settings(asked_settings(arguments), chosen, data_record(splits), built.recipe)
    session = Session(
        arguments, settings, splits, built, training, plan, decoding, raw_loss, loss_name, predictor, task, device, None, encoded, targets_in_unit, evaluate_loss,
        said=said, can_predict=outputs is not None, weights_report=report, batch_size=batch_size, user_metrics=user_functions(ask["metrics"]), keepers=keepers,
    )  # fmt: skip
    if ask["checks"]:
        session.checks = gate.Checks(session, ignore=ask["ignore"], predict_rows=ask.get("predict_rows"))
        session.findings = session.checks.before()
        if any(finding.severity == "error" for finding in session.findings):
            raise FindingsError(session.findings)
        observers.append(session.checks.see)
    if only_check:
        return session
    if not ask["quiet"]:
        observers.append(console.observer(session))
    if "built" in ask:  # `resume` goes on in a folder that is there
        session.folder = Path(ask["folder"])
    elif ask["folder"] is not None:
        session.folder = runs.create(ask["folder"], ask["name"], run_stem(splits, model))
        runs.write(session.folder, "settings.json", settings.to_json())
        runs.write(session.folder, "environment.json", runs.environment(device))
    if session.folder is not None:
        observers.append(partial(write_history, session.folder))
    if ask["watch_test"] and splits.test is not None:
        observers.append(partial(count_test_look, session))
    return session


def explain_non_finite(session: Session, error: NonFiniteError) -> None:
    """The error holds its finding (D03, L21 or T01) beside those of before the run."""
    if session.checks is not None:
        error.findings = [*session.findings, session.checks.non_finite(error)]


def finish(session: Session, keeper: Any = None, *, save: bool = True) -> Run:
    """Everything after the last step: temperature, scores of validation, findings, the artifact. Raises Interrupted where a signal ended the run before."""
    ask, splits = session.arguments, session.splits
    if keeper is not None and keeper.stopped:
        raise keeper.interrupted(session.training, session.folder)
    if session.checks is not None:
        late = session.checks.after()
        session.findings += late
        if not ask["quiet"]:
            console.say_findings(late)
    run = Run(
        session.predictor,
        splits=splits,
        history=session.training.history,
        settings=session.settings,
        findings=session.findings,
        folder=session.folder,
        task=session.task,
        metrics=ask["metrics"],
        recipe=session.built.recipe,
        encoded=session.encoded,
        targets_in_unit=session.targets_in_unit,
        seed=ask["seed"],
        watched_test=session.training.test_looks,
        evaluate_loss=session.evaluate_loss,
        can_predict=session.can_predict,
        checks=session.checks,
    )
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


# -- what the arguments mean ------------------------------------------------------------------------------------------------------------------------------------


def choose_device(device: str | torch.device) -> torch.device:
    """ "auto": CUDA where there is one, then MPS, else the CPU."""
    if device != "auto":
        try:
            found = torch.device(device)
        except RuntimeError as error:
            raise SettingsError(f"device={device!r} is not known. Use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'.") from error
        if found.type == "cuda" and not torch.cuda.is_available():
            raise SettingsError("device='cuda' was asked for, and torch sees no CUDA device here. Use device='auto' or 'cpu'.")
        return found
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


def check_arguments(ask: dict[str, Any], splits: Splits) -> None:
    """Refuse what means nothing, each with the way on, before anything is built."""
    for key in ("epochs", "batch_size", "part_size", "validate_every"):
        value = ask[key]
        if value is not None and not isinstance(value, str) and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise SettingsError(f"{key}={value!r}: it must be a whole number of at least 1.")
    if isinstance(ask["seed"], bool) or not isinstance(ask["seed"], int):
        raise SettingsError(f"seed={ask['seed']!r}: a seed is a whole number.")
    if isinstance(ask["batch_size"], str) and ask["batch_size"] not in ("auto", "all"):
        raise SettingsError(f'batch_size={ask["batch_size"]!r} is not known. Use a number, "all" (the whole training split in each step) or "auto".')
    if isinstance(ask["epochs"], str) and ask["epochs"] != "auto":
        raise SettingsError(f'epochs={ask["epochs"]!r} is not known. Use a number or "auto".')
    if ask["keep"] not in ("auto", "best", "last"):
        raise SettingsError(f'keep={ask["keep"]!r} is not known. Use "best", "last" or "auto".')
    if ask["mode"] not in (None, "min", "max"):
        raise SettingsError(f'mode={ask["mode"]!r} is not known. Use "min" or "max".')
    if isinstance(ask["lr"], str) and ask["lr"] != "auto":
        raise SettingsError(f'lr={ask["lr"]!r}: give a number or "auto". The learning-rate test ("find") is not built yet.')
    if isinstance(ask["lr"], (int, float)) and not isinstance(ask["lr"], bool) and not 0 <= ask["lr"] < float("inf"):
        raise SettingsError(f"lr={ask['lr']!r}: a learning rate is a finite number of at least 0.")
    checkpoints.read_rhythm(ask["checkpoint"])
    kept = ask["keep_checkpoints"]
    if isinstance(kept, bool) or not isinstance(kept, int) or kept < 2:
        raise SettingsError(f"keep_checkpoints={kept!r}: at least 2 are kept, so that a damaged newest one leaves another.")
    if ask["on_checkpoint_error"] not in ("stop", "retry"):
        raise SettingsError(f'on_checkpoint_error={ask["on_checkpoint_error"]!r} is not known. Use "stop" or "retry".')
    if ask["compile"] is not None:
        raise SettingsError(f"compile={ask['compile']!r}: compiled training is not built yet. Leave compile=None.")
    if ask["step"] is not None:
        for key in ("part_size", "compute", "clip_norm", "clip_value"):
            if ask[key] is not None:
                raise SettingsError(f"{key}= does not go with step=: your own function makes the five steps, so it must do this itself.")
    if ask["compute"] is not None and ask["loss"] != "auto":
        raise SettingsError("compute= replaces forward and loss; leave loss= out, or use the loss inside compute.")


def asked_settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that differ from fit's defaults, as JSON can hold them."""
    import inspect

    defaults = {key: parameter.default for key, parameter in inspect.signature(fit).parameters.items()}
    skip = ("model", "splits", "observers", "quiet")
    return {
        key: record(value) for key, value in arguments.items() if key in defaults and key not in skip and value is not defaults[key] and value != defaults[key]
    }


def data_record(splits: Splits) -> dict[str, Any]:
    data = splits.train.data
    sizes = {part.name: len(part) for part in (splits.train, splits.val, splits.test) if part is not None}
    kept = record({"kind": data.kind, "source": data.origin, "rows": len(data), "options": data.options, "split_options": splits.options, "sizes": sizes})
    return kept | {"fingerprint": splits.fingerprint, "task": splits.task, "classes": record(list(splits.classes)) if splits.classes else None}


def run_stem(splits: Splits, model: Any) -> str:
    """What the run's folder is called before its number: the file's name, else the model's."""
    data = splits.train.data
    if data.kind in ("table", "images") and Path(data.origin).suffix:
        return Path(data.origin).stem
    return (model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)).lower()


def choose_batch_size(built: building.Built, splits: Splits) -> int:
    """32 for a user's module (INTERFACE); for built-in ones 32 to 256 by rows: a table of thousands of rows trains in seconds and no worse."""
    if built.recipe.get("kind") != "built-in":
        return 32
    rows = len(splits.train)
    return 32 if rows < 2_000 else 64 if rows < 10_000 else 128 if rows < 50_000 else 256


def picker(output: Any) -> Callable[[Any], Any] | None:
    """What of the model's output the loss sees: a key, an index or a function."""
    if output is None:
        return None
    if callable(output):
        return output

    def pick(outputs: Any) -> Any:
        try:
            return outputs[output]
        except (KeyError, IndexError, TypeError) as error:
            names = list(outputs) if isinstance(outputs, dict) else f"{len(outputs)} outputs" if isinstance(outputs, (tuple, list)) else type(outputs).__name__
            raise SettingsError(f"output={output!r} is not in what the model returns: {names}.") from error

    return pick


def objective_of(raw_loss: Any, pick: Callable[[Any], Any] | None, weighted: bool) -> Callable[..., Any]:
    """`loss(outputs, targets)` as the loop calls it; with sample weights `loss(outputs, targets, weights)`."""
    if raw_loss is None:
        return lambda outputs, targets: outputs
    fed = losses.feed(raw_loss, weighted=weighted)
    if pick is None:
        return fed
    return lambda outputs, *rest: fed(pick(outputs), *rest)


def weigher(raw_loss: Any) -> Callable[[Batch], Any]:
    """What the loss's mean over a batch is a mean of; without a torch loss (compute=) its examples."""

    def examples(batch: Batch) -> int:
        return batch.examples if isinstance(batch, Counted) else count_examples(batch.inputs)

    if raw_loss is None:
        return examples
    return lambda batch: losses.batch_weight(raw_loss, batch.targets, weights=batch.weights, num_examples=examples(batch))


# -- the data as the model sees it ------------------------------------------------------------------------------------------------------------------------------


def as_model_sees(splits: Splits, part: Part, dtype: torch.dtype) -> Any:
    """The rows of one split as a Source: in memory with the model's dtype, or a view of a Dataset."""
    source = splits.encoded(part)
    if not hasattr(source, "inputs"):
        return DatasetRows(source, part.indices, dtype)
    inputs, targets, weights = (source.inputs, source.targets, source.weights) if splits.columns is not None else source.take(part.indices)
    return sources.ArraySource(map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, inputs), targets, weights)


class DatasetRows:
    """The rows of one split of a Dataset: a Source that is read when it is needed."""

    def __init__(self, source: Any, indices: Tensor, dtype: torch.dtype):
        self.source, self.indices, self.dtype = source, indices, dtype
        self.collate = None if source.collate is sources.collate_examples else source.collate  # under a user's collate blocks are not padded

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Tensor) -> tuple[Any, tuple[Any, ...], Tensor | None]:
        return to_dtype(self.source.take(self.indices[indices]), self.dtype)

    def counted(self, indices: Tensor) -> tuple[tuple[Any, tuple[Any, ...], Tensor | None], int]:
        """The rows, and how many examples they are: their number, or what the user's `count=` makes of the collated batch."""
        if self.source.count is None:
            return self.take(indices), len(indices)
        collated = self.source.collate(sources.LoaderDataset(self.source.dataset, 0).__getitems__([(0, row) for row in self.indices[indices].tolist()]))
        return self.source.unpack(collated), self.source.count(collated)


def make_batches(splits: Splits, source: Any, ask: dict[str, Any], device: torch.device, dtype: torch.dtype, batch_size: int, seed: int) -> Any:
    options: dict[str, Any] = dict(batch_size=batch_size, shuffle=ask["shuffle"], seed=seed, chosen=ask["batches"], augment=ask["augment"])
    if hasattr(source, "inputs"):
        move = mover(device)
        return InMemoryBatches(move(source.inputs), move(source.targets), move(source.weights), **options)
    inner = source.source
    return LoaderBatches(
        sources.LoaderDataset(inner.dataset, seed),
        source.indices,
        collate=inner.collate,
        unpack=partial(unpack_as, inner, dtype),
        count=inner.count,
        device=device,
        workers=inner.workers,
        **options,
    )


def unpack_as(source: Any, dtype: torch.dtype, collated: Any) -> tuple[Any, tuple[Any, ...], Tensor | None]:
    return to_dtype(source.unpack(collated), dtype)


def to_dtype(examples: tuple[Any, tuple[Any, ...], Tensor | None], dtype: torch.dtype) -> tuple[Any, tuple[Any, ...], Tensor | None]:
    """`(inputs, targets, weights)` with floating-point inputs and targets in the model's dtype."""
    inputs, targets, weights = examples
    as_dtype = lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor  # noqa: E731
    return map_tensors(as_dtype, inputs), map_tensors(as_dtype, targets), weights


def first_outputs(module: nn.Module, source: Any, device: torch.device, pick: Any, seed: int) -> Any:
    """The model's outputs for the first training rows: their shape decides loss and targets. Also what gives a lazy module its shapes, under the run's seed."""
    batch = Batch(*source.take(torch.arange(min(len(source), 8))))
    inputs = mover(device)(batch.inputs)
    with seeds.restored(seeds.derive(seed, "probe")), loop.evaluating(module, first=True):
        try:
            outputs = loop.forward(module, inputs)
        except FindingsError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{tuple(tensor.shape)} {str(tensor.dtype)[6:]}" for tensor in tensors_of(batch.inputs))
            raise SettingsError(f"The model cannot take these inputs ({shapes}): {type(error).__name__}: {error}") from error
    outputs = outputs if pick is None else pick(outputs)
    return map_tensors(lambda tensor: tensor.clone(), outputs)


def target_scale(splits: Splits, ask: dict[str, Any], kind: Any) -> tuple[Any, Any]:
    """Mean and deviation of a table's regression targets on the training rows, where the loss allows scaling; else (None, None)."""
    columns = splits.columns
    if columns is None or splits.task != "regression" or not columns.target_names:
        return None, None
    wish = splits.train.data.options["scale_target"]
    if wish is False or columns.target_center is None or (wish == "auto" and (kind is None or not kind.scales_target)):
        return None, None
    return columns.target_center.tolist(), columns.target_scale.tolist()


def scaled_targets(source: Any, raw_loss: Any, outputs: Any, center: Any, scale: Any, dtype: torch.dtype, part: Part) -> Any:
    """Targets of a table as the loss wants them: standardised where that was decided, the loss's dtype, the model's trailing 1."""
    prepared = []
    for target in source.targets:
        if center is not None:
            target = (target - torch.as_tensor(center, dtype=torch.float64)) / torch.as_tensor(scale, dtype=torch.float64)
        if target.is_floating_point():
            target = target.to(dtype)
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else tuple(outputs[0].shape) if isinstance(outputs, (tuple, list)) and outputs else None
        prepared.append(losses.prepare_target(raw_loss, target, shape or tuple(target.shape)))
    return sources.ArraySource(source.inputs, tuple(prepared), source.weights)


def targets_as_loss_wants(source: Any, dtype: torch.dtype) -> Any:
    """Targets of arrays keep their shape; floating-point ones take the model's dtype."""
    if not hasattr(source, "inputs"):
        return source
    return sources.ArraySource(
        source.inputs, tuple(t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t for t in source.targets), source.weights
    )


def balanced_weights(wish: str, spec: Any, splits: Splits, source: Any, outputs: Any) -> Tensor:
    """class_weights="balanced", on training rows: n / (classes * count) for each class, or negatives / positives for each 0/1 output (`pos_weight`)."""
    if wish != "balanced":
        raise SettingsError(f'class_weights={wish!r} is not known. Give one number a class, or "balanced".')
    loss = losses.make_loss(spec)
    kind = losses.LOSSES.get(losses.loss_name(loss) or "")
    labels = true_targets(splits, splits.train, source)
    if kind is None or kind.class_weights is None or labels is None:
        raise SettingsError('class_weights="balanced" needs one target of classes and a loss that takes class weights.')
    if kind.class_weights == "pos_weight":
        labels = labels.reshape(len(labels), -1).double()
        return (1 - labels).sum(0) / labels.sum(0).clamp_min(1)
    if labels.is_floating_point() and not bool((labels == labels.floor()).all()):
        raise SettingsError('class_weights="balanced" counts classes, and these targets are no class numbers.')
    labels = labels.long().flatten()
    ignored = getattr(loss, "ignore_index", None)
    labels = labels[(labels != (-100 if ignored is None else ignored)) & (labels >= 0)]
    num_classes = len(splits.classes) if splits.classes is not None else 0
    if isinstance(outputs, Tensor) and outputs.dim() > 1:
        num_classes = max(num_classes, outputs.shape[1])
    counts = torch.bincount(labels, minlength=num_classes).double()
    present = int((counts > 0).sum())
    return torch.where(counts > 0, counts.sum() / (present * counts.clamp_min(1)), 1.0)


def true_targets(splits: Splits, part: Part, source: Any) -> Tensor | None:
    """Targets in their own unit (regression) or as class codes, for scores."""
    if splits.columns is not None:
        return splits.columns.targets(part.data.typed, part.indices.numpy()) if splits.columns.target_names else None
    if hasattr(source, "targets"):
        return source.targets[0].detach().cpu() if len(source.targets) == 1 and isinstance(source.targets[0], Tensor) else None
    collected = [source.take(torch.arange(begin, min(begin + 256, len(source))))[1] for begin in range(0, len(source), 256)]
    if not collected or len(collected[0]) != 1 or not isinstance(collected[0][0], Tensor) or len({tuple(c[0].shape[1:]) for c in collected}) > 1:
        return None
    return torch.cat([targets[0] for targets in collected])


def block_size(source: Any) -> int:
    """Rows of a prediction block: 256, fewer where one row is large (at most 2^22 numbers in a block)."""
    inputs = source.take(torch.arange(1))[0]
    numbers = sum(tensor.numel() for tensor in tensors_of(inputs)) or 1
    return max(1, min(BLOCK, 2**22 // numbers))


def evaluation_rows(source: Any) -> list[Tensor]:
    return list(torch.arange(len(source)).split(4 * block_size(source) if hasattr(source, "inputs") else 64))


def evaluation_batches(source: Any, rows: list[Tensor], device: torch.device, dtype: torch.dtype) -> Any:
    """The rows of a validation split, in order, on the device. Nothing is shuffled, so every epoch sees the same batches."""
    move = mover(device)
    if hasattr(source, "inputs"):
        for chosen in rows:
            begin, end = int(chosen[0]), int(chosen[-1]) + 1
            yield Batch(*move(map_tensors(lambda tensor, begin=begin, end=end: tensor[begin:end], (source.inputs, source.targets, source.weights))))
        return
    for chosen in rows:
        collated, examples = source.counted(chosen)
        yield Counted.of(move(to_dtype(collated, dtype)), examples)


def user_functions(metrics: Any) -> dict[str, Callable[..., Any]]:
    """The metrics that are functions of the user's own, by name."""
    if isinstance(metrics, dict):
        return {name: function for name, function in metrics.items() if callable(function)}
    given = metrics if isinstance(metrics, (list, tuple)) else [metrics]
    return {getattr(function, "__name__", f"metric {position}"): function for position, function in enumerate(given) if callable(function)}


def metric_inputs(predictor: Predictor, outputs: Any, task: str | None, name: str, given: Any) -> Any:
    """What a metric gets: a user's function the raw outputs, a named one probabilities or values in the target's unit."""
    if name in user_functions(given):
        return outputs
    outputs = predictor.after_head(outputs)
    return predictor.decoding.probabilities(outputs) if task in ("binary", "multiclass", "multilabel") else predictor.decoding.values(outputs)


# -- observers that write ----------------------------------------------------------------------------------------------------------------------------------------


def write_history(folder: Path, event: Any) -> None:
    if isinstance(event, EpochEnded):
        runs.append_history(folder, event.as_row())


def count_test_look(session: Session, event: Any) -> None:
    """watch_test: each look at the test split counts, as any other does."""
    if isinstance(event, EpochEnded) and event.test_loss is not None:
        runs.count_look(session.folder, session.splits.fingerprint, "test")


# -- loading -----------------------------------------------------------------------------------------------------------------------------------------------------


def load(path: str | Path, model: Any = None, *, sha256: str | None = None) -> Model:
    """The trained model of an artifact (or of a run's folder): `.predict`, `.evaluate`, `.full_model`.

    A built-in model needs nothing else; for a user's own give the class or an instance: `load(path, model=Net)`. Nothing in the artifact is executed, every
    byte is verified, and its self-test rows must give the recorded outputs. Raises ArtifactError.
    """
    path = Path(path)
    if (path / "model.fivestep").is_dir():
        path = path / "model.fivestep"
    found = artifacts.read_artifact(path, expected=models.expected_of_recipe, sha256=sha256)
    return Model.from_artifact(found, model)


def verify(path: str | Path) -> list[str]:
    """Problems of an artifact or run folder, one text each; empty where it is sound."""
    path = Path(path)
    if (path / "model.fivestep").is_dir():
        path = path / "model.fivestep"
    return artifacts.verify_artifact(path)
