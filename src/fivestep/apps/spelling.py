"""Options of Python as they are typed in the shell, for messages that name both. Nothing heavy is imported here."""

from __future__ import annotations

import ast
import json
import re
import shlex
from typing import Any

OPTION = re.compile(r"""\b(missing|delimiter|encoding|decimal|quote|without_target|drop|columns|ignore)=(\[[^\]]*\]|\{[^}]*\}|"[^"]*"|'[^']*')""")


def with_shell_spelling(message: str) -> str:
    """The message, and how the options that it names are typed in the shell: missing=["?"] is --set 'data.missing=?'."""
    typed: dict[str, None] = {}
    for name, text in OPTION.findall(message):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            continue  # an example with dots in it, no value
        typed |= dict.fromkeys(shell_options(name, value))
    return message + (f"\n  in the shell: {'  or  '.join(typed)}" if typed else "")


def shell_options(name: str, value: Any) -> list[str]:
    """One option of `Data.table` or `ignore=` as words of the shell.

    >>> shell_options("columns", {"zip": "category"}), shell_options("missing", ["?"])
    (['--set data.columns.zip=category'], ["--set 'data.missing=?'"])
    """
    if name == "ignore":
        return [f"--ignore {code}" for code in value]
    if isinstance(value, dict) and not any("." in key or "=" in key for key in value):
        return [f"--set {shlex.quote(f'data.columns.{key}={kind}')}" for key, kind in value.items()]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    plain = isinstance(value, str) and value.isprintable() and value == value.strip() != ""
    return [f"--set {shlex.quote(f'data.{name}={value if plain else json.dumps(value)}')}"]
