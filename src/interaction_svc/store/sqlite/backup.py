"""A consistent copy of a file that is in use, by SQLite's online backup."""

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from interaction_svc.store.checksum import checksum_of
from interaction_svc.store.errors import (
    NotAStoreError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from interaction_svc.store.sqlite import schema
from interaction_svc.store.sqlite.erasure.page_wiper import wipe_file
from interaction_svc.store.sqlite.errors import translated
from interaction_svc.store.sqlite.migrations import LATEST, schema_version, snapshot
from interaction_svc.store.sqlite.write_errors import os_failure

_PAGES_A_STEP = 256
_BESIDE_IT = ("-journal", "-wal", "-shm")
_MAGIC = b"SQLite format 3\0"
_USER_VERSION_AT = 60
_APPLICATION_ID_AT = 68
_HEADER_BYTES = 100


def copy(source: Path, target: Path, on_progress: Callable[[int, int], None]) -> bool:
    """Copy the store as it is at this moment; see backup_store.

    The copy is written beside its target, as FILE.part, and gets its name when it is whole and on
    disk. Raises StoreError.
    """
    if not target.name.isprintable() or target.name != target.name.strip():
        raise StoreUnavailableError(
            f"the copy's name, {target.name!a}, has white space around it or characters that can't"
            " be printed"
        )
    part = target.with_name(f"{target.name}.part")
    _refuse_if_there(target)
    try:
        with _locked(part) as descriptor:
            replaced = _clear(part, descriptor)
            _copy(source, part, on_progress)
            _check(part)
            wipe_file(part)
            _mark(descriptor)
            os.fsync(descriptor)
            _refuse_if_there(target)
            part.rename(target)
        _sync(target.absolute().parent)
    except BaseException as error:  # an interruption as soon as there is a file, too
        made = _explained(error, part)  # looks at its size
        _remove(part)
        if made is error:
            raise
        raise made from error
    return replaced


def _refuse_if_there(target: Path) -> None:
    if os.path.lexists(target):
        raise StoreUnavailableError(f"{target} is there already, and is left alone")


@contextmanager
def _locked(part: Path) -> Iterator[int]:
    """Open the part, for its owner only, and lock it against other backups in the block.

    The lock ends with the process, so that a part without one was left behind.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(part, flags, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, another backup may have ended and renamed the file.
            mine = os.path.samestat(os.fstat(descriptor), os.lstat(part))
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise StoreUnavailableError(f"{part}: another backup is writing it")
        yield descriptor
    finally:
        os.close(descriptor)


def _clear(part: Path, descriptor: int) -> bool:
    """Remove what a backup that was killed has left. Raises StoreUnavailableError."""
    head = os.pread(descriptor, _HEADER_BYTES, 0)
    left = os.fstat(descriptor).st_size > 0
    if left and head.strip(b"\0") and not _is_of_store(head):
        raise StoreUnavailableError(
            f"{part} is there already and is no copy of a store: it is left alone"
        )
    os.ftruncate(descriptor, 0)
    os.fchmod(descriptor, 0o600)
    for ending in _BESIDE_IT:
        with suppress(OSError):
            os.unlink(f"{part}{ending}")
    return left


def _is_of_store(head: bytes) -> bool:
    application_id = head[_APPLICATION_ID_AT : _APPLICATION_ID_AT + 4]
    return head.startswith(_MAGIC) and application_id == schema.APPLICATION_ID.to_bytes(4)


def _remove(part: Path) -> None:
    """Remove a part that nobody writes any more. Another backup's stays, and any other file."""
    with suppress(StoreError, OSError), _locked(part) as descriptor:
        _clear(part, descriptor)
        part.unlink()


def _copy(source: Path, part: Path, on_progress: Callable[[int, int], None]) -> None:
    # One read transaction for all steps: a write between two steps makes SQLite restart the copy.
    with snapshot(source) as (db, version), closing(_connect_new(part)) as copied:
        if version == 0:
            raise NotAStoreError("it is empty")
        db.backup(
            copied,
            pages=_PAGES_A_STEP,
            progress=lambda _, left, total: on_progress(total - left, total),
        )


def _connect_new(part: Path) -> sqlite3.Connection:
    # As a URI in any case: SQLite would take a name that begins with file: as one. Without locks
    # of SQLite's own, which on network file systems conflict with that of `_locked`.
    uri = f"{part.absolute().as_uri()}?mode=rw&nolock=1"
    db = sqlite3.connect(uri, uri=True, isolation_level=None)
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


def _mark(descriptor: int) -> None:
    """Make the copy's user_version its own, which SQLite doesn't use.

    A server notices by it when a copy is written over the file that it has open; see open_files.
    """
    os.pwrite(descriptor, secrets.token_bytes(4), _USER_VERSION_AT)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: BaseException, part: Path) -> BaseException:
    if isinstance(error, sqlite3.Error):
        made = translated(error, part)
    elif isinstance(error, OSError):
        made = os_failure(error) or StoreUnavailableError(str(error.strerror))
    else:
        return error
    # Reading needs no room.
    if isinstance(made, StoreFullError) or isinstance(error, OSError):
        return type(made)(f"{part}: {made}")
    return made
