"""`import fivestep as fs` gives the names of the contract, each documented, and does not wait for torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fivestep

# What users type, and the errors they catch. A name is added here and in CHANGELOG.md on purpose, never by accident.
DATA = {"Data", "Splits", "datasets"}
TRAIN = {"fit", "check", "resume", "load_run", "reproduce", "watch"}
IMPROVE = {"sweep", "cross_validate", "compare", "FivestepClassifier", "FivestepRegressor"}
USE = {"Run", "Model", "Scores", "load", "verify"}
ERRORS = {
    "FivestepError", "UsageError", "DataError", "MissingInputError", "ArtifactError", "TrainingError", "NonFiniteError", "CannotCreateError", "StorageError",
    "LockedError", "SettingsError", "FindingsError", "Interrupted", "Finding",
}  # fmt: skip
CONTRACT = DATA | TRAIN | IMPROVE | USE | ERRORS


def in_a_fresh_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120).stdout.strip()


def test_the_public_names_are_those_of_the_contract() -> None:
    assert {name for name in dir(fivestep) if not name.startswith("_")} == CONTRACT


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(fivestep, name)
    assert value.__doc__ and value.__doc__.strip(), f"fs.{name} says nothing about itself"
    assert value.__name__.rpartition(".")[2] == name  # no alias that a traceback would call something else


def test_editors_see_what_the_program_sees() -> None:
    for node in ast.parse(Path(fivestep.__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            seen = {alias.asname: line.module for line in node.body if isinstance(line, ast.ImportFrom) for alias in line.names}
    assert seen == {name: home.removesuffix(f".{name}") for name, home in fivestep._HOME.items()}


def test_every_error_of_the_tree_is_public() -> None:
    from fivestep import errors

    tree = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.FivestepError)}
    assert tree <= CONTRACT


def test_importing_fivestep_does_not_import_torch() -> None:
    heavy = in_a_fresh_python("import sys, fivestep; dir(fivestep); fivestep.DataError; print({'torch', 'numpy', 'polars', 'matplotlib'} & set(sys.modules))")
    assert heavy == "set()"


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert fivestep.__version__ == version("fivestep")


def test_a_name_that_is_not_there_offers_the_nearest_one() -> None:
    code = "import fivestep as fs; fs.fitt"
    error = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stderr
    assert "AttributeError: module 'fivestep' has no attribute 'fitt'. Did you mean: 'fit'?" in error
