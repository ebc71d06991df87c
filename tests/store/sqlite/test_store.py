"""The SQLite backend: the contract of all stores, and behaviour of files."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from testing.build import NOON_US, Parents, new_interaction, new_parents, new_sid

from interaction_svc.domain.interactions import Filter, Outcome, Scope
from interaction_svc.domain.paging import Cursor, Position
from interaction_svc.store import (
    NotAStoreError,
    Row,
    SchemaTooNewError,
    Store,
    StoreClosedError,
    StoreError,
    StoreUnavailableError,
    StoreURLError,
    row_of,
)
from interaction_svc.store.factory import check_store, check_url, open_store
from interaction_svc.store.sqlite import page_reads, schema, transactions
from interaction_svc.store.sqlite.connection import connect
from interaction_svc.store.sqlite.migrations import LATEST
from tests.store.contract.stores import EVERYONE, NOW_US, query
from tests.store.contract.suite import StoreSuite
from tests.store.sqlite.files import another_process, url
from tests.store.sqlite.old_stores import make_old_store


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


def test_invalid_urls_are_refused_with_the_valid_form() -> None:
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


async def test_the_files_are_private_to_their_owner(tmp_path: Path, parents: Parents) -> None:
    store = await open_store(url(tmp_path))
    await store.record([row_of(new_interaction(parents))])
    modes = {name: oct((tmp_path / name).stat().st_mode & 0o777) for name in os.listdir(tmp_path)}
    await store.close()
    assert modes == dict.fromkeys(
        (f"interactions.db{end}" for end in ("", "-wal", "-shm")), "0o600"
    )


async def test_secure_delete_and_full_synchronous_are_set(store: Store) -> None:
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


async def test_a_schema_of_a_later_version_is_refused_unchanged(tmp_path: Path) -> None:
    await (await open_store(url(tmp_path))).close()
    with another_process(tmp_path) as db:
        db.execute("INSERT INTO schema_migrations VALUES (?, 'later', '')", (LATEST + 1,))
    before = (tmp_path / "interactions.db").read_bytes()
    for call in (open_store(url(tmp_path)), check_store(url(tmp_path))):
        with pytest.raises(SchemaTooNewError, match=rf"version {LATEST + 1}.*only up to {LATEST}"):
            await call
    assert (tmp_path / "interactions.db").read_bytes() == before


async def test_a_failed_schema_creation_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ("CREATE TABLE half (a)", "CREATE TABLE half (a)")
    monkeypatch.setattr(schema, "STATEMENTS", broken)
    with pytest.raises(StoreError, match="SQLite failed"):
        await open_store(url(tmp_path))
    monkeypatch.undo()
    await (await open_store(url(tmp_path))).close()
    with another_process(tmp_path) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
        assert "half" not in tables
        assert db.execute("SELECT version FROM schema_migrations").fetchall() == [(LATEST,)]
        assert db.execute("PRAGMA page_size").fetchone() == (schema.PAGE_BYTES,)


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_a_store_of_an_earlier_version_is_reported_as_outdated(
    tmp_path: Path, version: int
) -> None:
    make_old_store(tmp_path / "interactions.db", version=version)
    report = await check_store(url(tmp_path))
    assert (report.schema_version, report.known_version, report.ok) == (version, LATEST, False)
    with pytest.raises(StoreUnavailableError, match="run interaction-svc migrate"):
        await open_store(url(tmp_path), migrate=False)


async def test_concurrent_processes_can_migrate(tmp_path: Path) -> None:
    async def open_and_close() -> None:
        await (await open_store(url(tmp_path))).close()

    await asyncio.gather(*(open_and_close() for _ in range(8)))
    assert (await check_store(url(tmp_path))).ok


async def test_check_does_not_change_the_file(tmp_path: Path, parents: Parents) -> None:
    report = await check_store(url(tmp_path))
    assert (report.schema_version, report.ok) == (0, False)
    assert not (tmp_path / "interactions.db").exists()
    store = await open_store(url(tmp_path))
    await store.record([row_of(new_interaction(parents)) for _ in range(3)])
    await store.close()
    assert (await check_store(url(tmp_path))).rows == 3
    with another_process(tmp_path) as db:
        first, second, _ = db.execute("SELECT sid FROM interactions").fetchall()
        db.execute("UPDATE interactions SET type = 3 WHERE sid = ?", first)
        db.execute("UPDATE interactions SET frame = x'ff' WHERE sid = ?", second)
    report = await check_store(url(tmp_path))
    assert (report.rows, report.bad_rows, report.ok) == (3, 2, False)


async def test_a_file_that_is_not_a_store_is_refused_unchanged(tmp_path: Path) -> None:
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


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=r"directory .*nowhere doesn't exist"):
        await open_store(f"sqlite:///{tmp_path}/nowhere/interactions.db")


async def test_opening_without_migration_requires_an_existing_store(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="can't be opened"):
        await open_store(url(tmp_path), migrate=False)
    assert not os.listdir(tmp_path)


async def test_the_write_lock_is_retried_often(
    tmp_path: Path, parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's busy handler retries every 100 ms in the end, and misses short free moments."""
    asked: list[float] = []
    pause = threading.Event()

    def sleep(seconds: float) -> None:
        asked.append(seconds)
        pause.wait(seconds)

    store = await open_store(url(tmp_path))
    with another_process(tmp_path) as db:
        db.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("time.sleep", sleep)
        recording = asyncio.create_task(store.record([row_of(new_interaction(parents))]))
        async with asyncio.timeout(4):
            while len(asked) < 100:
                await asyncio.sleep(0)
        db.execute("ROLLBACK")
        assert (await recording)[0].outcome is Outcome.CREATED
    assert max(asked) <= 0.001
    await store.close()


async def test_a_lock_of_another_process_makes_writes_unavailable_for_its_duration(
    tmp_path: Path, parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "BUSY_TIMEOUT_SECONDS", 0.05)
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


async def test_calls_during_close_complete_or_are_refused(tmp_path: Path, parents: Parents) -> None:
    store = await open_store(url(tmp_path))
    calls = [
        asyncio.create_task(store.get(EVERYONE, parents.key(new_sid("KI")))) for _ in range(50)
    ]
    closing = asyncio.create_task(store.close())
    for _ in range(50):
        await asyncio.sleep(0)
        calls.append(asyncio.create_task(store.get(EVERYONE, parents.key(new_sid("KI")))))
    results = await asyncio.gather(*calls, return_exceptions=True)
    await closing
    assert all(result is None or isinstance(result, StoreClosedError) for result in results)


async def test_opening_a_current_store_needs_no_write_lock(tmp_path: Path) -> None:
    await (await open_store(url(tmp_path))).close()
    with another_process(tmp_path) as db:
        db.execute("BEGIN IMMEDIATE")
        await (await open_store(url(tmp_path))).close()


ROWS = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bool, list[Row]]]:
    """A store with two large Sessions. In one of them (True) all rows have the same time."""
    folder = tmp_path_factory.mktemp("large")
    sessions: dict[bool, list[Row]] = {}

    async def fill() -> None:
        store = await open_store(url(folder))
        for tied in (False, True):
            template = row_of(new_interaction(new_parents()))
            sessions[tied] = [
                template._replace(sid=f"KI{n:032x}", created_us=NOON_US + n * (not tied))
                for n in range(ROWS)
            ]
            for start in range(0, ROWS, 1000):
                await store.record(sessions[tied][start : start + 1000])
        await store.close()

    asyncio.run(fill())
    return folder, sessions


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("concat", [False, True])
def test_the_last_page_costs_as_much_as_the_first(
    large: tuple[Path, dict[bool, list[Row]]],
    descending: bool,
    filtered: bool,
    tied: bool,
    concat: bool,
) -> None:
    """Measured in steps of SQLite's virtual machine, which are the same on every machine."""
    folder, sessions = large
    rows = sessions[tied][::-1] if descending else sessions[tied]
    parents = Parents(rows[0].account_sid, rows[0].service_sid, rows[0].session_sid)
    db = connect(folder / "interactions.db", read_only=True)
    bounds = Filter(type=1, created_from_us=NOON_US, created_before_us=NOW_US)

    def steps(after: int | None) -> int:
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        db.set_progress_handler(count, 1)
        conditions = bounds if filtered else Filter()
        edge = None if after is None else Cursor(Position(rows[after].created_us, rows[after].sid))
        asked = query(parents, limit=50, edge=edge, descending=descending, filter=conditions)
        page = page_reads.page(db, Scope(parents.account_sid), asked, concat=concat)
        db.set_progress_handler(None, 0)
        begin = 0 if after is None else after + 1
        expected = rows[begin], rows[begin + 49]
        assert (page.first, page.last) == tuple(Position(r.created_us, r.sid) for r in expected)
        return counted

    try:
        first, second, last = steps(None), steps(49), steps(ROWS - 51)
    finally:
        db.close()
    # Every page except the first also compares each row with its cursor.
    assert last <= second * 1.02
    assert last <= first + 50 * 15


@pytest.mark.parametrize("known", [0, 25, 50, 75])
async def test_each_row_of_a_batch_of_several_statements_gets_its_outcome(
    tmp_path: Path, parents: Parents, known: int
) -> None:
    """The position of an existing row in the batch makes no difference."""
    rows = [row_of(new_interaction(parents)) for _ in range(76)]
    store = await open_store(url(tmp_path))
    try:
        await store.record([rows[known]])
        outcomes = [outcome for outcome, _ in await store.record(rows)]
    finally:
        await store.close()
    assert outcomes.pop(known) is Outcome.UNCHANGED
    assert set(outcomes) == {Outcome.CREATED}
