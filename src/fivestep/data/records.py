"""From the bytes of a delimited text file to whole records with their physical lines and field counts; no field is read yet.

Enters: an open binary file, a `Dialect` and `Limits`. Leaves: blocks of whole records (`Records`), one after the other in bounded memory. The deciding
choice: the structure is found by numpy over bytes (newlines, delimiters, quotes), before any parser sees the text, as parsers fill short rows with nulls,
rename duplicate headers and lose the line numbers without a word. The file is read once; its SHA-256 is taken on the way.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from fivestep.errors import UsageError

NEWLINE, RETURN, QUOTE = 10, 13, 34
BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Limits:
    """What a file may hold at most; every refusal names the field to raise. `memory_share`: the part of the free memory that reading may take."""

    num_columns: int = 20_000
    num_categories: int = 1_000
    field_bytes: int = 1 << 20
    record_bytes: int = 64 << 20
    memory_share: float = 0.8


@dataclass(frozen=True)
class Dialect:
    """How a text file is written: one ASCII character between fields, the quote character (None: quotes are ordinary text) and the encoding."""

    delimiter: str = ","
    quote: str | None = '"'
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        if not (isinstance(self.delimiter, str) and len(self.delimiter) == 1 and self.delimiter.isascii() and self.delimiter not in '\n\r"\0'):
            raise UsageError(f'delimiter={self.delimiter!r} is not one ASCII character; use for example delimiter=";" or delimiter="\\t"')
        if self.quote not in ('"', None):
            raise UsageError(f"quote={self.quote!r}: fields are quoted by '\"' or, with quote=None, not at all")
        try:
            is_text = codecs.lookup(self.encoding)._is_text_encoding  # type: ignore[attr-defined]  # "hex", "zip" and "rot13" are codecs, too
        except (LookupError, TypeError):
            is_text = False
        if not is_text:
            raise UsageError(f'encoding={self.encoding!r} is not a text encoding that Python knows; use for example "utf-8", "latin-1", "cp1252" or "utf-16"')

    @property
    def is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig")


@dataclass(frozen=True, eq=False)
class Records:
    """A block of whole records. All arrays have one entry a record; offsets count bytes within `text`, `lines` are physical lines of the file, from 1."""

    text: bytes
    starts: np.ndarray
    ends: np.ndarray  # after the last byte of the content: neither "\n" nor a "\r" before it belongs to it
    lines: np.ndarray
    num_fields: np.ndarray
    is_utf8: bool

    def __len__(self) -> int:
        return len(self.starts)

    def bytes_of(self, record: int) -> bytes:
        return self.text[self.starts[record] : self.ends[record]]

    def shown(self, record: int, length: int = 60) -> str:
        """The record as an error quotes it: escaped, cut at `length` characters."""
        return shown(self.bytes_of(record)[: 4 * length].decode("utf-8", "replace"), length)


def shown(value: object, length: int = 60) -> str:
    """A value as an error quotes it: control characters escaped, at most `length` characters."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


@dataclass
class Scan:
    """Iterate it for the blocks of records; afterwards `problems` holds what is wrong with the structure, one text each.

    A problem after which nothing can be trusted (an unclosed quote, a field without end) ends the iteration; others are noted and the scan goes on, so that
    one pass over the file tells all of them.
    """

    file: BinaryIO
    dialect: Dialect
    limits: Limits = field(default_factory=Limits)
    block_bytes: int = BLOCK_BYTES
    hasher: Any = None
    problems: list[str] = field(default_factory=list)
    num_nul: int = 0
    num_bad_utf8: int = 0

    def __iter__(self) -> Iterator[Records]:
        carry, line, offset = b"", 1, self._start()
        blocks = self._utf8_blocks()
        at_end = False
        while not at_end:
            block = next(blocks, None)
            at_end = block is None
            text = carry if block is None else carry + block
            if not text:
                continue
            found = self._records(text, line, offset, at_end)
            if found is None:
                return
            records, used = found
            if len(records):
                yield records
            carry = text[used:]
            line += text.count(b"\n", 0, used)
            offset += used
            if len(carry) > self.limits.record_bytes and not at_end:
                self.problems.append(
                    f"line {line}: the record that begins here does not end within {len(carry):,} bytes"
                    + (" (a quote that is never closed? quote=None reads quotes as ordinary text)" if b'"' in carry else " (no line end: not a text table?)")
                    + f"; to accept longer records: limits=Limits(record_bytes={2 * len(carry)})"
                )
                return
        self._tell_counts()

    # ------------------------------------------------------------------------------------------------------------------ bytes

    def _start(self) -> int:
        """Skip a UTF-8 byte-order mark; returns the offset of the first byte of text."""
        if not self.dialect.is_utf8:
            return 0
        first = self.file.read(3)
        if self.hasher is not None:
            self.hasher.update(first)
        if first == codecs.BOM_UTF8:
            self._pending = b""
            return 3
        self._pending = first
        return 0

    def _utf8_blocks(self) -> Iterator[bytes]:
        """The file as UTF-8 bytes. UTF-8 itself passes unchanged (and is checked by record later); other encodings are converted."""
        if self.dialect.is_utf8:
            if self._pending:
                yield self._pending
            while block := self.file.read(self.block_bytes):
                if self.hasher is not None:
                    self.hasher.update(block)
                yield block
            return
        decoder = codecs.getincrementaldecoder(self.dialect.encoding)(errors="strict")
        position = 0
        while True:
            block = self.file.read(self.block_bytes)
            if self.hasher is not None:
                self.hasher.update(block)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeError as error:
                where = getattr(error, "start", 0) + position
                self.problems.append(
                    f"byte {where:,} or just after it is not {self.dialect.encoding} ({getattr(error, 'reason', error)}); "
                    'name the file\'s encoding, for example encoding="utf-8" or encoding="latin-1" (which accepts any byte)'
                )
                return
            position += len(block)
            if text:
                yield text.encode("utf-8")
            if not block:
                return

    # ---------------------------------------------------------------------------------------------------------------- structure

    def _records(self, text: bytes, line: int, offset: int, at_end: bool) -> tuple[Records, int] | None:
        """The whole records at the head of `text` and how many bytes they take; None after a problem that ends the scan. `text` begins with a record."""
        array = np.frombuffer(text, np.uint8)
        newlines = np.flatnonzero(array == NEWLINE)
        delimiters = np.flatnonzero(array == ord(self.dialect.delimiter))
        quoted = self.dialect.quote is not None and b'"' in text
        quotes = np.flatnonzero(array == QUOTE) if quoted else np.empty(0, np.int64)
        if quoted:
            if not self._quotes_stand_at_field_edges(text, array, quotes, newlines, line, at_end):
                return None
            stops = newlines[np.searchsorted(quotes, newlines) % 2 == 0]  # newlines outside quotes end a record
        else:
            stops = newlines
        if at_end and (len(stops) == 0 or stops[-1] != len(text) - 1):
            stops = np.append(stops, len(text))  # the last record has no newline
        if len(stops) == 0:
            return self._none(text), 0
        starts = np.concatenate([[0], stops[:-1] + 1])
        ends = stops - ((stops > starts) & (array[np.maximum(stops - 1, 0)] == RETURN))
        if at_end and line == 1 and b"\n" not in text and b"\r" in text.rstrip(b"\r"):
            self.problems.append(
                "the lines end with a bare carriage return (old Mac style), which would make the whole file one line; convert it: tr '\\r' '\\n' < FILE > NEW"
            )
            return None
        used = min(int(stops[-1]) + 1, len(text))
        if quoted:
            delimiters = delimiters[np.searchsorted(quotes, delimiters) % 2 == 0]
            lines = line + np.searchsorted(newlines, starts)
        else:
            lines = line + np.arange(len(starts))
        num_fields = np.diff(np.searchsorted(delimiters, stops), prepend=0) + 1
        is_utf8 = self._check_bytes(text, used, newlines, line, offset)
        records = Records(text, starts, ends, lines, num_fields, is_utf8)
        if not self._fields_within_limit(records, delimiters):
            return None
        return records, used

    def _none(self, text: bytes) -> Records:
        empty = np.empty(0, np.int64)
        return Records(text, empty, empty, empty, empty, True)

    def _quotes_stand_at_field_edges(self, text: bytes, array: np.ndarray, quotes: np.ndarray, newlines: np.ndarray, line: int, at_end: bool) -> bool:
        """True where every odd quote opens a field and every even one closes it (RFC 4180). Else the parity of quotes tells nothing: a problem is noted."""
        delimiter = ord(self.dialect.delimiter)
        opening, closing = quotes[0::2], quotes[1::2]
        before = array[np.maximum(opening - 1, 0)]
        good_opening = (opening == 0) | (before == delimiter) | (before == NEWLINE) | (before == QUOTE)
        # `""` inside a quoted field closes and opens again; a quote before an opening one is always the closing one just before it.
        last = len(text) - 1
        after = array[np.minimum(closing + 1, last)]
        after_return = array[np.minimum(closing + 2, last)]
        ends_line = (after == NEWLINE) | ((after == RETURN) & ((after_return == NEWLINE) | (closing + 2 > last)))
        good_closing = (closing == last) | (after == delimiter) | ends_line | (after == QUOTE)
        bad = np.sort(np.concatenate([opening[~good_opening], closing[~good_closing]]))
        if len(bad):
            where = int(bad[0])
            at_line = line + int(np.searchsorted(newlines, where))
            piece = shown(text[max(where - 12, 0) : where + 12].decode("utf-8", "replace"))
            index = int(np.searchsorted(quotes, where))
            if index % 2 == 0:
                self.problems.append(
                    f"line {at_line}: a quote in the middle of a field that does not begin with one, near {piece}; it would open a quoted part that swallows "
                    'delimiters and line ends. Write the field as "5"" pipe" (quoted, the quote doubled), or quote=None to read quotes as ordinary text'
                )
            else:
                began = line + int(np.searchsorted(newlines, quotes[index - 1]))
                self.problems.append(
                    f"line {began}: the quote that begins a field here is not closed properly: the next quote (line {at_line}, near "
                    f"{piece}) is followed by more "
                    'text. Close the quote, double it inside the field (""), or quote=None to read quotes as ordinary text'
                )
            return False
        if at_end and len(quotes) % 2:
            began = line + int(np.searchsorted(newlines, quotes[-1]))
            self.problems.append(
                f"line {began}: a quote opens a field here and is never closed, so everything after it would be one field. "
                "Close it, or quote=None to read quotes as ordinary text"
            )
            return False
        return True

    def _fields_within_limit(self, records: Records, delimiters: np.ndarray) -> bool:
        limit = self.limits.field_bytes
        for record in np.flatnonzero(records.ends - records.starts > limit):
            start, end = records.starts[record], records.ends[record]
            inside = delimiters[(delimiters >= start) & (delimiters < end)]
            edges = np.concatenate([[start - 1], inside, [end]])
            longest = int(np.diff(edges).max()) - 1
            if longest > limit:
                number = int(np.diff(edges).argmax()) + 1
                self.problems.append(
                    f"line {records.lines[record]}, field {number}: {longest:,} bytes long, more than {limit:,}; a quote or a line end may be missing. "
                    f"To accept longer fields: limits=Limits(field_bytes={longest})"
                )
                return False
        return True

    def _check_bytes(self, text: bytes, used: int, newlines: np.ndarray, line: int, offset: int) -> bool:
        """Note NUL bytes and bytes that are not UTF-8, the first of each with its place; returns whether the block is UTF-8."""
        nul = text.find(b"\0", 0, used)
        if nul >= 0:
            if not self.num_nul:
                self.problems.append(
                    f"line {line + int(np.searchsorted(newlines, nul))}, byte {offset + nul:,}: a NUL byte, which no text holds; "
                    "the file is damaged, binary or in "
                    "another encoding (UTF-16: encoding=\"utf-16\"). Remove it: tr -d '\\000' < FILE > NEW"
                )
            self.num_nul += text.count(b"\0", 0, used)
        whole = text if used == len(text) else text[:used]
        if whole.isascii():
            return True
        try:
            whole.decode("utf-8")
        except UnicodeDecodeError as error:
            if not self.num_bad_utf8:
                start, stop = error.start, error.end
                byte = whole[start]
                high = [value for value in set(whole) if value >= 0x80]
                guess = "cp1252" if any(value < 0xA0 for value in high) else "latin-1"
                piece = whole[max(start - 10, 0) : stop + 10]
                self.problems.append(
                    f"line {line + int(np.searchsorted(newlines, start))}, byte {offset + start:,}: 0x{byte:02x} is not UTF-8 ({error.reason}). "
                    f'In {guess} the text there reads {shown(piece.decode(guess, "replace"))}: encoding="{guess}"'
                )
            self.num_bad_utf8 += 1
            return False
        return True

    def _tell_counts(self) -> None:
        if self.num_nul > 1:
            self.problems.append(f"{self.num_nul:,} NUL bytes in all (the first one is named above)")


# -------------------------------------------------------------------------------------------------------------------------- what is it?

MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip-compressed", "unpack it: gunzip -k FILE"),
    (b"BZh", "bzip2-compressed", "unpack it: bunzip2 -k FILE"),
    (b"\xfd7zXZ\0", "xz-compressed", "unpack it: xz -dk FILE"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "unpack it: zstd -dk FILE"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it"),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Excel workbook (.xls)",
        "save the sheet as CSV, or pass polars.read_excel(FILE) (pandas.read_excel) instead of the path",
    ),
    (b"%PDF", "a PDF", "export the table as CSV"),
    (b"SQLite format 3\0", "an SQLite database", "pass polars.read_database_uri(QUERY, URI) instead of the path"),
    (b"\x89HDF", "an HDF5 file", "pass pandas.read_hdf(FILE) instead of the path"),
    (b"\x93NUMPY", "a numpy array", "pass {name: array[:, i], ...} instead of the path"),
    (b"ARROW1", "an Arrow (Feather) file", "pass polars.read_ipc(FILE) instead of the path"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"Obj\x01", "an Avro file", "pass polars.read_avro(FILE) instead of the path"),
    (b"\x89PNG", "a PNG image", "see Data.images"),
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "fetch the data: git lfs pull"),
)


def what_is_it(head: bytes) -> tuple[str, str] | None:
    """What a file is by its first bytes (a few thousand), where it is not delimited text: (what, the way to use it). None: it may be text.

    >>> what_is_it(bytes([0x1F, 0x8B, 8, 0]))
    ('gzip-compressed', 'unpack it: gunzip -k FILE')
    """
    if head.startswith(b"PK\x03\x04"):
        if b"xl/" in head or b"[Content_Types].xml" in head:
            return "an Excel workbook (.xlsx)", "save the sheet as CSV, or pass polars.read_excel(FILE) (pandas.read_excel) instead of the path"
        return "a zip archive", "unpack it: unzip FILE"
    for magic, what, way in MAGIC:
        if head.startswith(magic) and not (magic in (b"ORC", b"BZh") and head[:64].isascii() and b"\n" in head):  # a header may begin with "ORC"
            return what, way
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)) and len(head) > 4:
        return "UTF-32 text (byte 0 begins with its byte-order mark)", 'encoding="utf-32"'
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16 text (byte 0 begins with its byte-order mark)", 'encoding="utf-16"'
    nul = np.frombuffer(head[:2048], np.uint8) == 0
    if len(nul) >= 8 and (nul[0::2].mean() > 0.4 or nul[1::2].mean() > 0.4) and min(nul[0::2].mean(), nul[1::2].mean()) < 0.1:
        order = "le" if nul[1::2].mean() > 0.4 else "be"
        return f"UTF-16 text without a byte-order mark (line 1, byte {int(nul.argmax())} is a NUL)", f'encoding="utf-16-{order}"'
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:200].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<table")):
        return "an HTML or XML page, perhaps an error page or a login in place of the download", "open it in a browser and download the table itself"
    if start[:1] in (b"{", b"[") and start[1:].lstrip()[:1] in (b'"', b"{", b"[", b"]", b"}"):
        return "JSON", "pass polars.read_json(FILE) (one object a line: polars.read_ndjson) instead of the path"
    return None


def free_memory() -> int | None:
    """Bytes that can still be taken without swapping, the container's limit included; None where the system does not tell."""
    free: list[int] = []
    try:
        with open("/proc/meminfo") as file:
            for row in file:
                if row.startswith("MemAvailable:"):
                    free.append(int(row.split()[1]) * 1024)
    except OSError:
        try:
            free.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (ValueError, OSError, AttributeError):
            return None
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as current:
            text = limit.read().strip()
            if text != "max":
                free.append(int(text) - int(current.read()))
    except (OSError, ValueError):
        pass  # no cgroup (v2) limit here: /proc/meminfo stands alone
    return max(min(free), 0) if free else None
