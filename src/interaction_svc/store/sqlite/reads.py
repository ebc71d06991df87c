"""Statements that read single rows or scan all rows. page_reads has the statements for pages."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from interaction_svc.domain.interactions import InteractionKey, Scope
from interaction_svc.store.checksum import check_frame, checksum_of, damaged_row
from interaction_svc.store.errors import AmbiguousAccountError
from interaction_svc.store.integrity import row_name
from interaction_svc.store.interface import ScanPosition
from interaction_svc.store.sqlite.row_format import pack, unpack

_KEY = "session_sid, account_sid, created_us, sid"
_GET = (
    "SELECT frame, checksum FROM interactions INDEXED BY interactions_by_sid"
    " WHERE session_sid = ? AND account_sid = ? AND sid = ? AND service_sid = ?"
)
# CROSS JOIN fixes the join order: the SID is looked up in each account that owns the Session.
_GET_OF_ANY = (
    "SELECT found.frame, found.checksum FROM session_owners AS owner"
    " CROSS JOIN interactions AS found INDEXED BY interactions_by_sid"
    " USING (session_sid, account_sid)"
    " WHERE owner.session_sid = ? AND owner.service_sid = ? AND found.sid = ?"
    " AND found.service_sid = owner.service_sid LIMIT 2"
)


def get(db: sqlite3.Connection, scope: Scope, key: InteractionKey) -> bytes | None:
    """See Store.get."""
    service_sid, session_sid, sid = map(pack, key)
    if scope.account_sid is None:
        rows = db.execute(_GET_OF_ANY, (session_sid, service_sid, sid)).fetchall()
    else:
        values = (session_sid, pack(scope.account_sid), sid, service_sid)
        rows = db.execute(_GET, values).fetchall()
    if not rows:
        return None
    if len(rows) > 1:
        raise AmbiguousAccountError("several accounts have this Interaction")
    ((frame, checksum),) = rows
    check_frame(frame, checksum, row_name(key.session_sid, key.sid))
    return bytes(frame)


def scan(
    db: sqlite3.Connection,
    after: ScanPosition | None,
    limit: int,
    max_bytes: int,
    service_sid: str | None,
    session_sid: str | None,
    account_sid: str | None,
) -> tuple[list[bytes], ScanPosition | None]:
    """See Store.scan."""
    place = after or ScanPosition(session_sid or "", "", -(2**63), "")
    clauses = [f"({_KEY}) > (?, ?, ?, ?)"]
    values: list[object] = [
        pack(place.session_sid),
        pack(place.account_sid),
        place.created_us,
        pack(place.sid),
    ]
    for column, wanted in (
        ("session_sid", session_sid),
        ("account_sid", account_sid),
        ("service_sid", service_sid),
    ):
        if wanted is not None:
            clauses.append(f"{column} = ?")
            values.append(pack(wanted))
    statement = (
        f"SELECT frame, checksum, {_KEY} FROM interactions WHERE {' AND '.join(clauses)}"
        f" ORDER BY {_KEY} LIMIT ?"
    )
    with closing(db.execute(statement, [*values, limit + 1])) as cursor:
        rows, more = bounded(cursor, limit, max_bytes)
    for frame, checksum, *key in rows:
        if checksum_of(frame) != checksum:
            raise damaged_row(_name_of(*key))
    return [row[0] for row in rows], _position(*rows[-1][2:]) if more else None


def _position(session_sid: bytes, account_sid: bytes, created_us: int, sid: bytes) -> ScanPosition:
    return ScanPosition(
        unpack("session_sid", session_sid),
        unpack("account_sid", account_sid),
        created_us,
        unpack("sid", sid),
    )


def _name_of(session_sid: bytes, account_sid: bytes, created_us: int, sid: bytes) -> str:
    place = _position(session_sid, account_sid, created_us, sid)
    return row_name(place.session_sid, place.sid, place.account_sid)


def bounded(cursor: Iterable[Any], limit: int, max_bytes: int) -> tuple[list[Any], bool]:
    """Fetch at least one row, and further rows up to `limit` and `max_bytes` of first columns.

    Returns the rows and whether more follow. Rows are fetched one by one, so that only one row
    beyond `max_bytes` is loaded.
    """
    rows: list[Any] = []
    size = 0
    for row in cursor:
        size += len(row[0])
        if rows and (len(rows) == limit or size > max_bytes):
            return rows, True
        rows.append(row)
    return rows, False
