"""How many threads torch computes with; imports only torch and the standard library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch works on one thread; the number is given back.

    Small work takes no longer so, a busy machine does not stretch it threefold, and processes side by side do not wait for each other's threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
