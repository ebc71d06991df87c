"""Counting of what happens on every call, a little later and together.

Between two calls the processor forgets how a metric is counted, as it forgets how a log line is
made (logs.py): one by one, a call's metrics cost several times what they cost in a row.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from prometheus_client import Metric
from prometheus_client.registry import Collector

SOON_SECONDS = 0.02
"""How long counts may wait for each other. Whoever asks for the metrics gets all of them."""

MOST_WAITING = 2_000
"""As many are counted at once, however soon it is."""
Count = Callable[[float], None]

_waiting: deque[tuple[Count, float]] = deque()


def count_soon(count: Count, amount: float) -> None:
    """Call `count` with this amount within SOON_SECONDS. Only where an event loop runs."""
    _waiting.append((count, amount))
    waiting = len(_waiting)
    if waiting == 1:
        asyncio.get_running_loop().call_later(SOON_SECONDS, settle)
    elif waiting >= MOST_WAITING:
        settle()


def settle() -> None:
    """Count what waits, on any thread."""
    with suppress(IndexError):  # another thread may take the last one
        while True:
            count, amount = _waiting.popleft()
            count(amount)


class Settling(Collector):
    """Is collected before all that is counted, and adds nothing of its own."""

    def collect(self) -> Iterator[Metric]:
        """Count what waits."""
        settle()
        return iter(())
