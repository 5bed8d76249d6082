"""A picture of splits as a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fivestep.figures import BLUE, GREEN, ORANGE, figure, literal, name_ticks, tell_left_out

NAMES = {"train": "training", "val": "validation", "test": "test"}
COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}
LINES = {"train": "-", "val": "--", "test": ":"}
MOST_CLASSES = 30
MOST_TARGETS = 3  # beside the rows, each on axes of its own


def plot_splits(splits: Any) -> Any:
    """How many rows each split has, and how each of the first targets is spread in training and validation rows: shares of classes or of labels, or a histogram
    of numbers.

    Of the test split only its size is shown: its targets are looked at when they are scored, and that is counted.
    """
    parts = [part for part in (splits.train, splits.val, splits.test) if part is not None]
    known = {}  # of each split: its targets, arrays whose first axis is the row
    for part in (part for part in parts if part.name != "test"):
        targets = splits.encoded(part).take(torch.arange(len(part)) if splits.columns is not None else part.indices)[1]
        arrays = [np.asarray(target) for target in targets if isinstance(target, (torch.Tensor, np.ndarray))]  # a Dataset's may be anything
        if arrays:
            known[part.name] = arrays
    if known and splits.task == "multilabel":
        made, (left, right) = figure(2)
        tell_left_out(made, plot_labels(right, {name: targets[0] for name, targets in known.items()}, splits.train.data.target_names), "label")
    elif known and splits.classes is not None and splits.task in ("binary", "multiclass") and len(splits.classes) <= MOST_CLASSES:
        made, (left, right) = figure(2)
        plot_classes(right, {name: targets[0].reshape(-1).astype(int) for name, targets in known.items()}, splits.classes)
        right.set(xlabel=literal(names_of_targets(splits, 1)[0], 40))
    else:
        columns = {name: [column for target in targets for column in columns_of(target)] for name, targets in known.items()}
        count = len(columns["train"]) if columns else 0
        width = min(MOST_TARGETS, count)
        made, (left, *others) = figure(1 + max(1, width))
        for target in range(width):
            plot_numbers(others[target], {name: values[target] for name, values in columns.items()})
            others[target].set(xlabel=literal(names_of_targets(splits, count)[target], 40))
        if not width:
            others[0].set_axis_off()
        tell_left_out(made, count - width)
    total = sum(map(len, parts))
    bars = left.bar([NAMES[part.name] for part in parts], [len(part) for part in parts], color=[COLOURS[part.name] for part in parts])
    left.bar_label(bars, [f"{len(part):,} ({len(part) / total:.0%})" for part in parts])
    left.set(ylabel="rows")
    left.margins(y=0.12)
    return made


def names_of_targets(splits: Any, count: int) -> list[str]:
    """The targets' names with their units, or numbers where the data has no names for so many."""
    data = splits.train.data
    if len(data.target_names) == count:
        return [data.with_unit(name) for name in data.target_names]
    return ["target"] if count == 1 else [f"target {target}" for target in range(count)]


def columns_of(target: np.ndarray) -> list[np.ndarray]:
    """The targets that stand side by side in one array (rows, targets). Where a row has a whole image or sequence of vectors, that is one target."""
    return list(target.T) if target.ndim == 2 else [target.reshape(-1)]


def plot_classes(axes: Any, known: dict[str, np.ndarray], classes: Sequence[Any]) -> None:
    shares = {}
    for name, labels in known.items():
        labels = labels[labels != -100]  # torch's ignore_index is no class
        places = labels > 0 if tuple(classes) == (-1, 1) else labels
        shares[name] = np.bincount(places, minlength=len(classes))[: len(classes)] / max(1, len(labels))
    plot_shares(axes, shares, classes)


def plot_labels(axes: Any, known: dict[str, np.ndarray], names: Sequence[str]) -> int:
    """How many rows have each label, of 0/1 (rows, labels); gives back how many labels were left out: the rarest in training."""
    count = known["train"].shape[1]
    kept = np.sort(np.argsort(-known["train"].mean(0), kind="stable")[:MOST_CLASSES])
    plot_shares(axes, {name: values.mean(0)[kept] for name, values in known.items()}, [names[label] if len(names) == count else label for label in kept])
    axes.set(xlabel="label")
    return count - len(kept)


def plot_shares(axes: Any, known: dict[str, np.ndarray], names: Sequence[Any]) -> None:
    width = 0.8 / len(known)
    for position, (part_name, shares) in enumerate(known.items()):
        axes.bar(np.arange(len(names)) + (position - (len(known) - 1) / 2) * width, shares, width, color=COLOURS[part_name], label=NAMES[part_name])
    name_ticks(axes, names, 14, 40)
    axes.set(ylabel="share of the split's rows")
    axes.legend()


def plot_numbers(axes: Any, known: dict[str, np.ndarray]) -> None:
    everything = np.concatenate([values.astype(float) for values in known.values()])
    edges = np.histogram_bin_edges(everything[np.isfinite(everything)], bins=40)
    for part_name, values in known.items():
        axes.hist(
            values.astype(float),
            bins=edges,
            histtype="step",
            density=True,
            linewidth=1.6,
            color=COLOURS[part_name],
            linestyle=LINES[part_name],
            label=NAMES[part_name],
        )
    axes.set(ylabel="density")
    axes.legend()
