"""Copies the small tables of an old file, each in one transaction."""

import sqlite3

import structlog

from interaction_svc.domain.sids import canonical_sid
from interaction_svc.store.api_keys import ApiKey
from interaction_svc.store.sqlite import row_format, writes
from interaction_svc.store.sqlite.transactions import transaction

DELETE = "DELETE FROM interactions WHERE session_sid = ? AND account_sid = ? AND sid = ?"
"""Deletes a row of the new file by its key."""
_OWNERS = "SELECT DISTINCT account_sid FROM session_owners WHERE session_sid = ?"

log = structlog.get_logger()


def copy_owners(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Copy the owners of Sessions. Those of copied rows exist already."""
    if "session_owners" in _tables(old):
        with transaction(new):
            new.executemany(
                "INSERT OR IGNORE INTO session_owners (session_sid, service_sid, account_sid)"
                " VALUES (?, ?, ?)",
                (
                    [row_format.pack(canonical_sid(sid)) for sid in owner]
                    for owner in old.execute(
                        "SELECT session_sid, service_sid, account_sid FROM session_owners"
                    )
                ),
            )


def copy_tombstones(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Copy tombstones, and delete their Interactions from the new file.

    Old tombstones have no account. Each is copied for every account that has owned its Session.
    """
    without_owner = 0
    with transaction(new):
        for session_sid, sid, deleted_us in old.execute(
            "SELECT session_sid, sid, deleted_us FROM tombstones"
        ):
            session = row_format.pack(canonical_sid(session_sid))
            accounts = new.execute(_OWNERS, (session,)).fetchall()
            for (account,) in accounts:
                key = session, account, row_format.pack(canonical_sid(sid))
                new.execute(DELETE, key)
                writes.add_tombstone(new, key, deleted_us)
            without_owner += not accounts
    if without_owner:  # Sessions that had no rows left when the table of owners was introduced
        log.warning("tombstones of Sessions without an owner were left out", count=without_owner)


def copy_keys(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Copy the API keys, with their accounts in canonical spelling."""
    if "api_keys" in _tables(old):
        columns = ", ".join(ApiKey._fields)
        with transaction(new):
            new.execute("DELETE FROM api_keys")
            new.executemany(
                f"INSERT INTO api_keys ({columns}) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    key._replace(account_sid=key.account_sid and canonical_sid(key.account_sid))
                    for key in map(
                        ApiKey._make,
                        old.execute(f"SELECT {columns} FROM api_keys ORDER BY created_us, rowid"),
                    )
                ),
            )


def _tables(db: sqlite3.Connection) -> set[str]:
    return {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
