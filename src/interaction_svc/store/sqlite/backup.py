"""Consistent copies of a file in use, with SQLite's online backup API."""

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

_PAGES_PER_STEP = 256
_SIDE_FILE_ENDINGS = ("-journal", "-wal", "-shm")
_MAGIC = b"SQLite format 3\0"
_USER_VERSION_AT = 60
_APPLICATION_ID_AT = 68
_HEADER_BYTES = 100


def copy(source: Path, target: Path, on_progress: Callable[[int, int], None]) -> bool:
    """Copy a snapshot of the store; see backup_store.

    The copy is written to FILE.part, which is renamed once it is complete and on disk. Raises
    StoreError.
    """
    if not target.name.isprintable() or target.name != target.name.strip():
        raise StoreUnavailableError(
            f"the copy's name, {target.name!a}, has white space around it or characters that can't"
            " be printed"
        )
    part = target.with_name(f"{target.name}.part")
    _refuse_existing(target)
    try:
        with _locked(part) as descriptor:
            replaced = _clear(part, descriptor)
            _copy(source, part, on_progress)
            _check(part)
            wipe_file(part)
            _mark(descriptor)
            os.fsync(descriptor)
            _refuse_existing(target)
            part.rename(target)
        _sync(target.absolute().parent)
    except BaseException as error:  # also KeyboardInterrupt and SystemExit
        made = _store_error(error, part)  # before _remove, which reads the size
        _remove(part)
        if made is error:
            raise
        raise made from error
    return replaced


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise StoreUnavailableError(f"{target} is there already, and is left alone")


@contextmanager
def _locked(part: Path) -> Iterator[int]:
    """Context manager that opens the part with mode 600, and locks it against other backups.

    The lock ends with the process. So if a part is not locked, a killed backup has left it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(part, flags, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another backup may have renamed the file between opening and locking.
            is_part = os.path.samestat(os.fstat(descriptor), os.lstat(part))
        except (BlockingIOError, FileNotFoundError):
            is_part = False
        if not is_part:
            raise StoreUnavailableError(f"{part}: another backup is writing it")
        yield descriptor
    finally:
        os.close(descriptor)


def _clear(part: Path, descriptor: int) -> bool:
    """Empty the part. Returns whether a killed backup had left content.

    Raises StoreUnavailableError if the content is not that of a backup.
    """
    head = os.pread(descriptor, _HEADER_BYTES, 0)
    left = os.fstat(descriptor).st_size > 0
    if left and head.strip(b"\0") and not _is_of_store(head):
        raise StoreUnavailableError(
            f"{part} is there already and is no copy of a store: it is left alone"
        )
    os.ftruncate(descriptor, 0)
    os.fchmod(descriptor, 0o600)
    for ending in _SIDE_FILE_ENDINGS:
        with suppress(OSError):
            os.unlink(f"{part}{ending}")
    return left


def _is_of_store(head: bytes) -> bool:
    application_id = head[_APPLICATION_ID_AT : _APPLICATION_ID_AT + 4]
    return head.startswith(_MAGIC) and application_id == schema.APPLICATION_ID.to_bytes(4)


def _remove(part: Path) -> None:
    """Remove the part, unless another backup is writing it or it is not a copy of a store."""
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
            pages=_PAGES_PER_STEP,
            progress=lambda _, left, total: on_progress(total - left, total),
        )


def _connect_new(part: Path) -> sqlite3.Connection:
    # A URI, because SQLite would interpret a name that begins with file: as one. nolock: on network
    # file systems SQLite's locks conflict with the lock of `_locked`.
    uri = f"{part.absolute().as_uri()}?mode=rw&nolock=1"
    db = sqlite3.connect(uri, uri=True, isolation_level=None)
    db.execute("PRAGMA journal_mode = OFF")  # an incomplete copy is removed
    db.execute("PRAGMA synchronous = OFF")  # copy() syncs the file once
    return db


def _check(part: Path) -> None:
    # immutable: SQLite creates no log.
    uri = f"{part.absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as db:
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise StoreDamagedError("it is damaged, so it is not copied: restore it from a backup")
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
    """Set a random user_version, which SQLite doesn't use.

    By this mark a server detects that the copy has overwritten the file that it has open; see
    open_files.
    """
    os.pwrite(descriptor, secrets.token_bytes(4), _USER_VERSION_AT)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _store_error(error: BaseException, part: Path) -> BaseException:
    if isinstance(error, sqlite3.Error):
        made = translated(error, part)
    elif isinstance(error, OSError):
        made = os_failure(error) or StoreUnavailableError(str(error.strerror))
    else:
        return error
    # Only the part needs disk space, so a full disk concerns the part.
    if isinstance(made, StoreFullError) or isinstance(error, OSError):
        return type(made)(f"{part}: {made}")
    return made
