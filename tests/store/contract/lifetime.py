"""Contract of stores: reopening, concurrency, cancellation, close."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from testing.build import NOON_US, Parents, new_interaction, new_sid

from interaction_svc.domain.interactions import Outcome
from interaction_svc.domain.units import MIB
from interaction_svc.store import Expired, Row, Store, StoreClosedError, row_of
from interaction_svc.store.tables import INTERACTIONS
from tests.store.contract.stores import EVERYONE, NOW_US, StoreTests, query, sids


class CancelAt:
    """Awaits a coroutine, and cancels the task at its n-th suspension, like Task.cancel()."""

    def __init__(self, awaitable: Awaitable[Any], suspension: int) -> None:
        self._awaitable = awaitable
        self._left = suspension

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaitable.__await__()
        resume = partial(steps.send, None)
        while True:
            try:
                waited_for = resume()
            except StopIteration as stop:
                return stop.value
            if self._left == 0:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            self._left -= 1
            try:
                yield waited_for
            except BaseException as error:
                resume = partial(steps.throw, error)
            else:
                resume = partial(steps.send, None)


async def _is_cancelled(awaitable: Awaitable[Any], suspension: int) -> bool:
    async def run() -> None:
        await CancelAt(awaitable, suspension)

    try:
        await asyncio.create_task(run())
    except asyncio.CancelledError:
        return True
    return False


class LifetimeTests(StoreTests):
    """Tests from open to close."""

    async def test_acknowledged_records_survive_reopening(
        self, tmp_path: Path, parents: Parents
    ) -> None:
        kept, deleted = row_of(new_interaction(parents)), row_of(new_interaction(parents))
        async with self.opened(tmp_path) as store:
            await store.record([kept, deleted])
            await store.delete(EVERYONE, parents.key(deleted.sid), NOW_US)
        async with self.opened(tmp_path) as store:
            assert sids((await store.page(EVERYONE, query(parents))).frames) == [kept.sid]
            assert await store.record([deleted]) == [(Outcome.DELETED, None)]

    async def test_concurrent_writers_and_readers(self, store: Store, parents: Parents) -> None:
        rows = [row_of(new_interaction(parents, NOON_US + n)) for n in range(64)]

        async def write_read_delete(row: Row, *, delete: bool) -> None:
            assert (await store.record([row]))[0].outcome is Outcome.CREATED
            assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
            if delete:
                assert await store.delete(EVERYONE, parents.key(row.sid), NOW_US)

        await asyncio.gather(
            *(write_read_delete(row, delete=n % 4 == 0) for n, row in enumerate(rows))
        )
        page = await store.page(EVERYONE, query(parents, limit=100))
        assert page.frames == b"".join(row.frame for n, row in enumerate(rows) if n % 4)

    async def test_one_of_many_concurrent_records_creates(
        self, store: Store, parents: Parents
    ) -> None:
        row = row_of(new_interaction(parents))
        recorded = await asyncio.gather(*(store.record([row]) for _ in range(16)))
        outcomes = sorted(r.outcome for (r,) in recorded)
        assert outcomes == [Outcome.CREATED] + [Outcome.UNCHANGED] * 15

    async def test_a_closed_store_raises_store_closed(
        self, tmp_path: Path, parents: Parents
    ) -> None:
        async with self.opened(tmp_path) as store:
            pass
        await store.close()
        row = row_of(new_interaction(parents))
        calls: list[Awaitable[Any]] = [
            store.get(EVERYONE, parents.key(row.sid)),
            store.page(EVERYONE, query(parents)),
            store.record([row]),
            store.delete(EVERYONE, parents.key(row.sid), NOW_US),
            store.scan(after=None, limit=1, max_bytes=1),
            store.keys_of(parents.account_sid),
            store.revoke_key(new_sid("SK"), NOW_US),
            store.erase_traces(),
            store.bulk_delete(Expired(NOW_US), after=None, now_us=NOW_US),
            store.probe(),
            store.check(),
            store.count(INTERACTIONS),
            store.read(INTERACTIONS, after=None, limit=1, max_bytes=1),
            store.load(INTERACTIONS, [row]),
        ]
        for call in calls:
            with pytest.raises(StoreClosedError):
                await call

    async def test_close_writes_waiting_operations(self, tmp_path: Path, parents: Parents) -> None:
        rows = [row_of(new_interaction(parents, NOON_US + n)) for n in range(20)]
        async with self.opened(tmp_path) as store:
            writes = [asyncio.create_task(store.record([row])) for row in rows]
            await asyncio.sleep(0)
            await store.close()
            recorded = await asyncio.gather(*writes)
        assert all(r.outcome is Outcome.CREATED for (r,) in recorded)
        async with self.opened(tmp_path) as store:
            page = await store.page(EVERYONE, query(parents, limit=50))
            assert page.frames == b"".join(row.frame for row in rows)

    async def test_a_call_cancelled_at_any_await_leaves_the_store_usable(
        self, store: Store, parents: Parents
    ) -> None:
        batch: list[Row] = []
        doomed = row_of(new_interaction(parents, NOON_US + 9))
        key = parents.key(doomed.sid)
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.get(EVERYONE, key),
            lambda: store.page(EVERYONE, query(parents)),
            lambda: store.record(batch),
            lambda: store.delete(EVERYONE, parents.key(doomed.sid), NOW_US),
            lambda: store.scan(after=None, limit=9, max_bytes=MIB),
            lambda: store.bulk_delete(Expired(NOON_US + 3), after=None, now_us=NOW_US),
            store.probe,
            store.erase_traces,
            store.check,
            lambda: store.read(INTERACTIONS, after=None, limit=9, max_bytes=MIB),
            lambda: store.load(INTERACTIONS, batch),
        ]
        for call in calls:
            for suspension in range(100):
                batch[:] = [row_of(new_interaction(parents, NOON_US + n)) for n in range(3)]
                doomed = row_of(new_interaction(parents, NOON_US + 9))
                await store.record([doomed])
                if not await _is_cancelled(call(), suspension):
                    break
                await self._assert_usable_and_whole(store, parents, batch)
            else:
                pytest.fail("it never ends")

    async def _assert_usable_and_whole(
        self, store: Store, parents: Parents, batch: list[Row]
    ) -> None:
        other = parents._replace(session_sid=new_sid("KC"))
        probe = row_of(new_interaction(other))
        assert (await store.record([probe]))[0].outcome is Outcome.CREATED
        assert await store.delete(EVERYONE, other.key(probe.sid), NOW_US)
        there = [await store.get(EVERYONE, parents.key(row.sid)) is not None for row in batch]
        assert len(set(there)) == 1, "a batch is recorded in part"

    async def test_opening_cancelled_at_any_await_leaves_nothing_open(
        self, tmp_path: Path, parents: Parents
    ) -> None:
        async def open_and_close() -> None:
            async with self.opened(tmp_path):
                pass

        for suspension in range(100):
            if not await _is_cancelled(open_and_close(), suspension):
                break
        else:
            pytest.fail("it never ends")
        async with self.opened(tmp_path) as store:
            assert await store.get(EVERYONE, parents.key(new_sid("KI"))) is None
