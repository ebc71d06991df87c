"""A connection pool that all calls share.

asyncpg's own pool resets each connection at its release, which costs each call a further round
trip. It has also lost the connections of cancelled callers (asyncpg #464, #467, #547). This pool
never cancels a call of asyncpg. A task of the pool runs the work to its end, even if its caller is
cancelled. The work does end, because each round trip has a time limit.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from interaction_svc.store.errors import StoreUnavailableError
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.errors import (
    FAILURES,
    closed,
    invalidates_pool,
    is_cancelled,
    is_conflict,
    is_connection_limit,
    is_loss,
    translated,
)

ATTEMPTS = 3
"""The maximum number of attempts."""
_CONFLICT_SECONDS = 0.02
"""The longest pause before the second attempt after a conflict. It grows with each attempt."""

_FULL_HOUSE_SECONDS = 1.0
"""The time without connection attempts after the server has refused one at its limit."""

T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]


class Pool:
    """A pool of at most `size` connections.

    Connections are opened on demand. The most recently used connection is used first.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], *, size: int, wait_seconds: float
    ) -> None:
        """Create a pool that opens connections with `connect`.

        A call waits at most `wait_seconds` for a free connection.
        """
        self._connect = connect
        self._size = size
        self._wait_seconds = wait_seconds
        self._idle: list[Connection] = []
        self._open = 0
        # The waiting callers, in order of arrival. It is a dict, so that a cancelled caller can
        # remove its entry.
        self._waiting: dict[asyncio.Future[Connection | None], None] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._stale: set[Connection] = set()
        self._in_use: set[Connection] = set()
        self._full_until = 0.0
        self._closed = False

    async def run(self, work: Work[T], *, repeatable: bool = True) -> T:
        """Run work on a connection. It runs to its end even if the caller is cancelled.

        Work is retried after a conflict with another transaction. `repeatable` work is also retried
        after a lost connection or a cancelled statement. Work that still waits for a connection is
        dropped when its caller is cancelled. Raises StoreError.
        """
        if self._closed:
            raise closed()
        begun = asyncio.Event()
        task = asyncio.create_task(self._run(work, repeatable=repeatable, begun=begun))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not begun.is_set():
                task.cancel()  # it is still waiting for a connection
            raise

    async def run_in_task(self, work: Work[T]) -> T:
        """Run repeatable work in the current task.

        The caller ensures that the task is not cancelled, and that it ends before `close`.
        """
        if self._closed:
            raise closed()
        return await self._run(work, repeatable=True, begun=asyncio.Event())

    def _ended(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # mark as retrieved: the caller may be gone

    async def _run(self, work: Work[T], *, repeatable: bool, begun: asyncio.Event) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                connection = await self._acquired(begun)
            except FAILURES as error:
                raise translated(error) from error
            since = self._now()
            try:
                return await work(connection)
            except FAILURES as error:
                if invalidates_pool(error):
                    self.expire()
                elif is_loss(error):
                    self._end_idle()  # the others may be dead too
                # Only an operator cancels a statement before the server's own timeout.
                cancelled = is_cancelled(error) and self._now() - since < self._wait_seconds
                again = is_conflict(error) or (repeatable and (is_loss(error) or cancelled))
                if attempt == ATTEMPTS or not again:
                    raise translated(error) from error
                met_another = is_conflict(error)
            finally:
                self._release(connection)
            if met_another:
                await asyncio.sleep(attempt * _CONFLICT_SECONDS * random.random())  # noqa: S311
        raise AssertionError("the last attempt returns or raises")

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _acquired(self, begun: asyncio.Event) -> Connection:
        connection = self._idle_one()
        if connection is None:
            if self._open < self._size and not self._is_full_house():
                self._open += 1
            else:
                connection = await self._turn()
        begun.set()
        while connection is None:
            try:
                connection = await self._connect()
            except BaseException as error:
                if not (
                    isinstance(error, FAILURES) and is_connection_limit(error) and self._in_use
                ):
                    self._pass_on_place()
                    raise
                self._open -= 1
                self._full_until = self._now() + _FULL_HOUSE_SECONDS
                connection = self._idle_one() or await self._turn()
        self._in_use.add(connection)
        return connection

    def _idle_one(self) -> Connection | None:
        while self._idle:
            found = self._idle.pop()
            if not found.is_closed:
                return found
            self._open -= 1
        return None

    def _is_full_house(self) -> bool:
        """Return whether the server is at its limit, and a connection in use can be awaited."""
        return bool(self._in_use) and self._now() < self._full_until

    async def _turn(self) -> Connection | None:
        """Wait for a released connection. None is the permission to open a new one."""
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await turn
        except BaseException as error:
            self._waiting.pop(turn, None)
            if turn.done() and not turn.cancelled():  # handed over before this task woke up
                given = turn.result()
                if given is None:
                    self._pass_on_place()
                else:
                    self._release(given)
            if isinstance(error, TimeoutError):
                raise StoreUnavailableError("all connections to PostgreSQL are busy") from None
            raise

    def _release(self, connection: Connection) -> None:
        self._in_use.discard(connection)
        if connection in self._stale:
            self._stale.discard(connection)
            connection.terminate()
        if connection.is_closed:
            self._pass_on_place()
        elif not self._pass_on(connection):
            self._idle.append(connection)

    def _pass_on_place(self) -> None:
        """Pass the place of a closed connection to the first waiting caller.

        The place stays counted in `_open` until that caller connects, so that no other call takes
        it meanwhile.
        """
        if not self._pass_on(None):
            self._open -= 1

    def _pass_on(self, connection: Connection | None) -> bool:
        """Pass a connection, or a place for one, to the caller that has waited longest."""
        while self._waiting:
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            if not turn.done():
                if connection is not None:  # in use from now on, before the caller wakes up
                    self._in_use.add(connection)
                turn.set_result(connection)
                return True
        return False

    def expire(self) -> None:
        """Drop idle connections at once, and connections in use when their work ends."""
        self._end_idle()
        self._stale |= self._in_use

    def _end_idle(self) -> None:
        for connection in self._idle:
            connection.terminate()
        self._open -= len(self._idle)
        self._idle.clear()

    def terminate(self) -> None:
        """Drop every connection at once, even during a statement."""
        self.expire()
        for connection in self._in_use:
            connection.terminate()

    async def close(self) -> None:
        """Refuse new work, wait for running work, and close. A second call does nothing."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks)
        idle, self._idle = self._idle, []
        self._open -= len(idle)
        await asyncio.gather(*(connection.close() for connection in idle))
