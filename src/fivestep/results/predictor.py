"""From rows to named predictions: encode, run the model in blocks of one size, decode. The one owner of prediction, for a run and for a loaded artifact.

Blocks are copied into memory of their own and the last one is padded: the same row in a batch of 1 and of 256 differs in bits, at another place of an equal
block it does not (DESIGN, "Blocks"), or, on some processors, only at every fourth place: then rows stand there (`places.py`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.data.batches import count_examples, map_tensors, mover, tensors_of
from fivestep.errors import DataError, UsageError
from fivestep.model.decoding import Decoding, outputs_from
from fivestep.model.models import Ensemble
from fivestep.results.places import ProductsByPlace
from fivestep.train import loop


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained module with all that turns rows into its inputs and its outputs into values."""

    module: nn.Module
    decoding: Decoding
    columns: Any = None  # fitted columns of a table
    block: int = 256
    pick: Callable[[Any], Any] | None = None  # what the loss saw of the outputs (`output=`)
    head: nn.Module | None = None  # a loss that holds the last layer and predicts with it (AdaptiveLogSoftmaxWithLoss)
    autocast: contextlib.AbstractContextManager[Any] = loop.OFF
    dtype: torch.dtype = torch.float32
    _strides: dict[tuple[Any, ...], int] = field(default_factory=dict, init=False, repr=False)

    @property
    def device(self) -> torch.device:
        return next((tensor.device for tensor in (*self.module.parameters(), *self.module.buffers())), torch.device("cpu"))

    # -- outputs ------------------------------------------------------------------------------------------------------------------------------------------

    def outputs(self, source: Any, rows: Tensor | None = None) -> Any:
        """The model's raw outputs for all rows of a Source (or those at `rows`), on the CPU, in order."""
        return self._outputs_of(self.module, source, torch.arange(len(source)) if rows is None else rows, self.pick)

    def _outputs_of(self, module: nn.Module, source: Any, rows: Tensor, pick: Callable[[Any], Any] | None) -> Any:
        stride = self._stride(module, source, rows, pick)
        return loop.predict(module, self._blocks(source, rows, stride), autocast=self.autocast, pick=pick)

    def _blocks(self, source: Any, rows: Tensor, stride: int) -> Iterator[tuple[Any, slice]]:
        """Blocks of `block` rows, of which every `stride`-th one is asked for: the others repeat it, as the padding of the last block repeats its first row."""
        move = mover(self.device)
        step = self.block // stride
        for begin in range(0, len(rows), step):
            chosen = rows[begin : begin + step]
            inputs, count = self._inputs(source, chosen), len(chosen)
            places = slice(0, count)
            if count < self.block and self._can_be_repeated(source, inputs, count):
                which = torch.zeros(self.block, dtype=torch.long)  # the row at each place
                which[: count * stride] = torch.arange(count).repeat_interleave(stride)
                inputs = map_tensors(lambda tensor, which=which: tensor[which], inputs)
                places = slice(0, count * stride, stride)
            yield move(inputs), places

    def _inputs(self, source: Any, rows: Tensor) -> Any:
        return map_tensors(lambda tensor: tensor.to(self.dtype) if tensor.is_floating_point() else tensor, source.take(rows)[0])

    def _can_be_repeated(self, source: Any, inputs: Any, count: int) -> bool:
        """Whether the first axis of all inputs is the row. A collate function of the user's may have made anything of the rows."""
        return getattr(source, "collate", None) is None and all(tensor.dim() and len(tensor) == count for tensor in tensors_of(inputs))

    def _stride(self, module: nn.Module, source: Any, rows: Tensor, pick: Callable[[Any], Any] | None) -> int:
        """1 where a row gets the same bits at every place of a block, else 2, 4, ... where it does at every 2nd, 4th, ... place.

        Found in one block, then known for inputs of these shapes in this number of threads. A lone row needs none, as it stands at the first place.
        """
        if len(rows) < 2:
            return 1
        before = seeds.capture()  # a Dataset of the user's may draw at random
        try:
            shapes = tuple(tuple(tensor.shape) for tensor in tensors_of(self._inputs(source, rows[:1])))
            key = (type(module), torch.get_num_threads(), shapes)
            if key not in self._strides:
                first, products = list(self._blocks(source, rows[:1], 1)), ProductsByPlace(self.block)
                with products:
                    loop.predict(module, first, autocast=self.autocast, pick=pick)
                self._strides[key] = products.stride
        finally:
            seeds.restore(before)
        return self._strides[key]

    # -- predictions --------------------------------------------------------------------------------------------------------------------------------------

    def after_head(self, outputs: Any) -> Any:
        """The outputs as `decoding` reads them: through the last layer where the loss holds it."""
        if self.head is None:
            return outputs
        with torch.no_grad():
            return outputs_from(self.head)(outputs)  # type: ignore[misc]

    def decode(self, outputs: Any, *, probabilities: bool = False) -> Any:
        """Values in the target's unit, labels of classes, or probabilities."""
        outputs = self.after_head(outputs)
        if self.decoding.task in ("binary", "multiclass", "multilabel"):
            return self.decoding.probabilities(outputs) if probabilities else self.decoding.labels(outputs)
        if probabilities:
            raise UsageError("probabilities=True needs a model of classes; this one predicts numbers.")
        return self.decoding.values(outputs)

    def outputs_in_unit(self, outputs: Any) -> Any:
        """What a function `f(outputs, targets)` of the user's gets: raw outputs, but in the target's unit where targets were scaled for the loss."""
        return outputs if self.decoding.target_scale is None else self.decoding.values(self.after_head(outputs))

    # -- spread of members ---------------------------------------------------------------------------------------------------------------------------------

    def spread(self, source: Any) -> Tensor:
        """How far the members of an ensemble disagree, float64: their standard deviation, of values (n, targets) in the target's unit, or of each class's
        probability (n, classes). Raises UsageError for a model that has no members, or one only."""
        module = self.module
        if not isinstance(module, Ensemble):
            raise UsageError(
                f'spread=True tells how far the members of an ensemble disagree, and {type(module).__name__} is one model. Train model="ensemble".'
            )
        if module.members < 2:
            raise UsageError(
                "spread=True tells how far the members of an ensemble disagree, and this one has a single member. Train it with members of 2 or more."
            )
        outputs_nmo = self._outputs_of(MembersBeside(module), source, torch.arange(len(source)), None)
        classed = self.decoding.task in ("binary", "multiclass", "multilabel")
        read = self.decoding.probabilities if classed else self.decoding.values
        members = torch.stack([read(outputs_no).double().reshape(len(outputs_no), -1) for outputs_no in outputs_nmo.unbind(1)])
        return members.std(0)

    def predict(self, rows: Any, *, probabilities: bool = False, spread: bool = False) -> Any:
        """Predictions for new rows, in their order, on the CPU, in the kind of container that was given (a path gives a polars frame)."""
        if self.columns is not None:
            return self.predict_table(rows, probabilities=probabilities, spread=spread)[0]
        source, container = as_source(rows)
        if not len(source):
            return torch.empty(0) if container == "torch" else np.empty(0)
        predicted = as_array(self.decode(self.outputs(source), probabilities=probabilities), container)
        return (predicted, as_array(self.spread(source), container)) if spread else predicted

    def predict_table(self, rows: Any, *, probabilities: bool = False, spread: bool = False) -> tuple[Any, list[str]]:
        """The same for a table, with the notes: extra columns, unseen categories, values outside the training range, predictions beyond its targets."""
        if isinstance(rows, Tensor) or (isinstance(rows, np.ndarray) and rows.dtype.names is None):
            raise DataError(
                "This model was trained on a table with named columns; rows without names could stand in another order. Give a frame, a dict of columns or a file."
            )
        numbers, codes, notes = self.columns.read_for_prediction(rows)
        frame = self.frame(numbers, codes, probabilities=probabilities, spread=spread)
        return as_container(frame, rows), [*notes, *self.columns.beyond_targets(frame)]

    def frame(self, numbers: Tensor, codes: Tensor, *, probabilities: bool = False, spread: bool = False) -> dict[str, np.ndarray]:
        """Predictions for raw numbers and codes of a table, as named columns; with `spread` also that of an ensemble's members: `spread` of the predicted
        class's probability (with `probabilities` one for each class), or `NAME_spread` of each target."""
        names = self.columns.target_names or ("prediction",)
        if not len(numbers):
            return {name: np.empty(0) for name in names}
        return self.named(ArrayRows(self.columns.encoder()(numbers, codes)), names, probabilities=probabilities, spread=spread)

    def named(self, source: Any, names: tuple[str, ...], *, probabilities: bool = False, spread: bool = False) -> dict[str, np.ndarray]:
        """Predictions for all rows of a Source as columns; `names` are those of the targets. See `frame` for the columns beside them."""
        outputs = self.outputs(source)
        predicted = self.decode(outputs)
        if self.decoding.task in ("binary", "multiclass"):
            columns = {names[0]: np.asarray(predicted)}
            if probabilities:
                table = np.asarray(self.decode(outputs, probabilities=True))
                columns |= {f"probability_{label}": table[:, position] for position, label in enumerate(self.decoding.classes or range(table.shape[1]))}
            if spread:
                spreads = self.spread(source).numpy()
                labels = list(self.decoding.classes or range(spreads.shape[1]))
                if probabilities:
                    columns |= {f"spread_{label}": spreads[:, position] for position, label in enumerate(labels)}
                else:
                    places = np.asarray(self.decode(outputs, probabilities=True)).argmax(1)
                    columns["spread"] = spreads[np.arange(len(spreads)), places]
            return columns
        values = np.asarray(predicted, dtype=np.float64).reshape(len(source), -1)
        if probabilities:
            raise UsageError("probabilities=True needs a model of classes; this one predicts numbers.")
        names = names if len(names) == values.shape[1] else tuple(f"{names[0]}_{k}" for k in range(values.shape[1]))
        columns = {name: values[:, position] for position, name in enumerate(names)}
        if spread:
            spreads = self.spread(source).numpy()
            columns |= {f"{name}_spread": spreads[:, position] for position, name in enumerate(names)}
        return columns

    def full_model(self) -> nn.Module:
        """Columns, model and decoding as one module: raw tensors in, target units (or probabilities) out."""
        return FullModel(
            self.columns.encoder() if self.columns is not None else None,
            copy.deepcopy(self.module).cpu().eval(),
            self.decoding,
            self.pick,
            copy.deepcopy(self.head),
        )


class MembersBeside(nn.Module):
    """An ensemble whose forward gives each member's outputs, row by row: `(batch, members, num_outputs)`."""

    def __init__(self, ensemble: Ensemble):
        super().__init__()
        self.ensemble = ensemble

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.ensemble.member_outputs(*inputs).transpose(0, 1)


class FullModel(nn.Module):
    """`forward(numbers, codes)` of a table, or the model's own inputs; gives values in the target's unit, or probabilities of classes."""

    def __init__(self, encoder: nn.Module | None, model: nn.Module, decoding: Decoding, pick: Callable[[Any], Any] | None, head: nn.Module | None = None):
        super().__init__()
        self.encoder, self.model, self.decoding, self.pick = encoder, model, decoding, pick
        self.head = None if head is None else head.cpu().eval()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        encoded = inputs if self.encoder is None else self.encoder(*inputs)
        outputs = self.model(*encoded, **named) if isinstance(encoded, tuple) else self.model(encoded)
        outputs = outputs if self.pick is None else self.pick(outputs)
        outputs = outputs if self.head is None else outputs_from(self.head)(outputs)  # type: ignore[misc]
        return self.decoding.probabilities(outputs) if self.decoding.task in ("binary", "multiclass", "multilabel") else self.decoding.values(outputs)


class ArrayRows:
    """A Source of inputs alone."""

    def __init__(self, inputs: Any):
        self.inputs = inputs

    def __len__(self) -> int:
        return count_examples(self.inputs)

    def take(self, indices: Tensor) -> tuple[Any, tuple[Any, ...], None]:
        return map_tensors(lambda tensor: tensor.index_select(0, indices), self.inputs), (), None


def as_source(rows: Any) -> tuple[Any, str]:
    """A Source and the container its predictions are given back in ("torch" or "numpy"), from tensors, arrays, a Data, a Dataset or a Source."""
    if hasattr(rows, "take") and hasattr(rows, "targets") and not isinstance(rows, (np.ndarray, Tensor)):
        return rows, "torch"
    if isinstance(rows, Tensor):
        return ArrayRows(rows), "torch"
    if isinstance(rows, (tuple, dict)):
        values = rows.values() if isinstance(rows, dict) else rows
        container = "numpy" if any(isinstance(value, np.ndarray) for value in values) else "torch"
        return ArrayRows(
            {k: torch.as_tensor(v) for k, v in rows.items()} if isinstance(rows, dict) else tuple(torch.as_tensor(value) for value in rows)
        ), container
    if isinstance(rows, (str, Path)):
        raise UsageError(
            f"This model was trained on arrays or a Dataset, so {str(rows)!r} cannot be read for it. Give the arrays; files of images are read by a model of images (Data.images)."
        )
    if hasattr(rows, "__getitem__") and hasattr(rows, "__len__") and not isinstance(rows, (np.ndarray, list)):
        from fivestep.data.sources import DatasetSource

        return DatasetSource(rows), "torch"
    return ArrayRows(torch.as_tensor(np.asarray(rows))), "numpy"


def as_array(predicted: Any, container: str = "torch") -> Any:
    """Predictions as a numpy array or a tensor; labels that are no numbers as a numpy array or, as no tensor holds them, a list."""
    if container == "numpy":
        return predicted.numpy() if isinstance(predicted, Tensor) else np.asarray(predicted)
    if isinstance(predicted, list) and predicted and np.asarray(predicted).dtype.kind in "iufb":
        return torch.tensor(predicted)
    return predicted


def as_container(frame: dict[str, np.ndarray], like: Any) -> Any:
    """Named columns in the kind of container that came in: pandas for pandas, a dict for a dict, polars for polars, Arrow or a path."""
    if isinstance(like, dict):
        return frame
    if type(like).__module__.split(".")[0] == "pandas":
        import pandas

        return pandas.DataFrame(frame, index=like.index)
    import polars

    return polars.DataFrame({name: values.tolist() if values.dtype == object else values for name, values in frame.items()})
