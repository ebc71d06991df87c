"""The version of a file's schema, and the creation of the schema in an empty file.

An empty file gets one row in schema_migrations. A file of an earlier version is rewritten before it
is opened; see rewrite/.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from interaction_svc.store.errors import (
    NotAStoreError,
    SchemaTooNewError,
    StoreError,
    StoreUnavailableError,
)
from interaction_svc.store.interface import StoreReport
from interaction_svc.store.sqlite import schema
from interaction_svc.store.sqlite.connection import connect
from interaction_svc.store.sqlite.errors import is_busy, translated
from interaction_svc.store.sqlite.file_location import identity
from interaction_svc.store.sqlite.transactions import BUSY_TIMEOUT_SECONDS, transaction

LATEST = schema.VERSION
_RETRY_SECONDS = 0.01


def migrate(db: sqlite3.Connection) -> None:
    """Switch to the write-ahead log, and create the schema in an empty file.

    Raises NotAStoreError, SchemaTooNewError, sqlite3.Error; StoreUnavailableError for a file of an
    earlier version. In that case the rows of the file are unchanged.
    """
    check_is_store(db)
    if schema_version(db) == 0:
        schema.prepare(db)
    if _journal_mode_after_wal(db) != "wal":
        raise NotAStoreError("the file's disk doesn't support SQLite's write-ahead log")
    version = schema_version(db)
    if version == LATEST:
        return  # does not need the write lock, which another process may hold
    if version:  # only a rewrite before the opening migrates an earlier version
        raise StoreUnavailableError(_outdated(version))
    with transaction(db):
        # Read again under the lock, because another process may be creating the schema.
        if schema_version(db) == 0:
            schema.create(db)


def _outdated(version: int) -> str:
    return f"its schema is version {version}, and {LATEST} is needed: run interaction-svc migrate"


def _journal_mode_after_wal(db: sqlite3.Connection) -> str:
    """Switch to the write-ahead log; return the resulting journal mode.

    The switch needs an exclusive lock, and SQLite doesn't apply its busy timeout to it, so this
    function retries for up to 5 seconds.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            return str(db.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def check_is_store(db: sqlite3.Connection) -> None:
    """Check that the file is empty, or a store whose version this program knows.

    Raises NotAStoreError, SchemaTooNewError.
    """
    db.execute("BEGIN")  # one snapshot: another process may be creating the schema
    try:
        _checked_version(db)
    finally:
        db.execute("COMMIT")


def _checked_version(db: sqlite3.Connection) -> int:
    """Return the schema's version. Raises NotAStoreError, SchemaTooNewError."""
    application_id = db.execute("PRAGMA application_id").fetchone()[0]
    empty = db.execute("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)").fetchone()[0]
    version = schema_version(db)
    if application_id != schema.APPLICATION_ID and not (application_id == 0 and empty):
        raise NotAStoreError("the file is an SQLite database, but not one of interaction-svc")
    if version > LATEST:
        raise SchemaTooNewError(
            f"its schema is version {version}, and this program knows only up to {LATEST}; "
            "use the version of interaction-svc that wrote it, or a later one"
        )
    return version


def schema_version(db: sqlite3.Connection) -> int:
    """Return the version of the schema; 0 for an empty file."""
    there = db.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations'"
    ).fetchone()
    if there is None:
        return 0
    return int(db.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchone()[0])


@contextmanager
def snapshot(path: Path) -> Iterator[tuple[sqlite3.Connection, int]]:
    """Yield a read transaction on the store at `path`, and the version of its schema.

    A rewrite by another process renames a new file over the old one. If that happens between
    opening and reading the file, the file is opened again. Inside the block no rewrite can replace
    the file. Raises NotAStoreError, SchemaTooNewError, StoreError, sqlite3.Error.
    """
    while True:
        opened = identity(path)
        try:
            db, version = _begin_snapshot(path)
        except (StoreError, sqlite3.Error):
            if identity(path) == opened:
                raise
            continue
        with closing(db):
            if identity(path) == opened:
                yield db, version
                return


def _begin_snapshot(path: Path) -> tuple[sqlite3.Connection, int]:
    db = connect(path, read_only=True)
    try:
        db.execute("BEGIN")
        return db, _checked_version(db)
    except BaseException:
        db.close()
        raise


def check_is_current(path: Path) -> None:
    """Check that the file is a store with the current schema.

    Raises NotAStoreError, SchemaTooNewError; StoreUnavailableError for an earlier version.
    """
    version = _version_of(path)
    if version < LATEST:
        raise StoreUnavailableError(_outdated(version))


def inspect(path: Path) -> StoreReport:
    """Report the schema's version without changing the file; 0 if the file doesn't exist.

    Raises NotAStoreError, SchemaTooNewError, StoreUnavailableError.
    """
    version = _version_of(path) if path.exists() else 0
    return StoreReport(schema_version=version, known_version=LATEST)


def _version_of(path: Path) -> int:
    try:
        with snapshot(path) as (_, version):
            return version
    except sqlite3.Error as error:
        raise translated(error, path) from error
