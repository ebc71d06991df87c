"""`copy`: everything of a store in another one, through kills, and what it refuses."""

import asyncio
import hashlib
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import pytest

from interaction_svc.store import Row, Store, decode, open_store, row_of
from interaction_svc.store.tables import (
    INTERACTIONS,
    TABLES,
    TOMBSTONES,
    Record,
    Table,
    Tombstone,
)
from interaction_svc.transfer.copying import Copying, OtherDataError, Place, Watch
from interaction_svc.v1.ingest_service_pb2 import RECORD_OUTCOME_DELETED, RecordInteractionRequest
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from tests import keyring
from tests.build import NOON_US, Parents, new_interaction, new_parents, new_sid
from tests.memory import measured
from tests.postgres import PASSWORD, Cluster
from tests.serving import COMMAND, Served, run, served
from tests.store.files import url
from tests.store.keeping import new_key
from tests.store.moving import everything
from tests.store.opened import EVERYONE, NOW_US

MANY = 100_000
DELETED = 500


class Copied(NamedTuple):
    status: int
    tables: dict[str, str]
    """What is printed of each table."""
    errors: str


def copied(source: str, target: str, *flags: str) -> Copied:
    done = run("copy", "--from", source, "--to", target, *flags)
    for printed in (done.stdout, done.stderr):
        assert PASSWORD.encode() not in printed
        assert PASSWORD.replace(" ", "%20").encode() not in printed
    lines = [line.partition(": ") for line in done.stdout.decode().splitlines()]
    return Copied(done.returncode, {name: rest for name, _, rest in lines}, done.stderr.decode())


class Opened:
    """A store for the length of a block."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Store:
        self._store = await open_store(self._url)
        return self._store

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()


def nobody(doing: str, table: Table, done: int) -> None:
    """Look at no progress."""


async def everything_in(url: str, table: Table) -> list[Record]:
    async with Opened(url) as store:
        return await everything(store, table)


async def contents(url: str) -> dict[str, list[object]]:
    async with Opened(url) as store:
        return {table.name: list(await everything(store, table)) for table in TABLES}


async def fill(url: str, count: int, sessions: int = 20, deleted: int = 5) -> list[Row]:
    """Record so many in several Sessions and delete some; make two keys, and revoke one."""
    places = [new_parents() for _ in range(sessions)]
    rows = []
    async with Opened(url) as store:
        for start in range(0, count, 1000):
            made = [
                row_of(new_interaction(places[n % sessions], NOON_US + n))
                for n in range(start, min(start + 1000, count))
            ]
            await store.record(made)
            rows += made
        for row in rows[:deleted]:
            parents = Parents(row.account_sid, row.service_sid, row.session_sid)
            assert await store.delete(EVERYONE, parents.key(row.sid), NOW_US)
        keys = [new_key(NOON_US), new_key(NOON_US + 1)]
        for key in keys:
            await store.add_key(key)
        await store.revoke_key(keys[0].sid, NOW_US)
    return rows


def copying_process(source: str, target: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*COMMAND, "copy", "--from", source, "--to", target],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def killed_in_the_middle(cluster: Cluster, source: str, database: str, row: Row) -> int:
    """Copy, and kill it while it loads a stretch with this row; give how many are there."""
    async with cluster.connected(database) as db, cluster.connected(database) as onlooker:
        holding = db.transaction()
        await holding.start()  # who loads the same row waits for the end of this
        places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        await db.execute(f"INSERT INTO interactions VALUES ({places})", *row)
        process = copying_process(source, cluster.url(database))
        async with asyncio.timeout(60):
            while not await onlooker.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ):
                assert process.poll() is None
                await asyncio.sleep(0.01)
        process.kill()
        process.communicate()
        await holding.rollback()
        return int(await onlooker.fetchval("SELECT count(*) FROM interactions"))


@pytest.mark.timeout(180)
async def test_100_000_rows_move_through_a_kill_and_back_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    source, database = url(tmp_path), cluster.new_database()
    target = cluster.url(database)
    rows = await fill(source, MANY, sessions=200, deleted=DELETED)
    key = await asyncio.to_thread(keyring.new_key, tmp_path / "interactions.db", "admin")
    async with Opened(target):
        pass  # which makes its tables
    live = sorted(rows[DELETED:])
    there = await killed_in_the_middle(cluster, source, database, live[MANY // 2])
    assert MANY // 2 - 2_000 <= there <= MANY // 2 + 2_000

    went_on = await asyncio.to_thread(copied, source, target)
    assert (went_on.status, went_on.errors) == (0, "")
    count = MANY - DELETED
    in_both = f"{count:,} in both, SHA-256 "
    left = int(went_on.tables["interactions"].split(" ")[0].replace(",", ""))
    assert count - there - 2_000 <= left <= count - there
    assert in_both in went_on.tables["interactions"]
    assert went_on.tables["tombstones"].startswith(f"0 copied, {DELETED} in both, ")
    assert went_on.tables["api_keys"].startswith("3 copied, 3 in both, ")

    with served(tmp_path, "--store", target) as server:
        await assert_it_serves(server, key, live[0], rows[0])

    back = f"sqlite:///{tmp_path / 'back.db'}"
    returned = await asyncio.to_thread(copied, target, back)
    assert (returned.status, sha256s(returned)) == (0, sha256s(went_on))
    assert returned.tables["interactions"].startswith(f"{count:,} copied, {in_both}")
    checked = await asyncio.to_thread(run, "migrate", "--check", "--store", back)
    assert checked.returncode == 0
    assert f"{count:,} rows checked, 0 bad" in checked.stdout.decode()


async def assert_it_serves(server: Served, key: keyring.Key, live: Row, deleted: Row) -> None:
    """Keys of before let in, nobody else is let in, and what was deleted stays so."""
    path = Parents(live.account_sid, live.service_sid, live.session_sid).path
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as http:
        got = await http.get(f"{path}/{live.sid}", auth=(key.sid, key.secret))
        assert (got.status_code, got.json()["sid"]) == (200, live.sid)
        refused = await http.get(f"{path}/{live.sid}", auth=(live.account_sid, "secret"))
        assert refused.status_code == 401
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        answer = await IngestServiceStub(channel).RecordInteraction(
            RecordInteractionRequest(interaction=decode(deleted.frame)),
            metadata=(("authorization", key.bearer),),
        )
        assert answer.outcome == RECORD_OUTCOME_DELETED


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that isn't there yet."""
    return new_url(request, tmp_path / "target.db")


@pytest.fixture(params=["sqlite", "postgres"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_url(request, tmp_path / "source.db")


def new_url(request: pytest.FixtureRequest, file: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{file}"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.url(cluster.new_database())


async def test_everything_arrives_as_it_is_in_every_direction(source: str, target: str) -> None:
    await fill(source, 300)
    first = await asyncio.to_thread(copied, source, target)
    assert (first.status, first.errors) == (0, "")
    assert list(first.tables) == ["tombstones", "session_owners", "interactions", "api_keys"]
    assert first.tables["tombstones"].startswith("5 copied, 5 in both, SHA-256 ")
    assert first.tables["session_owners"].startswith("20 copied, 20 in both, SHA-256 ")
    assert first.tables["interactions"].startswith("295 copied, 295 in both, SHA-256 ")
    assert first.tables["api_keys"].startswith("2 copied, 2 in both, SHA-256 ")
    there = await contents(target)
    assert there == await contents(source)
    again = await asyncio.to_thread(copied, source, target)
    assert again.status == 0
    assert [printed.split(", ")[0] for printed in again.tables.values()] == ["0 copied"] * 4
    assert sha256s(again) == sha256s(first)


def sha256s(printed: Copied) -> list[str]:
    return [line.rpartition(" ")[2] for line in printed.tables.values()]


def test_the_checksum_is_that_of_lines_anyone_can_make(tmp_path: Path) -> None:
    asyncio.run(fill(url(tmp_path), 40))
    printed = copied(url(tmp_path), f"sqlite:///{tmp_path / 'copy.db'}")
    with closing(sqlite3.connect(tmp_path / "interactions.db")) as db:
        db.create_aggregate("lines_sha256", 1, LinesSha256)  # type: ignore[arg-type]
        (ours,) = db.execute(
            "SELECT lines_sha256(line) FROM (SELECT json_array(sid, account_sid, role,"
            " lower(hex(secret_hash)), created_us, revoked_us) AS line FROM api_keys ORDER BY sid)"
        ).fetchone()
    assert printed.tables["api_keys"].endswith(f"SHA-256 {ours}")


class LinesSha256:
    """An aggregate for SQLite."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def step(self, line: str) -> None:
        self._sha256.update(line.encode() + b"\n")

    def finalize(self) -> str:
        return self._sha256.hexdigest()


async def changed(source: str, rows: list[Row]) -> dict[str, int]:
    """Do what a server does to a store in use; give how much of each table is then to be copied."""
    parents = [Parents(row.account_sid, row.service_sid, row.session_sid) for row in rows]
    new = row_of(new_interaction(new_parents()))
    updates = [
        row_of(new_interaction(parents[n], rows[n].created_us, NOON_US + later, sid=rows[n].sid))
        for n, later in ((20, 10**6), (30, rows[30].updated_us - NOON_US))
    ]
    async with Opened(source) as store:
        await store.record([*updates, new])
        for n in (40, 60):
            await store.delete(EVERYONE, parents[n].key(rows[n].sid), NOW_US + n)
        key = (await store.keys())[-1]
        assert key.revoked_us is None
        await store.revoke_key(key.sid, NOW_US)
        await store.add_key(new_key())
    return {"tombstones": 2, "session_owners": 1, "interactions": 3, "api_keys": 2}


async def copied_here(source: str, target: str, watch: Watch = nobody) -> dict[str, int]:
    """Copy in this process, and give how many records of each table; both are then equal."""
    async with Opened(source) as here, Opened(target) as there:
        copying = Copying(Place("source", here), Place("target", there), watch)
        await copying.check_target()
        counts = {table.name: await copying.copy(table) for table in TABLES}
        assert all([(await copying.verify(table)).ok for table in TABLES])
    return counts


async def test_a_source_that_was_in_use_is_caught_up_with(tmp_path: Path, target: str) -> None:
    source = url(tmp_path)
    rows = await fill(source, 300)
    await copied_here(source, target)
    expected = await changed(source, rows)
    async with Opened(source) as here, Opened(target) as there:
        copying = Copying(Place("source", here), Place("target", there), nobody)
        assert [(await copying.verify(table)).ok for table in TABLES] == [False] * 4
    assert await copied_here(source, target) == expected
    assert await contents(target) == await contents(source)


async def test_what_was_broken_off_goes_on_from_there(tmp_path: Path, target: str) -> None:
    source = url(tmp_path)
    rows = await fill(source, 9_000)
    steps = []

    def break_off(doing: str, table: Table, done: int) -> None:
        steps.append((doing, table, done))
        if table is INTERACTIONS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await copied_here(source, target, break_off)
    assert len(await everything_in(target, INTERACTIONS)) == steps[-1][2] == 2_000
    # Where it was, the source has changed since, and after it.
    expected = await changed(source, sorted(rows[5:]))
    expected["interactions"] += 9_000 - 5 - 2_000
    async with Opened(source) as store:
        expected["api_keys"] = len(await store.keys())  # their turn had not come
    assert await copied_here(source, target) == expected
    assert await contents(target) == await contents(source)


@pytest.mark.parametrize("there", [slice(0, None, 3), slice(5_000, 7_000), slice(8_994, None)])
async def test_gaps_of_any_width_are_found_and_filled(
    tmp_path: Path, target: str, there: slice
) -> None:
    source = url(tmp_path)
    rows = sorted((await fill(source, 9_000))[5:])
    async with Opened(source) as here, Opened(target) as store:
        for start in range(0, 9_000, 1_000):
            of_these = set(rows[start : start + 1_000]) & set(rows[there])
            await store.load(INTERACTIONS, sorted(of_these))
        copying = Copying(Place("source", here), Place("target", store), nobody)
        verified = await copying.verify(INTERACTIONS)
    assert (verified.source.count, verified.target.count) == (len(rows), len(rows[there]))
    missing = set(rows) - set(rows[there])
    assert verified.first_difference == INTERACTIONS.key_of(min(missing))
    assert (await copied_here(source, target))["interactions"] == len(missing)
    assert await everything_in(target, INTERACTIONS) == rows


def another(row: Row) -> Row:
    return row_of(new_interaction(Parents(row.account_sid, row.service_sid, row.session_sid)))


async def revoke_all(store: Store, _: Row) -> None:
    for key in await store.keys():
        await store.revoke_key(key.sid, NOW_US - 1)


async def delete_later(store: Store, _: Row) -> None:
    for one in await everything(store, TOMBSTONES):
        session_sid, sid = TOMBSTONES.key_of(one)
        await store.load(TOMBSTONES, [Tombstone(session_sid, sid, NOW_US + 1)])


OWN: dict[str, tuple[str, Callable[[Store, Row], Awaitable[object]]]] = {
    "an Interaction": ("interactions", lambda store, row: store.record([another(row)])),
    "a Session": (
        "session_owners",
        lambda store, row: store.record([row_of(new_interaction(new_parents()))]),
    ),
    "a newer Interaction": (
        "interactions",
        lambda store, row: store.load(
            INTERACTIONS, [row._replace(updated_us=row.updated_us + 1, frame=b"newer")]
        ),
    ),
    "an Interaction of another": (
        "interactions",
        lambda store, row: store.load(INTERACTIONS, [row._replace(account_sid=new_sid("AC"))]),
    ),
    "a deletion": (
        "tombstones",
        lambda store, row: store.load(TOMBSTONES, [Tombstone(row.session_sid, row.sid, NOW_US)]),
    ),
    "a deletion of another time": ("tombstones", delete_later),
    "a key": ("api_keys", lambda store, row: store.add_key(new_key())),
    "a revocation": ("api_keys", revoke_all),
}


@pytest.mark.parametrize("own", OWN)
async def test_a_target_with_data_of_its_own_is_left_alone(
    tmp_path: Path, target: str, own: str
) -> None:
    source = url(tmp_path)
    rows = await fill(source, 60)
    await copied_here(source, target)
    table, make = OWN[own]
    async with Opened(target) as store:
        await make(store, rows[30])
    await changed(source, rows * 2)
    before = await contents(target)
    with pytest.raises(OtherDataError, match=f"^target has data of its own: in {table}, "):
        await copied_here(source, target)
    assert await contents(target) == before


@pytest.mark.parametrize("changed_one", ["source", "target"])
async def test_a_row_that_was_changed_in_one_is_found(
    cluster: Cluster, tmp_path: Path, changed_one: str
) -> None:
    source, database = url(tmp_path), cluster.new_database()
    rows = await fill(source, 60)
    await copied_here(source, cluster.url(database))
    row = sorted(rows[10:])[7]
    if changed_one == "source":
        with closing(sqlite3.connect(tmp_path / "interactions.db")) as db, db:
            db.execute("UPDATE interactions SET type = 2 WHERE sid = ?", (row.sid,))
    else:
        cluster.sql(
            database, f"UPDATE interactions SET frame = frame || '\\x00' WHERE sid = '{row.sid}'"
        )
    found = await asyncio.to_thread(copied, source, cluster.url(database), "--verify-only")
    assert found.status == 1
    assert found.tables["interactions"].startswith("55 in ")
    assert found.tables["interactions"].endswith(f"first at {row.session_sid}, {row.sid}")
    assert "SHA-256" in found.tables["tombstones"]
    assert "the stores differ" in found.errors


def test_what_can_t_be_copied_is_said_and_makes_nothing(tmp_path: Path, cluster: Cluster) -> None:
    source, target = url(tmp_path), f"sqlite:///{tmp_path / 'target.db'}"
    none = copied(source, target)
    assert (none.status, "interactions.db: it can't be opened" in none.errors) == (1, True)
    asyncio.run(fill(source, 10))
    same = copied(source, f"sqlite:///{tmp_path}/../{tmp_path.name}/interactions.db")
    assert (same.status, "--to: is the store to copy from" in same.errors) == (2, True)
    unmade = copied(source, target, "--verify-only")
    assert (unmade.status, "target.db: it can't be opened" in unmade.errors) == (1, True)
    wrong = copied(source, "mysql://x")
    assert (wrong.status, "is not the URL of a store" in wrong.errors) == (1, True)
    other = tmp_path / "other.db"
    asyncio.run(fill(f"sqlite:///{other}", 1, deleted=0))
    refused = copied(source, f"sqlite:///{other}")
    assert (refused.status, refused.tables) == (1, {})
    assert f"{other} has data of its own: in session_owners, KC" in refused.errors
    assert "give a store that is empty, or a copy of this source" in refused.errors
    other.unlink()
    absent = copied(source, cluster.url("nowhere"))
    assert (absent.status, "there is no such database" in absent.errors) == (1, True)
    assert [file.name for file in tmp_path.iterdir()] == ["interactions.db"]


def test_large_interactions_are_not_all_in_memory(tmp_path: Path) -> None:
    async def fill_largely() -> None:
        async with Opened(url(tmp_path)) as store:
            for _ in range(10):
                parents = new_parents()
                data = "x" * 262_144
                await store.record(
                    [row_of(new_interaction(parents, NOON_US + n, data=data)) for n in range(30)]
                )

    asyncio.run(fill_largely())
    small = measured("copy", "--help", cwd=tmp_path)
    large = measured(
        "copy", "--from", url(tmp_path), "--to", f"sqlite:///{tmp_path / 'b.db'}", cwd=tmp_path
    )
    assert (large.status, "300 copied" in large.output.read_text()) == (0, True)
    # 75 MiB are copied; 48 of these are SQLite's caches, 16 those of a transaction.
    assert large.peak_mib < small.peak_mib + 110
