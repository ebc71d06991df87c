"""The revision of a primary or a standby.

A revision is PostgreSQL's system identifier, the timeline and the position in the write-ahead log.
"""

import asyncio
from typing import NamedTuple

from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.pool import Pool
from interaction_svc.store.revision import Revision

# A commit is acknowledged after its log is flushed, so the flush position covers every acknowledged
# commit. With synchronous_commit = off it does not, so the insert position is used. The timeline is
# read from the name of the log file, because the control file has it only from the checkpoint after
# a failover on.
_OF_PRIMARY = """
SELECT system_identifier, ('x' || left(pg_walfile_name(lsn), 8))::bit(32)::bigint,
       (lsn - '0/0')::bigint
FROM pg_control_system(),
     (SELECT CASE current_setting('synchronous_commit') WHEN 'off'
             THEN pg_current_wal_insert_lsn() ELSE pg_current_wal_flush_lsn() END AS lsn) AS now
"""
# On a standby only the control file has the timeline, which is updated with a delay.
_OF_STANDBY = """
SELECT pg_is_in_recovery(), system_identifier, timeline_id::bigint,
       coalesce((pg_last_wal_replay_lsn() - '0/0')::bigint, 0)
FROM pg_control_system(), pg_control_checkpoint()
"""
_64_BITS = 2**64 - 1


class ReplicaState(NamedTuple):
    """The role of a server, and a revision that its later reads include."""

    is_standby: bool
    revision: Revision


async def of_primary(db: Connection) -> Revision:
    """Return a revision after all acknowledged commits. Raises PostgresError on a standby."""
    ((system, timeline, position),) = await db.fetch(_OF_PRIMARY)
    return Revision(system & _64_BITS, timeline, position)


async def of_standby(db: Connection) -> ReplicaState:
    """Return the revision that a server has replayed. The next statement on `db` includes it."""
    ((is_standby, system, timeline, position),) = await db.fetch(_OF_STANDBY)
    return ReplicaState(is_standby, Revision(system & _64_BITS, timeline, position))


class SharedMoments:
    """Reads the revision of a primary. Calls that arrive before a query is sent share the query."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._unsent: asyncio.Task[Revision] | None = None

    async def now(self) -> Revision:
        """Return a revision that was read after the start of this call. Raises StoreError."""
        if self._unsent is None or self._unsent.done():
            self._unsent = asyncio.create_task(self._pool.run(self._ask))
            self._unsent.add_done_callback(_heard)
        return await asyncio.shield(self._unsent)

    async def _ask(self, db: Connection) -> Revision:
        self._unsent = None
        return await of_primary(db)


def _heard(asked: asyncio.Task[Revision]) -> None:
    if not asked.cancelled():
        asked.exception()  # mark as retrieved: the callers may be gone
