"""A lock on the store of a server, as another process may hold it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from testing.process import Served


@contextmanager
def write_lock(server: Served) -> Iterator[None]:
    """Hold the store's write lock, so that a write waits in the middle of its call."""
    db = sqlite3.connect(server.store, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
        db.close()
