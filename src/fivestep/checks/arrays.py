"""The user's inputs and columns as arrays of numbers: a nest of tensors (one, or tuples and dicts of them) as a matrix of rows, a column of a table as float64.

Nothing here knows a model or a probe. The decision that shaped it: of what is large every k-th row is taken, so that what rules look at has a bounded size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy
import torch
from torch import Tensor

from fivestep.checks.recording import tensors_in

SAMPLE = 10_000  # values of a column that its spread and its values are judged by
FLAT = 2_000_000  # input values that rules on rows look at; beyond, every k-th row


@dataclass(frozen=True)
class Column:
    """One raw feature column over all rows: float64 values (NaN where missing), its dtype's name, and whether the model gets it."""

    name: str
    values: numpy.ndarray
    dtype: str
    used: bool = True
    kind: str = "number"
    place: int | None = None  # in a matrix of inputs; None for a column of a table

    @property
    def left_out(self) -> str:
        """How a user leaves it out: an option of tables, or the columns of an array that stay."""
        return f"drop=[{self.name!r}]" if self.place is None else f"give the model numpy.delete(x, {self.place}, axis=1)"

    @cached_property
    def finite(self) -> numpy.ndarray:
        """Up to SAMPLE finite values, spread over all rows."""
        sample = self.values[:: max(1, len(self.values) // SAMPLE)]
        return sample[numpy.isfinite(sample)]

    @cached_property
    def distinct(self) -> int:
        return len(numpy.unique(self.finite))

    @cached_property
    def is_integer(self) -> bool:
        return len(self.finite) > 0 and bool(numpy.all(self.finite == numpy.round(self.finite)))


def as_numbers(values: numpy.ndarray) -> tuple[numpy.ndarray | None, str]:
    """float64 values of a number or date column and its kind; None for text."""
    if values.dtype.kind in "fiub":
        return values.astype(numpy.float64), "number"
    if values.dtype.kind in "mM":
        seconds = values.astype("datetime64[us]" if values.dtype.kind == "M" else "timedelta64[us]").astype(numpy.int64).astype(numpy.float64) / 1e6
        return numpy.where(numpy.isnat(values), numpy.nan, seconds), "date"
    if values.dtype.kind == "O":
        present = [value for value in values if value is not None]
        if present and all(isinstance(value, (int, float, numpy.number)) for value in present):
            return numpy.array([numpy.nan if value is None else float(value) for value in values]), "number"
    return None, "category"


def flatten(inputs: Any, limit: int = FLAT) -> numpy.ndarray | None:
    """Floating and 8-bit tensors of a nest as one float32 matrix (rows, values), or None; every k-th row so that it holds about `limit` values at most."""
    tensors = number_tensors(inputs)
    if not tensors or len({len(tensor) for tensor in tensors}) > 1 or len(tensors[0]) == 0:
        return None
    step = row_step(inputs, limit)
    parts = [
        tensor[::step].detach().cpu().flatten(1).float().numpy() if tensor.dim() > 1 else tensor[::step].detach().cpu()[:, None].float().numpy()
        for tensor in tensors
    ]
    return parts[0] if len(parts) == 1 else numpy.concatenate(parts, 1)


def row_step(inputs: Any, limit: int) -> int:
    """Every how many rows to take so that no more than about `limit` values are looked at."""
    tensors = number_tensors(inputs)
    return max(1, sum(tensor.numel() for tensor in tensors) // limit) if tensors else 1


def number_tensors(inputs: Any) -> list[Tensor]:
    """Floating and 8-bit tensors of a nest."""
    return [tensor for tensor in tensors_in(inputs) if (tensor.is_floating_point() or tensor.dtype == torch.uint8) and tensor.dim() > 0]


def count_rows(value: Any) -> int:
    """The length of the first tensor of a nest."""
    return len(next(iter(tensors_in(value))))


def concatenate(values: list[Any]) -> Any:
    """Nests of the same form joined along their first axis; rows of unequal shape (padded to their batch) cannot be."""
    first = values[0]
    try:
        if isinstance(first, Tensor):
            return torch.cat(values)
        if isinstance(first, dict):
            return {key: concatenate([value[key] for value in values]) for key in first}
        return tuple(concatenate([value[place] for value in values]) for place in range(len(first)))
    except (RuntimeError, TypeError):
        return first


def held_bytes(value: Any, depth: int = 4) -> int:
    """About how many bytes of tensors and arrays an object holds."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, numpy.ndarray):
        return value.nbytes
    if depth == 0 or value is None:
        return 0
    if isinstance(value, (list, tuple)):
        sample = value[:8]
        return int(sum(held_bytes(item, depth - 1) for item in sample) * len(value) / max(1, len(sample)))
    if isinstance(value, dict):
        return sum(held_bytes(item, depth - 1) for item in list(value.values())[:64])
    return sum(held_bytes(item, depth - 1) for item in vars(value).values()) if hasattr(value, "__dict__") else 0
