"""The tables that every store consists of, for what moves a store as it is: `copy`."""

from dataclasses import dataclass
from typing import NamedTuple

from interaction_svc.store.api_keys import ApiKey
from interaction_svc.store.rows import Row


class Tombstone(NamedTuple):
    """What is left of an Interaction that was deleted. Its time is in microseconds since 1970."""

    session_sid: str
    account_sid: str
    sid: str
    deleted_us: int


class SessionOwner(NamedTuple):
    """Whose a Session is."""

    session_sid: str
    service_sid: str
    account_sid: str


TableRow = Row | Tombstone | SessionOwner | ApiKey
"""A row of any table, with its columns as they are named in every backend."""
TableKey = tuple[str, ...]
"""The columns of its primary key, compared byte by byte."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table; the first columns of its records are their key."""

    name: str
    record: type[TableRow]
    key_length: int
    large: str | None = None
    """The column that may be large, and by which a stretch is bounded."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the order of a record's."""
        return self.record._fields

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Those of the key."""
        return self.columns[: self.key_length]

    def key_of(self, record: TableRow) -> TableKey:
        """Give the key of one of its records."""
        return record[: self.key_length]  # type: ignore[return-value]

    def size_of(self, record: TableRow) -> int:
        """Give how large a record is, in bytes, but for what is small in each."""
        return 0 if self.large is None else len(getattr(record, self.large))


TOMBSTONES = Table("tombstones", Tombstone, 3)
OWNERS = Table("session_owners", SessionOwner, 3)
INTERACTIONS = Table("interactions", Row, 3, large="frame")
KEYS = Table("api_keys", ApiKey, 1)
TABLES = (TOMBSTONES, OWNERS, INTERACTIONS, KEYS)
"""All, in the order in which they are loaded: what was deleted is known before what wasn't, and a
Session has its owner before it has rows."""
