"""Retention: expired Interactions are deleted while the service runs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from testing.build import NOON_US, Parents, new_interaction, new_parents

from interaction_svc.app import retention
from interaction_svc.app.retention import DAY_US, Retention, retention_criteria
from interaction_svc.store import Expired, Store, StoreClosedError, row_of
from interaction_svc.store.factory import open_store
from interaction_svc.store.sqlite import transactions
from tests.store.contract.stores import EVERYONE, query
from tests.store.sqlite.files import another_process, url


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(url(tmp_path))
    yield opened
    await opened.close()


async def count(store: Store, parents: Parents) -> int:
    return (await store.page(EVERYONE, query(parents, limit=1000))).rows


async def until_left(store: Store, parents: Parents, wanted: int) -> None:
    async with asyncio.timeout(30):
        while await count(store, parents) != wanted:
            await asyncio.sleep(0.01)


def test_with_zero_days_nothing_expires() -> None:
    services = {"KS1": 2, "KS2": 0}
    assert retention_criteria(NOON_US, 10, services) == Expired(
        NOON_US - 10 * DAY_US, {"KS1": NOON_US - 2 * DAY_US, "KS2": None}
    )
    assert retention_criteria(NOON_US, 0, {}) == Expired(None, {})
    written = "KS" + "AB" * 16
    assert retention_criteria(NOON_US, 0, {written: 0}) == Expired(None, {"KS" + "ab" * 16: None})


async def test_retention_runs_pass_after_pass(
    store: Store, parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PASS_SECONDS", 0.01)
    monkeypatch.setattr(retention, "PAUSE_SECONDS", 0.0)
    now_us = NOON_US + 10 * DAY_US
    await store.record([row_of(new_interaction(parents, NOON_US + n * DAY_US)) for n in range(6)])
    keeping = Retention(store, 7, {}, now_us=lambda: now_us)
    keeping.start()
    await until_left(store, parents, 3)
    now_us += DAY_US
    await until_left(store, parents, 2)
    await keeping.stop()
    now_us += DAY_US
    await asyncio.sleep(0.05)
    assert await count(store, parents) == 2


async def test_services_may_have_their_own_number_of_days(
    store: Store, parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PASS_SECONDS", 0.01)
    shorter, for_ever = new_parents(), new_parents()
    for place in (parents, shorter, for_ever):
        rows = [row_of(new_interaction(place, NOON_US + n * DAY_US)) for n in range(6)]
        await store.record(rows)
    services = {shorter.service_sid: 2, for_ever.service_sid: 0}
    keeping = Retention(store, 4, services, now_us=lambda: NOON_US + 5 * DAY_US)
    keeping.start()
    await until_left(store, parents, 5)
    await until_left(store, shorter, 3)
    await keeping.stop()
    assert await count(store, for_ever) == 6


async def test_without_days_no_task_is_started(store: Store) -> None:
    before = len(asyncio.all_tasks())
    keeping = Retention(store, 0, {new_parents().service_sid: 0})
    keeping.start()
    assert len(asyncio.all_tasks()) == before
    await keeping.stop()


async def test_a_failed_pass_is_logged_and_the_next_one_deletes(
    tmp_path: Path, parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "BUSY_TIMEOUT_SECONDS", 0.01)
    monkeypatch.setattr(retention, "PASS_SECONDS", 0.01)
    store = await open_store(url(tmp_path))
    await store.record([row_of(new_interaction(parents))])
    keeping = Retention(store, 1, {}, now_us=lambda: NOON_US + 2 * DAY_US)
    with structlog.testing.capture_logs() as logged, another_process(tmp_path) as db:
        db.execute("BEGIN IMMEDIATE")
        keeping.start()
        async with asyncio.timeout(30):
            while not any("locked by another process" in str(entry) for entry in logged):
                await asyncio.sleep(0.01)
        db.execute("ROLLBACK")
        await until_left(store, parents, 0)
    await keeping.stop()
    await store.close()


async def test_stop_waits_for_the_batch_in_progress(store: Store, parents: Parents) -> None:
    await store.record([row_of(new_interaction(parents, NOON_US + n)) for n in range(900)])
    keeping = Retention(store, 1, {}, now_us=lambda: NOON_US + 2 * DAY_US)
    keeping.start()
    async with asyncio.timeout(30):
        while await count(store, parents) == 900:
            await asyncio.sleep(0)
    await keeping.stop()
    left = await count(store, parents)
    assert 0 < left < 900
    await store.close()
    with pytest.raises(StoreClosedError):
        await store.probe()
