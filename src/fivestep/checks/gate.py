"""Where a session meets the checks: it becomes a `Subject`, which is all that the rules may read.

Enters: a session of `workflow` (its parts by attribute, nothing is imported from there). Leaves: findings. What a rule draws or computes leaves no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fivestep import seeds
from fivestep.checks.subject import Part, Subject, part_of

if TYPE_CHECKING:
    from fivestep.checks.findings import Finding


def subject_of(session: Any, predict_rows: Any = None) -> Subject:
    """The session as the checks see it."""
    ask, splits, training, plan = session.arguments, session.splits, session.training, session.plan
    parts = {name: part_facts(source, getattr(splits, name)) for name, source in session.encoded.items()}
    table, facts = None, {}
    if splits.columns is not None:
        typed = splits.train.data.typed
        table = {name: typed.values(name) for name in typed.names}
        facts = dict(
            target=splits.train.data.target_names[0] if splits.train.data.target_names else None,
            dropped=tuple(splits.train.data.options["drop"]),
            used=tuple(typed.inputs),
            kinds={column.name: column.kind for column in typed.columns},
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


def part_facts(source: Any, split_part: Any) -> Part:
    rows = split_part.indices.numpy()
    if hasattr(source, "inputs"):
        return part_of(source.inputs, source.targets, rows=rows)
    return Part(source.take, len(source), rows=rows)


def before(session: Any, *, ignore: Sequence[str] = (), predict_rows: Any = None) -> list[Finding]:
    """Findings before the first step; model, data and random state stay as they are."""
    from fivestep.checks.before import check_before

    with seeds.restored():
        return check_before(subject_of(session, predict_rows), ignore=ignore)
