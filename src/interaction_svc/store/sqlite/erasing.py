"""Makes what was deleted leave the files: the write-ahead log is truncated soon after.

secure_delete overwrites deleted rows in the pages that are written from then on. The write-ahead
log still holds the pages as they were, until all of it is copied into the database and cut off.
Then Scrubber overwrites what secure_delete misses.
"""

import asyncio
import sqlite3
from contextlib import suppress
from pathlib import Path

import structlog

from interaction_svc.store.errors import StoreError
from interaction_svc.store.sqlite.connection import (
    Connection,
    connect,
    waiting_at_most,
)
from interaction_svc.store.sqlite.probing import read_something
from interaction_svc.store.sqlite.scrubbing import MANY_PAGES, Scrubber

ERASED_WITHIN_SECONDS = 10.0
"""After which time nothing is left of what was deleted, unless another process is reading."""
DELAY_SECONDS = 1.0
"""Deletions of this time share a truncation, which costs a flush or two."""
_LONGEST_PAUSE_SECONDS = 2.0
_BUSY_TIMEOUT_MS = 100  # writes wait meanwhile, so not as long as for the lock

log = structlog.get_logger()


class Eraser:
    """Truncates the log soon after it was asked to, and tries again until it is done."""

    def __init__(self, write: Connection, path: Path, wal: Path) -> None:
        self._write = write
        self._path = path
        self._pinning: sqlite3.Connection | None = None
        self._scrubber = Scrubber(path, wal)
        self._loop = asyncio.get_running_loop()
        self._asked = 0
        self._done = 0
        self._looks_through = False
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def ask(self) -> None:
        """Have the log truncated soon: something in it has been deleted."""
        self._asked += 1
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._erase())

    def ask_after_a_crash(self) -> None:
        """Have the whole file looked through as well: a process may not have lived to erase."""
        self._looks_through = True
        self.ask()

    async def erase(self) -> bool:
        """Truncate the log now; False: another process is reading what is in it.

        Raises what Connection.run raises.
        """
        asked = self._asked
        if not await self._write.run(self._truncate_and_wipe):
            return False
        self._done = max(self._done, asked)
        return True

    def pin(self) -> None:
        """Keep what is committed from here on in the log, until `unpin`. Raises sqlite3.Error.

        Another process may truncate the log, or begin it anew, right after a commit, and this one
        would not find the pages there that it has to wipe. That needs all of the log to be in the
        database, and a reader of the time before keeps it from getting there.
        """
        if self._pinning is None:
            self._pinning = connect(self._path, read_only=True)
        self._pinning.execute("BEGIN")
        read_something(self._pinning)

    def unpin(self) -> None:
        """Let the log go again. Without a pin it does nothing."""
        if self._pinning is not None and self._pinning.in_transaction:
            try:
                self._pinning.execute("COMMIT")
            except sqlite3.Error:  # the file is lost or damaged, which whoever wrote says
                self._pinning.close()
                self._pinning = None

    def look(self) -> None:
        """Look at the pages that were just written, before the log may lose them."""
        try:
            self._scrubber.look()
        except OSError as error:  # what was written is written; tried again before truncating
            log.warning("the write-ahead log can't be looked at", cause=error.strerror)
        if self._scrubber.stained_pages >= MANY_PAGES and self._task is None:
            with suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(self.ask)

    async def close(self) -> None:
        """Try a last time if need be, and end. Whoever closes the file last truncates the log."""
        self._closed = True
        self._scrubber.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._done < self._asked or self._scrubber.stained_pages:
            await self._tried()
        if self._pinning is not None:
            self._pinning.close()

    def release(self) -> None:
        """Let go of the file, once all connections have been closed."""
        self._scrubber.close()

    def _truncate_and_wipe(self, db: sqlite3.Connection) -> bool:
        self._scrubber.look()
        with waiting_at_most(db, _BUSY_TIMEOUT_MS):
            busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy and self._scrubber.wipe(db)

    async def _erase(self) -> None:
        loop = asyncio.get_running_loop()
        since, warned, pause = loop.time(), False, DELAY_SECONDS
        try:
            if self._looks_through:
                self._looks_through = False
                await asyncio.to_thread(self._scrubber.look_through)
            while self._done < self._asked:
                await asyncio.sleep(pause)
                if self._done >= self._asked:
                    break  # somebody couldn't wait
                if await self._tried():
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

    async def _tried(self) -> bool:
        try:
            return await self.erase()
        except Exception as error:  # whatever it is, it has to be tried again
            cause = str(error) if isinstance(error, StoreError | OSError) else type(error).__name__
            log.warning("the write-ahead log can't be truncated", cause=cause)
            return False
