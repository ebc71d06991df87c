"""Contract of stores: bulk deletion by age and by participant."""

from collections import Counter

from testing.build import (
    NOON_US,
    SECOND_US,
    Parents,
    new_interaction,
    new_leg,
    new_parents,
    new_sid,
)

from interaction_svc.domain.interactions import Outcome
from interaction_svc.store import BulkDeleteCursor, Expired, InvolvesParticipant, Row, Store, row_of
from tests.store.contract.stores import EVERYONE, NOW_US, StoreTests, query, sids


async def delete_all(
    store: Store, what: Expired | InvolvesParticipant, *, dry_run: bool = False
) -> tuple[dict[str, int], int]:
    """Run a bulk deletion over the whole store; return counts by Service, and the batches."""
    counts: Counter[str] = Counter()
    after: BulkDeleteCursor | None = None
    batches = 0
    while True:
        by_service, after = await store.bulk_delete(
            what, after=after, now_us=NOW_US, dry_run=dry_run
        )
        counts.update(by_service)
        batches += 1
        if after is None:
            return dict(counts), batches


async def record(store: Store, rows: list[Row]) -> None:
    for start in range(0, len(rows), 1000):
        await store.record(rows[start : start + 1000])


async def sids_in(store: Store, parents: Parents) -> list[str]:
    asked = query(parents, limit=10_000, max_bytes=1 << 30)
    return sids((await store.page(EVERYONE, asked)).frames)


class BulkDeleteTests(StoreTests):
    """Tests of retention and erasure."""

    async def test_only_interactions_before_the_bound_are_deleted(
        self, store: Store, parents: Parents
    ) -> None:
        other = parents._replace(session_sid=new_sid("KC"))
        old = [row_of(new_interaction(p, NOON_US - n)) for p in (parents, other) for n in (1, 2)]
        at_the_bound = row_of(new_interaction(parents, NOON_US))
        younger = row_of(new_interaction(other, NOON_US + 1))
        await store.record([*old, at_the_bound, younger])
        counts, _ = await delete_all(store, Expired(NOON_US))
        assert counts == {parents.service_sid: 4}
        assert await sids_in(store, parents) == [at_the_bound.sid]
        assert await sids_in(store, other) == [younger.sid]
        assert await delete_all(store, Expired(NOON_US)) == ({}, 1)

    async def test_bulk_deletion_is_permanent(self, store: Store, parents: Parents) -> None:
        leg = new_leg()
        old = row_of(new_interaction(parents, NOON_US - 1))
        theirs = row_of(new_interaction(parents, inbound=leg))
        await store.record([old, theirs])
        await delete_all(store, Expired(NOON_US))
        await delete_all(store, InvolvesParticipant(leg.participant_sid))
        assert await store.record([old, theirs]) == [(Outcome.DELETED, None)] * 2

    async def test_a_service_can_have_a_different_bound(self, store: Store) -> None:
        usual, longer, for_ever, shorter = families = [new_parents() for _ in range(4)]
        # All in one Session: the SID of a Session is unique only within its Service.
        families = [p._replace(session_sid=usual.session_sid) for p in families]
        families[-1] = families[-1]._replace(account_sid=usual.account_sid)
        rows = {
            parents.service_sid: [
                row_of(new_interaction(parents, NOON_US + n * 10)) for n in range(6)
            ]
            for parents in families
        }
        await store.record([row for of_one in rows.values() for row in of_one])
        what = Expired(
            NOON_US + 20,
            {
                longer.service_sid: NOON_US + 10,
                for_ever.service_sid: None,
                shorter.service_sid: NOON_US + 40,
            },
        )
        expected = {usual.service_sid: 2, longer.service_sid: 1, shorter.service_sid: 4}
        assert (await delete_all(store, what, dry_run=True))[0] == expected
        assert (await delete_all(store, what))[0] == expected
        for parents in families:
            left = rows[parents.service_sid][expected.get(parents.service_sid, 0) :]
            assert await sids_in(store, parents) == [row.sid for row in left]

    async def test_without_a_default_bound_only_services_with_a_bound_are_affected(
        self, store: Store, parents: Parents
    ) -> None:
        other = new_parents()
        rows = [row_of(new_interaction(p, NOON_US - 1)) for p in (parents, other)]
        await store.record(rows)
        assert (await delete_all(store, Expired(None)))[0] == {}
        what = Expired(None, {parents.service_sid: NOON_US})
        assert (await delete_all(store, what))[0] == {parents.service_sid: 1}
        assert await sids_in(store, other) == [rows[1].sid]

    async def test_a_dry_run_counts_and_changes_nothing(
        self, store: Store, parents: Parents
    ) -> None:
        leg = new_leg()
        rows = [row_of(new_interaction(parents, NOON_US - n, inbound=leg)) for n in range(5, 0, -1)]
        await store.record(rows)
        for what in (Expired(NOON_US), InvolvesParticipant(leg.participant_sid)):
            for _ in range(2):
                assert (await delete_all(store, what, dry_run=True))[0] == {parents.service_sid: 5}
        assert await sids_in(store, parents) == [row.sid for row in rows]

    async def test_a_participant_is_found_on_either_leg(
        self, store: Store, parents: Parents
    ) -> None:
        leg, other = new_leg(), new_leg()
        there = new_parents()
        rows = [
            row_of(new_interaction(parents, NOON_US, inbound=leg, outbound=other)),
            row_of(new_interaction(parents, NOON_US + 1, inbound=None, outbound=leg)),
            row_of(new_interaction(parents, NOON_US + 2, inbound=leg, outbound=leg)),
            row_of(new_interaction(there, NOON_US + 3, inbound=leg, outbound=None)),
            row_of(new_interaction(parents, NOON_US + 4, inbound=other, outbound=None)),
            row_of(new_interaction(parents, NOON_US + 5, inbound=None, outbound=None)),
        ]
        await store.record(rows)
        counts, _ = await delete_all(store, InvolvesParticipant(leg.participant_sid))
        assert counts == {parents.service_sid: 3, there.service_sid: 1}
        assert await sids_in(store, parents) == [row.sid for row in rows[4:]]
        assert await delete_all(store, InvolvesParticipant(leg.participant_sid)) == ({}, 1)

    async def test_an_erasure_can_be_limited_to_one_account(
        self, store: Store, parents: Parents
    ) -> None:
        leg = new_leg()
        other = parents._replace(account_sid=new_sid("AC"))
        mine = row_of(new_interaction(parents, inbound=leg))
        theirs = row_of(new_interaction(other, sid=mine.sid, inbound=leg))
        await store.record([mine, theirs])
        what = InvolvesParticipant(leg.participant_sid, other.account_sid)
        assert await delete_all(store, what) == ({parents.service_sid: 1}, 1)
        assert await store.record([mine, theirs]) == [
            (Outcome.UNCHANGED, mine.frame),
            (Outcome.DELETED, None),
        ]

    async def test_an_expired_interaction_of_one_account_leaves_the_other_s(
        self, store: Store, parents: Parents
    ) -> None:
        other = parents._replace(account_sid=new_sid("AC"))
        old = row_of(new_interaction(parents, NOON_US - SECOND_US))
        young = row_of(new_interaction(other, NOON_US, sid=old.sid))
        await store.record([old, young])
        assert await delete_all(store, Expired(NOON_US)) == ({parents.service_sid: 1}, 1)
        assert await store.get(EVERYONE, parents.key(old.sid)) == young.frame

    async def test_batches_are_bounded_and_resume(self, store: Store, parents: Parents) -> None:
        leg = new_leg()
        elsewhere = [parents._replace(session_sid=new_sid("KC")) for _ in range(30)]
        rows = [
            row_of(new_interaction(p, NOON_US + (n if n < 950 else n - 2_000), inbound=leg))
            for n, p in enumerate([parents] * 1000 + elsewhere * 20)
        ]
        keeping = [row_of(new_interaction(p, NOON_US + 5_000)) for p in (parents, *elsewhere)]
        await record(store, [*rows, *keeping])
        old = sum(row.created_us < NOON_US + 500 for row in rows)
        counts, batches = await delete_all(store, Expired(NOON_US + 500))
        assert counts == {parents.service_sid: old}
        assert batches > old / 300
        counts, batches = await delete_all(store, InvolvesParticipant(leg.participant_sid))
        assert counts == {parents.service_sid: len(rows) - old}
        assert batches > (len(rows) - old) / 300
        for place, row in zip((parents, *elsewhere), keeping, strict=True):
            assert await sids_in(store, place) == [row.sid]

    async def test_rows_that_are_already_deleted_are_not_counted(
        self, store: Store, parents: Parents
    ) -> None:
        rows = [row_of(new_interaction(parents, NOON_US - n)) for n in range(300)]
        await record(store, rows)
        first = await store.bulk_delete(Expired(NOON_US + 1), after=None, now_us=NOW_US)
        assert first.next is not None
        left = await sids_in(store, parents)
        await store.delete(EVERYONE, parents.key(left[0]), NOW_US)
        second = await store.bulk_delete(Expired(NOON_US + 1), after=first.next, now_us=NOW_US)
        assert second == ({parents.service_sid: len(left) - 1}, None)
        assert sum(first.by_service.values()) + len(left) == 300
