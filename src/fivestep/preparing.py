"""Everything before the first step: all parts of one run made, each by the module that owns it, and composed into a `Session`.

Enters: the arguments of `fit` as one dict (what they mean: `fit_arguments`). Leaves: a `Session`, whose folder and first files are written, or the errors among its
findings. The decision that shaped it: one function, in the order in which the parts need each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace as replace_fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fivestep import automatic, seeds
from fivestep.checks import gate, refusals
from fivestep.checks.findings import Finding
from fivestep.data.augmenting import make_augment
from fivestep.data.batches import map_tensors
from fivestep.data.data import as_splits
from fivestep.errors import FindingsError, SettingsError
from fivestep.feeding import (
    as_model_sees,
    balanced_weights,
    block_size,
    evaluation_batches,
    evaluation_rows,
    first_outputs,
    make_batches,
    metric_inputs,
    objective_of,
    picker,
    scaled_targets,
    target_scale,
    targets_as_loss_wants,
    true_targets,
    weigher,
    weights_by_name,
)
from fivestep.fit_arguments import asked_settings, check_arguments, choose_batch_size, choose_device, data_record, run_stem, watching
from fivestep.model import building, loss_means, losses, models, optimizers, schedules
from fivestep.model import metrics as scoring
from fivestep.model.decoding import decoding_for, outputs_from
from fivestep.repeatability import not_repeatable
from fivestep.results import runs
from fivestep.results.eject import obstacles
from fivestep.results.predictor import Predictor
from fivestep.session import Session
from fivestep.settings import Settings
from fivestep.train import capturing, checkpoints, compiled, loop
from fivestep.train import precision as precisions
from fivestep.train.attributes import Attributes
from fivestep.train.averaging import make_average
from fivestep.train.epochs import Plan, Training, infinite_by_design
from fivestep.train.events import EpochEnded
from fivestep.train.stopping import Stopping
from fivestep.watch import console, notebook


def prepare(arguments: dict[str, Any], defaults: dict[str, Any], *, only_check: bool = False) -> Session:
    """Everything before the first step. `defaults` are the arguments of `fit` where nothing is said: only what differs from them is recorded."""
    ask = arguments
    splits = as_splits(ask["splits"])
    if isinstance(ask["model"], str) and ask["model"] == "auto" and "built" not in ask:
        splits = automatic.with_embeddings(splits)
    seed, device = ask["seed"], choose_device(ask["device"])
    check_arguments(ask, splits)
    said: list[str] = list(splits.train.data.notes)
    chosen: dict[str, Any] = {}

    if "rate_found" in ask:  # by lr="find"
        sentence, chosen["lr_found"] = ask["rate_found"]
        said.append(sentence)

    # model
    facts = {"num_inputs": splits.num_inputs, "num_outputs": splits.num_outputs, "num_categories": splits.num_categories, "task": splits.task}
    model, model_args = ask["model"], dict(ask["model_args"] or {})
    if model == "auto":
        auto = automatic.choose(splits, ask)
        model, model_args = auto.model, auto.args
        ask = ask | auto.settings
        said.append(auto.sentence)
        chosen |= {"model": model, "auto": auto.settings}
    ask = ask | {"augment": make_augment(ask["augment"])}
    if model == "cnn" and splits.image_shape is not None:
        facts["image_shape"] = splits.image_shape
    built = ask.get("built")  # by `resume`, from the recipe
    if built is None:
        built = building.build_model(model, model_args, facts={key: value for key, value in facts.items() if value is not None}, seed=seed)
    said += list(built.said)
    module = built.module
    report = None
    if ask["weights"] is not None:
        report = weights_into(module, ask)
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
    except SettingsError as refusal:
        if not own_step:
            why = refusals.rows_do_not_fit(splits, module, refusal) if ask["checks"] else None
            if why is not None and why.code not in ask["ignore"]:
                raise FindingsError([why]) from refusal
            if splits.columns is not None:
                raise SettingsError(f"{refusal}{refusals.how_columns_are_encoded(splits)}") from refusal
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
        by_class = weights_by_name(class_weights, splits.classes) if isinstance(class_weights, Mapping) else class_weights
        class_weights = torch.as_tensor(by_class, dtype=dtype)
    with seeds.restored(seeds.derive(seed, "loss")):  # a loss may hold a layer of its own, which starts from random weights
        raw_loss = None if own_step else losses.make_loss(spec, class_weights=class_weights, per_example=weighted)
    loss_module = raw_loss.to(device=device, dtype=dtype) if isinstance(raw_loss, nn.Module) else None
    loss_name = losses.loss_name(raw_loss) if raw_loss is not None else None
    kind = losses.LOSSES.get(loss_name or "")
    task = task_of_outputs(task or (kind.task if kind is not None else None), outputs, loss_name)
    center, scale = target_scale(splits, ask, kind)
    if splits.columns is not None and raw_loss is not None:
        for part_name, source in encoded.items():
            encoded[part_name] = scaled_targets(source, raw_loss, outputs, center, scale, dtype, getattr(splits, part_name))
    elif raw_loss is not None:
        encoded = {part_name: targets_as_loss_wants(source, dtype) for part_name, source in encoded.items()}
    decoding = decoding_for(
        raw_loss, task, output_shape=tuple(outputs.shape) if isinstance(outputs, Tensor) else None, classes=splits.classes, target_center=center,
        target_scale=scale, target_names=splits.train.data.target_names,
    )  # fmt: skip
    objective = objective_of(raw_loss, pick, weighted)
    if isinstance(module, models.Ensemble):
        objective = models.member_loss(objective)  # each member's gradient is its own

    # optimizer and schedule
    num_epochs = 100 if ask["epochs"] == "auto" else ask["epochs"]
    batch_size = len(encoded["train"]) if ask["batch_size"] == "all" else choose_batch_size(built, splits) if ask["batch_size"] == "auto" else ask["batch_size"]
    if arguments["epochs"] == "auto":
        chosen["epochs"] = num_epochs
    if arguments["batch_size"] == "auto":
        chosen["batch_size"] = batch_size
    train_batches = make_batches(splits, encoded["train"], ask, device, dtype, batch_size, seed)
    still = refusals.nothing_to_train(module, loss_module) if ask["checks"] and not callable(ask["optimizer"]) else None
    if still is not None and still.code not in ask["ignore"]:
        raise FindingsError([still])
    optimizer = optimizers.make_optimizer(
        ask["optimizer"], module, lr=None if ask["lr"] == "auto" else ask["lr"], groups=ask["groups"] or {}, loss=loss_module, device=str(device.type)
    )
    said += list(getattr(optimizer, "said", []))
    chosen["optimizer"] = getattr(optimizer, "recorded", {})
    watched = watching(ask, splits, task)
    schedule = schedules.make_schedule(
        None if ask["scheduler"] == "auto" else ask["scheduler"], optimizer, epochs=num_epochs, steps_per_epoch=train_batches.steps(0), mode=watched.mode
    )
    if arguments["patience"] == "auto":
        chosen["patience"] = watched.patience
    chosen["keep"] = watched.keep

    predictor = Predictor(
        module,
        decoding,
        splits.columns,
        block_size(encoded["train"]),
        pick,
        loss_module if outputs_from(raw_loss) is not None else None,
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
                keep_outputs=bool(watched.scores),
            )
            if not watched.scores:
                return value, {}
            gathered = loop.concatenate([map_tensors(lambda tensor: tensor.cpu(), pick(item) if pick else item) for item in kept])
            targets = targets_in_unit(part_name)
            return value, {
                key: float(function(metric_inputs(predictor, gathered, task, key, ask["metrics"]), targets)) for key, function in watched.scores.items()
            }

        return run_validation

    def targets_in_unit(part_name: str) -> Tensor | None:
        return true_targets(splits, splits.part(part_name), encoded[part_name])

    def evaluate_loss(part_name: str) -> float | tuple[Tensor, Tensor] | None:
        """The loss on a split with the weights that were kept: by row where the loss gives a value per row, else one number; None where step= has none of ours."""
        if ask["step"] is not None:
            return None
        source = encoded[part_name]
        batches = partial(evaluation_batches, source, evaluation_rows(source), device, dtype)
        value, kept = loop.evaluate(module, objective, batches(), weigh=weigh, compute=ask["compute"], autocast=autocast, keep_outputs=not own_step)
        if raw_loss is None:
            return value
        with torch.no_grad():
            pairs = zip(kept, batches())
            found = [loss_means.by_row(raw_loss, pick(outputs) if pick else outputs, batch.targets, batch.weights) for outputs, batch in pairs]
        rows = [row for row in found if row is not None]
        if not rows or len(rows) < len(found):
            return value
        return torch.cat([totals for totals, _ in rows]), torch.cat([counts for _, counts in rows])

    average = make_average(ask["average"], module if loss_module is None else nn.ModuleList([module, loss_module]))
    training = Training(
        module,
        loss_module if loss_module is not None and (list(loss_module.parameters()) or list(loss_module.buffers())) else None,
        optimizer,
        schedule,
        scaler,
        average,
        Stopping(watched.patience, watched.mode),
        attributes=Attributes({"model": module, "loss": raw_loss} | {key: ask[key] for key in ("compute", "step", "augment")}),
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
        monitor=watched.monitor,
        keep=watched.keep if can_validate else "last",
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
        facts={"model": built.recipe.get("name") or type(module).__name__} | asked_settings(arguments, defaults) | chosen,
        may_be_infinite=infinite_by_design(module),
    )
    settings = Settings(asked_settings(arguments, defaults), chosen, data_record(splits), built.recipe)
    session = Session(
        ask, settings, splits, built, training, plan, decoding, raw_loss, loss_name, predictor, task, device, None, encoded, targets_in_unit, evaluate_loss,
        said=said, can_predict=outputs is not None, weights_report=report, batch_size=batch_size, user_metrics=scoring.user_functions(ask["metrics"]), keepers=keepers,
    )  # fmt: skip
    session.inexact = not_repeatable(session, pick)
    if ask["checks"]:
        session.checks = gate.Checks(session, ignore=ask["ignore"], predict_rows=ask.get("predict_rows"))
        session.findings = session.checks.before()
        if any(finding.severity == "error" for finding in session.findings):
            raise FindingsError(session.findings)
        observers.append(session.checks.see)
    if ask["checks"] and "P15" not in ask["ignore"]:
        fix = "Draw from torch, numpy.random or random, which are seeded for each row; keep what forward changes in a buffer or a number."
        session.findings += [
            Finding("P15", "warning", reason, {}, "A resumed run, or a second one, does not end in the same bits.", fix) for reason in session.inexact
        ]
    if only_check:
        return session
    if ask["folder"] is not None and "built" not in ask:  # told before the run, and only where something is kept that one would later eject
        said += obstacles(session)
    if ask["compile"] is not None:
        compile_steps(session)
    if not ask["quiet"]:
        if notebook.running():
            observers.append(notebook.observer(session))
        else:
            session.progress = console.observer(session)
            observers.append(session.progress)
    if "built" in ask:  # `resume` goes on in a folder that is there
        session.folder = None if ask["folder"] is None else Path(ask["folder"])
    elif ask["folder"] is not None:
        session.folder = runs.create(ask["folder"], ask["name"], run_stem(splits, model))
        runs.write(session.folder, "settings.json", settings.to_json())
        program = session.plan.program
        compiling = {} if program is None else {"compile": {"mode": program.mode, "steps_in_a_chunk": program.length, "seconds": round(program.seconds, 2)}}
        runs.write(session.folder, "environment.json", runs.environment(device) | compiling | {"inexact": session.inexact})
    if session.folder is not None:
        session.plan = replace_fields(session.plan, facts=session.plan.facts | {"name": session.folder.name})  # what observers call the run
        observers.append(partial(write_history, session.folder))
    if ask["watch_test"] and splits.test is not None:
        observers.append(partial(count_test_look, session))
    return session


def weights_into(module: nn.Module, ask: dict[str, Any]) -> Any:
    """The weights that were asked for are the module's; returns what fitted. Raises SettingsError, FindingsError where none fits and part would do."""
    try:
        return building.load_weights(module, ask["weights"], strict=ask["weights_strict"])
    except SettingsError as refusal:
        if ask["weights_strict"] or not ask["checks"]:
            raise
        raise FindingsError([refusals.no_weight_fits(refusal)]) from refusal


def task_of_outputs(task: str | None, outputs: Any, loss_name: str | None) -> str | None:
    """The task that labels tell, mended by the outputs: three logits and labels 0 and 1 are several classes, one number for many labels is a regression."""
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        return task
    if task == "binary" and outputs.shape[1] > 2:
        return "multiclass"
    if task == "multiclass" and outputs.shape[1] == 1 and loss_name is None:
        return "regression"
    return task


def compile_steps(session: Session) -> None:
    """compile=: the session's plan gets a program, or stays eager and says why. What was decided is recorded as `compile` among the chosen settings."""
    ask, training, plan = session.arguments, session.training, session.plan
    parts = capturing.Parts(
        training.model, training.loss_module, training.optimizer, plan.loss, plan.compute, training.schedule, training.average,
        plan.clipping, plan.autocast, training.scaler, plan.frozen,
    )  # fmt: skip
    program, told = compiled.make(
        parts, ask["compile"], plan.batches, steps=plan.epochs * plan.batches.steps(0), rows=len(session.encoded["train"]), batch_size=session.batch_size,
        device=session.device, user_step=plan.user_step is not None, split=plan.split is not None,
    )  # fmt: skip
    session.said.append(told)
    session.settings.chosen["compile"] = None if program is None else program.mode
    session.plan = replace_fields(plan, program=program)


# -- observers that write ----------------------------------------------------------------------------------------------------------------------------------------


def write_history(folder: Path, event: Any) -> None:
    if isinstance(event, EpochEnded):
        runs.append_history(folder, event.as_row())


def count_test_look(session: Session, event: Any) -> None:
    """watch_test: each look at the test split counts, as any other does."""
    if isinstance(event, EpochEnded) and event.test_loss is not None:
        runs.count_look(session.folder, session.splits.fingerprint, "test")
