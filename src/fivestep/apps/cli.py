"""The shell: thin commands over `workflow`. Results go to stdout, progress and messages to stderr; exit codes are those of `errors` (RELIABILITY P3).

Here is only what stands around every command (`commands.py`): `fivestep --version` must answer at once, so nothing else is imported for it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from signal import Signals
from typing import Any

from fivestep._version import __version__
from fivestep.apps.spelling import with_shell_spelling
from fivestep.errors import DataError, FindingsError, FivestepError
from fivestep.terminal import print_lines

WHAT_A_SIGNAL_LEAVES = "Nothing was left half written; a run that had begun to train goes on with: fivestep resume RUN"

THE_SAME_CALL = "the same call goes on from there."  # of a sweep that was stopped


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `fivestep` command: runs it and exits with its code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  closed by `>&-`
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if argv in (["--version"], ["-V"]):
        print(__version__)
        sys.exit(0)
    sys.exit(run(argv))


def run(argv: list[str]) -> int:
    """Run one command; returns the exit code. Nothing a user, a file or a disk does ends in a traceback, unless --debug asks for it."""
    debug, quiet = "--debug" in argv, "--quiet" in argv
    argv = [word for word in argv if word not in ("--debug", "--quiet")]
    as_json = "--json" in argv
    import typer

    from fivestep.train import signals

    UsageMistake = typer.BadParameter.__mro__[2]  # ClickException: of click itself, or of the copy that newer typers bring along

    try:
        from fivestep.apps.commands import app

        with signals.listening():
            result = app(argv or ["--help"], standalone_mode=False, obj=quiet)
        sys.stdout.flush()  # a full disk under "> file" is told here, not by Python at its exit
        return result if isinstance(result, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return complain("Stopped by Ctrl-C.", as_json, 130)
    except signals.StopSignal as stop:
        return complain(f"Stopped by {Signals(stop.number).name}. {WHAT_A_SIGNAL_LEAVES}", as_json, 128 + stop.number)
    except FivestepError as error:
        show_traceback(debug)
        if isinstance(error, DataError) and len(error.problems) > 1:
            told = [with_shell_spelling(problem) for problem in error.problems]
            head = f"{len(told)} problems in the data\n"
            message = head + "\n".join(told[:20]) + (f"\n... and {len(told) - 20} more" if len(told) > 20 else "")
        else:
            told, message = [], with_shell_spelling(str(error)).replace(THE_SAME_CALL, f"go on with: fivestep {shlex.join(argv)}")
        return complain(message, as_json, error.exit_code, findings=error.findings if isinstance(error, FindingsError) else (), problems=told)
    except SystemExit as stop:
        cause = stop.__context__
        if not (isinstance(cause, OSError) and cause.errno == errno.EPIPE):
            raise  # of the user's own code
        close_stdout()  # typer's answer to a reader that has left
        return 0
    except BrokenPipeError:
        close_stdout()  # the reader of our output (head) has left; Python would complain at exit
        return 0
    except OSError as error:
        show_traceback(debug)
        return complain(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "; stdout cannot be written"), as_json, 74)
    except Exception as error:
        if isinstance(error, UsageMistake):
            return complain(with_near_command(error.format_message()), as_json, 64)  # type: ignore[attr-defined]
        show_traceback(debug)
        return complain(f"{type(error).__name__}: {error}\nThis may be a mistake in your model or in fivestep; --debug shows where it happened.", as_json, 70)


def complain(message: str, as_json: bool, code: int, findings: Sequence[Any] = (), problems: Sequence[str] = ()) -> int:
    """Say what went wrong on stderr, with --json also as an object on stdout; gives the exit code back."""
    print_lines(f"error: {message}", sys.stderr)
    try:
        if as_json:
            table = {"error": message, "exit_code": code, "problems": list(problems), "findings": [finding.to_json() for finding in findings]}
            print(json.dumps(table, allow_nan=False))
        sys.stdout.flush()
    except OSError:
        close_stdout()  # stdout is what failed
    return code


def close_stdout() -> None:
    """What still waits to be written goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def show_traceback(debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()


def with_near_command(message: str) -> str:
    """`No such command 'fti'.` and which are near, or which there are."""
    wrong = re.match(r"No such command '(.*)'", message)
    if wrong is None:
        return message
    import difflib

    from fivestep.apps.commands import app

    names = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    near = difflib.get_close_matches(wrong[1], names, 1)
    return message + (f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(names)}.")
