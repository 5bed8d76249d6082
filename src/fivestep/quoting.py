"""Names and texts that came from outside (files, tensors, columns) as they may stand in a message: on one line, of bounded length, without effect on a terminal.

Only the standard library is imported.
"""

from __future__ import annotations

from collections.abc import Collection


def printable(text: str, limit: int = 100) -> str:
    """`text` fit for a terminal: control characters, bidirectional marks and halves of surrogates escaped, cut after `limit` characters (RELIABILITY A7)."""
    shown = "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text[:limit])
    return shown + ("…" if len(text) > limit else "")


def listed(names: Collection[str], most: int = 6) -> str:
    """Names, as `printable`, of which those beyond `most` are counted only.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    names = list(names)
    return ", ".join(map(printable, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
