"""A write lock on the store of a server, held by another connection."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from testing.process import Served


@contextmanager
def write_lock(server: Served) -> Iterator[None]:
    """Hold the store's write lock until the end of the block, so that the server's writes wait."""
    db = sqlite3.connect(server.store, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
        db.close()
