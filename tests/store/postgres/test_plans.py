"""Query plans: each statement uses an index, and the last page costs as much as the first."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from testing.build import NOON_US, Parents, new_interaction, new_parents
from testing.postgres import Cluster

from interaction_svc.domain.interactions import Filter, Scope
from interaction_svc.domain.paging import Cursor, Position
from interaction_svc.store import PageQuery, Row, row_of
from interaction_svc.store.postgres import bulk_delete, reads, table_io, table_scan, writes
from interaction_svc.store.postgres.citus import sharded_statements
from interaction_svc.store.postgres.rewrite import rewriter
from interaction_svc.store.postgres.row_format import packed_key
from interaction_svc.store.tables import INTERACTIONS
from tests.store.contract.stores import NOW_US, query
from tests.store.postgres.databases import opened_store

ROWS = 20_000
SMALL = 400
Large = tuple[str, dict[bool, list[Row]]]


@pytest.fixture(scope="module")
def large(cluster: Cluster) -> Large:
    """A database with two large Sessions. In one of them (True) all rows have the same time.

    Many small Sessions of other accounts make the planner expect small ones.
    """
    database = cluster.new_database()
    sessions: dict[bool, list[Row]] = {}

    async def fill() -> None:
        others = [new_parents() for _ in range(SMALL)]
        async with opened_store(cluster.url(database)) as store:
            for tied in (False, True):
                template = row_of(new_interaction(new_parents()))
                sessions[tied] = [
                    template._replace(sid=f"KI{n:032x}", created_us=NOON_US + n * (not tied))
                    for n in range(ROWS)
                ]
                for start in range(0, ROWS, 500):
                    await store.record(sessions[tied][start : start + 500])
                    await store.record([row_of(new_interaction(one)) for one in others])

    asyncio.run(fill())
    cluster.sql(database, "VACUUM ANALYZE")
    return database, sessions


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("tied", [False, True])
async def test_the_last_page_costs_as_much_as_the_first(
    cluster: Cluster, large: Large, descending: bool, filtered: bool, tied: bool
) -> None:
    """Measured in blocks that are read, with the generic plan of a prepared statement."""
    database, sessions = large
    rows = sessions[tied][::-1] if descending else sessions[tied]
    parents = Parents(rows[0].account_sid, rows[0].service_sid, rows[0].session_sid)
    bounds = Filter(type=1, created_from_us=NOON_US, created_before_us=NOW_US)

    def asked(after: int | None) -> PageQuery:
        edge = None if after is None else Cursor(Position(rows[after].created_us, rows[after].sid))
        conditions = bounds if filtered else Filter()
        return query(parents, limit=50, edge=edge, descending=descending, filter=conditions)

    first, second, last = [
        await _blocks(cluster, database, parents, asked(after)) for after in (None, 49, ROWS - 51)
    ]
    assert max(first, second, last) < 120
    assert last <= second + 4
    assert last <= first + 20


async def test_no_rows_of_another_account_s_session_are_read(
    cluster: Cluster, large: Large
) -> None:
    database, sessions = large
    row = sessions[False][0]
    thief = new_parents(service_sid=row.service_sid, session_sid=row.session_sid)
    assert await _blocks(cluster, database, thief, query(thief, limit=1000)) < 10


@pytest.mark.parametrize("descending", [False, True])
async def test_rows_of_another_account_in_the_same_session_are_not_read(
    cluster: Cluster, large: Large, descending: bool
) -> None:
    """For a page and for a scan, between rows of another account in the same Session."""
    database, sessions = large
    row = sessions[False][0]
    mine = new_parents(service_sid=row.service_sid, session_sid=row.session_sid)
    rows = [row_of(new_interaction(mine, NOON_US + n * ROWS // 40)) for n in range(40)]
    async with opened_store(cluster.url(database)) as store:
        await store.record(rows)
    asked = query(mine, limit=1000, descending=descending)
    assert await _blocks(cluster, database, mine, asked) < 60
    scan = table_scan.scan_statement(None, 1000, 1 << 22, None, mine.session_sid, mine.account_sid)
    assert await _blocks_of(cluster, database, *scan) < 60


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("tied", [False, True])
async def test_a_page_of_all_accounts_reads_a_page_of_each(
    cluster: Cluster, large: Large, descending: bool, tied: bool
) -> None:
    database, sessions = large
    row = sessions[tied][0]
    others = [
        new_parents(service_sid=row.service_sid, session_sid=row.session_sid) for _ in range(2)
    ]
    made = [row_of(new_interaction(one, NOON_US + n)) for one in others for n in range(60)]
    async with opened_store(cluster.url(database)) as store:
        await store.record(made)
    parents = Parents(row.account_sid, row.service_sid, row.session_sid)
    middle = sessions[tied][ROWS // 2]
    for edge in (None, Cursor(Position(middle.created_us, middle.sid, middle.account_sid))):
        asked = query(parents, limit=50, edge=edge, descending=descending)
        statement, values = reads.page_statement(Scope(None), asked)
        assert await _blocks_of(cluster, database, statement, values) < 5 * 60


async def test_a_key_is_looked_up_in_the_primary_key_only(cluster: Cluster, large: Large) -> None:
    """In a Session of many rows, although the planner expects few rows of each account."""
    database, sessions = large
    for row in (sessions[tied][ROWS // 2] for tied in (False, True)):
        session, account, sid, service = (one[2:] for one in row[:4])
        every = reads.OF_EVERY_ACCOUNT.format(columns="frame")
        keys = [[session], [account], [sid]]
        for statement, values, most in (
            (reads._GET, [session, account, sid, service], 8),
            (every, [session, sid, service], 40),  # 6 accounts
            (reads._GET_EACH, [*keys, [service]], 8),
            (reads._GET_EACH_OF_EVERY_ACCOUNT, [keys[0], keys[2], [service]], 40),
            (writes._STORED, keys, 8),
            (writes._STORED + writes._IN_ORDER + writes.LOCKED, keys, 8),
            (sharded_statements._STORED, [session, account, [sid]], 8),
            (sharded_statements._STORED_LOCKED, [session, account, [sid]], 8),
            (writes._DELETE, [session, account, sid, service], 8),
        ):
            assert await _blocks_of(cluster, database, statement, values) <= most, statement


async def test_bulk_deletion_reads_only_the_oldest_rows_of_an_account(
    cluster: Cluster, large: Large
) -> None:
    database, sessions = large
    row = sessions[False][0]
    session, account, nobody = row.session_sid[2:], row.account_sid[2:], new_parents()
    for statement, values, most in (
        (bulk_delete._OLDEST, [session, account, NOON_US + 10_000, 50], 60),
        (
            bulk_delete._OLDEST_AFTER,
            [session, account, NOW_US, 50, NOON_US + 10_000, "0" * 32],
            60,
        ),
        (bulk_delete._OLD_SESSION, [session, account, NOW_US, 1], 8),
        (bulk_delete._OLD_SESSIONS, [[session], [account], [NOW_US]], 8),
        (bulk_delete._OLD_SESSION, [session, nobody.account_sid[2:], NOW_US, 1], 8),
    ):
        assert await _blocks_of(cluster, database, statement, values) <= most, statement


async def test_a_batch_of_a_table_costs_the_same_at_any_position(
    cluster: Cluster, large: Large
) -> None:
    database, sessions = large
    ordered = sorted(row for rows in sessions.values() for row in rows)
    costs = [
        await _blocks_of(
            cluster,
            database,
            table_io.read_statement(INTERACTIONS, after=True),
            [*packed_key(INTERACTIONS, INTERACTIONS.key_of(ordered[after])), 100, 1 << 22],
        )
        for after in (0, ROWS // 2, ROWS - 50, ROWS, 2 * ROWS - 101)
    ]
    assert max(costs) < 150, costs


async def _blocks(cluster: Cluster, database: str, parents: Parents, asked: PageQuery) -> int:
    statement, values = reads.page_statement(Scope(parents.account_sid), asked)
    return await _blocks_of(cluster, database, statement, values)


async def _blocks_of(
    cluster: Cluster, database: str, statement: str, values: Sequence[object]
) -> int:
    """Return the number of blocks that a statement reads; fail unless it uses an index."""
    async with cluster.connected(database) as db:
        types, literals = zip(*map(_typed, values), strict=True)
        await db.execute(f"PREPARE page ({', '.join(types)}) AS {statement}")
        transaction = db.transaction()
        await transaction.start()
        for _ in range(7):  # from the sixth execution on the plan is the generic one
            explained = await db.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE page ({', '.join(literals)})"
            )
        await transaction.rollback()
    (root,) = json.loads(explained)
    scans = list(_scans(root["Plan"]))
    assert set(scans) <= {"Index Scan", "Index Only Scan"}, scans
    return int(root["Plan"]["Shared Hit Blocks"]) + int(root["Plan"]["Shared Read Blocks"])


def _typed(value: object) -> tuple[str, str]:
    """Return the type and the text of a value."""
    if isinstance(value, list):
        kind = "bigint" if isinstance(value[0], int) else "uuid"
        return f"{kind}[]", f"'{{{','.join(map(str, value))}}}'"
    return ("bigint", str(value)) if isinstance(value, int) else ("uuid", f"'{value}'")


def _scans(plan: dict[str, Any]) -> Iterator[str]:
    """Yield the types of the plan's scans of `interactions`."""
    if plan.get("Relation Name") == "interactions" and plan["Node Type"] != "ModifyTable":
        yield plan["Node Type"]
    for inner in plan.get("Plans", []):
        yield from _scans(inner)


def test_statements_have_no_value_in_their_text() -> None:
    """So there are few texts, and each is prepared once."""
    texts = {
        reads.page_statement(
            Scope(parents.account_sid),
            query(parents, limit=limit, edge=Cursor(Position(limit, "KI" + "a" * 32))),
        )[0]
        for parents, limit in ((new_parents(), 7), (new_parents(), 1000))
    }
    assert len(texts) == 1


FOLDER = Path(reads.__file__).parent


def test_no_feature_is_used_that_distributed_engines_lack() -> None:
    lacking = (
        "pg_advisory", "LISTEN", "NOTIFY", "TRIGGER", "MERGE", "REFERENCES", "random()",
        "clock_timestamp", "ctid", "SERIALIZABLE",
    )  # fmt: skip
    # The rewrite of version 1 creates triggers, but only for tables that aren't distributed.
    for file in set(FOLDER.rglob("*.py")) - {Path(rewriter.__file__)}:
        text = file.read_text()
        assert not [name for name in lacking if name in text.replace("random.random()", "")], file
