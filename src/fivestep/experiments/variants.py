"""From `over={...}` to variants: each a few settings that differ from the others, and the arguments of `fit` that they make.

Enters: lists of values, or distributions, by the name of a setting. Leaves: dicts {setting: value}, in an order that depends on nothing but `over` and a seed.
A setting is named as in `--set`: "lr", "batch_size", "optimizer.betas", "loss.delta", "scheduler.step_size", "model.width" (an argument of the model).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fivestep import seeds
from fivestep.errors import UsageError
from fivestep.model.building import nearest
from fivestep.settings import put

TABLES = ("optimizer", "loss", "scheduler", "average")
# What other libraries call a setting, too far from its name here to be found by its letters.
OTHER_NAMES = {
    "learning_rate": "lr", "weight_decay": "optimizer.weight_decay", "wd": "optimizer.weight_decay", "betas": "optimizer.betas", "momentum": "optimizer.momentum",
    "eps": "optimizer.eps", "batchsize": "batch_size", "bs": "batch_size", "criterion": "loss", "lr_scheduler": "scheduler", "num_epochs": "epochs", "max_epochs": "epochs",
    "gradient_clip_val": "clip_norm", "max_grad_norm": "clip_norm", "random_state": "seed",
}  # fmt: skip
NOT_VARIED = (
    "folder",
    "name",
    "seed",
    "observers",
    "quiet",
    "checks",
    "ignore",
    "device",
    "checkpoint",
    "keep_checkpoints",
    "on_checkpoint_error",
    "watch_test",
)


def expand(over: Mapping[str, Any], *, search: str = "grid", trials: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """All combinations of the lists (search="grid"), or `trials` draws (search="random") of lists and distributions.

    A distribution is {"low": 1e-4, "high": 1e-1, "log": True}; with "int": True whole numbers. Raises UsageError for what cannot be read.

    >>> expand({"lr": [0.1, 0.01], "model.width": [32]})
    [{'lr': 0.1, 'model.width': 32}, {'lr': 0.01, 'model.width': 32}]
    """
    if not isinstance(over, Mapping):
        raise UsageError(f"over= is a {type(over).__name__}; it is a dict of lists: over={{'lr': [0.1, 0.01], 'model.width': [32, 64]}}.")
    spaces = {name: read_space(name, values) for name, values in over.items()}
    if search == "grid":
        for name, space in spaces.items():
            if isinstance(space, dict):
                raise UsageError(f"over[{name!r}] is a distribution, and a grid needs a list. Give a list, or search='random', trials=20.")
        if trials is not None:
            raise UsageError("trials= says how often search='random' draws; a grid has as many variants as its lists have combinations.")
        return [dict(zip(spaces, values)) for values in itertools.product(*spaces.values())]
    if trials is None or isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise UsageError(f"search={search!r} needs trials=, the number of variants to draw, at least 1; it is {trials!r}.")
    return [{name: draw(space, seeds.generator(seed, f"sweep/{name}", number)) for name, space in spaces.items()} for number in range(trials)]


def read_space(name: str, values: Any) -> Any:
    """A list of values, or a distribution as a checked dict."""
    if isinstance(values, Mapping):
        unknown = set(values) - {"low", "high", "log", "int"}
        if unknown or not {"low", "high"} <= set(values):
            raise UsageError(
                f"over[{name!r}] = {dict(values)!r}: a distribution is {{'low': 1e-4, 'high': 1e-1, 'log': True}}, with 'int': True for whole numbers."
            )
        low, high = values["low"], values["high"]
        if not (isinstance(low, (int, float)) and isinstance(high, (int, float)) and math.isfinite(low) and math.isfinite(high) and low < high):
            raise UsageError(f"over[{name!r}]: low={low!r} must be below high={high!r}, both finite numbers.")
        if values.get("log") and low <= 0:
            raise UsageError(f"over[{name!r}]: a logarithmic scale has no place for low={low!r}. Give a low above 0, or leave log out.")
        return dict(values)
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise UsageError(f"over[{name!r}] = {values!r} is no list of values: write [{values!r}] for one value.")
    if not len(values):
        raise UsageError(f"over[{name!r}] is empty: there is nothing to try.")
    twice = next((value for place, value in enumerate(values) if any(type(value) is type(one) and repr(value) == repr(one) for one in values[:place])), None)
    if twice is not None:
        raise UsageError(
            f"over[{name!r}] holds {twice!r} twice: it would be trained twice and compared with itself. Name it once; seeds=5 trains each value more often."
        )
    return list(values)


def draw(space: Any, generator: torch.Generator) -> Any:
    """One value of a list or distribution."""
    u = float(torch.rand((), generator=generator, dtype=torch.float64))
    if isinstance(space, list):
        return space[min(int(u * len(space)), len(space) - 1)]
    low, high = float(space["low"]), float(space["high"])
    if space.get("int"):
        high += 1
    value = math.exp(math.log(low) + u * (math.log(high) - math.log(low))) if space.get("log") else low + u * (high - low)
    return min(int(value), int(space["high"])) if space.get("int") else value


def applied(settings: Mapping[str, Any], changes: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `fit` with a variant's changes: "optimizer.betas" goes into the optimizer's table, "model.width" into model_args.

    `known` are fit's arguments and defaults. Raises UsageError for a name that is no setting, with the nearest one.
    """
    made = dict(settings)
    for name, value in changes.items():
        head, *rest = name.split(".")
        if head == "model" and rest:
            made["model_args"] = dict(made.get("model_args") or {}) | {".".join(rest): value}
        elif not rest and head == "dropout":  # of the model, under the name that most models give it
            made["model_args"] = dict(made.get("model_args") or {}) | {"dropout": value}
        elif head in NOT_VARIED or head in ("model", "splits"):
            hint = " Give seeds=5, or a list of seeds." if head == "seed" else ""
            raise UsageError(f"over[{name!r}]: {head} is no setting to compare variants by.{hint}")
        elif head not in known:
            meant = f" Did you mean {OTHER_NAMES[head.lower()]!r}?" if head.lower() in OTHER_NAMES else nearest(head, known)
            raise UsageError(f"over[{name!r}]: there is no setting {head!r}.{meant} An argument of the model is written 'model.{name}'.")
        elif not rest:
            made[head] = value
        elif head in TABLES:
            inner = made.get(head, known[head])
            if inner == "auto" and head == "optimizer":
                inner = "AdamW"
            if inner in ("auto", None):
                raise UsageError(f"over[{name!r}] is an argument of the {head}, which is not named. Name it: {head}='...'.")
            table = {head: dict(inner) if isinstance(inner, Mapping) else {"name": inner}}
            put(table, [head, *rest], value)
            made[head] = table[head]
        else:
            raise UsageError(f"over[{name!r}]: {head} has no parts. Only {', '.join(TABLES)} and model have.")
    return made


def label(changes: Mapping[str, Any]) -> str:
    """`lr=0.01 model.width=32`, as a table shows a variant."""
    return " ".join(f"{name}={shown(value)}" for name, value in changes.items()) or "as given"


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    name = getattr(value, "__name__", None)
    if name is not None:
        return name
    return str(value).replace(" ", "")
