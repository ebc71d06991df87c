"""Fairness between bulk writes and reads in one process.

On two cores a stream at full speed makes the slowest of 100 Lists take ten times as long as on an
idle server. Its checks hold the event loop, and its commits a core and the interpreter lock. While
reads run, a stream therefore pauses in two places: between its rows, and between the statements of
its transaction. All constants of both are here; `make overload` measures what they give.

A PostgreSQL store needs no pause between statements, because another process executes them.
"""

import asyncio
import time
from collections.abc import Callable

RECENT_READ_SECONDS = 0.01
"""Reads run, in the sense of this module, if one began within this time."""

ROWS_PER_YIELD = 10
"""A stream checks for reads after this many rows, which take 0.1 ms."""
SWITCH_INTERVAL_SECONDS = 0.0001
"""The switch interval of threads in a serving process; 5 ms is Python's default.

It must not exceed the time of ROWS_PER_YIELD rows. A stream releases the interpreter lock after
them, and a waiting thread starts its interval anew. With a longer interval the writer's thread
would get the lock by chance only.
"""
_PAUSE_SECONDS = 0.002
"""The pause of a stream while reads run. Beside continuous reads a stream then has a seventh of its
speed, and the slowest of 100 Lists takes two to three times as long as without a stream."""
_YIELDS_PER_QUIET_WAIT = 5
"""After this many yields a stream also yields to work other than reads. A shorter interval than
SWITCH_INTERVAL_SECONDS would starve the writer."""
_QUIET_SECONDS = 0.00005
"""An iteration of the event loop that takes longer ran other work, or waited for a thread."""
_QUIET_ITERATIONS = 3
_MAX_ITERATIONS = 20

ROWS_PER_STATEMENT = 50
"""While reads run, a SQLite statement inserts at most this many rows, and then pauses for as long.

Otherwise a batch occupies one of two cores for 30 ms, and the slowest of 100 Lists takes 2.6 times
as long as on an idle server; with the pauses 2.2 times. They slow no stream, which pauses longer
between its batches.
"""
MAX_STATEMENT_PAUSE_SECONDS = 0.005
"""The longest pause after a statement. A longer statement waits for the disk, which leaves the
cores free, and a pause holds the write lock."""


class ReadPriority:
    """Tells bulk writes whether reads run: the application notes each, streams and stores ask."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._read_at = float("-inf")

    def note_read(self) -> None:
        """Note that a read starts."""
        self._read_at = self._clock()

    def has_recent_read(self) -> bool:
        """Return whether a read started in the last 10 ms. Callable on any thread."""
        return self._clock() - self._read_at < RECENT_READ_SECONDS

    async def yield_to_reads(self, yields: int) -> None:
        """Return when a stream may continue, which yields for the `yields`-th time.

        A yield waits for the pause, or for at most _MAX_ITERATIONS iterations of the event loop.
        """
        if self.has_recent_read():
            await asyncio.sleep(_PAUSE_SECONDS)
        elif yields % _YIELDS_PER_QUIET_WAIT == 0:
            await _wait_until_quiet()


async def _wait_until_quiet() -> None:
    """Return after a few iterations of the event loop in a row without other work.

    One iteration is not enough: a call takes several, and grpc's threads run between them.
    """
    quiet = 0
    began = time.perf_counter()
    for _ in range(_MAX_ITERATIONS):
        await asyncio.sleep(0)
        ended = time.perf_counter()
        quiet = quiet + 1 if ended - began < _QUIET_SECONDS else 0
        if quiet == _QUIET_ITERATIONS:
            return
        began = ended
