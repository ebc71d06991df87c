"""Reads on the event loop itself, for as long as the file answers from memory."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from interaction_svc.store.errors import StoreClosedError
from interaction_svc.store.sqlite.connection import connect, forget_pages

P = ParamSpec("P")
T = TypeVar("T")

QUICK_SECONDS = 0.005
"""A read that took longer has waited for a disk, or was large."""
_REST = 100
"""How many times as long as a slow read lasted there is none here: it gets a hundredth of the time.
"""


class NotQuickError(Exception):
    """The read was not made: it has to be made on a thread."""


class QuickReader:
    """A connection of the event loop's own, for reads whose cost is bounded by their answer.

    What is in memory is read in microseconds, and to hand that to a thread and back costs half of
    what an empty RPC does (docs/decisions/0020). What isn't holds everybody up, so after a slow
    read it rests. It never waits for a lock.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        """Open the file, on any thread. Raises as `connect`."""
        self._db: sqlite3.Connection | None = connect(path, read_only=True)
        self._db.execute("PRAGMA busy_timeout = 0")
        self._clock = clock
        self._rests_until = float("-inf")

    def run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Read now. Raises NotQuickError, StoreClosedError, sqlite3.Error."""
        if self._db is None:
            raise StoreClosedError("the store has been closed")
        begun = self._clock()
        if begun < self._rests_until:
            raise NotQuickError
        try:
            return work(self._db, *args, **kwargs)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise NotQuickError from error
            raise
        finally:
            ended = self._clock()
            if ended - begun > QUICK_SECONDS:
                self._rests_until = ended + _REST * (ended - begun)

    def forget_pages(self) -> None:
        """Drop the pages in memory."""
        if self._db is not None:
            forget_pages(self._db)

    def close(self) -> None:
        """Close, and read no more."""
        db, self._db = self._db, None
        if db is not None:
            db.close()
