"""How much memory is free, and how much something takes while it runs.

Enters: a device, or what is to be run. Leaves: bytes. The decision that shaped it: what is taken is counted while it really runs, tensor by tensor on a CPU (the
process's own size also moves by what the allocator keeps) and by torch's own statistics on CUDA; what is free is the least of what the machine, the container and the
process's limit leave.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside and live on `device`: `most` of them at once.

    >>> with Allocations(torch.device("cpu")) as seen:
    ...     kept = torch.zeros(100) + torch.ones(100)
    >>> seen.most, seen.mark()
    (1200, 400)
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device, self.now, self.highest = device, 0, 0
        self.known: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def mark(self) -> int:
        """Count `most` anew from here; returns what is taken now."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.now = torch.cuda.memory_allocated(self.device) - self.before
        self.highest = self.now
        return self.now

    def __enter__(self) -> Allocations:
        if self.device.type == "cuda":
            self.before = torch.cuda.memory_allocated(self.device)
            self.mark()
            return self
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        if self.device.type != "cuda":
            super().__exit__(*raised)

    @property
    def most(self) -> int:
        """The most bytes at once since the beginning, or since `mark`."""
        return torch.cuda.max_memory_allocated(self.device) - self.before if self.device.type == "cuda" else self.highest

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if self.counts(leaf)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if self.counts(leaf) and leaf.untyped_storage()._cdata not in given:
                self.see(leaf.untyped_storage())
        return made

    def counts(self, leaf: Any) -> bool:
        return type(leaf) in (Tensor, torch.nn.Parameter) and leaf.device.type == self.device.type

    def see(self, storage: Any) -> None:
        if self.known.get(storage._cdata) is storage:
            return
        self.known[storage._cdata] = storage
        self.now += storage.nbytes()
        self.highest = max(self.highest, self.now)
        weakref.finalize(storage, self.gone, storage.nbytes())

    def gone(self, count: int) -> None:
        self.now -= count


def available_bytes(device: torch.device) -> int:
    """Memory that is free now, on this device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return max(0, min(left for left in (of_machine(), of_container(), of_process()) if left is not None))


def of_machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no Linux
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def of_container(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the control group leaves (both of its versions), as a container sees its own; None without a limit."""
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            return int((root / limit).read_text()) - int((root / used).read_text())
        except (OSError, ValueError):  # not there, or "max"
            continue
    return None


def of_process() -> int | None:
    """What `ulimit -v` leaves; None without a limit, or where a process's size cannot be read."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        return None if limit == resource.RLIM_INFINITY else limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return None
