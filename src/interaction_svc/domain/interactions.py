"""The key of an Interaction, the scope and filter of a request, and the outcome of a record."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Scope(NamedTuple):
    """The Interactions that a request may access: those of one account, or of all (None)."""

    account_sid: str | None


class InteractionKey(NamedTuple):
    """The SIDs of an Interaction, of its Session and of its Service.

    The account is not part of the key but of the Scope. Each account is a namespace, so two
    accounts can have different Interactions with the same Session and SID.
    """

    service_sid: str
    session_sid: str
    sid: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on the rows of a Session; a row must meet each that is not None.

    A participant, resource or status matches on either leg. Times are in microseconds since 1970.
    """

    type: int | None = None
    created_from_us: int | None = None
    """Inclusive."""
    created_before_us: int | None = None
    """Exclusive."""
    participant_sid: str | None = None
    resource_sid: str | None = None
    resource_status: int | None = None

    @property
    def looks_at_rows(self) -> bool:
        """Return whether the filter has a condition other than the time of creation."""
        return (self.type, self.participant_sid, self.resource_sid, self.resource_status) != (
            None, None, None, None,
        )  # fmt: skip


class Outcome(IntEnum):
    """The outcome of a record. All numbers but OWNER_MISMATCH are those of RecordOutcome."""

    CREATED = 1
    UPDATED = 2
    UNCHANGED = 3
    STALE = 4
    DELETED = 5
    OWNER_MISMATCH = 6
