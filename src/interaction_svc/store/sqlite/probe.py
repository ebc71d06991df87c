"""Tells whether the file can be read and written: what health follows."""

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
"""How often a damaged store is looked through, which reads all of it."""

log = structlog.get_logger()


class Probe:
    """Knows the files that were opened, and the damage that was met in them."""

    def __init__(
        self, path: Path, read: Connection, write: Connection, quick: InlineReader
    ) -> None:
        """Remember which files the connections have open."""
        self._path = path
        self._read = read
        self._write = write
        self._quick = quick
        self._files = OpenFiles(path)
        self._closed = False
        self._has_rescued = False
        self.before_rescue: Callable[[], None] = lambda: None
        """Is called on the writing connection's thread, and ends the reads of this process."""
        self._damaged = False
        self._checked_at = float("-inf")
        self._check: asyncio.Task[None] | None = None

    def check_files(self) -> None:
        """Raise StoreUnavailableError if a file was replaced, removed, or overwritten.

        What would be written then goes to a file that nobody will find again.
        """
        loss = self._files.loss()
        if loss is not None:
            raise StoreUnavailableError(loss.value)

    def note(self, error: StoreError) -> None:
        """Take note of an error that an operation met."""
        if isinstance(error, StoreDamagedError) and not self._damaged:
            self._damaged = True
            log.error("the store is damaged")

    async def check_file(self) -> None:
        """Raise StoreUnavailableError if the file can't be read, isn't the same, or is damaged."""
        if self._closed:
            raise StoreClosedError("the store has been closed")
        await self._check_loss()
        try:
            await asyncio.to_thread(_read, self._path)
        except StoreError:
            await self._check_loss()  # it tells more of the cause
            raise
        if self._damaged:
            self._look_through()
            raise StoreDamagedError("damage was met, and it hasn't been mended")

    async def _check_loss(self) -> None:
        loss = await asyncio.to_thread(self._files.loss)
        if loss is None:
            self._has_rescued = False
            return
        if loss in (Loss.FILE, Loss.LOG):
            await self._rescue()
        raise StoreUnavailableError(loss.value)

    async def _rescue(self) -> None:
        """Copy what only the lost log has into the file, as SQLite can while it has both open.

        Of a removed log nothing would be left after a crash. The log of a replaced file is still
        at its name, and SQLite would apply it to the new file at the next start.
        """
        try:
            if not await self._write.run(self._empty_log):
                return  # another process is reading; the next probe tries again
            aside = self._files.set_aside_replaced_log()
        except StoreError as error:
            if not self._has_rescued:
                log.error("what is in the write-ahead log can't be saved", cause=str(error))
        else:
            if aside is not None:
                log.warning("a write-ahead log of another file was renamed", to=str(aside))
            if not self._has_rescued:
                log.warning("what was in the write-ahead log has been written to the file")
        self._has_rescued = True

    def _empty_log(self, db: sqlite3.Connection) -> bool:
        """Write the log to the file and truncate it; False: another process is reading it."""
        self.before_rescue()
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def _look_through(self) -> None:
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
                self._quick.drop_page_cache()
                self._damaged = False
                log.info("the store has been found whole again")
        except StoreError as error:
            log.warning("the damaged store can't be looked through", cause=str(error))
        finally:
            self._check = None

    async def close(self) -> None:
        """End what is under way."""
        self._closed = True
        if self._check is not None:
            self._check.cancel()
            await asyncio.wait([self._check])


def read_something(db: sqlite3.Connection) -> None:
    """Read through a connection that is in use, to see that it isn't stuck."""
    db.execute("SELECT 1 FROM schema_migrations").fetchone()


def _read(path: Path) -> None:
    """Read the file with a connection of its own, which has no page of it in memory."""
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
