"""The statements that write. Each function runs inside a transaction that the writer has begun."""

import sqlite3
from collections.abc import Sequence

from interaction_svc.store.interface import Key, Outcome, Recorded, Scope
from interaction_svc.store.rows import COLUMNS, Row, with_created

_PLACES = ", ".join(f"?{n}" for n, _ in enumerate(Row._fields, 1))
# New rows are by far the most, so they are tried first, in one statement with their tombstone.
_INSERT = (
    f"INSERT INTO interactions ({COLUMNS}) SELECT {_PLACES}"
    " WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE session_sid = ?1 AND sid = ?2)"
    " ON CONFLICT (session_sid, sid) DO NOTHING"
)
_STORED = (
    "SELECT account_sid, service_sid, created_us, updated_us, frame FROM interactions"
    " WHERE session_sid = ? AND sid = ?"
)
_KEY_COLUMNS = ("session_sid", "sid")
_UPDATE = (
    "UPDATE interactions SET "
    + ", ".join(
        f"{name} = ?{n}" for n, name in enumerate(Row._fields, 1) if name not in _KEY_COLUMNS
    )
    + " WHERE session_sid = ?1 AND sid = ?2"
)
_DELETE = (
    "DELETE FROM interactions WHERE session_sid = ?1 AND sid = ?2 AND service_sid = ?3"
    " AND (?4 IS NULL OR account_sid = ?4)"
)
_BURY = "INSERT OR IGNORE INTO tombstones (session_sid, sid, deleted_us) VALUES (?, ?, ?)"


_OWN = (
    "INSERT OR IGNORE INTO session_owners (session_sid, service_sid, account_sid) VALUES (?, ?, ?)"
)


def record(db: sqlite3.Connection, rows: Sequence[Row]) -> list[Recorded]:
    """See Store.record."""
    recorded = [_record(db, row) for row in rows]
    owners = {
        (row.session_sid, row.service_sid, row.account_sid)
        for row, (outcome, _) in zip(rows, recorded, strict=True)
        if outcome is Outcome.CREATED
    }
    db.executemany(_OWN, owners)
    return recorded


def _record(db: sqlite3.Connection, row: Row) -> Recorded:
    if db.execute(_INSERT, row).rowcount == 1:
        return Recorded(Outcome.CREATED, row.frame)
    stored = db.execute(_STORED, (row.session_sid, row.sid)).fetchone()
    if stored is None:
        return Recorded(Outcome.DELETED, None)
    account_sid, service_sid, created_us, updated_us, frame = stored
    if (account_sid, service_sid) != (row.account_sid, row.service_sid):
        return Recorded(Outcome.OWNER_MISMATCH, None)
    if row.updated_us < updated_us:
        return Recorded(Outcome.STALE, frame)
    if row.created_us != created_us:
        row = with_created(row, created_us)
    if row.frame == frame:
        return Recorded(Outcome.UNCHANGED, frame)
    db.execute(_UPDATE, row)
    return Recorded(Outcome.UPDATED, row.frame)


def delete(db: sqlite3.Connection, scope: Scope, key: Key, now_us: int) -> bool:
    """See Store.delete."""
    service_sid, session_sid, sid = key
    if db.execute(_DELETE, (session_sid, sid, service_sid, scope.account_sid)).rowcount == 0:
        return False
    bury(db, session_sid, sid, now_us)
    return True


def bury(db: sqlite3.Connection, session_sid: str, sid: str, now_us: int) -> None:
    """Leave a tombstone, which keeps a late record from bringing the Interaction back."""
    db.execute(_BURY, (session_sid, sid, now_us))
