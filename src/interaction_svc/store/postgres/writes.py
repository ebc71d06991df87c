"""The statements that write.

Rows are written in the order of their keys, so that transactions that share some don't wait for
each other in a circle. Nothing is locked that isn't changed: to record once more what is there
costs reads only.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import asyncpg

from interaction_svc.store.interface import Key, Scope
from interaction_svc.store.outcomes import Outcome, Recorded
from interaction_svc.store.postgres.arrays import unnested
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.rows import COLUMNS, Row

RowKey = tuple[str, str]
Owner = tuple[str, str, str]

# Without a target, a conflict in either of the two unique indexes is one. With the primary key as
# the target, two servers that have the same new row could meet in the other index, as an error.
_INSERT = (
    f"INSERT INTO interactions ({COLUMNS}) SELECT * FROM {unnested(Row._fields)}"
    " ON CONFLICT DO NOTHING RETURNING session_sid, sid"
)
_STORED = (
    "SELECT stored.session_sid, stored.sid, account_sid, service_sid, created_us, updated_us, frame"
    " FROM unnest($1::text[], $2::text[]) AS wanted (session_sid, sid)"
    " JOIN interactions AS stored"
    " ON stored.session_sid = wanted.session_sid AND stored.sid = wanted.sid"
)
# Two questions in one round trip: which of these keys have a tombstone, and which of these owners
# are known. The second's rows have an account.
_LOOK_AGAIN = (
    "SELECT there.session_sid, there.sid, NULL AS account_sid"
    " FROM unnest($1::text[], $2::text[]) AS wanted (session_sid, sid)"
    " JOIN tombstones AS there"
    " ON there.session_sid = wanted.session_sid AND there.sid = wanted.sid"
    " UNION ALL"
    " SELECT there.session_sid, there.service_sid, there.account_sid"
    " FROM unnest($3::text[], $4::text[], $5::text[])"
    " AS wanted (session_sid, service_sid, account_sid)"
    " JOIN session_owners AS there ON there.session_sid = wanted.session_sid"
    " AND there.service_sid = wanted.service_sid AND there.account_sid = wanted.account_sid"
)
_OWN = (
    "INSERT INTO session_owners (session_sid, service_sid, account_sid)"
    " SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING"
)
_UPDATE = (
    "UPDATE interactions SET "
    + ", ".join(
        f"{name} = ${n}"
        for n, name in enumerate(Row._fields, 1)
        if name not in ("session_sid", "sid")
    )
    + " WHERE session_sid = $1 AND sid = $2 AND updated_us <= $6 RETURNING 1"
)
_DELETE = (
    "DELETE FROM interactions WHERE session_sid = $1 AND sid = $2 AND service_sid = $3"
    " AND ($4::text IS NULL OR account_sid = $4)"
)
BURY = (
    "INSERT INTO tombstones (session_sid, sid, deleted_us) VALUES ($1, $2, $3)"
    " ON CONFLICT DO NOTHING"
)


class _State(NamedTuple):
    """What is stored under a key."""

    account_sid: str
    service_sid: str
    created_us: int
    updated_us: int
    frame: bytes

    @classmethod
    def of(cls, row: Row) -> "_State":
        return cls(row.account_sid, row.service_sid, row.created_us, row.updated_us, row.frame)


class _BuriedError(Exception):
    """Some of the rows that were inserted have a tombstone."""

    def __init__(self, keys: Iterable[RowKey]) -> None:
        super().__init__("rows have a tombstone")
        self.keys = set(keys)


class Statements(NamedTuple):
    """How rows are asked for and written; a distributed database has its own (by_session.py)."""

    insert: Callable[[Connection, Sequence[Row]], Awaitable[list[Any]]]
    """Insert rows with different keys, in their order; give the keys of those that are new."""
    stored: Callable[[Connection, Sequence[RowKey]], Awaitable[list[Any]]]
    """Give what is stored under these keys."""
    look_again: Callable[[Connection, Sequence[RowKey], Sequence[Owner]], Awaitable[list[Any]]]
    """Give which of these keys have a tombstone, with None for the account, and owners that are
    known, these among them.
    """
    own: Callable[[Connection, Sequence[Owner]], Awaitable[None]]
    """Make owners known."""


async def record_together(
    db: Connection, works: Sequence[Sequence[Row]], statements: Statements
) -> list[list[Recorded]]:
    """Do several records as one transaction, and give the result of each."""
    recorded = iter(await record(db, [row for rows in works for row in rows], statements))
    return [list(islice(recorded, len(rows))) for rows in works]


async def record(db: Connection, rows: Sequence[Row], statements: Statements) -> list[Recorded]:
    """See Store.record.

    All rows are tried as new ones first, for most are. Whether one has a tombstone is looked up
    after that: an insert waits for a delete of the same row that is under way, and then goes on as
    if there had been none. A statement after it sees the tombstone, and the transaction is begun
    anew without the row: so the tombstone wins.
    """
    buried: set[RowKey] = set()
    while True:
        try:
            return await db.in_transaction(
                partial(_record, rows=rows, buried=buried, statements=statements)
            )
        except _BuriedError as error:
            buried |= error.keys


async def _record(
    db: Connection, rows: Sequence[Row], buried: set[RowKey], statements: Statements
) -> list[Recorded]:
    firsts: dict[RowKey, Row] = {}
    for row in rows:
        key = row.session_sid, row.sid
        if key not in buried:
            firsts.setdefault(key, row)
    created: set[RowKey] = set()
    if firsts:
        found = await statements.insert(db, [firsts[key] for key in sorted(firsts)])
        created = {(row[0], row[1]) for row in found}
    rest = [key for key in firsts if key not in created]
    found = await statements.stored(db, rest) if rest else []
    stored = {(row[0], row[1]): _State(*tuple(row)[2:]) for row in found}
    missing = [key for key in rest if key not in stored]
    new = [row for key, row in firsts.items() if key in created]
    buried = buried | await _look_again(db, new, missing, statements)
    if any(key not in buried for key in missing):
        raise asyncpg.SerializationError("a row went that left no tombstone")
    recorded, changed = _decide(rows, created, stored, buried)
    if changed:
        updated = await db.fetch_each(_UPDATE, [changed[key] for key in sorted(changed)])
        if len(updated) < len(changed):
            raise asyncpg.SerializationError("a row was changed or deleted meanwhile")
    return recorded


async def _look_again(
    db: Connection, new: Sequence[Row], missing: Sequence[RowKey], statements: Statements
) -> set[RowKey]:
    """Make the new rows' owners known, and give those of the missing keys that have a tombstone.

    Raises _BuriedError if new rows have one.
    """
    if not (new or missing):
        return set()
    keys = [(row.session_sid, row.sid) for row in new]
    owners = sorted({(row.session_sid, row.service_sid, row.account_sid) for row in new})
    found = await statements.look_again(db, [*keys, *missing], owners)
    with_tombstone = {(row[0], row[1]) for row in found if row[2] is None}
    if with_tombstone.intersection(keys):
        raise _BuriedError(with_tombstone)
    known = {tuple(row) for row in found if row[2] is not None}
    unknown = [owner for owner in owners if owner not in known]
    if unknown:
        await statements.own(db, unknown)
    return with_tombstone


async def _insert(db: Connection, rows: Sequence[Row]) -> list[Any]:
    return await db.fetch(_INSERT, *map(list, zip(*rows, strict=True)))


async def _stored(db: Connection, keys: Sequence[RowKey]) -> list[Any]:
    return await db.fetch(_STORED, *_columns(keys, 2))


async def _look(db: Connection, keys: Sequence[RowKey], owners: Sequence[Owner]) -> list[Any]:
    return await db.fetch(_LOOK_AGAIN, *_columns(keys, 2), *_columns(owners, 3))


async def _own(db: Connection, owners: Sequence[Owner]) -> None:
    await db.execute(_OWN, *_columns(owners, 3))


TOGETHER = Statements(_insert, _stored, _look, _own)
"""A statement for all rows, whatever their Sessions."""


def _columns(rows: Sequence[tuple[str, ...]], count: int) -> list[list[str]]:
    return [[row[n] for row in rows] for n in range(count)]


def _decide(
    rows: Sequence[Row],
    created: set[RowKey],
    stored: dict[RowKey, _State],
    buried: set[RowKey],
) -> tuple[list[Recorded], dict[RowKey, Row]]:
    """Give what becomes of each row, one after the other, and the rows to update in the end."""
    state: dict[RowKey, _State] = dict(stored)
    changed: dict[RowKey, Row] = {}
    recorded = []
    for row in rows:
        key = row.session_sid, row.sid
        if key in buried:
            recorded.append(Recorded(Outcome.DELETED, None))
        elif key in created and key not in state:
            state[key] = _State.of(row)
            recorded.append(Recorded(Outcome.CREATED, row.frame))
        else:
            one, after = _record_again(row, state[key])
            recorded.append(one)
            if after is not None:
                state[key] = _State.of(after)
                changed[key] = after
    return recorded, changed


def _record_again(row: Row, stored: _State) -> tuple[Recorded, Row | None]:
    """Give what becomes of a row whose Interaction is stored, and the row that replaces it."""
    if (stored.account_sid, stored.service_sid) != (row.account_sid, row.service_sid):
        return Recorded(Outcome.OWNER_MISMATCH, None), None
    if row.updated_us < stored.updated_us:
        return Recorded(Outcome.STALE, stored.frame), None
    if row.created_us != stored.created_us:
        row = with_created(row, stored.created_us)
    if row.frame == stored.frame:
        return Recorded(Outcome.UNCHANGED, stored.frame), None
    return Recorded(Outcome.UPDATED, row.frame), row


async def delete(db: Connection, scope: Scope, key: Key, now_us: int) -> bool:
    """See Store.delete."""
    service_sid, session_sid, sid = key

    async def delete_and_bury(db: Connection) -> bool:
        tag = await db.execute(_DELETE, session_sid, sid, service_sid, scope.account_sid)
        if tag == "DELETE 0":
            return False
        await db.execute(BURY, session_sid, sid, now_us)
        return True

    return await db.in_transaction(delete_and_bury)
