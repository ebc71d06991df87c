"""Contract of stores: records of one Interaction in any order, by every way of recording."""

from itertools import permutations
from random import Random

from testing.build import NOON_US, SECOND_US, Parents, new_interaction, new_sid

from interaction_svc.domain import timestamps
from interaction_svc.domain.interactions import Outcome
from interaction_svc.store import Row, Store, row_of
from interaction_svc.v1 import interaction_pb2 as pb
from tests.store.contract.stores import EVERYONE, StoreTests, query


def partial_records(base: pb.Interaction) -> list[pb.Interaction]:
    """Return records of one Interaction: repeated, partial, with other statuses and precisions."""
    steps = (
        (pb.RESOURCE_STATUS_QUEUED, NOON_US, NOON_US, ()),
        (pb.RESOURCE_STATUS_SENT, NOON_US + 700_000, NOON_US + 700_000, ("data",)),
        (pb.RESOURCE_STATUS_DELIVERED, NOON_US, NOON_US, ("inbound",)),
        (pb.RESOURCE_STATUS_READ, NOON_US + SECOND_US, NOON_US, ("outbound",)),
        (pb.RESOURCE_STATUS_SENDING, NOON_US + 500_000, NOON_US + 710_000, ("inbound", "data")),
    )
    records = []
    for status, updated_us, created_us, left_out in steps:
        record = pb.Interaction()
        record.CopyFrom(base)
        record.outbound.resource_status = status
        timestamps.set_us(record.create_time, created_us)
        timestamps.set_us(record.update_time, max(updated_us, created_us))
        for name in left_out:
            record.ClearField(name)  # type: ignore[arg-type]
        records.append(record)
    return records


class MergingTests(StoreTests):
    """Tests of records of a stored Interaction."""

    async def test_every_order_of_records_ends_in_the_same_row(
        self, store: Store, parents: Parents
    ) -> None:
        base = new_interaction(parents)
        records = partial_records(base)
        orders = list(permutations(range(len(records))))
        ends = set()
        sids = []
        rows: list[Row] = []
        for order in orders:  # each with its own SID, all in a few batches
            sid = new_sid("KI")
            sids.append(sid)
            for place in order:
                record = pb.Interaction()
                record.CopyFrom(records[place])
                record.sid = sid
                rows.append(row_of(record))
        Random(1).shuffle(rows)  # some orders stay within a batch, others span several
        for start in range(0, len(rows), 37):
            await store.record(rows[start : start + 37])
        for sid in sids:
            frame = await store.get(EVERYONE, parents.key(sid))
            assert frame is not None
            ends.add(frame.replace(sid.encode(), b""))
        assert len(ends) == 1
        report = await store.check()
        assert (report.rows, report.bad_rows) == (len(orders), 0)

    async def test_an_interaction_with_a_changed_creation_time_is_found_at_its_new_position(
        self, store: Store, parents: Parents
    ) -> None:
        earlier = new_interaction(parents, NOON_US - SECOND_US)
        moving = new_interaction(parents, NOON_US)
        finer = new_interaction(parents, NOON_US + 123_456, sid=moving.sid)
        finer.inbound.CopyFrom(moving.inbound)
        finer.outbound.CopyFrom(moving.outbound)
        between = new_interaction(parents, NOON_US + 1)
        await store.record([row_of(one) for one in (earlier, moving, between)])
        ((outcome, frame),) = await store.record([row_of(finer)])
        assert outcome is Outcome.UPDATED
        assert frame == row_of(finer).frame
        page = await store.page(EVERYONE, query(parents))
        assert page.frames == b"".join(row_of(one).frame for one in (earlier, between, finer))
        assert await store.get(EVERYONE, parents.key(moving.sid)) == frame
        assert (await store.check()).bad_rows == 0

    async def test_the_internal_time_of_a_status_is_kept(
        self, store: Store, parents: Parents
    ) -> None:
        base = new_interaction(parents)
        later = pb.Interaction()
        later.CopyFrom(base)
        later.ClearField("outbound")
        timestamps.set_us(later.update_time, NOON_US + 5 * SECOND_US)
        between, old = pb.Interaction(), pb.Interaction()
        for record, seconds, status in (
            (between, 3, base.outbound.resource_status),
            (old, 2, pb.RESOURCE_STATUS_READ),
        ):
            record.CopyFrom(base)
            record.outbound.resource_status = status
            timestamps.set_us(record.update_time, NOON_US + seconds * SECOND_US)
        outcomes = []
        for record in (base, later, between, old):
            ((outcome, frame),) = await store.record([row_of(record)])
            outcomes.append(outcome)
        assert outcomes == [Outcome.CREATED, Outcome.UPDATED, Outcome.STALE, Outcome.STALE]
        assert frame == await store.get(EVERYONE, parents.key(base.sid))
