"""Connections to the file: their settings, and a thread that runs whole functions.

Only this module uses private attributes of aiosqlite: `_connection`, `_thread` and `_tx`.
tests/store/sqlite/test_connection.py checks them.
"""

import asyncio
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import aiosqlite

from interaction_svc.domain.units import MIB
from interaction_svc.store.errors import NotAStoreError, StoreClosedError, StoreUnavailableError
from interaction_svc.store.sqlite import transactions
from interaction_svc.store.sqlite.errors import primary_code, translated

P = ParamSpec("P")
T = TypeVar("T")

CACHE_BYTES = 16 * MIB
JOURNAL_LIMIT_BYTES = 64 * MIB
_PAGES_UNTIL_CHECKPOINT = 2_000  # of 8 KiB: 16 MiB
_STEPS_PER_PROGRESS_CALL = 10_000  # of SQLite's virtual machine: well under 1 ms
_SLICE_SECONDS = 0.001
"""The time that the thread works before it hands finished jobs to the event loop."""
OLDEST_SQLITE = (3, 37, 0)  # the first with STRICT tables

# aiosqlite logs the parameters of every call, and so message bodies, at level DEBUG.
logging.getLogger("aiosqlite").setLevel(logging.WARNING)


class _Job:
    """A function to run on a connection's thread, and its result."""

    __slots__ = ("done", "is_cancelled", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False
        """True if its caller no longer waits."""
        self.result: Any = None
        """The result of the function, or the exception that it raised."""


class Connection(aiosqlite.Connection):
    """An aiosqlite connection that runs whole functions on its thread.

    A transaction is one function without an await inside, so a cancelled caller can't leave it
    open, and it costs one thread switch instead of one per statement. Functions that wait at the
    same time share a thread switch, which costs several times as much as a small read.
    """

    _is_closing = False

    def __init__(self, path: Path, *, create: bool, read_only: bool) -> None:
        super().__init__(
            partial(self._connect_on_thread, path, create, read_only), iter_chunk_size=64
        )
        self.path = path
        self._waiting: deque[_Job] = deque()
        self._is_scheduled = False
        # Only the thread uses these two: the job it is running, and those it has finished.
        self._running_job: _Job | None = None
        self._finished: list[_Job] = []

    @classmethod
    async def open(
        cls, path: Path, *, create: bool = False, read_only: bool = False
    ) -> "Connection":
        """Open the file. Raises StoreUnavailableError, StoreFullError, NotAStoreError."""
        opening = asyncio.create_task(cls._open(path, create=create, read_only=read_only))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # A cancelled connect() would leak its thread and its file: let it end, then close.
            await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                await opening.result().close()
            raise

    @classmethod
    async def _open(cls, path: Path, *, create: bool, read_only: bool) -> "Connection":
        connection = cls(path, create=create, read_only=read_only)
        try:
            await connection
        except BaseException as error:
            # aiosqlite has told its thread to end, but doesn't wait for it. The thread's last
            # callback could reach a closed event loop.
            await asyncio.to_thread(connection._thread.join)
            if isinstance(error, sqlite3.Error):
                raise translated(error, path) from error
            raise
        return connection

    def _connect_on_thread(self, path: Path, create: bool, read_only: bool) -> sqlite3.Connection:
        db = connect(path, create=create, read_only=read_only)
        if read_only:
            # Connection.interrupt does nothing between two statements, and may hit the next job.
            db.set_progress_handler(self._interrupts, _STEPS_PER_PROGRESS_CALL)
        return db

    async def run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a function with the sqlite3 connection on this connection's thread.

        If the caller is cancelled before its work begins, the work is dropped. Work that has begun
        is completed on a writing connection. On a read-only connection it is interrupted, so that
        the thread is free for other callers. Raises StoreClosedError, StoreUnavailableError,
        StoreFullError.
        """
        if self._is_closing or self._connection is None:
            raise StoreClosedError("the store has been closed")
        job = self._enqueue(lambda db: work(db, *args, **kwargs))
        try:
            return await job.done  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            job.is_cancelled = True
            raise
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def _enqueue(self, work: Callable[[sqlite3.Connection], Any]) -> _Job:
        job = _Job(work)
        self._waiting.append(job)
        if not self._is_scheduled:
            self._schedule(job.done.get_loop())
        return job

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled = True
        # None instead of a future of aiosqlite, which would cost one more event loop iteration.
        self._tx.put_nowait((None, partial(self._run_waiting, loop)))

    def _run_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run jobs on the thread for up to 1 ms, including those that arrive meanwhile."""
        db = self._connection
        until = time.perf_counter() + _SLICE_SECONDS
        while self._waiting:
            self._running_job = job = self._waiting.popleft()
            if job.is_cancelled:
                continue
            try:
                job.result = job.work(db)  # type: ignore[arg-type]
            except BaseException as error:
                job.result = error
            self._finished.append(job)
            if time.perf_counter() > until:
                break
        finished, self._finished = self._finished, []
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(self._end_slice, finished)

    def _interrupts(self) -> bool:
        """Return whether to interrupt the running statement: its caller has stopped waiting."""
        if self._finished:  # delivered now, because the running statement may be long
            finished, self._finished = self._finished, []
            finished[0].done.get_loop().call_soon_threadsafe(self._deliver, finished)
        return self._running_job is not None and self._running_job.is_cancelled

    def _end_slice(self, finished: list[_Job]) -> None:
        self._is_scheduled = False
        self._deliver(finished)
        if self._waiting:
            self._schedule(asyncio.get_running_loop())

    def _deliver(self, finished: list[_Job]) -> None:
        for job in finished:
            if job.done.done():
                continue
            if isinstance(job.result, BaseException):
                job.done.set_exception(job.result)
            else:
                job.done.set_result(job.result)

    async def close(self) -> None:
        """Complete the waiting jobs, refuse new ones, and close."""
        if not self._is_closing and self._connection is not None:
            last = self._enqueue(lambda _: None)
            self._is_closing = True
            await last.done
        await super().close()


def connect(path: Path, *, create: bool = False, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection with the settings that this store relies on.

    Raises sqlite3.Error, StoreError, OSError.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        raise NotAStoreError(f"SQLite {wanted} is needed; this is {sqlite3.sqlite_version}")
    if not path.absolute().parent.is_dir():
        raise StoreUnavailableError(f"its directory {path.parent} doesn't exist")
    if create:
        _create(path)
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=transactions.BUSY_TIMEOUT_SECONDS,
        isolation_level=None,  # transactions begin only by an explicit BEGIN
        check_same_thread=False,  # aiosqlite may close it on another thread
    )
    try:
        _read_header(db)
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA synchronous = FULL")  # an acknowledged write survives a power failure
        db.execute("PRAGMA secure_delete = ON")  # deleted bodies are overwritten
        db.execute("PRAGMA temp_store = MEMORY")  # sorting writes no bodies to temporary files
        db.execute(f"PRAGMA cache_size = {-(CACHE_BYTES // 1024)}")
        db.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT_BYTES}")
        db.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_UNTIL_CHECKPOINT}")
        if read_only:
            db.execute("PRAGMA query_only = ON")
    except BaseException:
        db.close()
        raise
    return db


def _create(path: Path) -> None:
    """Create the file unless it exists, readable by its owner only: it holds private messages."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _read_header(db: sqlite3.Connection) -> None:
    """Raise NotAStoreError for a file that isn't a database.

    The same error code later on means that a database is damaged.
    """
    try:
        db.execute("PRAGMA schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        if primary_code(error) == sqlite3.SQLITE_NOTADB:
            raise NotAStoreError("the file is not an SQLite database") from error
        raise


def drop_page_cache(db: sqlite3.Connection) -> None:
    """Drop the pages in memory, which may predate the repair of a damaged file."""
    db.execute("PRAGMA shrink_memory")


def disable_checkpoints(db: sqlite3.Connection) -> None:
    """Disable checkpoints in commits, because WalTruncator runs them."""
    db.execute("PRAGMA wal_autocheckpoint = 0")
