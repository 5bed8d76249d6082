"""Whether a second run, or a resumed one, can end in the same bits: what neither a seed nor a checkpoint reaches.

Enters: a prepared session. Leaves: the reasons in words, empty where there are none. The decision that shaped it: it is tried rather than guessed, with rows read twice
and one training step on copies.
"""

from __future__ import annotations

from typing import Any

from fivestep import seeds
from fivestep.data import sources
from fivestep.session import Session
from fivestep.train import loop
from fivestep.train.attributes import changed_by


def not_repeatable(session: Session, pick: Any) -> list[str]:
    """What neither a seed nor a checkpoint reaches, in words: a Dataset's own generator (some rows are read twice), attributes that forward changes."""
    told: list[str] = []
    source, training = session.splits.train.data.source, session.training
    dataset = getattr(source, "dataset", None)
    if dataset is not None and not sources.rows_repeat(dataset, int(session.splits.train.indices[0])):
        told.append(
            f"{type(dataset).__name__} does not give the same rows when they are read again under the same seed (row {int(session.splits.train.indices[0])} and others were): "
            "it draws from a generator of its own, looks at a clock, or changes what it holds"
        )
    assert training.attributes is not None

    def one_step(copies: dict[str, Any]) -> None:
        batch = next(iter(session.plan.batches.epoch(0)))
        model = copies["model"].train()
        with seeds.restored(0):
            compute = copies.get("compute")
            value = loop.forward(model, batch.inputs) if compute is None else compute(model, batch.inputs, batch.targets)
            loss = copies.get("loss")
            if compute is None and loss is not None:
                value = value if pick is None else pick(value)
                loss(*(value if isinstance(value, tuple) else (value,)), *batch.targets)

    changed = changed_by(training.attributes.objects, one_step)
    if changed:
        told.append(
            f"{', '.join(changed[:4])} changes in a training step and cannot be held in a checkpoint, which holds numbers, text, tensors, lists and dicts"
        )
    return told
