"""Rules on targets beside the loss that gets them (letter L, M27): several labels at once, class numbers taken as amounts, ranges, weights of classes.

Enters: the targets of all splits and the calls recorded inside the loss. A rule speaks only where the loss would do harm with them: the same numbers are right elsewhere.
"""

from __future__ import annotations

import math

import numpy
import torch
from torch import Tensor

from fivestep.checks.arrays import FLAT, row_step
from fivestep.checks.asking import compares_values, output_gradient, single_target, value_of
from fivestep.checks.before_rows import padding_of, trailing
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.rules import Rule
from fivestep.checks.subject import Subject


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
                f"y / {most:g}." if least >= 0 and most >= 100 else "(y + 1) / 2." if (least, most) == (-1, 1) else "Map them to 0 and 1.",
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
    compared = target
    if probe.is_custom:  # a function that scales the target before it hands it to a torch loss has scaled it
        handed = [call.get("target", 1) for call in probe.loss_calls("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")]
        compared = next((value for value in handed if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1), target)
    spread, middle = float(compared.detach().double().std()), float(compared.detach().double().mean())
    reach = max(1.0, float(output.detach().double().std()))
    if spread > 50 * reach:
        return Finding(
            "L11", "warning", f"Targets have mean {middle:.4g} and deviation {spread:.4g}; the outputs start with deviation {float(output.detach().std()):.3g}.", {"mean": middle, "deviation": spread},
            "The last layer first has to grow by that factor: huge gradients or hundreds of epochs before anything else is learnt.",
            "Train on (y - mean) / deviation and scale back (Data.table does), or scale inside the model.",
        )  # fmt: skip
    return None


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


def rule_l25(subject: Subject, probe: Probe) -> Finding | None:
    """All training targets are one value, and the loss reads them (one that does not, as with triplets, gets placeholders)."""
    target = probe.target_rows("train")
    if target is None or len(target) < 8 or (subject.loss is None and subject.feed is None):
        return None
    single = single_target(probe)
    if probe.is_custom and single is not None and single.is_floating_point():
        read = [value_of(probe, probe.training.picked, (single + shift,)) for shift in (0.0, 1.0)]
        if math.isfinite(read[0]) and read[0] == read[1]:
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


RULES: tuple[Rule, ...] = (rule_l07, rule_l08, rule_l09, rule_l10, rule_m27, rule_l11, rule_l16, rule_l17, rule_l18, rule_l25)
