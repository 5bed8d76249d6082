"""Rules on what forward does with rows (letter M): random or remembering, mixing rows, reading the future, ignoring columns, changing its input.

Each asks a copy the same thing twice with one difference (another row beside it, another seed, later steps changed) and looks what else changed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.checks.before_columns import named_column
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.recording import WEIGHT_OPERATIONS, Call, tensors_in
from fivestep.checks.rules import Rule
from fivestep.checks.subject import Subject, select
from fivestep.data.batches import map_tensors
from fivestep.train.loop import forward

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
    place, fix = where_rows_mix(probe, inputs, replaced)
    return Finding(
        code, "warning", f"Replacing one row of eight changes the outputs of the other seven by {away:.2g} of their size{seen}{place}.", {"difference": away},
        "A row's prediction depends on which rows stand beside it: training learns from mixed rows, one row alone gives another answer.", fix,
    )  # fmt: skip


def where_rows_mix(probe: Probe, inputs: Any, replaced: Any) -> tuple[str, str]:
    """Which layer mixes rows, or between which two layers forward does, as the end of a sentence, and the line to change there."""
    kept = torch.tensor([row for row in range(8) if row != 3])

    def apart(one: Any, other: Any) -> bool | None:
        """Whether the rows that were not replaced are equal; None where no axis can be told to be the rows."""
        for first, second in zip(tensors_in(one), tensors_in(other)):
            axis = next((axis for axis, length in enumerate(first.shape[:2]) if length == 8), None)
            if axis is not None and first.shape == second.shape and first.is_floating_point():
                rows = kept.to(first.device)
                return difference(first.index_select(axis, rows), second.index_select(axis, rows)) <= 1e-6
        return None

    def passed(given: Any) -> list[tuple[str, nn.Module, Any, Any]]:
        model = probe.fresh().eval()
        seen: list[tuple[str, nn.Module, Any, Any]] = []
        for name, module in model.named_modules():
            if name:
                module.register_forward_hook(lambda module, args, result, name=name: seen.append((name, module, args, result)))
        with seeds.restored(0):
            probe.outputs(model, given)
        return seen

    usual = "Keep the rows on axis 0 in all of forward: transpose in place of view, softmax, mean and norms over dim=-1."
    before = "the inputs"
    for (name, module, given, result), (_, _, other_given, other_result) in zip(passed(inputs), passed(replaced)):
        if apart(given, other_given) is False:
            return (
                f"; they are mixed in forward between {before} and layer '{name}'",
                f"Look at the lines between {before} and self.{name}: {usual[0].lower()}{usual[1:]}",
            )
        if apart(result, other_result) is False:
            kind = type(module).__name__
            outer = probe.subject.model.get_submodule(name.rpartition(".")[0])
            if type(outer).__module__ == "torch.nn.modules.transformer":  # who wrote the model made this one, not the attention inside it
                name, kind = name.rpartition(".")[0], type(outer).__name__
            if getattr(module, "batch_first", True) is False:
                return (
                    f"; layer '{name}' ({kind}) takes axis 0 for time and axis 1 for rows",
                    f"self.{name} = nn.{kind}(..., batch_first=True), and rows stay on axis 0 before and after it.",
                )
            return f"; layer '{name}' ({kind}) mixes them", f"In self.{name}: {usual[0].lower()}{usual[1:]}"
        before = f"layer '{name}'"
    return f"; they are mixed in forward after {before}", f"Look at the lines after {before} in forward: {usual[0].lower()}{usual[1:]}"


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


RULES: tuple[Rule, ...] = (rule_m06, rule_m22, rule_m23, rule_m24, rule_m03, rule_m12, rule_m32, rule_m38)
