"""Connections and statements are terminated in PostgreSQL while a server has calls in progress."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import grpc
import pytest
from testing.build import Parents, new_session
from testing.log_lines import logged
from testing.postgres import Cluster, found_programs, running_cluster
from testing.process import served
from testing.requests import Code, get_request, list_request, record
from testing.traffic import NOT_SERVING, SERVING, traffic, until

from interaction_svc.store.factory import check_store
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

_THE_SERVICES = (
    "FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'interaction-svc'"
)


@pytest.mark.parametrize("end", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_terminated_statements_leave_no_partial_writes(
    cluster: Cluster, tmp_path: Path, parents: Parents, end: str
) -> None:
    database = cluster.new_database()
    with served(tmp_path, "--store", cluster.url(database)) as server:
        async with (
            traffic(server.grpc_address, parents) as calls,
            cluster.connected(database) as outside,
        ):
            ended = 0
            async with asyncio.timeout(60):
                while ended < 60:
                    ended += await outside.fetchval(
                        f"SELECT count({end}(pid)) {_THE_SERVICES} AND state <> 'idle'"
                    )
                    await calls.until_one_succeeds()
            await calls.until_all_succeed()
        # A call is tried three times, so that it is refused only if all three are terminated.
        assert len(calls.refused) < ended
        assert set(calls.refused) <= {Code.UNAVAILABLE}
    assert "internal error" not in server.log.read_text()
    # A row without its owner would be a partial write.
    assert (await check_store(cluster.url(database))).ok


@pytest.fixture(scope="module")
def small_cluster() -> Iterator[Cluster]:
    """A PostgreSQL that accepts twenty connections."""
    if found_programs() is None:
        pytest.skip("PostgreSQL isn't on this machine")
    with running_cluster(
        max_connections="20", superuser_reserved_connections="0", max_wal_senders="0"
    ) as running:
        yield running


async def test_without_free_connections_it_is_unhealthy_and_recovers(
    small_cluster: Cluster, tmp_path: Path, parents: Parents
) -> None:
    database = small_cluster.new_database()
    with served(tmp_path, "--store", small_cluster.url(database)) as server:
        async with traffic(server.grpc_address, parents) as calls:
            async with all_connections(small_cluster, database):
                refused = len(calls.refused)
                await until(lambda: len(calls.refused) > refused + 20, "calls that are refused")
                await calls.until_serving(False)
            await calls.until_serving(True)
            await calls.until_all_succeed()
        assert set(calls.refused) == {Code.UNAVAILABLE}
        assert calls.health == [SERVING, NOT_SERVING, SERVING]
    (line,) = logged(server, "not serving: the store can't be used")
    assert "takes no more connections" in line["cause"]


@asynccontextmanager
async def all_connections(cluster: Cluster, database: str) -> AsyncIterator[None]:
    """Hold all connections of the cluster, also those of the service."""
    async with AsyncExitStack() as taken, cluster.connected(database) as outside:
        in_a_row = 0  # the service may reconnect between two of these connections
        async with asyncio.timeout(30):
            while in_a_row < 3:
                in_a_row += 1
                try:
                    await taken.enter_async_context(cluster.connected(database))
                    in_a_row = 0
                except asyncpg.TooManyConnectionsError:
                    if await outside.fetchval(f"SELECT count(*) {_THE_SERVICES}"):
                        in_a_row = 0
                        await outside.execute(f"SELECT pg_terminate_backend(pid) {_THE_SERVICES}")
        yield


async def test_a_thousand_cancelled_calls_leak_no_connection(
    cluster: Cluster, tmp_path: Path, parents: Parents
) -> None:
    database, made = cluster.new_database(), new_session(parents, 20)
    flags = ("--store", cluster.url(database), "--postgres-connections", "3")
    with served(tmp_path, *flags) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            await record(IngestServiceStub(channel), *made)
            reading = InteractionServiceStub(channel)
            for n in range(50):
                calls = [
                    reading.ListInteractions(list_request(parents))
                    if n % 2
                    else reading.GetInteraction(get_request(one))
                    for one in made
                ]
                for call in calls[: n % 3]:  # the others are in progress by then
                    await call
                for call in calls:
                    call.cancel()
            pages = await asyncio.gather(
                *(reading.ListInteractions(list_request(parents)) for _ in made)
            )
            assert all(len(page.interactions) == len(made) for page in pages)
            count = cluster.sql(database, f"SELECT count(*) {_THE_SERVICES}")
            assert int(count) <= 3 + 1
