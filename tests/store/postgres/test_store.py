"""The PostgreSQL backend: the contract of all stores, and several servers on one database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from testing.build import (
    NOON_US,
    SECOND_US,
    Parents,
    new_interaction,
    new_leg,
    new_parents,
    new_sid,
)
from testing.postgres import Cluster

from interaction_svc.domain import timestamps
from interaction_svc.domain.interactions import Outcome
from interaction_svc.store import (
    InvolvesParticipant,
    Store,
    StoreClosedError,
    StoreURLError,
    merge_row,
    row_of,
)
from interaction_svc.store.factory import backup_store, check_store
from interaction_svc.store.postgres.row_format import packed_row
from interaction_svc.store.rows import COLUMNS
from interaction_svc.store.tables import INTERACTIONS
from interaction_svc.v1 import interaction_pb2 as pb
from tests.store.contract.api_keys import new_key
from tests.store.contract.merging import partial_records
from tests.store.contract.stores import EVERYONE, NOW_US, query
from tests.store.contract.suite import StoreSuite
from tests.store.contract.table_io import everything
from tests.store.postgres.databases import database, opened_store

__all__ = ["database"]


class TestPostgresStore(StoreSuite):
    """Maps each test folder to a database, which is created when the folder is first opened."""

    @pytest.fixture(autouse=True)
    def _in(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._databases: dict[Path, str] = {}

    @asynccontextmanager
    async def _opened(self, folder: Path) -> AsyncIterator[Store]:
        if folder not in self._databases:
            self._databases[folder] = self._cluster.new_database()
        async with opened_store(self._cluster.url(self._databases[folder])) as store:
            yield store

    def opened(self, folder: Path):  # type: ignore[no-untyped-def]
        return self._opened(folder)


@pytest.fixture
async def servers(cluster: Cluster, database: str) -> AsyncIterator[list[Store]]:
    """The stores of four servers on one database."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(opened_store(cluster.url(database))) for _ in range(4)
        ]


async def test_a_load_wins_over_a_concurrent_record_of_the_same_row(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    earlier = row._replace(updated_us=0, frame=b"earlier")
    async with opened_store(cluster.url(database)) as store, cluster.connected(database) as db:
        recording = db.transaction()
        await recording.start()
        places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        statement = f"INSERT INTO interactions ({COLUMNS}) VALUES ({places})"
        await db.execute(statement, *packed_row(earlier))
        loading = asyncio.create_task(store.load(INTERACTIONS, [row]))
        async with asyncio.timeout(30), cluster.connected(database) as onlooker:
            while not await onlooker.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ):
                await asyncio.sleep(0.01)
        await recording.commit()
        await loading
        assert await everything(store, INTERACTIONS) == [row]


async def test_one_of_many_servers_creates(servers: list[Store], parents: Parents) -> None:
    for _ in range(30):
        rows = [row_of(new_interaction(parents)) for _ in range(5)]
        orders = (rows, rows[::-1], rows[2:] + rows[:2], rows)
        recorded = await asyncio.gather(
            *(store.record(order) for store, order in zip(servers, orders, strict=True))
        )
        outcomes = sorted(one.outcome for several in recorded for one in several)
        assert outcomes == [Outcome.CREATED] * 5 + [Outcome.UNCHANGED] * 15


def _at_second(n: int, first: pb.Interaction, **fields: Any) -> pb.Interaction:
    """Return an update of an Interaction, `n` seconds after NOON_US."""
    made = pb.Interaction()
    made.CopyFrom(first)
    made.MergeFrom(pb.Interaction(**fields))
    timestamps.set_us(made.update_time, NOON_US + n * SECOND_US)
    return made


async def test_the_newest_of_concurrent_updates_is_kept(
    servers: list[Store], parents: Parents
) -> None:
    for _ in range(30):
        first = [new_interaction(parents) for _ in range(3)]
        await servers[0].record([row_of(interaction) for interaction in first])
        updates = [
            [row_of(_at_second(n, one, data=f'"{n}"')) for one in (first if n % 2 else first[::-1])]
            for n in range(1, 5)
        ]
        await asyncio.gather(
            *(store.record(rows) for store, rows in zip(servers, updates, strict=True))
        )
        newest = {row.sid: row.frame for row in updates[-1]}
        for one in first:
            assert await servers[1].get(EVERYONE, parents.key(one.sid)) == newest[one.sid]


async def test_concurrent_records_of_one_interaction_lose_nothing(
    servers: list[Store], parents: Parents
) -> None:
    """The result is that of the same records one after the other, whatever their conflicts."""
    random = Random(5)
    for _ in range(40):
        records = partial_records(new_interaction(parents))
        alone = row_of(records[0])
        for record in records[1:]:
            alone = merge_row(alone, row_of(record))[1] or alone
        random.shuffle(records)
        await servers[0].record([row_of(records[0])])
        await asyncio.gather(
            *(
                store.record([row_of(record)])
                for store, record in zip(servers, records[1:], strict=True)
            )
        )
        found = await servers[0].read(INTERACTIONS, after=None, limit=1000, max_bytes=1 << 24)
        assert alone in found


async def test_a_delete_wins_over_concurrent_records_of_other_servers(
    servers: list[Store], parents: Parents
) -> None:
    for n in range(60):
        interaction = new_interaction(parents)
        newer = new_interaction(parents, NOON_US, NOON_US + 1, sid=interaction.sid)
        row, key = row_of(interaction), parents.key(interaction.sid)
        await servers[0].record([row])
        deleted, *_ = await asyncio.gather(
            servers[0].delete(EVERYONE, key, NOW_US),
            servers[1].record([row]),
            servers[2].record([row_of(newer)]),
            servers[3].record([row_of(new_interaction(parents)), row] if n % 2 else [row]),
        )
        assert deleted
        for store in servers:
            assert await store.get(EVERYONE, key) is None
        assert await servers[3].record([row_of(newer)]) == [(Outcome.DELETED, None)]


async def test_an_insert_that_waited_for_a_delete_sees_its_tombstone(
    cluster: Cluster, database: str, servers: list[Store], parents: Parents
) -> None:
    """The insert waits for a delete that isn't committed yet."""
    row = row_of(new_interaction(parents))
    await servers[0].record([row])
    async with cluster.connected(database) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("DELETE FROM interactions")
        await other.execute(
            "INSERT INTO tombstones VALUES ($1, $2, $3, 0)",
            *(sid[2:] for sid in (row.session_sid, row.account_sid, row.sid)),
        )
        elsewhere = parents._replace(service_sid=new_sid("KS"))
        recording = asyncio.create_task(
            servers[1].record([row_of(new_interaction(elsewhere, sid=row.sid))])
        )
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        async with asyncio.timeout(20), cluster.connected(database) as watching:
            while not await watching.fetchval(waits):
                await asyncio.sleep(0.01)
        await transaction.commit()
        assert await recording == [(Outcome.DELETED, None)]
        assert await other.fetchval("SELECT count(*) FROM interactions") == 0
        # A record of a deleted Interaction doesn't add an owner to the Session.
        assert await other.fetchval("SELECT count(*) FROM session_owners") == 1


async def test_bulk_deletions_and_records_of_the_same_rows_do_not_deadlock(
    servers: list[Store], parents: Parents
) -> None:
    leg = new_leg()
    rows = [row_of(new_interaction(parents, NOON_US + n, inbound=leg)) for n in range(150)]
    await servers[0].record(rows)
    found = await asyncio.gather(
        servers[0].bulk_delete(InvolvesParticipant(leg.participant_sid), after=None, now_us=NOW_US),
        servers[1].bulk_delete(InvolvesParticipant(leg.participant_sid), after=None, now_us=NOW_US),
        servers[2].record(rows[::-1]),
        servers[3].record(rows),
    )
    swept = [one.by_service.get(parents.service_sid, 0) for one in found[:2]]
    assert sum(swept) == 150
    assert (await servers[0].page(EVERYONE, query(parents, limit=200))).rows == 0


async def test_batched_gets_of_similar_keys_are_not_mixed_up(
    servers: list[Store], parents: Parents
) -> None:
    """Gets in one round trip distinguish keys that differ in one part only."""
    there = new_parents()
    here = new_interaction(parents)
    rows = [row_of(here), row_of(new_interaction(there, sid=here.sid, data='"there"'))]
    await servers[0].record(rows)
    keys = [parents.key(here.sid), there.key(here.sid)] * 20
    wrong = [parents.key(here.sid)._replace(service_sid=there.service_sid)] * 5
    found = await asyncio.gather(*(servers[1].get(EVERYONE, key) for key in [*keys, *wrong]))
    assert found == [row.frame for row in rows] * 20 + [None] * 5


async def test_calls_that_arrive_while_a_batch_ends_are_answered(
    servers: list[Store], parents: Parents
) -> None:
    """Calls are batched at any moment, even while the last batch ends."""
    row = row_of(new_interaction(parents))
    await servers[0].record([row])
    key = parents.key(row.sid)
    async with asyncio.timeout(60):
        for n in range(300):
            calls = [asyncio.create_task(servers[0].get(EVERYONE, key)) for _ in range(1 + n % 4)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            for _ in range(n % 3):
                await asyncio.sleep(0)
            assert await servers[0].get(EVERYONE, key) == row.frame
            assert await servers[0].record([row]) == [(Outcome.UNCHANGED, row.frame)]
            await asyncio.gather(*calls)


async def test_api_keys_of_one_server_are_known_to_the_other(servers: list[Store]) -> None:
    key = new_key()
    await servers[0].add_key(key)
    assert await servers[1].keys_of(key.sid) == [key]
    await servers[1].revoke_key(key.sid, NOW_US)
    assert (await servers[0].keys_of(key.sid))[0].revoked_us == NOW_US


async def test_check_names_rows_that_differ_from_their_frame(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    rows = sorted(row_of(new_interaction(parents)) for _ in range(600))
    async with opened_store(cluster.url(database)) as store:
        await store.record(rows)
    assert (await check_store(cluster.url(database))).rows == 600
    bad = rows[3], rows[200], rows[400], rows[599]
    other = rows[0].frame.hex()
    changes = ("type = 3", r"frame = '\xff'", rf"frame = '\x{other}'", "checksum = 1")
    for row, change in zip(bad, changes, strict=True):
        cluster.sql(database, f"UPDATE interactions SET {change} WHERE sid = '{row.sid[2:]}'")
    report = await check_store(cluster.url(database))
    assert (report.rows, report.bad_rows, report.ok) == (600, 4, False)
    assert report.some_bad == tuple(row[:3] for row in bad)


async def test_calls_during_close_complete_or_are_refused(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    async with opened_store(cluster.url(database)) as store:
        calls = [
            asyncio.create_task(store.get(EVERYONE, parents.key(new_sid("KI")))) for _ in range(50)
        ]
        pages = []
        closing = asyncio.create_task(store.close())
        for _ in range(50):
            await asyncio.sleep(0)
            pages.append(asyncio.create_task(store.page(EVERYONE, query(parents))))
        results = await asyncio.gather(*calls, *pages, return_exceptions=True)
        await closing
    unexpected = [r for r in results if isinstance(r, Exception)]
    assert all(isinstance(error, StoreClosedError) for error in unexpected)


def test_a_backup_of_a_database_is_refused_with_its_tools(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(StoreURLError, match="pg_basebackup"):
        backup_store(cluster.url("x"), tmp_path / "copy.db", lambda *_: None)
