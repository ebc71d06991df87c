"""Distribution of the tables over Citus nodes by session_sid, so a call queries one shard.

Citus' own catalog says which tables are distributed. The store has no record of its own, because
that would be wrong after a restore from a dump.
"""

from functools import partial
from typing import NamedTuple

from interaction_svc.store.errors import NotAStoreError, StoreUnavailableError
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.pool import Pool
from interaction_svc.store.postgres.schema import DISTRIBUTED_TABLES
from interaction_svc.store.postgres.schema_lock import under_lock

COLUMN = "session_sid"
_FIRST = DISTRIBUTED_TABLES[0]
REFERENCE_TABLES = ("api_keys",)
"""Tables that are copied to every node: small, read by every server, rarely written."""
# schema_migrations stays on the coordinator. Its row 0 is the lock for schema changes, and only the
# coordinator can change the schema.

_EXTENSION = "SELECT 1 FROM pg_extension WHERE extname = 'citus'"
_HAS_CATALOG = "SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"
_DISTRIBUTED = (
    "SELECT relname::text, partmethod::text, colocationid,"
    " CASE WHEN partkey IS NOT NULL"
    " THEN column_to_column_name(logicalrelid, partkey::text) END"
    " FROM pg_dist_partition JOIN pg_class ON pg_class.oid = logicalrelid"
    " WHERE logicalrelid = ANY (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)"
)
_IS_DISTRIBUTED = "SELECT 1 FROM pg_dist_partition WHERE logicalrelid = $1::text::regclass"
_HASH = "h"
_DISTRIBUTE = (
    "SELECT create_distributed_table($1::text::regclass, $2::text, colocate_with => $3::text)"
)
_REPLICATE = "SELECT create_reference_table($1::text::regclass)"
# Citus copies the rows into the shards, and leaves invisible copies in the local table. Those would
# retain deleted data, and new indexes would include them.
_DROP_COPY = "SELECT truncate_local_data_after_distributing_table($1::text::regclass)"


class _Place(NamedTuple):
    method: str
    group: int
    column: str | None


async def is_distributed(db: Connection) -> bool:
    """Return whether the tables are distributed. A store reads this when it is opened."""
    if not (await db.fetch(_HAS_CATALOG))[0][0]:
        return False
    places = await _places(db)
    return _FIRST in places and places[_FIRST].method == _HASH


async def distribute(pool: Pool) -> list[str]:
    """Distribute the tables that are not distributed yet, and return their names.

    The schema must be up to date. Writes to a table wait while its rows are copied into the shards.
    Raises StoreUnavailableError if the extension is missing, and NotAStoreError if a table is
    distributed in another way.
    """
    await pool.run(_check_extension)
    _check_places(await pool.run(_places))
    # One transaction for each table, so that an interrupted run can be continued. In addition,
    # Citus restricts a transaction after it has copied rows over several connections.
    done = [
        table
        for table in (*REFERENCE_TABLES, *DISTRIBUTED_TABLES)
        if await pool.run(
            partial(under_lock, change=partial(_distribute, table=table)),
            repeatable=False,
        )
    ]
    await pool.run(_drop_copies)
    return done


async def _check_extension(db: Connection) -> None:
    if not await db.fetch(_EXTENSION):
        raise StoreUnavailableError(
            "it hasn't got the extension citus, without which tables can't be distributed: put"
            " citus first in shared_preload_libraries of every node, and run CREATE EXTENSION citus"
            " in this database as a superuser"
        )


async def _distribute(db: Connection, table: str) -> bool:
    if table in await _places(db):
        return False
    if table in REFERENCE_TABLES:
        await db.execute(_REPLICATE, table)
        return True
    return await distribute_by_session(db, table, _FIRST)


async def distribute_by_session(db: Connection, table: str, first: str) -> bool:
    """Distribute a table, co-located with the table `first`. Return False if it already was."""
    if await db.fetch(_IS_DISTRIBUTED, table):
        return False
    # The first table begins a new co-location group, without the tables of other programs.
    await db.execute(_DISTRIBUTE, table, COLUMN, "none" if table == first else first)
    return True


def _check_places(places: dict[str, _Place]) -> None:
    distributed = [table for table in DISTRIBUTED_TABLES if table in places]
    wrong = [
        table
        for table in distributed
        if (places[table].method, places[table].column) != (_HASH, COLUMN)
    ] + [
        table for table in REFERENCE_TABLES if table in places and places[table].column is not None
    ]
    if wrong:
        raise NotAStoreError(
            f"its table {wrong[0]} is distributed in another way: {_RIGHT}; undo that with"
            " undistribute_table"
        )
    if len({places[table].group for table in distributed}) > 1 or (
        distributed and _FIRST not in distributed
    ):
        raise NotAStoreError(
            f"its tables are not co-located: {_RIGHT}, in one group; undo that with"
            " undistribute_table"
        )


_RIGHT = (
    f"{', '.join(DISTRIBUTED_TABLES)} go by hash of {COLUMN},"
    f" {', '.join(REFERENCE_TABLES)} to every node"
)


async def _drop_copies(db: Connection) -> None:
    for table in DISTRIBUTED_TABLES:
        await db.execute(_DROP_COPY, table)


async def _places(db: Connection) -> dict[str, _Place]:
    found = await db.fetch(_DISTRIBUTED, [*DISTRIBUTED_TABLES, *REFERENCE_TABLES])
    return {row[0]: _Place(row[1], row[2], row[3]) for row in found}
