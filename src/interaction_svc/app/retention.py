"""Deleting many Interactions for good: what is too old, and what someone took part in.

A sweep goes through the store in short stretches, so that it may run beside traffic.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from interaction_svc.domain.sids import canonical_sid
from interaction_svc.store import (
    BulkDeleteCursor,
    DeletedBatch,
    Expired,
    InvolvesParticipant,
    Store,
    StoreBusyError,
    StoreError,
)
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.logs import audit

DAY_US = 24 * 60 * 60 * 1_000_000
PASS_SECONDS = 3600.0
"""From the end of a pass to the beginning of the next."""
PAUSE_SECONDS = 0.05
"""Between stretches, so that other writes come first."""
BUSY_SECONDS = 1.0
"""The pause when more waits to be written than the store takes."""

log = structlog.get_logger()


def retention_criteria(now_us: int, days: int, days_by_service: Mapping[str, int]) -> Expired:
    """Give what retention deletes at this time; 0 days is for ever."""

    def bound(kept_days: int) -> int | None:
        return now_us - kept_days * DAY_US if kept_days else None

    return Expired(
        bound(days), {canonical_sid(sid): bound(kept) for sid, kept in days_by_service.items()}
    )


async def sweep(
    store: Store,
    what: Expired | InvolvesParticipant,
    *,
    now_us: int,
    dry_run: bool = False,
    pause_seconds: float = 0.0,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, int]:
    """Sweep the whole store; give how many Interactions were deleted, by Service.

    With `dry_run` none is, but counted. `on_progress` is called with the number so far. Raises
    StoreError; what has been deleted by then stays so, and stands in the log.
    """
    counts: Counter[str] = Counter()
    try:
        after: BulkDeleteCursor | None = None
        while True:
            try:
                swept = await _whole(
                    store.bulk_delete(what, after=after, now_us=now_us, dry_run=dry_run), counts
                )
            except StoreBusyError:
                await asyncio.sleep(BUSY_SECONDS)
                continue
            on_progress(counts.total())
            if swept.next is None:
                return dict(counts)
            after = swept.next
            await asyncio.sleep(pause_seconds)
    finally:
        if not dry_run:
            _account_for(what, counts)


async def _whole(stretch: Coroutine[Any, Any, DeletedBatch], counts: Counter[str]) -> DeletedBatch:
    """Wait for a stretch, also if the sweep is cancelled: what it deletes is accounted for."""
    task = asyncio.create_task(stretch)
    try:
        return await asyncio.shield(task)
    finally:
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            counts.update(task.result().by_service)


def _account_for(what: Expired | InvolvesParticipant, counts: Counter[str]) -> None:
    erasure = isinstance(what, InvolvesParticipant)
    if not erasure:  # which is the command line's, whose metrics nobody asks for
        metrics.rows_erased.labels("retention").inc(counts.total())
    if erasure or counts:  # that nothing was too old is no event; whom an erasure was for, no log's
        audit("erase" if erasure else "purge", deleted=counts.total(), by_service=dict(counts))


class Retention:
    """Deletes, while the service runs, what is older than it is to be kept."""

    def __init__(
        self,
        store: Store,
        days: int,
        days_by_service: Mapping[str, int],
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """Keep Interactions for this many days, and single Services' for others; 0 is for ever."""
        self._store = store
        self._days = days
        self._days_by_service = dict(days_by_service)
        self._now_us = now_us
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin a pass, and one an hour after each; nothing if everything is kept for ever."""
        if self._task is None and (self._days or any(self._days_by_service.values())):
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End a pass that is under way, between two stretches or in one, and start no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        while True:
            now_us = self._now_us()
            what = retention_criteria(now_us, self._days, self._days_by_service)
            try:
                await sweep(self._store, what, now_us=now_us, pause_seconds=PAUSE_SECONDS)
            except StoreError as error:
                log.warning("retention goes on at its next pass", cause=str(error))
            except Exception:  # or nothing would be deleted any more
                log.exception("retention has failed, and goes on at its next pass")
            await asyncio.sleep(PASS_SECONDS)
