"""What users hold: `Data`, rows with inputs and targets, and `Splits`, the same rows as training, validation and test.

Enters: a file, frame, arrays, images or a torch Dataset. Leaves: for each split a `Source` whose rows are encoded with what was fitted on the training rows
alone. The decision that shaped it: nothing is fitted before the split is made, so nothing can be fitted on the wrong rows.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fivestep.data import sources
from fivestep.data.batches import tensors_of
from fivestep.data.splits import SplitIndices, split_indices
from fivestep.errors import DataError, UsageError


@dataclass(frozen=True, eq=False)
class Data:
    """Rows with inputs and targets, from a table, arrays, images or a Dataset. Make one with `Data.table`, `.arrays`, `.images` or `.dataset`.

    >>> import torch, fivestep as fs
    >>> data = fs.Data.arrays(torch.randn(100, 3), torch.randn(100, 1))
    >>> len(data), data.split(train=0.8, test=0.2).train.num_rows
    (100, 80)
    """

    kind: str  # "table" | "arrays" | "images" | "dataset"
    origin: str
    source: Any = None  # a Source; None for tables, whose rows are encoded only after the split
    typed: Any = None  # the typed columns of a table
    classes: tuple[Any, ...] | None = None
    task: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()

    # -- makers -------------------------------------------------------------------------------------------------------------------------------------------

    @staticmethod
    def table(
        source: Any,
        target: str | Sequence[str] | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        drop: Sequence[str] = (),
        missing: Sequence[str] | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
        decimal: str = ".",
        quote: str | None = '"',
        without_target: str = "refuse",
        weight: str | None = None,
        scale_target: bool | str = "auto",
        categories: str = "auto",
        units: Mapping[str, str] | None = None,
    ) -> Data:
        """A table with named columns: a path (CSV, TSV, Parquet), a polars, pandas or Arrow frame, or a dict of arrays.

        `columns` overrides what a column is read as ({"zip": "category"}); `drop`ped columns are no inputs but stay usable by `split`; `missing` adds tokens
        that mean "no value"; `quote=None` reads quotes as ordinary text; `without_target="drop"` leaves out rows that have none; `weight` names a column of sample weights; `categories` is "onehot" or
        "codes" (for embeddings); "auto" is one-hot, but that `model="auto"` takes codes where there are very many categories; `units` ({"price": "USD"}) stand on the
        axes of plots and beside scores. Raises DataError with every problem of the file, each with the option that accepts it.
        """
        from fivestep.data.kinds import read_columns
        from fivestep.data.tables import near, read_table

        columns = dict(columns or {})
        if categories not in ("auto", "onehot", "codes"):
            raise UsageError(
                f'categories={categories!r} is not known. Use "auto", "onehot" (numbers only) or "codes" (forward gets (numbers, codes) for embeddings).'
            )
        raw = read_table(source, columns=columns, missing=missing, delimiter=delimiter, encoding=encoding, decimal=decimal, quote=quote)
        strange = [name for name in units or () if name not in raw.names]
        if strange:
            raise DataError(f"{raw.origin}: units={{{strange[0]!r}: …}}: no such column{near(strange[0], raw.names)}")
        typed = read_columns(raw, target=target, drop=drop, columns=columns, missing=missing, decimal=decimal, without_target=without_target, weight=weight)
        options = dict(
            columns=columns, drop=list(drop), missing=None if missing is None else list(missing), delimiter=delimiter, encoding=encoding, decimal=decimal,
            quote=quote, without_target=without_target, weight=weight, scale_target=scale_target, categories=categories,
            units=dict(units or {}),
        )  # fmt: skip
        names = () if target is None else (target,) if isinstance(target, str) else tuple(target)
        return Data("table", raw.origin, typed=typed, task=typed.task, options={"target": target, **options}, notes=tuple(typed.notes), target_names=names)

    @staticmethod
    def arrays(inputs: Any, targets: Any = None, *, weight: Any = None) -> Data:
        """Arrays or tensors whose first axis is the row: one or several inputs (a tuple or dict), one or several targets (a tuple), a weight per row.

        Labels of text are numbered in sorted order. Raises DataError for arrays of unequal length, or that hold no numbers.
        """
        source, classes, notes = sources.make_array_source(inputs, targets, weight)
        task, found = sources.task_of(source.targets)
        return Data("arrays", "arrays", source=source, classes=classes or found, task=task, notes=tuple(notes))

    @staticmethod
    def images(folder_or_arrays: Any, targets: Any = None, *, size: Any = None) -> Data:
        """Images: a folder with one folder of files per class, or arrays (n, height, width[, channels]) with their targets.

        Pixels become float32 in 0..1, shape (n, channels, height, width). `size` is a number or (height, width) that files are resized to.
        Raises MissingInputError where the folder is not there, DataError with every problem of the files or arrays, UsageError for arguments that mean nothing.
        """
        from fivestep.data import images

        if isinstance(folder_or_arrays, (str, Path)):
            if targets is not None:
                raise UsageError("Data.images(folder) takes the classes from the folders' names; targets= is for arrays of images.")
            source, classes, notes = images.folder_source(folder_or_arrays, size=size)
        else:
            source, classes, notes = images.array_source(folder_or_arrays, targets, size=size)
        task, found = (
            sources.task_of(source.targets) if getattr(source, "targets", None) else ("multiclass" if classes and len(classes) > 2 else "binary", classes)
        )
        origin = str(folder_or_arrays) if isinstance(folder_or_arrays, (str, Path)) else "image arrays"
        return Data("images", origin, source=source, classes=classes or found, task=task, notes=tuple(notes), options={"size": size})

    def numbered_as(self, classes: tuple[Any, ...] | None, what: str = "new") -> Data:
        """The same rows with their labels numbered as in `classes`, the training data's: text and folders are numbered by what one file or folder happens to hold.

        Raises DataError for a label that `classes` has not. Tables, and labels that are numbers already, come back as they are.
        """
        own = self.classes
        if self.kind == "table" or classes is None or own is None or own == tuple(classes) or not any(isinstance(label, str) for label in own):
            return self
        strange = [label for label in own if label not in classes]
        if strange:
            names = ", ".join(map(str, classes[:8])) + (", ..." if len(classes) > 8 else "")
            raise DataError(
                f"The {what} data has {'the class' if len(strange) == 1 else 'classes'} {', '.join(map(repr, strange[:5]))}, which training has not (it has {names}): "
                "no answer could be right there. Take those rows out, or train with them."
            )
        number = torch.tensor([list(classes).index(label) for label in own])
        if isinstance(self.source, sources.ArraySource):
            source: Any = sources.ArraySource(self.source.inputs, (number[self.source.targets[0]],), self.source.weights)
        else:
            from fivestep.data import images

            source = images.renumbered(self.source, number, tuple(classes))
        return replace(self, source=source, classes=tuple(classes))

    @staticmethod
    def dataset(
        dataset: Any, *, inputs: Any = None, targets: Any = None, count: Callable[[Any], int] | None = None, collate: Any = None, workers: int = 0
    ) -> Data:
        """Any map-style torch Dataset. `inputs` and `targets` are keys or functions of the collated batch, `count` tells how many examples a batch holds.

        `collate` and `workers` are those of torch's DataLoader. Raises UsageError for what is no map-style Dataset, DataError for one without examples.
        """
        source = sources.DatasetSource(dataset, inputs=inputs, targets=targets, count=count, collate=collate, workers=workers)
        return Data("dataset", type(dataset).__name__, source=source, options={"workers": workers})

    # -- facts --------------------------------------------------------------------------------------------------------------------------------------------

    def unit(self, column: str) -> str:
        """The unit of a column as `units` told it; "" where it told none."""
        return self.options.get("units", {}).get(column, "")

    def with_unit(self, column: str) -> str:
        """The name of a column as it stands on an axis: "price (USD)"."""
        return f"{column} ({self.unit(column)})" if self.unit(column) else column

    def __len__(self) -> int:
        return self.typed.num_rows if self.kind == "table" else len(self.source)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content: of a file's bytes and shape, of arrays' values, of a Dataset's length and some of its rows."""
        return self.typed.fingerprint if self.kind == "table" else sources.fingerprint(self.source)

    def __repr__(self) -> str:
        head = f"Data: {len(self):,} rows from {self.origin}" + (f", target {', '.join(self.target_names)}" if self.target_names else "")
        head += f", task {self.task}" if self.task else ""
        lines: list[str] = [head]
        if self.kind == "table":
            lines.append(str(self.typed.describe()))
        elif hasattr(self.source, "inputs"):
            lines.append("  inputs  " + ", ".join(f"{str(t.dtype)[6:]} {tuple(t.shape)}" for t in tensors_of(self.source.inputs)))
            lines.append("  targets " + ", ".join(f"{str(t.dtype)[6:]} {tuple(t.shape)}" for t in self.source.targets))
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        from fivestep import displays

        if self.kind == "table":
            body = self.typed.describe()._repr_html_()
        elif hasattr(self.source, "inputs"):
            named = [*(("inputs", tensor) for tensor in tensors_of(self.source.inputs)), *(("targets", tensor) for tensor in self.source.targets)]
            body = displays.table([(role, str(tensor.dtype)[6:], str(tuple(tensor.shape))) for role, tensor in named], ("", "type", "shape"))
        else:
            body = ""
        return f"<div><b>{displays.text(repr(self).splitlines()[0])}</b>{body}{displays.lines(self.notes)}</div>"

    # -- splitting ----------------------------------------------------------------------------------------------------------------------------------------

    def split(
        self,
        train: float | int | None = None,
        val: float | int | None = None,
        test: float | int | None = None,
        *,
        seed: int = 0,
        shuffle: bool = True,
        stratify: Any = None,
        group: Any = None,
        time: Any = None,
        indices: Any = None,
        column: str | None = None,
        splitter: Any = None,
    ) -> Splits:
        """Training, validation and test rows: 70/15/15 where no size is named; named fractions add up to 1 and those not named are 0.

        `stratify=True` (or a column or array) keeps class shares; `group` keeps the rows of one group together; `time` puts the earliest rows in training and
        the latest in test; `shuffle=False` takes the rows in file order; `indices=(train, val, test)`, a `column` that says so, or a scikit-learn `splitter`
        give the split as it is. `group`, `time` and `stratify` are a column's name or one value for each row. Raises UsageError for
        sizes and rules that contradict each other, DataError where the rows cannot be split so.
        """
        labels = self._labels() if stratify is True else self._values(stratify, "stratify")
        chosen = split_indices(
            len(self),
            train=train,
            val=val,
            test=test,
            seed=seed,
            shuffle=shuffle,
            labels=labels,
            groups=self._values(group, "group"),
            times=self._values(time, "time"),
            indices=indices,
            column_values=self._values(column, "column"),
            splitter=splitter,
            y=self._labels() if splitter is not None and self.task in ("binary", "multiclass") else None,
            column=column,
        )
        options = dict(train=train, val=val, test=test, seed=seed, shuffle=shuffle)
        options |= {
            key: value for key, value in dict(stratify=stratify, group=group, time=time, column=column).items() if isinstance(value, (str, bool)) and value
        }
        parts = [
            None if rows is None or not len(rows) else Part(name, self, torch.as_tensor(rows))
            for name, rows in zip(("train", "val", "test"), (chosen.train, chosen.val, chosen.test))
        ]
        return Splits._of(parts, how=chosen, options=options, groups=group, times=time)

    def _labels(self) -> Any:
        if self.kind == "table":
            if self.task not in ("binary", "multiclass"):
                raise UsageError("stratify=True needs a target of classes; this target is numbers. Name a column instead: stratify='column'.")
            return self.typed.values(self.target_names[0])
        targets = getattr(self.source, "targets", ())
        if len(targets) != 1 or targets[0].is_floating_point() or targets[0].dim() != 1:
            raise UsageError("stratify=True needs one target of class labels in memory. Give the labels: stratify=labels, one for each row.")
        return targets[0].numpy()

    def _values(self, given: Any, argument: str) -> Any:
        """A column's values by its name, or the values themselves."""
        if given is None or given is False:
            return None
        if isinstance(given, str):
            if self.kind != "table":
                raise UsageError(f"{argument}={given!r} names a column, and this data has none. Give one value for each row.")
            return self.typed.values(given)
        values = given.numpy() if isinstance(given, Tensor) else np.asarray(given)
        if len(values) != len(self):
            raise DataError(f"{argument}= has {len(values)} values for {len(self)} rows. Give one for each row, in the rows' order.")
        return values


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one split: which data they come from and where they stand in it (`indices`, int64)."""

    name: str
    data: Data
    indices: Tensor

    @property
    def num_rows(self) -> int:
        return len(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"{self.name}: {self.num_rows:,} rows of {self.data.origin}"


class Splits:
    """Data as training, validation and test rows, with everything a column needs fitted on the training rows only.

    `Splits(train, val=None, test=None)` takes data that comes already split: each a `Data`, a Dataset or `(inputs, targets)`; `val=0.15` carves validation
    from the training data. `data.split(...)` makes one too.

    >>> import torch, fivestep as fs
    >>> x = torch.arange(0, 1, 0.02)[:, None]
    >>> fs.Splits(train=(x[:40], 2 * x[:40]), test=(x[40:], 2 * x[40:]))
    Splits: train 40 (80%) / test 10 (20%) of arrays; 1 input, 1 output; task regression
    """

    def __init__(self, train: Any, val: Any = None, test: Any = None, *, seed: int = 0):
        train = as_data(train)
        parts: list[Part | None]
        if isinstance(val, float):
            chosen = split_indices(len(train), train=1 - val, val=val, test=0, seed=seed)
            parts = [Part("train", train, torch.as_tensor(chosen.train)), Part("val", train, torch.as_tensor(chosen.val))]
        else:
            parts = [Part("train", train, torch.arange(len(train))), None]
            if val is not None:
                data = as_data(val)
                parts[1] = Part("val", data, torch.arange(len(data)))
        data = None if test is None else as_data(test)
        parts.append(None if data is None else Part("test", data, torch.arange(len(data))))
        for part in parts[1:]:
            if part is not None and part.data.kind != train.kind:
                raise DataError(f"The {part.name} data is {part.data.kind}, the training data {train.kind}. All parts must be of one kind.")
        parts[1:] = [part if part is None or part.data is train else replace(part, data=part.data.numbered_as(train.classes, part.name)) for part in parts[1:]]
        given = {part.name: {"source": part.data.origin, "options": part.data.options} for part in parts[1:] if part is not None and part.data is not train}
        options = {"given": True, "seed": seed} | ({"val": val} if isinstance(val, float) else {}) | given
        self._set(parts, how=None, options=options, groups=None, times=None)

    @classmethod
    def _of(cls, parts: list[Part | None], *, how: SplitIndices, options: dict[str, Any], groups: Any, times: Any) -> Splits:
        splits = cls.__new__(cls)
        splits._set(parts, how=how, options=options, groups=groups, times=times)
        return splits

    def _set(self, parts: list[Part | None], *, how: Any, options: dict[str, Any], groups: Any, times: Any) -> None:
        train, self.val, self.test = parts
        if train is None or not len(train):
            raise DataError("The training split is empty. Give it a larger fraction, such as split(train=0.7, val=0.15, test=0.15).")
        self.train: Part = train
        self.how, self.options, self.group, self.time = how, options, groups, times

    # -- facts --------------------------------------------------------------------------------------------------------------------------------------------

    @cached_property
    def columns(self) -> Any:
        """The fitted columns of a table (None for other data): fitted on the training rows and nothing else."""
        if self.train.data.kind != "table":
            return None
        from fivestep.data.columns import Columns

        data = self.train.data
        scale, categories = data.options["scale_target"], data.options["categories"]
        return Columns.fit(data.typed, self.train.indices.numpy(), categories="onehot" if categories == "auto" else categories, scale_target=bool(scale))

    def with_categories(self, categories: str) -> Splits:
        """The same rows on the same sides, with categories as "onehot" or as "codes"."""
        other = copy.copy(self)
        other.__dict__.pop("columns", None)
        for name in ("train", "val", "test"):
            part = getattr(self, name)
            if part is not None:
                setattr(other, name, replace(part, data=replace(part.data, options=part.data.options | {"categories": categories})))
        return other

    @property
    def task(self) -> str | None:
        return self.train.data.task

    @property
    def classes(self) -> tuple[Any, ...] | None:
        columns = self.columns
        found = self.train.data.classes if columns is None else columns.classes
        return None if found is None else tuple(found)

    @property
    def num_inputs(self) -> int | None:
        """The width of the first input after its row axis; None where that cannot be told without reading a Dataset."""
        if self.columns is not None:
            return self.columns.num_inputs
        tensors = tensors_of(getattr(self.train.data.source, "inputs", None))
        return int(tensors[0].shape[1]) if tensors and tensors[0].dim() > 1 else 1 if tensors else None

    @property
    def num_outputs(self) -> int | None:
        """What a model must put out: one number for each target, or one for each class."""
        if self.classes is not None and self.task in ("binary", "multiclass"):
            return len(self.classes)
        if self.columns is not None:
            return self.columns.num_targets
        targets = getattr(self.train.data.source, "targets", ())
        return None if not targets else int(targets[0].shape[1]) if targets[0].dim() > 1 else 1

    @property
    def num_categories(self) -> list[int] | None:
        return (self.columns.num_categories or None) if self.columns is not None else None

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """(channels, height, width) where the one input is images."""
        tensors = tensors_of(getattr(self.train.data.source, "inputs", None))
        return tuple(tensors[0].shape[1:]) if len(tensors) == 1 and tensors[0].dim() == 4 else None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of data and split together: the same rows on the same sides give the same fingerprint. Test looks are counted under it."""
        digest = hashlib.sha256()
        for part in (self.train, self.val, self.test):
            if part is not None:
                digest.update(part.name.encode() + part.data.fingerprint.encode() + part.indices.numpy().tobytes())
        return digest.hexdigest()

    def part(self, name: str) -> Part:
        """The part called "train", "val" or "test"; UsageError where there is none."""
        if name not in ("train", "val", "test"):
            raise UsageError(f'There is no split {name!r}; a split is called "train", "val" or "test".')
        found = getattr(self, name)
        if found is None:
            raise UsageError(f"These splits have no {name} rows. Name its fraction, for example split(train=0.7, val=0.15, test=0.15).")
        return found

    def encoded(self, part: Part) -> Any:
        """The part as a Source of float32 inputs (or (numbers, codes)) and targets in their own unit, encoded by the columns fitted on the training rows."""
        if part.data.kind != "table":
            return part.data.source
        rows = part.indices.numpy()
        typed = part.data.typed
        targets = self.columns.targets(typed, rows) if self.columns.target_names else None
        weights = typed.weights(rows)
        return sources.ArraySource(
            self.columns.encode(typed, rows),
            () if targets is None else (targets,),
            None if weights is None else weights.float(),
        )

    def values_of(self, name_or_values: Any, part: Part) -> Any:
        """The group or time of each row of a part, as `split` was given it; None where it was not."""
        if name_or_values is None:
            return None
        return part.data._values(name_or_values, "group")[part.indices.numpy()]

    def __repr__(self) -> str:
        total = sum(len(part) for part in (self.train, self.val, self.test) if part is not None)
        sizes = " / ".join(f"{part.name} {len(part):,} ({len(part) / total:.0%})" for part in (self.train, self.val, self.test) if part is not None)
        shape, inputs, outputs = self.image_shape, self.num_inputs, self.num_outputs
        facts = "images of " + " x ".join(map(str, shape)) if shape else f"{inputs:,} input{'s' * (inputs != 1)}" if inputs else "a Dataset"
        facts += "" if outputs is None or not inputs else f", {outputs:,} output{'s' * (outputs != 1)}"
        text = f"Splits: {sizes} of {self.train.data.origin}; {facts}" + (f"; task {self.task}" if self.task else "")
        if self.classes and self.task in ("binary", "multiclass"):
            text += f"; classes {', '.join(map(str, self.classes[:8]))}{' ...' if len(self.classes) > 8 else ''}"
        return text

    def _repr_html_(self) -> str:
        from fivestep import displays

        parts = [part for part in (self.train, self.val, self.test) if part is not None]
        total = sum(len(part) for part in parts)
        rows = [(part.name, len(part), f"{len(part) / total:.1%}", part.data.origin) for part in parts]
        facts = repr(self).partition("; ")[2]
        return f"<div>{displays.table(rows, ('split', 'rows', 'share', 'from'), caption=facts)}</div>"

    def plot(self) -> Any:
        """A matplotlib figure: rows for each split, and how the target is spread in training and validation rows; of test rows it is not looked at."""
        from fivestep.data.plots import plot_splits

        return plot_splits(self)


def as_data(value: Any) -> Data:
    """A `Data`, from a `Data`, `(inputs, targets)` or a torch Dataset."""
    if isinstance(value, Data):
        return value
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return Data.arrays(value[0], value[1])
    if isinstance(value, Tensor):
        return Data.arrays(value)
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return Data.dataset(value)
    raise UsageError(f"A split must be a Data, a torch Dataset or (inputs, targets); this is a {type(value).__name__}.")


def as_splits(value: Any) -> Splits:
    """Splits, from Splits, Data (split 70/15/15) or what `as_data` takes."""
    if isinstance(value, Splits):
        return value
    if isinstance(value, Data):
        return value.split()
    raise UsageError("fit needs splits: fs.Data.table('file.csv', target='y').split(), or fs.Splits(train=(X, y), val=(X_val, y_val)).")
