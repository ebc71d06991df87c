"""Reads on the event loop itself, while the file's pages are in memory."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from interaction_svc.store.errors import StoreClosedError, StoreError
from interaction_svc.store.sqlite.connection import connect, drop_page_cache
from interaction_svc.store.sqlite.errors import is_busy, translated
from interaction_svc.store.sqlite.transactions import disable_busy_timeout

P = ParamSpec("P")
T = TypeVar("T")

SLOW_READ_SECONDS = 0.005
"""A read that takes longer than this has waited for the disk, or is large."""
_PAUSE_FACTOR = 100
"""After a slow read, inline reads pause 100 times as long: slow reads get 1 % of the time."""


class NotInlineError(Exception):
    """The read was not executed: execute it on a thread."""


class _Read(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]


class InlineReader:
    """Executes reads on the event loop. The size of its result must bound the cost of a read.

    A read from memory takes microseconds. Two thread switches, to the thread and back, cost half as
    much as an empty RPC (docs/decisions/0020). A read from disk blocks the event loop, so after a
    slow read this class refuses reads for a while. It never waits for a lock.

    Reads of one iteration of the event loop are executed together at its end, while SQLite's code
    and pages are in the CPU caches. If each read ran separately, a REST Get would cost 12 % more
    CPU. They share a transaction, which saves two locks and one `stat` of the file for each read.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        """Open the file. May be called on any thread. Raises the errors of `connect`."""
        self._db: sqlite3.Connection | None = connect(path, read_only=True)
        disable_busy_timeout(self._db)
        self._clock = clock
        self._paused_until = float("-inf")
        self._waiting: list[_Read] = []
        self.on_error: Callable[[StoreError], None] = lambda _: None
        """Called with the error of each failed read."""

    def run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> "asyncio.Future[T]":
        """Execute `work` at the end of this iteration. Raises NotInlineError while reads pause.

        The returned future raises NotInlineError, StoreError.
        """
        if self._clock() < self._paused_until:
            raise NotInlineError
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Read(lambda db: work(db, *args, **kwargs), done))
        if len(self._waiting) == 1:
            loop.call_soon(self._read)
        return done

    def _read(self) -> None:
        waiting, self._waiting = self._waiting, []
        with suppress(sqlite3.Error):
            if self._db is not None and len(waiting) > 1:
                self._db.execute("BEGIN")
        try:
            self._execute(waiting)
        finally:
            with suppress(sqlite3.Error):
                if self._db is not None and self._db.in_transaction:
                    self._db.execute("COMMIT")

    def _execute(self, waiting: list[_Read]) -> None:
        """Execute reads for up to 5 ms, and the rest in the next iteration."""
        begun = before = self._clock()
        for index, (work, done) in enumerate(waiting):
            if before - begun > SLOW_READ_SECONDS:
                self._waiting = waiting[index:]
                asyncio.get_running_loop().call_soon(self._read)
                return
            if done.done():  # its caller was cancelled
                continue
            if before < self._paused_until:
                # Set without raising: a traceback would refer to the futures of all reads, and the
                # futures to it. Only the garbage collector could free such a cycle.
                done.set_exception(NotInlineError())
                continue
            try:
                done.set_result(self._result_of(work))
            except BaseException as error:
                done.set_exception(error)
            ended = self._clock()
            if ended - before > SLOW_READ_SECONDS:
                self._paused_until = ended + _PAUSE_FACTOR * (ended - before)
            before = ended

    def _result_of(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        if self._db is None:
            raise StoreClosedError("the store has been closed")
        try:
            return work(self._db)
        except sqlite3.Error as error:
            if is_busy(error):
                raise NotInlineError from error
            translation = translated(error)
            self.on_error(translation)
            raise translation from error

    def drop_page_cache(self) -> None:
        """Drop the pages in memory."""
        if self._db is not None:
            drop_page_cache(self._db)

    def close(self) -> None:
        """Close the connection. Later reads raise StoreClosedError."""
        db, self._db = self._db, None
        if db is not None:
            db.close()
