"""`model="auto"` on these splits: the written rule of `model/choosing.py` with what it needs of the training rows.

Enters: splits and the arguments of `fit`. Leaves: a network's name and arguments, and the settings that the user left to us. Medians and quartiles come from
training rows only; everything else depends on task, size and shape, so the rule is the same for every seed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.data.augmenting import mirror_keeps_class
from fivestep.data.data import Splits
from fivestep.model import choosing, models


def choose(splits: Splits, ask: dict[str, Any]) -> choosing.Choice:
    """The network, its complete arguments (those of `model_args` in place of the chosen ones), and the settings that hold, as `left_to_us` tells them."""
    given = dict(ask["model_args"] or {})
    inputs = training_inputs(splits)
    numbers = number_columns(splits, inputs)
    own_head = isinstance(ask["loss"], nn.Module) and any(True for _ in ask["loss"].parameters())  # a loss that holds the last layer
    own_code = ask["compute"] is not None or ask["step"] is not None or own_head or inputs is None
    choice = choosing.choose(
        splits.task, splits.num_inputs, splits.image_shape, len(splits.train), num_numbers=len(numbers), own_loss=own_code, mirrored=mirrored(splits)
    )
    args = choosing.arguments(choice, given)
    if choice.model == "ensemble" and inputs is not None and not {"number_columns", "center", "scale"} & given.keys():
        center, scale = models.median_and_quartiles(inputs[:, numbers])
        args |= {"number_columns": numbers, "center": center, "scale": scale}
    settings = left_to_us(choice.settings, ask, splits)
    own = [f"model.{name}={value!r}" for name, value in given.items()]
    own += [f"{name}={ask[name]!r}" for name in choice.settings if name not in settings and ask[name] != "auto"]
    sentence = choice.sentence + (f" In place of these, as you said: {', '.join(own)}." if own else "")
    return replace(choice, args=args, settings=settings, sentence=sentence)


def with_embeddings(splits: Splits) -> Splits:
    """The same splits with categories as codes, for embeddings, where one-hot would need more than MOST_ONEHOT inputs and the user left it to us."""
    data = splits.train.data
    if data.kind != "table" or data.options["categories"] != "auto":
        return splits
    coded = splits.with_categories("codes")
    return coded if sum(coded.columns.num_categories) > choosing.MOST_ONEHOT else splits


def left_to_us(settings: dict[str, Any], ask: dict[str, Any], splits: Splits) -> dict[str, Any]:
    """Of the chosen settings those that the user has not said. Another optimizer comes with its own rate; a number of epochs that was said is kept to the end."""
    left = {key: value for key, value in settings.items() if ask[key] == "auto" or (key == "augment" and ask[key] is None)}
    if ask["optimizer"] != "auto":
        left.pop("lr", None)
    if ask["epochs"] != "auto":
        left.pop("patience", None)
    if splits.val is None:  # a plateau is seen on validation rows alone
        left.pop("patience", None)
        if "scheduler" in left and left["scheduler"].get("name") == "ReduceLROnPlateau":
            left["scheduler"] = {"name": "CosineAnnealingLR"}
            left |= {"epochs": EPOCHS_WITHOUT_VALIDATION} if ask["epochs"] == "auto" else {}
    return left


EPOCHS_WITHOUT_VALIDATION = 30


def training_inputs(splits: Splits) -> Tensor | None:
    """The numbers of the training rows as the network sees them, (rows, inputs); None where the inputs are no one matrix in memory."""
    source = splits.encoded(splits.train)
    inputs = getattr(source, "inputs", None)
    if splits.columns is None:
        if not isinstance(inputs, Tensor) or inputs.dim() != 2 or not inputs.is_floating_point():
            return None
        return inputs.index_select(0, splits.train.indices).float()
    return inputs[0] if isinstance(inputs, tuple) else inputs


def mirrored(splits: Splits) -> bool:
    """Whether mirrored training images look like their class: told by 2,000 training images, evenly from all of them."""
    if splits.image_shape is None or splits.task not in ("binary", "multiclass"):
        return False
    places = torch.linspace(0, len(splits.train) - 1, min(len(splits.train), 2_000)).long()
    inputs, targets, _ = splits.train.data.source.take(splits.train.indices[places])
    order = torch.randperm(len(places), generator=seeds.generator(0, "mirror"))  # rows may stand in the order of their classes
    return mirror_keeps_class(inputs[order], targets[0].flatten()[order])


def number_columns(splits: Splits, inputs: Tensor | None) -> list[int]:
    """Which inputs are numbers to be centered, clipped and given cosines: of a table as it says, of arrays those with more than two values."""
    if inputs is None:
        return []
    if splits.columns is not None:
        return splits.columns.number_positions
    low, high = inputs.min(0).values, inputs.max(0).values
    return torch.nonzero(((inputs != low) & (inputs != high)).any(0)).flatten().tolist()
