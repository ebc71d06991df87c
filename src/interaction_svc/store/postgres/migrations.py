"""Migration of the schema to the latest version. Several servers may run it at once."""

from functools import partial
from typing import NamedTuple

import asyncpg

from interaction_svc.store.errors import NotAStoreError, SchemaTooNewError, StoreUnavailableError
from interaction_svc.store.interface import MigrationProgress
from interaction_svc.store.postgres import schema
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.errors import UNDEFINED_COLUMN, UNDEFINED_TABLE, sqlstate
from interaction_svc.store.postgres.pool import Pool
from interaction_svc.store.postgres.rewrite import rewriter
from interaction_svc.store.postgres.schema import LATEST, NOTE, REWRITTEN, TABLES, Migration
from interaction_svc.store.postgres.schema_lock import under_lock

STATEMENT_SECONDS = 6 * 3600.0
"""The time limit of one statement of a migration, such as an index build on a large table."""

_MAKE = (
    """
    CREATE TABLE schema_migrations (
        version         integer PRIMARY KEY,
        name            text NOT NULL,
        compatible_with integer NOT NULL,
        applied_at      timestamptz NOT NULL DEFAULT now()
    )
    """,
    "INSERT INTO schema_migrations (version, name, compatible_with)"
    " VALUES (0, 'the row that is locked by who migrates', 0)",
)
_MADE_BY_ANOTHER = ("42P07", "42710", "23505", "40001")


class Versions(NamedTuple):
    """The version of a schema."""

    version: int
    """The version of the last step that ran; 0: none."""
    compatible_with: int
    """The oldest schema version that steps newer than this program permit; 0 if there are none."""


async def inspect(db: Connection) -> Versions:
    """Return the version of the schema. Raises NotAStoreError, SchemaTooNewError."""
    try:
        steps = await db.fetch("SELECT version, compatible_with FROM schema_migrations")
    except asyncpg.PostgresError as error:
        if sqlstate(error) == UNDEFINED_COLUMN:
            raise NotAStoreError(
                "the database has a table schema_migrations of another program; use a database, or"
                " a schema (the option search_path), of its own"
            ) from error
        if sqlstate(error) != UNDEFINED_TABLE:
            raise
        if await _is_made_meanwhile(db):
            return await inspect(db)
        return Versions(0, 0)
    version = max((row[0] for row in steps), default=0)
    compatible_with = max((row[1] for row in steps if row[0] > LATEST), default=0)
    if compatible_with > LATEST:
        raise SchemaTooNewError(
            f"its schema is version {version}, which programs that know {compatible_with} or more"
            f" can use, and this one knows only up to {LATEST}; use a later version of"
            " interaction-svc"
        )
    return Versions(version, compatible_with)


async def _is_made_meanwhile(db: Connection) -> bool:
    """Return whether another process has created the schema in the meantime.

    Raises NotAStoreError if the schema is missing and another program has a table of our names.
    """
    found = {
        row[0]
        for row in await db.fetch(
            "SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NOT NULL",
            ["schema_migrations", *TABLES],
        )
    }
    if "schema_migrations" in found:
        return True
    if found:
        raise NotAStoreError(
            f"the database has a table {min(found)} that is not of interaction-svc; use a"
            " database, or a schema (the option search_path), of its own"
        )
    return False


async def check_is_current(db: Connection) -> None:
    """Check that this program can work with the schema.

    Raises NotAStoreError, SchemaTooNewError; StoreUnavailableError if it must be migrated first.
    """
    version = (await inspect(db)).version
    if version < LATEST:
        raise StoreUnavailableError(
            f"its schema is version {version}, and {LATEST} is needed: run interaction-svc migrate"
        )


async def migrate(pool: Pool, on_progress: MigrationProgress) -> None:
    """Migrate the schema to the latest version.

    The pool needs at least two connections with a time limit of STATEMENT_SECONDS. Raises
    NotAStoreError, SchemaTooNewError, StoreUnavailableError. Each step runs completely or not at
    all, with two exceptions: an interrupted online step may be incomplete and is repeated, and the
    rewrite of version 1 continues where it was interrupted.
    """
    versions = await pool.run(inspect)
    if versions.version == 0:
        await pool.run(_make)
    if versions.version == REWRITTEN:
        await rewriter.rewrite(pool, on_progress)
    if versions.version >= REWRITTEN:
        await rewriter.drop_old(pool)
    if versions.version >= LATEST:
        return  # needs neither the lock nor write permission
    for step in schema.MIGRATIONS:
        if step.version > versions.version:
            await pool.run(partial(_apply, step=step, pool=pool))


async def _make(db: Connection) -> None:
    async def make(db: Connection) -> None:
        for statement in _MAKE:
            await db.execute(statement)

    try:
        await db.in_transaction(make)
    except asyncpg.PostgresError as error:
        if sqlstate(error) not in _MADE_BY_ANOTHER:
            raise


async def _apply(db: Connection, *, step: Migration, pool: Pool) -> None:
    async def apply(db: Connection) -> None:
        # Checked again under the lock: another server may have run the step meanwhile.
        if (await inspect(db)).version >= step.version:
            return
        if step.online:
            # Closes the portal of the last fetch. CREATE INDEX CONCURRENTLY would wait for its
            # snapshot.
            await db.execute("SELECT 1")
            await pool.run(partial(_run_online, step=step), repeatable=False)
        else:
            for statement in step.statements:
                await db.execute(statement)
        await db.execute(NOTE, step.version, step.name, step.compatible_with)

    await under_lock(db, apply)


async def _run_online(db: Connection, *, step: Migration) -> None:
    for statement in step.statements:
        await db.execute(statement)
