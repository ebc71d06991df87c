"""Connections that are shared by all calls.

Not asyncpg's own pool: that one asks the server to reset a connection each time it is given back,
a round trip more for every call, and has lost connections to callers that were cancelled (asyncpg
#464, #467, #547). Here nothing of asyncpg's is ever cancelled: work runs in a task of the pool's,
to its end, whether or not its caller still waits. Each round trip is bounded in time, and so that
is too.
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
"""The number of attempts of work that may be repeated."""
_CONFLICT_SECONDS = 0.02
"""The longest pause of a transaction that conflicted with another. Pauses grow."""

_FULL_HOUSE_SECONDS = 1.0
"""The time without new connections after one was refused, while there are others."""

T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]


class Pool:
    """At most `size` connections, opened when they are needed, the last used first."""

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], *, size: int, wait_seconds: float
    ) -> None:
        """Open connections with `connect`; a call waits at most so long for one to be free."""
        self._connect = connect
        self._size = size
        self._wait_seconds = wait_seconds
        self._idle: list[Connection] = []
        self._open = 0
        # In the order of their arrival. A caller that is cancelled removes its own turn, unless
        # somebody has taken it out already: a dict allows both.
        self._waiting: dict[asyncio.Future[Connection | None], None] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._stale: set[Connection] = set()
        self._in_use: set[Connection] = set()
        self._full_until = 0.0
        self._closed = False

    async def run(self, work: Work[T], *, repeatable: bool = True) -> T:
        """Run work on a connection, to its end, also if the caller is cancelled meanwhile.

        `repeatable` work is tried again if its connection is lost in the middle of it, or its
        statement cancelled; other work only if it met another's transaction. Raises StoreError.
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
                task.cancel()  # it only waits for its turn
            raise

    async def run_in_task(self, work: Work[T]) -> T:
        """Run repeatable work in this task, which nobody cancels, and which outlives no close."""
        if self._closed:
            raise closed()
        return await self._run(work, repeatable=True, begun=asyncio.Event())

    def _ended(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone

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
                    self._end_idle()  # or each attempt may find one more that is as dead
                # Sooner than at the server's own timeout: somebody meant just this statement.
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
        """Return whether to wait for one of those in use, for the server lets no more in."""
        return bool(self._in_use) and self._now() < self._full_until

    async def _turn(self) -> Connection | None:
        """Wait for a connection that somebody gives back; None is the place for a new one."""
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
        """Hand the place of a connection that is gone to the first waiting caller.

        The place stays counted in `_open` until its new owner connects, so that nobody who comes
        in between takes it as well.
        """
        if not self._pass_on(None):
            self._open -= 1

    def _pass_on(self, connection: Connection | None) -> bool:
        """Hand a connection, or the place for one, to the caller that has waited longest."""
        while self._waiting:
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            if not turn.done():
                if connection is not None:  # in use from now on, not only when its turn comes
                    self._in_use.add(connection)
                turn.set_result(connection)
                return True
        return False

    def expire(self) -> None:
        """Drop every connection: at once what is idle, the rest when its work ends."""
        self._end_idle()
        self._stale |= self._in_use

    def _end_idle(self) -> None:
        for connection in self._idle:
            connection.terminate()
        self._open -= len(self._idle)
        self._idle.clear()

    def terminate(self) -> None:
        """Drop every connection at once, whatever it is doing."""
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
