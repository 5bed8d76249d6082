"""What a module keeps in plain attributes (a counter, a running number, a cached tensor, a generator of its own): held in every checkpoint, or named.

Enters: the model, and the user's loss, `compute=`, `step=` and `augment=` where they are objects. Leaves: a nest of numbers, texts and tensors for a checkpoint, and
the names of attributes that change and cannot be held, so that nobody is promised a resume to the bit. `state_dict` holds none of this, yet forward may depend on
it. torch's own modules keep nothing there; closures and global variables cannot be seen from here.
"""

from __future__ import annotations

import collections
import hashlib
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fivestep.errors import ArtifactError

INTERNAL = frozenset(vars(nn.Module())) | {"_is_full_backward_hook", "_compiled_call_impl", "_non_persistent_buffers_set"}
SMALL = 10_000  # elements: larger tensors are written only when they changed since the start
MOST_NODES = 20_000  # of one attribute that are looked at, to see whether it changed


class Attributes:
    """The plain attributes of some objects, by name: `capture` for a checkpoint, `restore`, `unheld` (names that changed and cannot be held)."""

    def __init__(self, objects: Mapping[str, Any]):
        self.objects = {name: one for name, one in objects.items() if one is not None}
        self.start = {name: self.digest(value) for name, _, _, value in self.all() if not is_small(self.nest(value))}

    def all(self) -> Iterator[tuple[str, Any, str, Any]]:
        """(full name, owner, attribute's name, value) of every plain attribute of the user's own classes."""
        for name, one in self.objects.items():
            if isinstance(one, nn.Module):
                for path, module in one.named_modules(prefix=name):
                    if not type(module).__module__.startswith("torch."):
                        yield from ((f"{path}.{key}", module, key, value) for key, value in list(vars(module).items()) if key not in INTERNAL)
            elif hasattr(one, "__dict__") and not isinstance(one, (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)):
                yield from ((f"{name}.{key}", one, key, value) for key, value in list(vars(one).items()))

    @property
    def registered(self) -> set[int]:
        """Parameters, buffers and modules that stand elsewhere in the checkpoint: an attribute that points at one holds nothing of its own."""
        found: set[int] = set()
        for one in self.objects.values():
            if isinstance(one, nn.Module):
                found |= {id(item) for items in (one.parameters(), one.buffers(), one.modules()) for item in items}
        return found

    def nest(self, value: Any) -> Any:
        """`value` as a checkpoint holds it; None where it cannot."""
        return as_nest(value, self.registered)

    def digest(self, value: Any) -> str:
        return digest_of(value, self.registered)

    def capture(self) -> dict[str, Any]:
        """Everything that can be held, by name. Tensors are live: write them before the next step."""
        known, held = self.registered, {}
        for name, _, _, value in self.all():
            nest = as_nest(value, known)
            if nest is not None and (is_small(nest) or digest_of(value, known) != self.start.get(name)):
                held[name] = nest
        return held

    def unheld(self) -> list[str]:
        """Names of attributes that are not what they were at the start and that no checkpoint can hold."""
        known = self.registered
        return [name for name, _, _, value in self.all() if as_nest(value, known) is None and digest_of(value, known) != self.start.get(name)]

    def restore(self, held: Mapping[str, Any]) -> None:
        """Give every attribute the value that `capture` found; tensors, lists, dicts and generators keep their identity, as others may hold on to them."""
        missing = dict(held)
        for name, owner, key, value in self.all():
            if name in missing:
                put = put_back(value, missing.pop(name))
                if put is not value:
                    setattr(owner, key, put)
        owners = {name.rpartition(".")[0]: owner for name, owner, _, _ in self.all()}
        for name, one in self.objects.items():
            if isinstance(one, nn.Module):
                owners |= dict(one.named_modules(prefix=name))
            owners.setdefault(name, one)
        for name, nest in missing.items():  # first set in forward, so a fresh object has none yet
            path, _, key = name.rpartition(".")
            if path not in owners:
                raise ArtifactError(f"The checkpoint is of another model: it holds {name}, and nothing here has that.")
            setattr(owners[path], key, put_back(None, nest))


def changed_by(objects: Mapping[str, Any], use: Callable[[dict[str, Any]], Any]) -> list[str]:
    """Names of attributes that `use(copies)` changes and no checkpoint can hold; () where there are none that could, or the objects cannot be copied."""
    import copy

    watched = Attributes(objects)
    if not any(as_nest(value, watched.registered) is None and not is_constant(value, watched.registered) for _, _, _, value in watched.all()):
        return []
    try:
        copies = copy.deepcopy(dict(objects))
        watched = Attributes(copies)
        use(copies)
    except Exception:  # it cannot be copied or asked here; what changes is told at the first checkpoint
        return []
    return watched.unheld()


# -- values --------------------------------------------------------------------------------------------------------------------------------------------------


def as_nest(value: Any, registered: set[int]) -> Any:
    """`[kind, ...]` of a value that can be held, with its tensors detached; None for any other, and for what points at something that is registered."""
    if isinstance(value, torch.Generator):
        return ["torch.Generator", value.get_state()]
    if type(value) is random.Random:
        version, words, gauss = value.getstate()
        return ["random.Random", version, torch.tensor(words, dtype=torch.int64), gauss]
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.random.Generator):
        return ["numpy.Generator", repr(plain_numbers(value.bit_generator.state))]
    if numpy is not None and type(value) is numpy.ndarray and value.dtype.kind in "biufc" and value.dtype.isnative:
        return ["numpy.ndarray", torch.from_numpy(value.copy()), str(value.dtype)] if value.dtype.itemsize <= 8 else None
    if type(value) is collections.deque:
        return ["deque", list(value), value.maxlen] if can_be_held(list(value), registered) else None
    if not can_be_held(value, registered):
        return None
    device = next((str(tensor.device) for tensor in tensors_within(value) if tensor.device.type != "cpu"), None)
    return ["plain", detached(value), device]


def can_be_held(value: Any, registered: set[int], depth: int = 0) -> bool:
    """Exact types only: a subclass (an enumeration, a named tuple) would come back as something else."""
    if value is None or type(value) in (bool, str, float):
        return True
    if type(value) is int:
        return abs(value) < 1 << 63
    if isinstance(value, Tensor):
        return (
            type(value) is Tensor and id(value) not in registered and value.layout is torch.strided and not value.is_quantized and not value.is_meta
            and value.dtype is not torch.complex128
        )  # fmt: skip
    if depth < 8 and type(value) in (list, tuple):
        return all(can_be_held(item, registered, depth + 1) for item in value)
    if depth < 8 and type(value) is dict:
        return all(type(key) in (str, int, bool, float) and can_be_held(item, registered, depth + 1) for key, item in value.items())
    return False


def detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if type(value) in (list, tuple):
        return type(value)(map(detached, value))
    return {key: detached(item) for key, item in value.items()} if type(value) is dict else value


def tensors_within(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_within(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_within(item)


def is_small(nest: Any) -> bool:
    return nest is not None and sum(tensor.numel() for tensor in tensors_within(nest)) <= SMALL


def put_back(value: Any, nest: Any) -> Any:
    """What `as_nest` described, in the object `value` where that is possible."""
    match nest:
        case ["torch.Generator", state]:
            value = value if isinstance(value, torch.Generator) else torch.Generator()
            value.set_state(state)
            return value
        case ["random.Random", version, words, gauss]:
            value = value if isinstance(value, random.Random) else random.Random()
            value.setstate((version, tuple(words.tolist()), gauss))
            return value
        case ["numpy.Generator", str(text)]:
            import ast

            import numpy

            value = value if isinstance(value, numpy.random.Generator) else numpy.random.default_rng()
            value.bit_generator.state = ast.literal_eval(text)
            return value
        case ["numpy.ndarray", Tensor() as tensor, str(dtype)]:
            return tensor.numpy().astype(dtype, copy=True)
        case ["deque", list(items), maxlen]:
            return collections.deque(items, maxlen)
        case ["plain", saved, device]:
            return in_place(value, saved if device is None else moved(saved, device))
    raise ArtifactError(f"The checkpoint holds an attribute of an unknown kind: {str(nest)[:80]}")


def moved(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (list, tuple):
        return type(value)(moved(item, device) for item in value)
    return {key: moved(item, device) for key, item in value.items()} if type(value) is dict else value


@torch.no_grad()
def in_place(mine: Any, saved: Any) -> Any:
    """`saved`, in the tensors, lists and dicts of `mine` where they fit: an optimizer, or another module, may hold the same ones."""
    if isinstance(saved, Tensor) and isinstance(mine, Tensor) and mine.shape == saved.shape and mine.dtype == saved.dtype and not mine.is_inference():
        try:
            return mine.copy_(saved) if mine.is_leaf else saved
        except RuntimeError:  # an expanded view cannot be written to
            return saved
    if type(saved) is list and type(mine) is list:
        mine[:] = [in_place(mine[position] if position < len(mine) else None, item) for position, item in enumerate(saved)]
        return mine
    if type(saved) is dict and type(mine) is dict:
        new = {key: in_place(mine.get(key), item) for key, item in saved.items()}
        mine.clear()
        mine.update(new)
        return mine
    if type(saved) is tuple and type(mine) is tuple and len(mine) == len(saved):
        return tuple(map(in_place, mine, saved))
    return saved


def plain_numbers(value: Any) -> Any:
    """numpy's numbers and arrays inside a generator's state as Python's: PCG64's integers have 39 digits, which JSON readers refuse, so they travel as text."""
    if isinstance(value, dict):
        return {key: plain_numbers(item) for key, item in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


# -- whether something changed --------------------------------------------------------------------------------------------------------------------------------


def is_constant(value: Any, registered: set[int]) -> bool:
    """Whether nothing in it can change: a function, a class, a module or tensor that is registered, a dtype."""
    if id(value) in registered or isinstance(
        value, (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, torch.optim.Optimizer)
    ):
        return True
    if isinstance(value, (torch.dtype, torch.device, bytes, complex, range)):
        return True
    if type(value) in (list, tuple):
        return all(is_constant(item, registered) for item in value)
    return False


def digest_of(value: Any, registered: set[int]) -> str:
    """SHA-256 of what can be seen of a value: containers, numbers, tensors, arrays, generators, and the attributes of objects. Of at most `MOST_NODES` parts."""
    digest, seen, left = hashlib.sha256(), set(registered), [MOST_NODES]

    def add(one: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            return
        if one is None or isinstance(one, (bool, int, float, complex, str, bytes)):
            digest.update(f"{type(one).__name__}:{one!r};".encode("utf-8", "backslashreplace"))
            return
        if id(one) in seen:
            digest.update(b"seen;")
            return
        seen.add(id(one))
        digest.update(f"<{type(one).__qualname__}".encode())
        if isinstance(one, Tensor):
            digest.update(f"{tuple(one.shape)}{one.dtype}".encode())
            if one.layout is torch.strided and not one.is_meta and not one.is_quantized and one.numel():
                digest.update(one.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(one, torch.Generator):
            add(one.get_state())
        elif isinstance(one, random.Random):
            add(one.getstate())
        elif isinstance(one, (list, tuple, collections.deque)):
            for item in list(one):
                add(item)
        elif isinstance(one, (set, frozenset)):
            for text in sorted(map(repr, one)):
                add(text)
        elif isinstance(one, Mapping):
            for key, item in list(one.items()):
                add(key)
                add(item)
        elif type(one).__module__ == "numpy" and hasattr(one, "tobytes"):
            digest.update(f"{one.dtype}{one.shape}".encode() + (repr(one.tolist()).encode() if one.dtype.hasobject else one.tobytes()))
        elif hasattr(one, "bit_generator"):
            add(plain_numbers(one.bit_generator.state))
        elif not is_constant(one, registered):
            for key, item in sorted(getattr(one, "__dict__", {}).items()):
                add(key)
                add(item)
            for key in getattr(type(one), "__slots__", ()) if isinstance(getattr(type(one), "__slots__", ()), (tuple, list)) else ():
                add(getattr(one, key, None))
        digest.update(b">")

    add(value)
    return digest.hexdigest()
