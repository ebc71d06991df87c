"""Tells whether the file can be read and written: what health follows."""

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import structlog

from interaction_svc.store.errors import StoreDamagedError, StoreError, StoreUnavailableError
from interaction_svc.store.sqlite.connection import (
    Connection,
    connect,
    forget_pages,
    translated,
)
from interaction_svc.store.sqlite.quick import QuickReader

QUICK_CHECK_SECONDS = 30.0
"""How often a damaged store is looked through, which reads all of it."""

log = structlog.get_logger()


class Probe:
    """Knows the file that was opened, and the damage that was met in it."""

    def __init__(self, path: Path, connections: Sequence[Connection], quick: QuickReader) -> None:
        """Remember which file it is that the connections have open."""
        self._path = path
        self._connections = connections
        self._quick = quick
        self._opened = _identity(path)
        self._damaged = False
        self._checked_at = float("-inf")
        self._check: asyncio.Task[None] | None = None

    def check_same_file(self) -> None:
        """Raise StoreUnavailableError if the path names another file by now, or none.

        What would be written then goes to a file that nobody will find again.
        """
        if _identity(self._path) != self._opened:
            raise StoreUnavailableError("its file has been replaced or removed")

    def note(self, error: StoreError) -> None:
        """Take note of an error that an operation met."""
        if isinstance(error, StoreDamagedError) and not self._damaged:
            self._damaged = True
            log.error("the store is damaged")

    async def check_file(self) -> None:
        """Raise StoreUnavailableError if the file can't be read, isn't the same, or is damaged."""
        self.check_same_file()
        await asyncio.to_thread(_read, self._path)
        if self._damaged:
            self._look_through()
            raise StoreDamagedError("damage was met, and it hasn't been mended")

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
                for connection in self._connections:
                    await connection.run(forget_pages)
                self._quick.forget_pages()
                self._damaged = False
                log.info("the store has been found whole again")
        except StoreError as error:
            log.warning("the damaged store can't be looked through", cause=str(error))
        finally:
            self._check = None

    async def close(self) -> None:
        """End what is under way."""
        if self._check is not None:
            self._check.cancel()
            await asyncio.wait([self._check])


def read_something(db: sqlite3.Connection) -> None:
    """Read through a connection that is in use, to see that it isn't stuck."""
    db.execute("SELECT 1 FROM schema_migrations").fetchone()


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return found.st_dev, found.st_ino


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
