"""The record of a run: what was asked for and what "auto" picked, as JSON and TOML can hold it. Kernel: imports only torch and the standard library.

One grammar serves Python, TOML and the shell: a name, a number, a list or a table; a class or function is recorded by where it can be imported from.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fivestep.errors import MissingInputError, SettingsError, UsageError

FORMAT = 1


@dataclass(frozen=True)
class Settings:
    """`asked` are the arguments of fit as they were given, `chosen` what stands where "auto" was asked, `data` how the splits were made, `model` its recipe."""

    asked: dict[str, Any]
    chosen: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "fit": self.asked, "chosen": self.chosen, "data": self.data, "model": self.model}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Settings:
        if table.get("format") != FORMAT:
            raise SettingsError(f"These settings have format {table.get('format')!r}; this fivestep reads format {FORMAT}. Were they made by a newer version?")
        return cls(dict(table.get("fit", {})), dict(table.get("chosen", {})), dict(table.get("data", {})), dict(table.get("model", {})))

    def __repr__(self) -> str:
        lines = [f"  {name} = {value!r}" for name, value in self.asked.items()]
        lines += [f'  {name} = {value!r}   (picked by "auto")' for name, value in self.chosen.items()]
        return "Settings(\n" + "\n".join(lines) + "\n)"


def record(value: Any) -> Any:
    """`value` as JSON can hold it: classes and functions become {"import": "module:name"}, tensors and arrays their shape."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): record(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [record(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, torch.Tensor):
        return value.tolist() if value.numel() <= 1000 else {"tensor": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, torch.nn.Module):
        return {"instance": f"{type(value).__module__}:{type(value).__qualname__}", "text": repr(value)[:2000]}
    if isinstance(value, (torch.device, torch.dtype)):
        return str(value)
    if hasattr(value, "shape"):
        return {"array": list(value.shape), "dtype": str(getattr(value, "dtype", "?"))}
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return {"import": f"{value.__module__}:{name}"}
    return {"instance": f"{type(value).__module__}:{type(value).__qualname__}"}


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """`optimizer.momentum=0.9` -> (["optimizer", "momentum"], 0.9): numbers, true/false, none and lists are read as such, the rest is text.

    >>> parse_assignment("model.widths=[64, 32]")
    (['model', 'widths'], [64, 32])
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text!r} has no name or no '='. Write it as name=value, for example --set optimizer.momentum=0.9")
    return key.strip().split("."), parse_value(value.strip())


def parse_value(text: str) -> Any:
    """A value typed in the shell: JSON or Python literals, `true`, `false`, `none`; everything else is the text itself."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def put(table: dict[str, Any], path: list[str], value: Any) -> None:
    """Set `table[a][b] = value` for path [a, b]; a name that stood where a table is needed becomes its "name": optimizer="SGD", then optimizer.momentum=0.9."""
    *parents, last = path
    for key in parents:
        inner = table.get(key, {})
        table[key] = dict(inner) if isinstance(inner, Mapping) else {"name": inner}
        table = table[key]
    table[last] = value


def read_config(path: str | Path) -> dict[str, Any]:
    """Settings from a TOML file, or from the settings.json of a run (its `fit` part, with `model` and `data` beside it)."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise MissingInputError(f"--config {path}: {error.strerror}.") from error
    try:
        if path.suffix == ".json":
            table = json.loads(raw)
            if not isinstance(table, dict):
                raise ValueError("the file holds no table")
            if "fit" in table and "format" in table:
                data = {key: value for key, value in table.get("data", {}).items() if key in ("options", "split_options", "source")}
                return dict(table["fit"]) | {"recorded_data": data, "recorded_model": table.get("model", {})}
            return table
        import tomllib

        return tomllib.loads(raw.decode("utf-8"))
    except ValueError as error:
        raise SettingsError(f"--config {path} cannot be read: {error}") from error
