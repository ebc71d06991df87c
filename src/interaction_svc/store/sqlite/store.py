"""The SQLite backend behind the Store interface."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self

from interaction_svc.store.interface import (
    Key,
    PageQuery,
    Recorded,
    ScanPosition,
    Scope,
    Store,
    StoredPage,
    StoreReport,
)
from interaction_svc.store.keys import StoredKey
from interaction_svc.store.rows import Row
from interaction_svc.store.sqlite import keys, migrations, reads, writes
from interaction_svc.store.sqlite.connection import Connection
from interaction_svc.store.sqlite.writer import Writer

_NAMED_BAD_ROWS = 20


class SqliteStore(Store):
    """One file, one connection that reads and one that writes.

    In WAL mode the two don't wait for each other. Several readers would cost more CPU under
    concurrency than one (measured), and no read lasts longer than a page.
    """

    def __init__(self, read: Connection, write: Connection) -> None:
        self._read = read
        self._write = write
        self._writer = Writer(write)
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: Path, *, migrate: bool) -> Self:
        """Open the file; see open_store."""
        write = await Connection.open(path, create=migrate)
        try:
            await write.run(migrations.migrate if migrate else migrations.check_is_current)
            read = await Connection.open(path, read_only=True)
        except BaseException:
            await asyncio.shield(write.close())
            raise
        return cls(read, write)

    async def get(self, scope: Scope, key: Key) -> bytes | None:
        """See Store."""
        return await self._read.run(reads.get, scope, key)

    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """See Store."""
        return await self._read.run(reads.page, scope, query)

    async def record(self, rows: Sequence[Row]) -> list[Recorded]:
        """See Store."""
        return await self._writer.submit(partial(writes.record, rows=rows), len(rows))

    async def delete(self, scope: Scope, key: Key, now_us: int) -> bool:
        """See Store."""
        return await self._writer.submit(
            partial(writes.delete, scope=scope, key=key, now_us=now_us), 1
        )

    async def scan(
        self,
        *,
        after: ScanPosition | None,
        limit: int,
        max_bytes: int,
        service_sid: str | None = None,
        session_sid: str | None = None,
    ) -> tuple[list[bytes], ScanPosition | None]:
        """See Store."""
        return await self._read.run(reads.scan, after, limit, max_bytes, service_sid, session_sid)

    async def add_key(self, key: StoredKey) -> None:
        """See Store."""
        await self._writer.submit(partial(keys.add, key=key), 1)

    async def revoke_key(self, sid: str, now_us: int) -> StoredKey | None:
        """See Store."""
        return await self._writer.submit(partial(keys.revoke, sid=sid, now_us=now_us), 1)

    async def keys_of(self, user: str) -> list[StoredKey]:
        """See Store."""
        return await self._read.run(keys.of_user, user)

    async def keys(self) -> list[StoredKey]:
        """See Store."""
        return await self._read.run(keys.every)

    async def has_keys(self) -> bool:
        """See Store."""
        return await self._read.run(keys.any_ever)

    async def check(self) -> StoreReport:
        """See Store."""
        version = await self._read.run(migrations.schema_version)
        rows = bad_rows = 0
        some_bad: list[tuple[str, str]] = []
        after: int | None = 0
        while after is not None:
            seen, bad, after = await self._read.run(reads.check_rows, after)
            rows, bad_rows = rows + seen, bad_rows + len(bad)
            some_bad += bad[: _NAMED_BAD_ROWS - len(some_bad)]
        return StoreReport(version, migrations.LATEST, rows, bad_rows, tuple(some_bad))

    async def close(self) -> None:
        """See Store."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # A thread of a connection that stays open would keep the process from ending.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._writer.close()
        await self._read.close()
        await self._write.close()
