"""The statements of sweeps: those that find a stretch's rows, and those that delete them."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.walking import BEGINNING, walk
from interaction_svc.store.postgres.writes import BURY
from interaction_svc.store.sweeping import Expired, SweepPosition, TookPart

MAX_DELETED = 200
"""Rows that a stretch deletes: one short transaction, so that others don't wait for it."""
MAX_EXAMINED = 2_000
"""Rows that it looks at, and about as many Sessions."""

_FIRST_US = -(2**63)
# Of a thousand Sessions, those that have something old enough. Each costs a step in the index.
_OLD_SESSIONS = (
    "SELECT session_sid, EXISTS (SELECT 1 FROM interactions WHERE"
    " interactions.session_sid = known.session_sid AND created_us < $2)"
    " FROM (SELECT DISTINCT session_sid FROM session_owners WHERE session_sid > $1"
    " ORDER BY session_sid LIMIT $3) AS known ORDER BY session_sid"
)
# The same of one shard at a time: distributed engines don't look up something for each row of a
# limited number.
_SESSIONS = (
    "SELECT DISTINCT session_sid FROM session_owners WHERE session_sid > $1"
    " ORDER BY session_sid LIMIT $2"
)
_OLD_SESSION = (
    "SELECT session_sid FROM interactions WHERE session_sid = $1 AND created_us < $2 LIMIT 1"
)
_OLDEST = (
    "SELECT created_us, sid, service_sid FROM interactions"
    " WHERE session_sid = $1 AND created_us >= $2::bigint"
    " AND (created_us > $2::bigint OR sid > $3) AND created_us < $4"
    " ORDER BY created_us, sid LIMIT $5"
)
_PARTICIPANTS = "inbound_participant_sid, outbound_participant_sid"
_WALK = walk(f"session_sid, sid, service_sid, {_PARTICIPANTS}")
_DELETE = "DELETE FROM interactions WHERE session_sid = $1 AND sid = $2"
_RETURNING = "RETURNING session_sid, sid, service_sid"


class FoundRow(NamedTuple):
    """A row to be deleted."""

    session_sid: str
    sid: str
    service_sid: str


Found = tuple[list[FoundRow], SweepPosition | None]
_Sessions = list[tuple[str | int, bool]]


async def find(
    db: Connection,
    what: Expired | TookPart,
    after: SweepPosition | None,
    *,
    by_session: bool = False,
) -> Found:
    """Find the rows of the next stretch, and where the one after it begins; None: nowhere.

    `by_session`: the tables are distributed.
    """
    if isinstance(what, TookPart):
        return await _find_took_part(db, what, after)
    return await _find_expired(db, what, after, _sessions_by_shard if by_session else _sessions)


async def _sessions(db: Connection, after: str, before_us: int, limit: int) -> _Sessions:
    """Give the next Sessions, and whether each has something that old."""
    found = await db.fetch(_OLD_SESSIONS, after, before_us, limit)
    return [(row[0], row[1]) for row in found]


async def _sessions_by_shard(db: Connection, after: str, before_us: int, limit: int) -> _Sessions:
    sessions = [row[0] for row in await db.fetch(_SESSIONS, after, limit)]
    asked = [(session, before_us) for session in sessions]
    old = {row[0] for row in await db.fetch_each(_OLD_SESSION, asked)} if asked else set()
    return [(session, session in old) for session in sessions]


async def _find_expired(
    db: Connection,
    what: Expired,
    after: SweepPosition | None,
    next_sessions: Callable[[Connection, str, int, int], Awaitable[_Sessions]],
) -> Found:
    """Look at each Session's oldest rows only, which its index holds together."""
    bounds = [what.default_before_us, *what.before_us_by_service.values()]
    latest = max((bound for bound in bounds if bound is not None), default=_FIRST_US)
    session_sid, created_us, sid = after or ("", _FIRST_US, "")
    found: list[FoundRow] = []
    left = MAX_EXAMINED
    sessions = [(session_sid, True)] if session_sid else []
    while True:
        for session_sid, has_old in sessions:
            left -= 1
            rows = []
            if has_old:
                room = min(left, MAX_EXAMINED) if left > 0 else 0
                rows = await db.fetch(_OLDEST, session_sid, created_us, sid, latest, room)
            for created_us, sid, service_sid in rows:
                left -= 1
                before_us = what.before_us(service_sid)
                if before_us is not None and created_us < before_us:
                    found.append(FoundRow(str(session_sid), sid, service_sid))
                if len(found) == MAX_DELETED:
                    break
            if left <= 0 or len(found) == MAX_DELETED:
                return found, (session_sid, created_us, sid)
            created_us, sid = _FIRST_US, ""
        sessions = await next_sessions(db, str(session_sid), latest, left)
        if not sessions:
            return found, None


async def _find_took_part(db: Connection, what: TookPart, after: SweepPosition | None) -> Found:
    found: list[FoundRow] = []
    place: SweepPosition = after or BEGINNING
    examined = 0
    for session_sid, sid, service_sid, *participants in await db.fetch(_WALK, *place, MAX_EXAMINED):
        examined += 1
        place = (session_sid, sid)
        if what.participant_sid in participants:
            found.append(FoundRow(session_sid, sid, service_sid))
        if len(found) == MAX_DELETED:
            break
    ended = examined < MAX_EXAMINED and len(found) < MAX_DELETED
    return found, None if ended else place


async def delete(
    db: Connection, what: Expired | TookPart, rows: Sequence[FoundRow], now_us: int
) -> dict[str, int]:
    """Delete rows that were found, and give how many of each Service were still there."""
    keys: list[tuple[str, ...]] = sorted((row.session_sid, row.sid) for row in rows)
    statement = _DELETE
    if isinstance(what, TookPart):
        # An update may have come since. Of what else is looked for, nothing changes.
        statement += f" AND $3 IN ({_PARTICIPANTS})"
        keys = [(*key, what.participant_sid) for key in keys]

    async def delete_and_bury(db: Connection) -> dict[str, int]:
        deleted = await db.fetch_each(f"{statement} {_RETURNING}", keys)
        await db.execute_each(BURY, [(row[0], row[1], now_us) for row in deleted])
        return dict(Counter(row[2] for row in deleted))

    return await db.in_transaction(delete_and_bury)


def counted(rows: Sequence[FoundRow]) -> dict[str, int]:
    """Give how many rows of each Service there are."""
    return dict(Counter(row.service_sid for row in rows))
