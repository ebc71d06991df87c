"""Detection of replaced, removed and overwritten files that SQLite has open.

SQLite reports no error after its file was removed or replaced. It continues to write to the old
file, and these writes are lost when the process ends.

This module never opens the files. A process that closes any descriptor of a file loses all its
POSIX locks on that file. That would include SQLite's locks on the file and its -shm. So this module
compares files by `stat`, and reads them through SQLite's own descriptors. While SQLite has a file
open, no other file gets its inode.
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
    """Log texts: how a file was lost, and the remedy."""

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
    """Fields of the file's header that show whether another file has overwritten it.

    The mark is the user_version, which SQLite itself does not use. Each new store and each backup
    gets a random one.
    """

    counter: int
    pages: int
    cookie: int
    mark: int

    def may_become(self, other: "_Header") -> bool:
        """Return whether SQLite's own writes can change this header into the other."""
        return (
            self.mark == other.mark
            and self.counter <= other.counter
            and self.cookie <= other.cookie
            # Only VACUUM shrinks the file, and it increases the cookie.
            and (self.pages <= other.pages or self.cookie < other.cookie)
        )


class _File:
    """A path, and the identity of its file right after SQLite opened it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.opened = _identity(_stat(path))
        self._descriptor = self._find_descriptor()

    def head(self, size: int) -> bytes | None:
        """Return the first bytes of the open file; None if this system can't read them."""
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
    """The file, its write-ahead log and its shared memory. SQLite must have all three open."""

    def __init__(self, path: Path) -> None:
        """Record the identity of the files."""
        real = os.path.realpath(path)  # SQLite creates the other files beside a symlink's target
        self._file = _File(str(path))
        self._log = _File(f"{real}-wal")
        self._shared_memory = _File(f"{real}-shm")
        self._lock = Lock()
        self._changed_ns = -1
        self._header: _Header | None = None
        self._overwritten: Loss | None = None
        self._check()

    def loss(self) -> Loss | None:
        """Return how the files were lost; None if they are intact.

        A file that was moved away and back counts as intact again. An overwritten file never does.
        """
        with self._lock:
            return self._check()

    def _check(self) -> Loss | None:
        file, log = _stat(self._file.path), _stat(self._log.path)
        if file is None or _identity(file) != self._file.opened:
            return Loss.FILE
        if log is None or _identity(log) != self._log.opened:
            return Loss.LOG
        if _identity(_stat(self._shared_memory.path)) != self._shared_memory.opened:
            return Loss.SHARED_MEMORY
        if self._overwritten is None:
            self._overwritten = self._check_content(file, log)
        return self._overwritten

    def _check_content(self, file: os.stat_result, log: os.stat_result) -> Loss | None:
        if file.st_mtime_ns != self._changed_ns:  # by a checkpoint, or by another program
            self._changed_ns = file.st_mtime_ns
            content = self._file.head(_HEADER_BYTES)
            if content is not None:
                header = _parsed(content)
                if header is None or not (self._header or header).may_become(header):
                    return Loss.FILE_CONTENT
                self._header = header
        # An empty log was truncated by a checkpoint. If another program emptied the log, SQLite
        # writes the next frame at the former end, and the log has no header.
        if log.st_size and self._log.head(len(_LOG_MAGIC[0])) not in (None, b"", *_LOG_MAGIC):
            return Loss.LOG_CONTENT
        return None

    def set_aside_replaced_log(self) -> Path | None:
        """Rename a log that SQLite doesn't have open; return its new name, or None.

        Otherwise SQLite would apply this log at the next start to a file with later pages.
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
