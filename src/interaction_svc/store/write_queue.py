"""A bounded queue of write operations, taken in batches for one commit."""

import asyncio
from collections import Counter, deque
from typing import Any, Generic, Protocol, TypeVar

from interaction_svc.domain.units import MIB
from interaction_svc.store.errors import StoreBusyError
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.metric_buffer import add

MAX_WAITING_ROWS = 10_000
"""The maximum number of rows in the queue. Further operations are refused."""
MAX_WAITING_BYTES = 64 * MIB
"""The maximum number of bytes in the queue, which bounds its memory."""
MAX_ROWS_PER_COMMIT = 4_000
"""The maximum number of rows in a commit. It bounds the duration of a commit."""
MAX_ROWS_PER_ACCOUNT = 1_000
"""The maximum number of rows of one account in a commit of several operations.

More rows would delay other accounts by more than the cost of a separate commit.
"""
MAX_BYTES_PER_COMMIT = 16 * MIB
"""The maximum number of bytes in a commit."""


class WriteOperation(Protocol):
    """An operation in the queue."""

    @property
    def rows(self) -> int:
        """Number of rows that it writes."""

    @property
    def size(self) -> int:
        """Their size in bytes."""

    @property
    def account(self) -> str:
        """SID of the account whose rows it writes; empty if it has none, as for API keys."""

    @property
    def done(self) -> "asyncio.Future[Any]":
        """The future that its caller awaits. If the caller is cancelled, the future is too."""


W = TypeVar("W", bound=WriteOperation)


class WriteQueue(Generic[W]):
    """Operations waiting for a commit, in order of arrival within each account.

    Accounts take turns, and each account may use half of the limits. So one account can't fill the
    queue, and the others need not wait for all of its operations.
    """

    def __init__(
        self,
        *,
        max_waiting_rows: int = MAX_WAITING_ROWS,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._max_waiting_rows = max_waiting_rows
        self._max_waiting_bytes = max_waiting_bytes
        self._queues: dict[str, deque[W]] = {}  # in the order of turns
        self._waiting: Counter[str] = Counter()  # rows by account
        self._waiting_sizes: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._queues)

    def put(self, operation: W) -> None:
        """Append an operation to its account's queue.

        Raises StoreBusyError if a limit is exceeded. An empty queue accepts any operation.
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
        """Remove and return the operations of the next commit. Drops cancelled operations."""
        taken: list[W] = []
        rows = size = 0
        rows_by_account: Counter[str] = Counter()
        turns = deque(self._queues)
        while turns:
            account = turns.popleft()
            queue = self._queues[account]
            operation = queue[0]
            account_rows = rows_by_account[account]
            if account_rows and account_rows + operation.rows > MAX_ROWS_PER_ACCOUNT:
                continue
            if taken and (
                rows + operation.rows > MAX_ROWS_PER_COMMIT
                or size + operation.size > MAX_BYTES_PER_COMMIT
            ):
                break
            queue.popleft()
            del self._queues[account]
            if queue:
                self._queues[account] = queue  # after the other accounts
                turns.append(account)
            self._count(account, -operation.rows, -operation.size)
            if not operation.done.cancelled():
                taken.append(operation)
                rows_by_account[account] += operation.rows
                rows += operation.rows
                size += operation.size
        return taken

    def _count(self, account: str, rows: int, size: int) -> None:
        self._waiting[account] += rows
        self._waiting_sizes[account] += size
        if account not in self._queues:
            del self._waiting[account], self._waiting_sizes[account]
        add(metrics.waiting_rows, rows)
        add(metrics.waiting_bytes, size)
