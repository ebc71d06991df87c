"""The connection pool when its callers are cancelled, at any step and in large numbers."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from typing import Protocol

import pytest
from testing.postgres import Cluster

from interaction_svc.store import StoreUnavailableError
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.dsn import Dsn
from interaction_svc.store.postgres.pool import Pool
from tests.store.postgres.databases import database

__all__ = ["database"]

STEPS = range(12)
"""Numbers of event loop iterations: more than from the hand-over of a connection to its use."""


class Holding(Protocol):
    """Work that holds its connection until an event."""

    def __call__(self, db: Connection, *, until: asyncio.Event) -> Awaitable[None]: ...


class Connections:
    """Opens connections, and counts the open ones."""

    def __init__(self, url: str) -> None:
        self._open = partial(Connection.open, Dsn.parse(url), 10.0)
        self._opened: list[Connection] = []
        self.most = 0

    async def connect(self) -> Connection:
        connection = await self._open()
        self._opened.append(connection)
        self.most = max(self.most, sum(not one.is_closed for one in self._opened))
        return connection


@pytest.fixture
def connections(cluster: Cluster, database: str) -> Connections:
    return Connections(cluster.url(database))


@pytest.fixture
async def pool(connections: Connections) -> AsyncIterator[Pool]:
    """A pool with one open connection."""
    pool = Pool(connections.connect, size=1, wait_seconds=20)
    await pool.run(one)
    yield pool
    await pool.close()


async def one(db: Connection) -> int:
    ((value,),) = await db.fetch("SELECT 1")
    return int(value)


async def held(db: Connection, *, until: asyncio.Event) -> None:
    await until.wait()


async def lost(db: Connection, *, until: asyncio.Event) -> None:
    await until.wait()
    db.terminate()


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("work", [held, lost])
@pytest.mark.parametrize("cancels_first", [False, True])
async def test_a_caller_cancelled_at_any_step_leaks_no_connection(
    pool: Pool, connections: Connections, work: Holding, *, cancels_first: bool
) -> None:
    for count in STEPS:
        until = asyncio.Event()
        holder = asyncio.create_task(pool.run(partial(work, until=until)))
        await steps(5)
        leaver, stayer = (asyncio.create_task(pool.run(one)) for _ in range(2))
        await steps(5)
        if cancels_first:
            leaver.cancel()
            await steps(count)
            until.set()
        else:
            until.set()
            await steps(count)
            leaver.cancel()
        async with asyncio.timeout(20):
            await holder
            assert await stayer == 1
            assert await asyncio.gather(leaver, return_exceptions=True)
            assert await pool.run(one) == 1
    assert connections.most == 1


async def test_a_caller_that_arrives_when_a_connection_is_lost_opens_no_second_one(
    pool: Pool, connections: Connections
) -> None:
    for count in STEPS:
        until = asyncio.Event()
        holder = asyncio.create_task(pool.run(partial(lost, until=until)))
        await steps(5)
        waiter = asyncio.create_task(pool.run(one))
        await steps(5)
        until.set()
        await steps(count)
        newcomer = asyncio.create_task(pool.run_in_task(one))
        async with asyncio.timeout(20):
            await holder
            assert (await waiter, await newcomer) == (1, 1)
    assert connections.most == 1


@pytest.mark.parametrize("count", STEPS)
async def test_callers_that_time_out_while_connections_are_released_get_an_error(
    connections: Connections, count: int
) -> None:
    pool = Pool(connections.connect, size=2, wait_seconds=0.05)
    until = asyncio.Event()

    async def held_for_steps(_: Connection) -> None:
        await until.wait()
        await steps(count)

    await asyncio.gather(pool.run(one), pool.run(one))
    holders = [asyncio.create_task(pool.run(held_for_steps)) for _ in range(2)]
    await steps(5)
    waiters = [asyncio.create_task(pool.run(one)) for _ in range(40)]
    await steps(5)
    until.set()
    # The sleep blocks the loop, so all time limits end in its next iteration.
    time.sleep(0.06)  # noqa: ASYNC251
    async with asyncio.timeout(20):
        results = await asyncio.gather(*waiters, return_exceptions=True)
        await asyncio.gather(*holders)
        unexpected = [r for r in results if r != 1 and not isinstance(r, StoreUnavailableError)]
        assert not unexpected
        assert sum(await asyncio.gather(pool.run(one), pool.run(one))) == 2
    assert connections.most == 2
    await pool.close()


@pytest.mark.parametrize("size", [1, 2])
async def test_many_cancellations_do_not_affect_other_calls(
    connections: Connections, size: int
) -> None:
    dice = random.Random(size)
    pool = Pool(connections.connect, size=size, wait_seconds=60)
    for _ in range(20):
        calls = [asyncio.create_task(pool.run(one)) for _ in range(24)]
        leaving = dice.sample(calls, 16)
        for call in leaving:
            await steps(dice.randrange(4))
            call.cancel()
        async with asyncio.timeout(60):
            served = await asyncio.gather(*(call for call in calls if call not in leaving))
            assert served == [1] * 8
            await asyncio.gather(*leaving, return_exceptions=True)
    async with asyncio.timeout(20):
        assert await asyncio.gather(*(pool.run(one) for _ in range(size))) == [1] * size
    assert connections.most <= size
    await pool.close()
