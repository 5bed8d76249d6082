"""What a module consists of: its layers, their output shapes and parameters, as a table.

Enters: any `nn.Module` and, if wanted, example inputs. Leaves: a frozen `ModelSummary`. Shapes come from a forward of a copy, in `eval()`, so that looking changes
nothing: no running mean, no random state, no lazy layer.
"""

from __future__ import annotations

import copy
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fivestep import seeds
from fivestep.model.building import copied, line_of
from fivestep.model.weights import dtype_name
from fivestep.quoting import listed


@dataclass(frozen=True)
class Layer:
    """One row of a summary. `output_shape` and `calls` are None where no forward was run; `parameters` counts the layer's own ones, tied ones once, None while lazy."""

    name: str
    type: str
    output_shape: str | None
    parameters: int | None
    trainable: str  # "yes", "no", "partly", or "" without parameters
    calls: int | None


@dataclass(frozen=True)
class ModelSummary:
    """A module's layers and totals. Prints as a table; in a notebook as HTML. `parameters` and `trainable` leave out what is not initialised yet."""

    name: str
    layers: tuple[Layer, ...]
    parameters: int
    trainable: int
    bytes: int
    dtype: str
    device: str
    said: tuple[str, ...] = ()

    def _cells(self) -> list[tuple[str, ...]]:
        def count(layer: Layer) -> str:
            return "not initialised" if layer.parameters is None else f"{layer.parameters:,}" if layer.parameters or layer.trainable else ""

        def calls(layer: Layer) -> str:
            return (layer.output_shape or "-") + (f" x{layer.calls}" if layer.calls and layer.calls > 1 else "")

        return [(layer.name, layer.type, calls(layer), count(layer), layer.trainable) for layer in self.layers]

    def _totals(self) -> list[str]:
        size = f"{self.bytes / 2**20:,.1f} MB" if self.bytes >= 2**20 else f"{self.bytes:,} bytes"
        return [f"{self.parameters:,} parameters, {self.trainable:,} of them trained; {size} with buffers; {self.dtype} on {self.device}", *self.said]

    def __repr__(self) -> str:
        rows = [("layer", "type", "output", "parameters", "trained"), *self._cells()]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = [
            "  ".join(cell.rjust(width) if column == 3 else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows
        ]
        return "\n".join([self.name, *lines[:1], "-" * (sum(widths) + 8), *lines[1:], "-" * (sum(widths) + 8), *self._totals()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{title}</th>" for title in ("layer", "type", "output", "parameters", "trained"))
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self._cells())
        foot = "<br>".join(map(html.escape, self._totals()))
        return f"<b>{html.escape(self.name)}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{foot}</p>"


def describe(module: nn.Module, example_inputs: Any = None) -> ModelSummary:
    """The layers of any module with their parameters and, given inputs (a tensor, a tuple for `model(*x)`, a dict for `model(**x)`), their output shapes.

    The forward runs on a copy in `eval()`, without gradients, and the global random state is given back: the module is only looked at. Where the forward fails,
    the shapes up to there are shown, and the summary says where and why.

    >>> print(describe(nn.Linear(3, 2), torch.zeros(5, 3)).layers[0].output_shape)
    (5, 2)
    """
    said: list[str] = []
    shapes: dict[str, str] = {}
    calls: dict[str, int] = {}
    seen = module
    ran = False
    lazy = [name for name, tensor in [*module.named_parameters(), *module.named_buffers()] if is_lazy(tensor)]
    if example_inputs is not None:
        try:
            with seeds.restored():
                seen = copy.deepcopy(module)
        except Exception as error:  # a module may hold anything
            said.append(f"The forward was not run: {type(module).__name__} cannot be copied ({type(error).__name__}: {error}).")
        else:
            problem = _run_copy(seen, example_inputs, shapes, calls)
            ran = problem is None
            said += [problem] if problem else []
    if lazy:
        counted = " The counts are those that this example gives." if ran else ""
        said.append(f"Not initialised yet (lazy): {listed(lazy)}. The first forward gives them their shapes.{counted}")

    counted_parameters: set[int] = set()
    layers = []
    for name, part in seen.named_modules():
        own = [parameter for parameter in part.parameters(recurse=False) if id(parameter) not in counted_parameters]
        counted_parameters |= {id(parameter) for parameter in own}
        holders = isinstance(part, (nn.ModuleList, nn.ModuleDict))
        if (any(True for _ in part.children()) and not own) or (holders and not own):
            continue  # a container has nothing of its own to show
        flags = {parameter.requires_grad for parameter in part.parameters(recurse=False)}
        trainable = "" if not flags else "partly" if len(flags) == 2 else "yes" if flags == {True} else "no"
        number = None if any(is_lazy(parameter) for parameter in own) else sum(parameter.numel() for parameter in own)
        layers.append(Layer(name or "(itself)", type(part).__name__, shapes.get(name), number, trainable, calls.get(name, 0) if calls else None))
    if ran:
        # Parameter lists are never called, and attention reads its out_proj without calling it.
        attention = tuple(f"{name}." for name, part in seen.named_modules() if name and isinstance(part, nn.MultiheadAttention))
        unused = [
            layer.name
            for layer in layers
            if layer.calls == 0
            and layer.parameters
            and layer.type not in ("ParameterList", "ParameterDict")
            and not layer.name.startswith(attention or ("\0",))
        ]
        if unused and type(seen) is not nn.MultiheadAttention:
            said.append(f"Never called in this forward: {listed(unused)}.")

    everything = [tensor for tensor in [*seen.parameters(), *seen.buffers()] if not is_lazy(tensor)]
    parameters = [parameter for parameter in seen.parameters() if not is_lazy(parameter)]
    return ModelSummary(
        name=type(module).__name__,
        layers=tuple(layers),
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in everything),
        dtype=", ".join(sorted({dtype_name(tensor) for tensor in parameters or everything})) or "no dtype",
        device=", ".join(sorted({str(tensor.device) for tensor in everything})) or "no device",
        said=tuple(said),
    )


def _run_copy(module: nn.Module, inputs: Any, shapes: dict[str, str], calls: dict[str, int]) -> str | None:
    """Run the forward of a copy, filling shapes and calls by layer name; the problem in words where it fails."""
    entered: list[str] = []

    def before(name: str) -> Callable[..., None]:
        return lambda *_: entered.append(name)

    def after(name: str) -> Callable[..., None]:
        def note(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            entered.remove(name)
            shapes.setdefault(name, _shapes_of(outputs))
            calls[name] = calls.get(name, 0) + 1

        return note

    for name, part in module.named_modules():
        if not isinstance(part, torch.jit.ScriptModule):  # they take no hooks
            part.register_forward_pre_hook(before(name))
            part.register_forward_hook(after(name))
    module.eval()
    given = copied(inputs)  # a forward may write into its inputs
    try:
        with seeds.restored(), torch.no_grad():
            if isinstance(given, Mapping):
                module(**given)
            elif isinstance(given, tuple):
                module(*given)
            else:
                module(given)
    except Exception as error:  # the user's own forward: anything can come
        where = f" in {entered[-1]!r}" if entered and entered[-1] else ""
        reason = str(error).strip().splitlines()
        return f"The forward failed{where}: {type(error).__name__}: {reason[0] if reason else ''}{line_of(error)}; given {_shapes_of(inputs)}."
    return None


def _shapes_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shapes_of(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(_shapes_of, value)) + ")"
    return "None" if value is None else type(value).__name__
