"""Rules on parameters (letter M): which are registered, which a gradient reaches, which share or repeat their values, how large they begin.

All of them run copies. Where a rule asks "does it stay so?", the copy has been trained for five steps: a zero-initialised last layer is no mistake.
"""

from __future__ import annotations

import math
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.recording import tensors_in
from fivestep.checks.rules import Rule
from fivestep.checks.subject import Subject

REGISTRIES = (
    "_parameters",
    "_buffers",
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def hidden_parts(model: nn.Module) -> list[tuple[str, Any]]:
    """Modules and trainable tensors that stand in plain attributes, lists, dicts or helper objects, so that `parameters()` does not see them."""
    known = {id(parameter) for parameter in model.parameters()} | {id(buffer) for buffer in model.buffers()}
    modules = {id(module) for module in model.modules()}
    found: list[tuple[str, Any]] = []

    def look(value: Any, path: str, depth: int) -> None:
        if isinstance(value, nn.Module):
            fresh = [parameter for parameter in value.parameters() if parameter.requires_grad and id(parameter) not in known]
            if id(value) not in modules and fresh:
                found.append((path, value))
        elif isinstance(value, Tensor):
            if value.requires_grad and value.is_leaf and id(value) not in known:
                found.append((path, value))
        elif depth > 0 and isinstance(value, (list, tuple, set)):
            for number, item in enumerate(value):
                look(item, f"{path}[{number}]", depth - 1)
        elif depth > 0 and isinstance(value, dict):
            for key, item in value.items():
                look(item, f"{path}[{key!r}]", depth - 1)
        elif (
            depth > 0
            and hasattr(value, "__dict__")
            and type(value).__module__ not in ("builtins", "torch")
            and not isinstance(value, type)
            and not callable(value)
        ):
            for key, item in vars(value).items():
                look(item, f"{path}.{key}", depth - 1)

    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key not in REGISTRIES:
                look(value, f"{name}.{key}" if name else key, 3)
    return found


def rule_m02(subject: Subject, probe: Probe) -> Finding | None:
    """A module or a trainable tensor that is not registered. Frozen ones (a teacher) are meant."""
    found = hidden_parts(subject.model)
    if not found:
        return None
    names = [path for path, _ in found]
    return Finding(
        "M02", "warning", f"{len(found)} part(s) of the model are not registered: {', '.join(names[:4])}.", {"parts": names[:20]},
        "parameters() and state_dict() do not see them: they are never trained, moved to a device or saved.",
        "Put modules into nn.ModuleList or nn.ModuleDict, tensors into nn.Parameter (or register_buffer).",
    )  # fmt: skip


def rule_m04(subject: Subject, probe: Probe) -> list[Finding] | None:
    """Trainable parameters that no gradient reaches in seven batches: their layer is never called (M13), or the graph is cut (M04)."""
    gradients = probe.gradients
    if gradients.batches == 0:
        return None
    named = {name: parameter for name, parameter in subject.model.named_parameters() if parameter.requires_grad}
    missing = [name for name in named if name not in gradients.reached]
    if not missing:
        return None
    # A module counts as used where it fired, or a weight of its own did something in a plain function (then the graph is cut behind it).
    used = used_parameters(probe)
    # A recurrent layer with one time step, an attention bias: only whole modules without any gradient count.
    silent: list[str] = []
    cut: list[str] = []
    for name in missing:
        owner = name.rsplit(".", 1)[0] if "." in name else ""
        if owner and isinstance(subject.model.get_submodule(owner), (nn.ParameterDict, nn.ParameterList)):
            owner = ""  # A container is no layer: it may hold the weights of several, and one that learns does not excuse the others.
        siblings = [other for other in named if (other.rsplit(".", 1)[0] if "." in other else "") == owner]
        if owner and any(other in gradients.reached for other in siblings):
            continue
        (cut if (owner and owner in gradients.fired) or name in used else silent).append(name)
    found = []
    if silent:
        used_parts = {name.split(".")[0] for name in gradients.reached}
        layers = [part for part in dict.fromkeys(name.split(".")[0] for name in silent if "." in name) if part not in used_parts]
        call = f"Call {', '.join(f'self.{layer}' for layer in layers[:4])} in forward, or take it out." if layers else "Use them in forward, or take them out."
        found.append(Finding(
            "M13", "warning", f"{len(silent)} parameters are never used in forward: {', '.join(silent[:4])}.", {"parameters": silent[:20], "batches": gradients.batches},
            "The model is smaller than it looks: these layers stay as they were initialised.", call,
        ))  # fmt: skip
    if cut:
        found.append(Finding(
            "M04", "warning", f"No gradient reaches {len(cut)} of {len(named)} trainable parameters in {gradients.batches} batches: {', '.join(cut[:4])}.", {"parameters": cut[:20], "batches": gradients.batches},
            "They never learn: something between them and the loss cuts the graph (.detach(), .data, .numpy(), no_grad, argmax, a comparison).",
            "Keep that path differentiable, or freeze these parameters if that is meant.",
        ))  # fmt: skip
    return found


def used_parameters(probe: Probe) -> set[str]:
    """Names of parameters that stand as an argument of a recorded call in a forward in train mode."""
    names = probe.training.names
    return {names[id(tensor)] for call in probe.training.calls for tensor in tensors_in([list(call.args), call.kwargs]) if id(tensor) in names}


def rule_m05(subject: Subject, probe: Probe) -> Finding | None:
    """A gradient of exactly zero in every batch, for every entry of a parameter, also after five steps."""
    gradients = probe.gradients
    zero = [name for name in gradients.reached if name not in gradients.nonzero]
    if not zero or probe.after_five_steps is None:
        return None
    moved = dict(probe.after_five_steps.named_parameters())
    original = dict(subject.model.named_parameters())
    zero = [name for name in zero if original[name].numel() and torch.equal(moved[name].detach().cpu(), original[name].detach().cpu())]
    # A bias can cancel (before a difference, before a norm) beside a weight that learns: only where a whole module is still does it mean something.
    alive = {name.rpartition(".")[0] for name in gradients.nonzero}
    zero = [name for name in zero if name.rpartition(".")[0] not in alive or not name.rpartition(".")[0]]
    if not zero:
        return None
    return Finding(
        "M05", "warning", f"The gradient of {len(zero)} parameters is exactly zero in {gradients.batches} batches and after five steps: {', '.join(sorted(zero)[:4])}.",
        {"parameters": sorted(zero)[:20]}, "They never move: units behind them are dead, masked or multiplied by zero.", "Look at what follows these layers in forward: sign, round, a comparison or clamp has no slope (tanh or sigmoid has one), a factor that starts at 0 and a dead ReLU pass none on.",
    )  # fmt: skip


def rule_m14(subject: Subject, probe: Probe) -> Finding | None:
    """One module with parameters stands twice in a ModuleList, ModuleDict or Sequential. A shared encoder under two names is meant."""
    for name, module in subject.model.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential, nn.ModuleDict)):
            continue
        children = [child for child in module._modules.values() if child is not None and next(child.parameters(), None) is not None]
        repeated = len(children) - len({id(child) for child in children})
        if repeated:
            return Finding(
                "M14", "warning", f"{name or 'the model'} holds {len(children)} layers, {repeated + 1} of which are one and the same object.", {"container": name, "layers": len(children), "repeated": repeated + 1},
                "They share all weights: several heads give one answer, depth adds nothing.", "Make each: nn.ModuleList([nn.Linear(a, b) for _ in range(n)]), not [layer] * n.",
            )  # fmt: skip
    return None


def rows_equal(weight: Tensor) -> bool:
    """Whether all rows of a weight are one row (to a millionth of its size)."""
    rows = weight.detach().reshape(len(weight), -1)
    return bool((rows - rows[:1]).abs().max() <= 1e-6 * max(float(rows.abs().max()), 1e-12) + 1e-12)


def rule_m15(subject: Subject, probe: Probe) -> Finding | None:
    """A weight before the last whose rows are all equal (or zero, and still after five steps): its units are clones."""
    named = {name: parameter for name, parameter in subject.model.named_parameters() if parameter.requires_grad and parameter.dim() >= 2 and len(parameter) > 2}
    suspects = [name for name, parameter in named.items() if rows_equal(parameter)]
    if not suspects or probe.after_five_steps is None:
        return None
    moved = dict(probe.after_five_steps.named_parameters())
    gradients = probe.gradients
    last = [name for name, parameter in subject.model.named_parameters() if parameter.dim() >= 2][-1]
    # Equal rows that are not zero pass on equal gradients but for the biases; zeros may be a residual branch or a head that starts at zero.
    constant = [name for name in suspects if name != last and float(named[name].detach().abs().max()) > 0 and named[name][0].numel() > 1]
    stuck = [name for name in suspects if (name in constant or rows_equal(moved[name])) and name in gradients.reached]
    if not stuck:
        return None
    zero = all(float(named[name].detach().abs().max()) == 0 for name in stuck)
    return Finding(
        "M15", "warning", f"All rows of {', '.join(stuck[:4])} are {'zero, and still are after five steps' if zero else 'equal'}.", {"parameters": stuck[:20]},
        "Every unit of such a layer computes the same and gets the same gradient: a layer of any width is one unit wide.",
        "Leave the default initialisation, or draw it at random; zero is right for the last layer only.",
    )  # fmt: skip


def rule_m16(subject: Subject, probe: Probe) -> Finding | None:
    """A first loss above six times that of guessing: cross-entropy over 6 log C, binary over 6 log 2."""
    if not probe.has_loss or subject.fine_tuned:
        return None
    for call in probe.loss_calls("cross_entropy", "binary_cross_entropy_with_logits"):
        value = call.result
        logits, target = call.input, call.get("target", 1)
        if not isinstance(value, Tensor) or not isinstance(logits, Tensor):
            continue
        if call.get("reduction", 5, "mean") == "sum":
            value = value / max(1, target.numel())
        if call.name == "cross_entropy":
            chance = math.log(max(2, logits.shape[1] if logits.dim() > 1 else logits.shape[0]))
        else:
            chance = math.log(2)
            if float(target.min()) < 0 or float(target.max()) > 1:
                continue
        first = float(value.detach().mean())
        if first > 6 * chance:
            seen, fix = what_is_too_large(subject, probe)
            return Finding(
                "M16", "warning", f"The first loss is {first:.4g}; guessing costs {chance:.3g}. The outputs (logits) spread by {float(logits.detach().std()):.3g} where about 1 is usual{seen}.",
                {"loss": first, "guessing": chance, "deviation": float(logits.detach().std())},
                "The model is sure and wrong before it has learnt anything: most of the run goes into shrinking it, and softmax or sigmoid pass hardly any gradient.", fix,
            )  # fmt: skip
    target, output = probe.train.target, probe.training.output
    if probe.loss_family == "distance" and target is not None and output is not None and target.is_floating_point() and target[0].numel() == output[0].numel():
        spread, reach = float(target.detach().double().std()), float(output.detach().double().std())
        # A default network's outputs have a third of the inputs' spread. Thirty times the targets' is a first squared error of a thousand times their variance.
        if 0 < 30 * max(spread, float(target.detach().double().abs().mean())) < reach:
            seen, fix = what_is_too_large(subject, probe)
            return Finding(
                "M16", "warning", f"The outputs start with a deviation of {reach:.4g}; the targets have {spread:.3g}{seen}.", {"outputs": reach, "targets": spread},
                "The first loss is a thousand times that of guessing: training first has to shrink the weights.", fix,
            )  # fmt: skip
    return None


def what_is_too_large(subject: Subject, probe: Probe) -> tuple[str, str]:
    """Which weight (or the inputs) makes the outputs too large, as the end of a sentence, and what to write in its place."""
    large = []
    tables = {id(module.weight) for module in subject.model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))}  # they start with a spread of 1
    for name, parameter in subject.model.named_parameters():
        if parameter.dim() >= 2 and parameter.numel() > 1 and id(parameter) not in tables:
            usual = parameter[0].numel() ** -0.5  # keeps the spread of what goes through; torch's own start is smaller
            large.append((float(parameter.detach().float().std()) / usual, name, usual, float(parameter.detach().float().std())))
    factor, name, usual, spread = max(large, default=(0.0, "", 0.0, 0.0))
    if factor > 3:
        return (
            f"; the weight {name} has a standard deviation of {spread:.3g}, {factor:.0f} times that which keeps the size of what goes through it",
            f"Leave out the line that fills {name} (torch's own start is right), or give it std={usual:.2g}: nn.init.normal_(..., std={usual:.2g}).",
        )
    entering = next((tensor for tensor in tensors_in(probe.batch[0]) if tensor.is_floating_point()), None)
    if entering is not None and float(entering.std()) > 5:
        return (
            f"; the inputs have a deviation of {float(entering.std()):.3g}",
            "Scale the inputs to a spread near 1: (x - mean) / deviation with those of the training rows, as Data.table does.",
        )
    return (
        "",
        "Divide what forward returns by that spread, or put a norm before the last layer (nn.LayerNorm); look for a factor or a sum over many terms in forward.",
    )


def rule_m17(subject: Subject, probe: Probe) -> Finding | None:
    """The gradient of the first weight layer is under 1e-4 of the last one's, with four weights and more."""
    order: list[str] = []
    weights = {name for name, parameter in subject.model.named_parameters() if parameter.requires_grad and parameter.dim() >= 2}
    names = {place: name for place, name in probe.training.names.items() if name in weights}
    for call in probe.training.calls:
        for tensor in tensors_in([list(call.args), call.kwargs]):
            if id(tensor) in names and names[id(tensor)] not in order and call.name != "embedding":
                order.append(names[id(tensor)])
    norms = [float(numpy.median(probe.gradients.norms[name])) for name in order if probe.gradients.norms.get(name)]
    if len(norms) < 4 or norms[0] == 0 or norms[-1] == 0:
        return None
    ratio = norms[0] / norms[-1]
    if ratio < 1e-4:
        return Finding(
            "M17", "warning", f"The gradient of {order[0]} has norm {norms[0]:.2g}, that of {order[-1]} {norms[-1]:.2g}: {ratio:.1g} of it.", {"first": norms[0], "last": norms[-1], "ratio": ratio},
            "The first layers do not move: depth costs time and learns nothing.", "Use ReLU or GELU in place of sigmoid, residual connections, or a norm layer between.",
        )  # fmt: skip
    return None


READ: tuple[Rule, ...] = (rule_m02, rule_m14)
ASKED: tuple[Rule, ...] = (rule_m04, rule_m16, rule_m17, rule_m15, rule_m05)
