"""The health probe of a store: whether its files are intact, readable and writable."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import structlog

from interaction_svc.store.errors import (
    StoreClosedError,
    StoreDamagedError,
    StoreError,
    StoreUnavailableError,
)
from interaction_svc.store.sqlite.connection import Connection, connect, drop_page_cache
from interaction_svc.store.sqlite.errors import translated
from interaction_svc.store.sqlite.inline_reads import InlineReader
from interaction_svc.store.sqlite.open_files import Loss, OpenFiles

QUICK_CHECK_SECONDS = 30.0
"""Interval of full checks of a damaged store. Each check reads the whole file."""

log = structlog.get_logger()


class Probe:
    """Tracks the identity of the open files, and damage that calls have found."""

    def __init__(
        self, path: Path, read: Connection, write: Connection, inline: InlineReader
    ) -> None:
        """Record the identity of the files that the connections have open."""
        self._path = path
        self._read = read
        self._write = write
        self._inline = inline
        self._files = OpenFiles(path)
        self._closed = False
        self._has_rescued = False
        self.before_rescue: Callable[[], None] = lambda: None
        """A callback that ends this process's read transactions. Runs on the writing thread."""
        self._damaged = False
        self._checked_at = float("-inf")
        self._check: asyncio.Task[None] | None = None

    def check_files(self) -> None:
        """Raise StoreUnavailableError if a file was replaced, removed or overwritten.

        Otherwise later writes would go to a removed file and be lost.
        """
        loss = self._files.loss()
        if loss is not None:
            raise StoreUnavailableError(loss.value)

    def note(self, error: StoreError) -> None:
        """Record an error of a call. After damage the store is unhealthy until a check passes."""
        if isinstance(error, StoreDamagedError) and not self._damaged:
            self._damaged = True
            log.error("the store is damaged")

    async def check_file(self) -> None:
        """Raise StoreUnavailableError if the file is unreadable, replaced or damaged."""
        if self._closed:
            raise StoreClosedError("the store has been closed")
        await self._check_loss()
        try:
            await asyncio.to_thread(_read, self._path)
        except StoreError:
            await self._check_loss()  # a lost file explains the read error
            raise
        if self._damaged:
            self._start_check()
            raise StoreDamagedError("the store is damaged and has not been repaired")

    async def _check_loss(self) -> None:
        loss = await asyncio.to_thread(self._files.loss)
        if loss is None:
            self._has_rescued = False
            return
        if loss in (Loss.FILE, Loss.LOG):
            await self._rescue()
        raise StoreUnavailableError(loss.value)

    async def _rescue(self) -> None:
        """Copy the write-ahead log into the file while SQLite has both open.

        The content of a removed log would be lost when this process ends. The log of a replaced
        file keeps its name, so SQLite would apply it to the new file at the next start.
        """
        try:
            if not await self._write.run(self._empty_log):
                return  # another process is reading; the next probe tries again
            aside = self._files.set_aside_replaced_log()
        except StoreError as error:
            if not self._has_rescued:
                log.error("the content of the write-ahead log can't be saved", cause=str(error))
        else:
            if aside is not None:
                log.warning("a write-ahead log of another file was renamed", to=str(aside))
            if not self._has_rescued:
                log.warning("what was in the write-ahead log has been written to the file")
        self._has_rescued = True

    def _empty_log(self, db: sqlite3.Connection) -> bool:
        """Checkpoint and truncate the log. Returns False if another process is reading it."""
        self.before_rescue()
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def _start_check(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._check is None and now - self._checked_at >= QUICK_CHECK_SECONDS:
            self._checked_at = now
            self._check = asyncio.create_task(self._quick_check())

    async def _quick_check(self) -> None:
        try:
            connection = await Connection.open(self._path, read_only=True)
            try:
                whole = await connection.run(_is_whole)
            finally:
                await asyncio.shield(connection.close())
            if whole:
                for used in (self._read, self._write):
                    await used.run(drop_page_cache)
                self._inline.drop_page_cache()
                self._damaged = False
                log.info("the store is undamaged again")
        except StoreError as error:
            log.warning("the damaged store can't be checked", cause=str(error))
        finally:
            self._check = None

    async def close(self) -> None:
        """Cancel a running check."""
        self._closed = True
        if self._check is not None:
            self._check.cancel()
            await asyncio.wait([self._check])


def read_something(db: sqlite3.Connection) -> None:
    """Read one row, to test the connection or to start its read transaction."""
    db.execute("SELECT 1 FROM schema_migrations").fetchone()


def _read(path: Path) -> None:
    """Read the file with a new connection, whose page cache is empty."""
    try:
        db = connect(path, read_only=True)
        try:
            db.execute("SELECT max(version) FROM schema_migrations").fetchone()
        finally:
            db.close()
    except sqlite3.Error as error:
        raise translated(error) from error


def _is_whole(db: sqlite3.Connection) -> bool:
    return [tuple(row) for row in db.execute("PRAGMA quick_check(1)")] == [("ok",)]
