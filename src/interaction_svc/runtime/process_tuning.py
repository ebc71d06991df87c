"""How the C library keeps memory that was freed."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MIB = 1024 * 1024
KEPT_BYTES = 8 * _MIB
"""How much freed memory at the end of each heap stays with the process; threads have their own."""
_MAPPED_BYTES = 2 * _MIB
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
