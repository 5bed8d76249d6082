"""From what a user calls a model (a name, a class, a function, a file, an instance) to a module, and how to get the same one again.

Enters: the model as `fit` was given it, its arguments, what the data say (`facts`) and the run's seed. Leaves: `Built`, with the module and its recipe, JSON that
says where the module came from. The decision that shaped it: a class or function is called under the run's seed exactly as `torch.manual_seed(seed); Net(...)`
would, twice, and only where both calls give the same bits is the recipe taken for the weights. Also here: loading weights, freezing, a summary, and the hash of
weights.
"""

from __future__ import annotations

import copy
import difflib
import fnmatch
import functools
import hashlib
import html
import importlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fivestep import seeds, tensors
from fivestep.errors import MissingInputError, SettingsError, UsageError
from fivestep.files import printable
from fivestep.model import models

FILLED = ("num_inputs", "num_outputs", "num_categories")  # parameters of a user's class that the data fill in
WRAPPERS = (
    "module.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
)  # DataParallel and DDP, torch.compile, FSDP, activation checkpoints
WEIGHT_FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def nearest(given: Any, allowed: Iterable[Any]) -> str:
    """The end of an error about an unknown name: " Did you mean 'lr'?", else the few names that there are, else nothing.

    >>> nearest("epoch", ["epochs", "lr"])
    " Did you mean 'epochs'?"
    """
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(given), names, n=1)
    if not near:
        near = [name for name in names if name.lower() == str(given).lower()]
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" There are: {', '.join(names)}." if 0 < len(names) <= 12 else ""


# -- building --------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """A module and where it came from.

    `recipe` is JSON: `{"kind": "built-in", "name", "args"}`, `{"kind": "import", "module", "qualname", "file", "args", "source_sha256"}` or
    `{"kind": "instance", "class", "module", "qualname", "file", "source_sha256"}`. `importable`: a new process can get at the class or function (and has the
    arguments); else `why_not` says what is in the way. `rebuildable`: calling it again under the same seed gave the same bits, so that the first weights need
    not be kept. `said`: sentences for the user.
    """

    module: nn.Module
    recipe: dict[str, Any]
    importable: bool
    why_not: str | None
    rebuildable: bool
    said: tuple[str, ...] = ()

    def __repr__(self) -> str:
        where = self.recipe.get("name") or self.recipe.get("class") or self.recipe.get("qualname")
        return f"Built({where}, {self.recipe['kind']}, importable={self.importable}, rebuildable={self.rebuildable})"


def build_model(model: Any, model_args: Mapping[str, Any] | None = None, *, facts: Mapping[str, Any] | None = None, seed: int = 0) -> Built:
    """The module that `model` means, built under `seed`; the caller's global random state stays as it was.

    `model` is a built-in name ("mlp", or "auto": `models.choose`), "mine.py:Net" or "package.module:Net", a class, a function that returns a module, or an
    instance, which is used in place. A class or function is called with `model_args`; its parameters called num_inputs, num_outputs and num_categories are
    filled from `facts` unless given, a built-in's also from other facts that it takes (image_shape, task). Raises SettingsError for what is no module or
    cannot be built from these arguments, MissingInputError where a file is not there.

    >>> build_model("linear", facts={"num_inputs": 3, "num_outputs": 2}).recipe
    {'kind': 'built-in', 'name': 'linear', 'args': {'num_inputs': 3, 'num_outputs': 2}}
    """
    args = dict(model_args or {})
    known = {key: value for key, value in (facts or {}).items() if value is not None}
    said: list[str] = []
    if isinstance(model, str) and model == "auto":
        model, chosen, sentence = models.choose(known.get("task"), known.get("num_inputs"), known.get("image_shape"), known.get("rows"))
        args = chosen | args
        said.append(sentence)
    if isinstance(model, str) and model in models.BUILT_IN:
        filled = {key: _plain(known[key]) for key in models.BUILT_IN[model].arguments if key in known and key not in args}
        complete = models.complete_arguments(model, args | filled)
        with seeds.restored(seed):
            module = models.build_built_in(model, complete)
        return Built(module, {"kind": "built-in", "name": model, "args": complete}, True, None, True, tuple(said))
    if isinstance(model, (str, os.PathLike)):
        model = _object_of(os.fspath(model))
    if isinstance(model, nn.Module):
        return _instance(model, args)
    _refuse_no_model(model)

    positional, named, filled = _arguments_for(model, args, known)
    name = _name_of(model)
    module = _call(model, positional, named, seed)
    if filled:
        said.append(f"{name}: {', '.join(f'{key}={_short(known[key])}' for key in filled)} filled in from the data.")
    rebuildable, difference = _called_again(model, positional, named, seed, module)
    if not rebuildable:
        said.append(f"{name} does not give the same weights when it is called again under the same seed ({difference}), so its first weights must be kept.")
    why_not = _why_not_importable(model)
    given = {key: _plain(value) for key, value in named.items() if key not in filled} | dict(zip(_positional_names(model), map(_plain, positional)))
    given |= {key: _plain(known[key]) for key in filled}
    encoded, problem = _encoded_arguments(given)
    recipe = {"kind": "import", **_place_of(model), "args": encoded, "source_sha256": _source_sha256(model)}
    why_not = why_not or problem
    return Built(module, recipe, why_not is None, why_not, rebuildable, tuple(said))


def rebuild(recipe: Mapping[str, Any], *, seed: int, model: Any = None) -> Built:
    """The module of a run's recipe once more, with the weights it had before its first step where `Built.rebuildable` said so.

    `model` is the class, function or instance where the recipe cannot be imported (a notebook's class). Imports and runs the user's code, so it is for the
    user's own run folders and never for artifacts. Raises SettingsError where a class cannot be found; says so where its source is not what it was.
    """
    if recipe["kind"] == "built-in":
        return build_model(recipe["name"], recipe["args"], seed=seed)
    where = f"{recipe['module']}.{recipe['qualname']}"
    if model is None and recipe["kind"] == "instance":
        raise SettingsError(f"The run was given an instance of {where}, which cannot be made again from its record. Give one: model={recipe['qualname']}(...).")
    if isinstance(model, nn.Module):
        built = build_model(model, seed=seed)
    else:
        built = build_model(model if model is not None else _found_again(recipe), _decoded(recipe.get("args", {})), seed=seed)
    before, now = recipe.get("source_sha256"), built.recipe.get("source_sha256")
    if before and now and before != now:
        built = Built(
            built.module,
            built.recipe,
            built.importable,
            built.why_not,
            built.rebuildable,
            (*built.said, f"The source of {where} is not what it was when the run began: the same weights may give other outputs."),
        )
    return built


def _object_of(text: str) -> Any:
    """The class, function or instance that "mine.py:Net" or "package.module:Net" names."""
    path, colon, qualname = text.rpartition(":")
    if colon and path.endswith(".py"):
        return load_file_class(text)
    if text.endswith(".py"):
        return load_file_class(text)
    if text.endswith(WEIGHT_FILES) or text.endswith(".fivestep"):
        raise SettingsError(
            f"model={text!r} is a file of weights, and weights alone are no model. Give the module that they belong to: model=Net, weights={text!r}"
            + (" (or fs.load(path) for an artifact)." if text.endswith(".fivestep") else ".")
        )
    if colon and all(part.isidentifier() for part in path.split(".")):
        try:
            with seeds.restored():
                module = importlib.import_module(path)
        except ImportError as error:
            raise SettingsError(f"model={text!r}: {path} cannot be imported: {error}. For a file give its path: mine.py:{qualname}.") from error
        return _attribute(module, qualname, text)
    names = ["auto", *models.BUILT_IN]
    raise SettingsError(
        f"There is no built-in model {text!r}.{nearest(text, names)} A class of your own goes in as it is, model=Net; by name as mine.py:Net or package.module:Net."
    )


def _refuse_no_model(model: Any) -> None:
    """A lesson for everything that cannot become a module."""
    if inspect.isclass(model) and issubclass(model, nn.Module):
        return
    if inspect.isclass(model):
        what = f"the class {model.__module__}.{model.__qualname__}, which is no torch.nn.Module"
        if hasattr(model, "fit") and hasattr(model, "predict"):
            what += " but an estimator with a fit of its own"
    elif isinstance(model, Mapping):
        what = "a dict; if it is a state_dict, it belongs in weights=, beside the module that it was taken from"
    elif isinstance(model, (list, tuple)):
        what = f"a {type(model).__name__} of {len(model)}; layers in a row are torch.nn.Sequential(*layers)"
    elif callable(model):
        return
    else:
        what = f"{_short(model)}, of type {type(model).__name__}"
    raise SettingsError(
        f"model= is {what}. Give a torch.nn.Module (a class, an instance, a function that returns one) or a name: auto, {', '.join(models.BUILT_IN)}."
    )


def _instance(module: nn.Module, args: Mapping[str, Any]) -> Built:
    """An instance is used as it is; what it was built from is not known."""
    name = type(module).__name__
    if args:
        raise SettingsError(
            f"model is already built, an instance of {name}, so model_args ({', '.join(args)}) could change nothing. Give the class: model={name}, model_args=..."
        )
    said = []
    trained = any(parameter.grad is not None for parameter in module.parameters())
    counted = [buffer for key, buffer in module.named_buffers() if key.endswith("num_batches_tracked") and not is_lazy(buffer)]
    if trained or any(not buffer.is_meta and bool(buffer.any()) for buffer in counted):
        said.append(
            f"This {name} has been trained before (it holds {'gradients' if trained else 'running statistics'}): training goes on from its present weights."
        )
    if any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()]):
        raise SettingsError(
            f"This {name} is on the meta device: it has shapes and no numbers. Give it memory first: module.to_empty(device='cpu'), then load its weights."
        )
    cls = type(module)
    recipe = {"kind": "instance", "class": f"{cls.__module__}.{cls.__qualname__}", **_place_of(cls), "source_sha256": _source_sha256(cls)}
    why_not = _why_not_importable(cls)
    return Built(module, recipe, why_not is None, why_not, False, tuple(said))


# -- calling a class or function -------------------------------------------------------------------------------------------------------------------------------


def _arguments_for(model: Any, args: dict[str, Any], facts: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any], list[str]]:
    """(positional, named, filled): how `model` is called, and which names came from the facts."""
    try:
        parameters = inspect.signature(model).parameters
    except (TypeError, ValueError):  # some classes written in C tell no signature: they get what was given and judge it themselves
        return [], args, []
    name = _name_of(model)
    shown = f"{name}({', '.join(map(str, parameters.values()))})"
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    names = [key for key, parameter in parameters.items() if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)]
    for key in args:
        if key not in names and not takes_any:
            raise SettingsError(f"model_args: {shown} has no parameter {key!r}.{nearest(key, names)}")
    filled = [key for key in FILLED if key in names and key in facts and key not in args]
    given = args | {key: facts[key] for key in filled}
    lacking = [key for key in names if key not in given and parameters[key].default is inspect.Parameter.empty]
    if lacking:
        known = ", ".join(f"{key}={_short(facts[key])}" for key in FILLED if key in facts)
        raise SettingsError(
            f"{shown} needs {', '.join(lacking)}. Give model_args={{{', '.join(f'{key!r}: ...' for key in lacking)}}}. By themselves only parameters called "
            f"{', '.join(FILLED)} are filled in; these data say {known or 'none of them'}."
        )
    positional = []
    for key in _positional_names(model):
        if key not in given:
            break
        positional.append(given.pop(key))
    return positional, given, filled


def _positional_names(model: Any) -> list[str]:
    try:
        return [key for key, parameter in inspect.signature(model).parameters.items() if parameter.kind is parameter.POSITIONAL_ONLY]
    except (TypeError, ValueError):
        return []


def _call(model: Any, positional: Sequence[Any], named: Mapping[str, Any], seed: int) -> nn.Module:
    """`model(...)` under the seed, on copies of the arguments, as a module may change them; what goes wrong inside is told with its line."""
    name = _name_of(model)
    positional, named = _copied((list(positional), dict(named)))
    shown = f"{name}({', '.join([*map(_short, positional), *(f'{key}={_short(value)}' for key, value in named.items())])})"
    try:
        with seeds.restored(seed):
            module = model(*positional, **named)
    except Exception as error:  # the user's own code: anything can come
        hint = ""
        if isinstance(error, AttributeError) and "before Module.__init__() call" in str(error):
            hint = f" Begin {name}.__init__ with super().__init__(): only then can layers be assigned."
        raise SettingsError(f"{shown} could not be built: {type(error).__name__}: {error}{_line_of(error)}.{hint}") from error
    if not isinstance(module, nn.Module):
        hint = " Its last line may lack `return`." if module is None else ""
        raise SettingsError(f"{shown} returned {_short(module)}, of type {type(module).__name__}, and not a torch.nn.Module.{hint}")
    return module


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # open files, locks, generators: they are passed as they are, as the user's own loop would
        return value


def _called_again(model: Any, positional: Sequence[Any], named: Mapping[str, Any], seed: int, first: nn.Module) -> tuple[bool, str]:
    """Whether a second call under the same seed gives another module with the same bits; else what differs."""
    try:
        second = _call(model, positional, named, seed)
    except SettingsError as error:
        return False, f"the second call failed: {error}"
    if second is first:
        return False, "it returns the same object"
    one, other = _all_tensors(first), _all_tensors(second)
    if list(one) != list(other):
        return False, "its tensors have other names"
    shared = {tensor.data_ptr() for tensor in one.values() if _has_memory(tensor)} & {tensor.data_ptr() for tensor in other.values() if _has_memory(tensor)}
    if shared:
        return False, "both share tensors"
    different = next((name for name in one if not _same_bits(one[name], other[name])), None)
    return (True, "") if different is None else (False, f"{different} differs")


def _all_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, those that no state_dict holds too, under every name that they have."""
    found: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    return found | dict(module.named_buffers(remove_duplicate=False))


def _has_memory(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and not tensor.is_meta and tensor.layout == torch.strided and tensor.numel() > 0


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if is_lazy(one) or is_lazy(other):
        return is_lazy(one) and is_lazy(other)  # both come to be in the first forward, under the run's seed
    if one.dtype != other.dtype or one.shape != other.shape or one.layout != other.layout:
        return False
    if one.is_meta or other.is_meta:
        return one.is_meta and other.is_meta
    if one.layout != torch.strided or one.is_quantized:
        return torch.equal(one.detach().to_dense(), other.detach().to_dense()) if not one.is_quantized else torch.equal(one, other)
    return torch.equal(_raw(one), _raw(other))  # as bytes: NaN equals NaN, and -0.0 is not 0.0


def _raw(tensor: Tensor) -> Tensor:
    """The tensor's bytes, flat, on the CPU."""
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8)


# -- where a class stands --------------------------------------------------------------------------------------------------------------------------------------


def _name_of(model: Any) -> str:
    if isinstance(model, functools.partial):
        return _name_of(model.func)
    return getattr(model, "__name__", type(model).__name__)


def _place_of(model: Any) -> dict[str, Any]:
    target = model.func if isinstance(model, functools.partial) else model
    if not hasattr(target, "__qualname__"):
        target = type(target)
    return {"module": target.__module__, "qualname": target.__qualname__, "file": _file_of(target)}


def _file_of(target: Any) -> str | None:
    try:
        file = inspect.getsourcefile(target)
    except (TypeError, OSError):
        return None
    return os.path.abspath(file) if file and os.path.isfile(file) else None


def _source_sha256(model: Any) -> str | None:
    target = model.func if isinstance(model, functools.partial) else model
    try:
        return hashlib.sha256(inspect.getsource(target if hasattr(target, "__qualname__") else type(target)).encode("utf-8", "surrogatepass")).hexdigest()
    except (TypeError, OSError):  # a notebook without history, the REPL, a class written in C
        return None


def _why_not_importable(model: Any) -> str | None:
    """Why a new process could not import this class or function; None where it can."""
    if isinstance(model, functools.partial):
        return f"a functools.partial of {_name_of(model)} has no name of its own to import; give model={_name_of(model)}, model_args={{...}}"
    if not hasattr(model, "__qualname__"):
        return f"a callable object of {type(model).__name__} has no name to import; give a function or class"
    name, module_name = model.__qualname__, model.__module__
    if name == "<lambda>" or name.endswith(".<lambda>"):
        return "a lambda has no name to import; write a function with def in a module"
    if "<locals>" in name:
        return f"{name} is defined inside a function and exists only while that runs; define it at the top of a module"
    if module_name == "__main__":
        file = getattr(sys.modules.get("__main__"), "__file__", None)
        where = "a notebook or an interactive session" if not file else f"the script that is running ({os.path.basename(file)})"
        return f"{name} is defined in {where}, which a new process cannot import; move it to a module of its own"
    module = sys.modules.get(module_name)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not model:
        return f"{module_name}.{name} is not this object (it was replaced, decorated or made by a call)"
    if getattr(module, "__spec__", None) is None and _file_of(model) is None:
        return f"the module {module_name} was made in memory and is in no file"
    return None


def _found_again(recipe: Mapping[str, Any]) -> Any:
    """The class or function of an "import" recipe: from its module, else from its file."""
    where = f"{recipe['module']}.{recipe['qualname']}"
    if recipe["module"] != "__main__" and not str(recipe["module"]).startswith(_PREFIX):
        try:
            with seeds.restored():
                return _attribute(importlib.import_module(recipe["module"]), recipe["qualname"], where)
        except (ImportError, SettingsError) as error:
            if not (recipe.get("file") and os.path.isfile(recipe["file"])):
                raise SettingsError(f"{where} cannot be imported any more ({error}). Give it: model={recipe['qualname']}.") from error
    if recipe.get("file") and recipe["module"] != "__main__":
        return load_file_class(f"{recipe['file']}:{recipe['qualname']}")
    raise SettingsError(f"{where} was defined in a notebook or in the script that ran, and cannot be imported. Give it: model={recipe['qualname']}.")


def _attribute(module: Any, qualname: str, shown: str) -> Any:
    found = module
    for part in qualname.split("."):
        if not hasattr(found, part):
            own = [key for key, value in vars(module).items() if not key.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))]
            here = [key for key in own if getattr(vars(module)[key], "__module__", None) == module.__name__]
            raise SettingsError(f"{shown}: there is no {qualname}.{nearest(qualname, here or own)}")
        found = getattr(found, part)
    return found


# -- arguments as JSON -----------------------------------------------------------------------------------------------------------------------------------------


def _encoded_arguments(args: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The arguments as JSON, from which `_decoded` gets them back as they were, tuples too; and what cannot be written so (then left out, and named)."""
    encoded, lost = {}, []
    for key, value in args.items():
        try:
            encoded[key] = _encoded(value)
        except TypeError as error:
            lost.append(f"{key} ({error})")
    return encoded, f"these arguments cannot be written as JSON: {', '.join(lost)}" if lost else None


def _encoded(value: Any) -> Any:
    if isinstance(value, tuple) and type(value) is tuple:
        return {"tuple": [_encoded(part) for part in value]}
    if type(value) is list:
        return [_encoded(part) for part in value]
    if type(value) is dict and all(type(key) is str for key in value) and set(value) != {"tuple"}:
        return {key: _encoded(part) for key, part in value.items()}
    if value is None or type(value) in (bool, int, str) or (type(value) is float and value - value == 0):
        return value
    raise TypeError(f"{_short(value)} is a {type(value).__name__}")


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"tuple"}:
        return tuple(_decoded(part) for part in value["tuple"])
    if isinstance(value, dict):
        return {key: _decoded(part) for key, part in value.items()}
    return [_decoded(part) for part in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """numpy's and torch's whole numbers as Python's, as facts may come from either."""
    if not isinstance(value, (bool, int, float, str, Tensor)) and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    return tuple(map(_plain, value)) if type(value) is tuple else [_plain(part) for part in value] if type(value) is list else value


def _short(value: Any) -> str:
    try:
        text = f"Tensor{tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    except Exception:  # a user's __repr__ may fail, and must not hide the error that is being told
        text = f"a {type(value).__name__}"
    return printable(text, 80)


def _line_of(error: BaseException) -> str:
    """ " (line 7 of mine.py)": the last line of the user's own code, not of torch or fivestep, that the error passed through."""
    ours, theirs = os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(os.path.abspath(torch.__file__))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not os.path.abspath(frame.filename).startswith((ours, theirs))]
    frames = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    return f" (line {frames[-1].lineno} of {os.path.basename(frames[-1].filename)})" if frames else ""


# -- a class from a file ---------------------------------------------------------------------------------------------------------------------------------------

_PREFIX = "fivestep_file_"  # of module names whose own name is taken: a user's json.py or torch.py


def load_file_class(text: str) -> Any:
    """The class, function or instance that "folder/mine.py:Net" names. The file is run as a module; its folder is on sys.path while it runs.

    Random state and sys.path are given back. Raises MissingInputError where there is no such file; SettingsError with the line for a syntax error or anything
    that the file raises, and with the nearest name where it defines no such class.
    """
    path_text, colon, qualname = text.rpartition(":")
    if not colon or not path_text.endswith(".py"):
        path_text, qualname = text, ""
    path = Path(path_text).expanduser()
    if not path.is_file():
        folder = path.parent
        beside = sorted(entry.name for entry in folder.glob("*.py")) if folder.is_dir() else []
        what = f"There is no folder {folder}." if not folder.is_dir() else f"There is no file {path}.{nearest(path.name, beside)}"
        raise MissingInputError(f"{text}: {what}" if path_text.endswith(".py") else f"{text!r}: a model in a file is written mine.py:Net. {what}")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise MissingInputError(f"{path} cannot be read: {error.strerror}.") from error
    module = _module_of_file(path.resolve(), source)
    if not qualname:
        classes = [
            key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module.__name__
        ]
        found = f"; it defines {', '.join(classes)}" if classes else ""
        raise SettingsError(f"{text}: say which class in the file you mean{found}: {path}:{classes[0] if classes else 'Net'}")
    return _attribute(module, qualname, text)


def _module_of_file(path: Path, source: bytes) -> types.ModuleType:
    """The file as a module in sys.modules. Compiled here, not through __pycache__, whose test (size and whole seconds) can take an old file for the new one."""
    digest = hashlib.sha256(source).hexdigest()
    name = path.stem
    present = sys.modules.get(name)
    if (present is not None and getattr(present, "__file__", None) != str(path)) or (present is None and _would_shadow(name, path)):
        name = f"{_PREFIX}{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
        present = sys.modules.get(name)
    if present is not None and getattr(present, "__fivestep_sha256__", None) == digest:
        return present
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}: {(error.text or '').strip()}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise SettingsError(f"{path.name} is not valid Python: {reason}{line}") from error
    module = types.ModuleType(name)
    module.__file__ = str(path)
    module.__dict__["__fivestep_sha256__"] = digest
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up there
    before = list(sys.path)
    sys.path.insert(0, str(path.parent))
    try:
        with seeds.restored():
            exec(code, module.__dict__)
    except (Exception, SystemExit) as error:  # the user's own code: anything can come
        if present is not None:
            sys.modules[name] = present
        else:
            sys.modules.pop(name, None)
        hint = ""
        if isinstance(error, SystemExit):
            hint = " The file ended the program while it was read: put what is to run as a script under `if __name__ == '__main__':`."
        elif isinstance(error, ImportError) and "relative import" in str(error):
            hint = " It belongs to a package: name it as package.module:Net, from the folder that holds the package."
        raise SettingsError(f"{path.name} could not be run: {type(error).__name__}: {error}{_line_of(error)}.{hint}") from error
    finally:
        sys.path[:] = before
    return module


def _would_shadow(name: str, path: Path) -> bool:
    """Whether another module can be imported by this name: a later `import json` must not find the user's json.py."""
    if name in sys.builtin_module_names or name in sys.stdlib_module_names or not name.isidentifier():
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin != str(path)


# -- weights ---------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightsReport:
    """What came into the module: names in the module's own spelling. `mismatched` holds (name, what the weights have, what the module wants).

    `share` is the part of the module's numbers (parameters and buffers) that were loaded, 0 to 1. The first line of str() is a summary.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, str, str], ...]
    share: float
    said: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        wanted = len(self.matched) + len(self.missing) + len(self.mismatched)
        percent = f"{self.share:.1%}" if 0 < self.share < 1 else f"{self.share:.0%}"
        lines = [f"Weights from {self.source}: {len(self.matched)} of the model's {wanted} tensors loaded ({percent} of its numbers). " + " ".join(self.said)]
        lines += [f"  not in the weights, left as it was: {_listed(self.missing)}"] if self.missing else []
        lines += [f"  not in the model, left out: {_listed(self.unexpected)}"] if self.unexpected else []
        lines += [f"  {name}: the weights have {have}, the model {want}; left as it was" for name, have, want in self.mismatched]
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__


def load_weights(module: nn.Module, weights: Any, *, strict: bool = True) -> WeightsReport:
    """Copy `weights` into `module` and report what fitted.

    `weights` is a state_dict, or the path of a .safetensors, .pt or .pth file (read without running code in it). Names that DataParallel, torch.compile or FSDP
    prefixed ("module.", "_orig_mod.") are taken without the prefix, and said. With `strict` every tensor must fit in name, shape and kind of number, or
    SettingsError names what does not, with near names, and the module is unchanged; without, what fits is loaded. Nothing fitting is an error either way.
    """
    state, source = _state_of(weights)
    own = _own_state(module)
    names, said = _matched_names(state, own)
    matched: dict[str, Any] = {}
    unexpected, mismatched = [], []
    cast: set[str] = set()
    for key, value in state.items():
        name = names.get(key)
        if name is None:
            unexpected.append(key)
            continue
        want = own[name]
        if isinstance(want, Tensor) != isinstance(value, Tensor):
            mismatched.append((name, f"a {type(value).__name__}", f"a {type(want).__name__}"))
            continue
        if isinstance(want, Tensor) and not is_lazy(want):
            floats = value.is_floating_point() and want.is_floating_point()
            if value.shape != want.shape or (value.dtype != want.dtype and not floats):
                both = value.dtype != want.dtype and not floats
                mismatched.append((name, _shape(value, both), _shape(want, both)))
                continue
            if value.dtype != want.dtype:
                cast.add(f"{_dtype(value)} to {_dtype(want)}")
        matched[name] = value
    # A tied tensor stands under two names and some files (safetensors' save_model) hold one of them.
    loaded = {id(own[name]) for name in matched}
    taken = {name for name, _, _ in mismatched}
    missing = [name for name, tensor in own.items() if name not in matched and name not in taken and id(tensor) not in loaded]
    if cast:
        said.append(f"Converted {', '.join(sorted(cast))}.")
    unique = {id(tensor): tensor.numel() for tensor in own.values() if isinstance(tensor, Tensor) and not is_lazy(tensor)}
    total = sum(unique.values())
    share = sum(count for key, count in unique.items() if key in loaded) / total if total else float(bool(matched))
    report = WeightsReport(source, tuple(matched), tuple(missing), tuple(unexpected), tuple(mismatched), share, tuple(said))
    if not matched:
        raise SettingsError(
            f"None of the {len(state)} tensors in {source} fits the model, so nothing would be loaded and training would begin from random weights. They are called "
            f"{_listed(list(state))}; the model has {_listed(list(own))}." + _mismatch_text(mismatched)
        )
    if strict and not report.complete:
        raise SettingsError(_strict_text(report, own))
    module.load_state_dict(matched, strict=False)
    return report


def _state_of(weights: Any) -> tuple[dict[str, Any], str]:
    """(names to tensors, where they came from)."""
    if isinstance(weights, nn.Module):
        raise SettingsError("weights= is a module; give its weights: weights=module.state_dict().")
    if isinstance(weights, Mapping):
        if weights and all(isinstance(key, str) for key in weights) and any(isinstance(value, Tensor) for value in weights.values()):
            return dict(weights), "a state_dict"
        inner = [key for key, value in weights.items() if isinstance(value, Mapping) and value and all(isinstance(part, Tensor) for part in value.values())]
        if inner:
            raise SettingsError(f"weights= is a checkpoint with more than weights; these stand under {inner[0]!r}. Give weights=checkpoint[{inner[0]!r}].")
        raise SettingsError(f"weights= is a dict of {len(weights)} entries ({_listed([str(key) for key in weights])}) and holds no tensors by name.")
    if not isinstance(weights, (str, os.PathLike)):
        raise SettingsError(f"weights= is a {type(weights).__name__}; give a state_dict, or the path of a .safetensors, .pt or .pth file.")
    path = Path(weights).expanduser()
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix in WEIGHT_FILES)
        raise SettingsError(f"weights={str(path)!r} is a folder." + (f" Give the file: {path / inside[0]}" if inside else " It holds no file of weights."))
    if not path.exists():
        beside = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in WEIGHT_FILES) if path.parent.is_dir() else []
        raise MissingInputError(f"weights: there is no file {path}.{nearest(path.name, beside)}")
    return dict(tensors.load_state_dict_file(path)), path.name


def _own_state(module: nn.Module) -> dict[str, Any]:
    """The module's state_dict, where a tensor that stands under two names is one object."""
    return dict(module.state_dict(keep_vars=True))


def _unwrapped(name: str) -> str:
    parts = name.split(".")
    inner = {wrapper.rstrip(".") for wrapper in WRAPPERS[1:]}  # these stand anywhere in a name, "module." only in front
    kept = [part for position, part in enumerate(parts) if part not in inner]
    while len(kept) > 1 and kept[0] == "module":
        kept = kept[1:]
    return ".".join(kept)


def _matched_names(state: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """(name in the weights -> name in the module, what was done to names). Exact names come first; then names without wrappers; then without one common prefix."""
    names = {key: key for key in state if key in own}
    rest = [key for key in state if key not in own]
    free = {_unwrapped(name): name for name in own if name not in names}
    for key in rest:
        target = free.pop(_unwrapped(key), None)
        if target is not None:
            names[key] = target
    said = []
    renamed = [key for key in rest if key in names]
    if renamed:
        seen = [wrapper for wrapper in WRAPPERS if any(wrapper in key or wrapper in names[key] for key in renamed)]
        said.append(f"{' and '.join(seen)} left out of {len(renamed)} names.")
    if not names and state:
        front = {key.partition(".")[0] for key in state}
        if len(front) == 1:  # Lightning's "model.": one attribute that held the whole module
            prefix = front.pop() + "."
            names = {key: key.removeprefix(prefix) for key in state if key.removeprefix(prefix) in own}
            if names:
                said.append(f"{prefix} left out of {len(names)} names.")
    return names, said


def _strict_text(report: WeightsReport, own: Mapping[str, Any]) -> str:
    lines = [f"The weights from {report.source} do not fit the model, and nothing was loaded:"]
    for name in report.missing[:8]:
        near = difflib.get_close_matches(name, report.unexpected, n=1, cutoff=0.5)
        lines.append(f"  the model has {name}, the weights have not" + (f"; is it their {near[0]}?" if near else ""))
    lines += [f"  and {len(report.missing) - 8} more that the weights have not"] if len(report.missing) > 8 else []
    for name in report.unexpected[:8]:
        near = difflib.get_close_matches(name, report.missing or list(own), n=1, cutoff=0.5)
        lines.append(f"  the weights have {printable(name)}, the model has not" + (f"; is it {near[0]}?" if near else ""))
    lines += [f"  and {len(report.unexpected) - 8} more that the model has not"] if len(report.unexpected) > 8 else []
    lines += [f"  {name}: the weights have {have}, the model {want}" for name, have, want in report.mismatched[:8]]
    lines += [f"  and {len(report.mismatched) - 8} more that do not fit"] if len(report.mismatched) > 8 else []
    lines.append(
        "Rename them in a dict of your own, or take what fits (a new head keeps its first weights): weights_strict=False (load_weights(..., strict=False))."
    )
    return "\n".join(lines)


def _mismatch_text(mismatched: Sequence[tuple[str, str, str]]) -> str:
    return "".join(f" {name}: the weights have {have}, the model {want}." for name, have, want in mismatched[:3])


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape(tensor: Tensor, with_dtype: bool) -> str:
    return f"{tuple(tensor.shape)} {_dtype(tensor)}" if with_dtype else str(tuple(tensor.shape))


def _listed(names: Collection[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(map(printable, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


# -- freezing --------------------------------------------------------------------------------------------------------------------------------------------------


def freeze(module: nn.Module, patterns: str | Sequence[str]) -> tuple[list[str], list[nn.Module]]:
    """Switch off the gradients of all parameters that a pattern names: (their names, the modules that must stay in `eval()`).

    A pattern is a parameter's or a module's name, `*` and `?` allowed: "backbone", "backbone.*", "*.bias". The modules are those whose parameters are all
    frozen, the largest ones only: left in train(), their BatchNorm would go on learning its running mean, and dropout would go on drawing. Nothing is changed
    where a pattern names nothing or nothing would be left to train: SettingsError.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    submodules = {name: part for name, part in module.named_modules(remove_duplicate=False) if name}

    def names(pattern: str, name: str) -> bool:
        """Whether the pattern names `name` or a module that holds it."""
        parts = name.split(".")
        return any(fnmatch.fnmatchcase(".".join(parts[:length]), pattern) for length in range(1, len(parts) + 1))

    for pattern in patterns:
        if not any(names(pattern, name) for name in [*parameters, *submodules]):
            raise SettingsError(
                f"freeze: {pattern!r} names no parameter and no module of {type(module).__name__}.{nearest(pattern, [*submodules, *parameters])}"
            )
    frozen = {id(parameter) for name, parameter in parameters.items() if any(names(pattern, name) for pattern in patterns)}
    if parameters and not any(parameter.requires_grad and id(parameter) not in frozen for parameter in parameters.values()):
        raise SettingsError(
            f"freeze={patterns!r} leaves no parameter of {type(module).__name__} to train. Leave out the last layer, as {list(parameters)[-1]!r}."
        )
    for parameter in parameters.values():
        if id(parameter) in frozen:
            parameter.requires_grad_(False)

    def stays(name: str, part: nn.Module) -> bool:
        inside = list(part.parameters())
        if not inside:
            return any(names(pattern, name) for pattern in patterns)
        return not any(parameter.requires_grad for parameter in inside) and any(id(parameter) in frozen for parameter in inside)

    still = {name: part for name, part in submodules.items() if stays(name, part)}
    largest = [part for name, part in still.items() if not any(name.startswith(f"{other}.") for other in still)]
    unique = list({id(part): part for part in largest}.values())
    return [name for name, parameter in parameters.items() if id(parameter) in frozen], unique


# -- looking at a module ---------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One row of a summary. `output_shape` and `calls` are None where no forward was run; `parameters` counts the layer's own ones, tied ones once, None while lazy."""

    name: str
    type: str
    output_shape: str | None
    parameters: int | None
    trainable: str  # "yes", "no", "partly", or "" without parameters
    calls: int | None


@dataclass(frozen=True)
class ModelSummary:
    """A module's layers and totals. Prints as a table; in a notebook as HTML. `parameters` and `trainable` leave out what is not initialised yet."""

    name: str
    layers: tuple[Layer, ...]
    parameters: int
    trainable: int
    bytes: int
    dtype: str
    device: str
    said: tuple[str, ...] = ()

    def _cells(self) -> list[tuple[str, ...]]:
        def count(layer: Layer) -> str:
            return "not initialised" if layer.parameters is None else f"{layer.parameters:,}" if layer.parameters or layer.trainable else ""

        def calls(layer: Layer) -> str:
            return (layer.output_shape or "-") + (f" x{layer.calls}" if layer.calls and layer.calls > 1 else "")

        return [(layer.name, layer.type, calls(layer), count(layer), layer.trainable) for layer in self.layers]

    def _totals(self) -> list[str]:
        size = f"{self.bytes / 2**20:,.1f} MB" if self.bytes >= 2**20 else f"{self.bytes:,} bytes"
        return [f"{self.parameters:,} parameters, {self.trainable:,} of them trained; {size} with buffers; {self.dtype} on {self.device}", *self.said]

    def __repr__(self) -> str:
        rows = [("layer", "type", "output", "parameters", "trained"), *self._cells()]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = [
            "  ".join(cell.rjust(width) if column == 3 else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows
        ]
        return "\n".join([self.name, *lines[:1], "-" * (sum(widths) + 8), *lines[1:], "-" * (sum(widths) + 8), *self._totals()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{title}</th>" for title in ("layer", "type", "output", "parameters", "trained"))
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self._cells())
        foot = "<br>".join(map(html.escape, self._totals()))
        return f"<b>{html.escape(self.name)}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{foot}</p>"


def describe(module: nn.Module, example_inputs: Any = None) -> ModelSummary:
    """The layers of any module with their parameters and, given inputs (a tensor, a tuple for `model(*x)`, a dict for `model(**x)`), their output shapes.

    The forward runs on a copy in `eval()`, without gradients, and the global random state is given back: the module is only looked at. Where the forward fails,
    the shapes up to there are shown, and the summary says where and why.

    >>> print(describe(nn.Linear(3, 2), torch.zeros(5, 3)).layers[0].output_shape)
    (5, 2)
    """
    said: list[str] = []
    shapes: dict[str, str] = {}
    calls: dict[str, int] = {}
    seen = module
    ran = False
    lazy = [name for name, tensor in [*module.named_parameters(), *module.named_buffers()] if is_lazy(tensor)]
    if example_inputs is not None:
        try:
            with seeds.restored():
                seen = copy.deepcopy(module)
        except Exception as error:  # a module may hold anything
            said.append(f"The forward was not run: {type(module).__name__} cannot be copied ({type(error).__name__}: {error}).")
        else:
            problem = _run_copy(seen, example_inputs, shapes, calls)
            ran = problem is None
            said += [problem] if problem else []
    if lazy:
        counted = " The counts are those that this example gives." if ran else ""
        said.append(f"Not initialised yet (lazy): {_listed(lazy)}. The first forward gives them their shapes.{counted}")

    counted_parameters: set[int] = set()
    layers = []
    for name, part in seen.named_modules():
        own = [parameter for parameter in part.parameters(recurse=False) if id(parameter) not in counted_parameters]
        counted_parameters |= {id(parameter) for parameter in own}
        holders = isinstance(part, (nn.ModuleList, nn.ModuleDict))
        if (any(True for _ in part.children()) and not own) or (holders and not own):
            continue  # a container has nothing of its own to show
        flags = {parameter.requires_grad for parameter in part.parameters(recurse=False)}
        trainable = "" if not flags else "partly" if len(flags) == 2 else "yes" if flags == {True} else "no"
        number = None if any(is_lazy(parameter) for parameter in own) else sum(parameter.numel() for parameter in own)
        layers.append(Layer(name or "(itself)", type(part).__name__, shapes.get(name), number, trainable, calls.get(name, 0) if calls else None))
    if ran:
        # Parameter lists are never called, and attention reads its out_proj without calling it.
        attention = tuple(f"{name}." for name, part in seen.named_modules() if name and isinstance(part, nn.MultiheadAttention))
        unused = [
            layer.name
            for layer in layers
            if layer.calls == 0
            and layer.parameters
            and layer.type not in ("ParameterList", "ParameterDict")
            and not layer.name.startswith(attention or ("\0",))
        ]
        if unused and type(seen) is not nn.MultiheadAttention:
            said.append(f"Never called in this forward: {_listed(unused)}.")

    everything = [tensor for tensor in [*seen.parameters(), *seen.buffers()] if not is_lazy(tensor)]
    parameters = [parameter for parameter in seen.parameters() if not is_lazy(parameter)]
    return ModelSummary(
        name=type(module).__name__,
        layers=tuple(layers),
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in everything),
        dtype=", ".join(sorted({_dtype(tensor) for tensor in parameters or everything})) or "no dtype",
        device=", ".join(sorted({str(tensor.device) for tensor in everything})) or "no device",
        said=tuple(said),
    )


def _run_copy(module: nn.Module, inputs: Any, shapes: dict[str, str], calls: dict[str, int]) -> str | None:
    """Run the forward of a copy, filling shapes and calls by layer name; the problem in words where it fails."""
    entered: list[str] = []

    def before(name: str) -> Callable[..., None]:
        return lambda *_: entered.append(name)

    def after(name: str) -> Callable[..., None]:
        def note(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            entered.remove(name)
            shapes.setdefault(name, _shapes_of(outputs))
            calls[name] = calls.get(name, 0) + 1

        return note

    for name, part in module.named_modules():
        if not isinstance(part, torch.jit.ScriptModule):  # they take no hooks
            part.register_forward_pre_hook(before(name))
            part.register_forward_hook(after(name))
    module.eval()
    given = _copied(inputs)  # a forward may write into its inputs
    try:
        with seeds.restored(), torch.no_grad():
            if isinstance(given, Mapping):
                module(**given)
            elif isinstance(given, tuple):
                module(*given)
            else:
                module(given)
    except Exception as error:  # the user's own forward: anything can come
        where = f" in {entered[-1]!r}" if entered and entered[-1] else ""
        reason = str(error).strip().splitlines()
        return f"The forward failed{where}: {type(error).__name__}: {reason[0] if reason else ''}{_line_of(error)}; given {_shapes_of(inputs)}."
    return None


def _shapes_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shapes_of(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(_shapes_of, value)) + ")"
    return type(value).__name__


# -- the hash of weights ---------------------------------------------------------------------------------------------------------------------------------------


def parameter_hash(state_dict: Mapping[str, Any]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a state_dict, in the order of the names: equal hashes mean equal weights, bit for bit.

    The device, the memory layout and the order in the dict do not count. Raises UsageError for tensors without numbers (lazy, meta) and for extra state that is
    neither tensor nor JSON.

    >>> parameter_hash({"a": torch.zeros(2), "b": torch.ones(3)}) == parameter_hash({"b": torch.ones(3), "a": torch.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        value = state_dict[name]
        if isinstance(value, Tensor):
            if is_lazy(value) or value.is_meta:
                raise UsageError(f"{name} has no numbers yet ({'lazy' if is_lazy(value) else 'on the meta device'}), so there is nothing to hash.")
            value = value.detach()
            value = value.to_dense() if value.layout != torch.strided else value.int_repr() if value.is_quantized else value
            kind, shape, data = _dtype(value), list(value.shape), _raw(value).numpy().data
        else:
            try:
                kind, shape, data = "json", [], memoryview(json.dumps(value, sort_keys=True, allow_nan=False).encode())
            except (TypeError, ValueError) as error:
                raise UsageError(f"{name} in the state_dict is a {type(value).__name__}; its extra state must be a tensor or JSON to be compared.") from error
        # The head is JSON, so that no name can look like the end of one entry and the beginning of the next.
        digest.update(json.dumps([name, kind, shape, len(data)]).encode() + b"\n")
        digest.update(data)
    return digest.hexdigest()
