"""Optimizers, parameter groups and learning-rate schedules from plain arguments, and their state through JSON. Kernel: imports only torch, stdlib, `errors`.

Enters: a torch name, a class, a table, a function, or a table of name patterns. Leaves: torch's own optimizer with `.recorded` (the exact constructor arguments),
`.said` (what was chosen, in words) and `.needs_closure`; several of them as `Optimizers`. The decision that shaped it: a schedule's state is how often it was
moved and what it was shown. It is rebuilt and replayed, because torch's own scheduler state does not survive JSON (MultiStepLR's Counter keys become strings,
and the rate is silently wrong).
"""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from fivestep.errors import ArtifactError, SettingsError, UsageError

Named = list[tuple[str, nn.Parameter]]

# What lr="auto" means, and why.
RATES: dict[str, tuple[float, str]] = {
    "Adam": (1e-3, "Kingma & Ba 2015: steps are about lr in size whatever the gradient's"),
    "AdamW": (1e-3, "as Adam"),
    "NAdam": (1e-3, "as Adam; torch's 2e-3 is Dozat's"),
    "RAdam": (1e-3, "as Adam"),
    "Adamax": (1e-3, "as Adam; torch's 2e-3 is the paper's"),
    "SparseAdam": (1e-3, "as Adam"),
    "RMSprop": (1e-3, "divides by the gradient's size as Adam does, so Adam's rate; torch's 1e-2 is Hinton's lecture of one layer"),
    "Muon": (1e-3, "its steps are scaled to AdamW's (adjust_lr_fn), so AdamW's rate"),
    "SGD": (1e-2, "steps are lr times the gradient: about ten times Adam's rate; torch's 1e-3 learns little in a first try"),
    "ASGD": (1e-2, "as SGD"),
    "Adagrad": (1e-2, "Duchi et al. 2011: the effective rate only falls, so it starts higher"),
    "Adafactor": (1e-2, "Shazeer & Stern 2018: an upper bound; its steps are relative to the weights' size"),
    "Rprop": (1e-2, "the first step only: each weight then adapts its own"),
    "Adadelta": (1.0, "Zeiler 2012: it makes its own unit; lr only scales it"),
    "LBFGS": (1.0, "a quasi-Newton step has its natural length at 1"),
}

# Optimizers of torch.optim that do not suit every model, and why. `make_optimizer` refuses what cannot work before the first step.
SPECIAL: dict[str, str] = {
    "LBFGS": "its step calls the model several times (a closure); one optimizer without groups; wants the whole data as one batch",
    "SparseAdam": "takes only the sparse gradients of nn.Embedding(sparse=True)",
    "Muon": "takes only matrices; hidden ones by its authors' rule",
    "Rprop": "looks at the gradient's sign from step to step, so batches have to be the whole data",
}

_SPARSE_ABLE = ("SGD", "Adagrad", "SparseAdam", "LBFGS")  # LBFGS makes them dense
SEVERAL = 'Several optimizers are a table from names of parameters to each: {"body.*": "Adam", "*": "SGD"}; a name without * is a submodule.'

_OWN_VARIANT = ("fused", "foreach", "capturable", "differentiable")


# -- making ----------------------------------------------------------------------------------------------------------------------------------------------------


class Optimizers:
    """Several optimizers that move together: `named["generator"]` is torch's own. `step`, `zero_grad` and the state go to all, in order."""

    def __init__(self, named: Mapping[str, Optimizer], said: Sequence[str] = ()):
        self.named = dict(named)
        self.said = list(said)
        self.recorded: dict[str, Any] = {"optimizers": {name: getattr(optimizer, "recorded", {}) for name, optimizer in self.named.items()}}
        self.needs_closure = False
        for name, optimizer in self.named.items():
            if _needs_closure(optimizer):
                raise SettingsError(
                    f"optimizer: {type(optimizer).__name__} for {name!r} calls the model in its own step, so it cannot move together with others. Use it for all weights."
                )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The live groups of all optimizers, in order: a rate changed here is changed there."""
        return [group for optimizer in self.named.values() for group in optimizer.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.named.values():
            optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all weights. `closure`, where given, is called once, before the first optimizer moves."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for optimizer in self.named.values():
            optimizer.step()
        return value

    def state_dict(self) -> dict[str, Any]:
        return {name: optimizer.state_dict() for name, optimizer in self.named.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state) != set(self.named):
            raise ArtifactError(f"The saved state is of the optimizers {sorted(state)}, and this run has {sorted(self.named)}.")
        for name, optimizer in self.named.items():
            optimizer.load_state_dict(state[name])

    def __repr__(self) -> str:
        return "Optimizers(" + ", ".join(f"{name}: {type(optimizer).__name__}" for name, optimizer in self.named.items()) + ")"


def make_optimizer(
    spec: Any,
    model: nn.Module,
    *,
    lr: float | str | None = None,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    loss: Any = None,
    device: str | torch.device = "cpu",
) -> Any:
    """The optimizer of a model: torch's own, or `Optimizers` where `spec` names several. Frozen parameters are left out, those of `loss` are included.

    `spec`: None or "auto" (AdamW), a torch name, a class, a table `{"name": either, **arguments}` (without "name": arguments of AdamW), a function `optimizer(model)`, or a table without "name" from
    name patterns to any of these: the first match takes a parameter, and every parameter must be taken. A pattern without `*` is a submodule (or a parameter).
    "Muon" alone gives hidden matrices to Muon and the rest to AdamW (see `hidden_matrices`). The loss's parameters are called `loss:name` in patterns.
    `lr` is for all optimizers that do not name their own; "auto" and None take `RATES`. `groups` are parameter groups: `{"backbone.*": {"lr": 1e-5}}`.
    By name the fastest variant on `device` is taken: `fused=True` for Adam and AdamW (on CPU 642 against 817 us a step on SPEED.md's W2), `foreach=False` for SGD
    on CPU (105 against 118 us on W1), a line search for LBFGS, AdamW's step size for Muon. A class or a function is used as given.
    Raises SettingsError for unknown names and arguments, patterns that match nothing, parameters nobody takes, and optimizers that cannot work on these weights.

    >>> make_optimizer({"name": "SGD", "momentum": 0.9}, nn.Linear(3, 2), lr=0.1).recorded["arguments"]
    {'lr': 0.1, 'momentum': 0.9, 'foreach': False}
    """
    named = trainable(model, loss)
    groups = dict(groups or {})
    rate = None if lr is None or lr == "auto" else lr
    if isinstance(rate, (str, bool)) or (isinstance(rate, (int, float)) and not (math.isfinite(rate) and rate >= 0)):
        raise SettingsError(f'lr={lr!r} must be a number of at least 0, or "auto".')
    for pattern in groups:
        _matching(pattern, named, model, "groups")
    device = torch.device(device)
    spec = "AdamW" if spec is None or spec == "auto" else spec
    if isinstance(spec, Mapping) and spec and set(spec) <= set(inspect.signature(torch.optim.AdamW).parameters) - {"params"}:
        spec = {"name": "AdamW", **spec}  # arguments alone are those of the optimizer that "auto" takes
    if isinstance(spec, Mapping) and "name" not in spec:
        optimizer = _several(spec, named, model, rate, groups, device)
    else:
        kind, arguments = _read(spec)
        if kind == "Muon":
            optimizer = _muon_and_adamw(arguments, named, model, rate, groups, device)
        else:
            optimizer = _single(kind, arguments, named, named, model, rate, groups, device)
    taken = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left = [name for name, parameter in named if id(parameter) not in taken]
    if left:  # only a function of the user's own can leave some out
        optimizer.said.append(f"optimizer: your function leaves out {_some(left)}, which stay as they are.")
    return optimizer


def trainable(model: nn.Module, loss: Any = None) -> Named:
    """The parameters that are not frozen, by name, each once; those of a loss that has its own as `loss:name`. Raises SettingsError where there are none."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    known = {id(parameter) for _, parameter in named}
    if isinstance(loss, nn.Module):
        named += [(f"loss:{name}", parameter) for name, parameter in loss.named_parameters() if parameter.requires_grad and id(parameter) not in known]
    lazy = [name for name, parameter in named if isinstance(parameter, nn.parameter.UninitializedParameter)]
    if lazy:
        raise SettingsError(f"The parameters {_some(lazy)} have no shape yet (a lazy module). Run the model once on a batch before training it.")
    if not named:
        frozen = sum(1 for _ in model.parameters())
        raise SettingsError(f"The model has nothing to train: {'all ' + str(frozen) + ' parameters are frozen' if frozen else 'it has no parameters'}.")
    return named


def hidden_matrices(model: nn.Module, named: Named) -> list[str]:
    """The names that Muon takes where nobody says which: the weights of hidden layers.

    Its author: "scalar and vector parameters, as well as the input and output layers, should be optimized by a standard method such as AdamW"
    (https://kellerjordan.github.io/posts/muon/; torch.optim.Muon says the same). Taken are 2-D parameters called `...weight...` that belong to no embedding. Of
    these, in the order in which the model registers them, the last is the output layer, unless the loss holds it itself; the first is the input layer, unless
    embeddings are. A model registered in another order needs patterns: `{"body.*.weight": "Muon", "*": "AdamW"}`.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))}
    trained = {id(parameter) for _, parameter in named}
    # Frozen layers count as places: in a model with a frozen first layer the second is hidden, not the input.
    matrices = [(name, p) for name, p in model.named_parameters() if p.dim() == 2 and id(p) not in embeddings and "weight" in name.rsplit(".", 1)[-1]]
    if not embeddings:
        matrices = matrices[1:]
    if not any(name.startswith("loss:") for name, _ in named):
        matrices = matrices[:-1]
    return [name for name, parameter in matrices if id(parameter) in trained]


def _read(spec: Any) -> tuple[Any, dict[str, Any]]:
    """A torch name, class or function, and its arguments."""
    arguments: dict[str, Any] = {}
    if isinstance(spec, Mapping):
        arguments = dict(spec)
        spec = arguments.pop("name")
    if isinstance(spec, str):
        if spec not in _names():
            plain = {name.lower(): name for name in _names()}
            near = difflib.get_close_matches(spec.lower(), plain, n=1, cutoff=0.4)
            hint = f' Did you mean "{plain[near[0]]}"?' if near else ""
            raise SettingsError(
                f'optimizer="{spec}" is no optimizer of torch.optim.{hint} There are: {", ".join(_names())}. Your own is given as a class or function.'
            )
        return spec, arguments
    if isinstance(spec, (Optimizer, Optimizers)):
        raise SettingsError(
            f"optimizer: this {type(spec).__name__} holds the parameters of a model from before the run. Give the class with its arguments, "
            f'{{"name": torch.optim.{type(spec).__name__}, "lr": ...}}, or a function optimizer(model).'
        )
    if not callable(spec):
        raise SettingsError(
            f'optimizer={spec!r} is no optimizer. Give a torch name ("SGD"), a class, a table {{"name": ...}}, or a function optimizer(model). {SEVERAL}'
        )
    return spec, arguments


def _names() -> list[str]:
    return [name for name, value in vars(torch.optim).items() if inspect.isclass(value) and issubclass(value, Optimizer) and value is not Optimizer]


def _several(table: Mapping[str, Any], named: Named, model: nn.Module, rate: Any, groups: dict[str, Any], device: torch.device) -> Any:
    if not table:
        raise SettingsError('optimizer={} names no optimizer. Write {"name": "SGD", "momentum": 0.9}, or patterns: {"body.*.weight": "Muon", "*": "AdamW"}.')
    if not any(isinstance(value, (str, Mapping)) or callable(value) for value in table.values()):
        raise SettingsError(
            f'optimizer={dict(table)!r} has no "name", and {", ".join(table)} is no argument of AdamW, which is taken where none is named. '
            'Write {"name": "SGD", "momentum": 0.9}; in the shell --set optimizer.name=SGD --set optimizer.momentum=0.9.'
        )
    left, made = list(named), {}
    for pattern, spec in table.items():
        matching = _matching(pattern, named, model, "optimizer")
        mine = [(name, parameter) for name, parameter in left if name in matching]
        if not mine:
            raise SettingsError(f"optimizer: all that {pattern!r} matches ({_some(sorted(matching))}) was taken by the patterns before it. Put it before them.")
        left = [(name, parameter) for name, parameter in left if name not in matching]
        kind, arguments = _read("AdamW" if spec is None or spec == "auto" else spec)
        if not isinstance(kind, str) and not inspect.isclass(kind):
            raise SettingsError(f"optimizer: {pattern!r} has a function, which would get the whole model. Give a name or a class for a part of it.")
        made[pattern] = _single(kind, arguments, mine, named, model, None if "lr" in arguments else rate, groups, device)
    if left:
        names = [name for name, _ in left]
        raise SettingsError(
            f'optimizer: no pattern takes {_some(names)}, which would stay untrained. Add "*": "AdamW" at the end, or freeze them: freeze={names[:3]!r}.'
        )
    said = [f"{pattern}: {line}" for pattern, optimizer in made.items() for line in optimizer.said]
    return Optimizers(made, said)


def _muon_and_adamw(arguments: dict[str, Any], named: Named, model: nn.Module, rate: Any, groups: dict[str, Any], device: torch.device) -> Any:
    hidden = set(hidden_matrices(model, named))
    matrices = [pair for pair in named if pair[0] in hidden]
    rest = [pair for pair in named if pair[0] not in hidden]
    if not matrices:
        raise SettingsError(
            'optimizer="Muon" finds no hidden matrix here: Muon is for the weights between the input and the output layer, the rest goes to AdamW. '
            'Use optimizer="AdamW", or say which weights Muon takes: {"*.weight": "Muon", "*": "AdamW"}.'
        )
    muon = _single("Muon", arguments, matrices, named, model, rate, groups, device)
    if not rest:
        return muon
    lr = arguments.get("lr", rate)  # one rate serves both: Muon's steps are scaled to AdamW's
    adamw = _single("AdamW", {}, rest, named, model, lr, groups, device)
    said = [
        f"optimizer: Muon takes the {len(matrices)} hidden matrices ({_some([name for name, _ in matrices])}), AdamW the rest ({_some([name for name, _ in rest])})."
    ]
    return Optimizers({"Muon": muon, "AdamW": adamw}, said + muon.said + adamw.said)


def _single(
    kind: Any, arguments: dict[str, Any], mine: Named, everything: Named, model: nn.Module, rate: Any, groups: dict[str, Any], device: torch.device
) -> Any:
    """One optimizer over the parameters `mine`."""
    by_name = isinstance(kind, str)
    made_by: Any = getattr(torch.optim, kind) if by_name else kind
    label = kind if by_name else getattr(made_by, "__name__", type(made_by).__name__)
    arguments = dict(arguments)
    if rate is not None and "lr" in arguments and arguments["lr"] != rate:
        raise SettingsError(f"lr={rate!r} and optimizer.lr={arguments['lr']!r} contradict each other. Leave one of them out.")
    if not inspect.isclass(made_by):
        return _from_function(made_by, arguments, model, rate, groups)
    construct: Any = made_by
    accepted = inspect.signature(construct).parameters
    torchs_own = getattr(torch.optim, label, None) is made_by
    said: list[str] = []
    if arguments.get("lr") == "auto":
        del arguments["lr"]
    if "lr" not in arguments and "lr" in accepted:
        if rate is not None:
            arguments = {"lr": rate, **arguments}
        elif torchs_own and label in RATES:
            arguments = {"lr": RATES[label][0], **arguments}
            said.append(f"lr: {RATES[label][0]:g} ({RATES[label][1]}).")
        elif accepted["lr"].default is inspect.Parameter.empty:
            raise SettingsError(f"{label} needs a learning rate: lr=.")
    _check_names(label, arguments, accepted, "optimizer")
    if by_name:
        arguments |= _variant(kind, arguments, mine, device)
    if torchs_own:
        _check_suits(label, mine, model)
    split = _grouped(label, mine, model, groups, accepted)
    if label == "LBFGS" and len(split) > 1:
        raise SettingsError("LBFGS has no parameter groups: its step is one direction for all weights. Leave out groups=, or use another optimizer.")
    parameters: Any = [dict(options, params=[parameter for _, parameter in group]) for options, group in split]
    try:
        optimizer = construct(parameters[0]["params"] if len(split) == 1 and not split[0][0] else parameters, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"{label} cannot be built with {arguments}: {error}. It takes: {', '.join(name for name in accepted if name != 'params')}."
        ) from error
    whole = len(split) == 1 and not split[0][0] and [name for name, _ in mine] == [name for name, _ in everything]
    recorded = {
        "class": f"{made_by.__module__.partition('.')[0] + '.optim' if torchs_own else made_by.__module__}.{made_by.__qualname__}",
        "arguments": dict(arguments),
        "parameters": "all" if whole else [{"names": [name for name, _ in group], **options} for options, group in split],
    }
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return _marked(optimizer, recorded, [f"optimizer: {label}({shown}).", *said])


def _from_function(function: Callable[..., Any], arguments: dict[str, Any], model: nn.Module, rate: Any, groups: dict[str, Any]) -> Any:
    name = getattr(function, "__qualname__", type(function).__name__)
    if rate is not None or groups:
        unused = "lr=" if rate is not None else "groups="
        raise SettingsError(
            f"{unused} cannot reach an optimizer that your function {name} makes. Set it in the function, or give the optimizer's name or class."
        )
    optimizer = function(model, **arguments)
    if isinstance(optimizer, Mapping) and optimizer and all(isinstance(one, Optimizer) for one in optimizer.values()):
        optimizer = Optimizers(optimizer)
    missing = [method for method in ("step", "zero_grad", "param_groups", "state_dict", "load_state_dict") if not hasattr(optimizer, method)]
    if missing:
        raise SettingsError(
            f"optimizer: the function {name} returned {type(optimizer).__name__}, which has no {', '.join(missing)}. Return an optimizer. {SEVERAL}"
        )
    return _marked(optimizer, {"function": f"{getattr(function, '__module__', '?')}.{name}", "arguments": arguments}, [])


def _marked(optimizer: Any, recorded: dict[str, Any], said: list[str]) -> Any:
    optimizer.recorded, optimizer.said, optimizer.needs_closure = recorded, said, _needs_closure(optimizer)
    return optimizer


def _needs_closure(optimizer: Any) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _variant(name: str, arguments: dict[str, Any], mine: Named, device: torch.device) -> dict[str, Any]:
    """The arguments that make an optimizer taken by name fast on this device; nothing where the user has chosen a variant."""
    extra: dict[str, Any] = {}
    if name == "Muon" and "adjust_lr_fn" not in arguments:
        extra["adjust_lr_fn"] = "match_rms_adamw"  # Liu et al. 2025 (arXiv:2502.16982): AdamW's rate and decay can be used as they are
    if name == "LBFGS" and "line_search_fn" not in arguments:
        extra["line_search_fn"] = "strong_wolfe"  # torch's default takes the full step unseen: the loss of a 3-5-7-5-2 network went from 0.8 to 4e11
    if any(option in arguments for option in _OWN_VARIANT):
        return extra
    fusable = device.type in ("cpu", "cuda") and all(type(p) in (Tensor, nn.Parameter) and p.is_floating_point() for _, p in mine)
    if name in ("Adam", "AdamW") and fusable:
        extra["fused"] = True
    if name == "SGD" and device.type == "cpu":
        extra["foreach"] = False
    if name == "SGD" and device.type == "cuda" and fusable:
        extra["fused"] = True
    return extra


def _check_suits(label: str, mine: Named, model: nn.Module) -> None:
    """Refuse what torch would refuse at the first step only."""
    sparse = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse}
    given_sparse = [name for name, parameter in mine if id(parameter) in sparse]
    dense = [name for name, parameter in mine if id(parameter) not in sparse]
    if label == "SparseAdam" and dense:
        raise SettingsError(
            f"SparseAdam {SPECIAL['SparseAdam']}, and {_some(dense)} have dense ones. Give it the embeddings alone: "
            f'{{"{given_sparse[0] if given_sparse else "embedding"}": "SparseAdam", "*": "AdamW"}}.'
        )
    if given_sparse and label not in _SPARSE_ABLE:
        raise SettingsError(
            f'{label} cannot take the sparse gradients of {_some(given_sparse)} (sparse=True). Use {{"{given_sparse[0]}": "SparseAdam", "*": "{label}"}}, '
            f"or build the embedding with sparse=False."
        )
    if label == "Muon":
        wrong = [f"{name} {tuple(parameter.shape)}" for name, parameter in mine if parameter.dim() != 2]
        if wrong:
            raise SettingsError(
                f'Muon takes matrices only, and these are none: {_some(wrong)}. Give it matrices by pattern: {{"body.*.weight": "Muon", "*": "AdamW"}}.'
            )


def _grouped(label: str, mine: Named, model: nn.Module, groups: dict[str, Any], accepted: Any) -> list[tuple[dict[str, Any], Named]]:
    """(options, parameters) of each parameter group: those of `groups` in order, first match wins, then the rest."""
    left, split = list(mine), []
    for pattern, options in groups.items():
        if not isinstance(options, Mapping) or not options:
            raise SettingsError(f'groups: {pattern!r} needs a table of options, for example {{"{pattern}": {{"lr": 1e-5}}}}; it has {options!r}.')
        _check_names(label, options, accepted, f"groups[{pattern!r}]")
        taken = _matching(pattern, left, model, None)
        if taken:
            split.append((dict(options), [pair for pair in left if pair[0] in taken]))
            left = [pair for pair in left if pair[0] not in taken]
    return [*split, ({}, left)] if left else split


def _matching(pattern: str, named: Named, model: nn.Module, setting: str | None) -> set[str]:
    """The names a pattern means: with `*`, `?` or `[` as in a shell, else a submodule or one parameter. `setting` (None: may match nothing) names it in errors."""
    if any(sign in pattern for sign in "*?["):
        found = {name for name, _ in named if fnmatch.fnmatchcase(name, pattern)}
    else:
        found = {name for name, _ in named if name == pattern or name.startswith(pattern + ".") or (pattern == "loss" and name.startswith("loss:"))}
    if not found and setting is not None:
        every = [name for name, _ in model.named_parameters()]
        frozen = [name for name in every if fnmatch.fnmatchcase(name, pattern) or name == pattern or name.startswith(pattern + ".")]
        if frozen:
            raise SettingsError(f"{setting}: {pattern!r} matches only frozen parameters ({_some(frozen)}). Leave it out, or do not freeze them.")
        modules = [name for name, _ in model.named_modules() if name]
        near = difflib.get_close_matches(pattern, every + modules, n=3, cutoff=0.4)
        hint = f" Near are: {', '.join(near)}." if near else f" There are: {_some(every)}."
        note = "" if any(sign in pattern for sign in "*?[") else " A name without * is a submodule or a parameter."
        raise SettingsError(f"{setting}: {pattern!r} matches no parameter of the model.{hint}{note}")
    return found


def _check_names(label: str, arguments: Mapping[str, Any], accepted: Any, setting: str) -> None:
    """An argument the constructor does not have; torch keeps unknown options of a group without a word."""
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values()):
        return
    known = [name for name in accepted if name != "params"]
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            raise SettingsError(f"{setting}: {label} has no argument {name!r}.{hint} It takes: {', '.join(known)}.")


def _some(names: Sequence[str], count: int = 4) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


# -- schedules -------------------------------------------------------------------------------------------------------------------------------------------------

_PER_STEP = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)


@dataclass(frozen=True)
class Stage:
    """One scheduler of a schedule: how it is built on an optimizer, after how many ticks it moves (0: by a metric), and how many ticks it lasts (None: on and on)."""

    name: str
    build: Callable[[Optimizer], Any]
    period: int
    ticks: int | None


class Schedule:
    """Moves the learning rates: `step()` once every `.every` ("step", "epoch"), `step(metric)` after a validation where `.wants_metric`.

    `.filled_in` are the arguments taken from the run ({"T_max": 50}), `.depends_on_epochs` says that the number of epochs is among them: a run made longer then
    has other rates than one that was longer from the start.
    """

    def __init__(self, stages: Sequence[Stage], optimizer: Any, *, every: str, filled_in: Mapping[str, Any] | None = None, depends_on_epochs: bool = False):
        self.every = every
        self.filled_in = dict(filled_in or {})
        self.depends_on_epochs = depends_on_epochs
        self.wants_metric = any(stage.period == 0 for stage in stages)
        self._stages = tuple(stages)
        self._optimizers: list[Optimizer] = _each(optimizer)
        self._start = _options(self._optimizers)  # before any scheduler has touched them
        self._begin()
        self._built = _options(self._optimizers)

    def step(self, metric: float | None = None) -> None:
        """After an optimizer step or an epoch (no metric), or after a validation (with the monitored value)."""
        if metric is not None:
            self._metrics.append((self._steps, float(metric)))
            if self._stages[self._number].period == 0:
                for scheduler in self._schedulers:
                    scheduler.step(self._metrics[-1][1])
            return
        if self.every == "validation":
            raise UsageError("ReduceLROnPlateau moves by the monitored value of a validation: schedule.step(value).")
        self._steps += 1
        self._ticks += 1
        stage = self._stages[self._number]
        if stage.ticks is not None and self._ticks >= stage.ticks and self._number + 1 < len(self._stages):
            self._number += 1
            self._ticks = 0
            self._build()
        elif stage.period and self._ticks % stage.period == 0 and (stage.ticks is None or self._ticks <= stage.ticks):
            for scheduler in self._schedulers:
                scheduler.step()

    @property
    def last_lr(self) -> list[float]:
        """The learning rate of each parameter group, over all optimizers."""
        return [float(group["lr"]) for optimizer in self._optimizers for group in optimizer.param_groups]

    def preview(self, steps: int, steps_per_epoch: int) -> list[list[float]]:
        """The rates of the first `steps` optimizer steps, one list over all groups each, from a run's start. Nothing moves; a plateau is never reported."""
        dummies = []
        for optimizer, groups in zip(self._optimizers, self._start):
            # torch's base class with the same options over parameters that are nobody's: schedulers ask an optimizer for no more.
            dummy = Optimizer([{"params": [torch.zeros(1)], **options} for options in groups], dict(optimizer.defaults))
            dummy._opt_called = True  # type: ignore[attr-defined]
            dummies.append(dummy)
        schedule = Schedule(self._stages, Optimizers({str(position): dummy for position, dummy in enumerate(dummies)}), every=self.every)
        rates = []
        for step in range(1, steps + 1):
            rates.append(schedule.last_lr)
            if self.every == "step" or (self.every == "epoch" and step % steps_per_epoch == 0):
                schedule.step()
        return rates

    def state_dict(self) -> dict[str, Any]:
        """JSON: how often the schedule was moved, and each metric it was shown with the number of moves before it."""
        return {"steps": self._steps, "metrics": [[steps, _number_to_json(value)] for steps, value in self._metrics]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Build the schedule anew and replay it. Load the optimizer first: what its groups hold then (rates that somebody changed by hand) stays as it is.

        Without a loaded optimizer the replayed rates stand; they are the same bits. Functions in it (`lr_lambda`) must give the same for the same count.
        """
        steps, metrics = _read_moves(state)
        found = _options(self._optimizers)
        self._begin()
        for optimizer in self._optimizers:
            optimizer._opt_called = True  # type: ignore[attr-defined]  # torch warns of a scheduler moved before its optimizer; that happened before the save
        for before, metric in [*metrics, (steps, None)]:
            while self._steps < before:
                self.step()
            if metric is not None:
                self.step(metric)
        if not _same(found, self._built):
            _set_options(self._optimizers, found)

    def _begin(self) -> None:
        self._steps = self._ticks = self._number = 0
        self._metrics: list[tuple[int, float]] = []
        self._build()

    def _build(self) -> None:
        """Start the stage: from the rates as they were set, as torch's SequentialLR does."""
        _set_options(self._optimizers, self._start)
        self._schedulers = [self._stages[self._number].build(optimizer) for optimizer in self._optimizers]

    def __repr__(self) -> str:
        return f"Schedule({' then '.join(stage.name for stage in self._stages)}, every={self.every!r}, lr={self.last_lr})"


def make_schedule(spec: Any, optimizer: Any, *, epochs: int, steps_per_epoch: int, mode: str | None = None) -> Schedule | None:
    """The schedule of an optimizer (each of several gets its own), or None for None and "auto".

    `spec`: a name of torch.optim.lr_scheduler, a class, a function `scheduler(optimizer)`, a table `{"name": either, **arguments}`, or a list of these in sequence:
    each lasts its `"epochs"` (or `"steps"`), the last one the rest, and each starts from the rates as they were set (torch's SequentialLR).
    `"every"` is "step" for OneCycleLR and CyclicLR, else "epoch"; in a sequence that mixes them an epoch is `steps_per_epoch` steps. ReduceLROnPlateau moves after
    a validation (`mode` is filled in). total_steps, T_max and total_iters are filled in with the length (ConstantLR: where it is given), max_lr with the optimizer's rates.

    >>> optimizer = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=1.0)
    >>> schedule = make_schedule([{"name": "LinearLR", "epochs": 2}, "CosineAnnealingLR"], optimizer, epochs=10, steps_per_epoch=5)
    >>> schedule.filled_in
    {'LinearLR.total_iters': 2, 'CosineAnnealingLR.T_max': 8}
    """
    if spec is None or spec == "auto":
        return None
    if epochs < 1 or steps_per_epoch < 1:
        raise UsageError(f"epochs={epochs} and steps_per_epoch={steps_per_epoch} must be at least 1.")
    tables = [_table(one) for one in (spec if isinstance(spec, (list, tuple)) else [spec])]
    if not tables:
        raise SettingsError('scheduler=[] names none. Use scheduler=None, or a list such as [{"name": "LinearLR", "epochs": 2}, "CosineAnnealingLR"].')
    if any("initial_lr" in group for one in _each(optimizer) for group in one.param_groups):
        raise UsageError(
            "This optimizer has had a schedule already, so the rates it was made with are gone. Make the schedule first, then load the optimizer's state."
        )
    per = [_every(table, optimizer) for table in tables]
    unit = "step" if "step" in per else "epoch" if "epoch" in per else "validation" if len(per) == 1 else "epoch"
    total = epochs * steps_per_epoch if unit == "step" else epochs
    stages, filled, depends, used = [], {}, False, 0
    for position, (table, every) in enumerate(zip(tables, per)):
        last = position + 1 == len(tables)
        name, length = _label(table["name"]), _length(table, unit, steps_per_epoch, last)
        if length is not None and used + length > total:
            raise SettingsError(
                f"scheduler: the first {position + 1} parts last {used + length} {unit}s, and the run has {total}. Shorten them, or train longer."
            )
        rest = total - used if length is None else length
        if rest < 1:
            raise SettingsError(f"scheduler: nothing is left for {name}: the parts before it last all {total} {unit}s of the run.")
        period = 0 if every == "validation" else steps_per_epoch if (unit, every) == ("step", "epoch") else 1
        moves = math.ceil(rest / max(period, 1))
        build, taken = _builder(table, moves, optimizer, mode, length is not None)
        filled |= {f"{name}.{key}" if len(tables) > 1 else key: value for key, value in taken.items()}
        depends = depends or (length is None and any(key in taken for key in ("T_max", "total_steps", "total_iters")))
        stages.append(Stage(name, build, period, length))
        used += rest
    return Schedule(stages, optimizer, every=unit, filled_in=filled, depends_on_epochs=depends)


def _table(spec: Any) -> dict[str, Any]:
    """`{"name": class or function, ...}` of any way to write a scheduler."""
    table = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    if "name" not in table:
        raise SettingsError(f'scheduler={table!r} has no "name". Write it as {{"name": "StepLR", "step_size": 10}}.')
    name = table["name"]
    if isinstance(name, str):
        names = schedulers()
        if name not in names:
            plain = {known.lower().removesuffix("lr"): known for known in names} | {known.lower(): known for known in names}
            near = difflib.get_close_matches(name.lower().removesuffix("lr"), plain, n=1, cutoff=0.4)
            hint = f' Did you mean "{plain[near[0]]}"?' if near else ""
            raise SettingsError(f'scheduler="{name}" is none of torch.optim.lr_scheduler.{hint} There are: {", ".join(names)}.')
        table["name"] = getattr(lr_scheduler, name)
    elif not callable(name):
        hint = " It belongs to an optimizer from before the run." if isinstance(name, lr_scheduler.LRScheduler) else ""
        raise SettingsError(f"scheduler={name!r} cannot be used.{hint} Give a torch name, a class with its arguments, or a function scheduler(optimizer).")
    return table


def schedulers() -> list[str]:
    """The names of torch.optim.lr_scheduler's schedulers, its base class left out."""
    base = lr_scheduler.LRScheduler
    return [name for name, value in vars(lr_scheduler).items() if inspect.isclass(value) and issubclass(value, base) and value is not base and name[0] != "_"]


def _label(made_by: Any) -> str:
    return getattr(made_by, "__name__", type(made_by).__name__)


def _every(table: dict[str, Any], optimizer: Any) -> str:
    """When a scheduler moves: its "every", or what its kind asks for. A function is called once to see what it makes."""
    cls: Any = table["name"]
    every = table.pop("every", None)
    if not inspect.isclass(cls):
        one = _each(optimizer)[0]
        before = _options([one])
        try:
            made = cls(one, **{key: value for key, value in table.items() if key not in ("name", "epochs", "steps")})
        except TypeError as error:
            raise SettingsError(
                f"scheduler: the function {_label(cls)} failed on the optimizer: {error}. It is called as scheduler(optimizer) and returns a scheduler; "
                'a function of the epoch goes into {"name": "LambdaLR", "lr_lambda": function}.'
            ) from error
        cls = type(made)
        _set_options([one], before)
    if issubclass(cls, lr_scheduler.ReduceLROnPlateau):
        if every not in (None, "validation"):
            raise SettingsError(f'scheduler: ReduceLROnPlateau looks at a validation, so "every": {every!r} cannot be. Leave it out.')
        return "validation"
    if every is None:
        return "step" if issubclass(cls, _PER_STEP) else "epoch"
    if every not in ("step", "epoch"):
        raise SettingsError(f'scheduler: "every": {every!r} must be "step" or "epoch".')
    return every


def _length(table: dict[str, Any], unit: str, steps_per_epoch: int, last: bool) -> int | None:
    """How many ticks a part lasts: its "epochs" or "steps". OneCycleLR's own `epochs` means the same and is read here too."""
    name, length_epochs, length_steps = _label(table["name"]), table.pop("epochs", None), table.pop("steps", None)
    if length_epochs is not None and length_steps is not None:
        raise SettingsError(f'scheduler: {name} has both "epochs" and "steps". Leave one of them out.')
    if length_steps is not None and unit != "step":
        raise SettingsError(f'scheduler: {name} lasts {length_steps} steps, but moves once an epoch. Add "every": "step", or give its "epochs".')
    if length_epochs is None and length_steps is None:
        if not last:
            raise SettingsError(f'scheduler: {name} is followed by another, so it must say how long it lasts: "epochs": 2, or "steps": 500.')
        return None
    table.pop("steps_per_epoch", None)
    given: Any = length_epochs if length_steps is None else length_steps
    valid = isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
    length = given * (steps_per_epoch if length_steps is None and unit == "step" else 1) if valid else 0
    if round(length) < 1 or (unit == "epoch" and length != round(length)):
        raise SettingsError(f"scheduler: {name} cannot last {given!r} {'steps' if length_steps is not None else 'epochs'}.")
    return round(length)


def _builder(table: dict[str, Any], moves: int, optimizer: Any, mode: str | None, bounded: bool = False) -> tuple[Callable[[Optimizer], Any], dict[str, Any]]:
    """(build(optimizer) -> scheduler, what was filled in)."""
    arguments = dict(table)
    made_by: Any = arguments.pop("name")
    name = _label(made_by)
    if not inspect.isclass(made_by):

        def build_by_function(one: Optimizer) -> Any:
            scheduler = made_by(one, **arguments)
            if not callable(getattr(scheduler, "step", None)):
                raise SettingsError(f"scheduler: the function {name} returned {type(scheduler).__name__}, which has no step(). Return a scheduler.")
            return scheduler

        return build_by_function, {}
    construct: Any = made_by
    accepted = inspect.signature(construct).parameters
    nested = [_builder(_nested(one), moves, optimizer, mode) for one in arguments.pop("schedulers", [])]
    filled: dict[str, Any] = {}
    if not (made_by is lr_scheduler.ConstantLR and not bounded):  # constant to the end of the run would be another rate and no schedule: torch's 5 stands
        filled |= {key: moves for key in ("T_max", "total_iters", "total_steps") if key in accepted and key not in arguments}
    if mode is not None and issubclass(made_by, lr_scheduler.ReduceLROnPlateau) and "mode" not in arguments:
        filled["mode"] = mode
    _check_names(name, arguments, {key: value for key, value in accepted.items() if key not in ("optimizer", "last_epoch")}, "scheduler")
    wants_rate = "max_lr" in accepted and "max_lr" not in arguments
    may_cycle = "cycle_momentum" in accepted and "cycle_momentum" not in arguments

    def build(one: Optimizer) -> Any:
        extra = dict(filled)
        if wants_rate:
            extra["max_lr"] = [float(group["lr"]) for group in one.param_groups]
        if may_cycle and not _has_momentum(one):
            extra["cycle_momentum"] = False  # torch refuses its own default here
        if nested:
            extra["schedulers"] = [inner(one) for inner, _ in nested]
        try:
            return construct(optimizer=one, **(extra | arguments))
        except (TypeError, ValueError) as error:
            takes = ", ".join(key for key in accepted if key not in ("optimizer", "last_epoch"))
            raise SettingsError(f"{name} cannot be built with {extra | arguments}: {error}. It takes: {takes}.") from error

    shown = filled | ({"max_lr": [float(group["lr"]) for one in _each(optimizer) for group in one.param_groups]} if wants_rate else {})
    if may_cycle and not all(map(_has_momentum, _each(optimizer))):
        shown["cycle_momentum"] = False
    for _, inner_filled in nested:
        shown |= inner_filled
    return build, shown


def _has_momentum(optimizer: Optimizer) -> bool:
    return "momentum" in optimizer.defaults or "betas" in optimizer.defaults


def _nested(spec: Any) -> dict[str, Any]:
    table = _table(spec)
    for key in ("every", "epochs", "steps"):
        if key in table:
            raise SettingsError(
                f'scheduler: "{key}" stands inside ChainedScheduler or SequentialLR, whose parts move together. Use a list of schedulers instead.'
            )
    return table


def _each(optimizer: Any) -> list[Optimizer]:
    return list(optimizer.named.values()) if isinstance(optimizer, Optimizers) else [optimizer]


def _options(optimizers: Sequence[Optimizer]) -> list[list[dict[str, Any]]]:
    """A copy of all options of all parameter groups."""
    return [
        [{key: value.clone() if isinstance(value, Tensor) else value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        for optimizer in optimizers
    ]


def _set_options(optimizers: Sequence[Optimizer], options: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Give all parameter groups exactly these options. A rate that is a tensor stays the same tensor: a captured step holds on to it."""
    for optimizer, saved in zip(optimizers, options):
        for group, values in zip(optimizer.param_groups, saved):
            for key in [key for key in group if key != "params" and key not in values]:
                del group[key]
            for key, value in values.items():
                if isinstance(value, Tensor) and isinstance(group.get(key), Tensor):
                    group[key].copy_(value)
                else:
                    group[key] = value.clone() if isinstance(value, Tensor) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one == other


def _read_moves(state: Any) -> tuple[int, list[tuple[int, float]]]:
    if not isinstance(state, Mapping) or set(state) != {"steps", "metrics"} or type(state["steps"]) is not int or not isinstance(state["metrics"], list):
        raise ArtifactError("The state of a schedule must hold steps (a whole number) and metrics (a list).")
    metrics, before = [], 0
    for entry in state["metrics"]:
        if not isinstance(entry, list) or len(entry) != 2 or type(entry[0]) is not int or not before <= entry[0] <= state["steps"]:
            raise ArtifactError("The metrics of a schedule must be pairs [steps before, value], in order.")
        before = entry[0]
        metrics.append((before, _number_from_json(entry[1])))
    if state["steps"] < 0:
        raise ArtifactError(f"A schedule cannot have moved {state['steps']} times.")
    return state["steps"], metrics


# -- state through JSON ----------------------------------------------------------------------------------------------------------------------------------------


def split_state(state: Any) -> tuple[dict[str, Tensor], Any]:
    """An optimizer's `state_dict()` (or any nest of dicts, lists, tuples, numbers, text and tensors) as (tensors by name, JSON with everything else).

    `join_state` gives it back to the bit, with every type: integer keys, tuples, infinities. The tensors are contiguous, and live where they are not copied for
    that: write them before the next step. Raises SettingsError for what neither part can hold.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _encode(state, "", tensors)


def join_state(tensors: Mapping[str, Tensor], entry: Any) -> Any:
    """The state that `split_state` took apart, in tensors of its own. Raises ArtifactError for anything that `split_state` does not write."""
    used: set[str] = set()
    state = _decode(entry, tensors, used)
    if used != set(tensors):
        raise ArtifactError(f"The saved state holds tensors that nothing refers to: {_some(sorted(set(tensors) - used))}.")
    return state


def restore_optimizer(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Load a state so that the next step has the bits it would have had. Raises ArtifactError where it belongs to other parameters.

    torch's own `load_state_dict` casts all state to the parameter's dtype: ASGD's eta and NAdam's mu_product, float32 beside float64 or bfloat16 weights, then
    go on in another precision. Here every tensor keeps the dtype it was saved with.
    """
    if isinstance(optimizer, Optimizers):
        if not isinstance(state, Mapping) or set(state) != set(optimizer.named):
            raise ArtifactError(f"The saved state is of other optimizers than this run's {sorted(optimizer.named)}.")
        for name, one in optimizer.named.items():
            restore_optimizer(one, state[name])
        return
    if not isinstance(optimizer, Optimizer):
        optimizer.load_state_dict(state)  # the user's own: it knows its state
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        indices = [index for group in state["param_groups"] for index in group["params"]]
        fused = any(group.get("fused") for group in (*state["param_groups"], *optimizer.param_groups))
        for index, parameter in zip(indices, parameters):
            for key, value in state["state"].get(index, {}).items():
                if fused and isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:  # a fused kernel would read beyond its end
                    raise ValueError(f"{key} of parameter {index} has the shape {tuple(value.shape)}, the parameter {tuple(parameter.shape)}")
        optimizer.load_state_dict(state)  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ArtifactError(f"The saved state does not fit this {type(optimizer).__name__}: {error}. Was the model or the optimizer changed since?") from error
    for index, parameter in zip(indices, parameters):
        if index in state["state"]:
            loaded = optimizer.state[parameter]
            for key, value in state["state"][index].items():
                loaded[key] = _with_dtype(value, loaded[key])


def _with_dtype(saved: Any, loaded: Any) -> Any:
    if isinstance(saved, Tensor) and isinstance(loaded, Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device, copy=True)
    if isinstance(saved, list) and isinstance(loaded, list):
        return list(map(_with_dtype, saved, loaded))
    return loaded


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return _number_to_json(float(value))
    if isinstance(value, Tensor):
        return _encode_tensor(value, path, tensors)
    if isinstance(value, dict):
        return {"dict": [[_encode(key, path, tensors), _encode(item, f"{path}.{key}" if path else str(key), tensors)] for key, item in value.items()]}
    if isinstance(value, list):
        return [_encode(item, f"{path}.{position}" if path else str(position), tensors) for position, item in enumerate(value)]
    if type(value) in (tuple, torch.Size):
        return {"tuple": _encode(list(value), path, tensors)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, int):  # an enumeration
        return int(value)
    if callable(getattr(value, "item", None)):  # numpy's numbers
        return _encode(value.item(), path, tensors)
    raise SettingsError(
        f"The optimizer keeps {type(value).__name__} in its state ({path}), which cannot be saved without pickle. Keep numbers, text, lists, tuples, dicts and tensors."
    )


def _encode_tensor(value: Tensor, path: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if value.layout is not torch.strided or value.is_quantized:
        raise SettingsError(f"The optimizer keeps a {value.layout} tensor in its state ({path}), which cannot be saved. Keep it dense.")
    name, count = path or "value", 1
    while name in tensors:
        name, count = f"{path}#{count}", count + 1
    value = value.detach()
    entry: dict[str, Any] = {"tensor": name}
    if not value.is_contiguous() and value.clone().stride() == value.stride():
        # channels_last momentum: a fused kernel walks weights and state in memory order, so a contiguous state would be applied to the wrong weights.
        entry["stride"] = list(value.stride())
    value = value.contiguous()
    tensors[name] = value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
    return entry


def _decode(entry: Any, tensors: Mapping[str, Tensor], used: set[str]) -> Any:
    if entry is None or type(entry) in (bool, int, float, str):
        return entry
    if isinstance(entry, list):
        return [_decode(item, tensors, used) for item in entry]
    if isinstance(entry, dict):
        match entry:
            case {"dict": list(pairs)} if len(entry) == 1 and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                decoded = [(_decode(key, tensors, used), _decode(item, tensors, used)) for key, item in pairs]
                if all(key is None or type(key) in (bool, int, float, str, tuple) for key, _ in decoded) and len({key for key, _ in decoded}) == len(decoded):
                    return dict(decoded)
            case {"tuple": list(items)} if len(entry) == 1:
                return tuple(_decode(item, tensors, used) for item in items)
            case {"float": str()} if len(entry) == 1:
                return _number_from_json(entry)
            case {"dtype": str(name)} if len(entry) == 1 and isinstance(getattr(torch, name, None), torch.dtype):
                return getattr(torch, name)
            case {"tensor": str(name)} if set(entry) <= {"tensor", "stride"} and name in tensors:
                used.add(name)
                return _decode_tensor(tensors[name], entry.get("stride"))
    text = repr(entry)
    raise ArtifactError(f"The saved state holds something that is no state: {text if len(text) <= 100 else text[:97] + '...'}")


def _decode_tensor(tensor: Tensor, stride: Any) -> Tensor:
    if stride is None:
        return tensor.clone()
    fits = isinstance(stride, list) and len(stride) == tensor.dim() and all(type(step) is int and step > 0 for step in stride)
    # The strides of a dense tensor span exactly its elements; anything else would allocate what a hostile file asks for.
    if not fits or sum((size - 1) * step for size, step in zip(tensor.shape, stride)) + 1 != tensor.numel():
        raise ArtifactError(f"The strides {stride!r} do not belong to a tensor of shape {tuple(tensor.shape)}.")
    return torch.empty_strided(tuple(tensor.shape), stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _number_to_json(value: float) -> Any:
    """JSON has no infinities and no NaN; Python writes every other float so that it comes back to the bit."""
    return value if math.isfinite(value) else {"float": str(value)}


def _number_from_json(entry: Any) -> float:
    if type(entry) in (float, int):
        return float(entry)
    if isinstance(entry, dict) and entry.keys() == {"float"} and entry["float"] in ("nan", "inf", "-inf"):
        return float(entry["float"])
    raise ArtifactError(f"{entry!r} is no number.")
