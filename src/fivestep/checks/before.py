"""All checks before the first step: `check_before(subject)` -> findings, in at most a second, with nothing of the user's touched.

Every rule is one function of (subject, probe) in `before_data`, `before_split`, `before_model`, `before_loss` or `before_optimizer`. A rule that cannot be
asked becomes a note C00 with its reason: a check never breaks a run and never hides that it was not made.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fivestep import seeds
from fivestep.checks import before_data, before_loss, before_model, before_optimizer, before_split
from fivestep.checks.findings import SEVERITIES, Finding
from fivestep.checks.probe import Probe
from fivestep.checks.subject import Subject

# From cheap to dear: what has no time left is what costs most (a rehearsal, learning eight rows by heart).
RULES = (
    *before_optimizer.READ, *before_model.READ, *before_data.RULES, *before_split.RULES, *before_loss.RULES, *before_model.ASKED, *before_optimizer.REHEARSED, before_model.rule_m31,
)  # fmt: skip

# Where the left one is found, the right ones say the same thing less clearly: they become notes.
EXPLAINS = {
    "S01": ("E03",), "S11": ("S14",), "L11": ("T01",), "D11": ("D06", "D07", "M38"), "D06": ("D07", "M38", "M05"), "M08": ("M05", "M38"), "M15": ("M05", "M08", "M38"),
    "M36": ("M38", "M05"), "L31": ("M38", "M05"), "L06": ("M05",), "M04": ("M05",), "L20": ("M05",), "M17": ("M05",),
}  # fmt: skip


def check_before(subject: Subject, *, ignore: Sequence[str] = (), seconds: float | None = None, probe: Probe | None = None) -> list[Finding]:
    """Findings on data, split, model, loss and plan before anything is trained, errors first.

    Model, optimizer, data and random generators are left as they are, to the bit. `ignore` leaves out codes; `seconds` is the time that measurements may take
    together (rules whose measurement was skipped say nothing). No rule raises: what could not be checked is a note "C00".
    """
    if probe is None:
        probe = Probe(subject) if seconds is None else Probe(subject, seconds)
    found: list[Finding] = []
    refused: dict[str, list[str]] = {}
    quiet = io.StringIO()
    with seeds.restored(0), warnings.catch_warnings(), torch.enable_grad(), contextlib.redirect_stdout(quiet), one_thread():
        warnings.simplefilter("ignore")
        for rule in RULES:
            code = rule.__name__.removeprefix("rule_").upper()
            if code in ignore:
                continue
            if not probe.has_time():
                refused.setdefault(f"the {probe.seconds:g} seconds for checks are used up", []).append(code)
                continue
            try:
                result: Any = rule(subject, probe)
            except Exception as error:  # a rule must not end a run; the note below says what happened
                refused.setdefault(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}", []).append(code)
                continue
            found += [] if result is None else result if isinstance(result, list) else [result]
        if probe.refusal is not None:
            told = None if any(finding.severity == "error" for finding in found) else before_loss.refused_by_the_loss(subject, probe)
            if told is None:
                refused.setdefault(f"the loss refuses the first batch ({probe.refusal})", []).append("L")
            else:
                found.append(told)
    found = [finding for finding in explained(found) if finding.code not in ignore]
    for reason, codes in refused.items():
        found.append(could_not_check(codes, reason))
    return sorted(found, key=lambda finding: -SEVERITIES.index(finding.severity))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Probes are small: on one thread they take no longer, and a busy machine does not stretch them threefold. The number is given back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def could_not_check(codes: Sequence[str], reason: str) -> Finding:
    """The note that some rules were not made, and why."""
    return Finding(
        "C00",
        "note",
        f"{', '.join(codes)} could not be checked: {reason[:300]}",
        {"rules": list(codes), "reason": reason[:300]},
        "These mistakes would go unseen.",
        "",
    )


def explained(findings: Sequence[Finding]) -> list[Finding]:
    """Findings with those demoted to notes that another one explains."""
    loud = {finding.code for finding in findings if finding.severity != "note"}
    covered = {code for cause, codes in EXPLAINS.items() if cause in loud for code in codes}
    return [
        Finding(finding.code, "note", finding.what, finding.evidence, finding.cause, finding.fix)
        if finding.code in covered and finding.severity == "warning"
        else finding
        for finding in findings
    ]
