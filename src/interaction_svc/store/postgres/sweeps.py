"""The statements of sweeps: those that find a stretch's rows, and those that delete them."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from interaction_svc.store.postgres import packing
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.packing import digits, digits_or_none
from interaction_svc.store.postgres.schema import LISTED
from interaction_svc.store.postgres.walking import walk
from interaction_svc.store.postgres.writes import BURY
from interaction_svc.store.sweeping import Expired, SweepPosition, TookPart

MAX_DELETED = 200
"""Rows that a stretch deletes: one short transaction, so that others don't wait for it."""
MAX_EXAMINED = 2_000
"""Rows that it looks at, and about as many Sessions of an account."""

_FIRST_US = -(2**63)
_BEFORE_ALL = _FIRST_US, "0" * 32
# The next Sessions, each with one of its accounts: the rest of a Session, and those after it.
_SESSIONS = (
    "SELECT * FROM ("
    "(SELECT DISTINCT session_sid, account_sid FROM session_owners"
    " WHERE session_sid = $1 AND account_sid > $2 ORDER BY session_sid, account_sid LIMIT $3)"
    " UNION ALL (SELECT DISTINCT session_sid, account_sid FROM session_owners"
    " WHERE session_sid > $1 ORDER BY session_sid, account_sid LIMIT $3)"
    ") AS either ORDER BY session_sid, account_sid LIMIT $3"
)
_FIRST_SESSIONS = (
    "SELECT DISTINCT session_sid, account_sid FROM session_owners"
    " ORDER BY session_sid, account_sid LIMIT $1"
)
# Which of them have something old enough. Each costs a step in the index.
_OLD_SESSIONS = (
    "SELECT known.session_sid, known.account_sid FROM unnest($1::uuid[], $2::uuid[])"
    " AS known (session_sid, account_sid) WHERE EXISTS (SELECT 1 FROM interactions WHERE"
    " interactions.session_sid = known.session_sid"
    f" AND interactions.account_sid = known.account_sid AND created_us < $3 AND {LISTED})"
)
# The same of one shard at a time: distributed engines don't look up something for each row of a
# list.
_OLD_SESSION = (
    "SELECT session_sid, account_sid FROM interactions"
    f" WHERE session_sid = $1 AND account_sid = $2 AND created_us < $3 AND {LISTED} LIMIT 1"
)
_OLDEST = (
    "SELECT created_us, sid, service_sid FROM interactions"
    f" WHERE session_sid = $1 AND account_sid = $2 AND created_us < $3 AND {LISTED}"
    " ORDER BY created_us, sid LIMIT $4"
)
_OLDEST_AFTER = (
    "SELECT created_us, sid, service_sid FROM interactions"
    f" WHERE session_sid = $1 AND account_sid = $2 AND created_us < $3 AND {LISTED}"
    " AND created_us >= $5::bigint AND (created_us > $5::bigint OR sid > $6)"
    " ORDER BY created_us, sid LIMIT $4"
)
_PARTICIPANTS = "inbound_participant_sid, outbound_participant_sid"
_WALKED = f"session_sid, account_sid, sid, service_sid, {_PARTICIPANTS}"
_WALK = {after: walk(_WALKED, after=after) for after in (False, True)}
_DELETE = "DELETE FROM interactions WHERE session_sid = $1 AND account_sid = $2 AND sid = $3"
_RETURNING = "RETURNING session_sid, account_sid, sid, service_sid"


class FoundRow(NamedTuple):
    """A row to be deleted. Its SIDs are as in their columns."""

    session_sid: str
    account_sid: str
    sid: str
    service_sid: str


Found = tuple[list[FoundRow], SweepPosition | None]
_Place = tuple[str, str]
"""A Session and one of its accounts."""


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
    return await _find_expired(db, what, after, by_session=by_session)


async def _next_places(db: Connection, after: _Place | None, limit: int) -> list[_Place]:
    if after is None:
        found = await db.fetch(_FIRST_SESSIONS, limit)
    else:
        found = await db.fetch(_SESSIONS, *after, limit)
    return [(row[0].hex, row[1].hex) for row in found]


async def _old_places(
    db: Connection, places: Sequence[_Place], before_us: int, *, by_session: bool
) -> set[_Place]:
    """Return those that have something that old."""
    if by_session:
        asked = [(*place, before_us) for place in places]
        found = await db.fetch_each(_OLD_SESSION, asked)
    else:
        found = await db.fetch(_OLD_SESSIONS, *map(list, zip(*places, strict=True)), before_us)
    return {(row[0].hex, row[1].hex) for row in found}


async def _find_expired(
    db: Connection, what: Expired, after: SweepPosition | None, *, by_session: bool
) -> Found:
    """Look at the oldest rows only of each account in a Session, which its index holds together."""
    bounds = [what.default_before_us, *what.before_us_by_service.values()]
    latest = max((bound for bound in bounds if bound is not None), default=_FIRST_US)
    found: list[FoundRow] = []
    left = MAX_EXAMINED
    place: _Place | None = None
    within: tuple[int, str] | None = None  # how far the first place has been looked at
    places: list[_Place] = []
    old: set[_Place] = set()
    if after is not None:
        session, account, created_us, sid = after
        place, within = (str(session), str(account)), (int(created_us), str(sid))
        places, old = [place], {place}
    while True:
        for place in places:
            left -= 1
            rows = []
            if place in old:
                room = max(left, 0)
                statement, beyond = (_OLDEST, ()) if within is None else (_OLDEST_AFTER, within)
                rows = await db.fetch(statement, *place, latest, room, *beyond)
            for created_us, sid, service_sid in rows:
                left -= 1
                within = created_us, sid.hex
                before_us = what.before_us(packing.service(service_sid))
                if before_us is not None and created_us < before_us:
                    found.append(FoundRow(*place, sid.hex, service_sid.hex))
                if len(found) == MAX_DELETED:
                    break
            if left <= 0 or len(found) == MAX_DELETED:
                return found, (*place, *(within or _BEFORE_ALL))
            within = None
        places = await _next_places(db, place, left)
        if not places:
            return found, None
        old = await _old_places(db, places, latest, by_session=by_session)


async def _find_took_part(db: Connection, what: TookPart, after: SweepPosition | None) -> Found:
    found: list[FoundRow] = []
    place: SweepPosition = after or ()
    examined = 0
    participant = digits(what.participant_sid)
    account = digits_or_none(what.account_sid)
    for row in await db.fetch(_WALK[after is not None], *place, MAX_EXAMINED):
        key = FoundRow(*(sid.hex for sid in row[:4]))
        examined += 1
        place = key[:3]
        if account in (None, key.account_sid) and participant in (
            sid.hex for sid in row[4:] if sid is not None
        ):
            found.append(key)
        if len(found) == MAX_DELETED:
            break
    ended = examined < MAX_EXAMINED and len(found) < MAX_DELETED
    return found, None if ended else place


async def delete(
    db: Connection, what: Expired | TookPart, rows: Sequence[FoundRow], now_us: int
) -> dict[str, int]:
    """Delete rows that were found, and give how many of each Service were still there."""
    # What it was found by may have changed since: an update moves a time of creation, too.
    keys: list[tuple[object, ...]]
    if isinstance(what, TookPart):
        statement = f"{_DELETE} AND $4 IN ({_PARTICIPANTS})"
        keys = [(*row[:3], digits(what.participant_sid)) for row in sorted(rows)]
    else:
        statement = f"{_DELETE} AND created_us < $4"
        keys = [(*row[:3], what.before_us(f"KS{row.service_sid}")) for row in sorted(rows)]

    async def delete_and_bury(db: Connection) -> dict[str, int]:
        deleted = await db.fetch_each(f"{statement} {_RETURNING}", keys)
        await db.execute_each(BURY, [(*row[:3], now_us) for row in map(tuple, deleted)])
        return dict(Counter(packing.service(row[3]) for row in deleted))

    return await db.in_transaction(delete_and_bury)


def counted(rows: Sequence[FoundRow]) -> dict[str, int]:
    """Give how many rows of each Service there are."""
    return dict(Counter(f"KS{row.service_sid}" for row in rows))
