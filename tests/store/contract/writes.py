"""Contract of stores: writes."""

import pytest
from testing.build import NOON_US, SECOND_US, Parents, new_interaction, new_leg, new_sid

from interaction_svc.domain import timestamps
from interaction_svc.domain.interactions import Filter, Outcome, Scope
from interaction_svc.store import AmbiguousAccountError, Store, decode, row_of
from interaction_svc.v1 import interaction_pb2 as pb
from tests.store.contract.stores import EVERYONE, NOW_US, StoreTests, query


class WriteTests(StoreTests):
    """Tests of record and delete."""

    async def test_a_sid_is_unique_in_its_session_only(
        self, store: Store, parents: Parents
    ) -> None:
        there = parents._replace(session_sid=new_sid("KC"))
        here = new_interaction(parents)
        rows = [row_of(here), row_of(new_interaction(there, sid=here.sid))]
        assert [r.outcome for r in await store.record(rows)] == [Outcome.CREATED] * 2

    async def test_record_is_an_idempotent_upsert(self, store: Store, parents: Parents) -> None:
        later_us = NOON_US + 9 * SECOND_US
        first = new_interaction(parents, updated_us=NOON_US + 5)
        newer = new_interaction(parents, sid=first.sid, updated_us=later_us, data="newer")
        as_new = new_interaction(parents, sid=first.sid, updated_us=later_us, data="as new")
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
        second = new_interaction(parents, sid=first.sid, updated_us=NOON_US + SECOND_US)
        recorded = await store.record([row_of(first), row_of(second), row_of(first)])
        assert [r.outcome for r in recorded] == [Outcome.CREATED, Outcome.UPDATED, Outcome.STALE]

    async def test_an_update_changes_all_columns_except_the_creation(
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

    async def test_a_better_known_time_of_creation_moves_the_interaction_in_its_list(
        self, store: Store, parents: Parents
    ) -> None:
        first = row_of(new_interaction(parents, NOON_US, NOON_US + SECOND_US))
        other = row_of(new_interaction(parents, NOON_US + 500_000))
        finer = row_of(
            new_interaction(parents, NOON_US + 700_000, NOON_US + SECOND_US, sid=first.sid)
        )
        await store.record([first, other])
        ((outcome, frame),) = await store.record([finer])
        assert outcome is Outcome.UPDATED
        assert frame is not None
        page = await store.page(EVERYONE, query(parents))
        assert page.frames == other.frame + frame
        assert await store.get(EVERYONE, parents.key(first.sid)) == frame
        assert await store.delete(EVERYONE, parents.key(first.sid), NOW_US)
        assert (await store.page(EVERYONE, query(parents))).frames == other.frame
        assert (await store.check()).ok

    async def test_every_row_of_a_batch_gets_its_outcome(
        self, store: Store, parents: Parents
    ) -> None:
        """New, stored, deleted, repeated rows and rows of another Service, in any order."""
        stored, deleted, new = (row_of(new_interaction(parents)) for _ in range(3))
        elsewhere = parents._replace(service_sid=new_sid("KS"))
        foreign = row_of(new_interaction(elsewhere, sid=stored.sid))
        newer = row_of(
            new_interaction(parents, updated_us=NOON_US + SECOND_US, sid=new.sid, data="newer")
        )
        await store.record([stored, deleted])
        await store.delete(EVERYONE, parents.key(deleted.sid), NOW_US)
        recorded = await store.record(
            [deleted, new, stored, newer, foreign, new, stored, deleted, newer]
        )
        assert recorded == [
            (Outcome.DELETED, None),
            (Outcome.CREATED, new.frame),
            (Outcome.UNCHANGED, stored.frame),
            (Outcome.UPDATED, newer.frame),
            (Outcome.OWNER_MISMATCH, None),
            (Outcome.STALE, newer.frame),
            (Outcome.UNCHANGED, stored.frame),
            (Outcome.DELETED, None),
            (Outcome.UNCHANGED, newer.frame),
        ]
        page = await store.page(EVERYONE, query(parents))
        assert page.frames == b"".join(
            row.frame for row in sorted([stored, newer], key=lambda row: row.sid)
        )
        assert (await store.check()).ok

    async def test_the_time_of_a_status_is_kept_where_nothing_else_changes(
        self, store: Store, parents: Parents
    ) -> None:
        """A record without a status, then one with an earlier time: the later status counts."""
        sent = new_interaction(parents, outbound=new_leg(pb.RESOURCE_STATUS_SENT))
        without = pb.Interaction()
        without.CopyFrom(sent)
        without.ClearField("outbound")
        failed = pb.Interaction()
        failed.CopyFrom(sent)
        failed.outbound.resource_status = pb.RESOURCE_STATUS_FAILED
        timestamps.set_us(failed.update_time, NOON_US + SECOND_US)
        again = pb.Interaction()
        again.CopyFrom(failed)
        timestamps.set_us(again.update_time, NOON_US + 3 * SECOND_US)
        read = pb.Interaction()
        read.CopyFrom(sent)
        read.outbound.resource_status = pb.RESOURCE_STATUS_READ
        timestamps.set_us(read.update_time, NOON_US + 2 * SECOND_US)
        timestamps.set_us(without.update_time, NOON_US + 5 * SECOND_US)
        for record in (sent, without, failed, again):
            await store.record([row_of(record)])
        ((outcome, frame),) = await store.record([row_of(read)])
        assert outcome is Outcome.STALE
        assert frame is not None
        assert decode(frame).outbound.resource_status == pb.RESOURCE_STATUS_FAILED
        assert (await store.check()).ok

    async def test_a_stored_interaction_keeps_its_service(
        self, store: Store, parents: Parents
    ) -> None:
        first = new_interaction(parents)
        other = parents._replace(service_sid=new_sid("KS"))
        foreign = new_interaction(other, sid=first.sid, updated_us=NOON_US + SECOND_US)
        await store.record([row_of(first)])
        good = row_of(new_interaction(parents))
        recorded = await store.record([row_of(foreign), good])
        assert [r.outcome for r in recorded] == [Outcome.OWNER_MISMATCH, Outcome.CREATED]
        assert recorded[0].frame is None
        assert await store.get(EVERYONE, parents.key(first.sid)) == row_of(first).frame

    async def test_another_account_can_neither_block_nor_change_nor_delete(
        self, store: Store, parents: Parents
    ) -> None:
        """The other account knows every SID, and records and deletes first."""
        other = parents._replace(account_sid=new_sid("AC"))
        theirs = row_of(new_interaction(other))
        mine = row_of(new_interaction(parents, sid=theirs.sid))
        key = parents.key(mine.sid)
        await store.record([theirs])
        assert await store.delete(Scope(other.account_sid), key, NOW_US)
        assert await store.record([mine]) == [(Outcome.CREATED, mine.frame)]
        assert await store.record([theirs]) == [(Outcome.DELETED, None)]
        assert not await store.delete(Scope(other.account_sid), key, NOW_US)
        assert await store.get(Scope(parents.account_sid), key) == mine.frame
        page = await store.page(Scope(parents.account_sid), query(parents))
        assert page.frames == mine.frame

    async def test_a_delete_across_accounts_refuses_ambiguous_sids(
        self, store: Store, parents: Parents
    ) -> None:
        other = parents._replace(account_sid=new_sid("AC"))
        mine = row_of(new_interaction(parents))
        theirs = row_of(new_interaction(other, sid=mine.sid))
        key = parents.key(mine.sid)
        await store.record([mine, theirs])
        with pytest.raises(AmbiguousAccountError):
            await store.delete(EVERYONE, key, NOW_US)
        assert await store.get(Scope(parents.account_sid), key) == mine.frame
        assert await store.delete(Scope(parents.account_sid), key, NOW_US)
        assert await store.get(Scope(other.account_sid), key) == theirs.frame
        assert await store.delete(EVERYONE, key, NOW_US)
        assert not await store.delete(EVERYONE, key, NOW_US)
        assert await store.record([mine, theirs]) == [(Outcome.DELETED, None)] * 2

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
            for scope in (EVERYONE, Scope(parents.account_sid)):
                assert not await store.delete(scope, elsewhere, NOW_US)
        assert await store.record([row]) == [(Outcome.UNCHANGED, row.frame)]
        assert await store.delete(Scope(parents.account_sid), key, NOW_US)
