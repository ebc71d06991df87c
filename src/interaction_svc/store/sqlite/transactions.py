"""Write transactions, and their wait for the write lock."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from interaction_svc.store.sqlite.errors import is_busy

BUSY_TIMEOUT_SECONDS = 5.0
_RETRY_SECONDS = 0.0005  # at 1 ms, many of the short times with a free lock would be missed


@contextmanager
def transaction(db: sqlite3.Connection, timeout_seconds: float | None = None) -> Iterator[None]:
    """Context manager that commits the writes of its block, or rolls them back on an error.

    Waits up to `timeout_seconds` for the write lock (None: BUSY_TIMEOUT_SECONDS). Raises
    sqlite3.OperationalError if another connection still holds it.
    """
    # IMMEDIATE, because a transaction that begins as a reader fails at its first write, without
    # waiting, if another process has written in the meantime.
    _begin_immediate(db, BUSY_TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite itself rolls back after some failures
            db.execute("ROLLBACK")
        raise


def _begin_immediate(db: sqlite3.Connection, timeout_seconds: float) -> None:
    """Begin a transaction with the write lock, trying every 0.5 ms.

    SQLite's busy handler retries at growing intervals of up to 100 ms. If another process writes
    all the time, the lock is free only briefly, and the busy handler mostly misses it.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        else:
            return
        time.sleep(_RETRY_SECONDS)


def touch_write_lock(db: sqlite3.Connection) -> None:
    """Execute a statement that needs the write lock and changes nothing.

    Inside a transaction it shows whether the file is writable, even on a full disk. BEGIN IMMEDIATE
    alone succeeds on a read-only file.
    """
    db.execute("DELETE FROM schema_migrations WHERE 0")


def check_writable(db: sqlite3.Connection) -> None:
    """Raise sqlite3.OperationalError if the file can't be written to.

    A file that another process has locked counts as writable.
    """
    try:
        with transaction(db, 0):
            touch_write_lock(db)
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise


def disable_busy_timeout(db: sqlite3.Connection) -> None:
    """Disable SQLite's wait for locks, because `transaction` waits itself."""
    db.execute("PRAGMA busy_timeout = 0")


@contextmanager
def busy_timeout(db: sqlite3.Connection, milliseconds: int) -> Iterator[None]:
    """Context manager in which SQLite itself waits for locks, up to this time."""
    db.execute(f"PRAGMA busy_timeout = {milliseconds}")
    try:
        yield
    finally:
        disable_busy_timeout(db)
