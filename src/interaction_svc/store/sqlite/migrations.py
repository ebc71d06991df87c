"""Which version of the schema a file has, and how it comes to the present one.

An empty file gets the present schema at once, with its record in schema_migrations.
A file of an earlier version is rewritten before it is opened: see rewrite.py.
"""

import sqlite3
import time
from pathlib import Path

from interaction_svc.store.errors import NotAStoreError, SchemaTooNewError, StoreUnavailableError
from interaction_svc.store.interface import StoreReport
from interaction_svc.store.sqlite import schema
from interaction_svc.store.sqlite.connection import (
    BUSY_TIMEOUT_SECONDS,
    connect,
    transaction,
    translated,
)

LATEST = schema.VERSION
_RETRY_SECONDS = 0.01


def migrate(db: sqlite3.Connection) -> None:
    """Bring the schema up to date.

    Raises NotAStoreError, SchemaTooNewError, StoreUnavailableError, sqlite3.Error; the file is then
    as it was.
    """
    check_is_store(db)
    if schema_version(db) == 0:
        schema.prepare(db)
    if _journal_mode_after_wal(db) != "wal":
        raise NotAStoreError("the file's disk doesn't support SQLite's write-ahead log")
    version = schema_version(db)
    if version == LATEST:
        return  # without the write lock, which another process may hold for long
    if version:  # only a rewrite, before the file is opened, brings it further
        raise StoreUnavailableError(_outdated(version))
    with transaction(db):
        # Looked up under the lock: another process may be making the same file.
        if schema_version(db) == 0:
            schema.create(db)


def _outdated(version: int) -> str:
    return f"its schema is version {version}, and {LATEST} is needed: run interaction-svc migrate"


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
    if application_id != schema.APPLICATION_ID and not (application_id == 0 and empty):
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
        raise StoreUnavailableError(_outdated(version))


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
        raise translated(error, path) from error
