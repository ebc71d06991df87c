"""The cost of migrating a PostgreSQL schema from version 1 to 2 under writes.

`python -m bench.rewriting` fills a new database with 1,000,000 rows of version 1, 100 for each
Session, with the Sessions interleaved. Then it migrates the schema, while a client records, updates
and deletes as a server of version 1 does. It prints the table of docs/postgresql.md.
"""

import argparse
import asyncio
import time
from contextlib import suppress

import asyncpg
from testing import postgres_version1 as version1
from testing.build import NOON_US, new_interaction, new_parents
from testing.postgres import Cluster, running_cluster

from bench.report import machine
from interaction_svc.store.factory import check_store, open_store

ROWS = 1_000_000
ROWS_A_SESSION = 100
_AT_ONCE = 50_000
_DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
_SIZES = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relname = 'interactions'"


def main() -> None:
    """Fill the database, migrate it, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=ROWS, help="default: %(default)s")
    rows = arguments.parse_args().rows
    with running_cluster(**_DURABLE, shared_buffers="128MB", max_wal_size="4GB") as cluster:
        print(f"{machine()}, {cluster.run('postgres', '--version').strip()}.\n")
        for name, value in asyncio.run(_run(cluster, rows)):
            print(f"| {name} | {value} |")


async def _run(cluster: Cluster, rows: int) -> list[tuple[str, str]]:
    database = cluster.new_database()
    url = cluster.url(database)
    async with (
        cluster.connected(database) as db,
        cluster.connected(database) as old,
        cluster.connected(database) as onlooker,
    ):
        await _fill(db, rows)
        before = await db.fetchval(_SIZES)
        at_rest = await db.fetchval("SELECT pg_database_size(current_database())")
        expected = (await check_store(url)).migration_bytes
        peak = _Peak(onlooker)
        watching = asyncio.create_task(peak.watch())
        writing = asyncio.create_task(_write(old))
        begun = time.monotonic()
        # In another process, as users run it.
        migration = await asyncio.create_subprocess_exec(
            "interaction-svc", "migrate", "--store", url,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        writes, slowest = await writing
        exchanged = time.monotonic() - begun
        printed, _ = await migration.communicate()
        watching.cancel()
        assert migration.returncode == 0, printed
        await db.execute("VACUUM")
        store = await open_store(url, migrate=False)
        await store.close()
        after = await db.fetchval(_SIZES)
        total = await db.fetchval("SELECT count(*) FROM interactions")
    return [
        ("rows", f"{rows:,}"),
        ("bytes a row before, with indexes", f"{before / rows:,.0f}"),
        ("bytes a row after", f"{after / total:,.0f}"),
        ("until the new tables were in place", f"{exchanged:,.0f} s"),
        ("writes of the old server meanwhile", f"{writes:,}"),
        ("the slowest of them", f"{slowest * 1000:,.0f} ms"),
        ("the database before", f"{at_rest / 1e6:,.0f} MB"),
        ("more disk at the peak", f"{(peak.size - at_rest) / 1e6:,.0f} MB"),
        ("what --check said of it", f"{expected / 1e6:,.0f} MB"),
        ("write-ahead log", f"{peak.wal / 1e6:,.0f} MB"),
    ]


class _Peak:
    def __init__(self, db: asyncpg.Connection) -> None:
        self._db = db
        self.size = 0
        self.wal = 0

    async def watch(self) -> None:
        lsn = "SELECT (pg_current_wal_lsn() - '0/0')::bigint"
        first = await self._db.fetchval(lsn)
        while True:
            size = await self._db.fetchval("SELECT pg_database_size(current_database())")
            self.size = max(self.size, size)
            self.wal = await self._db.fetchval(lsn) - first
            await asyncio.sleep(0.25)


async def _fill(db: asyncpg.Connection, rows: int) -> None:
    await db.execute(version1.SCHEMA)
    sessions = [new_parents() for _ in range(max(1, rows // ROWS_A_SESSION))]
    template = version1.values_of(new_interaction(sessions[0]))
    for begin in range(0, rows, _AT_ONCE):
        made = [
            version1.copy_of(template, sessions[number % len(sessions)], NOON_US + number)
            for number in range(begin, min(begin + _AT_ONCE, rows))
        ]
        await db.copy_records_to_table("interactions", records=made)
    owners = [(one.session_sid, one.service_sid, one.account_sid) for one in sessions]
    await db.copy_records_to_table("session_owners", records=owners)
    await db.execute("VACUUM ANALYZE")
    await db.execute("CHECKPOINT")


async def _write(db: asyncpg.Connection) -> tuple[int, float]:
    """Write until it fails. Return the number of writes, and the time of the slowest."""
    parents = new_parents()
    writes, slowest = 0, 0.0
    with suppress(asyncpg.PostgresError):
        while True:
            made = new_interaction(parents, NOON_US + writes)
            begun = time.monotonic()
            await version1.record(db, made)
            if writes % 3 == 0:
                made.data = '{"body":"changed"}'
                await version1.record(db, made)
            if writes % 5 == 0:
                await version1.delete(db, made, NOON_US)
            slowest = max(slowest, time.monotonic() - begun)
            writes += 1
            await asyncio.sleep(0.005)
    return writes, slowest


if __name__ == "__main__":
    main()
