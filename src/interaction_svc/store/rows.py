"""A row: the bytes of an Interaction beside the columns that it is found and filtered by.

The bytes are those of a GetInteractionResponse that holds the Interaction, its `frame`. Field 1 of
ListInteractionsResponse is an Interaction as well, so a frame is at once the whole response of Get
and one element of a List, and protobuf lets both be made by joining bytes. No message is built to
read. Columns and frame are made by one function, `row_of`, and by nothing else.
"""

from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import DecodeError

from interaction_svc import timestamps
from interaction_svc.internal.v1.unparsed_pb2 import UnparsedInteractions
from interaction_svc.store.errors import DamagedRowError
from interaction_svc.v1.interaction_pb2 import Interaction
from interaction_svc.v1.interaction_service_pb2 import GetInteractionResponse

_DAMAGED = "a row is damaged; interaction-svc migrate --check names it"
_LENGTH_DELIMITED = 2
_INTERACTION_TAG = GetInteractionResponse.INTERACTION_FIELD_NUMBER << 3 | _LENGTH_DELIMITED


class Row(NamedTuple):
    """One stored Interaction. Times are in microseconds since 1970; None is "not known"."""

    session_sid: str
    sid: str
    account_sid: str
    service_sid: str
    created_us: int
    updated_us: int
    type: int
    inbound_participant_sid: str | None
    outbound_participant_sid: str | None
    inbound_resource_sid: str | None
    outbound_resource_sid: str | None
    inbound_resource_status: int | None
    outbound_resource_status: int | None
    frame: bytes


COLUMNS = ", ".join(Row._fields)


def row_of(interaction: Interaction) -> Row:
    """Make the row of an Interaction that has been checked (see interaction_svc.records)."""
    inbound, outbound = interaction.inbound, interaction.outbound
    record = interaction.SerializeToString()  # it has no map, whose order would be by chance
    return Row(
        interaction.session_sid,
        interaction.sid,
        interaction.account_sid,
        interaction.service_sid,
        timestamps.to_us(interaction.create_time),
        timestamps.to_us(interaction.update_time),
        interaction.type,
        inbound.participant_sid or None,
        outbound.participant_sid or None,
        inbound.resource_sid or None,
        outbound.resource_sid or None,
        inbound.resource_status or None,
        outbound.resource_status or None,
        # The response as bytes: to make the message of it takes a quarter of this function.
        _head(len(record)) + record,
    )


@lru_cache(4096)
def _head(size: int) -> bytes:
    """Give what stands before an Interaction of this size: the field's tag, and the size."""
    head = bytearray([_INTERACTION_TAG])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)


def decode(frame: bytes) -> Interaction:
    """Read the Interaction out of its frame. Raises DamagedRowError."""
    try:
        return GetInteractionResponse.FromString(frame).interaction
    except DecodeError as error:
        raise DamagedRowError(_DAMAGED) from error


def records_of(frames: bytes) -> list[bytes]:
    """Tell apart the Interactions of frames that have been joined. Raises DamagedRowError."""
    try:
        return list(UnparsedInteractions.FromString(frames).interactions)
    except DecodeError as error:
        raise DamagedRowError(_DAMAGED) from error


def decode_record(record: bytes) -> Interaction:
    """Read one of them. Raises DamagedRowError."""
    try:
        return Interaction.FromString(record)
    except DecodeError as error:
        raise DamagedRowError(_DAMAGED) from error


def with_created(row: Row, created_us: int) -> Row:
    """Give the row with another create_time: an Interaction keeps that of its first record."""
    interaction = decode(row.frame)
    timestamps.set_us(interaction.create_time, created_us)
    return row_of(interaction)
