"""Rules on the values that go in (letter D): scale, missing values, pictures in bytes or in the wrong order, precision.

Each rule is one function of (subject, probe) that returns a Finding or None. Thresholds stand beside the reason for them. Columns: `before_columns`; rows and their
targets: `before_rows`; what a Dataset returns: `before_dataset`.
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from fivestep import seeds
from fivestep.checks.before_columns import named_column
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.recording import WEIGHT_OPERATIONS, tensors_in
from fivestep.checks.rules import Rule
from fivestep.checks.subject import Subject
from fivestep.train.loop import forward


def first_weighted_input(probe: Probe) -> Tensor | None:
    """What the first weight layer gets in train mode: the inputs after whatever the model does to them first (a norm, a division)."""
    value = next((call.input for call in probe.training.calls if call.name in WEIGHT_OPERATIONS), None)
    return value.detach().float() if isinstance(value, Tensor) and value.dim() > 0 and value.is_floating_point() else None


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


RULES: tuple[Rule, ...] = (rule_d01, rule_d02, rule_d03, rule_d10, rule_d11, rule_d12, rule_d15)
