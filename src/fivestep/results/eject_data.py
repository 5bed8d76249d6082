"""The data of an ejected script: from files to the tensors that the loop gathers its batches from.

Enters: what a run was prepared from. Leaves: text that ends in `x_train`, `y_train`, `x_val`, `y_val` (or more of them), bit-equal to what the run's loop saw;
arrays go to .npy files beside the script. The decision that shaped it: the text is run here and compared, tensor by tensor. Where a table or a split has no
plain text, the numbers themselves are written to files and the script says so.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fivestep.errors import SettingsError
from fivestep.model.weights import same_bits
from fivestep.results.eject_code import Script, enclosed, literal
from fivestep.results.eject_table import CASTS, NotPlain, TableReader, Tried
from fivestep.strict_json import write_json

DERIVE = '''def generator(seed, purpose, *numbers):
    """A random generator of its own for each purpose (and epoch), so that none depends on what was drawn before."""
    return torch.Generator().manual_seed(derive(seed, purpose, *numbers))'''

DERIVE_SEED = '''def derive(seed, purpose, *numbers):
    """A seed from a seed, a purpose and numbers: the first 63 bits of a SHA-256."""
    text = "/".join(map(str, (seed, purpose, *numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1'''


def use_derive(script: Script) -> str:
    return script.define("derive", DERIVE_SEED, "import hashlib")


def use_generator(script: Script) -> str:
    use_derive(script)
    return script.define("generator", DERIVE, "import torch")


@dataclass(frozen=True)
class Names:
    """What the tensors of a batch are called: `inputs` as the model takes them (`form`: "tensor", "tuple" or "dict" with `keys`), `targets`, and "w" or None."""

    inputs: tuple[str, ...]
    form: str
    keys: tuple[str, ...]
    targets: tuple[str, ...]
    weights: str | None

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.inputs, *self.targets, *((self.weights,) if self.weights else ()))

    @property
    def inputs_text(self) -> str:
        """The inputs as the user's own function gets them."""
        if self.form == "dict":
            return "{" + ", ".join(f"{literal(key)}: {name}" for key, name in zip(self.keys, self.inputs)) + "}"
        return self.inputs[0] if self.form == "tensor" else f"({', '.join(self.inputs)}{',' * (len(self.inputs) == 1)})"

    @property
    def targets_text(self) -> str:
        return f"({', '.join(self.targets)}{',' * (len(self.targets) == 1)})"

    def call(self, model: str) -> str:
        """The forward of a batch: `model(x)`, `model(numbers, codes)`, `model(ids=ids, mask=mask)`."""
        if self.form == "dict" and all(key.isidentifier() for key in self.keys):
            return f"{model}({', '.join(f'{key}={name}' for key, name in zip(self.keys, self.inputs))})"
        return f"{model}(**{self.inputs_text})" if self.form == "dict" else f"{model}({', '.join(self.inputs)})"


def names_of(prepared: Any) -> Names:
    source = prepared.encoded["train"]
    inputs, targets = source.inputs, source.targets
    keys: tuple[str, ...] = ()
    if isinstance(inputs, Tensor):
        form, named = "tensor", ("x",)
    elif isinstance(inputs, dict):
        form, keys = "dict", tuple(inputs)
        named = tuple(key if key.isidentifier() and key not in ("x", "y", "w", "model", "loss") else f"x{place}" for place, key in enumerate(keys))
    else:
        form = "tuple"
        named = ("numbers", "codes") if prepared.splits.columns is not None else tuple(f"x{place}" for place in range(len(inputs)))
    return Names(
        named, form, keys, ("y",) if len(targets) == 1 else tuple(f"y{place}" for place in range(len(targets))), None if source.weights is None else "w"
    )


def tensors_by_name(names: Names, source: Any) -> dict[str, Tensor]:
    inputs = source.inputs
    listed = [inputs] if isinstance(inputs, Tensor) else list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
    return dict(zip(names.all, [*listed, *source.targets, *([source.weights] if names.weights else [])], strict=True))


def data_section(script: Script, prepared: Any, names: Names) -> str:
    """The text of everything up to the tensors of each split that the loop uses."""
    parts = [name for name in ("train", "val") if name in prepared.encoded]
    splits = prepared.splits
    before = dict(script.functions), set(script.imports), dict(script.files)
    plain = {"table": table_text, "images": images_text, "arrays": arrays_text}[splits.train.data.kind]
    try:
        tried = Tried()
        tried.names["HERE"] = Staged(script)
        text = plain(script, prepared, names, tried, parts)
        for part in parts:
            for name, expected in tensors_by_name(names, prepared.encoded[part]).items():
                if not same_bits(tried.gives(f"{name}_{part}"), expected):
                    raise NotPlain(f"{name}_{part} has other bits")
        return text
    except NotPlain as reason:
        script.functions, script.imports, script.files = before
        why = str(reason)
    lines = [f"# What the model saw of {Path(splits.train.data.origin).name}, as fivestep encoded it ({why} has no plain text)."]
    for part in parts:
        for name, tensor in tensors_by_name(names, prepared.encoded[part]).items():
            lines.append(f"{name}_{part} = {array(script, f'{name}_{part}', tensor)}")
    return "\n".join(lines)


class Staged:
    """The folder of the script before it is written: `HERE / name` gives the bytes that will stand there."""

    def __init__(self, script: Script):
        self.script = script

    def __truediv__(self, name: str) -> Any:
        content = self.script.files[name]
        return io.BytesIO(content) if isinstance(content, bytes) else content


def here(script: Script) -> None:
    script.imports.add("from pathlib import Path")


def array(script: Script, name: str, tensor: Tensor) -> str:
    """Writes a tensor beside the script as name.npy; returns the text that reads it."""
    here(script)
    script.imports |= {"import numpy as np", "import torch"}
    tensor, cast = tensor.detach().cpu().contiguous(), ""
    if tensor.dtype in (torch.bfloat16,):
        tensor, cast = tensor.float(), ".bfloat16()"
    stream = io.BytesIO()
    np.save(stream, tensor.numpy(), allow_pickle=False)
    script.files[f"{name}.npy"] = stream.getvalue()
    return f'torch.from_numpy(np.load(HERE / "{name}.npy")){cast}'


def place_of(script: Script, origin: str) -> str:
    """A file of the user's as the script names it: beside it where it lies there, else by its whole path."""
    path = Path(origin).resolve()
    if path.is_relative_to(script.folder):
        here(script)
        return f"HERE / {literal(path.relative_to(script.folder).as_posix())}"
    return literal(str(path))


# -- tables ----------------------------------------------------------------------------------------------------------------------------------------------------


def table_text(script: Script, prepared: Any, names: Names, tried: Tried, parts: list[str]) -> str:
    splits, columns = prepared.splits, prepared.splits.columns
    script.imports.add("import torch")
    datas = distinct_data(splits, parts)
    places = []
    for position, data in enumerate(datas):
        if Path(data.origin).is_file():
            place = place_of(script, data.origin)
            places.append(place)
            tried.names["HERE"] = script.folder
        else:
            stream = io.BytesIO()
            data.typed.table.frame.write_parquet(stream)
            name = f"table{position or ''}.parquet"
            script.files[name] = stream.getvalue()
            here(script)
            places.append(f'HERE / "{name}"')
            tried.names["HERE"] = Staged(script)
    typed = datas[0].typed
    if len(datas) > 1:
        import polars

        from fivestep.data.kinds import read_columns
        from fivestep.data.tables import Table

        frames = [data.typed.table.frame for data in datas]
        if any(frame.schema != frames[0].schema for frame in frames):
            raise NotPlain("several files with different columns")
        options = datas[0].options
        joined = Table(polars.concat(frames), typed.origin, "joined", None, typed.options)
        typed = read_columns(joined, target=options["target"], drop=options["drop"], weight=options["weight"])
    reader = TableReader(script, tried, columns, typed)
    files_there = all(Path(data.origin).is_file() for data in datas)
    read = reader.read(places, [data.typed.rows if files_there else np.arange(len(data)) for data in datas])
    inputs = reader.inputs(list(names.inputs))
    dtype = next((tensor.dtype for tensor in tensors_by_name(names, prepared.encoded["train"]).values() if tensor.is_floating_point()), torch.float32)
    if dtype != torch.float32:
        inputs += f"\n{names.inputs[0]} = {names.inputs[0]}{CASTS[dtype]}"
        tried.run(f"{names.inputs[0]} = {names.inputs[0]}{CASTS[dtype]}")
    lines = [read, "", inputs]
    if names.targets:
        lines.append(reader.target(prepared.decoding, prepared.encoded["train"].targets[0]))
    if names.weights:
        lines.append(reader.weights())
    tried.run("\n".join(lines[3:]))
    return "\n".join([*lines, "", split_text(script, prepared, names, tried, parts, "len(table)")])


def distinct_data(splits: Any, parts: list[str]) -> list[Any]:
    found: list[Any] = []
    for name in parts:
        data = getattr(splits, name).data
        if not any(data is one for one in found):
            found.append(data)
    return found


# -- arrays and images -----------------------------------------------------------------------------------------------------------------------------------------


def arrays_text(script: Script, prepared: Any, names: Names, tried: Tried, parts: list[str]) -> str:
    """The arrays as they were given, from .npy files, in the dtype of the model."""
    return saved_arrays(script, prepared, names, tried, parts)


def saved_arrays(script: Script, prepared: Any, names: Names, tried: Tried, parts: list[str]) -> str:
    splits = prepared.splits
    datas = distinct_data(splits, parts)
    seen = tensors_by_name(names, prepared.encoded["train"])
    script.imports.add("import torch")
    files_named = {"x": "inputs", "y": "targets", "w": "weights"}
    lines = []
    if len(datas) > 1:  # data that came split already: each part from its own files
        for part in parts:
            for name, tensor in tensors_by_name(names, getattr(splits, part).data.source).items():
                text = array_as(script, f"{part}_{files_named.get(name, name)}", tensor, seen[name])
                lines.append(f"{name}_{part} = {text}")
        tried.run("\n".join(lines))
        return "\n".join(lines)
    for name, tensor in tensors_by_name(names, datas[0].source).items():
        lines.append(f"{name} = {array_as(script, files_named.get(name, name), tensor, seen[name])}")
    tried.run("\n".join(lines))
    first = names.all[0]
    if all(len(getattr(splits, part)) == len(datas[0]) for part in parts) and parts == ["train"]:
        text = "\n".join(line.replace(f"{name} = ", f"{name}_train = ", 1) for line, name in zip(lines, names.all))
        tried.run(text)
        return text
    return "\n".join([*lines, "", split_text(script, prepared, names, tried, parts, f"len({first})")])


def array_as(script: Script, name: str, tensor: Tensor, like: Tensor) -> str:
    """The text that reads a tensor in the dtype of `like`; pixels that were bytes are kept as bytes."""
    if tensor.dtype == torch.float32 and tensor.dim() == 4:
        whole = (tensor * 255).round().clamp(0, 255).to(torch.uint8)
        if same_bits(whole.to(torch.float32).div(255), tensor):
            return f"{array(script, name, whole)}.float() / 255" + ("" if like.dtype == torch.float32 else CASTS[like.dtype])
    return array(script, name, tensor) + ("" if like.dtype == tensor.dtype or not tensor.is_floating_point() else CASTS[like.dtype])


def images_text(script: Script, prepared: Any, names: Names, tried: Tried, parts: list[str]) -> str:
    """A folder of images through Pillow, where plain calls give the same pixels; arrays of images from .npy files."""
    splits = prepared.splits
    datas = distinct_data(splits, parts)
    data = datas[0]
    if len(datas) > 1 or not Path(data.origin).is_dir() or not hasattr(data.source, "inputs"):
        return saved_arrays(script, prepared, names, tried, parts)
    from fivestep.data.images import EXTENSIONS

    _, channels, height, width = data.source.inputs.shape
    mode = "L" if channels == 1 else "RGB"
    endings = sorted({path.suffix for path in Path(data.origin).rglob("*") if path.suffix.lower() in EXTENSIONS})
    suffix = f"path.suffix in {literal(endings)}" if len(endings) > 1 else f"path.suffix == {literal(endings[0])}"
    place = place_of(script, data.origin)
    script.imports.add("from pathlib import Path")
    wanted = data.source.inputs
    for turned in ("", "turned"):
        for resized in ("", f".resize(({width}, {height}), Image.Resampling.BILINEAR)"):
            opened = "ImageOps.exif_transpose(Image.open(path))" if turned else "Image.open(path)"
            pixels = "torch.from_numpy(np.array(image))" + ("[None]" if channels == 1 else ".permute(2, 0, 1)")
            function = (
                f'def read_image(path):\n    """uint8 ({channels}, {height}, {width})"""\n    image = {opened}.convert("{mode}"){resized}\n    return {pixels}'
            )
            lines = [
                f"FOLDER = {place if place.startswith('HERE') else f'Path({place})'}",
                "classes = sorted(folder.name for folder in FOLDER.iterdir() if folder.is_dir())",
                f'paths = [path for name in classes for path in sorted((FOLDER / name).rglob("*")) if {suffix}]',
                "x = torch.stack([read_image(path) for path in paths]).float() / 255",
                "y = torch.tensor([classes.index(path.relative_to(FOLDER).parts[0]) for path in paths])",
            ]
            tried.names["HERE"] = script.folder
            try:
                tried.run("from PIL import Image, ImageOps\n" + function + "\n" + "\n".join(lines))
            except Exception:  # a candidate that Pillow or torch refuses is none
                continue
            if same_bits(tried.names["x"], wanted) and same_bits(tried.names["y"], data.source.targets[0]):
                script.define(
                    "read_image", function, "import numpy as np", "import torch", "from PIL import Image", *(["from PIL import ImageOps"] if turned else [])
                )
                seen = tensors_by_name(names, prepared.encoded["train"])
                for name in names.all:
                    if seen[name].dtype != tried.names[name].dtype:
                        lines.append(f"{name} = {name}{CASTS[seen[name].dtype]}")
                        tried.run(lines[-1])
                return "\n".join([*lines, "", split_text(script, prepared, names, tried, parts, "len(paths)")])
    tried.names["HERE"] = Staged(script)
    return saved_arrays(script, prepared, names, tried, parts)


# -- the split -------------------------------------------------------------------------------------------------------------------------------------------------


def split_text(script: Script, prepared: Any, names: Names, tried: Tried, parts: list[str], count: str) -> str:
    """The rows of each part from the recorded rule, and the tensors of each part."""
    splits = prepared.splits
    datas = distinct_data(splits, parts)
    rows: dict[str, np.ndarray] = {}
    for name in parts:
        part = getattr(splits, name)
        position = next(place for place, data in enumerate(datas) if data is part.data)
        rows[name] = part.indices.numpy() + sum(len(data) for data in datas[:position])
    before = dict(script.functions), set(script.imports)
    for candidate in split_candidates(script, prepared, tried, rows, count):
        try:
            use_generator(script)
            trial = dict(tried.names)
            exec("import hashlib\n" + script.functions["derive"] + "\n" + script.functions["generator"] + "\n" + candidate, trial)
            if all(same_bits(trial[name], torch.from_numpy(found)) for name, found in rows.items()):
                if "generator(" not in candidate:
                    script.functions, script.imports = before[0], script.imports - ({"import hashlib"} - before[1])
                break
        except Exception:  # a rule that cannot be written so
            continue
    else:
        script.functions, script.imports = before
        here(script)
        script.imports |= {"import json", "import torch"}
        script.files["split.json"] = write_json({name: found.tolist() for name, found in rows.items()}, indent=None)
        comment = f"# The split ({rule_of(splits)}) has no plain text; its rows stand in split.json."
        listed = ", ".join(rows) + ("," if len(rows) == 1 else "")
        candidate = f'{comment}\n{listed} = (torch.tensor(rows) for rows in json.loads((HERE / "split.json").read_text()).values())'
        exec("\n".join(f"{name} = torch.tensor({found.tolist()})" for name, found in rows.items()), tried.names)
    tried.names.update({name: torch.from_numpy(found) for name, found in rows.items()})
    takes = [f"{', '.join(f'{name}_{part}' for name in names.all)} = {', '.join(f'{name}[{part}]' for name in names.all)}" for part in parts]
    tried.run("\n".join(takes))
    return "\n".join([candidate, *takes])


def rule_of(splits: Any) -> str:
    how = getattr(splits.how, "how", None)
    return "given" if how is None else how.method


def split_candidates(script: Script, prepared: Any, tried: Tried, rows: dict[str, np.ndarray], count: str) -> list[str]:
    """Texts that may give the rows of each part, the likeliest rule first; each is tried."""
    splits = prepared.splits
    sizes = {name: len(found) for name, found in rows.items()}
    num_test = len(splits.test) if splits.test is not None else 0
    train, val = sizes["train"], sizes.get("val", 0)
    rest = f"  # the other {num_test:,} rows are the test split" if num_test and splits.test is not None and splits.test.data is splits.train.data else ""
    total = len(splits.train.data)
    seed = splits.options.get("seed", 0)
    found = []

    def cut(order: str, suffix: str) -> str:
        """Train from the start of an order, val before test at its end."""
        begin = train if train + val + num_test == total or not rest else total - num_test - val
        lines = [f"train = {order}[:{train}]{suffix}"]
        if "val" in rows:
            lines.append(f"val = {order}[{begin}:{begin + val}]{suffix}")
        lines[-1] += rest
        return "\n".join(lines)

    method = rule_of(splits)
    if all(np.array_equal(part, np.arange(part[0], part[0] + len(part))) for part in rows.values()):
        found.append("\n".join(f"{name} = torch.arange({part[0]}, {part[0] + len(part)})" for name, part in rows.items()) + rest)
    found.append(f'order = torch.randperm({count}, generator=generator({seed}, "split"))\n' + cut("order", ".sort().values"))
    if method == "time" and isinstance(splits.options.get("time"), str) and "table" in tried.names:
        name = splits.options["time"]
        sources = [f"number({literal(name)})", *(key for key, value in tried.names.items() if type(value).__name__ == "Series")]
        for source in sources:
            order = f"{source}.argsort(stable=True)" if source.startswith("number") else f"{source}.to_physical().to_torch().argsort(stable=True)"
            found.append(f"order = {order}  # by time: the earliest rows train\n" + cut("order", ""))
        found.append(
            f'order = table[{literal(name)}].rank("dense").to_torch().long().argsort(stable=True)  # by time: the earliest rows train\n' + cut("order", "")
        )
    column = splits.options.get("column") if method == "column" else None
    group = splits.options.get("group") if method == "groups" else None
    if isinstance(column or group, str) and "table" in tried.names:
        series = tried.names["table"][column or group]
        lines = []
        for name, part in rows.items():
            values = series.gather(part.tolist()).unique().sort().to_list()
            if len(values) <= 40:
                if column and len(values) == 1:
                    lines.append(f"{name} = (table[{literal(column)}] == {literal(values[0])}).arg_true().cast(pl.Int64).to_torch()")
                else:
                    inside = enclosed(
                        f"{name} = table[{literal(column or group)}].is_in([", [literal(value) for value in values], "]).arg_true().cast(pl.Int64).to_torch()"
                    )
                    lines.append(inside)
        if len(lines) == len(rows):
            found.append("\n".join(lines) + rest)
    if method == "stratified" and len(prepared.encoded["train"].targets) == 1:
        found += stratified(splits, rows, seed, count, rest)
    return found


def stratified(splits: Any, rows: dict[str, np.ndarray], seed: int, count: str, rest: str) -> list[str]:
    """Each class is cut by itself: how many rows of it train and how many choose is written as a list."""
    import itertools

    data = splits.train.data
    labels = splits.columns.targets(data.typed).numpy() if splits.columns is not None else data.source.targets[0].numpy()
    values = np.unique(labels)
    if len(values) > 40 or labels.ndim != 1:
        return []
    texts = []
    for classes in (values, values[::-1]):
        sizes = [[int((labels[part] == value).sum()) for part in rows.values()] + [int((labels == value).sum())] for value in classes]
        named = ", ".join(f"num_{name}" for name in rows)
        by_class = "y.argsort(stable=True)" if classes is values else "y.argsort(stable=True, descending=True)"
        lines = [
            f'order = torch.randperm({count}, generator=generator({seed}, "split"))',
            f"order = order[{by_class.replace('y.', 'y[order].')}]  # class by class, each in random order",
            f"{', '.join(rows)} = {', '.join(['[]'] * len(rows))}" if len(rows) > 1 else "train = []",
            "start = 0",
            enclosed(f"for {named}, num_rows in [", [literal(tuple(size)) for size in sizes], f"]:  # of each class{rest.replace('  # ', '; ')}"),
            *itertools.chain.from_iterable(
                [f"    {name}.append(order[start{offset} : start{offset} + num_{name}])"] for name, offset in zip(rows, ("", " + num_train"))
            ),
            "    start += num_rows",
            *(f"{name} = torch.cat({name}).sort().values" for name in rows),
        ]
        texts.append("\n".join(lines))
    return texts


def check_in_memory(prepared: Any) -> None:
    """Refuse a Dataset: it is read example by example by code of the user's, made by a call that is not known."""
    data = prepared.splits.train.data
    if not hasattr(prepared.encoded["train"], "inputs"):
        raise SettingsError(dataset_refusal(data))


def dataset_refusal(data: Any) -> str:
    return (
        f"This run cannot be written as a script: its data is an object of {data.origin}, and how it was made is not known. "
        "Where it fits into memory, read it into arrays: fs.Data.arrays(x, y)."
    )
