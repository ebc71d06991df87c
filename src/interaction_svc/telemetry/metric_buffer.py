"""A buffer for the metrics of requests. A server flushes it every 20 ms.

Updating each metric inside a request costs several times as much, because grpc has evicted the code
of the metrics from the CPU caches.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

T = TypeVar("T")

FLUSH_SECONDS = 0.02
"""The longest time that an amount is buffered.

A scrape of the process flushes the buffer first. A supervisor reads the flushed metrics of its
workers, so it may miss the last 20 ms.
"""
MAX_WAITING = 2_000
"""The buffer is flushed early when it has this many amounts."""

_Sum = Counter | Gauge


class MetricBuffer:
    """Amounts that are not added to their metrics yet. A timer of one event loop adds them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._amounts: deque[tuple[_Sum, float]] = deque()
        self._values: deque[tuple[Histogram, float]] = deque()
        self._is_scheduled = False

    def add(self, metric: _Sum, amount: float) -> None:
        """Buffer an amount. It is added to the counter or gauge within FLUSH_SECONDS."""
        self._amounts.append((metric, amount))
        if not self._is_scheduled or len(self._amounts) >= MAX_WAITING:
            self._schedule()

    def observe(self, histogram: Histogram, value: float) -> None:
        """Buffer a value. The histogram observes it within FLUSH_SECONDS."""
        self._values.append((histogram, value))
        if not self._is_scheduled or len(self._values) >= MAX_WAITING:
            self._schedule()

    def flush(self) -> None:
        """Add all amounts now. May be called on any thread."""
        self._is_scheduled = False
        sums: dict[_Sum, float] = {}
        for metric, amount in _drained(self._amounts):
            sums[metric] = sums.get(metric, 0) + amount
        for metric, amount in sums.items():
            metric.inc(amount)
        for histogram, value in _drained(self._values):
            histogram.observe(value)

    def _schedule(self) -> None:
        if self._is_scheduled:  # the buffer is full
            self.flush()
        else:
            self._is_scheduled = True
            self._loop.call_later(FLUSH_SECONDS, self.flush)


def _drained(waiting: deque[T]) -> Iterator[T]:
    while True:
        try:
            yield waiting.popleft()
        except IndexError:  # another thread may have drained the deque
            return


class _Thread(threading.local):
    """The buffer of this thread, while its event loop runs a server."""

    buffer: MetricBuffer | None = None


_thread = _Thread()
_buffers: set[MetricBuffer] = set()
"""The buffers of all threads."""


def add(metric: _Sum, amount: float) -> None:
    """Add an amount to a counter or gauge.

    On the event loop of a server the amount goes through its buffer. Elsewhere it is added at once.
    """
    buffer = _thread.buffer
    if buffer is None:
        metric.inc(amount)
    else:
        buffer.add(metric, amount)


def observe(histogram: Histogram, value: float) -> None:
    """Add a value to a histogram, through the same buffer as `add`."""
    buffer = _thread.buffer
    if buffer is None:
        histogram.observe(value)
    else:
        buffer.observe(histogram, value)


@contextmanager
def buffered_metrics() -> Iterator[None]:
    """Context manager that buffers metrics on the running event loop, then flushes them."""
    if _thread.buffer is not None:  # another server on this event loop buffers already
        yield
        return
    buffer = _thread.buffer = MetricBuffer(asyncio.get_running_loop())
    _buffers.add(buffer)
    try:
        yield
    finally:
        _thread.buffer = None
        _buffers.remove(buffer)
        buffer.flush()


class FlushOnCollect(Collector):
    """A collector without metrics of its own that flushes all buffers before the others collect."""

    def collect(self) -> Iterator[Metric]:
        """Flush all buffers, and return no metrics."""
        for buffer in tuple(_buffers):
            buffer.flush()
        return iter(())
