"""Fairness between bulk writes and reads in one process.

On two cores, a stream at full speed makes the slowest of 100 Lists take ten times as long as on an
idle server. The validation of its rows occupies the event loop, and its commits occupy a core and
the interpreter lock. So a stream pauses in two places while reads run: between its rows, and
between the statements of its transaction. This module has the constants of both pauses; `make
overload` measures their effect.

A PostgreSQL store needs no pause between statements, because another process executes them.
"""

import asyncio
import time
from collections.abc import Callable

RECENT_READ_SECONDS = 0.01
"""This module considers reads as running if one began within this time."""

ROWS_PER_YIELD = 10
"""A stream checks for reads after this many rows, which take 0.1 ms."""
SWITCH_INTERVAL_SECONDS = 0.0001
"""The switch interval of threads in a serving process; 5 ms is Python's default.

It must not exceed the time that ROWS_PER_YIELD rows take. After these rows a stream releases the
interpreter lock, and a waiting thread restarts its interval. With a longer interval the writer's
thread would get the lock only by chance.
"""
_PAUSE_SECONDS = 0.002
"""The pause of a stream while reads run. During continuous reads a stream then has a seventh of its
speed, and the slowest of 100 Lists takes two to three times as long as without a stream."""
_YIELDS_PER_QUIET_WAIT = 5
"""After this many yields a stream also yields to work other than reads. Yielding more often than
every SWITCH_INTERVAL_SECONDS would starve the writer."""
_QUIET_SECONDS = 0.00005
"""If an iteration of the event loop takes longer, it ran other work or waited for a thread."""
_QUIET_ITERATIONS = 3
_MAX_ITERATIONS = 20

ROWS_PER_STATEMENT = 50
"""While reads run, a SQLite statement inserts at most this many rows; an equal pause follows it.

Otherwise a batch occupies one of two cores for 30 ms, and the slowest of 100 Lists takes 2.6 times
as long as on an idle server; with the pauses it takes 2.2 times as long. They slow no stream,
because a stream pauses longer between its batches.
"""
MAX_STATEMENT_PAUSE_SECONDS = 0.005
"""The longest pause after a statement. Longer pauses would gain nothing: a longer statement waits
for the disk, which leaves the cores free. Besides, the write lock is held during a pause."""


class ReadPriority:
    """Records when reads start, so that streams and stores can pause while reads run."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._read_at = float("-inf")

    def note_read(self) -> None:
        """Note that a read starts."""
        self._read_at = self._clock()

    def has_recent_read(self) -> bool:
        """Return whether a read started in the last 10 ms. May be called on any thread."""
        return self._clock() - self._read_at < RECENT_READ_SECONDS

    async def yield_to_reads(self, yields: int) -> None:
        """Wait until a stream may continue. `yields` is the number of its yields so far.

        While reads run, wait for the pause. Otherwise every _YIELDS_PER_QUIET_WAIT-th yield waits
        for at most _MAX_ITERATIONS iterations of the event loop.
        """
        if self.has_recent_read():
            await asyncio.sleep(_PAUSE_SECONDS)
        elif yields % _YIELDS_PER_QUIET_WAIT == 0:
            await _wait_until_quiet()


async def _wait_until_quiet() -> None:
    """Wait for _QUIET_ITERATIONS consecutive iterations of the event loop without other work.

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
