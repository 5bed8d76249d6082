"""From what a user calls a model (a name, a class, a function, a file, an instance) to a module, and how to get the same one again.

Enters: the model as `fit` was given it, its arguments, what the data say (`facts`) and the run's seed. Leaves: `Built`, with the module and its recipe, JSON that
says where the module came from. The decision that shaped it: a class or function is called under the run's seed exactly as `torch.manual_seed(seed); Net(...)`
would, twice, and only where both calls give the same bits is the recipe taken for the weights. What can be done to the weights then stands in `weights.py`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fivestep import seeds
from fivestep.errors import MissingInputError, SettingsError
from fivestep.model import choosing, models
from fivestep.model.models import nearest as nearest  # these "as" names are reached as building.nearest, building.load_weights, ... too
from fivestep.model.weights import WEIGHT_FILES, all_tensors, has_memory, same_bits
from fivestep.model.weights import WeightsReport as WeightsReport
from fivestep.model.weights import freeze as freeze
from fivestep.model.weights import load_weights as load_weights
from fivestep.model.weights import parameter_hash as parameter_hash
from fivestep.quoting import printable

FILLED = ("num_inputs", "num_outputs", "num_categories")  # parameters of a user's class that the data fill in


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

    `model` is a built-in name ("mlp", or "auto": `choosing.choose`), "mine.py:Net" or "package.module:Net", a class, a function that returns a module, or an
    instance, which is used in place. In `model_args` `{"tuple": [...]}` stands for a tuple, as recipes in JSON hold it. A class or function is called with `model_args`; its parameters called num_inputs, num_outputs and num_categories are
    filled from `facts` unless given, a built-in's also from other facts that it takes (image_shape, task). Raises SettingsError for what is no module or
    cannot be built from these arguments, MissingInputError where a file is not there.

    >>> build_model("linear", facts={"num_inputs": 3, "num_outputs": 2}).recipe
    {'kind': 'built-in', 'name': 'linear', 'args': {'num_inputs': 3, 'num_outputs': 2}}
    """
    args = {key: _decoded(value) for key, value in (model_args or {}).items()}
    known = {key: value for key, value in (facts or {}).items() if value is not None}
    said: list[str] = []
    if isinstance(model, str) and model == "auto":
        chosen = choosing.choose(known.get("task"), known.get("num_inputs"), known.get("image_shape"), known.get("rows"))
        model, args = chosen.model, choosing.arguments(chosen, args)
        said.append(chosen.sentence)
    if isinstance(model, str) and model in models.BUILT_IN:
        filled = {key: _plain(known[key]) for key in models.BUILT_IN[model].arguments if key in known and key not in args}
        complete = models.complete_arguments(model, {key: _plain(value) for key, value in args.items()} | filled)
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
    # Recorded and copied before the call, as a module may change its arguments. The first call gets the user's own objects, as in a hand loop.
    encoded, lost = _encoded_arguments(named | dict(zip(_positional_names(model), positional)))
    positional_again, named_again = copied((positional, named))
    module = _call(model, positional, named, seed)
    if filled:
        said.append(f"{name}: {', '.join(f'{key}={short(known[key])}' for key in filled)} filled in from the data.")
    rebuildable, difference = _called_again(model, positional_again, named_again, seed, module)
    if not rebuildable:
        said.append(f"{name} does not give the same weights when it is called again under the same seed ({difference}), so its first weights must be kept.")
    why_not = _why_not_importable(model) or lost
    recipe = {"kind": "import", **_place_of(model), "args": encoded, "source_sha256": _source_sha256(model)}
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
    if text.endswith((*WEIGHT_FILES, ".fivestep")):
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
        what = f"{short(model)}, of type {type(model).__name__}"
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
        known = ", ".join(f"{key}={short(facts[key])}" for key in FILLED if key in facts)
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
    """`model(...)` under the seed; what goes wrong inside is told with its line."""
    name = _name_of(model)
    shown = f"{name}({', '.join([*map(short, positional), *(f'{key}={short(value)}' for key, value in named.items())])})"
    try:
        with seeds.restored(seed):
            module = model(*positional, **named)
    except Exception as error:  # the user's own code: anything can come
        hint = ""
        if isinstance(error, AttributeError) and "before Module.__init__() call" in str(error):
            hint = f" Begin {name}.__init__ with super().__init__(): only then can layers be assigned."
        raise SettingsError(f"{shown} could not be built: {type(error).__name__}: {error}{line_of(error)}.{hint}") from error
    if not isinstance(module, nn.Module):
        hint = " Its last line may lack `return`." if module is None else ""
        raise SettingsError(f"{shown} returned {short(module)}, of type {type(module).__name__}, and not a torch.nn.Module.{hint}")
    return module


def copied(value: Any) -> Any:
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
    one, other = all_tensors(first), all_tensors(second)
    if list(one) != list(other):
        return False, "its tensors have other names"
    shared = {tensor.data_ptr() for tensor in one.values() if has_memory(tensor)} & {tensor.data_ptr() for tensor in other.values() if has_memory(tensor)}
    if shared:
        return False, "both share tensors"
    different = next((name for name in one if not same_bits(one[name], other[name])), None)
    return (True, "") if different is None else (False, f"{different} differs")


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
            here = [key for key in own if inspect.isclass(vars(module)[key]) and vars(module)[key].__module__ == module.__name__]
            near = nearest(qualname, own)
            raise SettingsError(f"{shown}: there is no {qualname}.{near if 'mean' in near else nearest(qualname, here)}")
        found = getattr(found, part)
    return found


# -- arguments as JSON -----------------------------------------------------------------------------------------------------------------------------------------


def _encoded_arguments(args: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The arguments as JSON, from which `_decoded` gets them back as they were, tuples too; and what cannot be written so (then left out, and named)."""
    encoded, lost = {}, []
    for key, value in args.items():
        try:
            encoded[key] = _encoded(_plain(value))
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
    raise TypeError(f"{short(value)} is a {type(value).__name__}")


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


def short(value: Any) -> str:
    try:
        text = f"Tensor{tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    except Exception:  # a user's __repr__ may fail, and must not hide the error that is being told
        text = f"a {type(value).__name__}"
    return printable(text, 80)


def line_of(error: BaseException) -> str:
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
    if present is not None and not hasattr(present, "__fivestep_sha256__") and os.path.realpath(getattr(present, "__file__", None) or "") == str(path):
        return present  # the user's own `import mine`: a second class of the same name would be a stranger to theirs
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
    folder = str(path.parent)
    sys.path.insert(0, folder)
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
        raise SettingsError(f"{path.name} could not be run: {type(error).__name__}: {error}{line_of(error)}.{hint}") from error
    finally:
        with contextlib.suppress(ValueError):  # the file may have taken it out itself
            sys.path.remove(folder)
    return module


def _would_shadow(name: str, path: Path) -> bool:
    """Whether another module can be imported by this name: a later `import json` must not find the user's json.py."""
    if name in sys.builtin_module_names or name in sys.stdlib_module_names or not name.isidentifier():
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and os.path.realpath(spec.origin or "") != str(path)
