"""Statements of bulk deletion.

The search for the rows of a batch runs on the reading connection, so it delays no writer. The
deletion of the rows runs in a transaction of the writer.
"""

import sqlite3
from collections.abc import Sequence

from interaction_svc.store.bulk_delete import (
    MAX_DELETED,
    MAX_EXAMINED,
    BulkDeleteCursor,
    Expired,
    FoundRow,
    InvolvesParticipant,
    count_by_service,
)
from interaction_svc.store.sqlite.row_format import pack, unpack
from interaction_svc.store.sqlite.writes import add_tombstone

_FIRST_US = -(2**63)
_FIRST: BulkDeleteCursor = (b"", b"", _FIRST_US, b"")
_KEY = "session_sid, account_sid, created_us, sid"
_NEXT_SESSION = (
    "SELECT session_sid, account_sid FROM interactions"
    " WHERE (session_sid, account_sid) > (?, ?) ORDER BY session_sid, account_sid LIMIT 1"
)
_OLDEST = (
    "SELECT created_us, sid, service_sid FROM interactions"
    " WHERE session_sid = ? AND account_sid = ? AND (created_us, sid) > (?, ?) AND created_us < ?"
    " ORDER BY created_us, sid LIMIT ?"
)
_SCAN = (
    f"SELECT {_KEY}, service_sid, inbound_participant_sid, outbound_participant_sid"
    f" FROM interactions WHERE ({_KEY}) > (?, ?, ?, ?) ORDER BY {_KEY} LIMIT ?"
)
_DELETE = (
    "DELETE FROM interactions INDEXED BY interactions_by_sid"
    " WHERE session_sid = ?1 AND account_sid = ?2 AND sid = ?3"
)
# Since the row was found, an update may have changed its participants or creation time.
_DELETE_IF_INVOLVED = f"{_DELETE} AND ?4 IN (inbound_participant_sid, outbound_participant_sid)"
_DELETE_IF_OLDER = f"{_DELETE} AND created_us < ?4"


Found = tuple[list[FoundRow[bytes]], BulkDeleteCursor | None]
"""The rows of a batch, and the start of the next batch."""


def find(
    db: sqlite3.Connection, what: Expired | InvolvesParticipant, after: BulkDeleteCursor | None
) -> Found:
    """Return the rows of the next batch, and the start of the batch after it (None at the end)."""
    if isinstance(what, InvolvesParticipant):
        return _find_involved(db, what, after or _FIRST)
    return _find_expired(db, what, after or _FIRST)


def _find_expired(db: sqlite3.Connection, what: Expired, after: BulkDeleteCursor) -> Found:
    """Read only each account's oldest rows in each Session, which are stored together."""
    bounds = [what.default_before_us, *what.before_us_by_service.values()]
    latest = max((bound for bound in bounds if bound is not None), default=_FIRST_US)
    before_us = {pack(sid): bound for sid, bound in what.before_us_by_service.items()}
    session_sid, account_sid, created_us, sid = after
    found: list[FoundRow[bytes]] = []
    left = MAX_EXAMINED
    while True:
        values = (session_sid, account_sid, created_us, sid, latest, left)
        for created_us, sid, service_sid in db.execute(_OLDEST, values):
            left -= 1
            bound = before_us.get(service_sid, what.default_before_us)
            if bound is not None and created_us < bound:
                found.append(FoundRow(session_sid, account_sid, sid, service_sid))
            if len(found) == MAX_DELETED:
                break
        if left <= 0 or len(found) == MAX_DELETED:
            return found, (session_sid, account_sid, created_us, sid)
        following = db.execute(_NEXT_SESSION, (session_sid, account_sid)).fetchone()
        if following is None:
            return found, None
        (session_sid, account_sid), created_us, sid = following, _FIRST_US, b""
        left -= 1


def _find_involved(
    db: sqlite3.Connection, what: InvolvesParticipant, after: BulkDeleteCursor
) -> Found:
    participant_sid = pack(what.participant_sid)
    wanted_account = None if what.account_sid is None else pack(what.account_sid)
    found: list[FoundRow[bytes]] = []
    examined = 0
    for *key, service_sid, inbound_sid, outbound_sid in db.execute(_SCAN, (*after, MAX_EXAMINED)):
        examined += 1
        session_sid, account_sid, _, sid = after = tuple(key)
        if participant_sid in (inbound_sid, outbound_sid) and wanted_account in (None, account_sid):
            found.append(FoundRow(session_sid, account_sid, sid, service_sid))
        if len(found) == MAX_DELETED:
            break
    ended = examined < MAX_EXAMINED and len(found) < MAX_DELETED
    return found, None if ended else after


def delete(
    db: sqlite3.Connection,
    what: Expired | InvolvesParticipant,
    rows: Sequence[FoundRow[bytes]],
    now_us: int,
) -> dict[str, int]:
    """Delete the found rows that still match; return their number by Service."""
    deleted: list[FoundRow[bytes]] = []
    for row in rows:
        key = (row.session_sid, row.account_sid, row.sid)
        if isinstance(what, InvolvesParticipant):
            gone = db.execute(_DELETE_IF_INVOLVED, (*key, pack(what.participant_sid)))
        else:
            gone = db.execute(
                _DELETE_IF_OLDER, (*key, what.before_us(_service_sid(row.service_sid)))
            )
        if gone.rowcount:
            add_tombstone(db, key, now_us)
            deleted.append(row)
    return counted(deleted)


def counted(rows: Sequence[FoundRow[bytes]]) -> dict[str, int]:
    """Return the number of rows of each Service."""
    return count_by_service((row.service_sid for row in rows), _service_sid)


def _service_sid(stored: bytes) -> str:
    return unpack("service_sid", stored)
