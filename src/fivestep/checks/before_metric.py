"""Rules on metrics (letter E): the direction of the best epoch, a threshold on another scale, a metric that does not measure what its name says.

A metric is asked at answers that are all right and all wrong, as logits, as probabilities and as decisions; only where no form makes sense is it broken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fivestep.checks.asking import answers, class_axis, maximizes, metric_value, permutation, single_target
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.recording import Recorder
from fivestep.checks.rules import Rule
from fivestep.checks.subject import Subject


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
            "It measures the opposite of what its name says: the worst model looks best.",
            f"Turn the comparison inside {name!r} round (!= for ==, < for >, 1 - value), or call it what it is: metrics={{'error': ...}}.",
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
            {"metric": name, "right": good, "wrong": bad}, f"{name!r} does not tell a good model from a bad one: no epoch and no model can be judged or chosen by it.",
            f"It gets outputs {tuple(output.shape)} and targets {tuple(target.shape)} (rows first). For the share of right answers: {example_metric(name, axis, own)}",
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


def example_metric(name: str, axis: int | None, scale: str) -> str:
    """A line that measures the share of right answers for outputs of this form."""
    if axis is not None:
        return f"metrics={{{name!r}: lambda outputs, targets: (outputs.argmax({axis}) == targets).float().mean().item()}}"
    threshold = "0.5" if scale == "probabilities" else "0"
    return f"metrics={{{name!r}: lambda outputs, targets: ((outputs.flatten() > {threshold}) == (targets.flatten() > 0.5)).float().mean().item()}}"


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
            {"metric": name, "value": at, "constant": flat}, f"Inside, outputs {tuple(output.shape)} are laid against targets {tuple(target.shape)} so that each row meets every other: {name!r} says nothing about the model.",
            f"Begin {name!r} with outputs, targets = outputs.flatten(), targets.flatten(), and index neither afterwards.",
        )  # fmt: skip
    return None


RULES: tuple[Rule, ...] = (rule_e02, rule_e04)
