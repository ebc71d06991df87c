"""Overwrites what secure_delete leaves: copies of rows that have moved to another page.

When SQLite spreads rows anew over neighbouring pages, the bytes of a row that left a page may stay
in that page's unallocated space, where a later delete doesn't find them: secure_delete overwrites
a row where it is, not where it was. Inserts do that as well as deletes, once in some 300 rows.

Each page that was written is in the write-ahead log. So soon after each commit its pages are looked
at there, and those with anything in their unallocated space are remembered. SQLite itself has no
way to overwrite that space in the inner pages of a table without rowid. So it is done in the file,
under the lock for writing, while the log is empty, so that no page is newer than in the file.
SQLite never reads this space. Connections that have such a page in memory drop it, because a commit
follows. The page format is that of https://sqlite.org/fileformat2.html.
"""

import errno
import os
import re
import sqlite3
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import structlog

from interaction_svc.store.sqlite.connection import drop_page_cache
from interaction_svc.store.sqlite.transactions import transaction

MANY_PAGES = 256
"""When so many pages wait to be wiped, the log is emptied for them."""
_WAL_HEADER = struct.Struct(">IIIIIIII")
_FRAME_HEADER = struct.Struct(">IIIIII")
_PAGE_HEADER = struct.Struct(">BHHHB")
_HEADER_BYTES = {0x02: 12, 0x05: 12, 0x0A: 8, 0x0D: 8}
"""How long the header of a page is, by its kind: inner pages and leaves of indexes and tables."""
_MOST_FRAGMENTS = 60
_FILE_HEADER_BYTES = 100
_PAGES_OF_A_SPLIT = 3
"""A commit that spread rows over neighbouring pages wrote these, and the page above, at least."""
_MOST_PAGES = 1 << 25
"""From so many on (256 GiB) an overflow page may begin like one of a table."""
_READ_BYTES = 4 * 1024 * 1024
# What is left of SQLite's own, pointers of two bytes below the page's size, is no text.
_TEXT = re.compile(rb"[\x20-\xff]{8}")

log = structlog.get_logger()


class _Frame(NamedTuple):
    """A page in the log: its number, and where it begins there."""

    page: int
    offset: int


class PageWiper:
    """Remembers the pages that are to be wiped, and wipes them."""

    def __init__(self, path: Path, wal: Path) -> None:
        self._file = _File.of(path)
        self._wal = wal
        self._salt = b""
        self._offset = _WAL_HEADER.size
        self._stained: set[int] = set()
        self._stopped = threading.Event()

    @property
    def stained_pages(self) -> int:
        """How many pages wait to be wiped."""
        return len(self._stained)

    @property
    def log_bytes(self) -> int:
        """How long the log was when it was last looked at."""
        return self._offset

    def look(self) -> None:
        """Look at the pages of what was committed since the last time. Raises OSError."""
        try:
            wal = self._wal.open("rb", buffering=0)
        except FileNotFoundError:
            return
        with wal:
            header = wal.read(_WAL_HEADER.size)
            if len(header) < _WAL_HEADER.size:
                return
            page_size, salt = _WAL_HEADER.unpack(header)[2], header[16:24]
            if salt != self._salt:  # the log has begun anew
                self._salt, self._offset = salt, _WAL_HEADER.size
            pages: dict[int, int] = {}
            for frames in self._commits(wal.fileno(), page_size):
                if len(frames) >= _PAGES_OF_A_SPLIT:
                    pages.update(frames)  # of several versions of a page the last one counts
            for number, offset in pages.items():
                if has_text(os.pread(wal.fileno(), page_size, offset), number):
                    self._stained.add(number)

    def _commits(self, wal: int, page_size: int) -> Iterator[list[_Frame]]:
        """Yield the pages of each commit since the last time; only their headers are read."""
        frames: list[_Frame] = []
        at = self._offset
        while len(header := os.pread(wal, _FRAME_HEADER.size, at)) == _FRAME_HEADER.size:
            number, size_after_commit, *_ = _FRAME_HEADER.unpack(header)
            if header[8:16] != self._salt:
                return  # what follows is of an earlier time
            frames.append(_Frame(number, at + _FRAME_HEADER.size))
            at += _FRAME_HEADER.size + page_size
            if size_after_commit:
                self._offset = at
                yield frames
                frames = []

    def look_through(self) -> None:
        """Look at the whole file: a process may have ended before it wiped. Raises OSError."""
        descriptor = self._file.descriptor
        page_size = _page_size_of(descriptor)
        pages = os.fstat(descriptor).st_size // page_size
        at_once = _READ_BYTES // page_size
        for begin in range(0, pages, at_once):
            if self._stopped.is_set():
                return
            read = os.pread(descriptor, at_once * page_size, begin * page_size)
            for place in range(len(read) // page_size):
                number = begin + place + 1
                if has_text(read[place * page_size :][:page_size], number):
                    self._stained.add(number)

    def stop(self) -> None:
        """End a look through the whole file."""
        self._stopped.set()

    def close(self) -> None:
        """Let go of the file, once all connections of its store have been closed."""
        self._file.release()

    def wipe(self, db: sqlite3.Connection) -> bool:
        """Overwrite what is left on the remembered pages, once the log is empty.

        Returns whether it is done: not if somebody has written meanwhile. Raises sqlite3.Error,
        OSError.
        """
        if not self._stained:
            return True
        with transaction(db):
            if self._wal.stat().st_size:
                return False
            stained = self._stained.copy()
            _wipe(self._file.descriptor, stained)
            drop_page_cache(db)
            # A change, for which all connections drop the pages that they have in memory.
            db.execute("UPDATE schema_migrations SET applied_at = applied_at")
        self._stained -= stained
        return True


def wipe_file(path: Path) -> None:
    """Overwrite what is left on all pages of a file that nobody has open. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _wipe(descriptor, None)
    finally:
        os.close(descriptor)


def _wipe(descriptor: int, numbers: set[int] | None) -> None:
    """Overwrite what is left on pages of a file that nobody writes to; None: on all."""
    page_size = _page_size_of(descriptor)
    pages = os.fstat(descriptor).st_size // page_size
    if pages >= _MOST_PAGES:
        log.warning("the file is too large to be wiped of copies of what was deleted")
        return
    for number in range(1, pages + 1) if numbers is None else sorted(numbers):
        begin = (number - 1) * page_size
        page = os.pread(descriptor, page_size, begin)
        if len(page) == page_size and has_text(page, number):
            unallocated = _unallocated(page, number)
            os.pwrite(descriptor, bytes(len(unallocated)), begin + unallocated.start)
    os.fsync(descriptor)


def has_text(page: bytes, number: int) -> bool:
    """Return whether there is anything like text in the unallocated space of a page."""
    unallocated = _unallocated(page, number)
    return _TEXT.search(page, unallocated.start, unallocated.stop) is not None


def _unallocated(page: bytes, number: int) -> range:
    """Return where a page's unallocated space is; on a page of another kind there is none."""
    begin = _FILE_HEADER_BYTES if number == 1 else 0
    kind, free, cells, content, fragments = _PAGE_HEADER.unpack_from(page, begin)
    if kind not in _HEADER_BYTES:
        return range(0)
    begin += _HEADER_BYTES[kind] + 2 * cells
    end = content or 65536
    sound = begin <= end <= len(page) and fragments <= _MOST_FRAGMENTS
    return range(begin, end) if sound and (free == 0 or end <= free < len(page)) else range(0)


def _page_size_of(descriptor: int) -> int:
    (size,) = struct.unpack(">H", os.pread(descriptor, 2, 16))
    return 65536 if size == 1 else int(size)


class _File:
    """A file, and how many scrubbers of this process it has.

    Its descriptor is closed with the last of them. To close it earlier would release the locks that
    SQLite's connections in this process have on the file: POSIX's locks belong to the process, and
    not to the descriptor.
    """

    _open: ClassVar[dict[tuple[int, int], "_File"]] = {}

    def __init__(self, path: Path, identity: tuple[int, int]) -> None:
        self._path = path
        self._identity = identity
        self._users = 0
        self._descriptor: int | None = None

    @classmethod
    def of(cls, path: Path) -> "_File":
        """Return the file that a path names, for one more scrubber. Raises OSError."""
        identity = _identity(os.stat(path))
        file = cls._open.setdefault(identity, cls(path, identity))
        file._users += 1
        return file

    @property
    def descriptor(self) -> int:
        """A descriptor to read and write it. Raises OSError."""
        if self._descriptor is None:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            if _identity(os.fstat(descriptor)) != self._identity:
                os.close(descriptor)
                raise FileNotFoundError(errno.ENOENT, "its file has been replaced")
            self._descriptor = descriptor
        return self._descriptor

    def release(self) -> None:
        """Close it if this was the last scrubber; its store's connections have been closed."""
        self._users -= 1
        if self._users == 0:
            del self._open[self._identity]
            if self._descriptor is not None:
                os.close(self._descriptor)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
