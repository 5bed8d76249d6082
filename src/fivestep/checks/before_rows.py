"""Rules on rows beside their targets and each other (letter D): no relation, contradicting copies, rows sorted by class, padding that counts.

Rows are compared by their bits (`row_keys`), and only where chance could not make two of them equal (`is_continuous`).
"""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.rules import Rule
from fivestep.checks.subject import Subject


def relation_strength(probe: Probe) -> dict[str, float] | None:
    """How clearly simple methods see a relation between rows and targets: z of nearest neighbours and of the best single value or its square.

    None where that cannot be asked: codes as inputs, several targets a row, fewer than 60 rows, a class with fewer than 30.
    """
    pairs = probe.aligned("train")
    if pairs is None or len(pairs[0]) < 60 or pairs[0].shape[1] > 4096:
        return None
    flat, target = pairs
    order = numpy.random.default_rng(0).permutation(len(flat))[:500]
    rows, labels = flat[order].astype(numpy.float64), target[order]
    if not (numpy.isfinite(rows).all() and numpy.isfinite(labels).all()) or labels.std() == 0:
        return None
    classes, counts = numpy.unique(labels, return_counts=True)
    sorts = len(classes) <= 20 and bool(numpy.all(classes == classes.round()))
    if sorts and counts.min() < 30:
        return None
    scaled = (rows - rows.mean(0)) / numpy.maximum(rows.std(0), 1e-12) * (rows.std(0) > 0)
    squares = (scaled**2).sum(1)
    distances = squares[:, None] + squares[None] - 2 * scaled @ scaled.T
    numpy.fill_diagonal(distances, numpy.inf)
    near = numpy.argpartition(distances, 9, axis=1)[:, :9]
    if sorts:
        agree = (labels[near] == labels[:, None]).mean()
        generator = numpy.random.default_rng(1)
        shuffled = [(permuted[near] == permuted[:, None]).mean() for permuted in (generator.permutation(labels) for _ in range(30))]
    else:
        agree = numpy.corrcoef(labels[near].mean(1), labels)[0, 1]
        generator = numpy.random.default_rng(1)
        shuffled = [numpy.corrcoef(permuted[near].mean(1), permuted)[0, 1] for permuted in (generator.permutation(labels) for _ in range(30))]
    neighbours = float((agree - numpy.mean(shuffled)) / max(1e-9, float(numpy.std(shuffled))))
    centred = labels[:, None] == classes[None] if sorts else labels[:, None]
    centred = centred - centred.mean(0)
    best = 0.0
    for features in (scaled, scaled**2):
        features = features - features.mean(0)
        norms = numpy.sqrt((features**2).sum(0))[:, None] * numpy.sqrt((centred**2).sum(0))[None]
        best = max(best, float(numpy.abs(features.T @ centred / numpy.maximum(norms, 1e-9)).max()))
    return {
        "neighbours": neighbours,
        "single": best * numpy.sqrt(len(labels)),
        "values": float(rows.shape[1]),
        "rows": float(len(labels)),
        "classes": float(len(classes)) if sorts else 0.0,
    }


def rule_d05(subject: Subject, probe: Probe) -> Finding | None:
    """No relation between rows and targets that simple methods could see. A note here: only training can tell a weak relation from none (`after` does)."""
    strength = relation_strength(probe)
    if strength is None:
        return None
    # The largest of d correlations of noise grows with log d.
    if strength["neighbours"] < 2 and strength["single"] < 3.2 + 0.3 * numpy.log10(strength["values"]) + (0.3 if strength["classes"] > 2 else 0):
        return Finding(
            "D05", "note", f"Neither neighbours (z = {strength['neighbours']:.1f}) nor any single column (z = {strength['single']:.1f}) tell anything about the targets of {strength['rows']:.0f} rows.",
            strength, "If rows and targets are misaligned (shuffled or sorted apart), training can only memorise.",
            "Look at a few rows beside their targets, and at how the two were joined.",
        )  # fmt: skip
    return None


def rule_d09(subject: Subject, probe: Probe) -> Finding | None:
    """Of rows that occur exactly again, over 20 % with another target; only where some column is continuous, as discrete rows repeat by nature."""
    pairs = probe.aligned("train")
    if pairs is None or len(pairs[0]) < 20 or not is_continuous(pairs[0]):
        return None
    if subject.table is not None and all(column.is_integer or column.kind == "category" for column in probe.columns if column.used):
        return None  # minutes, months and codes repeat by nature
    flat, labels = pairs[0][:20_000], pairs[1][:20_000]
    _, group = numpy.unique(row_keys(flat), return_inverse=True)
    sizes = numpy.bincount(group)
    repeated = sizes[group] > 1
    if repeated.sum() < max(10, 0.03 * len(flat)):
        return None
    if probe.has_classes:
        least, most = numpy.full(len(sizes), numpy.inf), numpy.full(len(sizes), -numpy.inf)
        numpy.minimum.at(least, group, labels)
        numpy.maximum.at(most, group, labels)
        share = float((least != most)[group][repeated].mean())
    else:
        means = numpy.bincount(group, labels) / sizes
        # Measurements repeat with noise; only groups that differ within as much as among each other tell nothing.
        inside = float(((labels - means[group]) ** 2)[repeated].mean())
        share = 1.0 if labels.var() > 0 and inside > 0.5 * labels.var() else 0.0
    if share > 0.2:
        # Half of the contradicting rows must be wrong: under a tenth of the rows that is less than five points of accuracy (OJ: 39 of 749 rows repeat).
        loud = share * float(repeated.sum()) > 0.1 * len(flat)
        return Finding(
            "D09", "warning" if loud else "note", f"{int(repeated.sum())} training rows occur exactly more than once, and {share:.0%} of them with different targets.",
            {"repeated_rows": int(repeated.sum()), "share_with_other_targets": share},
            "No model can be right on both: accuracy has a ceiling that looks like a weak model.",
            "Look for lost columns, a wrong join, or labels of different sources; keep one row of each or vote.",
        )  # fmt: skip
    return None


def row_keys(flat: numpy.ndarray) -> numpy.ndarray:
    """One 64-bit number for each row's bits; equal rows have equal numbers, unequal ones practically never."""
    bits = numpy.ascontiguousarray(flat + numpy.float32(0)).view(numpy.uint32).astype(numpy.uint64)  # + 0 makes -0.0 and 0.0 one
    factors = numpy.random.default_rng(0).integers(1, 2**63, size=bits.shape[1], dtype=numpy.uint64) | numpy.uint64(1)
    with numpy.errstate(over="ignore"):
        mixed = (bits + numpy.uint64(0x9E3779B97F4A7C15)) * factors
        mixed ^= mixed >> numpy.uint64(29)
        return (mixed * numpy.uint64(0xBF58476D1CE4E5B9)).sum(1, dtype=numpy.uint64)


def is_continuous(flat: numpy.ndarray) -> bool:
    """Whether equal rows would not occur by chance: a column of many values, or enough discrete ones that two rows never agree in all."""
    sample = flat[:1000]
    bits, needed = 0.0, 2 * numpy.log2(len(flat)) + 15
    many = 0
    for column in sample.T[:2000]:
        _, counts = numpy.unique(column, return_counts=True)
        many += len(counts) > 12
        # A sensor's column has nearly as many values as rows; whole numbers of a small range are discrete.
        if len(counts) > max(12, 0.2 * len(sample)) and counts.max() < 0.5 * len(sample):
            return True
        share = counts / len(column)
        bits += float(-(share * numpy.log2(share)).sum())
    # One list of forty types beside eighty answers of five grades (Caravan) is a questionnaire: its answers go together, and the sum of bits says too much.
    return (
        many >= 0.1 * min(sample.shape[1], 2000) and bits > needed
    )  # yes/no and graded columns alone (black-and-white shapes, questionnaires) repeat by nature however many there are


def rule_d18(subject: Subject, probe: Probe) -> Finding | None:
    """shuffle=False on rows sorted by class: the label equals the one before in over 90 % of the rows, or batches hold a fifth of the data's variety."""
    classes = probe.classes_of_rows
    if not subject.shuffle and classes is None:
        return sorted_targets(subject, probe)
    if subject.shuffle or classes is None or not probe.train.complete:
        return None
    labels = classes["train"]
    names, codes = numpy.unique(labels, return_inverse=True)
    if len(names) < 2 or len(labels) < 4 * subject.batch_size:
        return None
    shares = numpy.bincount(codes) / len(codes)
    again = float((labels[1:] == labels[:-1]).mean())
    whole = entropy(shares)
    inside = float(
        numpy.mean(
            [
                entropy(numpy.bincount(codes[start : start + subject.batch_size]) / len(codes[start : start + subject.batch_size]))
                for start in range(0, len(codes), subject.batch_size)
            ]
        )
    )
    # One class may hold 93 % of the rows: then the label repeats without any order.
    if (again > 0.9 and again > float((shares**2).sum()) + 0.05) or inside < 0.2 * whole:
        return Finding(
            "D18", "warning", f"shuffle=False, and the training rows are sorted: {again:.0%} have the label of the row before; a batch holds {inside / whole:.0%} of the data's variety.",
            {"label_as_before": again, "entropy_of_batches": inside, "entropy_of_data": whole},
            "Each batch pulls towards one class: the loss saws, and the class that comes last wins.", "Leave shuffle at True.",
        )  # fmt: skip
    return None


def sorted_targets(subject: Subject, probe: Probe) -> Finding | None:
    """D18 for numbers: targets that only rise (or fall) from row to row while no input does; in a series by time an input or the split tells of the order."""
    target = probe.target_rows("train")
    if (
        target is None
        or target.shape[1] != 1
        or subject.split in ("time", "ordered")
        or len(target) < 4 * subject.batch_size
        or not numpy.isfinite(target).all()
    ):
        return None
    steps = numpy.diff(target[:, 0])
    flat = probe.flat("train")
    if not (target.std() > 0 and (numpy.all(steps >= 0) or numpy.all(steps <= 0))):
        return None
    if flat is not None and len(flat) == len(target) and bool((numpy.all(numpy.diff(flat, axis=0) >= 0, 0) & (flat.std(0) > 0)).any()):
        return None
    return Finding(
        "D18", "warning", f"shuffle=False, and the training targets are sorted from {target[0, 0]:.4g} to {target[-1, 0]:.4g}.", {"first": float(target[0, 0]), "last": float(target[-1, 0])},
        "Each batch holds targets of one size: the model runs after them from one end to the other in every epoch.", "Leave shuffle at True.",
    )  # fmt: skip


def entropy(shares: numpy.ndarray) -> float:
    present = shares[shares > 0]
    return float(-(present * numpy.log(present)).sum())


def trailing(codes: Tensor, pad: Any) -> Tensor:
    """How many items at the end of each row are padding: int64 (rows,)."""
    padded = (codes == pad) if codes.dim() == 2 else (codes == pad).all(-1)
    return padded.flip(1).long().cumprod(1).sum(1)


def padding_of(tensor: Tensor) -> tuple[Any, Tensor] | None:
    """The padding item of sequences (rows, time) or (rows, time, values) and its count at the end of each row; None where rows are not padded at the end."""
    if tensor.dim() == 2 and not tensor.is_floating_point():
        values, counts = tensor[:, -1].unique(return_counts=True)
        candidates = values[counts.argsort(descending=True)[:2]].tolist()
    elif tensor.dim() == 3 and tensor.is_floating_point():
        candidates = [0.0]
    else:
        return None
    for pad in candidates:
        ends = trailing(tensor, pad)
        inside = ((tensor == pad) if tensor.dim() == 2 else (tensor == pad).all(-1)).sum(1) - ends
        padded = float((ends > 0).float().mean())
        if padded > 0.2 and len(ends[ends > 0].unique()) > 1 and float((inside > 0).float().mean()) < 0.02 and int(ends.max()) < tensor.shape[1] + 1:
            return pad, ends
    return None


def rule_d19(subject: Subject, probe: Probe) -> Finding | None:
    """Rows padded at the end whose outputs change when three padding items are taken away."""
    if not isinstance(probe.train.inputs, Tensor):
        return None
    found = padding_of(probe.train.inputs[:1000])
    if found is None:
        return None
    pad, ends = found
    rows = (ends >= 3).nonzero()[:32, 0]
    if len(rows) < 4 or probe.train.inputs.shape[1] < 5:
        return None
    model = probe.calm
    inputs = probe.rows(rows)[0]
    length = inputs.shape[1]
    whole = probe.outputs(model, inputs)
    try:
        shorter = probe.outputs(model, inputs[:, : length - 3])
    except Exception:  # a model of fixed length: padding is part of its shape
        return None
    if whole.shape != shorter.shape:
        axis = next((axis for axis in range(1, whole.dim()) if whole.shape[axis] == length and shorter.shape[axis] == length - 3), None)
        if axis is None:
            return None
        whole = whole.narrow(axis, 0, length - 3)
        real = torch.arange(length - 3) < (length - ends[rows])[:, None]  # outputs at padded places may be anything
        whole, shorter = whole.movedim(axis, 1)[real], shorter.movedim(axis, 1)[real]
    change = float((whole - shorter).abs().max()) / max(float(whole.std()), 1e-6)
    if change > 1e-3:
        return Finding(
            "D19", "warning", f"Taking three padding items ({pad:g}) from the end of {len(rows)} rows changes the outputs by {change:.3g} of their spread.", {"padding": pad, "change": change},
            "Padding is counted as data: the same row gets another answer in a longer batch.",
            "Mask it: divide the mean by the true length, pack the sequence, or give attention its key_padding_mask.",
        )  # fmt: skip
    return None


RULES: tuple[Rule, ...] = (rule_d05, rule_d09, rule_d18, rule_d19)
