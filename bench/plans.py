"""The cost of each statement in a PostgreSQL with many rows, and the size of the rows.

`python -m bench.plans` fills a new database with 1,000,000 rows of many Sessions, runs the store's
functions on it, and prints the tables of docs/scaling.md. The figures of the statements are from
auto_explain: EXPLAIN (ANALYZE, BUFFERS, WAL) of each. It takes a minute or two.
"""

import argparse
import asyncio
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from testing.postgres import Cluster, running_cluster

from bench.filling import LARGE_PART, ROWS_A_SESSION, TOGETHER, Call, calls_on, fill
from bench.processes import cpu_seconds
from interaction_svc.store.factory import open_store
from interaction_svc.store.postgres.connection import Connection

ROWS = 1_000_000
MIN_ROWS = 50_000
ROUNDS = 15
"""Rounds of each call; the median is printed. PostgreSQL uses generic plans from the sixth on."""
TIMED = 1_000
"""Calls over which processor time is averaged."""
# The defaults, but without automatic vacuum and checkpoints, which would distort the figures.
_SETTINGS = {
    "autovacuum": "off",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "128MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
}
_EXPLAIN = """
LOAD 'auto_explain';
SET auto_explain.log_min_duration = 0;
SET auto_explain.log_analyze = on;
SET auto_explain.log_buffers = on;
SET auto_explain.log_wal = on;
SET auto_explain.log_timing = off;
SET auto_explain.log_format = json;
SET auto_explain.log_level = notice;
"""
# The calls whose processor time is measured, and the divisor of TIMED for each.
_TIMED = {
    "Get": 1,
    "List 50, first page": 1,
    "Record, new": 1,
    f"batch of {TOGETHER} Records, of {TOGETHER} Sessions": TOGETHER // 5,
}
_MS = "duration in ms"


@dataclass
class Seen:
    """The cost of a call's statements."""

    statements: int
    scans: tuple[str, ...]
    blocks: int
    wal: int
    ms: float


def main() -> None:
    """Fill the database, measure the calls, and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=ROWS, help="default: %(default)s")
    rows = arguments.parse_args().rows
    if rows < MIN_ROWS:
        arguments.error(f"--rows: {MIN_ROWS:,} at least, for each call takes rows of its own")
    with running_cluster(**_SETTINGS) as cluster:
        for line in asyncio.run(_run(cluster, rows)):
            print(line)


async def _run(cluster: Cluster, rows: int) -> list[str]:
    database = cluster.new_database()
    await (await open_store(cluster.url(database))).close()
    filled = await fill(cluster, database, rows)
    cluster.sql(database, "VACUUM ANALYZE")
    sizes = await _sizes(cluster, database)
    cluster.sql(database, "CHECKPOINT")
    calls = calls_on(filled)
    explained = [(name, await _explained(cluster, database, call)) for name, call in calls]
    timed = await _timed(cluster, database, calls)
    frame = statistics.mean(len(row.frame) for row in filled.some)
    version = cluster.sql(database, "SHOW server_version").split()[0]
    lines = [
        f"{rows:,} rows, some {ROWS_A_SESSION} a Session and one Session of {rows // LARGE_PART:,};"
        f" a frame is {frame:.0f} bytes; PostgreSQL {version}",
        "",
        "| call | statements | what they read and write | buffers | WAL bytes | ms |",
        "|---|---|---|---|---|---|",
    ]
    for name, seen in explained:
        scans = ", ".join(dict.fromkeys(seen.scans))
        lines.append(
            f"| {name} | {seen.statements} | {scans} | {seen.blocks:,} | {seen.wal:,}"
            f" | {seen.ms:.2f} |"
        )
    lines += ["", "| | bytes a row |", "|---|---|"]
    lines += [f"| {name} | {size:.0f} |" for name, size in sizes]
    lines += ["", "| call | processor time of PostgreSQL |", "|---|---|"]
    lines += [f"| {name} | {seconds * 1e6:.0f} µs |" for name, seconds in timed]
    return lines


async def _explained(cluster: Cluster, database: str, call: Callable[[int], Call]) -> Seen:
    seen = []
    async with cluster.connected(database) as raw:
        await raw.execute(_EXPLAIN)
        plans: list[dict[str, Any]] = []

        def note(__: Any, message: asyncpg.PostgresLogMessage) -> None:
            duration, _, plan = message.message.partition("plan:\n")
            plans.append({**json.loads(plan)["Plan"], _MS: float(duration.split()[1])})

        raw.add_log_listener(note)
        for n in range(ROUNDS):
            plans.clear()
            await call(n)(Connection(raw, 60.0))
            await asyncio.sleep(0)  # the listener is called by the loop
            seen.append(_seen(plans))
        raw.remove_log_listener(note)
    return Seen(
        round(statistics.median(one.statements for one in seen)),
        seen[-1].scans,
        round(statistics.median(one.blocks for one in seen)),
        round(statistics.median(one.wal for one in seen)),
        statistics.median(one.ms for one in seen),
    )


def _seen(plans: Sequence[dict[str, Any]]) -> Seen:
    return Seen(
        len(plans),
        tuple(scan for plan in plans for scan in _scans(plan)),
        sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans),
        sum(plan.get("WAL Bytes", 0) for plan in plans),
        sum(plan[_MS] for plan in plans),
    )


def _scans(plan: dict[str, Any]) -> Iterator[str]:
    """Yield the indexes and tables that a plan reads, and the tables that it writes."""
    kind, table = plan["Node Type"], plan.get("Relation Name")
    if kind == "ModifyTable":
        yield f"{plan['Operation'].lower()} {table}"
    elif kind in ("Index Scan", "Index Only Scan", "Bitmap Index Scan"):
        yield plan["Index Name"]
    elif table is not None and kind != "Bitmap Heap Scan":
        yield f"{kind} of {table}"
    for inner in plan.get("Plans", []):
        yield from _scans(inner)


async def _sizes(cluster: Cluster, database: str) -> list[tuple[str, float]]:
    found = []
    async with cluster.connected(database) as db:
        for table in ("interactions", "tombstones", "session_owners"):
            rows = await db.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608
            relations = await db.fetch(
                "SELECT relname, pg_table_size(oid) FROM pg_class WHERE oid = $1::text::regclass"
                " UNION ALL SELECT indexrelid::regclass::text, pg_relation_size(indexrelid)"
                " FROM pg_index WHERE indrelid = $1::text::regclass",
                table,
            )
            found += [(f"{name}", size / rows) for name, size in relations]
            found.append((f"{table} and its indexes", sum(row[1] for row in relations) / rows))
    return found


async def _timed(
    cluster: Cluster, database: str, calls: Sequence[tuple[str, Callable[[int], Call]]]
) -> list[tuple[str, float]]:
    """Measure the server's processor time for each call, after a warm-up."""
    found = []
    async with cluster.connected(database) as raw:
        pid = await raw.fetchval("SELECT pg_backend_pid()")
        db = Connection(raw, 60.0)
        for name, call in calls:
            if name not in _TIMED:
                continue
            count = TIMED // _TIMED[name]
            begin = 0.0
            for n in range(-count // 4, count):
                if n == 0:
                    begin = cpu_seconds(pid)
                await call(n)(db)
            found.append((name, (cpu_seconds(pid) - begin) / count))
    return found


if __name__ == "__main__":
    main()
