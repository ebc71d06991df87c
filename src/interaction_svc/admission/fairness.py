"""Fairness between bulk writes and reads in one process.

On two cores a stream at full speed makes the slowest of 100 Lists take ten times as long as on an
idle server: its checks hold the event loop, and its commits a core and the interpreter.
"""

import asyncio
import time

ROWS_PER_YIELD = 10
"""After so many rows, for a tenth of a millisecond, a stream looks whether others want to read."""
_LATELY_SECONDS = 0.01
_PAUSE_SECONDS = 0.002
"""How long it then leaves everything to them: a stream has a seventh of its speed beside reads that
follow each other, and the slowest of 100 Lists two to three times its time. Half the pause, half as
much again of both."""
_QUIET_SECONDS = 0.00005
"""A turn of the loop that takes longer had others' work in it, or another thread's."""
_QUIET_TURNS = 3
_MOST_TURNS = 20
_SLICES_A_LOOK = 5
"""After so many slices it lets others go first that don't read. To let go after less than threads
wait for the interpreter (server.py) would starve the writer's."""


class ReadPriority:
    """What those who read tell those who stream."""

    def __init__(self) -> None:
        self._read_at = float("-inf")

    def note_read(self) -> None:
        """Take note of a read that begins."""
        self._read_at = time.perf_counter()

    async def yield_to_reads(self, slices: int) -> None:
        """Return when a stream may go on, which has had so many slices.

        At the latest that is after the pause, or after some turns of the loop: others' calls can't
        hold it up for ever.
        """
        if time.perf_counter() - self._read_at < _LATELY_SECONDS:
            await asyncio.sleep(_PAUSE_SECONDS)
        elif slices % _SLICES_A_LOOK == 0:
            await _quiet()


async def _quiet() -> None:
    """Return when the loop has turned a few times in a row without others' work, or soon after.

    One turn is not enough: a call takes several, and between them grpc's own threads have it.
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
