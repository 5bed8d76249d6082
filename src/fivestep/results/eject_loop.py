"""Model, loss, optimizer, schedule and the five steps of an ejected script.

Enters: what a run was prepared from. Leaves: text in the order of events, with only the lines that this run used. The decision that shaped it: each feature
that can change a weight adds its own lines at the place where it acts in `train/epochs.py` and `train/loop.py`, so that the two can be read side by side.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from fivestep import seeds
from fivestep.data.batches import map_tensors, tensors_of
from fivestep.errors import SettingsError
from fivestep.model import building, losses, models
from fivestep.results.eject_code import WIDTH, Script, call, constructor, enclosed, file_of, literal, source_with_needs, torch_name
from fivestep.results.eject_data import Names, here, use_derive, use_generator
from fivestep.tensors import state_to_bytes
from fivestep.train import loop


def refuse(why: str) -> SettingsError:
    return SettingsError(f"This run cannot be written as a script: {why}")


# -- the model -------------------------------------------------------------------------------------------------------------------------------------------------

READ_TENSORS = '''def read_tensors(path):
    """The tensors of a safetensors file, by name."""
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            data = torch.frombuffer(content[start + begin : start + end] or bytearray(1), dtype=torch.uint8)[: end - begin]
            tensors[name] = data.view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors'''


def model_section(script: Script, prepared: Any, start: dict[str, Tensor] | None) -> str:
    """`model = Net(...)`, with the weights that the run began with; frozen parts frozen."""
    recipe, model = prepared.built.recipe, prepared.training.model
    lines = []
    script.imports.add("import torch")
    if start is None:
        lines += [f"{seed}" for seed in seeding(script, model, "SEED")]
    if recipe["kind"] == "built-in":
        lines.append(f"model = {built_in(script, prepared, recipe)}")
    elif recipe["kind"] == "import":
        target = class_of(prepared)
        args = {key: building._decoded(value) for key, value in recipe["args"].items()}
        name = script.use(target, "model")
        positional = [literal(args.pop(key)) for key in building._positional_names(target) if key in args]
        lines.append(f"model = {call(name, {key: literal(value) for key, value in args.items()}, first=positional)}")
    else:
        lines.append(f"model = {instance(script, model)}")
    if start is not None:
        script.files["initial.safetensors"] = bytes(state_to_bytes(start))
        here(script)
        dtypes = {"F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32}
        dtypes |= {"U8": torch.uint8, "BOOL": torch.bool, "I8": torch.int8, "I16": torch.int16}
        used = {name: dtype for name, dtype in dtypes.items() if any(tensor.dtype == dtype for tensor in start.values())}
        if len(used) == 1:
            (dtype,) = used.values()
            text = READ_TENSORS.replace('DTYPES[entry["dtype"]]', str(dtype))
        else:
            text = READ_TENSORS.replace("DTYPES[", "{" + ", ".join(f'"{name}": {dtype}' for name, dtype in used.items()) + "}[")
        script.define("read_tensors", text, "import json")
        why = "the weights that the run began with" + (" (weights=)" if prepared.arguments.get("weights") is not None or "weights" in prepared.settings.asked else "")
        lines.append(f'model.load_state_dict(read_tensors(HERE / "initial.safetensors"))  # {why}')
    lines += frozen(prepared)
    if prepared.device.type != "cpu":
        lines.append(f'model.to("{prepared.device}")')
    return "\n".join(lines)


def class_of(prepared: Any) -> Any:
    """The class or function that a recipe speaks of: as it was given, else found again."""
    given = prepared.arguments.get("model")
    if given is not None and not isinstance(given, (str, nn.Module)):
        return given
    return building._found_again(prepared.built.recipe)


def seeding(script: Script, model: Any, seed: str, *, forward: bool = False) -> list[str]:
    """The seeds that building, or a forward, may draw from: torch's, and Python's and numpy's where the model's file imports them."""
    lines = [f"torch.manual_seed({seed})" + ("  # for what forward draws, such as dropout" if forward else "")]
    for name in foreign_generators(model):
        if name == "random":
            script.imports.add("import random")
            lines.append(f"random.seed({seed})")
        else:
            script.imports.add("import numpy as np")
            lines.append(f"np.random.seed({seed} & 0xFFFFFFFF)")
    return lines


def foreign_generators(model: nn.Module) -> list[str]:
    """"random" and "numpy" where a file of the user's that the model's classes stand in uses their global generators."""
    texts = []
    for path in {file_of(type(module)) for module in model.modules()} - {None}:
        if "fivestep" not in path.parts or "model" not in path.parts:
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
    found = []
    if any(re.search(r"^\s*(import random|from random import)", text, re.M) for text in texts):
        found.append("random")
    if any(re.search(r"(np|numpy)\.random", text) for text in texts):
        found.append("numpy")
    return found


def built_in(script: Script, prepared: Any, recipe: Mapping[str, Any]) -> str:
    """A built-in network: its class stands in the script, with its sizes written out; where that is not known to give the same weights, as models.py has it."""
    cls: Any = models.BUILT_IN[recipe["name"]].make
    args = dict(recipe["args"])
    flat = tensors_of(prepared.encoded["train"].inputs)[0].dim() == 2
    if recipe["name"] in PLAIN:
        text = PLAIN[recipe["name"]](args, flat)
        names: dict[str, Any] = {"nn": nn, "torch": torch, "functional": nn.functional}
        exec(text, names)  # our own text
        with seeds.restored(0):
            made = names[cls.__name__]()
        if building.parameter_hash(made.state_dict()) == building.parameter_hash(building.rebuild(recipe, seed=0).module.state_dict()):
            script.define(cls.__name__, text, "import torch", "from torch import nn", "from torch.nn import functional")
            return f"{cls.__name__}()"
    text, imports = source_with_needs(cls)
    script.define(cls.__name__, text, *imports)
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
    given = {key: literal(value) for key, value in args.items() if not same_value(value, defaults.get(key, inspect.Parameter.empty))}
    return call(cls.__name__, given)


def same_value(one: Any, other: Any) -> bool:
    return list(one) == list(other) if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) else one == other


def plain_mlp(args: Mapping[str, Any], flat: bool) -> str:
    """The MLP with its sizes written out. The names of its weights are those of `models.MLP`, and so is the order in which they are drawn."""
    counts = args["num_categories"] or []
    sizes = [min(args["embedding"], count) for count in counts]
    width, layers = args["num_inputs"] + sum(sizes), []
    for next_width in args["widths"]:
        activation = f"nn.{args['activation']}()"
        dropout = f"nn.Dropout({literal(args['dropout'])})" if args["dropout"] else "nn.Identity()"
        layers.append(f"nn.Linear({width}, {next_width}), {activation}, {dropout},")
        width = next_width
    layers.append(f"nn.Linear({width}, {args['num_outputs']}),")
    lines = ["class MLP(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    if counts:
        lines += [
            "        self.embeddings = nn.ModuleList(  # a vector for each code of each category column",
            "            nn.Embedding.from_pretrained(torch.empty(count, size).uniform_(-(size**-0.5), size**-0.5), freeze=False)",
            f"            for count, size in {literal(list(zip(counts, sizes)))}",
            "        )",
        ]
    lines += ["        self.layers = nn.Sequential(", *(f"            {layer}" for layer in layers), "        )", ""]
    if counts:
        lines += [
            "    def forward(self, numbers, codes):",
            "        vectors = [embedding(column) for embedding, column in zip(self.embeddings, codes.unbind(1))]",
            "        return self.layers(torch.cat([numbers, *vectors], dim=1))",
        ]
    else:
        lines += ["    def forward(self, inputs):", "        return self.layers(inputs" + (")" if flat else ".flatten(1))")]
    return "\n".join(lines)


def plain_linear(args: Mapping[str, Any], flat: bool) -> str:
    inputs = "inputs" if flat else "inputs.flatten(1)"
    return (
        f"class LinearModel(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.linear = nn.Linear({args['num_inputs']}, {args['num_outputs']})\n\n"
        f"    def forward(self, inputs):\n        return self.linear({inputs})"
    )


def plain_cnn(args: Mapping[str, Any], flat: bool) -> str:
    depth, height, width = args["image_shape"]
    layers = []
    for next_depth in args["channels"]:
        convolution = f"nn.Conv2d({depth}, {next_depth}, 3, padding=1, bias=False)"
        layers.append(f"{convolution}, nn.BatchNorm2d({next_depth}), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),")
        depth, height, width = next_depth, (height + 1) // 2, (width + 1) // 2
    lines = ["class CNN(nn.Module):", "    def __init__(self):", "        super().__init__()", "        self.features = nn.Sequential("]
    lines += [*(f"            {layer}" for layer in layers), "        )"]
    lines += [f"        self.dropout = nn.Dropout({literal(args['dropout'])})"] if args["dropout"] else []
    lines += [f"        self.head = nn.Linear({depth} * {height} * {width}, {args['num_outputs']})", "", "    def forward(self, images):"]
    lines += [f"        images = images.unflatten(1, {literal(tuple(args['image_shape']))})"] if flat else []
    features = "self.features(images).flatten(1)"
    lines.append(f"        return self.head({f'self.dropout({features})' if args['dropout'] else features})")
    return "\n".join(lines)


def plain_resnet(args: Mapping[str, Any], flat: bool) -> str:
    width, hidden = args["width"], max(1, int(args["width"] * args["hidden_factor"]))
    lines = ["class ResNetBlock(nn.Module):", "    def __init__(self):", "        super().__init__()", f"        self.norm = nn.BatchNorm1d({width})"]
    lines += [f"        self.widen = nn.Linear({width}, {hidden})", f"        self.narrow = nn.Linear({hidden}, {width})"]
    for name in ("hidden_dropout", "dropout"):
        lines += [f"        self.{name} = nn.Dropout({literal(args[name])})"] if args[name] else []
    inner = "functional.relu(self.widen(self.norm(features)))"
    inner = f"self.hidden_dropout({inner})" if args["hidden_dropout"] else inner
    outer = "self.dropout(self.narrow(hidden))" if args["dropout"] else "self.narrow(hidden)"
    lines += ["", "    def forward(self, features):", f"        hidden = {inner}", f"        return features + {outer}", "", ""]
    lines += ["class ResNet(nn.Module):", "    def __init__(self):", "        super().__init__()", f"        self.first = nn.Linear({args['num_inputs']}, {width})"]
    lines += [f"        self.blocks = nn.Sequential(*[ResNetBlock() for _ in range({args['depth']})])", f"        self.norm = nn.BatchNorm1d({width})"]
    lines += [f"        self.head = nn.Linear({width}, {args['num_outputs']})", "", "    def forward(self, inputs):"]
    lines += [f"        features = self.blocks(self.first({'inputs' if flat else 'inputs.flatten(1)'}))"]
    return "\n".join([*lines, "        return self.head(functional.relu(self.norm(features)))"])


PLAIN = {"linear": plain_linear, "mlp": plain_mlp, "cnn": plain_cnn, "resnet": plain_resnet}


def instance(script: Script, model: nn.Module) -> str:
    """A call that makes a module like this one: torch's own from what they tell of themselves, the user's class where it needs no arguments."""
    text = of_torch(script, model)
    if text is not None:
        return text
    cls = type(model)
    name = script.use(cls, "model")
    with seeds.restored(0):
        try:
            made = cls()
        except Exception as error:  # the user's own code: anything can come
            raise refuse(
                f"model was an instance of {cls.__name__}, and with which arguments it was built is not known. Give the class: model={cls.__name__}, model_args={{...}}."
            ) from error
    if repr(made) != repr(model) or [(n, t.shape) for n, t in made.state_dict().items()] != [(n, t.shape) for n, t in model.state_dict().items()]:
        raise refuse(f"model was an instance of {cls.__name__}, and {cls.__name__}() builds another one. Give the class: model={cls.__name__}, model_args={{...}}.")
    return f"{name}()"


def of_torch(script: Script, module: nn.Module, indent: int = 0) -> str | None:
    """`nn.Sequential(nn.Linear(3, 5), ...)`; None where a part is not torch's, or does not tell how it was made."""
    cls = type(module)
    found = torch_name(cls)
    if found is None or not found[0].startswith("nn."):
        return None
    script.imports.add("from torch import nn")
    if cls in (nn.Sequential, nn.ModuleList):
        if list(module._modules) != [str(place) for place in range(len(module._modules))]:
            return None
        parts = [of_torch(script, part, indent + 4) for part in module.children()]
        if any(part is None for part in parts):
            return None
        if cls is nn.ModuleList:
            return enclosed("nn.ModuleList([", parts, "])", indent)  # type: ignore[arg-type]
        return enclosed("nn.Sequential(", parts, ")", indent)  # type: ignore[arg-type]
    if any(True for _ in module.children()):
        return None
    text = f"nn.{cls.__name__}({shortened(module)})"
    try:
        with seeds.restored(0):
            made = eval(text, {"nn": nn})  # of what torch's module says of itself
    except Exception:  # what it says is no call
        return None
    dtype = next((tensor.dtype for tensor in module.parameters()), torch.float32)
    if dtype != torch.float32:
        text = f"{text[:-1]}{', ' if text[-2] != '(' else ''}dtype={dtype})"
        script.imports.add("import torch")
    return text if repr(made) == repr(module) else None


def shortened(module: nn.Module) -> str:
    """What a module of torch's says of its arguments, without those that are torch's defaults."""
    given = []
    parameters = inspect.signature(type(module)).parameters
    names = list(parameters)
    depth, item, items = 0, "", []
    for sign in module.extra_repr() + ",":
        depth += (sign in "([") - (sign in ")]")
        if sign == "," and depth == 0:
            items.append(item.strip())
            item = ""
        else:
            item += sign
    for place, text in enumerate(filter(None, items)):
        name, equals, value = text.partition("=")
        if not equals:
            given.append(text)
            continue
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        if repr(default) == value:
            continue
        given.append(value if place < len(names) and names[place] == name and default is inspect.Parameter.empty and len(given) == place else text)
    return ", ".join(given)


def frozen(prepared: Any) -> list[str]:
    """`model.backbone.requires_grad_(False)` for whole parts, single parameters otherwise."""
    model = prepared.training.model
    names = {id(module): name for name, module in model.named_modules()}
    parts = [names[id(module)] for module in prepared.plan.frozen]
    covered = {id(parameter) for module in prepared.plan.frozen for parameter in module.parameters()}
    lines = [f"{reach(part)}.requires_grad_(False)  # frozen" for part in parts if list(model.get_submodule(part).parameters())]
    if prepared.arguments["freeze"]:
        patterns = prepared.arguments["freeze"]
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad and id(parameter) not in covered and patterns:
                lines.append(f"{reach(name)}.requires_grad_(False)  # frozen")
    return lines


def reach(name: str, of: str = "model") -> str:
    """`model.body[0].weight` for "body.0.weight"."""
    return of + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split(".")) if name else of


# -- the loss --------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Fed:
    """How the loss is called: `value(outputs, target names)` as text, what its mean is over, and whether it gives (total, weight)."""

    call: str  # with {outputs} and the names of targets and weights in place
    pair: bool = False
    pick: str = "{outputs}"
    notes: list[str] = field(default_factory=list)


def loss_section(script: Script, prepared: Any, names: Names) -> tuple[str, Fed | None]:
    """(`loss = nn.HuberLoss()`, how it is called). None with compute= or step=."""
    loss = prepared.loss
    if loss is None:
        return "", None
    if prepared.training.loss_module is not None:
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
        value = losses.feed(prepared.loss, weighted=weights is not None)(sample_outputs(prepared), targets, *(() if weights is None else (weights,)))
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
    return any(not source.targets[0].is_floating_point() and not bool(losses._counted(prepared.loss, source.targets[0]).all()) for source in prepared.encoded.values())


def mean_over(prepared: Any, names: Names) -> tuple[str | None, bool]:
    """(what the mean of a batch is a mean of, as text; whether it is a whole number of rows or elements). None: the loss is a sum."""
    loss, y, w = prepared.loss, names.targets[0] if names.targets else "", names.weights
    kind = losses.kind_of(loss) if loss is not None else None
    source = prepared.encoded["train"]
    class_weight = getattr(loss, "weight", None) if kind is not None and kind.mean_over == "labels" and not source.targets[0].is_floating_point() else None
    if kind is not None and w is None and getattr(loss, "reduction", "mean") == "sum":
        return None, True
    if w is not None:
        return (f"(loss.weight.double()[{y}] * {w}.double()).sum().item()" if class_weight is not None else f"{w}.sum(dtype=torch.float64).item()"), False
    if kind is None or not names.targets:
        return f"len({names.all[0]})", True
    if class_weight is not None:
        counted = f"{y}[{y} != {loss.ignore_index}]" if ignored_labels(prepared) else y
        return f"loss.weight.double()[{counted}].sum().item()", False
    if ignored_labels(prepared):
        return f"({y} != {loss.ignore_index}).sum().item()", False
    if kind.mean_over in ("elements", "labels") and source.targets[0].numel() != len(source.targets[0]):
        if kind.mean_over == "labels" and source.targets[0].is_floating_point():
            return f"len({y})", True
        return f"{y}.numel()", True
    return f"len({y})", True


# -- optimizer and schedule ------------------------------------------------------------------------------------------------------------------------------------


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
            items = [f'"params": {listed}', *(f"{literal(key)}: {literal(tuple(value) if isinstance(value, list) else value)}" for key, value in options.items())]
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
    import os

    found = os.path.commonprefix(list(names))
    return found[: found.rfind(".") + 1]


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
            lines += ["    for group, options in zip(optimizer.param_groups, start):", "        group.pop(\"initial_lr\")", "        group.update(options)"]
        else:
            inner = groups.replace("\n", "\n    ").split("\n")
            lines += ["    " + inner[0], *inner[1:], ("        " if several else "    ") + "    group[\"lr\"] = group[\"initial_lr\"]"]
        lines.append("    " + made(text))
        switches.append(begin)
    last, after_validation = stages[-1], []
    moves = [("    " + line) for line in moved()]
    if any(stage.period not in (0, 1) for stage in stages):
        starts = [0, *switches]
        for position, stage in enumerate(stages):
            limit = [f"{counter} < {switches[position]}"] if position < len(switches) else [f"{counter} <= {begin + stage.ticks}"] if stage.ticks is not None else []
            every = [f"({counter} - {starts[position]}) % {stage.period} == 0"] if stage.period > 1 and starts[position] else [f"{counter} % {stage.period} == 0"] if stage.period > 1 else []
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


# -- the loop --------------------------------------------------------------------------------------------------------------------------------------------------


def loop_section(script: Script, prepared: Any, names: Names, fed: Fed | None, moves: Moves) -> str:
    """From the first epoch to the kept weights."""
    ask, plan, training = prepared.arguments, prepared.plan, prepared.training
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
        before.append(f"averaged = copy.deepcopy(model)  # {'a moving average of the weights' if average.name == 'EMA' else 'the mean of the weights of the last epochs'}")
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
        before.append("parameters = list(model.parameters())" if single else f"parameters = [parameter {optimizer_groups} for parameter in group[\"params\"]]")

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
    steps = step_lines(script, prepared, names, fed, moves, num_rows)
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
    told = f'print(f"epoch {{epoch + 1}}/{{EPOCHS}}  train {{sum(losses) / len(losses):.6g}}'
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
            stop = [line for line in validated]
            body += ["    " + line for line in stop]
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
        if cls.__module__ == models.__name__:
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


def step_lines(script: Script, prepared: Any, names: Names, fed: Fed | None, moves: Moves, num_rows: int) -> list[str]:
    """One batch: the five steps, in order, and what acts after them."""
    ask, plan, training = prepared.arguments, prepared.plan, prepared.training
    several = hasattr(training.optimizer, "named")
    lines: list[str] = []
    if plan.batches.augment is not None:
        use_generator(script)
        augment = script.use(plan.batches.augment, "augment")
        source = prepared.encoded["train"]
        refuse_if_global(lambda: plan.batches.augment(source.take(torch.arange(min(2, len(source))))[0], seeds.generator(0, "augment", 0, 0)), "augment")
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
    with seeds.restored(0), loop.evaluating(prepared.training.model, first=True):
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
        lines = parted(script, prepared, names, fed, each, backward, part_size)
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
    return ["def closure():", *("    " + line for line in inner), "", "losses.append(optimizer.step(closure).item())  # 5. step, which asks for 1 to 4 as often as it needs"]


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
    text = f'@torch.inference_mode()\ndef evaluate(model):\n    """{doc}"""\n    model.eval()\n' + "\n".join("    " + line for line in body)
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
    return Names(tuple(n + suffix for n in names.inputs), names.form, names.keys, tuple(n + suffix for n in names.targets), names.weights and names.weights + suffix)


def metric_lines(script: Script, prepared: Any, names: Names, fed: Fed | None, block: int, one_batch: bool) -> tuple[list[str], str]:
    """The metric that chooses the epoch, where it can be written plainly: a function of the user's, or accuracy."""
    from fivestep.model.weights import same_bits

    monitor = prepared.plan.monitor
    asked = prepared.arguments["metrics"]
    given = asked if isinstance(asked, (list, tuple)) else [asked]
    own = asked.get(monitor) if isinstance(asked, Mapping) else next((one for one in given if getattr(one, "__name__", "") == monitor), None)
    targets = prepared.targets_in_unit("val")
    outputs = (fed.pick if fed is not None else "{outputs}").format(outputs=names_with(names, "_val").call("model"))
    lines = []
    if not one_batch:
        if len(names.inputs) > 1:
            raise refuse(f"monitor={monitor!r} over several inputs and many validation rows. Use monitor='loss'.")
        picked_outputs = (fed.pick if fed is not None else "{outputs}").format(outputs=f"model({names.inputs[0]})")
        outputs = f"torch.cat([{picked_outputs} for {names.inputs[0]} in {names.inputs[0]}_val.split({block})])"
    y = f"{names.targets[0]}_val"
    if callable(own):
        if targets is None or not same_bits(targets, prepared.encoded["val"].targets[0]):
            raise refuse(f"monitor={monitor!r} is computed in the target's own unit, and the loop has scaled ones. Use monitor='loss', or scale_target=False.")
        return [*lines, f"return float({script.use(own, 'metrics')}({outputs}, {y}))"], f"{monitor} on the validation rows."
    labels = prepared.encoded["val"].targets[0]
    if monitor == "accuracy" and prepared.task in ("binary", "multiclass") and labels.dim() == 1 and not labels.is_floating_point():
        return [*lines, f"return ({outputs}.argmax(1) == {y}).double().mean().item()"], "The share of validation rows whose class is right."
    raise refuse(f"monitor={monitor!r} cannot be written plainly. Use monitor='loss', or a function of your own in a file: metrics={{'{monitor}': function}}.")

