"""Counting of what happens on every call, a little later and together.

Between two calls the processor forgets how a metric is counted, as it forgets how a log line is
made (logs.py): one by one, a call's metrics cost several times what they cost in a row.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

SOON_SECONDS = 0.02
"""How long counts may wait for each other.

Whoever asks a process for its metrics gets all of them; a group of workers reads what they have
written down, and may miss the last ones.
"""

MOST_WAITING = 2_000
"""As many are counted at once, however soon it is."""

_waiting: deque[tuple[Counter | Gauge | Histogram, float]] = deque()


def count_soon(metric: Counter | Gauge | Histogram, amount: float) -> None:
    """Add this amount, or have a histogram observe it, within SOON_SECONDS.

    Only where an event loop runs.
    """
    _waiting.append((metric, amount))
    waiting = len(_waiting)
    if waiting == 1:
        asyncio.get_running_loop().call_later(SOON_SECONDS, settle)
    elif waiting >= MOST_WAITING:
        settle()


def settle() -> None:
    """Count what waits, on any thread. What is added to the same metric is added at once."""
    sums: dict[Any, float] = {}  # of counters and gauges
    while True:
        try:
            metric, amount = _waiting.popleft()
        except IndexError:  # another thread may have taken the last one
            break
        if type(metric) is Histogram:  # isinstance goes through typing.Protocol here: 1 µs
            metric.observe(amount)
        else:
            sums[metric] = sums.get(metric, 0) + amount
    for added, amount in sums.items():
        added.inc(amount)


class FlushOnCollect(Collector):
    """Is collected before all that is counted, and adds nothing of its own."""

    def collect(self) -> Iterator[Metric]:
        """Count what waits."""
        settle()
        return iter(())
