"""What a model needs to know of its columns, fitted on training rows only: fill values, scales, categories, classes; to tensors and back, to JSON and back.

Enters: a `TypedTable` and the positions of its training rows; later any table to predict. Leaves: raw tensors (float64 numbers, int64 codes), one torch
module that encodes them to float32, targets, and decoded values. The deciding choice: text becomes codes outside and everything else happens inside one
module over tensors, so that training, prediction, export and serving run the same arithmetic. A bucket that no training row fell into gets no input.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fivestep.data.column_lines import ColumnLine, ColumnLines, examples_of
from fivestep.data.records import Limits, shown
from fivestep.data.strays import stray_problem, stray_text
from fivestep.data.tables import ReadOptions, Table, data_error, iter_tables, listed, near, origin_of, try_read
from fivestep.data.typed_tables import TypedColumn, TypedTable, class_labels, class_texts
from fivestep.data.values import TIMES, as_text, missing_mask, number_text, read_as
from fivestep.errors import ArtifactError, DataError, UsageError

if TYPE_CHECKING:
    import polars

FORMAT = 1
UNKNOWN, MISSING_CODE, FIRST_CODE = 0, 1, 2  # codes of a category: not in the vocabulary; missing; then the vocabulary in order
TIME_PARTS = ("days", "year", "month sin", "month cos", "day", "weekday sin", "weekday cos", "time sin", "time cos")
CYCLES = ("sin", "cos")
FEW_CATEGORIES = 20  # up to here a category with one training row keeps an input of its own
TASKS = ("regression", "binary", "multiclass", "multilabel")
LARGEST_CATEGORY = 1_000_000
LATER = {"later": True}  # fields that came after format 1: columns of an older artifact lack them


class LoudNote(str):
    """A note that nobody may miss: the predictions it speaks of rest on nothing that training has seen."""


class RawRows(NamedTuple):
    """Rows as the encoder takes them: numbers float64 (n, k) with NaN for missing, codes int64 (n, c); `notes` tell what is unusual about them."""

    numbers: Tensor
    codes: Tensor
    notes: tuple[str, ...]


@dataclass(frozen=True)
class InputColumn:
    """One column that the model sees.

    A number, boolean or time has one raw number for each of its `parts` (one, called "value", unless it is a time); `fill`, `center` and `scale` have one
    entry a part. A category has a `vocabulary`. `flag`: training rows had missing values, so an input marks them. `other`: training rows had categories
    outside the vocabulary, so an input stands for them. `low` and `high` are the training range (times: in seconds).
    """

    name: str
    kind: str
    form: str
    flag: bool
    num_missing: int
    parts: tuple[str, ...] = ()
    fill: tuple[float, ...] = ()
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None
    vocabulary: tuple[str, ...] = ()
    other: bool = False
    examples: tuple[str, ...] = ()

    @property
    def is_category(self) -> bool:
        return self.kind == "category"

    def __post_init__(self) -> None:
        if self.kind not in ("number", "boolean", "category", *TIMES):
            raise ValueError(f"{self.name!r}: {self.kind!r} is no kind of input")
        if self.is_category:
            if self.parts or self.fill or self.center or self.scale:
                raise ValueError(f"{self.name!r}: a category has a vocabulary, not numbers")
            if len(set(self.vocabulary)) < len(self.vocabulary) or len(self.vocabulary) > LARGEST_CATEGORY:
                raise ValueError(f"{self.name!r}: the vocabulary repeats a category or has more than {LARGEST_CATEGORY:,}")
            return
        allowed = TIME_PARTS if self.kind in TIMES else ("value",)
        if self.vocabulary or self.other or not self.parts or any(part not in allowed for part in self.parts) or len(set(self.parts)) < len(self.parts):
            raise ValueError(f"{self.name!r}: its parts {self.parts} are not those of a {self.kind}")
        if not len(self.parts) == len(self.fill) == len(self.center) == len(self.scale):
            raise ValueError(f"{self.name!r}: fill, center and scale need one number for each of {len(self.parts)} parts")
        if any(scale <= 0 for scale in self.scale):
            raise ValueError(f"{self.name!r}: a scale is not above 0")


@dataclass(frozen=True)
class LeftOutColumn:
    """A column that the model does not see, and why. It may be absent when predicting."""

    name: str
    kind: str
    why: str
    num_missing: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetColumn:
    """What is predicted. Numbers have `center` and `scale` of the training rows (0 and 1 where they are not scaled); classes have labels as they are given back
    (`classes`) and as text (`texts`), in the order of their codes. `low` and `high` are the range of the training rows' numbers."""

    name: str
    kind: str
    form: str
    center: float = 0.0
    scale: float = 1.0
    classes: tuple[str | bool | int, ...] = ()
    texts: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    low: float | None = field(default=None, metadata=LATER)
    high: float | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.kind not in ("number", "boolean", "category"):
            raise ValueError(f"the target {self.name!r}: {self.kind!r} is no kind of target")
        if self.scale <= 0:
            raise ValueError(f"the target {self.name!r}: its scale is not above 0")
        if len(self.classes) != len(self.texts) or len(set(self.texts)) < len(self.texts) or (self.kind == "category") != bool(self.texts):
            raise ValueError(f"the target {self.name!r}: its classes contradict each other")


@dataclass(frozen=True)
class Columns:
    """Everything that turns rows into a model's inputs and outputs into values; fitted by `Columns.fit`, frozen, JSON and back to the bit.

    >>> from fivestep.data.kinds import read_columns
    >>> typed = read_columns({"age": [20.0, 40.0, None], "city": ["Bonn", "Oslo", "Bonn"], "price": [1.0, 2.0, 4.0]}, target="price")
    >>> columns = Columns.fit(typed, [0, 1, 2], categories="onehot", scale_target=True)
    >>> columns.input_names
    ['age', 'age missing', 'city=Bonn', 'city=Oslo']
    >>> columns.encode(typed).shape
    torch.Size([3, 4])
    """

    inputs: tuple[InputColumn, ...]
    targets_: tuple[TargetColumn, ...]
    left_out: tuple[LeftOutColumn, ...]
    task: str | None
    categories: str
    scale_target: bool
    weight: str | None
    num_training_rows: int
    without_target: str = "refuse"
    options: ReadOptions = field(default_factory=ReadOptions)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.categories not in ("onehot", "codes"):
            raise UsageError(f'categories={self.categories!r}: categories are encoded as "onehot" or as "codes" (for embeddings)')
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"task {self.task!r} is none of {', '.join(TASKS)}")
        names = [column.name for column in (*self.inputs, *self.targets_, *self.left_out)]
        if len(set(names)) < len(names):
            raise ValueError("a column stands twice")
        if not self.inputs:
            raise ValueError("there are no inputs")
        single_class = self.task in ("binary", "multiclass")
        if single_class != (len(self.targets_) == 1 and self.targets_[0].kind == "category") or (self.task is None) != (not self.targets_):
            raise ValueError(f"the targets do not fit the task {self.task!r}")
        if single_class and (len(self.targets_[0].texts) < 2 or (len(self.targets_[0].texts) == 2) != (self.task == "binary")):
            raise ValueError(f"{len(self.targets_[0].texts)} classes do not fit the task {self.task!r}")

    # ------------------------------------------------------------------------------------------------------------------ fitting

    @classmethod
    def fit(cls, typed: TypedTable, rows: Any, *, categories: str = "onehot", scale_target: bool = True, limits: Limits | None = None) -> Columns:
        """Fill values, scales and vocabularies from these rows of the table and no others.

        Numbers: mean and deviation (population) in float64; missing ones are filled by the mean and, where training rows had some, marked by an input.
        Categories: the vocabulary is sorted; beyond 20 categories those with one training row share one input with what is unseen later. Dates become parts
        (`TIME_PARTS`).
        """
        rows = np.asarray(rows, dtype=np.int64)
        if not len(rows):
            raise UsageError("there are no training rows; columns are fitted on at least one")
        notes: list[str] = []
        inputs = []

        def examples(name: str) -> tuple[str, ...]:
            return examples_of(typed.table.column(name), typed.options, rows)

        for name in typed.inputs:
            column, more = _fit_input(typed.column(name), rows, examples(name))
            inputs.append(column)
            notes += more
        targets = tuple(_fit_target(typed.column(name), rows, scale_target and typed.task == "regression", notes, examples(name)) for name in typed.targets)
        left_out = tuple(
            LeftOutColumn(column.name, column.kind, column.why or column.use, int(missing_mask(column.values[rows]).sum()), examples(column.name))
            for column in typed.columns
            if column.use not in ("input", "target")
        )
        columns = cls(
            tuple(inputs), targets, left_out, typed.task, categories, scale_target, typed.weight, len(rows), typed.without_target, typed.options, tuple(notes)
        )
        most = (limits or typed.limits).num_columns
        if columns.num_inputs > most:
            widest = max(inputs, key=lambda column: len(column.vocabulary))
            raise DataError(
                f"one-hot encoding makes {columns.num_inputs:,} inputs, more than {most:,}; most come from {widest.name!r} "
                f"({len(widest.vocabulary):,} categories): "
                f'drop=[{widest.name!r}], categories="codes" for embeddings, or limits=Limits(num_columns={columns.num_inputs})'
            )
        return columns

    # ------------------------------------------------------------------------------------------------------------------- shapes

    @property
    def _number_inputs(self) -> list[InputColumn]:
        return [column for column in self.inputs if not column.is_category]

    @property
    def _category_inputs(self) -> list[InputColumn]:
        return [column for column in self.inputs if column.is_category]

    @property
    def num_inputs(self) -> int:
        """Width of the encoded float32 rows (with `categories="codes"`: of their numbers part)."""
        return len(self.input_names)

    @property
    def num_categories(self) -> list[int]:
        """How many codes each category column has (unknown and missing included), for embeddings; empty where categories are one-hot."""
        return [len(column.vocabulary) + FIRST_CODE for column in self._category_inputs] if self.categories == "codes" else []

    @property
    def input_names(self) -> list[str]:
        """Names of the encoded inputs in order: numbers, marks of missing numbers, then categories."""
        numbers = [column.name if part == "value" else f"{column.name} {part}" for column in self._number_inputs for part in column.parts]
        flags = [f"{column.name} missing" for column in self._number_inputs if column.flag]
        return numbers + flags + ([name for column in self._category_inputs for name in _onehot_names(column)] if self.categories == "onehot" else [])

    @property
    def number_positions(self) -> list[int]:
        """Which of the encoded inputs are numbers: no booleans, marks or categories, nor the sines and cosines of a time, which lie between -1 and 1."""
        parts = [(column, part) for column in self._number_inputs for part in column.parts]
        return [position for position, (column, part) in enumerate(parts) if column.kind != "boolean" and not part.endswith(CYCLES)]

    @property
    def category_names(self) -> list[str]:
        """Names of the category columns, in the order of the codes."""
        return [column.name for column in self._category_inputs]

    @property
    def target_names(self) -> list[str]:
        return [target.name for target in self.targets_]

    @property
    def num_targets(self) -> int:
        return len(self.targets_)

    @property
    def classes(self) -> tuple[str | bool | int, ...] | None:
        """The labels in the order of their codes; None where numbers are predicted."""
        return self.targets_[0].classes if self.task in ("binary", "multiclass") else None

    @property
    def target_center(self) -> Tensor | None:
        """Training mean of each target, float64 (t,); None where targets are not scaled."""
        return torch.tensor([target.center for target in self.targets_], dtype=torch.float64) if self._scales else None

    @property
    def target_scale(self) -> Tensor | None:
        """Training deviation of each target, float64 (t,); None where targets are not scaled."""
        return torch.tensor([target.scale for target in self.targets_], dtype=torch.float64) if self._scales else None

    @property
    def _scales(self) -> bool:
        return self.scale_target and self.task == "regression"

    # ------------------------------------------------------------------------------------------------------------------ encoding

    def raw(self, source: Any, rows: Any = None) -> tuple[Tensor, Tensor]:
        """Rows of a typed or plain table as `(numbers float64 (n, k), codes int64 (n, c))`, by the kinds that were fitted. Raises `DataError` with all
        problems."""
        raw = self._raw(source if isinstance(source, (TypedTable, Table)) else self.read(source), notes=None)
        if rows is None:
            return raw.numbers, raw.codes
        at = torch.as_tensor(np.asarray(rows, dtype=np.int64))
        return raw.numbers[at], raw.codes[at]

    def encoder(self) -> Encoder:
        """The torch module from raw tensors to float32 inputs."""
        return Encoder(self)

    def encode(self, source: Any, rows: Any = None) -> Any:
        """Encoded rows: float32 (n, num_inputs), or `(numbers, codes)` with `categories="codes"`."""
        with torch.no_grad():
            return self.encoder()(*self.raw(source, rows))

    def targets(self, source: Any, rows: Any = None) -> Tensor:
        """Targets of these rows: float64 (n, t) in their own unit, or int64 class codes (n,). A label that training did not have is a `DataError`."""
        if not self.targets_:
            raise UsageError("these columns have no target")
        table = source.table if isinstance(source, TypedTable) else source
        at = np.arange(len(source)) if rows is None else np.asarray(rows, dtype=np.int64)
        problems: list[str] = []
        found: list[np.ndarray] = []
        for target in self.targets_:
            if target.name not in table.names:
                problems.append(f"the target {target.name!r} is missing{near(target.name, table.names)}")
                continue
            values = self._target_values(source, table, target, problems)
            wrong = np.isnan(values[at]) if values.dtype.kind == "f" else values[at] < 0
            if wrong.any() and not problems:
                row = int(at[np.flatnonzero(wrong)[0]])
                value = table.column(target.name)[row]
                known = f"; the classes are {listed([shown(label, 30) for label in target.classes])}" if target.texts else ""
                text = f"the target {target.name!r}, {table.place(row)}: {'missing' if value is None or str(value).strip() == '' else shown(value)}{known}"
                problems.append(f"{text} ({int(wrong.sum()):,} rows cannot be scored; leave them out)")
            found.append(values[at])
        if problems:
            raise data_error(table.origin, problems)
        return torch.from_numpy(found[0]) if self.task in ("binary", "multiclass") else torch.from_numpy(np.stack(found, axis=1))

    def decode_values(self, values: Tensor) -> Any:
        """Predictions in the target's own terms: scaled numbers (n, t) or (n,) become float64 in the target's unit, class codes (n,) a list of labels."""
        if self.task in ("binary", "multiclass"):
            labels = self.targets_[0].classes
            return [labels[code] for code in values.reshape(-1).tolist()]
        if self.target_center is None or self.target_scale is None:
            return values.double() if values.is_floating_point() else values
        if values.ndim == 1 and self.num_targets == 1:
            return values.double() * self.target_scale[0] + self.target_center[0]
        return values.double() * self.target_scale + self.target_center

    # ---------------------------------------------------------------------------------------------------------------- prediction

    def read_for_prediction(self, source: Any, **changed: Any) -> RawRows:
        """Rows to predict, read as the training data was (`changed` overrides `delimiter`, `encoding`, ...): columns by name, in any order, the target
        optional.

        A missing column is a `DataError` with near names; extra columns, unseen categories, values beyond the training range and filled gaps are told in
        `notes`.
        """
        table = source if isinstance(source, (Table, TypedTable)) else self.read(source, **changed)
        notes: list[str] = []
        raw = self._raw(table, notes)
        return raw._replace(notes=tuple(notes))

    def far_from_training(self, source: Table | TypedTable, rows: np.ndarray | None = None) -> tuple[str, ...]:
        """One note where some of the rows (all, where `rows` is None) lie far outside of what training has seen; none where they do not."""
        table = source.table if isinstance(source, TypedTable) else source
        far = np.zeros(table.num_rows, bool)
        for column in self.inputs:
            if not column.is_category:
                far |= _far_outside(column, self._input_values(source, table, column, []))
        places = np.arange(table.num_rows) if rows is None else rows
        chosen = far[places]
        return (_far_note(chosen, table, int(places[np.flatnonzero(chosen)[0]])),) if chosen.any() else ()

    def beyond_targets(self, predicted: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """One note for each target of which predictions lie below the lowest or above the highest training value; none where all lie between."""
        notes = []
        for target in self.targets_:
            values = predicted.get(target.name)
            if self.task != "regression" or values is None or target.low is None or target.high is None:
                continue
            slack = 1e-6 * (target.high - target.low)  # float32 outputs of the extremes themselves
            below, above = values < target.low - slack, values > target.high + slack
            if below.any() or above.any():
                farthest = values[np.argmax(np.maximum(target.low - values, values - target.high))]
                counted = f"{int((below | above).sum()):,} of {len(values):,} predictions lie outside of the training targets"
                told = f"{counted}, {target.low:.6g} to {target.high:.6g} (farthest: {farthest:.6g}); no training row supports them"
                notes.append(LoudNote(f"target {target.name!r}: {told}"))
        return tuple(notes)

    def read_with_targets(self, source: Any, **changed: Any) -> Table:
        """Rows to score: a table for `encode` and `targets`, without the rows whose target is missing where training left them out
        (`without_target="drop"`)."""
        table = source.table if isinstance(source, TypedTable) else source if isinstance(source, Table) else self.read(source, **changed)
        absent = [name for name in self.target_names if name not in table.names]
        if absent:
            raise data_error(table.origin, [f"the target {name!r} is missing, so nothing can be scored{near(name, table.names)}" for name in absent])
        if self.without_target == "refuse":
            return table
        missing = np.zeros(table.num_rows, bool)
        for target in self.targets_:
            values = (
                as_text(table.column(target.name), self.options)
                if target.kind == "category"
                else read_as(table.column(target.name), target.kind, "", self.options)[0]
            )
            missing |= missing_mask(values)
        return table.take(np.flatnonzero(~missing)) if missing.any() else table

    def iter_prediction_chunks(self, path: Any, rows: int = 65_536, **changed: Any) -> Iterator[RawRows]:
        """The same for a file too large to hold: chunks of at most `rows` rows, in order, in bounded memory; notes of a chunk speak of its rows."""
        first = True
        for table in iter_tables(path, self._reading(changed), rows=rows):
            notes: list[str] = []
            raw = self._raw(table, notes, tell_extra=first)
            first = False
            yield raw._replace(notes=tuple(notes))

    def _reading(self, changed: Mapping[str, Any]) -> ReadOptions:
        unknown = [name for name in changed if name not in {item.name for item in fields(ReadOptions)}]
        if unknown:
            raise UsageError(f"{unknown[0]!r} is no option of reading{near(unknown[0], [item.name for item in fields(ReadOptions)])}")
        return replace(self.options, **changed)

    def read(self, source: Any, **changed: Any) -> Table:
        table, problems = try_read(source, self._reading(changed), Limits())
        if problems or table is None:
            raise data_error(origin_of(source), problems)
        return table

    def _raw(self, source: Table | TypedTable, notes: list[str] | None, *, tell_extra: bool = True) -> RawRows:
        """Raw tensors of all rows; raises all problems at once; where `notes` is a list, appends what is unusual."""
        table = source.table if isinstance(source, TypedTable) else source
        absent = [column.name for column in self.inputs if column.name not in table.names]
        if absent:
            raise data_error(table.origin, [f"the column {name!r} is missing, which the model reads{near(name, table.names)}" for name in absent])
        known = {column.name for column in (*self.inputs, *self.targets_, *self.left_out)}
        extra = [name for name in table.names if name not in known]
        if extra and notes is not None and tell_extra:
            notes.append(f"ignored, not known from training: {listed([repr(name) for name in extra])}")
        problems: list[str] = []
        numbers: list[np.ndarray] = []
        codes: list[np.ndarray] = []
        far = np.zeros(table.num_rows, bool)
        for column in self.inputs:
            values = self._input_values(source, table, column, problems)
            if values is None:
                continue
            if column.is_category:
                found = category_codes(values, column.vocabulary)
                codes.append(found)
                if notes is not None:
                    notes += _category_notes(column, values, found, table)
            else:
                numbers += [values] if column.parts == ("value",) else list(time_parts(values, column.parts))
                if notes is not None:
                    notes += _number_notes(column, values, table)
                    far |= _far_outside(column, values)
        if problems:
            raise data_error(table.origin, problems)
        if notes is not None and far.any():
            notes.append(_far_note(far, table, int(np.flatnonzero(far)[0])))
        num_rows = table.num_rows
        number_tensor = torch.from_numpy(np.stack(numbers, axis=1)) if numbers else torch.empty(num_rows, 0, dtype=torch.float64)
        code_tensor = torch.from_numpy(np.stack(codes, axis=1)) if codes else torch.empty(num_rows, 0, dtype=torch.int64)
        return RawRows(number_tensor, code_tensor, ())

    def _input_values(self, source: Table | TypedTable, table: Table, column: InputColumn, problems: list[str]) -> Any:
        """float64 values or text of one column, by the fitted kind; None after a problem."""
        if isinstance(source, TypedTable):
            typed = source.column(column.name)
            if typed.kind == column.kind and typed.form == column.form:
                return typed.values
        series = table.column(column.name)
        if column.is_category:
            return as_text(series, self.options)
        values, stray = read_as(series, column.kind, column.form, self.options)
        if column.kind == "number":
            stray |= np.abs(values) > float(np.finfo(np.float32).max)
        if stray.any():
            problems.append(
                f"{stray_text(table, column.name, column.kind, np.flatnonzero(stray), column.form)}; the model reads it as "
                f"{column.kind}: correct the value, or leave it empty"
            )
            return None
        return values

    def _target_values(self, source: Table | TypedTable, table: Table, target: TargetColumn, problems: list[str]) -> np.ndarray:
        """float64 numbers (NaN: missing), or int64 codes (-1: missing or not a class)."""
        series = table.column(target.name)
        typed = source.column(target.name) if isinstance(source, TypedTable) else None
        values: Any
        if typed is not None and typed.kind == target.kind and typed.form == target.form:
            values = typed.values
        elif target.kind != "category":
            values, stray = read_as(series, target.kind, target.form, self.options)
            if stray.any():
                problems.append(stray_problem(table, target.name, target.kind, np.flatnonzero(stray), target.form))
        elif target.form == "integer":
            values = number_text(read_as(series, "number", "", self.options)[0])
        elif target.form == "boolean":
            numbers = read_as(series, "boolean", "", self.options)[0]
            values = as_text(_text_series([None if value != value else "true" if value else "false" for value in numbers.tolist()]), self.options)
        else:
            values = as_text(series, self.options)
        if target.kind != "category":
            return values
        return np.where((found := category_codes(values, target.texts)) >= FIRST_CODE, found - FIRST_CODE, -1)

    # ---------------------------------------------------------------------------------------------------------------- description

    def describe(self) -> ColumnLines:
        """One line a column: its kind, how it is encoded or why it is left out, missing values, examples."""
        lines = [ColumnLine(column.name, column.kind, _how_used(column, self.categories), column.num_missing, column.examples) for column in self.inputs]
        for target in self.targets_:
            if target.texts:
                how = f"target: {len(target.texts)} classes ({listed([str(label) for label in target.classes])})"
            else:
                how = f"target, standardised (mean {target.center:.6g}, deviation {target.scale:.6g})" if self._scales else "target"
            lines.append(ColumnLine(target.name, target.kind, how, 0, target.examples))
        left_out = [
            ColumnLine(column.name, column.kind, "weight" if column.why == "weight" else f"left out: {column.why}", column.num_missing, column.examples)
            for column in self.left_out
        ]
        return ColumnLines([*lines, *left_out])

    def __repr__(self) -> str:
        what = f"{self.num_inputs} inputs from {len(self.inputs)} columns" + (f", {len(self.num_categories)} columns of codes" if self.num_categories else "")
        return f"Columns({what}; {self.task or 'no target'}{': ' + ', '.join(self.target_names) if self.targets_ else ''}; {len(self.left_out)} left out)"

    # ------------------------------------------------------------------------------------------------------------------------ JSON

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, texts and numbers; floats survive the trip through JSON text to the bit."""
        return {"format": FORMAT, **_plain(self)}

    @classmethod
    def from_json(cls, content: Any) -> Columns:
        """The columns that `to_json` wrote. Types, keys and finiteness are checked; anything else is an `ArtifactError`."""
        if not isinstance(content, dict):
            raise ArtifactError(f"columns: an object was expected, found {type(content).__name__}")
        content = dict(content)
        number = content.pop("format", None)
        if type(number) is not int or number < 1:
            raise ArtifactError(f"columns: format {shown(number)} is no format number")
        if number > FORMAT:
            raise ArtifactError(f"columns: format {number} was made by a newer version of fivestep than this one, which reads up to {FORMAT}")
        return _build(cls, content, "columns")


def _onehot_names(column: InputColumn) -> list[str]:
    names = [f"{column.name}={value}" for value in column.vocabulary]
    return names + [f"{column.name} missing"] * column.flag + [f"{column.name} other"] * column.other


def _how_used(column: InputColumn, categories: str) -> str:
    if column.is_category:
        how = f"{len(column.vocabulary)} categories, {'one-hot' if categories == 'onehot' else 'codes'}" + (", rare ones together" if column.other else "")
    elif column.kind == "number":
        how = f"standardised (mean {column.center[0]:.6g}, deviation {column.scale[0]:.6g})"
    elif column.kind == "boolean":
        how = "0 or 1"
    else:
        how = ", ".join(column.parts)
    return how + (", missing marked" if column.flag else "")


# ------------------------------------------------------------------------------------------------------------------------- encoding


class Encoder(nn.Module):
    """From raw rows to what a model reads: missing numbers filled, all standardised in float64, then float32; categories one-hot, or passed on as codes.

    Called with numbers float64 (n, k) and codes int64 (n, c); gives float32 (n, num_inputs), or `(float32 (n, num_inputs), codes)`. Has no parameters. A row is
    encoded to the same bits alone and among others, as everything here is elementwise.
    """

    fill: Tensor
    center: Tensor
    scale: Tensor
    flags: Tensor
    offsets: Tensor
    slots: Tensor

    def __init__(self, columns: Columns):
        super().__init__()
        numbers = columns._number_inputs
        self.codes_pass = columns.categories == "codes"
        for name in ("fill", "center", "scale"):
            values = [value for column in numbers for value in getattr(column, name)]
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64))
        firsts = np.cumsum([0, *(len(column.parts) for column in numbers)])
        flags = [int(first) for first, column in zip(firsts, numbers) if column.flag]
        self.register_buffer("flags", torch.tensor(flags, dtype=torch.int64))
        # slots[offsets[c] + code] is the input that is 1 for this code of category c; the last one, `width`, is cut off: nothing was learned about it.
        slots: list[int] = []
        offsets: list[int] = []
        width = 0
        places: list[list[int]] = []
        for column in columns._category_inputs if not self.codes_pass else ():
            size = len(column.vocabulary)
            missing = width + size if column.flag else -1
            other = width + size + column.flag if column.other else -1
            places.append([other, missing, *range(width, width + size)])
            width += size + column.flag + column.other
        for column_slots in places:
            offsets.append(len(slots))
            slots += [width if slot < 0 else slot for slot in column_slots]
        self.width = width
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.int64))
        self.register_buffer("slots", torch.tensor(slots, dtype=torch.int64))

    def forward(self, numbers: Tensor, codes: Tensor) -> Any:
        missing = torch.isnan(numbers)
        values = ((torch.where(missing, self.fill, numbers) - self.center) / self.scale).to(torch.float32)
        parts = [values]
        if len(self.flags):
            parts.append(missing[:, self.flags].to(torch.float32))
        if self.codes_pass:
            return torch.cat(parts, dim=1), codes
        if self.width:
            hot = torch.zeros(codes.shape[0], self.width + 1, dtype=torch.float32, device=codes.device)
            parts.append(hot.scatter(1, self.slots[codes + self.offsets], 1.0)[:, : self.width])
        return torch.cat(parts, dim=1)


def category_codes(values: polars.Series, vocabulary: Sequence[str]) -> np.ndarray:
    """Text to codes: 0 not in the vocabulary, 1 missing, 2 the vocabulary's first. int64 (n,)"""
    import polars

    missing = values.is_null().to_numpy()
    texts = polars.DataFrame({"text": values.cast(polars.String)})
    known = polars.DataFrame({"text": polars.Series(list(vocabulary), dtype=polars.String), "code": np.arange(FIRST_CODE, FIRST_CODE + len(vocabulary))})
    codes = texts.join(known, on="text", how="left", maintain_order="left")["code"].fill_null(UNKNOWN).to_numpy().astype(np.int64)
    codes[missing] = MISSING_CODE
    return codes


def time_parts(seconds: np.ndarray, parts: Sequence[str]) -> list[np.ndarray]:
    """Seconds since 1970 (times of day: since midnight) as the parts asked for; NaN stays NaN in each."""
    missing = np.isnan(seconds)
    filled = np.where(missing, 0.0, seconds)
    days = np.floor(filled / 86400.0)
    date = days.astype(np.int64).astype("datetime64[D]")
    found = []
    for part in parts:
        name, _, cycle = part.partition(" ")
        if name == "days":
            values = filled / 86400.0
        elif name == "year":
            values = date.astype("datetime64[Y]").astype(np.int64) + 1970.0
        elif name == "month":
            values = (date.astype("datetime64[M]").astype(np.int64) % 12) / 12.0
        elif name == "day":
            values = (date - date.astype("datetime64[M]")).astype(np.int64) + 1.0
        elif name == "weekday":
            values = ((days + 3) % 7) / 7.0  # 1970-01-01 was a Thursday; Monday is 0
        else:
            values = (filled - days * 86400.0) / 86400.0
        if cycle:
            values = (np.sin if cycle == "sin" else np.cos)(2 * math.pi * values)
        found.append(np.where(missing, np.nan, values))
    return found


# -------------------------------------------------------------------------------------------------------------------------- fitting


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and deviation (population) of what is not NaN; 1 for a deviation that is 0 or rounding noise."""
    some = values[~np.isnan(values)]
    if not len(some):
        return 0.0, 1.0
    mean = float(some.mean())
    deviation = float(np.sqrt(np.square(some - mean).mean()))
    return mean, deviation if deviation > 1e-13 * abs(mean) and deviation > 0 else 1.0


def _fit_input(column: TypedColumn, rows: np.ndarray, examples: tuple[str, ...]) -> tuple[InputColumn, list[str]]:
    where = f"column {column.name!r}"
    values = column.values[rows]
    notes: list[str] = []
    if column.kind == "category":
        counted = values.drop_nulls().value_counts()
        counts = dict(zip(counted[column.name].to_list(), counted["count"].to_list()))
        vocabulary = sorted(counts)
        rare = [text for text in vocabulary if counts[text] == 1] if len(vocabulary) > FEW_CATEGORIES else []
        if rare:
            vocabulary = [text for text in vocabulary if counts[text] > 1]
            notes.append(
                f"{where}: {len(rare):,} of {len(counts):,} categories stand in one training row only and are taken together "
                f"({listed([shown(text, 30) for text in rare])})"
            )
        missing = int(values.null_count())
        fitted = InputColumn(column.name, "category", column.form, missing > 0, missing, vocabulary=tuple(vocabulary), other=bool(rare), examples=examples)
        if missing:
            notes.append(f"{where}: {missing:,} of {len(rows):,} training values are missing; they are a category of their own")
        return fitted, notes
    missing = int(np.isnan(values).sum())
    low, high = (None, None) if missing == len(values) else (float(np.nanmin(values)), float(np.nanmax(values)))
    parts = ("value",)
    if column.kind in TIMES:
        candidates = TIME_PARTS[-2:] if column.kind == "time" else TIME_PARTS if column.kind == "datetime" else TIME_PARTS[:-2]
        varied = [
            part for part, numbers in zip(candidates, time_parts(values, candidates)) if missing < len(values) and np.nanmin(numbers) < np.nanmax(numbers)
        ]
        parts = tuple(varied) or candidates[:1]
    columns = [values] if parts == ("value",) else time_parts(values, parts)
    fill, center, scale = [], [], []
    for part, numbers in zip(parts, columns):
        mean, deviation = _moments(numbers)
        as_it_is = part.endswith(CYCLES) or column.kind == "boolean"  # already between -1 and 1
        fill.append(0.0 if part.endswith(CYCLES) else mean)
        center.append(0.0 if as_it_is else mean)
        scale.append(1.0 if as_it_is else deviation)
    if missing:
        with_what = f"the training mean {fill[0]:.6g}" if column.kind in ("number", "boolean") else "the training mean of each part"
        notes.append(f"{where}: {missing:,} of {len(rows):,} training values are missing; filled with {with_what} and marked by an input of its own")
    kind, form = column.kind, column.form
    fitted = InputColumn(column.name, kind, form, missing > 0, missing, parts, tuple(fill), tuple(center), tuple(scale), low, high, examples=examples)
    return fitted, notes


def _fit_target(column: TypedColumn, rows: np.ndarray, scaled: bool, notes: list[str], examples: tuple[str, ...]) -> TargetColumn:
    if column.kind == "category":
        texts = class_texts(column)  # of all rows: a class that training lacks still has its name; its absence is told
        here = set(column.values[rows].drop_nulls().unique().to_list())
        absent = [text for text in texts if text not in here]
        if absent:
            notes.append(f"the target {column.name!r}: no training row has the class {listed([shown(text, 30) for text in absent])}, so it cannot be learned")
        return TargetColumn(column.name, "category", column.form, classes=class_labels(texts, column.form), texts=tuple(texts), examples=examples)
    center, scale = _moments(column.values[rows]) if scaled else (0.0, 1.0)
    known = column.values[rows][~np.isnan(column.values[rows])]
    low, high = (float(known.min()), float(known.max())) if len(known) else (None, None)
    return TargetColumn(column.name, column.kind, column.form, center, scale, examples=examples, low=low, high=high)


# ---------------------------------------------------------------------------------------------------------------------------- notes


def _category_notes(column: InputColumn, values: polars.Series, codes: np.ndarray, table: Table) -> list[str]:
    """What is unusual about a category of rows to predict: unseen values, gaps that training did not have."""
    notes = []
    unknown = np.flatnonzero(codes == UNKNOWN)
    if len(unknown):
        found = values[unknown].value_counts(sort=True)
        texts = found[values.name][:3].to_list()
        told = ", ".join(shown(text, 30) for text in texts) + (", …" if found.height > 3 else "")
        folded = {known.strip().casefold(): known for known in column.vocabulary}
        alike = [folded[text.strip().casefold()] for text in texts if text.strip().casefold() in folded]
        hint = f"; training has {shown(alike[0], 30)}, which differs in case or blanks only" if alike else ""
        notes.append(
            LoudNote(
                f"column {column.name!r}: {len(unknown):,} of {len(codes):,} values are categories that training "
                f"{'has no input for' if column.other else 'did not have'} "
                f"({told}; first {table.place(int(unknown[0]))}), taken as unknown{hint}"
            )
        )
    missing = np.flatnonzero(codes == MISSING_CODE)
    if len(missing) and not column.flag:
        notes.append(f"column {column.name!r}: {len(missing):,} of {len(codes):,} values are missing, which training did not have; taken as unknown")
    return notes


def _number_notes(column: InputColumn, values: np.ndarray, table: Table) -> list[str]:
    """What is unusual about a number of rows to predict: beyond the training range, gaps that training did not have."""
    notes = []
    missing = int(np.isnan(values).sum())
    if missing:
        marked = "" if column.flag else ", which training did not have"
        notes.append(f"column {column.name!r}: {missing:,} of {len(values):,} values are missing{marked}; filled with the training mean")
    if column.low is None or column.high is None or column.kind == "boolean":
        return notes
    outside = np.flatnonzero((values < column.low) | (values > column.high))
    if len(outside):
        far = outside[np.argmax(np.maximum(column.low - values[outside], values[outside] - column.high))]
        low, high, worst = (
            _time_text(value, column.kind) if column.kind in TIMES else f"{value:.6g}" for value in (column.low, column.high, float(values[far]))
        )
        notes.append(
            f"column {column.name!r}: {len(outside):,} of {len(values):,} values are outside the training range {low} to {high} "
            f"(farthest: {worst}, {table.place(int(far))}); the model has seen nothing there"
        )
    return notes


def _far_outside(column: InputColumn, values: np.ndarray) -> np.ndarray:
    """Which values are farther from the training range than the range is wide; none of a boolean, or where training had one value only."""
    if column.low is None or column.high is None or column.kind == "boolean" or column.high == column.low:
        return np.zeros(len(values), bool)
    width = column.high - column.low
    return (values < column.low - width) | (values > column.high + width)


def _far_note(far: np.ndarray, table: Table, first: int) -> LoudNote:
    return LoudNote(
        f"{int(far.sum()):,} of {len(far):,} rows lie far outside of what training has seen: a value farther from its column's training range than "
        f"that range is wide (first {table.place(first)}); their predictions are guesses"
    )


def _time_text(seconds: float, kind: str) -> str:
    if kind == "time":
        minutes = int(seconds // 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}"
    text = str(np.datetime64(math.floor(seconds), "s"))
    return text[:10] if kind == "date" else text


def _text_series(values: list[str | None]) -> polars.Series:
    import polars

    return polars.Series("text", values, dtype=polars.String)


# ---------------------------------------------------------------------------------------------------------------------- JSON, strictly


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type: exact types (a bool is no int, an int no float), no unknown and no missing keys, finite numbers."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ArtifactError(f"{where}: an object was expected, found {shown(value)}")
        hints = typing.get_type_hints(kind)
        names = [item.name for item in fields(kind)]
        for name in value:
            if name not in names:
                raise ArtifactError(f"{where}: unknown key {shown(str(name))}")
        absent = [item.name for item in fields(kind) if item.name not in value and not item.metadata.get("later")]
        if absent:
            raise ArtifactError(f"{where}: the key {absent[0]!r} is missing")
        built = {name: _build(hints[name], value[name], f"{where}.{name}") for name in names if name in value}
        try:
            return typing.cast(Any, kind)(**built)
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"{where}: {error}") from error
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            if option is type(None):
                if value is None:
                    return None
                continue
            simple = typing.get_origin(option) or option
            if type(value) is simple or (simple is tuple and type(value) is list):
                return _build(option, value, where)
        raise ArtifactError(f"{where}: {shown(value)} is none of {', '.join(getattr(option, '__name__', str(option)) for option in arguments)}")
    if origin is tuple:
        if type(value) is not list:
            raise ArtifactError(f"{where}: a list was expected, found {shown(value)}")
        return tuple(_build(arguments[0], item, f"{where}[{position}]") for position, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if type(value) is not dict:
            raise ArtifactError(f"{where}: an object was expected, found {shown(value)}")
        return {_build(arguments[0], key, where): _build(arguments[1], item, f"{where}[{shown(key)}]") for key, item in value.items()}
    if type(value) is not kind:
        raise ArtifactError(f"{where}: {kind.__name__} was expected, found {shown(value)}")
    if kind is float and not math.isfinite(value):
        raise ArtifactError(f"{where}: {value} is not finite")
    return value
