"""What waits to be written: bounded, and taken in parts that fit into one commit."""

import asyncio
from collections import Counter, deque
from typing import Any, Generic, Protocol, TypeVar

from interaction_svc.store.errors import StoreBusyError
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.metric_buffer import observe

MIB = 1024 * 1024
MAX_WAITING_ROWS = 10_000
"""Beyond this many rows in the queue, operations are refused."""
MAX_WAITING_BYTES = 64 * MIB
"""The same in bytes of what is to be written, so that the queue's memory is bounded."""
MAX_ROWS_A_COMMIT = 4_000
"""So that nobody waits longer than for a commit of this size and their own."""
MAX_ROWS_OF_AN_ACCOUNT = 1_000
"""How many rows of a commit are one account's, of several operations: a flush costs less than more
of them, for which others would have to wait."""
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
    def account(self) -> str:
        """Whose rows they are; empty: nobody's, such as keys, or not known."""

    @property
    def done(self) -> "asyncio.Future[Any]":
        """What its caller waits for; cancelled if nobody does any more."""


W = TypeVar("W", bound=Writing)


class WriteQueue(Generic[W]):
    """Operations, of each account in the order in which they came.

    Accounts take turns, and none may have more than half of what may wait: so that one that floods
    neither fills the queue nor has others wait for all that it has sent.
    """

    def __init__(
        self,
        *,
        max_waiting_rows: int = MAX_WAITING_ROWS,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._max_waiting_rows = max_waiting_rows
        self._max_waiting_bytes = max_waiting_bytes
        self._queues: dict[str, deque[W]] = {}  # the account whose turn is next comes first
        self._waiting: Counter[str] = Counter()  # rows, by account
        self._waiting_sizes: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._queues)

    def put(self, operation: W) -> None:
        """Put an operation at the end of its account's.

        Raises StoreBusyError. An empty queue takes any.
        """
        account = operation.account
        rows, size = self._waiting.total(), self._waiting_sizes.total()
        self._check(operation, rows, size, 1, is_empty=not self._queues)
        if account:
            rows, size = self._waiting[account], self._waiting_sizes[account]
            self._check(operation, rows, size, 2, is_empty=account not in self._queues)
        self._queues.setdefault(account, deque()).append(operation)
        self._count(account, operation.rows, operation.size)

    def _check(self, operation: W, rows: int, size: int, part: int, *, is_empty: bool) -> None:
        if not is_empty and (
            part * (rows + operation.rows) > self._max_waiting_rows
            or part * (size + operation.size) > self._max_waiting_bytes
        ):
            raise StoreBusyError(f"{rows} rows of {size} bytes wait to be written")

    def take(self) -> list[W]:
        """Take what goes into one commit, but for what nobody waits for any more."""
        taken: list[W] = []
        rows = size = 0
        of_account: Counter[str] = Counter()
        turns = deque(self._queues)
        while turns:
            account = turns.popleft()
            queue = self._queues[account]
            operation = queue[0]
            its_rows = of_account[account]
            if its_rows and its_rows + operation.rows > MAX_ROWS_OF_AN_ACCOUNT:
                continue
            if taken and (
                rows + operation.rows > MAX_ROWS_A_COMMIT
                or size + operation.size > MAX_BYTES_A_COMMIT
            ):
                break
            queue.popleft()
            del self._queues[account]
            if queue:
                self._queues[account] = queue  # behind the others
                turns.append(account)
            self._count(account, -operation.rows, -operation.size)
            if not operation.done.cancelled():
                taken.append(operation)
                of_account[account] += operation.rows
                rows += operation.rows
                size += operation.size
        return taken

    def _count(self, account: str, rows: int, size: int) -> None:
        self._waiting[account] += rows
        self._waiting_sizes[account] += size
        if account not in self._queues:
            del self._waiting[account], self._waiting_sizes[account]
        observe(metrics.waiting_rows, rows)
        observe(metrics.waiting_bytes, size)
