"""The statements that read a table from end to end, and load it as it is.

The latter run inside a transaction of the writer's.
"""

import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import cast

from interaction_svc.store.rows import COLUMNS, Row
from interaction_svc.store.sqlite.writes import UPDATE, insert
from interaction_svc.store.tables import INTERACTIONS, TOMBSTONES, Record, RecordKey, Table

_DELETE = "DELETE FROM interactions WHERE session_sid = ? AND sid = ?"
_VALUES = ", ".join(f"?{n}" for n in range(1, len(Row._fields) + 1))
_UPDATE_IF_DIFFERENT = f"{UPDATE} AND ({COLUMNS}) IS NOT ({_VALUES})"


def count(db: sqlite3.Connection, table: Table) -> int:
    """See Store.count."""
    return int(db.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0])


def read(
    db: sqlite3.Connection, table: Table, after: RecordKey | None, limit: int, max_bytes: int
) -> list[Record]:
    """See Store.read. Rows are stepped through, so that what is beyond the bounds isn't loaded."""
    records: list[Record] = []
    size = 0
    for row in db.execute(_read(table), (*(after or ("",) * table.key_length), limit)):
        record = table.record(*row)
        size += table.size_of(record)
        if records and size > max_bytes:
            break
        records.append(record)
    return records


@cache
def _read(table: Table) -> str:
    columns, key = ", ".join(table.columns), ", ".join(table.key_columns)
    places = ", ".join("?" * table.key_length)
    return f"SELECT {columns} FROM {table.name} WHERE ({key}) > ({places}) ORDER BY {key} LIMIT ?"


def load(db: sqlite3.Connection, table: Table, records: Sequence[Record]) -> bool:
    """See Store.load. Says whether something of an Interaction that was stored is gone."""
    if table is INTERACTIONS:
        return _load_interactions(db, cast(Sequence[Row], records))
    gone = 0
    if table is TOMBSTONES:
        gone = db.executemany(_DELETE, map(table.key_of, records)).rowcount
    db.executemany(_upsert(table), records)
    return gone > 0


def _load_interactions(db: sqlite3.Connection, rows: Sequence[Row]) -> bool:
    if insert(db, rows).rows == len(rows):
        return False
    return db.executemany(_UPDATE_IF_DIFFERENT, rows).rowcount > 0


@cache
def _upsert(table: Table) -> str:
    columns, key = ", ".join(table.columns), ", ".join(table.key_columns)
    places = ", ".join("?" * len(table.columns))
    others = ", ".join(f"{name} = excluded.{name}" for name in table.columns[table.key_length :])
    return (
        f"INSERT INTO {table.name} ({columns}) VALUES ({places})"
        f" ON CONFLICT ({key}) DO {f'UPDATE SET {others}' if others else 'NOTHING'}"
    )
