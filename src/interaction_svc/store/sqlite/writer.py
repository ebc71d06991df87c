"""The writer, which commits waiting operations together.

Each commit flushes the disk once, whatever its size. Operations that arrive during a commit wait in
a queue, and share the next commit.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from interaction_svc.store.errors import StoreClosedError, StoreError
from interaction_svc.store.sqlite.connection import Connection
from interaction_svc.store.sqlite.errors import is_busy, translated
from interaction_svc.store.sqlite.transactions import transaction
from interaction_svc.store.sqlite.writes import UpsertBatch, record_batches
from interaction_svc.store.write_queue import MAX_WAITING_BYTES, MAX_WAITING_ROWS, WriteQueue
from interaction_svc.telemetry import metrics

LOCK_RELEASE_SHARE = 0.02
"""After a commit the write lock stays free for this share of the time that it was held.

Other processes try to take the lock every 0.5 ms. Without a pause it is free for less than 1 ms
between two commits. If commits are short, they still get the lock within their timeout. If commits
take 1 s on a slow disk, they don't (measured). After a short commit the pause costs nothing,
because it ends before the next commit begins.
"""

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class _Operation(NamedTuple):
    work: Work[object]
    rows: int
    size: int
    erased: Callable[[object], bool] | None
    done: asyncio.Future[object]

    @property
    def account(self) -> str:
        if isinstance(self.work, UpsertBatch) and self.work.rows:
            return self.work.rows[0].account_sid
        return ""


class Writer:
    """Executes operations on the write connection. Each is atomic; several share a commit."""

    def __init__(
        self,
        connection: Connection,
        *,
        max_waiting_rows: int = MAX_WAITING_ROWS,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        check: Callable[[], None] = lambda: None,
        hold_wal: Callable[[], None] = lambda: None,
        note_rows: Callable[[sqlite3.Connection, int], None] = lambda *_: None,
        on_rows: Callable[[], None] = lambda: None,
        on_erased: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the writer.

        `check` runs on the connection's thread before and after each commit. If it raises before a
        commit, nothing is written. If it raises after a commit, the commit may be lost, and its
        callers get the error.

        For a commit that writes rows, `hold_wal` runs before it and `note_rows` after it, both on
        the connection's thread. Then `on_rows` runs on the event loop. `on_erased` runs on the
        event loop after a commit in which an operation erased stored content.
        """
        self._connection = connection
        self._check = check
        self._hold_wal = hold_wal
        self._note_rows = note_rows
        self._on_rows = on_rows
        self._on_erased = on_erased
        self._queue: WriteQueue[_Operation] = WriteQueue(
            max_waiting_rows=max_waiting_rows, max_waiting_bytes=max_waiting_bytes
        )
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._lock_free_until = 0.0

    async def submit(
        self,
        work: Work[T],
        rows: int,
        size: int = 0,
        *,
        erased: Callable[[T], bool] | None = None,
    ) -> T:
        """Execute an operation, and return its result once it is on disk.

        `rows` and `size`, in bytes, count against the limits of the queue. `erased` is called with
        the result, and returns whether the operation erased stored content. If the caller is
        cancelled, a queued operation is dropped, and a running one is completed. Raises
        StoreBusyError, StoreFullError, StoreClosedError, StoreUnavailableError.
        """
        if self._closed:
            raise StoreClosedError("the store has been closed")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Operation(work, rows, size, erased, done))  # type: ignore[arg-type]
        if self._task is None:
            self._task = asyncio.create_task(self._write())
        return await done

    async def close(self) -> None:
        """Refuse new operations, and wait until all accepted ones are written."""
        self._closed = True
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _write(self) -> None:
        try:
            while self._queue:
                await self._commit(self._queue.take())
        finally:
            self._task = None

    async def _commit(self, operations: list[_Operation]) -> None:
        if not operations:  # all were cancelled
            return
        try:
            results = await self._connection.run(self._run, operations)
        except Exception as error:  # pass the error to every waiting caller
            results = [error] * len(operations)
        self._report(operations, results)
        for operation, result in zip(operations, results, strict=True):
            if operation.done.done():
                continue
            if isinstance(result, Exception):
                operation.done.set_exception(result)
            else:
                operation.done.set_result(result)

    def _run(self, db: sqlite3.Connection, operations: list[_Operation]) -> list[object]:
        begun = time.monotonic()
        if begun < self._lock_free_until:
            time.sleep(self._lock_free_until - begun)
        self._check()
        results = self._run_together(db, operations)
        self._check()  # the file may have been removed since the first check
        rows = sum(operation.rows for operation in operations)
        if rows:
            self._note_rows(db, rows)
        if not all(isinstance(result, Exception) for result in results):  # something was committed
            ended = time.monotonic()
            self._lock_free_until = ended + LOCK_RELEASE_SHARE * (ended - begun)
        return results

    def _run_together(self, db: sqlite3.Connection, operations: list[_Operation]) -> list[object]:
        """Execute all operations in one transaction. If one fails, execute each in its own."""
        try:
            return self._run_in_transaction(db, operations)
        except Exception as error:
            # Separate transactions would not help while another process holds the lock.
            if len(operations) == 1 or is_busy(error):
                return [self._as_store_error(error)] * len(operations)
        results: list[object] = []
        for operation in operations:
            try:
                results += self._run_in_transaction(db, [operation])
            except Exception as error:
                results.append(self._as_store_error(error))
        return results

    def _run_in_transaction(
        self, db: sqlite3.Connection, operations: list[_Operation]
    ) -> list[object]:
        results: list[object] = []
        with transaction(db):
            for kind, group in groupby((operation.work for operation in operations), type):
                works: list[Any] = list(group)
                if kind is UpsertBatch:
                    results += record_batches(db, works)
                else:
                    results += [work(db) for work in works]
            if _some_rows(operations):
                self._hold_wal()
        return results

    def _as_store_error(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        try:
            self._check()  # if a file is lost, SQLite raises various errors
        except StoreError as loss:
            return loss
        return translated(error, self._connection.path)

    def _report(self, operations: list[_Operation], results: list[object]) -> None:
        """Run the callbacks and count the commit, even if its callers no longer wait."""
        if _some_erased(operations, results):
            self._on_erased()
        committed = [
            operation
            for operation, result in zip(operations, results, strict=True)
            if not isinstance(result, Exception)
        ]
        rows = sum(operation.rows for operation in committed)
        if rows:
            self._on_rows()
            metrics.commit_operations.observe(len(committed))
            metrics.commit_rows.observe(rows)


def _some_rows(operations: list[_Operation]) -> bool:
    return any(operation.rows for operation in operations)


def _some_erased(operations: list[_Operation], results: list[object]) -> bool:
    return any(
        operation.erased is not None and operation.erased(result)
        for operation, result in zip(operations, results, strict=True)
        if not isinstance(result, Exception)
    )
