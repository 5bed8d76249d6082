"""Where random numbers come from, and how the global generators are given back as they were found.

Enters: the run's seed, a purpose ("order", "forward", "split", ...) and an epoch. Leaves: a generator that depends on nothing else, so that order, masks and
samples are the same however often a run is killed, logged or resumed. Kernel: imports only torch and the standard library.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed from the run's seed, a purpose and numbers (epoch, row): the first 8 bytes of SHA-256 over `seed/purpose/number/...`.

    >>> derive(0, "order", 3) == derive(0, "order", 3) != derive(0, "order", 4)
    True
    """
    text = "/".join(map(str, (seed, purpose, *numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1  # torch seeds are signed 64-bit in places


def generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """A fresh CPU generator for one purpose (and epoch): the same whatever ran before."""
    return torch.Generator().manual_seed(derive(seed, purpose, *numbers))


def seed_forward(seed: int, epoch: int) -> None:
    """Seed the stream that a model's forward draws from (dropout), once an epoch: torch's global generators on CPU and on CUDA."""
    value = derive(seed, "forward", epoch)
    torch.default_generator.manual_seed(value)  # 1 us; torch.manual_seed costs 76 us, as it asks every backend
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)


def seed_everything(value: int) -> None:
    """Seed torch, numpy's legacy generator and `random` at once; called only where `restored()` gives all of them back afterwards."""
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
    random.seed(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(value & 0xFFFFFFFF)


def capture(torch_only: bool = False) -> dict[str, Any]:
    """The state of the global generators: torch on CPU and CUDA, and unless `torch_only` also `random` and numpy's legacy generator."""
    state: dict[str, Any] = {"torch": torch.default_generator.get_state()}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    if not torch_only:
        state["random"] = random.getstate()
        numpy = sys.modules.get("numpy")  # not imported by us: who never imported it has no state to keep
        if numpy is not None:
            state["numpy"] = numpy.random.get_state()
    return state


def restore(state: dict[str, Any]) -> None:
    """Give the global generators the state that `capture` returned."""
    torch.default_generator.set_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state:
        torch.mps.set_rng_state(state["mps"])
    if "random" in state:
        random.setstate(state["random"])
    if "numpy" in state:
        sys.modules["numpy"].random.set_state(state["numpy"])


@contextmanager
def restored(seed: int | None = None) -> Iterator[None]:
    """Whatever is drawn inside leaves no trace outside. With `seed`, all global generators start from it."""
    before = capture()
    try:
        if seed is not None:
            seed_everything(seed)
        yield
    finally:
        restore(before)
