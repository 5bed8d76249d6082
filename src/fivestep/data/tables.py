"""From a file, frame or dict of arrays to a `Table`: named columns, nothing decided yet about what they mean.

Enters: the path of a CSV, TSV or Parquet file, a polars or pandas frame, anything that speaks Arrow, or a dict of arrays, lists or tensors. Leaves: a
`Table`, or one `DataError` whose `.problems` hold all that is wrong. The deciding choice: a text file's fields stay text here (`kinds` decides on all rows
what they are), its structure is found by `records`, and polars only cuts out the strings of rows that are known to fit the header.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fivestep.data.records import BLOCK_BYTES, Dialect, Limits, Records, Scan, free_memory, shown, what_is_it
from fivestep.errors import DataError, MissingInputError, UsageError

if TYPE_CHECKING:
    import polars

KINDS = ("number", "boolean", "category", "date", "datetime", "time", "text", "drop")
NUM_LISTED = 5  # so many lines of one problem are named, the others counted


@dataclass(frozen=True)
class ReadOptions:
    """How a source is read; kept with the fitted columns, so that prediction reads the same way. Each field is an argument of `read_table`."""

    columns: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] | None = None
    delimiter: str | None = None
    encoding: str = "utf-8"
    decimal: str = "."
    quote: str | None = '"'

    def __post_init__(self) -> None:
        if isinstance(self.columns, str) or not isinstance(self.columns, Mapping):
            raise UsageError(f'columns={self.columns!r} is not a table of names and kinds; use for example columns={{"zip": "category"}}')
        object.__setattr__(self, "columns", dict(self.columns))
        for name, kind in self.columns.items():
            if not isinstance(kind, str) or kind.partition(":")[0] not in KINDS:
                near = difflib.get_close_matches(str(kind), KINDS, 1)
                raise UsageError(
                    f"columns={{{name!r}: {kind!r}}}: {kind!r} is no kind of column. "
                    + (f"Did you mean {near[0]!r}? " if near else "")
                    + f"Kinds: {', '.join(KINDS)}"
                )
        if self.missing is not None:
            tokens = (self.missing,) if isinstance(self.missing, str) else tuple(self.missing)
            if not all(isinstance(token, str) for token in tokens):
                raise UsageError(f'missing={self.missing!r}: each entry is the text that stands for a missing value, for example missing=["?", "-999"]')
            object.__setattr__(self, "missing", tuple(token.strip() for token in tokens))
        if self.decimal not in (".", ","):
            raise UsageError(f'decimal={self.decimal!r}: numbers are written with decimal="." or decimal=","')
        Dialect(self.delimiter or ",", self.quote, self.encoding)
        if self.delimiter == "," == self.decimal and self.quote is None:
            raise UsageError('delimiter="," and decimal="," contradict each other where nothing is quoted')

    def dialect(self, path: Path) -> Dialect:
        tabs = path.suffix.lower() in (".tsv", ".tab")
        return Dialect(self.delimiter or ("\t" if tabs else ","), self.quote, self.encoding)


@dataclass(frozen=True, eq=False)
class Table:
    """Ordered, named columns of equal length; what they mean is not decided yet.

    `frame` is a polars DataFrame: text for every column of a CSV, the source's own types otherwise. `lines` holds the physical line on which each row begins
    (text files; else None), `fingerprint` is SHA-256 of the bytes (of the content for frames) with the shape. `notes` tell what reading changed.
    """

    frame: polars.DataFrame
    origin: str
    fingerprint: str
    lines: np.ndarray | None = None
    options: ReadOptions = field(default_factory=ReadOptions)
    notes: tuple[str, ...] = ()
    first_row: int = 0  # of a chunk: how many rows of the source come before it
    dropped: tuple[str, ...] = ()  # names that stand in the source and were left out by a "drop", as they are empty or stand twice

    @property
    def names(self) -> list[str]:
        return self.frame.columns

    @property
    def num_rows(self) -> int:
        return self.frame.height

    def __len__(self) -> int:
        return self.num_rows

    def column(self, name: str) -> polars.Series:
        """One column by name; a name that is not there is a `DataError` with near names."""
        if name not in self.frame.columns:
            raise DataError(f"no column {name!r} in {self.origin}{near(name, self.names)}")
        return self.frame.get_column(name)

    def take(self, rows: Any) -> Table:
        """The rows at these positions, in this order; their lines come along."""
        rows = np.asarray(rows, dtype=np.int64)
        digest = hashlib.sha256(self.fingerprint.encode() + rows.tobytes()).hexdigest()
        lines = None if self.lines is None else self.lines[rows]
        frame = self.frame[rows]
        return replace(self, frame=frame, lines=lines, fingerprint=f"{digest}:{frame.height}x{frame.width}")

    def place(self, row: int) -> str:
        """How an error names a row: `line 17` of a text file, else `row 15` (from 0)."""
        return f"row {self.first_row + row}" if self.lines is None else f"line {self.lines[row]}"

    def places(self, rows: np.ndarray) -> str:
        """The same for several: `lines 17, 19 and 4 more`."""
        numbers = rows[:NUM_LISTED] + self.first_row if self.lines is None else self.lines[rows[:NUM_LISTED]]
        return f"{'row' if self.lines is None else 'line'}{'s' * (len(rows) > 1)} {listed(numbers.tolist(), len(rows))}"

    def __repr__(self) -> str:
        names = ", ".join(self.names[:8]) + (", …" if len(self.names) > 8 else "")
        return f"Table({self.origin}: {self.num_rows:,} rows, {len(self.names)} columns: {names})"

    def _repr_html_(self) -> str:
        from fivestep.displays import text

        return f"<p>{text(self.origin)}: {self.num_rows:,} rows</p>" + self.frame.head(5)._repr_html_()


def read_table(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    missing: Sequence[str] | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    decimal: str = ".",
    quote: str | None = '"',
    limits: Limits | None = None,
) -> Table:
    """The source as a `Table`, read strictly: what cannot be meant is refused, with the line and the option that accepts it.

    `source`: the path of a CSV, TSV or Parquet file; a polars or pandas frame or anything with `__arrow_c_stream__` or `__dataframe__`; a dict of
    one-dimensional arrays, lists or tensors; a `Table` is returned as it is. `columns` maps names to kinds (`"number"`, `"boolean"`, `"category"`, `"date"`,
    `"datetime"`, `"time"`, `"text"`, `"drop"`); a `"drop"` here also admits a name that is empty or stands twice. `missing` adds tokens that mean "no value".
    `delimiter=None` is the tab for .tsv, else the comma. `quote=None` reads quotes as ordinary text.

    Raises `DataError` (`.problems`: all that were found), `MissingInputError` where there is no such file.

    >>> read_table({"age": [31, 45], "city": ["Oslo", "Bonn"]}).names
    ['age', 'city']
    """
    if isinstance(source, Table):
        return source
    options = ReadOptions(
        columns or {}, None if missing is None else tuple([missing] if isinstance(missing, str) else missing), delimiter, encoding, decimal, quote
    )
    table, problems = try_read(source, options, limits or Limits())
    problems += unknown_columns(table) if table is not None else []
    if problems or table is None:
        raise data_error(origin_of(source), problems)
    return table


def try_read(source: Any, options: ReadOptions, limits: Limits, *, check_names: bool = True) -> tuple[Table | None, list[str]]:
    """What can be read of the source, and all problems. With problems the table holds only the rows that fit the header; None where nothing can be read.

    `check_names`: a name in `options.columns` that the source lacks is a problem (not so when predicting, where only the model's inputs count).
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        with open_regular(path) as file:
            head = file.peek(8192)
            problem = memory_problem(path, os.fstat(file.fileno()).st_size, limits, is_text=not head.startswith(b"PAR1"))
            if problem:
                return None, [problem]
            if head.startswith(b"PAR1"):
                return _read_parquet(file, path, options, limits)
            return _read_text(file, path, options, limits, head)
    frame, notes, problems = _frame_of(source)
    if frame is None:
        return None, problems
    problems += _frame_problems(frame, options, limits)
    dropped = ("",) if "" in frame.columns and options.columns.get("") == "drop" else ()
    frame = frame.drop(dropped)
    return Table(frame, origin_of(source), content_fingerprint(frame), None, options, tuple(notes), dropped=dropped), problems


def iter_tables(source: str | os.PathLike[str], options: ReadOptions, *, rows: int = 65_536, limits: Limits | None = None) -> Iterator[Table]:
    """The file as tables of at most `rows` rows each, in order and in bounded memory; a header without rows gives one table of no rows.

    Raises `DataError` at the chunk where a problem stands. The fingerprint of a chunk is empty: only the whole file has one.
    """
    limits = limits or Limits()
    path = Path(source)
    if rows < 1:
        raise UsageError(f"rows={rows}: a chunk holds at least one row")
    with open_regular(path) as file:
        head = file.peek(8192)
        if head.startswith(b"PAR1"):
            yield from _iter_parquet(path, options, limits, rows)
        else:
            yield from _iter_text(file, path, options, limits, head, rows)


def unknown_columns(table: Table) -> list[str]:
    """A problem for each name in the `columns` option that the source does not have."""
    names = [*table.names, *table.dropped]
    return [f"columns={{{name!r}: …}}: no such column{near(name, names)}" for name in table.options.columns if name not in names]


def near(name: str, names: Iterable[str]) -> str:
    """The part of an error that offers near names, or lists what is there."""
    names = list(names)
    folded = {other.strip().casefold(): other for other in names}
    close = [folded[match] for match in difflib.get_close_matches(name.strip().casefold(), list(folded), 3, 0.6)]
    if close:
        return "; did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "; its columns are " + ", ".join(repr(other) for other in names[:20]) + (", …" if len(names) > 20 else "")


def data_error(origin: str, problems: Sequence[str]) -> DataError:
    """One error that tells all problems (the first twenty in its message, all in `.problems`)."""
    if len(problems) == 1:
        return DataError(f"{origin}: {problems[0]}", problems)
    told = "\n".join(f"  - {problem}" for problem in problems[:20])
    rest = f"\n  … and {len(problems) - 20} more (.problems holds all)" if len(problems) > 20 else ""
    return DataError(f"{origin}: {len(problems)} problems\n{told}{rest}", problems)


def origin_of(source: Any) -> str:
    """How messages name the source."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source) if isinstance(source, str) else str(source)
    if isinstance(source, Table):
        return source.origin
    return {"dict": "the dict"}.get(type(source).__name__, f"the {type(source).__module__.partition('.')[0]} {type(source).__name__}")


def listed(places: Sequence[Any], total: int | None = None) -> str:
    """`3, 9, 12 and 4 more`"""
    total = len(places) if total is None else total
    text = ", ".join(str(place) for place in places[:NUM_LISTED])
    return text + (f" and {total - NUM_LISTED:,} more" if total > NUM_LISTED else "")


# ---------------------------------------------------------------------------------------------------------------------------- files


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading; anything else is told by what it is. A pipe would block or be readable only once."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        folder = path.parent
        others = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        close = difflib.get_close_matches(path.name, others, 2, 0.6)
        hint = f"; did you mean {' or '.join(repr(str(folder / name)) for name in close)}?" if close else f" (looked from {Path.cwd()})"
        raise MissingInputError(f"there is no file {str(path)!r}{hint}") from None
    except OSError as error:
        raise MissingInputError(f"{str(path)!r} cannot be opened: {error.strerror}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "not a regular file"
        raise DataError(f"{str(path)!r} is {what}; give the path of one CSV, TSV or Parquet file (a pipe: save it to a file first)")
    return os.fdopen(descriptor, "rb")


def memory_problem(path: Path, num_bytes: int, limits: Limits, *, is_text: bool) -> str | None:
    """Why the file does not fit in memory; None where it does. Measured: a CSV of flights needs 4 times its size while it is read, Parquet may need 10."""
    free = free_memory()
    needed = num_bytes * (4 if is_text else 10)
    if free is None or needed <= free * limits.memory_share:
        return None
    gib = 1 << 30
    return (
        f"the file has {num_bytes / gib:.1f} GiB and needs about {needed / gib:.1f} GiB of memory while it is read; {free / gib:.1f} GiB are free. "
        "Use fewer rows or columns, or a Dataset that reads from disk (Data.dataset); to try anyway: "
        f"limits=Limits(memory_share={needed / max(free, 1) + 0.1:.1f})"
    )


def _read_text(file: io.BufferedReader, path: Path, options: ReadOptions, limits: Limits, head: bytes) -> tuple[Table | None, list[str]]:
    import polars

    hasher = hashlib.sha256()
    reading = TextReading(path, options, limits, hasher)
    frames, lines = [], []
    for frame, at in reading.chunks(file, head):
        frames.append(frame)
        lines.append(at)
    problems = reading.problems()
    if reading.names is None:
        return None, problems
    if reading.stop:  # the rest of the bytes belongs to the fingerprint too
        while block := file.read(1 << 20):
            hasher.update(block)
    frame = polars.concat(frames) if frames else polars.DataFrame({name: polars.Series([], dtype=polars.String) for name in reading.names})
    at_lines = np.concatenate(lines) if lines else np.empty(0, np.int64)
    fingerprint = f"{hasher.hexdigest()}:{frame.height}x{frame.width}"
    return Table(frame, str(path), fingerprint, at_lines, options, tuple(reading.notes), dropped=reading.dropped), problems


def _iter_text(file: io.BufferedReader, path: Path, options: ReadOptions, limits: Limits, head: bytes, rows: int) -> Iterator[Table]:
    import polars

    reading = TextReading(path, options, limits, None)
    frame, lines, done, told = None, np.empty(0, np.int64), 0, 0
    for more, at in reading.chunks(file, head, block_bytes=1 << 20):
        if reading.problems():
            break
        frame = more if frame is None else polars.concat([frame, more])
        lines = np.concatenate([lines, at])
        while frame.height >= rows:
            notes = tuple(reading.notes[told:])
            told = len(reading.notes)
            yield Table(frame[:rows], str(path), "", lines[:rows], options, notes, done)
            frame, lines, done = frame[rows:], lines[rows:], done + rows
    problems = reading.problems()
    if problems:
        raise data_error(str(path), problems)
    if reading.names is not None and ((frame is not None and frame.height) or done == 0):
        if frame is None:
            frame = polars.DataFrame({name: polars.Series([], dtype=polars.String) for name in reading.names})
        yield Table(frame, str(path), "", lines, options, tuple(reading.notes[told:]), done)


class TextReading:
    """One pass over a text file: the header first, then frames of the rows that fit it; collects problems and notes on the way."""

    def __init__(self, path: Path, options: ReadOptions, limits: Limits, hasher: Any):
        self.options, self.limits, self.hasher = options, limits, hasher
        self.dialect = options.dialect(path)
        self.names: list[str] | None = None  # of the header, those that stay
        self.notes: list[str] = []
        self.stop = False  # nothing sensible can be read after this problem
        self.found: list[str] = []
        self.scan: Scan | None = None
        self.width, self.header, self.header_line = 0, b"", 0
        self.keep: list[int] = []
        self.dropped: tuple[str, ...] = ()
        self.num_rows = 0
        self.ragged: list[tuple[int, int, str]] = []
        self.num_ragged, self.ragged_widths = 0, set[int]()
        self.repeated: list[int] = []
        self.blank: list[int] = []

    def chunks(self, file: io.BufferedReader, head: bytes, *, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[polars.DataFrame, np.ndarray]]:
        """Frames of text and the physical line of each of their rows."""
        binary = what_is_it(head)
        if not head.strip():
            if len(head) < 8192:
                self._fatal(
                    "the file is empty" + (" (only blank lines)" if head else " (0 bytes)") + "; a table has a header line with the names of its columns"
                )
                return
        elif binary is not None and not (binary[1].startswith("encoding=") and not self.dialect.is_utf8):
            what, way = binary
            self._fatal(f"the file is {what}, not comma-separated text; {way}")
            return
        self.scan = Scan(file, self.dialect, self.limits, block_bytes, self.hasher)
        for records in self.scan:
            first = 0
            if self.names is None:
                first = self._read_header(records)
                if self.stop:
                    return
                if self.names is None:
                    continue  # blank lines before the header fill the whole block
            yield from self._rows(records, first)
            if self.stop:
                return
        if self.names is None and not self.stop and not self.scan.problems:
            self._fatal("the file is empty (only blank lines); a table has a header line with the names of its columns")

    def problems(self) -> list[str]:
        """All problems so far, the structure's first."""
        problems = [*self.found, *(self.scan.problems if self.scan else ())]
        if self.num_ragged:
            problems.append(self._ragged_text())
        if self.repeated:
            which = listed(self.repeated)
            problems.append(
                f"line {which}: the header stands there again (files joined one after the other?); it would turn every number column to text. "
                f"Delete {'these lines' if len(self.repeated) > 1 else 'the line'}: sed -i '{';'.join(f'{line}d' for line in self.repeated[:NUM_LISTED])}' FILE"
            )
        return problems

    def _fatal(self, problem: str) -> None:
        self.found.append(problem)
        self.stop = True

    def _read_header(self, records: Records) -> int:
        """Find and check the header; returns the position of the first record after it."""
        filled = np.flatnonzero(records.ends > records.starts)
        if not len(filled):
            return len(records)
        at = int(filled[0])
        if at:
            self.notes.append(f"{at} blank line{'s' * (at > 1)} before the header skipped")
        self.header, self.header_line, self.width = records.bytes_of(at), int(records.lines[at]), int(records.num_fields[at])
        if self._wrong_delimiter(records, at):
            return at
        if self.width > self.limits.num_columns:
            self._fatal(f"{self.width:,} columns, more than {self.limits.num_columns:,}; to accept them: limits=Limits(num_columns={self.width})")
            return at
        row = self._parse(self.header + b"\n", [f"column {number}" for number in range(self.width)], not records.is_utf8).row(0)
        raw = [value or "" for value in row]
        names = [name.strip() for name in raw]
        trimmed = [name for name, full in zip(names, raw) if name != full]
        if trimmed:
            self.notes.append(f"blanks around column names removed: {listed([repr(name) for name in trimmed])}")
        dropped = {name for name, kind in self.options.columns.items() if kind == "drop"}
        self.found += header_problems([name for name in names if name not in dropped], names, self.header_line)
        self._looks_like_data(names)
        seen: set[str] = set()
        self.keep = []
        for position, name in enumerate(names):
            repeated = name in seen or name == "" or (name in dropped and names.count(name) > 1)
            seen.add(name)
            if not repeated:
                self.keep.append(position)
        self.names = [names[position] for position in self.keep]
        self.dropped = tuple(sorted(set(names) - set(self.names)))
        if not self.names:
            self.stop = True
            self.names = None
            self.found = self.found or ["no column is left"]
        return at + 1

    def _looks_like_data(self, names: list[str]) -> None:
        numbers = [name for name in names if _is_number(name)]
        if names and len(numbers) * 2 >= len(names) and len(numbers) > (len(names) > 1):
            self.found.append(
                f"line {self.header_line}: the header holds numbers ({listed([repr(name) for name in numbers])}), so it is "
                "probably the first row of a file without header, "
                f"which would be lost. Put a line with {len(names)} names before it: sed -i '1i NAME{self.dialect.delimiter}NAME…' FILE"
            )

    def _wrong_delimiter(self, records: Records, at: int) -> bool:
        """Whether another delimiter explains the first lines and the given one does not."""
        lines = [records.bytes_of(row) for row in range(at, min(at + 50, len(records))) if records.ends[row] > records.starts[row]]
        fields = records.num_fields[at : at + 50]
        if self.width > 1 and (fields == self.width).mean() > 0.5:
            return False
        counts = {}
        for other in ";\t|,:":
            if other == self.dialect.delimiter:
                continue
            found = [line.count(other.encode()) for line in lines]
            enough = found[0] >= 1 and sum(count == found[0] for count in found) >= 0.8 * len(found)
            if enough and not (other == ":" and (found[0] < 2 or self.width > 1)):
                counts[other] = found[0]
        if self.width == 1 and not counts and lines[0].count(b"  ") and len({len(line.split()) for line in lines}) == 1 and len(lines) > 1:
            self._fatal(
                f"line {self.header_line}: the columns look separated by runs of blanks, which cannot be told from blanks inside a field; "
                "write one delimiter: tr -s ' ' ',' < FILE > NEW"
            )
            return True
        if not counts:
            return False
        other = max(counts, key=lambda name: counts[name])
        self._fatal(
            f"line {self.header_line} has {self.width} field{'s' * (self.width != 1)} when split at {self.dialect.delimiter!r}; it looks like {other!r} "
            f"({counts[other] + 1} fields in each of the first {len(lines)} lines): delimiter={_quoted(other)}"
        )
        return True

    def _rows(self, records: Records, first: int) -> Iterator[tuple[polars.DataFrame, np.ndarray]]:
        assert self.names is not None
        starts, ends, lines = records.starts[first:], records.ends[first:], records.lines[first:]
        fits = records.num_fields[first:] == self.width
        if self.width > 1:
            blank = ends == starts
            if blank.any():
                self.blank += lines[blank].tolist()
                fits &= ~blank
            bad = np.flatnonzero(~fits & ~blank)
        else:
            bad = np.flatnonzero(~fits)
        self.num_rows += len(starts)
        if len(bad):
            self.num_ragged += len(bad)
            self.ragged_widths |= set(np.unique(records.num_fields[first:][bad]).tolist())
            for row in bad[: max(NUM_LISTED - len(self.ragged), 0)]:
                self.ragged.append((int(lines[row]), int(records.num_fields[first + row]), records.shown(int(first + row))))
        for row in np.flatnonzero(fits & (ends - starts == len(self.header))):
            if records.text.startswith(self.header, starts[row]):
                self.repeated.append(int(lines[row]))
                fits[row] = False
        if self.blank and not any("blank line" in note and "skipped: line" in note for note in self.notes):
            self.notes.append(f"blank lines skipped: line {listed(self.blank)}")
        if not fits.any():
            return
        if fits.all():
            text = records.text[starts[0] : ends[-1]]
        else:
            # Slices of neighbouring good rows, joined: only where some rows are left out.
            edges = np.flatnonzero(np.diff(fits.astype(np.int8), prepend=0, append=0))
            text = b"\n".join(records.text[starts[begin] : ends[stop - 1]] for begin, stop in zip(edges[0::2], edges[1::2]))
        frame = self._parse(text + b"\n", [f"column {number}" for number in range(self.width)], not records.is_utf8)
        if frame.height != fits.sum():
            raise DataError(
                f"lines {lines[0]} to {lines[-1]}: {fits.sum()} records stand there, polars {_polars_version()} reads "
                f"{frame.height}; please report this file to fivestep"
            )
        frame = frame[:, self.keep]
        frame.columns = self.names
        yield frame, lines[fits]

    def _parse(self, text: bytes, names: list[str], lossy: bool) -> polars.DataFrame:
        import polars

        return polars.read_csv(
            text,
            has_header=False,
            new_columns=names,
            infer_schema=False,
            separator=self.dialect.delimiter,
            quote_char=self.dialect.quote,
            encoding="utf8-lossy" if lossy else "utf8",
        )

    def _ragged_text(self) -> str:
        line, found, text = self.ragged[0]
        where = f"line {line} has {found} field{'s' * (found != 1)}, the header has {self.width}: {text}"
        if self.num_ragged > 1:
            where += f"; so it is with {self.num_ragged:,} lines: {listed([line for line, _, _ in self.ragged], self.num_ragged)}"
        if self.num_ragged == self.num_rows and self.ragged_widths == {self.width + 1}:
            return (
                where
                + ". Every row has one field more than the header: a column of row names without a name. Write it with a name, or without (pandas: index=False)"
            )
        return where + f". Its values would land in wrong columns. Complete the line, or quote the fields that hold a {self.dialect.delimiter!r} of their own"


def header_problems(names: Sequence[str], all_names: Sequence[str], line: int | None) -> list[str]:
    """What is wrong with a header's names; `names` are those not dropped on purpose."""
    where = "" if line is None else f"line {line}: "
    problems = []
    if "" in names:
        numbers = [number for number, name in enumerate(all_names, 1) if name == ""]
        index = " (pandas writes its row index so; write with index=False)" if numbers == [1] else ""
        problems.append(
            f'{where}the header\'s field {listed(numbers)} is empty{index}, so the column cannot be named. Name it, or leave it out: columns={{"": "drop"}}'
        )
    twice = sorted({name for name in names if name and list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    for name in twice:
        fields = listed([number for number, other in enumerate(all_names, 1) if other == name])
        problems.append(
            f"{where}the name {name!r} stands in the header at fields {fields}; one of them would be lost. Rename, or leave "
            f'all of them out: columns={{{name!r}: "drop"}}'
        )
    return problems


def _is_number(text: str) -> bool:
    text = text.strip().lstrip("+-")
    return text[:1].isdigit() and text.isascii() and text.replace(".", "", 1).replace("e", "", 1).replace("E", "", 1).replace("-", "", 1).isdigit()


def _quoted(delimiter: str) -> str:
    return '"\\t"' if delimiter == "\t" else f'"{delimiter}"'


def _polars_version() -> str:
    import polars

    return polars.__version__


# -------------------------------------------------------------------------------------------------------------------------- Parquet


def _read_parquet(file: io.BufferedReader, path: Path, options: ReadOptions, limits: Limits) -> tuple[Table | None, list[str]]:
    import polars

    hasher = hashlib.sha256()
    while block := file.read(1 << 20):
        hasher.update(block)
    file.seek(0)
    try:
        frame = polars.read_parquet(file)
    except Exception as error:  # polars' errors have no common ancestor besides PolarsError, and a panic has none at all
        return None, [f"the Parquet file cannot be read ({shown(str(error), 200)}); it may be cut off or damaged: write or fetch it again"]
    problems = _frame_problems(frame, options, limits)
    dropped = ("",) if "" in frame.columns and options.columns.get("") == "drop" else ()
    frame = frame.drop(dropped)
    return Table(frame, str(path), f"{hasher.hexdigest()}:{frame.height}x{frame.width}", None, options, dropped=dropped), problems


def _iter_parquet(path: Path, options: ReadOptions, limits: Limits, rows: int) -> Iterator[Table]:
    import polars

    try:
        lazy = polars.scan_parquet(path)
        total = lazy.select(polars.len()).collect().item()
    except Exception as error:
        problem = f"the Parquet file cannot be read ({shown(str(error), 200)}); it may be cut off or damaged: write or fetch it again"
        raise data_error(str(path), [problem]) from error
    for start in range(0, max(total, 1), rows):
        frame = lazy.slice(start, rows).collect()
        problems = _frame_problems(frame, options, limits) if start == 0 else []
        if problems:
            raise data_error(str(path), problems)
        yield Table(frame, str(path), "", None, options, (), start)


# --------------------------------------------------------------------------------------------------------------------- frames, dicts


def _frame_of(source: Any) -> tuple[polars.DataFrame | None, list[str], list[str]]:
    """The source as a polars frame, with notes and problems; None where it cannot be one."""
    import polars

    notes: list[str] = []
    module = type(source).__module__.partition(".")[0]
    if isinstance(source, polars.LazyFrame):
        source = source.collect()
    if isinstance(source, polars.DataFrame):
        return source, notes, []
    if module == "pandas" and type(source).__name__ == "DataFrame":
        index = source.index
        if index.names != [None] or not (len(index) == 0 or _is_range(index)):
            notes.append(f"the frame's index ({', '.join(str(name) for name in index.names)}) is not a column; reset_index() makes it one")
        names = [str(name) for name in source.columns]
        problems = header_problems(names, names, None)
        if problems:
            return None, notes, problems
        return _from_columns({name: source.iloc[:, position] for position, name in enumerate(names)}, notes)
    if isinstance(source, Mapping):
        return _from_columns(source, notes)
    if hasattr(source, "__arrow_c_stream__"):
        return polars.DataFrame(source), notes, []
    if hasattr(source, "__dataframe__"):
        return polars.from_dataframe(source), notes, []
    way = (
        "pass a dict of columns, {name: array[:, i], ...}, or use Data.arrays"
        if module in ("numpy", "torch", "list", "builtins")
        else "convert it to a polars or pandas frame"
    )
    raise UsageError(f"a table cannot be made of {type(source).__module__}.{type(source).__name__}; {way}")


def _is_range(index: Any) -> bool:
    values = np.asarray(index)
    return values.dtype.kind in "iu" and len(values) > 0 and values[0] == 0 and bool(np.array_equal(values, np.arange(len(values))))


def _from_columns(source: Mapping[Any, Any], notes: list[str]) -> tuple[polars.DataFrame | None, list[str], list[str]]:
    import polars

    names = [str(name) for name in source]
    problems = header_problems(names, names, None)
    columns: list[polars.Series] = []
    for name, values in source.items():
        try:
            columns.append(_series(str(name), values))
        except DataError as error:
            problems.append(str(error))
    if not names:
        problems.append("there are no columns; a table has at least one: {name: values}")
    lengths = {series.name: len(series) for series in columns}
    if len(set(lengths.values())) > 1:
        shortest, longest = min(lengths, key=lambda name: lengths[name]), max(lengths, key=lambda name: lengths[name])
        problems.append(
            f"columns of different lengths: {shortest!r} has {lengths[shortest]} values, {longest!r} has {lengths[longest]}; every column needs one value a row"
        )
    return (None, notes, problems) if problems else (polars.DataFrame(columns), notes, problems)


def _series(name: str, values: Any) -> polars.Series:
    """One column of a dict or a pandas frame. By hand for pandas: polars.from_pandas needs pyarrow for text."""
    import polars

    if isinstance(values, polars.Series):
        return values.rename(name)
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise DataError(f"column {name!r} is one value ({shown(values)}), not one a row; a single row is {{{name!r}: [{shown(values)}]}}")
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
    is_category = False
    if type(values).__module__.partition(".")[0] == "pandas":
        dtype = values.dtype
        is_category = type(dtype).__name__ == "CategoricalDtype"
        if getattr(dtype, "tz", None) is not None:
            values = values.dt.tz_convert("UTC").dt.tz_localize(None)
        if is_category or not isinstance(values.dtype, np.dtype) or values.dtype == object:
            present = values.notna().to_numpy()
            values = [value if there else None for value, there in zip(values.tolist(), present)]
            if is_category and any(type(value).__name__ == "Interval" for value in values[:100]):
                values = [None if value is None else str(value) for value in values]  # what pandas.cut makes
        else:
            values = values.to_numpy()
    if isinstance(values, np.ndarray):
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1:
            raise DataError(
                f"column {name!r} has shape {tuple(values.shape)}; a column has one value a row: give one entry for each of its parts, or use Data.arrays"
            )
        if values.dtype.kind in "OUS":
            values = values.tolist()
        elif values.dtype.kind not in "biufMm":
            raise DataError(f"column {name!r} has type {values.dtype}, which is neither number, text nor time; convert it first")
        elif values.dtype.kind == "f" and values.dtype.itemsize not in (4, 8):
            values = values.astype(np.float64)
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "M" and np.datetime_data(values.dtype)[0] not in ("ms", "us", "ns", "D"):
            values = values.astype("datetime64[us]")
        return polars.Series(name, values)
    values = [_plain(value) for value in values]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) == 2:
        values = [None if value is None else float(value) for value in values]
    elif len(kinds) > 1:
        first = {}
        for row, value in enumerate(values):
            if value is not None:
                first.setdefault(type(value).__name__, (row, value))
        told = ", ".join(f"{kind} (row {row}: {shown(value)})" for kind, (row, value) in list(first.items())[:3])
        raise DataError(
            f"column {name!r} mixes types: {told}; it would be neither number nor text. Convert it, for example to text: [str(value) for value in …]"
        )
    try:
        series = polars.Series(name, values, strict=True)
    except (TypeError, ValueError, OverflowError, polars.exceptions.PolarsError) as error:
        raise DataError(f"column {name!r} cannot be a column of a table ({shown(str(error), 120)}); give one number, text or time a row") from error
    if is_category and series.dtype.is_float():
        series = whole_as_integers(series)
    return series.cast(polars.String).cast(polars.Categorical) if is_category else series


def whole_as_integers(series: polars.Series) -> polars.Series:
    """Floats that are all whole as integers: pandas turns integers with gaps to floats, and a category is named 2 in both."""
    import polars

    present = series.drop_nulls()
    whole = bool(((present == present.round()) & (present.abs() < 2**53)).all())
    return series.cast(polars.Int64) if whole else series


def _plain(value: Any) -> Any:
    """A Python value of numpy's scalar; pandas' NA and NaT and float NaN are None in lists."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType"):
        return None
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _frame_problems(frame: polars.DataFrame, options: ReadOptions, limits: Limits) -> list[str]:
    import polars

    names = frame.columns
    dropped = {name for name, kind in options.columns.items() if kind == "drop"}
    problems = header_problems([name for name in names if name not in dropped], names, None)
    trimmed = [name.strip() for name in names]
    if len(set(trimmed)) < len(set(names)):
        problems.append(f"column names differ only in blanks: {listed([repr(name) for name in names if trimmed.count(name.strip()) > 1])}; rename one of them")
    if not names:
        problems.append("there are no columns; a table has at least one")
    if len(names) > limits.num_columns:
        problems.append(f"{len(names):,} columns, more than {limits.num_columns:,}; to accept them: limits=Limits(num_columns={len(names)})")
    for name, dtype in frame.schema.items():
        nested = dtype.is_nested() or dtype in (polars.Binary, polars.Object)
        if nested and name not in dropped:
            problems.append(
                f'column {name!r} holds {dtype}, not one number, text or time a row; split it into columns, or leave it out: columns={{{name!r}: "drop"}}'
            )
    return problems


def content_fingerprint(frame: polars.DataFrame) -> str:
    """SHA-256 of names, types and values of a frame, with its shape; the same wherever and however often the frame is built."""
    import polars

    hasher = hashlib.sha256()
    for series in frame.get_columns():
        hasher.update(f"{series.name}\0{series.dtype}\0{len(series)}\0".encode())
        hasher.update(series.is_null().to_numpy().tobytes())
        if series.dtype.is_numeric() and not series.dtype.is_decimal() and series.dtype not in (polars.Int128, polars.UInt128):
            hasher.update(series.fill_null(0).to_numpy().tobytes())
        elif series.dtype.is_nested() or series.dtype in (polars.Binary, polars.Object):
            hasher.update(repr(series.to_list()).encode())
        else:
            series = series.cast(polars.Int64) if series.dtype == polars.Duration else series
            text = series.cast(polars.String).fill_null("")
            hasher.update(text.str.len_bytes().to_numpy().tobytes())  # lengths first: ("ab", "c") is not ("a", "bc")
            for start in range(0, len(text), 100_000):
                hasher.update("".join(text[start : start + 100_000].to_list()).encode())
    return f"{hasher.hexdigest()}:{frame.height}x{frame.width}"
