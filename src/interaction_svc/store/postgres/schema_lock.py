"""The lock for schema changes: a row lock on row 0 of schema_migrations.

It is no advisory lock, because poolers and distributed engines don't support advisory locks.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from interaction_svc.store.errors import StoreUnavailableError
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.errors import LOCK_NOT_AVAILABLE, sqlstate

WAIT_FOR_ANOTHER_SECONDS = 60
"""The longest wait for another server's migration."""
_WAIT_FOR_TABLE_SECONDS = 3
"""The longest wait of a step for a table lock. It also delays later statements on the table."""
_PAUSE_SECONDS = 0.1
# NOWAIT avoids a deadlock. An online index build waits for all earlier statements, and a statement
# that waits here would wait for the session that builds the index.
_LOCK = "SELECT 1 FROM schema_migrations WHERE version = 0 FOR UPDATE NOWAIT"

T = TypeVar("T")


async def under_lock(db: Connection, change: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `change` in a transaction under the lock, and return its result.

    Waits up to 60 s for the lock. A statement waits at most 3 s for a table lock. Then the
    transaction is retried, until the 60 s are over. Raises StoreUnavailableError after that.
    """

    async def locked(db: Connection) -> T:
        await db.execute(f"SET LOCAL lock_timeout = '{_WAIT_FOR_TABLE_SECONDS}s'")
        await db.execute(_LOCK)
        return await change(db)

    clock = asyncio.get_running_loop().time
    deadline = clock() + WAIT_FOR_ANOTHER_SECONDS
    while True:
        try:
            return await db.in_transaction(locked)
        except asyncpg.PostgresError as error:
            if sqlstate(error) != LOCK_NOT_AVAILABLE:
                raise
            if clock() >= deadline:
                raise StoreUnavailableError(
                    "another server is migrating the schema, or somebody else keeps a table locked"
                ) from error
        await asyncio.sleep(_PAUSE_SECONDS)
