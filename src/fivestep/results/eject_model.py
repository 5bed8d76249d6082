"""The model of an ejected script: built with its sizes written out, by the user's own class, or from the weights that the run began with.

Enters: what a run was prepared from, and the first weights where they cannot be built again. Leaves: `model = ...` under the run's seed, frozen parts frozen. The
decision that shaped it: a built-in network is written for this run's sizes, without the options it did not use, and only where that gives the same first weights.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.data.batches import tensors_of
from fivestep.model import building, models
from fivestep.results.eject_code import Script, call, enclosed, file_of, literal, refuse, source_with_needs, torch_name
from fivestep.results.eject_data import here
from fivestep.tensors import state_to_bytes

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
    model = prepared.training.model
    lines = []
    script.imports.add("import torch")
    if start is None:
        lines += [f"{seed}" for seed in seeding(script, model, "SEED")]
    lines.append(f"model = {model_call(script, prepared)}")
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
        why = "the weights that the run began with" + (
            " (weights=)" if prepared.arguments.get("weights") is not None or "weights" in prepared.settings.asked else ""
        )
        lines.append(f'model.load_state_dict(read_tensors(HERE / "initial.safetensors"))  # {why}')
    lines += frozen(prepared)
    if prepared.device.type != "cpu":
        lines.append(f'model.to("{prepared.device}")')
    return "\n".join(lines)


def model_call(script: Script, prepared: Any) -> str:
    """The call that builds the model: `Net(7, widths=(9,))`."""
    recipe = prepared.built.recipe
    if recipe["kind"] == "built-in":
        return built_in(script, prepared, recipe)
    if recipe["kind"] == "instance":
        return instance(script, prepared.training.model)
    target = class_of(prepared)
    args = {key: building._decoded(value) for key, value in recipe["args"].items()}
    name = script.use(target, "model")
    positional = [literal(args.pop(key)) for key in building._positional_names(target) if key in args]
    return call(name, {key: literal(value) for key, value in args.items()}, first=positional)


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
    """ "random" and "numpy" where a file of the user's that the model's classes stand in uses their global generators."""
    texts = []
    for path in {file_of(type(module)) for module in model.modules() if not type(module).__module__.startswith("fivestep.")}:
        if path is not None:
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
    lines.append("        by_pixel = images.permute(0, 2, 3, 1)  # the channels of a pixel side by side in memory (channels_last), which is faster")
    lines.append("        images = by_pixel.flatten(1).unflatten(1, by_pixel.shape[1:]).permute(0, 3, 1, 2)")
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
    lines += [
        "class ResNet(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        f"        self.first = nn.Linear({args['num_inputs']}, {width})",
    ]
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
        raise refuse(
            f"model was an instance of {cls.__name__}, and {cls.__name__}() builds another one. Give the class: model={cls.__name__}, model_args={{...}}."
        )
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
