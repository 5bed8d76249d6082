"""What the checks look at: one frozen value that holds model, data, loss and plan as they are just before the first step.

Enters: nothing; `workflow` (or a test) fills it in. Leaves: facts that `before`, `during` and `after` read. The decision that shaped it: the checks never see a
run, a session or a settings object, so they can be called from anywhere, and what they may read is written down here, field by field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
from torch import Tensor, nn


@dataclass(frozen=True)
class Part:
    """One split, as the model and the loss see it: encoded, cast, and with targets in the loss's unit.

    `inputs` is a Tensor, tuple or dict of tensors, or None where rows are read one by one (a Dataset); `targets` is a tuple of tensors, or None then.
    `read(indices)` returns `(inputs, targets, weights)` for int64 positions within this split. `rows` are the positions in the original data
    (int64, as long as the split) where all splits were cut from one, else None.
    """

    read: Callable[[Tensor], tuple[Any, tuple[Tensor, ...], Tensor | None]]
    length: int
    inputs: Any = None
    targets: tuple[Tensor, ...] | None = None
    rows: numpy.ndarray | None = None

    def __len__(self) -> int:
        return self.length

    def take(self, indices: Tensor) -> tuple[Any, tuple[Tensor, ...], Tensor | None]:
        return self.read(indices)


@dataclass(frozen=True)
class Subject:
    """Everything the rules may ask. Only `model` and `train` must be given; a rule whose facts are missing says nothing.

    - `loss` is the loss as the user gave it (a callable of `(*outputs, *targets)`), `feed(outputs, targets)` calls it where more is to be done;
      with `feed=None` the checks call a copy of `loss` themselves. None for both with `compute` or `step`.
    - `pick` chooses from the model's outputs what loss and metrics see (`output=`), None for all.
    - `optimizer` is the real one, over the parameters of the original `model`; `schedule(steps)` returns the learning rates of the first group
      for that many planned steps, None without a schedule.
    - `metrics` are the user's own functions, `f(outputs, targets)` with one tensor each where there is one; `metric_names` are the names asked for, theirs and
      ours; `default_metrics` says that none were chosen.
    - `texts` names columns that a source with types of its own holds as text and that were read as numbers, each with the texts that are none.
    - `table` holds all raw columns by name, dropped ones included, in the order of the rows of the file; `used` are the feature columns,
      `left_out` says why the reader itself left others out (a row counter, an id), `kinds` says for
      each "number", "category", "date" or another word; `standardised` is True where columns are brought to one scale before the model.
    - `split` is "random", "ordered", "time", "group" or "given", `split_column` the column it went by.
    - `weights` is a report with `.matched` and `.missing` (names), or None where no weights were loaded; `fine_tuned` says that training goes on from some.
    """

    model: nn.Module
    train: Part
    val: Part | None = None
    test: Part | None = None
    loss: Any = None
    feed: Callable[[Any, tuple[Any, ...]], Any] | None = None
    loss_name: str | None = None
    pick: Callable[[Any], Any] | None = None
    compute: Callable[..., Any] | None = None
    step: Callable[..., Any] | None = None
    task: str | None = None
    classes: Sequence[Any] | None = None

    optimizer: Any = None
    schedule: Callable[[int], Sequence[float]] | None = None
    batch_size: int = 32
    epochs: int = 1
    steps_per_epoch: int | None = None
    shuffle: bool = True
    clip_norm: float | None = None
    clip_value: float | None = None
    augment: Callable[..., Any] | None = None

    metrics: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    metric_names: Sequence[str] = ()
    default_metrics: bool = False
    monitor: str = "loss"
    mode: str | None = None
    keep: str = "last"
    has_patience: bool = False

    table: Mapping[str, numpy.ndarray] | None = None
    target: str | None = None
    dropped: Sequence[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    used: Sequence[str] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    standardised: bool = False
    split: str = "random"
    split_column: str | None = None

    dataset: Any = None
    weights: Any = None
    fine_tuned: bool = False
    predict_rows: Any = None

    @property
    def parts(self) -> dict[str, Part]:
        """The splits that are there, by name, training first."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole plan."""
        steps = self.steps_per_epoch or -(-len(self.train) // max(1, self.batch_size))
        return steps * self.epochs


def part_of(inputs: Any, targets: Any = (), *, rows: Any = None) -> Part:
    """A Part over tensors in memory. `targets` is a tensor or a tuple of tensors; `rows` the original positions.

    >>> import torch
    >>> len(part_of(torch.zeros(4, 3), torch.zeros(4)))
    4
    """
    targets = (targets,) if isinstance(targets, Tensor) else tuple(targets)

    def read(indices: Tensor) -> tuple[Any, tuple[Tensor, ...], None]:
        return select(inputs, indices), tuple(target[indices] for target in targets), None

    first = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values() if isinstance(inputs, dict) else inputs))
    return Part(read, len(first), inputs, targets, None if rows is None else numpy.asarray(rows))


def select(value: Any, indices: Tensor) -> Any:
    """Rows of a tensor, or of each tensor of a tuple or dict."""
    if isinstance(value, Tensor):
        return value[indices]
    if isinstance(value, dict):
        return {key: select(item, indices) for key, item in value.items()}
    return tuple(select(item, indices) for item in value)
