"""The schema, as numbered steps that only go forward.

Each step runs in one transaction together with the record that it ran, so that it has run or has
not. Steps that have been released don't change.
"""

import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

from interaction_svc.store.errors import NotAStoreError, SchemaTooNewError, StoreUnavailableError
from interaction_svc.store.interface import StoreReport
from interaction_svc.store.sqlite.connection import (
    BUSY_TIMEOUT_SECONDS,
    connect,
    transaction,
    translated,
)

APPLICATION_ID = 0x49584E53  # "IXNS": tells a store of ours from another SQLite file


class Migration(NamedTuple):
    """One step: its number, a name for people, and its statements."""

    version: int
    name: str
    statements: tuple[str, ...]


MIGRATIONS = (
    Migration(
        1,
        "interactions and tombstones",
        (
            """
            CREATE TABLE interactions (
                session_sid              TEXT NOT NULL,
                sid                      TEXT NOT NULL,
                account_sid              TEXT NOT NULL,
                service_sid              TEXT NOT NULL,
                created_us               INTEGER NOT NULL,
                updated_us               INTEGER NOT NULL,
                type                     INTEGER NOT NULL,
                inbound_participant_sid  TEXT,
                outbound_participant_sid TEXT,
                inbound_resource_sid     TEXT,
                outbound_resource_sid    TEXT,
                inbound_resource_status  INTEGER,
                outbound_resource_status INTEGER,
                frame                    BLOB NOT NULL,
                PRIMARY KEY (session_sid, sid)
            ) STRICT
            """,
            """
            CREATE UNIQUE INDEX interactions_by_creation
                ON interactions (session_sid, created_us, sid)
            """,
            """
            CREATE TABLE tombstones (
                session_sid TEXT NOT NULL,
                sid         TEXT NOT NULL,
                deleted_us  INTEGER NOT NULL,
                PRIMARY KEY (session_sid, sid)
            ) STRICT, WITHOUT ROWID
            """,
        ),
    ),
    Migration(
        2,
        "api keys",
        (
            """
            CREATE TABLE api_keys (
                sid         TEXT PRIMARY KEY NOT NULL,
                account_sid TEXT,
                role        TEXT NOT NULL,
                secret_hash BLOB NOT NULL,
                created_us  INTEGER NOT NULL,
                revoked_us  INTEGER
            ) STRICT
            """,
            "CREATE INDEX api_keys_by_account ON api_keys (account_sid)",
        ),
    ),
    Migration(
        3,
        "owners of sessions",
        (
            """
            CREATE TABLE session_owners (
                session_sid TEXT NOT NULL,
                service_sid TEXT NOT NULL,
                account_sid TEXT NOT NULL,
                PRIMARY KEY (session_sid, service_sid, account_sid)
            ) STRICT, WITHOUT ROWID
            """,
            """
            INSERT INTO session_owners
                SELECT DISTINCT session_sid, service_sid, account_sid FROM interactions
            """,
        ),
    ),
)
LATEST = MIGRATIONS[-1].version
_RETRY_SECONDS = 0.01


def migrate(db: sqlite3.Connection) -> list[Migration]:
    """Bring the schema up to date, and give the steps that were taken.

    Raises NotAStoreError, SchemaTooNewError, sqlite3.Error; the file is then as it was.
    """
    check_is_store(db)
    if _journal_mode_after_wal(db) != "wal":
        raise NotAStoreError("the file's disk doesn't support SQLite's write-ahead log")
    if schema_version(db) == MIGRATIONS[-1].version:
        return []  # without the write lock, which another process may hold for long
    return [step for step in MIGRATIONS if _apply(db, step)]


def _journal_mode_after_wal(db: sqlite3.Connection) -> str:
    """Ask for the write-ahead log; give the mode that came of it.

    SQLite doesn't apply its busy timeout to this change, which needs the file for itself for a
    moment, so that the waiting is done here.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            return str(db.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def _apply(db: sqlite3.Connection, step: Migration) -> bool:
    with transaction(db):
        # Looked up under the lock: another process may be migrating the same file.
        if schema_version(db) >= step.version:
            return False
        if step.version == 1:
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(
                "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY,"
                " name TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT"
            )
        for statement in step.statements:
            db.execute(statement)
        db.execute(
            "INSERT INTO schema_migrations VALUES (?, ?, datetime('now'))",
            (step.version, step.name),
        )
    return True


def check_is_store(db: sqlite3.Connection) -> None:
    """Refuse a file that isn't ours, or that a later version of this program has changed.

    An empty file is ours to be. Raises NotAStoreError, SchemaTooNewError.
    """
    db.execute("BEGIN")  # all at one moment: another process may be making the file
    try:
        application_id = db.execute("PRAGMA application_id").fetchone()[0]
        empty = db.execute("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)").fetchone()[0]
        version = schema_version(db)
    finally:
        db.execute("COMMIT")
    if application_id != APPLICATION_ID and not (application_id == 0 and empty):
        raise NotAStoreError("the file is an SQLite database, but not one of interaction-svc")
    if version > LATEST:
        raise SchemaTooNewError(
            f"its schema is version {version}, and this program knows only up to {LATEST}; "
            "use the version of interaction-svc that wrote it, or a later one"
        )


def check_is_current(db: sqlite3.Connection) -> None:
    """Refuse a store whose schema is not the one that this program works with.

    Raises NotAStoreError, SchemaTooNewError, StoreUnavailableError.
    """
    check_is_store(db)
    version = schema_version(db)
    if version < LATEST:
        raise StoreUnavailableError(
            f"its schema is version {version}, and {LATEST} is needed: run interaction-svc migrate"
        )


def schema_version(db: sqlite3.Connection) -> int:
    """Give the number of the last step that ran; 0 for an empty file."""
    there = db.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations'"
    ).fetchone()
    if there is None:
        return 0
    return int(db.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchone()[0])


def inspect(path: Path) -> StoreReport:
    """Report the schema's version without changing the file; a file that isn't there has 0.

    Raises NotAStoreError, SchemaTooNewError, StoreUnavailableError.
    """
    if not path.exists():
        return StoreReport(schema_version=0, known_version=LATEST)
    try:
        db = connect(path, read_only=True)
        try:
            check_is_store(db)
            return StoreReport(schema_version=schema_version(db), known_version=LATEST)
        finally:
            db.close()
    except sqlite3.Error as error:
        raise translated(error) from error
