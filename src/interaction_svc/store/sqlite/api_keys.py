"""Statements on API keys. Writing statements run inside a transaction of the writer."""

import sqlite3

from interaction_svc.store.api_keys import ApiKey

_COLUMNS = ", ".join(ApiKey._fields)
_SELECT = f"SELECT {_COLUMNS} FROM api_keys"
_OLDEST_FIRST = "ORDER BY created_us, rowid"
_ADD = f"INSERT INTO api_keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
_REVOKE = "UPDATE api_keys SET revoked_us = ? WHERE sid = ? AND revoked_us IS NULL"


def add(db: sqlite3.Connection, key: ApiKey) -> None:
    """See Store.add_key."""
    db.execute(_ADD, key)


def revoke(db: sqlite3.Connection, sid: str, now_us: int) -> ApiKey | None:
    """See Store.revoke_key."""
    db.execute(_REVOKE, (now_us, sid))
    found = db.execute(f"{_SELECT} WHERE sid = ?", (sid,)).fetchone()
    return None if found is None else ApiKey._make(found)


def of_user(db: sqlite3.Connection, user: str) -> list[ApiKey]:
    """See Store.keys_of."""
    found = db.execute(f"{_SELECT} WHERE sid = ?1 OR account_sid = ?1 {_OLDEST_FIRST}", (user,))
    return [ApiKey._make(row) for row in found]


def every(db: sqlite3.Connection) -> list[ApiKey]:
    """See Store.keys."""
    return [ApiKey._make(row) for row in db.execute(f"{_SELECT} {_OLDEST_FIRST}")]


def any_ever(db: sqlite3.Connection) -> bool:
    """See Store.has_keys."""
    return db.execute("SELECT 1 FROM api_keys LIMIT 1").fetchone() is not None
