"""The statements that write.

Rows are written in the order of their keys, so that transactions with common rows don't deadlock.
Rows that don't change are not locked, so recording an unchanged row again costs only reads.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import asyncpg

from interaction_svc.domain.interactions import InteractionKey, Outcome, Scope
from interaction_svc.store.postgres import row_format
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.reads import OF_EVERY_ACCOUNT, ambiguous
from interaction_svc.store.postgres.row_format import digits, packed_row, row_from, unnest_clause
from interaction_svc.store.recorded import Recorded
from interaction_svc.store.rows import COLUMNS, Row, merge_row

RowKey = tuple[str, str, str]
"""session_sid, account_sid, sid."""
Owner = tuple[str, str, str]
"""session_sid, service_sid, account_sid."""
_KEY_LENGTH = 3

# ON CONFLICT names no target, so it applies to both unique indexes. With the primary key as target,
# two servers that insert the same new row could collide in the other index and get an error.
_INSERT = (
    f"INSERT INTO interactions ({COLUMNS}) SELECT * FROM {unnest_clause(Row._fields)}"
    " ON CONFLICT DO NOTHING RETURNING session_sid, account_sid, sid"
)
_AMONG_KEYS = "unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS wanted (session_sid, account_sid, sid)"
_OF_WANTED = (
    "there.session_sid = wanted.session_sid AND there.account_sid = wanted.account_sid"
    " AND there.sid = wanted.sid"
)
_STORED = (
    f"SELECT {', '.join(f'there.{name}' for name in Row._fields)}"
    f" FROM {_AMONG_KEYS} JOIN interactions AS there ON {_OF_WANTED}"
)
LOCKED = " FOR UPDATE"
_IN_ORDER = " ORDER BY there.session_sid, there.account_sid, there.sid"
# One round trip returns both the keys that have a tombstone (marked false) and the known owners
# (marked true).
_LOOK_AGAIN = (
    "SELECT false, there.session_sid, there.account_sid, there.sid"
    f" FROM {_AMONG_KEYS} JOIN tombstones AS there ON {_OF_WANTED}"
    " UNION ALL"
    " SELECT true, there.session_sid, there.service_sid, there.account_sid"
    " FROM unnest($4::uuid[], $5::uuid[], $6::uuid[])"
    " AS wanted (session_sid, service_sid, account_sid)"
    " JOIN session_owners AS there ON there.session_sid = wanted.session_sid"
    " AND there.service_sid = wanted.service_sid AND there.account_sid = wanted.account_sid"
)
_OWN = (
    "INSERT INTO session_owners (session_sid, service_sid, account_sid)"
    " SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) ON CONFLICT DO NOTHING"
)
# The update compares the columns with their values at the read, so that it doesn't overwrite a
# merge by another server.
_COMPARED = ("created_us", "updated_us", "inbound_status_us", "outbound_status_us", "checksum")
_UPDATE = (
    "UPDATE interactions SET "
    + ", ".join(f"{name} = ${n}" for n, name in enumerate(Row._fields, 1) if n > _KEY_LENGTH)
    + " WHERE session_sid = $1 AND account_sid = $2 AND sid = $3"
    + "".join(
        f" AND {name} IS NOT DISTINCT FROM ${n}"
        for n, name in enumerate(_COMPARED, len(Row._fields) + 1)
    )
    + " RETURNING 1"
)
_ACCOUNTS = OF_EVERY_ACCOUNT.format(columns="stored.account_sid")
_DELETE = (
    "DELETE FROM interactions"
    " WHERE session_sid = $1 AND account_sid = $2 AND sid = $3 AND service_sid = $4"
)
BURY = (
    "INSERT INTO tombstones (session_sid, account_sid, sid, deleted_us) VALUES ($1, $2, $3, $4)"
    " ON CONFLICT DO NOTHING"
)


class _BuriedError(Exception):
    """Some of the rows that were inserted have a tombstone."""

    def __init__(self, keys: Iterable[RowKey]) -> None:
        super().__init__("rows have a tombstone")
        self.keys = set(keys)


class _ChangedError(Exception):
    """A row was changed or deleted after it was read."""


class Statements(NamedTuple):
    """The statements that read and write rows. citus/ has the statements for distributed tables."""

    insert: Callable[[Connection, Sequence[Row]], Awaitable[list[Any]]]
    """Insert rows with distinct keys, in the given order. Return the keys of the inserted rows."""
    stored: Callable[[Connection, Sequence[RowKey], bool], Awaitable[list[Any]]]
    """Return the rows that are stored under these keys.

    If the last argument is true, lock them in the order of their keys.
    """
    find_tombstones_and_owners: Callable[
        [Connection, Sequence[RowKey], Sequence[Owner]], Awaitable[list[Any]]
    ]
    """Return the keys that have a tombstone, each preceded by False, and the known owners, each
    preceded by True.
    """
    own: Callable[[Connection, Sequence[Owner]], Awaitable[None]]
    """Add owners to session_owners."""


async def record_together(
    db: Connection, works: Sequence[Sequence[Row]], statements: Statements
) -> list[list[Recorded]]:
    """Run several records as one transaction, and return the result of each."""
    recorded = iter(await record(db, [row for rows in works for row in rows], statements))
    return [list(islice(recorded, len(rows))) for rows in works]


async def record(db: Connection, rows: Sequence[Row], statements: Statements) -> list[Recorded]:
    """See Store.record.

    All rows are first inserted as new, because most are. The tombstones are read after the insert:
    an insert waits for a concurrent delete of the same row and then succeeds, and only a later
    statement sees the tombstone. If a row has a tombstone, the transaction is restarted without the
    row, so that the row stays deleted.

    Stored rows are read without a lock, because most are unchanged. If another server changes a row
    before our update, the transaction is restarted with locks.
    """
    buried: set[RowKey] = set()
    lock = False
    while True:
        try:
            return await db.in_transaction(
                partial(_record, rows=rows, buried=buried, statements=statements, lock=lock)
            )
        except _BuriedError as error:
            buried |= error.keys
        except _ChangedError:
            lock = True


async def _record(
    db: Connection,
    rows: Sequence[Row],
    buried: set[RowKey],
    statements: Statements,
    *,
    lock: bool,
) -> list[Recorded]:
    firsts: dict[RowKey, Row] = {}
    for row in rows:
        if (key := key_of(row)) not in buried:
            firsts.setdefault(key, row)
    created: set[RowKey] = set()
    if firsts:
        found = await statements.insert(db, [firsts[key] for key in sorted(firsts)])
        created = {_key_from(row) for row in found}
    rest = sorted(key for key in firsts if key not in created)
    found = await statements.stored(db, rest, lock) if rest else []
    stored = {key_of(row): row for row in map(row_from, found)}
    missing = [key for key in rest if key not in stored]
    new = [row for key, row in firsts.items() if key in created]
    buried = buried | await _look_again(db, new, missing, statements)
    if any(key not in buried for key in missing):
        raise asyncpg.SerializationError("a row went that left no tombstone")
    recorded, changed = _decide(rows, created, stored, buried)
    if changed:
        # If this transaction inserted a row and then merged it, the inserted form is compared.
        before = {key: stored.get(key) or firsts[key] for key in changed}
        updates = [_update_of(before[key], changed[key]) for key in sorted(changed)]
        if len(await db.fetch_each(_UPDATE, updates)) < len(changed):
            raise _ChangedError
    return recorded


def key_of(row: Row) -> RowKey:
    """Return the key of a row."""
    return row.session_sid, row.account_sid, row.sid


def _key_from(values: Sequence[Any]) -> RowKey:
    return (
        row_format.session(values[0]),
        row_format.account(values[1]),
        row_format.interaction(values[2]),
    )


def _update_of(before: Row, after: Row) -> tuple[object, ...]:
    return *packed_row(after), *(getattr(before, name) for name in _COMPARED)


async def _look_again(
    db: Connection, new: Sequence[Row], missing: Sequence[RowKey], statements: Statements
) -> set[RowKey]:
    """Add the owners of the new rows, and return the missing keys that have a tombstone.

    Raises _BuriedError if a new row has a tombstone.
    """
    if not (new or missing):
        return set()
    keys = [key_of(row) for row in new]
    owners = sorted({(row.session_sid, row.service_sid, row.account_sid) for row in new})
    found = await statements.find_tombstones_and_owners(db, [*keys, *missing], owners)
    with_tombstone = {_key_from(row[1:]) for row in found if not row[0]}
    if with_tombstone.intersection(keys):
        raise _BuriedError(with_tombstone)
    known = {
        (row_format.session(row[1]), row_format.service(row[2]), row_format.account(row[3]))
        for row in found
        if row[0]
    }
    unknown = [owner for owner in owners if owner not in known]
    if unknown:
        await statements.own(db, unknown)
    return with_tombstone


async def _insert(db: Connection, rows: Sequence[Row]) -> list[Any]:
    return await db.fetch(_INSERT, *map(list, zip(*map(packed_row, rows), strict=True)))


async def _stored(db: Connection, keys: Sequence[RowKey], lock: bool) -> list[Any]:
    statement = f"{_STORED}{_IN_ORDER}{LOCKED} OF there" if lock else _STORED
    return await db.fetch(statement, *_columns(keys))


async def _look(db: Connection, keys: Sequence[RowKey], owners: Sequence[Owner]) -> list[Any]:
    return await db.fetch(_LOOK_AGAIN, *_columns(keys), *_columns(owners))


async def _own(db: Connection, owners: Sequence[Owner]) -> None:
    await db.execute(_OWN, *_columns(owners))


UNSHARDED = Statements(_insert, _stored, _look, _own)
"""Statements for rows of any number of Sessions."""


def _columns(rows: Sequence[tuple[str, str, str]]) -> list[list[str]]:
    return [[digits(row[n]) for row in rows] for n in range(_KEY_LENGTH)]


def _decide(
    rows: Sequence[Row],
    created: set[RowKey],
    stored: dict[RowKey, Row],
    buried: set[RowKey],
) -> tuple[list[Recorded], dict[RowKey, Row]]:
    """Return the outcome of each row, in order, and the final rows to update, by key."""
    state = dict(stored)
    changed: dict[RowKey, Row] = {}
    recorded = []
    for row in rows:
        key = key_of(row)
        if key in buried:
            recorded.append(Recorded(Outcome.DELETED, None))
        elif key in created and key not in state:
            state[key] = row
            recorded.append(Recorded(Outcome.CREATED, row.frame))
        else:
            one, after = merge_row(state[key], row)
            recorded.append(one)
            if after is not None:
                state[key] = changed[key] = after
    return recorded, changed


async def delete(db: Connection, scope: Scope, key: InteractionKey, now_us: int) -> bool:
    """See Store.delete."""
    session_sid, sid, service_sid = (
        digits(key.session_sid),
        digits(key.sid),
        digits(key.service_sid),
    )

    async def delete_and_bury(db: Connection) -> bool:
        if scope.account_sid is not None:
            account = digits(scope.account_sid)
        else:
            found = await db.fetch(_ACCOUNTS, session_sid, sid, service_sid)
            if len(found) > 1:
                raise ambiguous()
            if not found:
                return False
            account = found[0][0].hex
        tag = await db.execute(_DELETE, session_sid, account, sid, service_sid)
        if tag == "DELETE 0":
            return False
        await db.execute(BURY, session_sid, account, sid, now_us)
        return True

    return await db.in_transaction(delete_and_bury)
