"""One step of the rewrite, which copies some keys from the tables of version 1 to version 2."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from interaction_svc.domain.sids import Sid, canonical_sid
from interaction_svc.store.postgres import row_format
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.rewrite.old_rows import (
    COLUMNS,
    InteractionKey,
    OldRow,
    SpelledKey,
    canonical_key,
    check_sid,
    merged,
)
from interaction_svc.store.postgres.row_format import digits, packed_row
from interaction_svc.store.rows import Row
from interaction_svc.store.tables import INTERACTIONS, TOMBSTONES

OLD = "_v1"
"""The suffix of the old tables after the new ones have replaced them."""
NEW = "_v2"
"""The suffix of the new tables until they replace the old ones."""
CHUNK = 1_000
"""The maximum number of rows of a Session that one step copies."""

_REGISTER = (
    "INSERT INTO rewrite_spellings (session_sid, sid, spelled_session, spelled_sid)"
    " VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
)
_SPELLINGS = (
    "SELECT spelled_session, spelled_sid FROM unnest($1::text[], $2::text[])"
    " AS wanted (session_sid, sid) JOIN rewrite_spellings USING (session_sid, sid)"
)
_SPELLED_SESSIONS = (
    "SELECT DISTINCT spelled_session FROM rewrite_spellings WHERE session_sid = ANY($1::text[])"
)
_KEYS = (
    "SELECT $4::integer, sid FROM {table} WHERE session_sid = $1 AND sid > $2 ORDER BY sid LIMIT $3"
)
_OWNERS = "SELECT session_sid, service_sid, account_sid FROM {table} WHERE session_sid = $1"
_OWN = (
    f"INSERT INTO session_owners{NEW} (session_sid, service_sid, account_sid)"
    " VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING session_sid"
)
# The smallest and largest key of the list are conditions as well. If the planner doesn't look up
# each key, it then reads only the range between them.
_AMONG = " AND sid = ANY($2::text[]) AND sid >= $3 AND sid <= $4"
_ROWS = f"SELECT {COLUMNS} FROM {{table}} WHERE session_sid = $1{_AMONG}"
_TOMBSTONES = f"SELECT session_sid, sid, deleted_us FROM {{table}} WHERE session_sid = $1{_AMONG}"
_ACCOUNTS = f"SELECT session_sid, account_sid FROM session_owners{NEW} WHERE session_sid = $1"
_DELETE = (
    f"DELETE FROM {{table}}{NEW} WHERE session_sid = $1 AND account_sid = ANY($2::uuid[])"
    " AND sid = ANY($3::uuid[]) AND sid >= $4 AND sid <= $5"
)


class Names(NamedTuple):
    """The current names of the old tables."""

    interactions: str
    tombstones: str
    session_owners: str

    @classmethod
    def ending(cls, suffix: str) -> "Names":
        """Return the names with this suffix."""
        return cls(*(f"{name}{suffix}" for name in cls._fields))


class Entry(NamedTuple):
    """An entry of the queue: a key, or a whole Session if `sid` is None.

    `after_tombstone` and `after_row` are the last copied sids of a Session. An empty text means
    that none is copied yet, and None means that all are.
    """

    session_sid: str
    sid: str | None = None
    after_tombstone: str | None = ""
    after_row: str | None = ""


class Carried(NamedTuple):
    """The result of a step."""

    rest: list[Entry]
    """The entries to put back into the queue."""
    rows: int
    """The number of examined rows of whole Sessions."""


async def carry_over(db: Connection, old: Names, entries: Sequence[Entry]) -> Carried:
    """Copy the current state of these entries from the old tables to the new ones."""
    keys: set[SpelledKey] = {
        (entry.session_sid, entry.sid) for entry in entries if entry.sid is not None
    }
    sessions = [entry for entry in entries if entry.sid is None]
    rest = await _own(db, old, {entry.session_sid for entry in sessions})
    rows = 0
    if sessions:
        tombstones = await _next_keys(
            db, old.tombstones, [(one.session_sid, one.after_tombstone) for one in sessions]
        )
        of_rows = await _next_keys(
            db, old.interactions, [(one.session_sid, one.after_row) for one in sessions]
        )
        for entry, *found in zip(sessions, tombstones, of_rows, strict=True):
            keys.update((entry.session_sid, sid) for sids in found for sid in sids)
            rows += len(found[1])
            ends = [sids[-1] if len(sids) == CHUNK else None for sids in found]
            if ends != [None, None]:
                rest.append(Entry(entry.session_sid, None, *ends))
    if keys:
        await _carry_keys(db, old, keys)
    return Carried(rest, rows)


async def _own(db: Connection, old: Names, sessions: set[str]) -> list[Entry]:
    """Copy the owners of Sessions. Return the further Sessions that must be copied again.

    A tombstone of version 1 has no account, so it applies to every owner of its Session. So a new
    owner also affects the same Session in another spelling.
    """
    if not sessions:
        return []
    odd = [(canonical_sid(one), "", one, "") for one in sessions if one != canonical_sid(one)]
    if odd:
        await db.execute_each(_REGISTER, odd)
    found = await db.fetch_each(
        _OWNERS.format(table=old.session_owners), [(one,) for one in sorted(sessions)]
    )
    owners = sorted(
        {
            (
                digits(check_sid(Sid.SESSION, row[0])),
                digits(check_sid(Sid.SERVICE, row[1])),
                digits(check_sid(Sid.ACCOUNT, row[2])),
            )
            for row in found
        }
    )
    added = {row_format.session(row[0]) for row in await db.fetch_each(_OWN, owners)}
    spelled = {row[0] for row in await db.fetch(_SPELLED_SESSIONS, sorted(added))}
    others = spelled | ({canonical_sid(one) for one in spelled} & added)
    return [Entry(one) for one in sorted(others - sessions)]


async def _next_keys(
    db: Connection, table: str, places: Sequence[tuple[str, str | None]]
) -> list[list[str]]:
    """Return the next sids of each Session after a sid; none if that sid is None."""
    found: list[list[str]] = [[] for _ in places]
    asked = [
        (session, after, CHUNK, n) for n, (session, after) in enumerate(places) if after is not None
    ]
    for n, sid in await db.fetch_each(_KEYS.format(table=table), asked):
        found[n].append(sid)
    return found


async def _carry_keys(db: Connection, old: Names, spelled: set[SpelledKey]) -> None:
    keys = {canonical_key(key) for key in spelled}
    odd = [(*canonical_key(key), *key) for key in spelled if key != canonical_key(key)]
    if odd:
        await db.execute_each(_REGISTER, odd)
    known = await db.fetch(_SPELLINGS, *map(list, zip(*sorted(keys), strict=True)))
    every = _by_session(spelled | keys | {(row[0], row[1]) for row in known})
    asked = [(session, sids, sids[0], sids[-1]) for session, sids in every.items()]
    rows: dict[InteractionKey, list[OldRow]] = defaultdict(list)
    for row in await db.fetch_each(_ROWS.format(table=old.interactions), asked):
        rows[canonical_key((row[0], row[1]))].append(OldRow(*row))
    deleted: dict[InteractionKey, int] = {}
    for session, sid, us in await db.fetch_each(_TOMBSTONES.format(table=old.tombstones), asked):
        key = canonical_key((session, sid))
        deleted[key] = min(us, deleted.get(key, us))
    await _write(db, keys, [one for group in rows.values() for one in merged(group)], deleted)


async def _write(
    db: Connection,
    keys: set[InteractionKey],
    rows: Sequence[Row],
    deleted: dict[InteractionKey, int],
) -> None:
    """Replace everything stored under these keys with these rows and tombstones."""
    by_session = _by_session(keys)
    accounts: dict[str, set[str]] = {session: set() for session in by_session}
    sessions = [(digits(session),) for session in by_session]
    for session, account in await db.fetch_each(_ACCOUNTS, sessions):
        accounts[row_format.session(session)].add(account.hex)
    owners = {session: frozenset(of_session) for session, of_session in accounts.items()}
    for row in rows:
        accounts[row.session_sid].add(digits(row.account_sid))
    stored = [
        (
            digits(session),
            sorted(accounts[session]),
            list(map(digits, sids)),
            digits(sids[0]),
            digits(sids[-1]),
        )
        for session, sids in by_session.items()
    ]
    live = {(row.session_sid, row.sid, digits(row.account_sid)) for row in rows}
    tombstones = [
        (digits(session), account, digits(sid), us)
        for (session, sid), us in deleted.items()
        for account in owners[session]
        # A key with a row in another spelling is not deleted.
        if (session, sid, account) not in live
    ]
    for table, values in (
        (INTERACTIONS, sorted(map(packed_row, rows), key=lambda row: row[:3])),
        (TOMBSTONES, sorted(tombstones)),
    ):
        await db.execute_each(_DELETE.format(table=table.name), stored)
        if values:
            await db.copy_in(f"{table.name}{NEW}", table.columns, values)


def _by_session(keys: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for session, sid in sorted(keys):
        found[session].append(sid)
    return found
