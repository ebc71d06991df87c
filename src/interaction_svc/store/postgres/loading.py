"""The statements that read a table from end to end, and load it as it is."""

from collections.abc import Sequence
from functools import cache

from interaction_svc.store.postgres.arrays import unnested
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.walking import walk
from interaction_svc.store.tables import INTERACTIONS, TOMBSTONES, Record, RecordKey, Table

_BURIED = (
    "SELECT there.session_sid, there.sid"
    " FROM unnest($1::text[], $2::text[]) AS wanted (session_sid, sid)"
    " JOIN tombstones AS there"
    " ON there.session_sid = wanted.session_sid AND there.sid = wanted.sid"
)
_DELETE = "DELETE FROM interactions WHERE session_sid = $1 AND sid = $2"


async def count(db: Connection, table: Table) -> int:
    """See Store.count."""
    ((counted,),) = await db.fetch(f"SELECT count(*) FROM {table.name}")
    return int(counted)


async def read(
    db: Connection, table: Table, after: RecordKey | None, limit: int, max_bytes: int
) -> list[Record]:
    """See Store.read."""
    place = after or ("",) * table.key_length
    bound = () if table.large is None else (max_bytes,)
    return [table.record(*row) for row in await db.fetch(_read(table), *place, limit, *bound)]


@cache
def _read(table: Table) -> str:
    columns, key = ", ".join(table.columns), ", ".join(table.key_columns)
    step = walk(columns, table.name, table.key_columns)
    if table.large is None:
        return step
    return (
        f"SELECT {columns} FROM (SELECT *, row_number() OVER listed AS n,"
        f" sum(octet_length({table.large})) OVER listed AS size FROM ({step}) AS step"
        f" WINDOW listed AS (ORDER BY {key} ROWS UNBOUNDED PRECEDING)) AS counted"
        f" WHERE n = 1 OR size <= ${table.key_length + 2} ORDER BY n"
    )


async def load(db: Connection, table: Table, records: Sequence[Record]) -> None:
    """See Store.load."""

    async def load(db: Connection) -> None:
        # In the order of keys, as everywhere: who shares some waits, and not in a circle.
        wanted = sorted(records, key=table.key_of)
        keys = [table.key_of(record) for record in wanted]
        if table is TOMBSTONES:
            await db.execute_each(_DELETE, keys)
        elif table is INTERACTIONS:
            there = {tuple(row) for row in await db.fetch(_BURIED, *map(list, zip(*keys)))}
            wanted = [record for record in wanted if table.key_of(record) not in there]
        if wanted:
            await db.execute(_insert(table), *map(list, zip(*wanted, strict=True)))

    if records:
        await db.in_transaction(load)


@cache
def _insert(table: Table) -> str:
    columns, key = ", ".join(table.columns), ", ".join(table.key_columns)
    others = ", ".join(f"{name} = excluded.{name}" for name in table.columns[table.key_length :])
    return (
        f"INSERT INTO {table.name} ({columns}) SELECT * FROM {unnested(table.columns)}"
        f" ON CONFLICT ({key}) DO {f'UPDATE SET {others}' if others else 'NOTHING'}"
    )
