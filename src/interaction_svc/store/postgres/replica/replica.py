"""A read replica: a standby that follows the primary with a lag.

The replica is used while it is reachable and is a standby of the primary's system. This condition
is checked when the store is opened, at each probe, and after a failed read.
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
"""The time limit of a read on the replica. After this time the primary serves the read."""
_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.05

T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]

log = structlog.get_logger()


class ReplicaBehind(Exception):
    """The replica has not reached the revision within the maximum wait of a read."""


class OtherTimeline(Exception):
    """The revision belongs to a system or timeline other than the replica's."""


class Replica:
    """The connections to a replica, and its state."""

    def __init__(self, dsn: Dsn, limits: PostgresLimits, wait_seconds: float) -> None:
        """Create the replica. A read waits at most `wait_seconds` for its revision."""
        self._dsn = dsn
        self._wait_seconds = wait_seconds
        self._system = UNKNOWN_REVISION.system
        self._pool = Pool(self._connected, size=limits.connections, wait_seconds=ANSWER_SECONDS)
        self._probes = Pool(self._connected, size=1, wait_seconds=ANSWER_SECONDS)
        self._gets = GetBatcher(self._pool)
        # The last known revision of each connection's server. It never decreases. Connections may
        # lead to different replicas at different revisions.
        self._reached: WeakKeyDictionary[Connection, Revision] = WeakKeyDictionary()
        self._checking: asyncio.Task[None] | None = None
        self._cause: str | None = "it has not been checked"

    @property
    def is_used(self) -> bool:
        """Return whether reads go to the replica."""
        return self._cause is None

    async def start(self, primary: Revision) -> None:
        """Check the replica for the first time.

        An unreachable replica is no error: it is used as soon as it is reachable. Raises
        NotAStoreError if it belongs to another system than the primary.
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
        """Return a frame from the replica. Raises StoreError, TimeoutError."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._gets.get(wanted)

    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """Return a page from the replica. Raises StoreError, TimeoutError."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._pool.run(partial(reads.page, scope=scope, query=query))

    async def at_least(self, revision: Revision, read: Work[T]) -> T:
        """Run a read on a server that has reached this revision.

        Waits for the revision up to `wait_seconds`, without holding a connection. Raises
        ReplicaBehind after that time; OtherTimeline, StoreError, TimeoutError.
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
        """Start a check in the background, unless one is running.

        It checks whether the replica is usable. With `now`, which returns the primary's revision,
        it also measures the lag.
        """
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check(now))

    async def checked(self) -> None:
        """Wait for the check that is running, if any."""
        if self._checking is not None:
            await asyncio.wait([self._checking])

    async def _check(self, now: Callable[[], Awaitable[Revision]] | None) -> None:
        try:
            await self._look(UNKNOWN_REVISION if now is None else await now())
        except StoreClosedError:
            return
        except StoreError as error:
            self._note(str(error))
        except Exception:  # otherwise the state would never change again
            log.exception("the replica can't be checked", replica=self._dsn.name)
            self._note("it can't be checked")
        else:
            self._note(None)

    async def _look(self, primary: Revision) -> None:
        """Measure the lag. Raises StoreError if the replica is unusable."""
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
            db.terminate()  # the next connection may lead to another server of the URL
            raise NotAReplicaError("is no standby, or no longer")
        return standing

    async def _connected(self) -> Connection:
        """Connect to a server of the URL, and check that it is a standby of the right system."""
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
        """Wait for running reads, and close the connections."""
        await self._gets.close()
        await self._pool.close()
        await self._probes.close()
        with suppress(asyncio.CancelledError):
            await self.checked()


def _covers(reached: Revision, revision: Revision) -> bool:
    return reached[:2] == revision[:2] and reached.position >= revision.position
