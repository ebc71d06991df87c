"""The PostgreSQL backend on distributed tables: the contract, and one shard per call.

The tests run on a stand-in for Citus with one node, which enforces Citus' rules for tables.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from testing import postgres_version1 as version1
from testing.build import Parents, new_interaction, new_parents
from testing.postgres import Cluster, found_programs
from testing.process import run

from interaction_svc.domain.interactions import Filter, Outcome
from interaction_svc.domain.paging import Cursor
from interaction_svc.store import (
    Expired,
    NotAStoreError,
    ReplicaStore,
    Store,
    StoreUnavailableError,
    StoreURLError,
    row_of,
)
from interaction_svc.store.factory import check_store, distribute_store, open_store
from interaction_svc.store.postgres import migrations, schema, schema_lock
from interaction_svc.store.postgres import store as store_module
from interaction_svc.store.postgres.schema import LATEST, MIGRATIONS, Migration
from interaction_svc.store.tables import INTERACTIONS
from tests.store.contract.stores import EVERYONE, NOW_US, position, query
from tests.store.contract.suite import StoreSuite
from tests.store.contract.table_io import everything
from tests.store.postgres.databases import opened_store
from tests.store.postgres.distributed import (
    make_template,
    new_distributed,
    running_with_stand_in,
    statements,
)

ALL = ["api_keys", "interactions", "tombstones", "session_owners"]


@pytest.fixture(scope="module")
def sharded() -> Iterator[Cluster]:
    if found_programs() is None:
        pytest.skip("PostgreSQL isn't on this machine")
    with running_with_stand_in() as running:
        make_template(running)
        yield running


@pytest.fixture
def database(sharded: Cluster) -> str:
    """The name of a database with distributed tables."""
    return new_distributed(sharded)


class TestDistributedStore(StoreSuite):
    """Maps each test folder to a database, which is created when the folder is first opened."""

    @pytest.fixture(autouse=True)
    def _in(self, sharded: Cluster) -> None:
        self._cluster = sharded
        self._databases: dict[Path, str] = {}

    @asynccontextmanager
    async def _opened(self, folder: Path) -> AsyncIterator[Store]:
        if folder not in self._databases:
            self._databases[folder] = new_distributed(self._cluster)
        async with opened_store(self._cluster.url(self._databases[folder])) as store:
            yield store

    def opened(self, folder: Path):  # type: ignore[no-untyped-def]
        return self._opened(folder)


async def test_each_statement_of_a_call_asks_one_shard(
    sharded: Cluster, database: str, parents: Parents
) -> None:
    """The server's log shows that each statement is on the Session of its call."""
    rows = [row_of(new_interaction(parents)) for _ in range(600)]
    newer = row_of(new_interaction(parents, sid=rows[0].sid, updated_us=NOW_US))
    edge = Cursor(position(rows[50]))
    asked = [
        query(parents, limit=50),
        query(parents, limit=50, edge=edge, descending=True),
        query(parents, limit=50, edge=edge, filter=Filter(type=1, participant_sid="KP" + "a" * 32)),
    ]
    async with opened_store(sharded.url(database)) as store:
        assert {one.outcome for one in await store.record(rows)} == {Outcome.CREATED}
        assert (await store.record([newer]))[0].outcome is Outcome.UPDATED
        assert await store.get(EVERYONE, parents.key(rows[1].sid)) == rows[1].frame
        for page in asked:
            await store.page(EVERYONE, page)
        assert await store.delete(EVERYONE, parents.key(rows[1].sid), NOW_US)
        assert (await store.record([rows[1]]))[0].outcome is Outcome.DELETED
    seen = statements(sharded, database)
    assert {statement.text.split()[0] for statement in seen} == {
        "SELECT", "INSERT", "UPDATE", "DELETE",
    }  # fmt: skip
    assert {table for statement in seen for table in statement.tables} == set(ALL[1:])
    for statement in seen:
        assert statement.sessions == {parents.session_sid}


async def test_concurrent_calls_of_many_sessions_share_no_statement(
    sharded: Cluster, database: str
) -> None:
    sessions = [new_parents() for _ in range(12)]
    rows = [[row_of(new_interaction(parents)) for _ in range(4)] for parents in sessions]
    async with opened_store(sharded.url(database)) as store:
        outcomes = await asyncio.gather(
            *(store.record([row]) for several in zip(*rows, strict=True) for row in several)
        )
        assert {one.outcome for (one,) in outcomes} == {Outcome.CREATED}
        frames = await asyncio.gather(
            *(
                store.get(EVERYONE, parents.key(row.sid))
                for parents, several in zip(sessions, rows, strict=True)
                for row in several
            )
        )
    assert frames == [row.frame for several in rows for row in several]
    of_transactions: dict[str, set[str]] = {}
    for statement in statements(sharded, database):
        assert len(statement.sessions) == 1
        of_transactions.setdefault(statement.transaction, set()).update(statement.sessions)
    assert {len(sessions) for sessions in of_transactions.values()} == {1}
    # Queued records of one Session did share a transaction.
    assert len(of_transactions) < 2 * len(frames)


async def test_a_record_of_many_sessions_is_one_transaction_with_statements_per_session(
    sharded: Cluster, database: str
) -> None:
    sessions = [new_parents() for _ in range(5)]
    rows = [row_of(new_interaction(sessions[n % 5])) for n in range(50)]
    broken = rows[7]._replace(sid="KI" + "b" * 32, type=2**15)
    async with opened_store(sharded.url(database)) as store:
        with pytest.raises(StoreUnavailableError):
            await store.record([*rows, broken])
        assert [await store.get(EVERYONE, sessions[0].key(row.sid)) for row in rows[:1]] == [None]
        assert {one.outcome for one in await store.record(rows)} == {Outcome.CREATED}
    seen = statements(sharded, database)
    assert all(len(statement.sessions) == 1 for statement in seen)
    written = [statement for statement in seen if statement.text.startswith("INSERT")]
    assert len({statement.transaction for statement in written[-10:]}) == 1
    assert {session for one in written for session in one.sessions} == {
        parents.session_sid for parents in sessions
    }


async def test_distributing_keeps_rows_and_is_idempotent(
    sharded: Cluster, parents: Parents
) -> None:
    database = sharded.new_database()
    sharded.sql(database, "CREATE EXTENSION citus")
    url = sharded.url(database)
    rows = [row_of(new_interaction(parents)) for _ in range(3)]
    async with opened_store(url) as store:
        await store.record(rows)
        assert await distribute_store(url) == ALL
        assert await distribute_store(url) == []
        # A store that was opened before still works, with statements on all shards.
        assert await store.get(EVERYONE, parents.key(rows[0].sid)) == rows[0].frame
    report = await check_store(url)
    assert (report.rows, report.ok) == (3, True)
    groups = sharded.sql(
        database,
        "SELECT logicalrelid, partmethod, partkey, colocationid FROM pg_dist_partition ORDER BY 1",
    )
    assert sorted(groups.splitlines()) == [
        "api_keys|n||0",
        "interactions|h|session_sid|1",
        "session_owners|h|session_sid|1",
        "tombstones|h|session_sid|1",
    ]


async def test_concurrent_processes_can_distribute(sharded: Cluster) -> None:
    database = sharded.new_database()
    sharded.sql(database, "CREATE EXTENSION citus")
    done = await asyncio.gather(*(distribute_store(sharded.url(database)) for _ in range(4)))
    assert sorted(table for tables in done for table in tables) == sorted(ALL)


async def test_the_wait_for_a_migration_is_bounded(
    sharded: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = sharded.new_database()
    sharded.sql(database, "CREATE EXTENSION citus")
    async with opened_store(sharded.url(database)):
        pass
    monkeypatch.setattr(schema_lock, "WAIT_FOR_ANOTHER_SECONDS", 0)
    async with sharded.connected(database) as other, other.transaction():
        await other.execute("SELECT 1 FROM schema_migrations WHERE version = 0 FOR UPDATE")
        with pytest.raises(StoreUnavailableError, match="another server is migrating"):
            await distribute_store(sharded.url(database))
    assert await distribute_store(sharded.url(database)) == ALL


async def test_a_replica_is_refused(sharded: Cluster, database: str) -> None:
    """A revision is a position in one server's log, and the rows are on several servers."""
    url = sharded.url(database)
    with pytest.raises(StoreURLError, match=r"distributed over nodes.*leave replica_store out"):
        await open_store(url, replica=ReplicaStore(url))


async def test_an_interrupted_distribution_is_continued(sharded: Cluster) -> None:
    database = sharded.new_database()
    sharded.sql(database, "CREATE EXTENSION citus")
    url = sharded.url(database)
    async with opened_store(url):
        pass
    sharded.sql(database, "SELECT create_distributed_table('interactions', 'session_sid', 'none')")
    assert await distribute_store(url) == [table for table in ALL if table != "interactions"]


@pytest.mark.parametrize(
    ("before", "problem"),
    [
        (
            "ALTER TABLE interactions DROP CONSTRAINT interactions_pkey; DROP INDEX"
            " interactions_by_creation;"
            " SELECT create_distributed_table('interactions', 'service_sid', 'none')",
            "table interactions is distributed in another way.*undistribute_table",
        ),
        (
            "SELECT create_distributed_table('interactions', 'session_sid', 'none'),"
            " create_distributed_table('tombstones', 'session_sid', 'none')",
            "not co-located.*undistribute_table",
        ),
        (
            "SELECT create_distributed_table('api_keys', 'sid', 'none')",
            "table api_keys is distributed in another way",
        ),
    ],
)
async def test_tables_that_are_distributed_in_another_way_are_refused_unchanged(
    sharded: Cluster, before: str, problem: str
) -> None:
    database = sharded.new_database()
    sharded.sql(database, "CREATE EXTENSION citus")
    async with opened_store(sharded.url(database)):
        pass
    sharded.sql(database, before)
    places = "SELECT * FROM pg_dist_partition"
    there = sharded.sql(database, places)
    with pytest.raises(NotAStoreError, match=problem):
        await distribute_store(sharded.url(database))
    assert sharded.sql(database, places) == there


async def test_without_the_extension_the_error_explains_its_installation(sharded: Cluster) -> None:
    database = sharded.new_database()
    with pytest.raises(
        StoreUnavailableError, match=r"extension citus.*shared_preload_libraries.*CREATE EXTENSION"
    ):
        await distribute_store(sharded.url(database))


async def test_a_file_is_not_distributed(tmp_path: Path) -> None:
    with pytest.raises(StoreURLError, match=r"is a file.*postgresql://"):
        await distribute_store(f"sqlite:///{tmp_path}/interactions.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "step",
    [
        Migration(LATEST + 1, "column", ("ALTER TABLE interactions ADD COLUMN n text",), LATEST),
        Migration(
            LATEST + 1,
            "index",
            (
                "DROP INDEX CONCURRENTLY IF EXISTS interactions_by_type",
                "CREATE INDEX CONCURRENTLY interactions_by_type ON interactions (type)",
            ),
            LATEST,
            online=True,
        ),
    ],
    ids=lambda step: step.name,
)
async def test_later_migration_steps_run_on_distributed_tables(
    sharded: Cluster,
    database: str,
    parents: Parents,
    monkeypatch: pytest.MonkeyPatch,
    step: Migration,
) -> None:
    row = row_of(new_interaction(parents))
    async with opened_store(sharded.url(database)) as before:
        with monkeypatch.context() as newer:
            newer.setattr(schema, "MIGRATIONS", (*MIGRATIONS, step))
            for module in (migrations, store_module):
                newer.setattr(module, "LATEST", LATEST + 1)
            async with opened_store(sharded.url(database)):
                pass
        assert (await before.record([row]))[0].outcome is Outcome.CREATED
    assert (await check_store(sharded.url(database))).schema_version == LATEST + 1


async def test_a_unique_key_without_session_sid_is_refused_by_the_stand_in(
    sharded: Cluster, database: str
) -> None:
    """The stand-in thus detects migration steps that Citus would refuse."""
    with pytest.raises(AssertionError, match="partition column"):
        sharded.sql(database, "CREATE UNIQUE INDEX wrong ON interactions (sid)")


async def test_bulk_deletion_queries_one_session_at_a_time(
    sharded: Cluster, database: str, parents: Parents
) -> None:
    others = [new_parents() for _ in range(3)]
    async with opened_store(sharded.url(database)) as store:
        await store.record([row_of(new_interaction(one)) for one in (parents, *others)])
        swept = await store.bulk_delete(Expired(NOW_US), after=None, now_us=NOW_US)
        assert sum(swept.by_service.values()) == 4
    for statement in statements(sharded, database):
        # Only the list of Sessions is read from all shards.
        which = "SELECT session_sid, service_sid, account_sid FROM session_owners" in statement.text
        assert which or len(statement.sessions) == 1


async def test_version_1_is_rewritten_while_no_server_can_use_it(sharded: Cluster) -> None:
    database = sharded.new_database()
    url = sharded.url(database)
    places = [new_parents() for _ in range(20)]
    kept = [new_interaction(places[n % 20]) for n in range(60)]
    deleted = new_interaction(places[0])
    async with sharded.connected(database) as old:
        await old.execute("CREATE EXTENSION citus")
        await old.execute(version1.SCHEMA)
        await version1.record(old, *kept, deleted)
        await version1.delete(old, deleted, NOW_US)
        for table in ALL[1:]:
            first = "none" if table == "interactions" else "interactions"
            await old.execute(
                f"SELECT create_distributed_table('{table}', 'session_sid', '{first}')"
            )
        await old.execute("SELECT create_reference_table('api_keys')")
        assert (await check_store(url)).migration_bytes > 0
        refused: list[str] = []

        def write(step: str, done: int, total: int) -> None:
            with pytest.raises(AssertionError, match='relation "interactions" does not exist'):
                sharded.sql(database, "DELETE FROM interactions")
            refused.append(step)

        store = await open_store(url, on_migration=write)
    assert refused
    assert await everything(store, INTERACTIONS) == sorted(map(row_of, kept))
    assert await store.record([row_of(deleted)]) == [(Outcome.DELETED, None)]
    await store.close()
    assert (await check_store(url)).ok
    assert await distribute_store(url) == []


def test_the_command(sharded: Cluster, tmp_path: Path) -> None:
    database = sharded.new_database()
    url = sharded.url(database)
    refused = run("migrate", "--distribute", "--store", url)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"extension citus" in refused.stderr
    sharded.sql(database, "CREATE EXTENSION citus")
    first, second = [run("migrate", "--distribute", "--store", url) for _ in range(2)]
    assert first.stdout.decode().splitlines()[0] == f"distributed: {', '.join(ALL)}"
    assert second.stdout.splitlines()[0] == b"distributed: all tables are already"
    assert (first.returncode, second.returncode) == (0, 0)
    both = run("migrate", "--distribute", "--check", "--store", url)
    assert both.returncode == 2
    assert b"--check changes nothing" in both.stderr
    on_file = run("migrate", "--distribute", "--store", f"sqlite:///{tmp_path}/a.db")
    assert on_file.returncode == 1
    assert b"is a file" in on_file.stderr
