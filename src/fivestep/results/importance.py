"""What a model looks at: permutation importance of each input column, with its interval.

Enters: a `Run` and the name of a split. Leaves: `Importances`, or in words why there are none. Nothing here looks at a split that it was not asked for, and
nothing moves a global random state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fivestep import seeds
from fivestep.model import metrics as scoring
from fivestep.results.diagnosis import CLASSED, beside, dependence, predicted
from fivestep.results.predictor import ArrayRows

MOST_IMPORTANCE_ROWS = 2_000  # rows that permutation importance predicts again for each column; its interval says what fewer rows cost
MOST_IMPORTANCE_COLUMNS = 100


@dataclass(frozen=True)
class Importance:
    """How much worse rows are predicted when a column's values are dealt anew among them: mean loss after minus before, with its 95 % interval over rows."""

    name: str
    value: float
    low: float
    high: float

    @property
    def matters(self) -> bool:
        return self.low > 0


@dataclass(frozen=True)
class Importances:
    """Permutation importance of each input column, the largest first; `loss_name` is what the values are in, `note` what was left out."""

    rows: tuple[Importance, ...]
    num_rows: int
    repeats: int
    loss_name: str
    base: float
    split: str
    note: str = ""


def importance(run: Any, split: str, *, repeats: int = 3, seconds: float = 2.0, seed: int = 0) -> Importances | str:
    """Permutation importance (Breiman 2001) of each column of a table or of two-dimensional inputs; in words why there is none for others.

    At most 2,000 rows are used; where a model is slow, fewer rows, so that about `seconds` are spent. A table's column is dealt anew as a whole, with all
    inputs that were made of it. Columns that tell the same hide each other: each may look unimportant.
    """
    source = run._encoded[split]
    inputs = getattr(source, "inputs", None)
    columns = run._predictor.columns
    if columns is None and not (isinstance(inputs, Tensor) and inputs.dim() == 2):
        return "Importance is measured for tables and for arrays with one column for each input."
    deal = seeds.generator(seed, "importance")
    places = torch.randperm(len(source), generator=deal)[:MOST_IMPORTANCE_ROWS].sort().values
    started = time.perf_counter()
    base = predicted(run, split, places)
    once = time.perf_counter() - started
    if base is None:
        return "The model's outputs are no prediction of the target, so nothing can be compared."
    if len(base) < 10:
        return f"{len(base)} rows are too few to tell."
    names, permuted = permutable(run, split, inputs, base.places)
    note = ""
    if len(names) > MOST_IMPORTANCE_COLUMNS:
        note = f"Of {len(names):,} columns the first {MOST_IMPORTANCE_COLUMNS} were measured."
        names = names[:MOST_IMPORTANCE_COLUMNS]
    share = seconds / max(once * len(names) * repeats, 1e-9)
    if share < 1 and repeats > 1:
        repeats, share = 1, share * repeats
    if share < 1:
        fewer = max(100, int(len(places) * share))
        if fewer < len(places):
            places = places[torch.randperm(len(places), generator=deal)[:fewer].sort().values]
            base = predicted(run, split, places)
            assert base is not None
            _, permuted = permutable(run, split, inputs, base.places)
    targets = run._targets(split)
    resampling = dependence(run, split, base.places)
    dealt = []
    for position in range(len(names)):
        total = torch.zeros(len(base), dtype=torch.float64)
        for _ in range(repeats):
            values = run._predictor.decode(
                run._predictor.outputs(ArrayRows(permuted(position, torch.randperm(len(base), generator=deal)))), probabilities=base.task in CLASSED
            )
            again = beside(run, split, base.places, values, targets[base.places])
            if again is None:
                return "With values dealt anew the model gives outputs that are not finite."
            total += again.losses
        dealt.append(total / repeats)
    differences = scoring.compare_losses(dealt, base.losses, samples=500, seed=seed, **resampling)
    rows = [Importance(name, *difference) for name, difference in zip(names, differences)]
    rows.sort(key=lambda row: -row.value)
    return Importances(tuple(rows), len(base), repeats, base.loss_name, float(base.losses.mean()), split, note)


def permutable(run: Any, split: str, inputs: Any, places: Tensor) -> tuple[list[str], Callable[[int, Tensor], Any]]:
    """Names of the columns, and a function (position, order) -> inputs in which that column's values stand in another order."""
    columns = run._predictor.columns
    if columns is None:
        chosen = inputs[places]

        def dealt(position: int, order: Tensor) -> Tensor:
            changed = chosen.clone()
            changed[:, position] = chosen[order, position]
            return changed

        return [f"input {position}" for position in range(inputs.shape[1])], dealt
    part = run.splits.part(split)
    numbers, codes = columns.raw(part.data.typed, part.indices[places].numpy())
    where, width, category = [], 0, 0
    for column in columns.inputs:
        if column.is_category:
            where.append((column.name, None, category))
            category += 1
        else:
            where.append((column.name, slice(width, width + len(column.parts)), 0))
            width += len(column.parts)
    encoder = columns.encoder()

    def dealt_table(position: int, order: Tensor) -> Any:
        _, numeric, code = where[position]
        other_numbers, other_codes = numbers, codes
        if numeric is None:
            other_codes = codes.clone()
            other_codes[:, code] = codes[order, code]
        else:
            other_numbers = numbers.clone()
            other_numbers[:, numeric] = numbers[order][:, numeric]
        with torch.no_grad():
            return encoder(other_numbers, other_codes)

    return [name for name, _, _ in where], dealt_table
