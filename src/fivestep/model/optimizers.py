"""Optimizers and parameter groups from plain arguments. Kernel: imports only torch, stdlib, `errors`.

Enters: a torch name, a class, a table, a function, or a table of name patterns. Leaves: torch's own optimizer with `.recorded` (the exact constructor arguments),
`.said` (what was chosen, in words) and `.needs_closure`; several of them as `Optimizers`. The decision that shaped it: what is left open is chosen by a table with
its reasons (`RATES`) and recorded, so that a hand-written loop can be given the same.
"""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fivestep.errors import ArtifactError, SettingsError
from fivestep.quoting import listed

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
        optimizer.said.append(f"optimizer: your function leaves out {listed(left)}, which stay as they are.")
    return optimizer


def trainable(model: nn.Module, loss: Any = None) -> Named:
    """The parameters that are not frozen, by name, each once; those of a loss that has its own as `loss:name`. Raises SettingsError where there are none."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    known = {id(parameter) for _, parameter in named}
    if isinstance(loss, nn.Module):
        named += [(f"loss:{name}", parameter) for name, parameter in loss.named_parameters() if parameter.requires_grad and id(parameter) not in known]
    lazy = [name for name, parameter in named if isinstance(parameter, nn.parameter.UninitializedParameter)]
    if lazy:
        raise SettingsError(f"The parameters {listed(lazy)} have no shape yet (a lazy module). Run the model once on a batch before training it.")
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
            raise SettingsError(
                f"optimizer: all that {pattern!r} matches ({listed(sorted(matching))}) was taken by the patterns before it. Put it before them."
            )
        left = [(name, parameter) for name, parameter in left if name not in matching]
        kind, arguments = _read("AdamW" if spec is None or spec == "auto" else spec)
        if not isinstance(kind, str) and not inspect.isclass(kind):
            raise SettingsError(f"optimizer: {pattern!r} has a function, which would get the whole model. Give a name or a class for a part of it.")
        made[pattern] = _single(kind, arguments, mine, named, model, None if "lr" in arguments else rate, groups, device)
    if left:
        names = [name for name, _ in left]
        raise SettingsError(
            f'optimizer: no pattern takes {listed(names)}, which would stay untrained. Add "*": "AdamW" at the end, or freeze them: freeze={names[:3]!r}.'
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
        f"optimizer: Muon takes the {len(matrices)} hidden matrices ({listed([name for name, _ in matrices])}), AdamW the rest ({listed([name for name, _ in rest])})."
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
    check_names(label, arguments, accepted, "optimizer")
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
            f"SparseAdam {SPECIAL['SparseAdam']}, and {listed(dense)} have dense ones. Give it the embeddings alone: "
            f'{{"{given_sparse[0] if given_sparse else "embedding"}": "SparseAdam", "*": "AdamW"}}.'
        )
    if given_sparse and label not in _SPARSE_ABLE:
        raise SettingsError(
            f'{label} cannot take the sparse gradients of {listed(given_sparse)} (sparse=True). Use {{"{given_sparse[0]}": "SparseAdam", "*": "{label}"}}, '
            f"or build the embedding with sparse=False."
        )
    if label == "Muon":
        wrong = [f"{name} {tuple(parameter.shape)}" for name, parameter in mine if parameter.dim() != 2]
        if wrong:
            raise SettingsError(
                f'Muon takes matrices only, and these are none: {listed(wrong)}. Give it matrices by pattern: {{"body.*.weight": "Muon", "*": "AdamW"}}.'
            )


def _grouped(label: str, mine: Named, model: nn.Module, groups: dict[str, Any], accepted: Any) -> list[tuple[dict[str, Any], Named]]:
    """(options, parameters) of each parameter group: those of `groups` in order, first match wins, then the rest."""
    left, split = list(mine), []
    for pattern, options in groups.items():
        if not isinstance(options, Mapping) or not options:
            raise SettingsError(f'groups: {pattern!r} needs a table of options, for example {{"{pattern}": {{"lr": 1e-5}}}}; it has {options!r}.')
        check_names(label, options, accepted, f"groups[{pattern!r}]")
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
            raise SettingsError(f"{setting}: {pattern!r} matches only frozen parameters ({listed(frozen)}). Leave it out, or do not freeze them.")
        modules = [name for name, _ in model.named_modules() if name]
        near = difflib.get_close_matches(pattern, every + modules, n=3, cutoff=0.4)
        hint = f" Near are: {', '.join(near)}." if near else f" There are: {listed(every)}."
        note = "" if any(sign in pattern for sign in "*?[") else " A name without * is a submodule or a parameter."
        raise SettingsError(f"{setting}: {pattern!r} matches no parameter of the model.{hint}{note}")
    return found


def check_names(label: str, arguments: Mapping[str, Any], accepted: Any, setting: str) -> None:
    """An argument the constructor does not have; torch keeps unknown options of a group without a word."""
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values()):
        return
    known = [name for name in accepted if name != "params"]
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            raise SettingsError(f"{setting}: {label} has no argument {name!r}.{hint} It takes: {', '.join(known)}.")
