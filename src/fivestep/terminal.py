"""Text for somebody at a terminal. Nothing heavy is imported here: a mistyped command is told at once."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import Any


def print_lines(text: Any, stream: Any = None) -> None:
    """Text on stdout, or what tells itself to a `width` (a sweep, a comparison); in a terminal its lines are broken between words, and what is carried over stands
    under where its line begins. A path stays whole, so that it can be copied."""
    out = stream or sys.stdout
    if not getattr(out, "isatty", lambda: False)():
        print(text, file=out)
        return
    width = shutil.get_terminal_size().columns
    for line in (text.told(width) if hasattr(text, "told") else str(text)).splitlines():
        if len(line) > width:
            indent = " " * (len(line) - len(line.lstrip()))
            wrapper = textwrap.TextWrapper(width, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False, break_long_words=False)
            line = wrapper.fill(line.strip())
        print(line, file=out)
