"""What `"auto"` means, in one function: which network, and how it is trained, by kind and size of the data. A written rule; nothing is tried out.

Enters: facts of the splits (task, rows, width, shape of images). Leaves: a frozen `Choice` of ordinary settings, each of which can be said by name instead.
The deciding choice: the rule was fixed on the validation rows of nine public tables and never by a test row (docs/quality.md has the measurement of each line).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Choice:
    """What `model="auto"` stands for: a built-in network with arguments, and settings of `fit` that hold where the user says "auto" or nothing.

    `sentence` tells it to people. `settings` are values of `fit`'s own arguments: optimizer, lr, scheduler, batch_size, epochs, patience, augment.
    """

    model: str
    args: dict[str, Any]
    sentence: str
    settings: dict[str, Any] = field(default_factory=dict)


MANY_NUMBERS = 50  # columns of numbers from which dropout is stronger: there is more to remember training rows by
MOST_COSINES = 256  # columns of numbers that get cosines, which cost as much as the layers from about 100 on
MOST_ONEHOT = 256  # categories in all columns: beyond, a matrix of zeros costs more memory and time than vectors looked up by code
PLATEAU = 6  # epochs without gain until the rate is cut; training ends after twice as many
MANY_ROWS = 10_000  # training rows from which a number of epochs known beforehand is worth more than waiting for plateaus
ROWS_SEEN, MOST_EPOCHS, FEWEST_EPOCHS = 1_200_000, 60, 8  # there: a training row costs about 30 us of one core each time it is seen
MOST_NUMBERS = 4096  # columns of numbers whose medians and quartiles stand in the recipe, which may have 1 MB


def choose(
    task: str | None, num_inputs: int | None, image_shape: Sequence[int] | None, rows: int | None, *, num_numbers: int | None = None, own_loss: bool = False,
    mirrored: bool = False,
) -> Choice:  # fmt: skip
    """The network and the training that "auto" means. `num_numbers`: how many inputs are numbers and not marks or categories (None: all).

    `own_loss` says that the user's own code sees the training outputs (`compute=`, `step=`): then the plain network is taken, whose outputs are rows.
    `mirrored`: images look like their class mirrored too.

    >>> choose("multiclass", 784, (1, 28, 28), 60_000).model
    'cnn'
    >>> choose("regression", 8, None, 500).settings["batch_size"]
    32
    """
    if image_shape is not None and len(image_shape) == 3:
        return for_images(image_shape, rows, task in ("binary", "multiclass", "multilabel"), mirrored)
    return for_tables(task, num_inputs, rows, num_inputs if num_numbers is None else num_numbers, own_loss)


def for_tables(task: str | None, num_inputs: int | None, rows: int | None, num_numbers: int | None, own_loss: bool) -> Choice:
    """Eight small networks as one; the plain one where the user's own code takes the outputs, or where there are too many numbers for a recipe."""
    size = "" if rows is None else f" of {rows:,} rows"
    size += "" if num_inputs is None else f" and {num_inputs:,} inputs" if rows is not None else f" of {num_inputs:,} inputs"
    rows = 1_000 if rows is None else rows
    batch_size = batch_size_for(rows)
    if own_loss or num_inputs is None or (num_numbers or 0) > MOST_NUMBERS:
        sentence = f'model="auto": a table{size}, so "mlp" with two layers of 128 ReLU units.'
        return Choice("mlp", {}, sentence, {"batch_size": batch_size})
    args: dict[str, Any] = {
        "members": 8,
        "widths": [128, 128],
        "dropout": 0.1 if (num_numbers or 0) < MANY_NUMBERS else 0.25,
        "cosine_outputs": 3 if (num_numbers or 0) <= MOST_COSINES else 0,
        "straight": 1,
    }
    settings: dict[str, Any] = {"optimizer": {"name": "AdamW", "weight_decay": 1e-2}, "batch_size": batch_size}
    if rows < MANY_ROWS:
        settings |= {
            "lr": 1e-3 if rows < 1_000 else 2e-3,
            "scheduler": {"name": "ReduceLROnPlateau", "factor": 0.3, "patience": PLATEAU - 1, "threshold": 0.0},
            "epochs": 100,
            "patience": 2 * PLATEAU,
        }
        course = f"AdamW at {settings['lr']:g}, cut to 0.3 of it after {PLATEAU} epochs without gain, at most 100 epochs"
    else:
        epochs = max(FEWEST_EPOCHS, min(MOST_EPOCHS, ROWS_SEEN // rows))
        settings |= {"lr": 1e-2, "scheduler": {"name": "OneCycleLR", "pct_start": 0.1}, "epochs": epochs, "patience": None}  # the rate is low at the end alone
        course = f"AdamW in one cycle up to {settings['lr']:g} over {epochs} epochs"
    sentence = (
        f'model="auto": a table{size}, so "ensemble": {args["members"]} networks of {" and ".join(map(str, args["widths"]))} units in one, their predictions '
        f"averaged; batches of {batch_size}, {course}."
    )
    return Choice("ensemble", args, sentence, settings)


def batch_size_for(rows: int) -> int:
    """32 to 256 by rows: a table of thousands of rows trains in seconds and no worse."""
    return 32 if rows < 2_000 else 64 if rows < 10_000 else 128 if rows < 50_000 else 512


def for_images(image_shape: Sequence[int], rows: int | None, classed: bool, mirrored: bool) -> Choice:
    """Stages of one, two, then three 3x3 convolutions with batch norm and corrections, each twice as wide and halved at its end; one cycle of AdamW."""
    rows = 1_000 if rows is None else rows
    side = min(image_shape[1:])
    halvings = min(6, max(3 if side >= 8 else 1, math.ceil(math.log2(max(side, 2) / 2))))  # until a side is about 2; from 8 to 1
    first = 16 if side > 16 else 32  # the first stages see the most pixels, so they cost the most
    channels, pooled = [], []
    for stage in range(halvings):
        channels += [min(first * 2**stage, 128)] * min(stage + 1, 3)
        pooled.append(len(channels) - 1)
    epochs = 60 if rows < 5_000 else 30 if rows < 20_000 else 10
    settings: dict[str, Any] = {
        "optimizer": {"name": "AdamW", "weight_decay": 5e-2},
        "lr": 5e-3,
        "scheduler": {"name": "OneCycleLR"},
        "batch_size": 32 if rows < 5_000 else 128,
        "epochs": epochs,
        "patience": None,  # the rate has come down only at the end
    }
    if classed:  # the place or side of something may be what numbers say of an image
        settings["augment"] = {"shift": min(max(1, side // 28), 16), "flip": mirrored}
    told = f"moved by up to {settings['augment']['shift']} pixels{' and mirrored' if mirrored else ''}" if classed else "as they are"
    sentence = (
        f'model="auto": {rows:,} images of {" x ".join(map(str, image_shape))}, so "cnn" with channels {channels}, batch norm, images {told}; '
        f"AdamW in one cycle up to {settings['lr']:g} over {epochs} epochs, batches of {settings['batch_size']}."
    )
    args = {"image_shape": [int(side) for side in image_shape], "channels": channels, "pooled": pooled, "dropout": 0.2, "residual": 1}
    return Choice("cnn", args, sentence, settings)


def arguments(choice: Choice, given: dict[str, Any]) -> dict[str, Any]:
    """The network's arguments: those said by name in place of the chosen ones; `width` or `depth` replace the chosen `widths`, for which they are short."""
    chosen = dict(choice.args)
    if "width" in given or "depth" in given:
        chosen.pop("widths", None)
    return chosen | given
