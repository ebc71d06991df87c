"""Fairness between bulk writes and reads in one process.

On two cores a stream at full speed makes the slowest of 100 Lists take ten times as long as on an
idle server: its checks occupy the event loop, and its commits one core and the interpreter lock.
"""

import asyncio
import time

ROWS_PER_YIELD = 10
"""A stream checks for reads after this many rows, which take 0.1 ms."""
_LATELY_SECONDS = 0.01
_PAUSE_SECONDS = 0.002
"""The pause of a stream while reads run.

During continuous reads a stream then has a seventh of its speed, and the slowest of 100 Lists takes
two to three times as long as without a stream.
"""
_QUIET_SECONDS = 0.00005
"""An iteration of the event loop that takes longer has run other work, or waited for a thread."""
_QUIET_TURNS = 3
_MOST_TURNS = 20
_SLICES_A_LOOK = 5
"""After this many batches of rows a stream also yields to work other than reads.

An interval below the switch interval of threads (runtime/process_tuning.py) would starve the
writer.
"""


class ReadPriority:
    """Makes bulk streams yield to reads of the last 10 ms."""

    def __init__(self) -> None:
        self._read_at = float("-inf")

    def note_read(self) -> None:
        """Record the start of a read."""
        self._read_at = time.perf_counter()

    async def yield_to_reads(self, slices: int) -> None:
        """Wait until a stream may continue after its batch number `slices` of ROWS_PER_YIELD rows.

        Waits for 2 ms while reads run. Otherwise it waits after every fifth batch, for at most 20
        iterations of the event loop.
        """
        if time.perf_counter() - self._read_at < _LATELY_SECONDS:
            await asyncio.sleep(_PAUSE_SECONDS)
        elif slices % _SLICES_A_LOOK == 0:
            await _quiet()


async def _quiet() -> None:
    """Wait until three consecutive iterations of the event loop have run no other work.

    One iteration is not enough: a call takes several, and grpc's threads run between them.
    """
    quiet = 0
    began = time.perf_counter()
    for _ in range(_MOST_TURNS):
        await asyncio.sleep(0)
        ended = time.perf_counter()
        quiet = quiet + 1 if ended - began < _QUIET_SECONDS else 0
        if quiet == _QUIET_TURNS:
            return
        began = ended
