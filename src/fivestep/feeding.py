"""What the model, the loss and a metric are fed: rows in the model's dtype, targets as the loss wants them, batches on the device.

Enters: the splits and what was decided about model and loss. Leaves: sources and batches for the loop. Every number that is computed here comes from training
rows; what a column means was fitted before (`data/columns.py`), what a loss wants of its targets says `model/loss_targets.py`: here the two meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.data import sources
from fivestep.data.batches import Batch, Counted, InMemoryBatches, LoaderBatches, count_examples, map_tensors, mover, tensors_of
from fivestep.data.data import Part, Splits
from fivestep.errors import FindingsError, SettingsError
from fivestep.model import loss_means, loss_targets, losses
from fivestep.model import metrics as scoring
from fivestep.results.predictor import Predictor
from fivestep.session import Session
from fivestep.train import loop

BLOCK = 256  # rows of a prediction block; recorded in the artifact, as a row's bits depend on it


def as_model_sees(splits: Splits, part: Part, dtype: torch.dtype) -> Any:
    """The rows of one split as a Source: in memory with the model's dtype, or a view of a Dataset."""
    source = splits.encoded(part)
    if not hasattr(source, "inputs"):
        return DatasetRows(source, part.indices, dtype)
    inputs, targets, weights = (source.inputs, source.targets, source.weights) if splits.columns is not None else source.take(part.indices)
    return sources.ArraySource(map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, inputs), targets, weights)


class DatasetRows:
    """The rows of one split of a Dataset: a Source that is read when it is needed."""

    def __init__(self, source: Any, indices: Tensor, dtype: torch.dtype):
        self.source, self.indices, self.dtype = source, indices, dtype
        self.collate = None if source.collate is sources.collate_examples else source.collate  # under a user's collate blocks are not padded

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Tensor) -> tuple[Any, tuple[Any, ...], Tensor | None]:
        return to_dtype(self.source.take(self.indices[indices]), self.dtype)

    def counted(self, indices: Tensor) -> tuple[tuple[Any, tuple[Any, ...], Tensor | None], int]:
        """The rows, and how many examples they are: their number, or what the user's `count=` makes of the collated batch."""
        if self.source.count is None:
            return self.take(indices), len(indices)
        collated = self.source.collate(sources.LoaderDataset(self.source.dataset, 0).__getitems__([(0, row) for row in self.indices[indices].tolist()]))
        return self.source.unpack(collated), self.source.count(collated)


def make_batches(splits: Splits, source: Any, ask: dict[str, Any], device: torch.device, dtype: torch.dtype, batch_size: int, seed: int) -> Any:
    options: dict[str, Any] = dict(batch_size=batch_size, shuffle=ask["shuffle"], seed=seed, chosen=ask["batches"], augment=ask["augment"])
    if hasattr(source, "inputs"):
        move = mover(device)
        return InMemoryBatches(move(source.inputs), move(source.targets), move(source.weights), **options)
    inner = source.source
    return LoaderBatches(
        sources.LoaderDataset(inner.dataset, seed),
        source.indices,
        collate=inner.collate,
        unpack=partial(unpack_as, inner, dtype),
        count=inner.count,
        device=device,
        workers=inner.workers,
        **options,
    )


def unpack_as(source: Any, dtype: torch.dtype, collated: Any) -> tuple[Any, tuple[Any, ...], Tensor | None]:
    return to_dtype(source.unpack(collated), dtype)


def to_dtype(examples: tuple[Any, tuple[Any, ...], Tensor | None], dtype: torch.dtype) -> tuple[Any, tuple[Any, ...], Tensor | None]:
    """`(inputs, targets, weights)` with floating-point inputs and targets in the model's dtype."""
    inputs, targets, weights = examples
    as_dtype = lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor  # noqa: E731
    return map_tensors(as_dtype, inputs), map_tensors(as_dtype, targets), weights


def first_outputs(module: nn.Module, source: Any, device: torch.device, pick: Any, seed: int) -> Any:
    """The model's outputs for the first training rows: their shape decides loss and targets. Also what gives a lazy module its shapes, under the run's seed."""
    batch = Batch(*source.take(torch.arange(min(len(source), 8))))
    inputs = mover(device)(batch.inputs)
    with seeds.restored(seeds.derive(seed, "probe")), loop.evaluating(module):
        try:
            outputs = loop.forward(module, inputs)
        except FindingsError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{tuple(tensor.shape)} {str(tensor.dtype)[6:]}" for tensor in tensors_of(batch.inputs))
            raise SettingsError(f"The model cannot take these inputs ({shapes}): {type(error).__name__}: {error}") from error
    outputs = outputs if pick is None else pick(outputs)
    return map_tensors(lambda tensor: tensor.clone(), outputs)


def target_scale(splits: Splits, ask: dict[str, Any], kind: Any) -> tuple[Any, Any]:
    """Mean and deviation of a table's regression targets on the training rows, where the loss allows scaling; else (None, None)."""
    columns = splits.columns
    if columns is None or splits.task != "regression" or not columns.target_names:
        return None, None
    wish = splits.train.data.options["scale_target"]
    if wish is False or columns.target_center is None or (wish == "auto" and (kind is None or not kind.scales_target)):
        return None, None
    return columns.target_center.tolist(), columns.target_scale.tolist()


def scaled_targets(source: Any, raw_loss: Any, outputs: Any, center: Any, scale: Any, dtype: torch.dtype, part: Part) -> Any:
    """Targets of a table as the loss wants them: standardised where that was decided, the loss's dtype, the model's trailing 1."""
    prepared = []
    for target in source.targets:
        if center is not None:
            target = (target - torch.as_tensor(center, dtype=torch.float64)) / torch.as_tensor(scale, dtype=torch.float64)
        if target.is_floating_point():
            target = target.to(dtype)
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else tuple(outputs[0].shape) if isinstance(outputs, (tuple, list)) and outputs else None
        prepared.append(loss_targets.prepare_target(raw_loss, target, shape or tuple(target.shape)))
    return sources.ArraySource(source.inputs, tuple(prepared), source.weights)


def targets_as_loss_wants(source: Any, dtype: torch.dtype) -> Any:
    """Targets of arrays keep their shape; floating-point ones take the model's dtype."""
    if not hasattr(source, "inputs"):
        return source
    return sources.ArraySource(
        source.inputs, tuple(t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t for t in source.targets), source.weights
    )


def weights_by_name(weights: Mapping[Any, Any], classes: Sequence[Any] | None) -> list[float]:
    """`{class: weight}` in the order of the classes. Raises SettingsError where the names are not those of the classes, each once.

    >>> weights_by_name({"rare": 5, "usual": 1}, ("usual", "rare"))
    [1.0, 5.0]
    """
    known = list(map(str, classes or ()))
    named = {str(name): weight for name, weight in weights.items()}  # a record holds names as texts
    if set(named) != set(known):
        raise SettingsError(
            f"class_weights names {', '.join(sorted(named)) or 'no class'}, and the classes are {', '.join(known) or 'none'}. Give one weight for each."
        )
    return [float(named[name]) for name in known]


def balanced_weights(wish: str, spec: Any, splits: Splits, source: Any, outputs: Any) -> Tensor:
    """class_weights="balanced", on training rows: n / (classes * count) for each class, or negatives / positives for each 0/1 output (`pos_weight`)."""
    if wish != "balanced":
        raise SettingsError(f'class_weights={wish!r} is not known. Give one number a class, or "balanced".')
    loss = losses.make_loss(spec)
    kind = losses.LOSSES.get(losses.loss_name(loss) or "")
    labels = true_targets(splits, splits.train, source)
    if kind is None or kind.class_weights is None or labels is None:
        raise SettingsError('class_weights="balanced" needs one target of classes and a loss that takes class weights.')
    if kind.class_weights == "pos_weight":
        labels = labels.reshape(len(labels), -1).double()
        return (1 - labels).sum(0) / labels.sum(0).clamp_min(1)
    if labels.is_floating_point() and not bool((labels == labels.floor()).all()):
        raise SettingsError('class_weights="balanced" counts classes, and these targets are no class numbers.')
    labels = labels.long().flatten()
    ignored = getattr(loss, "ignore_index", None)
    labels = labels[(labels != (-100 if ignored is None else ignored)) & (labels >= 0)]
    num_classes = len(splits.classes) if splits.classes is not None else 0
    if isinstance(outputs, Tensor) and outputs.dim() > 1:
        num_classes = max(num_classes, outputs.shape[1])
    counts = torch.bincount(labels, minlength=num_classes).double()
    present = int((counts > 0).sum())
    return torch.where(counts > 0, counts.sum() / (present * counts.clamp_min(1)), 1.0)


def true_targets(splits: Splits, part: Part, source: Any) -> Tensor | None:
    """Targets in their own unit (regression) or as class codes, for scores."""
    if splits.columns is not None:
        return splits.columns.targets(part.data.typed, part.indices.numpy()) if splits.columns.target_names else None
    if hasattr(source, "targets"):
        return source.targets[0].detach().cpu() if len(source.targets) == 1 and isinstance(source.targets[0], Tensor) else None
    collected = [source.take(torch.arange(begin, min(begin + 256, len(source))))[1] for begin in range(0, len(source), 256)]
    if not collected or len(collected[0]) != 1 or not isinstance(collected[0][0], Tensor) or len({tuple(c[0].shape[1:]) for c in collected}) > 1:
        return None
    return torch.cat([targets[0] for targets in collected])


def block_size(source: Any) -> int:
    """Rows of a prediction block: 256, fewer where one row is large (at most 2^22 numbers in a block)."""
    inputs = source.take(torch.arange(1))[0]
    numbers = sum(tensor.numel() for tensor in tensors_of(inputs)) or 1
    return max(1, min(BLOCK, 2**22 // numbers))


def evaluation_rows(source: Any) -> list[Tensor]:
    return list(torch.arange(len(source)).split(4 * block_size(source) if hasattr(source, "inputs") else 64))


def evaluation_batches(source: Any, rows: list[Tensor], device: torch.device, dtype: torch.dtype) -> Any:
    """The rows of a validation split, in order, on the device. Nothing is shuffled, so every epoch sees the same batches."""
    move = mover(device)
    if hasattr(source, "inputs"):
        for chosen in rows:
            begin, end = int(chosen[0]), int(chosen[-1]) + 1
            yield Batch(*move(map_tensors(lambda tensor, begin=begin, end=end: tensor[begin:end], (source.inputs, source.targets, source.weights))))
        return
    for chosen in rows:
        collated, examples = source.counted(chosen)
        yield Counted.of(move(to_dtype(collated, dtype)), examples)


def picker(output: Any) -> Callable[[Any], Any] | None:
    """What of the model's output the loss sees: a key, an index or a function."""
    if output is None:
        return None
    if callable(output):
        return output

    def pick(outputs: Any) -> Any:
        try:
            return outputs[output]
        except (KeyError, IndexError, TypeError) as error:
            names = list(outputs) if isinstance(outputs, dict) else f"{len(outputs)} outputs" if isinstance(outputs, (tuple, list)) else type(outputs).__name__
            raise SettingsError(f"output={output!r} is not in what the model returns: {names}.") from error

    return pick


def objective_of(raw_loss: Any, pick: Callable[[Any], Any] | None, weighted: bool) -> Callable[..., Any]:
    """`loss(outputs, targets)` as the loop calls it; with sample weights `loss(outputs, targets, weights)`."""
    if raw_loss is None:
        return lambda outputs, targets: outputs
    fed = loss_means.feed(raw_loss, weighted=weighted)
    if pick is None:
        return fed
    return lambda outputs, *rest: fed(pick(outputs), *rest)


def weigher(raw_loss: Any) -> Callable[[Batch], Any]:
    """What the loss's mean over a batch is a mean of; without a torch loss (compute=) its examples."""

    def examples(batch: Batch) -> int:
        return batch.examples if isinstance(batch, Counted) else count_examples(batch.inputs)

    if raw_loss is None:
        return examples
    return lambda batch: loss_means.batch_weight(raw_loss, batch.targets, weights=batch.weights, num_examples=examples(batch))


def metric_inputs(predictor: Predictor, outputs: Any, task: str | None, name: str, given: Any) -> Any:
    """What a metric gets: a user's function the raw outputs (in the target's unit where it was scaled), a named one probabilities or values in the target's unit."""
    if name in scoring.user_functions(given):
        return predictor.outputs_in_unit(outputs)
    outputs = predictor.after_head(outputs)
    return predictor.decoding.probabilities(outputs) if task in ("binary", "multiclass", "multilabel") else predictor.decoding.values(outputs)


def what_the_loss_refuses(session: Session) -> str | None:
    """Why torch's loss ended a run (labels out of range, shapes that do not fit), looked up in all targets of all splits; None where that is not the reason.

    With checks on, this was said before the first step; this is for `checks=False`, where torch's own words ("Target 3 is out of bounds") name no row and no way on.
    """
    if session.loss is None:
        return None
    for name, source in session.encoded.items():
        if not hasattr(source, "targets"):
            continue
        outputs = first_outputs(session.built.module, source, session.device, picker(session.arguments["output"]), session.arguments["seed"])
        count = len(source.targets[0]) if source.targets and isinstance(source.targets[0], Tensor) else 0
        every = map_tensors(lambda tensor, count=count: tensor[:1].cpu().expand(count, *tensor.shape[1:]) if tensor.dim() else tensor, outputs)
        problem = loss_targets.shape_problem(session.loss, every, source.targets)
        if problem is not None:
            return f"In the {name} rows: {problem}"
    return None
