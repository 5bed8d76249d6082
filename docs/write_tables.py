"""Writes the pages of docs/ whose facts stand in the code, so that they cannot differ: `make docs`. With --check it only says which are not up to date."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from fivestep.checks.catalogue import CATALOGUE
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


FINDINGS_HEAD = """# What fivestep looks for

<!-- Written by docs/write_tables.py from src/fivestep/checks/catalogue.py: change it there, then `make docs`. -->

`fit` looks before it trains, while it trains and afterwards; `fs.check(model, splits)` takes the same arguments and trains nothing. A finding says what was seen
(with values), what it would cause and what to do. An **error** stops the run before anything is wasted, a **warning** is shown, a **note** is kept in the
record; the table gives the loudest a rule can be. `ignore=["D13"]` (in the shell `--ignore D13`) accepts a finding, `fivestep explain D13` tells what stands
here.

*When*: **data** is looked at as it is; **probe** runs copies of the model before the run; **during** and **after** watch the history; **never** needs no rule,
as the loop makes the mistake impossible or torch itself says it aloud.
"""

LETTERS = {
    "C": "The checks themselves",
    "D": "Data",
    "S": "Split and leakage",
    "M": "Model",
    "L": "Loss and target",
    "O": "Optimizer and learning rate",
    "T": "Dynamics of training",
    "E": "Evaluation",
    "P": "Saving and loading",
    "I": "Prediction",
}


NEVER_LOUD = """
## Not trusted to be loud

Two kinds of mistakes of the catalogue never stop or warn. For some there is no rule, as they cannot happen here, are said aloud by torch, or leave no trace in tensors:

{never}

Others are told as notes only, as a healthy run can look the same:

{notes}
"""


def never_loud() -> str:
    """Each rule that has no finding, or only notes, with its reason. C00 and what `fivestep verify` tells of a folder are no mistakes of a training."""
    listed = {
        kind: "\n".join(f"- {rule.code} {rule.name}: {rule.explanation}" for rule in CATALOGUE.values() if chosen(rule))
        for kind, chosen in (
            ("never", lambda rule: rule.when == "never"),
            ("notes", lambda rule: rule.severity == "note" and rule.when not in ("never", "verify") and rule.letter != "C"),
        )
    }
    return NEVER_LOUD.format(**listed)


def findings_page() -> str:
    parts = [FINDINGS_HEAD]
    for letter in sorted({rule.letter for rule in CATALOGUE.values()}, key=list(LETTERS).index):
        parts.append(f"\n## {letter}: {LETTERS[letter]}\n\n| code | name | when | at most | what happens | wrong | right |\n|---|---|---|---|---|---|---|\n")
        for rule in CATALOGUE.values():
            if rule.letter == letter:
                code = ["" if text == "-" else f"`{text}`" for text in (rule.wrong, rule.right)]
                cells = [rule.code, rule.name, rule.when, rule.severity, rule.explanation, *code]
                parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    parts.append(never_loud())
    return "".join(parts)


PAGES: dict[str, Callable[[], str]] = {"losses.md": losses_page, "findings.md": findings_page}


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
