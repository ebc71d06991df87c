"""Bulk deletion: everything that matches is deleted, counted and audited."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from prometheus_client import REGISTRY
from testing.build import NOON_US, Parents, new_interaction, new_leg, new_parents

from interaction_svc.app.bulk_delete import bulk_delete
from interaction_svc.store import Expired, InvolvesParticipant, Store, row_of
from interaction_svc.store.factory import open_store
from tests.store.contract.stores import EVERYONE, query
from tests.store.sqlite.files import url


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(url(tmp_path))
    yield opened
    await opened.close()


def erased(cause: str) -> float:
    return REGISTRY.get_sample_value("interaction_svc_rows_erased_total", {"cause": cause}) or 0.0


async def count(store: Store, parents: Parents) -> int:
    return (await store.page(EVERYONE, query(parents, limit=1000))).rows


async def test_a_bulk_deletion_covers_the_store_and_is_counted_and_audited(
    store: Store, parents: Parents
) -> None:
    leg, other = new_leg(), new_parents()
    for place in (parents, other):
        rows = [row_of(new_interaction(place, NOON_US + n, inbound=leg)) for n in range(300)]
        await store.record(rows)
    by_retention = erased("retention")
    progress: list[int] = []
    with structlog.testing.capture_logs() as logged:
        counts = await bulk_delete(
            store, Expired(NOON_US + 250), now_us=NOON_US, on_progress=progress.append
        )
        assert counts == {parents.service_sid: 250, other.service_sid: 250}
        assert progress == sorted(progress)
        assert progress[-1] == 500
        assert len(progress) > 2
        counts = await bulk_delete(store, InvolvesParticipant(leg.participant_sid), now_us=NOON_US)
        assert counts == {parents.service_sid: 50, other.service_sid: 50}
    assert erased("retention") == by_retention + 500
    audit = [(entry["event"], entry["action"], entry["deleted"]) for entry in logged]
    assert audit == [("audit", "purge", 500), ("audit", "erase", 100)]
    assert leg.participant_sid not in str(logged)


async def test_a_dry_run_deletes_counts_and_audits_nothing(store: Store, parents: Parents) -> None:
    await store.record([row_of(new_interaction(parents))])
    before = erased("retention")
    with structlog.testing.capture_logs() as logged:
        counts = await bulk_delete(store, Expired(NOON_US + 1), now_us=NOON_US, dry_run=True)
    assert counts == {parents.service_sid: 1}
    assert (await count(store, parents), erased("retention"), logged) == (1, before, [])
