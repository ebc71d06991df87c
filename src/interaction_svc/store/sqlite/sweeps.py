"""The statements of sweeps.

Those that find a stretch's rows run on the connection that reads, so that nobody waits for the
search; those that delete them inside a transaction of the writer's.
"""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from interaction_svc.store.sqlite.writes import bury
from interaction_svc.store.sweeping import Expired, SweepPosition, TookPart

MAX_DELETED = 200
"""Rows that a stretch deletes: one short transaction, so that others don't wait for it."""
MAX_EXAMINED = 2_000
"""Rows and Sessions that it looks at."""

_FIRST_US = -(2**63)
_NEXT_SESSION = (
    "SELECT session_sid FROM interactions INDEXED BY interactions_by_creation"
    " WHERE session_sid > ? ORDER BY session_sid LIMIT 1"
)
_OLDEST = (
    "SELECT created_us, sid, service_sid FROM interactions INDEXED BY interactions_by_creation"
    " WHERE session_sid = ? AND (created_us, sid) > (?, ?) AND created_us < ?"
    " ORDER BY created_us, sid LIMIT ?"
)
_WALK = (
    "SELECT rowid, session_sid, sid, service_sid, inbound_participant_sid,"
    " outbound_participant_sid FROM interactions WHERE rowid > ? ORDER BY rowid LIMIT ?"
)
_DELETE = "DELETE FROM interactions WHERE session_sid = ?1 AND sid = ?2"
# An update may have come since the row was found. Of what else is looked for, nothing changes.
_DELETE_IF_TOOK_PART = f"{_DELETE} AND ?3 IN (inbound_participant_sid, outbound_participant_sid)"


class FoundRow(NamedTuple):
    """A row to be deleted."""

    session_sid: str
    sid: str
    service_sid: str


Found = tuple[list[FoundRow], SweepPosition | None]


def find(db: sqlite3.Connection, what: Expired | TookPart, after: SweepPosition | None) -> Found:
    """Find the rows of the next stretch, and where the one after it begins; None: nowhere."""
    if isinstance(what, TookPart):
        return _find_took_part(db, what, after)
    return _find_expired(db, what, after)


def _find_expired(db: sqlite3.Connection, what: Expired, after: SweepPosition | None) -> Found:
    """Look at each Session's oldest rows only, which its index holds together."""
    bounds = [what.default_before_us, *what.before_us_by_service.values()]
    latest = max((bound for bound in bounds if bound is not None), default=_FIRST_US)
    session_sid, created_us, sid = after or ("", _FIRST_US, "")
    found: list[FoundRow] = []
    left = MAX_EXAMINED
    while True:
        values = (session_sid, created_us, sid, latest, left)
        for created_us, sid, service_sid in db.execute(_OLDEST, values):
            left -= 1
            before_us = what.before_us(service_sid)
            if before_us is not None and created_us < before_us:
                found.append(FoundRow(str(session_sid), sid, service_sid))
            if len(found) == MAX_DELETED:
                break
        if left <= 0 or len(found) == MAX_DELETED:
            return found, (session_sid, created_us, sid)
        following = db.execute(_NEXT_SESSION, (session_sid,)).fetchone()
        if following is None:
            return found, None
        (session_sid,), created_us, sid = following, _FIRST_US, ""
        left -= 1


def _find_took_part(db: sqlite3.Connection, what: TookPart, after: SweepPosition | None) -> Found:
    (rowid,) = after or (_FIRST_US,)
    found: list[FoundRow] = []
    examined = 0
    rows = db.execute(_WALK, (rowid, MAX_EXAMINED))
    for rowid, session_sid, sid, service_sid, *participants in rows:  # noqa: B007 # where to go on
        examined += 1
        if what.participant_sid in participants:
            found.append(FoundRow(session_sid, sid, service_sid))
        if len(found) == MAX_DELETED:
            break
    ended = examined < MAX_EXAMINED and len(found) < MAX_DELETED
    return found, None if ended else (rowid,)


def delete(
    db: sqlite3.Connection, what: Expired | TookPart, rows: Sequence[FoundRow], now_us: int
) -> dict[str, int]:
    """Delete rows that were found, and give how many of each Service were still there."""
    deleted: Counter[str] = Counter()
    for row in rows:
        key = (row.session_sid, row.sid)
        if isinstance(what, TookPart):
            gone = db.execute(_DELETE_IF_TOOK_PART, (*key, what.participant_sid)).rowcount
        else:
            gone = db.execute(_DELETE, key).rowcount
        if gone:
            bury(db, *key, now_us)
            deleted[row.service_sid] += 1
    return dict(deleted)


def counted(rows: Sequence[FoundRow]) -> dict[str, int]:
    """Give how many rows of each Service there are."""
    return dict(Counter(row.service_sid for row in rows))
