"""The lock of a rewrite, and operations on whole files."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_ENDING = ".rewrite.lock"
"""Suffix of the lock file, which exists during a rewrite."""
FILE_ENDINGS = ("", "-journal", "-wal", "-shm")
"""Suffixes of a store's files."""


@contextmanager
def exclusive_rewrite(path: Path) -> Iterator[None]:
    """Context manager that excludes other rewrites of the file. Waits for a running one."""
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
        os.close(descriptor)  # the previous holder removed it
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
    """Copy a file's mode, and its owner if this user may set it."""
    found = source.stat()
    target.chmod(found.st_mode & 0o777)
    with suppress(PermissionError):
        os.chown(target, found.st_uid, found.st_gid)


def remove_store(path: Path) -> None:
    """Remove a store's files."""
    for ending in FILE_ENDINGS:
        Path(f"{path}{ending}").unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 if it doesn't exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sync(path: Path) -> None:
    """Flush a file, or the entries of a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
