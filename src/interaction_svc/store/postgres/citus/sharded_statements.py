"""The statements of a record for distributed tables. Each runs on the shard of one Session.

Rows are inserted with VALUES and not from arrays. Citus' coordinator would collect the rows of an
INSERT … SELECT first, and distribute them in a second step.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.row_format import digits, packed_row
from interaction_svc.store.postgres.writes import LOCKED, Owner, RowKey, Statements
from interaction_svc.store.rows import COLUMNS, Row

MAX_ROWS_A_STATEMENT = 256
# One lateral subquery for each key: for a list of keys the planner may choose to read all rows of
# the account in the Session.
_OF_ACCOUNT = (
    "SELECT there.* FROM unnest($3::uuid[]) AS wanted (sid) CROSS JOIN LATERAL (SELECT {columns}"
    " FROM {table} WHERE session_sid = $1 AND account_sid = $2 AND sid = wanted.sid LIMIT 1{lock})"
    " AS there"
)
_STORED = _OF_ACCOUNT.format(columns=COLUMNS, table="interactions", lock="")
_STORED_LOCKED = _OF_ACCOUNT.format(columns=COLUMNS, table="interactions", lock=LOCKED)
_BURIED = _OF_ACCOUNT.format(
    columns="false, session_sid, account_sid, sid", table="tombstones", lock=""
)
_LOOK_AGAIN = (
    f"{_BURIED} UNION ALL SELECT true, session_sid, service_sid, account_sid FROM session_owners"
    " WHERE session_sid = $1 AND service_sid = ANY($4::uuid[]) AND account_sid = $2"
)
_OWN = (
    "INSERT INTO session_owners (session_sid, service_sid, account_sid) VALUES ($1, $2, $3)"
    " ON CONFLICT DO NOTHING"
)
_session = itemgetter(0)
_session_and_account = itemgetter(0, 1)


@cache
def _insert_statement(rows: int) -> str:
    width = len(Row._fields)
    values = ", ".join(
        f"({', '.join(f'${row * width + n}' for n in range(1, width + 1))})" for row in range(rows)
    )
    return (
        f"INSERT INTO interactions ({COLUMNS}) VALUES {values}"
        " ON CONFLICT DO NOTHING RETURNING session_sid, account_sid, sid"
    )


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Split rows into parts of 256, 128, … 1, so that only 9 statement texts are prepared."""
    begin, size = 0, MAX_ROWS_A_STATEMENT
    while begin < len(rows):
        while size > len(rows) - begin:
            size //= 2
        yield rows[begin : begin + size]
        begin += size


async def _insert(db: Connection, rows: Sequence[Row]) -> list[Any]:
    found: list[Any] = []
    for _, of_session in groupby(rows, _session):
        for part in _parts(list(of_session)):
            values = chain.from_iterable(map(packed_row, part))
            found += await db.fetch(_insert_statement(len(part)), *values)
    return found


async def _stored(db: Connection, keys: Sequence[RowKey], lock: bool) -> list[Any]:
    return await db.fetch_each(_STORED_LOCKED if lock else _STORED, _by_account(keys))


async def _look_again(db: Connection, keys: Sequence[RowKey], owners: Sequence[Owner]) -> list[Any]:
    asked = []
    for session, account, sids in _by_account(keys):
        services = [
            digits(owner[1])
            for owner in owners
            if (digits(owner[0]), digits(owner[2])) == (session, account)
        ]
        asked.append((session, account, sids, services))
    return await db.fetch_each(_LOOK_AGAIN, asked)


async def _own(db: Connection, owners: Sequence[Owner]) -> None:
    await db.execute_each(_OWN, [tuple(map(digits, owner)) for owner in owners])


def _by_account(keys: Sequence[RowKey]) -> list[tuple[str, str, list[str]]]:
    """Group keys by Session and account, as column values (session_sid, account_sid, sids)."""
    return [
        (digits(session), digits(account), [digits(key[2]) for key in of_account])
        for (session, account), of_account in groupby(sorted(keys), _session_and_account)
    ]


SHARDED = Statements(_insert, _stored, _look_again, _own)
"""Statements that each concern one Session."""
