"""Any PyTorch model as a scikit-learn estimator: `FivestepClassifier` and `FivestepRegressor`.

Enters: X as a numpy array or a pandas, polars or Arrow frame, y as labels or numbers. Leaves: arrays, as scikit-learn expects them. The decision that shaped it:
everything of two axes becomes a table with named columns, so that scaling, missing values and categories are learnt on training rows by the code that `Data.table`
uses, and what stands here is only the shape of the interface. scikit-learn need not be installed; where it is, the classes inherit from its `BaseEstimator`.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from fivestep import workflow
from fivestep.data.data import Data
from fivestep.errors import DataError, UsageError
from fivestep.feeding import weights_by_name
from fivestep.model.building import nearest
from fivestep.results.model import Model

TARGET, WEIGHT = "target", "sample_weight"  # names of the columns that y and the weights become; underscores are added where X has such a column


class Parameters:
    """`get_params` and `set_params` as scikit-learn has them, for where it is not installed."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {name: getattr(self, name) for name in DEFAULTS}

    def set_params(self, **params: Any) -> Any:
        for name, value in params.items():
            if name not in DEFAULTS:
                raise UsageError(f"{type(self).__name__} has no parameter {name!r}.{nearest(name, DEFAULTS)}")
            setattr(self, name, value)
        return self


def bases(kind: str) -> tuple[type, ...]:
    """What the estimators inherit from: scikit-learn's mixin of this kind and its `BaseEstimator`, or `Parameters` without scikit-learn."""
    try:
        from sklearn import base
    except ImportError:
        return (Parameters,)
    return (base.ClassifierMixin if kind == "classifier" else base.RegressorMixin, base.BaseEstimator)


def default_parameters() -> dict[str, Any]:
    """The arguments of `fit` but the splits, and what `fit(X, y)` has no other place for. Nothing is written and nothing is printed unless asked for."""
    own = {"folder": None, "quiet": True, "val": 0.15, "columns": None}
    return {"model": "auto"} | {name: value for name, value in workflow.defaults().items() if name not in ("model", "splits")} | own


DEFAULTS = default_parameters()
OWN = ("val", "columns")


class Fivestep:
    """What both estimators do: X and y become a table, `fit` trains on it, and predictions come back as arrays."""

    task = ""  # "classes" or "numbers"

    if TYPE_CHECKING:
        folder: Any
        classes_: Any

        def get_params(self, deep: bool = True) -> dict[str, Any]: ...

    def __init__(self, model: Any = "auto", **fit_settings: Any):
        for name in fit_settings:
            if name not in DEFAULTS:
                raise TypeError(f"{type(self).__name__} takes the arguments of fit; {name!r} is none of them.{nearest(name, DEFAULTS)}")
        for name, value in (DEFAULTS | {"model": model} | fit_settings).items():
            setattr(self, name, value)

    # scikit-learn reads the parameters' names here, and so do editors.
    __init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *(
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD if name == "model" else inspect.Parameter.KEYWORD_ONLY, default=value)
                for name, value in DEFAULTS.items()
            ),
        ]
    )

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train on all rows but the share `val` of them, which chooses the epoch; returns self. `run_` then holds the run, `model_` what predicts."""
        params = {name: getattr(self, name) for name in DEFAULTS}
        rows, names = read_rows(X, type(self).__name__)
        number = row_count(rows)
        if y is None:
            raise UsageError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        targets, learnt = self._read_targets(y, number)
        weights = read_weights(sample_weight, number)
        if isinstance(rows, dict):
            arrays = {column: "number" for column, values in rows.items() if isinstance(values, np.ndarray)}  # a frame's columns say themselves what they are
            data = self._table(rows, targets, weights, arrays, params["columns"])
        else:
            data = Data.arrays(rows, targets if targets.ndim > 1 or self.task == "classes" else targets[:, None], weight=weights)
        splits = data.split(**self._sizes(params["val"], targets, number), seed=params["seed"])
        settings = {name: value for name, value in params.items() if name not in OWN}
        if isinstance(settings["class_weights"], Mapping):
            settings["class_weights"] = weights_by_name(settings["class_weights"], learnt["classes_"].tolist() if "classes_" in learnt else None)
        if isinstance(settings["model"], nn.Module):
            settings["model"] = copy.deepcopy(settings["model"])  # an estimator leaves its parameters as they were given
        run = workflow.fit(splits=splits, **settings)
        self.run_: Any = run
        self.model_ = Model(run._predictor, task=run._task, recipe=run._recipe, facts=run.facts)
        vars(self).update(learnt)
        self.n_features_in_ = len(rows) if isinstance(rows, dict) else int(rows.shape[1])
        self._names = list(rows) if isinstance(rows, dict) else None
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        return self

    def _sizes(self, val: float | None, targets: np.ndarray, number: int) -> dict[str, Any]:
        """How rows are split: by class where each class can stand on both sides; all rows train where there are too few for a validation row."""
        if val is not None and not (isinstance(val, (int, float)) and 0 <= val < 1):
            raise UsageError(f"val={val!r} is no share of the rows. Give one from 0 to 1, such as 0.15, or None to train on all rows.")
        if val is None or number < 2 or round(number * val) < 1:
            return {"train": 1.0, "val": 0.0}
        sizes: dict[str, Any] = {"train": 1 - val, "val": float(val)}
        if self.task == "classes":
            counts = np.bincount(targets)
            if counts.min() < 2:
                return {"train": 1.0, "val": 0.0}  # a row that is the only one of its class must be trained on
            sizes["stratify"] = targets
        return sizes

    def _table(self, rows: dict[str, Any], targets: np.ndarray, weights: np.ndarray | None, kinds: dict[str, str], columns: Any) -> Data:
        table: dict[str, Any] = dict(rows)
        target_names = []
        for column in targets.reshape(len(targets), -1).T:
            name = free_name(TARGET if targets.ndim == 1 else f"{TARGET}_{len(target_names)}", table)
            table[name] = column
            target_names.append(name)
        weight = None
        if weights is not None:
            weight = free_name(WEIGHT, table)
            table[weight] = weights
        names = list(rows)
        asked = {name if isinstance(name, str) or not 0 <= name < len(names) else names[name]: kind for name, kind in dict(columns or {}).items()}
        read_as = kinds | asked | dict.fromkeys(target_names, "category" if self.task == "classes" else "number")
        return Data.table(table, target=target_names[0] if targets.ndim == 1 else target_names, columns=read_as, weight=weight)

    def _predict(self, X: Any, *, probabilities: bool = False) -> np.ndarray:
        check_fitted(self)
        rows, names = read_rows(X, type(self).__name__)
        name = type(self).__name__
        if self._names is None or not isinstance(rows, dict):
            if isinstance(rows, dict) or self._names is not None:
                raise DataError(
                    f"{name} was fitted on rows of {'two axes' if self._names is not None else 'more than two axes'}, and these have another number."
                )
            return np.asarray(self.model_.predict(rows, probabilities=probabilities))
        known = getattr(self, "feature_names_in_", None)
        if known is not None and names is not None:
            absent = [column for column in known if column not in names]
            if absent:
                raise DataError(
                    f"The feature names should match those that were passed during fit. Missing: {', '.join(map(repr, absent[:5]))}.{nearest(absent[0], names)}"
                )
        else:
            if len(rows) != self.n_features_in_:
                raise DataError(f"X has {len(rows)} features, but {name} is expecting {self.n_features_in_} features as input.")
            if known is not None:
                warnings.warn(f"X does not have valid feature names, but {name} was fitted with feature names", stacklevel=3)
            elif names is not None:
                warnings.warn(f"X has feature names, but {name} was fitted without feature names", stacklevel=3)
            rows = dict(zip(self._names, rows.values()))
        found = self.model_.predict(rows, probabilities=probabilities)
        return self._arranged(found, row_count(rows), probabilities)

    def _read_targets(self, y: Any, number: int) -> tuple[np.ndarray, dict[str, Any]]:
        """y as the network learns it, and what the fitted estimator then knows of it. A fit that fails leaves an estimator as it was."""
        raise NotImplementedError

    def _arranged(self, found: dict[str, np.ndarray], number: int, probabilities: bool) -> np.ndarray:
        raise NotImplementedError

    def __getstate__(self) -> Any:
        """What is pickled: all but the run, which holds the training rows and open functions. The trained model stays."""
        state: dict[str, Any] = {**(super().__getstate__() or {})}  # type: ignore
        state.pop("run_", None)
        return state

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.allow_nan = True  # a missing value, filled with the training mean
        tags.target_tags.required = True
        return tags


class FivestepClassifier(Fivestep, *bases("classifier")):  # type: ignore[misc]
    """Any `nn.Module` (or a built-in network) as a scikit-learn classifier; `fit_settings` are the arguments of `fs.fit`, and `folder=None` writes nothing.

    A share `val` (0.15) of the rows, by class, chooses the epoch; `val=None` trains on all. X of two axes is read as a table is: numbers are standardised,
    missing values filled, text columns of a frame are categories (`columns` overrides what a column is read as). X of more axes goes to the model as it is.
    After `fit`: `classes_`, `n_features_in_`, `feature_names_in_` (frames), `run_` (history, findings, scores; not pickled) and `model_`.

    >>> import numpy as np, fivestep as fs
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> classifier = fs.FivestepClassifier("linear", epochs=40, lr=0.05).fit(X, np.where(X[:, 0] > 0, "up", "down"))
    >>> classifier.predict([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])
    array(['up', 'down'], dtype='<U4')
    """

    task = "classes"

    def predict(self, X: Any) -> np.ndarray:
        """(n,) labels, of the type that y had."""
        codes = self._predict(X)
        return self.classes_[codes]

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n, classes) probabilities, in the order of `classes_`."""
        return self._predict(X, probabilities=True)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of rows, by weight, whose label is predicted."""
        labels = np.asarray(y).reshape(-1)
        return float(np.average(self.predict(X) == labels, weights=read_weights(sample_weight, len(labels))))

    def _read_targets(self, y: Any, number: int) -> tuple[np.ndarray, dict[str, Any]]:
        """int64 (n,) codes into `classes_`."""
        labels = one_axis(y, number, type(self).__name__)
        if labels.dtype.kind == "f":
            finite(labels)
            if (labels != np.floor(labels)).any():
                raise DataError(
                    f"Unknown label type: continuous. y holds numbers such as {labels[labels != np.floor(labels)][0]:g}, which are no classes. "
                    "Use FivestepRegressor, or make classes of them."
                )
        if labels.dtype == object:
            kinds = {type(label).__name__ for label in labels.tolist()}
            if kinds & {"NoneType", "NAType", "NaTType"} or any(label != label for label in labels.tolist()):
                raise DataError("y holds missing values: Input y contains NaN. Leave these rows out.")
            if len(kinds) > 1:
                raise DataError(f"y mixes labels of types {', '.join(sorted(kinds))}, which have no common order. Give labels of one type.")
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"{type(self).__name__} needs rows of at least 2 classes; y holds only one class, {classes[0]!r}.")
        return codes.reshape(-1).astype(np.int64), {"classes_": classes}

    def _arranged(self, found: dict[str, np.ndarray], number: int, probabilities: bool) -> np.ndarray:
        if not probabilities:
            return np.asarray(next(iter(found.values())), dtype=np.int64)
        table = np.zeros((number, len(self.classes_)))
        for name, values in found.items():
            if name.startswith("probability_"):
                table[:, int(name.removeprefix("probability_"))] = values
        return table


class FivestepRegressor(Fivestep, *bases("regressor")):  # type: ignore[misc]
    """Any `nn.Module` (or a built-in network) as a scikit-learn regressor; `fit_settings` are the arguments of `fs.fit`, and `folder=None` writes nothing.

    y may have several columns. Targets are standardised inside where the loss allows it, and predictions are in y's own unit. Else as `FivestepClassifier`.

    >>> import numpy as np, fivestep as fs
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> regressor = fs.FivestepRegressor("linear", epochs=60, lr=0.05).fit(X, 10 * X[:, 0] + 5)
    >>> regressor.predict([[1.0, 0.0, 0.0]]).round()
    array([15.])
    """

    task = "numbers"

    def predict(self, X: Any) -> np.ndarray:
        """float64 (n,), or (n, targets) where y had two axes, in y's unit."""
        values = self._predict(X)
        return values if self._several else values.reshape(len(values))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R^2: 1 - residual / total sum of squares, by weight; the mean over the columns of y. 1 is perfect, 0 is what the mean of y reaches."""
        actual = np.asarray(y, dtype=np.float64)
        actual = actual.reshape(len(actual), -1)
        weights = read_weights(sample_weight, len(actual))
        weights = np.ones(len(actual)) if weights is None else weights
        residual = weights @ (actual - self.predict(X).reshape(actual.shape)) ** 2
        total = weights @ (actual - np.average(actual, axis=0, weights=weights)) ** 2
        # A constant column: 1 where it is predicted exactly, else 0, as scikit-learn has it.
        return float(np.mean(np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), (residual == 0).astype(float))))

    def _read_targets(self, y: Any, number: int) -> tuple[np.ndarray, dict[str, Any]]:
        """float64 (n,) or (n, targets)."""
        targets = np.asarray(y)
        if targets.dtype.kind == "O":
            targets = targets.astype(np.float64)
        if targets.dtype.kind not in "biuf":
            raise DataError(f"y holds {targets.dtype}, which are no numbers. Use FivestepClassifier for classes.")
        if targets.ndim not in (1, 2):
            raise DataError(f"y has shape {targets.shape}; it has one number for each row, or one row of numbers.")
        same_length(targets, number, "y")
        finite(targets)
        if number < 2:
            raise DataError("X has 1 sample, and one row tells no relation. Give at least 2 rows.")
        return targets.astype(np.float64), {"_several": targets.ndim == 2}

    def _arranged(self, found: dict[str, np.ndarray], number: int, probabilities: bool) -> np.ndarray:
        return np.stack([np.asarray(column, dtype=np.float64) for column in found.values()], axis=1) if found else np.empty((number, 0))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


# -- reading what scikit-learn's users pass ----------------------------------------------------------------------------------------------------------------------


def read_rows(X: Any, estimator: str) -> tuple[Any, list[str] | None]:
    """X as (columns by name, the frame's own names), or for arrays of two axes (columns named x0, x1, ..., None), or for more axes (the array, None)."""
    library = type(X).__module__.partition(".")[0]
    if hasattr(X, "toarray") and library == "scipy":
        raise TypeError(f"Sparse data was passed for X (shape {X.shape}), and {estimator} reads dense rows. Give X.toarray().")
    if library == "pyarrow" or type(X).__name__ == "LazyFrame":
        import polars

        X = X.collect() if hasattr(X, "collect") else polars.DataFrame(X)
        library = "polars"
    if library in ("pandas", "polars") and hasattr(X, "columns"):
        labels = list(X.columns)
        texts = [label for label in labels if isinstance(label, str)]
        if texts and len(texts) < len(labels):
            raise TypeError(
                "Feature names are only supported if all input features have string names, but your input has "
                f"{sorted({type(label).__name__ for label in labels})} as feature name / column name types."
            )
        at_least(len(X), len(labels), X.shape)
        columns = [X.iloc[:, position] for position in range(len(labels))] if library == "pandas" else X.get_columns()
        if len(set(labels)) < len(labels):
            raise DataError("The frame has two columns of one name. Rename one of them.")
        return ({label if texts else f"x{position}": column for position, (label, column) in enumerate(zip(labels, columns))}, texts or None)
    if isinstance(X, Mapping):
        raise DataError("X is a dict; give a frame (pandas or polars) or an array.")
    array = np.asarray(X)
    if array.dtype.kind == "c":
        raise DataError("Complex data not supported: a network reads real numbers. Give real and imaginary part as two columns.")
    if array.ndim < 2:
        raise DataError(
            f"Expected 2D array, got {'scalar' if array.ndim == 0 else '1D'} array instead. Reshape your data using array.reshape(-1, 1) if it has one column, "
            "or array.reshape(1, -1) if it is one row."
        )
    if array.dtype.kind not in "biuf":
        array = array.astype(np.float64)  # raises TypeError or ValueError that names the value
    at_least(array.shape[0], array.shape[1], array.shape)
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise DataError("Input X contains infinity or a value too large for dtype('float64'). Clip it, or leave the row out; NaN stands for a missing value.")
    if array.ndim > 2:
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise DataError(
                "Input X contains NaN. Only columns of numbers (X of two axes) are filled where a value is missing; fill these, or leave the row out."
            )
        return array, None
    return {f"x{position}": np.ascontiguousarray(array[:, position]) for position in range(array.shape[1])}, None


def at_least(rows: int, columns: int, shape: tuple[int, ...]) -> None:
    if rows < 1:
        raise DataError(f"Found array with 0 sample(s) (shape={tuple(shape)}) while a minimum of 1 is required.")
    if columns < 1:
        raise DataError(f"Found array with 0 feature(s) (shape={tuple(shape)}) while a minimum of 1 is required.")


def row_count(rows: Any) -> int:
    return len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)


def read_weights(sample_weight: Any, number: int) -> np.ndarray | None:
    """float64 (n,) of numbers from 0 on, not all 0; None where there are none."""
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.ndim == 0:
        weights = np.full(number, float(weights))
    if weights.ndim != 1:
        raise DataError(f"sample_weight has shape {weights.shape}; it is one number for each row (1D).")
    same_length(weights, number, "sample_weight")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise DataError("sample_weight holds a number below 0, or one that is not finite. Weights are numbers from 0 on.")
    if not weights.any():
        raise DataError("All sample weights are zero, so no row counts. Leave sample_weight out to count each row once.")
    return weights


def one_axis(y: Any, number: int, estimator: str) -> np.ndarray:
    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        warnings.warn(conversion_warning()(f"A column-vector y was passed when a 1d array was expected: {estimator} takes y.ravel()."), stacklevel=4)
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"y should be a 1d array, got an array of shape {values.shape} instead.")
    same_length(values, number, "y")
    return values


def same_length(values: np.ndarray, number: int, name: str) -> None:
    if len(values) != number:
        raise DataError(
            f"X has {number:,} rows and {name} has {len(values):,}: Found input variables with inconsistent numbers of samples. Give one for each row."
        )


def finite(targets: np.ndarray) -> None:
    if targets.dtype.kind == "f" and not np.isfinite(targets).all():
        what = "NaN" if np.isnan(targets).any() else "infinity or a value too large for dtype('float64')"
        raise DataError(f"Input y contains {what}. Leave these rows out: nothing can be learnt from them.")


def free_name(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name


def conversion_warning() -> type[Warning]:
    try:
        from sklearn.exceptions import DataConversionWarning
    except ImportError:
        return UserWarning
    return DataConversionWarning


def check_fitted(estimator: Any) -> None:
    """Raise scikit-learn's NotFittedError, or UsageError without scikit-learn, where `fit` has not been called."""
    if hasattr(estimator, "model_"):
        return
    message = f"This {type(estimator).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments before using this estimator."
    try:
        from sklearn.exceptions import NotFittedError
    except ImportError:
        raise UsageError(message) from None
    raise NotFittedError(message)
