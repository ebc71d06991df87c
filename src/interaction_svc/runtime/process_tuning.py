"""Tuning of the whole process, for a process that only serves.

`apply` is called by the serve command and by worker processes, once a server has started. Nothing
else in the service changes the process.
"""

import ctypes
import gc
import resource
import sys

from interaction_svc.admission.fairness import SWITCH_INTERVAL_SECONDS
from interaction_svc.domain.units import MIB

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 8 * MIB
"""The freed memory at the end of each heap that stays with the process. Each thread has a heap."""
_MAPPED_BYTES = 2 * MIB
"""From which size on memory is the system's own again as soon as it is freed."""


def keep_freed_heap() -> bool:
    """Keep what a large answer took for the next one; say whether this C library can.

    By default glibc gives the memory of each page of Interactions back to the system when it has
    been sent, and takes it back for the next one, 4 KiB at a time: half of what a page of 1,000
    costs over REST. What is larger than any page is given back all the same, so that requests of
    the largest size leave less behind than by default.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    )


def allow_open_files() -> None:
    """Raise the soft limit of open files, often 1,024, to the hard one: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def apply() -> None:
    """Tune the interpreter and the C library of this process, after a server has started."""
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    # The objects of a started server stay. Garbage collection of them costs a Get a twentieth.
    gc.collect()
    gc.freeze()
    keep_freed_heap()
