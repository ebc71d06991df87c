"""A database with a read replica: Gets and pages go to the replica, all other calls to the primary.

API keys are read from the primary as well, so that a revoked key is refused in time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Self, TypeVar

from prometheus_client import Counter

from interaction_svc.domain.interactions import InteractionKey, Scope
from interaction_svc.store.errors import StoreError, StoreUnavailableError, StoreURLError
from interaction_svc.store.interface import PageQuery, Reads, StoredPage
from interaction_svc.store.options import PostgresLimits
from interaction_svc.store.postgres import reads
from interaction_svc.store.postgres.dsn import Dsn
from interaction_svc.store.postgres.replica import wal_position
from interaction_svc.store.postgres.replica.replica import OtherTimeline, Replica, ReplicaBehind
from interaction_svc.store.postgres.store import PostgresStore
from interaction_svc.store.progress import LoggedProgress
from interaction_svc.store.revision import UNKNOWN_REVISION, Revision
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.metric_buffer import add

MOMENT_SECONDS = 1.0
"""The longest wait of a write's response for its revision."""

T = TypeVar("T")


class ReplicatedStore(PostgresStore):
    """A primary and a replica. The primary serves the reads that the replica can't serve."""

    def __init__(self, dsn: Dsn, limits: PostgresLimits, replica: Replica) -> None:
        super().__init__(dsn, limits)
        self._replica = replica
        self._moments = wal_position.SharedMoments(self._pool)

    @classmethod
    async def open_beside(
        cls, dsn: Dsn, limits: PostgresLimits, replica: Replica, *, migrate: bool
    ) -> Self:
        """Open the database; see open_store. An unreachable replica is no error.

        Raises StoreURLError if the tables are distributed.
        """
        store = cls(dsn, limits, replica)
        await store._made_ready(dsn, migrate=migrate, on_migration=LoggedProgress())
        try:
            if store._is_distributed:
                # A revision is a position in one server's log. Distributed rows are in several
                # logs.
                raise StoreURLError(
                    "its tables are distributed over nodes, and a replica can't be checked for the"
                    " latest writes of all nodes; leave replica_store out"
                )
            await replica.start(await store._moments.now())
        except BaseException:
            await asyncio.shield(store.close())
            raise
        return store

    async def get(self, scope: Scope, key: InteractionKey) -> bytes | None:
        """See Store. The frame may be as old as the lag of the replica."""
        return await self._read(
            "any", partial(self._replica.get, (scope, key)), partial(super().get, scope, key)
        )

    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """See Store. The page may be as old as the lag of the replica."""
        return await self._read(
            "any",
            partial(self._replica.page, scope, query),
            partial(super().page, scope, query),
        )

    def at_least(self, revision: Revision) -> Reads:
        """See Store."""
        return _Since(self, revision)

    async def get_since(
        self, revision: Revision, scope: Scope, key: InteractionKey
    ) -> bytes | None:
        """Return a frame as of this revision or a later one."""
        return await self._read(
            "caught_up",
            partial(self._replica.at_least, revision, partial(reads.get, wanted=(scope, key))),
            partial(super().get, scope, key),
        )

    async def page_since(self, revision: Revision, scope: Scope, query: PageQuery) -> StoredPage:
        """Return a page as of this revision or a later one."""
        return await self._read(
            "caught_up",
            partial(
                self._replica.at_least, revision, partial(reads.page, scope=scope, query=query)
            ),
            partial(super().page, scope, query),
        )

    async def _read(
        self,
        reason: str,
        at_replica: Callable[[], Awaitable[T]],
        at_primary: Callable[[], Awaitable[T]],
    ) -> T:
        if not self._replica.is_used:
            why = "away"
        else:
            try:
                answer = await at_replica()
            except ReplicaBehind:
                why = "behind"
            except OtherTimeline:
                why = "unrelated"
            except (StoreUnavailableError, TimeoutError):
                why = "failed"
                self._replica.check_soon()
            else:
                add(_reads("replica", reason), 1)
                return answer
        add(_reads("primary", why), 1)
        return await at_primary()

    async def current_revision(self) -> Revision:
        """See Store. Returns UNKNOWN_REVISION, which no replica reaches, on error or after 1 s."""
        try:
            async with asyncio.timeout(MOMENT_SECONDS):
                return await self._moments.now()
        except (StoreError, TimeoutError):
            return UNKNOWN_REVISION

    async def probe(self) -> None:
        """See Store. An unreachable replica is logged and counted, but fails no probe."""
        self._replica.check_soon(self.current_revision)
        await super().probe()

    async def _close(self) -> None:
        await super()._close()
        await self._replica.close()


class _Since:
    """Reads as of this revision or a later one."""

    def __init__(self, store: ReplicatedStore, revision: Revision) -> None:
        self._store = store
        self._moment = revision

    async def get(self, scope: Scope, key: InteractionKey) -> bytes | None:
        """See Reads."""
        return await self._store.get_since(self._moment, scope, key)

    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """See Reads."""
        return await self._store.page_since(self._moment, scope, query)


@cache
def _reads(server: str, reason: str) -> Counter:
    return metrics.replica_reads.labels(server, reason)
