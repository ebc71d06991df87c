"""The PostgreSQL backend through PgBouncer in transaction mode: the suite of all stores."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from interaction_svc.store import Store
from tests.pgbouncer import found_pgbouncer, running_pgbouncer
from tests.postgres import Cluster
from tests.store.databases import opened_store
from tests.store.suite import StoreSuite


@pytest.fixture(scope="module")
def pooler(cluster: Cluster) -> Iterator[int]:
    """The port of a PgBouncer with fewer connections to the database than a store has to it."""
    if found_pgbouncer() is None:
        pytest.skip("PgBouncer isn't on this machine")
    with running_pgbouncer(cluster, connections=3) as port:
        yield port


class TestBehindPgBouncer(StoreSuite):
    """A test's folder stands for a database, which is made when it is first opened."""

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
