"""The shell: thin commands over `workflow`. Results go to stdout, progress and messages to stderr; exit codes are those of `errors` (RELIABILITY P3).

Here is only what stands around every command (`commands.py`): `fivestep --version` must answer at once, so nothing else is imported for it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from fivestep._version import __version__
from fivestep.errors import DataError, FindingsError, FivestepError


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `fivestep` command: runs it and exits with its code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if argv in (["--version"], ["-V"]):
        print(__version__)
        sys.exit(0)
    sys.exit(run(argv))


def run(argv: list[str]) -> int:
    """Run one command; returns the exit code. Nothing a user, a file or a disk does ends in a traceback, unless --debug asks for it."""
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    as_json = "--json" in argv
    import typer

    UsageMistake = typer.BadParameter.__mro__[2]  # ClickException: of click itself, or of the copy that newer typers bring along

    try:
        from fivestep.apps.commands import app

        result = app(argv or ["--help"], standalone_mode=False)
        return result if isinstance(result, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        complain("Stopped by Ctrl-C.", as_json, 130)
        return 130
    except FivestepError as error:
        if debug:
            raise
        if isinstance(error, DataError) and len(error.problems) > 1:
            complain(
                "\n".join(error.problems[:20]) + (f"\n... and {len(error.problems) - 20} more" if len(error.problems) > 20 else ""), as_json, error.exit_code
            )
        else:
            complain(str(error), as_json, error.exit_code, findings=error.findings if isinstance(error, FindingsError) else ())
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of our output (head) has left; Python would complain at exit
        return 0
    except OSError as error:
        if debug:
            raise
        complain(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""), as_json, 74)
        return 74
    except Exception as error:
        if isinstance(error, UsageMistake):
            complain(error.format_message(), as_json, 64)  # type: ignore[attr-defined]
            return 64
        if debug:
            raise
        complain(f"{type(error).__name__}: {error}\nThis may be a mistake in your model or in fivestep; --debug shows where it happened.", as_json, 70)
        return 70


def complain(message: str, as_json: bool, code: int, findings: Sequence[Any] = ()) -> None:
    print(f"error: {message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message, "exit_code": code, "findings": [finding.to_json() for finding in findings]}, allow_nan=False))
