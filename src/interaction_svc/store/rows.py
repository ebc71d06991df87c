"""Rows: an encoded Interaction (the `frame`), and its columns for keys and filters.

Only `row_of` creates the columns and the frame. See interaction_svc.codec.encoded for the frame.
"""

from typing import NamedTuple

import structlog

from interaction_svc.codec import encoded
from interaction_svc.domain import timestamps
from interaction_svc.domain.interactions import Outcome
from interaction_svc.domain.merge import State, merge
from interaction_svc.store.checksum import check_frame, checksum_of
from interaction_svc.store.errors import DamagedRowError
from interaction_svc.store.recorded import Recorded
from interaction_svc.v1.interaction_pb2 import Interaction

log = structlog.get_logger()

_DAMAGED = "a row is damaged; interaction-svc migrate --check names it"


class Row(NamedTuple):
    """One stored Interaction. Times are in microseconds since 1970; None means unknown."""

    session_sid: str
    account_sid: str
    sid: str
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
    inbound_status_us: int | None
    """The time at which the leg's status was reported; None: updated_us. See domain/merge."""
    outbound_status_us: int | None
    checksum: int
    """Checksum of the frame; see interaction_svc.store.checksum."""
    frame: bytes


COLUMNS = ", ".join(Row._fields)


def row_of(
    interaction: Interaction,
    inbound_status_us: int | None = None,
    outbound_status_us: int | None = None,
) -> Row:
    """Return the row of a valid Interaction (see domain/validation)."""
    inbound, outbound = interaction.inbound, interaction.outbound
    frame = encoded.encode(interaction)
    return Row(
        interaction.session_sid,
        interaction.account_sid,
        interaction.sid,
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
        inbound_status_us,
        outbound_status_us,
        checksum_of(frame),
        frame,
    )


def decode(frame: bytes) -> Interaction:
    """Return the Interaction of a row's frame. Raises DamagedRowError."""
    try:
        return encoded.decode(frame)
    except encoded.DamagedEncodingError as error:
        raise DamagedRowError(_DAMAGED) from error


def merge_row(stored: Row, row: Row) -> tuple[Recorded, Row | None]:
    """Merge a record into the stored row with the same key. Return the outcome and the new row.

    The row is None if nothing changes. All backends use this function; see
    interaction_svc.domain.merge. A damaged stored row is replaced by the record.
    """
    if stored.service_sid != row.service_sid:
        return Recorded(Outcome.OWNER_MISMATCH, None), None
    if stored == row:
        return Recorded(Outcome.UNCHANGED, stored.frame), None
    try:
        check_frame(stored.frame, stored.checksum)
        interaction = decode(stored.frame)
    except DamagedRowError:
        log.error("a damaged Interaction was replaced by a new record", sid=stored.sid)
        return Recorded(Outcome.UPDATED, row.frame), row
    (state, holds_record) = merge(
        State(
            interaction,
            stored.updated_us if stored.inbound_status_us is None else stored.inbound_status_us,
            stored.updated_us if stored.outbound_status_us is None else stored.outbound_status_us,
        ),
        decode(row.frame),
    )
    merged = _row_of_state(state)
    changed = None if merged == stored else merged
    if merged.frame != stored.frame:
        return Recorded(Outcome.UPDATED, merged.frame), changed
    outcome = Outcome.UNCHANGED if holds_record else Outcome.STALE
    return Recorded(outcome, stored.frame), changed


def _row_of_state(state: State) -> Row:
    updated_us = timestamps.to_us(state.interaction.update_time)
    inbound_us, outbound_us = state.inbound_status_us, state.outbound_status_us
    interaction = state.interaction
    return row_of(
        interaction,
        None if inbound_us == updated_us or not interaction.inbound.resource_status else inbound_us,
        None
        if outbound_us == updated_us or not interaction.outbound.resource_status
        else outbound_us,
    )
