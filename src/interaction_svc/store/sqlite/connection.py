"""Connections to the file: their settings, their errors, and one thread hop for a unit of work."""

import asyncio
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import aiosqlite

from interaction_svc.store.errors import (
    NotAStoreError,
    StoreClosedError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from interaction_svc.store.sqlite.write_errors import write_failure

P = ParamSpec("P")
T = TypeVar("T")

MIB = 1024 * 1024
BUSY_TIMEOUT_SECONDS = 5.0
_ASK_AGAIN_SECONDS = 0.0005  # 1 ms is too much to meet most of those moments; less costs CPU
CACHE_BYTES = 16 * MIB
JOURNAL_LIMIT_BYTES = 64 * MIB
_PAGES_UNTIL_CHECKPOINT = 2_000  # of 8 KiB: 16 MiB
_STEPS_UNTIL_ASKED = 10_000  # of SQLite's virtual machine: well under a millisecond
_SLICE_SECONDS = 0.001
"""How long a thread works before it gives the event loop what it has."""
OLDEST_SQLITE = (3, 37, 0)  # the first with STRICT tables

# aiosqlite writes the parameters of every call, and so message bodies, to its debug log.
logging.getLogger("aiosqlite").setLevel(logging.WARNING)


class _Job:
    """A unit of work on a connection's thread, and what came of it."""

    __slots__ = ("done", "given_up", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.given_up = False
        """Whether its caller doesn't wait for it any more."""
        self.result: Any = None
        """What it gave; or raised, which is then an exception."""


class Connection(aiosqlite.Connection):
    """An aiosqlite connection on whose thread whole functions can run.

    A transaction that runs as one function has no await inside, so that no cancelled caller can
    leave it open; and it costs one thread hop instead of one a statement. Functions that wait
    together share a hop: it costs several times what a small read does.
    """

    _closing = False

    def __init__(self, path: Path, *, create: bool, read_only: bool) -> None:
        super().__init__(
            partial(self._connect_on_thread, path, create, read_only), iter_chunk_size=64
        )
        self.path = path
        self._waiting: deque[_Job] = deque()
        self._is_hopping = False
        # These two are the thread's: the turn it is at, and those it is done with.
        self._turn: _Job | None = None
        self._ended: list[_Job] = []

    @classmethod
    async def open(
        cls, path: Path, *, create: bool = False, read_only: bool = False
    ) -> "Connection":
        """Open the file. Raises StoreUnavailableError, StoreFullError, NotAStoreError."""
        opening = asyncio.create_task(cls._open(path, create=create, read_only=read_only))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # A connect() that is cancelled leaks its thread and its file: let it end, then close.
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
            # aiosqlite has told its thread to end, but doesn't wait: its last word would come to
            # an event loop that may be closed by then.
            await asyncio.to_thread(connection._thread.join)
            if isinstance(error, sqlite3.Error):
                raise translated(error, path) from error
            raise
        return connection

    def _connect_on_thread(self, path: Path, create: bool, read_only: bool) -> sqlite3.Connection:
        db = connect(path, create=create, read_only=read_only)
        if read_only:
            # Not Connection.interrupt, which does nothing between two statements, and may hit the
            # work of the next caller.
            db.set_progress_handler(self._is_given_up, _STEPS_UNTIL_ASKED)
        return db

    async def run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a function with the sqlite3 connection on this connection's thread.

        Raises StoreClosedError, StoreUnavailableError, StoreFullError. Work whose caller has been
        cancelled is not begun. What has begun is done all the same on a connection that writes; on
        one that only reads it is interrupted, so that a caller out of time frees the thread.
        """
        if self._closing or self._connection is None:
            raise StoreClosedError("the store has been closed")
        turn = self._enqueue(lambda db: work(db, *args, **kwargs))
        try:
            return await turn.done  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            turn.given_up = True
            raise
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def _enqueue(self, work: Callable[[sqlite3.Connection], Any]) -> _Job:
        turn = _Job(work)
        self._waiting.append(turn)
        if not self._is_hopping:
            self._hop(turn.done.get_loop())
        return turn

    def _hop(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_hopping = True
        # Without a future of aiosqlite's own, for which the loop would have to turn once more.
        self._tx.put_nowait((None, partial(self._work_through, loop)))

    def _work_through(self, loop: asyncio.AbstractEventLoop) -> None:
        """Do what waits, on the thread, for the length of a slice; and what comes meanwhile."""
        db = self._connection
        until = time.perf_counter() + _SLICE_SECONDS
        while self._waiting:
            self._turn = turn = self._waiting.popleft()
            if turn.given_up:
                continue
            try:
                turn.result = turn.work(db)  # type: ignore[arg-type]
            except BaseException as error:
                turn.result = error
            self._ended.append(turn)
            if time.perf_counter() > until:
                break
        ended, self._ended = self._ended, []
        with suppress(RuntimeError):  # the loop has been closed: nobody waits
            loop.call_soon_threadsafe(self._end_hop, ended)

    def _is_given_up(self) -> bool:
        """Say, in the middle of a long statement, whether anybody still waits for it."""
        if self._ended:  # those who do for others need not
            ended, self._ended = self._ended, []
            ended[0].done.get_loop().call_soon_threadsafe(self._deliver, ended)
        return self._turn is not None and self._turn.given_up

    def _end_hop(self, ended: list[_Job]) -> None:
        self._is_hopping = False
        self._deliver(ended)
        if self._waiting:
            self._hop(asyncio.get_running_loop())

    def _deliver(self, ended: list[_Job]) -> None:
        for turn in ended:
            if turn.done.done():
                continue
            if isinstance(turn.result, BaseException):
                turn.done.set_exception(turn.result)
            else:
                turn.done.set_result(turn.result)

    async def close(self) -> None:
        """Do what is waiting, take no more, and close."""
        if not self._closing and self._connection is not None:
            last = self._enqueue(lambda _: None)
            self._closing = True
            await last.done
        await super().close()


def connect(path: Path, *, create: bool = False, read_only: bool = False) -> sqlite3.Connection:
    """Connect with the settings that this store relies on.

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
        timeout=BUSY_TIMEOUT_SECONDS,
        isolation_level=None,  # transactions begin where they say BEGIN
        check_same_thread=False,  # aiosqlite may close it from another thread
        cached_statements=256,
    )
    try:
        _read_header(db)
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA synchronous = FULL")  # an answered write survives a power cut
        db.execute("PRAGMA secure_delete = ON")  # deleted bodies are overwritten
        db.execute("PRAGMA temp_store = MEMORY")  # or sorting spills bodies into files
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
    """Make the file unless it is there."""
    # Readable by its owner only, whatever the umask: these are people's messages.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def touch_write_lock(db: sqlite3.Connection) -> None:
    """Be a transaction's content that needs the lock to write, but no room on the disk.

    BEGIN IMMEDIATE alone succeeds on a file that can't be written to.
    """
    db.execute("DELETE FROM schema_migrations WHERE 0")


def check_writable(db: sqlite3.Connection) -> None:
    """Raise sqlite3.OperationalError if the file can't be written to.

    That another process is writing at the moment doesn't matter.
    """
    try:
        with transaction(db, 0):
            touch_write_lock(db)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise


def drop_page_cache(db: sqlite3.Connection) -> None:
    """Drop the pages in memory, which may be of before a damaged file was mended."""
    db.execute("PRAGMA shrink_memory")


def disable_busy_timeout(db: sqlite3.Connection) -> None:
    """Have SQLite wait for no lock from here on: `transaction` waits, and does it better."""
    db.execute("PRAGMA busy_timeout = 0")


def checkpoint_no_more(db: sqlite3.Connection) -> None:
    """Switch off checkpoints in commits: WalTruncator makes them."""
    db.execute("PRAGMA wal_autocheckpoint = 0")


@contextmanager
def busy_timeout(db: sqlite3.Connection, milliseconds: int) -> Iterator[None]:
    """Let SQLite wait for locks this long in the block, on a connection that waits no more."""
    db.execute(f"PRAGMA busy_timeout = {milliseconds}")
    try:
        yield
    finally:
        disable_busy_timeout(db)


def _read_header(db: sqlite3.Connection) -> None:
    """Tell a file that was never a database from one that is damaged later on."""
    try:
        db.execute("PRAGMA schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
            raise NotAStoreError("the file is not an SQLite database") from error
        raise


@contextmanager
def transaction(db: sqlite3.Connection, patience_seconds: float | None = None) -> Iterator[None]:
    """Commit what is written in the block, or leave no trace of it.

    The lock is waited for this long; None is the usual time.
    """
    # IMMEDIATE: a transaction that turns from reading to writing fails at once when another
    # process has written in between, whatever the timeout.
    _begin_immediate(db, BUSY_TIMEOUT_SECONDS if patience_seconds is None else patience_seconds)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # some failures have rolled back already
            db.execute("ROLLBACK")
        raise


def _begin_immediate(db: sqlite3.Connection, patience_seconds: float) -> None:
    """Take the lock for writing, asking often as long as another process has it.

    SQLite's own waiting asks ever more rarely, every 100 ms in the end. Beside a process that
    writes all the time the lock is free for moments only, which that meets by luck.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= deadline:
                raise
        else:
            return
        time.sleep(_ASK_AGAIN_SECONDS)


_LACKING = "its file system lacks what SQLite needs, locks and shared memory: use a local disk"
_PASSING = {
    sqlite3.SQLITE_BUSY: "it is locked by another process",
    sqlite3.SQLITE_LOCKED: "it is locked by another process",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: is it there, and may this user write it?",
    sqlite3.SQLITE_READONLY: "it can't be written to: is the file or its directory read-only?",
    sqlite3.SQLITE_PERM: "access to it is not permitted",
    sqlite3.SQLITE_IOERR: "its disk fails",
    sqlite3.SQLITE_IOERR_SHORT_READ: (
        "its write-ahead log, or its file, has been overwritten while it was open: restart, and"
        " leave these files alone"
    ),
    sqlite3.SQLITE_IOERR_LOCK: _LACKING,
    sqlite3.SQLITE_IOERR_SHMLOCK: _LACKING,
    sqlite3.SQLITE_IOERR_SHMMAP: _LACKING,
    sqlite3.SQLITE_INTERRUPT: "it was interrupted",
}
_FAILED_WRITES = (
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
)


def translated(error: sqlite3.Error, path: Path | None = None) -> StoreError:
    """Return the store's error for one of SQLite's, without its text, which may quote SQL.

    With the file's path the cause of a failed write is looked for.
    """
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF  # the rest of an extended code is detail
    if path is not None and (extended in _FAILED_WRITES or code in _FAILED_WRITES):
        cause = write_failure(path)
        if cause is not None:
            return cause
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return StoreFullError("its disk is full")
    if (
        code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        or extended == sqlite3.SQLITE_IOERR_CORRUPTFS
    ):
        return StoreDamagedError("it is damaged: restore it from a backup")
    problem = _PASSING.get(extended) or _PASSING.get(code)
    if problem is not None:
        return StoreUnavailableError(problem)
    return StoreError(f"SQLite failed with {getattr(error, 'sqlite_errorname', 'an error')}")
