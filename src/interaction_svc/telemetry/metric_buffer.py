"""A buffer for the metrics of requests, which a server flushes every 20 ms.

Updating each metric inside a request costs several times as much, because grpc has evicted the code
of the metrics from the CPU caches.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

FLUSH_SECONDS = 0.02
"""The longest time that an amount is buffered.

A scrape of the process flushes the buffer first. A supervisor reads the metrics that its workers
have flushed, and may miss the last 20 ms.
"""
MAX_WAITING = 2_000
"""The buffer is flushed early when it has this many amounts."""

_Metric = Counter | Gauge | Histogram


class MetricBuffer:
    """Amounts to add to their metrics, flushed by a timer of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[_Metric, float]] = deque()

    def add(self, metric: _Metric, amount: float) -> None:
        """Add an amount within FLUSH_SECONDS."""
        self._waiting.append((metric, amount))
        waiting = len(self._waiting)
        if waiting == 1:
            self._loop.call_later(FLUSH_SECONDS, self.flush)
        elif waiting >= MAX_WAITING:
            self.flush()

    def flush(self) -> None:
        """Add all amounts now; may be called on any thread."""
        sums: dict[Any, float] = {}  # of counters and gauges
        while True:
            try:
                metric, amount = self._waiting.popleft()
            except IndexError:  # another thread may have taken the last one
                break
            if type(metric) is Histogram:  # isinstance takes 1 µs: it checks a typing.Protocol
                metric.observe(amount)
            else:
                sums[metric] = sums.get(metric, 0) + amount
        for added, amount in sums.items():
            added.inc(amount)


_buffers: dict[asyncio.AbstractEventLoop | None, MetricBuffer] = {}
"""The buffer of each event loop that runs a server."""


def observe(metric: _Metric, amount: float) -> None:
    """Add an amount to a counter or gauge, or have a histogram observe it.

    On the event loop of a server the amount goes through its buffer. Elsewhere it is added at once.
    """
    buffer = _buffers.get(asyncio._get_running_loop())
    if buffer is not None:
        buffer.add(metric, amount)
    elif isinstance(metric, Histogram):
        metric.observe(amount)
    else:
        metric.inc(amount)


@contextmanager
def buffered_metrics() -> Iterator[None]:
    """Context manager that buffers the metrics of the running event loop until its end."""
    loop = asyncio.get_running_loop()
    if loop in _buffers:  # of another server on this loop
        yield
        return
    buffer = _buffers[loop] = MetricBuffer(loop)
    try:
        yield
    finally:
        del _buffers[loop]
        buffer.flush()


class FlushOnCollect(Collector):
    """Flushes all buffers before the metrics are collected. It has no metrics of its own."""

    def collect(self) -> Iterator[Metric]:
        """Flush, and return nothing."""
        for buffer in tuple(_buffers.values()):
            buffer.flush()
        return iter(())
