"""Where chunks of steps begin and end. Kernel: imports only torch and other kernel modules.

Enters: the batches of an epoch. Leaves: whole chunks of full batches, stacked, and singly what fills none. Which step is in which chunk depends on (epoch, step)
only, so a resumed run cuts the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fivestep.data.batches import Batch, Stacked

LONGEST = 512  # steps of a chunk: the work around a chunk costs about 60 us, which is then 0.1 us a step
WORK = (
    2e9  # multiply-adds of a chunk, about a second on one core: a signal waits that long at most (convolutions use a weight often, so it can be some seconds)
)


def chunk_length(full_batches: int, num_weights: int, batch_size: int) -> int:
    """Steps of a chunk: at most 512, less for large models, and so that few batches of an epoch are left over.

    >>> chunk_length(312, 9, 32), chunk_length(390, 20_993, 256), chunk_length(3, 9, 32)
    (312, 39, 3)
    """
    longest = max(1, min(LONGEST, int(WORK / (6 * max(1, num_weights) * batch_size)), full_batches))
    fewest = -(-full_batches // longest)
    chunks = min(
        range(fewest, 2 * fewest + 1), key=lambda count: (full_batches % max(1, full_batches // count) if full_batches >= count else full_batches, count)
    )
    return max(1, full_batches // max(1, chunks))


def pieces(batches: Any, epoch: int, start: int, length: int, alone: int, program: Any = None, stack: bool = True) -> Iterator[Any]:
    """An epoch from step `start` on, in order: the first `alone` batches as they are, then chunks of `length` batches, and singly what fills none.

    Data in memory gives a chunk as one view (`stacked`); others are stacked here, or kept as a list where `stack` is False. In a list a chunk may be shorter.
    """
    if stack and hasattr(batches, "stacked") and (views := batches.stacked(epoch, start, length, alone)) is not None:
        yield from views
        return
    waiting: list[Batch] = []
    for number, batch in enumerate(batches.epoch(epoch, start)):
        if program is None and waiting:
            fitting = shapes_of(batch) == shapes_of(waiting[0])
        else:
            fitting = program is None or program.fits(batch)
        if number < alone or not fitting:
            yield from flushed(waiting, stack)
            waiting = []
            yield batch
            continue
        waiting.append(batch)
        if len(waiting) == length:
            yield stacked_batches(waiting) if stack else waiting
            waiting = []
    yield from flushed(waiting, stack)


def flushed(waiting: list[Batch], stack: bool) -> Iterator[Any]:
    if stack:
        yield from waiting
    elif waiting:
        yield waiting


def shapes_of(batch: Batch) -> list[Any]:
    return [leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in pytree.tree_leaves(tuple(batch))]


def stacked_batches(batches: Sequence[Batch]) -> Stacked:
    """Batches of one shape as one, with a leading axis of steps."""
    columns = [pytree.tree_flatten(tuple(batch))[0] for batch in batches]
    spec = pytree.tree_flatten(tuple(batches[0]))[1]
    joined = [torch.stack(column) if isinstance(column[0], Tensor) else column[0] for column in zip(*columns)]
    return Stacked(*pytree.tree_unflatten(joined, spec))
