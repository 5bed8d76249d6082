"""Where a session meets the checks: it becomes a `Subject`, which is all that the rules may read.

Enters: a session of `workflow` (its parts by attribute, nothing is imported from there). Leaves: findings. What a rule draws or computes leaves no trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fivestep import seeds
from fivestep.checks.after import check_trained
from fivestep.checks.after_prediction import check_prediction_rows, training_statistics
from fivestep.checks.after_scores import accuracy, check_scores
from fivestep.checks.before import check_before, first_things_first
from fivestep.checks.during import Watch
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.subject import Part, Subject, part_of
from fivestep.train.events import EpochEnded


def subject_of(session: Any, predict_rows: Any = None) -> Subject:
    """The session as the checks see it."""
    ask, splits, training, plan = session.arguments, session.splits, session.training, session.plan
    together = all(part is None or part.data is splits.train.data for part in (splits.val, splits.test))
    parts = {name: part_facts(source, getattr(splits, name), together) for name, source in session.encoded.items()}
    table: dict[str, Any] | None = None
    facts: dict[str, Any] = {}
    if splits.columns is not None:
        typed = splits.train.data.typed
        table = {name: as_stored(typed, name) for name in typed.names}
        facts = dict(
            target=splits.train.data.target_names[0] if splits.train.data.target_names else None,
            dropped=tuple(splits.train.data.options["drop"]),
            left_out={column.name: column.why for column in splits.columns.left_out if column.name not in splits.train.data.options["drop"]},
            used=tuple(typed.inputs),
            kinds={column.name: column.kind for column in typed.columns},
            texts=read_from_text(typed),
            standardised=True,
        )
    method = getattr(getattr(splits.how, "how", None), "method", "indices")
    return Subject(
        model=training.model,
        train=parts["train"],
        val=parts.get("val"),
        test=parts.get("test"),
        loss=session.loss,
        feed=plan.loss if session.loss is not None and getattr(session.encoded["train"], "weights", None) is None else None,
        loss_name=session.loss_name,
        compute=ask["compute"],
        step=ask["step"],
        task=session.task,
        classes=splits.classes,
        optimizer=training.optimizer,
        schedule=None if training.schedule is None else lambda steps: [rates[0] for rates in training.schedule.preview(steps, plan.batches.steps(0))],
        batch_size=session.batch_size,
        epochs=plan.epochs,
        steps_per_epoch=plan.batches.steps(0),
        shuffle=ask["shuffle"],
        clip_norm=ask["clip_norm"],
        clip_value=ask["clip_value"],
        augment=ask["augment"],
        metrics=session.user_metrics,
        default_metrics=ask["metrics"] is None,
        metric_names=tuple(name for name in (ask["metrics"] if isinstance(ask["metrics"], (list, tuple, dict)) else [ask["metrics"]]) if isinstance(name, str)),
        monitor=plan.monitor,
        mode=training.stopping.mode,
        keep=plan.keep,
        has_patience=training.stopping.patience is not None,
        table=table,
        split={"stratified": "random", "groups": "group", "file order": "ordered", "time": "time", "random": "random"}.get(method, "given"),
        split_column=next((splits.options[key] for key in ("time", "group", "column") if isinstance(splits.options.get(key), str)), None),
        dataset=getattr(splits.train.data.source, "dataset", None),
        weights=session.weights_report,
        fine_tuned=ask["weights"] is not None,
        predict_rows=predict_rows,
        **facts,
    )


def as_stored(typed: Any, name: str) -> Any:
    """A column's values in the precision it came with: a float32 column of a frame has lost what float32 cannot hold."""
    values = typed.values(name)
    return values.astype("float32") if values.dtype.kind == "f" and str(typed.table.column(name).dtype) == "Float32" else values


def read_from_text(typed: Any) -> dict[str, list[str]]:
    """Inputs that a frame or dict holds as text and that were read as numbers, each with the texts that are none; empty for text files, where all is text."""
    if typed.table.lines is not None:
        return {}
    found = {}
    for column in typed.columns:
        held = typed.table.column(column.name)
        if column.name in typed.inputs and column.kind == "number" and str(held.dtype) == "String":
            read = typed.values(column.name)
            found[column.name] = [text for text, value in zip(held.to_list(), read.tolist()) if text is not None and value != value]
    return found


def part_facts(source: Any, split_part: Any, together: bool) -> Part:
    """`together`: all splits were cut from one data, so that equal row numbers mean equal rows."""
    rows = split_part.indices.numpy() if together else None
    if hasattr(source, "inputs"):
        return part_of(source.inputs, source.targets, rows=rows)
    return Part(source.take, len(source), rows=rows)


class Checks:
    """The checks of one run: before it, while it trains (an observer), after it, at scores and at predictions. Model, data and random state stay as they are."""

    def __init__(self, session: Any, *, ignore: Sequence[str] = (), predict_rows: Any = None):
        self.session, self.ignore, self.predict_rows = session, tuple(ignore), predict_rows
        self.subject = subject_of(session, predict_rows)
        self.watch: Watch | None = None

    def before(self) -> list[Finding]:
        """Findings before the first step. The copy of the model's start that later rules compare with is taken here."""
        with seeds.restored():
            probe = Probe(self.subject)  # what it computed, the later rules use again
            found = check_before(self.subject, ignore=self.ignore, probe=probe)
            self.statistics = training_statistics(self.subject)
            found += check_prediction_rows(self.statistics, self.predict_rows, ignore=self.ignore)
            self.watch = Watch(self.subject, found, probe=probe)
        return found

    def see(self, event: Any) -> None:
        if isinstance(event, EpochEnded) and self.watch is not None:
            self.watch.steps_ended(event.losses)
            self.watch.model_seen(self.session.training.model, event.epoch)
            self.watch.epoch_ended(event.epoch - 1, event.train_loss, event.val_loss, event.lr[0], event.metrics)

    def after(self) -> list[Finding]:
        """Findings on the history and on the trained model."""
        if self.watch is None:
            return []
        with seeds.restored():
            self.watch.trained(self.session.training.model)
            found = [finding for finding in self.watch.findings() if finding.code not in self.ignore]
            if self.session.arguments["step"] is None:
                found += check_trained(self.subject, self.session.training.model, watch=self.watch, ignore=self.ignore)
        return first_things_first(found, self.session.findings)

    def scores(self, name: str, outputs: Any, targets: Any) -> list[Finding]:
        """Findings on the outputs of a split that is scored."""
        return check_scores(self.subject, name, outputs, (targets,), train_accuracy=self.training_accuracy, ignore=self.ignore)

    def training_accuracy(self) -> float:
        """The trained model's accuracy on up to 1,000 training rows; NaN where it has no classes. Asked only for a split whose score is below guessing."""
        part = self.subject.train
        rows = torch.arange(len(part))[:: max(1, len(part) // 1000)]
        inputs, targets, _ = part.take(rows)
        with seeds.restored(0):
            probe = Probe(self.subject)
            outputs = probe.outputs(probe.fresh().eval(), inputs)
        return accuracy(outputs, targets[0]) if targets else math.nan

    def prediction(self, rows: Any) -> list[Finding]:
        """Findings on rows to be predicted: elsewhere than the training rows, or with their columns in another order."""
        return check_prediction_rows(self.statistics, rows, ignore=self.ignore) if isinstance(rows, Tensor) or hasattr(rows, "__array__") else []

    def non_finite(self, error: Any) -> Finding:
        """A loss that stopped being finite, as a finding: of the inputs, of the loss itself, or of the steps before it."""
        code = {"inputs": "D03", "loss": "L21"}.get(error.origin, "T01")
        evidence = {"step": error.step, "layer": error.layer, "rows": list(error.rows[:20])}
        return Finding(code, "error", error.seen, evidence, "Every later weight would be NaN.", error.fix)
