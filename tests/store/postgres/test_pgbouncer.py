"""The contract of all stores for PostgreSQL behind PgBouncer in transaction mode."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from testing.build import Parents
from testing.pgbouncer import found_pgbouncer, running_pgbouncer
from testing.postgres import Cluster, running_cluster

from interaction_svc.store import PostgresLimits, Store, StoreUnavailableError
from interaction_svc.store.factory import open_store
from tests.store.contract.stores import EVERYONE, query
from tests.store.contract.suite import StoreSuite
from tests.store.postgres.databases import database, opened_store

__all__ = ["database"]


needs_pgbouncer = pytest.mark.skipif(
    found_pgbouncer() is None, reason="PgBouncer isn't on this machine"
)


@pytest.fixture(scope="module")
def pooler(cluster: Cluster) -> Iterator[int]:
    """The port of a PgBouncer with fewer database connections than a store opens to it."""
    if found_pgbouncer() is None:
        pytest.skip("PgBouncer isn't on this machine")
    with running_pgbouncer(cluster, connections=3) as port:
        yield port


class TestBehindPgBouncer(StoreSuite):
    """Maps each test folder to a database, which is created when the folder is first opened."""

    @pytest.fixture(autouse=True)
    def _in(self, cluster: Cluster, pooler: int) -> None:
        self._cluster = cluster
        self._pooler = pooler
        self._databases: dict[Path, str] = {}

    @asynccontextmanager
    async def _opened(self, folder: Path) -> AsyncIterator[Store]:
        if folder not in self._databases:
            self._databases[folder] = self._cluster.new_database()
        url = self._cluster.url(
            self._databases[folder], port=self._pooler, statement_cache_size="0"
        )
        async with opened_store(url) as store:
            yield store

    def opened(self, folder: Path):  # type: ignore[no-untyped-def]
        return self._opened(folder)


async def problem_of(url: str) -> str:
    with pytest.raises(StoreUnavailableError) as raised:
        await open_store(url, postgres=PostgresLimits(statement_seconds=2))
    return str(raised.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "startup parameter statement_timeout: write statement_cache_size=0"),
        ({"statement_cache_size": "0", "search_path": "a"}, "startup parameter search_path: leave"),
        (
            {"statement_cache_size": "0", "options": "-c%20jit%3Doff"},
            "startup parameter options: leave it out .* ignore_startup_parameters",
        ),
        ({"statement_cache_size": "0", "sslmode": "require"}, "doesn't speak TLS"),
    ],
)
async def test_parameters_that_the_pooler_rejects_are_named(
    cluster: Cluster, database: str, pooler: int, options: dict[str, str], problem: str
) -> None:
    text = await problem_of(cluster.url(database, port=pooler, **options))
    assert re.search(problem, text), text


async def test_refused_logins_of_the_pooler_are_reported(
    cluster: Cluster, database: str, pooler: int
) -> None:
    url = cluster.url(database, port=pooler, statement_cache_size="0")
    assert "doesn't take the password" in await problem_of(url.replace("secret", "wrong"))
    nowhere = cluster.url("nowhere", port=pooler, statement_cache_size="0")
    assert "no such database" in await problem_of(nowhere)


@needs_pgbouncer
async def test_mixed_up_prepared_statements_are_reported(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    """With `ignore_startup_parameters` alone, connecting succeeds and prepared statements fail."""
    async with opened_store(cluster.url(database)):
        pass
    with running_pgbouncer(
        cluster, connections=3, ignore_startup_parameters="statement_timeout"
    ) as port:
        async with opened_store(cluster.url(database, port=port), migrate=False) as store:
            calls = (store.page(EVERYONE, query(parents)) for _ in range(50))
            results = await asyncio.gather(*calls, return_exceptions=True)
        failed = [result for result in results if isinstance(result, Exception)]
        assert failed
        assert all("write statement_cache_size=0" in str(error) for error in failed)


@needs_pgbouncer
async def test_a_lost_database_is_reported_and_used_again_after_the_login_pause(
    parents: Parents,
) -> None:
    """The pause is `server_login_retry`, which is 15 seconds by default."""
    limits = PostgresLimits(statement_seconds=0.5)
    with (
        running_cluster() as cluster,
        running_pgbouncer(cluster, connections=3, server_login_retry="1") as port,
    ):
        url = cluster.url("postgres", port=port, statement_cache_size="0")
        async with opened_store(url, limits=limits) as store, asyncio.timeout(60):
            cluster.stop("fast")
            problem = ""
            while "server_login_retry" not in problem:
                with pytest.raises(StoreUnavailableError) as raised:
                    await store.page(EVERYONE, query(parents))
                problem = str(raised.value)
            cluster.start()
            while problem:
                try:
                    await store.page(EVERYONE, query(parents))
                except StoreUnavailableError:
                    await asyncio.sleep(0.1)
                else:
                    problem = ""
