"""All checks before the first step: `check_before(subject)` -> findings, in at most a second, with nothing of the user's touched.

Every rule is one function of (subject, probe) in a module `before_*`, named for what its rules look at; `rules` asks them. A rule that cannot be asked becomes a
note C00 with its reason: a check never breaks a run and never hides that it was not made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fivestep.checks import (
    before_columns,
    before_data,
    before_dataset,
    before_forward,
    before_loss,
    before_metric,
    before_model,
    before_optimizer,
    before_own_loss,
    before_rows,
    before_split,
    before_target,
    before_weights,
)  # fmt: skip
from fivestep.checks.findings import SEVERITIES, Finding
from fivestep.checks.probe import Probe
from fivestep.checks.rules import ask, could_not_check, quietly
from fivestep.checks.subject import Subject

# From cheap to dear: what has no time left is what costs most (a rehearsal, learning eight rows by heart).
RULES = (
    *before_optimizer.READ, *before_weights.READ, *before_model.READ, *before_data.RULES, *before_columns.RULES, *before_rows.RULES, *before_dataset.RULES,
    *before_split.RULES, *before_loss.RULES, *before_target.RULES, *before_own_loss.RULES, *before_metric.RULES, *before_weights.ASKED, *before_model.ASKED,
    *before_forward.RULES, *before_optimizer.REHEARSED, before_model.rule_m31,
)  # fmt: skip

# Where the left one is found, the right ones say the same thing less clearly: they become notes.
EXPLAINS = {
    "S01": ("E03",), "S11": ("S14",), "L11": ("T01",), "D11": ("D06", "D07", "M38"), "D06": ("D07", "M38", "M05"), "M08": ("M05", "M38"), "M15": ("M05", "M08", "M38"),
    "M36": ("M38", "M05"), "L31": ("M38", "M05"), "L06": ("M05",), "M04": ("M05",), "L20": ("M05",), "M17": ("M05",),
    "O10": ("O02",),
}  # fmt: skip


# Where the left one is found, the right ones may be true as well and are likely to be gone with it: their fix is to mend that first.
COMES_OF = {
    "D01": ("M16", "O01"), "D02": ("M16", "O01"), "D03": ("T01",), "D04": ("D01",), "D11": ("D06", "D07"), "L01": ("M31",), "L03": ("M31",), "L11": ("M16", "O01"),
    "L21": ("O01",), "M04": ("O02",), "M08": ("O02",), "M13": ("M11",), "S01": ("S09",), "S13": ("S09",), "S14": ("T05",),
}  # fmt: skip


def check_before(subject: Subject, *, ignore: Sequence[str] = (), seconds: float | None = None, probe: Probe | None = None) -> list[Finding]:
    """Findings on data, split, model, loss and plan before anything is trained, errors first.

    Model, optimizer, data and random generators are left as they are, to the bit. `ignore` leaves out codes; `seconds` is the time that measurements may take
    together (rules whose measurement was skipped say nothing). No rule raises: what could not be checked is a note "C00".
    """
    asked = probe if probe is not None else Probe(subject) if seconds is None else Probe(subject, seconds)
    late = f"the {asked.seconds:g} seconds for checks are used up"
    found = ask(RULES, subject, asked, ignore=ignore, out_of_time=lambda: None if asked.has_time() else late)
    if asked.refusal is not None:
        told = None
        if not any(finding.severity == "error" for finding in found):
            with quietly():
                told = before_loss.refused_by_the_loss(subject, asked)
        found.append(could_not_check(["L"], f"the loss refuses the first batch ({asked.refusal})") if told is None else told)
    found = first_things_first([finding for finding in explained(found) if finding.code not in ignore])
    return sorted(found, key=lambda finding: -SEVERITIES.index(finding.severity))


def explained(findings: Sequence[Finding]) -> list[Finding]:
    """Findings with those demoted to notes that another one explains."""
    loud = {finding.code for finding in findings if finding.severity != "note"}
    covered = {code for cause, codes in EXPLAINS.items() if cause in loud for code in codes}
    return [replace(finding, severity="note") if finding.code in covered and finding.severity == "warning" else finding for finding in findings]


def first_things_first(findings: Sequence[Finding], before: Sequence[Finding] = ()) -> list[Finding]:
    """Findings where each that is likely to come of another one (`COMES_OF`; T04 of any mistake of data, model, loss or optimizer) says to mend that one first.

    `before` are findings of the same run that have been told already.
    """
    loud = {finding.code for finding in (*before, *findings) if finding.severity != "note"}
    made = []
    for finding in findings:
        causes = sorted(code for code in loud - {finding.code} if finding.code in COMES_OF.get(code, ()) or (finding.code == "T04" and code[0] in "DLMO"))
        made.append(replace(finding, fix=f"Mend {', '.join(causes)} first: this is likely to come of it.") if causes else finding)
    return made
