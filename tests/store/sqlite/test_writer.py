"""The writer of an SQLite file, and its connection."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from interaction_svc.store import StoreBusyError, StoreClosedError, StoreError
from interaction_svc.store.factory import open_store
from interaction_svc.store.sqlite import writer as writer_module
from interaction_svc.store.sqlite.connection import Connection
from interaction_svc.store.sqlite.writer import Writer
from interaction_svc.store.write_queue import MAX_BYTES_PER_COMMIT
from tests.store.sqlite.files import url


@pytest.fixture
async def write(tmp_path: Path) -> AsyncIterator[Connection]:
    await (await open_store(url(tmp_path))).close()
    connection = await Connection.open(tmp_path / "interactions.db")
    await connection.run(lambda db: db.execute("CREATE TABLE t (a INTEGER UNIQUE)"))
    yield connection
    await connection.close()


def insert(value: int) -> Callable[[sqlite3.Connection], int]:
    return lambda db: db.execute("INSERT INTO t VALUES (?)", (value,)).rowcount


_OF = ("count", "sum")


def sample(name: str) -> float:
    return REGISTRY.get_sample_value(f"interaction_svc_{name}") or 0.0


async def test_waiting_operations_share_a_commit(write: Connection) -> None:
    writer = Writer(write)
    commits = []
    await write.run(
        lambda db: db.set_trace_callback(
            lambda statement: commits.append(statement) if statement == "COMMIT" else None
        )
    )
    await asyncio.gather(*(writer.submit(insert(n), 1) for n in range(50)))
    assert await write.run(lambda db: db.execute("SELECT count(*) FROM t").fetchone()) == (50,)
    assert len(commits) <= 2
    await writer.close()


async def test_consecutive_commits_leave_the_lock_to_other_processes(
    write: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setattr(writer_module, "LOCK_RELEASE_SHARE", 1e6)
    writer = Writer(write)
    await writer.submit(insert(1), 1)
    assert pauses == []
    await writer.submit(insert(2), 1)
    assert len(pauses) == 1
    assert pauses[0] > 0
    await writer.close()


async def test_a_failed_operation_fails_alone(write: Connection) -> None:
    writer = Writer(write)
    results = await asyncio.gather(
        *(writer.submit(insert(n), 1) for n in (1, 2, 2, 3)), return_exceptions=True
    )
    assert [isinstance(result, Exception) for result in results] == [False, False, True, False]
    stored = await write.run(lambda db: db.execute("SELECT a FROM t ORDER BY a").fetchall())
    assert stored == [(1,), (2,), (3,)]
    await writer.close()


async def test_rows_above_the_queue_limit_are_refused(write: Connection) -> None:
    release = threading.Event()
    writer = Writer(write, max_waiting_rows=10)
    try:
        first = asyncio.create_task(writer.submit(lambda _: release.wait(30), 1))
        await asyncio.sleep(0)  # queued
        await asyncio.sleep(0)  # taken: the thread waits
        second = asyncio.create_task(writer.submit(insert(1), 10))
        await asyncio.sleep(0)
        with pytest.raises(StoreBusyError):
            await writer.submit(insert(2), 1)
    finally:
        release.set()
    await asyncio.gather(first, second)
    await writer.submit(insert(3), 1)
    stored = await write.run(lambda db: db.execute("SELECT a FROM t ORDER BY a").fetchall())
    assert stored == [(1,), (3,)]
    await writer.close()


async def test_bytes_above_the_queue_limit_are_refused(write: Connection) -> None:
    release = threading.Event()
    writer = Writer(write, max_waiting_bytes=1000)
    try:
        first = asyncio.create_task(writer.submit(lambda _: release.wait(30), 1, 5000))
        await asyncio.sleep(0)  # queued
        await asyncio.sleep(0)  # taken: the thread waits
        second = asyncio.create_task(writer.submit(insert(1), 1, 600))
        await asyncio.sleep(0)
        assert sample("waiting_bytes") == 600
        assert sample("waiting_rows") == 1
        with pytest.raises(StoreBusyError):
            await writer.submit(insert(2), 1, 401)
        third = asyncio.create_task(writer.submit(insert(3), 1, 400))
        await asyncio.sleep(0)
    finally:
        release.set()
    await asyncio.gather(first, second, third)
    assert sample("waiting_bytes") == sample("waiting_rows") == 0
    await writer.close()


async def test_a_commit_is_bounded_in_bytes(write: Connection) -> None:
    release = threading.Event()
    writer = Writer(write)
    commits = []
    await write.run(
        lambda db: db.set_trace_callback(
            lambda statement: commits.append(statement) if statement == "COMMIT" else None
        )
    )
    first = asyncio.create_task(writer.submit(lambda _: release.wait(30), 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    half = MAX_BYTES_PER_COMMIT // 2
    waiting = [asyncio.create_task(writer.submit(insert(n), 1, half)) for n in range(6)]
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(first, *waiting)
    assert len(commits) == 1 + 3
    await writer.close()


async def test_a_commit_updates_the_metrics(write: Connection) -> None:
    writer = Writer(write)
    before = [sample(f"commit_{what}_{of}") for what in ("operations", "rows") for of in _OF]
    await asyncio.gather(writer.submit(insert(1), 2), writer.submit(insert(2), 3))
    with pytest.raises(StoreError, match="SQLite failed"):
        await writer.submit(insert(1), 7)
    after = [sample(f"commit_{what}_{of}") for what in ("operations", "rows") for of in _OF]
    assert [a - b for a, b in zip(after, before, strict=True)] == [1, 2, 1, 5]
    await writer.close()


async def test_a_caller_cancelled_during_its_commit_does_not_affect_others(
    write: Connection,
) -> None:
    release = threading.Event()
    writer = Writer(write)

    def work(db: sqlite3.Connection) -> None:
        insert(1)(db)
        release.wait(30)

    cancelled = asyncio.create_task(writer.submit(work, 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the thread is in the transaction
    cancelled.cancel()
    await asyncio.wait([cancelled])
    after = asyncio.create_task(writer.submit(insert(2), 1))
    release.set()
    async with asyncio.timeout(20):
        assert await after == 1
        await writer.close()
    stored = await write.run(lambda db: db.execute("SELECT a FROM t ORDER BY a").fetchall())
    assert (cancelled.cancelled(), stored) == (True, [(1,), (2,)])


async def test_work_of_a_cancelled_caller_is_not_begun(write: Connection) -> None:
    release, begun = threading.Event(), []
    first = asyncio.create_task(write.run(lambda _: release.wait(30)))
    given_up = asyncio.create_task(write.run(lambda _: begun.append(1)))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])
    release.set()
    await first
    await write.run(lambda _: None)
    assert begun == []


async def test_waiting_callers_get_the_error_of_a_closed_connection(write: Connection) -> None:
    writer = Writer(write)
    await write.close()
    async with asyncio.timeout(20):
        with pytest.raises(StoreClosedError):
            await writer.submit(insert(1), 1)
        await writer.close()


async def test_a_cancelled_operation_in_the_queue_is_dropped(write: Connection) -> None:
    release = threading.Event()
    writer = Writer(write)
    first = asyncio.create_task(writer.submit(lambda _: release.wait(30), 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = asyncio.create_task(writer.submit(insert(1), 1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    release.set()
    await first
    await writer.close()
    assert await write.run(lambda db: db.execute("SELECT count(*) FROM t").fetchone()) == (0,)
