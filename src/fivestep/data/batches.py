"""From a training source to batches: `batches.epoch(n)` yields `(inputs, targets, weights)` in an order that depends on (seed, epoch) only.

Data in memory: one permutation an epoch, rows gathered in pieces of many batches, batches are views of a piece (a gather per batch cost 1.4x on a small model).
Everything else goes through torch's DataLoader with whole index lists. Both repeat an epoch from any step on: a whole piece is gathered again, as a view of it can
differ in bits from the same rows gathered alone. Kernel: imports only torch, the standard library and `seeds`.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fivestep import seeds

# Gathered at once. A whole epoch of W3's 188 MB took 136 ms, as its memory is fresh from the system each time; in pieces that the allocator gives again 23 ms
# (4 MB; 37 ms at 16 MB, 28 ms batch by batch). Pieces are multiples of 64 rows: each batch then lies in memory as in a gather of the whole epoch, to a vector's
# width, so its bits are a hand loop's.
PIECE_BYTES, ALIGNED_ROWS = 4_000_000, 64


class Batch(NamedTuple):
    """What one step sees: inputs for `model(...)`, a tuple of targets for the loss, a weight for each example or None."""

    inputs: Any
    targets: tuple[Any, ...]
    weights: Tensor | None


class Counted(Batch):
    """A batch that knows its number of examples, where its tensors need not tell (graphs, padded sequences)."""

    examples: int

    @classmethod
    def of(cls, batch: tuple[Any, tuple[Any, ...], Tensor | None], examples: int) -> Counted:
        made = cls(*batch)
        made.examples = examples
        return made


class Stacked(Batch):
    """Batches of one size in one piece: each tensor has a leading axis of steps."""

    def singly(self) -> list[Batch]:
        steps = len(tensors_of(self)[0])
        return [Batch(*map_tensors(lambda tensor, step=step: tensor[step], tuple(self))) for step in range(steps)]


class Batches(Protocol):
    """What the loop needs: batches of epoch `n` from step `start` on, how many there are, and the rows of one step (to name them in an error)."""

    def epoch(self, n: int, start: int = 0) -> Iterator[Batch]: ...
    def steps(self, n: int) -> int: ...
    def rows(self, n: int, step: int) -> Tensor: ...


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`function` applied to each tensor of a nest of tuples, lists and dicts; anything else stays as it is."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        mapped = [map_tensors(function, item) for item in value]
        return type(value)(*mapped) if hasattr(value, "_fields") else tuple(mapped)
    if isinstance(value, list):
        return [map_tensors(function, item) for item in value]
    if isinstance(value, dict):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if hasattr(value, "to") and not isinstance(value, type) and function.__name__ == "to_device":
        return function(value)  # a graph batch or another container that knows how to move itself
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors of a nest, in order."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, value)
    return found


def count_examples(batch: Any) -> int:
    """The length of the first tensor that has a first axis: the number of examples in a batch that says nothing else."""
    for tensor in tensors_of(batch):
        if tensor.dim():
            return len(tensor)
    return 1


def mover(device: torch.device) -> Callable[[Any], Any]:
    """A function that moves a nest of tensors to `device`; it does not wait for copies to an accelerator.

    A copy from an accelerator to the host is waited for: read before it is done, it would hold whatever lay there.
    """
    without_waiting = device.type != "cpu"

    def to_device(tensor: Any) -> Any:
        return tensor.to(device, non_blocking=without_waiting)

    return lambda value: map_tensors(to_device, value)


def batch_order(num_rows: int, seed: int, epoch: int, shuffle: bool) -> Tensor:
    """The order of the rows in one epoch: int64 (num_rows,). A hand-written loop gets the same from `seeds.generator(seed, "order", epoch)`."""
    if not shuffle:
        return torch.arange(num_rows)
    return torch.randperm(num_rows, generator=seeds.generator(seed, "order", epoch))


def index_lists(
    num_rows: int, seed: int, epoch: int, *, batch_size: int, shuffle: bool, chosen: Callable[[int, torch.Generator], Iterable[Any]] | None
) -> list[Tensor]:
    """The rows of each step of an epoch. `chosen(epoch, generator)` is the user's own `batches=`; it gets a generator seeded by (seed, epoch)."""
    if chosen is not None:
        with seeds.restored(seeds.derive(seed, "order-global", epoch)):  # what it draws from a global generator must not move the forward's stream
            return [torch.as_tensor(rows, dtype=torch.int64) for rows in chosen(epoch, seeds.generator(seed, "order", epoch))]
    return list(batch_order(num_rows, seed, epoch, shuffle).split(batch_size))


class InMemoryBatches:
    """Batches of tensors that lie in memory, on the device where the model is.

    A batch as large as the data is never shuffled nor copied: its mean does not depend on the order, and a hand-written full-batch loop does not shuffle.
    """

    def __init__(
        self,
        inputs: Any,
        targets: tuple[Any, ...],
        weights: Tensor | None,
        *,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        chosen: Callable[[int, torch.Generator], Iterable[Any]] | None = None,
        augment: Callable[[Any, torch.Generator], Any] | None = None,
    ):
        self.data = Batch(inputs, targets, weights)
        self.num_rows = count_examples(inputs)
        self.batch_size, self.seed, self.chosen, self.augment = batch_size, seed, chosen, augment
        self.shuffle = shuffle and batch_size < self.num_rows
        row_bytes = sum(tensor.nbytes for tensor in tensors_of(self.data)) / max(1, self.num_rows)
        unit = math.lcm(batch_size, ALIGNED_ROWS)
        self.piece_rows = unit * max(1, int(PIECE_BYTES / max(1, row_bytes * unit)))

    def steps(self, n: int) -> int:
        if self.chosen is not None:
            return len(self._lists(n))
        return -(-self.num_rows // self.batch_size)

    def rows(self, n: int, step: int) -> Tensor:
        return self._lists(n)[step]

    def epoch(self, n: int, start: int = 0) -> Iterator[Batch]:
        return self._augmented(n, start) if self.augment is not None else self._plain(n, start)

    def stacked(self, n: int, start: int, length: int, alone: int = 0) -> Iterator[Batch | Stacked] | None:
        """Epoch `n` from step `start` on: `alone` batches singly, then `length` batches at a time in one piece, then singly what is left.

        None where batches are made one by one (`batches=`, `augment=`).
        """
        return None if self.chosen is not None or self.augment is not None else self._stacked(n, start, length, alone)

    def _stacked(self, n: int, start: int, length: int, alone: int) -> Iterator[Batch | Stacked]:
        # Each chunk and each single batch is a gather of its own: where an epoch is taken up again, they lie in memory as they did.
        order, size = self._order(n), self.batch_size
        alone_until = min(start + alone, self.steps(n))
        singly_from = alone_until + max(0, self.num_rows // size - alone_until) // length * length
        for step in range(start, alone_until):
            yield self._gathered(order, step * size, (step + 1) * size)
        for step in range(alone_until, singly_from, length):
            chunk = self._gathered(order, step * size, (step + length) * size)
            yield Stacked(*map_tensors(lambda tensor: tensor.unflatten(0, (length, size)), tuple(chunk)))
        for step in range(singly_from, self.steps(n)):
            yield self._gathered(order, step * size, (step + 1) * size)

    def _order(self, n: int) -> Tensor | None:
        """The rows of epoch `n` in order, where the data lie; None where they are taken as they stand."""
        return batch_order(self.num_rows, self.seed, n, True).to(tensors_of(self.data)[0].device, non_blocking=True) if self.shuffle else None

    def _gathered(self, order: Tensor | None, begin: int, end: int) -> Batch:
        """The rows at `begin` to `end` of an epoch: a copy in its order, or views where there is none."""
        if order is None:
            return Batch(*map_tensors(lambda tensor: tensor[begin:end], tuple(self.data)))
        rows = order[begin:end]
        return Batch(*map_tensors(lambda tensor: tensor.index_select(0, rows), tuple(self.data)))

    def _pieces(self, n: int, first: int) -> Iterator[Batch]:
        """Epoch `n` from row `first` on, which begins a batch. Where pieces begin does not depend on `first`."""
        if first >= self.num_rows:
            return
        order = self._order(n)
        size = self.num_rows if order is None else self.piece_rows
        for begin in range(first // size * size, self.num_rows, size):
            piece = self._gathered(order, begin, begin + size)
            skipped = max(0, first - begin)
            yield piece if not skipped else Batch(*map_tensors(lambda tensor, skipped=skipped: tensor[skipped:], tuple(piece)))

    def _lists(self, n: int) -> list[Tensor]:
        return index_lists(self.num_rows, self.seed, n, batch_size=self.batch_size, shuffle=self.shuffle, chosen=self.chosen)

    def _plain(self, n: int, start: int) -> Iterator[Batch]:
        if self.chosen is not None:
            for rows in self._lists(n)[start:]:
                yield Batch(*map_tensors(lambda tensor, rows=rows: tensor.index_select(0, rows.to(tensor.device, non_blocking=True)), tuple(self.data)))
            return
        new = tuple.__new__  # a NamedTuple's own constructor goes through a function of Python: 0.5 us of W1's 117
        for piece in self._pieces(n, start * self.batch_size):
            inputs, targets, weights = piece
            if isinstance(inputs, Tensor) and len(targets) == 1 and weights is None:  # the common case: `split` makes all views in one call
                for x, y in zip(inputs.split(self.batch_size), targets[0].split(self.batch_size)):
                    yield new(Batch, (x, (y,), None))
            else:
                for first in range(0, count_examples(piece), self.batch_size):
                    yield Batch(*map_tensors(lambda tensor, first=first: tensor[first : first + self.batch_size], tuple(piece)))

    def _augmented(self, n: int, start: int) -> Iterator[Batch]:
        for step, batch in enumerate(self._plain(n, start), start):
            yield batch._replace(inputs=augmented(self.augment, batch.inputs, self.seed, n, step))


def augmented(augment: Any, inputs: Any, seed: int, epoch: int, step: int) -> Any:
    """The user's augmentation of one batch, with a generator that depends on (seed, epoch, step) only and the global RNG left alone."""
    with seeds.restored(seeds.derive(seed, "augment-global", epoch, step)):
        return augment(inputs, seeds.generator(seed, "augment", epoch, step))


class LoaderBatches:
    """Batches of a Dataset that works example by example, through torch's DataLoader.

    `dataset[(epoch, row)]` must give example `row` as it is in that epoch (`sources.LoaderDataset` does), so that workers and their number do not matter.
    `unpack` makes `(inputs, targets, weights)` of a collated batch.
    """

    def __init__(
        self,
        dataset: Any,
        rows: Sequence[int] | Tensor,
        *,
        collate: Callable[[list[Any]], Any],
        unpack: Callable[[Any], tuple[Any, tuple[Any, ...], Tensor | None]],
        count: Callable[[Any], int] | None = None,
        device: torch.device,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        workers: int = 0,
        chosen: Callable[[int, torch.Generator], Iterable[Any]] | None = None,
        augment: Callable[[Any, torch.Generator], Any] | None = None,
    ):
        self.dataset, self.split_rows = dataset, torch.as_tensor(rows, dtype=torch.int64)
        self.collate, self.unpack, self.count, self.device, self.workers = collate, unpack, count, device, workers
        self.batch_size, self.shuffle, self.seed, self.chosen, self.augment = batch_size, shuffle, seed, chosen, augment

    def _lists(self, n: int) -> list[Tensor]:
        return index_lists(len(self.split_rows), self.seed, n, batch_size=self.batch_size, shuffle=self.shuffle, chosen=self.chosen)

    def steps(self, n: int) -> int:
        return len(self._lists(n)) if self.chosen is not None else -(-len(self.split_rows) // self.batch_size)

    def rows(self, n: int, step: int) -> Tensor:
        return self._lists(n)[step]

    def epoch(self, n: int, start: int = 0) -> Iterator[Batch]:
        keys = [[(n, row) for row in self.split_rows[rows].tolist()] for rows in self._lists(n)[start:]]
        loader = torch.utils.data.DataLoader(
            self.dataset,
            batch_sampler=keys,  # type: ignore[arg-type]  # any iterable of index lists will do
            collate_fn=self.collate,
            num_workers=self.workers,
            worker_init_fn=leave_signals_to_the_trainer,
            pin_memory=self.device.type == "cuda",
            generator=seeds.generator(self.seed, "workers", n),  # else the DataLoader draws its base seed from the global stream
        )
        move = mover(self.device)
        for step, collated in enumerate(loader, start):
            inputs, targets, weights = self.unpack(collated)
            batch = Batch(move(inputs), move(targets), move(weights))
            if self.augment is not None:
                batch = batch._replace(inputs=augmented(self.augment, batch.inputs, self.seed, n, step))
            yield Counted.of(batch, len(keys[step - start]) if self.count is None else self.count(collated))


def leave_signals_to_the_trainer(_: int) -> None:
    """In a worker: Ctrl-C, and the SIGTERM of a batch system, reach all processes of a job. A worker that died of it would end the step that is to be saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        # The trainer's own last resort is SIGTERM too, so it does end the worker, after a minute in which the trainer has saved.
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))
