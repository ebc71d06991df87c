"""Failover of PostgreSQL to a standby, under a server with writers and readers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from testing.build import Parents, new_interaction
from testing.postgres import HOST, Cluster, found_programs, running_cluster, running_standby
from testing.process import served
from testing.requests import Code
from testing.traffic import NOT_SERVING, SERVING, traffic, until

from interaction_svc.domain.interactions import Outcome
from interaction_svc.store import PostgresLimits, Row, Store, StoreUnavailableError, row_of
from tests.store.contract.stores import EVERYONE, query
from tests.store.postgres.databases import opened_store

_WAIT_FOR_STANDBY = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    " AND datname = current_database()"
)


@pytest.fixture
def primary() -> Iterator[Cluster]:
    """A primary that acknowledges a commit once its standby has it."""
    if found_programs() is None:
        pytest.skip("PostgreSQL isn't on this machine")
    with running_cluster(wal_level="replica", synchronous_commit="on") as running:
        yield running


@pytest.fixture
def standby(primary: Cluster) -> Iterator[Cluster]:
    with running_standby(primary, "second", synchronous_commit="on") as running:
        primary.configure(synchronous_standby_names="second")
        primary.reload()
        yield running


async def test_no_acknowledged_write_is_lost_when_a_standby_is_promoted(
    primary: Cluster, standby: Cluster, tmp_path: Path, parents: Parents
) -> None:
    database = primary.new_database()
    url = primary.url(database, target_session_attrs="read-write").replace(
        f"{HOST}:{primary.port}", f"{HOST}:{primary.port},{HOST}:{standby.port}"
    )
    with served(tmp_path, "--store", url) as server:
        async with traffic(server.grpc_address, parents) as calls:
            with standby.hung():
                # These commits wait for the standby, and have not reached it when the primary dies.
                async with asyncio.timeout(30), primary.connected(database) as outside:
                    while not await outside.fetchval(_WAIT_FOR_STANDBY):
                        await asyncio.sleep(0.01)
                primary.kill()
                standby.kill()  # otherwise it would receive them from the socket's buffer
            standby.start()
            await calls.until_serving(False)
            await until(lambda: bool(calls.refused), "call that is refused")
            standby.promote()
            await calls.until_serving(True)
            await calls.until_all_succeed()
        assert set(calls.refused) == {Code.UNAVAILABLE}
        assert calls.health == [SERVING, NOT_SERVING, SERVING]
    assert "internal error" not in server.log.read_text()


async def test_without_a_standby_reads_continue_and_writes_are_in_doubt(
    primary: Cluster, parents: Parents
) -> None:
    database = primary.new_database()
    limits = PostgresLimits(connections=3, statement_seconds=1)
    async with opened_store(primary.url(database), limits=limits) as store:
        primary.configure(synchronous_standby_names="away")
        primary.reload()
        late = await refused_record(store, parents)
        there = (await store.page(EVERYONE, query(parents, limit=1000))).rows
        with pytest.raises(StoreUnavailableError):  # waits for the lock of the first record
            await store.record([late])
        assert (await store.page(EVERYONE, query(parents, limit=1000))).rows == there
        primary.configure(synchronous_standby_names="")
        primary.reload()
        async with asyncio.timeout(30), primary.connected(database) as outside:
            while await outside.fetchval(_WAIT_FOR_STANDBY):
                await asyncio.sleep(0.01)
        assert [one.outcome for one in await store.record([late])] == [Outcome.UNCHANGED]


async def refused_record(store: Store, parents: Parents) -> Row:
    """Record until a record is not acknowledged, because the server has reloaded its settings."""
    while True:
        row = row_of(new_interaction(parents))
        try:
            await store.record([row])
        except StoreUnavailableError:
            return row
