"""The files of a rewrite: its lock, and what is done with files as a whole."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_ENDING = ".rewrite.lock"
"""What the name of the lock file ends with; it is there while a rewrite is under way."""
FILE_ENDINGS = ("", "-journal", "-wal", "-shm")
"""What the names of a store's files end with."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other rewrites of the file out, and wait for one that is under way."""
    lock = Path(f"{path}{LOCK_ENDING}")
    while True:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_same_file(descriptor, lock):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the one before removed it
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def copy_owner_and_mode(source: Path, target: Path) -> None:
    """Set the owner and the mode of a file to those of another, as far as this user may."""
    found = source.stat()
    target.chmod(found.st_mode & 0o777)
    with suppress(PermissionError):
        os.chown(target, found.st_uid, found.st_gid)


def remove_store(path: Path) -> None:
    """Remove a file and what SQLite keeps beside it."""
    for ending in FILE_ENDINGS:
        Path(f"{path}{ending}").unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 if it isn't there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
