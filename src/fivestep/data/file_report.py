"""All that one pass over a file tells (`fivestep check FILE`): its columns, notes, and every problem at once.

Enters: a path and the options of reading. Leaves: `FileReport`. The decision that shaped it: nothing is raised for what stands in the file, so that a reader
corrects all of it before reading again; it reads and decides by the same functions as a fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fivestep.data.column_lines import ColumnLines
from fivestep.data.kinds import try_columns
from fivestep.data.records import Limits
from fivestep.data.tables import ReadOptions, near, origin_of, try_read
from fivestep.errors import UsageError


@dataclass(frozen=True)
class FileReport:
    """All that one pass over a file tells: its columns, notes, and every problem. Nothing is raised for what stands in the file."""

    path: str
    num_rows: int
    columns: ColumnLines
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    fingerprint: str

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        parts = [f"{self.path}: {self.num_rows:,} rows, {len(self.columns.lines)} columns"]
        if self.columns.lines:
            parts.append(str(self.columns))
        if self.notes:
            parts.append("notes\n" + "\n".join(f"  - {note}" for note in self.notes))
        parts.append(
            f"{len(self.problems)} problem{'s' * (len(self.problems) != 1)}\n" + "\n".join(f"  - {text}" for text in self.problems)
            if self.problems
            else "no problems"
        )
        return "\n\n".join(parts)


def inspect_file(path: Any, target: str | Sequence[str] | None = None, *, limits: Limits | None = None, **options: Any) -> FileReport:
    """Everything that one pass over a file can tell (`fivestep check FILE`): columns, notes, and all problems at once.

    `options` are those of `read_table` and `read_columns`. Raises only for arguments that mean nothing and for a file that is not there.
    """
    reading = {name: options.pop(name) for name in ("delimiter", "encoding", "decimal", "quote") if name in options}
    missing, columns = options.pop("missing", None), options.pop("columns", None)
    arguments = {"drop": (), "without_target": "refuse", "weight": None}
    unknown = [name for name in options if name not in arguments]
    if unknown:
        names = [*arguments, "delimiter", "encoding", "decimal", "quote", "missing", "columns"]
        raise UsageError(f"{unknown[0]!r} is no option of reading a file{near(unknown[0], names).replace('its columns', 'the options')}")
    read_options = ReadOptions(columns or {}, None if missing is None else tuple([missing] if isinstance(missing, str) else missing), **reading)
    table, problems = try_read(path, read_options, limits or Limits())
    if table is None:
        return FileReport(origin_of(path), 0, ColumnLines(()), (), tuple(problems), "")
    arguments.update(options)
    if problems and table.num_rows == 0:  # nothing is left to look at
        return FileReport(table.origin, 0, ColumnLines(()), table.notes, tuple(problems), table.fingerprint)
    typed, more = try_columns(table, target, arguments["drop"], None, None, None, arguments["without_target"], arguments["weight"], limits or Limits())
    return FileReport(table.origin, table.num_rows, typed.describe(), typed.notes, (*problems, *more), table.fingerprint)
