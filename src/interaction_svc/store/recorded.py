"""The outcome of recording an Interaction."""

from enum import IntEnum
from typing import NamedTuple


class Outcome(IntEnum):
    """The outcome of a record. All values except OWNER_MISMATCH are those of RecordOutcome."""

    CREATED = 1
    UPDATED = 2
    UNCHANGED = 3
    STALE = 4
    DELETED = 5
    OWNER_MISMATCH = 6


class Recorded(NamedTuple):
    """The outcome of a record, and the stored frame; None if DELETED or OWNER_MISMATCH."""

    outcome: Outcome
    frame: bytes | None
