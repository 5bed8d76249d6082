"""Rules on the loss beside what it is given (letter L): probabilities for logits, shapes that broadcast, one output, time in the place of classes.

Losses are asked, not read: outputs of our own making go in, and the order of the values that come out tells what the loss is. Torch losses inside a user's function
are seen by the recorder, so `lambda o, y: F.cross_entropy(o, y)` is cross-entropy here too. Labels and amounts: `before_target`; losses by hand: `before_own_loss`.
"""

from __future__ import annotations

import math

import numpy
import torch
from torch import Tensor

from fivestep import seeds
from fivestep.checks.asking import class_axis, output_gradient, permutation, single_target, value_of
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.recording import last_operations, tensors_in
from fivestep.checks.rules import Rule
from fivestep.checks.subject import Subject
from fivestep.data.batches import map_tensors
from fivestep.model import loss_targets


def rule_l01(subject: Subject, probe: Probe) -> Finding | None:
    """Cross-entropy is given probabilities: rows that are positive and sum to one, or the output of a sigmoid."""
    for call in probe.loss_calls("cross_entropy"):
        logits = call.input
        if not isinstance(logits, Tensor) or logits.dim() < 2 or logits.shape[1] < 2:
            continue
        values = logits.detach().float()
        sums = values.sum(1)
        if float(values.min()) >= 0 and float((sums - 1).abs().max()) < 1e-4:
            floor = math.log(1 + (logits.shape[1] - 1) / math.e)
            return Finding(
                "L01", "warning", f"Each of {len(logits)} rows given to cross-entropy is positive and sums to 1: they are probabilities already.", {"rows": len(logits), "floor": floor},
                f"Softmax is applied twice: the loss cannot fall below {floor:.3g}, and gradients are small.", "Return the last layer's values as they are; softmax only to read probabilities.",
            )  # fmt: skip
        if last_operations(logits) == {"Sigmoid"}:
            return Finding(
                "L01", "warning", "Cross-entropy is given the output of a sigmoid.", {}, "Its softmax sees values between 0 and 1 only: the loss has a high floor.", "Return the last layer's values as they are.",
            )  # fmt: skip
    return None


def rule_l02(subject: Subject, probe: Probe) -> Finding | None:
    """NLLLoss is given rows that are no log-probabilities: their exponentials do not sum to one."""
    for call in probe.loss_calls("nll_loss"):
        logs = call.input
        if not isinstance(logs, Tensor) or logs.dim() < 2:
            continue
        sums = logs.detach().double().exp().sum(1)
        away = float((sums - 1).abs().max())
        if not away < 1e-2:
            return Finding(
                "L02", "error", f"NLLLoss is given rows whose exponentials sum to {float(sums.min()):.3g} to {float(sums.max()):.3g}, not to 1.", {"least": float(sums.min()), "most": float(sums.max())},
                "It takes them as log-probabilities: the loss falls without bound and no class competes with another.",
                "End the model in nn.LogSoftmax(dim=1), or use CrossEntropyLoss on the values as they are.",
            )  # fmt: skip
    return unbounded_likelihood(probe)


def unbounded_likelihood(probe: Probe) -> Finding | None:
    """L02 for a loss by hand (gather, an index, one-hot times scores): a straight line in the scores that falls by as much as all of them are raised.

    A softmax inside does not feel what is added to all scores; a loss that compares is no straight line. Outputs that are log-probabilities, or probabilities, cannot
    be raised together: there the same loss is right.
    """
    output, target = probe.training.output, single_target(probe)
    if not probe.is_custom or probe.loss_family is not None or output is None or target is None or not probe.training.single or output.dim() < 2:
        return None
    axis = 1 if target.is_floating_point() else class_axis(output, target)
    if axis is None or output.shape[axis] < 2:
        return None
    if target.is_floating_point() and (target.shape != output.shape or float((target.sum(1) - 1).abs().max()) > 1e-3 or float(target.min()) < 0):
        return None  # no shares of classes
    real = output.detach().double()
    sums = real.exp().sum(axis)
    if float((sums - 1).abs().max()) < 1e-2 or (float(real.min()) >= 0 and float((real.sum(axis) - 1).abs().max()) < 1e-2):
        return None
    made = torch.randn(output.shape, generator=torch.Generator().manual_seed(9)).to(output)
    at, raised, higher, double, none = (value_of(probe, tried, (target,)) for tried in (made, made + 1, made + 3, 2 * made, 0 * made))
    falls = at - raised
    if not (math.isfinite(falls) and falls > 1e-3):
        return None
    slack = 1e-3 * (abs(at) + falls)
    if abs(at - higher - 3 * falls) > slack or abs(double - none - 2 * (at - none)) > slack:
        return None
    return Finding(
        "L02", "error", f"The loss falls by {falls:.3g} when 1 is added to every score and by {at - higher:.3g} when 3 is: it takes the scores as log-probabilities, but their exponentials sum to {float(sums.min()):.3g} to {float(sums.max()):.3g}, not to 1.",
        {"falls": falls, "least": float(sums.min()), "most": float(sums.max())},
        "All scores grow together: the loss falls without bound and no class competes with another.",
        f"In the loss, take outputs.log_softmax({axis}) before the class's score is picked, or use F.cross_entropy(outputs, targets).",
    )  # fmt: skip


def rule_l03(subject: Subject, probe: Probe) -> Finding | None:
    """A loss over logits is given what already went through a sigmoid or softmax."""
    calls = probe.loss_calls("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss", "soft_margin_loss")
    if not calls or not isinstance(calls[0].input, Tensor):
        return None
    logits = calls[0].input.detach()
    squashed = (probe.output_operations | last_operations(calls[0].input)) & {"Sigmoid", "Hardsigmoid", "Softmax"}
    if float(logits.min()) < 0 or float(logits.max()) > 1:
        return None
    if not squashed:
        # Small logits can lie in [0, 1] by chance; inputs fifty times as large would drive them out.
        inputs = map_tensors(lambda tensor: tensor * 50 if tensor.is_floating_point() else tensor, probe.batch[0])
        if not any(tensor.is_floating_point() for tensor in tensors_in(probe.batch[0])):
            return None
        wide = probe.outputs(probe.calm, inputs)
        if (
            float(wide.min()) < 0
            or float(wide.max()) > 1
            or float(wide.max() - wide.min()) < 1e-3
            or probe.output_operations & {"Relu", "Clamp", "ClampMin", "LogSoftmax"}
        ):
            return None
    return Finding(
        "L03", "warning", f"{calls[0].name} is given values between {float(logits.min()):.3g} and {float(logits.max()):.3g} that come from {next(iter(squashed), 'a bounded function')}.",
        {"least": float(logits.min()), "most": float(logits.max())},
        "The sigmoid is applied twice: probabilities stay between 0.5 and 0.73.", "Return the last layer's values as they are, or use BCELoss.",
    )  # fmt: skip


def rule_l04(subject: Subject, probe: Probe) -> Finding | None:
    """BCELoss is given logits cut to [0, 1] by a clamp: over a tenth lie at a bound."""
    for call in probe.loss_calls("binary_cross_entropy"):
        values = call.input
        if not isinstance(values, Tensor) or not probe.output_operations & {"Clamp", "Hardtanh", "ClampMin", "ClampMax", "Hardsigmoid", "Relu"}:
            continue
        values = values.detach().float()
        at_bound = float(((values <= 1e-4) | (values >= 1 - 1e-4)).float().mean())
        if at_bound > 0.1:
            return Finding(
                "L04", "warning", f"BCELoss is given clamped values, {at_bound:.0%} of them at 0 or 1.", {"share": at_bound},
                "Where the clamp cuts there is no gradient: these rows never learn.", "Use BCEWithLogitsLoss on the values as they are, or torch.sigmoid.",
            )  # fmt: skip
    return None


def rule_l05(subject: Subject, probe: Probe) -> Finding | None:
    """Outputs and targets have other shapes, and permuting the outputs' rows does not change the loss: they were broadcast against each other."""
    output, target = probe.training.output, single_target(probe)
    if (
        output is None
        or target is None
        or not probe.training.single
        or output.dim() == 0
        or len(output) != len(target)
        or len(output) < 4
        or output.shape == target.shape
    ):
        return None
    if probe.loss_family == "classes" or (not target.is_floating_point() and probe.loss_family != "distance" and not probe.is_custom):
        return None
    made = torch.randn(output.shape, generator=torch.Generator().manual_seed(5)).to(output)
    if probe.loss_family == "binary" or probe.output_operations & {"Sigmoid", "Softmax"}:
        made = made.sigmoid()
    first, permuted = value_of(probe, made, (target,)), value_of(probe, made[permutation(len(made))], (target,))
    if math.isfinite(first) and abs(first - permuted) <= 1e-5 * max(abs(first), 1e-6) and float(target.double().std()) > 0:
        pairs = output.numel() * target.numel() // max(1, min(output[0].numel(), target[0].numel()))
        return Finding(
            "L05", "error", f"Outputs have shape {tuple(output.shape)}, targets {tuple(target.shape)}, and the loss is the same when the outputs' rows change places.",
            {"outputs": list(output.shape), "targets": list(target.shape), "pairs": pairs},
            f"Each output is compared with every target ({len(output)} x {len(target)} pairs): the model learns the mean of the targets.",
            one_shape(output, target),
        )  # fmt: skip
    return None


def one_shape(output: Tensor, target: Tensor) -> str:
    """What gives both one shape, in the words for whichever of them has an axis of length 1 more."""
    if output.dim() > target.dim():
        return "Give the targets the outputs' shape: targets[:, None]; or end forward in .squeeze(-1)."
    if output.dim() < target.dim():
        return "Leave out what takes the last axis away at the end of forward (.squeeze(-1), .flatten(), [:, 0]), or give the loss targets.squeeze(-1)."
    return f"Give both the shape {tuple(target.shape)}: look at the end of forward and at how the loss reshapes them."


def rule_l06(subject: Subject, probe: Probe) -> Finding | None:
    """Cross-entropy over one output, or a loss whose gradient to the outputs is exactly zero."""
    for call in probe.loss_calls("cross_entropy", "nll_loss"):
        if isinstance(call.input, Tensor) and call.input.dim() >= 2 and call.input.shape[1] == 1:
            return Finding(
                "L06", "error", f"{call.name} is given one output for each row.", {"outputs": 1}, "The softmax of one number is 1 whatever it is: the loss is exactly 0 and nothing learns.",
                "Two outputs, or BCEWithLogitsLoss on one with float targets.",
            )  # fmt: skip
    gradient = output_gradient(probe)
    if gradient is not None and not bool(gradient.any()):
        return Finding(
            "L06", "warning", "The loss's gradient to the outputs is exactly zero for every row of a batch.", {"loss": float(probe.training.loss or 0)}, "Nothing can be learnt from it.",
            "Look for argmax, round, a comparison or a clamp inside the loss.",
        )  # fmt: skip
    return None


def refused_by_the_loss(subject: Subject, probe: Probe) -> Finding | None:
    """L32: a loss of torch.nn raised at the first batch, and its contract says why. None for a loss of the user's own, whose words alone would be a guess."""
    targets = probe.batch[1]
    problem = loss_targets.shape_problem(subject.loss, probe.evaluation.picked, targets)
    if problem is None:
        return None
    target, fix = targets[0], "Change the model's last layer, the targets' shape or the loss, so that they fit."
    if probe.loss_family == "distance" and target.numel() == len(target) and bool((target == target.round()).all()):
        fix = "If the targets are class numbers: CrossEntropyLoss with one output for each class. If they are amounts: a model with one output."
    evidence = {"loss": probe.refusal, "targets": list(target.shape)}
    return Finding("L32", "error", problem, evidence, "The first step would fail with torch's own words, after files were written.", fix)


def rule_l22(subject: Subject, probe: Probe) -> Finding | None:
    """Cross-entropy takes axis 1 as classes, but a change at one place of the input shows at that place of axis 1: it is time."""
    for call in probe.loss_calls("cross_entropy", "nll_loss"):
        logits = call.input
        inputs = probe.batch[0]
        if (
            not isinstance(logits, Tensor)
            or logits.dim() != 3
            or logits.shape[1] != logits.shape[2]
            or not isinstance(inputs, Tensor)
            or inputs.dim() < 2
            or logits is not probe.training.picked
        ):
            continue
        length = logits.shape[1]
        time = next((axis for axis in range(1, inputs.dim()) if inputs.shape[axis] == length), None)
        if time is None:
            continue
        few = inputs[:16]
        model = probe.calm
        with seeds.restored(0):
            before = probe.outputs(model, few)
        along = numpy.zeros(2)
        for place in range(length):
            changed = few.clone()
            changed.select(time, place).copy_(few.select(time, place).roll(1, 0))
            with seeds.restored(0):
                away = (probe.outputs(model, changed) - before).abs().mean(0)
            whole = float(away.sum())
            if whole > 0:
                along += [float(away[place].sum()) / whole, float(away[:, place].sum()) / whole]
        along /= length
        if along[0] > 1.5 * along[1] and along[0] > 1.3 / length:
            return Finding(
                "L22", "warning", f"Outputs are (rows, {length}, {length}). A change at one step shows at that step of axis 1 ({along[0]:.0%}), not of axis 2 ({along[1]:.0%}): axis 1 is time.",
                {"axis_1": float(along[0]), "axis_2": float(along[1])},
                "CrossEntropyLoss takes axis 1 as classes: it learns at which step something happens, not which class it is.", "Outputs are (rows, time, classes) and the loss wants (rows, classes, time): end forward in .transpose(1, 2), or flatten both: loss(o.flatten(0, 1), y.flatten()).",
            )  # fmt: skip
    return None


def rule_l31(subject: Subject, probe: Probe) -> Finding | None:
    """A softmax over an axis of one unit: always 1."""
    for call in probe.training.calls:
        if call.name in ("softmax", "log_softmax") and isinstance(call.input, Tensor) and call.input.dim() >= 2:
            dim = call.get("dim", 1)
            if dim is not None and call.input.shape[dim] == 1 and call.input.shape[0] > 1:
                return Finding(
                    "L31", "warning", f"{call.name} runs over an axis of length 1 (input {tuple(call.input.shape)}).", {"shape": list(call.input.shape)}, "Its result is the same for every input.",
                    "A sigmoid for one output, or as many outputs as classes.",
                )  # fmt: skip
    return None


RULES: tuple[Rule, ...] = (rule_l01, rule_l02, rule_l03, rule_l04, rule_l05, rule_l06, rule_l22, rule_l31)
