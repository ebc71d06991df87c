"""Bulk deletion of all Interactions that are expired, or that involve a participant.

The store deletes them in batches, so that other requests are served in between.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from interaction_svc.store import (
    BulkDeleteCursor,
    DeletedBatch,
    Expired,
    InvolvesParticipant,
    Store,
    StoreBusyError,
)
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.logs import audit

BUSY_SECONDS = 1.0
"""The wait before a batch is tried again, after the store's write queue was full."""


async def bulk_delete(
    store: Store,
    criteria: Expired | InvolvesParticipant,
    *,
    now_us: int,
    dry_run: bool = False,
    pause_seconds: float = 0.0,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, int]:
    """Delete all Interactions that match, and return the number for each Service SID.

    With `dry_run` nothing is deleted, only counted. `pause_seconds` is the pause between two
    batches. `on_progress` is called with the total so far after each batch. Raises StoreError.
    Batches that were deleted before an error stay deleted, and are audited.
    """
    counts: Counter[str] = Counter()
    try:
        after: BulkDeleteCursor | None = None
        while True:
            try:
                batch = await _finish(
                    store.bulk_delete(criteria, after=after, now_us=now_us, dry_run=dry_run), counts
                )
            except StoreBusyError:
                await asyncio.sleep(BUSY_SECONDS)
                continue
            on_progress(counts.total())
            if batch.next is None:
                return dict(counts)
            after = batch.next
            await asyncio.sleep(pause_seconds)
    finally:
        if not dry_run:
            _record_deletion(criteria, counts)


async def _finish(
    deletion: Coroutine[Any, Any, DeletedBatch], counts: Counter[str]
) -> DeletedBatch:
    """Wait for a batch and count it, even if the caller is cancelled meanwhile."""
    task = asyncio.create_task(deletion)
    try:
        return await asyncio.shield(task)
    finally:
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            counts.update(task.result().by_service)


def _record_deletion(criteria: Expired | InvolvesParticipant, counts: Counter[str]) -> None:
    is_erasure = isinstance(criteria, InvolvesParticipant)
    if not is_erasure:  # `erase` runs in a process whose metrics nobody scrapes
        metrics.rows_erased.labels("retention").inc(counts.total())
    # A purge that found nothing is not audited. The participant of an erasure is never logged.
    if is_erasure or counts:
        audit("erase" if is_erasure else "purge", deleted=counts.total(), by_service=dict(counts))
