"""The exceptions of fivestep, and the exit code each one means in the shell.

```
FivestepError                       70   anything below; catch this to catch all
├── UsageError        (ValueError)  64   an argument that means nothing, or two that contradict each other
├── DataError         (ValueError)  65   a file, frame or array that cannot be used as it is; .problems holds all that were found
├── MissingInputError               66   a file, run or artifact that is not there, or of which nothing valid is left
│   └── ArtifactError (ValueError)  66   an artifact or checkpoint that is damaged, hostile or made by a newer version
├── TrainingError                   70   training cannot go on
├── CannotCreateError               73   an output that exists already or cannot be created
├── StorageError      (OSError)     74   the disk refused: full, read-only, failing
├── LockedError                     75   another process works on this run
├── SettingsError     (ValueError)  78   a setting that fits neither model nor data
├── FindingsError                   65/78  a finding of severity "error" stopped the run; .findings holds all of them
│   └── NonFiniteError              70   (a TrainingError too) a loss, gradient or weight became NaN or infinite; .step, .layer, .rows say where
└── Interrupted                     130/143  SIGINT or SIGTERM; what stands on disk can be resumed
```

Exit codes are those of sysexits.h (RELIABILITY P3). Messages say what was found (with values), what it would have caused, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class FivestepError(Exception):
    """Base of every error that fivestep raises on purpose."""

    exit_code = 70


class UsageError(FivestepError, ValueError):
    """An argument means nothing, or two arguments contradict each other."""

    exit_code = 64


class DataError(FivestepError, ValueError):
    """The data cannot be used as it is. `problems` holds every problem as one text each; the message joins the first ones."""

    exit_code = 65

    def __init__(self, message: str, problems: Sequence[str] = ()):
        super().__init__(message)
        self.problems: tuple[str, ...] = tuple(problems) or (message,)


class MissingInputError(FivestepError):
    """A file, run or artifact is not there, or nothing valid is left of it."""

    exit_code = 66


class ArtifactError(MissingInputError, ValueError):
    """An artifact or checkpoint is damaged, hostile, or made by a newer version."""


class TrainingError(FivestepError):
    """Training cannot go on."""

    exit_code = 70


class CannotCreateError(FivestepError):
    """An output exists already or cannot be created."""

    exit_code = 73


class StorageError(FivestepError, OSError):
    """The disk refused a write or a read: full, read-only or failing."""

    exit_code = 74


class LockedError(FivestepError):
    """Another process works on this run."""

    exit_code = 75


class SettingsError(FivestepError, ValueError):
    """A setting fits neither the model nor the data."""

    exit_code = 78


class FindingsError(FivestepError):
    """A finding of severity "error" stopped the run before anything was wasted. `findings` holds all findings, the notes included."""

    def __init__(self, findings: Sequence[Any]):
        self.findings = list(findings)
        errors = [finding for finding in self.findings if finding.severity == "error"]
        # Findings on data and split (letters D and S) are bad data, the rest bad settings (RELIABILITY P3).
        self.exit_code = 65 if errors and all(finding.code[0] in "DS" for finding in errors) else 78
        super().__init__("\n\n".join(str(finding) for finding in errors))


class Interrupted(FivestepError):
    """SIGINT (exit 130) or SIGTERM (exit 143) ended the run at a step's edge; what was saved can be resumed."""

    def __init__(self, message: str, *, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows below an interrupted cell: the way on, without the frames of a run that did nothing wrong."""
        return [f"Interrupted: {self}"]


class NonFiniteError(FindingsError, TrainingError):
    """A loss, gradient or weight became NaN or infinite; `findings` holds it (D03, L21 or T01) beside those of before the run.

    `step` counts optimizer steps from 1, `layer` is the first module (or tensor) that was not finite (None where that is unknown), `rows` are positions
    in the training split, `origin` is what broke first: "inputs", "layer", "loss", "gradient" or "weights". The text is `seen`, then `fix`.
    """

    def __init__(self, message: str, *, step: int, layer: str | None = None, rows: Sequence[int] = (), origin: str = "loss", fix: str = ""):
        Exception.__init__(self, f"{message} {fix}" if fix else message)
        self.seen, self.fix = message, fix
        self.findings: list[Any] = []
        self.exit_code = 70
        self.step, self.layer, self.rows, self.origin = step, layer, tuple(rows), origin
