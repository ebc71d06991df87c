"""Maps errors of SQLite to errors of the store."""

import sqlite3
from pathlib import Path

from interaction_svc.store.errors import (
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from interaction_svc.store.sqlite.write_errors import write_failure

_LACKING = "its file system lacks what SQLite needs, locks and shared memory: use a local disk"
_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "it is locked by another process",
    sqlite3.SQLITE_LOCKED: "it is locked by another process",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: is it there, and may this user write it?",
    sqlite3.SQLITE_READONLY: "it can't be written to: is the file or its directory read-only?",
    sqlite3.SQLITE_PERM: "access to it is not permitted",
    sqlite3.SQLITE_IOERR: "its disk fails",
    sqlite3.SQLITE_IOERR_SHORT_READ: (
        "its write-ahead log, or its file, has been overwritten while it was open: restart, and"
        " leave these files alone"
    ),
    sqlite3.SQLITE_IOERR_LOCK: _LACKING,
    sqlite3.SQLITE_IOERR_SHMLOCK: _LACKING,
    sqlite3.SQLITE_IOERR_SHMMAP: _LACKING,
    sqlite3.SQLITE_INTERRUPT: "it was interrupted",
}
_FAILED_WRITES = (
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
)


def primary_code(error: Exception) -> int:
    """Return SQLite's primary result code, such as SQLITE_BUSY; 0 for another error."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF  # the higher bits of an extended code are detail


def is_busy(error: Exception) -> bool:
    """Return whether another connection holds the lock."""
    return primary_code(error) == sqlite3.SQLITE_BUSY


def translated(error: sqlite3.Error, path: Path | None = None) -> StoreError:
    """Return the store error for an error of SQLite, without SQLite's text, which may quote SQL.

    If the path of the file is given, the cause of a failed write is determined.
    """
    extended = getattr(error, "sqlite_errorcode", 0)
    code = primary_code(error)
    if path is not None and (extended in _FAILED_WRITES or code in _FAILED_WRITES):
        cause = write_failure(path)
        if cause is not None:
            return cause
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return StoreFullError("its disk is full")
    if (
        code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        or extended == sqlite3.SQLITE_IOERR_CORRUPTFS
    ):
        return StoreDamagedError("it is damaged: restore it from a backup")
    problem = _UNAVAILABLE.get(extended) or _UNAVAILABLE.get(code)
    if problem is not None:
        return StoreUnavailableError(problem)
    return StoreError(f"SQLite failed with {getattr(error, 'sqlite_errorname', 'an error')}")
