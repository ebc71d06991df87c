"""Bulk deletion: deletes all Interactions that meet a condition, in batches."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

MAX_DELETED = 200
"""The maximum number of rows that one batch deletes. It keeps the transaction short."""
MAX_EXAMINED = 2_000
"""The maximum number of rows and Sessions that one batch reads."""

StoredSid = TypeVar("StoredSid")


@dataclass(frozen=True, slots=True)
class Expired:
    """Selects Interactions that were created before a time. Each Service may have its own time.

    Times are in microseconds since 1970. None keeps all Interactions. An Interaction that was
    created exactly at the time is kept.
    """

    default_before_us: int | None
    before_us_by_service: Mapping[str, int | None] = field(default_factory=dict)

    def before_us(self, service_sid: str) -> int | None:
        """Return the time before which a Service's Interactions are expired."""
        return self.before_us_by_service.get(service_sid, self.default_before_us)


@dataclass(frozen=True, slots=True)
class InvolvesParticipant:
    """Selects Interactions with this participant on either leg."""

    participant_sid: str
    account_sid: str | None = None
    """Only Interactions of this account; None: of every account."""


BulkDeleteCursor = tuple[Any, ...]
"""The end of a batch, in a form that only its backend can read."""


class DeletedBatch(NamedTuple):
    """The result of one batch."""

    by_service: dict[str, int]
    """Number of deleted rows of each Service."""
    next: BulkDeleteCursor | None
    """The start of the next batch; None after the last one."""


class FoundRow(NamedTuple, Generic[StoredSid]):
    """A row to delete, with SIDs in the backend's stored form."""

    session_sid: StoredSid
    account_sid: StoredSid
    sid: StoredSid
    service_sid: StoredSid


def count_by_service(
    service_sids: Iterable[StoredSid], to_sid: Callable[[StoredSid], str]
) -> dict[str, int]:
    """Count the rows of each Service. `to_sid` converts the stored form of its SID."""
    return {to_sid(stored): count for stored, count in Counter(service_sids).items()}
