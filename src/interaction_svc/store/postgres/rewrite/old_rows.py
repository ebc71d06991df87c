"""Conversion of rows of version 1, whose SIDs are text in either case, to version 2."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import structlog

from interaction_svc.domain.interactions import Outcome
from interaction_svc.domain.sids import Sid, canonical_sid
from interaction_svc.store.checksum import checksum_of
from interaction_svc.store.errors import DamagedRowError, NotAStoreError
from interaction_svc.store.rows import Row, decode, merge_row, row_of
from interaction_svc.v1.interaction_pb2 import Interaction

log = structlog.get_logger()

SpelledKey = tuple[str, str]
"""The session_sid and the sid of version 1."""
InteractionKey = tuple[str, str]
"""The same SIDs with lower-case digits."""


class OldRow(NamedTuple):
    """A row of version 1."""

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


COLUMNS = ", ".join(OldRow._fields)


def canonical_key(key: SpelledKey) -> InteractionKey:
    """Return a key in the spelling of version 2."""
    return canonical_sid(key[0]), canonical_sid(key[1])


def check_sid(kind: Sid, sid: str) -> str:
    """Return a SID in the spelling of version 2. Raises NotAStoreError if it is not a SID."""
    if not kind.matches(sid):
        raise NotAStoreError(
            f"a row has {sid!r} where a SID is needed (pattern {kind.pattern}); correct or delete"
            " that row, and run interaction-svc migrate again"
        )
    return canonical_sid(sid)


def merged(rows: Iterable[OldRow]) -> list[Row]:
    """Merge the rows of one key into at most one row for each account.

    The rows of a key differ in the case of their digits, and are records of one Interaction.
    """
    found: dict[str, Row] = {}
    # Damaged rows come last: one is used only if the account has no other row.
    for row in sorted((_converted(row) for row in sorted(rows)), key=is_damaged):
        stored = found.setdefault(row.account_sid, row)
        if stored is row or is_damaged(row):
            continue
        (outcome, _), changed = merge_row(stored, row)
        if outcome is Outcome.OWNER_MISMATCH:
            log.error("an Interaction is in two Services; one was kept", sid=row.sid)
        found[row.account_sid] = changed or stored
    return list(found.values())


def is_damaged(row: Row) -> bool:
    """Return whether a row's checksum differs from the checksum of its frame."""
    return row.checksum != checksum_of(row.frame)


def _converted(old: OldRow) -> Row:
    """Return the row of version 2. The frame changes only if the spelling of a SID does.

    If the frame can't be decoded, or differs from the columns, the row keeps its bytes and gets a
    wrong checksum. So no data is lost, and each read reports the row as damaged.
    """
    try:
        interaction = decode(old.frame)
        changed = _make_canonical(interaction)
        row = row_of(interaction)
    except (DamagedRowError, ValueError):
        return _damaged(old)
    columns = _canonical_columns(old)
    if any(getattr(row, name) != value for name, value in columns.items()):
        return _damaged(old)
    if changed:
        return row
    return row._replace(frame=old.frame, checksum=checksum_of(old.frame))


def _make_canonical(interaction: Interaction) -> bool:
    """Convert a message's SIDs to lower case. Return whether any SID changed."""
    changed = False
    for message, names in (
        (interaction, ("session_sid", "account_sid", "sid", "service_sid")),
        (interaction.inbound, ("participant_sid", "resource_sid")),
        (interaction.outbound, ("participant_sid", "resource_sid")),
    ):
        for name in names:
            sid = getattr(message, name)
            if sid != (canonical := canonical_sid(sid)):
                setattr(message, name, canonical)
                changed = True
    return changed


_KINDS = {
    "session_sid": Sid.SESSION,
    "account_sid": Sid.ACCOUNT,
    "sid": Sid.INTERACTION,
    "service_sid": Sid.SERVICE,
    "inbound_participant_sid": Sid.PARTICIPANT,
    "outbound_participant_sid": Sid.PARTICIPANT,
    "inbound_resource_sid": Sid.RESOURCE,
    "outbound_resource_sid": Sid.RESOURCE,
}


def _canonical_columns(old: OldRow) -> dict[str, Any]:
    """Return the columns of a row without its frame, with SIDs in the spelling of version 2.

    Raises NotAStoreError if a SID column has a value that is not a SID.
    """
    columns = old._asdict()
    del columns["frame"]
    for name, kind in _KINDS.items():
        if columns[name] is not None:
            columns[name] = check_sid(kind, columns[name])
    return columns


def _damaged(old: OldRow) -> Row:
    log.error(
        "a row is damaged; migrate --check lists it",
        session_sid=old.session_sid,
        account_sid=old.account_sid,
        sid=old.sid,
    )
    return Row(
        **_canonical_columns(old),
        inbound_status_us=None,
        outbound_status_us=None,
        checksum=~checksum_of(old.frame),
        frame=old.frame,
    )
