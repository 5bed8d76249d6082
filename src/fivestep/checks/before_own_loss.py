"""Rules on what a loss does, whoever wrote it (letter L): no best value, a sum over rows, the wrong sign, swapped arguments, outputs that it never reads, log(0).

A hand-written loss has no name to go by: it is asked at right and wrong answers, at outputs far away, and with rows in another order.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any

import torch
from torch import Tensor

from fivestep import seeds
from fivestep.checks.asking import (
    answers,
    class_axis,
    is_scale_free,
    maximizes,
    output_gradient,
    permutation,
    prefers_wrong,
    rates,
    raw_value,
    single_target,
    value_of,
)
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.recording import tensors_in
from fivestep.checks.rules import Rule
from fivestep.checks.subject import Subject
from fivestep.data.batches import map_tensors


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


# Outputs that are a distance (twins): alike, a target of 1, means a small one, so "right" and "wrong" cannot be told from the numbers.
DISTANCES = {"LinalgVectorNorm", "Norm", "Sqrt", "Cdist", "EuclideanDist"}


def rule_l14(subject: Subject, probe: Probe) -> Finding | None:
    """A loss of the user's that is higher for right answers than for wrong ones."""
    if not probe.is_custom or maximizes(subject.optimizer) or probe.output_operations & DISTANCES:
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


def rule_l20(subject: Subject, probe: Probe) -> Finding | None:
    """The loss's gradient to an output column is exactly zero for every row: it reads a part of the output."""
    gradient = output_gradient(probe)
    name = subject.loss_name or ""
    if gradient is None or gradient.dim() < 2 or not bool(gradient.any()) or "Margin" in name or "Hinge" in name or "Embedding" in name:
        return None
    axis = 1 if gradient.dim() in (2, 4) or (probe.loss_family == "classes" and not probe.is_custom) else gradient.dim() - 1
    sizes = gradient.abs().movedim(axis, 0).reshape(gradient.shape[axis], -1).sum(1)
    silent = (sizes == 0).nonzero()[:, 0].tolist()
    for call in probe.loss_calls("nll_loss"):  # it reads the log-probability of each row's own class: a class that this batch lacks gets no gradient
        labels = call.get("target", 1)
        silent = [column for column in silent if isinstance(labels, Tensor) and bool((labels == column).any())]
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
        first = next((call for call in probe.training.loss_calls if isinstance(call.result, Tensor) and not bool(torch.isfinite(call.result).all())), None)
        seen, place = "", "the log, root or division inside the loss"
        if first is not None and isinstance(first.input, Tensor):
            least, most = float(first.input.detach().min()), float(first.input.detach().max())
            seen, place = f"; inside it {first.name} was given values from {least:.3g} to {most:.3g}", f"what the loss gives to {first.name}"
        return Finding(
            "L21", "warning", f"The loss of the first {len(output)} rows is {float(value)}, with finite rows and targets{seen}.", {"loss": float(value)}, "One step later every weight is NaN.",
            f"Keep {place} above zero: .clamp_min(1e-6), or softplus for what may be negative; for probabilities F.logsigmoid(x), x.log_softmax(1).",
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


def saturated(seen: str) -> Finding:
    return Finding(
        "L21", "warning", seen, {}, "Late in training a float32 probability rounds to 1, log(1 - p) is -inf, and all weights become NaN.",
        "In the loss: F.logsigmoid(x) for x.sigmoid().log(), F.logsigmoid(-x) for (1 - x.sigmoid()).log(), x.log_softmax(1) for x.softmax(1).log(); or BCEWithLogitsLoss, CrossEntropyLoss on what comes before the sigmoid or softmax.",
    )  # fmt: skip


RULES: tuple[Rule, ...] = (rule_l12, rule_l13, rule_l14, rule_l15, rule_l20, rule_l21)
