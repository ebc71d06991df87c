"""Whether the files that SQLite has open are still those that their names lead to.

A file that was removed or replaced is written to as before, without an error, and what is written
is gone when the process ends. SQLite checks none of this.

Files are never opened here. When a process closes any descriptor of a file, it loses all of its
POSIX locks on that file, and SQLite's are on the file itself and on its -shm. So a file is compared
by `stat`, and read through the descriptors that SQLite has of it. Its inode can't be used again by
another file as long as SQLite has it open.
"""

import os
import struct
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import NamedTuple

_DESCRIPTORS = "/dev/fd"  # on Linux and macOS
_HEADER_BYTES = 100
_HEADER = struct.Struct(">24xII8xI16xI")  # see sqlite.org/fileformat2.html
_MAGIC = b"SQLite format 3\0"
_LOG_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")


class Loss(StrEnum):
    """What happened to the files, and what to do; in the words of the log."""

    FILE = "its file has been replaced or removed while it was open: restore it and restart"
    LOG = (
        "its write-ahead log, the file's name with -wal, has been replaced or removed while it was"
        " open: restart, and leave that file alone"
    )
    SHARED_MEMORY = (
        "its shared memory, the file's name with -shm, has been replaced or removed while it was"
        " open: restart, and leave that file alone"
    )
    FILE_CONTENT = (
        "its file has been overwritten while it was open: stop every process that uses it, remove"
        " its -wal and -shm, restore it, and restart"
    )
    LOG_CONTENT = (
        "its write-ahead log, the file's name with -wal, has been overwritten while it was open:"
        " what was recorded last is lost; restart, and leave that file alone"
    )


class _Header(NamedTuple):
    """The fields of the file's first page by which another file's content is told.

    The mark is the user_version, which SQLite doesn't use: a random number of each new store, and
    of each backup.
    """

    counter: int
    pages: int
    cookie: int
    mark: int

    def may_become(self, other: "_Header") -> bool:
        """Return whether SQLite's own writes can lead from this header to the other."""
        return (
            self.mark == other.mark
            and self.counter <= other.counter
            and self.cookie <= other.cookie
            # Only VACUUM makes the file smaller, and it changes the cookie too.
            and (self.pages <= other.pages or self.cookie < other.cookie)
        )


class _File:
    """A file by its name, as it was when SQLite had just opened it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.opened = _identity(_stat(path))
        self._descriptor = self._find_descriptor()

    def head(self, size: int) -> bytes | None:
        """Return the first bytes of what SQLite has open; None if it can't be read here."""
        if self._descriptor is None or not self._is(self._descriptor):
            self._descriptor = self._find_descriptor()
        if self._descriptor is None:
            return None
        return os.pread(self._descriptor, size, 0)

    def _find_descriptor(self) -> int | None:
        try:
            numbers = [int(name) for name in os.listdir(_DESCRIPTORS)]
        except OSError:
            return None
        return next(filter(self._is, numbers), None)

    def _is(self, descriptor: int) -> bool:
        try:
            return _identity(os.fstat(descriptor)) == self.opened
        except OSError:
            return False


class OpenFiles:
    """The file, its write-ahead log and its shared memory, once SQLite has opened all three."""

    def __init__(self, path: Path) -> None:
        """Remember which files they are."""
        real = os.path.realpath(path)  # SQLite keeps the others beside what a symlink leads to
        self._file = _File(str(path))
        self._log = _File(f"{real}-wal")
        self._shared_memory = _File(f"{real}-shm")
        self._lock = Lock()
        self._changed_ns = -1
        self._header: _Header | None = None
        self._overwritten: Loss | None = None
        self._look()

    def loss(self) -> Loss | None:
        """Return what has happened to the files; None if they are in order.

        A file that was moved and is back is in order again. One that was overwritten never is.
        """
        with self._lock:
            return self._look()

    def _look(self) -> Loss | None:
        file, log = _stat(self._file.path), _stat(self._log.path)
        if file is None or _identity(file) != self._file.opened:
            return Loss.FILE
        if log is None or _identity(log) != self._log.opened:
            return Loss.LOG
        if _identity(_stat(self._shared_memory.path)) != self._shared_memory.opened:
            return Loss.SHARED_MEMORY
        if self._overwritten is None:
            self._overwritten = self._look_into(file, log)
        return self._overwritten

    def _look_into(self, file: os.stat_result, log: os.stat_result) -> Loss | None:
        if file.st_mtime_ns != self._changed_ns:  # by a checkpoint, or by somebody else
            self._changed_ns = file.st_mtime_ns
            content = self._file.head(_HEADER_BYTES)
            if content is not None:
                header = _parsed(content)
                if header is None or not (self._header or header).may_become(header):
                    return Loss.FILE_CONTENT
                self._header = header
        # An empty one was truncated by a checkpoint. One that was emptied by somebody else gets its
        # next frame where its end was, and has no header.
        if log.st_size and self._log.head(len(_LOG_MAGIC[0])) not in (None, b"", *_LOG_MAGIC):
            return Loss.LOG_CONTENT
        return None

    def set_aside_replaced_log(self) -> Path | None:
        """Rename a log that isn't SQLite's out of the way; return its new name.

        At the next start SQLite would apply it to the file, which has later pages.
        """
        found = _stat(self._log.path)
        if found is None or _identity(found) == self._log.opened or not found.st_size:
            return None
        aside = Path(f"{self._log.path}.replaced")
        with suppress(OSError):
            os.replace(self._log.path, aside)
            return aside
        return None


def _parsed(content: bytes) -> _Header | None:
    if len(content) < _HEADER_BYTES or not content.startswith(_MAGIC):
        return None
    return _Header(*_HEADER.unpack_from(content))


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _identity(found: os.stat_result | None) -> tuple[int, int]:
    return (0, 0) if found is None else (found.st_dev, found.st_ino)
