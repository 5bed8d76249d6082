"""Mistakes that end a run before the checks could be asked, told as findings: nothing to train (O04), weights of which none fits (P02), rows that do not fit (D13, D21).

Enters: what `prepare` holds when a part of it refuses. Leaves: findings of severity error, or None where the refusal's own words say it all.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fivestep.checks.findings import Finding


def nothing_to_train(model: nn.Module, loss: Any = None) -> Finding | None:
    """O04 where a model has parameters and all of them are frozen (a loss with parameters of its own can still learn)."""
    held = list(model.parameters())
    trained = [*held, *(loss.parameters() if isinstance(loss, nn.Module) else ())]
    if not held or any(parameter.requires_grad for parameter in trained):
        return None
    return Finding(
        "O04", "error", f"All {len(held)} parameters of the model are frozen (requires_grad=False).", {"parameters": len(held)},
        "No optimizer can move them: the loss stays where it began; batch norm statistics may drift and hide it.",
        "Leave requires_grad at True for what is to learn (a new head on a frozen body: freeze=[\"body.*\"]).",
    )  # fmt: skip


def no_weight_fits(refusal: Exception) -> Finding:
    """P02 for weights of which not one could be loaded."""
    return Finding(
        "P02", "error", str(refusal), {}, "load_state_dict(strict=False) in plain torch would have loaded nothing, in silence.",
        "Compare the names (a 'module.' or 'model.' prefix is usual; {\"model\": state} needs its inner part), and load with weights_strict=True.",
    )  # fmt: skip


def rows_do_not_fit(splits: Any, model: nn.Module, refusal: Exception) -> Finding | None:
    """Why a table's rows are wider or narrower than the model expects, where a column that means something else is behind it; None for arrays and other reasons."""
    if splits.columns is None:
        return None
    data = splits.train.data
    dropped = set(data.options["drop"])
    wanted = next((int(parameter.shape[1]) for parameter in model.parameters() if parameter.dim() == 2), None)
    widths = f"The model's first weight takes {wanted} numbers, the table gives {splits.num_inputs}" if wanted is not None else f"{refusal}"
    counters = [column for column in splits.columns.left_out if column.name not in dropped and column.why.startswith(("it counts the rows", "an id"))]
    if counters and (wanted is None or wanted > splits.num_inputs):
        names = ", ".join(f"'{column.name}' ({column.why.split(';')[0]})" for column in counters)
        return Finding(
            "D13", "error", f"{widths}: {names} is no feature and was left out.", {"columns": [column.name for column in counters], "inputs": splits.num_inputs, "model": wanted},
            "A number that every row has for itself says where a row stands in the file: a perfect score in a sorted file, nothing on new rows.",
            f"Give the model {splits.num_inputs} inputs (a class gets num_inputs), or say that it is meant: columns={{{counters[0].name!r}: \"number\"}}.",
        )  # fmt: skip
    texts = [name for name in data.typed.inputs if str(data.typed.table.column(name).dtype) == "String"]
    if data.kind == "table" and data.typed.table.lines is None and texts:
        numbers = [column.name for column in data.typed.columns if column.name in texts and column.kind == "number"]
        if numbers:
            return Finding(
                "D21", "error", f"{widths}: {', '.join(map(repr, numbers))} is text in the table and was read as numbers; what is none counts as missing and adds a yes/no input.",
                {"columns": numbers, "inputs": splits.num_inputs, "model": wanted},
                "As it stands one odd value makes a whole column text, and each number a category of its own.",
                f"Turn it into numbers before (pandas.to_numeric), or give the model {splits.num_inputs} inputs.",
            )  # fmt: skip
    return None


def how_columns_are_encoded(splits: Any) -> str:
    """One sentence on where a table's input numbers come from, for a model that does not take as many; empty for arrays."""
    if splits.columns is None:
        return ""
    return f" The table gives {splits.num_inputs} numbers a row; a class as the model gets num_inputs filled in. Its columns:\n{splits.columns.describe()}"
