"""The direction of imports, read from the source: `apps -> experiments -> workflow -> results, checks, watch -> train -> data, model -> seeds, settings, files,
errors`.

Left may import right, never back; nothing goes round in a circle, not even through an import inside a function; `data` and `model` do not know each other; a
kernel module opens with torch, the standard library and other kernel modules only. Each rule is shown to fail on a made-up package.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"

# From the left of the arrow to its right: a place may import from places of a higher number, and from its own.
PLACES = {
    "fivestep.__main__": 1,
    "fivestep": 2,  # __init__: the public names; an app may use them as anybody does, what is below may not
    "fivestep.apps": 2,
    "fivestep.experiments": 3,
    "fivestep.estimators": 3,
    "fivestep.workflow": 4,
    "fivestep.resuming": 4,
    "fivestep.reproducing": 4,
    "fivestep.preparing": 4,
    "fivestep.session": 4,
    "fivestep.fit_arguments": 4,
    "fivestep.repeatability": 4,
    "fivestep.rates": 4,
    "fivestep.automatic": 4,
    "fivestep.feeding": 4,
    "fivestep.results": 5,
    "fivestep.checks": 5,
    "fivestep.watch": 5,
    "fivestep.train": 6,
    "fivestep.data": 7,
    "fivestep.model": 7,
    "fivestep.seeds": 8,
    "fivestep.threads": 8,
    "fivestep.settings": 8,
    "fivestep.files": 8,
    "fivestep.locks": 8,  # uses files
    "fivestep.strict_json": 8,
    "fivestep.quoting": 8,
    "fivestep.figures": 8,
    "fivestep.terminal": 8,
    "fivestep.displays": 8,  # HTML for notebooks
    "fivestep.tensors": 8,  # a state_dict as bytes; uses files
    "fivestep.datasets": 8,
    "fivestep.errors": 9,
    "fivestep._version": 9,
}

KERNEL = {
    "fivestep.seeds",
    "fivestep.settings",
    "fivestep.data.batches",
    "fivestep.model.decoding",
    "fivestep.model.loss_means",
    "fivestep.model.loss_targets",
    "fivestep.model.losses",
    "fivestep.model.optimizer_state",
    "fivestep.model.optimizers",
    "fivestep.model.schedules",
    "fivestep.train.loop",
    "fivestep.train.capturing",
    "fivestep.train.chunks",
    "fivestep.train.compiled",
    "fivestep.train.graphs",
    "fivestep.train.precision",
    "fivestep.train.programs",
    "fivestep.train.parallel",
}
KERNEL_MAY_USE = KERNEL | {"fivestep.errors", "fivestep.quoting"}
TRAIN_MAY_USE = {"fivestep.data.batches", "fivestep.model.losses", "fivestep.model.optimizer_state"}  # the loop gets callables and iterables, not our tables

# Each of these costs 0.1 s to 1 s to import, or is optional: it stands inside the function that needs it.
ONLY_INSIDE_FUNCTIONS = {
    "matplotlib", "IPython", "mlflow", "onnx", "onnxruntime", "onnxscript", "optuna", "pandas", "PIL", "polars", "pyarrow", "scipy", "sklearn", "tensorboard", "torchmetrics",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One import: `importer` imports the module `imported` in `line`. `at_top`: when the importer itself is imported; `types_only`: for type checkers."""

    importer: str
    imported: str
    line: int
    at_top: bool
    types_only: bool

    def __str__(self) -> str:
        return f"{self.importer} line {self.line} imports {self.imported}"


def modules_of(src: Path) -> dict[str, Path]:
    """Every module of the package below `src`, by its dotted name."""
    found = {}
    for path in sorted(src.rglob("*.py")):
        parts = path.relative_to(src).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(src: Path) -> list[Import]:
    """All imports of all modules below `src`, wherever they stand: at the top, inside functions, for type checkers, by `import_module("...")`."""
    modules = modules_of(src)
    found: list[Import] = []
    for importer, path in modules.items():
        package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]

        def visit(node: ast.AST, at_top: bool, types_only: bool, importer: str = importer, package: str = package) -> None:
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                origin = ".".join([*parents, *([node.module] if node.module else [])])
                # `from fivestep import seeds` imports a module, `from fivestep.seeds import derive` a name of one.
                names = [f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in modules else origin for alias in node.names]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")) and node.args:
                argument = node.args[0]
                names = [argument.value] if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else []
            found.extend(Import(importer, name, node.lineno, at_top, types_only) for name in names)  # type: ignore[attr-defined]
            guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for child in ast.iter_child_nodes(node):
                visit(child, at_top and not inside, types_only or guarded)

        visit(ast.parse(path.read_text(encoding="utf-8")), True, False)
    return found


def place_of(module: str) -> str | None:
    """The place a module stands in: its own where it is named, else its package's; None where it has none."""
    own = ".".join(module.split(".")[:2])
    return own if own in PLACES else None


def ours(imports: list[Import]) -> list[Import]:
    return [one for one in imports if one.imported.split(".")[0] == "fivestep"]


def without_a_place(src: Path) -> list[str]:
    return [module for module in modules_of(src) if place_of(module) is None]


def pointing_back(src: Path) -> list[str]:
    """Imports from a place further left, and between `data` and `model`."""
    found = []
    for one in ours(imports_of(src)):
        importer, imported = place_of(one.importer), place_of(one.imported)
        if importer is None or imported is None:
            continue
        strangers = {importer, imported} == {"fivestep.data", "fivestep.model"}
        if PLACES[imported] < PLACES[importer] or strangers:
            found.append(str(one))
    return found


def beyond_the_kernel(src: Path) -> list[str]:
    """What a kernel module may not import: another module of ours anywhere, another package when it is imported itself."""
    found = []
    for one in imports_of(src):
        first = one.imported.split(".")[0]
        if first == "fivestep":
            allowed = one.imported in KERNEL_MAY_USE
        else:
            allowed = first == "torch" or first in sys.stdlib_module_names or not one.at_top or one.types_only
        if one.importer in KERNEL and not allowed:
            found.append(str(one))
    return found


def training_that_knows_data(src: Path) -> list[str]:
    """Imports of `train` from `data` and `model` that are no kernel modules."""
    found = []
    for one in ours(imports_of(src)):
        if place_of(one.importer) == "fivestep.train" and place_of(one.imported) in ("fivestep.data", "fivestep.model") and one.imported not in TRAIN_MAY_USE:
            found.append(str(one))
    return found


def heavy_at_the_top(src: Path) -> list[str]:
    return [str(one) for one in imports_of(src) if one.at_top and not one.types_only and one.imported.split(".")[0] in ONLY_INSIDE_FUNCTIONS]


def circle(src: Path) -> list[str]:
    """The modules of one import circle in order, the first one again at the end; empty where there is none."""
    edges: dict[str, set[str]] = {}
    for one in ours(imports_of(src)):
        if one.imported != one.importer:
            edges.setdefault(one.importer, set()).add(one.imported)
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for imported in sorted(edges.get(module, ())):
            found = walk(imported, [*path, module])
            if found:
                return found
        done.add(module)
        return []

    return next((found for module in sorted(edges) if (found := walk(module, []))), [])


# -- the promises ---------------------------------------------------------------------------------------------------------------------------------------------


def test_every_module_has_a_place_in_the_order() -> None:
    assert not without_a_place(SRC), "Add these to PLACES, where DESIGN's arrow has them"


def test_imports_point_down() -> None:
    assert not pointing_back(SRC)


def test_no_imports_go_in_a_circle() -> None:
    assert not circle(SRC)


def test_kernel_modules_import_only_torch_the_standard_library_and_each_other() -> None:
    assert not beyond_the_kernel(SRC)


def test_train_knows_of_data_and_model_only_their_kernel_modules() -> None:
    assert not training_that_knows_data(SRC)


def test_heavy_packages_are_imported_inside_functions() -> None:
    assert not heavy_at_the_top(SRC)


# -- and that each can fail -----------------------------------------------------------------------------------------------------------------------------------


def write_package(folder: Path, modules: dict[str, str]) -> Path:
    for name, text in {"fivestep/__init__.py": "", **modules}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "from fivestep.workflow import fit",
        "import fivestep.workflow",
        "from fivestep import workflow",
        "from fivestep import fit",  # the public names stand left of everything
        "from .. import workflow",
        "from ..workflow import fit",
        "def later():\n    from fivestep.workflow import fit",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fivestep.workflow import Run",
        "import importlib\nimportlib.import_module('fivestep.workflow')",
        "from fivestep.model import losses",  # data and model are strangers
    ],
)
def test_an_import_that_points_back_is_found_however_it_is_written(tmp_path: Path, text: str) -> None:
    package = {"fivestep/workflow.py": "", "fivestep/model/__init__.py": "", "fivestep/model/losses.py": "", "fivestep/data/__init__.py": ""}
    src = write_package(tmp_path, {**package, "fivestep/data/tables.py": text})
    assert len(pointing_back(src)) == 1


def test_imports_that_point_down_are_let_through(tmp_path: Path) -> None:
    text = "from fivestep import seeds\nfrom fivestep.train import loop\nfrom ..errors import DataError\nimport torch"
    src = write_package(tmp_path, {"fivestep/results/runs.py": text, "fivestep/seeds.py": "", "fivestep/train/loop.py": "", "fivestep/errors.py": ""})
    assert not pointing_back(src) and not circle(src) and not without_a_place(src)


def test_a_circle_is_found_inside_functions_too(tmp_path: Path) -> None:
    modules = {
        "fivestep/results/a.py": "from fivestep.results import b",
        "fivestep/results/b.py": "import fivestep.checks.c",
        "fivestep/checks/c.py": "def late():\n    from fivestep.results.a import x",
        "fivestep/results/__init__.py": "",
        "fivestep/checks/__init__.py": "",
    }
    assert circle(write_package(tmp_path, modules)) == ["fivestep.checks.c", "fivestep.results.a", "fivestep.results.b", "fivestep.checks.c"]


@pytest.mark.parametrize(
    "text",
    [
        "import numpy",
        "import safetensors.torch",
        "from fivestep.data.tables import Table",
        "def later():\n    from fivestep.data import tables",
    ],
)
def test_a_kernel_module_that_imports_more_is_found(tmp_path: Path, text: str) -> None:
    kernel = "import math\nimport torch\nfrom fivestep import seeds\ndef late():\n    import numpy\n"
    modules = {"data/batches.py": kernel + text, "data/tables.py": "", "data/__init__.py": "", "seeds.py": ""}
    found = beyond_the_kernel(write_package(tmp_path, {f"fivestep/{name}": text for name, text in modules.items()}))
    assert len(found) == 1 and found[0].startswith("fivestep.data.batches")


def test_training_that_reads_tables_is_found(tmp_path: Path) -> None:
    modules = {"train/epochs.py": "from fivestep.data import batches, tables", "data/__init__.py": "", "data/batches.py": "", "data/tables.py": ""}
    src = write_package(tmp_path, {f"fivestep/{name}": text for name, text in modules.items()})
    assert training_that_knows_data(src) == ["fivestep.train.epochs line 1 imports fivestep.data.tables"]


def test_a_module_without_a_place_and_a_heavy_import_are_found(tmp_path: Path) -> None:
    src = write_package(tmp_path, {"fivestep/helpers.py": "import polars\ndef later():\n    import pandas"})
    assert without_a_place(src) == ["fivestep.helpers"]
    assert heavy_at_the_top(src) == ["fivestep.helpers line 1 imports polars"]
