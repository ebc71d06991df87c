"""The rewrite of the PostgreSQL schema from version 1 to 2, while servers of version 1 run."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from random import Random

import asyncpg
import pytest
from testing import postgres_version1 as version1
from testing.build import NOON_US, SECOND_US, Parents, new_interaction, new_parents, new_sid
from testing.postgres import Cluster

from interaction_svc.domain.interactions import Outcome, Scope
from interaction_svc.store import (
    DamagedRowError,
    NotAStoreError,
    StoreUnavailableError,
    decode,
    row_of,
)
from interaction_svc.store.factory import check_store, open_store
from interaction_svc.store.postgres.rewrite import carry_over, rewriter
from interaction_svc.store.tables import INTERACTIONS, OWNERS, TOMBSTONES, SessionOwner, Tombstone
from interaction_svc.v1 import interaction_pb2 as pb
from tests.store.contract.stores import EVERYONE, NOW_US
from tests.store.contract.table_io import everything
from tests.store.postgres.databases import database, opened_store

__all__ = ["database"]


@pytest.fixture
async def old(cluster: Cluster, database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database of version 1, like that of a server of version 1."""
    async with cluster.connected(database) as db:
        await db.execute(version1.SCHEMA)
        yield db


def upper(sid: str) -> str:
    return sid[:2] + sid[2:].upper()


def with_upper_case(interaction: pb.Interaction) -> pb.Interaction:
    """Return a copy of the Interaction with upper-case digits in all SIDs."""
    made = pb.Interaction()
    made.CopyFrom(interaction)
    for name in ("sid", "account_sid", "service_sid", "session_sid"):
        setattr(made, name, upper(getattr(interaction, name)))
    for leg in (made.inbound, made.outbound):
        leg.participant_sid, leg.resource_sid = upper(leg.participant_sid), upper(leg.resource_sid)
    return made


async def test_rows_tombstones_and_owners_of_version_1_are_kept(
    cluster: Cluster, database: str, old: asyncpg.Connection
) -> None:
    places = [new_parents() for _ in range(3)]
    kept = [new_interaction(places[n % 3], NOON_US + n) for n in range(60)]
    deleted = [new_interaction(places[n % 3], NOON_US + n) for n in range(9)]
    await version1.record(old, *kept, *deleted)
    for interaction in deleted:
        await version1.delete(old, interaction, NOW_US)
    seen: list[tuple[str, int, int]] = []
    store = await open_store(
        cluster.url(database), on_migration=lambda *progress: seen.append(progress)
    )
    assert await everything(store, INTERACTIONS) == sorted(map(row_of, kept))
    assert await everything(store, TOMBSTONES) == sorted(
        Tombstone(one.session_sid, one.account_sid, one.sid, NOW_US) for one in deleted
    )
    assert await everything(store, OWNERS) == sorted(
        SessionOwner(one.session_sid, one.service_sid, one.account_sid) for one in places
    )
    assert {one.outcome for one in await store.record([row_of(deleted[0])])} == {Outcome.DELETED}
    await store.close()
    assert seen[-1] == ("rows", 60, 60)
    assert (await check_store(cluster.url(database))).ok
    tables = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    migrated = cluster.sql(database, tables)
    new = cluster.new_database()
    async with opened_store(cluster.url(new)):
        assert cluster.sql(new, tables) == migrated
    assert (
        cluster.sql(database, "SELECT count(*) FROM pg_proc WHERE proname LIKE 'rewrite%'") == "0"
    )


async def test_upper_case_digits_become_lower_case_and_records_of_one_interaction_are_merged(
    cluster: Cluster, database: str, old: asyncpg.Connection, parents: Parents
) -> None:
    alone, earlier = new_interaction(parents), new_interaction(parents)
    later = new_interaction(parents, NOON_US, NOON_US + SECOND_US, sid=earlier.sid, data="later")
    later.ClearField("inbound")
    await version1.record(old, with_upper_case(alone), with_upper_case(earlier), later)
    async with opened_store(cluster.url(database)) as store:
        rows = await everything(store, INTERACTIONS)
        frame = await store.get(EVERYONE, parents.key(earlier.sid))
    assert len(rows) == 2
    assert row_of(alone) in rows
    assert frame is not None
    merged = decode(frame)
    assert (merged.data, merged.outbound) == ("later", later.outbound)
    assert merged.inbound == earlier.inbound
    assert (await check_store(cluster.url(database))).ok


async def test_a_tombstone_counts_for_every_owner_of_its_session_in_any_spelling(
    cluster: Cluster, database: str, old: asyncpg.Connection, parents: Parents
) -> None:
    others = [parents._replace(account_sid=new_sid("AC"), service_sid=new_sid("KS"))] * 2
    deleted = new_interaction(parents)
    await version1.record(old, deleted, new_interaction(others[0]))
    await version1.record(old, with_upper_case(new_interaction(others[1])))
    await version1.delete(old, deleted, NOW_US)
    async with opened_store(cluster.url(database)) as store:
        assert await everything(store, TOMBSTONES) == sorted(
            Tombstone(parents.session_sid, account, deleted.sid, NOW_US)
            for account in {parents.account_sid, *(one.account_sid for one in others)}
        )


async def test_a_row_with_another_spelling_than_the_deleted_one_is_kept(
    cluster: Cluster, database: str, old: asyncpg.Connection, parents: Parents
) -> None:
    interaction = new_interaction(parents)
    await version1.record(old, with_upper_case(interaction), interaction)
    await version1.delete(old, with_upper_case(interaction), NOW_US)
    async with opened_store(cluster.url(database)) as store:
        assert await everything(store, INTERACTIONS) == [row_of(interaction)]
        assert await everything(store, TOMBSTONES) == []


async def test_a_damaged_frame_is_kept_and_reported_as_damaged(
    cluster: Cluster, database: str, old: asyncpg.Connection, parents: Parents
) -> None:
    damaged, of_another, good = (new_interaction(parents) for _ in range(3))
    await version1.record(old, damaged, of_another, good)
    frames = {damaged.sid: b"\xff\xff", of_another.sid: row_of(good).frame}
    for sid, frame in frames.items():
        await old.execute("UPDATE interactions SET frame = $1 WHERE sid = $2", frame, sid)
    async with opened_store(cluster.url(database)) as store:
        for sid in frames:
            with pytest.raises(DamagedRowError):
                await store.get(EVERYONE, parents.key(sid))
        assert await store.get(EVERYONE, parents.key(good.sid)) == row_of(good).frame
        assert (await store.record([row_of(damaged)]))[0].outcome is Outcome.UPDATED
    for sid, frame in frames.items():
        if sid != damaged.sid:
            assert (
                await old.fetchval("SELECT frame FROM interactions WHERE sid = $1", sid[2:])
                == frame
            )
    report = await check_store(cluster.url(database))
    assert report.some_bad == ((parents.session_sid, parents.account_sid, of_another.sid),)


async def test_the_bytes_of_a_frame_are_unchanged(
    cluster: Cluster, database: str, old: asyncpg.Connection, parents: Parents
) -> None:
    """Even a field of a later version is kept."""
    interaction = new_interaction(parents)
    frame = row_of(interaction).frame + b"\xfa\x3f\x01x"
    await version1.record(old, interaction)
    await old.execute("UPDATE interactions SET frame = $1", frame)
    async with opened_store(cluster.url(database)) as store:
        assert await store.get(EVERYONE, parents.key(interaction.sid)) == frame
    assert (await check_store(cluster.url(database))).ok


async def test_an_invalid_sid_stops_the_rewrite_and_leaves_the_old_tables_usable(
    cluster: Cluster, database: str, old: asyncpg.Connection, parents: Parents
) -> None:
    interaction = new_interaction(parents)
    await version1.record(old, interaction)
    await old.execute(
        "INSERT INTO session_owners VALUES ($1, 'nonsense', 'AC1')", parents.session_sid
    )
    with pytest.raises(NotAStoreError, match="a row has 'nonsense' where a SID is needed"):
        await open_store(cluster.url(database))
    await version1.record(old, new_interaction(parents))
    await old.execute("DELETE FROM session_owners WHERE service_sid = 'nonsense'")
    async with opened_store(cluster.url(database)) as store:
        assert len(await everything(store, INTERACTIONS)) == 2


async def test_writes_of_version_1_during_the_rewrite_are_copied(
    cluster: Cluster,
    database: str,
    old: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server of version 1 records, updates and deletes until its calls fail."""
    monkeypatch.setattr(rewriter, "_MOST", 32)
    monkeypatch.setattr(carry_over, "CHUNK", 3)
    random = Random(7)
    places = [new_parents() for _ in range(40)]
    state: dict[str, pb.Interaction] = {}
    gone: dict[str, pb.Interaction] = {}

    async def change(n: int) -> None:
        parents = random.choice(places) if random.random() < 0.9 else new_parents()
        places.append(parents)
        made = new_interaction(parents, NOON_US + n, NOON_US + n)
        if state and random.random() < 0.5:
            made = pb.Interaction()
            made.CopyFrom(random.choice(list(state.values())))
            made.data = f"changed {n}"
            made.update_time.FromMicroseconds(NOON_US + SECOND_US + n)
        if state and random.random() < 0.2:
            victim = random.choice(list(state.values()))
            await version1.delete(old, victim, NOW_US)
            gone[victim.sid] = state.pop(victim.sid)
        if made.sid not in gone:
            await version1.record(old, made)
            state[made.sid] = made

    for n in range(300):
        await change(n)
    done = 0

    async def go_on() -> None:
        nonlocal done
        with suppress(asyncpg.PostgresError):
            while True:
                await change(300 + done)
                done += 1

    writing = asyncio.create_task(go_on())
    async with opened_store(cluster.url(database)) as store:
        async with asyncio.timeout(60):
            await writing
        rows = await everything(store, INTERACTIONS)
        tombstones = await everything(store, TOMBSTONES)
    assert rows == sorted(map(row_of, state.values()))
    assert sorted({key[2] for key in map(TOMBSTONES.key_of, tombstones)}) == sorted(gone)
    assert done > 20, "nothing was written meanwhile"
    assert (await check_store(cluster.url(database))).ok


def _killed_after(steps: int, url: str) -> list[int]:
    """Kill a migration after this number of steps; return the finished rows after each step."""
    program = (
        "import asyncio, sys\n"
        "from interaction_svc.store.factory import open_store\n"
        "from interaction_svc.store.postgres.rewrite import rewriter\n"
        "rewriter._FEWEST = rewriter._MOST = 1\n"
        "asyncio.run(open_store(sys.argv[1], on_migration=lambda *p: print(p[1], flush=True)))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, url], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        seen = [int(process.stdout.readline()) for _ in range(steps)]
        process.kill()
    return seen


async def test_a_killed_rewrite_continues_where_it_was(
    cluster: Cluster, database: str, old: asyncpg.Connection
) -> None:
    places = [new_parents() for _ in range(60)]
    interactions = [new_interaction(places[n % 60], NOON_US + n) for n in range(1_200)]
    await version1.record(old, *interactions)
    url, done = cluster.url(database), 0
    for _ in range(5):
        seen = await asyncio.to_thread(_killed_after, 8, url)
        assert seen == sorted(seen)
        assert seen[0] >= done, "it began anew"
        done = seen[-1]
        report = await check_store(url)
        assert (report.schema_version, report.ok) == (1, False)
    assert done >= 5 * 7 * 20
    async with opened_store(cluster.url(database)) as store:
        assert await everything(store, INTERACTIONS) == sorted(map(row_of, interactions))


async def test_concurrent_processes_can_rewrite(
    cluster: Cluster, database: str, old: asyncpg.Connection
) -> None:
    places = [new_parents() for _ in range(30)]
    interactions = [new_interaction(places[n % 30], NOON_US + n) for n in range(90)]
    await version1.record(old, *interactions)

    async def open_and_read() -> int:
        async with opened_store(cluster.url(database)) as store:
            return await store.count(INTERACTIONS)

    assert await asyncio.gather(*(open_and_read() for _ in range(4))) == [90] * 4
    assert (await check_store(cluster.url(database))).ok


async def test_a_locked_table_fails_the_rewrite_without_loss(
    cluster: Cluster,
    database: str,
    old: asyncpg.Connection,
    parents: Parents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("interaction_svc.store.postgres.schema_lock.WAIT_FOR_ANOTHER_SECONDS", 0)
    monkeypatch.setattr("interaction_svc.store.postgres.schema_lock._WAIT_FOR_TABLE_SECONDS", 0.2)
    await version1.record(old, new_interaction(parents))
    async with cluster.connected(database) as reader, reader.transaction():
        await reader.fetch("SELECT * FROM interactions")
        with pytest.raises(StoreUnavailableError, match="somebody else keeps a table locked"):
            await open_store(cluster.url(database))
        await version1.record(old, new_interaction(parents))
    async with opened_store(cluster.url(database)) as store:
        assert await store.count(INTERACTIONS) == 2


async def test_privileges_and_settings_of_the_old_tables_are_copied(
    cluster: Cluster, database: str, old: asyncpg.Connection, parents: Parents
) -> None:
    role = f"serving_{database}"
    await old.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'p';"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON interactions TO {role};"
        f"GRANT SELECT, INSERT ON tombstones, session_owners TO {role};"
        f"GRANT SELECT, INSERT, UPDATE ON api_keys TO {role};"
        f"GRANT SELECT ON schema_migrations TO {role};"
        "ALTER TABLE interactions SET (autovacuum_vacuum_threshold = 1000)"
    )
    url = f"postgresql://{role}:p@127.0.0.1:{cluster.port}/{database}"
    serving = await asyncpg.connect(url)
    before, meanwhile, after = (new_interaction(parents) for _ in range(3))
    await version1.record(serving, before)

    def write(step: str, done: int, total: int) -> None:
        if not writing:  # this role has no rights on the tables that the migration has created
            writing.append(asyncio.create_task(version1.record(serving, meanwhile)))

    writing: list[asyncio.Task[None]] = []
    store = await open_store(cluster.url(database), on_migration=write)
    await store.close()
    written = (await asyncio.gather(*writing, return_exceptions=True))[0] is None
    async with opened_store(url) as store:
        assert (await store.record([row_of(after)]))[0].outcome is Outcome.CREATED
        assert await store.count(INTERACTIONS) == 2 + written
        assert await store.delete(Scope(parents.account_sid), parents.key(before.sid), NOW_US)
    options = "SELECT reloptions FROM pg_class WHERE oid = 'interactions'::regclass"
    assert cluster.sql(database, options) == "{autovacuum_vacuum_threshold=1000}"
    await serving.close()
    cluster.sql(database, f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_check_estimates_the_disk_space_of_the_rewrite(
    cluster: Cluster, database: str, old: asyncpg.Connection, parents: Parents
) -> None:
    await version1.record(old, *(new_interaction(parents, NOON_US + n) for n in range(2_000)))
    report = await check_store(cluster.url(database))
    assert (report.schema_version, report.known_version, report.ok) == (1, 2, False)
    async with opened_store(cluster.url(database)):
        pass
    size = int(cluster.sql(database, "SELECT pg_total_relation_size('interactions')"))
    assert 0.8 * size < report.migration_bytes < 2 * size  # an estimate


async def test_remaining_old_tables_are_dropped_at_the_next_start(
    cluster: Cluster, database: str, old: asyncpg.Connection, parents: Parents
) -> None:
    await version1.record(old, new_interaction(parents))
    async with opened_store(cluster.url(database)):
        pass
    await old.execute(
        "CREATE TABLE interactions_v1 (a int); CREATE TABLE tombstones_v1 (a int);"
        f"COMMENT ON TABLE interactions_v1 IS '{rewriter._REPLACED}'"
    )
    async with opened_store(cluster.url(database)):
        pass
    left = "SELECT to_regclass('interactions_v1'), to_regclass('tombstones_v1')"
    assert cluster.sql(database, left) == "|tombstones_v1", "only what is ours goes"


async def test_an_old_table_with_a_dependent_view_does_not_prevent_a_start(
    cluster: Cluster, database: str, old: asyncpg.Connection, parents: Parents
) -> None:
    await version1.record(old, new_interaction(parents))
    await old.execute("CREATE VIEW counted AS SELECT count(*) FROM interactions")
    for _ in range(2):
        async with opened_store(cluster.url(database)) as store:
            assert await store.count(INTERACTIONS) == 1
    left = "SELECT to_regclass('interactions_v1'), to_regclass('tombstones_v1')"
    assert cluster.sql(database, left) == "interactions_v1|"
    await old.execute("DROP VIEW counted")
    async with opened_store(cluster.url(database)):
        assert cluster.sql(database, left) == "|"
