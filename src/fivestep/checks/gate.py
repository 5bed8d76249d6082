"""Where a session meets the checks: what stops a run, what is only said, and what is looked at while and after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fivestep.checks.findings import Finding
from fivestep.model import losses


def before(session: Any, example: Any, outputs: Any, *, ignore: Sequence[str] = ()) -> list[Finding]:
    """Findings before the first step."""
    found: list[Finding] = []
    if session.loss is not None and outputs is not None:
        source = session.encoded["train"]
        import torch

        rows = torch.arange(min(len(source), 8))
        targets = source.take(rows)[1]
        whole = source.targets if hasattr(source, "targets") else targets
        problem = losses.shape_problem(session.loss, outputs, targets) or label_problem(session, outputs, whole)
        if problem:
            found.append(Finding("L05", "error", problem, {}, "The loss would broadcast, fail or learn something else.", "Give outputs and targets the same shape."))
    return [finding for finding in found if finding.code not in ignore]


def label_problem(session: Any, outputs: Any, targets: tuple[Any, ...]) -> str | None:
    return None if not isinstance(outputs, Tensor) else losses.shape_problem(session.loss, outputs, targets) if False else None


class Nothing:
    def see(self, event: Any) -> None:
        return

    def findings(self) -> list[Finding]:
        return []


def watch(session: Any, ignore: Sequence[str]) -> Any:
    return Nothing()


def look_at_rows(session: Any, rows: Any) -> list[Finding]:
    return []


def after_prediction(run: Any, rows: Any) -> list[Finding]:
    return []
