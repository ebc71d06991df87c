"""Merging records: the result does not depend on the order of their arrival."""

from collections.abc import Sequence
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testing.build import NOON_US, SECOND_US, new_interaction, new_parents

from interaction_svc.domain import timestamps
from interaction_svc.domain.interactions import Outcome
from interaction_svc.domain.merge import STATUS_RANKS
from interaction_svc.store import Recorded, Row, decode, merge_row, row_of
from interaction_svc.v1 import interaction_pb2 as pb

PARENTS = new_parents()
BASE = new_interaction(PARENTS)
DELIVERED, SENT = pb.RESOURCE_STATUS_DELIVERED, pb.RESOURCE_STATUS_SENT

statuses = st.sampled_from(pb.ResourceStatus.values())
# A few seconds, some with fractions of different precision, so that many are equal or close.
times_us = st.builds(
    lambda second, fraction: NOON_US + second * SECOND_US + fraction,
    st.integers(0, 2),
    st.sampled_from([0, 0, 7, 700_000, 710_000, 123_456]),
)


@st.composite
def records(draw: st.DrawFn) -> pb.Interaction:
    """Draw a record of BASE with other statuses and times, and with values left out."""
    record = pb.Interaction()
    record.CopyFrom(BASE)
    for leg in (record.inbound, record.outbound):
        leg.resource_status = draw(statuses)
        for name in ("participant_sid", "resource_sid", "resource_type", "resource_url"):
            if draw(st.booleans()):
                leg.ClearField(name)
    for name in ("inbound", "outbound", "data"):
        if draw(st.booleans()):
            record.ClearField(name)  # type: ignore[arg-type]
    if draw(st.booleans()):
        record.type = pb.INTERACTION_TYPE_UNKNOWN
    created_us, updated_us = sorted((draw(times_us), draw(times_us)))
    timestamps.set_us(record.create_time, created_us)
    timestamps.set_us(record.update_time, updated_us)
    return record


def recorded(rows: Sequence[Row]) -> tuple[Row, list[Outcome]]:
    """Record rows one after the other; return the stored row and the outcomes."""
    stored, outcomes = rows[0], [Outcome.CREATED]
    for row in rows[1:]:
        (outcome, _), changed = merge_row(stored, row)
        outcomes.append(outcome)
        stored = changed or stored
    return stored, outcomes


@given(st.lists(records(), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_every_order_with_repetitions_ends_in_the_same_row(
    given_records: list[pb.Interaction], random: Random
) -> None:
    rows = [row_of(record) for record in given_records]
    ends = {recorded(order)[0] for order in permutations(rows)}
    for _ in range(5):
        again = [*rows, *random.choices(rows, k=3)]
        random.shuffle(again)
        ends.add(recorded(again)[0])
    assert len(ends) == 1


@given(records(), records())
def test_a_repeated_record_changes_nothing(first: pb.Interaction, second: pb.Interaction) -> None:
    stored, _ = recorded([row_of(first), row_of(second)])
    for record in (first, second):
        (outcome, frame), changed = merge_row(stored, row_of(record))
        assert changed is None
        assert frame == stored.frame
        assert outcome in (Outcome.UNCHANGED, Outcome.STALE)


def with_status(
    status: pb.ResourceStatus.ValueType, updated_us: int = NOON_US, created_us: int = NOON_US
) -> Row:
    record = pb.Interaction()
    record.CopyFrom(BASE)
    record.outbound.resource_status = status
    timestamps.set_us(record.create_time, created_us)
    timestamps.set_us(record.update_time, updated_us)
    return row_of(record)


def status_after(*rows: Row) -> int:
    return decode(recorded(rows)[0].frame).outbound.resource_status


@pytest.mark.parametrize("earlier", [SENT, pb.RESOURCE_STATUS_READ, DELIVERED])
def test_the_status_of_the_later_second_wins(earlier: pb.ResourceStatus.ValueType) -> None:
    rows = with_status(earlier, NOON_US), with_status(SENT, NOON_US + SECOND_US)
    assert status_after(*rows) == SENT
    assert status_after(*reversed(rows)) == SENT


MESSAGE_ORDER = (
    (pb.RESOURCE_STATUS_ACCEPTED, pb.RESOURCE_STATUS_SCHEDULED),
    (pb.RESOURCE_STATUS_QUEUED,),
    (pb.RESOURCE_STATUS_SENDING,),
    (SENT,),
    (
        DELIVERED,
        pb.RESOURCE_STATUS_UNDELIVERED,
        pb.RESOURCE_STATUS_FAILED,
        pb.RESOURCE_STATUS_CANCELED,
        pb.RESOURCE_STATUS_DELIVERY_UNKNOWN,
        pb.RESOURCE_STATUS_PARTIALLY_DELIVERED,
    ),
    (pb.RESOURCE_STATUS_READ,),
)
CALL_ORDER = (
    (pb.RESOURCE_STATUS_INITIATED, pb.RESOURCE_STATUS_QUEUED),
    (pb.RESOURCE_STATUS_RINGING,),
    (pb.RESOURCE_STATUS_ANSWERED, pb.RESOURCE_STATUS_IN_PROGRESS),
    (
        pb.RESOURCE_STATUS_COMPLETED,
        pb.RESOURCE_STATUS_BUSY,
        pb.RESOURCE_STATUS_NO_ANSWER,
        pb.RESOURCE_STATUS_FAILED,
        pb.RESOURCE_STATUS_CANCELED,
    ),
)
INBOUND_ORDER = ((pb.RESOURCE_STATUS_RECEIVING,), (pb.RESOURCE_STATUS_RECEIVED,))


@pytest.mark.parametrize("order", [MESSAGE_ORDER, CALL_ORDER, INBOUND_ORDER])
def test_within_a_second_the_status_of_the_higher_rank_wins(
    order: tuple[tuple[pb.ResourceStatus.ValueType, ...], ...],
) -> None:
    for place, statuses_there in enumerate(order):
        for status in statuses_there:
            for further in (one for later in order[place + 1 :] for one in later):
                rows = with_status(status, NOON_US + 700_000), with_status(further, NOON_US)
                assert status_after(*rows) == further
                assert status_after(*reversed(rows)) == further


def test_of_two_statuses_of_one_rank_the_later_one_wins() -> None:
    rows = (
        with_status(DELIVERED, NOON_US),
        with_status(pb.RESOURCE_STATUS_UNDELIVERED, NOON_US + 1),
    )
    assert status_after(*rows) == pb.RESOURCE_STATUS_UNDELIVERED
    assert status_after(*reversed(rows)) == pb.RESOURCE_STATUS_UNDELIVERED


def test_every_status_has_a_rank() -> None:
    assert set(STATUS_RANKS) == set(pb.ResourceStatus.values()) - {0}


def test_values_that_a_later_record_leaves_out_are_kept() -> None:
    later = pb.Interaction()
    later.CopyFrom(BASE)
    later.ClearField("inbound")
    later.ClearField("data")
    later.outbound.Clear()
    later.outbound.resource_status = pb.RESOURCE_STATUS_READ
    timestamps.set_us(later.update_time, NOON_US + SECOND_US)
    (outcome, _), changed = merge_row(row_of(BASE), row_of(later))
    assert outcome is Outcome.UPDATED
    assert changed is not None
    merged = decode(changed.frame)
    assert merged.data == BASE.data
    assert merged.inbound == BASE.inbound
    assert merged.outbound.resource_sid == BASE.outbound.resource_sid
    assert merged.outbound.resource_status == pb.RESOURCE_STATUS_READ


def test_a_status_is_compared_by_its_own_time_after_a_record_without_one() -> None:
    without = pb.Interaction()
    without.CopyFrom(BASE)
    without.ClearField("outbound")
    timestamps.set_us(without.update_time, NOON_US + 5 * SECOND_US)
    rows = (
        with_status(SENT, NOON_US),
        row_of(without),
        with_status(pb.RESOURCE_STATUS_FAILED, NOON_US + SECOND_US),
    )
    assert {status_after(*order) for order in permutations(rows)} == {pb.RESOURCE_STATUS_FAILED}


@pytest.mark.parametrize(
    ("times", "kept"),
    [
        ((0, 700_000), 700_000),
        ((700_000, 710_000), 710_000),
        ((710_000, 720_000), 710_000),
        ((700_000, -300_000), -300_000),
        ((0, SECOND_US), 0),
    ],
)
def test_create_time_is_the_earliest_second_with_the_most_digits(
    times: tuple[int, int], kept: int
) -> None:
    rows = [with_status(SENT, NOON_US + SECOND_US, NOON_US + time) for time in times]
    for order in (rows, rows[::-1]):
        stored, _ = recorded(order)
        assert stored.created_us == NOON_US + kept
        assert timestamps.to_us(decode(stored.frame).create_time) == NOON_US + kept


@pytest.mark.parametrize(("seconds_later", "kept"), [(1, "second"), (0, "second"), (-1, "first")])
def test_a_different_text_wins_unless_its_second_is_earlier(seconds_later: int, kept: str) -> None:
    rows = []
    for text, updated_us in (
        ("first", NOON_US + 900_000),
        ("second", NOON_US + seconds_later * SECOND_US),
    ):
        record = new_interaction(PARENTS, NOON_US - SECOND_US, updated_us, sid=BASE.sid, data=text)
        record.inbound.CopyFrom(BASE.inbound)
        record.outbound.CopyFrom(BASE.outbound)
        rows.append(row_of(record))
    stored, outcomes = recorded(rows)
    assert decode(stored.frame).data == kept
    assert outcomes[1] is (Outcome.UPDATED if kept == "second" else Outcome.STALE)


def test_the_same_second_with_less_precision_is_unchanged_and_an_earlier_second_is_stale() -> None:
    stored = with_status(SENT, NOON_US + 700_000, NOON_US - SECOND_US)
    coarser = with_status(SENT, NOON_US, NOON_US - SECOND_US)
    older = with_status(SENT, NOON_US - SECOND_US, NOON_US - SECOND_US)
    contradicting = with_status(pb.RESOURCE_STATUS_QUEUED, NOON_US, NOON_US - SECOND_US)
    assert merge_row(stored, coarser) == (Recorded(Outcome.UNCHANGED, stored.frame), None)
    assert merge_row(stored, older) == (Recorded(Outcome.STALE, stored.frame), None)
    assert merge_row(stored, contradicting) == (Recorded(Outcome.STALE, stored.frame), None)


def test_a_record_under_another_service_is_a_mismatch() -> None:
    other = row_of(BASE)._replace(service_sid=new_parents().service_sid)
    assert merge_row(row_of(BASE), other) == (Recorded(Outcome.OWNER_MISMATCH, None), None)


def test_a_damaged_row_is_replaced_by_a_new_record() -> None:
    row = row_of(BASE)
    damaged = row._replace(frame=row.frame[:-1] + b"\x00")
    assert merge_row(damaged, row) == (Recorded(Outcome.UPDATED, row.frame), row)


def test_legs_of_separate_records_are_merged() -> None:
    inbound, outbound = pb.Interaction(), pb.Interaction()
    for record, left_out in ((inbound, "outbound"), (outbound, "inbound")):
        record.CopyFrom(BASE)
        record.ClearField(left_out)  # type: ignore[arg-type]
    stored, _ = recorded([row_of(inbound), row_of(outbound)])
    assert decode(stored.frame) == BASE
