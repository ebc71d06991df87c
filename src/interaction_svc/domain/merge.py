"""Merge of the records of one Interaction into one state, independent of their order.

Records may be repeated, partial, out of order, and of different precision: a webhook has fractional
seconds, and Twilio's REST API has whole seconds. `merge` is a pure function. Records that differ
only in statuses and times result in the same state, whatever their order and repetition:

- A value that a record leaves out stays as it is stored. Empty data, an empty field of a leg and
  the type `unknown` count as left out.
- The status of a leg is the one with the latest time in whole seconds. Within one second, the
  status with the highest rank (`STATUS_RANKS`) is used, then the one with the later time, then the
  one with the higher enum number.
- `create_time` is the earliest time in whole seconds. Within one second, the time with more
  fractional digits is used.
- `update_time` is the latest.

Any other value of the record replaces the stored one, unless the second of the record's update_time
is before the second of the stored update_time. The store has the time of each status, but not of
each other value. So a record without a value may advance the update_time. A late record with that
value is then ignored, although the stored value is even older.
"""

from typing import NamedTuple

from interaction_svc.domain import timestamps
from interaction_svc.v1 import interaction_pb2 as pb

_SECOND_US = 1_000_000

# One table serves messages and calls: only `queued`, `failed` and `canceled` are statuses of both,
# with the same rank in both.
STATUS_RANKS: dict[int, int] = {
    pb.RESOURCE_STATUS_UNKNOWN: 0,
    pb.RESOURCE_STATUS_ACCEPTED: 1,
    pb.RESOURCE_STATUS_SCHEDULED: 1,
    pb.RESOURCE_STATUS_QUEUED: 2,
    pb.RESOURCE_STATUS_INITIATED: 2,
    pb.RESOURCE_STATUS_SENDING: 3,
    pb.RESOURCE_STATUS_RECEIVING: 3,
    pb.RESOURCE_STATUS_RINGING: 3,
    pb.RESOURCE_STATUS_SENT: 4,
    pb.RESOURCE_STATUS_ANSWERED: 4,
    pb.RESOURCE_STATUS_IN_PROGRESS: 4,
    pb.RESOURCE_STATUS_RECEIVED: 5,
    pb.RESOURCE_STATUS_DELIVERED: 5,
    pb.RESOURCE_STATUS_UNDELIVERED: 5,
    pb.RESOURCE_STATUS_DELIVERY_UNKNOWN: 5,
    pb.RESOURCE_STATUS_PARTIALLY_DELIVERED: 5,
    pb.RESOURCE_STATUS_FAILED: 5,
    pb.RESOURCE_STATUS_CANCELED: 5,
    pb.RESOURCE_STATUS_COMPLETED: 5,
    pb.RESOURCE_STATUS_BUSY: 5,
    pb.RESOURCE_STATUS_NO_ANSWER: 5,
    pb.RESOURCE_STATUS_READ: 6,
    pb.RESOURCE_STATUS_DELETED: 7,
}
"""The rank of each status. Within one second the status of the higher rank wins."""

_LEG_TEXTS = ("participant_sid", "resource_sid", "resource_type", "resource_url")


class State(NamedTuple):
    """An Interaction, and the time of the status of each leg in microseconds since 1970.

    The Interaction itself does not contain these times. A later record may omit the status, so the
    time of a status can be before the update_time.
    """

    interaction: pb.Interaction
    inbound_status_us: int
    outbound_status_us: int


class Merge(NamedTuple):
    """The state after a record, and whether the state contains all values of the record."""

    state: State
    holds_record: bool
    """False if the record is older by whole seconds, or has a value that is not in the state."""


def merge(stored: State, record: pb.Interaction) -> Merge:
    """Return the merge of a record into the stored state. Neither argument is changed.

    Both Interactions are normalized (see interaction_svc.domain.validation) and have the same SIDs.
    """
    merged = pb.Interaction()
    merged.CopyFrom(stored.interaction)
    stored_us = timestamps.to_us(merged.update_time)
    record_us = timestamps.to_us(record.update_time)
    counts = record_us // _SECOND_US >= stored_us // _SECOND_US
    created_us = timestamps.to_us(merged.create_time), timestamps.to_us(record.create_time)
    timestamps.set_us(merged.create_time, max(created_us, key=_creation_order))
    timestamps.set_us(merged.update_time, max(stored_us, record_us))
    if record.type != pb.INTERACTION_TYPE_UNKNOWN and (
        counts or merged.type == pb.INTERACTION_TYPE_UNKNOWN
    ):
        merged.type = record.type
    if record.HasField("data") and (
        not merged.data or (counts and record.data)
    ):  # an empty text replaces only a missing one
        merged.data = record.data
    inbound_us, outbound_us = stored.inbound_status_us, stored.outbound_status_us
    if record.HasField("inbound"):
        inbound_us = _merge_leg(
            merged.inbound, inbound_us, record.inbound, record_us, counts=counts
        )
    if record.HasField("outbound"):
        outbound_us = _merge_leg(
            merged.outbound, outbound_us, record.outbound, record_us, counts=counts
        )
    state = State(merged, inbound_us, outbound_us)
    return Merge(state, counts and _holds(merged, record))


def _merge_leg(leg: pb.Leg, status_us: int, given: pb.Leg, given_us: int, *, counts: bool) -> int:
    """Merge the leg of a record into the stored leg, and return the time of its status."""
    for name in _LEG_TEXTS:
        text = getattr(given, name)
        if text and (counts or not getattr(leg, name)):
            setattr(leg, name, text)
    status = given.resource_status
    if status and (
        not leg.resource_status
        or _status_order(status, given_us) > _status_order(leg.resource_status, status_us)
    ):
        leg.resource_status = status
        return given_us
    return status_us


def _status_order(status: int, us: int) -> tuple[int, int, int, int]:
    return us // _SECOND_US, STATUS_RANKS[status], us, status


def _creation_order(us: int) -> tuple[int, int, int]:
    second, fraction = divmod(us, _SECOND_US)
    digits = len(f"{fraction:06d}".rstrip("0"))
    return -second, digits, -us


def _holds(state: pb.Interaction, record: pb.Interaction) -> bool:
    """Return whether the state has all values of the record, apart from times."""
    return (
        record.type in (state.type, pb.INTERACTION_TYPE_UNKNOWN)
        and record.data in ("", state.data)
        and all(
            given in (0, "", stored)
            for name in ("inbound", "outbound")
            for given, stored in zip(
                _values(getattr(record, name)), _values(getattr(state, name)), strict=True
            )
        )
    )


def _values(leg: pb.Leg) -> tuple[object, ...]:
    return (leg.resource_status, *(getattr(leg, name) for name in _LEG_TEXTS))
