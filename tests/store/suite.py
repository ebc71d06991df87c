"""What every store must do. A backend's test inherits it and says how one is opened.

What a backend can't do it declares by overriding that very test.
"""

import asyncio
import random
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from interaction_svc.paging import Edge, Position
from interaction_svc.store import (
    Filter,
    Outcome,
    PageQuery,
    Row,
    ScanPosition,
    Scope,
    Store,
    StoreClosedError,
    decode,
    row_of,
)
from interaction_svc.v1 import interaction_pb2 as pb
from tests.build import NOON_US, SECOND_US, Parents, new_interaction, new_leg, new_sid

EVERYONE = Scope(None)
NOW_US = NOON_US + 3600 * SECOND_US
MIB = 1024 * 1024


def query(parents: Parents, **given: Any) -> PageQuery:
    return PageQuery(
        **{
            "service_sid": parents.service_sid,
            "session_sid": parents.session_sid,
            "limit": 10,
            "max_bytes": 4 * MIB,
            **given,
        }
    )


def position(row: Row) -> Position:
    return Position(row.created_us, row.sid)


def sids(frames: list[bytes]) -> list[str]:
    return [decode(frame).sid for frame in frames]


class CancelAt:
    """Awaits something, and cancels the task at its n-th suspension, as Task.cancel() does."""

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


class StoreSuite:
    """The tests of a Store."""

    @abstractmethod
    def opened(self, folder: Path) -> AbstractAsyncContextManager[Store]:
        """Open the store that this folder stands for, and close it at the end."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> Any:
        async with self.opened(tmp_path) as store:
            yield store

    async def test_get_gives_the_bytes_that_were_recorded(
        self, store: Store, parents: Parents
    ) -> None:
        row = row_of(new_interaction(parents))
        await store.record([row])
        assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
        assert await store.get(Scope(parents.account_sid), parents.key(row.sid)) == row.frame

    async def test_get_finds_nothing_outside_its_scope_and_parents(
        self, store: Store, parents: Parents
    ) -> None:
        row = row_of(new_interaction(parents))
        await store.record([row])
        key = parents.key(row.sid)
        assert await store.get(Scope(new_sid("AC")), key) is None
        assert await store.get(EVERYONE, key._replace(service_sid=new_sid("KS"))) is None
        assert await store.get(EVERYONE, key._replace(session_sid=new_sid("KC"))) is None
        assert await store.get(EVERYONE, key._replace(sid=new_sid("KI"))) is None

    async def test_sids_compare_byte_for_byte(self, store: Store, parents: Parents) -> None:
        lower, upper = "KI" + "ab" * 16, "KI" + "AB" * 16
        rows = [row_of(new_interaction(parents, sid=sid)) for sid in (lower, upper)]
        assert [r.outcome for r in await store.record(rows)] == [Outcome.CREATED] * 2
        assert await store.get(EVERYONE, parents.key(lower)) == rows[0].frame
        page = await store.page(EVERYONE, query(parents))
        assert sids(page.frames) == [upper, lower]

    async def test_a_sid_is_unique_in_its_session_only(
        self, store: Store, parents: Parents
    ) -> None:
        there = parents._replace(session_sid=new_sid("KC"))
        here = new_interaction(parents)
        rows = [row_of(here), row_of(new_interaction(there, sid=here.sid))]
        assert [r.outcome for r in await store.record(rows)] == [Outcome.CREATED] * 2

    async def test_record_is_an_idempotent_upsert(self, store: Store, parents: Parents) -> None:
        first = new_interaction(parents, updated_us=NOON_US + 5)
        newer = new_interaction(parents, sid=first.sid, updated_us=NOON_US + 9, data="newer")
        as_new = new_interaction(parents, sid=first.sid, updated_us=NOON_US + 9, data="as new")
        steps = [
            (first, Outcome.CREATED, first),
            (first, Outcome.UNCHANGED, first),
            (newer, Outcome.UPDATED, newer),
            (newer, Outcome.UNCHANGED, newer),
            (first, Outcome.STALE, newer),
            (as_new, Outcome.UPDATED, as_new),
        ]
        for given, outcome, stored in steps:
            (recorded,) = await store.record([row_of(given)])
            assert recorded == (outcome, row_of(stored).frame)
            assert await store.get(EVERYONE, parents.key(first.sid)) == row_of(stored).frame

    async def test_one_batch_sees_its_own_records(self, store: Store, parents: Parents) -> None:
        first = new_interaction(parents)
        second = new_interaction(parents, sid=first.sid, updated_us=NOON_US + 1)
        recorded = await store.record([row_of(first), row_of(second), row_of(first)])
        assert [r.outcome for r in recorded] == [Outcome.CREATED, Outcome.UPDATED, Outcome.STALE]

    async def test_an_update_moves_all_columns_but_not_the_creation(
        self, store: Store, parents: Parents
    ) -> None:
        first = new_interaction(parents, NOON_US + 123)
        update = new_interaction(
            parents, NOON_US, NOON_US + SECOND_US, sid=first.sid, type=pb.INTERACTION_TYPE_VOICE
        )
        await store.record([row_of(first)])
        (recorded,) = await store.record([row_of(update)])
        assert recorded.outcome is Outcome.UPDATED
        assert recorded.frame is not None
        stored = decode(recorded.frame)
        assert stored.create_time == first.create_time
        assert stored.update_time == update.update_time
        assert stored.inbound == update.inbound
        wanted = Filter(
            type=pb.INTERACTION_TYPE_VOICE,
            created_from_us=NOON_US + 123,
            created_before_us=NOON_US + 124,
            participant_sid=update.outbound.participant_sid,
            resource_sid=update.inbound.resource_sid,
        )
        page = await store.page(EVERYONE, query(parents, filter=wanted))
        assert page.frames == [recorded.frame]
        (again,) = await store.record([row_of(update)])
        assert again.outcome is Outcome.UNCHANGED
        assert (await store.check()).bad_rows == 0

    @pytest.mark.parametrize("owner", ["account_sid", "service_sid"])
    async def test_a_stored_interaction_keeps_its_owner(
        self, store: Store, parents: Parents, owner: str
    ) -> None:
        first = new_interaction(parents)
        other = parents._replace(**{owner: new_sid({"a": "AC", "s": "KS"}[owner[0]])})
        thief = new_interaction(other, sid=first.sid, updated_us=NOON_US + 1)
        await store.record([row_of(first)])
        good = row_of(new_interaction(parents))
        recorded = await store.record([row_of(thief), good])
        assert [r.outcome for r in recorded] == [Outcome.OWNER_MISMATCH, Outcome.CREATED]
        assert recorded[0].frame is None
        assert await store.get(EVERYONE, parents.key(first.sid)) == row_of(first).frame

    async def test_delete_is_permanent(self, store: Store, parents: Parents) -> None:
        interaction = new_interaction(parents)
        key = parents.key(interaction.sid)
        await store.record([row_of(interaction)])
        assert await store.delete(EVERYONE, key, NOW_US)
        assert await store.get(EVERYONE, key) is None
        assert not await store.delete(EVERYONE, key, NOW_US)
        later = new_interaction(parents, sid=interaction.sid, updated_us=NOW_US)
        assert (
            await store.record([row_of(interaction), row_of(later)])
            == [(Outcome.DELETED, None)] * 2
        )
        assert await store.get(EVERYONE, key) is None

    async def test_delete_touches_nothing_outside_its_scope_and_parents(
        self, store: Store, parents: Parents
    ) -> None:
        row = row_of(new_interaction(parents))
        key = parents.key(row.sid)
        await store.record([row])
        assert not await store.delete(Scope(new_sid("AC")), key, NOW_US)
        for field, prefix in (("service_sid", "KS"), ("session_sid", "KC"), ("sid", "KI")):
            elsewhere = key._replace(**{field: new_sid(prefix)})
            assert not await store.delete(EVERYONE, elsewhere, NOW_US)
        assert await store.record([row]) == [(Outcome.UNCHANGED, row.frame)]
        assert await store.delete(Scope(parents.account_sid), key, NOW_US)

    async def test_a_page_is_ordered_by_creation_and_sid(
        self, store: Store, parents: Parents
    ) -> None:
        rows = [row_of(new_interaction(parents, NOON_US + n // 3)) for n in range(12)]
        random.Random(1).shuffle(rows)
        await store.record(rows)
        rows.sort(key=position)
        page = await store.page(EVERYONE, query(parents, limit=20))
        assert page == ([row.frame for row in rows], position(rows[0]), position(rows[-1]), False)
        page = await store.page(EVERYONE, query(parents, limit=20, descending=True))
        assert page.frames == [row.frame for row in reversed(rows)]

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("backward", [False, True])
    async def test_a_page_begins_at_its_edge_even_if_that_is_gone(
        self, store: Store, parents: Parents, descending: bool, backward: bool
    ) -> None:
        rows = sorted(
            (row_of(new_interaction(parents, NOON_US + n // 4)) for n in range(12)), key=position
        )
        await store.record(rows)
        listed = rows[::-1] if descending else rows
        edge = listed[6]
        await store.delete(EVERYONE, parents.key(edge.sid), NOW_US)
        asked = query(parents, limit=4, descending=descending, edge=Edge(position(edge), backward))
        page = await store.page(EVERYONE, asked)
        expected = listed[2:6] if backward else listed[7:11]
        assert page.frames == [row.frame for row in expected]
        assert page.first == position(expected[0])
        assert page.last == position(expected[-1])
        assert page.more
        inclusive = Edge(position(expected[-1] if backward else expected[0]), backward, True)
        asked = query(parents, limit=4, descending=descending, edge=inclusive)
        assert await store.page(EVERYONE, asked) == page

    async def test_more_is_said_only_if_there_is_more(self, store: Store, parents: Parents) -> None:
        rows = sorted(
            (row_of(new_interaction(parents, NOON_US + n)) for n in range(4)), key=position
        )
        await store.record(rows)
        assert (await store.page(EVERYONE, query(parents, limit=3))).more
        assert not (await store.page(EVERYONE, query(parents, limit=4))).more
        past = query(parents, edge=Edge(position(rows[-1])))
        assert await store.page(EVERYONE, past) == ([], None, None, False)
        before = query(parents, limit=2, edge=Edge(position(rows[2]), backward=True))
        assert not (await store.page(EVERYONE, before)).more

    async def test_a_page_ends_before_its_bytes_do_but_never_empty(
        self, store: Store, parents: Parents
    ) -> None:
        rows = [row_of(new_interaction(parents, NOON_US + n, data="x" * 10_000)) for n in range(10)]
        await store.record(rows)
        size = sum(len(row.frame) for row in rows[:3])
        page = await store.page(EVERYONE, query(parents, max_bytes=size))
        assert page.frames == [row.frame for row in rows[:3]]
        assert page.more
        size = sum(len(row.frame) for row in rows[6:9])
        back = query(parents, max_bytes=size, edge=Edge(position(rows[9]), backward=True))
        page = await store.page(EVERYONE, back)
        assert page.frames == [row.frame for row in rows[6:9]]
        assert page.more
        page = await store.page(EVERYONE, query(parents, max_bytes=1))
        assert page.frames == [rows[0].frame]

    async def test_a_page_shows_its_scope_and_parents_only(
        self, store: Store, parents: Parents
    ) -> None:
        others = [
            parents._replace(service_sid=new_sid("KS")),
            parents._replace(session_sid=new_sid("KC")),
            parents._replace(account_sid=new_sid("AC")),
        ]
        mine = row_of(new_interaction(parents))
        await store.record([mine, *(row_of(new_interaction(other)) for other in others)])
        page = await store.page(Scope(parents.account_sid), query(parents))
        assert page.frames == [mine.frame]
        assert len((await store.page(EVERYONE, query(parents))).frames) == 2

    async def test_filters_find_what_they_name_on_either_leg(
        self, store: Store, parents: Parents
    ) -> None:
        leg, other = new_leg(pb.RESOURCE_STATUS_BUSY), new_leg(pb.RESOURCE_STATUS_READ)
        voice = pb.INTERACTION_TYPE_VOICE
        made = {
            "in": new_interaction(parents, NOON_US + 1, inbound=leg, outbound=other),
            "out": new_interaction(parents, NOON_US + 2, inbound=None, outbound=leg),
            "neither": new_interaction(parents, NOON_US + 3, inbound=other, outbound=None),
            "voice": new_interaction(parents, NOON_US + 4, inbound=None, outbound=None, type=voice),
        }
        await store.record([row_of(interaction) for interaction in made.values()])
        cases = [
            (Filter(), {"in", "out", "neither", "voice"}),
            (Filter(type=voice), {"voice"}),
            (Filter(type=pb.INTERACTION_TYPE_UNKNOWN), set()),
            (Filter(participant_sid=leg.participant_sid), {"in", "out"}),
            (Filter(resource_sid=leg.resource_sid), {"in", "out"}),
            (Filter(resource_status=pb.RESOURCE_STATUS_BUSY), {"in", "out"}),
            (Filter(resource_status=pb.RESOURCE_STATUS_READ), {"in", "neither"}),
            (Filter(participant_sid=leg.participant_sid.upper()), set()),
            (Filter(created_from_us=NOON_US + 2), {"out", "neither", "voice"}),
            (Filter(created_before_us=NOON_US + 2), {"in"}),
            (
                Filter(created_from_us=NOON_US + 2, created_before_us=NOON_US + 4),
                {"out", "neither"},
            ),
            (Filter(created_from_us=NOON_US + 4, created_before_us=NOON_US + 2), set()),
            (
                Filter(
                    type=pb.INTERACTION_TYPE_MESSAGE,
                    created_from_us=NOON_US + 2,
                    participant_sid=leg.participant_sid,
                    resource_status=pb.RESOURCE_STATUS_BUSY,
                ),
                {"out"},
            ),
        ]
        for wanted, names in cases:
            for descending in (False, True):
                asked = query(parents, filter=wanted, descending=descending)
                page = await store.page(EVERYONE, asked)
                assert set(sids(page.frames)) == {made[name].sid for name in names}, wanted

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("backward", [False, True])
    async def test_an_edge_and_bounds_in_time_both_hold(
        self, store: Store, parents: Parents, descending: bool, backward: bool
    ) -> None:
        rows = [row_of(new_interaction(parents, NOON_US + n)) for n in range(12)]
        await store.record(rows)
        wanted = Filter(created_from_us=NOON_US + 2, created_before_us=NOON_US + 10)
        listed = rows[9:1:-1] if descending else rows[2:10]
        everything = rows[::-1] if descending else rows
        for edge in everything:
            place = everything.index(edge)
            beyond = everything[:place] if backward else everything[place + 1 :]
            asked = query(
                parents,
                filter=wanted,
                descending=descending,
                edge=Edge(position(edge), backward),
            )
            page = await store.page(EVERYONE, asked)
            assert page.frames == [row.frame for row in listed if row in beyond]

    async def test_scan_goes_through_everything_in_order_and_resumes(
        self, store: Store, parents: Parents
    ) -> None:
        families = [parents, *(parents._replace(session_sid=new_sid("KC")) for _ in range(3))]
        families.append(families[0]._replace(service_sid=new_sid("KS")))
        rows = [row_of(new_interaction(p, NOON_US + n // 2)) for p in families for n in range(5)]
        await store.record(rows)
        rows.sort(key=lambda row: (row.session_sid, row.created_us, row.sid))

        async def scanned(**only: str) -> list[bytes]:
            frames: list[bytes] = []
            after: ScanPosition | None = None
            while True:
                more, after = await store.scan(after=after, limit=4, max_bytes=MIB, **only)
                assert 0 < len(more) <= 4 or not frames
                frames += more
                if after is None:
                    return frames

        assert await scanned() == [row.frame for row in rows]
        assert await scanned(service_sid=parents.service_sid) == [
            row.frame for row in rows if row.service_sid == parents.service_sid
        ]
        assert await scanned(service_sid=parents.service_sid, session_sid=parents.session_sid) == [
            row.frame
            for row in rows
            if (row.service_sid, row.session_sid) == (parents.service_sid, parents.session_sid)
        ]
        assert await scanned(session_sid=new_sid("KC")) == []

    async def test_scan_is_bounded_by_bytes(self, store: Store, parents: Parents) -> None:
        rows = [row_of(new_interaction(parents, NOON_US + n, data="x" * 1000)) for n in range(4)]
        await store.record(rows)
        size = len(rows[0].frame) + len(rows[1].frame)
        frames, after = await store.scan(after=None, limit=10, max_bytes=size)
        assert frames == [rows[0].frame, rows[1].frame]
        assert after == (parents.session_sid, rows[1].created_us, rows[1].sid)

    async def test_what_was_answered_is_there_after_reopening(
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
        assert page.frames == [row.frame for n, row in enumerate(rows) if n % 4]

    async def test_one_of_many_at_once_creates(self, store: Store, parents: Parents) -> None:
        row = row_of(new_interaction(parents))
        recorded = await asyncio.gather(*(store.record([row]) for _ in range(16)))
        outcomes = sorted(r.outcome for (r,) in recorded)
        assert outcomes == [Outcome.CREATED] + [Outcome.UNCHANGED] * 15

    async def test_a_closed_store_says_so(self, tmp_path: Path, parents: Parents) -> None:
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
            store.check(),
        ]
        for call in calls:
            with pytest.raises(StoreClosedError):
                await call

    async def test_close_writes_what_waits(self, tmp_path: Path, parents: Parents) -> None:
        rows = [row_of(new_interaction(parents, NOON_US + n)) for n in range(20)]
        async with self.opened(tmp_path) as store:
            writes = [asyncio.create_task(store.record([row])) for row in rows]
            await asyncio.sleep(0)
            await store.close()
            recorded = await asyncio.gather(*writes)
        assert all(r.outcome is Outcome.CREATED for (r,) in recorded)
        async with self.opened(tmp_path) as store:
            page = await store.page(EVERYONE, query(parents, limit=50))
            assert page.frames == [row.frame for row in rows]

    async def test_a_call_cancelled_at_any_await_leaves_the_store_usable(
        self, store: Store, parents: Parents
    ) -> None:
        batch = [row_of(new_interaction(parents, NOON_US + n)) for n in range(3)]
        doomed = row_of(new_interaction(parents, NOON_US + 9))
        key = parents.key(batch[0].sid)
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.get(EVERYONE, key),
            lambda: store.page(EVERYONE, query(parents)),
            lambda: store.record(batch),
            lambda: store.delete(EVERYONE, parents.key(doomed.sid), NOW_US),
            lambda: store.scan(after=None, limit=9, max_bytes=MIB),
            store.check,
        ]
        for call in calls:
            for suspension in range(100):
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


async def _is_cancelled(awaitable: Awaitable[Any], suspension: int) -> bool:
    async def run() -> None:
        await CancelAt(awaitable, suspension)

    try:
        await asyncio.create_task(run())
    except asyncio.CancelledError:
        return True
    return False
