"""Rules on what a Dataset or an augmentation returns (letter D): one row for all, rows that reading changes, copies that mean another class.

A Dataset may change itself when it is read, so a copy is asked; one that holds too much to copy is not.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy
import torch
from torch import Tensor

from fivestep import seeds
from fivestep.checks.arrays import held_bytes
from fivestep.checks.before_rows import row_keys
from fivestep.checks.findings import Finding
from fivestep.checks.probe import CannotCheck, Probe
from fivestep.checks.recording import tensors_in
from fivestep.checks.rules import Rule
from fivestep.checks.subject import Subject


def rule_d07(subject: Subject, probe: Probe) -> Finding | None:
    """At most three distinct rows among 20 and more while targets vary, and the values are not just small whole numbers."""
    flat, target = probe.flat("train"), probe.target_rows("train")
    if flat is None or target is None or len(flat) < 20 or bool(numpy.all(target == target[0])):
        return None
    distinct = len(numpy.unique(row_keys(flat[:1000])))
    whole = bool(numpy.all(flat == numpy.round(flat)))
    if distinct == 1 or (distinct <= 3 and not whole and flat.shape[1] > 1):
        return Finding(
            "D07", "error", f"{len(flat)} training rows hold only {distinct} distinct inputs, while their targets vary.", {"distinct": distinct, "rows": len(flat)},
            "Every row looks the same to the model: it can only learn how often each target occurs.",
            "Look at __getitem__: does it use its index? A loop variable captured in a function has its last value for all.",
        )  # fmt: skip
    return None


def rule_d08(subject: Subject, probe: Probe) -> Finding | None:
    """A Dataset row read three times under one seed differs each time, and what the Dataset holds has changed (not just a generator of its own)."""
    if subject.dataset is None or held_bytes(subject.dataset) > 200_000_000:
        return None
    try:
        dataset = copy.deepcopy(subject.dataset)
    except Exception as error:
        raise CannotCheck(f"the dataset cannot be copied ({type(error).__name__})") from error
    for row in sorted({0, len(dataset) // 2, len(dataset) - 1}):
        before = stored_arrays(dataset)
        reads = []
        for _ in range(3):
            with seeds.restored(11):
                reads.append([tensor.clone() for tensor in tensors_in(as_tensors(dataset[row]))])
        differ = [any(not same(first, second) for first, second in zip(reads[place], reads[place + 1])) for place in (0, 1)]
        if not all(differ):
            continue
        changed = [
            name
            for name, array in stored_arrays(dataset).items()
            if name in before and not numpy.array_equal(before[name], array, equal_nan=array.dtype.kind == "f")
        ]
        if changed or not holds_generator(dataset):
            where = f" ({', '.join(changed[:3])} changed)" if changed else ""
            return Finding(
                "D08", "error" if changed else "warning", f"Row {row} read three times under one seed gives three different values{where}.", {"row": row, "changed": changed},
                "Reading changes what the Dataset holds: the data decay epoch by epoch, and no run can be repeated.",
                "Work on a copy inside __getitem__ (x = self.x[i].clone()) and avoid +=, *= and functions ending in _.",
            )  # fmt: skip
    return None


def as_tensors(value: Any) -> Any:
    """Numbers and arrays of an example as tensors."""
    if isinstance(value, numpy.ndarray) and value.dtype.kind in "fiub":
        return torch.as_tensor(value.copy())
    if isinstance(value, (tuple, list)):
        return tuple(as_tensors(item) for item in value)
    if isinstance(value, dict):
        return {key: as_tensors(item) for key, item in value.items()}
    return torch.as_tensor(value) if isinstance(value, (int, float)) else value


def same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool(torch.equal(torch.nan_to_num(first.double()), torch.nan_to_num(second.double())))


def stored_arrays(value: Any, name: str = "dataset", depth: int = 4) -> dict[str, numpy.ndarray]:
    """Copies of the tensors and arrays that an object holds, by path."""
    if isinstance(value, Tensor):
        return {name: value.detach().cpu().numpy().copy()} if value.dtype != torch.bfloat16 else {}
    if isinstance(value, numpy.ndarray):
        return {name: value.copy()} if value.dtype.kind in "fiub" else {}
    if depth == 0 or value is None or isinstance(value, (str, bytes, int, float, random.Random, torch.Generator, numpy.random.Generator)):
        return {}
    found: dict[str, numpy.ndarray] = {}
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value[:4096]):
            found |= stored_arrays(item, f"{name}[{number}]", depth - 1)
    elif isinstance(value, dict):
        for key, item in list(value.items())[:4096]:
            found |= stored_arrays(item, f"{name}[{key!r}]", depth - 1)
    elif hasattr(value, "__dict__"):
        for key, item in vars(value).items():
            found |= stored_arrays(item, f"{name}.{key}", depth - 1)
    return found


def holds_generator(value: Any, depth: int = 4) -> bool:
    """Whether an object holds a random generator of its own."""
    if isinstance(value, (random.Random, torch.Generator, numpy.random.Generator, numpy.random.RandomState)):
        return True
    if depth == 0 or isinstance(value, (Tensor, numpy.ndarray, str, bytes)):
        return False
    if isinstance(value, (list, tuple)):
        return any(holds_generator(item, depth - 1) for item in value[:32])
    if isinstance(value, dict):
        return any(holds_generator(item, depth - 1) for item in list(value.values())[:32])
    return hasattr(value, "__dict__") and any(holds_generator(item, depth - 1) for item in vars(value).values())


def plain_and_augmented(subject: Subject, probe: Probe) -> tuple[Tensor, Tensor, numpy.ndarray] | None:
    """Rows as they are (up to 400), the first 150 of them augmented, and the labels; None where there is no augmentation to be seen.

    From `augment=`, or from a Dataset that holds one tensor or array with a row for each example and returns something else at each seed.
    """
    classes = probe.classes_of_rows
    if classes is None:
        return None
    if subject.augment is not None and isinstance(probe.train.inputs, Tensor):
        order = torch.randperm(len(probe.train.inputs), generator=torch.Generator().manual_seed(4))[:400]
        plain, labels = probe.train.inputs[order].clone(), classes["train"][order.numpy()]
        try:
            changed = subject.augment(plain[:150].clone(), torch.Generator().manual_seed(6))
        except TypeError:
            changed = subject.augment(plain[:150].clone())
        changed = changed[0] if isinstance(changed, tuple) else changed
        return (plain, changed, labels) if isinstance(changed, Tensor) and changed.shape == plain[:150].shape else None
    if subject.dataset is None or held_bytes(subject.dataset) > 200_000_000:
        return None
    dataset = copy.deepcopy(subject.dataset)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(4))[:400].tolist()
    examples = [as_tensors(dataset[row]) for row in order[:150]]
    if not all(
        isinstance(example, tuple) and len(example) == 2 and all(isinstance(item, Tensor) for item in example) and example[1].numel() == 1
        for example in examples
    ):
        return None
    changed = torch.stack([example[0] for example in examples]).float()
    for held in stored_arrays(dataset).values():
        if held.shape != (len(dataset), *changed.shape[1:]):
            continue
        plain = torch.as_tensor(held[order]).float()
        # Augmentation leaves some rows as they are, or near: otherwise what is held is another thing than what is returned.
        away = (plain[:150] - changed).flatten(1).norm(dim=1)
        if float(away.max()) > 0 and float(away.min()) < 0.5 * float(plain.flatten(1).std(0).norm()):
            labels = [example[1] for example in examples] + [as_tensors(dataset[row])[1] for row in order[150:]]
            return plain, changed, torch.stack(labels).reshape(-1).long().numpy()
    return None


def rule_d17(subject: Subject, probe: Probe) -> Finding | None:
    """An augmented row lies as near to rows of another class as rows of one class lie to each other."""
    with seeds.restored(5):
        found = plain_and_augmented(subject, probe)
    if found is None:
        return None
    plain, changed, labels = found
    reference, moved = plain.flatten(1).double(), changed.flatten(1).double()
    own = torch.cdist(reference, reference).fill_diagonal_(torch.inf)
    usual, nearest = own.min(1)
    wrong_before = float((labels[nearest.numpy()] != labels).mean())
    distance = torch.cdist(moved, reference)
    distance[torch.arange(len(moved)), torch.arange(len(moved))] = torch.inf  # not its own original
    least, place = distance.min(1)
    close = (least <= usual.median()).numpy()
    wrong = labels[place.numpy()] != labels[: len(moved)]
    share = float(wrong[close].mean()) if close.sum() >= 15 else 0.0
    if share > 0.2 and share > 2.5 * wrong_before:
        return Finding(
            "D17", "warning", f"{share:.0%} of the augmented rows lie next to rows of another class; {wrong_before:.0%} of the rows as they are.",
            {"augmented": share, "plain": wrong_before},
            "The augmentation turns one class into another and keeps the label: training accuracy has a ceiling.",
            "Leave out what changes the meaning (flips of digits and arrows, rotations by 90 degrees).",
        )  # fmt: skip
    return None


RULES: tuple[Rule, ...] = (rule_d07, rule_d08, rule_d17)
