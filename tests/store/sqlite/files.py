"""The file of a test's SQLite store."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'interactions.db'}"


@contextmanager
def another_process(folder: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(folder / "interactions.db", isolation_level=None, timeout=0)
    try:
        yield db
    finally:
        db.close()
