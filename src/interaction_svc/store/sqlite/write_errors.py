"""The cause of a failed write to a store's files.

SQLite reports every failed write as SQLITE_IOERR_WRITE, and Python has no access to its errno. So
this module determines the cause afterwards.
"""

import errno
import os
import resource
import tempfile
from pathlib import Path

from interaction_svc.domain.units import KIB
from interaction_svc.store.errors import StoreError, StoreFullError, StoreUnavailableError

_TEST_WRITE_BYTES = 64 * KIB
"""Size of the test write: more than SQLite writes at once (a page or 32 KiB of shared memory)."""


def write_failure(path: Path) -> StoreError | None:
    """Return the error that explains why SQLite can't write to its files; None if unknown."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    real = os.path.realpath(path)
    for file in (real, f"{real}-wal", f"{real}-shm"):
        if limit != resource.RLIM_INFINITY and _size(file) + _TEST_WRITE_BYTES > limit:
            return _too_large(limit)
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(real), buffering=0) as trial:
            trial.write(bytes(_TEST_WRITE_BYTES))
            os.fsync(trial.fileno())
    except OSError as error:
        return os_failure(error)
    return None


def os_failure(error: OSError) -> StoreError | None:
    """Return the store's error for a failed write; None for an errno without one."""
    match error.errno:
        case errno.ENOSPC:
            return StoreFullError("its disk is full")
        case errno.EDQUOT:
            return StoreFullError("the disk quota of this user is used up")
        case errno.EFBIG:
            return _too_large(resource.getrlimit(resource.RLIMIT_FSIZE)[0])
        case errno.EROFS:
            return StoreUnavailableError("its file system is mounted read-only")
    return None


def _too_large(limit: int) -> StoreError:
    return StoreFullError(
        f"a file of it has reached {limit:,} bytes, the largest that this process may write:"
        " raise the limit, ulimit -f"
    )


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except OSError:
        return 0
