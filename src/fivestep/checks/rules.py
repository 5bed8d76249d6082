"""How rules are asked: each by itself and quietly, and what could not be asked becomes a note C00 with its reason.

Enters: rules (functions named `rule_CODE`) and what they are asked about. Leaves: findings. A rule never breaks a run and never hides that it was not made.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from fivestep import seeds
from fivestep.checks.findings import Finding
from fivestep.checks.probe import Probe
from fivestep.checks.subject import Subject
from fivestep.threads import one_thread

Rule = Callable[[Subject, Probe], Finding | list[Finding] | None]


def ask(rules: Sequence[Callable[..., Any]], *about: Any, ignore: Sequence[str] = (), out_of_time: Callable[[], str | None] = lambda: None) -> list[Finding]:
    """What the rules find, in their order, and last a note C00 for each reason for which some could not be asked.

    A rule whose code stands in `ignore` is not asked, nor is one for which `out_of_time` gives a reason. None of them raises, prints, warns or draws from the
    process's random numbers.
    """
    found: list[Finding] = []
    refused: dict[str, list[str]] = {}
    with quietly():
        for rule in rules:
            code = rule.__name__.removeprefix("rule_").upper()
            if code in ignore:
                continue
            late = out_of_time()
            if late is not None:
                refused.setdefault(late, []).append(code)
                continue
            try:
                result = rule(*about)
            except Exception as error:  # a rule must not end a run; the note below says what happened
                refused.setdefault(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}", []).append(code)
                continue
            found += [] if result is None else result if isinstance(result, list) else [result]
    return found + [could_not_check(codes, reason) for reason, codes in refused.items()]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Inside, gradients are on, one thread works, nothing is printed or warned, and random numbers are drawn from a stream of their own."""
    with seeds.restored(0), warnings.catch_warnings(), torch.enable_grad(), contextlib.redirect_stdout(io.StringIO()), one_thread():
        warnings.simplefilter("ignore")
        yield


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
