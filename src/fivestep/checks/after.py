"""What can only be said once a model is trained, scored, saved or asked: `check_trained`, `check_scores`, `check_saved`, `check_prediction_rows`.

Each takes plain values and returns findings. Nothing is predicted on the test split here: `check_scores` gets outputs that `evaluate` has made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.checks.asking import answers
from fivestep.checks.before_forward import difference
from fivestep.checks.before_rows import relation_strength
from fivestep.checks.during import Watch, first_loss
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe, copy_together
from fivestep.checks.recording import tensors_in
from fivestep.checks.rules import ask, could_not_check
from fivestep.checks.subject import Subject
from fivestep.model.losses import LOSSES


def check_trained(subject: Subject, model: nn.Module, *, watch: Watch, ignore: Sequence[str] = ()) -> list[Finding]:
    """Findings on a model that has been trained, beside the copy of its start that `watch` holds. Model, data and random state stay as they are."""
    return [finding for finding in ask(RULES, Trained(subject, model, watch), ignore=ignore) if finding.code not in ignore]


class Trained:
    """The trained model beside its start."""

    def __init__(self, subject: Subject, model: nn.Module, watch: Watch):
        self.subject, self.model, self.watch = subject, copy_together(model)[0], watch
        self.probe = Probe(subject)
        self.probe.views = watch.probe.views
        self.start = watch.probe.fresh() if watch.probe.pair is not None else None
        self._baseline: tuple[float, float] | None = None

    @property
    def baseline(self) -> tuple[float, float] | None:
        """The loss of the best constant output on training and on validation rows; None where there is none."""
        if self._baseline is None:
            self._baseline = best_constant(self.subject, self.probe)
        return self._baseline


def best_constant(subject: Subject, probe: Probe) -> tuple[float, float] | None:
    """The loss of the best constant output, found on up to 2,000 training targets: (on them, on validation targets). None where the loss takes no such output."""
    output, view, val = probe.evaluation.output, probe.view("train"), probe.view("val")
    if output is None or view is None or val is None or not probe.evaluation.single or not probe.has_loss or output.dim() == 0 or not view.targets:
        return None
    targets = tuple(target[:2000].to(output.device) for target in view.targets)
    held = tuple(target[:2000].to(output.device) for target in val.targets)
    constant = output.detach().mean(0, keepdim=True).clone()
    if probe.loss_calls("nll_loss"):
        shape: Callable[[Tensor], Tensor] = lambda value: value.log_softmax(1)  # noqa: E731
    elif probe.loss_calls("binary_cross_entropy") or probe.output_operations == {"Sigmoid"}:
        shape = lambda value: value.sigmoid()  # noqa: E731
        constant = constant.clamp(1e-4, 1 - 1e-4).logit()
    else:
        shape = lambda value: value  # noqa: E731
        if probe.loss_family == "distance" and targets[0].shape[1:] == constant.shape[1:]:
            constant = targets[0].to(constant.dtype).mean(0, keepdim=True)
    constant.requires_grad_(True)
    optimizer = torch.optim.LBFGS([constant], lr=1.0, max_iter=60, line_search_fn="strong_wolfe")

    def loss(rows: tuple[Tensor, ...]) -> Tensor:
        return probe.loss_of(shape(constant).expand(len(rows[0]), *constant.shape[1:]), rows)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(targets)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        result = float(loss(targets)), float(loss(held))
    return result if all(map(math.isfinite, result)) else None


def rule_o02(after: Trained) -> Finding | None:
    """The whole run has moved the weights by less than a thousandth of their size."""
    if after.start is None or after.subject.fine_tuned or after.subject.optimizer is None:
        return None
    begun = {name: parameter.detach() for name, parameter in after.start.named_parameters() if parameter.requires_grad and parameter.dim() > 1}
    ended = dict(after.model.named_parameters())
    size = math.sqrt(sum(float(value.norm()) ** 2 for value in begun.values()))
    moved = math.sqrt(sum(float((ended[name].detach().cpu() - value.cpu()).norm()) ** 2 for name, value in begun.items()))
    steps = len(after.watch.losses)
    if begun and size > 0 and moved < 1e-3 * size and steps >= 5 and after.subject.keep != "best":
        rate = max((epoch.rate for epoch in after.watch.epochs), default=math.nan)
        return Finding(
            "O02", "warning", f"{steps} steps at lr={rate:g} have moved the weights by {moved / size:.2g} of their size; a model that has learnt has moved by about its own size.",
            {"moved": moved / size, "steps": steps, "rate": rate},
            "These are still the random weights of the start: nothing was learnt.", f"lr={rate * min(1e5, 0.3 * size / max(moved, 1e-300)):.1g} in place of lr={rate:g} (or lr='find', which tries rates on these rows).",
        )  # fmt: skip
    return None


def rule_m21(after: Trained) -> Finding | None:
    """With running statistics, the loss of training rows is three times as high in eval mode as in train mode."""
    norms = [module for module in after.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats]
    if not norms or not after.probe.has_loss or not after.watch.epochs:
        return None
    inputs, targets = next(after.probe.batches(1))
    losses = {}
    for mode in ("train", "eval"):
        model = copy_together(after.model)[0].train(mode == "train")
        with torch.no_grad(), seeds.restored(0):
            losses[mode] = float(after.probe.objective(model, inputs, targets))
    begun = first_loss(after.watch)
    if losses["train"] > 0 and losses["eval"] > 3 * losses["train"] and losses["eval"] - losses["train"] > 0.15 * abs(begun):
        return Finding(
            "M21", "warning", f"The same {len(next(tensors_in(inputs)))} training rows cost {losses['train']:.4g} in train mode and {losses['eval']:.4g} in eval mode.", losses,
            "Predictions use the running mean and variance of batch norm, and these are not those of the data: they are far worse than training said.",
            stale_norms(after),
        )  # fmt: skip
    return None


def stale_norms(after: Trained) -> str:
    """What to change so that the running statistics of the model's batch norms follow the data, with the layers' own names and numbers."""
    named = {name: module for name, module in after.model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats}
    steps = len(after.watch.losses)
    slow = {name: module.momentum for name, module in named.items() if module.momentum is not None and (1 - module.momentum) ** max(1, steps) > 0.01}
    if slow:
        name, momentum = next(iter(slow.items()))
        kind = type(named[name]).__name__
        return (
            f"Layer {name}: nn.{kind}({named[name].num_features}, momentum=0.1) in place of momentum={momentum:g} (after {steps} steps {(1 - momentum) ** steps:.0%} of its statistics are "
            f"still those of the start)" + (f", and the same for {', '.join(list(slow)[1:4])}." if len(slow) > 1 else ".")
        )
    name, module = next(iter(named.items()))
    return (
        f"Batches of {after.subject.batch_size} rows are too few to tell mean and variance (layer {name}): batch_size={max(32, 4 * after.subject.batch_size)}, "
        f"or nn.GroupNorm(1, {module.num_features}) in place of nn.{type(module).__name__}({module.num_features})."
    )


def rule_t04(after: Trained) -> Finding | None:
    """Training and validation loss stay at that of the best constant although neighbours or a single column see a relation; a note where they see none."""
    values = [epoch.val_loss for epoch in after.watch.epochs if epoch.val_loss is not None and math.isfinite(epoch.val_loss)]
    if not values or after.baseline is None or len(after.watch.losses) < 15 or after.subject.step is not None:
        return None
    train, val = after.baseline
    slack = 0.02
    if after.watch.epochs[-1].train_loss < train - slack * abs(train) or min(values) < val - slack * abs(val):
        return None
    strength = relation_strength(after.probe)
    seen = strength is not None and (strength["neighbours"] > 5 or strength["single"] > 6)
    course = [epoch.train_loss for epoch in after.watch.epochs]
    tail = max(1, len(course) // 5)
    falling = len(course) > 2 and course[0] - course[-1] > 0.2 * abs(course[0]) and course[-tail - 1] - course[-1] > 0.1 * (course[0] - course[-1])
    falling = falling or (len(course) > 2 and course[-tail - 1] - course[-1] > 0.1 * abs(course[-1]))  # a far start hides what the end still brings
    held = [epoch.val_loss for epoch in after.watch.epochs if epoch.val_loss is not None]
    falling = falling or (1 < len(held) < 5 and held[-1] == min(held) and course[-1] == min(course))  # too short to tell stuck from slow
    falling = falling or (len(held) > 2 and held[-1] == min(held) and held[-2] - held[-1] > 0.04 * abs(held[-1]))
    seen = seen and not falling  # on its way and out of time: T06 says so
    return Finding(
        "T04", "warning" if seen else "note", f"Validation loss is {min(values):.4g} at best, that of the best constant is {val:.4g}" + (f", though simple methods see a relation (z = {max(strength['neighbours'], strength['single']):.0f})." if seen and strength else "."),
        {"best": min(values), "constant": val, **(strength or {})}, "The model has learnt nothing beyond the mean or the most frequent class.",
        "Look at the findings above; learn eight rows by heart first; lr='find'.",
    )  # fmt: skip


def rule_d05(after: Trained) -> Finding | None:
    """What `check_before` could only suspect: no relation was visible, and validation never beat the best constant."""
    suspected = [finding for finding in after.watch.found if finding.code == "D05"]
    inputs = after.subject.train.inputs
    values = [epoch.val_loss for epoch in after.watch.epochs if epoch.val_loss is not None and math.isfinite(epoch.val_loss)]
    # Pictures and sequences hide relations from neighbours and single values: there the suspicion alone means little.
    if not suspected or not isinstance(inputs, Tensor) or not values or len(after.watch.losses) < 40 or after.baseline is None:
        return None
    train, constant = after.baseline
    if min(values) < constant - 0.03 * abs(constant):
        return None
    wide = inputs.dim() != 2 or inputs.shape[1] > 64
    course = [epoch.train_loss for epoch in after.watch.epochs]
    # There it takes eight epochs and a hundred steps in which training rows are learnt (by heart) and validation rows are not, or nothing is gained at all.
    by_heart = course[-1] < train - 0.05 * abs(train)
    if wide and (len(values) < 8 or len(after.watch.losses) < 100 or not (by_heart or min(values) > constant - 0.005 * abs(constant))):
        return None
    return Finding(
        "D05", "warning", f"{suspected[0].what} And validation never beat the best constant ({min(values):.4g} beside {constant:.4g}).", {**suspected[0].evidence, "best": min(values), "constant": constant},
        "Either these columns say nothing about the target, or rows and targets are misaligned.", "Look at a few rows beside their targets, and at how the two were joined, sorted or shuffled.",
    )  # fmt: skip


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


def outputs_on(after: Trained, name: str) -> tuple[Tensor, Tensor] | None:
    view = after.probe.view(name)
    if view is None or view.target is None or after.probe.classes_of_rows is None:
        return None
    rows = torch.arange(min(len(view.target), 1000))
    from fivestep.checks.subject import select

    model = copy_together(after.model)[0].eval()
    return after.probe.outputs(model, select(view.inputs, rows)), view.target[rows]


def rule_s15(after: Trained) -> Finding | None:
    """Training accuracy over 0.8, validation under half of the majority's share, and a renaming of labels mends it."""
    train, val = outputs_on(after, "train"), outputs_on(after, "val")
    if train is None or val is None:
        return None
    threshold = 0.5 if after.probe.output_operations & {"Sigmoid"} else 0.0
    one, two = decided(*train, threshold), decided(*val, threshold)
    if one is None or two is None:
        return None
    return label_swap("val", *two, float((one[0] == one[1]).mean()))


def rule_p01(after: Trained) -> Finding | None:
    """The start of the model with the trained state_dict loaded predicts something else than the trained model."""
    if after.start is None:
        return None
    found = check_saved(after.start, after.model, after.probe.batch[0], run=after.probe.outputs)
    return found[0] if found else None


def check_saved(fresh: nn.Module, trained: nn.Module, inputs: Any, *, run: Callable[[nn.Module, Any], Tensor] | None = None) -> list[Finding]:
    """P01 or P06 where a fresh model with the trained one's state_dict gives other outputs. `fresh` comes from the factory, or is a copy of the start."""
    from fivestep.train.loop import forward

    def default(model: nn.Module, given: Any) -> Tensor:
        with torch.no_grad():
            return next(tensors_in(forward(model, given)))

    run = run or default
    loaded, live = copy_together(fresh)[0].eval(), copy_together(trained)[0].eval()
    state = {key: value.detach().clone() for key, value in live.state_dict().items()}
    loaded.load_state_dict(state, strict=False)
    with seeds.restored(0):
        expected = run(live, inputs)
    with seeds.restored(1):
        again = run(copy_together(trained)[0].eval(), inputs)
    if difference(expected, again) > 1e-6:
        return []  # predictions are random: M03, M28 or M30 have said so
    with seeds.restored(0):
        got = run(loaded, inputs)
    away = difference(expected, got)
    if away <= 1e-5:
        return []
    kept = dict(loaded.named_buffers())
    lost = [name for name, buffer in live.named_buffers() if name not in state and (name not in kept or not torch.equal(kept[name], buffer))]
    if lost:
        return [Finding(
            "P06", "warning", f"Loaded into a fresh model, the weights predict something else (difference {away:.2g}): buffer(s) {', '.join(lost[:4])} are not in state_dict.", {"buffers": lost, "difference": away},
            "What was fitted into them is lost when the model is saved.", "register_buffer(name, value) without persistent=False.",
        )]  # fmt: skip
    plain = changed_attributes(fresh, trained)
    return [Finding(
        "P01", "warning", f"Loaded into a fresh model, the weights predict something else (difference {away:.2g} of the outputs' size)" + (f"; changed in training: {', '.join(plain[:4])}." if plain else "."),
        {"difference": away, "attributes": plain}, "A part of what was learnt stands in plain attributes, which state_dict does not hold: it is lost when the model is saved.",
        f"self.register_buffer('{plain[0] if plain else 'mean'}', ...) for tensors; for settings, the constructor's arguments.",
    )]  # fmt: skip


def changed_attributes(fresh: nn.Module, trained: nn.Module) -> list[str]:
    """Names of plain attributes (tensors, arrays, numbers) that differ between a fresh and a trained model."""
    others = dict(fresh.named_modules())
    found = []
    for name, module in trained.named_modules():
        before = vars(others[name]) if name in others else {}
        for key, value in vars(module).items():
            if key.startswith("_") or key == "training":
                continue
            old = before.get(key)
            if isinstance(value, (Tensor, numpy.ndarray)):
                same = type(old) is type(value) and old.shape == value.shape and bool((old == value).all())  # type: ignore[union-attr]
            elif isinstance(value, (bool, int, float, str, type(None))):
                same = old == value
            else:
                continue
            if not same:
                found.append(f"{name}.{key}" if name else key)
    return found


RULES: tuple[Callable[[Trained], Finding | None], ...] = (rule_o02, rule_m21, rule_s15, rule_t04, rule_d05, rule_p01)


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
        found += one_class(name, predicted, labels)
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


def one_class(name: str, predicted: numpy.ndarray, labels: numpy.ndarray) -> list[Finding]:
    """E13 where all rows are given one class and there are several. Where it is the most frequent a note: with a weak relation no other answer is more often right.

    Otherwise a warning: always answering the most frequent class would score better, by a tenth of the rows and three standard errors of a share.
    """
    names, counts = numpy.unique(labels, return_counts=True)
    if len(names) < 2 or len(numpy.unique(predicted)) > 1:
        return []
    answer, most = int(predicted[0]), names[counts.argmax()]
    share, largest = float((labels == answer).mean()), float(counts.max() / len(labels))
    worse = largest - share > 0.1 + 3 * math.sqrt(0.25 / len(labels))
    beside = f", which {share:.0%} of them have" + (f"; the most frequent one, {most}, have {largest:.0%}" if answer != most else ", more than any other")
    return [
        Finding(
            "E13", "warning" if worse else "note", f"All {len(labels)} {name} rows are given class {answer}{beside}.",
            {"split": name, "class": answer, "share": share, "most": int(most), "largest": largest},
            "The model tells no class from another: every score is that of a constant answer.",
            "Look at the training loss beside that of a constant (T04), at class weights, and at whether the rows are prepared as in training; "
            "with a rare class, choose by its probability (run.predict(rows, probabilities=True)) in place of the largest.",
        )
    ]  # fmt: skip


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


@dataclass(frozen=True)
class TrainingStatistics:
    """What the training rows looked like, column by column: float64 arrays (columns,). `steady` are columns whose mean and spread mean something."""

    mean: numpy.ndarray
    deviation: numpy.ndarray
    least: numpy.ndarray
    most: numpy.ndarray
    steady: numpy.ndarray
    names: tuple[str, ...] = ()
    axes: int = 2

    def to_json(self) -> dict[str, Any]:
        return {
            key: value.tolist() if isinstance(value, numpy.ndarray) else value if isinstance(value, int) else list(value) for key, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TrainingStatistics:
        arrays = {key: numpy.asarray(record[key], dtype=bool if key == "steady" else numpy.float64) for key in ("mean", "deviation", "least", "most", "steady")}
        return cls(**arrays, names=tuple(record["names"]), axes=int(record.get("axes", 2)))


def by_column(values: Any) -> numpy.ndarray | None:
    """Rows as (values, columns): a matrix as it is, sequences (n, time, features) by feature, pictures (n, channels, height, width) by channel; None for others.

    Floating (and 8-bit) values only; at most about a million of them, spread over the rows.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) and values.dtype != torch.bfloat16 else values
    if (
        not isinstance(array, numpy.ndarray)
        or array.ndim not in (2, 3, 4)
        or len(array) == 0
        or (array.dtype.kind != "f" and not (array.ndim == 4 and array.dtype == numpy.uint8))
    ):
        return None
    array = array[:: max(1, array.size // 1_000_000)]
    if array.ndim == 4:
        array = numpy.moveaxis(array, 1, -1)
    return array.reshape(-1, array.shape[-1]).astype(numpy.float64)


def training_statistics(subject: Subject) -> TrainingStatistics | None:
    """Statistics of the training inputs, to hold prediction rows against; None where inputs are no matrix, sequences or pictures of numbers (or wider than 4,096)."""
    inputs = subject.train.inputs
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.dim() not in (2, 3, 4) or len(inputs) < 10:
        return None
    if inputs.shape[1 if inputs.dim() == 4 else -1] > 4096:
        return None
    rows = by_column(inputs)
    assert rows is not None
    modal = numpy.array([numpy.unique(column[:2000], return_counts=True)[1].max() / len(column[:2000]) for column in rows.T])
    with numpy.errstate(invalid="ignore"):
        deviation = rows.std(0)
    return TrainingStatistics(rows.mean(0), deviation, rows.min(0), rows.max(0), (modal < 0.8) & (deviation > 0), tuple(subject.used), inputs.dim())


def check_prediction_rows(statistics: TrainingStatistics | None, rows: Any, *, ignore: Sequence[str] = ()) -> list[Finding]:
    """I01 where prediction rows lie elsewhere than the training rows did, I02 where another order of the columns would put them right.

    `rows` is a matrix (n, columns) of what the model would get. Few rows are held against the training range, more against mean and spread.
    """
    if statistics is None or rows is None:
        return []
    given = rows.detach().cpu() if isinstance(rows, Tensor) else numpy.asarray(rows)
    if given.ndim != statistics.axes or len(given) == 0:
        return []
    whole = (not isinstance(given, Tensor) and given.dtype.kind in "iu") or (isinstance(given, Tensor) and not given.is_floating_point())
    few = len(given) < 5
    by = by_column(numpy.asarray(given, dtype=numpy.float64) if whole else given)
    if by is None or by.shape[1] != len(statistics.mean):
        return []
    rows = by
    steady = statistics.steady & numpy.isfinite(rows).all(0)
    if steady.sum() < 1:
        return []
    found: list[Finding] = []
    mean, deviation = statistics.mean, numpy.maximum(statistics.deviation, 1e-12)
    if few:
        width = statistics.most - statistics.least
        outside = ((rows < statistics.least - width) | (rows > statistics.most + width)).mean(0)[steady]
        if float((outside > 0.5).mean()) > 0.3:
            found.append(elsewhere(float((outside > 0.5).mean()), "lie a whole training range outside of it", {}))
        return [finding for finding in found if finding.code not in ignore]
    shift = numpy.abs(rows.mean(0) - mean) / deviation
    ratio = numpy.maximum(rows.std(0), 1e-12) / deviation
    odd = shift > 3
    if len(rows) >= 20:
        odd |= numpy.maximum(ratio, 1 / ratio) > 4
    share = float(odd[steady].mean())
    order = (
        better_order(rows, mean, deviation, steady)
        if len(rows) >= 20 and steady.sum() >= 3 and (share > 0.3 or float((shift[steady] > 1).mean()) > 0.3)
        else None
    )
    if order is not None:
        found.append(Finding(
            "I02", "warning", f"{share:.0%} of the columns are far from where they were in training, and in the order {order} all of them fit.", {"order": order, "share": share},
            "The columns come in another order than in training: each weight meets another column.", "Predict a frame with named columns, or restore the order.",
        ))  # fmt: skip
    elif share > 0.3:
        found.append(
            elsewhere(
                share,
                f"have means {numpy.median(shift[steady]):.3g} training deviations away or another spread (times {numpy.median(ratio[steady]):.3g})",
                {"shift": float(numpy.median(shift[steady])), "ratio": float(numpy.median(ratio[steady]))},
            )
        )
    return [finding for finding in found if finding.code not in ignore]


def elsewhere(share: float, seen: str, evidence: dict[str, Any]) -> Finding:
    return Finding(
        "I01", "warning", f"{share:.0%} of the columns of these rows {seen}.", {"share": share, **evidence}, "They were not prepared as the training rows were: predictions are those of a stranger.",
        "Apply the scaling fitted in training (mean and deviation of the training rows), or let Data.table do it.",
    )  # fmt: skip


def better_order(rows: numpy.ndarray, mean: numpy.ndarray, deviation: numpy.ndarray, steady: numpy.ndarray) -> list[int] | None:
    """An order of the columns in which rows fit the training statistics, or None: the cheapest pairs first."""
    columns = numpy.flatnonzero(steady)
    if len(columns) > 300:
        return None
    given_mean, given_spread = rows.mean(0)[columns], numpy.maximum(rows.std(0)[columns], 1e-12)
    cost = numpy.abs(given_mean[:, None] - mean[columns][None]) / deviation[columns][None] + numpy.abs(
        numpy.log(given_spread[:, None] / deviation[columns][None])
    )
    if float(cost.diagonal().mean()) < 0.5:
        return None
    remaining, order, costs = cost.copy(), list(range(len(mean))), []
    for _ in columns:
        place, wanted = numpy.unravel_index(int(remaining.argmin()), remaining.shape)
        costs.append(float(cost[place, wanted]))
        order[int(columns[wanted])] = int(columns[place])
        remaining[place], remaining[:, wanted] = numpy.inf, numpy.inf
    return order if max(costs) < 0.5 and order != list(range(len(mean))) else None


def check_categories(known: Mapping[str, Sequence[Any]], rows: Mapping[str, Sequence[Any]], *, ignore: Sequence[str] = ()) -> list[Finding]:
    """I05 for each column with levels that training did not have. `known` holds the levels, `rows` the values asked for, by column."""
    found = []
    for name, levels in known.items():
        if name not in rows or "I05" in ignore:
            continue
        allowed = set(map(str, levels))
        new = sorted({str(value) for value in rows[name] if value is not None} - allowed)
        if new:
            found.append(Finding(
                "I05", "warning", f"'{name}' has {len(new)} level(s) that training did not have: {', '.join(new[:5])}.", {"column": name, "levels": new[:20]},
                "Nothing was learnt about them.", "Map them to known levels; look for spelling.",
            ))  # fmt: skip
    return found


def check_resumed(loss_at_save: float, loss_at_resume: float) -> list[Finding]:
    """P04 where the first loss after resuming is over 1.5 times the last one before."""
    if loss_at_save > 0 and loss_at_resume > 1.5 * loss_at_save:
        return [Finding("P04", "warning", f"The loss was {loss_at_save:.4g} when saved and is {loss_at_resume:.4g} after resuming.", {"saved": loss_at_save, "resumed": loss_at_resume},
                        "Optimizer, schedule or statistics were not restored.", "resume(folder) restores all of them.")]  # fmt: skip
    return []
