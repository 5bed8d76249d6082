"""One process alone on a folder. Enters: a folder. Leaves: `Lock`, held while its `with` lasts, or LockedError with the number of the process that holds it.

The decision that shaped it: the kernel's own lock, not the presence of a file, since that would outlive a killed process. What is written into the
file (the holder's number, for the error of others) does not pass through `files._io`: it need not be whole. Only the standard library is imported.
"""

from __future__ import annotations

import errno
import os
import re
import weakref
from pathlib import Path

from fivestep import files
from fivestep.errors import LockedError, MissingInputError
from fivestep.quoting import printable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class Lock:
    """`with Lock(folder):` this process alone works on the folder (RELIABILITY P1). Raises LockedError, naming the other process, when another holds it.

    The kernel drops the lock when its holder dies, however it dies, so that there are no stale locks. POSIX: flock on `folder/.lock`. Windows:
    msvcrt.locking on one byte of it far behind the text. Readers need no lock. Processes forked from this one do not hold it: they close their copy.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Lock(folder) as lock:
    ...     lock.path.read_text() == f"{os.getpid()}\\n"
    True
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.path = Path(folder) / ".lock"
        self._descriptor: int | None = None

    def __enter__(self) -> Lock:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | files._NOFOLLOW | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise MissingInputError(f"{printable(str(self.path.parent), 300)} is not there") from error
            raise files._explained(error, self.path, files._needed(), files._free_bytes_or_none(self.path.parent)) from error
        try:
            _lock(descriptor)
        except OSError as error:
            holder = os.read(descriptor, 20).split(b"\n")[0]
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, getattr(errno, "EDEADLOCK", errno.EAGAIN)):
                raise files._storage_error(
                    f"cannot lock {printable(str(self.path), 300)}: {error.strerror}; this file system may have no locks", error
                ) from error
            process = f"process {int(holder)}" if re.fullmatch(rb"[0-9]{1,19}", holder) else "another process"
            raise LockedError(
                f"{printable(str(self.path.parent), 300)} is in use by {process}; two writers would destroy each other's checkpoints. Wait for it, or stop it."
            ) from error
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:
            os.close(descriptor)
            raise files._explained(error, self.path, files._needed(), files._free_bytes_or_none(self.path.parent)) from error
        self._descriptor = descriptor
        _held.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held. The file stays: removing it would let two processes lock two files of one name."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is not None:
            os.close(descriptor)


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(descriptor, 0, os.SEEK_SET)


def _close_locks_in_child() -> None:
    # A forked DataLoader worker shares the locked descriptor. Without this it keeps a killed trainer's lock for the seconds it takes to notice.
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks_in_child)
