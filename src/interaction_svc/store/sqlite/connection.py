"""Connections to the file: their settings, and a thread that runs whole functions.

Only this module uses private attributes of aiosqlite: `_connection`, `_thread` and `_tx`.
tests/store/sqlite/test_connection.py fails if an update of aiosqlite changes them.
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
_STEPS_PER_PROGRESS_CALL = 10_000  # SQLite VM instructions: well under 1 ms
_SLICE_SECONDS = 0.001
"""The longest time between two deliveries of finished jobs to the event loop."""
OLDEST_SQLITE = (3, 37, 0)  # first version with STRICT tables

# At level DEBUG aiosqlite logs the parameters of every call, which contain message bodies.
logging.getLogger("aiosqlite").setLevel(logging.WARNING)


class _Job:
    """A function to run on a connection's thread, and its result."""

    __slots__ = ("done", "is_cancelled", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False
        """True if the caller no longer waits."""
        self.result: Any = None
        """The result of the function, or the exception that it raised."""


class Connection(aiosqlite.Connection):
    """An aiosqlite connection that runs whole functions on its thread.

    A transaction is one function without an await, so a cancelled caller can't leave it open. It
    costs one thread switch instead of one per statement. A thread switch costs several times as
    much as a small read, so functions that wait at the same time share one.
    """

    _is_closing = False

    def __init__(self, path: Path, *, create: bool, read_only: bool) -> None:
        super().__init__(
            partial(self._connect_on_thread, path, create, read_only), iter_chunk_size=64
        )
        self.path = path
        self._waiting: deque[_Job] = deque()
        self._is_scheduled = False
        # Only the thread uses these two attributes: the running job, and the finished jobs.
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
            # A cancelled connect() would leak its thread and its file, so wait for it and then
            # close.
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
            # Connection.interrupt has no effect between two statements, and may interrupt the next
            # job.
            db.set_progress_handler(self._interrupts, _STEPS_PER_PROGRESS_CALL)
        return db

    async def run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a function with the sqlite3 connection on this connection's thread.

        If the caller is cancelled before the function starts, the function is not run. A running
        function is completed on a writing connection. On a read-only connection it is interrupted,
        so that the thread can serve other callers. Raises StoreClosedError, StoreUnavailableError,
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
        # None, because a future of aiosqlite would cost one more iteration of the event loop.
        self._tx.put_nowait((None, partial(self._run_waiting, loop)))

    def _run_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run jobs on the thread for up to 1 ms, including jobs that arrive in that time."""
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
        with suppress(RuntimeError):  # the loop is closed: no caller waits
            loop.call_soon_threadsafe(self._end_slice, finished)

    def _interrupts(self) -> bool:
        """Return whether to interrupt the running statement, because its caller has gone."""
        if self._finished:  # deliver now: the statement may be long
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
        check_same_thread=False,  # aiosqlite may close it from another thread
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
    """Create the file unless it exists. Only its owner may read it: it has private messages."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _read_header(db: sqlite3.Connection) -> None:
    """Read the header. Raises NotAStoreError for a file that is not a database.

    In later calls the same error code means that the database is damaged.
    """
    try:
        db.execute("PRAGMA schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        if primary_code(error) == sqlite3.SQLITE_NOTADB:
            raise NotAStoreError("the file is not an SQLite database") from error
        raise


def drop_page_cache(db: sqlite3.Connection) -> None:
    """Drop the pages in memory, which may be older than the repair of a damaged file."""
    db.execute("PRAGMA shrink_memory")


def disable_checkpoints(db: sqlite3.Connection) -> None:
    """Disable checkpoints in commits, because WalTruncator runs them."""
    db.execute("PRAGMA wal_autocheckpoint = 0")
