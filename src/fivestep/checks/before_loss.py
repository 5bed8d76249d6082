"""Rules on the loss with its outputs and targets (letter L), and on metrics (letter E): shapes, ranges, signs, what they can and cannot see.

Losses are asked, not read: outputs of our own making go in, and the order of the values that come out tells what the loss is. Torch losses inside a user's function
are seen by the recorder, so `lambda o, y: F.cross_entropy(o, y)` is cross-entropy here too.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor

from fivestep import seeds
from fivestep.checks.before_data import padding_of, trailing
from fivestep.checks.before_model import Rule, compares_values
from fivestep.checks.findings import Finding
from fivestep.checks.probe import FLAT, Probe, row_step
from fivestep.checks.recording import Recorder, last_operations, tensors_in
from fivestep.checks.subject import Subject
from fivestep.data.batches import map_tensors
from fivestep.model import losses


def value_of(probe: Probe, outputs: Any, targets: tuple[Any, ...]) -> float:
    """The loss of made-up outputs as a number; NaN where the loss refuses them."""
    try:
        with torch.no_grad(), seeds.restored(0):
            return float(probe.loss_of(outputs, targets))
    except Exception:  # made-up outputs need not be legal for every loss: then nothing can be said by them
        return math.nan


def single_target(probe: Probe) -> Tensor | None:
    """The batch's one target tensor, or None."""
    targets = probe.batch[1]
    return targets[0] if len(targets) == 1 and isinstance(targets[0], Tensor) else None


def class_axis(output: Tensor, target: Tensor) -> int | None:
    """The axis of the output that counts classes: the one whose removal leaves the target's shape; axis 1 where both could be."""
    if output.dim() != target.dim() + 1:
        return None
    for axis in (1, output.dim() - 1):
        if axis < output.dim() and (*output.shape[:axis], *output.shape[axis + 1 :]) == tuple(target.shape):
            return axis
    return None


def answers(probe: Probe, output: Tensor, target: Tensor, *, size: float = 3.0, wrong: bool = False) -> Tensor | None:
    """Outputs that say each row's class clearly (or a wrong one): one-hot times `size`, or plus and minus `size` for yes/no; None for other targets."""
    if not target.is_floating_point():
        axis = class_axis(output, target)
        if axis is not None and output.shape[axis] > 1:
            count = output.shape[axis]
            labels = target.clamp(0, count - 1)
            labels = (labels + 1) % count if wrong else labels
            return (torch.nn.functional.one_hot(labels, count).movedim(-1, axis) * size).to(output.dtype)
    if target.numel() == output.numel() and bool(((target == 0) | (target == 1)).all()) and probe.loss_family != "distance":
        signs = (2 * target.to(output.dtype) - 1).reshape(output.shape)
        return signs * (-size if wrong else size)
    return None


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
    return None


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


def permutation(size: int) -> Tensor:
    """A fixed order in which no row keeps its place."""
    return torch.arange(size).roll(max(1, size // 3))


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
            "Give both one shape: targets[:, None], or outputs.squeeze(-1).",
        )  # fmt: skip
    return None


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


def output_gradient(probe: Probe) -> Tensor | None:
    """d loss / d outputs for the batch, detached; None where there is no single output or no graph."""
    if not probe.has_loss or not probe.training.single:
        return None
    output = probe.training.picked.detach().clone().requires_grad_(True)
    if not output.is_floating_point():
        return None
    with torch.enable_grad(), seeds.restored(0):
        value = probe.loss_of(output, probe.batch[1])
        if not value.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(value, output, allow_unused=True)
    return torch.zeros_like(output).detach() if gradient is None else gradient.detach()


def rule_l07(subject: Subject, probe: Probe) -> Finding | None:
    """Cross-entropy with rows of zeros and ones that do not sum to one: several labels at once."""
    for call in probe.loss_calls("cross_entropy"):
        target = call.get("target", 1)
        if not isinstance(target, Tensor) or not target.is_floating_point() or target.dim() < 2 or target.shape[1] < 2:
            continue
        sums = target.detach().sum(1)
        odd = float(((sums - 1).abs() > 1e-3).float().mean())
        if odd > 0.05:
            return Finding(
                "L07", "warning", f"{odd:.0%} of the target rows do not sum to 1 (from {float(sums.min()):g} to {float(sums.max()):g}).", {"share": odd},
                "Softmax lets the labels of one row compete: two that are both right push each other down.", "Use BCEWithLogitsLoss for several labels at once.",
            )  # fmt: skip
    return None


def rule_l08(subject: Subject, probe: Probe) -> Finding | None:
    """A distance to whole numbers 0..C-1 from one output, where a linear classifier beats a rounded linear regression by over 15 points."""
    output = probe.training.output
    if output is None or not (probe.loss_family == "distance" or (probe.is_custom and compares_values(subject, probe))):
        return None
    rows_and_targets = probe.aligned("train")
    if rows_and_targets is None or output[0].numel() != 1 or rows_and_targets[0].shape[1] > 1024:
        return None
    flat, labels = rows_and_targets
    if subject.table is not None and subject.target in (subject.table or {}):
        raw = probe.target_column  # the loss may see it standardised
        raw = (
            raw[numpy.flatnonzero(probe.in_train) if subject.train.rows is None else subject.train.rows][:: row_step(probe.train.inputs, FLAT)]
            if raw is not None
            else labels
        )
        labels = raw if len(raw) == len(labels) else labels
    if not numpy.isfinite(labels).all() or not numpy.all(labels == labels.round()):
        return None
    names, counts = numpy.unique(labels, return_counts=True)
    if not 3 <= len(names) <= 30 or not numpy.array_equal(names, numpy.arange(names[0], names[0] + len(names))) or names[0] not in (0, 1) or counts.min() < 8:
        return None
    order = numpy.random.default_rng(0).permutation(len(labels))[:800]
    rows, labels = flat[order].astype(numpy.float64), labels[order]
    rows = (rows - rows.mean(0)) / numpy.maximum(rows.std(0), 1e-9)
    half = len(rows) // 2
    design = numpy.concatenate([rows, numpy.ones((len(rows), 1))], 1)
    gram = design[:half].T @ design[:half] + 1e-1 * numpy.eye(design.shape[1])
    regression = numpy.clip((design[half:] @ numpy.linalg.solve(gram, design[:half].T @ labels[:half])).round(), names[0], names[-1])
    # Linear discriminant analysis: means of the classes, one covariance.
    means = numpy.stack([rows[:half][labels[:half] == name].mean(0) if (labels[:half] == name).any() else numpy.full(rows.shape[1], 1e6) for name in names])
    centred = rows[:half] - means[numpy.searchsorted(names, labels[:half])]
    precision = numpy.linalg.pinv(centred.T @ centred / half + 1e-2 * numpy.eye(rows.shape[1]))
    scores = rows[half:] @ precision @ means.T - 0.5 * ((means @ precision) * means).sum(1)
    classifier = names[scores.argmax(1)]
    right, rounded = float((classifier == labels[half:]).mean()), float((regression == labels[half:]).mean())
    if right - rounded > 0.15:
        return Finding(
            "L08", "warning", f"The targets are whole numbers {names[0]:.0f} to {names[-1]:.0f} met by a distance; taken as classes a linear model is right on {right:.0%}, as a number on {rounded:.0%}.",
            {"classes": len(names), "as_classes": right, "as_number": rounded},
            "The order of the numbers is imposed on names: class 3 is made to lie between 2 and 4.", f"{len(names)} outputs, CrossEntropyLoss and integer targets.",
        )  # fmt: skip
    return None


def refused_by_the_loss(subject: Subject, probe: Probe) -> Finding | None:
    """L32: a loss of torch.nn raised at the first batch, and its contract says why. None for a loss of the user's own, whose words alone would be a guess."""
    targets = probe.batch[1]
    problem = losses.shape_problem(subject.loss, probe.evaluation.picked, targets)
    if problem is None:
        return None
    target, fix = targets[0], "Change the model's last layer, the targets' shape or the loss, so that they fit."
    if probe.loss_family == "distance" and target.numel() == len(target) and bool((target == target.round()).all()):
        fix = "If the targets are class numbers: CrossEntropyLoss with one output for each class. If they are amounts: a model with one output."
    evidence = {"loss": probe.refusal, "targets": list(target.shape)}
    return Finding("L32", "error", problem, evidence, "The first step would fail with torch's own words, after files were written.", fix)


def rule_l09(subject: Subject, probe: Probe) -> Finding | None:
    """A binary cross-entropy with targets below 0 or above 1."""
    for call in probe.loss_calls("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        target = call.get("target", 1)
        values = [target.detach().float()] if isinstance(target, Tensor) else []
        if subject.loss_name is not None and probe.train.target is not None:
            values.append(probe.train.target.detach().float())
        least, most = min(float(value.min()) for value in values), max(float(value.max()) for value in values)
        if least < -1e-6 or most > 1 + 1e-6:
            return Finding(
                "L09", "error", f"Targets go from {least:g} to {most:g}.", {"least": least, "most": most}, "A binary cross-entropy wants 0 to 1: beyond, the loss falls without bound and rewards certainty alone.",
                "Map them: (y + 1) / 2 for -1/+1, y / 255 for masks.",
            )  # fmt: skip
    for call in probe.loss_calls("multilabel_soft_margin_loss"):
        target = call.get("target", 1)
        if isinstance(target, Tensor) and (float(target.min()) < 0 or float(target.max()) > 1):
            return Finding(
                "L09", "error", f"Targets go from {float(target.min()):g} to {float(target.max()):g}.", {}, "This loss wants 0 to 1.", "Map them to 0 and 1."
            )
    return None


def rule_l10(subject: Subject, probe: Probe) -> Finding | None:
    """Class labels that begin at 1, are negative, or leave gaps."""
    target, output = probe.train.target, probe.training.output
    if subject.loss_name == "SoftMarginLoss" and target is not None and float(target.min()) == 0:
        return Finding(
            "L10",
            "warning",
            "Targets are 0 and 1; SoftMarginLoss wants -1 and 1.",
            {},
            "A target of 0 has no gradient: that class is never learnt.",
            "Give 2 * y - 1.",
        )
    if target is None or output is None or target.is_floating_point() or probe.loss_family != "classes" or output.dim() < 2:
        return None
    ignored = ignored_labels(probe)
    if ignored & set(range(1000)):
        return None
    logits = next((call.input for call in probe.loss_calls("cross_entropy", "nll_loss") if isinstance(call.input, Tensor) and call.input.dim() >= 2), output)
    count = logits.shape[1]  # what the loss is given: a wrapper may have flattened (rows, time, classes)
    values = numpy.unique(
        numpy.concatenate(
            [view.target.detach().cpu().reshape(-1).numpy() for view in map(probe.view, probe.readable) if view is not None and view.target is not None]
        )
    )
    values = values[~numpy.isin(values, list(ignored))]
    if len(values) < 2:
        return None
    if values[0] < 0 or values[-1] >= count:
        code = "M27" if values[0] >= 0 and not (values[0] == 1 and values[-1] == count) else "L10"
        return Finding(
            code, "error", f"Labels go from {values[0]} to {values[-1]}; the model has {count} outputs, for labels 0 to {count - 1}.", {"least": int(values[0]), "most": int(values[-1]), "outputs": count},
            "The loss fails at the first such row.", "Number the classes from 0 on, and give the model one output for each.",
        )  # fmt: skip
    if values[0] == 1 and values[-1] == count - 1 and len(values) == count - 1 and target.dim() == 1:  # in sequences 0 is kept for padding
        return Finding(
            "L10", "warning", f"Labels go from 1 to {values[-1]} with {count} outputs: label 0 does not occur.", {"least": 1, "most": int(values[-1]), "outputs": count},
            "Output 0 is wasted, and class names are off by one.", "Subtract 1 from the labels.",
        )  # fmt: skip
    if len(values) < values[-1] - values[0] + 1:
        return Finding(
            "L10",
            "note",
            f"{len(values)} labels between {values[0]} and {values[-1]}: some numbers do not occur.",
            {},
            "Their outputs never learn.",
            "Number the classes without gaps.",
        )
    return None


def rule_m27(subject: Subject, probe: Probe) -> Finding | None:
    """More outputs than classes: a note (reserved classes). Fewer is said by `rule_l10`, which knows the labels."""
    sets = None if probe.loss_family != "classes" or not probe.train.complete else probe.classes_of_rows
    output = probe.training.output
    if sets is None or output is None or output.dim() < 2:
        return None
    most = max(int(values.max()) for values in sets.values() if len(values))
    if most + 1 < output.shape[1]:
        return Finding(
            "M27",
            "note",
            f"{output.shape[1]} outputs for labels up to {most}.",
            {"outputs": output.shape[1], "largest_label": most},
            "The others only learn to be small.",
            "One output a class.",
        )
    return None


def ignored_labels(probe: Probe) -> set[int]:
    return {int(call.get("ignore_index", 4, -100)) for call in probe.loss_calls("cross_entropy", "nll_loss")} | {-100}


def rule_l11(subject: Subject, probe: Probe) -> Finding | None:
    """Targets spread over 50 times wider than the outputs at the start, in a loss that compares the two."""
    output, target = probe.training.output, probe.train.target
    if output is None or target is None or not target.is_floating_point() or target[0].numel() != output[0].numel():
        return None
    if probe.loss_family != "distance" and not (probe.is_custom and probe.loss_family is None and compares_values(subject, probe)):
        return None
    spread, middle = float(target.detach().double().std()), float(target.detach().double().mean())
    reach = max(1.0, float(output.detach().double().std()))
    if spread > 50 * reach:
        return Finding(
            "L11", "warning", f"Targets have mean {middle:.4g} and deviation {spread:.4g}; the outputs start with deviation {float(output.detach().std()):.3g}.", {"mean": middle, "deviation": spread},
            "The last layer first has to grow by that factor: huge gradients or hundreds of epochs before anything else is learnt.",
            "Train on (y - mean) / deviation and scale back (Data.table does), or scale inside the model.",
        )  # fmt: skip
    return None


def rule_l12(subject: Subject, probe: Probe) -> Finding | None:
    """A loss of the user's that has no best value (its slope keeps one sign for all rows), or is blind to the sign of the outputs."""
    target, output = single_target(probe), probe.training.output
    if (
        not probe.is_custom
        or target is None
        or output is None
        or not probe.training.single
        or target.shape != output.shape
        or not target.is_floating_point()
        or probe.loss_family is not None
    ):
        return None
    values = target.to(output.dtype)
    spread = max(float(values.std()), 1e-6)
    made = torch.randn(output.shape, generator=torch.Generator().manual_seed(6)).to(output) * spread
    plain, shifted = value_of(probe, made, (target,)), value_of(probe, made + 0.7 * spread, (target,))

    def blind(size: float) -> bool:
        """Whether outputs of this size cost the same when rows change places, and not when all are shifted."""
        values = made / spread * size
        at, moved, away = (value_of(probe, tried, (target,)) for tried in (values, values[permutation(len(values))], values + 0.7 * size))
        return math.isfinite(at) and abs(at - moved) <= 1e-5 * abs(at) and abs(at - away) > 1e-3 * abs(at)

    # A loss of means, sums or sorted values compares two crowds. Asked at three sizes: far from the targets' own size their order drowns in rounding.
    if len(made) >= 8 and all(blind(size) for size in {spread, 1.0, max(float(output.detach().std()), 1e-3)}):
        return Finding(
            "L12", "warning", f"The loss is {plain:.4g} whichever row's output stands beside whichever row's target.", {"loss": plain},
            "It compares the outputs' mean with the targets' mean: no row learns its own target.", "Square (or take the absolute value) row by row, then the mean.",
        )  # fmt: skip
    if probe.output_operations & {"LogSoftmax", "Softmax", "Sigmoid", "LogSigmoidForward"}:
        return None  # probabilities are held together by their sum: a slope of one sign is right for them
    signs = []
    for factor in (-30.0, -3.0, -0.3, 0.3, 3.0, 30.0):
        point = (values + factor * spread).detach().requires_grad_(True)
        try:
            with torch.enable_grad(), seeds.restored(0):
                (gradient,) = torch.autograd.grad(probe.loss_of(point, (target,)), point, allow_unused=True)
        except Exception:  # this loss cannot be asked so far from its targets
            return None
        if gradient is None or not bool(torch.isfinite(gradient).all()):
            return None
        signs.append(torch.sign(gradient))
    stacked = torch.stack(signs)
    if bool((stacked == stacked.flatten()[0]).all()) and float(stacked.flatten()[0]) != 0:
        return Finding(
            "L12", "warning", "The slope of the loss has one sign for every row, far below and far above its target.", {"sign": float(stacked.flatten()[0])},
            "It has no best value: outputs run away to one side.", "Take the square or the absolute value of the difference.",
        )  # fmt: skip
    both = min(float((values > 0).float().mean()), float((values < 0).float().mean()))
    plus, minus = plain, value_of(probe, -made, (target,))
    if both > 0.05 and math.isfinite(plus) and abs(plus - minus) <= 1e-6 * abs(plus) and abs(plus - shifted) > 1e-4 * abs(plus):
        return Finding(
            "L12", "warning", "The loss is the same for outputs and for their negatives, while targets have both signs.", {"loss": plus},
            "The sign cannot be learnt.", "Compare outputs with targets before squaring, not after.",
        )  # fmt: skip
    return None


SCALE_FREE = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "Rprop", "Lion", "Adafactor", "Muon", "SparseAdam", "LBFGS")


def is_scale_free(optimizer: Any) -> bool:
    """Whether the optimizer divides the gradient by its own size, so that the loss's factor does not matter."""
    inner = getattr(optimizer, "named", None)
    kinds = [type(item).__name__ for item in (inner.values() if isinstance(inner, dict) else [getattr(optimizer, "optimizer", optimizer)])]
    return all(any(kind.startswith(name) for name in SCALE_FREE) for kind in kinds)


def rates(optimizer: Any) -> list[float]:
    return [float(group.get("lr", 0.0)) for group in optimizer.param_groups] if optimizer is not None else []


def rule_l13(subject: Subject, probe: Probe) -> Finding | None:
    """A loss that adds up over rows (twice the rows, twice the loss) with rate times batch size over 0.5 and an optimizer that feels it."""
    output, target = probe.training.output, single_target(probe)
    if output is None or target is None or not probe.training.single or not rates(subject.optimizer):
        return None
    made = probe.training.picked.detach()
    once, twice = value_of(probe, made, (target,)), value_of(probe, torch.cat([made, made]), (torch.cat([target, target]),))
    if not (math.isfinite(once) and once != 0 and abs(twice / once - 2) < 1e-3):
        return None
    rate = max(rates(subject.optimizer))
    if rate * subject.batch_size <= 0.5:
        return None
    mild = is_scale_free(subject.optimizer) or subject.clip_norm is not None
    return Finding(
        "L13", "note" if mild else "warning", f"The loss is a sum over rows; with batches of {subject.batch_size} a rate of {rate:g} works like {rate * subject.batch_size:g}.", {"rate": rate, "batch_size": subject.batch_size},
        "Steps are as many times too long as a batch has rows, and change with the batch size.", "reduction='mean', or divide by the number of rows.",
    )  # fmt: skip


def maximizes(optimizer: Any) -> bool:
    return optimizer is not None and any(bool(group.get("maximize", False)) for group in optimizer.param_groups)


def prefers_wrong(subject: Subject, probe: Probe) -> bool | None:
    """Whether the loss is lower for wrong answers than for right ones; None where it cannot be asked."""
    target, output = single_target(probe), probe.training.output
    if target is None or output is None or not probe.training.single:
        return None
    verdicts = []
    right, wrong = answers(probe, output, target), answers(probe, output, target, wrong=True)
    if right is not None and wrong is not None:
        forms: list[tuple[Any, Any]] = [(right, wrong)]
        axis = None if target.is_floating_point() else class_axis(output, target)
        forms.append((right.sigmoid(), wrong.sigmoid()) if axis is None else (right.softmax(axis), wrong.softmax(axis)))
    elif target.is_floating_point() and target.shape == output.shape and probe.loss_family is None:
        values = target.to(output.dtype)
        spread = max(float(values.std()), 1e-6)
        forms = [(values, values + 3 * spread), (values, values - 3 * spread)]
    else:
        return None
    for good, bad in forms:
        at_good, at_bad = value_of(probe, good, (target,)), value_of(probe, bad, (target,))
        if math.isfinite(at_good) and math.isfinite(at_bad) and at_good != at_bad:
            verdicts.append(at_good > at_bad)
    return None if not verdicts else all(verdicts)


def rule_l14(subject: Subject, probe: Probe) -> Finding | None:
    """A loss of the user's that is higher for right answers than for wrong ones."""
    if not probe.is_custom or maximizes(subject.optimizer):
        return None
    if prefers_wrong(subject, probe):
        return Finding(
            "L14", "warning", "The loss is higher for outputs that give the right answer than for outputs that give a wrong one.", {}, "Training makes the error as large as it can.",
            "Turn its sign, and look at the order of its arguments.",
        )  # fmt: skip
    return None


INPUT_FIRST = (
    "input",
    "pred",
    "preds",
    "prediction",
    "predictions",
    "predicted",
    "output",
    "outputs",
    "out",
    "y_pred",
    "yhat",
    "y_hat",
    "logits",
    "o",
    "p",
    "estimate",
    "forecast",
    "yp",
    "hat",
)
TARGET_FIRST = (
    "target",
    "targets",
    "y_true",
    "true",
    "truth",
    "y",
    "label",
    "labels",
    "actual",
    "actuals",
    "observed",
    "t",
    "ground_truth",
    "gt",
    "answer",
    "reference",
    "yt",
    "expected",
)


def swapped_call(probe: Probe, outputs: Tensor, target: Tensor) -> tuple[str, str, str] | None:
    """The first function inside the loss that is given the target first and the outputs second: its name and its two argument names."""
    found: list[tuple[str, str, str]] = []
    own = getattr(probe.subject.loss, "__code__", None)

    def notice(frame: Any, event: str, argument: Any) -> None:
        if event != "call" or found:
            return
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount]
        names = names[1:] if names[:1] in (("self",), ("cls",)) else names
        if len(names) < 2:
            return
        first, second = frame.f_locals.get(names[0]), frame.f_locals.get(names[1])
        if first is target and second is outputs and code is not own:
            found.append((code.co_name, names[0], names[1]))

    before = sys.getprofile()
    sys.setprofile(notice)
    try:
        with torch.no_grad():
            probe.loss_of(outputs, (target,))
    finally:
        sys.setprofile(before)
    return found[0] if found else None


def declared_quantile(loss: Any) -> float | None:
    """A quantile that the loss declares: an attribute, a keyword of functools.partial, a closure's variable called q, tau, quantile."""
    names = ("q", "tau", "quantile", "quantiles", "level", "alpha")
    places: list[dict[str, Any]] = [vars(loss)] if hasattr(loss, "__dict__") and not isinstance(loss, type) else []
    if isinstance(loss, functools.partial):
        places.append(dict(loss.keywords))
    code, closure = getattr(loss, "__code__", None), getattr(loss, "__closure__", None)
    if code is not None:
        arguments = code.co_varnames[: code.co_argcount]
        defaults = getattr(loss, "__defaults__", None) or ()
        places.append(dict(zip(arguments[len(arguments) - len(defaults) :], defaults)))
        if closure:
            places.append({name: cell.cell_contents for name, cell in zip(code.co_freevars, closure) if cell_is_full(cell)})
    for place in places:
        for name in names:
            value = place.get(name)
            if isinstance(value, float) and 0 < value < 1:
                return value
    return None


def cell_is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def rule_l15(subject: Subject, probe: Probe) -> Finding | None:
    """An asymmetric loss that hands its arguments on in reverse, or whose dearer side contradicts the quantile that it declares."""
    target, output = single_target(probe), probe.training.output
    if not probe.is_custom or target is None or output is None or target.shape != output.shape or not target.is_floating_point() or not probe.training.single:
        return None
    values = target.to(output.dtype)
    spread = max(float(values.std()), 1e-6)
    at, over, under = (value_of(probe, values + shift * spread, (target,)) for shift in (0.0, 1.0, -1.0))
    if not (math.isfinite(over) and math.isfinite(under)) or abs(over - under) <= 0.2 * max(abs(over), abs(under)):
        return None
    quantile = declared_quantile(subject.loss)
    if quantile is not None and abs(quantile - 0.5) > 0.05 and at < min(over, under):
        # A high quantile makes predictions that are too low the dear ones.
        if (over > under) == (quantile > 0.5):
            return Finding(
                "L15", "warning", f"The loss declares the quantile {quantile:g}, but predictions one deviation too {'high' if over > under else 'low'} cost {max(over, under) / max(min(over, under), 1e-12):.3g} times the others.",
                {"quantile": quantile, "too_high": over, "too_low": under}, f"It learns the quantile {1 - quantile:g}.", "Give outputs and targets in the order that the loss expects.",
            )  # fmt: skip
        return None
    found = swapped_call(probe, output.detach().clone(), target)
    if found is None or found[1].lower() in TARGET_FIRST or found[2].lower() in INPUT_FIRST:
        return None
    return Finding(
        "L15", "warning", f"The loss hands (targets, outputs) to {found[0]}({found[1]}, {found[2]}), in reverse of torch's order, and is not symmetric: too high costs {over:.3g}, too low {under:.3g}.",
        {"function": found[0], "too_high": over, "too_low": under}, "An asymmetric loss with swapped arguments learns the other side: the 5 % quantile for the 95 %.",
        f"{found[0]}(outputs, targets); if the order is meant, call the first parameter 'target'.",
    )  # fmt: skip


def rule_l16(subject: Subject, probe: Probe) -> Finding | None:
    """The loss ignores a class that occurs: ignore_index is its number, or its rows have no gradient. Padding at the ends of rows is meant."""
    target, output = probe.train.target, probe.training.output
    if target is None or output is None or target.is_floating_point() or output.dim() < 2 or not probe.has_loss:
        return None
    count = output.shape[1] if probe.loss_family == "classes" and not probe.is_custom else max(output.shape[1:])
    for label in ignored_labels(probe):
        if not 0 <= label < count:
            continue
        share = float((target == label).float().mean())
        if share < 0.005:
            continue
        if target.dim() == 2 and target.shape[1] > 2:
            ends = trailing(target, label)
            starts = trailing(target.flip(1), label)
            inside = (target == label).sum(1) - torch.maximum(ends, starts)
            if float((inside > 0).float().mean()) < 0.02:
                continue
            if isinstance(probe.train.inputs, Tensor) and (padded := padding_of(probe.train.inputs[:1000])) is not None and padded[0] == label:
                continue
        elif target.dim() > 2 and label == 0 and share > 0.3:
            continue  # background of a mask, left out on purpose
        return Finding(
            "L16", "warning", f"ignore_index={label} is a class of its own: {share:.1%} of the targets.", {"ignore_index": label, "share": share},
            "These rows have no loss: the class is never learnt, and never predicted.", "Leave ignore_index at -100, or number the classes without it.",
        )  # fmt: skip
    gradient = output_gradient(probe)
    labels = single_target(probe)
    if gradient is not None and labels is not None and labels.dim() == 1 and probe.classes_of_rows is not None:
        sizes = gradient.abs().reshape(len(gradient), -1).sum(1)
        silent = [int(name) for name in labels.unique() if int((labels == name).sum()) >= 5 and not bool(sizes[labels == name].any())]
        if silent and bool(sizes.any()) and not any(label in ignored_labels(probe) for label in silent):
            return Finding(
                "L16", "warning", f"Rows of class {silent[0]} have no gradient at all.", {"classes": silent}, "The class is never learnt.", "Look at the mask or the weights inside the loss.",
            )  # fmt: skip
    return None


def rule_l17(subject: Subject, probe: Probe) -> Finding | None:
    """The largest class weight stands at the most frequent class, which has over 90 % of the weighted share."""
    for call in probe.loss_calls("cross_entropy", "nll_loss"):
        weight, target = call.get("weight", 2), call.get("target", 1)
        if not isinstance(weight, Tensor) or not isinstance(target, Tensor) or target.is_floating_point() or len(weight) < 2:
            continue
        every = probe.train.target if probe.train.target is not None and not probe.train.target.is_floating_point() else target
        counts = torch.bincount(every.reshape(-1).clamp(0, len(weight) - 1).cpu(), minlength=len(weight)).double()
        weights = weight.detach().cpu().double()
        most = int(counts.argmax())
        share = float(weights[most] * counts[most] / (weights * counts).sum().clamp_min(1e-12))
        if int(weights.argmax()) == most and float(weights.max()) > 1.5 * float(weights.min()) and share > 0.9:
            return Finding(
                "L17", "warning", f"Class {most} has {float(counts[most] / counts.sum()):.0%} of the rows and the largest weight, {float(weights[most]):.3g}: {share:.0%} of the loss.",
                {"class": most, "weights": weights, "share": share}, "The rare classes weigh nothing: they are never predicted.", "Weights go the other way: rows / (classes * rows of the class); class_weights='balanced'.",
            )  # fmt: skip
    return None


def rule_l18(subject: Subject, probe: Probe) -> Finding | None:
    """pos_weight below 1 although positives are under 30 %."""
    for call in probe.loss_calls("binary_cross_entropy_with_logits"):
        weight, target = call.get("pos_weight", 6), call.get("target", 1)
        if not isinstance(weight, Tensor) or not isinstance(target, Tensor):
            continue
        share = target.detach().float().reshape(-1, target.shape[-1] if target.dim() > 1 else 1).mean(0)
        weight = weight.detach().reshape(-1).expand(len(share)) if weight.numel() == 1 else weight.detach().reshape(-1)
        if len(weight) != len(share):
            continue
        odd = (weight < 0.9) & (share < 0.3)
        if bool(odd.any()):
            place = int(odd.nonzero()[0, 0])
            return Finding(
                "L18", "warning", f"pos_weight is {float(weight[place]):.3g} although only {float(share[place]):.0%} are positive.", {"pos_weight": float(weight[place]), "positives": float(share[place])},
                "The rare answer counts even less: it is never predicted.", "pos_weight = negatives / positives.",
            )  # fmt: skip
    return None


def rule_l20(subject: Subject, probe: Probe) -> Finding | None:
    """The loss's gradient to an output column is exactly zero for every row: it reads a part of the output."""
    gradient = output_gradient(probe)
    name = subject.loss_name or ""
    if gradient is None or gradient.dim() < 2 or not bool(gradient.any()) or "Margin" in name or "Hinge" in name or "Embedding" in name:
        return None
    axis = 1 if gradient.dim() in (2, 4) or (probe.loss_family == "classes" and not probe.is_custom) else gradient.dim() - 1
    sizes = gradient.abs().movedim(axis, 0).reshape(gradient.shape[axis], -1).sum(1)
    silent = (sizes == 0).nonzero()[:, 0].tolist()
    if not silent or len(sizes) < 2:
        return None
    # A custom loss may hold a hinge or a mask; asked at other outputs too, a column that is never read stays silent.
    made = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(8)).to(gradient).requires_grad_(True)
    with torch.enable_grad(), seeds.restored(0):
        (again,) = torch.autograd.grad(probe.loss_of(made, probe.batch[1]), made, allow_unused=True)
    if again is not None and bool(again.detach().movedim(axis, 0)[silent].abs().nan_to_num().any()):
        return None
    return Finding(
        "L20", "warning", f"The loss does not read output column(s) {', '.join(map(str, silent[:5]))} of {len(sizes)}.", {"columns": silent[:50], "outputs": len(sizes)},
        "These outputs stay as they were initialised, and are returned as predictions all the same.", "Compare all columns, or give the model only those that are used.",
    )  # fmt: skip


def rule_l21(subject: Subject, probe: Probe) -> Finding | None:
    """A loss that is not finite: for the first batch, or for sure answers (a probability of exactly 0 or 1, logits of 40) in a loss of the user's own."""
    value = probe.training.loss
    output, target = probe.training.output, single_target(probe)
    if value is None or output is None:
        return None
    finite_data = all(bool(torch.isfinite(tensor).all()) for tensor in tensors_in(list(probe.batch)) if tensor.is_floating_point())
    if finite_data and not bool(torch.isfinite(value)):
        return Finding(
            "L21", "warning", f"The loss of the first {len(output)} rows is {float(value)}, with finite rows and targets.", {"loss": float(value)}, "One step later every weight is NaN.",
            "Look for log, sqrt and division of what can be zero or negative; torch.nn has the safe forms.",
        )  # fmt: skip
    if target is None or not probe.training.single:
        return None
    from_model = probe.evaluation.output
    if (
        from_model is not None
        and from_model.grad_fn is not None
        and type(from_model.grad_fn).__name__.startswith("Log")
        and "Softmax" not in type(from_model.grad_fn).__name__
        and "Sigmoid" not in type(from_model.grad_fn).__name__
    ):
        wide = probe.outputs(probe.calm, map_tensors(lambda tensor: tensor * 1e4 if tensor.is_floating_point() else tensor, probe.batch[0]))
        if bool(torch.isinf(wide).any()):
            return saturated("The model takes the log of a probability that becomes exactly 0 for larger inputs.")
    if not probe.is_custom or probe.loss_family is not None:
        return None
    squashed = probe.output_operations & {"Sigmoid", "Softmax"}
    sure: list[Tensor] = []
    right, wrong = answers(probe, output, target, size=40.0), answers(probe, output, target, size=40.0, wrong=True)
    if right is None or wrong is None:
        return None
    if squashed or bool(((output >= 0) & (output <= 1)).all()):
        axis = None if target.is_floating_point() else class_axis(output, target)
        sure = [item.sigmoid() if axis is None else item.softmax(axis) for item in (right, wrong)]
        sure = [(item > 0.5).to(item.dtype) for item in sure]
    else:
        sure = [right, wrong]
        inside = {call.name for call in probe.training.loss_calls}
        if "log" in inside and inside & {"softmax", "sigmoid"}:  # log(softmax(x)) by hand reaches log(0) only where logits are 104 apart
            sure += [right * 3, wrong * 3]
    middle = value_of(probe, output.detach(), (target,))
    if math.isfinite(middle) and any(not math.isfinite(raw_value(probe, item, target)) for item in sure):
        return saturated("The loss is not finite for " + ("probabilities of exactly 0 and 1." if squashed else "logits of 40."))
    return None


def raw_value(probe: Probe, outputs: Tensor, target: Tensor) -> float:
    """As `value_of`, but a refusal counts as finite: only a value that was computed can be infinite."""
    try:
        with torch.no_grad(), seeds.restored(0):
            return float(probe.loss_of(outputs, (target,)))
    except Exception:  # a loss may refuse exact zeros and ones with its own message
        return 0.0


def saturated(seen: str) -> Finding:
    return Finding(
        "L21", "warning", seen, {}, "Late in training a float32 probability rounds to 1, log(1 - p) is -inf, and all weights become NaN.",
        "Use BCEWithLogitsLoss or CrossEntropyLoss on the values before the sigmoid or softmax.",
    )  # fmt: skip


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
                "CrossEntropyLoss takes axis 1 as classes: it learns at which step something happens, not which class it is.", "outputs.transpose(1, 2), or flatten both: loss(o.flatten(0, 1), y.flatten()).",
            )  # fmt: skip
    return None


def rule_l25(subject: Subject, probe: Probe) -> Finding | None:
    """All training targets are one value."""
    target = probe.target_rows("train")
    if target is None or len(target) < 8 or (subject.loss is None and subject.feed is None):
        return None
    constant = (target == target[0]).all(0)
    if constant.all() and numpy.all(target[0] == target[0, 0]):
        return Finding(
            "L25", "warning", f"All {len(target)} training targets are {target[0, 0]:g}.", {"value": float(target[0, 0]), "rows": len(target)},
            "The loss falls to nothing at once and the model is a constant.", "Look which column was read as the target.",
        )  # fmt: skip
    if constant.any() and target.shape[1] <= 64:
        return Finding(
            "L25", "note", f"Target column(s) {numpy.flatnonzero(constant)[:5].tolist()} never vary.", {}, "They are learnt at once.", "Leave them out."
        )
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


# Metrics


def metric_value(function: Callable[..., Any], outputs: Tensor, target: Tensor) -> float:
    """A metric's value as a number, NaN where it refuses."""
    try:
        with torch.no_grad(), seeds.restored(0):
            return float(function(outputs, target))
    except Exception:  # made-up outputs need not suit every metric
        return math.nan


def metric_target(probe: Probe) -> Tensor | None:
    return single_target(probe)


def rule_e02(subject: Subject, probe: Probe) -> Finding | None:
    """mode="max" for a loss or an error, mode="min" for a score; for a metric of the user's own it is asked at right and wrong answers."""
    if subject.mode is None or (subject.keep == "last" and not subject.has_patience):
        return None
    name = subject.monitor.lower()
    falls = any(word in name for word in ("loss", "err", "mse", "mae", "rmse", "perplexity", "brier", "nll", "deviance"))
    rises = any(word in name for word in ("acc", "f1", "auc", "auroc", "r2", "precision", "recall", "iou", "dice", "map", "kappa", "mcc", "bleu"))
    best = None if falls == rises else ("min" if falls else "max")
    if best is None and subject.monitor in subject.metrics:
        target, output = metric_target(probe), probe.training.output
        if target is not None and output is not None:
            right, wrong = answers(probe, output, target, size=10.0), answers(probe, output, target, size=10.0, wrong=True)
            if right is None and target.shape == output.shape:
                right = target.to(output.dtype)
                wrong = right + 3 * right.std().clamp_min(1e-6)
            if right is not None and wrong is not None:
                good, bad = metric_value(subject.metrics[subject.monitor], right, target), metric_value(subject.metrics[subject.monitor], wrong, target)
                best = "max" if good > bad else "min" if good < bad else None
    if name == "loss" and maximizes(subject.optimizer):
        best = "max"
    if best is not None and best != subject.mode:
        return Finding(
            "E02", "warning", f"The best epoch is the one with the {'largest' if subject.mode == 'max' else 'smallest'} {subject.monitor}.", {"monitor": subject.monitor, "mode": subject.mode},
            "The worst epoch is kept.", f"mode={best!r}, or leave mode out.",
        )  # fmt: skip
    return None


def rule_e04(subject: Subject, probe: Probe) -> list[Finding] | None:
    """A metric that right answers do not satisfy: its threshold is on another scale (E04), it is broken (E05), or it looks along the batch (E12)."""
    target, output = metric_target(probe), probe.training.output
    if target is None or output is None or not probe.training.single or subject.default_metrics:
        return None
    found = []
    for name, function in subject.metrics.items():
        finding = judge_metric(probe, name, function, output, target)
        if finding is not None:
            found.append(finding)
    return found or None


RISING = (
    "accuracy",
    "acc",
    "f1",
    "auc",
    "auroc",
    "precision",
    "recall",
    "iou",
    "dice",
    "r2",
    "kappa",
    "mcc",
    "sensitivity",
    "specificity",
    "hit",
    "top1",
    "correct",
)
FALLING = ("loss", "error", "err", "mse", "mae", "rmse", "brier", "nll", "misclassified", "wrong", "errors")


def judge_metric(probe: Probe, name: str, function: Callable[..., Any], output: Tensor, target: Tensor) -> Finding | None:
    right, wrong = answers(probe, output, target, size=10.0), answers(probe, output, target, size=10.0, wrong=True)
    if right is None or wrong is None:
        return broadcast_metric(probe, name, function, output, target)
    axis = None if target.is_floating_point() or target.numel() == output.numel() else class_axis(output, target)
    squash = (lambda value: value.sigmoid()) if axis is None else (lambda value: value.softmax(axis))
    forms = {
        "logits": (right, wrong),
        "probabilities": (squash(right), squash(wrong)),
        "decisions": ((squash(right) > 0.5).to(right.dtype), (squash(wrong) > 0.5).to(right.dtype)),
    }
    values = {form: (metric_value(function, good, target), metric_value(function, bad, target)) for form, (good, bad) in forms.items()}
    if all(math.isnan(good) for good, _ in values.values()):
        return None

    def sound(pair: tuple[float, float]) -> bool:
        good, bad = pair
        return (
            (good >= 0.99 and bad < 0.7)
            or (good <= 0.011 and bad >= 0.3)
            or (abs(good - bad) > 0.3 and not (0 <= good <= 1 and 0 <= bad <= 1) and math.isfinite(good))
        )

    words = name.lower().replace("_", " ").replace("-", " ").split()
    rising = any(word in RISING for word in words) and not any(word in FALLING for word in words)
    falling = any(word in FALLING for word in words) and not any(word in RISING for word in words)
    pairs = [pair for pair in values.values() if all(map(math.isfinite, pair)) and abs(pair[0] - pair[1]) > 0.3]
    if pairs and ((rising and all(good < bad for good, bad in pairs)) or (falling and all(good > bad for good, bad in pairs))):
        good, bad = pairs[0]
        return Finding(
            "E05", "warning", f"The metric {name!r} is {good:.3g} for answers that are all right and {bad:.3g} for answers that are all wrong.", {"metric": name, "right": good, "wrong": bad},
            "It measures the opposite of what its name says: the worst model looks best.", "Look at the comparison inside (< for >, != for ==), or give it the name of what it is.",
        )  # fmt: skip
    # What the model hands to the metric: probabilities where its last operation makes them, else values of any size.
    own = "probabilities" if probe.output_operations & {"Sigmoid", "Softmax"} or probe.loss_calls("binary_cross_entropy") else "logits"
    if not any(sound(pair) for pair in values.values()):
        with Recorder() as recorder:
            metric_value(function, right, target)
        along_batch = any(
            call.name in ("argmax", "max", "softmax") and isinstance(call.input, Tensor) and call.input.dim() > 1 and call.get("dim", 1, None) == 0
            for call in recorder.calls
        )
        good, bad = values[own]
        return Finding(
            "E12" if along_batch else "E05", "warning", f"The metric {name!r} is {good:.3g} for answers that are all right and {bad:.3g} for answers that are all wrong" + (" (it takes argmax along the batch)." if along_batch else "."),
            {"metric": name, "right": good, "wrong": bad}, "It says nothing about the model.", "argmax(dim=1) over classes; compare shapes that are equal.",
        )  # fmt: skip
    if axis is None:
        small = [metric_value(function, (2 * target.to(output.dtype) - 1).reshape(output.shape) * size, target) for size in (0.1, 0.2, 0.4)]
        # A threshold makes steps: right answers of size 0.1, 0.2 and 0.4 give one value, and large ones another.
        stepped = (
            own == "logits"
            and max(small) - min(small) < 1e-9
            and sound(values["logits"])
            and not sound((small[0], values["logits"][1]))
            and abs(small[0] - values["logits"][0]) > 0.02
        )
        if stepped or not sound(values[own]):
            seen = (
                f"{small[0]:.3g} for small logits of the right sign and {values['logits'][0]:.3g} for large ones"
                if stepped
                else f"{values[own][0]:.3g} for right {own}, {values['logits' if own == 'probabilities' else 'probabilities'][0]:.3g} on the other scale"
            )
            return Finding(
                "E04", "warning", f"The metric {name!r} is {seen}.", {"metric": name, "small": small, "values": {form: pair[0] for form, pair in values.items()}},
                "Its threshold stands on another scale than the outputs: 0.5 belongs to probabilities, 0 to logits.", "Threshold logits at 0, or apply a sigmoid first.",
            )  # fmt: skip
    return None


def broadcast_metric(probe: Probe, name: str, function: Callable[..., Any], output: Tensor, target: Tensor) -> Finding | None:
    """A metric of numbers that does not feel the rows' order, and tells perfect outputs from their mean: somewhere inside it broadcasts."""
    if not target.is_floating_point() or target.numel() != output.numel() or float(target.std()) == 0:
        return None
    perfect = target.reshape(output.shape).to(output.dtype)
    constant = perfect.mean(0, keepdim=True).expand_as(perfect)
    at, permuted, flat = (metric_value(function, made, target) for made in (perfect, perfect[permutation(len(perfect))], constant))
    # A bias or a mean is blind to the order too, but cannot tell perfect outputs from their mean.
    if math.isfinite(at) and abs(at - permuted) <= 1e-5 * max(1e-6, abs(at)) and math.isfinite(flat) and abs(at - flat) > 1e-3 * max(1e-6, abs(at)):
        return Finding(
            "E05", "warning", f"The metric {name!r} is {at:.3g} for perfect outputs, the same when their rows change places, and {flat:.3g} for a constant.",
            {"metric": name, "value": at, "constant": flat}, "Shapes are broadcast against each other inside: it says nothing about the model.", "Compare outputs.flatten() with targets.flatten().",
        )  # fmt: skip
    return None


RULES: tuple[Rule, ...] = (
    rule_l01, rule_l02, rule_l03, rule_l04, rule_l05, rule_l06, rule_l07, rule_l08, rule_l09, rule_l10, rule_m27, rule_l11, rule_l12, rule_l13, rule_l14, rule_l15, rule_l16,
    rule_l17, rule_l18, rule_l20, rule_l21, rule_l22, rule_l25, rule_l31, rule_e02, rule_e04,
)  # fmt: skip
