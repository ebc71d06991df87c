"""Statements that read all rows of a table, and that load rows unchanged.

Loading statements run inside a transaction of the writer.
"""

import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import cast

from interaction_svc.store.checksum import check_frame
from interaction_svc.store.integrity import row_name
from interaction_svc.store.rows import Row
from interaction_svc.store.sqlite.row_format import columns_of, pack_key, pack_record, unpack_record
from interaction_svc.store.sqlite.writes import replace
from interaction_svc.store.tables import INTERACTIONS, TOMBSTONES, Table, TableKey, TableRow

_DELETE = "DELETE FROM interactions WHERE session_sid = ? AND account_sid = ? AND sid = ?"


def count(db: sqlite3.Connection, table: Table) -> int:
    """See Store.count."""
    return int(db.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0])


def read(
    db: sqlite3.Connection, table: Table, after: TableKey | None, limit: int, max_bytes: int
) -> list[TableRow]:
    """See Store.read. Rows are fetched one by one: only one row beyond `max_bytes` is loaded."""
    records: list[TableRow] = []
    size = 0
    key = pack_key(table, after or ("",) * table.key_length)
    for packed in db.execute(_read(table), (*key, limit)):
        record = unpack_record(table, packed)
        size += table.size_of(record)
        if records and size > max_bytes:
            break
        if isinstance(record, Row):
            name = row_name(record.session_sid, record.sid, record.account_sid)
            check_frame(record.frame, record.checksum, name)
        records.append(record)
    return records


@cache
def _read(table: Table) -> str:
    columns, key = ", ".join(columns_of(table)), ", ".join(table.key_columns)
    placeholders = ", ".join("?" * table.key_length)
    index = " INDEXED BY interactions_by_sid" if table is INTERACTIONS else ""
    return (
        f"SELECT {columns} FROM {table.name}{index}"
        f" WHERE ({key}) > ({placeholders}) ORDER BY {key} LIMIT ?"
    )


def load(db: sqlite3.Connection, table: Table, records: Sequence[TableRow]) -> bool:
    """See Store.load. Returns whether stored content of an Interaction was erased."""
    if table is INTERACTIONS:
        return replace(db, cast(Sequence[Row], records))
    packed = [pack_record(table, record) for record in records]
    gone = 0
    if table is TOMBSTONES:
        gone = db.executemany(_DELETE, [key[: table.key_length] for key in packed]).rowcount
    db.executemany(_upsert(table), packed)
    return gone > 0


@cache
def _upsert(table: Table) -> str:
    columns, key = ", ".join(table.columns), ", ".join(table.key_columns)
    placeholders = ", ".join("?" * len(table.columns))
    others = ", ".join(f"{name} = excluded.{name}" for name in table.columns[table.key_length :])
    return (
        f"INSERT INTO {table.name} ({columns}) VALUES ({placeholders})"
        f" ON CONFLICT ({key}) DO {f'UPDATE SET {others}' if others else 'NOTHING'}"
    )
