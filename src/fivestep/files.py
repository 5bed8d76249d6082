"""How anything reaches the disk and comes back: whole and proven, or not at all.

Enters: bytes under file names, and facts about them. Leaves: a folder (or file) that either stands complete under its name or does not exist, and, on reading,
exactly the bytes that were hashed. The decision that shaped it: every call that can fail or be cut off by a kill passes through one function, `_io`, so that
the tests fail and kill each of them in turn. Only the standard library is imported: `fivestep --version` and the shell's errors must not wait for torch.

A published folder holds its files and MANIFEST.json, written last: `{"format", "facts", "versions", "files": {name: {"bytes", "sha256"}}, "seal"}`. The seal is
the SHA-256 of the manifest's other entries, so a flipped bit in the manifest itself is found as well. Checksums prove integrity (nothing changed by accident),
not authenticity (who changes a file can change the checksum); for that compare the SHA-256 of MANIFEST.json with one that came by another way.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
import stat
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fivestep._version import __version__
from fivestep.errors import ArtifactError, CannotCreateError, MissingInputError, StorageError, UsageError
from fivestep.quoting import printable
from fivestep.strict_json import JSON_LIMIT, read_json, write_json

MANIFEST = "MANIFEST.json"
FORMAT = 1
CHUNK = 1 << 24  # bytes written and hashed at once: the hash then reads what is still in the cache, and a kill loses little

Contents = bytes | bytearray | memoryview | Callable[[Callable[[Any], None]], None]
"""What a file is to hold: a buffer, or `writer(write)` that calls `write(buffer)` as often as it likes (with `.num_bytes` where the size is known before)."""

# What Windows lacks, all in one place. There is no O_NOFOLLOW (links are looked for before opening, which leaves a gap), no O_NONBLOCK (it has no FIFOs in
# folders), no open relative to a directory, and no fsync of a directory (NTFS journals the rename itself). `locks.Lock` uses msvcrt.locking there.
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_READ = os.O_RDONLY | _NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | getattr(os, "O_BINARY", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_HAS_DIRECTORY_HANDLES = os.open in os.supports_dir_fd and os.scandir in os.supports_fd

_TEMPORARY = re.compile(r"(?P<name>.+)\.(?P<kind>tmp|old)-\d+(-\d+)?")
_DISK_REFUSES = {errno.ENOSPC, errno.EIO, errno.EROFS, errno.EFBIG} | {getattr(errno, "EDQUOT", errno.ENOSPC)}
_CANNOT_CREATE = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR}


def _io(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The one door to the disk while writing. The tests put a fault injector here that fails, or kills the process, at the i-th call for every i."""
    return call(*arguments, **named)


# ------------------------------------------------------------------------------------------------------------------------------------------- reading


@contextlib.contextmanager
def opened_regular(path: str | os.PathLike[str], *, directory: int | Path | None = None) -> Iterator[tuple[Any, int]]:
    """`(binary file, size)` of a regular file, opened once (RELIABILITY A2); with `directory`, `path` is a plain name in that open folder.

    A link, FIFO, device or folder raises ArtifactError without being followed, waited for or read; a missing file MissingInputError, a failing disk
    StorageError.
    """
    shown = printable(os.fspath(path), 300)
    where = path if directory is None or isinstance(directory, int) else directory / path
    try:
        if not _NOFOLLOW and os.path.islink(where):
            raise OSError(errno.ELOOP, "symbolic link")
        descriptor = os.open(where, _READ, dir_fd=directory) if isinstance(directory, int) else os.open(where, _READ)
    except OSError as error:
        if error.errno in (errno.ELOOP, getattr(errno, "EMLINK", errno.ELOOP)):
            raise ArtifactError(f"{shown} is a symbolic link; it could lead out of its folder and is not followed. Put the file itself there.") from error
        if error.errno in (errno.ENXIO, getattr(errno, "EOPNOTSUPP", errno.ENXIO)):
            raise ArtifactError(f"{shown} is not a regular file") from error
        raise _cannot_read(shown, error) from error
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
        raise ArtifactError(f"{shown} is {kinds.get(stat.S_IFMT(facts.st_mode), 'special')}, not a regular file")
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        yield file, facts.st_size


def open_regular(path: str | os.PathLike[str], limit: int | None = None, *, exact: int | None = None, directory: int | Path | None = None) -> bytearray:
    """All bytes of a regular file, opened once; refused before anything is allocated if larger than `limit` or not of `exact` bytes.

    A bytearray, because it is filled in place (one allocation of the file's size) and `torch.frombuffer` takes it without a copy. Raises as `opened_regular`,
    and ArtifactError for the size.
    """
    shown = printable(os.fspath(path), 300)
    with opened_regular(path, directory=directory) as (file, size):
        if exact is not None and size != exact:
            raise ArtifactError(f"{shown} has {size:,} bytes, its manifest says {exact:,}: it was cut, or changed after it was written")
        if limit is not None and size > limit:
            raise ArtifactError(f"{shown} has {size:,} bytes, at most {limit:,} are read here")
        try:
            data = bytearray(size)
            view, filled = memoryview(data), 0
            while filled < size:
                count = file.readinto(view[filled : filled + CHUNK])
                if not count:
                    break
                filled += count
            grown = file.read(1)
        except MemoryError as error:
            raise ArtifactError(f"{shown} has {size:,} bytes, which do not fit into memory") from error
        except OSError as error:
            raise _cannot_read(shown, error) from error
        if filled < size or grown:
            raise ArtifactError(f"{shown} changed its size while it was read; another process writes to it")
        return data


def _cannot_read(shown: str, error: OSError) -> Exception:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return MissingInputError(f"{shown} is not there")
    if error.errno in (errno.EACCES, errno.EPERM):
        return MissingInputError(f"{shown} may not be read by this user ({error.strerror})")
    return _storage_error(f"cannot read {shown}: {error.strerror}", error)


def _storage_error(message: str, cause: OSError) -> StorageError:
    error = StorageError(message)
    error.errno = cause.errno
    return error


@contextlib.contextmanager
def _opened_directory(path: Path) -> Iterator[int | Path]:
    """A handle that stays on this very folder even if its name is given to another meanwhile. The path is the user's: links in it are followed."""
    if not _HAS_DIRECTORY_HANDLES:
        if not path.is_dir():
            raise MissingInputError(f"{printable(str(path), 300)} is {'not a folder' if path.exists() else 'not there'}")
        yield path
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | _DIRECTORY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENOTDIR and os.path.lexists(path):
            raise ArtifactError(f"{printable(str(path), 300)} is a file; a folder with {MANIFEST} was expected") from error
        raise _cannot_read(printable(str(path), 300), error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _MadeByNewerVersion(ArtifactError):
    """A format number above ours: not damage, so it is neither skipped nor set aside."""


@dataclass(frozen=True)
class Published:
    """A published folder as it was read: every byte in `contents` has been hashed and agrees with the manifest.

    `facts` are what the writer said (`step`, ...), `versions` the libraries it ran with, `digest` the SHA-256 of MANIFEST.json, which covers everything.
    """

    path: Path
    facts: dict[str, Any]
    versions: dict[str, str]
    digest: str
    contents: dict[str, bytearray] = field(repr=False)


class PublishedFolder:
    """An open published folder whose manifest, seal and set of files have been verified; its files are read, and hashed, one by one.

    `.facts`, `.versions`, `.digest` as in Published; `.sizes` maps each file's name to its bytes; `.read(name, limit)` gives its verified contents.
    """

    def __init__(self, path: Path, handle: int | Path, manifest: dict[str, Any], digest: str):
        self.path, self.digest = path, digest
        self.facts: dict[str, Any] = manifest["facts"]
        self.versions: dict[str, str] = manifest["versions"]
        self.sizes: dict[str, int] = {name: entry["bytes"] for name, entry in manifest["files"].items()}
        self._hashes: dict[str, str] = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        self._handle = handle

    def read(self, name: str, limit: int | None = None) -> bytearray:
        """The file's bytes, after size and SHA-256 were found to be the manifest's. Raises ArtifactError otherwise, or above `limit` bytes before reading."""
        shown = f"{printable(str(self.path), 300)}{os.sep}{name}"
        limit = _memory_limit() if limit is None else limit
        if self.sizes[name] > limit:
            raise ArtifactError(f"{shown} has {self.sizes[name]:,} bytes, at most {limit:,} are read here")
        with _named(self.path):
            data = open_regular(name, limit, exact=self.sizes[name], directory=self._handle)
        if hashlib.sha256(data).hexdigest() != self._hashes[name]:
            raise ArtifactError(f"{shown}: its SHA-256 is not the one in {MANIFEST}: the file was damaged or changed after it was written")
        return data


@contextlib.contextmanager
def open_published(directory: str | os.PathLike[str], names: Collection[str], *, optional: Collection[str] = ()) -> Iterator[PublishedFolder]:
    """The folder with its manifest verified (RELIABILITY C2, A6): it parses, its seal fits, and manifest and folder list exactly the same files.

    `names` is the closed set that must be there, `optional` what may be there too; nothing else is ever opened. Raises ArtifactError for what is wrong,
    MissingInputError where there is nothing.
    """
    path = Path(directory)
    with _opened_directory(path) as handle:
        with _named(path):
            try:
                data = open_regular(MANIFEST, JSON_LIMIT, directory=handle)
            except MissingInputError as error:
                if isinstance(error, ArtifactError):
                    raise
                raise ArtifactError(f"{error}: this folder was not written by fivestep, or its writing was cut off") from error
            manifest = _checked_manifest(read_json(data, what=MANIFEST), bytes(data), set(names), set(optional))
            present: set[str] = set()
            with os.scandir(handle) as entries:  # type: ignore[arg-type]
                for entry in entries:
                    if entry.name != MANIFEST and entry.name not in manifest["files"]:
                        raise ArtifactError(f'holds "{printable(entry.name)}", which its manifest does not list; move it away if you put it there')
                    present.add(entry.name)
            lacking = sorted(set(manifest["files"]) - present)
            if lacking:
                raise ArtifactError(f"lacks {', '.join(lacking)}, which its manifest lists")
        yield PublishedFolder(path, handle, manifest, hashlib.sha256(data).hexdigest())


def read_published(
    directory: str | os.PathLike[str], names: Collection[str], *, optional: Collection[str] = (), limits: Mapping[str, int] | None = None
) -> Published:
    """Everything in a published folder, each byte verified before it is returned; the bytes hashed are the bytes returned (no second open).

    `limits` gives the most bytes to read of a file (else half of this machine's memory). Raises as `open_published`.
    """
    with open_published(directory, names, optional=optional) as folder:
        contents = {name: folder.read(name, (limits or {}).get(name)) for name in folder.sizes}
        return Published(folder.path, folder.facts, folder.versions, folder.digest, contents)


def _checked_manifest(manifest: Any, data: bytes, names: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int or manifest["format"] < 1:
        raise ArtifactError(f"{MANIFEST} has no format number; it was not written by fivestep")
    if manifest["format"] > FORMAT:
        raise _MadeByNewerVersion(f"format {manifest['format']} was made by a newer version of fivestep (this one knows {FORMAT}); update fivestep to read it")
    if set(manifest) != {"format", "facts", "versions", "files", "seal"}:
        wrong = sorted(set(manifest) ^ {"format", "facts", "versions", "files", "seal"})
        raise ArtifactError(f"{MANIFEST} has missing or unknown keys: {', '.join(printable(key) for key in wrong)}")
    seal = manifest.pop("seal")
    # Parsed and written again it must be the same bytes: so no flipped bit hides in white space or in a second spelling of the same text.
    if write_json({**manifest, "seal": seal}) != data or hashlib.sha256(write_json(manifest)).hexdigest() != seal:
        raise ArtifactError(f"{MANIFEST} does not fit its own checksum: it was damaged or changed after it was written")
    files, versions = manifest["files"], manifest["versions"]
    if not isinstance(manifest["facts"], dict) or not isinstance(files, dict) or not isinstance(versions, dict):
        raise ArtifactError(f"{MANIFEST}: facts, versions and files must be objects")
    if not all(isinstance(version, str) for version in versions.values()):
        raise ArtifactError(f"{MANIFEST}: versions must be texts")
    unknown, lacking = sorted(set(files) - names - optional), sorted(names - set(files))
    if unknown or lacking:
        told = [f"lists {', '.join(printable(name) for name in unknown[:5])}, which has no place here"] if unknown else []
        told += [f"does not list {', '.join(lacking)}"] if lacking else []
        raise ArtifactError(f"{MANIFEST} {' and '.join(told)}")
    for name, entry in files.items():
        fits = isinstance(entry, dict) and set(entry) == {"bytes", "sha256"} and type(entry["bytes"]) is int and entry["bytes"] >= 0
        if not fits or not isinstance(entry["sha256"], str) or not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
            raise ArtifactError(f"{MANIFEST}: the entry of {name} must hold bytes (a count) and sha256 (64 hexadecimal digits)")
    return manifest


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors about a file in a folder begin with the folder's path."""
    try:
        yield
    except (ArtifactError, MissingInputError, StorageError) as error:
        error.args = (f"{printable(str(path), 300)}{os.sep} {error.args[0]}", *error.args[1:])
        raise


def _memory_limit() -> int:
    """Half of this machine's memory: what a file may hold of which nothing else is known, as loading takes twice its size (RELIABILITY A8)."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 1 << 33


# ------------------------------------------------------------------------------------------------------------------------------------------- writing


def publish(parent: str | os.PathLike[str], name: str, files: Mapping[str, Contents], *, facts: Mapping[str, Any], replace: bool = False) -> Path:
    """The path of a folder `parent/name` that holds `files` and their manifest: complete and durable when this returns (RELIABILITY C1).

    Built beside its place as `name.tmp-PID`: each file created new, written, synced; MANIFEST.json last; the folder synced; renamed; the parent synced.
    Killed at any moment, `name` is either not there or complete; with `replace=True` it is the old one or the new one. `facts` must be JSON.

    Raises CannotCreateError if the name is taken (without `replace`) or may not be created, StorageError for a full or failing disk; then nothing has
    changed and the temporary folder is gone. A failed fsync is final (C8): nothing is synced a second time, as the kernel may have dropped the pages; call
    again to write anew.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     path = publish(parent, "step-000000000100", {"state.json": b"{}"}, facts={"step": 100})
    ...     print(sorted(os.listdir(path)), read_published(path, ["state.json"]).facts)
    ['MANIFEST.json', 'state.json'] {'step': 100}
    """
    parent = Path(parent)
    for each in (name, *files):
        if each in ("", ".", "..", MANIFEST) or any(character in each for character in "/\\\0"):
            raise UsageError(f"{each!r} cannot name a published folder or file: a plain name is needed")
    target = parent / name
    _refuse_taken_name(target, replace)
    if os.path.lexists(target):
        foreign = _foreign_entry(target, {*files, MANIFEST})
        if foreign is not None:
            raise CannotCreateError(f"{printable(str(target), 300)} {foreign}; it is not replaced, as that would delete it")
    versions = _versions()
    write_json({"facts": dict(facts), "versions": versions})  # what JSON cannot hold is refused before anything is written
    needed = _needed(*files.values())

    temporary: Path | None = None
    replaced: Path | None = None
    renamed = False
    try:
        temporary = _make_temporary(parent, name)
        listing = {each: _write_new_file(temporary / each, contents) for each, contents in files.items()}
        manifest = {"format": FORMAT, "facts": dict(facts), "versions": versions, "files": listing}
        seal = hashlib.sha256(write_json(manifest)).hexdigest()
        _write_new_file(temporary / MANIFEST, write_json({**manifest, "seal": seal}))
        _sync_directory(temporary)
        replaced = _put_in_place(temporary, target)
        renamed = True
        _sync_directory(parent)
    except BaseException as error:
        free = _free_bytes_or_none(parent)
        left = _undo(temporary, target, replaced, renamed)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise _explained(error, target, needed, free, left) from error
        raise
    if replaced is not None:
        try:
            _remove(replaced)
        except OSError as error:  # the new one stands and is durable: this is no failure to save
            warnings.warn(f"{target} was replaced, but the old one could not be removed from {replaced}: {error.strerror}", stacklevel=2)
    return target


def write_atomic(path: str | os.PathLike[str], contents: Contents, *, replace: bool = True) -> Path:
    """`path`, after it holds `contents` and is durable; killed at any moment, the file is the old one or the new one, never a part.

    Raises CannotCreateError (also when it exists and `replace` is False) and StorageError, with the old file untouched and the temporary file gone.
    """
    path = Path(path)
    _refuse_taken_name(path, replace)
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):  # a rename onto /dev/stdout would replace the device
        raise CannotCreateError(f"{printable(str(path), 300)} is a link, a folder or a device, and would be replaced by a file; give the file's own path")
    temporary = _free_name(path.parent, path.name, "tmp")
    try:
        _write_new_file(temporary, contents, 0o666)
        _io(os.replace, temporary, path)
        _sync_directory(path.parent)
    except BaseException as error:
        free = _free_bytes_or_none(path.parent)
        left = _undo(temporary, path)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise _explained(error, path, _needed(contents), free, left) from error
        raise
    return path


def append_line_durably(path: str | os.PathLike[str], line: bytes) -> None:
    """`line` (without a newline in it) is the file's last line and durable when this returns; the file is created where there is none.

    A line that an earlier kill cut off before its newline was never durable, and is removed first. Not for two writers at once: hold the run's Lock.
    """
    if b"\n" in line.removesuffix(b"\n"):
        raise UsageError("a line holds no newline")
    path = Path(path)
    line = line.removesuffix(b"\n") + b"\n"
    before: int | None = None
    new = not os.path.lexists(path)
    try:
        descriptor: int = _io(os.open, path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _NOFOLLOW | getattr(os, "O_BINARY", 0), 0o666)
        try:
            size = os.fstat(descriptor).st_size
            before = _end_of_last_line(descriptor, size)
            if before != size:
                _io(os.ftruncate, descriptor, before)
            _write_all(descriptor, line)
            _io(os.fsync, descriptor)
        except OSError:
            if before is not None:
                with contextlib.suppress(OSError):  # where even this fails, the next append removes the part
                    os.ftruncate(descriptor, before)
            raise
        finally:
            os.close(descriptor)
        if new:
            _sync_directory(path.parent)
    except OSError as error:
        raise _explained(error, path, _needed(line), _free_bytes_or_none(path.parent)) from error


def append_line(path: str | os.PathLike[str], line: bytes) -> None:
    """`line` is the file's last line; not synced, so a loss of power may cost it (a kill does not). Raises StorageError, CannotCreateError.

    For what can be written again from elsewhere: history.jsonl stands in each checkpoint too, and syncing it cost 13 ms an epoch.
    """
    path = Path(path)
    line = line.removesuffix(b"\n") + b"\n"
    try:
        descriptor: int = _io(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NOFOLLOW | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _write_all(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _explained(error, path, _needed(line), _free_bytes_or_none(path.parent)) from error


def make_folder(path: str | os.PathLike[str], *, exist_ok: bool = False) -> Path:
    """The folder, made with those above it and durable: each new name is synced in its parent. Raises CannotCreateError (it exists) and StorageError."""
    path = Path(path)
    if os.path.lexists(path):
        if exist_ok and path.is_dir():
            return path
        raise CannotCreateError(f"{printable(str(path), 300)} exists already; choose another name")
    if not path.parent.exists():
        make_folder(path.parent, exist_ok=True)
    try:
        _io(os.mkdir, path)
        _sync_directory(path.parent)
    except FileExistsError as error:
        if not exist_ok:
            raise CannotCreateError(f"{printable(str(path), 300)} exists already; choose another name") from error
    except OSError as error:
        raise _explained(error, path, _needed(), _free_bytes_or_none(path.parent)) from error
    return path


def free_bytes(path: str | os.PathLike[str]) -> int:
    """How many bytes this user can still write to the disk that holds `path`, or would hold it once created."""
    path = Path(path).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError as error:
        raise _cannot_read(printable(str(path), 300), error) from error


def _versions() -> dict[str, str]:
    """Versions of what is loaded; nothing is imported for it."""
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in ("torch", "numpy", "polars", "safetensors")}
    return {"fivestep": __version__, "python": platform.python_version(), **{name: str(version) for name, version in loaded.items() if version is not None}}


def _refuse_taken_name(target: Path, replace: bool) -> None:
    if os.path.lexists(target) and not replace:
        raise CannotCreateError(f"{printable(str(target), 300)} exists already; choose another name, or ask for it to be replaced")


def _foreign_entry(target: Path, names: set[str]) -> str | None:
    """Why `target` is no published folder with files of these names only, in words; None where it is one."""
    if target.is_symlink() or not target.is_dir():
        return "is not a folder"
    present = set(os.listdir(target))
    if MANIFEST not in present:
        return f"is a folder without {MANIFEST}: fivestep did not write it"
    foreign = sorted(present - names)
    return f'holds "{printable(foreign[0])}", which fivestep did not write' if foreign else None


def _needed(*files: Contents) -> str:
    sizes = [getattr(contents, "num_bytes", None) if callable(contents) else memoryview(contents).nbytes for contents in files]
    return f"{'at least ' if None in sizes else ''}{sum(filter(None, sizes)):,} bytes"


def _free_name(parent: Path, name: str, kind: str) -> Path:
    """`name.tmp-PID`, or with a number behind it: in a container every process may be number 1, and a dead one's leftovers carry our name."""
    count = 0
    while True:
        path = parent / f"{name}.{kind}-{os.getpid()}{f'-{count}' if count else ''}"
        if not os.path.lexists(path):
            return path
        count += 1


def _make_temporary(parent: Path, name: str) -> Path:
    path = _free_name(parent, name, "tmp")
    _io(os.mkdir, path, 0o700)
    return path


def _write_new_file(path: Path, contents: Contents, mode: int = 0o600) -> dict[str, Any]:
    """The manifest's entry for a file that was created new, written and synced."""
    descriptor = _io(os.open, path, _CREATE, mode)
    digest, size = hashlib.sha256(), 0

    def write(buffer: Any) -> None:
        nonlocal size
        view = memoryview(buffer).cast("B")
        for start in range(0, len(view), CHUNK):
            part = view[start : start + CHUNK]
            digest.update(part)
            _write_all(descriptor, part)
        size += len(view)

    try:
        if callable(contents):
            contents(write)
        else:
            write(contents)
        _io(os.fsync, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    _io(os.close, descriptor)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        view = view[_io(os.write, descriptor, view) :]


def _end_of_last_line(descriptor: int, size: int) -> int:
    """Where the bytes after the file's last newline begin."""
    end = size
    while end > 0:
        start = max(0, end - 65536)
        os.lseek(descriptor, start, os.SEEK_SET)
        found = os.read(descriptor, end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _sync_directory(path: Path) -> None:
    if not _DIRECTORY:
        return
    descriptor = _io(os.open, path, os.O_RDONLY | _DIRECTORY)
    try:
        _io(os.fsync, descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, getattr(errno, "ENOTSUP", errno.EINVAL)):  # some network file systems know no fsync of a folder
            raise
    finally:
        os.close(descriptor)


def _put_in_place(temporary: Path, target: Path) -> Path | None:
    """Rename `temporary` to `target`; the path where the folder that stood there is now, or None."""
    if not os.path.lexists(target):
        _io(os.rename, temporary, target)
        return None
    if _exchange(temporary, target):
        return temporary
    # Without an atomic exchange there is a moment at which neither stands under the name; `remove_dead_temporaries` puts the old one back after a kill in it.
    old = _free_name(target.parent, target.name, "old")
    _io(os.rename, target, old)
    try:
        _io(os.rename, temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    return old


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders' names in one atomic step, where the system can (Linux's renameat2 with RENAME_EXCHANGE); False where it cannot."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:  # a C library older than 2018
        return False
    at_working_directory, exchange = -100, 2
    failed = _io(renameat2, at_working_directory, os.fsencode(one), at_working_directory, os.fsencode(other), exchange)
    if failed:
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOSYS, errno.EPERM):  # a file system or a sandbox that does not know it
            return False
        raise OSError(code, os.strerror(code), str(other))
    return True


def _undo(temporary: Path | None, target: Path, replaced: Path | None = None, renamed: bool = False) -> str:
    """After a failure: back to the old state, as far as the disk allows. What could not be undone, in words; "" where all was."""
    if temporary is None:
        return ""
    try:
        if renamed and replaced == temporary:
            _exchange(temporary, target)
        elif renamed:
            _io(os.rename, target, temporary)
            if replaced is not None:
                _io(os.rename, replaced, target)
        renamed = False
        if os.path.lexists(temporary):
            _remove(temporary)
        return ""
    except OSError:  # the first error is the one to report
        if renamed:
            return f"the new {printable(target.name)} is complete, but may not survive a loss of power"
        return f"{printable(temporary.name)} could not be removed and will be at the next start"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        _io(shutil.rmtree, path)
    else:
        _io(os.unlink, path)


def _free_bytes_or_none(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _explained(error: OSError, target: Path, needed: str, free: int | None, left: str = "") -> Exception:
    """One line: path, cause, bytes needed and free, and what still stands (RELIABILITY C7)."""
    shown, cause = printable(str(target), 300), error.strerror or str(error)
    if error.errno in _CANNOT_CREATE:
        if error.errno == errno.ENOENT and not target.parent.exists():
            cause = f"the folder {printable(str(target.parent), 300)} does not exist"
        return CannotCreateError(f"cannot create {shown}: {cause}")
    if left.startswith("the new"):
        stands, left = left, ""
    elif os.path.lexists(target):
        stands = f"the earlier {printable(target.name)} stands unchanged"
    else:
        others = _siblings(target)
        stands = f"{others[-1]} stands unchanged{f', and {len(others) - 1} older' if others[1:] else ''}" if others else "nothing else was touched"
    space = f"{needed} needed, {'an unknown number' if free is None else f'{free:,}'} free"
    failing = "" if error.errno in _DISK_REFUSES else " (unexpected)"
    return _storage_error(f"cannot write {shown}: {cause}{failing}; {space}; {stands}{left and f'; {left}'}", error)


def _siblings(target: Path) -> list[str]:
    """Names of published folders of the target's kind (`step-` for `step-000000000100`) beside it, oldest first."""
    prefix = target.name.rstrip("0123456789")
    try:
        return [path.name for path in _published(target.parent, prefix) if path.name != target.name] if prefix != target.name else []
    except OSError:
        return []


# ------------------------------------------------------------------------------------------------------------------------------------ many, in order


@dataclass(frozen=True)
class Newest:
    """What `newest_valid` found. `published` is None where there was no folder at all; `parsed` is what `parse` made of it; `damaged` are (path, reason) of
    newer ones that had to be passed over, the path being where each is now."""

    published: Published | None
    parsed: Any
    damaged: tuple[tuple[Path, str], ...]


def newest_valid(
    parent: str | os.PathLike[str],
    prefix: str,
    names: Collection[str],
    *,
    optional: Collection[str] = (),
    parse: Callable[[Published], Any] | None = None,
    set_aside: bool = True,
) -> Newest:
    """The newest folder `prefix` + digits in `parent` of which every byte is valid (RELIABILITY C2, C3).

    The digits must equal `facts["step"]`. `parse` may refuse contents too, by raising ArtifactError; its result is returned. Damaged ones are passed over,
    told in `.damaged` and renamed to `.bad` (with `set_aside=False`, for readers without the lock, they keep their names); never deleted. If there are some
    and none is valid, MissingInputError: a run must not start from zero in silence. One made by a newer version is an ArtifactError at once, as it is not
    damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for path in reversed(_published(Path(parent), prefix)):
        try:
            published = read_published(path, names, optional=optional)
            step = published.facts.get("step")
            if type(step) is not int or step != int(path.name[len(prefix) :]):
                raise ArtifactError(f"{printable(str(path), 300)} was written as step {step}: the folder was renamed")
            return Newest(published, parse(published) if parse is not None else None, tuple(damaged))
        except _MadeByNewerVersion:
            raise
        except (MissingInputError, StorageError) as error:
            if not isinstance(error, ArtifactError | StorageError):
                if os.path.lexists(path):
                    raise  # no permission: nothing is known about the folder, so it is not called damaged
                continue  # the trainer has pruned it while we looked
            damaged.append(_set_aside(path, str(error)) if set_aside else (path, str(error)))
    if damaged:
        told = "; ".join(f"{printable(path.name)}: {reason}" for path, reason in damaged[:3])
        raise MissingInputError(
            f"{printable(str(parent), 300)} holds {len(damaged)} checkpoints and none is valid ({told}). Going on would start from zero in silence; "
            "if that is meant, start a new run."
        )
    return Newest(None, None, ())


def prune(parent: str | os.PathLike[str], keep: int, protect: Collection[str] = (), *, prefix: str = "step-") -> list[str]:
    """Names of the folders removed: all but the newest `keep` (at least 2) and those in `protect` (best, step 0). Call after the new one is durable (C4).

    Each is renamed to a temporary name before it is deleted, so that a kill leaves no half of one under its own name. Raises StorageError.
    """
    if keep < 2:
        raise UsageError(f"keep={keep}: at least 2 are kept, so that a damaged newest one leaves another")
    removed = []
    for path in _published(Path(parent), prefix)[:-keep]:
        if path.name in protect:
            continue
        try:
            temporary = _free_name(path.parent, path.name, "tmp")
            _io(os.rename, path, temporary)
            _remove(temporary)
        except OSError as error:
            raise _storage_error(f"cannot remove {printable(str(path), 300)}: {error.strerror}; the newer ones stand unchanged", error) from error
        removed.append(path.name)
    return removed


def remove_dead_temporaries(parent: str | os.PathLike[str]) -> list[Path]:
    """Paths of what dead writers left in `parent`, now removed (RELIABILITY C5). Call at start and under the lock: whoever wrote them is then dead.

    A folder that was being replaced when its writer died (`name.old-PID`, only where names cannot be exchanged atomically) is put back under its name.
    """
    found = []
    try:
        for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
            match = _TEMPORARY.fullmatch(entry.name)
            if match is None:
                continue
            path, target = Path(entry.path), Path(parent) / match["name"]
            if match["kind"] == "old" and not os.path.lexists(target):
                _io(os.rename, path, target)
            else:
                _remove(path)
                found.append(path)
    except FileNotFoundError:
        if Path(parent).exists():
            raise
    except OSError as error:
        raise _storage_error(f"cannot remove temporary files in {printable(str(parent), 300)}: {error.strerror}", error) from error
    return found


def _published(parent: Path, prefix: str) -> list[Path]:
    """Folders named `prefix` + digits, oldest first. Links are not among them."""
    try:
        with os.scandir(parent) as entries:
            found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name.startswith(prefix)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    numbered = [(int(name[len(prefix) :]), name) for name in found if re.fullmatch("[0-9]{1,18}", name[len(prefix) :])]
    return [parent / name for _, name in sorted(numbered)]


def _set_aside(path: Path, reason: str) -> tuple[Path, str]:
    count = 0
    while os.path.lexists(bad := path.with_name(f"{path.name}.bad{f'-{count}' if count else ''}")):
        count += 1
    try:
        _io(os.rename, path, bad)
    except OSError as error:  # a read-only disk: it can still be passed over
        return path, f"{reason} (it could not be renamed to {bad.name}: {error.strerror})"
    return bad, reason


__all__: Sequence[str] = (
    "CHUNK", "FORMAT", "MANIFEST", "Newest", "Published", "PublishedFolder", "append_line", "append_line_durably", "free_bytes", "make_folder", "newest_valid",
    "open_published", "open_regular", "opened_regular", "prune", "publish", "read_published", "remove_dead_temporaries", "write_atomic",
)  # fmt: skip
