"""Stores to copy in tests, and their contents."""

from pathlib import Path
from typing import NamedTuple

import pytest
from testing.build import NOON_US, Parents, new_interaction, new_parents
from testing.postgres import PASSWORD, Cluster
from testing.process import run

from interaction_svc.store import Row, Store, row_of
from interaction_svc.store.factory import open_store
from interaction_svc.store.tables import (
    TABLES,
    Table,
    TableRow,
)
from interaction_svc.transfer.copier import NamedStore, StoreCopier, Watch
from tests.store.contract.api_keys import new_key
from tests.store.contract.stores import EVERYONE, NOW_US
from tests.store.contract.table_io import everything


class Copied(NamedTuple):
    status: int
    tables: dict[str, str]
    """The output for each table."""
    errors: str


def copied(source: str, target: str, *flags: str) -> Copied:
    done = run("copy", "--from", source, "--to", target, *flags)
    for printed in (done.stdout, done.stderr):
        assert PASSWORD.encode() not in printed
        assert PASSWORD.replace(" ", "%20").encode() not in printed
    lines = [line.partition(": ") for line in done.stdout.decode().splitlines()]
    return Copied(done.returncode, {name: rest for name, _, rest in lines}, done.stderr.decode())


class Opened:
    """Opens a store until the end of the block."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Store:
        self._store = await open_store(self._url)
        return self._store

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()


def nobody(doing: str, table: Table, done: int) -> None:
    """Ignore the progress."""


async def everything_in(url: str, table: Table) -> list[TableRow]:
    async with Opened(url) as store:
        return await everything(store, table)


async def contents(url: str) -> dict[str, list[object]]:
    async with Opened(url) as store:
        return {table.name: list(await everything(store, table)) for table in TABLES}


async def fill(url: str, count: int, sessions: int = 20, deleted: int = 5) -> list[Row]:
    """Record `count` rows in several Sessions, delete some, create two keys, and revoke one."""
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


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a store that doesn't exist yet."""
    return new_url(request, tmp_path / "target.db")


@pytest.fixture(params=["sqlite", "postgres"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_url(request, tmp_path / "source.db")


def new_url(request: pytest.FixtureRequest, file: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{file}"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.url(cluster.new_database())


async def changed(source: str, rows: list[Row]) -> dict[str, int]:
    """Change a store as a server does, and return the number of changed rows of each table."""
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
    """Copy in this process, verify the copy, and return the number of copied rows of each table."""
    async with Opened(source) as here, Opened(target) as there:
        copying = StoreCopier(NamedStore("source", here), NamedStore("target", there), watch)
        await copying.check_target()
        counts = {table.name: await copying.copy(table) for table in TABLES}
        assert all([(await copying.verify(table)).ok for table in TABLES])
    return counts
