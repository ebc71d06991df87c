"""Batching: queued Gets share one statement, and queued records share one transaction.

With distributed tables a shared statement or transaction would span many shards. In that case each
Get is a separate statement, and only records of one Session share a transaction.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from interaction_svc.store.errors import StoreError
from interaction_svc.store.postgres import reads, writes
from interaction_svc.store.postgres.citus.sharded_statements import SHARDED
from interaction_svc.store.postgres.errors import closed, is_fault_of_one
from interaction_svc.store.postgres.pool import Pool
from interaction_svc.store.recorded import Recorded
from interaction_svc.store.rows import Row
from interaction_svc.store.write_queue import WriteQueue
from interaction_svc.telemetry import metrics

GET_LANES = 2
"""The maximum number of concurrent Get statements. Gets that arrive meanwhile share the next."""
MAX_SHARED_GETS = 128
"""The maximum number of Gets in one statement."""
RECORD_LANES = 2
"""The maximum number of concurrent record transactions."""
SESSIONS_AT_ONCE = 6
"""The maximum number of concurrent record transactions if the tables are distributed.

It is less than the number of connections, so that reads can use the rest.
"""

T = TypeVar("T")


class _Lanes:
    """A limited number of tasks that process a queue. Each task ends when the queue is empty."""

    def __init__(self, run: Callable[[], Awaitable[None]], has_more: Callable[[], bool]) -> None:
        self._run = run
        self._has_more = has_more
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, most: int) -> None:
        """Start one more task, unless `most` are running."""
        if self._running < most:
            self._running += 1
            task = asyncio.create_task(self._go_on())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _go_on(self) -> None:
        try:
            while self._has_more():
                await self._run()
        finally:
            # Decremented here, because a done callback runs later: an item queued before it would
            # start no task, and no running task would take the item.
            self._running -= 1

    async def end(self) -> None:
        """Wait until all tasks have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)


class _Get(NamedTuple):
    wanted: reads.Wanted
    done: "asyncio.Future[bytes | None]"


class GetBatcher:
    """Runs the Gets that are queued at the same time as one statement."""

    def __init__(self, pool: Pool) -> None:
        self.is_distributed = False
        """True if the tables are distributed. Then each Get is a separate statement."""
        self._pool = pool
        self._waiting: list[_Get] = []
        self._lanes = _Lanes(self._run, lambda: bool(self._waiting))
        self._closed = False

    async def get(self, wanted: reads.Wanted) -> bytes | None:
        """See Store.get."""
        if self._closed:
            raise closed()
        if self.is_distributed:
            return await self._pool.run(partial(reads.get, wanted=wanted))
        done: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Get(wanted, done))
        self._lanes.start(GET_LANES)
        return await done

    async def close(self) -> None:
        """Refuse new calls, and wait for those in progress."""
        self._closed = True
        await self._lanes.end()

    async def _run(self) -> None:
        taken = self._waiting[:MAX_SHARED_GETS]
        del self._waiting[:MAX_SHARED_GETS]
        gets = [get for get in taken if not get.done.done()]
        if gets:
            await self._ask(gets)

    async def _ask(self, gets: Sequence[_Get]) -> None:
        found: Sequence[Any]
        try:
            if len(gets) == 1:
                found = [await self._pool.run_in_task(partial(reads.get, wanted=gets[0].wanted))]
            else:
                wanted = [get.wanted for get in gets]
                found = await self._pool.run_in_task(partial(reads.get_each, wanted=wanted))
        except Exception as error:  # every waiting caller gets it
            found = [error] * len(gets)
        for get, frame in zip(gets, found, strict=True):
            _answer(get.done, frame)


class _Record(NamedTuple):
    work: Sequence[Row]
    size: int
    done: "asyncio.Future[list[Recorded]]"

    @property
    def rows(self) -> int:
        return len(self.work)

    @property
    def account(self) -> str:
        return self.work[0].account_sid if self.work else ""


class RecordBatcher:
    """Commits the records that are queued at the same time as one transaction.

    A commit of any size costs one flush of the server's disk and several round trips.
    """

    def __init__(self, pool: Pool) -> None:
        self.is_distributed = False
        """True if the tables are distributed. Then only rows of one Session share a commit."""
        self._pool = pool
        self._at_once = asyncio.Semaphore(SESSIONS_AT_ONCE)
        self._queue: WriteQueue[_Record] = WriteQueue()
        self._lanes = _Lanes(self._run, lambda: bool(self._queue))
        self._closed = False

    async def record(self, rows: Sequence[Row]) -> list[Recorded]:
        """See Store.record.

        If the caller is cancelled while its rows are queued, they are not recorded. If it is
        cancelled later, they are still recorded.
        """
        if self._closed:
            raise closed()
        done: asyncio.Future[list[Recorded]] = asyncio.get_running_loop().create_future()
        self._queue.put(_Record(rows, sum(len(row.frame) for row in rows), done))
        self._lanes.start(RECORD_LANES)
        return await done

    async def close(self) -> None:
        """Refuse new records, and wait until all accepted ones are written."""
        self._closed = True
        await self._lanes.end()

    async def _run(self) -> None:
        taken = self._queue.take()
        if self.is_distributed:
            await asyncio.gather(*map(self._commit_in_turn, _group_by_session(taken)))
        elif taken:
            await self._commit(taken)

    async def _commit_in_turn(self, records: Sequence[_Record]) -> None:
        async with self._at_once:
            await self._commit(records)

    async def _commit(self, records: Sequence[_Record]) -> None:
        try:
            results: list[Any] = await self._record(records)
        except Exception as error:  # every waiting caller gets it
            if len(records) > 1 and isinstance(error, StoreError) and is_fault_of_one(error):
                for record in records:
                    await self._commit([record])
                return
            results = [error] * len(records)
        else:
            metrics.commit_operations.observe(len(records))
            metrics.commit_rows.observe(sum(record.rows for record in records))
        for record, result in zip(records, results, strict=True):
            _answer(record.done, result)

    async def _record(self, records: Sequence[_Record]) -> list[list[Recorded]]:
        works = [record.work for record in records]
        statements = SHARDED if self.is_distributed else writes.UNSHARDED
        return await self._pool.run_in_task(
            partial(writes.record_together, works=works, statements=statements)
        )


def _group_by_session(records: Sequence[_Record]) -> list[list[_Record]]:
    """Group the records by Session. A record of several Sessions is its own group.

    A record is never split, because all of its rows are one transaction.
    """
    groups: dict[object, list[_Record]] = {}
    for n, record in enumerate(records):
        sessions = {row.session_sid for row in record.work}
        groups.setdefault(sessions.pop() if len(sessions) == 1 else n, []).append(record)
    return list(groups.values())


def _answer(done: "asyncio.Future[T]", result: T | Exception) -> None:
    if done.done():
        return
    if isinstance(result, Exception):
        done.set_exception(result)
    else:
        done.set_result(result)
