"""Optimizer and schedule of an ejected script, as torch's own calls with the recorded arguments.

Enters: what a run was prepared from. Leaves: the line that makes each, and the lines that move the rates after a step, an epoch or a validation. The decision
that shaped it: a sequence of schedules is written as what it does (the next one begins with the rates as they were set), as SequentialLR's bits differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.optim import lr_scheduler

from fivestep.results.eject_code import Script, call, enclosed, literal, refuse
from fivestep.results.eject_model import reach


def optimizer_section(script: Script, prepared: Any) -> str:
    optimizer, recorded = prepared.training.optimizer, prepared.training.optimizer.recorded
    if "function" in recorded:
        asked = prepared.arguments["optimizer"]
        made_by = asked["name"] if isinstance(asked, Mapping) else asked
        name = script.use(made_by, "optimizer")
        variable = "optimizers" if hasattr(optimizer, "named") else "optimizer"
        return f"{variable} = {call(name, {key: literal(value) for key, value in recorded['arguments'].items()}, first=['model'])}"
    if not hasattr(optimizer, "named"):
        return f"optimizer = {one_optimizer(script, prepared, optimizer, recorded)}"
    texts = {name: one_optimizer(script, prepared, one, recorded["optimizers"][name], 4) for name, one in optimizer.named.items()}
    if prepared.plan.user_step is not None:
        return "optimizers = {\n" + "".join(f"    {literal(name)}: {text},\n" for name, text in texts.items()) + "}"
    return "optimizers = [\n" + "".join(f"    {text},\n" for text in texts.values()) + "]"


def one_optimizer(script: Script, prepared: Any, optimizer: Any, recorded: Mapping[str, Any], indent: int = 0) -> str:
    name = script.use(type(optimizer), "optimizer")
    arguments = {key: literal(tuple(value) if isinstance(value, list) else value) for key, value in recorded["arguments"].items()}
    model = prepared.training.model
    some_frozen = any(not parameter.requires_grad for parameter in model.parameters())
    groups = recorded["parameters"]
    if groups == "all":
        first = "[parameter for parameter in model.parameters() if parameter.requires_grad]" if some_frozen else "model.parameters()"
    else:
        texts, earlier = [], []
        for group in groups:
            options = {key: value for key, value in group.items() if key != "names"}
            listed = parameters_text(prepared, group["names"], earlier)
            earlier.append(group["names"])
            items = [
                f'"params": {listed}',
                *(f"{literal(key)}: {literal(tuple(value) if isinstance(value, list) else value)}" for key, value in options.items()),
            ]
            texts.append("{" + ", ".join(items) + "}" if options or len(groups) > 1 else listed)
        first = texts[0] if len(groups) == 1 and not texts[0].startswith("{") else enclosed("[", texts, "]", indent + 4)
        if len(groups) == 1 and texts[0].startswith("{"):
            first = f"[{texts[0]}]"
    return call(name, arguments, indent, first=[first])


def parameters_text(prepared: Any, names: Sequence[str], earlier: Sequence[Sequence[str]]) -> str:
    """These parameters as a person would name them: a part's, all but a part's, else one by one."""
    model = prepared.training.model
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for part, module in model.named_modules():
        if part and [f"{part}.{name}" for name, _ in module.named_parameters()] == list(names):
            return f"{reach(part)}.parameters()"
    every = [name for name, _ in model.named_parameters()]
    condition = " and parameter.requires_grad" if len(trained) < len(every) else ""
    before = {name for group in earlier for name in group}
    parts = sorted({name.rpartition(".")[0] + "." for name in before})
    roots = [part for part in parts if not any(part != other and part.startswith(other) for other in parts)]
    common = [root.split(".")[0] + "." for root in roots]
    for prefixes in (sorted(set(common)), roots):
        if prefixes and [name for name in trained if not name.startswith(tuple(prefixes))] == list(names):
            tested = literal(prefixes[0]) if len(prefixes) == 1 else literal(tuple(prefixes))
            return f"[parameter for name, parameter in model.named_parameters() if not name.startswith({tested}){condition}]"
    prefix = common_prefix(names)
    if prefix and [name for name in trained if name.startswith(prefix)] == list(names):
        return f"[parameter for name, parameter in model.named_parameters() if name.startswith({literal(prefix)}){condition}]"
    if len(names) <= 3:
        return f"[{', '.join(reach(name) for name in names)}]"
    return enclosed("[model.get_parameter(name) for name in [", [literal(name) for name in names], "]]", 8)


def common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot."""
    prefix = names[0].rpartition(".")[0]
    while prefix and not all(name.startswith(prefix + ".") for name in names):
        prefix = prefix.rpartition(".")[0]
    return prefix + "." if prefix else ""


@dataclass
class Moves:
    """A schedule's lines: how it is made, and how it moves after a step, after an epoch, and after a validation."""

    made: str = ""
    after_step: list[str] = field(default_factory=list)
    after_epoch: list[str] = field(default_factory=list)
    after_validation: list[str] = field(default_factory=list)
    counts_steps: bool = False


def schedule_section(script: Script, prepared: Any) -> Moves:
    schedule = prepared.training.schedule
    if schedule is None:
        return Moves()
    several = hasattr(prepared.training.optimizer, "named")
    spec = prepared.arguments["scheduler"]
    tables = [dict(one) if isinstance(one, Mapping) else {"name": one} for one in (spec if isinstance(spec, (list, tuple)) else [spec])]
    texts = []
    for stage, table in zip(schedule._stages, tables, strict=True):
        texts.append(stage_text(script, schedule, stage, table, len(tables) > 1, several))
    variable = "schedules" if several else "schedule"
    listed = "optimizers.values()" if prepared.plan.user_step is not None else "optimizers"

    def made(text: str) -> str:
        return f"{variable} = [{text} for optimizer in {listed}]" if several else f"{variable} = {text}"

    def moved(argument: str = "") -> list[str]:
        return ["for schedule in schedules:", f"    schedule.step({argument})"] if several else [f"schedule.step({argument})"]

    script.imports.add("import torch")
    if len(texts) == 1:
        (stage,) = schedule._stages
        if schedule.every == "validation":
            return Moves(made(texts[0]), after_validation=moved("val_loss"))
        lines = moved()
        counter = "step" if schedule.every == "step" else "epoch + 1"
        if stage.ticks is not None:
            lines = [f"if {counter} <= {stage.ticks}:", *("    " + line for line in lines)]
        if schedule.every == "step":
            return Moves(made(texts[0]), after_step=lines, counts_steps=stage.ticks is not None)
        return Moves(made(texts[0]), after_epoch=lines)
    return sequence(schedule, texts, made, moved, several, listed)


def sequence(schedule: Any, texts: list[str], made: Any, moved: Any, several: bool, listed: str) -> Moves:
    """A warm-up, then a decay: each starts from the rates as they were set, as in torch's SequentialLR."""
    stages = schedule._stages
    counter = "step" if schedule.every == "step" else "epoch + 1"
    cycles = any(stage.name in ("OneCycleLR", "CyclicLR") for stage in stages[:-1])
    first = made(texts[0])
    groups = f"for optimizer in {listed}:\n    for group in optimizer.param_groups:" if several else "for group in optimizer.param_groups:"
    if cycles:
        if several:
            raise refuse("several optimizers whose schedule begins with a cycle. Give one scheduler, not a list.")
        first = f"start = [dict(group) for group in optimizer.param_groups]  # the rates as they were set\n{first}"
    lines: list[str] = []
    begin, switches = 0, []
    for stage, text in zip(stages[:-1], texts[1:]):
        begin += stage.ticks
        lines.append(f"{'if' if not switches else 'elif'} {counter} == {begin}:  # {stage.name} is over; the next begins with the rates as they were set")
        if cycles:
            lines += ["    for group, options in zip(optimizer.param_groups, start):", '        group.pop("initial_lr")', "        group.update(options)"]
        else:
            inner = groups.replace("\n", "\n    ").split("\n")
            lines += ["    " + inner[0], *inner[1:], ("        " if several else "    ") + '    group["lr"] = group["initial_lr"]']
        lines.append("    " + made(text))
        switches.append(begin)
    last, after_validation = stages[-1], []
    moves = [("    " + line) for line in moved()]
    if any(stage.period not in (0, 1) for stage in stages):
        starts = [0, *switches]
        for position, stage in enumerate(stages):
            limit = (
                [f"{counter} < {switches[position]}"]
                if position < len(switches)
                else [f"{counter} <= {begin + stage.ticks}"]
                if stage.ticks is not None
                else []
            )
            every = (
                [f"({counter} - {starts[position]}) % {stage.period} == 0"]
                if stage.period > 1 and starts[position]
                else [f"{counter} % {stage.period} == 0"]
                if stage.period > 1
                else []
            )
            # Each stage keeps to its own range, so that a later one's rhythm is not asked of an earlier one.
            lower = [f"{counter} > {starts[position]}"] if position else []
            conditions = " and ".join([*lower, *limit, *every]) or "True"
            lines += [f"elif {conditions}:", *moves]
    elif last.period == 0:
        lines += [f"elif {counter} < {begin}:", *moves]
        after_validation = [f"if epoch + 1 >= {begin}:", *("    " + line for line in moved("val_loss"))]
    elif last.ticks is not None:
        lines += [f"elif {counter} <= {begin + last.ticks}:", *moves]
    else:
        lines += ["else:", *moves]
    if schedule.every == "step":
        return Moves(first, after_step=lines, after_validation=after_validation, counts_steps=True)
    return Moves(first, after_epoch=lines, after_validation=after_validation)


def stage_text(script: Script, schedule: Any, stage: Any, table: dict[str, Any], in_list: bool, several: bool) -> str:
    made_by: Any = table["name"]
    if isinstance(made_by, str):
        made_by = getattr(lr_scheduler, made_by)
    if "schedulers" in table:
        raise refuse(f"scheduler: {stage.name} holds other schedulers. Write them as a list, which runs in sequence: scheduler=[...].")
    name = script.use(made_by, "scheduler")
    arguments: dict[str, str] = {}
    filled = {key.rpartition(".")[2]: value for key, value in schedule.filled_in.items() if not in_list or key.startswith(f"{stage.name}.")}
    for key, value in (filled | {key: item for key, item in table.items() if key not in ("name", "every", "epochs", "steps")}).items():
        if key == "max_lr" and key not in table:
            listed = [float(rate) for rate in value]
            arguments[key] = '[group["lr"] for group in optimizer.param_groups]' if several else literal(listed[0] if len(listed) == 1 else listed)
        elif callable(value):
            arguments[key] = script.use(value, f"scheduler.{key}")
        elif isinstance(value, (list, tuple)) and any(map(callable, value)):
            arguments[key] = f"[{', '.join(script.use(one, f'scheduler.{key}') for one in value)}]"
        else:
            arguments[key] = literal(value)
    return call(name, arguments, first=["optimizer"])
