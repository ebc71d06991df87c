"""A consistent copy of a file that is in use, by SQLite's online backup."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from interaction_svc.store.errors import (
    NotAStoreError,
    StoreDamagedError,
    StoreFullError,
    StoreUnavailableError,
)
from interaction_svc.store.integrity import checksum_of
from interaction_svc.store.sqlite.connection import connect, translated
from interaction_svc.store.sqlite.migrations import LATEST, check_is_store, schema_version
from interaction_svc.store.sqlite.scrubbing import wipe_file

_PAGES_A_STEP = 256
_AFTER_IT = ("", "-journal", "-wal", "-shm")


def copy(source: Path, target: Path, on_progress: Callable[[int, int], None]) -> None:
    """Copy the store as it is at this moment; see backup_store.

    The copy is written beside its target, as FILE.part, and gets its name when it is whole and on
    disk. Raises StoreError.
    """
    part = target.with_name(f"{target.name}.part")
    _refuse_if_there(target)
    try:
        # Readable by its owner only, as the store is; and not into what another backup writes.
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        _copy(source, part, on_progress)
        _check(part)
        wipe_file(part)
        _sync(part)
        _refuse_if_there(target)
        part.rename(target)
        _sync(target.absolute().parent)
    except FileExistsError as error:  # another backup's: it stays
        raise StoreUnavailableError(f"{part}: {error.strerror}") from error
    except BaseException as error:  # an interruption as soon as there is a file, too
        for ending in _AFTER_IT:
            with suppress(OSError):
                os.unlink(f"{part}{ending}")
        if isinstance(error, sqlite3.Error):
            raise _explained(error, part) from error
        if isinstance(error, OSError):
            raise StoreUnavailableError(f"{part}: {error.strerror}") from error
        raise


def _refuse_if_there(target: Path) -> None:
    if os.path.lexists(target):
        raise StoreUnavailableError(f"{target} is there already, and is left alone")


def _copy(source: Path, part: Path, on_progress: Callable[[int, int], None]) -> None:
    with closing(connect(source, read_only=True)) as db, closing(_connect_new(part)) as copied:
        check_is_store(db)
        # One read transaction for all steps: otherwise what is written meanwhile makes SQLite
        # begin the copy anew, again and again.
        db.execute("BEGIN")
        if schema_version(db) == 0:
            raise NotAStoreError("it is empty")
        db.backup(
            copied,
            pages=_PAGES_A_STEP,
            progress=lambda _, left, total: on_progress(total - left, total),
        )
        db.execute("COMMIT")


def _connect_new(part: Path) -> sqlite3.Connection:
    db = sqlite3.connect(part, isolation_level=None)
    db.execute("PRAGMA journal_mode = OFF")  # nobody needs half a copy back
    db.execute("PRAGMA synchronous = OFF")  # it is synced once, as a whole
    return db


def _check(part: Path) -> None:
    # Immutable: makes no log beside it.
    uri = f"{part.absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as db:
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise StoreDamagedError("it is damaged: there is no use in a copy of it")
        if schema_version(db) == LATEST:
            _check_frames(db)


def _check_frames(db: sqlite3.Connection) -> None:
    for frame, checksum in db.execute("SELECT frame, checksum FROM interactions"):
        if checksum_of(frame) != checksum:
            raise StoreDamagedError(
                "an Interaction in it is damaged, and would be in a copy;"
                " interaction-svc migrate --check lists all: record them again, or delete them"
            )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: sqlite3.Error, part: Path) -> Exception:
    made = translated(error)
    # Reading needs no room.
    return StoreFullError(f"the disk of {part} is full") if type(made) is StoreFullError else made
