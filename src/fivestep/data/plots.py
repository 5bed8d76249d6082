"""A picture of splits as a matplotlib figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fivestep.figures import BLUE, GREEN, ORANGE, figure, shortened

NAMES = {"train": "training", "val": "validation", "test": "test"}
MOST_CLASSES = 30


def plot_splits(splits: Any) -> Any:
    """How many rows each split has, and how the target is spread in training and validation rows: shares of classes, or a histogram of numbers.

    Of the test split only its size is shown: its targets are looked at when they are scored, and that is counted.
    """
    made, (left, right) = figure(2)
    parts = [part for part in (splits.train, splits.val, splits.test) if part is not None]
    colours = dict(zip(("train", "val", "test"), (BLUE, ORANGE, GREEN)))
    lines = dict(zip(("train", "val", "test"), ("-", "--", ":")))
    total = sum(map(len, parts))
    bars = left.bar([NAMES[part.name] for part in parts], [len(part) for part in parts], color=[colours[part.name] for part in parts])
    left.bar_label(bars, [f"{len(part):,} ({len(part) / total:.0%})" for part in parts])
    left.set(ylabel="rows")
    left.margins(y=0.12)
    known = {}
    for part in (part for part in parts if part.name != "test"):
        targets = splits.encoded(part).take(torch.arange(len(part)) if splits.columns is not None else part.indices)[1]
        if targets:
            known[part.name] = np.asarray(targets[0])
    names = splits.train.data.target_names
    name = shortened(splits.train.data.with_unit(names[0]), 40) if names else "target"
    classes = splits.classes if splits.task in ("binary", "multiclass") else None
    if classes is not None and len(classes) <= MOST_CLASSES and known:
        width = 0.8 / len(known)
        for position, (part_name, values) in enumerate(known.items()):
            shares = np.bincount(values.reshape(-1).astype(int), minlength=len(classes))[: len(classes)] / values.size
            right.bar(np.arange(len(classes)) + (position - (len(known) - 1) / 2) * width, shares, width, color=colours[part_name], label=NAMES[part_name])
        short = [shortened(name, 14) for name in classes]
        turned = len(classes) * max(map(len, short)) > 40
        right.set_xticks(
            range(len(classes)), short, rotation=60 if turned else 0, ha="right" if turned else "center", rotation_mode="anchor" if turned else None
        )
        right.set(xlabel=name, ylabel="share of the split's rows")
    elif known:
        everything = np.concatenate([values.reshape(-1).astype(float) for values in known.values()])
        edges = np.histogram_bin_edges(everything[np.isfinite(everything)], bins=40)
        for part_name, values in known.items():
            right.hist(
                values.reshape(-1).astype(float),
                bins=edges,
                histtype="step",
                density=True,
                linewidth=1.6,
                color=colours[part_name],
                linestyle=lines[part_name],
                label=NAMES[part_name],
            )
        right.set(xlabel=name if splits.task else "target", ylabel="density")
    if known:
        right.legend()
    else:
        right.set_axis_off()
    return made
