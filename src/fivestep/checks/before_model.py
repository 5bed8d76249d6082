"""Rules on the model (letter M) and its first activations (T10): what is registered, what is reached, what mixes rows, what cannot vary.

All of them run copies. Where a rule asks "does it stay so?", the copy has been trained for five steps: a zero-initialised last layer is no mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.checks.before_data import first_weighted_input, named_column
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe, copy_together
from fivestep.checks.recording import RELUS, WEIGHT_OPERATIONS, Call, tensors_in, through_constants, weight_depth
from fivestep.checks.subject import Subject, select
from fivestep.data.batches import map_tensors
from fivestep.train.loop import forward

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


RANDOM = ("randn", "rand", "randn_like", "rand_like", "normal", "normal_", "bernoulli", "bernoulli_", "multinomial", "randint", "randperm", "gumbel_softmax")
DROPOUTS = ("dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")


def difference(first: Tensor, second: Tensor) -> float:
    """The largest difference, relative to the outputs' size."""
    if first.shape != second.shape:
        return math.inf
    size = max(float(first.detach().abs().nan_to_num().max()), 1e-6) if first.numel() else 1.0
    return float((first.detach() - second.detach()).abs().nan_to_num().max()) / size if first.numel() else 0.0


def rule_m03(subject: Subject, probe: Probe) -> list[Finding] | Finding | None:
    """In eval mode the same input gives another output: new layers in forward (M03), dropout or noise that ignores eval (M28), kept state (M30)."""
    model = probe.fresh().eval()
    inputs = select(probe.batch[0], torch.arange(min(32, len(next(tensors_in(probe.batch[0]))))))
    other = map_tensors(lambda tensor: tensor.flip(0), inputs)
    with seeds.restored(21):
        first = probe.run(model, map_tensors(lambda tensor: tensor.clone(), inputs))
    outputs = [first.output] if first.output is not None else []
    if not outputs or first.output is None:
        return None
    with seeds.restored(22):
        second = probe.outputs(model, inputs)
    with seeds.restored(23):
        probe.outputs(model, map_tensors(lambda tensor: tensor * 1.5 if tensor.is_floating_point() else tensor, other))
    with seeds.restored(21):
        third = probe.outputs(model, inputs)
    by_seed, by_history = difference(first.output, second), difference(first.output, third)
    if by_history > 1e-5:
        return Finding(
            "M30", "warning", f"In eval mode the same rows give other outputs after another batch has passed (difference {by_history:.2g} of their size).", {"difference": by_history},
            "Hidden state is kept between batches: a prediction depends on what was asked before.",
            "Start from a fresh state in each forward (h0 = None), or detach and reset it per batch.",
        )  # fmt: skip
    if by_seed <= 1e-5:
        return None
    dropped = [call for call in first.calls if call.name in DROPOUTS and call.get("training", 2, call.module == "torch.nn.functional")]
    made = [call for call in first.calls if call.module == "torch.nn.init" or call.name in ("uniform_", "trunc_normal_", "orthogonal_")]
    if made:
        return Finding(
            "M03", "warning", f"In eval mode the same rows give other outputs at each call (difference {by_seed:.2g}), and forward initialises new weights.", {"difference": by_seed},
            "A layer made in forward is random at every call, is never trained and never saved.", "Make it once in __init__ and call it in forward.",
        )  # fmt: skip
    if dropped:
        return Finding(
            "M28", "warning", f"Dropout is active in eval mode ({len(dropped)} call(s)): the same rows give other outputs (difference {by_seed:.2g}).", {"difference": by_seed},
            "Predictions are random and worse than the model is.", "F.dropout(x, p, training=self.training), or nn.Dropout.",
        )  # fmt: skip
    several = not isinstance(first.outputs, Tensor)
    return Finding(
        "M28", "note" if several else "warning", f"In eval mode the same rows give other outputs at each call (difference {by_seed:.2g}).", {"difference": by_seed},
        "Predictions are random." if not several else "A sampler by design (a variational model) predicts at random.",
        "Draw noise only where self.training is true; make what forward multiplies with (torch.randn, nn.Linear) once, in __init__.",
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
        found.append(Finding(
            "M13", "warning", f"{len(silent)} parameters are never used in forward: {', '.join(silent[:4])}.", {"parameters": silent[:20], "batches": gradients.batches},
            "The model is smaller than it looks: these layers stay as they were initialised.", "Call them in forward, or remove them.",
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
    zero = [name for name in zero if torch.equal(moved[name].detach().cpu(), original[name].detach().cpu())]
    # A bias can cancel (before a difference, before a norm) beside a weight that learns: only where a whole module is still does it mean something.
    alive = {name.rpartition(".")[0] for name in gradients.nonzero}
    zero = [name for name in zero if name.rpartition(".")[0] not in alive or not name.rpartition(".")[0]]
    if not zero:
        return None
    return Finding(
        "M05", "warning", f"The gradient of {len(zero)} parameters is exactly zero in {gradients.batches} batches and after five steps: {', '.join(sorted(zero)[:4])}.",
        {"parameters": sorted(zero)[:20]}, "They never move: units behind them are dead, masked or multiplied by zero.", "Look at what follows these layers in forward: sign, round, a comparison or clamp has no slope (tanh or sigmoid has one), a factor that starts at 0 and a dead ReLU pass none on.",
    )  # fmt: skip


def batch_axis(output: Tensor, size: int) -> int | None:
    """Which axis of an output counts the rows: the first of the right length."""
    return next((axis for axis, length in enumerate(output.shape[:2]) if length == size), None)


def rule_m06(subject: Subject, probe: Probe) -> Finding | None:
    """In eval mode another row's output changes when one row of eight is replaced."""
    total = len(next(tensors_in(probe.batch[0])))
    if total < 9:
        return None
    inputs = select(probe.batch[0], torch.arange(8))
    order = torch.arange(8)
    order[3] = 8
    replaced = select(probe.batch[0], order)
    model = probe.calm
    with seeds.restored(0):
        first = probe.run(model, map_tensors(lambda tensor: tensor.clone(), inputs))
    with seeds.restored(0):
        second = probe.outputs(model, replaced)
    with seeds.restored(0):
        again = probe.outputs(model, inputs)
    if first.output is None or difference(first.output, again) > 1e-6:
        return None  # random or stateful: another rule's subject
    axis = batch_axis(first.output, 8)
    if axis is None:
        return None
    others = torch.tensor([row for row in range(8) if row != 3])
    kept, changed = first.output.index_select(axis, others.to(first.output.device)), second.index_select(axis, others.to(second.device))
    away = difference(kept, changed)
    if away <= 1e-5:
        return None
    code, seen = mixing_operation(first.calls)
    return Finding(
        code, "warning", f"Replacing one row of eight changes the outputs of the other seven by {away:.2g} of their size{seen}.", {"difference": away},
        "A row's prediction depends on which rows stand beside it: training learns from mixed rows, one row alone gives another answer.",
        "Keep the batch axis first and apart: transpose instead of view, batch_first=True, softmax and norms over dim=-1.",
    )  # fmt: skip


def mixing_operation(calls: list[Call]) -> tuple[str, str]:
    """The code and words for what mixes rows: softmax or centring over the batch (M07), a norm over it (M25), else M06."""
    for call in calls:
        if not isinstance(call.input, Tensor) or call.input.dim() == 0 or call.input.shape[0] != 8:
            continue
        dim = call.get("dim", 1, None)
        dims = dim if isinstance(dim, (tuple, list)) else (dim,)
        over_batch = any(isinstance(number, int) and (number == 0 or number == -call.input.dim()) for number in dims)
        if call.name in ("softmax", "log_softmax", "softmin") and over_batch:
            return "M07", f" ({call.name} runs over the batch axis)"
        if call.name in ("mean", "sum", "median") and over_batch:
            return "M07", f" ({call.name} runs over the batch axis)"
        if call.name in ("normalize", "norm", "std", "var") and (over_batch or (call.name == "normalize" and call.get("dim", 2, 1) == 0)):
            return "M25", f" ({call.name} runs over the batch axis)"
        if call.name == "batch_norm" and call.get("training", 5, False):
            return "M25", " (batch norm uses batch statistics in eval mode)"
    return "M06", ""


def activations(probe: Probe) -> list[tuple[Call, Tensor]]:
    """Recorded activations in train mode with their values."""
    return [(call, call.result.detach()) for call in probe.training.calls if isinstance(call.result, Tensor) and call.result.dim() >= 2]


def is_relu(call: Call) -> bool:
    """A ReLU in any of its spellings, clamp(min=0) included."""
    return call.name in RELUS or (call.name in ("clamp", "clamp_", "clamp_min") and call.get("min", 1, None) == 0 and call.get("max", 2, None) is None)


def dead_share(values: Tensor) -> float:
    """The share of units (the second axis of pictures, the last of others) that are zero for every row and place."""
    axis = 1 if values.dim() >= 4 else values.dim() - 1
    units = values.movedim(axis, -1).reshape(-1, values.shape[axis])
    return float((units == 0).all(0).float().mean())


def rule_m08(subject: Subject, probe: Probe) -> Finding | None:
    """A ReLU layer of which over 90 % of the units are zero for all rows of the batch."""
    for number, (_call, values) in enumerate([(call, values) for call, values in activations(probe) if is_relu(call)]):
        share = dead_share(values)
        if share > 0.9:
            return Finding(
                "M08", "warning", f"In ReLU number {number + 1} {share:.0%} of the units are zero for all {len(values)} rows at the start.", {"relu": number + 1, "share": share},
                "A unit that never fires has no gradient: it stays dead, and the layer passes nothing on.",
                "Start biases at 0, scale the inputs to a spread near 1, keep the default initialisation.",
            )  # fmt: skip
    return None


def reachable(subject: Subject, probe: Probe) -> tuple[str, float, float] | None:
    """The last bounded activation of the output and the least and largest value it allows, through constants after it; None where nothing bounds it."""
    output = probe.evaluation.output
    if output is None:
        return None
    bounds = {"Relu": (0.0, math.inf), "Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Softplus": (0.0, math.inf), "Softmax": (0.0, 1.0), "Hardsigmoid": (0.0, 1.0),
              "Exp": (0.0, math.inf), "LogSoftmax": (-math.inf, 0.0), "LogSigmoidForward": (-math.inf, 0.0), "Threshold": (0.0, math.inf)}  # fmt: skip
    last = through_constants(output)
    clamped = last & {"Clamp", "ClampMin", "ClampMax", "Hardtanh"}
    if len(last) != 1:
        return None
    name = next(iter(last))
    if clamped:
        call = next(
            (call for call in reversed(probe.evaluation.calls) if call.name in ("clamp", "clamp_", "clamp_min", "clamp_max", "hardtanh", "relu6")), None
        )
        if call is None:
            return None
        if call.name == "relu6":
            least, most = 0.0, 6.0
        elif call.name == "hardtanh":
            least, most = call.get("min_val", 1, -1.0), call.get("max_val", 2, 1.0)
        else:
            least, most = call.get("min", 1, None), call.get("max", 2 if call.name != "clamp_max" else 1, None)
            least = None if call.name == "clamp_max" else least
            least, most = (-math.inf if least is None else float(least)), (math.inf if most is None else float(most))
    elif name in bounds:
        least, most = bounds[name]
        names = {"Relu": (*RELUS, "clamp", "clamp_min"), "Sigmoid": ("sigmoid", "sigmoid_"), "Tanh": ("tanh", "tanh_"), "Softplus": ("softplus",), "Softmax": ("softmax", "softmin"),
                 "Hardsigmoid": ("hardsigmoid",), "Exp": (), "LogSoftmax": ("log_softmax",), "LogSigmoidForward": ("logsigmoid",), "Threshold": ("threshold",)}[name]  # fmt: skip
        call = next((call for call in reversed(probe.evaluation.calls) if call.name in names), None)
    else:
        return None
    if name in last_plain(probe) or call is None:
        return name, least, most
    # Constants after the activation (10 * sigmoid(x) - 5): put its bounds in its place and look what comes out.
    edges = []
    for bound in (least, most):
        if math.isinf(bound):
            edges.append(bound)
            continue
        with seeds.restored(0):
            made = probe.run(probe.fresh().eval(), probe.batch[0], replace={call.position: bound})
        value = made.output
        edges.append(float(value.detach().float().mean()) if value is not None else math.nan)
    finite = [edge for edge in edges if math.isfinite(edge)]
    if len(finite) == 1:  # which side stays open depends on the sign of the factor
        open_above = float(output.detach().max()) > finite[0] + 1e-9
        return (name, finite[0], math.inf) if open_above else (name, -math.inf, finite[0])
    return name, min(edges), max(edges)


def last_plain(probe: Probe) -> set[str]:
    return probe.output_operations


def rule_m09(subject: Subject, probe: Probe) -> Finding | None:
    """Over 5 % of the targets lie where the output's last activation cannot reach, with a loss that compares values."""
    if probe.loss_family != "distance" and not (probe.is_custom and probe.loss_family is None and compares_values(subject, probe)):
        return None
    target, output = probe.train.target, probe.evaluation.output
    if target is None or output is None or not target.is_floating_point() or target[0].numel() != output[0].numel():
        return None
    found = reachable(subject, probe)
    if found is None:
        return None
    name, least, most = found
    values = target[:20_000].detach().float()
    slack = 1e-6 + 1e-4 * (most - least if math.isfinite(most - least) else 1.0)
    outside = float(((values < least - slack) | (values > most + slack)).float().mean())
    if outside > 0.05:
        return Finding(
            "M09", "warning", f"The output ends in {name}, which reaches from {least:g} to {most:g}; {outside:.0%} of the targets lie outside ({float(values.min()):.4g} to {float(values.max()):.4g}).",
            {"activation": name, "least": least, "most": most, "outside": outside},
            "These targets can never be met: the error has a floor, and the gradient vanishes there.", "End in a plain nn.Linear, or scale the targets into that range.",
        )  # fmt: skip
    return None


def compares_values(subject: Subject, probe: Probe) -> bool:
    """Whether a loss of the user's is least where outputs equal targets: then both are in one unit."""
    target, output = probe.batch[1], probe.training.output
    if len(target) != 1 or output is None or not isinstance(target[0], Tensor) or target[0].numel() != output.numel() or not probe.training.single:
        return False
    values = target[0].to(output.dtype).reshape(output.shape)
    spread = max(float(values.std()), 1e-6)
    try:
        with torch.no_grad():
            at, *others = (float(probe.loss_of(values + shift * spread, target)) for shift in (0.0, 0.01, -0.01, 1.0, -1.0))
    except Exception:  # a loss that cannot take its own targets as outputs (log of a negative) compares nothing
        return False
    # The small shifts tell the lowest place from a slope: (output - log(target))**2 is lower to one side.
    return math.isfinite(at) and all(at < other for other in others)


def rule_m10(subject: Subject, probe: Probe) -> Finding | None:
    """Logits that end in ReLU or a clamp at zero: a tenth and more are exactly zero."""
    if probe.loss_family not in ("classes", "binary") or probe.evaluation.output is None:
        return None
    if probe.loss_calls("nll_loss", "binary_cross_entropy") or not probe.output_operations & {"Relu", "Threshold", "ClampMin", "Clamp", "Hardtanh", "Relu6"}:
        return None
    zeros = float((probe.evaluation.output == 0).float().mean())
    if zeros >= 0.1:
        return Finding(
            "M10", "warning", f"The logits end in {next(iter(probe.output_operations))}: {zeros:.0%} of them are exactly zero.", {"zeros": zeros},
            "A class whose logit is cut off has no gradient there; some classes die and are never predicted.", "Return the last layer's values as they are.",
        )  # fmt: skip
    return None


def affine_error(probe: Probe, model: nn.Module, inputs: Tensor) -> float | None:
    """How far f(3a + 2b) is from 3f(a) + 2f(b) - 4f(0), relative to its size; None where that is beyond rounding or f is constant."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn((2, *inputs.shape[1:]), generator=generator, dtype=torch.float64).to(inputs.device) for _ in range(2))
    asked = {"mix": 3 * first + 2 * second, "a": first, "b": second, "0": torch.zeros_like(first)}
    tolerance = 1e-8
    try:
        f = {name: probe.outputs(copy_together(model)[0].double().eval(), value) for name, value in asked.items()}
    except RuntimeError:  # unregistered weights stay float32
        tolerance = 3e-6
        f = {name: probe.outputs(model.eval(), value.to(inputs.dtype)) for name, value in asked.items()}
    size = max(float(f["mix"].abs().max()), 1e-12)
    away = float((f["mix"] - (3 * f["a"] + 2 * f["b"] - 4 * f["0"])).abs().max()) / size
    return away if away <= tolerance and float((f["a"] - f["b"]).abs().max()) > 1e-12 else None


def rule_m11(subject: Subject, probe: Probe) -> Finding | None:
    """Two weight layers and more in a row, and the model is affine in float64 to 1e-8; a bottleneck (low rank on purpose) is spared."""
    output, inputs = probe.training.output, probe.batch[0]
    if output is None or not isinstance(inputs, Tensor) or not inputs.is_floating_point() or weight_depth(output) < 2:
        return None
    away = affine_error(probe, probe.fresh(), inputs)
    # A residual branch may start at zero: after five steps it bends.
    if away is None or (probe.after_five_steps is not None and affine_error(probe, copy_together(probe.after_five_steps)[0], inputs) is None):
        return None
    widths = [call.result.shape[-1] for call in probe.training.calls if call.name == "linear" and isinstance(call.result, Tensor)]
    if len(widths) >= 2 and min(widths[:-1]) < min(inputs[0].numel(), widths[-1]):
        return None
    return Finding(
        "M11", "warning", f"The model has {weight_depth(output)} weight layers in a row and is affine: f(3a + 2b) = 3f(a) + 2f(b) - 4f(0) to {away:.0e}.", {"layers": weight_depth(output), "away": away},
        "Without an activation between them the layers are one matrix: it learns what a single linear layer learns.", "Put nn.ReLU() or nn.GELU() between the layers.",
    )  # fmt: skip


def rule_m12(subject: Subject, probe: Probe) -> Finding | None:
    """A varying input column (channel, feature) to which the output's gradient is exactly zero, and shuffling it changes nothing."""
    inputs = probe.batch[0]
    small = select(inputs, torch.arange(min(64, len(next(tensors_in(inputs))))))
    leaves = [tensor for tensor in tensors_in(small) if tensor.is_floating_point() and tensor.dim() >= 2]
    if not leaves:
        return None
    model = probe.calm
    watched = map_tensors(lambda tensor: tensor.detach().clone().requires_grad_(tensor.is_floating_point()), small)
    leaves = [tensor for tensor in tensors_in(watched) if tensor.is_floating_point() and tensor.dim() >= 2]
    with seeds.restored(0), torch.enable_grad():
        output = next(tensors_in(probe.picked(forward(model, map_tensors(lambda tensor: tensor.clone(), watched)))), None)
        if output is None or not output.requires_grad:
            return None
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
        gradients = torch.autograd.grad((output * weights).sum(), leaves, allow_unused=True)
    with seeds.restored(0):
        before = probe.outputs(model, small)
    for place, (leaf, gradient) in enumerate(zip(leaves, gradients)):
        # (rows, channels, time) where a convolution over time comes first: the last steps that no kernel reaches are no columns
        over_time = leaf.dim() == 3 and next((call.name for call in probe.training.calls if call.name in WEIGHT_OPERATIONS), "").startswith("conv")
        axis = 1 if leaf.dim() in (2, 4) or over_time else leaf.dim() - 1
        columns = leaf.shape[axis]
        rest = [number for number in range(leaf.dim()) if number != axis]
        slopes = torch.zeros(columns) if gradient is None else gradient.abs().sum(rest).cpu()
        spread = leaf.detach().movedim(axis, -1).reshape(-1, columns).std(0).cpu()
        ignored = ((slopes == 0) & (spread > 0)).nonzero()[:, 0].tolist()
        whole = len(ignored) == columns
        if not ignored or (whole and len(leaves) == 1):
            continue
        # The gradient can vanish where a unit is saturated; a column that is ignored also leaves every bit in place when it is shuffled.
        shuffled = [tensor.detach().clone() for tensor in tensors_in(watched)]
        position = next(number for number, tensor in enumerate(tensors_in(watched)) if tensor is leaf)
        index = torch.tensor(ignored, device=leaf.device)
        shuffled[position].index_copy_(axis, index, shuffled[position].index_select(axis, index).flip(0) * 3 + 1)
        remaining = iter(shuffled)
        with seeds.restored(0):
            after = probe.outputs(model, map_tensors(lambda tensor, remaining=remaining: next(remaining), small))
        if not torch.equal(before, after) or float(before.std()) == 0:
            continue
        names = (
            [named_column(subject, number) for number in ignored[:5]]
            if leaf.dim() == 2 and len(leaves) == 1
            else [f"{'channel' if leaf.dim() == 4 else 'feature'} {number}" for number in ignored[:5]]
        )
        what = f"input {place} as a whole" if whole else f"{len(ignored)} of {columns} columns ({', '.join(names)})"
        return Finding(
            "M12", "warning", f"The output does not change with {what}.", {"columns": ignored[:50], "input": place},
            "What these columns say is thrown away, often by a slice that is off by one.", "Look at the indexing in forward; drop the columns if it is meant.",
        )  # fmt: skip
    return None


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
            return Finding(
                "M16", "warning", f"The first loss is {first:.4g}; guessing costs {chance:.3g}. The logits' deviation is {float(logits.detach().std()):.3g}.",
                {"loss": first, "guessing": chance, "deviation": float(logits.detach().std())},
                "The model is sure and wrong before it has learnt anything: weights or inputs are far too large.",
                "Leave the default initialisation, and scale the inputs to a spread near 1.",
            )  # fmt: skip
    target, output = probe.train.target, probe.training.output
    if probe.loss_family == "distance" and target is not None and output is not None and target.is_floating_point() and target[0].numel() == output[0].numel():
        spread, reach = float(target.detach().double().std()), float(output.detach().double().std())
        # A default network's outputs have a third of the inputs' spread. Thirty times the targets' is a first squared error of a thousand times their variance.
        if 0 < 30 * max(spread, float(target.detach().double().abs().mean())) < reach:
            return Finding(
                "M16", "warning", f"The outputs start with a deviation of {reach:.4g}; the targets have {spread:.3g}.", {"outputs": reach, "targets": spread},
                "The first loss is a thousand times that of guessing: training first has to shrink the weights.",
                "Leave the default initialisation, and scale the inputs to a spread near 1.",
            )  # fmt: skip
    return None


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


def rule_m18(subject: Subject, probe: Probe) -> Finding | None:
    """Batch norm and batches of one row, each or the last."""
    norms = [module for module in subject.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm)]
    norms = [module for module in norms if any(parameter.requires_grad for parameter in module.parameters()) or not list(module.parameters())]
    rows = len(subject.train)
    if not norms or rows < 2:
        return None
    if subject.batch_size == 1:
        seen = "batches hold one row each"
    elif rows % subject.batch_size == 1:
        seen = f"the last batch of an epoch holds one row ({rows} rows in batches of {subject.batch_size})"
    else:
        return None
    refuses = False
    with seeds.restored(0), torch.no_grad():
        try:
            forward(probe.fresh().train(), probe.rows(torch.arange(1))[0])
        except ValueError:  # "Expected more than 1 value per channel when training": the run would end at that batch
            refuses = True
    return Finding(
        "M18", "error" if refuses else "warning", f"The model has {len(norms)} batch norm layer(s), and {seen}.", {"rows": rows, "batch_size": subject.batch_size},
        "The variance of one row is zero: its output is the bias alone (or torch refuses), and running statistics are spoilt.",
        f"Another batch size ({subject.batch_size + 1 if subject.batch_size > 1 else 16}), or nn.GroupNorm, nn.LayerNorm.",
    )  # fmt: skip


def rule_m19(subject: Subject, probe: Probe) -> Finding | None:
    """A dropout of 0.9 and more."""
    rates = [(name, module.p) for name, module in subject.model.named_modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
    if not any(rate >= 0.9 for _, rate in rates):
        rates = [("F.dropout", float(call.get("p", 1, 0.5))) for call in probe.training.calls if call.name in DROPOUTS and call.get("training", 2, True)]
    high = [(name, rate) for name, rate in rates if rate >= 0.9]
    if not high:
        return None
    return Finding(
        "M19", "warning", f"Dropout of {high[0][1]:g} in layer '{high[0][0]}'.", {"layer": high[0][0], "p": high[0][1]},
        "p is the share that is dropped, not the share that is kept: almost nothing passes.", f"nn.Dropout({1 - high[0][1]:.2g}) keeps {high[0][1]:.0%}.",
    )  # fmt: skip


def rule_m20(subject: Subject, probe: Probe) -> Finding | None:
    """Outputs that are exactly zero in train mode and not in eval mode, in a model with dropout: dropout on the output."""
    training, evaluation = probe.training.output, probe.evaluation.output
    if training is None or evaluation is None or not any(call.name in DROPOUTS for call in probe.training.calls):
        return None
    extra = float((training == 0).float().mean()) - float((evaluation == 0).float().mean())
    if extra > 0.03:
        return Finding(
            "M20", "warning", f"In train mode {extra:.0%} of the outputs are exactly zero, in eval mode not: dropout comes last.", {"share": extra},
            "The target cannot be met whatever the weights: R2 has a ceiling, the others are scaled up for it.", "Move dropout before the last layer.",
        )  # fmt: skip
    return None


def rule_m22(subject: Subject, probe: Probe) -> Finding | None:
    """A batch of one row comes out without its batch axis."""
    model = probe.calm
    one, two = (select(probe.batch[0], torch.arange(size)) for size in (1, 2))
    try:
        pair = probe.outputs(model, two)
        single = probe.outputs(model, one)
    except Exception:  # a model that takes no single row fails loudly wherever it matters
        return None
    if pair.dim() == 0 or pair.shape[0] != 2 or (single.dim() == pair.dim() and single.shape[0] == 1):
        return None
    return Finding(
        "M22", "warning", f"Two rows give outputs of shape {tuple(pair.shape)}, one row {tuple(single.shape)}.", {"two": list(pair.shape), "one": list(single.shape)},
        "A last batch of one row, or a single prediction, loses its batch axis: it broadcasts or fails.", "Name the axis: squeeze(-1), not squeeze().",
    )  # fmt: skip


def rule_m23(subject: Subject, probe: Probe) -> Finding | None:
    """Inputs hold other values after forward than before."""
    for mode, made in (("train", probe.training), ("eval", probe.evaluation)):
        if made.changed_inputs > 0:
            return Finding(
                "M23", "warning", f"After forward {made.changed_inputs:.0%} of the input values have changed.", {"mode": mode, "share": made.changed_inputs},
                "The data drift from epoch to epoch where the batch is a view of them, and what follows reads changed rows.", "Work on a new tensor: x = x - m, not x -= m and no function ending in _.",
            )  # fmt: skip
    return None


def rule_m24(subject: Subject, probe: Probe) -> Finding | None:
    """The targets are the inputs one step on, and outputs change with the steps that come after them."""
    view = probe.train
    inputs, target = view.inputs, view.target
    if not isinstance(inputs, Tensor) or target is None or inputs.dim() < 2 or inputs.shape[1] < 4:
        return None
    told, asked = inputs[:500], target[:500]
    if told.dim() == 3 and asked.dim() == 2 and told.shape[2] == 1:
        told = told[..., 0]
    if asked.shape != told.shape or told.dim() not in (2, 3):
        return None
    same = float((asked[:, :-1].double() - told[:, 1:].double()).abs().lt(1e-6).double().mean())
    constant = float((asked[:, :-1] == told[:, :-1]).double().mean())
    if same < 0.95 or constant > 0.95:
        return None
    few = probe.rows(torch.arange(min(16, len(inputs))))[0]
    time = few.shape[1]
    middle = time // 2
    changed = few.clone()
    changed[:, middle:] = few[:, middle:].roll(1, 0)
    if torch.equal(changed, few):
        changed[:, middle:] = few[:, middle:].flip(1)
    model = probe.calm
    with seeds.restored(0):
        before = probe.outputs(model, few)
    with seeds.restored(0):
        after = probe.outputs(model, changed)
    axes = [axis for axis in range(1, before.dim()) if before.shape[axis] == time]
    if not axes:
        return None
    leaks = [difference(before.narrow(axis, 0, middle), after.narrow(axis, 0, middle)) for axis in axes]
    if min(leaks) > 1e-5:
        return Finding(
            "M24", "warning", f"The targets are the inputs one step on, and outputs of the first {middle} steps change by {min(leaks):.2g} of their size with the steps after them.", {"share": same, "change": min(leaks)},
            "The model reads its answer from the next step: a tiny loss, and nothing of use when it has to go on by itself.",
            "Mask the future: nn.Transformer.generate_square_subsequent_mask(t), is_causal=True, or a one-directional layer.",
        )  # fmt: skip
    return None


def rule_m26(subject: Subject, probe: Probe) -> Finding | None:
    """The embedding's padding_idx stands in the middle of rows, or in inputs of one or two columns of codes."""
    for call in probe.training.calls:
        if call.name != "embedding":
            continue
        codes, pad = call.args[0] if call.args else call.kwargs.get("input"), call.get("padding_idx", 2, None)
        weight = call.get("weight", 1)
        if pad is None or pad == -1 or not isinstance(codes, Tensor) or codes.dim() == 0:
            continue
        pad = pad if pad >= 0 else len(weight) + pad
        found = codes == pad
        share = float(found.float().mean())
        if codes.dim() == 1 or codes.shape[-1] <= 2:
            odd, where = share > 0.005, f"in {share:.1%} of the codes"
        else:
            rows = found.reshape(-1, found.shape[-1])
            real = ~rows
            before, after = real.long().cumsum(1) > 0, real.flip(1).long().cumsum(1).flip(1) > 0
            inside = float((rows & before & after).any(1).float().mean())
            odd, where = inside > 0.02, f"between other codes in {inside:.0%} of the rows"
        if odd:
            return Finding(
                "M26", "warning", f"padding_idx={pad} stands {where}: it is a real code.", {"padding_idx": pad, "share": share},
                "Its embedding stays zero and never learns: this item is unknown to the model for ever.", "Leave padding_idx out, or move the codes up by one.",
            )  # fmt: skip
    return None


def rule_m31(subject: Subject, probe: Probe) -> Finding | None:
    """A convolutional classifier that cannot learn eight training rows by heart in 200 steps, dropout off."""
    classes = probe.classes_of_rows
    calls = [call for call in probe.training.calls if call.name.startswith("conv")]
    frozen = any(isinstance(module, nn.modules.conv._ConvNd) and not any(p.requires_grad for p in module.parameters()) for module in subject.model.modules())
    if frozen or classes is None or not calls or not probe.has_time(0.55) or not probe.has_loss or probe.loss_family not in ("classes", "binary"):
        return None
    labels = classes["train"]
    picked: list[int] = []
    for label in numpy.unique(labels)[:4]:
        picked += numpy.flatnonzero(labels == label)[:2].tolist()
    inputs, targets = probe.rows(torch.tensor(picked))
    flat = next(tensors_in(inputs)).reshape(len(picked), -1)
    if len(set(labels[picked])) < 2 or len(flat.unique(dim=0)) < len(picked):
        return None
    model = probe.fresh().train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    first = last = math.nan
    with seeds.restored(0), torch.enable_grad():
        for step in range(200):
            value = probe.loss_of(probe.picked(forward(model, inputs)), targets)
            last = float(value)
            first = last if step == 0 else first
            if not probe.has_time(0.25) or not value.requires_grad or not math.isfinite(last):
                return None
            if last < 0.4 * first:
                return None
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    if first > 0 and last > 0.5 * first:
        return Finding(
            "M31", "warning", f"After 200 steps on {len(picked)} rows alone the loss is {last:.3g}, it began at {first:.3g}.", {"first": first, "last": last},
            "What tells these rows apart does not reach the output: pooled away, or outside the receptive field.", "Pool later or by maximum, use larger kernels or more layers.",
        )  # fmt: skip
    return None


def rule_m32(subject: Subject, probe: Probe) -> Finding | None:
    """Outputs do not change when the steps of a sequence are permuted. A note: for sets that is right."""
    inputs = probe.batch[0]
    if (
        not isinstance(inputs, Tensor)
        or inputs.shape[0] < 2
        or not ((inputs.dim() == 2 and not inputs.is_floating_point()) or inputs.dim() == 3)
        or inputs.shape[1] < 3
    ):
        return None
    few = inputs[:16]
    model = probe.calm
    with seeds.restored(0):
        before = probe.outputs(model, few)
    with seeds.restored(0):
        after = probe.outputs(model, few.flip(1))
    if before.dim() == 2 and difference(before, after) < 1e-5 and float(before.std()) > 0:
        return Finding(
            "M32",
            "note",
            "Outputs do not change when the steps are permuted.",
            {},
            "The order of the steps is not used.",
            "Right for sets; for sequences add positions.",
        )
    return None


def rule_m36(subject: Subject, probe: Probe) -> Finding | None:
    """A norm over a single element, whose result does not depend on it; softmax over one unit is L31."""
    for call in probe.training.calls:
        shape = tuple(call.input.shape) if isinstance(call.input, Tensor) else ()
        over = None
        if call.name in ("layer_norm", "rms_norm"):
            sizes = call.get("normalized_shape", 1, ())
            over = math.prod(sizes) if len(sizes) else None
        elif call.name == "group_norm" and len(shape) >= 2:
            over = math.prod(shape[1:]) // int(call.get("num_groups", 1))
        elif call.name == "instance_norm" and len(shape) >= 2:
            over = math.prod(shape[2:])
        elif call.name == "normalize" and shape and call.get("p", 1, 2.0) is not None:
            over = shape[call.get("dim", 2, 1)]
        if over == 1:
            return Finding(
                "M36", "warning", f"{call.name} runs over a single element (its input has shape {shape}).", {"operation": call.name, "shape": list(shape)},
                "One number minus its own mean is zero: the output is a constant.", "Leave the norm out there, or let it run over the features.",
            )  # fmt: skip
    return None


def rule_m38(subject: Subject, probe: Probe) -> Finding | None:
    """All outputs are the same for every row (to a millionth), also after five steps."""

    def constant(output: Tensor) -> bool:
        if output.dim() == 0 or len(output) < 4 or not output.is_floating_point():
            return False
        return float(output.double().std(0).max()) <= 1e-6 * max(1.0, float(output.abs().max()))

    output = probe.evaluation.output
    inputs = probe.flat("train")
    if output is None or not constant(output.detach()) or (inputs is not None and bool((inputs.max(0) == inputs.min(0)).all())):
        return None
    model = probe.after_five_steps
    if model is None or not constant(probe.outputs(model, probe.batch[0])):
        return None
    return Finding(
        "M38", "warning", f"The outputs of {len(output)} different rows are one and the same, also after five steps.", {"rows": len(output)},
        "The prediction is a constant: the inputs do not reach it.", "Look for dead units, a norm or softmax over one element, weights of zero.",
    )  # fmt: skip


def rule_t10(subject: Subject, probe: Probe) -> Finding | None:
    """Over 70 % of a layer's tanh or sigmoid values beyond 0.99 at the start."""
    number = 0
    for call, values in activations(probe):
        if call.name not in ("tanh", "tanh_", "sigmoid", "sigmoid_"):
            continue
        number += 1
        far = (values.abs() > 0.99) if call.name.startswith("tanh") else ((values > 0.99) | (values < 0.01))
        share = float(far.float().mean())
        if share > 0.7:
            reaching = first_weighted_input(probe)
            size = f"; the inputs' deviation is {float(reaching.std()):.3g}" if reaching is not None else ""
            return Finding(
                "T10", "warning", f"{share:.0%} of the values of {call.name.rstrip('_')} number {number} lie at its ends{size}.", {"activation": call.name, "share": share},
                "There its slope is nearly zero: layers before it hardly learn.", "Scale the inputs to a spread near 1, or use smaller weights.",
            )  # fmt: skip
    return None


Rule = Callable[[Subject, Probe], Finding | list[Finding] | None]
READ: tuple[Rule, ...] = (rule_m02, rule_m14, rule_m18)
ASKED: tuple[Rule, ...] = (
    rule_m04, rule_m06, rule_m08, rule_m09, rule_m10, rule_m11, rule_m16, rule_m17, rule_m19, rule_m20, rule_m22, rule_m23, rule_m24, rule_m26, rule_m36, rule_t10, rule_m03,
    rule_m12, rule_m32, rule_m15, rule_m38, rule_m05,
)  # fmt: skip
