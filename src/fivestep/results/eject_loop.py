"""The loss and the five steps of an ejected script.

Enters: what a run was prepared from. Leaves: text in the order of events, with only the lines that this run used. The decision that shaped it: each feature
that can change a weight adds its own lines at the place where it acts in `train/epochs.py` and `train/loop.py`, so that the two can be read side by side.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.data.augmenting import ShiftAndFlip
from fivestep.data.batches import map_tensors, tensors_of
from fivestep.model import loss_means, losses, models
from fivestep.model.weights import same_bits
from fivestep.results.eject_code import WIDTH, Script, call, constructor, literal, refuse, source_with_needs
from fivestep.results.eject_data import Names, use_derive, use_generator
from fivestep.results.eject_model import reach, seeding
from fivestep.results.eject_optimizer import Moves
from fivestep.train import loop

# -- the loss --------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Fed:
    """How the loss is called: `value(outputs, target names)` as text, what its mean is over, and whether it gives (total, weight)."""

    call: str  # with {outputs} and the names of targets and weights in place
    pair: bool = False
    pick: str = "{outputs}"


def loss_section(script: Script, prepared: Any, names: Names) -> tuple[str, Fed | None]:
    """(`loss = nn.HuberLoss()`, how it is called). None with compute= or step=."""
    loss = prepared.loss
    if loss is None:
        return "", None
    if prepared.training.loss_module is not None and any(True for _ in prepared.training.loss_module.parameters()):
        raise refuse(f"the loss {prepared.loss_name} has weights of its own. Put its layer at the end of the model, and use CrossEntropyLoss or NLLLoss.")
    ensemble = isinstance(prepared.training.model, models.Ensemble)
    text = loss_text(script, prepared)
    lines = []
    if ensemble:
        source, imports = source_with_needs(models.member_loss)
        script.define("member_loss", source, *imports)
        text = f"member_loss({text})" if not names.weights else text
    if prepared.settings.asked.get("class_weights") == "balanced":
        lines.append("# The class weights are balanced by the training rows.")
    lines.append(f"loss = {text}")
    kind = losses.kind_of(loss)
    targets = ", ".join(names.targets)
    pick = picked(script, prepared)
    spread = spread_outputs(prepared, kind)
    if prepared.loss_name == "GaussianNLLLoss":
        called = f"loss({{outputs}}[0], {targets}, {{outputs}}[1])"
    else:
        called = f"loss({'*' if spread else ''}{{outputs}}{', ' + targets if targets else ''})"
    if names.weights:
        called = weighted(script, prepared, names, called)
        if ensemble:
            lines.append("weighted_loss = member_loss(weighted_loss)")
    return "\n".join(lines), Fed(called, returns_pair(prepared), pick)


def loss_text(script: Script, prepared: Any) -> str:
    loss, asked = prepared.loss, prepared.arguments["loss"]
    if isinstance(loss, nn.Module) and losses.loss_name(loss) is not None and type(loss).__module__.startswith("torch."):
        script.imports.add("from torch import nn")
        if isinstance(getattr(loss, "weight", None) if not isinstance(loss, nn.BCEWithLogitsLoss) else loss.pos_weight, Tensor):
            script.imports.add("import torch")
        return constructor(loss, "loss")
    if isinstance(loss, functools.partial):
        script.imports.add("import functools")
        return call("functools.partial", {key: literal(value) for key, value in loss.keywords.items()}, first=[script.use(loss.func, "loss")])
    if isinstance(loss, nn.Module):
        table = dict(asked) if isinstance(asked, Mapping) else {"name": asked}
        cls = table.pop("name")
        if not inspect.isclass(cls):
            if inspect.signature(type(loss)).parameters:
                raise refuse(f"loss was an instance of {type(loss).__name__}. Give the class with its arguments: loss={{'name': {type(loss).__name__}, ...}}.")
            cls = type(loss)
        if prepared.settings.asked.get("class_weights") is not None:
            raise refuse("class weights of a loss of your own. Pass them as an argument of the loss.")
        return call(script.use(cls, "loss"), {key: literal(value) for key, value in table.items()})
    return script.use(loss, "loss")


def picked(script: Script, prepared: Any) -> str:
    output = prepared.arguments["output"]
    if output is None:
        return "{outputs}"
    return f"{script.use(output, 'output')}({{outputs}})" if callable(output) else f"{{outputs}}[{literal(output)}]"


def sample_outputs(prepared: Any) -> Any:
    """What the loss sees of the model's outputs for one row or two."""
    source = prepared.encoded["train"]
    inputs = source.take(torch.arange(min(len(source), 2)))[0]
    inputs = map_tensors(lambda tensor: tensor.to(prepared.device), inputs)
    with seeds.restored(0), loop.evaluating(prepared.training.model):
        outputs = loop.forward(prepared.training.model, inputs)
    return outputs if prepared.predictor.pick is None else prepared.predictor.pick(outputs)


def spread_outputs(prepared: Any, kind: Any) -> bool:
    if kind is not None:
        return kind.num_outputs > 1
    return isinstance(sample_outputs(prepared), (tuple, list))


def returns_pair(prepared: Any) -> bool:
    """Whether the user's own loss gives (total, weight)."""
    if losses.kind_of(prepared.loss) is not None:
        return False
    source = prepared.encoded["train"]
    _, targets, weights = source.take(torch.arange(min(len(source), 2)))
    with seeds.restored(0), torch.no_grad():
        value = loss_means.feed(prepared.loss, weighted=weights is not None)(sample_outputs(prepared), targets, *(() if weights is None else (weights,)))
    return isinstance(value, tuple)


def weighted(script: Script, prepared: Any, names: Names, called: str) -> str:
    """The weighted mean over rows as a function of the script; returns its call."""
    source, loss = prepared.encoded["train"], prepared.loss
    kind = losses.kind_of(loss)
    if prepared.loss_name in ("CTCLoss", "AdaptiveLogSoftmaxWithLoss") or ignored_labels(prepared):
        raise refuse(f"sample weights with {prepared.loss_name} or ignored labels. Leave those rows out, or write the weights into a loss of your own.")
    targets, w = ", ".join(names.targets), names.weights
    lines = [f"    values = {called.format(outputs='outputs')}"]
    labels = kind is not None and kind.mean_over == "labels" and not source.targets[0].is_floating_point()
    class_weighted = labels and getattr(loss, "weight", None) is not None
    if not labels and tensors_of(sample_outputs(prepared))[0].dim() > 1:
        lines.append("    values = values.reshape(len(values), -1).mean(1)")
    elif labels and source.targets[0].dim() > 1:
        raise refuse("sample weights with several labels a row. Write the weights into a loss of your own.")
    divisor = f"(loss.weight[{names.targets[0]}] * {w}).sum()" if class_weighted else f"{w}.sum()"
    lines.append(f"    return (values * {w}).sum() / {divisor}")
    text = f'def weighted_loss(outputs, {targets}, {w}):\n    """The mean over the rows by their weights."""\n' + "\n".join(lines)
    script.define("weighted_loss", text)
    return f"weighted_loss({{outputs}}, {targets}, {w})"


def ignored_labels(prepared: Any) -> bool:
    kind = losses.kind_of(prepared.loss)
    if kind is None or kind.mean_over != "labels":
        return False
    return any(
        not source.targets[0].is_floating_point() and not bool(losses.counted_labels(prepared.loss, source.targets[0]).all())
        for source in prepared.encoded.values()
    )


def mean_over(prepared: Any, names: Names) -> tuple[str | None, bool]:
    """(what the mean of a batch is a mean of, as text; whether it is a whole number of rows or elements). None: the loss is a sum."""
    loss, y, w = prepared.loss, names.targets[0] if names.targets else "", names.weights
    kind = losses.kind_of(loss) if loss is not None else None
    source = prepared.encoded["train"]
    ignored = getattr(loss, "ignore_index", -100)
    class_weight = getattr(loss, "weight", None) if kind is not None and kind.mean_over == "labels" and not source.targets[0].is_floating_point() else None
    if kind is not None and w is None and getattr(loss, "reduction", "mean") == "sum":
        return None, True
    if w is not None:
        return (f"(loss.weight.double()[{y}] * {w}.double()).sum().item()" if class_weight is not None else f"{w}.sum(dtype=torch.float64).item()"), False
    if kind is None or not names.targets:
        return f"len({names.all[0]})", True
    if class_weight is not None:
        counted = f"{y}[{y} != {ignored}]" if ignored_labels(prepared) else y
        return f"loss.weight.double()[{counted}].sum().item()", False
    if ignored_labels(prepared):
        return f"({y} != {ignored}).sum().item()", False
    if kind.mean_over in ("elements", "labels") and source.targets[0].numel() != len(source.targets[0]):
        if kind.mean_over == "labels" and source.targets[0].is_floating_point():
            return f"len({y})", True
        return f"{y}.numel()", True
    return f"len({y})", True


# -- the loop --------------------------------------------------------------------------------------------------------------------------------------------------


def loop_section(script: Script, prepared: Any, names: Names, fed: Fed | None, moves: Moves) -> str:
    """From the first epoch to the kept weights."""
    plan, training = prepared.plan, prepared.training
    num_rows, batch_size = len(prepared.encoded["train"]), plan.batches.batch_size
    whole = plan.batches.chosen is None and batch_size >= num_rows
    several = hasattr(training.optimizer, "named")
    average = training.average
    validates = plan.validate is not None
    best = plan.keep == "best" and validates
    patience = training.stopping.patience if validates else None
    lines: list[str] = []

    # what stands before the loop
    before: list[str] = []
    if average is not None:
        script.imports.add("import copy")
        before.append(
            f"averaged = copy.deepcopy(model)  # {'a moving average of the weights' if average.name == 'EMA' else 'the mean of the weights of the last epochs'}"
        )
        moving_average(script, training.model, average)
    if best:
        before.append("best, best_weights = " + ("math.inf" if training.stopping.mode == "min" else "-math.inf") + ", None")
        script.imports.add("import math")
    elif patience is not None:
        before.append("best = " + ("math.inf" if training.stopping.mode == "min" else "-math.inf"))
        script.imports.add("import math")
    if patience is not None:
        before.append("waited = 0  # validations since the best one")
    if moves.counts_steps:
        before.append("step = 0")
    if training.scaler is not None:
        before.append(f'scaler = torch.amp.GradScaler("{prepared.device.type}")  # keeps small gradients in the range of float16')
    if plan.clipping is not None:
        optimizer_groups = "for optimizer in optimizers for group in optimizer.param_groups" if several else "for group in optimizer.param_groups"
        single = not several and len(training.optimizer.param_groups) == 1 and all(p.requires_grad for p in training.model.parameters())
        before.append("parameters = list(model.parameters())" if single else f'parameters = [parameter {optimizer_groups} for parameter in group["params"]]')

    # an epoch
    lines.append("for epoch in range(EPOCHS):")
    body: list[str] = []
    if may_draw(training.model, plan):
        use_derive(script)
        body += seeding(script, training.model, 'derive(SEED, "forward", epoch)', forward=True)
    body.append("model.train()")
    module_names = {id(module): name for name, module in training.model.named_modules()}
    body += [f"{reach(module_names[id(module)])}.eval()" for module in plan.frozen]
    body.append("losses = []")
    steps = step_lines(script, prepared, names, fed, moves)
    if plan.batches.chosen is not None:
        use_generator(script)
        chosen = script.use(plan.batches.chosen, "batches")
        refuse_if_global(lambda: list(plan.batches.chosen(0, seeds.generator(0, "order", 0))), "batches")
        taken = [f"{', '.join(names.all)} = {', '.join(f'{name}_train[rows]' for name in names.all)}"]
        numbered = "step_in_epoch, rows in enumerate(" if plan.batches.augment else "rows in "
        body.append(f'for {numbered}{chosen}(epoch, generator(SEED, "order", epoch)){")" if plan.batches.augment else ""}:')
        body += ["    " + line for line in [*taken, *steps]]
    elif whole:
        taken = f"{', '.join(names.all)} = {', '.join(f'{name}_train' for name in names.all)}"
        body += [taken + "  # all rows in one batch", *([] if not plan.batches.augment else ["step_in_epoch = 0"]), *steps]
    else:
        shuffled = plan.batches.shuffle
        if shuffled:
            use_generator(script)
            body.append(f'order = torch.randperm(len({names.all[0]}_train), generator=generator(SEED, "order", epoch))')
        pieces = [f"{name}_train{'[order]' if shuffled else ''}.split(BATCH_SIZE)" for name in names.all]
        item = ", ".join(names.all)
        zipped = pieces[0]
        if len(pieces) > 1:
            zipped = f"zip({', '.join(pieces)})"
            if len(f"        for {item} in {zipped}:") > WIDTH:
                listed = ", ".join(f"{name}_train" for name in names.all)
                if shuffled:
                    body.append(f"shuffled = [tensor[order] for tensor in ({listed})]")
                    zipped = "zip(*(tensor.split(BATCH_SIZE) for tensor in shuffled))"
                else:
                    zipped = f"zip(*(tensor.split(BATCH_SIZE) for tensor in ({listed})))"
        if plan.batches.augment:
            zipped, item = f"enumerate({zipped})", f"step_in_epoch, ({item})" if len(pieces) > 1 else f"step_in_epoch, {item}"
        body.append(f"for {item} in {zipped}:")
        body += ["    " + line if line else "" for line in steps]
    if average is not None and average.name == "SWA":
        first = swa_start(average, plan.epochs)
        body += [f"if epoch >= {first}:", f"    move_average(1 / (epoch - {first} + 1))"]
    told = 'print(f"epoch {epoch + 1}/{EPOCHS}  train {sum(losses) / len(losses):.6g}'
    if validates:
        evaluate_function(script, prepared, names, fed)
        model = "model"
        if average is not None:
            model = "averaged"
        if average is not None and average.name == "SWA":
            model = "chosen"
            body.append(f"chosen = averaged if epoch >= {swa_start(average, plan.epochs)} else model")
        shown = "val_loss" if plan.monitor == "loss" else f"val_{identifier(plan.monitor)}"
        checked = [f"{shown} = evaluate({model})"]
        if best or patience is not None:
            checked += keeping(prepared, model, shown, best, patience)
        if plan.validate_every == 1:
            body += [*checked[:1], f'{told}  {shown[4:] if plan.monitor != "loss" else "val"} {{{shown}:.6g}}")', *checked[1:]]
        else:
            body.append(f'{told}")')
            validated = [*checked, *[line.replace("val_loss", shown) for line in moves.after_validation]]
            body.append(f"if (epoch + 1) % {plan.validate_every} == 0 or epoch + 1 == EPOCHS:")
            body += ["    " + line for line in validated]
    else:
        body.append(f'{told}")')
    ending = stop_line(patience) if validates else []
    body += moves.after_epoch
    if plan.validate_every == 1:
        body += [line.replace("val_loss", shown if validates else "val_loss") for line in moves.after_validation]
    body += ending
    lines += ["    " + line if line else "" for line in body]
    if best:
        lines += ["", "model.load_state_dict(best_weights)"]
    elif average is not None and (average.name == "EMA" or plan.epochs > swa_start(average, plan.epochs)):
        lines += ["", "model = averaged"]
    return "\n".join([*before, "", *lines] if before else lines)


def identifier(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def keeping(prepared: Any, model: str, shown: str, best: bool, patience: int | None) -> list[str]:
    """The best value so far, the weights that gave it, and how long ago that was."""
    sign = "<" if prepared.training.stopping.mode == "min" else ">"
    lines = [f"if {shown} {sign} best:", f"    best = {shown}"]
    if patience is not None:
        lines[-1] = f"    best, waited = {shown}, 0"
    if best:
        lines.append(f"    best_weights = {{name: tensor.clone() for name, tensor in {model}.state_dict().items()}}")
    if patience is not None:
        lines += ["else:", "    waited += 1"]
    return lines


def stop_line(patience: int | None) -> list[str]:
    return [] if patience is None else [f"if waited == {patience}:", "    break  # it has not become better for so long"]


def swa_start(average: Any, epochs: int) -> int:
    return next((epoch for epoch in range(epochs) if epoch >= average.start * epochs - 1e-9), epochs)


def moving_average(script: Script, model: nn.Module, average: Any) -> None:
    buffers = list(model.buffers())
    whole = any(not tensor.is_floating_point() for tensor in (*model.parameters(), *buffers))
    tensors = (lambda of: f"[*{of}.parameters(), *{of}.buffers()]") if buffers else (lambda of: f"{of}.parameters()")
    move = ["mean.lerp_(live, share)"]
    if whole:
        move = ["if mean.is_floating_point():", "    mean.lerp_(live, share)", "else:  # counters are taken as they are", "    mean.copy_(live)"]
    inner = "\n".join("        " + line for line in move)
    script.define(
        "move_average",
        f'@torch.no_grad()\ndef move_average(share):\n    """Move the averaged weights by this share of the way to the present ones."""\n'
        f"    for mean, live in zip({tensors('averaged')}, {tensors('model')}):\n{inner}",
        "import torch",
    )


RANDOM_MODULES = ("Dropout", "RReLU", "FractionalMaxPool", "MultiheadAttention", "Transformer", "RNN", "LSTM", "GRU")


def may_draw(model: nn.Module, plan: Any) -> bool:
    """Whether a forward in training may draw random numbers: torch's modules are known, a user's own may always, and so may compute= and step=."""
    if plan.compute is not None or plan.user_step is not None:
        return True
    for module in model.modules():
        cls = type(module)
        if cls.__module__ == models.__name__ and not isinstance(module, models.Ensemble):  # an ensemble has a dropout of its own
            continue
        if not cls.__module__.startswith("torch.nn.") or cls.__name__.startswith(RANDOM_MODULES):
            return True
    return False


def refuse_if_global(function: Any, what: str) -> None:
    """Refuse a function that draws from a global generator: fivestep gives it a stream of its own, which a plain script does not."""
    with seeds.restored(0):
        before = seeds.capture()
        function()
        after = seeds.capture()
    moved = not torch.equal(before["torch"], after["torch"]) or before["random"] != after["random"]
    if "numpy" in before:
        moved = moved or before["numpy"][2] != after["numpy"][2] or not (before["numpy"][1] == after["numpy"][1]).all()
    if moved:
        raise refuse(f"{what} draws from a global generator. Draw from the generator that it is given.")


def step_lines(script: Script, prepared: Any, names: Names, fed: Fed | None, moves: Moves) -> list[str]:
    """One batch: the five steps, in order, and what acts after them."""
    plan, training = prepared.plan, prepared.training
    several = hasattr(training.optimizer, "named")
    lines: list[str] = []
    if plan.batches.augment is not None:
        use_generator(script)
        augment = augment_function(script, prepared)
        left = ", ".join(names.inputs)
        called = f'{augment}({names.inputs_text}, generator(SEED, "augment", epoch, step_in_epoch))'
        lines.append(f"{left} = {called}" + (".values()" if names.form == "dict" else ""))
    if plan.user_step is not None:
        own = script.use(plan.user_step, "step")
        first = "optimizers" if several else "optimizer"
        lines.append(f"scalars = {own}(model, {first}, {names.inputs_text}, {names.targets_text})  # the five steps are in your own function")
        lines.append("losses.append(torch.as_tensor(next(iter(scalars.values()))).item())")
    elif getattr(training.optimizer, "needs_closure", False):
        lines += closure_lines(script, prepared, names, fed)
    else:
        lines += plain_steps(script, prepared, names, fed, several)
    if moves.counts_steps:
        lines.append("step += 1")
    lines += moves.after_step
    if training.average is not None and training.average.name == "EMA":
        lines.append(f"move_average(1 - {literal(training.average.decay)})")
    return lines


def augment_function(script: Script, prepared: Any) -> str:
    """The name of the function that changes a training batch: the user's own, or shifts and mirrors written out for this run."""
    augment = prepared.plan.batches.augment
    if isinstance(augment, ShiftAndFlip):
        text = shift_and_flip_text(augment, "" if prepared.device.type == "cpu" else ".to(images.device)")
        return script.define("augmented", text, "import torch", *(["from torch.nn import functional"] if augment.shift else []))
    name = script.use(augment, "augment")
    source = prepared.encoded["train"]
    refuse_if_global(lambda: augment(source.take(torch.arange(min(2, len(source))))[0], seeds.generator(0, "augment", 0, 0)), "augment")
    return name


def shift_and_flip_text(augment: ShiftAndFlip, moved: str) -> str:
    """`ShiftAndFlip` as a function of its own, with what it draws in the same order; `moved` takes what was drawn to the images' device."""
    told = [f"moved by up to {augment.shift} pixels"] if augment.shift else []
    told += ["half of them mirrored, by chance"] if augment.flip else []
    lines = ["def augmented(images, generator):", f'    """{", ".join(["The images (n, channels, height, width)", *told])}."""']
    if augment.shift:
        lines += [
            "    height, width = images.shape[2:]",
            f"    padded = functional.pad(images, [{augment.shift}] * 4)",
            f"    down, right = torch.randint(0, {2 * augment.shift + 1}, (2, len(images)), generator=generator).tolist()",
            "    images = torch.stack([image[:, y : y + height, x : x + width] for image, y, x in zip(padded, down, right)])",
        ]
    if augment.flip:
        lines += [
            f"    mirrored = torch.rand(len(images), generator=generator){moved} < 0.5",
            "    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)",
        ]
    return "\n".join([*lines, "    return images"])


def forward_and_loss(script: Script, prepared: Any, names: Names, fed: Fed | None, share: str = "", numbers: tuple[int, int] = (1, 2)) -> list[str]:
    plan = prepared.plan
    if plan.compute is not None:
        own = script.use(plan.compute, "compute")
        lines = [f"value = {own}(model, {names.inputs_text}, {names.targets_text})  # {numbers[0]}. forward and {numbers[1]}. loss, in your own function"]
        if pair_of_compute(prepared):
            lines = [lines[0].replace("value = ", "total, weight = ", 1), "value = total / weight"]
    else:
        assert fed is not None
        called = fed.call.format(outputs=fed.pick.format(outputs="outputs"))
        second = f"value = {called}{share}  # {numbers[1]}. loss" + (", by its share of the batch" if share else "")
        lines = [f"outputs = {names.call('model')}  # {numbers[0]}. forward", second]
        if fed.pair:
            lines = [lines[0], second.replace("value = ", "total, weight = ", 1), "value = total / weight"]
    if prepared.arguments["precision"] not in ("float32", "fp32", "float64", "fp64"):
        dtype = {"bf16": "torch.bfloat16", "bfloat16": "torch.bfloat16"}.get(prepared.arguments["precision"], "torch.float16")
        lines = [f'with torch.autocast("{prepared.device.type}", dtype={dtype}):', *("    " + line for line in lines)]
    return lines


def pair_of_compute(prepared: Any) -> bool:
    source = prepared.encoded["train"]
    inputs, targets, _ = source.take(torch.arange(min(len(source), 2)))
    with seeds.restored(0), loop.evaluating(prepared.training.model):
        return isinstance(prepared.plan.compute(prepared.training.model, inputs, targets), tuple)


def plain_steps(script: Script, prepared: Any, names: Names, fed: Fed | None, several: bool) -> list[str]:
    plan, training, part_size = prepared.plan, prepared.training, prepared.arguments["part_size"]
    scaler = training.scaler is not None
    parts = part_size is not None and part_size < min(plan.batches.batch_size, len(prepared.encoded["train"]))

    def each(text: str, comment: str) -> list[str]:
        return ["for optimizer in optimizers:" + comment, f"    optimizer.{text}"] if several else [f"optimizer.{text}{comment}"]

    backward = "scaler.scale(value).backward()" if scaler else "value.backward()"
    if not parts:
        lines = forward_and_loss(script, prepared, names, fed)
        lines += each("zero_grad()", "  # 3. zero the gradients")
        lines.append(f"{backward}  # 4. backward")
    else:
        if plan.compute is not None or (fed is not None and fed.pair):
            raise refuse("part_size= with a loss that gives (total, weight). Return the mean, or leave part_size out.")
        lines = parted(script, prepared, names, fed, each, backward, int(part_size or 1))
    lines += clip_lines(prepared, scaler)
    if scaler:
        if several:
            raise refuse("fp16 with several optimizers. Use bf16.")
        lines += ["scaler.step(optimizer)  # 5. step, left out where a gradient overflowed", "scaler.update()"]
    else:
        lines += each("step()", "  # 5. step")
    if not parts:
        lines.append("losses.append(value.item())")
    return lines


def parted(script: Script, prepared: Any, names: Names, fed: Fed | None, each: Any, backward: str, part_size: int) -> list[str]:
    """A batch in parts whose gradients add up to the batch's."""
    weight, whole = mean_over(prepared, names)
    pieces = ", ".join(f"{name}.split({part_size})" for name in names.all)
    zipped = f"zip({pieces})" if len(names.all) > 1 else pieces
    lines = each("zero_grad()", "  # 1. zero the gradients, once a batch: those of its parts add up")
    if weight is None:
        lines += ["losses.append(0.0)", f"for {', '.join(names.all)} in {zipped}:"]
        share = ""
    elif whole:
        lines += ["losses.append(0.0)", f"num_{'elements' if 'numel' in weight else 'rows'} = {weight}", f"for {', '.join(names.all)} in {zipped}:"]
        share = f" * ({weight} / num_{'elements' if 'numel' in weight else 'rows'})"
    else:
        lines += ["losses.append(0.0)", f"parts = list({zipped})", f"part_weights = [{weight} for {', '.join(names.all)} in parts]"]
        lines.append(f"for ({', '.join(names.all)}), part_weight in zip(parts, part_weights):")
        share = " * (part_weight / sum(part_weights))"
        if ignored_labels(prepared):
            raise refuse("part_size= with ignored labels. Leave part_size out, or leave those rows out.")
    inner = forward_and_loss(script, prepared, names, fed, share, (2, 3))
    inner += [f"{backward}  # 4. backward", "losses[-1] += value.item()"]
    return [*lines, *("    " + line for line in inner)]


def clip_lines(prepared: Any, scaler: bool) -> list[str]:
    if prepared.plan.clipping is None:
        return []
    _, norm, value = prepared.plan.clipping
    lines = ["scaler.unscale_(optimizer)"] if scaler else []
    if value is not None:
        lines.append(f"nn.utils.clip_grad_value_(parameters, {literal(value)})")
    if norm is not None:
        lines.append(f"nn.utils.clip_grad_norm_(parameters, {literal(norm)})")
    return lines


def closure_lines(script: Script, prepared: Any, names: Names, fed: Fed | None) -> list[str]:
    """LBFGS: its step asks for the loss and the gradients as often as its line search needs them."""
    if prepared.arguments["part_size"] is not None:
        raise refuse("LBFGS with part_size=. Leave part_size out.")
    lines = forward_and_loss(script, prepared, names, fed)
    inner = [*lines, "optimizer.zero_grad()  # 3. zero the gradients", "value.backward()  # 4. backward", *clip_lines(prepared, False), "return value.detach()"]
    return [
        "def closure():",
        *("    " + line for line in inner),
        "",
        "losses.append(optimizer.step(closure).item())  # 5. step, which asks for 1 to 4 as often as it needs",
    ]


def evaluate_function(script: Script, prepared: Any, names: Names, fed: Fed | None) -> None:
    """`evaluate(model)`: the mean loss on the validation rows, or the metric that is watched."""
    plan, source = prepared.plan, prepared.encoded["val"]
    block = 4 * prepared.predictor.block
    one_batch = len(source) <= block
    script.imports.add("import torch")
    if plan.monitor != "loss":
        body, doc = metric_lines(script, prepared, names, fed, block, one_batch)
    else:
        body, doc = loss_lines(script, prepared, names, fed, block, one_batch), "The mean loss on the validation rows."
    text = f'@torch.no_grad()\ndef evaluate(model):\n    """{doc}"""\n    model.eval()\n' + "\n".join("    " + line for line in body)
    script.define("evaluate", text)


def loss_lines(script: Script, prepared: Any, names: Names, fed: Fed | None, block: int, one_batch: bool) -> list[str]:
    dtype = next((p.dtype for p in prepared.training.model.parameters() if p.is_floating_point()), torch.float32)
    pair = fed.pair if fed is not None else pair_of_compute(prepared)

    def value(suffix: str) -> str:
        named = {name: f"{name}{suffix}" for name in names.all}
        renamed = Names(tuple(named[n] for n in names.inputs), names.form, names.keys, tuple(named[n] for n in names.targets), named.get(names.weights or ""))
        if prepared.plan.compute is not None:
            return f"{script.use(prepared.plan.compute, 'compute')}(model, {renamed.inputs_text}, {renamed.targets_text})"
        assert fed is not None
        called = fed.call
        for name in (*names.targets, *((names.weights,) if names.weights else ())):
            called = re.sub(rf"\b{name}\b", named[name], called)
        outputs = renamed.call("model")
        if called.count("{outputs}") > 1:
            return called.format(outputs=fed.pick.format(outputs="outputs"))
        return called.format(outputs=fed.pick.format(outputs=outputs))

    twice = fed is not None and fed.call.count("{outputs}") > 1
    autocast = prepared.arguments["precision"] not in ("float32", "fp32", "float64", "fp64")

    def cast(lines: list[str]) -> list[str]:
        if not autocast:
            return lines
        dtype = {"bf16": "torch.bfloat16", "bfloat16": "torch.bfloat16"}.get(prepared.arguments["precision"], "torch.float16")
        return [f'with torch.autocast("{prepared.device.type}", dtype={dtype}):', *("    " + line for line in lines)]

    if one_batch and dtype == torch.float32 and not pair:
        lines = [f"outputs = {names_with(names, '_val').call('model')}"] if twice else []
        return cast([*lines, f"return {value('_val')}.item()"])
    weight, _ = mean_over(prepared, names)
    pieces = ", ".join(f"{name}_val.split({block})" for name in names.all)
    zipped = f"zip({pieces})" if len(names.all) > 1 else pieces
    inner = [f"outputs = {names.call('model')}"] if twice else []
    if pair:
        inner += [f"value, weight = {value('')}", "total, count = total + float(value), count + float(weight)"]
        inner = [*cast(inner[:-1]), inner[-1]]
    elif weight is None:
        inner = [*cast([*inner, f"total += {value('')}.item()"])]
        return ["total = 0.0", f"for {', '.join(names.all)} in {zipped}:", *("    " + line for line in inner), "return total"]
    else:
        inner = [*cast([*inner, f"value = {value('')}.item()"]), f"weight = {weight}", "total, count = total + value * weight, count + weight"]
    return ["total, count = 0.0, 0.0", f"for {', '.join(names.all)} in {zipped}:", *("    " + line for line in inner), "return total / count"]


def names_with(names: Names, suffix: str) -> Names:
    return Names(
        tuple(n + suffix for n in names.inputs), names.form, names.keys, tuple(n + suffix for n in names.targets), names.weights and names.weights + suffix
    )


def metric_lines(script: Script, prepared: Any, names: Names, fed: Fed | None, block: int, one_batch: bool) -> tuple[list[str], str]:
    """The metric that chooses the epoch, where it can be written plainly: a function of the user's, or accuracy."""
    monitor = prepared.plan.monitor
    asked = prepared.arguments["metrics"]
    given = asked if isinstance(asked, (list, tuple)) else [asked]
    own = asked.get(monitor) if isinstance(asked, Mapping) else next((one for one in given if getattr(one, "__name__", "") == monitor), None)
    targets = prepared.targets_in_unit("val")
    outputs = (fed.pick if fed is not None else "{outputs}").format(outputs=names_with(names, "_val").call("model"))
    lines = []
    if not one_batch:
        first, *others = names.inputs
        if others:
            raise refuse(f"monitor={monitor!r} over several inputs and many validation rows. Use monitor='loss'.")
        picked_outputs = (fed.pick if fed is not None else "{outputs}").format(outputs=f"model({first})")
        outputs = f"torch.cat([{picked_outputs} for {first} in {first}_val.split({block})])"
    y = f"{names.targets[0]}_val"
    if callable(own):
        if targets is None or not same_bits(targets, prepared.encoded["val"].targets[0]):
            raise refuse(f"monitor={monitor!r} is computed in the target's own unit, and the loop has scaled ones. Use monitor='loss', or scale_target=False.")
        return [*lines, f"return float({script.use(own, 'metrics')}({outputs}, {y}))"], f"{monitor} on the validation rows."
    labels = prepared.encoded["val"].targets[0]
    if monitor == "accuracy" and prepared.task in ("binary", "multiclass") and labels.dim() == 1 and not labels.is_floating_point():
        return [*lines, f"return ({outputs}.argmax(1) == {y}).double().mean().item()"], "The share of validation rows whose class is right."
    raise refuse(f"monitor={monitor!r} cannot be written plainly. Use monitor='loss', or a function of your own in a file: metrics={{'{monitor}': function}}.")
