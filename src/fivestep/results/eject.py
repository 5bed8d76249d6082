"""A run as one readable script that needs torch and the table reader only, and ends in the same weights, bit for bit on the CPU.

Enters: what a run was prepared from (the `Session` of `session.py`) and the hash of its weights. Leaves: the script, and beside it what it reads: the user's
own module file, arrays as .npy, `initial.safetensors` where the start cannot be built again. The decision that shaped it: text is written for this run alone,
so it holds no `if` for what is off; and what cannot be written truly is refused by name, before the run (`obstacles`) and here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from fivestep import files
from fivestep.errors import CannotCreateError, SettingsError, UsageError
from fivestep.model import building
from fivestep.model.optimizer_state import join_state
from fivestep.results import runs
from fivestep.results.eject_code import REFUSED, Script, literal
from fivestep.results.eject_data import check_in_memory, data_section, dataset_refusal, names_of
from fivestep.results.eject_loop import loop_section, loss_section
from fivestep.results.eject_model import model_call, model_section
from fivestep.results.eject_optimizer import optimizer_section, schedule_section
from fivestep.train import checkpoints

WEIGHTS_SHA256 = '''def weights_sha256(model):
    """SHA-256 over names, dtypes, shapes and bytes of all weights: equal hashes mean equal weights, bit for bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        head = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), len(data)]
        digest.update(json.dumps(head).encode() + b"\\n" + data)
    return digest.hexdigest()'''


def eject(prepared: Any, path: str | Path, *, weights_sha256: str, folder: Path | None = None) -> list[Path]:
    """Write the script and the files that it reads; returns their paths, the script first.

    Raises SettingsError for what cannot be written so, UsageError for a name that the script cannot have, CannotCreateError where a file is in the way.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise UsageError(f"{path}: a script's name is a word and ends in .py, such as train.py.")
    if not path.parent.is_dir():
        raise CannotCreateError(f"{path}: there is no folder {path.parent}.")
    if path.exists():
        raise CannotCreateError(f"{path} exists already and is not overwritten. Choose another name, or delete it.")
    script = Script(path.resolve().parent)
    text = script_text(script, prepared, path.name, weights_sha256, folder)
    if path.name in script.files:
        raise UsageError(f"{path.name} is the name of a file that the script imports or reads. Choose another name for the script.")
    contents = {name: content if isinstance(content, bytes) else content.read_bytes() for name, content in script.files.items()}
    for name, content in contents.items():
        beside = script.folder / name
        if beside.exists() and beside.read_bytes() != content:
            raise CannotCreateError(f"The script needs {name} beside it, and there is another file of that name in {script.folder}. Choose an empty folder.")
    written = []
    for name, content in contents.items():
        beside = script.folder / name
        if not beside.exists():
            beside.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomic(beside, content)
        written.append(beside)
    files.write_atomic(path, text.encode())
    return [path, *written]


def script_text(script: Script, prepared: Any, name: str, weights_sha256: str, folder: Path | None) -> str:
    """The whole script as text, in the order of events."""
    check_in_memory(prepared)
    names = names_of(prepared)
    sections: list[tuple[str, str]] = []
    known: set[str] = set()

    def section(title: str, text: str) -> None:
        """A part of the script: the functions that it was the first to need, then its lines."""
        functions = [function for key, function in script.functions.items() if key not in known and key not in ("derive", "generator")]
        known.update(script.functions)
        sections.append((title, "\n\n\n".join([*functions, text]) if functions else text))

    section("data", data_section(script, prepared, names))
    model = model_section(script, prepared, first_weights(prepared, folder))
    loss, fed = loss_section(script, prepared, names)
    optimizer = optimizer_section(script, prepared)
    moves = schedule_section(script, prepared)
    section("model, loss, optimizer", "\n".join(line for line in (model, loss, optimizer, moves.made) if line))
    section("training: the five steps", loop_section(script, prepared, names, fed, moves))
    script.define("weights_sha256", WEIGHTS_SHA256, "import hashlib", "import json", "import torch")
    section("result", 'print("SHA-256 of the weights:", weights_sha256(model))' + compiled_line(prepared))

    body = "\n\n\n".join(f"# -- {title} {'-' * (112 - len(title))}\n\n{text}" for title, text in sections)
    drawn = [key for key in ("derive", "generator") if re.search(rf"\b{key}\(", body)]
    seeds_first = [script.functions[key] for key in ("derive", "generator") if drawn and (key == "derive" or key in drawn)]
    constants = constants_text(prepared, "\n\n\n".join([*seeds_first, body]))
    rest = "\n\n\n".join([constants, *seeds_first, body])
    drop_unused_imports(script, rest)
    return "\n\n".join([docstring(script, prepared, name, weights_sha256, folder), script.import_text(), rest]) + "\n"


def docstring(script: Script, prepared: Any, name: str, weights_sha256: str, folder: Path | None) -> str:
    splits = prepared.splits
    data = Path(splits.train.data.origin).name if splits.train.data.kind in ("table", "images") else "arrays"
    target = f", target {', '.join(splits.train.data.target_names)}" if splits.train.data.target_names else ""
    needs = ["torch"]
    needs += ["polars"] if any("polars" in line for line in script.imports) else []
    needs += ["numpy"] if any("numpy" in line for line in script.imports) else []
    needs += ["pillow"] if any("PIL" in line for line in script.imports) else []
    run = f"the run {folder.name}" if folder is not None else "a run"
    environment = runs.read(folder, "environment.json", {}) if folder is not None else {}
    version = environment.get("torch", torch.__version__)
    where = "" if prepared.device.type == "cpu" else f" The run was made on {prepared.device}, where equal bits are not promised."
    lines = [
        f'"""Train {type(prepared.training.model).__name__} on {data}{target}, in plain PyTorch.',
        "",
        f"Written by fivestep's eject from {run}; it needs {', '.join(needs[:-1]) + ' and ' if len(needs) > 1 else ''}{needs[-1]}. Run it: python {name}",
        f"On a CPU, with torch {version}, it ends in the weights of that run, bit for bit. Their SHA-256 is",
        f"{weights_sha256}.{where}",
        '"""',
    ]
    return "\n".join(lines)


def constants_text(prepared: Any, body: str) -> str:
    environment = runs.read(prepared.folder, "environment.json", {}) if prepared.folder is not None else {}
    threads = environment.get("threads", torch.get_num_threads())
    lines = ["HERE = Path(__file__).resolve().parent"] if re.search(r"\bHERE\b", body) else []
    lines += [f"SEED = {prepared.plan.seed}"] if re.search(r"\bSEED\b", body) else []
    lines.append(f"EPOCHS = {prepared.plan.epochs}")
    lines += [f"BATCH_SIZE = {prepared.plan.batches.batch_size}"] if re.search(r"\bBATCH_SIZE\b", body) else []
    return "\n".join(lines) + f"\n\ntorch.set_num_threads({threads})  # as in the run: another number adds in another order, and the last bits differ"


def drop_unused_imports(script: Script, text: str) -> None:
    """A section may have asked for an import that no line came to need."""
    for lines in (script.imports, script.own_imports):
        for line in list(lines):
            bound = line.split(" as ")[-1] if " as " in line else line.split(" import ")[-1] if line.startswith("from ") else line.split()[1].split(".")[0]
            if not re.search(rf"\b{re.escape(bound)}\b", text):
                lines.discard(line)


def compiled_line(prepared: Any) -> str:
    compiled = prepared.settings.asked.get("compile")
    if not compiled:
        return ""
    sentence = f'The run was compiled (compile="{compiled}"), and this script is not: expect its weights to agree to about 1e-5 of their size, not to the bit.'
    return f"\nprint({literal(sentence)})"


# -- where the run began ---------------------------------------------------------------------------------------------------------------------------------------


def first_weights(prepared: Any, folder: Path | None) -> dict[str, Tensor] | None:
    """The weights before step 1, where they cannot be built again from recipe and seed; None where they can.

    They stand in checkpoint step 0 of the run's folder. Raises SettingsError where they are needed and nothing has kept them.
    """
    given = prepared.settings.asked.get("weights") is not None
    kept = None if folder is None else checkpoint_weights(folder)
    if kept is not None:  # a checkpoint also holds what state_dict leaves out: buffers that are not persistent
        kept = {name: kept[name] for name in prepared.training.model.state_dict()}
    lazy = any(isinstance(module, LazyModuleMixin) for module in prepared.training.model.modules()) or getattr(prepared.built, "was_lazy", False)
    if prepared.built.rebuildable and not given and not lazy:
        if kept is None:
            return None
        again = building.rebuild(prepared.built.recipe, seed=prepared.plan.seed, model=model_given(prepared))
        same_start = building.parameter_hash(again.module.state_dict()) == building.parameter_hash(kept)
        return None if same_start else kept
    if kept is None:
        why = (
            "its weights= were given"
            if given
            else "its model was an instance"
            if prepared.built.recipe["kind"] == "instance"
            else "its first weights cannot be built again"
        )
        raise SettingsError(
            f"This run cannot be written as a script: {why}, and nothing has kept the weights that it began with. Train with a folder (folder='runs') and "
            "checkpoints, which begin with step 0; or give the class, model=Net, model_args={...}."
        )
    return kept


def model_given(prepared: Any) -> Any:
    """The class or function as it was given; None where the recipe knows it."""
    given = prepared.arguments.get("model")
    return None if given is None or isinstance(given, (str, nn.Module)) else given


def checkpoint_weights(folder: Path) -> dict[str, Tensor] | None:
    """The state_dict of the model before step 1, from the run's first checkpoint; None where there is none."""
    path = folder / "checkpoints" / checkpoints.name_of(0)
    if not path.is_dir():
        return None
    state = join_state(*checkpoints.read_parts(path))
    return state["model"]["parameters"] | state["model"]["buffers"]


# -- told before the run ---------------------------------------------------------------------------------------------------------------------------------------


def obstacles(prepared: Any) -> list[str]:
    """What will keep this run from being ejected, or its script from ending in the same weights, known before its first step; sentences, each with the way on.

    The parts of the script that can refuse are written and thrown away. What the user's own objects keep
    in attributes is given back as it was, as some of them are called for that.
    """
    data, built, ask = prepared.splits.train.data, prepared.built, prepared.arguments
    if not hasattr(prepared.encoded["train"], "inputs"):
        return [f"Cannot be written as a script later (eject): {dataset_refusal(data).removeprefix(REFUSED)}"]
    script, names, found = Script(Path.cwd()), names_of(prepared), []

    def tried(write: Callable[[], Any]) -> Any:
        try:
            return write()
        except SettingsError as refusal:
            found.append(str(refusal).removeprefix(REFUSED))
        except Exception as error:  # the user's own code, or an argument that no literal holds: eject would end with this too
            found.append(f"{type(error).__name__}: {error}.")
        return None

    attributes = copy.deepcopy(prepared.training.attributes.capture())
    if built.recipe["kind"] == "import" and built.why_not is not None:
        found.append(f"model: {built.why_not}.")
    elif built.recipe["kind"] != "built-in":
        tried(lambda: model_call(script, prepared))
    if ask["checkpoint"] is None and (not built.rebuildable or ask["weights"] is not None):
        found.append("nothing keeps the weights that it begins with, as checkpoint=None. Leave checkpoint= out: the first one is written before step 1.")
    section = tried(lambda: loss_section(script, prepared, names))
    tried(lambda: optimizer_section(script, prepared))
    moves = tried(lambda: schedule_section(script, prepared))
    if section is not None and moves is not None:
        tried(lambda: loop_section(script, prepared, names, section[1], moves))
    prepared.training.attributes.restore(attributes)
    refused = [f"Cannot be written as a script later (eject): {why}" for why in dict.fromkeys(found)]
    return refused + [f"Its script (eject) may end in other weights: {why}" for why in script.doubts]
