"""Paging through a list that changes while its pages are read."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testing.build import NOON_US, Parents, in_order, new_interaction, new_parents

from interaction_svc.app.ingest import Ingest
from interaction_svc.app.interactions import Interactions, Page
from interaction_svc.domain.errors import InvalidField
from interaction_svc.domain.paging import resolve_page_size
from interaction_svc.domain.principals import ANONYMOUS
from interaction_svc.domain.units import MIB
from interaction_svc.store import Store
from interaction_svc.store.factory import open_store
from interaction_svc.transports.rpc.interaction_service import MAX_PAGE_BYTES
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.interaction_service_pb2 import (
    ListInteractionsRequest,
    ListInteractionsResponse,
)

Order = ListInteractionsRequest.Order
VOICE, MESSAGE = pb.INTERACTION_TYPE_VOICE, pb.INTERACTION_TYPE_MESSAGE

# Few values, so that many rows have the same time.
times = st.integers(0, 6)
rows = st.lists(st.tuples(times, st.booleans()), max_size=30)
# Each step has the size of a page, and the rows to record and to delete after it.
steps = st.lists(
    st.tuples(
        st.integers(1, 7),
        st.lists(st.tuples(times, st.booleans()), max_size=3),
        st.lists(st.integers(0, 60), max_size=3),
    ),
    min_size=1,
    max_size=8,
)


def listed(page: Page) -> list[pb.Interaction]:
    return list(ListInteractionsResponse.FromString(page.frames).interactions)


class Walk:
    """A Session that changes while its pages are read."""

    def __init__(self, store: Store, parents: Parents, *, only_voice: bool) -> None:
        self.app, self.ingest = Interactions(store), Ingest(store)
        self.parents, self.only_voice = parents, only_voice
        self.stayed: dict[str, pb.Interaction] = {}
        self.deleted: set[str] = set()
        self.recorded_since: set[str] = set()

    async def record(self, rows: list[tuple[int, bool]]) -> list[pb.Interaction]:
        made = [
            new_interaction(self.parents, NOON_US + time, type=VOICE if voice else MESSAGE)
            for time, voice in rows
        ]
        await self.ingest.commit(await self.ingest.prepare(ANONYMOUS, made))
        return made

    async def change(self, recorded: list[tuple[int, bool]], deleted: list[int]) -> None:
        self.recorded_since |= {row.sid for row in await self.record(recorded)}
        for number in deleted:
            if self.stayed:
                sid = sorted(self.stayed)[number % len(self.stayed)]
                await self.app.delete(ANONYMOUS, self.parents.key(sid))
                del self.stayed[sid]
                self.deleted.add(sid)

    async def page(self, order: Order.ValueType, token: str, size: int) -> Page:
        request = ListInteractionsRequest(
            service_sid=self.parents.service_sid,
            session_sid=self.parents.session_sid,
            page_size=size,
            page_token=token,
            order=order,
        )
        if self.only_voice:
            request.filter.type = VOICE
        return await self.app.page(ANONYMOUS, request, max_bytes=MAX_PAGE_BYTES)

    def check(self, seen: list[pb.Interaction], order: Order.ValueType) -> None:
        """Check that rows that existed throughout are seen once, and that all rows are in order."""
        keys = [in_order(row) for row in seen]
        assert keys == sorted(set(keys), reverse=order == Order.ORDER_CREATED_DESC)
        expected = {
            row.sid for row in self.stayed.values() if not self.only_voice or row.type == VOICE
        }
        sids = {row.sid for row in seen}
        assert expected <= sids
        assert sids <= expected | self.deleted | self.recorded_since


async def walk_forward(
    walk: Walk, order: Order.ValueType, changes: list[tuple[int, list[tuple[int, bool]], list[int]]]
) -> tuple[list[pb.Interaction], Page]:
    seen: list[pb.Interaction] = []
    token = ""
    for number in range(1000):
        size, recorded, deleted = changes[number % len(changes)]
        page = await walk.page(order, token, size)
        assert page.frames or not page.next_page_token
        seen += listed(page)
        token = page.next_page_token
        if not token:
            return seen, page
        if number < len(changes):
            await walk.change(recorded, deleted)
    pytest.fail("the pages don't end")


async def walk_backward(
    walk: Walk,
    order: Order.ValueType,
    last: Page,
    changes: list[tuple[int, list[tuple[int, bool]], list[int]]],
) -> list[pb.Interaction]:
    seen = listed(last)
    token = last.previous_page_token
    for number in range(1000):
        if not token:
            return seen
        size, recorded, deleted = changes[number % len(changes)]
        if number < len(changes):
            await walk.change(recorded, deleted)
        page = await walk.page(order, token, size)
        assert page.frames or not page.next_page_token
        seen = [*listed(page), *seen]
        token = page.previous_page_token
    pytest.fail("the pages don't end")


def in_a_new_session(scenario: Callable[[Store], Awaitable[None]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = await open_store(f"sqlite:///{Path(folder) / 'interactions.db'}")
            try:
                await scenario(store)
            finally:
                await store.close()

    asyncio.run(run())


@settings(max_examples=150)
@given(rows, steps, st.booleans(), st.booleans())
def test_each_row_of_a_changing_list_is_returned_once_in_both_directions(
    initial: list[tuple[int, bool]],
    changes: list[tuple[int, list[tuple[int, bool]], list[int]]],
    newest_first: bool,
    only_voice: bool,
) -> None:
    order = Order.ORDER_CREATED_DESC if newest_first else Order.ORDER_CREATED_ASC

    async def scenario(store: Store) -> None:
        walk = Walk(store, new_parents(), only_voice=only_voice)
        walk.stayed = {row.sid: row for row in await walk.record(initial)}
        seen, last = await walk_forward(walk, order, changes)
        walk.check(seen, order)
        walk.check(await walk_backward(walk, order, last, changes), order)

    in_a_new_session(scenario)


def test_paging_forward_and_backward_returns_the_same_pages() -> None:
    async def scenario(store: Store) -> None:
        walk = Walk(store, new_parents(), only_voice=False)
        await walk.record([(n // 2, False) for n in range(20)])
        first = await walk.page(Order.ORDER_CREATED_ASC, "", 6)
        second = await walk.page(Order.ORDER_CREATED_ASC, first.next_page_token, 6)
        back = await walk.page(Order.ORDER_CREATED_ASC, second.previous_page_token, 6)
        assert (back.frames, back.previous_page_token) == (first.frames, "")
        again = await walk.page(Order.ORDER_CREATED_ASC, back.next_page_token, 6)
        assert again == second
        assert first.previous_page_token == ""

    in_a_new_session(scenario)


def test_an_empty_page_has_no_next_token() -> None:
    async def scenario(store: Store) -> None:
        walk = Walk(store, new_parents(), only_voice=False)
        made = sorted(await walk.record([(n, False) for n in range(4)]), key=in_order)
        first = await walk.page(Order.ORDER_CREATED_ASC, "", 2)
        second = await walk.page(Order.ORDER_CREATED_ASC, first.next_page_token, 2)
        for row in made[2:]:
            await walk.app.delete(ANONYMOUS, walk.parents.key(row.sid))
        empty = await walk.page(Order.ORDER_CREATED_ASC, first.next_page_token, 2)
        assert (empty.frames, empty.next_page_token) == (b"", "")
        back = await walk.page(Order.ORDER_CREATED_ASC, empty.previous_page_token, 2)
        assert back.frames == first.frames
        for row in made[:2]:
            await walk.app.delete(ANONYMOUS, walk.parents.key(row.sid))
        for token in (empty.previous_page_token, second.previous_page_token, ""):
            empty = await walk.page(Order.ORDER_CREATED_ASC, token, 2)
            assert (empty.frames, empty.rows) == (b"", 0)
            assert (empty.next_page_token, empty.previous_page_token) == ("", "")

    in_a_new_session(scenario)


def test_a_page_of_large_interactions_is_within_the_message_limit_of_grpc_clients() -> None:
    async def scenario(store: Store) -> None:
        walk = Walk(store, new_parents(), only_voice=False)
        data = "x" * 262_144
        for n in range(20):
            await walk.ingest.record(
                ANONYMOUS, new_interaction(walk.parents, NOON_US + n, data=data)
            )
        seen, token = 0, ""
        while True:
            page = await walk.page(Order.ORDER_CREATED_ASC, token, 1000)
            assert 0 < len(page.frames) < 4 * MIB - 1024
            seen, token = seen + page.rows, page.next_page_token
            if not token:
                break
        assert seen == 20

    in_a_new_session(scenario)


def test_page_sizes() -> None:
    sizes = {0: 50, 1: 1, 50: 50, 1000: 1000, 1001: 1000, 2**31 - 1: 1000}
    assert {size: resolve_page_size(size) for size in sizes} == sizes
    with pytest.raises(InvalidField, match="page_size: must not be negative"):
        resolve_page_size(-1)
