"""Makes what was deleted leave the files: the write-ahead log is truncated soon after.

secure_delete overwrites deleted rows in the pages that are written from then on. The write-ahead
log still holds the pages as they were, until all of it is copied into the database and cut off.
Then PageWiper overwrites what secure_delete misses.
"""

import asyncio
import sqlite3
from contextlib import suppress
from pathlib import Path

import structlog

from interaction_svc.store.errors import StoreError
from interaction_svc.store.sqlite.connection import MIB, Connection, connect
from interaction_svc.store.sqlite.erasure.page_wiper import MANY_PAGES, PageWiper
from interaction_svc.store.sqlite.probe import read_something
from interaction_svc.store.sqlite.transactions import busy_timeout

ERASED_WITHIN_SECONDS = 10.0
"""After which time nothing is left of what was deleted, unless another process is reading."""
CHECKPOINT_BYTES = 16 * MIB
"""How long the log may become: at SQLite's usual 4 MiB bulk commits are a tenth dearer."""
DELAY_SECONDS = 1.0
"""Deletions of this time share a truncation, which costs a flush or two."""
LOOK_SECONDS = 0.05
"""How long commits wait to be looked at, in which others can't truncate the log."""
_ROWS_UNTIL_LOOKED = 500
"""Some 16 MiB of the log, or less where they are of few Sessions."""
_LONGEST_PAUSE_SECONDS = 2.0
_BUSY_TIMEOUT_MS = 100  # writes wait meanwhile, so not as long as for the lock

log = structlog.get_logger()


class WalTruncator:
    """Truncates the log soon after it was asked to, and tries again until it is done."""

    def __init__(self, write: Connection, path: Path, wal: Path) -> None:
        self._write = write
        self._path = path
        self._pinning: sqlite3.Connection | None = None
        self._scrubber = PageWiper(path, wal)
        self._loop = asyncio.get_running_loop()
        self._asked = 0
        self._done = 0
        self._looks_through = False
        self._rows = 0  # committed since the log was looked at; this is the connection's thread's
        self._looking: asyncio.Task[None] | None = None
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

    def hold_wal(self) -> None:
        """Keep what is committed from here on in the log, until it is looked at.

        Another process may truncate the log, or begin it anew, right after a commit, and this one
        would not find the pages there that it has to wipe. That needs all of the log to be in the
        database, and a reader of the time before keeps it from getting there. Raises sqlite3.Error.
        """
        if self._pinning is None:
            self._pinning = connect(self._path, read_only=True)
        if not self._pinning.in_transaction:
            self._pinning.execute("BEGIN")
            read_something(self._pinning)

    def note_rows(self, db: sqlite3.Connection, rows: int) -> None:
        """Take note of how many rows were committed; look at once if there were many."""
        self._rows += rows
        if self._rows >= _ROWS_UNTIL_LOOKED:
            self._look(db)

    def look_soon(self) -> None:
        """Have the log looked at soon: commits of this time share that, which costs half of one."""
        if self._looking is None and not self._closed:
            self._looking = asyncio.create_task(self._look_after_a_moment())

    async def _look_after_a_moment(self) -> None:
        await asyncio.sleep(LOOK_SECONDS)
        self._looking = None
        with suppress(StoreError):
            await self._write.run(self._look)

    def let_go(self) -> None:
        """Let the log go again, on the connection's thread. Without a pin it does nothing."""
        if self._pinning is not None and self._pinning.in_transaction:
            try:
                self._pinning.execute("COMMIT")
            except sqlite3.Error:  # the file is lost or damaged, which whoever writes next says
                self._pinning.close()
                self._pinning = None

    def _look(self, db: sqlite3.Connection) -> None:
        """Look at the pages that were written, let the log go, and checkpoint it if it is long.

        SQLite itself would do that in a commit, when the pin is in its way: it would never get to
        the end of the log, which would grow for ever.
        """
        self._rows = 0
        try:
            self._scrubber.look()
        except OSError as error:  # what was written is written
            log.warning("the write-ahead log can't be looked at", cause=error.strerror)
        self.let_go()
        if self._scrubber.log_bytes >= CHECKPOINT_BYTES:
            with suppress(sqlite3.Error):  # what is committed is safe in the log
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if self._scrubber.stained_pages >= MANY_PAGES and self._task is None:
            with suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(self.ask)

    async def close(self) -> None:
        """Try a last time if need be, and end. Whoever closes the file last truncates the log."""
        self._closed = True
        self._scrubber.stop()
        tasks = [task for task in (self._task, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        with suppress(StoreError):
            await self._write.run(self._look)
        if self._done < self._asked or self._scrubber.stained_pages:
            await self._tried()
        if self._pinning is not None:
            self._pinning.close()

    def release(self) -> None:
        """Let go of the file, once all connections have been closed."""
        self._scrubber.close()

    def _truncate_and_wipe(self, db: sqlite3.Connection) -> bool:
        self._look(db)
        with busy_timeout(db, _BUSY_TIMEOUT_MS):
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
