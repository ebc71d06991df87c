"""What every store must do when it is written."""

import pytest

from interaction_svc.store import (
    Filter,
    Outcome,
    Scope,
    Store,
    decode,
    row_of,
)
from interaction_svc.v1 import interaction_pb2 as pb
from tests.build import NOON_US, SECOND_US, Parents, new_interaction, new_sid
from tests.store.opened import EVERYONE, NOW_US, StoreTests, query


class Writing(StoreTests):
    """Record and delete."""

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
        assert page.frames == recorded.frame
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
