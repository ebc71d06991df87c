"""The SQLite backend: the suite of all stores, and what only a file can do."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from interaction_svc.paging import Edge, Position
from interaction_svc.store import (
    Filter,
    NotAStoreError,
    Outcome,
    SchemaTooNewError,
    Store,
    StoreBusyError,
    StoreClosedError,
    StoreUnavailableError,
    StoreURLError,
    check_store,
    check_url,
    open_store,
    row_of,
)
from interaction_svc.store.sqlite import connection as connection_module
from interaction_svc.store.sqlite import migrations, reads
from interaction_svc.store.sqlite.connection import Connection, connect
from interaction_svc.store.sqlite.migrations import LATEST, MIGRATIONS, Migration
from interaction_svc.store.sqlite.writer import Writer
from tests.build import NOON_US, Parents, new_interaction, new_sid
from tests.store.opened import EVERYONE, NOW_US, query
from tests.store.suite import StoreSuite


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'interactions.db'}"


class TestSqliteStore(StoreSuite):
    @asynccontextmanager
    async def _opened(self, folder: Path) -> AsyncIterator[Store]:
        store = await open_store(url(folder))
        try:
            yield store
        finally:
            await store.close()

    def opened(self, folder: Path):  # type: ignore[no-untyped-def]
        return self._opened(folder)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(url(tmp_path))
    yield opened
    await opened.close()


@contextmanager
def another_process(folder: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(folder / "interactions.db", isolation_level=None, timeout=0)
    try:
        yield db
    finally:
        db.close()


def test_urls_that_name_no_store_are_refused_with_what_would_be_right() -> None:
    assert check_url("sqlite:///a/b.db") == Path("a/b.db")
    assert check_url("sqlite:////a/b.db") == Path("/a/b.db")
    for bad in (
        "",
        "a.db",
        "sqlite://a.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "mysql:///x",
        "sqlite:///d/",
    ):
        with pytest.raises(StoreURLError, match="sqlite:///relative"):
            check_url(bad)


async def test_the_files_are_their_owners_only(tmp_path: Path, parents: Parents) -> None:
    store = await open_store(url(tmp_path))
    await store.record([row_of(new_interaction(parents))])
    modes = {name: oct((tmp_path / name).stat().st_mode & 0o777) for name in os.listdir(tmp_path)}
    await store.close()
    assert modes == dict.fromkeys(
        (f"interactions.db{end}" for end in ("", "-wal", "-shm")), "0o600"
    )


async def test_deleted_rows_are_overwritten_and_answers_are_on_disk(store: Store) -> None:
    pragmas = {}
    for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys"):

        async def read(name: str = name) -> object:
            return await store._write.run(  # type: ignore[attr-defined]
                lambda db: db.execute(f"PRAGMA {name}").fetchone()[0]
            )

        pragmas[name] = await read()
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "secure_delete": 1,
        "foreign_keys": 1,
    }


async def test_a_schema_of_a_later_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    await (await open_store(url(tmp_path))).close()
    with another_process(tmp_path) as db:
        db.execute("INSERT INTO schema_migrations VALUES (?, 'later', '')", (LATEST + 1,))
    before = (tmp_path / "interactions.db").read_bytes()
    for call in (open_store(url(tmp_path)), check_store(url(tmp_path))):
        with pytest.raises(SchemaTooNewError, match=rf"version {LATEST + 1}.*only up to {LATEST}"):
            await call
    assert (tmp_path / "interactions.db").read_bytes() == before


async def test_a_migration_that_fails_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migration(LATEST + 1, "broken", ("CREATE TABLE half (a)", "CREATE TABLE half (a)"))
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(Exception, match="SQLite failed"):
        await open_store(url(tmp_path))
    monkeypatch.undo()
    await (await open_store(url(tmp_path))).close()
    with another_process(tmp_path) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
        assert "half" not in tables
        versions = [v for (v,) in db.execute("SELECT version FROM schema_migrations")]
        assert versions == list(range(1, LATEST + 1))


async def test_many_processes_may_migrate_at_once(tmp_path: Path) -> None:
    async def open_and_close() -> None:
        await (await open_store(url(tmp_path))).close()

    await asyncio.gather(*(open_and_close() for _ in range(8)))
    assert (await check_store(url(tmp_path))).ok


async def test_check_reports_without_changing(tmp_path: Path, parents: Parents) -> None:
    report = await check_store(url(tmp_path))
    assert (report.schema_version, report.ok) == (0, False)
    assert not (tmp_path / "interactions.db").exists()
    store = await open_store(url(tmp_path))
    await store.record([row_of(new_interaction(parents)) for _ in range(3)])
    await store.close()
    assert (await check_store(url(tmp_path))).rows == 3
    with another_process(tmp_path) as db:
        db.execute("UPDATE interactions SET type = 3 WHERE rowid = 1")
        db.execute("UPDATE interactions SET frame = x'ff' WHERE rowid = 2")
    report = await check_store(url(tmp_path))
    assert (report.rows, report.bad_rows, report.ok) == (3, 2, False)


async def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "interactions.db"
    file.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(NotAStoreError, match="not an SQLite database"):
        await open_store(url(tmp_path))
    file.unlink()
    with another_process(tmp_path) as db:
        db.execute("CREATE TABLE somebody_elses (a)")
    before = file.read_bytes()
    with pytest.raises(NotAStoreError, match="not one of interaction-svc"):
        await open_store(url(tmp_path))
    assert file.read_bytes() == before


async def test_a_missing_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=r"directory .*nowhere doesn't exist"):
        await open_store(f"sqlite:///{tmp_path}/nowhere/interactions.db")


async def test_without_migrating_a_store_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="can't be opened"):
        await open_store(url(tmp_path), migrate=False)
    assert not os.listdir(tmp_path)


async def test_a_lock_held_by_another_process_is_unavailable_and_passes(
    tmp_path: Path, parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT_SECONDS", 0.05)
    store = await open_store(url(tmp_path))
    row = row_of(new_interaction(parents))
    with another_process(tmp_path) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked by another process"):
            await store.record([row])
        assert await store.get(EVERYONE, parents.key(row.sid)) is None
        db.execute("ROLLBACK")
        assert (await store.record([row]))[0].outcome is Outcome.CREATED
    await store.close()


@pytest.fixture
async def write(tmp_path: Path) -> AsyncIterator[Connection]:
    await (await open_store(url(tmp_path))).close()
    connection = await Connection.open(tmp_path / "interactions.db")
    await connection.run(lambda db: db.execute("CREATE TABLE t (a INTEGER UNIQUE)"))
    yield connection
    await connection.close()


def insert(value: int) -> Callable[[sqlite3.Connection], int]:
    return lambda db: db.execute("INSERT INTO t VALUES (?)", (value,)).rowcount


async def test_what_waits_together_is_committed_together(write: Connection) -> None:
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


async def test_one_that_fails_fails_alone(write: Connection) -> None:
    writer = Writer(write)
    results = await asyncio.gather(
        *(writer.submit(insert(n), 1) for n in (1, 2, 2, 3)), return_exceptions=True
    )
    assert [isinstance(result, Exception) for result in results] == [False, False, True, False]
    stored = await write.run(lambda db: db.execute("SELECT a FROM t ORDER BY a").fetchall())
    assert stored == [(1,), (2,), (3,)]
    await writer.close()


async def test_more_than_may_wait_is_refused_and_not_done(write: Connection) -> None:
    release = threading.Event()
    writer = Writer(write, max_waiting_rows=10)
    try:
        first = asyncio.create_task(writer.submit(lambda _: release.wait(30), 1))
        await asyncio.sleep(0)  # queued
        await asyncio.sleep(0)  # taken: its thread waits
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


async def test_a_connection_that_is_gone_is_told_to_those_who_wait(write: Connection) -> None:
    writer = Writer(write)
    await write.close()
    async with asyncio.timeout(20):
        with pytest.raises(StoreClosedError):
            await writer.submit(insert(1), 1)
        await writer.close()


async def test_a_cancelled_operation_that_waits_is_not_done(write: Connection) -> None:
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


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("tied", [False, True])
async def test_the_last_page_costs_what_the_first_costs(
    tmp_path: Path, parents: Parents, descending: bool, filtered: bool, tied: bool
) -> None:
    """Counted in steps of SQLite's virtual machine, which are the same on every machine."""
    store = await open_store(url(tmp_path))
    rows = [row_of(new_interaction(parents, NOON_US + n * (not tied))) for n in range(5000)]
    for start in range(0, len(rows), 1000):
        await store.record(rows[start : start + 1000])
    await store.close()
    listed = sorted((Position(row.created_us, row.sid) for row in rows), reverse=descending)
    db = connect(tmp_path / "interactions.db", read_only=True)
    bounds = Filter(type=1, created_from_us=NOON_US, created_before_us=NOW_US)

    def steps(edge: Position | None) -> int:
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        db.set_progress_handler(count, 1)
        conditions = bounds if filtered else Filter()
        asked = query(
            parents, limit=50, edge=edge and Edge(edge), descending=descending, filter=conditions
        )
        page = reads.page(db, EVERYONE, asked)
        db.set_progress_handler(None, 0)
        assert len(page.frames) == 50
        return counted

    try:
        first, second, last = steps(None), steps(listed[49]), steps(listed[-51])
    finally:
        db.close()
    # Every page but the first also compares each row with its edge.
    assert last <= second * 1.02
    assert last <= first + 50 * 10


async def test_a_sid_of_another_case_is_another(store: Store, parents: Parents) -> None:
    row = row_of(new_interaction(parents))
    await store.record([row])
    assert await store.get(EVERYONE, parents.key(row.sid.upper())) is None
    assert await store.get(EVERYONE, parents.key(new_sid("KI"))) is None
