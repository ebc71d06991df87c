"""Wipes what secure_delete leaves: copies of rows that have moved to another page.

When SQLite spreads rows anew over neighbouring pages, the bytes of a row that left a page may stay
in that page's unallocated space, where a later delete doesn't find them: secure_delete overwrites
a row where it is, not where it was. Only deletes and updates spread rows, as new rows come last.

Each page that was written is in the write-ahead log. So after a commit that erased something, its
pages are looked at there, and where there is anything in the unallocated space of one, a row of it
is made so large that it fills the page to its last byte, and then itself again: secure_delete
overwrites what it gave up. The page format is that of https://sqlite.org/fileformat2.html.
"""

import re
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import structlog

from interaction_svc.store.rows import Row
from interaction_svc.store.sqlite.connection import transaction

_ROUNDS = 5
_WAL_HEADER = struct.Struct(">IIIIIIII")
_FRAME_HEADER = struct.Struct(">IIIIII")
_PAGE_HEADER = struct.Struct(">BHHHB")
_LEAF_OF_TABLE = 0x0D
_LEAF_HEADER_BYTES = 8
_FRAMES_A_READ = 256
# What is left of SQLite's own, pointers of two bytes below the page's size, is no text.
_TEXT = re.compile(rb"[\x20-\xff]{8}")
# One row alone can't fill a page to its last byte. It is less than any SID.
_OUT_OF_REACH_BYTES = 24

log = structlog.get_logger()


class _Cell(NamedTuple):
    """One row on a page: how large it is there, all of it, and its frame."""

    rowid: int
    size: int
    payload: int
    frame: int


class Scrubber:
    """Looks at the pages that were written since it last looked."""

    def __init__(self, wal: Path) -> None:
        self._wal = wal
        self._salt = b""
        self._offset = _WAL_HEADER.size

    def scrub(self, db: sqlite3.Connection) -> None:
        """Wipe the unallocated space of the pages that the log has. Raises sqlite3.Error."""
        for _ in range(_ROUNDS):
            seen = self._salt, self._offset
            try:
                with transaction(db):  # so that nobody writes meanwhile
                    stained = self._stained()
                    for page in stained:
                        _wipe(db, page)
            except BaseException:
                self._salt, self._offset = seen  # what wasn't wiped is looked at again
                raise
            if not stained:
                return
        log.warning("some pages still hold what was deleted")

    def _stained(self) -> list[bytes]:
        stained: dict[int, bytes] = {}
        for number, page in self._new_pages():
            if _is_stained(page):
                stained[number] = page
            else:
                stained.pop(number, None)  # a later version of it
        return list(stained.values())

    def _new_pages(self) -> Iterator[tuple[int, bytes]]:
        """Give the pages of the transactions that were committed since the last time."""
        try:
            wal = self._wal.open("rb")
        except FileNotFoundError:
            return
        with wal:
            header = wal.read(_WAL_HEADER.size)
            if len(header) < _WAL_HEADER.size:
                return
            page_size, salt = _WAL_HEADER.unpack(header)[2], header[16:24]
            if salt != self._salt:  # the log has begun anew
                self._salt, self._offset = salt, _WAL_HEADER.size
            wal.seek(self._offset)
            frame_size = _FRAME_HEADER.size + page_size
            uncommitted: list[tuple[int, bytes]] = []
            while chunk := wal.read(frame_size * _FRAMES_A_READ):
                for start in range(0, len(chunk) - frame_size + 1, frame_size):
                    number, size_after_commit, *_ = _FRAME_HEADER.unpack_from(chunk, start)
                    if chunk[start + 8 : start + 16] != salt:
                        return  # what follows is of an earlier time
                    uncommitted.append((number, chunk[start + _FRAME_HEADER.size :][:page_size]))
                    if size_after_commit:
                        self._offset += frame_size * len(uncommitted)
                        yield from uncommitted
                        uncommitted = []


def _is_stained(page: bytes) -> bool:
    kind, _, cells, content, _ = _PAGE_HEADER.unpack_from(page)
    if kind != _LEAF_OF_TABLE or not cells:
        return False
    unallocated = page[_LEAF_HEADER_BYTES + 2 * cells : content or 65536]
    return _TEXT.search(unallocated, 0 if cells > 1 else _OUT_OF_REACH_BYTES) is not None


def _wipe(db: sqlite3.Connection, page: bytes) -> None:
    cell = _first_cell(page)
    if cell is None:
        return
    room = cell.size + _unused(page)
    largest = len(page) - 35  # a larger payload would go to other pages
    filling = next(
        frame
        for frame in range(room, -1, -1)
        if (payload := cell.payload - _value_size(cell.frame) + _value_size(frame)) <= largest
        and _varint_size(payload) + _varint_size(cell.rowid) + payload <= room
    )
    found = db.execute("SELECT frame FROM interactions WHERE rowid = ?", (cell.rowid,)).fetchone()
    if found is None:  # the page is no longer in use
        return
    for value in (bytes(filling), *found):
        db.execute("UPDATE interactions SET frame = ? WHERE rowid = ?", (value, cell.rowid))


def _first_cell(page: bytes) -> _Cell | None:
    """Read the first row of a page; None if it isn't one of the interactions."""
    (start,) = struct.unpack_from(">H", page, _LEAF_HEADER_BYTES)
    payload, at = _varint(page, start)
    rowid, at = _varint(page, at)
    body = at
    header_size, at = _varint(page, at)
    types = []
    while at < body + header_size:
        kind, at = _varint(page, at)
        types.append(kind)
    if len(types) != len(Row._fields):
        return None
    return _Cell(rowid, body - start + _local(payload, len(page)), payload, (types[-1] - 12) // 2)


def _local(payload: int, page_size: int) -> int:
    """Give how many bytes a row takes on its page, with the number of the page where it goes on."""
    largest, smallest = page_size - 35, (page_size - 12) * 32 // 255 - 23
    if payload <= largest:
        return payload
    kept = smallest + (payload - smallest) % (page_size - 4)
    return (kept if kept <= largest else smallest) + 4


def _unused(page: bytes) -> int:
    _, block, cells, content, fragments = _PAGE_HEADER.unpack_from(page)
    unused = int((content or 65536) - _LEAF_HEADER_BYTES - 2 * cells + fragments)
    while block:
        block, size = struct.unpack_from(">HH", page, block)
        unused += size
    return unused


def _value_size(length: int) -> int:
    """Give what a blob of this length takes of a row: itself, and its type."""
    return _varint_size(2 * length + 12) + length


def _varint(page: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | page[place] & 0x7F
        if page[place] < 0x80:
            return value, place + 1
    return value << 8 | page[at + 8], at + 9


def _varint_size(value: int) -> int:
    return max(1, -(-value.bit_length() // 7)) if value < 1 << 56 else 9
