"""The statements of a record where tables are distributed: each asks the shard of one Session.

What is inserted stands in VALUES, and not in arrays: rows that come out of a SELECT are collected
by the coordinator, and then distributed in a second step.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.writes import Owner, RowKey, Statements
from interaction_svc.store.rows import COLUMNS, Row

MAX_ROWS_A_STATEMENT = 256
_STORED = (
    "SELECT session_sid, sid, account_sid, service_sid, created_us, updated_us, frame"
    " FROM interactions WHERE session_sid = $1 AND sid = ANY($2::text[])"
)
_LOOK_AGAIN = (
    "SELECT session_sid, sid, NULL AS account_sid FROM tombstones"
    " WHERE session_sid = $1 AND sid = ANY($2::text[])"
    " UNION ALL"
    " SELECT session_sid, service_sid, account_sid FROM session_owners"
    " WHERE session_sid = $1 AND service_sid = ANY($3::text[]) AND account_sid = ANY($4::text[])"
)
_OWN = (
    "INSERT INTO session_owners (session_sid, service_sid, account_sid) VALUES ($1, $2, $3)"
    " ON CONFLICT DO NOTHING"
)
_session = itemgetter(0)


@cache
def _insert_statement(rows: int) -> str:
    width = len(Row._fields)
    values = ", ".join(
        f"({', '.join(f'${row * width + n}' for n in range(1, width + 1))})" for row in range(rows)
    )
    return (
        f"INSERT INTO interactions ({COLUMNS}) VALUES {values}"
        " ON CONFLICT DO NOTHING RETURNING session_sid, sid"
    )


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Cut rows of one Session into parts of 256, 128, ... 1: a few texts, each prepared once."""
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
            found += await db.fetch(_insert_statement(len(part)), *chain.from_iterable(part))
    return found


async def _stored(db: Connection, keys: Sequence[RowKey]) -> list[Any]:
    return await db.fetch_each(_STORED, _sids(keys).items())


async def _look_again(db: Connection, keys: Sequence[RowKey], owners: Sequence[Owner]) -> list[Any]:
    asked = []
    for session, sids in _sids(keys).items():
        own = [owner for owner in owners if owner[0] == session]
        asked.append((session, sids, [owner[1] for owner in own], [owner[2] for owner in own]))
    return await db.fetch_each(_LOOK_AGAIN, asked)


async def _own(db: Connection, owners: Sequence[Owner]) -> None:
    await db.execute_each(_OWN, owners)


def _sids(keys: Sequence[RowKey]) -> dict[str, list[str]]:
    return {
        session: [key[1] for key in of_session]
        for session, of_session in groupby(sorted(keys), _session)
    }


BY_SESSION = Statements(_insert, _stored, _look_again, _own)
"""Statements for each Session by itself."""
