"""fivestep: any PyTorch model through the whole workflow, data to loaded predictions. The public names, and nothing else.

A name is loaded when it is first used, as torch takes a second to import and `fivestep --version` must not wait for it. Each name stands twice below: where it
comes from at run time, and the same for editors and type checkers, who cannot look into a dict; tests/test_public_names.py keeps the two equal.

>>> import fivestep as fs
>>> [name for name in dir(fs) if name.startswith("lo")]
['load', 'load_run']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fivestep._version import __version__ as __version__

if TYPE_CHECKING:
    from fivestep import datasets as datasets
    from fivestep import watch as watch
    from fivestep.checks.findings import Finding as Finding
    from fivestep.data.data import Data as Data
    from fivestep.data.data import Splits as Splits
    from fivestep.errors import ArtifactError as ArtifactError
    from fivestep.errors import CannotCreateError as CannotCreateError
    from fivestep.errors import DataError as DataError
    from fivestep.errors import FindingsError as FindingsError
    from fivestep.errors import FivestepError as FivestepError
    from fivestep.errors import Interrupted as Interrupted
    from fivestep.errors import LockedError as LockedError
    from fivestep.errors import MissingInputError as MissingInputError
    from fivestep.errors import NonFiniteError as NonFiniteError
    from fivestep.errors import SettingsError as SettingsError
    from fivestep.errors import StorageError as StorageError
    from fivestep.errors import TrainingError as TrainingError
    from fivestep.errors import UsageError as UsageError
    from fivestep.estimators import FivestepClassifier as FivestepClassifier
    from fivestep.estimators import FivestepRegressor as FivestepRegressor
    from fivestep.experiments import compare as compare
    from fivestep.experiments import cross_validate as cross_validate
    from fivestep.experiments import sweep as sweep
    from fivestep.model.scores import Scores as Scores
    from fivestep.results.model import Model as Model
    from fivestep.results.run import Run as Run
    from fivestep.workflow import check as check
    from fivestep.workflow import fit as fit
    from fivestep.workflow import load as load
    from fivestep.workflow import load_run as load_run
    from fivestep.workflow import reproduce as reproduce
    from fivestep.workflow import resume as resume
    from fivestep.workflow import verify as verify

_HOME = {
    # data
    "Data": "fivestep.data.data",
    "Splits": "fivestep.data.data",
    "datasets": "fivestep.datasets",  # a module
    # train, check, go on
    "fit": "fivestep.workflow",
    "check": "fivestep.workflow",
    "resume": "fivestep.workflow",
    "watch": "fivestep.watch",  # a module: observers
    "load_run": "fivestep.workflow",
    "reproduce": "fivestep.workflow",
    # improve
    "sweep": "fivestep.experiments",
    "cross_validate": "fivestep.experiments",
    "compare": "fivestep.experiments",
    # use
    "Run": "fivestep.results.run",
    "Model": "fivestep.results.model",
    "Scores": "fivestep.model.scores",
    "load": "fivestep.workflow",
    "verify": "fivestep.workflow",
    # improve
    "FivestepClassifier": "fivestep.estimators",
    "FivestepRegressor": "fivestep.estimators",
    # findings and errors
    "Finding": "fivestep.checks.findings",
    "FivestepError": "fivestep.errors",
    "UsageError": "fivestep.errors",
    "DataError": "fivestep.errors",
    "MissingInputError": "fivestep.errors",
    "ArtifactError": "fivestep.errors",
    "TrainingError": "fivestep.errors",
    "NonFiniteError": "fivestep.errors",
    "CannotCreateError": "fivestep.errors",
    "StorageError": "fivestep.errors",
    "LockedError": "fivestep.errors",
    "SettingsError": "fivestep.errors",
    "FindingsError": "fivestep.errors",
    "Interrupted": "fivestep.errors",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    home = _HOME.get(name)
    if home is None:
        # With name and obj, Python itself offers the nearest spelling: fs.fitt -> "Did you mean: 'fit'?"
        raise AttributeError(f"module 'fivestep' has no attribute {name!r}", name=name, obj=import_module(__name__))
    module = import_module(home)
    value = module if home == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = value  # the next look finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__", "__doc__", "__file__", "__name__", "__path__"])
