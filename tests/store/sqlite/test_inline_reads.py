"""Fast reads run on the event loop, all others on the thread."""

import asyncio
import gc
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from testing.build import NOON_US, Parents, new_interaction

from interaction_svc.domain.interactions import Filter
from interaction_svc.domain.paging import Cursor, Position
from interaction_svc.store import StoreClosedError, StoreError, row_of
from interaction_svc.store.factory import open_store
from interaction_svc.store.sqlite import page_concat, page_reads
from interaction_svc.store.sqlite.connection import connect
from interaction_svc.store.sqlite.inline_reads import (
    SLOW_READ_SECONDS,
    InlineReader,
    NotInlineError,
)
from interaction_svc.store.sqlite.row_format import pack
from interaction_svc.store.sqlite.store import SqliteStore
from tests.store.contract.stores import EVERYONE, query
from tests.store.sqlite.files import url
from tests.store.sqlite.test_interrupts import begun


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await open_store(url(tmp_path))
    assert isinstance(opened, SqliteStore)
    yield opened
    async with asyncio.timeout(30):
        await opened.close()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inline(store: SqliteStore, tmp_path: Path, clock: Clock) -> Iterator[InlineReader]:
    with closing(InlineReader(file_of(store, tmp_path), clock)) as reader:
        yield reader


def file_of(_: SqliteStore, folder: Path) -> Path:
    (file,) = folder.glob("*.db")
    return file


async def test_inline_reads_succeed_beside_a_long_read(
    store: SqliteStore, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    await store.record([row])
    endless = await begun(store._read)
    async with asyncio.timeout(30):
        assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
        assert (await store.page(EVERYONE, query(parents))).frames == row.frame
    endless.cancel()


async def test_a_list_with_a_filter_on_rows_runs_on_the_thread(
    store: SqliteStore, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    await store.record([row])
    endless = await begun(store._read)
    looking = asyncio.create_task(
        store.page(EVERYONE, query(parents, filter=Filter(type=row.type)))
    )
    assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
    assert not looking.done()
    endless.cancel()
    assert (await looking).frames == row.frame


async def test_a_slow_read_pauses_inline_reads(inline: InlineReader, clock: Clock) -> None:
    def slow(_: sqlite3.Connection) -> None:
        clock.now += 2 * SLOW_READ_SECONDS

    await inline.run(slow)
    rest = 100 * 2 * SLOW_READ_SECONDS
    clock.now += rest * 0.99
    with pytest.raises(NotInlineError):
        await inline.run(lambda _: None)
    clock.now += rest * 0.02
    await inline.run(lambda _: None)


async def test_reads_of_one_iteration_share_a_transaction(inline: InlineReader) -> None:
    statements: list[str] = []
    assert inline._db is not None
    inline._db.set_trace_callback(statements.append)

    def read(db: sqlite3.Connection) -> int:
        found: int = db.execute("SELECT 1").fetchone()[0]
        return found

    await inline.run(read)
    assert statements == ["SELECT 1"]
    statements.clear()
    await asyncio.gather(*(inline.run(read) for _ in range(3)))
    assert statements == ["BEGIN", "SELECT 1", "SELECT 1", "SELECT 1", "COMMIT"]


async def test_a_failed_read_ends_the_shared_transaction(inline: InlineReader) -> None:
    def failing(db: sqlite3.Connection) -> None:
        db.execute("SELECT what FROM nowhere")

    reads = [inline.run(failing), inline.run(lambda db: db.execute("SELECT 1").fetchone())]
    failed, found = await asyncio.gather(*reads, return_exceptions=True)
    assert isinstance(failed, StoreError)
    assert found == (1,)
    assert inline._db is not None
    assert not inline._db.in_transaction


async def test_a_shared_transaction_sees_what_was_committed_before_it(
    store: SqliteStore, inline: InlineReader, parents: Parents
) -> None:
    def count(db: sqlite3.Connection) -> int:
        found: int = db.execute("SELECT count(*) FROM interactions").fetchone()[0]
        return found

    for number in range(1, 4):
        await store.record([row_of(new_interaction(parents))])
        assert await asyncio.gather(*(inline.run(count) for _ in range(3))) == [number] * 3


async def test_refused_reads_leave_no_reference_cycles(inline: InlineReader, clock: Clock) -> None:
    def slow(_: sqlite3.Connection) -> None:
        clock.now += 2 * SLOW_READ_SECONDS

    gc.collect()
    gc.disable()
    try:
        first = inline.run(slow)
        waiting = [inline.run(lambda _: None) for _ in range(20)]
        await first
        for read in waiting:
            await asyncio.wait([read])
            assert isinstance(read.exception(), NotInlineError)
        del first, waiting, read
        assert gc.collect() == 0
    finally:
        gc.enable()


async def test_a_slow_read_that_fails_pauses_inline_reads(
    inline: InlineReader, clock: Clock
) -> None:
    def failing(db: sqlite3.Connection) -> None:
        clock.now += 2 * SLOW_READ_SECONDS
        db.execute("SELECT what FROM nowhere")

    with pytest.raises(StoreError):
        await inline.run(failing)
    with pytest.raises(NotInlineError):
        await inline.run(lambda _: None)


async def test_fast_reads_stay_inline(inline: InlineReader, clock: Clock) -> None:
    for _ in range(100):
        await inline.run(lambda _: None)
        clock.now += SLOW_READ_SECONDS


async def test_reads_of_one_pass_of_the_loop_run_together(inline: InlineReader) -> None:
    seen: list[str] = []

    async def one(name: str) -> None:
        seen.append(f"{name} asked")
        await inline.run(lambda _: seen.append(f"{name} read"))
        seen.append(f"{name} answered")

    await asyncio.gather(one("first"), one("second"))
    assert seen == [
        f"{name} {what}" for what in ("asked", "read", "answered") for name in ("first", "second")
    ]


async def test_reads_of_one_pass_leave_the_loop_to_others_after_the_limit(
    inline: InlineReader, clock: Clock
) -> None:
    """After 5 ms of reads other callbacks run, then the remaining reads."""
    seen: list[int | str] = []

    def work(number: int) -> None:
        clock.now += 0.7 * SLOW_READ_SECONDS
        seen.append(number)
        if not number:
            asyncio.get_running_loop().call_soon(seen.append, "another")

    await asyncio.gather(*(inline.run(lambda _, n=n: work(n)) for n in range(3)))  # type: ignore[misc]
    assert seen == [0, 1, "another", 2]


async def test_a_slow_read_sends_later_reads_of_its_pass_to_the_thread(
    inline: InlineReader, clock: Clock
) -> None:
    def slow(_: sqlite3.Connection) -> None:
        clock.now += 2 * SLOW_READ_SECONDS

    first, second = await asyncio.gather(
        inline.run(slow), inline.run(lambda _: None), return_exceptions=True
    )
    assert first is None
    assert isinstance(second, NotInlineError)


async def test_a_cancelled_read_is_not_executed(inline: InlineReader) -> None:
    seen: list[str] = []
    given_up = inline.run(lambda _: seen.append("given up"))
    kept = inline.run(lambda _: seen.append("kept"))
    given_up.cancel()
    await kept
    assert seen == ["kept"]


async def test_close_refuses_waiting_reads(inline: InlineReader) -> None:
    waiting = inline.run(lambda _: None)
    inline.close()
    with pytest.raises(StoreClosedError):
        await waiting


async def test_a_failed_read_is_reported(inline: InlineReader) -> None:
    heard: list[StoreError] = []
    inline.on_error = heard.append
    with pytest.raises(StoreError) as raised:
        await inline.run(lambda db: db.execute("SELECT what FROM nowhere"))
    assert heard == [raised.value]


async def test_inline_reads_do_not_wait_for_locks(
    store: SqliteStore, inline: InlineReader, tmp_path: Path
) -> None:
    with closing(connect(file_of(store, tmp_path))) as other:
        other.execute("BEGIN IMMEDIATE")
        await inline.run(lambda db: db.execute("PRAGMA query_only = OFF"))
        with pytest.raises(NotInlineError):
            # A lock that is easy to hold.
            await inline.run(lambda db: db.execute("BEGIN IMMEDIATE"))


async def test_reads_run_on_the_thread_while_inline_reads_pause(
    store: SqliteStore, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    await store.record([row])
    store._inline._paused_until = float("inf")
    assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
    assert (await store.page(EVERYONE, query(parents))).frames == row.frame


async def test_a_page_is_complete_when_a_row_arrives_during_concatenation(
    store: SqliteStore, parents: Parents, tmp_path: Path
) -> None:
    rows = [row_of(new_interaction(parents, NOON_US + 10 * n)) for n in range(3)]
    late = row_of(new_interaction(parents, NOON_US + 5))
    await store.record(rows)
    loop = asyncio.get_running_loop()
    joined = []

    def record_late(statement: str) -> None:
        if "group_concat" in statement:
            joined.append(statement)
            if len(joined) == 1:
                asyncio.run_coroutine_threadsafe(store.record([late]), loop).result(30)

    def read() -> tuple[object, object]:
        with closing(connect(file_of(store, tmp_path), read_only=True)) as db:
            db.set_trace_callback(record_late)
            asked = query(parents, limit=3)
            return (
                page_concat.page(db, EVERYONE, asked, pack(parents.account_sid)),
                page_reads.page(db, EVERYONE, asked, concat=True),
            )

    page_by_concat, page = await asyncio.to_thread(read)
    assert page_by_concat is None
    assert page == (await store.page(EVERYONE, query(parents, limit=3)))


@pytest.mark.parametrize("order", ["forward", "descending", "backward"])
async def test_rows_beyond_the_byte_limit_of_a_page_are_not_read(
    store: SqliteStore, parents: Parents, tmp_path: Path, order: str
) -> None:
    rows = [row_of(new_interaction(parents, NOON_US + n, data="x" * 100_000)) for n in range(50)]
    await store.record(rows)
    edge = Cursor(Position(NOON_US + 50, ""), backward=True) if order == "backward" else None
    asked = query(
        parents, limit=50, max_bytes=1_000_000, descending=order == "descending", edge=edge
    )

    def read() -> tuple[int, list[str]]:
        statements: list[str] = []
        with closing(connect(file_of(store, tmp_path), read_only=True)) as db:
            db.set_trace_callback(statements.append)
            return page_reads.page(db, EVERYONE, asked, concat=True).rows, statements

    count, statements = await asyncio.to_thread(read)
    assert count == 9
    assert not any("group_concat" in statement for statement in statements)
