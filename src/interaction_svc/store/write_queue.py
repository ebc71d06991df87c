"""What waits to be written: bounded, and taken in parts that fit into one commit."""

import asyncio
from collections import deque
from typing import Any, Generic, Protocol, TypeVar

from interaction_svc import metrics
from interaction_svc.counting import count_soon
from interaction_svc.store.errors import StoreBusyError

MIB = 1024 * 1024
MAX_WAITING_ROWS = 10_000
"""Beyond this many rows in the queue, operations are refused."""
MAX_WAITING_BYTES = 64 * MIB
"""The same in bytes of what is to be written, so that the queue's memory is bounded."""
MAX_ROWS_A_COMMIT = 4_000
"""So that nobody waits longer than for a commit of this size and their own."""
MAX_BYTES_A_COMMIT = 16 * MIB
"""The same in bytes."""


class Writing(Protocol):
    """Something to be written: how many rows, how many bytes, and who waits for it."""

    @property
    def rows(self) -> int:
        """How many rows it writes."""

    @property
    def size(self) -> int:
        """Their size in bytes."""

    @property
    def done(self) -> "asyncio.Future[Any]":
        """What its caller waits for; cancelled if nobody does any more."""


W = TypeVar("W", bound=Writing)


class WriteQueue(Generic[W]):
    """Operations in the order in which they came."""

    def __init__(
        self,
        *,
        max_waiting_rows: int = MAX_WAITING_ROWS,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._max_waiting_rows = max_waiting_rows
        self._max_waiting_bytes = max_waiting_bytes
        self._queue: deque[W] = deque()
        self._waiting_rows = 0
        self._waiting_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(self, operation: W) -> None:
        """Put an operation at the end. Raises StoreBusyError; an empty queue takes any."""
        if self._queue and (
            self._waiting_rows + operation.rows > self._max_waiting_rows
            or self._waiting_bytes + operation.size > self._max_waiting_bytes
        ):
            raise StoreBusyError(
                f"{self._waiting_rows} rows of {self._waiting_bytes} bytes wait to be written"
            )
        self._queue.append(operation)
        self._count(operation.rows, operation.size)

    def take(self) -> list[W]:
        """Take what goes into one commit, but for what nobody waits for any more."""
        taken: list[W] = []
        rows = size = 0
        while self._queue and (
            not taken
            or (
                rows + self._queue[0].rows <= MAX_ROWS_A_COMMIT
                and size + self._queue[0].size <= MAX_BYTES_A_COMMIT
            )
        ):
            operation = self._queue.popleft()
            self._count(-operation.rows, -operation.size)
            if not operation.done.cancelled():
                taken.append(operation)
                rows += operation.rows
                size += operation.size
        return taken

    def _count(self, rows: int, size: int) -> None:
        self._waiting_rows += rows
        self._waiting_bytes += size
        count_soon(metrics.waiting_rows, rows)
        count_soon(metrics.waiting_bytes, size)
