"""The SQLite backend behind the Store interface."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

import structlog

from interaction_svc.domain.interactions import InteractionKey, Outcome, Scope
from interaction_svc.store.api_keys import ApiKey
from interaction_svc.store.bulk_delete import (
    BulkDeleteCursor,
    DeletedBatch,
    Expired,
    InvolvesParticipant,
)
from interaction_svc.store.errors import StoreError
from interaction_svc.store.integrity import check_rows
from interaction_svc.store.interface import (
    MigrationProgress,
    PageQuery,
    ScanPosition,
    Store,
    StoredPage,
    StoreReport,
)
from interaction_svc.store.recorded import Recorded
from interaction_svc.store.rows import Row
from interaction_svc.store.sqlite import (
    api_keys,
    bulk_delete,
    migrations,
    page_reads,
    reads,
    table_io,
    writes,
)
from interaction_svc.store.sqlite.connection import Connection, disable_checkpoints
from interaction_svc.store.sqlite.erasure.wal_truncation import WalTruncator
from interaction_svc.store.sqlite.errors import translated
from interaction_svc.store.sqlite.inline_reads import InlineReader, NotInlineError
from interaction_svc.store.sqlite.page_concat import supports_blob_concat
from interaction_svc.store.sqlite.probe import Probe, read_something
from interaction_svc.store.sqlite.rewrite.rewriter import rewrite
from interaction_svc.store.sqlite.transactions import (
    check_writable,
    disable_busy_timeout,
    touch_write_lock,
)
from interaction_svc.store.sqlite.writer import Work, Writer
from interaction_svc.store.tables import Table, TableKey, TableRow
from interaction_svc.telemetry import metrics

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")


class SqliteStore(Store):
    """One file, and three connections: one that writes, one that reads, one for quick reads.

    In WAL mode readers and the writer don't wait for each other. The one that reads has a thread;
    several of them would cost more CPU under concurrency than one (measured), and no read lasts
    longer than a page.
    """

    def __init__(
        self, path: Path, quick: InlineReader, read: Connection, write: Connection, *, joins: bool
    ) -> None:
        self._joins = joins
        self._quick = quick
        self._read = read
        self._write = write
        self._probe = Probe(path, read, write, quick)
        quick.on_error = self._probe.note
        self._eraser = WalTruncator(write, path, _log_of(path))
        self._probe.before_rescue = self._eraser.let_go
        self._writer = Writer(
            write,
            check=self._probe.check_files,
            hold_wal=self._eraser.hold_wal,
            note_rows=self._eraser.note_rows,
            on_rows=self._eraser.look_soon,
            on_erased=self._eraser.ask,
        )
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: Path, *, migrate: bool, on_migration: MigrationProgress) -> Self:
        """Open the file; see open_store."""
        # Of a process that didn't live to erase what it had deleted. Who looks at the file first,
        # as the next line does, empties the log when it closes the file.
        has_log = migrate and _size(_log_of(path)) > 0
        if migrate:
            await _rewritten(path, on_migration)
        else:
            await asyncio.to_thread(migrations.check_is_current, path)
        async with AsyncExitStack() as opened:
            write = await Connection.open(path, create=migrate)
            opened.push_async_callback(lambda: asyncio.shield(write.close()))
            if migrate:
                await write.run(migrations.migrate)
            joins = await write.run(supports_blob_concat)
            await write.run(disable_busy_timeout)
            await write.run(disable_checkpoints)
            if migrate:
                await write.run(check_writable)
            read = await Connection.open(path, read_only=True)
            opened.push_async_callback(lambda: asyncio.shield(read.close()))
            quick = await _opened_quick(path)
            opened.pop_all()
        store, log = cls(path, quick, read, write, joins=joins), _log_of(path)
        metrics.wal_bytes.set_function(partial(_size, log))
        if has_log:
            store._eraser.ask_after_a_crash()
        return store

    async def get(self, scope: Scope, key: InteractionKey) -> bytes | None:
        """See Store."""
        try:
            return await self._quick.run(reads.get, scope, key)
        except NotInlineError:
            return await self._reading(reads.get, scope, key)

    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """See Store."""
        joins = self._joins and not query.filter.looks_at_rows
        if joins:
            with suppress(NotInlineError):
                page = await self._quick.run(page_reads.joined_page, scope, query)
                if page is not None:
                    return page
                joins = False
        return await self._reading(page_reads.page, scope, query, joins=joins)

    async def record(self, rows: Sequence[Row]) -> list[Recorded]:
        """See Store."""
        return await self._writing(
            writes.UpsertBatch(rows, self._quick.has_read_lately),
            len(rows),
            sum(len(row.frame) for row in rows),
            erased=_some_replaced,
        )

    async def delete(self, scope: Scope, key: InteractionKey, now_us: int) -> bool:
        """See Store."""
        return await self._writing(
            partial(writes.delete, scope=scope, key=key, now_us=now_us), 1, erased=bool
        )

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
        return await self._reading(
            reads.scan, after, limit, max_bytes, service_sid, session_sid, account_sid
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
        rows, following = await self._reading(bulk_delete.find, what, after)
        if dry_run or not rows:
            return DeletedBatch(bulk_delete.counted(rows), following)
        work = partial(bulk_delete.delete, what=what, rows=rows, now_us=now_us)
        return DeletedBatch(await self._writing(work, len(rows), erased=bool), following)

    async def add_key(self, key: ApiKey) -> None:
        """See Store."""
        await self._writing(partial(api_keys.add, key=key), 1)

    async def revoke_key(self, sid: str, now_us: int) -> ApiKey | None:
        """See Store."""
        return await self._writing(partial(api_keys.revoke, sid=sid, now_us=now_us), 1)

    async def keys_of(self, user: str) -> list[ApiKey]:
        """See Store."""
        return await self._reading(api_keys.of_user, user)

    async def keys(self) -> list[ApiKey]:
        """See Store."""
        return await self._reading(api_keys.every)

    async def has_keys(self) -> bool:
        """See Store."""
        return await self._reading(api_keys.any_ever)

    async def erase_traces(self) -> bool:
        """See Store."""
        return await self._eraser.erase()

    async def probe(self) -> None:
        """See Store."""
        await self._probe.check_file()
        await self._reading(read_something)
        await self._writing(touch_write_lock, 0)

    async def check(self) -> StoreReport:
        """See Store."""
        version = await self._reading(migrations.schema_version)
        return await check_rows(
            lambda after: self._reading(reads.check_batch, after),
            schema_version=version,
            known_version=migrations.LATEST,
        )

    async def count(self, table: Table) -> int:
        """See Store."""
        return await self._reading(table_io.count, table)

    async def read(
        self, table: Table, *, after: TableKey | None, limit: int, max_bytes: int
    ) -> list[TableRow]:
        """See Store."""
        return await self._reading(table_io.read, table, after, limit, max_bytes)

    async def load(self, table: Table, records: Sequence[TableRow]) -> None:
        """See Store."""
        size = sum(map(table.size_of, records))
        work = partial(table_io.load, table=table, records=records)
        await self._writing(work, len(records), size, erased=bool)

    async def _reading(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        try:
            return await self._read.run(work, *args, **kwargs)
        except StoreError as error:
            self._probe.note(error)
            raise

    async def _writing(
        self,
        work: Work[T],
        rows: int,
        size: int = 0,
        *,
        erased: Callable[[T], bool] | None = None,
    ) -> T:
        try:
            return await self._writer.submit(work, rows, size, erased=erased)
        except StoreError as error:
            self._probe.note(error)
            raise

    async def close(self) -> None:
        """See Store."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # A thread of a connection that stays open would keep the process from ending.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._writer.close()
        await self._probe.close()
        self._quick.close()
        await self._read.close()
        await self._eraser.close()
        await self._write.close()
        self._eraser.release()


async def _rewritten(path: Path, on_progress: MigrationProgress) -> None:
    """Rewrite a file of an earlier layout on a thread, which a cancelled caller ends."""
    stop = threading.Event()
    rewriting = asyncio.create_task(asyncio.to_thread(rewrite, path, on_progress, stop))
    try:
        rewritten = await asyncio.shield(rewriting)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([rewriting])
        raise
    if rewritten is not None:
        log.info("the store was rewritten", rows=rewritten.rows, damaged=rewritten.damaged)


async def _opened_quick(path: Path) -> InlineReader:
    try:
        return await asyncio.to_thread(InlineReader, path)
    except sqlite3.Error as error:
        raise translated(error) from error


def _some_replaced(recorded: list[Recorded]) -> bool:
    return any(outcome is Outcome.UPDATED for outcome, _ in recorded)


def _log_of(path: Path) -> Path:
    return Path(f"{path.resolve()}-wal")  # beside what a symlink leads to


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
