"""The tables that every backend has, for copying a store from one backend to another."""

from dataclasses import dataclass
from typing import NamedTuple

from interaction_svc.store.api_keys import ApiKey
from interaction_svc.store.rows import Row


class Tombstone(NamedTuple):
    """The record of a deleted Interaction. Its time is in microseconds since 1970."""

    session_sid: str
    account_sid: str
    sid: str
    deleted_us: int


class SessionOwner(NamedTuple):
    """A Service and an account that have Interactions in a Session."""

    session_sid: str
    service_sid: str
    account_sid: str


TableRow = Row | Tombstone | SessionOwner | ApiKey
"""A row of any table, with the column names that all backends share."""
TableKey = tuple[str, ...]
"""A row's primary key. Its columns are compared bytewise."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table. The key consists of the first columns of a row."""

    name: str
    record: type[TableRow]
    key_length: int
    large: str | None = None
    """Name of the column with large values, whose bytes count against a batch's `max_bytes`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the order of the row type."""
        return self.record._fields

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns of the key."""
        return self.columns[: self.key_length]

    def key_of(self, record: TableRow) -> TableKey:
        """Return the key of a row."""
        return record[: self.key_length]  # type: ignore[return-value]

    def size_of(self, record: TableRow) -> int:
        """Return the size in bytes of a row's large column; 0 for a table without one."""
        return 0 if self.large is None else len(getattr(record, self.large))


TOMBSTONES = Table("tombstones", Tombstone, 3)
OWNERS = Table("session_owners", SessionOwner, 3)
INTERACTIONS = Table("interactions", Row, 3, large="frame")
KEYS = Table("api_keys", ApiKey, 1)
TABLES = (TOMBSTONES, OWNERS, INTERACTIONS, KEYS)
"""All tables, in the order in which they are loaded.

Tombstones come before Interactions, so that deleted Interactions are not loaded. Owners come before
the rows of their Sessions.
"""
