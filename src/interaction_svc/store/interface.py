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
    """A position in the order of a whole store."""

    session_sid: str
    account_sid: str
    created_us: int
    sid: str


@dataclass(frozen=True, slots=True)
class PageQuery:
    """One page of a Session's rows.

    Without an edge the page begins where the order begins.
    """

    service_sid: str
    session_sid: str
    limit: int
    max_bytes: int
    filter: Filter = Filter()  # noqa: RUF009 immutable
    descending: bool = False
    edge: Cursor | None = None


class StoredPage(NamedTuple):
    """A page in the order of its list; `more`: there are rows beyond it in its direction.

    It holds at most `limit` rows, and less where their frames would exceed `max_bytes`, but at
    least one if there is one.
    """

    frames: bytes
    """The rows' frames, joined: those bytes are a ListInteractionsResponse."""
    rows: int
    """The number of rows."""
    first: Position | None
    last: Position | None
    more: bool


class MigrationProgress(Protocol):
    """A function that is told the progress of a migration."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Report a step: its name, the work done, and the work in all."""


@dataclass(frozen=True, slots=True)
class StoreReport:
    """The result of a check of a store."""

    schema_version: int
    known_version: int
    rows: int = 0
    bad_rows: int = 0
    """Rows whose columns differ from their frame."""
    some_bad: tuple[tuple[str, str, str], ...] = ()
    """The first bad rows, each by session_sid, account_sid and sid."""
    migration_bytes: int = 0
    """The disk that a migration needs while it runs, approximately; 0: next to none."""

    @property
    def is_current(self) -> bool:
        """Return whether no migration is needed. The schema may be newer, if it is compatible."""
        return self.schema_version >= self.known_version

    @property
    def ok(self) -> bool:
        """Return whether the schema is current and no row is bad."""
        return self.is_current and not self.bad_rows


class Reads(Protocol):
    """The reads of requests: see Store."""

    async def get(self, scope: Scope, key: InteractionKey) -> bytes | None:
        """Return the frame of an Interaction."""

    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """Return one page of a Session's Interactions."""


class Store(ABC):
    """A store of Interactions and API keys. `store.factory.open_store` opens one.

    All methods raise StoreUnavailableError and StoreClosedError. Methods that write also raise
    StoreFullError. Any number of tasks may call them at the same time. A cancelled call is done
    completely or not at all, and leaves the store usable.
    """

    @abstractmethod
    async def get(self, scope: Scope, key: InteractionKey) -> bytes | None:
        """Return an Interaction's frame; None if it isn't there, in this scope, under its parents.

        Raises DamagedRowError if its checksum doesn't fit; AmbiguousAccountError if the scope is
        every account's and several accounts have it.
        """

    @abstractmethod
    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """Return one page of a Session's Interactions, ordered by (created, sid, account).

        In a scope of one account no row of another account is read. The positions of a page have
        an account only in the scope of all accounts.
        """

    def at_least(self, _: Revision) -> Reads:
        """Return reads that see all writes answered before this revision.

        A store without a replica returns itself: all its reads see all writes. Otherwise `get` and
        `page` of the store itself may read an earlier state.
        """
        return self

    async def current_revision(self) -> Revision | None:
        """Return a revision after all answered writes; None: every read sees all of them."""
        return None

    @abstractmethod
    async def record(self, rows: Sequence[Row]) -> list[Recorded]:
        """Record rows, all in one transaction; return what became of each, in their order.

        A row whose Interaction is stored in its account is merged into it by `merge_row`. When it
        returns, it is on disk. Raises StoreBusyError.
        """

    @abstractmethod
    async def delete(self, scope: Scope, key: InteractionKey, now_us: int) -> bool:
        """Delete an Interaction for good; return whether it was there.

        When it returns, it is on disk. A tombstone keeps later records of its account from bringing
        it back. Raises StoreBusyError; AmbiguousAccountError as `get`.
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
        """Return the next rows of the whole store, by (session_sid, account_sid, created, sid).

        Returns their frames, and where to go on; None at the end. Raises DamagedRowError, which
        names the row.
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
        """Delete the matching rows of the next batch of the store for good, and leave tombstones.

        Batches are short, so that other work does not wait. The caller continues at the cursor of
        the last batch. Rows recorded meanwhile in a finished part stay. With `dry_run` rows are
        counted and not deleted. Raises StoreBusyError.
        """

    @abstractmethod
    async def add_key(self, key: ApiKey) -> None:
        """Store a new key; when it returns, it is on disk. Raises StoreBusyError."""

    @abstractmethod
    async def revoke_key(self, sid: str, now_us: int) -> ApiKey | None:
        """Revoke a key, and give it as it now is; None if there is none of this SID.

        One that has been revoked keeps the time of that. Raises StoreBusyError.
        """

    @abstractmethod
    async def keys_of(self, user: str) -> list[ApiKey]:
        """Return the keys of a key SID or account SID, oldest first, revoked ones included."""

    @abstractmethod
    async def keys(self) -> list[ApiKey]:
        """Return all keys, oldest first, revoked ones included."""

    @abstractmethod
    async def has_keys(self) -> bool:
        """Return whether there has ever been a key; a revoked one counts."""

    @abstractmethod
    async def erase_traces(self) -> bool:
        """Make sure that what was deleted is in no file of the store any more.

        Where others use the store at the same time that may have to wait for them: False says so,
        and the call may be made again. A store that stays open does it by itself.
        """

    @abstractmethod
    async def probe(self) -> None:
        """Raise StoreUnavailableError if the store can't be read or written at the moment.

        A full disk is no reason for that: reads go on, and records are refused by themselves.
        Raises StoreDamagedError from when damage was met until it is mended.
        """

    @abstractmethod
    async def check(self) -> StoreReport:
        """Compare each row's columns and checksum with its frame."""

    @abstractmethod
    async def count(self, table: Table) -> int:
        """Count a table's records, which takes longer the more there are."""

    @abstractmethod
    async def read(
        self, table: Table, *, after: TableKey | None, limit: int, max_bytes: int
    ) -> list[TableRow]:
        """Return a table's next records after a key, in the order of keys; none at the end.

        At most `limit`, and less where their large columns would exceed `max_bytes`, but at least
        one if there is one. Raises DamagedRowError, which names the row.
        """

    @abstractmethod
    async def load(self, table: Table, records: Sequence[TableRow]) -> None:
        """Store records of another store exactly as they are, all in one transaction.

        The keys differ. What is there under such a key is replaced, so that it may be done again.
        A tombstone takes its Interaction with it, and an Interaction that has one is left out. When
        it returns, it is on disk. Raises StoreBusyError.
        """

    @abstractmethod
    async def close(self) -> None:
        """Write what is waiting, and close. Doing it again does nothing."""
