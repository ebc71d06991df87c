"""The PostgreSQL store with a real standby: routing of reads, and staleness."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from testing.build import Parents, new_interaction
from testing.postgres import Cluster, free_port
from testing.replication import Pair, pair, running_pair, running_standby

from interaction_svc.store import (
    UNKNOWN_REVISION,
    NotAStoreError,
    ReplicaStore,
    Revision,
    Store,
    StoreURLError,
    row_of,
)
from interaction_svc.store.factory import open_store
from interaction_svc.store.postgres.replica.store import ReplicatedStore
from tests.store.contract.api_keys import new_key
from tests.store.contract.stores import EVERYONE, NOW_US, query
from tests.store.postgres.databases import database as database_elsewhere

__all__ = ["database_elsewhere", "pair", "running_pair"]


@pytest.fixture
def database(pair: Pair) -> str:
    return pair.new_database()


@asynccontextmanager
async def opened(
    pair: Pair, database: str, *, wait_seconds: float = 0.1, url: str = ""
) -> AsyncIterator[ReplicatedStore]:
    replica = ReplicaStore(url or pair.standby.url(database), wait_seconds)
    store = await open_store(pair.primary.url(database), replica=replica)
    assert isinstance(store, ReplicatedStore)
    pair.catch_up()
    try:
        yield store
    finally:
        await store.close()


class Reads:
    """Counts the reads by server and reason since its creation."""

    def __init__(self) -> None:
        self._before = _reads()

    def since(self) -> dict[str, float]:
        now, before = _reads(), self._before
        found = {place: count - before.get(place, 0) for place, count in now.items()}
        return {place: count for place, count in found.items() if count}


def _reads() -> dict[str, float]:
    return {
        f"{sample.labels['server']}: {sample.labels['reason']}": sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "interaction_svc_replica_reads_total"
    }


async def looked(store: ReplicatedStore) -> None:
    """Probe, and wait for the check of the replica."""
    await store.probe()
    await store._replica.checked()


async def revision_of(store: Store) -> Revision:
    revision = await store.current_revision()
    assert revision is not None
    return revision


async def test_reads_go_to_a_replica_that_has_caught_up(
    pair: Pair, database: str, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    async with opened(pair, database) as store:
        await store.record([row])
        revision = await revision_of(store)
        pair.catch_up()
        reads = Reads()
        assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
        assert (await store.page(EVERYONE, query(parents))).rows == 1
        assert reads.since() == {"replica: any": 2}
        since = store.at_least(revision)
        assert await since.get(EVERYONE, parents.key(row.sid)) == row.frame
        assert (await since.page(EVERYONE, query(parents))).rows == 1
        assert reads.since() == {"replica: any": 2, "replica: caught_up": 2}


async def test_reads_at_a_revision_see_their_writes_while_replay_is_paused(
    pair: Pair, database: str, parents: Parents
) -> None:
    rows = [row_of(new_interaction(parents)) for _ in range(2)]
    keys = [parents.key(row.sid) for row in rows]
    async with opened(pair, database) as store:
        await store.record(rows[:1])
        pair.catch_up()
        pair.standby.pause()
        await store.record(rows[1:])
        await store.delete(EVERYONE, keys[0], NOW_US)
        reads = Reads()
        since = store.at_least(await revision_of(store))
        assert await since.get(EVERYONE, keys[0]) is None
        assert await since.get(EVERYONE, keys[1]) == rows[1].frame
        assert (await since.page(EVERYONE, query(parents))).rows == 1
        assert reads.since() == {"primary: behind": 3}
        # Reads without a revision return the state of the replica.
        assert await store.get(EVERYONE, keys[0]) == rows[0].frame
        assert await store.get(EVERYONE, keys[1]) is None
        assert reads.since() == {"primary: behind": 3, "replica: any": 2}


async def test_a_read_waits_for_the_replica_to_catch_up(
    pair: Pair, database: str, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    async with opened(pair, database, wait_seconds=30) as store:
        pair.standby.pause()
        await store.record([row])
        since = store.at_least(await revision_of(store))
        reads = Reads()
        # More reads than connections: waiting reads hold none.
        waiting = [
            asyncio.create_task(since.get(EVERYONE, parents.key(row.sid))) for _ in range(25)
        ]
        assert await store.get(EVERYONE, parents.key(row.sid)) is None
        assert reads.since() == {"replica: any": 1}
        assert not any(task.done() for task in waiting)
        pair.standby.resume()
        assert set(await asyncio.gather(*waiting)) == {row.frame}
        assert reads.since() == {"replica: any": 1, "replica: caught_up": 25}


@pytest.mark.parametrize("commit", ["on", "off"])
async def test_reads_at_the_revision_of_a_write_see_it_at_once(
    pair: Pair, database: str, parents: Parents, commit: str
) -> None:
    pair.primary.sql("postgres", f"ALTER DATABASE {database} SET synchronous_commit = {commit}")
    async with opened(pair, database, wait_seconds=30) as store:

        async def write_and_read() -> None:
            row = row_of(new_interaction(parents))
            await store.record([row])
            since = store.at_least(await revision_of(store))
            assert await since.get(EVERYONE, parents.key(row.sid)) == row.frame
            await store.delete(EVERYONE, parents.key(row.sid), NOW_US)
            since = store.at_least(await revision_of(store))
            assert await since.get(EVERYONE, parents.key(row.sid)) is None

        reads = Reads()
        for _ in range(5):
            await asyncio.gather(*(write_and_read() for _ in range(20)))
        # Sometimes the log's position is after a page header, which is never reached by replay.
        assert reads.since()["replica: caught_up"] >= 150


@pytest.mark.parametrize("differs", ["system", "timeline", "all"])
async def test_a_revision_of_another_history_is_read_from_the_primary(
    pair: Pair, database: str, parents: Parents, differs: str
) -> None:
    row = row_of(new_interaction(parents))
    async with opened(pair, database) as store:
        pair.standby.pause()
        await store.record([row])
        revision = (await revision_of(store))._replace(position=0)
        other = {
            "system": revision._replace(system=revision.system ^ 1),
            "timeline": revision._replace(timeline=revision.timeline + 1),
            "all": UNKNOWN_REVISION,
        }[differs]
        assert await store.at_least(revision).get(EVERYONE, parents.key(row.sid)) is None
        reads = Reads()
        assert await store.at_least(other).get(EVERYONE, parents.key(row.sid)) == row.frame
        assert reads.since() == {"primary: unrelated": 1}


async def test_reads_go_to_the_primary_while_the_replica_is_unreachable(
    pair: Pair, database: str, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    key = parents.key(row.sid)
    with capture_logs() as logs:
        async with opened(pair, database) as store:
            await store.record([row])
            revision = await revision_of(store)
            pair.catch_up()
            assert await store.get(EVERYONE, key) == row.frame
            pair.standby.stop()
            try:
                reads = Reads()
                for _ in range(20):
                    assert await store.get(EVERYONE, key) == row.frame
                    assert await store.at_least(revision).get(EVERYONE, key) == row.frame
                    assert (await store.page(EVERYONE, query(parents))).rows == 1
                    await looked(store)  # the probe succeeds without a replica
                found = reads.since()
                assert sum(found.values()) == 60
                assert found["primary: away"] >= 57
                assert REGISTRY.get_sample_value("interaction_svc_replica_up") == 0
            finally:
                pair.standby.start()
            await looked(store)
            reads = Reads()
            assert await store.get(EVERYONE, key) == row.frame
            assert await store.at_least(revision).get(EVERYONE, key) == row.frame
            assert reads.since() == {"replica: any": 1, "replica: caught_up": 1}
            assert REGISTRY.get_sample_value("interaction_svc_replica_up") == 1
    said = [line["event"] for line in logs if "replica" in line]
    away = "reads go to the primary: the replica can't be used"
    assert said[0] == said[-1] == "reads go to the replica"
    assert away in said
    assert len(said) <= 5  # a check may find it starting


async def test_a_replica_that_is_unreachable_at_the_start_is_no_error(
    pair: Pair, database: str, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    gone = pair.standby.url(database).replace(f":{pair.standby.port}/", f":{free_port()}/")
    async with opened(pair, database, url=gone) as store:
        await store.record([row])
        reads = Reads()
        assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
        assert reads.since() == {"primary: away": 1}
        await store.probe()


async def test_a_replica_that_is_too_slow_is_not_waited_for(
    pair: Pair, database: str, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    async with opened(pair, database) as store:
        await store.record([row])
        async with pair.primary.connected(database) as other:
            transaction = other.transaction()
            await transaction.start()
            await other.execute("LOCK TABLE interactions IN ACCESS EXCLUSIVE MODE")
            await other.execute("SELECT pg_switch_wal()")
            pair.catch_up()
            pair.standby.pause()  # it keeps the lock
            await transaction.rollback()
        reads = Reads()
        revision = (await revision_of(store))._replace(position=0)
        pages = [store.page(EVERYONE, query(parents)) for _ in range(3)]
        gets = [store.get(EVERYONE, parents.key(row.sid)) for _ in range(3)]
        since = store.at_least(revision).get(EVERYONE, parents.key(row.sid))
        found = await asyncio.gather(since, *gets, *pages)
        assert found[:4] == [row.frame] * 4
        assert [page.rows for page in found[4:] if page] == [1] * 3  # type: ignore[union-attr]
        assert set(reads.since()) <= {"primary: failed", "primary: away"}


async def test_api_keys_are_read_from_the_primary(pair: Pair, database: str) -> None:
    async with opened(pair, database) as store:
        pair.standby.pause()
        key = new_key()
        await store.add_key(key)
        assert await store.keys_of(key.sid) == [key]
        assert (await store.revoke_key(key.sid, NOW_US)) is not None
        assert [found.revoked_us for found in await store.keys_of(key.sid)] == [NOW_US]


async def test_a_server_that_is_not_a_replica_is_refused_or_not_read(
    pair: Pair, database: str, parents: Parents, cluster: Cluster, database_elsewhere: str
) -> None:
    elsewhere = ReplicaStore(cluster.url(database_elsewhere))
    with pytest.raises(NotAStoreError, match="of another system"):
        await open_store(pair.primary.url(database), replica=elsewhere)
    row = row_of(new_interaction(parents))
    async with opened(pair, database, url=pair.primary.url(database)) as store:
        await store.record([row])
        reads = Reads()
        assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
        assert reads.since() == {"primary: away": 1}
    for url, replica in (
        ("sqlite:///a.db", pair.standby.url(database)),
        (pair.primary.url(database), "sqlite:///a.db"),
    ):
        with pytest.raises(StoreURLError, match="only a database"):
            await open_store(url, replica=ReplicaStore(replica))


async def test_a_promoted_replica_is_not_read_any_more(
    pair: Pair, database: str, parents: Parents
) -> None:
    rows = [row_of(new_interaction(parents)) for _ in range(2)]
    with running_standby(pair.primary) as standby:
        async with opened(pair, database, url=standby.url(database)) as store:
            await store.record(rows[:1])
            revision = await revision_of(store)
            Pair(pair.primary, standby).catch_up()
            assert await store.at_least(revision).get(EVERYONE, parents.key(rows[0].sid))
            standby.sql("postgres", "SELECT pg_promote()")
            await store.record(rows[1:])
            reads = Reads()
            since = store.at_least(await revision_of(store))
            assert await since.get(EVERYONE, parents.key(rows[1].sid)) == rows[1].frame
            assert reads.since() == {"primary: unrelated": 1}
            await looked(store)
            assert await store.get(EVERYONE, parents.key(rows[1].sid)) == rows[1].frame
            assert reads.since() == {"primary: unrelated": 1, "primary: away": 1}
        itself = ReplicaStore(standby.url(database))
        promoted = await open_store(standby.url(database), replica=itself)
        try:
            after = await revision_of(promoted)
        finally:
            await promoted.close()
        assert (after.system, after.timeline) == (revision.system, revision.timeline + 1)


async def test_a_store_without_a_replica_has_no_revisions(
    pair: Pair, database: str, parents: Parents
) -> None:
    store = await open_store(pair.primary.url(database))
    try:
        assert await store.current_revision() is None
        assert store.at_least(UNKNOWN_REVISION) is store
    finally:
        await store.close()
