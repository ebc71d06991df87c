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

from interaction_svc.admission.fairness import ReadPriority
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
    integrity,
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
    """One file with three connections: for writes, for reads, and for inline reads.

    In WAL mode readers and the writer don't wait for each other. All reads that are not inline
    share one thread, because each read is short, and several threads cost more CPU (measured).
    """

    def __init__(
        self,
        path: Path,
        inline: InlineReader,
        read: Connection,
        write: Connection,
        reads: ReadPriority,
        *,
        concat: bool,
    ) -> None:
        self._reads = reads
        self._can_concat = concat
        self._inline = inline
        self._read = read
        self._write = write
        self._probe = Probe(path, read, write, inline)
        inline.on_error = self._probe.note
        self._truncator = WalTruncator(write, path, _wal_of(path))
        self._probe.before_rescue = self._truncator.release_wal
        self._writer = Writer(
            write,
            check=self._probe.check_files,
            hold_wal=self._truncator.hold_wal,
            note_rows=self._truncator.note_rows,
            on_rows=self._truncator.scan_soon,
            on_erased=self._truncator.request,
        )
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        migrate: bool,
        on_migration: MigrationProgress,
        reads: ReadPriority | None = None,
    ) -> Self:
        """Open the file; see open_store."""
        # If the log has content, a killed process left it, and may not have erased deleted rows.
        # The size of the log is read here, because the next statement empties the log when it
        # closes the file.
        has_log = migrate and _size(_wal_of(path)) > 0
        if migrate:
            await _rewrite(path, on_migration)
        else:
            await asyncio.to_thread(migrations.check_is_current, path)
        async with AsyncExitStack() as opened:
            write = await Connection.open(path, create=migrate)
            opened.push_async_callback(lambda: asyncio.shield(write.close()))
            if migrate:
                await write.run(migrations.migrate)
            concat = await write.run(supports_blob_concat)
            await write.run(disable_busy_timeout)
            await write.run(disable_checkpoints)
            if migrate:
                await write.run(check_writable)
            read = await Connection.open(path, read_only=True)
            opened.push_async_callback(lambda: asyncio.shield(read.close()))
            inline = await _open_inline_reader(path)
            opened.pop_all()
        store = cls(path, inline, read, write, reads or ReadPriority(), concat=concat)
        metrics.wal_bytes.set_function(partial(_size, _wal_of(path)))
        if has_log:
            store._truncator.request_after_crash()
        return store

    async def get(self, scope: Scope, key: InteractionKey) -> bytes | None:
        """See Store."""
        try:
            return await self._inline.run(reads.get, scope, key)
        except NotInlineError:
            return await self._run_read(reads.get, scope, key)

    async def page(self, scope: Scope, query: PageQuery) -> StoredPage:
        """See Store."""
        concat = self._can_concat and not query.filter.looks_at_rows
        if concat:
            with suppress(NotInlineError):
                page = await self._inline.run(page_reads.page_by_concat, scope, query)
                if page is not None:
                    return page
                concat = False
        return await self._run_read(page_reads.page, scope, query, concat=concat)

    async def record(self, rows: Sequence[Row]) -> list[Recorded]:
        """See Store."""
        return await self._run_write(
            writes.UpsertBatch(rows, self._reads),
            len(rows),
            sum(len(row.frame) for row in rows),
            erased=_some_replaced,
        )

    async def delete(self, scope: Scope, key: InteractionKey, now_us: int) -> bool:
        """See Store."""
        return await self._run_write(
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
        return await self._run_read(
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
        rows, following = await self._run_read(bulk_delete.find, what, after)
        if dry_run or not rows:
            return DeletedBatch(bulk_delete.counted(rows), following)
        work = partial(bulk_delete.delete, what=what, rows=rows, now_us=now_us)
        return DeletedBatch(await self._run_write(work, len(rows), erased=bool), following)

    async def add_key(self, key: ApiKey) -> None:
        """See Store."""
        await self._run_write(partial(api_keys.add, key=key), 1)

    async def revoke_key(self, sid: str, now_us: int) -> ApiKey | None:
        """See Store."""
        return await self._run_write(partial(api_keys.revoke, sid=sid, now_us=now_us), 1)

    async def keys_of(self, user: str) -> list[ApiKey]:
        """See Store."""
        return await self._run_read(api_keys.of_user, user)

    async def keys(self) -> list[ApiKey]:
        """See Store."""
        return await self._run_read(api_keys.every)

    async def has_keys(self) -> bool:
        """See Store."""
        return await self._run_read(api_keys.any_ever)

    async def erase_traces(self) -> bool:
        """See Store."""
        return await self._truncator.erase()

    async def probe(self) -> None:
        """See Store."""
        await self._probe.check_file()
        await self._run_read(read_something)
        await self._run_write(touch_write_lock, 0)

    async def check(self) -> StoreReport:
        """See Store."""
        version = await self._run_read(migrations.schema_version)
        return await check_rows(
            lambda after: self._run_read(integrity.check_batch, after),
            schema_version=version,
            known_version=migrations.LATEST,
        )

    async def count(self, table: Table) -> int:
        """See Store."""
        return await self._run_read(table_io.count, table)

    async def read(
        self, table: Table, *, after: TableKey | None, limit: int, max_bytes: int
    ) -> list[TableRow]:
        """See Store."""
        return await self._run_read(table_io.read, table, after, limit, max_bytes)

    async def load(self, table: Table, records: Sequence[TableRow]) -> None:
        """See Store."""
        size = sum(map(table.size_of, records))
        work = partial(table_io.load, table=table, records=records)
        await self._run_write(work, len(records), size, erased=bool)

    async def _run_read(
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

    async def _run_write(
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
        # Shielded: the thread of an open connection would keep the process alive.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._writer.close()
        await self._probe.close()
        self._inline.close()
        await self._read.close()
        await self._truncator.close()
        await self._write.close()
        self._truncator.release_file()


async def _rewrite(path: Path, on_progress: MigrationProgress) -> None:
    """Rewrite a file of an earlier layout on a thread. Cancellation stops the rewrite."""
    stop = threading.Event()
    rewrite_task = asyncio.create_task(asyncio.to_thread(rewrite, path, on_progress, stop))
    try:
        rewritten = await asyncio.shield(rewrite_task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([rewrite_task])
        raise
    if rewritten is not None:
        log.info("the store was rewritten", rows=rewritten.rows, damaged=rewritten.damaged)


async def _open_inline_reader(path: Path) -> InlineReader:
    try:
        return await asyncio.to_thread(InlineReader, path)
    except sqlite3.Error as error:
        raise translated(error) from error


def _some_replaced(recorded: list[Recorded]) -> bool:
    return any(outcome is Outcome.UPDATED for outcome, _ in recorded)


def _wal_of(path: Path) -> Path:
    return Path(f"{path.resolve()}-wal")  # SQLite creates it beside a symlink's target


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
