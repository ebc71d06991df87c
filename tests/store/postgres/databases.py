"""Databases for tests of the PostgreSQL store."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from testing.postgres import Cluster

from interaction_svc.store import PostgresLimits, Store
from interaction_svc.store.factory import open_store


@asynccontextmanager
async def opened_store(
    url: str, *, migrate: bool = True, limits: PostgresLimits | None = None
) -> AsyncIterator[Store]:
    store = await open_store(url, migrate=migrate, postgres=limits or PostgresLimits())
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The name of an empty database."""
    name = cluster.new_database()
    yield name
    cluster.sql("postgres", f"DROP DATABASE {name} WITH (FORCE)")
