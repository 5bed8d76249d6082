"""Rules on the outputs of a scored split: `check_scores`.

Enters: outputs that `evaluate` has made, and their targets. Leaves: findings. The decision that shaped it: nothing is predicted here, so no
rule looks at the test split before its user does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from fivestep.checks.asking import answers
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.recording import tensors_in
from fivestep.checks.rules import could_not_check
from fivestep.checks.subject import Subject
from fivestep.model.losses import LOSSES


def check_scores(
    subject: Subject,
    name: str,
    outputs: Any,
    targets: tuple[Any, ...],
    *,
    train_accuracy: float | Callable[[], float] | None = None,
    ignore: Sequence[str] = (),
) -> list[Finding]:
    """Findings on the outputs of a scored split: accuracy that a constant answer reaches too (E01), one class for all rows (E13), labels numbered another way
    (S15, with `train_accuracy`, a number or how to get it).

    `outputs` are what the metrics get, `targets` a tuple of tensors in the same order.
    """
    output = next(tensors_in(outputs), None)
    if output is None or len(targets) != 1 or not isinstance(targets[0], Tensor):
        return []
    target = targets[0]
    found: list[Finding] = []
    pair = decided(output, target, 0.0 if bool(((output < 0) | (output > 1)).any()) else 0.5)
    classes = not target.is_floating_point() or (bool(((target == 0) | (target == 1)).all()) and output.numel() == target.numel())
    if pair is None or not classes or len(target) < 30 or (not target.is_floating_point() and output.dim() == target.dim() + 1 and output.shape[1] < 2):
        return found
    predicted, labels = pair
    names, counts = numpy.unique(labels, return_counts=True)
    if len(names) >= 2 and counts.max() / len(labels) > 0.9 and not subject.default_metrics:
        most = names[counts.argmax()]
        probe = Probe(subject)
        majority = answers_of(probe, output, torch.full_like(target, int(most)))
        recalls = [float((predicted[labels == label] == label).mean()) for label in names if label != most]
        chosen: dict[str, Callable[..., Any]] = {name: accuracy for name in subject.metric_names if name.lower() in ("accuracy", "acc")} | dict(subject.metrics)
        for metric, function in chosen.items():
            if majority is None:
                break
            try:
                with torch.no_grad():
                    constant, own = float(function(majority, target)), float(function(output, target))
            except Exception as error:  # a metric of the user's that refuses made-up outputs: nothing can be said about it
                found.append(could_not_check(["E01"], f"{metric}: {error}"))
                continue
            if constant > 0.9 and own < constant + 0.35 * (1 - constant) and numpy.mean(recalls) < 0.5:
                found.append(Finding(
                    "E01", "warning", f"{metric} is {own:.3f} on {name}; answering '{most}' always gives {constant:.3f}. Of the other class(es) {numpy.mean(recalls):.0%} are found.",
                    {"metric": metric, "value": own, "constant": constant, "recall": float(numpy.mean(recalls))}, "A model that never finds the rare class has nearly the same score.",
                    "Report balanced accuracy, F1 or AUROC beside it; class_weights='balanced'.",
                ))  # fmt: skip
                break
    if gives_classes(subject, output, labels):
        found += one_class(name, predicted, labels, subject.classes)
    if train_accuracy is not None and (swap := label_swap(name, predicted, labels, train_accuracy)) is not None:
        found.append(swap)
    return [finding for finding in found if finding.code not in ignore]


def gives_classes(subject: Subject, output: Tensor, labels: numpy.ndarray) -> bool:
    """Whether outputs are surely scores of classes: by the loss; under one of the user's own by an output for each class (a distance or an embedding is none)."""
    width = output.shape[1] if output.dim() > 1 else 1
    kind = LOSSES.get(subject.loss_name or "")
    if kind is not None:
        return kind.task == ("binary" if width == 1 else "multiclass")
    return 1 < width == int(labels.max()) + 1


def one_class(name: str, predicted: numpy.ndarray, labels: numpy.ndarray, classes: Sequence[Any] | None = None) -> list[Finding]:
    """E13 where all rows are given one class and there are several. Where it is the most frequent a note: with a weak relation no other answer is more often right.

    Otherwise a warning: always answering the most frequent class would score better, by a tenth of the rows and three standard errors of a share.
    """
    numbers, counts = numpy.unique(labels, return_counts=True)
    if len(numbers) < 2 or len(numpy.unique(predicted)) > 1:
        return []
    answer, most = int(predicted[0]), int(numbers[counts.argmax()])
    called, largest_called = (repr(classes[number]) if classes is not None and 0 <= number < len(classes) else str(number) for number in (answer, most))
    share, largest = float((labels == answer).mean()), float(counts.max() / len(labels))
    worse = largest - share > 0.1 + 3 * math.sqrt(0.25 / len(labels))
    beside = f", which {share:.0%} of them have" + (
        f"; the most frequent one, {largest_called}, have {largest:.0%}" if answer != most else ", more than any other"
    )
    return [
        Finding(
            "E13", "warning" if worse else "note", f"All {len(labels)} {name} rows are given class {called}{beside}.",
            {"split": name, "class": answer, "share": share, "most": most, "largest": largest},
            "The model tells no class from another: every score is that of a constant answer.",
            "Look at the training loss beside that of a constant (T04), at class weights, and at whether the rows are prepared as in training; "
            "with a rare class, choose by its probability (run.predict(rows, probabilities=True)) in place of the largest.",
        )
    ]  # fmt: skip


def label_swap(name: str, predicted: numpy.ndarray, labels: numpy.ndarray, training: float | Callable[[], float]) -> Finding | None:
    """S15 for predicted and true classes of a split. `training` is the accuracy on training rows, or how to get it: asked only where the split's is odd."""
    if len(labels) < 20:
        return None
    accuracy = float((predicted == labels).mean())
    majority = float(numpy.unique(labels, return_counts=True)[1].max() / len(labels))
    mended = renaming(predicted, labels)
    # Half of what the majority alone would give is below any guessing; a renaming that gives over 0.7 says that the model does know the classes.
    if accuracy < 0.5 * majority and mended > max(0.7, majority + 0.1) and (train_accuracy := training() if callable(training) else training) > 0.8:
        return Finding(
            "S15", "warning", f"{train_accuracy:.0%} of the training rows are right and {accuracy:.0%} of the {name} rows; with labels renamed it would be {mended:.0%}.",
            {"split": name, "train_accuracy": train_accuracy, "accuracy": accuracy, "renamed": mended}, "Labels of this split were numbered another way: its score, and every epoch chosen by it, is wrong.",
            "Number the labels once, by the training rows, and use that for all splits.",
        )  # fmt: skip
    return None


def renaming(predicted: numpy.ndarray, labels: numpy.ndarray) -> float:
    """The accuracy after the best greedy one-to-one renaming of labels."""
    names = numpy.union1d(predicted, labels)
    counts = numpy.array([[((predicted == one) & (labels == other)).sum() for other in names] for one in names], float)
    right = 0.0
    for _ in names:
        place = numpy.unravel_index(int(counts.argmax()), counts.shape)
        right += max(0.0, float(counts[place]))
        counts[place[0]], counts[:, place[1]] = -1, -1
    return right / len(labels)


def decided(output: Tensor, target: Tensor, threshold: float) -> tuple[numpy.ndarray, numpy.ndarray] | None:
    """Predicted and true classes of each row, or None where outputs are no classes."""
    labels = target.reshape(len(target), -1)
    if labels.shape[1] != 1 or output.dim() == 0:
        return None
    flat = output.detach().reshape(len(output), -1)
    predicted = flat.argmax(1) if flat.shape[1] > 1 else (flat[:, 0] > threshold).long()
    return predicted.cpu().numpy(), labels[:, 0].round().long().cpu().numpy()


def accuracy(outputs: Tensor, target: Tensor) -> float:
    """The share of rows whose class is right, for classes or for yes/no from one output."""
    pair = decided(outputs, target, 0.0 if bool(((outputs < 0) | (outputs > 1)).any()) else 0.5)
    return math.nan if pair is None else float((pair[0] == pair[1]).mean())


def answers_of(probe: Probe, output: Tensor, target: Tensor) -> Tensor | None:
    """Outputs that answer `target` clearly, on the scale of `output`: probabilities where all of it lies in [0, 1], logits otherwise."""
    made = answers(probe, output, target, size=10.0)
    if made is None or bool(((output < 0) | (output > 1)).any()):
        return made
    return made.sigmoid() if output.numel() == target.numel() else made.softmax(1)
