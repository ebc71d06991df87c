"""The position of a server in the write-ahead log: a primary, or a standby that follows it.

PostgreSQL's own: the system identifier, the timeline, and the position in the write-ahead log.
"""

import asyncio
from typing import NamedTuple

from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.pool import Pool
from interaction_svc.store.revision import Revision

# What is flushed has been sent to standbys, or will be at once, and a commit is answered after its
# flush; unless the server is told not to wait for that. The timeline is that of the log's file,
# for the control file learns of a failover only at the checkpoint after it.
_OF_PRIMARY = """
SELECT system_identifier, ('x' || left(pg_walfile_name(lsn), 8))::bit(32)::bigint,
       (lsn - '0/0')::bigint
FROM pg_control_system(),
     (SELECT CASE current_setting('synchronous_commit') WHEN 'off'
             THEN pg_current_wal_insert_lsn() ELSE pg_current_wal_flush_lsn() END AS lsn) AS now
"""
# Of a standby only the control file says which timeline it is on, later than it gets there.
_OF_STANDBY = """
SELECT pg_is_in_recovery(), system_identifier, timeline_id::bigint,
       coalesce((pg_last_wal_replay_lsn() - '0/0')::bigint, 0)
FROM pg_control_system(), pg_control_checkpoint()
"""
_64_BITS = 2**64 - 1


class ReplicaState(NamedTuple):
    """The role of a server, and a revision that its reads show at least."""

    is_standby: bool
    revision: Revision


async def of_primary(db: Connection) -> Revision:
    """Return a moment after all that has been answered. Fails on a standby."""
    ((system, timeline, position),) = await db.fetch(_OF_PRIMARY)
    return Revision(system & _64_BITS, timeline, position)


async def of_standby(db: Connection) -> ReplicaState:
    """Return what a server has replayed, which the next statement on this connection will see."""
    ((is_standby, system, timeline, position),) = await db.fetch(_OF_STANDBY)
    return ReplicaState(is_standby, Revision(system & _64_BITS, timeline, position))


class SharedMoments:
    """Asks a primary for its moment: who asks before the question is sent shares its answer."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._unsent: asyncio.Task[Revision] | None = None

    async def now(self) -> Revision:
        """Return a moment that is after this call. Raises StoreError."""
        if self._unsent is None or self._unsent.done():
            self._unsent = asyncio.create_task(self._pool.run(self._ask))
            self._unsent.add_done_callback(_heard)
        return await asyncio.shield(self._unsent)

    async def _ask(self, db: Connection) -> Revision:
        self._unsent = None
        return await of_primary(db)


def _heard(asked: asyncio.Task[Revision]) -> None:
    if not asked.cancelled():
        asked.exception()  # whoever still waits has it
