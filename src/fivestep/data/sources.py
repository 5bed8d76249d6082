"""Rows that a split can take: arrays in memory (`ArraySource`) or any torch Dataset (`DatasetSource`), both with `len()` and `take(indices)`.

Enters: tensors, numpy arrays, lists, frames of numbers, or a Dataset. Leaves: `(inputs, targets, weights)` of chosen rows, a fingerprint of the content, and
the task that the targets speak of. The decision that shaped it: nothing is reshaped or cast to the model's dtype here (the caller does that once and says so);
and what a Dataset draws at random is a function of (seed, epoch, row), never of the worker that happened to read the row.
"""

from __future__ import annotations

import array
import hashlib
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, default_collate

from fivestep import seeds
from fivestep.data.batches import count_examples, map_tensors, tensors_of
from fivestep.errors import DataError, FivestepError, UsageError

Examples = tuple[Any, tuple[Any, ...], Tensor | None]

# Under these keys a dict batch holds its targets, unless `targets=` says otherwise.
TARGET_KEYS = ("labels", "label", "target", "targets", "y")


class Source(Protocol):
    """What training, scoring and the checks need of data: how many rows, and the rows that were asked for."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Examples:
        """`(inputs, targets, weights)` of the rows `indices` (int64, (k,)), in that order."""
        ...


class ArraySource:
    """Tensors in memory whose first axis is the row.

    `inputs` is a tensor, a tuple or a dict of tensors; `targets` a tuple of tensors, maybe empty; `weights` (n,) or None.
    """

    def __init__(self, inputs: Any, targets: Sequence[Tensor] = (), weights: Tensor | None = None):
        self.inputs, self.targets, self.weights = inputs, tuple(targets), weights

    def __len__(self) -> int:
        return count_examples(self.inputs)

    def take(self, indices: Tensor) -> Examples:
        """The rows of each tensor, gathered."""

        def rows(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, indices.to(tensor.device))

        return map_tensors(rows, self.inputs), tuple(rows(target) for target in self.targets), None if self.weights is None else rows(self.weights)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{str(tensor.dtype)[6:]} {tuple(tensor.shape)}" for tensor in tensors_of((self.inputs, self.targets)))
        return f"ArraySource({len(self):,} rows: {shapes})"


class DatasetSource:
    """Any map-style torch Dataset (`len()` and `[row]`), read example by example and collated.

    `inputs` and `targets` say where they lie in a collated batch: a key (of a dict, a position of a tuple, an attribute), a list of keys, or a function of the
    batch. Without them: of a tuple the last element is the target and the rest are inputs; of a dict the targets are under "labels", "label", "target",
    "targets" or "y" and the other keys are inputs; a lone tensor is inputs without targets (`targets=[]` says so for any batch). `count(batch)` is the number
    of examples where the first tensor's length is not (graphs). `known_targets` are targets that are known without reading an example, for stratified splits.
    Raises UsageError for what cannot be read by row number.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        inputs: Any = None,
        targets: Any = None,
        count: Callable[[Any], int] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        workers: int = 0,
        known_targets: Sequence[Tensor] = (),
    ):
        name = type(dataset).__name__
        if isinstance(dataset, DataLoader):
            raise UsageError("This is a DataLoader; its order and batches would hide which row is which. Give loader.dataset, and batch_size= to fit.")
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
            raise UsageError(
                f"{name} is read from front to back and has no rows by number, so it cannot be split, shuffled by seed or resumed in the middle. "
                "Give a Dataset with __len__ and __getitem__, or read it into arrays first."
            )
        try:
            length = len(dataset)
        except (TypeError, NotImplementedError) as error:
            raise UsageError(f"{name} has no length: {error}. Give it a __len__ that returns the number of examples.") from error
        if length < 1:
            raise DataError(f"{name} has no examples.")
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise UsageError(f"workers={workers!r} must be a number of processes from 0 on.")
        self.dataset, self.count, self.workers = dataset, count, workers
        self.collate = collate if collate is not None else collate_examples
        self.inputs_key, self.targets_key = inputs, targets
        if known_targets:
            self.targets = tuple(known_targets)

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, indices: Tensor) -> Examples:
        """The rows, read in this process under a fixed seed (epoch 0 of seed 0), collated and unpacked. The global generators are left as they were."""
        return self.unpack(self.collate(LoaderDataset(self.dataset, 0).__getitems__([(0, row) for row in indices.tolist()])))

    def unpack(self, batch: Any) -> Examples:
        """`(inputs, targets, None)` of a collated batch."""
        return (*unpack_batch(batch, self.inputs_key, self.targets_key), None)

    def num_examples(self, batch: Any) -> int:
        """How many examples a collated batch holds."""
        return self.count(batch) if self.count is not None else count_examples(batch)

    def __repr__(self) -> str:
        return f"DatasetSource({len(self):,} examples of {type(self.dataset).__name__})"


# -- arrays --------------------------------------------------------------------------------------------------------------------------------------------------


def make_array_source(inputs: Any, targets: Any = None, weight: Any = None) -> tuple[ArraySource, tuple[Any, ...] | None, list[str]]:
    """Arrays as `(source, classes, notes)`.

    Inputs: one array-like, a tuple (`model(*x)`) or a dict (`model(**x)`) of them; a list is rows. Targets: one array-like, or a tuple of several. Array-likes
    are tensors, numpy arrays, nested lists, and frames or series of pandas, polars and pyarrow that hold numbers. Values keep their dtype (float64 stays
    float64), but integer targets become int64. Text targets become int64 codes, and `classes` are the sorted texts; else `classes` is None. `weight` is one
    number from 0 on for each row; its floats keep their dtype, integers become float32. NaN is allowed in inputs and targets; the checks look for it. Memory is
    shared with tensors and with writable, contiguous numpy arrays.

    Raises DataError where lengths differ or values are no numbers.

    >>> source, classes, notes = make_array_source([[1.0, 2.0], [3.0, 4.0]], ["no", "yes"])
    >>> source.targets[0], classes
    (tensor([0, 1]), ('no', 'yes'))
    """
    notes: list[str] = []
    given: dict[str, Any] = {}  # name for messages -> what was given, to compare lengths and pandas indices
    tensors: dict[str, Tensor] = {}

    def read(value: Any, name: str, role: str = "inputs") -> Tensor:
        given[name] = value
        tensors[name], found = as_tensor(value, name, role)
        notes.extend(found)
        return tensors[name]

    if isinstance(inputs, tuple) and not _is_rows(inputs):
        made: Any = tuple(read(value, f"inputs[{position}]") for position, value in enumerate(inputs))
    elif isinstance(inputs, Mapping):
        made = {str(key): read(value, f"inputs[{key!r}]") for key, value in inputs.items()}
    else:
        made = read(inputs, "inputs")
    if not tensors:
        raise DataError("inputs is empty. Give an array with one row for each example.")

    classes: tuple[Any, ...] | None = None
    if isinstance(targets, Mapping):
        raise DataError(f"targets is a dict with {', '.join(map(repr, targets))}. The loss gets targets in order: give a tuple.")
    each_target: tuple[Any, ...] = () if targets is None else targets if isinstance(targets, tuple) and not _is_rows(targets) else (targets,)
    several = len(each_target) > 1
    target_tensors = []
    for position, value in enumerate(each_target):
        name = f"targets[{position}]" if several else "targets"
        texts = texts_of(value)
        if texts is not None:
            if several:
                raise DataError(
                    f"{name} holds text such as {texts[0]!r}. Text is read as classes only where there is one target; give numbers from 0 on instead."
                )
            classes, value = class_codes(texts)
            notes.append(f"targets: {len(classes)} classes from text, numbered in sorted order ({_listed(classes)})")
        target_tensors.append(read(value, name, "targets"))

    weights = None
    if weight is not None:
        weights = read(weight, "weight")
        _check_weights(weights)
        weights = weights if weights.is_floating_point() else weights.float()

    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(lengths.values())) > 1:
        first, *others = lengths.items()
        other = next(item for item in others if item[1] != first[1])
        hint = ""
        if isinstance(inputs, list) and first[1] < other[1] and tensors["inputs"].dim() > 1 and tensors["inputs"].shape[1] == other[1]:
            hint = " A list is read as rows; give several inputs as a tuple."
        elif tensors[first[0]].dim() > 1 and tensors[first[0]].shape[1] == other[1]:
            hint = f" {first[0]} may be transposed: its second axis has {other[1]:,}."
        raise DataError(
            f"{first[0]} has {first[1]:,} rows (shape {_shape(tensors[first[0]])}) and {other[0]} has {other[1]:,} (shape {_shape(tensors[other[0]])}), "
            f"and row i of one must belong to row i of the other.{hint}"
        )
    if next(iter(lengths.values())) == 0:
        raise DataError("The arrays have no rows.")
    notes.extend(_compare_indices(given))
    return ArraySource(made, tuple(target_tensors), weights), classes, notes


def as_tensor(value: Any, name: str, role: str = "inputs") -> tuple[Tensor, list[str]]:
    """One array-like as a tensor on the CPU with at least one axis, and notes on what was changed. `role` "targets" turns integers into int64."""
    notes: list[str] = []
    if isinstance(value, Tensor):
        tensor = value.detach()
        if tensor.is_meta:
            raise DataError(f"{name} is a meta tensor of shape {tuple(value.shape)}: it has a shape but no values.")
        if tensor.layout is not torch.strided or tensor.is_nested:
            raise DataError(
                f"{name} is a {'nested' if tensor.is_nested else 'sparse'} tensor, whose rows cannot be gathered. Give {name}.to_dense(), or a Dataset."
            )
        if tensor.device.type != "cpu":
            notes.append(f"{name}: moved from {tensor.device} to the CPU; fit moves data to the model's device itself")
            tensor = tensor.cpu()
        tensor = tensor.resolve_conj().resolve_neg()
    elif isinstance(value, (list, tuple)) and len(value) and all(isinstance(item, Tensor) for item in value):
        shapes = {tuple(item.shape) for item in value}
        if len(shapes) > 1:
            raise DataError(_ragged(name, sorted(shapes, key=str)))
        tensor = torch.stack([item.detach().cpu() for item in value])
    else:
        tensor = _tensor_of_numpy(_numpy_of(value, name), name)
    if tensor.dim() == 0:
        raise DataError(f"{name} is one value ({tensor.item()!r}), not one for each row. Give an array whose first axis is the row.")
    if tensor.is_quantized:
        raise DataError(f"{name} is quantized. Give {name}.dequantize().")
    if role == "targets" and not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool:
        tensor = tensor.to(torch.int64)
    return tensor, notes


def _numpy_of(value: Any, name: str) -> np.ndarray:
    library = type(value).__module__.partition(".")[0]
    kind = type(value).__name__
    if library == "scipy" and hasattr(value, "toarray"):
        size = int(np.prod(value.shape)) * value.dtype.itemsize
        raise DataError(
            f"{name} is a sparse matrix of shape {value.shape}. Give {name}.toarray() ({size / 1e6:,.1f} MB), or a Dataset that makes rows dense one by one."
        )
    if isinstance(value, torch.utils.data.Dataset):
        raise DataError(f"{name} is a {kind}, a torch Dataset. Use Data.dataset(...), which reads it example by example.")
    if library == "pandas":
        return _numpy_of_pandas(value, name)
    if library == "polars" and kind in ("DataFrame", "LazyFrame", "Series"):
        value = value.collect() if kind == "LazyFrame" else value
        columns = {value.name or name: value} if kind == "Series" else {column: value[column] for column in value.columns}
        odd = [
            column
            for column, series in columns.items()
            if not (series.dtype.is_numeric() or str(series.dtype) in ("Boolean", "Null") or series.dtype.is_nested())
        ]
        if odd:
            raise DataError(_columns_of_text(name, [f"{column!r} ({columns[column].dtype})" for column in odd]))
        return value.to_numpy()
    if library == "pyarrow":
        if kind in ("Table", "RecordBatch"):
            return np.stack([_numpy_of(column, f"{name}, column {label!r}") for label, column in zip(value.schema.names, value.columns)], axis=1)
        return np.asarray(value.to_numpy(zero_copy_only=False) if kind.endswith("Array") and kind != "ChunkedArray" else value.to_numpy())
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        raise DataError(
            f"{name} is a masked array with {int(np.ma.getmaskarray(value).sum()):,} masked values, and a tensor has no mask: "
            f"the hidden values would be trained on. Give {name}.filled(numpy.nan), or fill them with a number."
        )
    if isinstance(value, (str, bytes)):
        raise DataError(f"{name} is the text {value[:40]!r}. A file is read by Data.table(path) or Data.images(folder).")
    if isinstance(value, (list, tuple, range)):
        try:
            return np.asarray(value)
        except ValueError as error:
            lengths = sorted({f"{len(row)} values" if isinstance(row, Sized) else "a single number" for row in value})
            raise DataError(_ragged(name, lengths)) from error
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__") or isinstance(value, (memoryview, array.array)):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    raise DataError(
        f"{name} is a {kind}, which holds no array. Give a tensor, a numpy array, a nested list of numbers or a frame; other data goes through Data.dataset."
    )


def _numpy_of_pandas(value: Any, name: str) -> np.ndarray:
    import pandas as pd

    if isinstance(value, pd.Index):
        value = value.to_series()
    if isinstance(value, pd.Series):
        value = value.to_frame()
        single = True
    elif isinstance(value, pd.DataFrame):
        single = False
    else:
        return np.asarray(value)
    odd = []
    for column, dtype in enumerate(value.dtypes):
        # Columns of objects that are all numbers (None among them) are what pandas makes of a list with gaps.
        as_objects = dtype.kind == "O" and all(item is None or isinstance(item, (int, float, np.number)) for item in value.iloc[:, column])
        if not (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype) or as_objects):
            odd.append(f"{value.columns[column]!r} ({dtype})")
    if odd:
        raise DataError(_columns_of_text(name, odd))
    dtypes = set(value.dtypes)
    if len(dtypes) == 1 and isinstance(value.dtypes.iloc[0], np.dtype) and value.dtypes.iloc[0].kind != "O":
        array = value.to_numpy()
    elif all(pd.api.types.is_bool_dtype(dtype) for dtype in dtypes) and not value.isna().any(axis=None):
        array = value.to_numpy(dtype=bool)
    elif all(pd.api.types.is_integer_dtype(dtype) for dtype in dtypes) and not value.isna().any(axis=None):
        array = value.to_numpy(dtype=np.int64)
    else:
        array = value.to_numpy(dtype=np.float64, na_value=np.nan)
    return array[:, 0] if single else array


def _tensor_of_numpy(array: np.ndarray, name: str) -> Tensor:
    if array.dtype.names:
        raise DataError(f"{name} is a structured array with fields {', '.join(array.dtype.names)}. Use Data.table for named columns.")
    if array.dtype.kind == "O":
        flat = array.ravel()
        if array.ndim == 1 and len(array) and all(isinstance(item, (np.ndarray, Tensor, list)) for item in flat):
            shapes = sorted({np.shape(item) for item in flat}, key=str)
            if len(shapes) > 1:
                raise DataError(_ragged(name, shapes))
            return _tensor_of_numpy(np.stack([np.asarray(item) for item in flat]), name)
        kinds = sorted({type(item).__name__ for item in flat[:10_000]})
        where = next((position for position, item in enumerate(flat) if not isinstance(item, (int, float, np.number))), 0)
        position = ", ".join(map(str, np.unravel_index(where, array.shape)))
        raise DataError(
            f"{name} holds Python objects ({', '.join(kinds)}; the first that is no number is {flat[where] if len(flat) else None!r} at [{position}]), "
            f"and a tensor holds numbers. Give {name}.astype(float) where all are numbers (None becomes NaN), or use Data.table for text and missing values."
        )
    if array.dtype.kind in "USTa":
        first = str(array.ravel()[0]) if array.size else ""
        raise DataError(f"{name} holds text such as {first!r}, and a tensor holds numbers. Use Data.table, which reads text as categories.")
    if array.dtype.kind == "V":
        raise DataError(f"{name} holds raw bytes ({array.dtype}), and a tensor holds numbers. Give {name}.view() with the dtype that the bytes have.")
    if array.dtype.kind in "mM":
        raise DataError(f"{name} holds dates ({array.dtype}). Give numbers with a meaning for the model, such as days since the first, or use Data.table.")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"{name} holds {array.max()}, which is beyond int64, the largest integer of torch's operations.")
    if array.dtype in (np.uint16, np.uint32, np.uint64):  # torch has these types but few operations for them
        array = array.astype(np.int32 if array.dtype == np.uint16 else np.int64)
    if array.dtype == np.longdouble and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if array.dtype == np.clongdouble and array.dtype.itemsize > 16:
        array = array.astype(np.complex128)
    array = np.asarray(array, dtype=array.dtype.newbyteorder("="))  # big-endian files
    array = np.ascontiguousarray(array) if array.ndim else array  # torch takes no negative strides
    # A tensor can write where the array must not.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def texts_of(value: Any) -> list[str] | None:
    """The texts of a one-dimensional array-like of class labels; None where it holds anything else. DataError where some are missing."""
    if isinstance(value, Tensor):
        return None
    library, kind = type(value).__module__.partition(".")[0], type(value).__name__
    if library in ("pandas", "polars") and kind == "DataFrame" and value.shape[1] == 1:
        value = value.iloc[:, 0] if library == "pandas" else value.to_series()
        kind = "Series"
    if library in ("pandas", "polars", "pyarrow") and kind not in ("DataFrame", "LazyFrame", "Table", "RecordBatch"):
        dtype = str(value.dtype) if library != "pyarrow" else str(value.type)
        if not any(word in dtype.lower() for word in ("str", "object", "categ", "enum", "dictionary", "utf8")):
            return None
        values = value.to_pylist() if library == "pyarrow" else list(value)
    elif isinstance(value, np.ndarray):
        if value.dtype.kind not in "UTO":
            return None
        values = (value[:, 0] if value.ndim == 2 and value.shape[1] == 1 else value).tolist()
    elif isinstance(value, (list, tuple)):
        values = list(value)
    else:
        return None
    present = [item for item in values if isinstance(item, str)]
    if not present:
        return None
    if len(present) < len(values):
        row = next(row for row, item in enumerate(values) if not isinstance(item, str))
        raise DataError(
            f"targets mixes text ({present[0]!r}) with {len(values) - len(present):,} other values (row {row}: {values[row]!r}). "
            "A row without a class cannot be trained on; take it out, or give it a class."
        )
    return [str(item) for item in values]


def class_codes(texts: Sequence[str]) -> tuple[tuple[str, ...], Tensor]:
    """The sorted classes and the code of each text, int64 (n,).

    >>> class_codes(["dog", "cat", "dog"])
    (('cat', 'dog'), tensor([1, 0, 1]))
    """
    classes = tuple(sorted(set(texts)))
    code = {text: number for number, text in enumerate(classes)}
    return classes, torch.tensor([code[text] for text in texts], dtype=torch.int64)


def task_of(targets: Sequence[Any]) -> tuple[str | None, tuple[Any, ...] | None]:
    """The task that targets speak of and its classes; `(None, None)` where it cannot be told (no target, several, or something rare).

    bool: "binary" (more than one column: "multilabel"). Integers, one axis (or a trailing 1): "binary" where all are 0 or 1 (or -1 and 1), else "multiclass"
    with the classes 0..largest, as torch's losses count them (-100 is torch's ignore_index and no class). Integers that look like counts or measurements cannot
    be told: negative ones, and numbers of 1,000 and more that are mostly different or mostly unused. Floats: "multilabel" where there is more than one column
    and all are 0 or 1, "binary" where one column holds both 0 and 1 and nothing else, else "regression".
    """
    if len(targets) != 1 or not isinstance(targets[0], Tensor) or targets[0].numel() == 0:
        return None, None
    target = targets[0]
    columns = 1 if target.dim() == 1 else int(target.shape[1]) if target.dim() == 2 else 0
    if target.dtype == torch.bool:
        return ("binary", (False, True)) if columns == 1 else ("multilabel", None) if columns else (None, None)
    if target.is_complex():
        return None, None
    if target.is_floating_point():
        zero_or_one = bool(((target == 0) | (target == 1)).all())
        if columns > 1 and zero_or_one:
            return "multilabel", None
        if columns == 1 and zero_or_one and bool((target == 0).any()) and bool((target == 1).any()):
            return "binary", (0, 1)
        return "regression", None
    if columns != 1:
        return None, None
    labels = target.reshape(-1)
    labels = labels[labels != -100]
    if not len(labels):
        return None, None
    different = labels.unique()
    smallest, largest = int(different[0]), int(different[-1])
    if smallest < 0:
        return ("binary", (smallest, largest)) if len(different) == 2 and (smallest, largest) == (-1, 1) else (None, None)
    if largest <= 1:
        return "binary", (0, 1)
    if largest >= 1000 and (len(different) > len(labels) / 2 or largest >= 10 * len(different)):
        return None, None
    return "multiclass", tuple(range(largest + 1))


# -- datasets ------------------------------------------------------------------------------------------------------------------------------------------------


class LoaderDataset(torch.utils.data.Dataset):
    """A Dataset whose keys are `(epoch, row)`: before each example torch, numpy and `random` are seeded by (seed, epoch, row), and given back afterwards.

    So random augmentation inside a user's Dataset is a function of (seed, epoch, row), whichever process reads the row and whatever was read before. Where the
    Dataset reads many rows at once (`__getitems__`), all rows of the batch share one seeding, by (seed, epoch, rows). A generator of the Dataset's own
    (`numpy.random.default_rng`) is out of reach; `rows_repeat` finds it. Picklable where the Dataset is, so worker processes can hold it.
    """

    def __init__(self, dataset: Any, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Any]:
        # The generators are captured once for the batch, as capture and restore cost 110 us and seeding 9 us.
        with seeds.restored():
            if reads_many(self.dataset):
                epoch, rows = keys[0][0], [int(row) for _, row in keys]
                seeds.seed_everything(seeds.derive(self.seed, "sample", epoch, *rows))
                with _explained(self.dataset, rows):
                    return list(self.dataset.__getitems__(rows))
            examples = []
            for epoch, row in keys:
                seeds.seed_everything(seeds.derive(self.seed, "sample", epoch, int(row)))
                with _explained(self.dataset, [int(row)]):
                    examples.append(self.dataset[int(row)])
            return examples


def reads_many(dataset: Any) -> bool:
    """Whether the Dataset reads many rows at once itself. torch's Subset always offers `__getitems__`; what counts is the Dataset inside."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return callable(getattr(dataset, "__getitems__", None)) and not isinstance(dataset, ConcatDataset)


class _explained:
    """Errors of a user's Dataset name the row; the cause stays attached."""

    def __init__(self, dataset: Any, rows: list[int]):
        self.dataset, self.rows = dataset, rows

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, (FivestepError, MemoryError)):
            rows = f"row {self.rows[0]}" if len(self.rows) == 1 else f"rows {', '.join(map(str, self.rows[:5]))}{', ...' if len(self.rows) > 5 else ''}"
            raise DataError(f"{type(self.dataset).__name__} cannot read {rows} of {len(self.dataset):,}: {type(error).__name__}: {error}") from error


def collate_examples(examples: list[Any]) -> Any:
    """torch's `default_collate`, with a lesson where examples do not fit together."""
    try:
        return default_collate(examples)
    except (RuntimeError, TypeError, KeyError) as error:
        first = [_sketch(example) for example in examples]
        other = next((text for text in first if text != first[0]), first[0])
        raise DataError(
            f"The examples cannot be put into one batch: {first[0]}"
            + (f" beside {other}" if other != first[0] else "")
            + f" ({error}). Give examples as tensors of "
            "one shape (resize, pad), or collate=, a function from a list of examples to a batch."
        ) from error


def unpack_batch(batch: Any, inputs: Any = None, targets: Any = None) -> tuple[Any, tuple[Any, ...]]:
    """`(inputs, targets)` of a collated batch, as `DatasetSource` describes.

    >>> unpack_batch({"x": torch.ones(2), "mask": torch.zeros(2), "labels": torch.tensor([1, 0])})
    ({'x': tensor([1., 1.]), 'mask': tensor([0., 0.])}, (tensor([1, 0]),))
    """
    is_sequence = isinstance(batch, (tuple, list))
    used: list[Any] = []
    found: Any
    if callable(targets):
        found = targets(batch)
    elif targets is not None:
        used = list(targets) if isinstance(targets, (list, tuple)) else [targets]
        found = tuple(_look_up(batch, key, "targets") for key in used)
    elif is_sequence:
        found = batch[-1] if len(batch) > 1 else ()
        used = [len(batch) - 1] if len(batch) > 1 else []
    elif isinstance(batch, Mapping):
        used = [key for key in TARGET_KEYS if key in batch][:1]
        if not used:
            raise UsageError(
                f"The batch is a dict with {', '.join(map(repr, batch))}, and none of these is known to be the target ({', '.join(TARGET_KEYS)} are). "
                "Say which: targets='key', or targets=[] for data without targets."
            )
        found = batch[used[0]]
    elif isinstance(batch, Tensor):
        found = ()
    else:
        raise UsageError(
            f"The batch is a {type(batch).__name__}. Say where its targets lie: targets='attribute', or a function of the batch; targets=[] for none."
        )

    if callable(inputs):
        chosen = inputs(batch)
    elif isinstance(inputs, (list, tuple)):
        chosen = (
            {key: _look_up(batch, key, "inputs") for key in inputs} if isinstance(batch, Mapping) else tuple(_look_up(batch, key, "inputs") for key in inputs)
        )
    elif inputs is not None:
        chosen = _look_up(batch, inputs, "inputs")
    elif isinstance(batch, Mapping):
        chosen = {key: value for key, value in batch.items() if key not in used}
        if not chosen:
            raise UsageError(f"The batch is a dict with {', '.join(map(repr, batch))}, all of them targets. Say which are inputs: inputs='key'.")
    elif is_sequence:
        if callable(targets) and len(batch) > 1:
            used = [len(batch) - 1]
        taken = {key % len(batch) for key in used if isinstance(key, int)}
        rest = tuple(value for position, value in enumerate(batch) if position not in taken)
        if not rest:
            raise UsageError(f"All {len(batch)} elements of the batch are targets. Say which are inputs: inputs=0.")
        chosen = rest[0] if len(rest) == 1 else rest
    else:
        chosen = batch
    found = tuple(found) if isinstance(found, (tuple, list)) and not _texts(found) else (found,)
    for value in found:
        if _texts(value):
            raise DataError(f"The targets hold text such as {value[0]!r}, and a loss needs numbers. Let the Dataset return a class number from 0 on.")
    return chosen, found


def _look_up(batch: Any, key: Any, argument: str) -> Any:
    try:
        if isinstance(batch, Mapping) or isinstance(key, int):
            return batch[key]
        if isinstance(key, str) and hasattr(batch, key):
            return getattr(batch, key)
    except (KeyError, IndexError) as error:
        held = ", ".join(map(repr, batch)) if isinstance(batch, Mapping) else f"{len(batch)} elements"
        raise UsageError(f"{argument}={key!r} is not in the batch, which holds {held}.") from error
    held = f"a {type(batch).__name__}" + (f" of {len(batch)} elements; use positions from 0 on" if isinstance(batch, (tuple, list)) else "")
    raise UsageError(f"{argument}={key!r} is not in the batch, which is {held}.")


def rows_repeat(dataset: Any, index: int) -> bool:
    """Whether rows, read again under one seed, are the same to the bit; False finds a Dataset with a generator of its own (`default_rng`) or a clock.

    Row `index` and at most 7 more are read twice: a coin that is tossed for each example falls alike twice in a row by chance, hardly eight times. What draws so
    seldom that none of these reads shows it is not found. The global generators are given back as they were.
    """
    read = LoaderDataset(dataset, 0)
    rows = [index, *(row for row in (place * (len(dataset) - 1) // 7 for place in range(7)) if row != index)]
    return all(digest_of(read[(0, row)]) == digest_of(read[(0, row)]) for row in rows)


# -- fingerprints --------------------------------------------------------------------------------------------------------------------------------------------


def fingerprint(source: Any) -> str:
    """SHA-256 of the content, as 64 hexadecimal digits.

    Of arrays: every name, dtype, shape and value of inputs, targets and weights. Of a Dataset: its class's name, its length, and at most 32 examples: rows
    `i * (length - 1) // 31` for i from 0 to 31 (the first, the last and evenly between), read under a fixed seed. Where a row does not repeat under one seed,
    the examples' structure, dtypes and shapes stand for their values.
    """
    if isinstance(source, ArraySource):
        return digest_of((source.inputs, source.targets, source.weights))
    dataset, length = source.dataset, len(source)
    rows = sorted({position * (length - 1) // 31 for position in range(32)})
    repeats = rows_repeat(dataset, 0)
    read = LoaderDataset(dataset, 0)
    return digest_of((type(dataset).__qualname__, length, *(digest_of(read[(0, row)], values=repeats) for row in rows)))


def digest_of(value: Any, values: bool = True) -> str:
    """SHA-256 of a nest of tensors, arrays, numbers, texts, images and objects; `values=False` looks at structure, dtypes and shapes only."""
    digest = hashlib.sha256()
    _digest_into(digest, value, values, set())
    return digest.hexdigest()


def _digest_into(digest: Any, value: Any, values: bool, seen: set[int]) -> None:
    def mark(*parts: Any) -> None:
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
            digest.update(struct.pack("<q", len(data)) + data)  # with lengths, so that ("ab", "c") and ("a", "bc") differ

    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        tensor = tensor.to_dense() if tensor.layout is not torch.strided else tensor
        tensor = tensor.resolve_conj().resolve_neg().contiguous()
        mark("tensor", tensor.dtype, tuple(tensor.shape))
        if values and tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
        mark("array", value.dtype.str, value.shape)
        if values and value.size:
            digest.update(np.ascontiguousarray(value).tobytes())
    elif value is None or isinstance(value, (bool, int, str, bytes, np.generic, complex)):
        mark(type(value).__name__, value if values else "")
    elif isinstance(value, float):
        mark("float", struct.pack("<d", value) if values else "")
    elif isinstance(value, Mapping):
        mark("mapping", len(value))
        for key, item in value.items():
            mark(key)
            _digest_into(digest, item, values, seen)
    elif isinstance(value, (set, frozenset)):
        mark("set", *sorted(map(repr, value)))
    elif isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype.kind == "O"):
        mark("sequence", len(value))
        for item in value:
            _digest_into(digest, item, values, seen)
    elif hasattr(value, "tobytes") and hasattr(value, "size"):  # an image of Pillow's
        mark(type(value).__name__, value.size, getattr(value, "mode", ""), value.tobytes() if values else b"")
    elif id(value) not in seen:
        mark(type(value).__qualname__)
        to_dict = getattr(value, "to_dict", None)
        content = to_dict() if callable(to_dict) else getattr(value, "__dict__", None)
        if content is not None:
            _digest_into(digest, content, values, seen | {id(value)})
        elif values:
            try:
                mark(pickle.dumps(value, protocol=4))
            except (pickle.PicklingError, TypeError, AttributeError):
                mark("cannot be read")  # a lock, an open file: no part of the data


# -- small pieces --------------------------------------------------------------------------------------------------------------------------------------------


def _is_rows(value: tuple[Any, ...]) -> bool:
    """A tuple of plain values is a row-wise list that happens to be a tuple; a tuple of arrays is several arrays."""
    return bool(value) and all(isinstance(item, (bool, int, float, complex, str, np.generic)) or item is None for item in value)


def _check_weights(weights: Tensor) -> None:
    if weights.dim() != 1:
        raise DataError(f"weight has shape {tuple(weights.shape)}. Give one number for each row.")
    if weights.is_complex():
        raise DataError("weight holds complex numbers. Give numbers from 0 on.")
    bad = ~torch.isfinite(weights) | (weights < 0)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise DataError(
            f"weight is {weights[row].item()} in row {row} ({int(bad.sum()):,} rows like it). A weight says how much a row counts: a number from 0 on."
        )
    if len(weights) and not bool((weights > 0).any()):
        raise DataError("weight is 0 in every row, so that no row would count.")


def _compare_indices(given: Mapping[str, Any]) -> list[str]:
    """pandas pairs rows by index, tensors by position: the same index in another order means shuffled pairs."""
    frames = {name: value.index for name, value in given.items() if type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "iloc")}
    if len(frames) < 2:
        return []
    (first, index), *others = frames.items()
    for name, other in others:
        if not index.equals(other):
            if index.is_unique and other.is_unique and index.sort_values().equals(other.sort_values()):
                row = next(row for row, (here, there) in enumerate(zip(index, other)) if here != there)
                raise DataError(
                    f"{first} and {name} have the same index in different orders (position {row}: {index[row]!r} and {other[row]!r}). "
                    f"Rows are paired by position, so inputs would be trained on other rows' values. "
                    f"Give {name}.loc[{first}.index], or .to_numpy() of both if the positions are right."
                )
            return [f"{first} and {name} have different pandas indices; rows are paired by position"]
    return []


def _columns_of_text(name: str, columns: list[str]) -> str:
    return (
        f"{name} has columns that are no numbers: {', '.join(columns[:8])}{', ...' if len(columns) > 8 else ''}. "
        "Use Data.table(frame, target=...), which reads text as categories, or leave these columns out."
    )


def _ragged(name: str, shapes: Sequence[Any]) -> str:
    return (
        f"{name} has rows of different shapes ({', '.join(map(str, shapes[:4]))}{', ...' if len(shapes) > 4 else ''}), which fit no tensor. "
        "Pad or cut them to one shape; give several inputs as a tuple; or use Data.dataset with collate= for rows of different length."
    )


def _sketch(example: Any) -> str:
    """An example in a few words: (tensor (3, 8, 8), int)."""
    if isinstance(example, (Tensor, np.ndarray)):
        return f"{'tensor' if isinstance(example, Tensor) else 'array'} {tuple(example.shape)}"
    if isinstance(example, Mapping):
        return "{" + ", ".join(f"{key!r}: {_sketch(value)}" for key, value in example.items()) + "}"
    if isinstance(example, (tuple, list)):
        return "(" + ", ".join(map(_sketch, example[:6])) + (", ..." if len(example) > 6 else "") + ")"
    return type(example).__name__


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, str) for item in value)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
