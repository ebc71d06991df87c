"""Bulk deletion: statements that find the rows of a batch, and statements that delete them."""

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
from interaction_svc.store.postgres import row_format
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.keyset_scan import keyset_statement
from interaction_svc.store.postgres.row_format import digits, digits_or_none
from interaction_svc.store.postgres.schema import LISTED
from interaction_svc.store.postgres.writes import BURY
from interaction_svc.store.tables import OWNERS

_FIRST_US = -(2**63)
_BEFORE_ALL = _FIRST_US, "0" * 32
# Selects the next rows of session_owners: a Session, a Service and an account.
_OWNERS = {
    after: keyset_statement(
        ", ".join(OWNERS.key_columns), OWNERS.name, OWNERS.key_columns, after=after
    )
    for after in (False, True)
}
# Selects the owners that have an expired row. Each owner costs one index lookup.
_OLD_SESSIONS = (
    "SELECT place FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) WITH ORDINALITY"
    " AS known (session_sid, account_sid, before_us, place)"
    " WHERE EXISTS (SELECT 1 FROM interactions WHERE"
    " interactions.session_sid = known.session_sid"
    f" AND interactions.account_sid = known.account_sid AND created_us < before_us AND {LISTED})"
)
# The same for one owner, because distributed engines can't run a correlated lookup for a list.
_OLD_SESSION = (
    "SELECT $4::bigint FROM interactions"
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
_WALK = {after: keyset_statement(_WALKED, after=after) for after in (False, True)}
_DELETE = "DELETE FROM interactions WHERE session_sid = $1 AND account_sid = $2 AND sid = $3"
_RETURNING = "RETURNING session_sid, account_sid, sid, service_sid"


Found = tuple[list[FoundRow[str]], BulkDeleteCursor | None]
_Owner = tuple[str, str, str]
"""The values of the columns session_sid, service_sid and account_sid of session_owners."""


async def find(
    db: Connection,
    what: Expired | InvolvesParticipant,
    after: BulkDeleteCursor | None,
    *,
    is_distributed: bool = False,
) -> Found:
    """Return the matching rows of the next batch, and its cursor; None after the last batch.

    A batch examines about MAX_EXAMINED rows and returns at most MAX_DELETED. `is_distributed` says
    whether the tables are distributed.
    """
    if isinstance(what, InvolvesParticipant):
        return await _find_took_part(db, what, after)
    return await _find_expired(db, what, after, is_distributed=is_distributed)


async def _next_owners(db: Connection, after: _Owner | None, limit: int) -> list[_Owner]:
    found = await db.fetch(_OWNERS[after is not None], *(after or ()), limit)
    return [(row[0].hex, row[1].hex, row[2].hex) for row in found]


async def _with_old(
    db: Connection, what: Expired, owners: Sequence[_Owner], *, is_distributed: bool
) -> set[_Owner]:
    """Return the owners whose account has an expired row of any Service in the Session."""
    asked = [
        (session, account, before_us, place)
        for place, (session, service, account) in enumerate(owners, 1)
        if (before_us := what.before_us(f"KS{service}")) is not None
    ]
    if not asked:
        return set()
    if is_distributed:
        return {owners[row[0] - 1] for row in await db.fetch_each(_OLD_SESSION, asked)}
    *columns, places = map(list, zip(*asked, strict=True))
    found = await db.fetch(_OLD_SESSIONS, *columns)
    return {owners[places[row[0] - 1] - 1] for row in found}


async def _find_expired(
    db: Connection, what: Expired, after: BulkDeleteCursor | None, *, is_distributed: bool
) -> Found:
    """Examine only each account's oldest rows in a Session, which are adjacent in the index."""
    found: list[FoundRow[str]] = []
    left = MAX_EXAMINED
    owner: _Owner | None = None
    within: tuple[int, str] | None = None  # the last row of the first owner that was examined
    owners: list[_Owner] = []
    old: set[_Owner] = set()
    if after is not None:
        session, service, account, created_us, sid = map(str, after)
        owner, within = (session, service, account), (int(created_us), sid)
        owners, old = [owner], {owner}
    while True:
        for owner in owners:
            session, service, account = owner
            left -= 1
            rows = []
            if owner in old:
                room = max(left, 0)
                statement, beyond = (_OLDEST, ()) if within is None else (_OLDEST_AFTER, within)
                before_us = what.before_us(f"KS{service}")
                rows = await db.fetch(statement, session, account, before_us, room, *beyond)
            for created_us, sid, service_sid in rows:
                left -= 1
                within = created_us, sid.hex
                if service_sid.hex == service:
                    found.append(FoundRow(session, account, sid.hex, service))
                if len(found) == MAX_DELETED:
                    break
            if left <= 0 or len(found) == MAX_DELETED:
                return found, (*owner, *(within or _BEFORE_ALL))
            within = None
        owners = await _next_owners(db, owner, left)
        if not owners:
            return found, None
        old = await _with_old(db, what, owners, is_distributed=is_distributed)


async def _find_took_part(
    db: Connection, what: InvolvesParticipant, after: BulkDeleteCursor | None
) -> Found:
    found: list[FoundRow[str]] = []
    place: BulkDeleteCursor = after or ()
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
    db: Connection, what: Expired | InvolvesParticipant, rows: Sequence[FoundRow[str]], now_us: int
) -> dict[str, int]:
    """Delete the rows that still match, and return their number for each Service."""
    # The condition is checked again, because a row and even its created_us may have changed.
    keys: list[tuple[object, ...]]
    if isinstance(what, InvolvesParticipant):
        statement = f"{_DELETE} AND $4 IN ({_PARTICIPANTS})"
        keys = [(*row[:3], digits(what.participant_sid)) for row in sorted(rows)]
    else:
        statement = f"{_DELETE} AND created_us < $4"
        keys = [(*row[:3], what.before_us(f"KS{row.service_sid}")) for row in sorted(rows)]

    async def delete_and_bury(db: Connection) -> dict[str, int]:
        deleted = await db.fetch_each(f"{statement} {_RETURNING}", keys)
        await db.execute_each(BURY, [(*row[:3], now_us) for row in map(tuple, deleted)])
        return count_by_service((row[3] for row in deleted), row_format.service)

    return await db.in_transaction(delete_and_bury)


def counted(rows: Sequence[FoundRow[str]]) -> dict[str, int]:
    """Return the number of rows of each Service."""
    return count_by_service((row.service_sid for row in rows), "KS{}".format)
