"""The PostgreSQL backend: the suite of all stores."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from interaction_svc.store import Store, open_store
from tests.postgres import Cluster
from tests.store.suite import StoreSuite


class TestPostgresStore(StoreSuite):
    """A test's folder stands for a database, which is made when it is first opened."""

    @pytest.fixture(autouse=True)
    def _in(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._databases: dict[Path, str] = {}

    @asynccontextmanager
    async def _opened(self, folder: Path) -> AsyncIterator[Store]:
        if folder not in self._databases:
            self._databases[folder] = self._cluster.new_database()
        store = await open_store(self._cluster.url(self._databases[folder]))
        try:
            yield store
        finally:
            await store.close()

    def opened(self, folder: Path):  # type: ignore[no-untyped-def]
        return self._opened(folder)
