"""The schema of the PostgreSQL store: creation, migration while servers run, and refusal."""

import asyncio

import pytest
from testing.build import Parents, new_interaction
from testing.postgres import Cluster

from interaction_svc.domain.interactions import Outcome
from interaction_svc.store import NotAStoreError, SchemaTooNewError, StoreUnavailableError, row_of
from interaction_svc.store.factory import check_store
from interaction_svc.store.postgres import migrations, schema, schema_lock
from interaction_svc.store.postgres import store as store_module
from interaction_svc.store.postgres.schema import LATEST, MIGRATIONS, Migration
from tests.store.contract.stores import EVERYONE
from tests.store.postgres.databases import database, opened_store

__all__ = ["database"]

ADDED = Migration(
    LATEST + 1, "a column", ("ALTER TABLE interactions ADD COLUMN note text",), LATEST
)
TAKEN_AWAY = Migration(
    LATEST + 1, "no column", ("ALTER TABLE interactions DROP COLUMN type",), LATEST + 1
)
ONLINE = Migration(
    LATEST + 1,
    "an index",
    (
        "DROP INDEX IF EXISTS interactions_by_type",
        "CREATE INDEX CONCURRENTLY interactions_by_type ON interactions (type)",
    ),
    LATEST,
    online=True,
)


def known(monkeypatch: pytest.MonkeyPatch, *further: Migration) -> None:
    """Add further migration steps to this program."""
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, *further))
    for module in (migrations, store_module):
        monkeypatch.setattr(module, "LATEST", LATEST + len(further))


def versions(cluster: Cluster, database: str) -> list[int]:
    found = cluster.sql(
        database, "SELECT version FROM schema_migrations WHERE version > 0 ORDER BY 1"
    )
    return [int(line) for line in found.splitlines()]


async def test_concurrent_servers_can_create_the_schema(cluster: Cluster, database: str) -> None:
    async def open_and_close() -> None:
        async with opened_store(cluster.url(database)):
            pass

    await asyncio.gather(*(open_and_close() for _ in range(8)))
    assert versions(cluster, database) == [LATEST]
    assert (await check_store(cluster.url(database))).ok


@pytest.mark.parametrize("step", [ADDED, ONLINE])
async def test_concurrent_servers_can_run_a_step_beside_one_of_the_previous_version(
    cluster: Cluster,
    database: str,
    parents: Parents,
    monkeypatch: pytest.MonkeyPatch,
    step: Migration,
) -> None:
    rows = [row_of(new_interaction(parents)) for _ in range(2)]
    async with opened_store(cluster.url(database)) as before:
        await before.record(rows[:1])
        with monkeypatch.context() as newer:
            known(newer, step)
            report = await check_store(cluster.url(database))
            assert (report.schema_version, report.known_version, report.ok) == (
                LATEST,
                LATEST + 1,
                False,
            )
            with pytest.raises(StoreUnavailableError, match="run interaction-svc migrate"):
                async with opened_store(cluster.url(database), migrate=False):
                    pass

            async def open_and_read() -> bytes | None:
                async with opened_store(cluster.url(database)) as store:
                    return await store.get(EVERYONE, parents.key(rows[0].sid))

            found = await asyncio.gather(*(open_and_read() for _ in range(6)))
            assert found == [rows[0].frame] * 6
            assert (await check_store(cluster.url(database))).ok
        assert versions(cluster, database) == [LATEST, step.version]
        assert (await before.record(rows[1:]))[0].outcome is Outcome.CREATED
    # A server of the previous version can also be restarted, and its check succeeds.
    async with opened_store(cluster.url(database)) as before:
        assert await before.get(EVERYONE, parents.key(rows[1].sid)) == rows[1].frame
    assert (await check_store(cluster.url(database))).ok


async def test_an_incompatible_newer_schema_is_refused_unchanged(
    cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        known(newer, TAKEN_AWAY)
        async with opened_store(cluster.url(database)):
            pass
    with pytest.raises(SchemaTooNewError, match=rf"version {LATEST + 1}.*only up to {LATEST}"):
        async with opened_store(cluster.url(database)):
            pass
    with pytest.raises(SchemaTooNewError):
        await check_store(cluster.url(database))
    assert versions(cluster, database) == [LATEST, LATEST + 1]


async def test_a_server_reports_that_its_schema_was_migrated_incompatibly(
    cluster: Cluster, database: str, parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = row_of(new_interaction(parents))
    async with opened_store(cluster.url(database)) as before:
        await before.probe()
        await before.record([row])
        with monkeypatch.context() as newer:
            known(newer, TAKEN_AWAY)
            async with opened_store(cluster.url(database)):
                pass
        with pytest.raises(StoreUnavailableError, match=r"moved on.*only up to"):
            await before.probe()
        with pytest.raises(StoreUnavailableError, match="schema has moved on"):
            await before.record([row])


async def test_a_failed_step_is_rolled_back(
    cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migration(LATEST + 1, "broken", ("CREATE TABLE half (a int)", "NONSENSE"), LATEST)
    with monkeypatch.context() as newer:
        known(newer, broken)
        with pytest.raises(StoreUnavailableError, match="42601"):
            async with opened_store(cluster.url(database)):
                pass
    assert versions(cluster, database) == [LATEST]
    assert cluster.sql(database, "SELECT to_regclass('half')") == ""


async def test_the_wait_for_another_migration_is_bounded(
    cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_store(cluster.url(database)):
        pass
    monkeypatch.setattr(schema_lock, "WAIT_FOR_ANOTHER_SECONDS", 0)
    known(monkeypatch, ADDED)
    async with cluster.connected(database) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT 1 FROM schema_migrations WHERE version = 0 FOR UPDATE")
        with pytest.raises(StoreUnavailableError, match="another server is migrating"):
            async with opened_store(cluster.url(database)):
                pass
        await transaction.rollback()
    async with opened_store(cluster.url(database)):
        assert versions(cluster, database) == [LATEST, LATEST + 1]


@pytest.mark.parametrize("table", ["schema_migrations", "interactions"])
async def test_a_database_of_another_program_is_refused_unchanged(
    cluster: Cluster, database: str, table: str
) -> None:
    cluster.sql(database, f"CREATE TABLE {table} (version text)")
    for migrate in (True, False):
        with pytest.raises(NotAStoreError, match=rf"{table}.*of its own"):
            async with opened_store(cluster.url(database), migrate=migrate):
                pass
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert cluster.sql(database, tables) == table


async def test_a_store_can_use_a_schema_of_its_own(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    cluster.sql(database, "CREATE TABLE interactions (a int); CREATE SCHEMA log")
    row = row_of(new_interaction(parents))
    url = cluster.url(database, search_path="log")
    async with opened_store(url) as store:
        await store.record([row])
    assert cluster.sql(database, "SELECT count(*) FROM log.interactions") == "1"
    assert (await check_store(url)).rows == 1


async def test_serving_needs_no_permission_to_change_the_schema(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    async with opened_store(cluster.url(database)):
        pass
    role = f"serving_{database}"
    cluster.sql(
        database,
        f"CREATE ROLE {role} LOGIN PASSWORD 'p';"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON interactions, tombstones TO {role};"
        f"GRANT SELECT, INSERT ON session_owners TO {role};"
        f"GRANT SELECT, INSERT, UPDATE ON api_keys TO {role};"
        f"GRANT SELECT ON schema_migrations TO {role}",
    )
    row = row_of(new_interaction(parents))
    url = f"postgresql://{role}:p@127.0.0.1:{cluster.port}/{database}"
    async with opened_store(url) as store:
        assert (await store.record([row]))[0].outcome is Outcome.CREATED
        assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
        assert await store.delete(EVERYONE, parents.key(row.sid), 1)
        await store.probe()
    cluster.sql(database, f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_check_of_an_empty_database_creates_nothing(cluster: Cluster, database: str) -> None:
    report = await check_store(cluster.url(database))
    assert (report.schema_version, report.ok) == (0, False)
    assert cluster.sql(database, "SELECT to_regclass('schema_migrations')") == ""
