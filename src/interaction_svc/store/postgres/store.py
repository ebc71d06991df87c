"""The PostgreSQL backend behind the Store interface."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

from interaction_svc.domain.interactions import InteractionKey, Scope
from interaction_svc.store.api_keys import ApiKey
from interaction_svc.store.bulk_delete import (
    BulkDeleteCursor,
    DeletedBatch,
    Expired,
    InvolvesParticipant,
)
from interaction_svc.store.errors import StoreUnavailableError
from interaction_svc.store.integrity import check_rows
from interaction_svc.store.interface import (
    MigrationProgress,
    PageQuery,
    ScanPosition,
    Store,
    StoredPage,
    StoreReport,
)
from interaction_svc.store.options import PostgresLimits
from interaction_svc.store.postgres import (
    api_keys,
    bulk_delete,
    keyset_scan,
    migrations,
    reads,
    table_io,
    table_scan,
    writes,
)
from interaction_svc.store.postgres.batching import GetBatcher, RecordBatcher
from interaction_svc.store.postgres.citus import distribution
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.dsn import Dsn
from interaction_svc.store.postgres.pool import Pool
from interaction_svc.store.postgres.rewrite import rewriter
from interaction_svc.store.postgres.schema import LATEST, REWRITTEN
from interaction_svc.store.progress import LoggedProgress
from interaction_svc.store.recorded import Recorded
from interaction_svc.store.rows import Row
from interaction_svc.store.tables import Table, TableKey, TableRow

PROBE_SECONDS = 5.0
"""The time limit of a statement of a probe."""
_PROBE = (
    "SELECT current_setting('transaction_read_only') = 'on', pg_is_in_recovery(),"
    " (SELECT max(compatible_with) FROM schema_migrations)"
)
_READS_ONLY = (
    "SELECT current_setting('default_transaction_read_only') = 'on' AND NOT pg_is_in_recovery()"
)
_READ_ONLY_BY_DEFAULT = (
    "the server takes no writes: default_transaction_read_only is on for the role, the database or"
    " the server; set it off, as with ALTER ROLE … SET default_transaction_read_only = off"
)


class PostgresStore(Store):
    """A database and a pool of connections to it.

    Probes have a connection of their own, so that health checks work while the pool is busy.
    """

    def __init__(self, dsn: Dsn, limits: PostgresLimits) -> None:
        """Create the store. It connects at the first call."""
        self._pool = _pool(dsn, limits.statement_seconds, size=limits.connections)
        self._probes = _pool(dsn, PROBE_SECONDS, size=1)
        self._gets = GetBatcher(self._pool)
        self._records = RecordBatcher(self._pool)
        self._is_distributed = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        dsn: Dsn,
        limits: PostgresLimits,
        *,
        migrate: bool,
        on_migration: MigrationProgress,
    ) -> Self:
        """Open the database; see open_store."""
        store = cls(dsn, limits)
        return await store._made_ready(dsn, migrate=migrate, on_migration=on_migration)

    async def _made_ready(
        self, dsn: Dsn, *, migrate: bool, on_migration: MigrationProgress
    ) -> Self:
        try:
            if migrate:
                # A record begins a READ WRITE transaction. Adding an API key does not, and would
                # fail later.
                await self._pool.run(_check_takes_writes)
                await _migrate(dsn, on_migration)
            await self._pool.run(migrations.check_is_current)
            if await self._pool.run(distribution.is_distributed):
                self._is_distributed = self._gets.is_distributed = self._records.is_distributed = (
                    True
                )
        except BaseException:
            await asyncio.shield(self.close())
            raise
        return self

    @classmethod
    async def distribute(cls, dsn: Dsn) -> list[str]:
        """Migrate the schema, and distribute its tables; see distribute_store."""
        await _migrate(dsn, LoggedProgress())
        pool = _pool(dsn, migrations.STATEMENT_SECONDS, size=1)
        try:
            return await distribution.distribute(pool)
        except asyncio.CancelledError:
            pool.terminate()
            raise
        finally:
            await asyncio.shield(pool.close())

    @classmethod
    async def inspect(cls, dsn: Dsn) -> StoreReport:
        """Report the schema's version without changing anything.

        Raises NotAStoreError, SchemaTooNewError, StoreUnavailableError.
        """
        pool = _pool(dsn, PROBE_SECONDS, size=1)
        try:
            versions = await pool.run(migrations.inspect)
            needed = await pool.run(rewriter.needed_bytes) if versions.version == REWRITTEN else 0
        finally:
            await asyncio.shield(pool.close())
        return StoreReport(versions.version, LATEST, migration_bytes=needed)

    async def get(self, scope: Scope, key: InteractionKey) -> bytes | None:
        """See Store."""
        return await self._gets.get((scope, key))

    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """See Store."""
        return await self._pool.run(partial(reads.page, scope=scope, query=query))

    async def record(self, rows: Sequence[Row]) -> list[Recorded]:
        """See Store."""
        return await self._records.record(rows)

    async def delete(self, scope: Scope, key: InteractionKey, now_us: int) -> bool:
        """See Store."""
        work = partial(writes.delete, scope=scope, key=key, now_us=now_us)
        # Not repeatable: after a lost connection a second attempt could not distinguish a success
        # of the first attempt from a missing row.
        return await self._pool.run(work, repeatable=False)

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
        return await self._pool.run(
            partial(
                table_scan.scan,
                after=after,
                limit=limit,
                max_bytes=max_bytes,
                service_sid=service_sid,
                session_sid=session_sid,
                account_sid=account_sid,
            )
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
        find = partial(
            bulk_delete.find, what=what, after=after, is_distributed=self._is_distributed
        )
        rows, following = await self._pool.run(find)
        if dry_run or not rows:
            return DeletedBatch(bulk_delete.counted(rows), following)
        work = partial(bulk_delete.delete, what=what, rows=rows, now_us=now_us)
        return DeletedBatch(await self._pool.run(work, repeatable=False), following)

    async def add_key(self, key: ApiKey) -> None:
        """See Store."""
        await self._pool.run(partial(api_keys.add, key=key), repeatable=False)

    async def revoke_key(self, sid: str, now_us: int) -> ApiKey | None:
        """See Store."""
        return await self._pool.run(partial(api_keys.revoke, sid=sid, now_us=now_us))

    async def keys_of(self, user: str) -> list[ApiKey]:
        """See Store."""
        return await self._pool.run(partial(api_keys.of_user, user=user))

    async def keys(self) -> list[ApiKey]:
        """See Store."""
        return await self._pool.run(api_keys.every)

    async def has_keys(self) -> bool:
        """See Store."""
        return await self._pool.run(api_keys.any_ever)

    async def erase_traces(self) -> bool:
        """Check the connection and return True, because PostgreSQL itself erases deleted data.

        Deleted data stays in the files until VACUUM runs, and in the write-ahead log and its
        archive for as long as they are kept. docs/postgresql.md describes the options.
        """
        await self._pool.run(_ask_nothing)
        return True

    async def probe(self) -> None:
        """See Store."""
        ((reads_only, is_standby, needed),) = await self._probes.run(_probe)
        if reads_only:
            # A failover has happened. Later connections look for the new primary.
            self._probes.expire()
            self._pool.expire()
            raise StoreUnavailableError(
                "the server takes no writes: it is a standby"
                if is_standby
                else _READ_ONLY_BY_DEFAULT
            )
        if needed > LATEST:
            raise StoreUnavailableError(
                f"its schema has moved on: programs that know version {needed} can use it, and this"
                f" one knows only up to {LATEST}; use a later version of interaction-svc"
            )

    async def check(self) -> StoreReport:
        """See Store."""
        version = (await self._pool.run(migrations.inspect)).version
        return await check_rows(
            lambda after: self._pool.run(partial(keyset_scan.check_batch, after=after)),
            schema_version=version,
            known_version=LATEST,
        )

    async def count(self, table: Table) -> int:
        """See Store."""
        return await self._pool.run(partial(table_io.count, table=table))

    async def read(
        self, table: Table, *, after: TableKey | None, limit: int, max_bytes: int
    ) -> list[TableRow]:
        """See Store."""
        work = partial(table_io.read, table=table, after=after, limit=limit, max_bytes=max_bytes)
        return await self._pool.run(work)

    async def load(self, table: Table, records: Sequence[TableRow]) -> None:
        """See Store."""
        await self._pool.run(partial(table_io.load, table=table, records=records))

    async def close(self) -> None:
        """See Store."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._gets.close()
        await self._records.close()
        await self._pool.close()
        await self._probes.close()


def _pool(dsn: Dsn, seconds: float, *, size: int) -> Pool:
    return Pool(partial(Connection.open, dsn, seconds), size=size, wait_seconds=seconds)


async def _probe(db: Connection) -> list[Any]:
    return await db.fetch(_PROBE)


async def _check_takes_writes(db: Connection) -> None:
    ((reads_only,),) = await db.fetch(_READS_ONLY)
    if reads_only:
        raise StoreUnavailableError(_READ_ONLY_BY_DEFAULT)


async def _ask_nothing(_: Connection) -> None:
    pass


async def _migrate(dsn: Dsn, on_progress: MigrationProgress) -> None:
    pool = _pool(dsn, migrations.STATEMENT_SECONDS, size=2)
    try:
        await migrations.migrate(pool, on_progress)
    except asyncio.CancelledError:
        pool.terminate()  # even during a statement: the step is repeated at the next start
        raise
    finally:
        await asyncio.shield(pool.close())
