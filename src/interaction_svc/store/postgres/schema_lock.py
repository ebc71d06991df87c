"""The lock of who changes the schema: on a row, row 0 of schema_migrations.

Not an advisory lock, for poolers and distributed engines have none.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from interaction_svc.store.errors import StoreUnavailableError
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.errors import LOCK_NOT_AVAILABLE, sqlstate

WAIT_FOR_ANOTHER_SECONDS = 60
"""The longest wait for another server that migrates."""
_WAIT_FOR_TABLE_SECONDS = 3
"""The longest wait of a step for a table lock. All later statements on the table wait too."""
_PAUSE_SECONDS = 0.1
# Nobody waits for it within a statement: an index that is built online waits for all statements
# that were begun before it, and this one would wait for the index.
_LOCK = "SELECT 1 FROM schema_migrations WHERE version = 0 FOR UPDATE NOWAIT"

T = TypeVar("T")


async def under_lock(db: Connection, change: Callable[[Connection], Awaitable[T]]) -> T:
    """Change the schema in a transaction, as the only one who does, and give what `change` gives.

    Waits for another who does for a minute, and for a table's lock for 3 seconds at a time. Raises
    StoreUnavailableError.
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
