"""Reads on the event loop itself, for as long as the file answers from memory."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from interaction_svc.store.errors import StoreClosedError, StoreError
from interaction_svc.store.sqlite.connection import connect, drop_page_cache
from interaction_svc.store.sqlite.errors import is_busy, translated
from interaction_svc.store.sqlite.transactions import disable_busy_timeout

P = ParamSpec("P")
T = TypeVar("T")

QUICK_SECONDS = 0.005
"""A read that took longer has waited for a disk, or was large."""
_REST = 100
"""How many times as long as a slow read lasted there is none here: it gets a hundredth of the time.
"""


LATELY_SECONDS = 0.01
"""For so long after a read others are taken to be reading."""


class NotInlineError(Exception):
    """The read was not made: it has to be made on a thread."""


class _Read(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]


class InlineReader:
    """A connection of the event loop's own, for reads whose cost is bounded by their answer.

    What is in memory is read in microseconds, and to hand that to a thread and back costs half of
    what an empty RPC does (docs/decisions/0020). What isn't holds everybody up, so after a slow
    read it rests. It never waits for a lock.

    Reads of calls that came together are made in a row, at the end of the loop's turn. Between two
    calls the processor forgets how SQLite reads: one by one they take several times as long, and a
    Get over REST a quarter more.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        """Open the file, on any thread. Raises as `connect`."""
        self._db: sqlite3.Connection | None = connect(path, read_only=True)
        disable_busy_timeout(self._db)
        self._clock = clock
        self._rests_until = float("-inf")
        self._read_at = float("-inf")
        self._waiting: list[_Read] = []
        self.on_error: Callable[[StoreError], None] = lambda _: None
        """Hears of every read that fails."""

    def run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> "asyncio.Future[T]":
        """Read at the end of this turn. What is returned raises NotInlineError, StoreError."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Read(lambda db: work(db, *args, **kwargs), done))
        if len(self._waiting) == 1:
            loop.call_soon(self._read)
        return done

    def _read(self) -> None:
        """Make the reads that wait, for as long as one may take; what is left, a turn later."""
        waiting, self._waiting = self._waiting, []
        begun = before = self._clock()
        for place, (work, done) in enumerate(waiting):
            if before - begun > QUICK_SECONDS:
                self._waiting = waiting[place:]
                asyncio.get_running_loop().call_soon(self._read)
                return
            if done.done():  # its caller has given up
                continue
            try:
                done.set_result(self._result_of(work, before))
            except BaseException as error:
                done.set_exception(error)
            ended = self._clock()
            if ended - before > QUICK_SECONDS:
                self._rests_until = ended + _REST * (ended - before)
            self._read_at = before = ended

    def _result_of(self, work: Callable[[sqlite3.Connection], Any], now: float) -> Any:
        if self._db is None:
            raise StoreClosedError("the store has been closed")
        if now < self._rests_until:
            raise NotInlineError
        try:
            return work(self._db)
        except sqlite3.Error as error:
            if is_busy(error):
                raise NotInlineError from error
            translation = translated(error)
            self.on_error(translation)
            raise translation from error

    def has_read_lately(self) -> bool:
        """Say, on any thread, whether something was read within LATELY_SECONDS."""
        return self._clock() - self._read_at < LATELY_SECONDS

    def drop_page_cache(self) -> None:
        """Drop the pages in memory."""
        if self._db is not None:
            drop_page_cache(self._db)

    def close(self) -> None:
        """Close, and read no more."""
        db, self._db = self._db, None
        if db is not None:
            db.close()
