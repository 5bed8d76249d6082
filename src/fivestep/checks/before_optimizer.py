"""Rules on the optimizer and the plan (letter O), the first gradients (T01) and loaded weights (P02).

They read the optimizer's own groups, simulate its schedule, and rehearse the first twenty steps on copies.
"""

from __future__ import annotations

import itertools
import math

import numpy
from torch import nn

from fivestep.checks.asking import is_scale_free, maximizes, prefers_wrong, rates
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe, is_closure_optimizer
from fivestep.checks.rules import Rule
from fivestep.checks.subject import Subject
from fivestep.model.optimizers import RATES


def rule_o01(subject: Subject, probe: Probe) -> Finding | None:
    """In a rehearsal of twenty steps the weights move by more than their own size in one step, or a fixed batch's loss rises by half."""
    rehearsal = probe.rehearsal
    if rehearsal is None or not rehearsal.changes:
        return None
    largest = max(rehearsal.changes)
    start, end = rehearsal.first, rehearsal.last
    exploded = not math.isfinite(end) or any(not math.isfinite(value) for value in rehearsal.losses)
    rises = math.isfinite(start) and len(rehearsal.changes) >= 10 and start > 1e-3 and end > 1.5 * start and not maximizes(subject.optimizer)
    if largest > 1 or rises or (exploded and math.isfinite(start)):
        rate = max(rates(subject.optimizer), default=math.nan)
        seen = (
            f"one of the first {len(rehearsal.changes)} steps moves the weights by {largest:.2g} times their size"
            if largest > 1
            else f"the loss of one batch goes from {start:.4g} to {end:.4g} in {len(rehearsal.changes)} steps"
        )
        usual, _ = RATES.get(type(subject.optimizer).__name__, (math.inf, ""))
        lower = min(rate / 100 if largest > 3 else rate / 10, 10 * usual)
        return Finding(
            "O01", "warning", f"With a rate of {rate:g} {seen}.", {"rate": rate, "largest_step": largest, "first_loss": start, "last_loss": end},
            "The loss explodes, or units die and it freezes at that of a constant.", f"A rate of {lower:.2g}, or lr='find'.",
        )  # fmt: skip
    return None


def rule_o02(subject: Subject, probe: Probe) -> Finding | None:
    """At the rehearsal's pace the whole plan moves the weights by less than a thousandth of their size."""
    rehearsal = probe.rehearsal
    if rehearsal is None or len(rehearsal.changes) < min(5, subject.num_steps) or subject.fine_tuned:
        return None
    schedule = 1.0
    if subject.schedule is not None:
        planned = list(subject.schedule(min(subject.num_steps, 20_000)))
        begun = planned[: len(rehearsal.changes)]
        schedule = (sum(planned) / max(1, len(planned))) / max(sum(begun) / max(1, len(begun)), 1e-300)
    whole = rehearsal.travelled / len(rehearsal.changes) * schedule * subject.num_steps
    if 0 < whole < 1e-3 and any(rate > 0 for rate in rates(subject.optimizer)):
        rate = max(rates(subject.optimizer))
        return Finding(
            "O02", "warning", f"With {type(subject.optimizer).__name__} at lr={rate:g} all {subject.num_steps} steps of this run together move the weights by at most {whole:.2g} of their size; to learn they move by about their own size.",
            {"rate": rate, "whole": whole, "steps": subject.num_steps},
            "The run ends where it began: the loss stays flat, and the predictions are those of random weights.",
            f"lr={rate * min(1e5, 0.3 / whole):.1g} in place of lr={rate:g} (or lr='find', which tries rates on these rows).",
        )  # fmt: skip
    return None


def rule_o03(subject: Subject, probe: Probe) -> list[Finding] | Finding | None:
    """What the optimizer holds: another model's parameters (O05), nothing trainable (O04), or not all that is trainable (O03)."""
    if subject.optimizer is None:
        return None
    held = [parameter for group in subject.optimizer.param_groups for parameter in group["params"]]
    own = dict(subject.model.named_parameters())
    ids, places = {id(parameter) for parameter in held}, {parameter.data_ptr() for parameter in held if parameter.numel()}
    mine = {name for name, parameter in own.items() if id(parameter) in ids or (parameter.numel() and parameter.data_ptr() in places)}
    if not any(parameter.requires_grad for parameter in held):
        return Finding(
            "O04", "error", f"None of the optimizer's {len(held)} parameters can be trained.", {"parameters": len(held)}, "Nothing learns; batch norm statistics may drift and hide it.",
            "Leave requires_grad at True for what is to learn.",
        )  # fmt: skip
    if held and own and not mine:
        return Finding(
            "O05", "error", f"None of the optimizer's {len(held)} parameters belongs to the model.", {"parameters": len(held)}, "Another copy of the model is trained; this one stays as it is.",
            "Give the model's own parameters: optimizer=lambda model: SGD(model.parameters(), ...).",
        )  # fmt: skip
    missing = [name for name, parameter in own.items() if parameter.requires_grad and name not in mine]
    if missing:
        return Finding(
            "O03", "warning", f"{len(missing)} of {len(own)} trainable parameters are not in the optimizer: {', '.join(missing[:4])}.", {"parameters": missing[:20]}, "They stay as they were initialised.",
            "Add them, or set requires_grad=False (freeze=[...]) if that is meant.",
        )  # fmt: skip
    return None


def is_decoupled(kind: str, group: dict) -> bool:
    return kind in ("AdamW", "Lion", "Muon", "SGDW") or bool(group.get("decoupled_weight_decay", False))


def rule_o06(subject: Subject, probe: Probe) -> list[Finding] | None:
    """A coupled weight decay of 0.3 and more (O06), decay on norms and biases (O07, a note), momentum or betas out of range (O08)."""
    if subject.optimizer is None:
        return None
    found: dict[str, Finding] = {}
    kind = type(subject.optimizer).__name__
    names = {id(parameter): name for name, parameter in subject.model.named_parameters()}
    norms = {
        id(parameter)
        for module in subject.model.modules()
        if isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm))
        for parameter in module.parameters()
    }
    for group in subject.optimizer.param_groups:
        decay = float(group.get("weight_decay", 0) or 0)
        if decay >= 0.3 and not is_decoupled(kind, group):
            found["O06"] = Finding(
                "O06", "warning", f"{kind} with weight_decay={decay:g}.", {"weight_decay": decay}, "It is added to the gradient: the weights collapse to zero and the output to a constant.",
                "1e-4 is usual; AdamW takes up to 0.1.",
            )  # fmt: skip
        elif decay >= 0.1 and any(id(parameter) in norms or names.get(id(parameter), "").endswith("bias") for parameter in group["params"]):
            found["O07"] = Finding(
                "O07",
                "note",
                f"weight_decay={decay:g} also acts on norms and biases.",
                {"weight_decay": decay},
                "Slightly worse.",
                "A group of their own with weight_decay 0.",
            )
        momentum = float(group.get("momentum", 0) or 0)
        betas = group.get("betas", (0.9, 0.999))
        first, second = float(betas[0]), float(betas[1]) if len(betas) > 1 else 0.999
        if momentum >= 0.99 or first >= 0.99 or second < 0.9 or (kind == "RMSprop" and float(group.get("alpha", 0.99)) < 0.5):
            seen = f"momentum={momentum:g}" if momentum >= 0.99 else f"betas=({first:g}, {second:g})"
            found["O08"] = Finding(
                "O08", "warning", f"{kind} with {seen}.", {"momentum": momentum, "betas": [first, second]}, "Steps overshoot for a hundred steps, or their size follows single batches: the loss swings.",
                "momentum=0.9, betas=(0.9, 0.999).",
            )  # fmt: skip
    return list(found.values()) or None


def swings(planned: numpy.ndarray) -> int:
    """How often a schedule that begins at its top goes under a twentieth of it and climbs back over nine tenths step by step (no step over half of the top)."""
    top = planned.max()
    if planned[0] < 0.9 * top:
        return 0
    count, low = 0, False
    for before, rate in itertools.pairwise(planned):
        if rate - before > 0.5 * top:
            return 0
        low = low or rate < 0.05 * top
        if low and rate > 0.9 * top:
            count, low = count + 1, False
    return count


def rule_o09(subject: Subject, probe: Probe) -> Finding | None:
    """Of the planned steps under half have a rate over a thousandth of the largest."""
    if subject.schedule is None or subject.num_steps < 10:
        return None
    planned = numpy.asarray(list(subject.schedule(min(subject.num_steps, 50_000))), dtype=float)
    if len(planned) < 5 or planned.max() <= 0:
        return None
    asked = (
        max((float(group.get("max_lr", 0) or group.get("initial_lr", 0) or 0) for group in subject.optimizer.param_groups), default=0.0)
        if subject.optimizer
        else 0.0
    )
    # A warm-up ends at its top: rates that still rise at the last step and have not reached half of what was asked never will.
    if subject.num_steps <= 50_000 and planned[-1] == planned.max() and planned[-1] > planned[0] and planned.max() < 0.5 * asked:
        return Finding(
            "O16", "warning", f"The rate rises until the last of {subject.num_steps} steps and gets to {planned.max():.3g}; {asked:g} was asked for.", {"largest": planned.max(), "asked": asked, "steps": subject.num_steps},
            "The warm-up is longer than the run: all of it is trained at a fraction of the rate.", f"Count its length in this run's steps ({subject.num_steps}).",
        )  # fmt: skip
    share = float((planned > 1e-3 * planned.max()).mean())
    turns = swings(planned)
    # A cosine whose T_max counts epochs goes down and up again every 2 * T_max steps; warm restarts jump up, a cyclic schedule begins low.
    if turns >= 2 and share >= 0.5:
        return Finding(
            "O09", "warning", f"The rate goes from {planned.max():g} to {planned.min():.3g} and slowly back {turns} times in the {subject.num_steps} planned steps.", {"swings": turns, "planned": subject.num_steps},
            "T_max counts epochs, and the schedule is stepped each batch: the rate swings, and ends where it happens to stand.", f'scheduler={{..., "every": "epoch"}}, or T_max={subject.num_steps}.',
        )  # fmt: skip
    if share < 0.5:
        gone = int(numpy.flatnonzero(planned > 1e-3 * planned.max()).max()) + 1
        return Finding(
            "O09", "warning", f"After {gone} of {subject.num_steps} planned steps the rate is below a thousandth of {planned.max():g}.", {"steps": gone, "planned": subject.num_steps, "share": share},
            "The schedule is stepped each batch but counts epochs: the rest of the run stands still.", 'scheduler={..., "every": "epoch"}, or count its numbers in steps.',
        )  # fmt: skip
    return None


def rule_o10(subject: Subject, probe: Probe) -> Finding | None:
    """Every gradient is over a hundred times the clip: each step has the clip's length. Optimizers that divide by the gradient's size do not feel it."""
    if subject.clip_norm is None and subject.clip_value is None:
        return None
    totals = probe.gradients.totals
    if len(totals) < 2 or not all(math.isfinite(value) for value in totals):
        return None
    size = math.sqrt(sum(parameter.numel() for parameter in subject.model.parameters() if parameter.requires_grad))
    limit = subject.clip_norm if subject.clip_norm is not None else float(subject.clip_value or 0) * size
    if limit < 1e-2 * min(totals):
        mild = is_scale_free(subject.optimizer)
        asked = f"clip_norm={subject.clip_norm:g}" if subject.clip_norm is not None else f"clip_value={subject.clip_value:g}"
        usual = max(totals) if subject.clip_norm is not None else max(totals) / size
        better = f"{asked.split('=')[0]}={2 * usual:.1g}"
        return Finding(
            "O10", "note" if mild else "warning", f"{asked} cuts every gradient to a norm of at most {limit:.3g}; uncut they have {min(totals):.3g} to {max(totals):.3g} in the first {len(totals)} batches.",
            {"clip": limit, "least": min(totals), "most": max(totals)},
            f"Every step is {min(totals) / max(limit, 1e-300):,.0f} times shorter than the learning rate says, and all have one length: the run hardly moves." if not mild else "The optimizer divides by the gradient's size again, so that steps keep their length.",
            f"{better} in place of {asked}: twice the largest of them, so that only an outlier is cut.",
        )  # fmt: skip
    return None


def rule_o11(subject: Subject, probe: Probe) -> Finding | None:
    """Fewer than fifteen steps in all, from fresh weights, by an optimizer that takes one step at a time."""
    if subject.step is not None or subject.fine_tuned or subject.optimizer is None or is_closure_optimizer(subject.optimizer) or subject.num_steps >= 15:
        return None
    return Finding(
        "O11", "warning", f"{subject.epochs} epochs of {len(subject.train)} rows in batches of {subject.batch_size} are {subject.num_steps} steps.", {"steps": subject.num_steps, "epochs": subject.epochs, "batch_size": subject.batch_size},
        "The weights hardly leave their start.", "Smaller batches or more epochs: some hundreds of steps.",
    )  # fmt: skip


def rule_o13(subject: Subject, probe: Probe) -> Finding | None:
    """maximize=True with a torch loss, or with a loss that is lower for right answers."""
    if not maximizes(subject.optimizer) or not probe.has_loss:
        return None
    if subject.loss_name is not None or prefers_wrong(subject, probe) is False:
        return Finding(
            "O13", "error", f"The optimizer has maximize=True, and {subject.loss_name or 'the loss'} is lower for right answers.", {"loss": subject.loss_name or "custom"}, "Training makes the error as large as it can.",
            "Leave maximize out.",
        )  # fmt: skip
    return None


def rule_o14(subject: Subject, probe: Probe) -> Finding | None:
    """A parameter group whose rate is zero and that no schedule raises (a warm-up keeps the true rate as initial_lr)."""
    if subject.optimizer is None:
        return None
    for number, group in enumerate(subject.optimizer.param_groups):
        rate = float(group.get("initial_lr", group.get("lr", 1.0)))
        if rate == 0 and float(group.get("lr", 0.0)) == 0 and any(parameter.requires_grad for parameter in group["params"]):
            whole = len(subject.optimizer.param_groups) == 1
            names = {id(parameter): name for name, parameter in subject.model.named_parameters()}
            held = [names.get(id(parameter), "?") for parameter in group["params"]]
            return Finding(
                "O14", "warning", f"Group {number} of the optimizer has the rate 0: {', '.join(held[:4])}." if not whole else "The learning rate is 0.", {"group": number, "parameters": held[:20]},
                "These weights stay as they were initialised.", "Give the group a rate, or freeze it if that is meant.",
            )  # fmt: skip
    return None


def rule_t01(subject: Subject, probe: Probe) -> Finding | None:
    """A gradient norm over 10,000 in the first batches. A note for optimizers that divide by its size, and where the rate makes small steps of it all the same."""
    totals = probe.gradients.totals
    finite = [value for value in totals if math.isfinite(value)]
    if not totals or (finite and max(finite) <= 1e4 and len(finite) == len(totals)):
        return None
    tried = probe.rehearsal
    # What does harm is the step, rate times gradient: one that moves the weights by less than a tenth of their size and lowers the loss is none (a sum, rate 1e-6).
    small_steps = tried is not None and max(tried.changes, default=math.inf) < 0.1 and tried.last <= tried.first
    mild = len(finite) == len(totals) and (small_steps or (is_scale_free(subject.optimizer) and not (tried is not None and tried.last > 1.5 * tried.first)))
    return Finding(
        "T01", "note" if mild else "warning", f"The gradient of the first batches has a norm of {max(finite, default=math.nan):.3g}.", {"norms": totals},
        "One step throws the weights far away, or makes them NaN.", "Scale inputs and targets to a spread near 1, keep the default initialisation, clip_norm=1.",
    )  # fmt: skip


def rule_p02(subject: Subject, probe: Probe) -> Finding | None:
    """Loaded weights of which some of the model's own are missing: none or under half matched is a warning, a new head on a known body a note."""
    report = subject.weights
    if report is None:
        return None
    matched, missing = len(list(report.matched)), list(report.missing)
    renamed = [text for text in getattr(report, "said", ()) if "left out of" in text]
    if not missing and renamed and not getattr(report, "strict", True):
        return Finding(
            "P02", "warning", f"No name in these weights is the model's own; taken by other names: {renamed[0]} All {matched} tensors are filled.", {"matched": matched},
            "Loaded with strict=False in plain torch they would have filled nothing, in silence. Here the prefix was taken off.",
            "Save the inner module's weights (model.module.state_dict() under DataParallel), and load with weights_strict=True.",
        )  # fmt: skip
    if not missing:
        return None
    share = matched / (matched + len(missing))
    mild = share >= 0.5
    return Finding(
        "P02", "note" if mild else "warning", f"Of the model's {matched + len(missing)} weights {matched} were found in the file; missing: {', '.join(map(str, missing[:4]))}.",
        {"matched": matched, "missing": [str(name) for name in missing[:20]], "share": share},
        "The missing ones are random, and strict=False does not say so." if not mild else "These start at random: right for a new head.",
        "Compare the names (a 'module.' or 'model.' prefix is usual), and load with weights_strict=True.",
    )  # fmt: skip


READ: tuple[Rule, ...] = (rule_p02, rule_o03, rule_o06, rule_o09, rule_o11, rule_o14)
REHEARSED: tuple[Rule, ...] = (rule_o13, rule_o10, rule_t01, rule_o01, rule_o02)
