"""A store wrapper that measures the latency of calls."""

import time
from collections.abc import Sequence
from functools import cache

from prometheus_client import Histogram

from interaction_svc.domain.interactions import InteractionKey, Scope
from interaction_svc.store.api_keys import ApiKey
from interaction_svc.store.bulk_delete import (
    BulkDeleteCursor,
    DeletedBatch,
    Expired,
    InvolvesParticipant,
)
from interaction_svc.store.interface import (
    PageQuery,
    Reads,
    ScanPosition,
    Store,
    StoredPage,
    StoreReport,
)
from interaction_svc.store.recorded import Recorded
from interaction_svc.store.revision import Revision
from interaction_svc.store.rows import Row
from interaction_svc.store.tables import Table, TableKey, TableRow
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.metric_buffer import observe


class InstrumentedStore(Store):
    """Wraps a store, and observes the latency of each call by operation.

    Failed and cancelled calls are observed too. `close` is not measured.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, scope: Scope, key: InteractionKey) -> bytes | None:
        """See Store."""
        with _timed("get"):
            return await self._store.get(scope, key)

    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """See Store."""
        with _timed("page"):
            return await self._store.page(scope, query)

    def at_least(self, revision: Revision) -> Reads:
        """See Store."""
        reads = self._store.at_least(revision)
        return self if reads is self._store else _InstrumentedReads(reads)

    async def current_revision(self) -> Revision | None:
        """See Store."""
        with _timed("current_revision"):
            return await self._store.current_revision()

    async def record(self, rows: Sequence[Row]) -> list[Recorded]:
        """See Store."""
        with _timed("record"):
            return await self._store.record(rows)

    async def delete(self, scope: Scope, key: InteractionKey, now_us: int) -> bool:
        """See Store."""
        with _timed("delete"):
            return await self._store.delete(scope, key, now_us)

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
        """See Store."""
        with _timed("scan"):
            return await self._store.scan(
                after=after,
                limit=limit,
                max_bytes=max_bytes,
                service_sid=service_sid,
                session_sid=session_sid,
                account_sid=account_sid,
            )

    async def bulk_delete(
        self,
        what: Expired | InvolvesParticipant,
        *,
        after: BulkDeleteCursor | None,
        now_us: int,
        dry_run: bool = False,
    ) -> DeletedBatch:
        """See Store."""
        with _timed("bulk_delete"):
            return await self._store.bulk_delete(what, after=after, now_us=now_us, dry_run=dry_run)

    async def add_key(self, key: ApiKey) -> None:
        """See Store."""
        with _timed("add_key"):
            await self._store.add_key(key)

    async def revoke_key(self, sid: str, now_us: int) -> ApiKey | None:
        """See Store."""
        with _timed("revoke_key"):
            return await self._store.revoke_key(sid, now_us)

    async def keys_of(self, user: str) -> list[ApiKey]:
        """See Store."""
        with _timed("keys_of"):
            return await self._store.keys_of(user)

    async def keys(self) -> list[ApiKey]:
        """See Store."""
        with _timed("keys"):
            return await self._store.keys()

    async def has_keys(self) -> bool:
        """See Store."""
        with _timed("has_keys"):
            return await self._store.has_keys()

    async def erase_traces(self) -> bool:
        """See Store."""
        with _timed("erase_traces"):
            return await self._store.erase_traces()

    async def probe(self) -> None:
        """See Store."""
        with _timed("probe"):
            await self._store.probe()

    async def check(self) -> StoreReport:
        """See Store."""
        with _timed("check"):
            return await self._store.check()

    async def count(self, table: Table) -> int:
        """See Store."""
        with _timed("count"):
            return await self._store.count(table)

    async def read(
        self, table: Table, *, after: TableKey | None, limit: int, max_bytes: int
    ) -> list[TableRow]:
        """See Store."""
        with _timed("read"):
            return await self._store.read(table, after=after, limit=limit, max_bytes=max_bytes)

    async def load(self, table: Table, records: Sequence[TableRow]) -> None:
        """See Store."""
        with _timed("load"):
            await self._store.load(table, records)

    async def close(self) -> None:
        """See Store."""
        await self._store.close()


class _InstrumentedReads:
    """Reads at a revision. Their latency is measured like that of other reads."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    async def get(self, scope: Scope, key: InteractionKey) -> bytes | None:
        """See Reads."""
        with _timed("get"):
            return await self._reads.get(scope, key)

    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """See Reads."""
        with _timed("page"):
            return await self._reads.page(scope, query)


class _timed:  # noqa: N801 called like a function
    """Context manager that observes the duration of its block.

    It is a class, because a context manager made from a generator costs 1 µs more per call.
    """

    __slots__ = ("_begun", "_operation")

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        observe(_latency(self._operation), time.perf_counter() - self._begun)


@cache
def _latency(operation: str) -> Histogram:
    return metrics.store_seconds.labels(operation)
