"""What a model was trained on: rows of each split, columns and how each is read, drift between splits, shares of classes.

Enters: a `Run`. Leaves: tables as HTML. Targets of test rows are not looked at.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fivestep.results.drift import ColumnDrift, drift
from fivestep.results.figures_svg import spark
from fivestep.results.page import Cell, paragraph, table, text
from fivestep.results.report_verdict import SPLIT_NAMES, counted

MOST_COLUMNS = 60  # columns that are shown one by one


def data_section(run: Any) -> str:
    splits = run.splits
    parts = [part for part in (splits.train, splits.val, splits.test) if part is not None]
    total = sum(map(len, parts))
    how = split_words(splits)
    rows = [[SPLIT_NAMES[part.name], Cell(f"{len(part):,}", "n"), Cell(f"{len(part) / total:.1%}", "n"), part.data.origin] for part in parts]
    shown = table(f"Rows. {how}".rstrip("."), ["split", "rows", "share", "from"], rows) + class_shares(run)
    if splits.columns is None:
        shape = getattr(getattr(splits.train.data.source, "inputs", None), "shape", None)
        return shown + (paragraph(f"Inputs have the shape {tuple(shape)}, rows first.") if shape is not None else "")
    drifts = drift(splits)
    by_name: dict[str, list[ColumnDrift]] = {}
    for one in drifts:
        by_name.setdefault(one.name, []).append(one)
    lines = []
    described_columns = splits.columns.describe().lines
    for line in described_columns[:MOST_COLUMNS]:
        found = by_name.get(line.name, [])
        sketches = "".join(
            f'<div class="pair"><span>{text(SPLIT_NAMES[one.split])}</span>{spark(f"{line.name} in training (filled) and {SPLIT_NAMES[one.split]} rows", *one.histograms, colour=2 if one.split == "val" else 3)}</div>'
            for one in found
        )
        differing = [one for one in found if one.differs]
        told = "; ".join(f"{SPLIT_NAMES[one.split]} {'; '.join(one.reasons)}" for one in differing)
        lines.append([
            line.name, line.kind, Cell(text(line.use), "long"), Cell(f"{line.num_missing:,}" if line.num_missing else "0", "n"), Cell(text(", ".join(map(str, line.examples)), 60), "long"),
            Cell(sketches), Cell(f'<span class="tag warn">differs</span> {text(told)}' if differing else ("alike" if found else ""), "long"),
        ])  # fmt: skip
    differing_names = sorted({one.name for one in drifts if one.differs})
    words = (
        paragraph(
            f"{counted(len(differing_names), 'column')} {'is' if len(differing_names) == 1 else 'are'} distributed otherwise than in training: {', '.join(differing_names[:8])}. "
            "A score on such rows is a score on another kind of rows."
        )
        if differing_names
        else paragraph("No column is distributed otherwise in the other splits than in training, beyond chance and a distance of 0.1 (of 1).")
        if drifts
        else ""
    )
    caption = "Columns and how each is read; training rows are filled, the other split is the line. Targets of test rows are not looked at"
    if len(described_columns) > MOST_COLUMNS:
        caption += f". The first {MOST_COLUMNS} of {len(described_columns):,}"
    return shown + words + table(caption, ["column", "kind", "use", "missing in training", "examples", "in the other splits", "against training"], lines)


def class_shares(run: Any) -> str:
    """How often each class stands in training and validation rows."""
    task = run._predictor.decoding.task
    if task not in ("binary", "multiclass"):
        return ""
    counts = {}
    for name in ("train", "val"):
        targets = run._targets(name) if name in run._encoded else None
        if isinstance(targets, Tensor) and targets.numel() == len(targets):
            labels = targets.long().flatten()
            counts[name] = torch.bincount(labels[labels >= 0])
    if not counts:
        return ""
    width = max(len(each) for each in counts.values())
    names = list(map(str, run.classes or range(width)))
    if len(names) > 30 or len(names) < width:
        return ""
    rows = []
    for label, name in enumerate(names):
        row: list[Any] = [name]
        for each in counts.values():
            count = int(each[label]) if label < len(each) else 0
            row += [Cell(f"{count:,}", "n"), Cell(f"{count / max(1, int(each.sum())):.1%}", "n")]
        rows.append(row)
    heads = ["class", *(title for name in counts for title in (f"{SPLIT_NAMES[name]} rows", "share"))]
    return table("Classes of the target", heads, rows)


def split_words(splits: Any) -> str:
    """How the split was made, in a sentence."""
    options = splits.options
    if options.get("given"):
        return "The data came already split."
    method = getattr(getattr(splits.how, "how", None), "method", "")
    column = next((str(options[key]) for key in ("group", "time", "stratify", "column") if isinstance(options.get(key), str)), "")
    told = {
        "random": f"Drawn at random with seed {options.get('seed')}.",
        "stratified": f"Drawn with equal shares of each class, seed {options.get('seed')}.",
        "groups": f"No group{f' of {column}' if column else ''} stands on two sides.",
        "time": f"In order of time{f' ({column})' if column else ''}: the latest rows are the last split.",
        "file order": "In the order of the file.",
        "indices": "By given row numbers.",
        "column": f"By the column {column}.",
        "splitter": "By a splitter of scikit-learn's.",
    }
    return told.get(method, "")
