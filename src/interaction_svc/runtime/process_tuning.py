"""Process-wide settings of the interpreter and the C library, for a process that only serves.

The serve command and worker processes call `apply` once a server has started. Nothing else in the
service changes process-wide settings.
"""

import ctypes
import gc
import resource
import sys

from interaction_svc.admission.fairness import SWITCH_INTERVAL_SECONDS
from interaction_svc.domain.units import MIB

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 8 * MIB
"""The freed memory that the process keeps at the end of each heap. Each thread has a heap."""
_MAPPED_BYTES = 2 * MIB
"""Allocations of at least this size are returned to the system as soon as they are freed."""


def keep_freed_heap() -> bool:
    """Keep freed memory for the next large response. Return False if the C library can't.

    By default glibc returns the memory of each page of Interactions to the system, and requests it
    again for the next page, 4 KiB at a time. That is half of the cost of a page of 1,000 over REST.
    Allocations larger than any page are still returned, so that the largest requests leave less
    memory in use than by default.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    )


def allow_open_files() -> None:
    """Raise the soft limit of open files to the hard limit.

    Each connection is an open file, and the soft limit is often 1,024.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def apply() -> None:
    """Tune the interpreter and the C library of this process, after a server has started."""
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    # Later collections skip the objects of the started server, which saves 5 % of a Get.
    gc.collect()
    gc.freeze()
    keep_freed_heap()
