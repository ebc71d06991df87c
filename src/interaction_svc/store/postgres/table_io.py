"""The statements that read and load a whole table."""

from collections.abc import Sequence
from functools import cache

import asyncpg

from interaction_svc.store.checksum import check_frame
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.keyset_scan import keyset_statement
from interaction_svc.store.postgres.row_format import (
    packed_key,
    packed_record,
    packed_row,
    reader_of,
    unnest_clause,
)
from interaction_svc.store.rows import Row
from interaction_svc.store.tables import INTERACTIONS, KEYS, TOMBSTONES, Table, TableKey, TableRow

_AMONG = (
    "SELECT there.session_sid, there.account_sid, there.sid, %s"
    " FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS wanted (session_sid, account_sid, sid)"
    " JOIN %s AS there ON there.session_sid = wanted.session_sid"
    " AND there.account_sid = wanted.account_sid AND there.sid = wanted.sid"
)
_KNOWN = f"{_AMONG % ('true', 'tombstones')} UNION ALL {_AMONG % ('false', 'interactions')}"
_DELETE = "DELETE FROM interactions WHERE session_sid = $1 AND account_sid = $2 AND sid = $3"


async def count(db: Connection, table: Table) -> int:
    """See Store.count."""
    ((counted,),) = await db.fetch(f"SELECT count(*) FROM {table.name}")
    return int(counted)


async def read(
    db: Connection, table: Table, after: TableKey | None, limit: int, max_bytes: int
) -> list[TableRow]:
    """See Store.read."""
    place = () if after is None else packed_key(table, after)
    bound = () if table.large is None else (max_bytes,)
    found = await db.fetch(read_statement(table, after=after is not None), *place, limit, *bound)
    records = list(map(reader_of(table), found))
    for row in records:
        if isinstance(row, Row):
            name = f"session {row.session_sid}, account {row.account_sid}, interaction {row.sid}"
            check_frame(row.frame, row.checksum, name)
    return records


@cache
def read_statement(table: Table, *, after: bool) -> str:
    """Return the statement of `read`.

    Its parameters are a key if `after` is true, the limit, and the maximum number of bytes if the
    table has a large column.
    """
    columns, key = ", ".join(table.columns), ", ".join(table.key_columns)
    step = keyset_statement(columns, table.name, table.key_columns, after=after)
    if table.large is None:
        return step
    bytes_place = (table.key_length if after else 0) + 2
    return (
        f"SELECT {columns} FROM (SELECT *, row_number() OVER listed AS n,"
        f" sum(octet_length({table.large})) OVER listed AS size FROM ({step}) AS step"
        f" WINDOW listed AS (ORDER BY {key} ROWS UNBOUNDED PRECEDING)) AS counted"
        f" WHERE n = 1 OR size <= ${bytes_place} ORDER BY n"
    )


async def load(db: Connection, table: Table, records: Sequence[TableRow]) -> None:
    """See Store.load."""

    async def load(db: Connection) -> None:
        # In key order, like all writes, so that transactions with common rows don't deadlock.
        ordered = sorted(records, key=table.key_of)
        if table is INTERACTIONS:
            ordered = await _add(db, ordered)
        elif table is TOMBSTONES:
            keys = [packed_key(table, table.key_of(record)) for record in ordered]
            await db.execute_each(_DELETE, keys)
        if ordered:
            values = [packed_record(table, record) for record in ordered]
            await db.execute(_upsert(table), *map(list, zip(*values, strict=True)))

    if records:
        await db.in_transaction(load)


async def _add(db: Connection, rows: Sequence[TableRow]) -> list[TableRow]:
    """Add by COPY the rows that are new and have no tombstone. Return the rows that exist.

    COPY takes half the time of an upsert, but fails if one of its rows exists.
    """
    keyed = {packed_row(row)[:3]: row for row in rows if isinstance(row, Row)}
    buried: set[tuple[object, ...]] = set()
    there: set[tuple[object, ...]] = set()
    for *key, is_buried in await db.fetch(_KNOWN, *map(list, zip(*keyed, strict=True))):
        (buried if is_buried else there).add(tuple(sid.hex for sid in key))
    new = [packed_row(row) for key, row in keyed.items() if key not in there | buried]
    try:
        await db.copy_in(INTERACTIONS.name, INTERACTIONS.columns, new)
    except asyncpg.UniqueViolationError as error:
        raise asyncpg.SerializationError("a row was recorded meanwhile") from error
    return [row for key, row in keyed.items() if key in there - buried]


@cache
def _upsert(table: Table) -> str:
    columns, key = ", ".join(table.columns), ", ".join(table.key_columns)
    others = ", ".join(f"{name} = excluded.{name}" for name in table.columns[table.key_length :])
    rows = unnest_clause(table.columns, keys=table is KEYS)
    return (
        f"INSERT INTO {table.name} ({columns}) SELECT * FROM {rows}"
        f" ON CONFLICT ({key}) DO {f'UPDATE SET {others}' if others else 'NOTHING'}"
    )
