"""Rules on a trained model: `check_trained`.

Enters: the subject, the trained model and the watch that saw it train. Leaves: findings. The decision that shaped it: the model is held against its own start,
a copy of which the watch has kept, and against the best constant answer, on training and validation rows only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.checks.after_saving import check_saved
from fivestep.checks.after_scores import decided, label_swap
from fivestep.checks.before_rows import relation_strength
from fivestep.checks.during import Watch, first_loss
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe, copy_together
from fivestep.checks.recording import tensors_in
from fivestep.checks.rules import ask
from fivestep.checks.subject import Subject


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


RULES: tuple[Callable[[Trained], Finding | None], ...] = (rule_o02, rule_m21, rule_s15, rule_t04, rule_d05, rule_p01)
