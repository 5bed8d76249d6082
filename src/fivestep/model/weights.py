"""Weights of a module: loading them from elsewhere, freezing some of them, and their hash.

Enters: a module and a state_dict or file, or patterns of names. Leaves: a report of what fitted, names, or a hash. What fits is decided here, before torch copies
anything, as `load_state_dict` casts in silence and with strict=False may load nothing at all without a word. No code in a file is run.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fivestep import tensors
from fivestep.errors import MissingInputError, SettingsError, UsageError
from fivestep.model.models import nearest
from fivestep.quoting import listed, printable

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # DDP, torch.compile, FSDP, activation checkpoints
WEIGHT_FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


# -- loading ---------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightsReport:
    """What came into the module: names in the module's own spelling. `mismatched` holds (name, what the weights have, what the module wants).

    `share` is the part of the module's numbers (parameters and buffers) that were loaded, 0 to 1. The first line of str() is a summary.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, str, str], ...]
    share: float
    said: tuple[str, ...] = ()
    strict: bool = True

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        wanted = len(self.matched) + len(self.missing) + len(self.mismatched)
        percent = f"{self.share:.1%}" if 0 < self.share < 1 else f"{self.share:.0%}"
        lines = [f"Weights from {self.source}: {len(self.matched)} of the model's {wanted} tensors loaded ({percent} of its numbers). " + " ".join(self.said)]
        lines += [f"  not in the weights, left as it was: {listed(self.missing)}"] if self.missing else []
        lines += [f"  not in the model, left out: {listed(self.unexpected)}"] if self.unexpected else []
        lines += [f"  {name}: the weights have {have}, the model {want}; left as it was" for name, have, want in self.mismatched]
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__


def load_weights(module: nn.Module, weights: Any, *, strict: bool = True) -> WeightsReport:
    """Copy `weights` into `module` and report what fitted.

    `weights` is a state_dict, or the path of a .safetensors, .pt or .pth file (read without running code in it). Names that DataParallel, torch.compile or FSDP
    prefixed ("module.", "_orig_mod.") are taken without the prefix, and said. With `strict` every tensor must fit in name, shape and kind of number, or
    SettingsError names what does not, with near names, and the module is unchanged; without, what fits is loaded. Nothing fitting is an error either way.
    """
    state, source = _state_of(weights)
    own = _own_state(module)
    names, said = _matched_names(state, own)
    matched: dict[str, Any] = {}
    unexpected, mismatched = [], []
    cast: set[str] = set()
    for key, value in state.items():
        name = names.get(key)
        if name is None:
            unexpected.append(key)
            continue
        want = own[name]
        if isinstance(want, Tensor) != isinstance(value, Tensor):
            mismatched.append((name, f"a {type(value).__name__}", f"a {type(want).__name__}"))
            continue
        if isinstance(want, Tensor) and not is_lazy(want):
            floats = value.is_floating_point() and want.is_floating_point()
            if value.shape != want.shape or (value.dtype != want.dtype and not floats):
                both = value.dtype != want.dtype and not floats
                mismatched.append((name, _shape(value, both), _shape(want, both)))
                continue
            if value.dtype != want.dtype:
                cast.add(f"{dtype_name(value)} to {dtype_name(want)}")
        matched[name] = value
    # A tied tensor stands under two names and some files (safetensors' save_model) hold one of them.
    loaded = {id(own[name]) for name in matched}
    taken = {name for name, _, _ in mismatched}
    missing = [name for name, tensor in own.items() if name not in matched and name not in taken and id(tensor) not in loaded]
    if cast:
        said.append(f"Converted {', '.join(sorted(cast))}.")
    unique = {id(tensor): tensor.numel() for tensor in own.values() if isinstance(tensor, Tensor) and not is_lazy(tensor)}
    total = sum(unique.values())
    share = sum(count for key, count in unique.items() if key in loaded) / total if total else float(bool(matched))
    report = WeightsReport(source, tuple(matched), tuple(missing), tuple(unexpected), tuple(mismatched), share, tuple(said), strict)
    if not matched:
        raise SettingsError(
            f"None of the {len(state)} tensors in {source} fits the model, so nothing would be loaded and training would begin from random weights. They are called "
            f"{listed(list(state))}; the model has {listed(list(own))}." + _mismatch_text(mismatched)
        )
    if strict and not report.complete:
        raise SettingsError(_strict_text(report, own))
    module.load_state_dict(matched, strict=False)
    return report


def _state_of(weights: Any) -> tuple[dict[str, Any], str]:
    """(names to tensors, where they came from)."""
    if isinstance(weights, nn.Module):
        raise SettingsError("weights= is a module; give its weights: weights=module.state_dict().")
    if isinstance(weights, Mapping):
        if weights and all(isinstance(key, str) for key in weights) and any(isinstance(value, Tensor) for value in weights.values()):
            return dict(weights), "a state_dict"
        inner = [key for key, value in weights.items() if isinstance(value, Mapping) and value and all(isinstance(part, Tensor) for part in value.values())]
        if inner:
            raise SettingsError(f"weights= is a checkpoint with more than weights; these stand under {inner[0]!r}. Give weights=checkpoint[{inner[0]!r}].")
        raise SettingsError(f"weights= is a dict of {len(weights)} entries ({listed([str(key) for key in weights])}) and holds no tensors by name.")
    if not isinstance(weights, (str, os.PathLike)):
        raise SettingsError(f"weights= is a {type(weights).__name__}; give a state_dict, or the path of a .safetensors, .pt or .pth file.")
    path = Path(weights).expanduser()
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix in WEIGHT_FILES)
        raise SettingsError(f"weights={str(path)!r} is a folder." + (f" Give the file: {path / inside[0]}" if inside else " It holds no file of weights."))
    if not path.exists():
        beside = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in WEIGHT_FILES) if path.parent.is_dir() else []
        raise MissingInputError(f"weights: there is no file {path}.{nearest(path.name, beside)}")
    return dict(tensors.load_state_dict_file(path)), path.name


def _own_state(module: nn.Module) -> dict[str, Any]:
    """The module's state_dict, where a tensor that stands under two names is one object."""
    return dict(module.state_dict(keep_vars=True))


def _unwrapped(name: str) -> str:
    parts = name.split(".")
    inner = {wrapper.rstrip(".") for wrapper in WRAPPERS[1:]}  # these stand anywhere in a name, "module." only in front
    kept = [part for position, part in enumerate(parts) if part not in inner]
    while len(kept) > 1 and kept[0] == "module":
        kept = kept[1:]
    return ".".join(kept)


def _matched_names(state: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """(name in the weights -> name in the module, what was done to names). Exact names come first; then names without wrappers; then without one common prefix."""
    names = {key: key for key in state if key in own}
    rest = [key for key in state if key not in own]
    free = {_unwrapped(name): name for name in own if name not in names}
    for key in rest:
        target = free.pop(_unwrapped(key), None)
        if target is not None:
            names[key] = target
    said = []
    renamed = [key for key in rest if key in names]
    if renamed:
        seen = [wrapper for wrapper in WRAPPERS if any(wrapper in key or wrapper in names[key] for key in renamed)]
        said.append(f"{' and '.join(seen)} left out of {len(renamed)} names.")
    if not names and state:
        front = {key.partition(".")[0] for key in state}
        if len(front) == 1:  # Lightning's "model.": one attribute that held the whole module
            prefix = front.pop() + "."
            names = {key: key.removeprefix(prefix) for key in state if key.removeprefix(prefix) in own}
            if names:
                said.append(f"{prefix} left out of {len(names)} names.")
    return names, said


def _strict_text(report: WeightsReport, own: Mapping[str, Any]) -> str:
    lines = [f"The weights from {report.source} do not fit the model, and nothing was loaded:"]
    for name in report.missing[:8]:
        near = difflib.get_close_matches(name, report.unexpected, n=1, cutoff=0.5)
        lines.append(f"  the model has {name}, the weights have not" + (f"; is it their {near[0]}?" if near else ""))
    lines += [f"  and {len(report.missing) - 8} more that the weights have not"] if len(report.missing) > 8 else []
    for name in report.unexpected[:8]:
        near = difflib.get_close_matches(name, report.missing or list(own), n=1, cutoff=0.5)
        lines.append(f"  the weights have {printable(name)}, the model has not" + (f"; is it {near[0]}?" if near else ""))
    lines += [f"  and {len(report.unexpected) - 8} more that the model has not"] if len(report.unexpected) > 8 else []
    lines += [f"  {name}: the weights have {have}, the model {want}" for name, have, want in report.mismatched[:8]]
    lines += [f"  and {len(report.mismatched) - 8} more that do not fit"] if len(report.mismatched) > 8 else []
    lines.append(
        "Rename them in a dict of your own, or take what fits (a new head keeps its first weights): weights_strict=False (load_weights(..., strict=False))."
    )
    return "\n".join(lines)


def _mismatch_text(mismatched: Sequence[tuple[str, str, str]]) -> str:
    return "".join(f" {name}: the weights have {have}, the model {want}." for name, have, want in mismatched[:3])


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape(tensor: Tensor, with_dtype: bool) -> str:
    return f"{tuple(tensor.shape)} {dtype_name(tensor)}" if with_dtype else str(tuple(tensor.shape))


# -- freezing --------------------------------------------------------------------------------------------------------------------------------------------------


def freeze(module: nn.Module, patterns: str | Sequence[str]) -> tuple[list[str], list[nn.Module]]:
    """Switch off the gradients of all parameters that a pattern names: (their names, the modules that must stay in `eval()`).

    A pattern is a parameter's or a module's name, `*` and `?` allowed: "backbone", "backbone.*", "*.bias". The modules are those whose parameters are all
    frozen, the largest ones only: left in train(), their BatchNorm would go on learning its running mean, and dropout would go on drawing. Nothing is changed
    where a pattern names nothing or nothing would be left to train: SettingsError.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    submodules = {name: part for name, part in module.named_modules(remove_duplicate=False) if name}

    def names(pattern: str, name: str) -> bool:
        """Whether the pattern names `name` or a module that holds it."""
        parts = name.split(".")
        return any(fnmatch.fnmatchcase(".".join(parts[:length]), pattern) for length in range(1, len(parts) + 1))

    for pattern in patterns:
        if not any(names(pattern, name) for name in [*parameters, *submodules]):
            raise SettingsError(
                f"freeze: {pattern!r} names no parameter and no module of {type(module).__name__}.{nearest(pattern, [*submodules, *parameters])}"
            )
    frozen = {id(parameter) for name, parameter in parameters.items() if any(names(pattern, name) for pattern in patterns)}
    if parameters and not any(parameter.requires_grad and id(parameter) not in frozen for parameter in parameters.values()):
        raise SettingsError(
            f"freeze={patterns!r} leaves no parameter of {type(module).__name__} to train. Leave out the last layer, as {list(parameters)[-1]!r}."
        )
    for parameter in parameters.values():
        if id(parameter) in frozen:
            parameter.requires_grad_(False)

    def stays(name: str, part: nn.Module) -> bool:
        inside = list(part.parameters())
        if not inside:
            return any(names(pattern, name) for pattern in patterns)
        return not any(parameter.requires_grad for parameter in inside) and any(id(parameter) in frozen for parameter in inside)

    still = {name: part for name, part in submodules.items() if stays(name, part)}
    largest = [part for name, part in still.items() if not any(name.startswith(f"{other}.") for other in still)]
    unique = list({id(part): part for part in largest}.values())
    return [name for name, parameter in parameters.items() if id(parameter) in frozen], unique


# -- bits ------------------------------------------------------------------------------------------------------------------------------------------------------


def parameter_hash(state_dict: Mapping[str, Any]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a state_dict, in the order of the names: equal hashes mean equal weights, bit for bit.

    The device, the memory layout and the order in the dict do not count. Raises UsageError for tensors without numbers (lazy, meta) and for extra state that is
    neither tensor nor JSON.

    >>> parameter_hash({"a": torch.zeros(2), "b": torch.ones(3)}) == parameter_hash({"b": torch.ones(3), "a": torch.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        value = state_dict[name]
        if isinstance(value, Tensor):
            if is_lazy(value) or value.is_meta:
                raise UsageError(f"{name} has no numbers yet ({'lazy' if is_lazy(value) else 'on the meta device'}), so there is nothing to hash.")
            value = value.detach()
            value = value.to_dense() if value.layout != torch.strided else value.int_repr() if value.is_quantized else value
            kind, shape, data = dtype_name(value), list(value.shape), _raw(value).numpy().data
        else:
            try:
                kind, shape, data = "json", [], memoryview(json.dumps(value, sort_keys=True, allow_nan=False).encode())
            except (TypeError, ValueError) as error:
                raise UsageError(f"{name} in the state_dict is a {type(value).__name__}; its extra state must be a tensor or JSON to be compared.") from error
        # The head is JSON, so that no name can look like the end of one entry and the beginning of the next.
        digest.update(json.dumps([name, kind, shape, len(data)]).encode() + b"\n")
        digest.update(data)
    return digest.hexdigest()


def all_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, those that no state_dict holds too, under every name that they have."""
    found: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    return found | dict(module.named_buffers(remove_duplicate=False))


def has_memory(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and not tensor.is_meta and tensor.layout == torch.strided and tensor.numel() > 0


def same_bits(one: Tensor, other: Tensor) -> bool:
    if is_lazy(one) or is_lazy(other):
        return is_lazy(one) and is_lazy(other)  # both come to be in the first forward, under the run's seed
    if one.dtype != other.dtype or one.shape != other.shape or one.layout != other.layout:
        return False
    if one.is_meta or other.is_meta:
        return one.is_meta and other.is_meta
    if one.layout != torch.strided or one.is_quantized:
        return torch.equal(one.detach().to_dense(), other.detach().to_dense()) if not one.is_quantized else torch.equal(one, other)
    return torch.equal(_raw(one), _raw(other))  # as bytes: NaN equals NaN, and -0.0 is not 0.0


def _raw(tensor: Tensor) -> Tensor:
    """The tensor's bytes, flat, on the CPU."""
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8)
