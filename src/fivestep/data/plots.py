"""A picture of splits as a matplotlib figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fivestep.figures import BLUE, GREEN, ORANGE, figure


def plot_splits(splits: Any) -> Any:
    """How many rows each split has, and how the target is spread in each."""
    made, (left, right) = figure(2)
    parts = [part for part in (splits.train, splits.val, splits.test) if part is not None]
    colours = dict(zip(("train", "val", "test"), (BLUE, ORANGE, GREEN)))
    left.bar([part.name for part in parts], [len(part) for part in parts], color=[colours[part.name] for part in parts])
    left.set(ylabel="rows")
    for part in parts:
        targets = splits.encoded(part).take(torch.arange(len(part)) if splits.columns is not None else part.indices)[1]
        if targets:
            right.hist(np.asarray(targets[0], dtype=float).reshape(-1), bins=30, histtype="step", density=True, color=colours[part.name], label=part.name)
    right.set(xlabel="target", ylabel="density")
    right.legend()
    return made
