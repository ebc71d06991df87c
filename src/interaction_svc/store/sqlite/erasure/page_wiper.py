"""Overwrites the copies of rows that secure_delete leaves in unallocated space.

When SQLite redistributes rows over neighbouring pages, the bytes of a row that left a page may stay
in the page's unallocated space as residue. A later delete doesn't erase it, because secure_delete
overwrites only the current copy of a row. About one insert or delete in 300 leaves residue.

The write-ahead log contains every page that was written. Soon after each commit this module scans
the commit's pages in the log, and remembers the pages with residue. SQLite can't overwrite
unallocated space in the inner pages of a table without rowid. So this module overwrites it in the
file directly, which is safe because SQLite never reads that space. It holds the write lock while
the log is empty, so the file has the latest version of each page. A commit follows, which makes all
connections drop these pages from memory. Page format: https://sqlite.org/fileformat2.html.
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

from interaction_svc.domain.units import MIB
from interaction_svc.store.sqlite.connection import drop_page_cache
from interaction_svc.store.sqlite.transactions import transaction

MAX_RESIDUE_PAGES = 256
"""When this many pages wait to be wiped, the log is truncated early."""
_WAL_HEADER = struct.Struct(">IIIIIIII")
_FRAME_HEADER = struct.Struct(">IIIIII")
_PAGE_HEADER = struct.Struct(">BHHHB")
_HEADER_BYTES = {0x02: 12, 0x05: 12, 0x0A: 8, 0x0D: 8}
"""Header size by page type: inner pages and leaves of indexes and tables."""
_MOST_FRAGMENTS = 60
_FILE_HEADER_BYTES = 100
_PAGES_OF_A_SPLIT = 3
"""A commit that redistributes rows writes at least two neighbouring pages and their parent."""
_MOST_PAGES = 1 << 25
"""From this number of pages (256 GiB) on, an overflow page may look like a page of a table."""
_READ_BYTES = 4 * MIB
# Never matches the 2-byte pointers below the page size that SQLite itself leaves.
_TEXT = re.compile(rb"[\x20-\xff]{8}")

log = structlog.get_logger()


class _Frame(NamedTuple):
    """A page in the log: its page number, and its offset in the log."""

    page: int
    offset: int


class PageWiper:
    """Finds pages with residue, and wipes them."""

    def __init__(self, path: Path, wal: Path) -> None:
        self._file = _File.of(path)
        self._wal = wal
        self._salt = b""
        self._offset = _WAL_HEADER.size
        self._residue: set[int] = set()
        self._stopped = threading.Event()

    @property
    def residue_pages(self) -> int:
        """Number of pages that wait to be wiped."""
        return len(self._residue)

    @property
    def log_bytes(self) -> int:
        """Size of the log at the last scan."""
        return self._offset

    def scan_wal(self) -> None:
        """Scan the pages of all commits since the last scan. Raises OSError."""
        try:
            wal = self._wal.open("rb", buffering=0)
        except FileNotFoundError:
            return
        with wal:
            header = wal.read(_WAL_HEADER.size)
            if len(header) < _WAL_HEADER.size:
                return
            page_size, salt = _WAL_HEADER.unpack(header)[2], header[16:24]
            if salt != self._salt:  # the log was restarted
                self._salt, self._offset = salt, _WAL_HEADER.size
            pages: dict[int, int] = {}
            for frames in self._commits(wal.fileno(), page_size):
                if len(frames) >= _PAGES_OF_A_SPLIT:
                    pages.update(frames)  # keep the last version of a page
            for number, offset in pages.items():
                if has_residue(os.pread(wal.fileno(), page_size, offset), number):
                    self._residue.add(number)

    def _commits(self, wal: int, page_size: int) -> Iterator[list[_Frame]]:
        """Yield the pages of each commit since the last scan. Reads only frame headers."""
        frames: list[_Frame] = []
        at = self._offset
        while len(header := os.pread(wal, _FRAME_HEADER.size, at)) == _FRAME_HEADER.size:
            number, size_after_commit, *_ = _FRAME_HEADER.unpack(header)
            if header[8:16] != self._salt:
                return  # older frames, from before the restart
            frames.append(_Frame(number, at + _FRAME_HEADER.size))
            at += _FRAME_HEADER.size + page_size
            if size_after_commit:
                self._offset = at
                yield frames
                frames = []

    def scan_file(self) -> None:
        """Scan the whole file, because a killed process may not have wiped it. Raises OSError."""
        descriptor = self._file.descriptor
        page_size = _page_size_of(descriptor)
        pages = os.fstat(descriptor).st_size // page_size
        at_once = _READ_BYTES // page_size
        for begin in range(0, pages, at_once):
            if self._stopped.is_set():
                return
            read = os.pread(descriptor, at_once * page_size, begin * page_size)
            for index in range(len(read) // page_size):
                number = begin + index + 1
                if has_residue(read[index * page_size :][:page_size], number):
                    self._residue.add(number)

    def stop(self) -> None:
        """Stop a scan of the whole file."""
        self._stopped.set()

    def close(self) -> None:
        """Release the file. All connections to its store must be closed."""
        self._file.release()

    def wipe(self, db: sqlite3.Connection) -> bool:
        """Overwrite the residue on the remembered pages. The log must be empty before the call.

        Returns False if another process has written meanwhile. Raises sqlite3.Error, OSError.
        """
        if not self._residue:
            return True
        with transaction(db):
            if self._wal.stat().st_size:
                return False
            residue = self._residue.copy()
            _wipe(self._file.descriptor, residue)
            drop_page_cache(db)
            # Any change makes all connections drop their pages from memory.
            db.execute("UPDATE schema_migrations SET applied_at = applied_at")
        self._residue -= residue
        return True


def wipe_file(path: Path) -> None:
    """Overwrite the residue on all pages of a file that no process has open. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _wipe(descriptor, None)
    finally:
        os.close(descriptor)


def _wipe(descriptor: int, numbers: set[int] | None) -> None:
    """Overwrite the residue on these pages (None: all) of a file that no process writes to."""
    page_size = _page_size_of(descriptor)
    pages = os.fstat(descriptor).st_size // page_size
    if pages >= _MOST_PAGES:
        log.warning("the file is too large to be wiped of copies of what was deleted")
        return
    for number in range(1, pages + 1) if numbers is None else sorted(numbers):
        begin = (number - 1) * page_size
        page = os.pread(descriptor, page_size, begin)
        if len(page) == page_size and has_residue(page, number):
            unallocated = _unallocated(page, number)
            os.pwrite(descriptor, bytes(len(unallocated)), begin + unallocated.start)
    os.fsync(descriptor)


def has_residue(page: bytes, number: int) -> bool:
    """Return whether the unallocated space of a page contains bytes that look like text."""
    unallocated = _unallocated(page, number)
    return _TEXT.search(page, unallocated.start, unallocated.stop) is not None


def _unallocated(page: bytes, number: int) -> range:
    """Return the range of a page's unallocated space; an empty range for other page types."""
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
    """A file, with the number of PageWipers in this process that use it.

    The last one closes its descriptor. Closing it earlier would release the locks that SQLite's
    connections in this process hold on the file: POSIX locks belong to the process, not to the
    descriptor.
    """

    _open: ClassVar[dict[tuple[int, int], "_File"]] = {}

    def __init__(self, path: Path, identity: tuple[int, int]) -> None:
        self._path = path
        self._identity = identity
        self._users = 0
        self._descriptor: int | None = None

    @classmethod
    def of(cls, path: Path) -> "_File":
        """Return the file at a path, and count one more wiper. Raises OSError."""
        identity = _identity(os.stat(path))
        file = cls._open.setdefault(identity, cls(path, identity))
        file._users += 1
        return file

    @property
    def descriptor(self) -> int:
        """A descriptor for reading and writing. Raises OSError."""
        if self._descriptor is None:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            if _identity(os.fstat(descriptor)) != self._identity:
                os.close(descriptor)
                raise FileNotFoundError(errno.ENOENT, "its file has been replaced")
            self._descriptor = descriptor
        return self._descriptor

    def release(self) -> None:
        """Close the file after the last wiper. The connections to its store must be closed."""
        self._users -= 1
        if self._users == 0:
            del self._open[self._identity]
            if self._descriptor is not None:
                os.close(self._descriptor)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
