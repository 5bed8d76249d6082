"""Writes the pages of docs/ whose facts stand in the code, so that they cannot differ: `make docs`. With --check it only says which are not up to date."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from fivestep.model.losses import LOSSES

DOCS = Path(__file__).parent

LOSSES_HEAD = """# How each loss of torch.nn is fed

<!-- Written by docs/write_tables.py from src/fivestep/model/losses.py: change it there, then `make docs`. -->

`loss="HuberLoss"`, the class, an instance, `{"name": "HuberLoss", "delta": 2.0}` or a function of your own: a loss is called as `loss(*outputs, *targets)`,
the outputs of your model first, and its value is torch's own mean. A model that returns a tuple gives several outputs; `output=` picks what the loss sees
where it returns more. Arrays and datasets are never reshaped: a wrong shape is an error that names both. A table's target takes the dtype of the loss and the
shape of the model's output.

- *Mean over* is what torch's mean divides by, and so how parts of a batch (`part_size`), uneven last batches and ranks are joined to the mean of the whole
  batch: elements of the target, rows, row elements (rows and all axes but the last), labels (those not ignored, by class weight), lengths of the sequences.
- *Scaled*: a table's target is standardised inside and given back in its own unit.
- *Class weights*: the argument that `class_weights=` is passed to.

| loss | outputs | targets | target | read as | task | mean over | scaled | class weights |
|---|---|---|---|---|---|---|---|---|
"""

TARGETS = {
    "same": "float, the output's shape",
    "index": "class numbers, int64",
    "binary": "0 ... 1, float",
    "sign": "-1 or 1",
    "none": "",
    "special": "see below",
}
HEADS = {
    "identity": "its own value",
    "softmax": "logits (softmax)",
    "sigmoid": "logits (sigmoid)",
    "log_softmax": "log-probabilities",
    "probability": "probabilities",
    "exp": "log of a rate",
}


def losses_page() -> str:
    rows = []
    for name, kind in LOSSES.items():
        cells = [f"`{name}`", str(kind.num_outputs), str(kind.num_targets), TARGETS[kind.target], HEADS[kind.head], kind.task or "", kind.mean_over]
        rows.append("| " + " | ".join([*cells, "yes" if kind.scales_target else "", f"`{kind.class_weights}`" if kind.class_weights else ""]) + " |")
    named: dict[str, list[str]] = {}  # several losses share one note
    for name, kind in LOSSES.items():
        if kind.notes:
            named.setdefault(kind.notes, []).append(f"`{name}`")
    notes = [f"- {', '.join(names)}: {note}" for note, names in named.items()]
    return LOSSES_HEAD + "\n".join(rows) + "\n\n" + "\n".join(notes) + "\n"


PAGES: dict[str, Callable[[], str]] = {"losses.md": losses_page}


def outdated() -> list[str]:
    """The pages that are not what the code says now."""
    return [name for name, page in PAGES.items() if not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != page()]


def main(arguments: list[str]) -> int:
    found = outdated()
    if "--check" in arguments:
        print("\n".join(f"docs/{name} is not what the code says: make docs" for name in found) or "docs/ is up to date")
        return 1 if found else 0
    for name in found:
        (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"wrote docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
