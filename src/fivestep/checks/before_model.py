"""Rules on layers (letter M, T10): activations that are dead, saturated, missing or in the way, norms and dropout in the wrong place, codes, one batch by heart.

What a layer gets and returns is read from one recorded forward, so a layer in a plain function counts like a module.
"""

from __future__ import annotations

import math

import numpy
import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.checks.asking import compares_values
from fivestep.checks.before_data import first_weighted_input
from fivestep.checks.before_forward import DROPOUTS
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe, copy_together
from fivestep.checks.recording import RELUS, Call, tensors_in, through_constants, weight_depth
from fivestep.checks.rules import Rule
from fivestep.checks.subject import Subject
from fivestep.train.loop import forward


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


def rule_m10(subject: Subject, probe: Probe) -> Finding | None:
    """Logits that end in ReLU or a clamp at zero: a tenth and more are exactly zero."""
    if probe.loss_family not in ("classes", "binary") or probe.evaluation.output is None:
        return None
    if probe.loss_calls("nll_loss", "binary_cross_entropy") or not probe.output_operations & {"Relu", "Threshold", "ClampMin", "Clamp", "Hardtanh", "Relu6"}:
        return None
    zeros = float((probe.evaluation.output == 0).float().mean())
    last = next(iter(probe.output_operations))
    # How many a ReLU cuts at the start is chance (a bias of 0.3 hides all of it); a clamp with far bounds is meant and cuts none.
    if zeros >= 0.1 or last in ("Relu", "Threshold"):
        return Finding(
            "M10", "warning", f"The logits end in {last}, which leaves none below 0: {zeros:.0%} of them are exactly zero at the start.", {"zeros": zeros, "activation": last},
            "A class whose logit is cut off has no gradient there; some classes die and are never predicted.", "Return the last layer's values as they are: take the activation after it out of the model.",
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


READ: tuple[Rule, ...] = (rule_m18,)
ASKED: tuple[Rule, ...] = (rule_m08, rule_m09, rule_m10, rule_m11, rule_m19, rule_m20, rule_m26, rule_m36, rule_t10)
