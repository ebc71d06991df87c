"""Sweeps: deleting all Interactions that something holds of, a stretch of the store at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Expired:
    """Interactions that were created before a time, which their Service decides.

    Times are in microseconds since 1970, and None is "keep them for ever". What was created
    exactly at the time stays.
    """

    default_before_us: int | None
    before_us_by_service: Mapping[str, int | None] = field(default_factory=dict)

    def before_us(self, service_sid: str) -> int | None:
        """Give the time for a Service's Interactions."""
        return self.before_us_by_service.get(service_sid, self.default_before_us)


@dataclass(frozen=True, slots=True)
class InvolvesParticipant:
    """Interactions in which a participant took part, on either leg."""

    participant_sid: str
    account_sid: str | None = None
    """Of this account only; None: of every account."""


BulkDeleteCursor = tuple[Any, ...]
"""How far a sweep has come. Only the store that gave it can read it."""


class DeletedBatch(NamedTuple):
    """What one stretch of a sweep did."""

    by_service: dict[str, int]
    """How many rows of each Service it deleted."""
    next: BulkDeleteCursor | None
    """Where to go on; None: it was the last one."""
