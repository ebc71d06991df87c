"""What PostgreSQL reads for a page: an index, and no more for the last page than for the first."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from interaction_svc.paging import Edge, Position
from interaction_svc.store import Filter, PageQuery, Row, Scope, row_of
from interaction_svc.store.postgres import loading, reads
from interaction_svc.store.tables import INTERACTIONS
from tests.build import NOON_US, Parents, new_interaction, new_parents
from tests.postgres import Cluster
from tests.store.databases import opened_store
from tests.store.opened import NOW_US, query

ROWS = 20_000
SMALL = 400
Large = tuple[str, dict[bool, list[Row]]]


@pytest.fixture(scope="module")
def large(cluster: Cluster) -> Large:
    """A database with two large Sessions; in one of them all rows are of the same moment (True).

    Beside many small ones of others: a plan for any Session is one for a small one.
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
async def test_the_last_page_costs_what_the_first_costs(
    cluster: Cluster, large: Large, descending: bool, filtered: bool, tied: bool
) -> None:
    """Counted in blocks that are read, with the plan that a prepared statement has in the end."""
    database, sessions = large
    rows = sessions[tied][::-1] if descending else sessions[tied]
    parents = Parents(rows[0].account_sid, rows[0].service_sid, rows[0].session_sid)
    bounds = Filter(type=1, created_from_us=NOON_US, created_before_us=NOW_US)

    def asked(after: int | None) -> PageQuery:
        edge = None if after is None else Edge(Position(rows[after].created_us, rows[after].sid))
        conditions = bounds if filtered else Filter()
        return query(parents, limit=50, edge=edge, descending=descending, filter=conditions)

    first, second, last = [
        await _blocks(cluster, database, parents, asked(after)) for after in (None, 49, ROWS - 51)
    ]
    assert max(first, second, last) < 120
    assert last <= second + 4
    assert last <= first + 20


async def test_a_session_of_another_account_is_not_looked_at(
    cluster: Cluster, large: Large
) -> None:
    database, sessions = large
    row = sessions[False][0]
    thief = new_parents(service_sid=row.service_sid, session_sid=row.session_sid)
    assert await _blocks(cluster, database, thief, query(thief, limit=1000)) < 10


async def test_a_stretch_of_a_table_costs_the_same_everywhere(
    cluster: Cluster, large: Large
) -> None:
    database, sessions = large
    ordered = sorted(row for rows in sessions.values() for row in rows)
    costs = [
        await _blocks_of(
            cluster,
            database,
            loading.read_statement(INTERACTIONS),
            [*INTERACTIONS.key_of(ordered[after]), 100, 1 << 22],
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
    """Give how many blocks a statement reads; fail unless it goes by an index."""
    async with cluster.connected(database) as db:
        types = ["bigint" if isinstance(value, int) else "text" for value in values]
        await db.execute(f"PREPARE page ({', '.join(types)}) AS {statement}")
        literals = ", ".join(
            str(value) if isinstance(value, int) else f"'{value}'" for value in values
        )
        for _ in range(7):  # from the sixth on the plan is one for any values
            explained = await db.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE page ({literals})"
            )
    (root,) = json.loads(explained)
    scans = list(_scans(root["Plan"]))
    assert set(scans) <= {"Index Scan", "Index Only Scan"}, scans
    return int(root["Plan"]["Shared Hit Blocks"]) + int(root["Plan"]["Shared Read Blocks"])


def _scans(plan: dict[str, Any]) -> Iterator[str]:
    """Yield how the plan reads the large table."""
    if plan.get("Relation Name") == "interactions":
        yield plan["Node Type"]
    for inner in plan.get("Plans", []):
        yield from _scans(inner)


def test_statements_have_no_value_in_their_text() -> None:
    """So that there are few of them, and each is prepared once."""
    texts = {
        reads.page_statement(
            Scope(parents.account_sid),
            query(parents, limit=limit, edge=Edge(Position(limit, "KI" + "a" * 32))),
        )[0]
        for parents, limit in ((new_parents(), 7), (new_parents(), 1000))
    }
    assert len(texts) == 1


FOLDER = Path(reads.__file__).parent


def test_nothing_is_used_that_distributed_engines_lack() -> None:
    lacking = (
        "pg_advisory", "LISTEN", "NOTIFY", "TRIGGER", "MERGE", "REFERENCES", "random()",
        "clock_timestamp", "ctid", "SERIALIZABLE",
    )  # fmt: skip
    for file in FOLDER.glob("*.py"):
        text = file.read_text()
        assert not [name for name in lacking if name in text.replace("random.random()", "")], file
