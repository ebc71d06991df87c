"""Rewrites a store of an earlier layout into a new file, which then replaces the old one.

Version 4 has another page size and another order of rows, which SQLite can't change in place. The
rewrite has two phases:

1. Copy. Rows are copied in batches into FILE.rewrite. Each batch is one transaction, which also
   stores the position reached. Other processes may use the old file meanwhile. An interrupted copy
   resumes from its position.
2. Switch. This process locks the old file exclusively. The lock requires that no other process has
   the file open. The process compares every row with the copy, corrects differences, and renames
   the new file over the old one.

The old file stays complete until the rename, so the rewrite can be interrupted at any time.
"""

import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from interaction_svc.domain.interactions import Outcome
from interaction_svc.domain.units import MIB
from interaction_svc.store.checksum import checksum_of
from interaction_svc.store.errors import (
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from interaction_svc.store.interface import MigrationProgress
from interaction_svc.store.rows import Row
from interaction_svc.store.sqlite import migrations, row_format, writes
from interaction_svc.store.sqlite.connection import connect
from interaction_svc.store.sqlite.erasure.page_wiper import wipe_file
from interaction_svc.store.sqlite.errors import primary_code, translated
from interaction_svc.store.sqlite.rewrite import old_layout
from interaction_svc.store.sqlite.rewrite.files import (
    FILE_ENDINGS,
    LOCK_ENDING,
    copy_owner_and_mode,
    exclusive_rewrite,
    remove_store,
    size_of,
    sync,
)
from interaction_svc.store.sqlite.rewrite.old_layout import OldRow
from interaction_svc.store.sqlite.rewrite.tables import (
    DELETE,
    copy_keys,
    copy_owners,
    copy_tombstones,
)
from interaction_svc.store.sqlite.transactions import transaction

ENDING = ".rewrite"
"""Suffix of the new file while it is being written."""
ROWS_PER_BATCH = 2_000
_MARGIN_BYTES = 64 * MIB
"""Disk space for the write-ahead log of the copy."""
_SWITCH_SECONDS = 5.0
"""The longest wait of the switch for other processes to close the file."""
_RETRY_SECONDS = 0.05

log = structlog.get_logger()

_MAKE_PROGRESS = """
CREATE TABLE rewrite_progress (
    source      TEXT NOT NULL,
    session_sid TEXT NOT NULL,
    created_us  INTEGER NOT NULL,
    sid         TEXT NOT NULL,
    is_whole    INTEGER NOT NULL,
    rows        INTEGER NOT NULL,
    joined      INTEGER NOT NULL
) STRICT
"""
_PROGRESS = (
    "SELECT source, session_sid, created_us, sid, is_whole, rows, joined FROM rewrite_progress"
)
_NOTE_PROGRESS = (
    "UPDATE rewrite_progress SET session_sid = ?, created_us = ?, sid = ?, is_whole = ?,"
    " rows = ?, joined = ?"
)
_STORED = (
    "SELECT checksum, frame FROM interactions WHERE session_sid = ? AND account_sid = ? AND sid = ?"
)
_MOVED_VERSION = 2**31 - 1
"""Schema version of the old file after the switch. It prevents further use of the file."""


class Rewritten(NamedTuple):
    """The result of a rewrite."""

    rows: int
    """Number of Interactions in the new file."""
    damaged: int
    """Number of damaged Interactions among them. They are copied, but reads never return them."""


class _Position(NamedTuple):
    """Progress of the copy."""

    source: str
    session_sid: str
    created_us: int
    sid: str
    is_whole: bool
    """True if the copy has reached the end."""
    rows: int
    """Number of rows of the old file that have been copied."""
    merged: int
    """Number of rows merged into a row whose SIDs differ only in the case of digits."""

    @property
    def after(self) -> tuple[str, int, str]:
        return self.session_sid, self.created_us, self.sid


class _ChangedError(Exception):
    """The copy has rows that the old file lacks, so it is a copy of an earlier state."""


def needed_bytes(path: Path) -> int:
    """Return the disk space that a rewrite needs, in bytes; 0 if no rewrite is necessary."""
    return _needed_bytes(path.resolve()) if _is_old(path) else 0


def rewrite(
    path: Path, on_progress: MigrationProgress, stop: threading.Event | None = None
) -> Rewritten | None:
    """Rewrite a store of an earlier layout; return None if it has the current one.

    Blocks until the rewrite is finished. Raises StoreClosedError soon after `stop` is set; the next
    call continues the rewrite. Raises StoreUnavailableError if other processes keep the file open,
    StoreFullError if the disk has too little space, NotAStoreError, SchemaTooNewError.
    """
    path = path.resolve()  # the new file replaces a symlink's target
    if not _is_old(path):
        return None
    with exclusive_rewrite(path):
        if not _is_old(path):
            return None
        try:
            return _Rewrite(path, on_progress, stop or threading.Event()).run()
        except sqlite3.Error as error:
            raise translated(error) from error
        except OSError as error:
            raise StoreUnavailableError(f"{error.filename}: {error.strerror}") from error


def _is_old(path: Path) -> bool:
    """Return whether a file has an earlier layout. Waits for another process's switch."""
    try:
        found = migrations.inspect(path)
    except StoreUnavailableError:
        if not Path(f"{path}{LOCK_ENDING}").exists():
            raise
        with exclusive_rewrite(path):
            found = migrations.inspect(path)
    return 0 < found.schema_version < found.known_version


def _needed_bytes(path: Path) -> int:
    there = sum(size_of(Path(f"{path}{ENDING}{ending}")) for ending in FILE_ENDINGS)
    return max(size_of(path) + _MARGIN_BYTES - there, 0)


class _Rewrite:
    def __init__(self, path: Path, on_progress: MigrationProgress, stop: threading.Event) -> None:
        self._path = path
        self._new_path = Path(f"{path}{ENDING}")
        self._on_progress = on_progress
        self._stop = stop
        self._damaged = 0
        self._total = 0

    def run(self) -> Rewritten:
        needed, free = _needed_bytes(self._path), shutil.disk_usage(self._path.parent).free
        if needed > free:
            raise StoreFullError(
                f"rewriting it needs {needed:,} bytes beside it for a while, and its disk has"
                f" {free:,} left"
            )
        with closing(connect(self._path, read_only=True)) as old, self._opened_copy(old) as new:
            self._total = old.execute("SELECT count(*) FROM interactions").fetchone()[0]
            self._copy(old, new)
        try:
            with self._exclusive_access() as old:
                rows = self._switch(old)
        except _ChangedError:
            log.warning("the copy is of another state of the store, and starts again")
            remove_store(self._new_path)
            return self.run()
        return Rewritten(rows, self._damaged)

    @contextmanager
    def _opened_copy(self, old: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        """Open the copy. A copy of another file is replaced by a new one."""
        source = _source_of(self._path, old)
        if self._new_path.exists() and _source_of_copy(self._new_path) != source:
            remove_store(self._new_path)
        is_new = not self._new_path.exists()
        with closing(connect(self._new_path, create=True)) as new:
            if is_new:
                copy_owner_and_mode(self._path, self._new_path)
                migrations.migrate(new)
                with transaction(new):
                    new.execute(_MAKE_PROGRESS)
                    new.execute(
                        "INSERT INTO rewrite_progress VALUES (?, ?, ?, ?, 0, 0, 0)",
                        (source, *old_layout.BEGINNING),
                    )
            yield new

    def _copy(self, old: sqlite3.Connection, new: sqlite3.Connection) -> None:
        position = _position_of(new)
        while not position.is_whole:
            self._check_stop()
            found = old_layout.read(old, position.after, ROWS_PER_BATCH)
            with transaction(new):
                recorded = writes.record(new, [self._row_of(row) for row in found])
                not_created = sum(one.outcome is not Outcome.CREATED for one in recorded)
                session_sid, created_us, sid = found[-1].position if found else position.after
                position = position._replace(
                    session_sid=session_sid,
                    created_us=created_us,
                    sid=sid,
                    is_whole=len(found) < ROWS_PER_BATCH,
                    rows=position.rows + len(found),
                    merged=position.merged + not_created,
                )
                new.execute(_NOTE_PROGRESS, position[1:])
            self._on_progress("copy", position.rows, max(self._total, position.rows))

    def _row_of(self, old_row: OldRow) -> Row:
        row, is_good = old_row.row()
        self._damaged += not is_good
        return row

    @contextmanager
    def _exclusive_access(self) -> Iterator[sqlite3.Connection]:
        """Open the old file, and lock it exclusively.

        Every connection in WAL mode holds a lock on the file, so the journal mode can change only
        when no other process has it open. The change also checkpoints and removes the log.
        """
        with closing(connect(self._path)) as old:
            deadline = time.monotonic() + _SWITCH_SECONDS
            while True:
                try:
                    # MEMORY, because SQLite would apply a journal file of the old file to the new
                    # file.
                    old.execute("PRAGMA journal_mode = DELETE")
                    old.execute("PRAGMA journal_mode = MEMORY")
                    old.execute("BEGIN EXCLUSIVE")
                    if old.execute("PRAGMA journal_mode").fetchone()[0] == "memory":
                        break
                    old.execute("ROLLBACK")  # another process opened it first
                except sqlite3.OperationalError as error:
                    if primary_code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                        raise
                if time.monotonic() > deadline:
                    raise StoreUnavailableError(
                        f"it is copied into {self._new_path.name}, but another process has it open:"
                        " stop that process and run this again, which continues the copy"
                    )
                self._check_stop()
                time.sleep(_RETRY_SECONDS)
            yield old

    def _switch(self, old: sqlite3.Connection) -> int:
        """Update the copy, and replace the old file with it."""
        with closing(connect(self._new_path)) as new:
            self._compare(old, new)
            merged = _position_of(new).merged
            (rows,) = new.execute("SELECT count(*) FROM interactions").fetchone()
            (expected,) = old.execute("SELECT count(*) FROM interactions").fetchone()
            if rows + merged != expected:
                raise _ChangedError
            new.execute("DROP TABLE rewrite_progress")
            if new.execute("PRAGMA journal_mode = DELETE").fetchone()[0] != "delete":
                raise StoreUnavailableError(f"{self._new_path.name} is open in another process")
        wipe_file(self._new_path)  # filling the copy has left residue
        sync(self._new_path)
        self._new_path.rename(self._path)
        sync(self._path.parent)
        # A process may have opened the old file and be waiting for its lock: see
        # migrations.snapshot.
        with suppress(sqlite3.Error):
            old.execute(
                "INSERT INTO schema_migrations VALUES (?, 'moved to another file',"
                " datetime('now'))",
                (_MOVED_VERSION,),
            )
            old.execute("COMMIT")
        return int(rows)

    def _compare(self, old: sqlite3.Connection, new: sqlite3.Connection) -> None:
        """Correct rows of the copy that differ from the old file."""
        after = old_layout.BEGINNING
        done = 0
        has_merged = _position_of(new).merged > 0
        self._damaged = 0  # another process may have copied rows
        while True:
            self._check_stop()
            found = old_layout.read(old, after, ROWS_PER_BATCH)
            with transaction(new):
                for row in found:
                    self._compare_row(new, row, has_merged=has_merged)
            done += len(found)
            self._on_progress("compare", done, max(self._total, done))
            if len(found) < ROWS_PER_BATCH:
                break
            after = found[-1].position
        copy_owners(old, new)
        copy_tombstones(old, new)
        copy_keys(old, new)

    def _compare_row(self, new: sqlite3.Connection, old_row: OldRow, *, has_merged: bool) -> None:
        key = tuple(map(row_format.pack, old_row.key))
        stored = new.execute(_STORED, key).fetchone()
        if stored is not None and stored[1] == old_row.frame:
            self._damaged += stored[0] != checksum_of(old_row.frame)
            return
        if stored is not None and not has_merged:
            new.execute(DELETE, key)
        writes.record(new, [self._row_of(old_row)])

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise StoreClosedError("the rewrite was stopped; the next one resumes it")


def _source_of(path: Path, old: sqlite3.Connection) -> str:
    """Return a text that distinguishes a file from other files of the same name."""
    (made,) = old.execute("SELECT min(applied_at) FROM schema_migrations").fetchone()
    return f"{path.stat().st_ino} {made}"


def _source_of_copy(path: Path) -> str | None:
    try:
        with closing(connect(path)) as db:
            return _position_of(db).source
    except (sqlite3.Error, StoreError, TypeError):  # its creation was interrupted
        return None


def _position_of(new: sqlite3.Connection) -> _Position:
    return _Position(*new.execute(_PROGRESS).fetchone())
