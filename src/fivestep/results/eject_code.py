"""Pieces of Python text for an ejected script: literals, calls, imports, and the user's own code that goes beside it.

Enters: live objects (numbers, tensors, losses, classes, functions). Leaves: text that makes them again, and the files that the text needs. The decision that
shaped it: whatever cannot be written as text or imported from a file is refused here, by its name, so that no script is written that only looks right.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import math
import os
import random
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fivestep.errors import SettingsError

WIDTH = 120  # characters in a line of an ejected script
LIBRARIES = (sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], sysconfig.get_paths()["stdlib"])


@dataclass
class Script:
    """A script while it is written: what it imports, the functions it defines, and the files that must stand beside it."""

    folder: Path  # where the script will stand
    imports: set[str] = field(default_factory=set)
    own_imports: set[str] = field(default_factory=set)  # from the user's files beside the script
    functions: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes | Path] = field(default_factory=dict)  # by name: bytes to write, or a file of the user's to copy
    doubts: list[str] = field(default_factory=list)  # why the script may end in other weights than the run
    names: dict[str, Any] = field(default_factory=dict)  # what an imported name stands for: two things of one name get two names

    def define(self, name: str, text: str, *imports: str) -> str:
        """Have a function in the script, once; returns its name."""
        self.functions.setdefault(name, text.strip("\n"))
        self.imports.update(imports)
        return name

    def use(self, target: Any, what: str) -> str:
        """The name under which a class or function can be called in the script: torch's own as `nn.Linear`, the user's imported from a copied file.

        Raises SettingsError, naming `what` (the argument of fit), for what no file holds.
        """
        found = torch_name(target)
        if found is not None:
            self.imports.add(found[1])
            return found[0]
        why = why_not_from_a_file(target, what)
        if why is not None:
            raise refuse(f"{why}")
        module, qualname = imported_as(target)
        self.doubts += [doubt for doubt in doubts_of_globals(target, what) if doubt not in self.doubts]
        if file_of(target) is not None:
            for path, name in files_of_module(target).items():
                self.files[name] = path
        first, *rest = qualname.split(".")
        name = first
        if name in RESERVED or self.names.get(name, target) is not target:
            name = f"own_{first}"
        self.names[name] = target
        line = f"from {module} import {first}" + (f" as {name}" if name != first else "")
        (self.imports if file_of(target) is None else self.own_imports).add(line)
        return ".".join([name, *rest])

    def import_text(self) -> str:
        """The imports, sorted: the standard library, then packages, then the user's files."""

        def key(line: str) -> tuple[bool, str]:
            return line.startswith("from"), line.lower()

        standard = sorted((line for line in self.imports if line.split()[1].split(".")[0] in sys.stdlib_module_names), key=key)
        packages = sorted((line for line in self.imports if line.split()[1].split(".")[0] not in sys.stdlib_module_names), key=key)
        blocks = [joined_imports(block) for block in (standard, packages, sorted(self.own_imports, key=key)) if block]
        return "\n\n".join(blocks)


# Names that the script itself uses.
RESERVED = {
    "HERE", "SEED", "EPOCHS", "BATCH_SIZE", "model", "loss", "optimizer", "optimizers", "schedule", "epoch", "step", "table", "train", "val", "test", "order",
    "x", "y", "w", "inputs", "targets", "outputs", "value", "number", "one_hot", "codes", "sine", "cosine", "generator", "derive", "evaluate", "averaged", "best",
    "best_weights", "waited", "losses", "weights_sha256", "read_tensors", "parameters", "val_loss", "torch", "nn", "np", "pl", "json", "math", "hashlib", "Path",
}  # fmt: skip


def joined_imports(lines: Sequence[str]) -> str:
    """Import lines where those from one module stand in one line."""
    plain = [line for line in lines if line.startswith("import ")]
    by_module: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("from "):
            module, _, name = line.removeprefix("from ").partition(" import ")
            by_module.setdefault(module, []).append(name)
    return "\n".join([*plain, *(f"from {module} import {', '.join(sorted(names))}" for module, names in by_module.items())])


REFUSED = "This run cannot be written as a script: "


def refuse(why: str) -> SettingsError:
    """The error for what cannot be written, with the way on."""
    return SettingsError(f"{REFUSED}{why}")


# -- literals --------------------------------------------------------------------------------------------------------------------------------------------------


def literal(value: Any) -> str:
    """The text of a number, text, list, tuple, dict, dtype or tensor, as it is typed. Raises TypeError for anything else."""
    if value is None or isinstance(value, (bool, int)):
        return repr(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, str):
        return f'"{value}"' if value.isprintable() and not set(value) & {'"', "\\"} else repr(value)
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, Tensor):
        dtype = "" if value.dtype in (torch.float32, torch.int64, torch.bool) else f", dtype={value.dtype}"
        return f"torch.tensor({literal(value.detach().cpu().tolist())}{dtype})"
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"{type(value).__name__} cannot be written as text")


def enclosed(before: str, items: Sequence[str], after: str, indent: int = 0) -> str:
    """`before item, item after` in one line where it fits; else one item a line; short items (numbers) fill the lines."""
    line = f"{before}{', '.join(items)}{after}"
    if indent + len(line) <= WIDTH and "\n" not in line:
        return line
    inner, rows = " " * (indent + 4), []
    if len(items) > 8 and all(len(item) <= 24 and "=" not in item for item in items):
        row = ""
        for item in items:
            if row and len(inner) + len(row) + len(item) + 2 > WIDTH:
                rows.append(row)
                row = ""
            row += (" " if row else "") + f"{item},"
        rows.append(row)
    else:
        rows = [f"{item}," for item in items]
    return before + "\n" + "\n".join(inner + row for row in rows) + "\n" + " " * indent + after


def call(name: str, arguments: Mapping[str, str] | Sequence[str], indent: int = 0, first: Sequence[str] = ()) -> str:
    """`name(first, key=text)`, over several lines where it is long."""
    named = [f"{key}={text}" for key, text in arguments.items()] if isinstance(arguments, Mapping) else list(arguments)
    return enclosed(f"{name}(", [*first, *named], ")", indent)


def constructor(module: nn.Module, what: str) -> str:
    """The call that makes a loss of torch.nn again, from its attributes: those that differ from torch's defaults.

    Raises SettingsError where its arguments cannot be told from the instance.
    """
    cls = type(module)
    arguments = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in ("size_average", "reduce", "device", "dtype"):
            continue
        if not hasattr(module, name):
            if parameter.default is inspect.Parameter.empty:
                raise refuse(f"the argument {name} of {what}, a {cls.__name__}, cannot be told from the instance.")
            continue
        value = getattr(module, name)
        if isinstance(value, Tensor) or value != parameter.default:
            try:
                arguments[name] = literal(value)
            except TypeError as error:
                raise refuse(f"{name} of {what}, a {cls.__name__}: {error}.") from error
    return call(f"nn.{cls.__name__}", arguments)


def torch_name(target: Any) -> tuple[str, str] | None:
    """How a class or function of torch is called, and the import line that it needs; None for anything else."""
    module, name = getattr(target, "__module__", "") or "", getattr(target, "__qualname__", None) or getattr(target, "__name__", "")
    for home, prefix, line in (
        (nn, "nn", "from torch import nn"),
        (torch.optim, "torch.optim", "import torch"),
        (torch.optim.lr_scheduler, "torch.optim.lr_scheduler", "import torch"),
        (nn.functional, "functional", "from torch.nn import functional"),
        (torch, "torch", "import torch"),
    ):
        if name and getattr(home, name, None) is target:
            return f"{prefix}.{name}", line
    if module.split(".")[0] == "torch" and name.isidentifier():
        return name, f"from {module} import {name}"
    return None


# -- the user's own code ---------------------------------------------------------------------------------------------------------------------------------------


def file_of(target: Any) -> Path | None:
    """The user's own file that a class or function stands in; None for installed packages."""
    try:
        file = inspect.getsourcefile(target)
    except (TypeError, OSError):
        return None
    if not file or not os.path.isfile(file):
        return None
    path = Path(file).resolve()
    return None if any(path.is_relative_to(Path(library).resolve()) for library in LIBRARIES) else path


def why_not_from_a_file(target: Any, what: str) -> str | None:
    """Why a script could not import this class or function, with the way on; None where it can. `what` is the argument of fit, such as "loss"."""
    if isinstance(target, functools.partial):
        return f"{what} is a functools.partial, which has no name to import. Write a function with def in a file of its own."
    name = getattr(target, "__qualname__", None)
    if name is None:
        return f"{what} is an object of {type(target).__name__}, whose making is not known. Give a function or a class."
    if torch_name(target) is not None:
        return None
    if "<lambda>" in name:
        return f"{what} is a lambda, which has no name to import. Write it as a function with def in a file of its own."
    if "<locals>" in name:
        return f"{what}, {name}, is defined inside a function and exists only while that runs. Define it at the top of a file of its own."
    if target.__module__ == "__main__":
        main = getattr(sys.modules.get("__main__"), "__file__", None)
        where = f"in the script that is running ({os.path.basename(main)})" if main else "in a notebook or an interactive session"
        return f"{what}, {name}, is defined {where}. Move it to a file of its own, such as mine.py, and import it from there."
    path = file_of(target)
    if path is None:
        package = sys.modules.get(target.__module__.split(".")[0])
        if package is not None and getattr(package, "__file__", None):
            return None  # an installed package
        return f"{what}, {name}, stands in no file. Define it in a file of its own, such as mine.py, and import it from there."
    found = imports_fivestep(path)
    if found is not None:
        return f"{what}, {name}, stands in {path.name}, which imports fivestep (line {found}); a script that stands alone cannot. Move it to a file of its own."
    drawing = global_generator(target)
    if drawing is not None:
        return f"{what}, {name}, draws from {drawing}, a generator at the top of {path.name}, and where that stood is not known. Draw from torch's own, or take a generator."
    return None


def global_generator(target: Any) -> str | None:
    """The name of a random generator among the global variables that a function, or a class's forward, uses; None where it uses none."""
    function = inspect.unwrap(getattr(target, "forward", target) if inspect.isclass(target) else target)
    if not inspect.isfunction(function):
        return None
    kinds: tuple[type, ...] = (torch.Generator, random.Random)
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        kinds += (numpy.random.Generator, numpy.random.RandomState)
    return next((name for name in function.__code__.co_names if isinstance(function.__globals__.get(name), kinds)), None)


def doubts_of_globals(target: Any, what: str) -> list[str]:
    """A sentence for each global variable of the user's file whose value the script might not have: one that the code writes, or that is not what the file says.

    A constant is none, such as `WEIGHTS = torch.tensor([1.0, 3.0])`, where nothing in the file changes it and it still has that value.
    """
    path = file_of(target)
    if path is None:
        return []
    tree = ast.parse(path.read_bytes())
    written, said = changed_by_code(tree), assigned_at_top(tree)
    found = []
    for name, value in globals_used(target).items():
        if isinstance(value, CONTAINERS) or type(value).__name__ == "ndarray":
            kind = f"a {type(value).__name__}"
            doubtful = name in written or name not in said or not as_said(said[name], value)
        elif isinstance(value, (bool, int, float, str, tuple, type(None))):
            kind = repr(value) if len(repr(value)) < 40 else f"a {type(value).__name__}"
            doubtful = name in written or (name in said and as_said(said[name], value) is False)
        else:
            continue
        if doubtful:
            found.append(
                f"{what}, {target.__qualname__}, uses the global variable {name} of {path.name} ({kind}), and the script has the value that the file gives it when it is "
                "imported: what changed it since, or changes it in training, is missing there. Keep it in a buffer of the model, or write its value in the file."
            )
    return found


CONTAINERS = (Tensor, list, dict, set, bytearray)


def globals_used(target: Any) -> dict[str, Any]:
    """The global variables that a function, or a class's methods, read or write, with their values; through functions of the same file that they call."""
    waiting, seen, found = [target], set(), {}
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        methods = [getattr(item, "__func__", item) for item in vars(one).values()] if inspect.isclass(one) else [one]
        for function in map(inspect.unwrap, filter(callable, methods)):
            if not inspect.isfunction(function):
                continue
            for name in names_in(function.__code__):
                value = function.__globals__.get(name)
                if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == target.__module__:
                    waiting.append(value)
                elif name in function.__globals__:
                    found[name] = value
    return found


def names_in(code: Any) -> set[str]:
    """The global names of a code object and of the functions and comprehensions in it; attributes are not among them."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "STORE_GLOBAL", "LOAD_NAME")}
    return names.union(*(names_in(inner) for inner in code.co_consts if inspect.iscode(inner)))


def assigned_at_top(tree: ast.Module) -> dict[str, ast.expr]:
    """The expression that a file gives to each name at its top; the last one."""
    found = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            if isinstance(target, ast.Name) and node.value is not None:  # type: ignore[union-attr]
                found[target.id] = node.value  # type: ignore[union-attr]
    return found


CHANGING = {"append", "extend", "insert", "pop", "remove", "clear", "update", "setdefault", "add", "discard", "popitem", "sort", "reverse"}


def changed_by_code(tree: ast.Module) -> set[str]:
    """The names that functions of a file declare `global`, or whose items, attributes or content they change."""
    found: set[str] = set()
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                found.update(node.names)
            elif isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.value, ast.Name):
                calls = isinstance(node, ast.Attribute) and (node.attr in CHANGING or (node.attr.endswith("_") and not node.attr.endswith("__")))
                if calls or not isinstance(node.ctx, ast.Load):
                    found.add(node.value.id)
    return found


def as_said(expression: ast.expr, value: Any) -> bool | None:
    """Whether a value is what a literal, or `torch.tensor(literal)` and its like, says; None for an expression that is neither."""
    try:
        if not isinstance(expression, ast.Call):
            said = ast.literal_eval(expression)
            return type(said) is type(value) and said == value
        makes = ("torch.tensor", "torch.zeros", "torch.ones", "torch.full", "torch.arange", "torch.linspace", "torch.eye")
        if ast.unparse(expression.func) not in makes or not isinstance(value, Tensor):
            return None
        named = {word.arg: ast.unparse(word.value) for word in expression.keywords}
        more = {key: getattr(torch, text.removeprefix("torch.")) if text.startswith("torch.") else ast.literal_eval(text) for key, text in named.items() if key}
        made = getattr(torch, ast.unparse(expression.func).removeprefix("torch."))(*map(ast.literal_eval, expression.args), **more)
    except (ValueError, TypeError, AttributeError, RuntimeError):
        return None
    return made.dtype == value.dtype and torch.equal(made, value.detach().cpu())


def imports_fivestep(path: Path) -> int | None:
    """The line on which a file imports fivestep whenever it is itself imported; None where it does not."""
    for node in statements_of_import(ast.parse(path.read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.split(".")[0] == "fivestep" for name in names):
            return node.lineno
    return None


def statements_of_import(tree: ast.AST) -> Iterable[ast.Import | ast.ImportFrom]:
    """The import statements that run when a module is imported: not those inside functions or under `if __name__ == "__main__":`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            continue
        else:
            yield from statements_of_import(node)


def imported_as(target: Any) -> tuple[str, str]:
    """(module, qualified name) under which a script finds the class or function, once its file is beside it."""
    module = target.__module__
    path = file_of(target)
    if path is not None and module.startswith("fivestep_file_"):
        module = path.stem
    return module, target.__qualname__


def files_of_module(target: Any) -> dict[Path, str]:
    """The user's files that a script needs to import the class or function: its own and those it imports, each with its name beside the script."""
    path = file_of(target)
    assert path is not None
    module, _ = imported_as(target)
    if "." not in module:
        return with_imported(path, path.parent)
    root = path.parents[module.count(".") - (path.name == "__init__.py")]  # the folder that holds the package
    package = root / module.split(".")[0]
    return {file: file.relative_to(root).as_posix() for file in sorted(package.rglob("*.py"))}


def with_imported(path: Path, folder: Path) -> dict[Path, str]:
    """A file and the files of the same folder that it imports, directly or through others."""
    found = {path: path.relative_to(folder).as_posix()}
    waiting = [path]
    while waiting:
        for node in statements_of_import(ast.parse(waiting.pop().read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in names:
                first = name.split(".")[0]
                beside = folder / f"{first}.py"
                files = [beside] if beside.is_file() else sorted((folder / first).rglob("*.py")) if first and (folder / first).is_dir() else []
                for file in files:
                    if file not in found:
                        found[file] = file.relative_to(folder).as_posix()
                        waiting.append(file)
    return found


# -- classes of ours -------------------------------------------------------------------------------------------------------------------------------------------


def source_with_needs(target: Any) -> tuple[str, set[str]]:
    """The source of one of our own classes or functions, after those of the same module that it uses; and the import lines all of it needs.

    The classes of `model/models.py` need torch alone, so that they can stand in a script as they are.
    """
    module = sys.modules[target.__module__]
    texts: dict[str, str] = {}
    used: set[str] = set()

    def add(one: Any) -> None:
        text = re.sub(r"  # (?:type: ignore|noqa).*", "", inspect.getsource(one)).rstrip()
        text = re.sub(r'("""[^"\n]*\.)[^"]*"""', r'\1"""', text)  # of a docstring the first line: the rest speaks of what may be asked for
        names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        for name in sorted(names):
            other = vars(module).get(name)
            ours = (inspect.isclass(other) or inspect.isfunction(other)) and other.__module__ == module.__name__
            if ours and other is not one and name not in texts:
                add(other)
        used.update(names)
        texts[one.__name__] = text

    add(target)
    lines = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Import):
            lines |= {f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in used}
        elif isinstance(node, ast.ImportFrom):
            lines |= {f"from {node.module} import {alias.name}" for alias in node.names if (alias.asname or alias.name) in used}
    return "\n\n\n".join(texts.values()), lines
