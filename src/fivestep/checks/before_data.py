"""Rules on the data alone (letter D): scale, missing values, codes, order, what a Dataset returns.

Each rule is one function of (subject, probe) that returns a Finding or None. Thresholds stand beside the reason for them.
"""

from __future__ import annotations

import copy
import random
import re
from typing import Any

import numpy
import torch
from torch import Tensor

from fivestep import seeds
from fivestep.checks.findings import Finding
from fivestep.checks.probe import CannotCheck, Column, Probe, as_numbers, held_bytes
from fivestep.checks.recording import WEIGHT_OPERATIONS, tensors_in
from fivestep.checks.subject import Subject
from fivestep.train.loop import forward


def first_weighted_input(probe: Probe) -> Tensor | None:
    """What the first weight layer gets in train mode: the inputs after whatever the model does to them first (a norm, a division)."""
    value = next((call.input for call in probe.training.calls if call.name in WEIGHT_OPERATIONS), None)
    return value.detach().float() if isinstance(value, Tensor) and value.dim() > 0 and value.is_floating_point() else None


def named_column(subject: Subject, number: int) -> str:
    names = list(subject.used)
    return f"'{names[number]}'" if subject.table is not None and number < len(names) else f"column {number}"


def rule_d01(subject: Subject, probe: Probe) -> Finding | None:
    """A column of spread over 30 and over 100 times the median spread, still so where the first weight layer gets it."""
    if subject.standardised:
        return None
    columns = [column for column in probe.columns if column.used and len(column.finite) > 1]
    spreads = numpy.array([column.finite.std() for column in columns])
    if len(columns) < 2:
        return channel_that_dwarfs(probe)
    # Yes/no columns have a spread near 0.3 by nature; beside them counts are ordinary.
    graded = numpy.array([column.distinct > 2 for column in columns])
    others = spreads[graded] if graded.sum() >= 2 else numpy.append(spreads[graded], 3.0)
    middle = float(numpy.median(others)) if len(others) != 2 else float(others.min())
    largest = int(spreads.argmax())
    if not (spreads[largest] > 30 and spreads[largest] > 100 * max(middle, 1e-12)):
        return None
    reaching = first_weighted_input(probe)
    if reaching is None:
        return None
    reaching = reaching.reshape(-1, reaching.shape[-1])
    inside = reaching.std(0)
    if not (float(inside.max()) > 30 and float(inside.max()) > 100 * float(inside.median())):
        return None
    name = columns[largest].name
    return Finding(
        "D01", "warning", f"{name} has a standard deviation of {spreads[largest]:.4g}; the middle one of the columns has {middle:.4g}.",
        {"column": name, "deviation": spreads[largest], "median_deviation": middle},
        "Its products drown the others: the loss starts huge, units saturate or die, and the other columns hardly count.",
        "Standardise the columns by training statistics (Data.table does), or put nn.BatchNorm1d first.",
    )  # fmt: skip


def channel_that_dwarfs(probe: Probe) -> Finding | None:
    """D01 for sequences (rows, time, features): the same bounds as for columns."""
    tensor = next(
        (tensor for tensor in tensors_in(probe.train.inputs) if tensor.dim() == 3 and tensor.is_floating_point() and 2 <= tensor.shape[2] <= 512), None
    )
    if tensor is None:
        return None
    spreads = tensor[:2000].detach().cpu().double().reshape(-1, tensor.shape[2]).std(0)
    middle = float(spreads.median()) if len(spreads) > 2 else float(spreads.min())
    largest = int(spreads.argmax())
    reaching = next((call.input for call in probe.training.calls if call.name in WEIGHT_OPERATIONS and isinstance(call.input, Tensor)), None)
    if not (float(spreads[largest]) > 30 and float(spreads[largest]) > 100 * max(middle, 1e-12)) or reaching is None or reaching.dim() < 2:
        return None
    inside = reaching.detach().double().abs().max()
    if float(inside) <= 30:
        return None
    return Finding(
        "D01", "warning", f"Feature {largest} of the sequences has a standard deviation of {float(spreads[largest]):.4g}; the middle one has {middle:.4g}.",
        {"column": largest, "deviation": float(spreads[largest]), "median_deviation": middle},
        "Its products drown the others: gates saturate, and the other features hardly count.",
        "Standardise each feature by training statistics: (x - mean) / deviation over rows and time.",
    )  # fmt: skip


def rule_d02(subject: Subject, probe: Probe) -> Finding | None:
    """Whole numbers from 0 to 255 in images (or in rows of 49 and more values), still larger than 30 where the first weight layer gets them."""
    view = probe.train
    for tensor in tensors_in(view.inputs):
        if not (tensor.is_floating_point() or tensor.dtype == torch.uint8) or tensor.dim() < 2:
            continue
        sample = tensor[:256].float()
        image = tensor.dim() >= 4 or (tensor.dim() == 3 and min(tensor.shape[1:]) >= 5)
        if not image and (sample[0].numel() < 49 or float(sample.max()) < 200):
            continue  # short rows of whole numbers are counts
        least, most = float(sample.min()), float(sample.max())
        if not (least >= 0 and 30 < most <= 255 and bool(torch.all(sample == sample.round()))):
            continue
        reaching = first_weighted_input(probe)
        if reaching is None or float(reaching.abs().max()) <= 30:
            continue
        return Finding(
            "D02", "warning", f"The inputs are whole numbers from {least:.0f} to {most:.0f}, as images come from a file.", {"least": least, "most": most},
            "The first loss is 10 to 100 times that of guessing, ReLU units die and training diverges or crawls.",
            "Divide by 255 and subtract the mean: x = (x / 255 - 0.5) / 0.5, or put a norm layer first.",
        )  # fmt: skip
    return None


def rule_d03(subject: Subject, probe: Probe) -> Finding | None:
    """A NaN or infinity in the inputs or targets of any split; a note where the model and the loss cope with it (a mask)."""
    for name in probe.readable:
        view = probe.view(name)
        assert view is not None
        for what, values in (("inputs", view.inputs), ("targets", view.targets)):
            for tensor in tensors_in(values):
                if not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all()):
                    continue  # a finite sum has no NaN and no infinity in it, and is ten times faster to look at
                places = (~torch.isfinite(tensor)).nonzero()
                row, rest = int(places[0, 0]), places[0, 1:].tolist()
                bad_rows = len(places[:, 0].unique())
                copes = probe_copes(subject, probe, places[:, 0].unique()[:64]) if name == "train" else False
                column = f", {named_column(subject, rest[0])}" if len(rest) == 1 and what == "inputs" else ""
                evidence = {"split": name, "part": what, "cells": len(places), "rows": bad_rows, "first_row": row, "place": rest}
                return Finding(
                    "D03", "note" if copes else "error",
                    f"{len(places)} values of the {name} {what} are NaN or infinite, in {bad_rows} of {len(tensor)} rows; the first in row {row}{column}.",
                    evidence, "One such row makes the loss NaN, and one step later every weight." if not copes else "Output and loss stay finite for these rows.",
                    "Fill or drop these cells (Data.table fills them by training statistics), or mask them inside the model and the loss.",
                )  # fmt: skip
    return None


def probe_copes(subject: Subject, probe: Probe, rows: Tensor) -> bool:
    """Whether outputs, loss and gradients are finite on these training rows."""
    try:
        model = probe.fresh().train()
        with seeds.restored(0), torch.enable_grad():
            inputs, targets = probe.rows(rows if len(rows) > 1 else rows.repeat(2))
            outputs = forward(model, inputs)
            value = probe.loss_of(probe.picked(outputs), targets)
            value.backward()
    except Exception:  # any failure on these rows means it does not cope; the finding tells about the rows
        return False
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return bool(torch.isfinite(value)) and all(bool(torch.isfinite(item).all()) for item in [*tensors_in(outputs), *gradients])


SENTINELS = {
    -1.0,
    -9.0,
    -99.0,
    -999.0,
    -9999.0,
    -99999.0,
    99.0,
    999.0,
    9999.0,
    99999.0,
    999999.0,
    -32768.0,
    32767.0,
    65535.0,
    -2147483648.0,
    2147483647.0,
    1e10,
    -1e10,
    1e20,
}


def rule_d04(subject: Subject, probe: Probe) -> Finding | None:
    """An extreme value repeated exactly in at least 2 % of the rows (a usual code: 0.5 %) and farther from the rest than ten times their quartile range."""
    columns = [column for column in probe.columns if column.used]
    target = probe.target_column
    if target is not None and not probe.has_classes:
        columns.append(Column(f"the target {subject.target!r}" if subject.target else "the target", target, "float64"))
    for column in columns:
        values = column.finite
        if len(values) < 40 or column.distinct < 12:
            continue
        for extreme in (values.min(), values.max()):
            same = values == extreme
            share = float(same.mean())
            usual = float(extreme) in SENTINELS and abs(extreme) > 9
            if not ((0.005 if usual else 0.02) <= share <= 0.7 and same.sum() >= 4):
                continue
            rest = values[~same]
            low, high = numpy.percentile(rest, [25, 75])
            gap = float(numpy.abs(rest - extreme).min())
            # A cap or a true zero lies next to the bulk; a code lies far outside. Zero itself is a code only where it is absurdly far.
            if high > low and gap > (10 if extreme != 0 else 30) * (high - low):
                return Finding(
                    "D04", "warning", f"{column.name}: {int(same.sum())} rows ({share:.1%}) hold exactly {extreme:g}; all others lie between {rest.min():.4g} and {rest.max():.4g}.",
                    {"column": column.name, "value": float(extreme), "share": share, "least_of_rest": float(rest.min()), "most_of_rest": float(rest.max())},
                    "A code for 'missing' taken as a number is the largest outlier of the column: it sets the scale and pulls the weights.",
                    f"Read it as missing (Data.table(..., missing=[\"{extreme:g}\"])), or fill it and add a yes/no column beside it.",
                )  # fmt: skip
    return None


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


def rule_d06(subject: Subject, probe: Probe) -> Finding | None:
    """All inputs equal in every row (an error), or a column that never varies (a note)."""
    flat = probe.flat("train")
    if flat is None or len(flat) < 4:
        return None
    constant = flat.max(0) == flat.min(0)
    if constant.all():
        return Finding(
            "D06", "error", f"All {len(flat)} training rows hold the same inputs ({flat[0, 0]:g}, ...).", {"rows": len(flat)},
            "The model can only learn how often each target occurs.", "Look at how the inputs were read or computed.",
        )  # fmt: skip
    if constant.any() and flat.shape[1] <= 512:
        names = [named_column(subject, int(number)) for number in numpy.flatnonzero(constant)[:5]]
        return Finding(
            "D06",
            "note",
            f"{int(constant.sum())} of {flat.shape[1]} columns never vary: {', '.join(names)}.",
            {"columns": names},
            "They carry nothing.",
            "Drop them.",
        )
    return None


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


def rule_d10(subject: Subject, probe: Probe) -> Finding | None:
    """Images whose rows in memory run through the channels first: they are smoother at a stride of C than along W, or jump every C values."""
    for tensor in tensors_in(probe.train.inputs):
        if tensor.dim() != 4 or not tensor.is_floating_point() or tensor.shape[1] not in (2, 3, 4) or min(tensor.shape[2:]) < 5:
            continue
        images = tensor[:200].float()
        channels = images.shape[1]
        # Along W only: the step from the end of one row to the start of the next is as large in a picture that is as it should be.
        step = (images[..., 1:] - images[..., :-1]).abs()
        near, stride = float(step.mean()), float((images[..., channels:] - images[..., :-channels]).abs().mean())
        place = torch.arange(images[0].numel()).reshape(images.shape[1:])[..., :-1] % channels  # the step's place in memory, modulo C
        phases = torch.stack([step[:, place == start].mean() for start in range(channels)])
        jump = float(phases[-1] / phases[:-1].mean().clamp_min(1e-12))
        if near == 0:
            continue
        # In a picture stored by channel the neighbour along W is closer than the one C places on, and a position modulo C means nothing:
        # photographs and drawn shapes gave jumps of 1.00 to 1.02 as they should be, 2.1 and more (or a stride of 0.7) when reshaped.
        if stride < 0.75 * near or jump > 1.5:
            return Finding(
                "D10", "warning", f"Along W neighbours differ by {near:.3g}, at a stride of {channels} by {stride:.3g}; every {channels}rd step is {jump:.1f} times the others.",
                {"along_width": near, "at_stride_of_channels": stride, "jump": jump},
                "Pictures stored as (N, H, W, C) were reshaped, not permuted: the convolution sees scrambled pixels and needs far more data.",
                "Use x.permute(0, 3, 1, 2) in place of x.reshape(n, c, h, w).",
            )  # fmt: skip
    return None


def rule_d11(subject: Subject, probe: Probe) -> Finding | None:
    """Inputs of at most two values of which one is over 99 % (and most columns never vary): what integer division or truncation leaves."""
    flat = probe.flat("train")
    if flat is None or len(flat) < 10 or flat.shape[1] < 2:
        return None
    values, counts = numpy.unique(flat[:2000], return_counts=True)
    if len(values) > 2:
        return None
    share = counts.max() / counts.sum()
    constant = float((flat.max(0) == flat.min(0)).mean())
    if share > 0.99 and (constant > 0.5 or share > 0.9995):
        return Finding(
            "D11", "error" if len(values) == 1 else "warning", f"The inputs hold {len(values)} distinct value(s), {share:.2%} of them {values[counts.argmax()]:g}.",
            {"values": values, "share": share, "constant_columns": constant},
            "Nothing is left of the inputs: the model learns how often each target occurs.",
            "Divide as floats: x.float() / 255, not x // 255 and not (x / 255).to(x.dtype).",
        )  # fmt: skip
    return None


def rule_d12(subject: Subject, probe: Probe) -> Finding | None:
    """Half precision with values beyond its range (a warning), or inputs of another precision than the parameters (a note)."""
    parameter = next((parameter for parameter in subject.model.parameters() if parameter.is_floating_point()), None)
    for tensor in tensors_in(probe.train.inputs):
        if parameter is None or not tensor.is_floating_point():
            continue
        most = float(tensor[:20_000].abs().nan_to_num().max()) if tensor.numel() else 0.0
        if torch.float16 in (parameter.dtype, tensor.dtype) and most > 6e4:
            return Finding(
                "D12",
                "warning",
                f"Inputs reach {most:.4g}; float16 ends at 65504.",
                {"largest": most},
                "They become infinite.",
                "Scale the inputs or use bfloat16.",
            )
        if tensor.dtype != parameter.dtype:
            return Finding(
                "D12", "note", f"Inputs are {tensor.dtype}, parameters {parameter.dtype}.".replace("torch.", ""), {"inputs": str(tensor.dtype), "parameters": str(parameter.dtype)},
                "Mixed precisions fail or are cast.", "Give both the same dtype.",
            )  # fmt: skip
    return None


def ordered_correlation(keys: numpy.ndarray, target: numpy.ndarray, classes: bool) -> float:
    """Correlation of each target with the one before it, along `keys`; for classes the largest over the classes."""
    ordered = target[numpy.argsort(keys, kind="stable")]
    signals = [(ordered == label).astype(float) for label in numpy.unique(ordered)[:20]] if classes else [ordered]
    best = 0.0
    for signal in signals:
        if signal.std() > 0:
            best = max(best, float(numpy.corrcoef(signal[1:], signal[:-1])[0, 1]))
    return best


def evenly_spaced(ordered: numpy.ndarray) -> bool:
    """Whether sorted whole numbers are a counter: step 1, or one step where every k-th row was taken."""
    steps = numpy.diff(ordered)
    if len(steps) == 0:
        return False
    if bool(numpy.all(steps == steps[0])):
        return bool(steps[0] == 1) or len(ordered) > 4000 or bool(ordered[0] != round(ordered[0]))
    # Divided by a hundred and stored in float32, its steps are equal but for rounding.
    return bool(numpy.any(ordered != ordered.round())) and bool(numpy.abs(steps - steps.mean()).max() < 0.01 * abs(steps.mean()))


def id_like(subject: Subject, probe: Probe) -> Finding | None:
    """D13 as a note: a column that the reader left out as a counter or an id, or one of whole numbers, each other than all before, that went in as a feature."""
    reasons = {name: why.split(";")[0] for name, why in subject.left_out.items() if why.startswith(("it counts the rows", "an id"))}
    if reasons:
        return Finding(
            "D13", "note", f"Left out as no feature: {', '.join(f'{name} ({why})' for name, why in reasons.items())}.", {"columns": list(reasons)},
            "As a feature it would be learnt by heart and say nothing about new rows.", f"Nothing, or columns={{{next(iter(reasons))!r}: \"number\"}} if it is meant.",
        )  # fmt: skip
    if subject.table is None:
        return None
    for column in probe.columns:
        # Amounts in whole numbers repeat here and there: among a thousand of them up to a million some two are equal nearly always (birthdays).
        values = column.finite
        if not (
            column.used
            and column.kind == "number"
            and column.is_integer
            and 200 <= len(values) == column.distinct
            and len(values) ** 2 > 4 * (values.max() - values.min())
        ):
            continue
        return Finding(
            "D13", "note", f"{column.name} holds {column.distinct} whole numbers, each other than all the rest.", {"column": column.name},
            "If it is an id, it is learnt by heart and says nothing about new rows.", f"If it is an id: drop=[{column.name!r}].",
        )  # fmt: skip
    return None


def rule_d13(subject: Subject, probe: Probe) -> Finding | None:
    """A feature that counts the rows (whole, unique, step 1) while the targets depend on the order of the rows."""
    target = probe.target_column
    if target is None or subject.split == "time" or len(probe.columns) < 2 or not numpy.isfinite(target).all():
        return id_like(subject, probe)
    for column in probe.columns:
        if not (column.used and len(column.finite) == column.distinct and len(column.values) == len(target) and len(target) >= 30):
            continue
        ordered = numpy.sort(column.values)
        # A row number may have been divided since; then only a column that also runs with the rows is one (a grid of a curve is no row number).
        if not column.is_integer and (subject.split == "given" or len(probe.columns) < 3 or not bool((numpy.diff(column.values) > 0).all())):
            continue
        if not evenly_spaced(ordered):
            continue
        correlation = ordered_correlation(column.values, target, probe.has_classes)
        # Where every other column is a smooth function of this one (x beside x**2 and x**3), the rows are points of a curve and it is the curve's argument.
        others = [other for other in probe.columns if other is not column and other.used and len(other.finite) == len(column.values) and other.distinct > 1]
        if others and all(ordered_correlation(column.values, other.values, False) > 0.99 for other in others):
            continue
        if correlation > 0.5:
            return Finding(
                "D13", "warning", f"{column.name} numbers the rows from {ordered[0]:g} to {ordered[-1]:g}, and targets of neighbouring numbers are alike (correlation {correlation:.2f}).",
                {"column": column.name, "correlation": correlation},
                "The model learns the order of the file: a perfect score here, none on new rows.", f"Leave it out: drop=[{column.name!r}].",
            )  # fmt: skip
    return id_like(subject, probe)


def rule_d14(subject: Subject, probe: Probe) -> Finding | None:
    """A whole-number column of 5 to 50 values whose target means jump about: far from any smooth curve, so its numbers are names."""
    target = probe.target_column
    if target is None or len(probe.columns) > 64 or subject.split == "time":
        return None
    rows = probe.in_train
    outcome = target[rows]
    if probe.has_classes and len(numpy.unique(outcome)) > 2:
        values, counts = numpy.unique(outcome, return_counts=True)
        outcome = (outcome == values[counts.argmax()]).astype(float)
    if not numpy.isfinite(outcome).all() or outcome.std() == 0:
        return None
    for column in probe.columns:
        if not column.used or not column.is_integer or column.kind == "category" or not 5 <= column.distinct <= 50:
            continue
        values = column.values[rows]
        if not numpy.isfinite(values).all():
            continue
        levels, group, sizes = numpy.unique(values, return_inverse=True, return_counts=True)
        if len(levels) < 5 or numpy.median(sizes) < 8 or levels[-1] - levels[0] > 3 * len(levels):
            continue
        means = numpy.bincount(group, outcome) / sizes
        by_level = 1 - float(((outcome - means[group]) ** 2).mean()) / outcome.var()
        degree = 2 if len(levels) <= 6 else 3
        position = (values - values.mean()) / values.std()
        design = numpy.vander(position, degree + 1)
        fitted = design @ numpy.linalg.lstsq(design, outcome, rcond=None)[0]
        smooth = 1 - float(((outcome - fitted) ** 2).mean()) / outcome.var()
        chance = len(levels) / len(values)
        # Grades, counts, hours follow a curve of degree three; names do not. Below a tenth of the variance it does not matter.
        if by_level - smooth > 0.1 + 2 * chance and by_level > 2 * max(smooth, 0):
            return Finding(
                "D14", "warning", f"{column.name} has {len(levels)} whole numbers; taken as names they explain {by_level:.0%} of the target, as a smooth number only {smooth:.0%}.",
                {"column": column.name, "levels": len(levels), "as_names": by_level, "as_number": smooth},
                "The model is told that code 3 lies between 2 and 4.", f"Tell that it is a category: columns={{{column.name!r}: \"category\"}}, or use nn.Embedding.",
            )  # fmt: skip
    return None


def rule_d15(subject: Subject, probe: Probe) -> Finding | None:
    """No input beyond 0.02, also where the first weight layer gets it: scaled twice."""
    if subject.standardised:
        return None
    floats = [tensor for tensor in tensors_in(probe.train.inputs) if tensor.is_floating_point() and tensor.numel()]
    if not floats:
        return None
    most = max(float(tensor.abs().nan_to_num().max()) for tensor in floats)
    reaching = first_weighted_input(probe)
    if 0 < most < 0.02 and (reaching is None or float(reaching.abs().max()) < 0.05):
        return Finding(
            "D15", "warning", f"No input is larger than {most:.3g}.", {"largest": most},
            "Scaled twice (divided by 255 again, standardised again): the first layer sees nearly zero and learning stalls.",
            "Scale once, to a spread near 1.",
        )  # fmt: skip
    return None


def rule_d16(subject: Subject, probe: Probe) -> Finding | None:
    """Two continuous columns that are one (correlation over 0.9999); for discrete ones a note."""
    columns = [column for column in probe.columns if column.used and bool(numpy.isfinite(column.values[:5000]).all()) and column.distinct > 1]
    if not 2 <= len(columns) <= 64 or len(columns[0].values) < 10:
        return None
    matrix = numpy.stack([column.values[:5000] for column in columns])
    keep = matrix.std(1) > 0
    columns = [column for column, kept in zip(columns, keep) if kept]
    if len(columns) < 2:
        return None
    correlation = numpy.abs(numpy.triu(numpy.corrcoef(matrix[keep]), 1))
    first, second = numpy.unravel_index(int(numpy.nanargmax(correlation)), correlation.shape)
    value = float(correlation[first, second])
    if value <= 0.9999:
        return None
    pair = (columns[first], columns[second])
    continuous = min(column.distinct for column in pair) > 12
    return Finding(
        "D16", "warning" if continuous else "note", f"{pair[0].name} and {pair[1].name} are the same column in other words (correlation {value:.6f}).",
        {"columns": [column.name for column in pair], "correlation": value},
        "Their weights are not determined: they grow apart and cancel, and importance is split by chance.", "Drop one of the two.",
    )  # fmt: skip


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


def rule_d20(subject: Subject, probe: Probe) -> Finding | None:
    """A float32 column whose mean is over 100,000 deviations away from zero: 24 bits hold nothing of its variation."""
    for column in probe.columns:
        if not column.used or column.dtype != "float32" or len(column.finite) < 2:
            continue
        spread, middle = float(column.finite.std()), abs(float(column.finite.mean()))
        if spread > 0 and middle / spread > 1e5:
            resolution = float(numpy.spacing(numpy.float32(middle)))
            return Finding(
                "D20", "warning", f"{column.name} is float32 around {middle:.6g} with a spread of {spread:.4g}: its smallest step there is {resolution:g}.",
                {"column": column.name, "mean": middle, "deviation": spread, "step": resolution},
                "Most of the column's variation was rounded away when it was stored.", "Subtract the offset in float64, then go to float32.",
            )  # fmt: skip
    return None


NUMBER = re.compile(r"^\s*[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?\s*%?\s*$")


def rule_d21(subject: Subject, probe: Probe) -> Finding | None:
    """A text column used as a category of which over 95 % read as numbers with decimals, or as whole numbers that go with the target."""
    for name, values in (subject.table or {}).items():
        if name not in subject.used or subject.kinds.get(name) == "number" or as_numbers(numpy.asarray(values))[0] is not None:
            continue
        texts = ["" if value is None else str(value) for value in values]
        filled = [text for text in texts if text.strip()]
        reads = [bool(NUMBER.match(text)) for text in filled]
        if len(filled) < 20 or sum(reads) / len(filled) <= 0.95 or len(set(filled)) <= 12:
            continue
        numbers = numpy.array([float(text.strip().rstrip("%").replace(",", ".")) if NUMBER.match(text) else numpy.nan for text in texts])
        decimals = float(numpy.mean(["." in text or "," in text or "-" in text for text in filled]))
        target, ok = probe.target_column, numpy.isfinite(numbers)
        related = 0.0
        if target is not None and len(target) == len(numbers) and numbers[ok].std() > 0 and target[ok].std() > 0:
            related = abs(float(numpy.corrcoef(numbers[ok], target[ok])[0, 1]))
        fixed_width = len({len(text) for text in filled}) == 1  # zip codes and product numbers are names
        if decimals > 0.3 or (not fixed_width and related > 0.2):
            odd = sorted({text for text, good in zip(filled, reads) if not good})[:3]
            return Finding(
                "D21", "warning", f"'{name}' is text, but {sum(reads)} of {len(filled)} values are numbers" + (f" (not: {', '.join(map(repr, odd))})." if odd else "."),
                {"column": name, "numbers": sum(reads), "values": len(filled), "others": odd},
                f"Each of its {len(set(filled))} texts becomes a level of its own.", f"Read it as a number: columns={{{name!r}: \"number\"}}, missing={odd or ['?']}.",
            )  # fmt: skip
    return None


RULES = (
    rule_d01, rule_d02, rule_d03, rule_d04, rule_d05, rule_d06, rule_d07, rule_d08, rule_d09, rule_d10, rule_d11, rule_d12, rule_d13, rule_d14, rule_d15, rule_d16,
    rule_d17, rule_d18, rule_d19, rule_d20, rule_d21,
)  # fmt: skip
