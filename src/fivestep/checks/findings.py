"""A finding: what was seen, what it would cause, what to do about it; and the catalogue that tells about each code.

Enters: values that a rule has measured. Leaves: text for a person, JSON for a file. Severity decides what happens: an error stops the run before it starts,
a warning is shown, a note is only kept in the record. No rule lives here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fivestep.checks.catalogue import CATALOGUE, Rule

__all__ = ["CATALOGUE", "SEVERITIES", "Finding", "Findings", "Rule", "worst"]

SEVERITIES = ("note", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One thing that a check has seen. `code` is a key of CATALOGUE; `evidence` holds the numbers behind `what`, as plain values.

    >>> print(Finding("L09", "error", "Targets go from -1 to 1.", {"least": -1.0}, "The loss falls without bound.", "Map the labels to 0 and 1."))
    L09 error: BCE targets outside [0, 1]
      seen   Targets go from -1 to 1.
      costs  The loss falls without bound.
      fix    Map the labels to 0 and 1. (ignore=["L09"] accepts it.)
    """

    code: str
    severity: str
    what: str
    evidence: dict[str, Any] = field(default_factory=dict)
    cause: str = ""
    fix: str = ""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity {self.severity!r} is none of {', '.join(SEVERITIES)}")
        object.__setattr__(self, "evidence", {str(key): plain(value) for key, value in self.evidence.items()})

    @property
    def name(self) -> str:
        """The mistake's short name."""
        return CATALOGUE[self.code].name if self.code in CATALOGUE else self.code

    def __str__(self) -> str:
        lines = [f"{self.code} {self.severity}: {self.name}", f"  seen   {self.what}"]
        if self.cause:
            lines.append(f"  costs  {self.cause}")
        if self.fix:
            accepts = f' (ignore=["{self.code}"] accepts it.)' if self.severity != "note" else ""
            lines.append(f"  fix    {self.fix}{accepts}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from fivestep import displays

        return displays.finding(self)

    def to_json(self) -> dict[str, Any]:
        """The finding as a dict that `json.dumps(..., allow_nan=False)` takes: a number that is not finite becomes its name as text."""
        return {
            "code": self.code, "severity": self.severity, "name": self.name, "what": self.what,
            "evidence": self.evidence, "cause": self.cause, "fix": self.fix,
        }  # fmt: skip

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Finding:
        """The inverse of `to_json`."""
        return cls(record["code"], record["severity"], record["what"], dict(record["evidence"]), record["cause"], record["fix"])


class Findings(list[Finding]):
    """A list of findings that a notebook shows as such, the loudest first; `print` gives one text each."""

    def __str__(self) -> str:
        return "\n\n".join(map(str, self)) or "no findings"

    def _repr_html_(self) -> str:
        from fivestep import displays

        loudest_first = sorted(self, key=lambda found: -SEVERITIES.index(found.severity))  # stable: the order of one severity stays
        return "".join(map(displays.finding, loudest_first)) or "<div>no findings</div>"


def worst(findings: Sequence[Finding]) -> str | None:
    """The most severe severity among `findings`; None where there are none."""
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default=None)


def plain(value: Any) -> Any:
    """A value as JSON knows it: tensors and arrays become numbers and lists, floats are rounded to six digits, NaN and infinities become text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)
