"""What becomes of a record."""

from enum import IntEnum
from typing import NamedTuple


class Outcome(IntEnum):
    """What became of a record; but for the last the numbers are those of RecordOutcome."""

    CREATED = 1
    UPDATED = 2
    UNCHANGED = 3
    STALE = 4
    DELETED = 5
    OWNER_MISMATCH = 6


class Recorded(NamedTuple):
    """What became of a record, and the frame that is now stored (None: there is none to show)."""

    outcome: Outcome
    frame: bytes | None
