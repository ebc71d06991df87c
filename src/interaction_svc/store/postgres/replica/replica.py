"""A read replica: a standby that follows the primary, some time behind it.

It is used as long as it can be reached and is a standby of the right system; whether it is, is
looked at when the store is opened and probed, and when a read of it has failed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary

import structlog

from interaction_svc.domain.interactions import Scope
from interaction_svc.store.errors import NotAStoreError, StoreClosedError, StoreError
from interaction_svc.store.interface import PageQuery, StoredPage
from interaction_svc.store.options import PostgresLimits
from interaction_svc.store.postgres import reads
from interaction_svc.store.postgres.batching import GetBatcher
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.dsn import Dsn
from interaction_svc.store.postgres.errors import NotAReplicaError
from interaction_svc.store.postgres.pool import Pool
from interaction_svc.store.postgres.replica import wal_position
from interaction_svc.store.revision import UNKNOWN_REVISION, Revision
from interaction_svc.telemetry import metrics

ANSWER_SECONDS = 2.0
"""The time limit of a read on the replica; after it the primary is read."""
_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.05

T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]

log = structlog.get_logger()


class ReplicaBehind(Exception):
    """The replica has not reached the moment in the time that a read waits for it."""


class OtherTimeline(Exception):
    """The moment is of another system or timeline than the replica's."""


class Replica:
    """The connections to a replica, and what is known of it."""

    def __init__(self, dsn: Dsn, limits: PostgresLimits, wait_seconds: float) -> None:
        """Make it; a read that has to see a moment waits for it this long."""
        self._dsn = dsn
        self._wait_seconds = wait_seconds
        self._system = UNKNOWN_REVISION.system
        self._pool = Pool(self._connected, size=limits.connections, wait_seconds=ANSWER_SECONDS)
        self._probes = Pool(self._connected, size=1, wait_seconds=ANSWER_SECONDS)
        self._gets = GetBatcher(self._pool)
        # A connection stays at one server, and that one never goes back. Several connections may
        # be to several replicas, each at another moment.
        self._reached: WeakKeyDictionary[Connection, Revision] = WeakKeyDictionary()
        self._checking: asyncio.Task[None] | None = None
        self._cause: str | None = "it has not been looked at"

    @property
    def is_used(self) -> bool:
        """Return whether reads go there."""
        return self._cause is None

    async def start(self, primary: Revision) -> None:
        """Look at it for the first time. Raises NotAStoreError if it is of another system.

        One that can't be reached will be used when it can.
        """
        self._system = primary.system
        try:
            await self._look(primary)
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, NotAReplicaError) and cause.is_of_another_system:
                raise NotAStoreError(f"{self._dsn.name}: {cause}") from error
            self._note(str(error))
        else:
            self._note(None)

    async def get(self, wanted: reads.Wanted) -> bytes | None:
        """Return a frame as it stands here. Raises StoreError, TimeoutError."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._gets.get(wanted)

    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """Return a page as it stands here. Raises StoreError, TimeoutError."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._pool.run(partial(reads.page, scope=scope, query=query))

    async def at_least(self, revision: Revision, read: Work[T]) -> T:
        """Read what has reached this moment, for which it waits as long as it may.

        No connection is held meanwhile. Raises ReplicaBehind, OtherTimeline, StoreError,
        TimeoutError.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._wait_seconds
        pause = _FIRST_PAUSE_SECONDS
        work = partial(self._read_since, revision=revision, read=read)
        async with asyncio.timeout(self._wait_seconds + ANSWER_SECONDS):
            while True:
                try:
                    return await self._pool.run(work)
                except ReplicaBehind:
                    left = end - loop.time()
                    if left <= 0:
                        raise
                await asyncio.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _read_since(self, db: Connection, revision: Revision, read: Work[T]) -> T:
        reached = self._reached.get(db)
        if reached is None or not _covers(reached, revision):
            standing = await wal_position.of_standby(db)
            reached = self._reached[db] = standing.revision
            if not (standing.is_standby and reached[:2] == revision[:2]):
                raise OtherTimeline
            if not _covers(reached, revision):
                raise ReplicaBehind
        return await read(db)

    def check_soon(self, now: Callable[[], Awaitable[Revision]] | None = None) -> None:
        """Look whether it can be used, and how far it is behind the primary's moment."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check(now))

    async def checked(self) -> None:
        """Wait for the look that is being taken, if one is."""
        if self._checking is not None:
            await asyncio.wait([self._checking])

    async def _check(self, now: Callable[[], Awaitable[Revision]] | None) -> None:
        try:
            await self._look(UNKNOWN_REVISION if now is None else await now())
        except StoreClosedError:
            return
        except StoreError as error:
            self._note(str(error))
        except Exception:  # or it would be used, or not, for ever
            log.exception("the replica can't be looked at", replica=self._dsn.name)
            self._note("it can't be looked at")
        else:
            self._note(None)

    async def _look(self, primary: Revision) -> None:
        """Raise StoreError if it can't be used."""
        standing = await self._probes.run(self._standing)
        if primary != UNKNOWN_REVISION:
            lag = max(0, primary.position - standing.revision.position)
            metrics.replica_lag_bytes.set(lag)

    async def _standing(self, db: Connection) -> wal_position.ReplicaState:
        standing = await wal_position.of_standby(db)
        if standing.revision.system != self._system:
            raise NotAReplicaError(
                "is no replica of the store, but of another system", is_of_another_system=True
            )
        if not standing.is_standby:
            self._pool.expire()
            db.terminate()  # the next one may be to another server of the URL
            raise NotAReplicaError("is no standby, or no longer")
        return standing

    async def _connected(self) -> Connection:
        """Connect to a server that may be read from: of no other is anything ever read."""
        db = await Connection.open(self._dsn, ANSWER_SECONDS)
        try:
            await self._standing(db)
        except BaseException:
            db.terminate()
            raise
        return db

    def _note(self, cause: str | None) -> None:
        if cause is None and not self.is_used:
            log.info("reads go to the replica", replica=self._dsn.name)
        elif cause is not None and cause != self._cause:
            log.warning(
                "reads go to the primary: the replica can't be used",
                replica=self._dsn.name,
                cause=cause,
            )
        self._cause = cause
        metrics.replica_up.set(self.is_used)

    async def close(self) -> None:
        """Wait for what runs, and close."""
        await self._gets.close()
        await self._pool.close()
        await self._probes.close()
        with suppress(asyncio.CancelledError):
            await self.checked()


def _covers(reached: Revision, revision: Revision) -> bool:
    return reached[:2] == revision[:2] and reached.position >= revision.position
