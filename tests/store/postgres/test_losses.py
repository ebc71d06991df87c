"""Retries of the PostgreSQL store after lost connections and cancelled statements."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from testing.build import Parents, new_interaction
from testing.postgres import Cluster, found_programs, running_cluster
from testing.tcp_proxy import tcp_proxy

from interaction_svc.domain.interactions import Outcome
from interaction_svc.store import PostgresLimits, StoreUnavailableError, row_of
from tests.store.contract.stores import EVERYONE, NOW_US, query
from tests.store.postgres.databases import database, opened_store

__all__ = ["database"]

_WAITING = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.mark.parametrize("end", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_a_terminated_record_is_retried_and_a_delete_is_not(
    cluster: Cluster, database: str, parents: Parents, end: str
) -> None:
    first, second = (row_of(new_interaction(parents)) for _ in range(2))
    async with opened_store(cluster.url(database)) as store:
        await store.record([first])
        async with cluster.connected(database) as other:
            transaction = other.transaction()
            await transaction.start()
            await other.execute("LOCK TABLE interactions, tombstones")
            recording = asyncio.create_task(store.record([second, first]))
            deleting = asyncio.create_task(store.delete(EVERYONE, parents.key(first.sid), NOW_US))
            reading = asyncio.create_task(store.get(EVERYONE, parents.key(first.sid)))
            async with asyncio.timeout(20), cluster.connected(database) as outside:
                while await outside.fetchval(f"SELECT count(*) {_WAITING}") < 3:
                    await asyncio.sleep(0.01)
                assert await outside.fetchval(f"SELECT count({end}(pid)) {_WAITING}") == 3
                with pytest.raises(StoreUnavailableError, match=r"cancelled|stopped|lost"):
                    await deleting
            await transaction.rollback()
        recorded = await recording
        assert [one.outcome for one in recorded] == [Outcome.CREATED, Outcome.UNCHANGED]
        assert await reading == first.frame
        assert await store.delete(EVERYONE, parents.key(first.sid), NOW_US)


@pytest.mark.parametrize(
    ("what", "second_table"), [("delete", "tombstones"), ("record", "session_owners")]
)
async def test_a_transaction_terminated_between_statements_changes_nothing(
    cluster: Cluster, database: str, parents: Parents, what: str, second_table: str
) -> None:
    there, new = (row_of(new_interaction(parents)) for _ in range(2))
    async with opened_store(cluster.url(database)) as store:
        await store.record([there])
        async with cluster.connected(database) as other, cluster.connected(database) as outside:
            transaction = other.transaction()
            await transaction.start()
            await other.execute(f"LOCK TABLE {second_table}")  # the first statement doesn't use it
            doing: asyncio.Task[object] = asyncio.create_task(
                store.record([new])
                if what == "record"
                else store.delete(EVERYONE, parents.key(there.sid), NOW_US)
            )
            ended = 0
            async with asyncio.timeout(20):
                while not doing.done():
                    ended += await outside.fetchval(
                        f"SELECT count(pg_terminate_backend(pid)) {_WAITING}"
                    )
                    await asyncio.sleep(0.01)
            with pytest.raises(StoreUnavailableError):
                await doing
            assert ended
            await transaction.rollback()
        assert await store.get(EVERYONE, parents.key(there.sid)) == there.frame
        assert await store.get(EVERYONE, parents.key(new.sid)) is None


async def test_a_repeatedly_cancelled_statement_fails(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    async with opened_store(cluster.url(database)) as store, cluster.connected(database) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("LOCK TABLE interactions")
        recording = asyncio.create_task(store.record([row]))
        cancelled = 0
        async with asyncio.timeout(20), cluster.connected(database) as outside:
            while not recording.done():
                cancelled += await outside.fetchval(
                    f"SELECT count(pg_cancel_backend(pid)) {_WAITING}"
                )
                await asyncio.sleep(0.01)
        await transaction.rollback()
        with pytest.raises(StoreUnavailableError, match="cancelled"):
            await recording
        assert cancelled >= 3
        assert await store.get(EVERYONE, parents.key(row.sid)) is None


async def test_a_call_succeeds_after_all_connections_are_dead(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    """A proxy was restarted, and resets each old connection when it is used."""
    row = row_of(new_interaction(parents))
    async with (
        tcp_proxy(cluster.port) as machine,
        opened_store(cluster.url(database, port=machine.port)) as store,
    ):
        await store.record([row])
        for call in (
            lambda: store.get(EVERYONE, parents.key(row.sid)),
            lambda: store.page(EVERYONE, query(parents)),
            lambda: store.record([row]),
        ):
            await asyncio.gather(*(store.page(EVERYONE, query(parents)) for _ in range(20)))
            assert machine.forget() > 5
            assert await call()


@pytest.fixture(scope="module")
def small_cluster() -> Iterator[Cluster]:
    """A PostgreSQL server with a limit of ten connections."""
    if found_programs() is None:
        pytest.skip("PostgreSQL isn't on this machine")
    with running_cluster(
        max_connections="10", superuser_reserved_connections="0", max_wal_senders="0"
    ) as running:
        yield running


async def test_calls_succeed_below_the_configured_number_of_connections(
    small_cluster: Cluster, parents: Parents
) -> None:
    database = small_cluster.new_database()
    row = row_of(new_interaction(parents))
    limits = PostgresLimits(connections=20)
    async with opened_store(small_cluster.url(database), limits=limits) as store:
        await store.record([row])
        async with AsyncExitStack() as others:
            for _ in range(6):
                await others.enter_async_context(small_cluster.connected(database))
            for _ in range(5):
                pages = [store.page(EVERYONE, query(parents)) for _ in range(60)]
                assert {page.rows for page in await asyncio.gather(*pages)} == {1}
