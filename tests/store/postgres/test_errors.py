"""Failures of the database, and the errors of the PostgreSQL store for them."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from testing.build import Parents, new_interaction
from testing.postgres import HOST, PASSWORD, Cluster, free_port

from interaction_svc.domain.interactions import Outcome
from interaction_svc.store import (
    PostgresLimits,
    StoreFullError,
    StoreUnavailableError,
    StoreURLError,
    row_of,
)
from interaction_svc.store.errors import StoreDamagedError, StoreError
from interaction_svc.store.factory import check_url, open_store
from interaction_svc.store.postgres.errors import translated
from tests.store.contract.stores import EVERYONE, NOW_US, query
from tests.store.postgres.databases import database, opened_store

__all__ = ["database"]

END_OTHERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.mark.parametrize(
    ("state", "kind", "text"),
    [
        ("53100", StoreFullError, "no room on its disk"),
        ("53300", StoreUnavailableError, "no more connections"),
        ("57P01", StoreUnavailableError, "being stopped"),
        ("57P03", StoreUnavailableError, "starting or stopping"),
        ("57014", StoreUnavailableError, "cancelled"),
        ("25006", StoreUnavailableError, "standby"),
        ("26000", StoreUnavailableError, "statement_cache_size=0"),
        ("42501", StoreUnavailableError, "lacks a permission"),
        ("08006", StoreUnavailableError, "connection to PostgreSQL is lost"),
        ("XX001", StoreDamagedError, "damage"),
        ("99999", StoreUnavailableError, "SQLSTATE 99999"),
    ],
)
def test_sqlstates_map_to_store_errors(state: str, kind: type[StoreError], text: str) -> None:
    error = asyncpg.PostgresError.new({"C": state, "M": "a message of the server's"})
    translation = translated(error)
    assert type(translation) is kind
    assert text in str(translation)
    assert "message of the server" not in str(translation)


async def test_calls_succeed_after_all_connections_were_terminated(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    rows = [row_of(new_interaction(parents)) for _ in range(6)]
    async with opened_store(cluster.url(database)) as store:
        await store.record(rows[:1])
        for row in rows[1:]:
            cluster.sql(database, END_OTHERS)
            assert await store.get(EVERYONE, parents.key(rows[0].sid)) == rows[0].frame
            cluster.sql(database, END_OTHERS)
            assert (await store.record([row]))[0].outcome is Outcome.CREATED
            cluster.sql(database, END_OTHERS)
            assert (await store.page(EVERYONE, query(parents))).rows
            cluster.sql(database, END_OTHERS)
            await store.probe()
        cluster.sql(database, END_OTHERS)
        assert await store.delete(EVERYONE, parents.key(rows[0].sid), NOW_US)


async def test_a_statement_timeout_ends_only_its_own_connection(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    limits = PostgresLimits(connections=3, statement_seconds=0.5)
    async with opened_store(cluster.url(database), limits=limits) as store:
        await store.record([row])
        async with cluster.connected(database) as other:
            transaction = other.transaction()
            await transaction.start()
            await other.execute("LOCK TABLE tombstones")
            with pytest.raises(StoreUnavailableError, match=r"cancelled|doesn't answer"):
                await store.delete(EVERYONE, parents.key(row.sid), NOW_US)
            assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
            await transaction.rollback()
        assert await store.delete(EVERYONE, parents.key(row.sid), NOW_US)


async def test_calls_without_a_free_connection_in_time_fail(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    limits = PostgresLimits(connections=1, statement_seconds=0.5)
    async with opened_store(cluster.url(database), limits=limits) as store:
        await store.record([row])
        async with cluster.connected(database) as other:
            transaction = other.transaction()
            await transaction.start()
            await other.execute("LOCK TABLE tombstones")
            # The second delete gets the connection of the first, and holds it for another 0.5 s.
            deletes = (store.delete(EVERYONE, parents.key(row.sid), NOW_US) for _ in range(2))
            pages = (store.page(EVERYONE, query(parents)) for _ in range(5))
            results = await asyncio.gather(*deletes, *pages, return_exceptions=True)
            await store.probe()  # health doesn't depend on a free connection
            await transaction.rollback()
        assert all(isinstance(result, StoreUnavailableError) for result in results)
        assert {str(result) for result in results[2:]} == {"all connections to PostgreSQL are busy"}
        assert (await store.page(EVERYONE, query(parents))).rows == 1


async def test_cancelled_calls_leave_no_connection_behind(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    async with opened_store(cluster.url(database), limits=PostgresLimits(connections=4)) as store:
        await store.record([row])
        for n in range(1000):
            call = asyncio.create_task(
                store.page(EVERYONE, query(parents))
                if n % 2
                else store.get(EVERYONE, parents.key(row.sid))
            )
            for _ in range(n % 7):
                await asyncio.sleep(0)
            call.cancel()
        assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
        pages = await asyncio.gather(*(store.page(EVERYONE, query(parents)) for _ in range(20)))
        assert {page.rows for page in pages} == {1}
        async with cluster.connected(database) as other:
            assert await other.fetchval(count) <= 4 + 1


async def test_an_unreachable_server_is_reported(database: str) -> None:
    url = f"postgresql://somebody:a%20secret@{HOST}:{free_port()}/{database}"
    with pytest.raises(StoreUnavailableError, match="Connection refused") as raised:
        await open_store(url)
    assert "secret" not in str(raised.value)
    assert f"/{database}" in str(raised.value)


async def test_a_wrong_password_is_reported_without_it(cluster: Cluster, database: str) -> None:
    url = f"postgresql://interaction_svc:wrong@{HOST}:{cluster.port}/{database}"
    with pytest.raises(StoreUnavailableError, match="doesn't take the password") as raised:
        await open_store(url)
    assert "wrong" not in str(raised.value)


async def test_the_first_server_with_the_wanted_attributes_is_used(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    first = cluster.url(database).replace(f"@{HOST}", f"@{HOST}:{free_port()},{HOST}")
    async with opened_store(f"{first}?target_session_attrs=read-write") as store:
        assert (await store.record([row_of(new_interaction(parents))]))[0].frame
    with pytest.raises(StoreUnavailableError, match="target_session_attrs"):
        await open_store(f"{first}?target_session_attrs=standby")


async def test_the_password_may_come_from_the_environment_or_a_file(
    cluster: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = f"postgresql://interaction_svc@{HOST}:{cluster.port}/{database}"
    with monkeypatch.context() as environment:
        environment.setenv("PGPASSWORD", PASSWORD)
        async with opened_store(bare):
            pass
    file = tmp_path / "pgpass"
    file.write_text(f"{HOST}:*:*:interaction_svc:{PASSWORD}\n")
    file.chmod(0o600)
    async with opened_store(f"{bare}?passfile={file}"):
        pass
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    with pytest.raises(StoreUnavailableError):
        await open_store(bare)


async def test_calls_succeed_without_prepared_statements(
    cluster: Cluster, database: str, parents: Parents
) -> None:
    """A pooler in transaction mode requires this."""
    rows = [row_of(new_interaction(parents)) for _ in range(3)]
    async with opened_store(cluster.url(database, statement_cache_size="0")) as store:
        for _ in range(2):
            await store.record(rows)
            found = await asyncio.gather(*(store.get(EVERYONE, parents.key(r.sid)) for r in rows))
            assert found == [row.frame for row in rows]
        assert (await store.page(EVERYONE, query(parents))).rows == 3


def test_a_missing_driver_is_reported_with_its_package(tmp_path: Path) -> None:
    (tmp_path / "asyncpg.py").write_text("raise ModuleNotFoundError('no', name='asyncpg')")
    done = subprocess.run(
        [sys.executable, "-m", "interaction_svc", "migrate", "--store", "postgresql://h/d"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "pip install 'interaction-svc[postgres]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("postgresql://admin@server:Zq7xK9w@127.0.0.1:1/db", 1),
        ("postgresql://127.0.0.1:1/db?user=u&%70assword=Zq7xK9w", 1),
        ("postgresql://u:Zq7xK9w/@127.0.0.1:1/db", 2),
        ("host=127.0.0.1 port=1 password='Zq7xK9w'", 2),
    ],
)
def test_a_server_whose_store_cannot_be_opened_writes_no_password(url: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "interaction_svc", "serve", "--store", url],
        env={**os.environ, "INTERACTION_SVC_REPLICA_STORE": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == status
    assert "store" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Zq7" not in done.stdout + done.stderr


def test_invalid_urls_are_refused_with_the_valid_form() -> None:
    for bad in (
        "postgresql:/host/db",
        "postgresql://host:port/db",
        "postgresql://host:99999/db",
        "postgresql://a,b/db?port=1,2,3",
        "postgresql://user:secret@host/db#frag",
        "postgresql://host/db?statement_cache_size=many",
        "postgresql://host/db?nonsense",
    ):
        with pytest.raises(StoreURLError, match=r"postgresql://user@host|number from 0") as raised:
            check_url(bad)
        assert "secret" not in str(raised.value)
