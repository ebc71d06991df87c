"""The file that a test's SQLite store is in."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interaction_svc.store.sqlite import schema
from interaction_svc.store.sqlite.legacy_schema import LEGACY_MIGRATIONS


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'interactions.db'}"


@contextmanager
def another_process(folder: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(folder / "interactions.db", isolation_level=None, timeout=0)
    try:
        yield db
    finally:
        db.close()


def make_legacy_store(folder: Path, version: int) -> None:
    """Make an empty store as the first program with this version of the schema made it."""
    with another_process(folder) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        db.execute(
            "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY,"
            " name TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT"
        )
        for step in LEGACY_MIGRATIONS[:version]:
            for statement in step.statements:
                db.execute(statement)
            db.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, datetime('now'))",
                (step.version, step.name),
            )
