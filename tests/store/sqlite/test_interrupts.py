"""Only reads of cancelled callers are interrupted."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from testing.build import NOON_US, Parents, new_interaction, new_sid

from interaction_svc.domain.interactions import Filter, Outcome
from interaction_svc.store import row_of
from interaction_svc.store.factory import open_store
from interaction_svc.store.sqlite import page_reads, reads
from interaction_svc.store.sqlite.connection import Connection
from interaction_svc.store.sqlite.store import SqliteStore
from tests.store.contract.stores import EVERYONE, query
from tests.store.sqlite.files import url

_ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await open_store(url(tmp_path))
    assert isinstance(opened, SqliteStore)
    yield opened
    async with asyncio.timeout(30):
        await opened.close()


class Endless:
    """A query that never ends by itself. `begun` is set when it begins."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def __call__(self, db: sqlite3.Connection) -> object:
        self.begun.set()
        return db.execute(_ENDLESS).fetchone()


async def begun(connection: Connection) -> asyncio.Task[object]:
    endless = Endless()
    reading = asyncio.create_task(connection.run(endless))
    assert await asyncio.to_thread(endless.begun.wait, 30)
    return reading


async def test_a_cancelled_read_frees_the_connection(store: SqliteStore) -> None:
    reading = await begun(store._read)
    reading.cancel()
    async with asyncio.timeout(30):
        assert await store.keys_of(new_sid("AC")) == []
    assert reading.cancelled()


async def test_a_deadline_ends_a_long_list(store: SqliteStore, parents: Parents) -> None:
    template = row_of(new_interaction(parents))
    for start in range(0, 100_000, 2000):
        await store.record(
            [
                template._replace(sid=f"KI{n:032x}", created_us=NOON_US + n)
                for n in range(start, start + 2000)
            ]
        )
    rare = query(parents, filter=Filter(participant_sid=new_sid("KP")))
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return store._read._interrupts()

    await store._read.run(lambda db: db.set_progress_handler(count, 1000))
    await store.page(EVERYONE, rare)
    all_steps, steps = steps, 0
    listing = asyncio.create_task(store.page(EVERYONE, rare))
    async with asyncio.timeout(30):
        while steps == 0:
            await asyncio.sleep(0)
    listing.cancel()
    assert await store.keys_of(new_sid("AC")) == []  # runs after it
    assert steps < all_steps / 2


async def test_reads_succeed_beside_cancelled_ones(store: SqliteStore, parents: Parents) -> None:
    row = row_of(new_interaction(parents))
    await store.record([row])

    def getting() -> list[asyncio.Task[bytes | None]]:
        key = parents.key(row.sid)
        return [asyncio.create_task(store._read.run(reads.get, EVERYONE, key)) for _ in range(3)]

    for _ in range(100):
        cancelled = [
            asyncio.create_task(
                store._read.run(page_reads.page, EVERYONE, query(parents), concat=True)
            )
            for _ in range(3)
        ]
        innocent = getting()
        endless = await begun(store._read)
        later = getting()
        for task in (*cancelled, endless):
            task.cancel()
        async with asyncio.timeout(30):
            assert await asyncio.gather(*innocent, *later) == [row.frame] * 6


async def test_a_write_is_never_interrupted(store: SqliteStore, parents: Parents) -> None:
    row = row_of(new_interaction(parents))
    begun, release = threading.Event(), threading.Event()

    def slow(db: sqlite3.Connection) -> None:
        begun.set()
        release.wait(30)

    first = asyncio.create_task(store._write.run(slow))
    writing = asyncio.create_task(store.record([row]))
    assert await asyncio.to_thread(begun.wait, 30)
    first.cancel()
    release.set()
    assert (await writing)[0].outcome is Outcome.CREATED
    many = [row_of(new_interaction(parents, NOON_US + n)) for n in range(4000)]
    cancelled = asyncio.create_task(store.record(many))
    for _ in range(3):  # the thread is running it
        await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    page = await store.page(EVERYONE, query(parents, limit=5000, max_bytes=1 << 30))
    await store.probe()  # runs after it
    page = await store.page(EVERYONE, query(parents, limit=5000, max_bytes=1 << 30))
    assert page.rows == 4001


async def test_close_does_not_wait_for_a_cancelled_read(tmp_path: Path) -> None:
    store = await open_store(url(tmp_path))
    assert isinstance(store, SqliteStore)
    reading = await begun(store._read)
    reading.cancel()
    async with asyncio.timeout(30):
        await store.close()
