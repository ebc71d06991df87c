"""Erases deleted content from the files by truncating the write-ahead log.

secure_delete overwrites deleted rows in the new versions of their pages. The write-ahead log
contains earlier versions of these pages until a checkpoint copies the log into the file and
truncates it. Then PageWiper overwrites the copies that secure_delete misses.
"""

import asyncio
import sqlite3
from contextlib import suppress
from pathlib import Path

import structlog

from interaction_svc.domain.units import MIB
from interaction_svc.store.errors import StoreError
from interaction_svc.store.sqlite.connection import Connection, connect
from interaction_svc.store.sqlite.erasure.page_wiper import MAX_RESIDUE_PAGES, PageWiper
from interaction_svc.store.sqlite.probe import read_something
from interaction_svc.store.sqlite.transactions import busy_timeout

ERASED_WITHIN_SECONDS = 10.0
"""Deleted content is erased within this time unless another process reads the file."""
CHECKPOINT_BYTES = 16 * MIB
"""The log is checkpointed at this size. At SQLite's default, 4 MiB, bulk commits cost 10 % more."""
DELAY_SECONDS = 1.0
"""Deletions within this time share a truncation, which costs one or two flushes."""
SCAN_DELAY_SECONDS = 0.05
"""Commits within this time share a scan. Before the scan no process can truncate the log."""
_ROWS_PER_SCAN = 500
"""A scan starts after this many rows: about 16 MiB of the log, or less with few Sessions."""
_LONGEST_PAUSE_SECONDS = 2.0
_BUSY_TIMEOUT_MS = 100  # short, because writes wait meanwhile

log = structlog.get_logger()


class WalTruncator:
    """Truncates the log soon after a request, and retries until it succeeds."""

    def __init__(self, write: Connection, path: Path, wal: Path) -> None:
        self._write = write
        self._path = path
        self._wal_reader: sqlite3.Connection | None = None
        self._wiper = PageWiper(path, wal)
        self._loop = asyncio.get_running_loop()
        self._requested = 0
        self._done = 0
        self._scans_file = False
        self._rows = 0  # since the last scan; only for the connection's thread
        self._scanning: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def request(self) -> None:
        """Request a truncation, because content was deleted. It starts after 1 s."""
        self._requested += 1
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._erase())

    def request_after_crash(self) -> None:
        """Request a scan of the whole file and a truncation, because a process was killed."""
        self._scans_file = True
        self.request()

    async def erase(self) -> bool:
        """Truncate the log now. Returns False if another process is reading it.

        Raises the errors of Connection.run.
        """
        requested = self._requested
        if not await self._write.run(self._truncate_and_wipe):
            return False
        self._done = max(self._done, requested)
        return True

    def hold_wal(self) -> None:
        """Open a read transaction, which keeps later commits in the log until they are scanned.

        Otherwise another process could truncate or restart the log right after a commit, and the
        scan would miss the commit's pages. Both require a checkpoint of the whole log. A read
        transaction that began before the commit prevents such a checkpoint. Raises sqlite3.Error.
        """
        if self._wal_reader is None:
            self._wal_reader = connect(self._path, read_only=True)
        if not self._wal_reader.in_transaction:
            self._wal_reader.execute("BEGIN")
            read_something(self._wal_reader)

    def note_rows(self, db: sqlite3.Connection, rows: int) -> None:
        """Count committed rows. After 500 rows, scan at once."""
        self._rows += rows
        if self._rows >= _ROWS_PER_SCAN:
            self._scan(db)

    def scan_soon(self) -> None:
        """Request a scan, which costs half a commit. Commits within 50 ms share it."""
        if self._scanning is None and not self._closed:
            self._scanning = asyncio.create_task(self._scan_after_delay())

    async def _scan_after_delay(self) -> None:
        await asyncio.sleep(SCAN_DELAY_SECONDS)
        self._scanning = None
        with suppress(StoreError):
            await self._write.run(self._scan)

    def release_wal(self) -> None:
        """End the read transaction of hold_wal, if any. Call it on the connection's thread."""
        if self._wal_reader is not None and self._wal_reader.in_transaction:
            try:
                self._wal_reader.execute("COMMIT")
            except sqlite3.Error:  # the file is lost or damaged; the next write reports it
                self._wal_reader.close()
                self._wal_reader = None

    def _scan(self, db: sqlite3.Connection) -> None:
        """Scan the written pages, release the log, and checkpoint a log above 16 MiB.

        SQLite's own checkpoints run in commits, while hold_wal keeps the log. They would never
        reach the end of the log, and the log would grow without bound.
        """
        self._rows = 0
        try:
            self._wiper.scan_wal()
        except OSError as error:  # the commit itself succeeded
            log.warning("the write-ahead log can't be read", cause=error.strerror)
        self.release_wal()
        if self._wiper.log_bytes >= CHECKPOINT_BYTES:
            with suppress(sqlite3.Error):  # commits are safe in the log
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if self._wiper.residue_pages >= MAX_RESIDUE_PAGES and self._task is None:
            with suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(self.request)

    async def close(self) -> None:
        """Stop the tasks, and truncate the log if content is still to be erased."""
        self._closed = True
        self._wiper.stop()
        tasks = [task for task in (self._task, self._scanning) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        with suppress(StoreError):
            await self._write.run(self._scan)
        if self._done < self._requested or self._wiper.residue_pages:
            await self._try_erase()
        if self._wal_reader is not None:
            self._wal_reader.close()

    def release_file(self) -> None:
        """Release the file. All connections must be closed."""
        self._wiper.close()

    def _truncate_and_wipe(self, db: sqlite3.Connection) -> bool:
        self._scan(db)
        with busy_timeout(db, _BUSY_TIMEOUT_MS):
            busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy and self._wiper.wipe(db)

    async def _erase(self) -> None:
        loop = asyncio.get_running_loop()
        since, warned, pause = loop.time(), False, DELAY_SECONDS
        try:
            if self._scans_file:
                self._scans_file = False
                await asyncio.to_thread(self._wiper.scan_file)
            while self._done < self._requested:
                await asyncio.sleep(pause)
                if self._done >= self._requested:
                    break  # erase() was called meanwhile
                if await self._try_erase():
                    since, pause = loop.time(), DELAY_SECONDS
                    if warned:
                        log.info("deleted data has left the files")
                        warned = False
                    continue
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                if not warned and loop.time() - since > ERASED_WITHIN_SECONDS:
                    log.warning("deleted data is still in the write-ahead log: it is being read")
                    warned = True
        finally:
            self._task = None

    async def _try_erase(self) -> bool:
        try:
            return await self.erase()
        except Exception as error:  # any error: retry
            cause = str(error) if isinstance(error, StoreError | OSError) else type(error).__name__
            log.warning("the write-ahead log can't be truncated", cause=cause)
            return False
