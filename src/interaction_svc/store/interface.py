"""The interface of a store. One suite, tests/store/contract, runs on every backend."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from interaction_svc.domain.interactions import Filter, InteractionKey, Scope
from interaction_svc.domain.paging import Cursor, Position
from interaction_svc.store.api_keys import ApiKey
from interaction_svc.store.bulk_delete import (
    BulkDeleteCursor,
    DeletedBatch,
    Expired,
    InvolvesParticipant,
)
from interaction_svc.store.recorded import Recorded
from interaction_svc.store.revision import Revision
from interaction_svc.store.rows import Row
from interaction_svc.store.tables import Table, TableKey, TableRow


class ScanPosition(NamedTuple):
    """A position in a scan, whose order is (session_sid, account_sid, created_us, sid)."""

    session_sid: str
    account_sid: str
    created_us: int
    sid: str


@dataclass(frozen=True, slots=True)
class PageQuery:
    """The query for one page of a Session's rows.

    Without an `edge` the page begins at the start of the list.
    """

    service_sid: str
    session_sid: str
    limit: int
    max_bytes: int
    filter: Filter = Filter()  # noqa: RUF009 immutable
    descending: bool = False
    edge: Cursor | None = None


class StoredPage(NamedTuple):
    """A page, in the order of its list.

    It has at most `limit` rows. If their frames would exceed `max_bytes` it has fewer, but at least
    one if any row matches. `more` says whether rows follow in the page's direction.
    """

    frames: bytes
    """The concatenated frames of the rows, which are a valid ListInteractionsResponse."""
    rows: int
    """The number of rows."""
    first: Position | None
    last: Position | None
    more: bool


class MigrationProgress(Protocol):
    """A callback for the progress of a migration."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Report the name of the current step, its finished work and its total work."""


@dataclass(frozen=True, slots=True)
class StoreReport:
    """The result of a check of a store."""

    schema_version: int
    known_version: int
    rows: int = 0
    bad_rows: int = 0
    """Rows whose columns differ from their frame."""
    some_bad: tuple[tuple[str, str, str], ...] = ()
    """The first bad rows, each as session_sid, account_sid and sid."""
    migration_bytes: int = 0
    """The approximate disk space for a migration, in bytes; 0 if it needs almost none."""

    @property
    def is_current(self) -> bool:
        """Return whether no migration is needed. The schema may be newer, if it is compatible."""
        return self.schema_version >= self.known_version

    @property
    def ok(self) -> bool:
        """Return whether the schema is current and no row is bad."""
        return self.is_current and not self.bad_rows


class Reads(Protocol):
    """The read methods for requests; see Store."""

    async def get(self, scope: Scope, key: InteractionKey) -> bytes | None:
        """Return the frame of an Interaction."""

    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """Return one page of a Session's Interactions."""


class Store(ABC):
    """A store of Interactions and API keys. `store.factory.open_store` opens one.

    All methods raise StoreUnavailableError and StoreClosedError. Methods that write also raise
    StoreFullError. Any number of tasks may call them at the same time. A cancelled call takes
    effect completely or not at all, and the store stays usable.
    """

    @abstractmethod
    async def get(self, scope: Scope, key: InteractionKey) -> bytes | None:
        """Return an Interaction's frame; None if the scope has no Interaction with this key.

        Raises DamagedRowError if the checksum is wrong; AmbiguousAccountError if the scope is all
        accounts and several accounts have the key.
        """

    @abstractmethod
    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """Return one page of a Session's Interactions, ordered by (created_us, sid, account_sid).

        With a scope of one account no row of another account is read. The positions of a page
        contain the account only if the scope is all accounts.
        """

    def at_least(self, _: Revision) -> Reads:
        """Return reads that see all writes up to this revision.

        A store without a replica returns itself, because its reads see all writes. With a replica,
        `get` and `page` of the store itself may return an earlier state.
        """
        return self

    async def current_revision(self) -> Revision | None:
        """Return a revision that includes all acknowledged writes; None if every read sees them."""
        return None

    @abstractmethod
    async def record(self, rows: Sequence[Row]) -> list[Recorded]:
        """Record rows in one transaction, and return the outcome of each row, in order.

        If the account already has the Interaction, `merge_row` merges the row into the stored one.
        The rows are on disk when the method returns. Raises StoreBusyError.
        """

    @abstractmethod
    async def delete(self, scope: Scope, key: InteractionKey, now_us: int) -> bool:
        """Delete an Interaction permanently; return whether it existed.

        The deletion is on disk when the method returns. A tombstone prevents later records of the
        account from restoring it. Raises StoreBusyError; AmbiguousAccountError like `get`.
        """

    @abstractmethod
    async def scan(
        self,
        *,
        after: ScanPosition | None,
        limit: int,
        max_bytes: int,
        service_sid: str | None = None,
        session_sid: str | None = None,
        account_sid: str | None = None,
    ) -> tuple[list[bytes], ScanPosition | None]:
        """Return the next rows of the store, by (session_sid, account_sid, created_us, sid).

        Returns their frames, and the position after which to continue (None at the end). `limit`
        and `max_bytes` work as in `page`. Raises DamagedRowError, which names the row.
        """

    @abstractmethod
    async def bulk_delete(
        self,
        what: Expired | InvolvesParticipant,
        *,
        after: BulkDeleteCursor | None,
        now_us: int,
        dry_run: bool = False,
    ) -> DeletedBatch:
        """Delete the matching rows of the next batch permanently, and leave tombstones.

        Batches are short, so that other work does not wait. The caller passes the cursor of the
        last batch as `after`. A row that is recorded before that cursor during the deletion is not
        deleted. With `dry_run` rows are counted and not deleted. Raises StoreBusyError.
        """

    @abstractmethod
    async def add_key(self, key: ApiKey) -> None:
        """Store a new key. It is on disk when the method returns. Raises StoreBusyError."""

    @abstractmethod
    async def revoke_key(self, sid: str, now_us: int) -> ApiKey | None:
        """Revoke a key, and return its new state; None if no key has this SID.

        A key that is already revoked keeps its time of revocation. Raises StoreBusyError.
        """

    @abstractmethod
    async def keys_of(self, user: str) -> list[ApiKey]:
        """Return the keys with this key or account SID, oldest first, including revoked ones."""

    @abstractmethod
    async def keys(self) -> list[ApiKey]:
        """Return all keys, oldest first, including revoked ones."""

    @abstractmethod
    async def has_keys(self) -> bool:
        """Return whether there is any key, even a revoked one. Keys are never deleted."""

    @abstractmethod
    async def erase_traces(self) -> bool:
        """Erase deleted content from the store's files; return whether that succeeded.

        Returns False if another process is reading the file; the call can be repeated then. An open
        store also erases deleted content by itself.
        """

    @abstractmethod
    async def probe(self) -> None:
        """Raise StoreUnavailableError if the store can't be read or written at the moment.

        A full disk raises no error here, because reads still work and each record is refused with
        an error of its own. Once a call has found damage, raises StoreDamagedError until the store
        is repaired.
        """

    @abstractmethod
    async def check(self) -> StoreReport:
        """Compare each row's columns and checksum with its frame."""

    @abstractmethod
    async def count(self, table: Table) -> int:
        """Return the number of a table's records. The time is proportional to that number."""

    @abstractmethod
    async def read(
        self, table: Table, *, after: TableKey | None, limit: int, max_bytes: int
    ) -> list[TableRow]:
        """Return a table's next records after a key, in key order; an empty list at the end.

        Returns at most `limit` records. If their large columns would exceed `max_bytes` it returns
        fewer, but at least one if any is left. Raises DamagedRowError, which names the row.
        """

    @abstractmethod
    async def load(self, table: Table, records: Sequence[TableRow]) -> None:
        """Store records from another store unchanged, in one transaction.

        The records have distinct keys. A stored record with the same key is replaced, so the call
        can be repeated. A tombstone deletes its Interaction, and an Interaction with a tombstone is
        skipped. The records are on disk when the method returns. Raises StoreBusyError.
        """

    @abstractmethod
    async def close(self) -> None:
        """Complete waiting writes, and close. A second call does nothing."""
