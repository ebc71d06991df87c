"""Retention: Interactions older than the configured number of days are deleted."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from interaction_svc.app.bulk_delete import bulk_delete
from interaction_svc.domain.sids import canonical_sid
from interaction_svc.domain.timestamps import now_us
from interaction_svc.store import Expired, Store, StoreError

DAY_US = 24 * 60 * 60 * 1_000_000
PASS_SECONDS = 3600.0
"""The pause between two passes."""
PAUSE_SECONDS = 0.05
"""The pause between two batches, in which other writes run."""

log = structlog.get_logger()


def retention_criteria(at_us: int, days: int, days_by_service: Mapping[str, int]) -> Expired:
    """Return the criteria of expired Interactions at `at_us`, in microseconds since 1970.

    Interactions expire after `days`, or after the days of their Service in `days_by_service`. With
    0 days they never expire.
    """

    def bound(kept_days: int) -> int | None:
        return at_us - kept_days * DAY_US if kept_days else None

    return Expired(
        bound(days), {canonical_sid(sid): bound(kept) for sid, kept in days_by_service.items()}
    )


class Retention:
    """Deletes expired Interactions while the service runs, in passes PASS_SECONDS apart."""

    def __init__(
        self,
        store: Store,
        days: int,
        days_by_service: Mapping[str, int],
        *,
        now_us: Callable[[], int] = now_us,
    ) -> None:
        """Use `store`, and the retention times as in `retention_criteria`."""
        self._store = store
        self._days = days
        self._days_by_service = dict(days_by_service)
        self._now_us = now_us
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the first pass; do nothing if everything is kept for ever."""
        if self._task is None and (self._days or any(self._days_by_service.values())):
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the current pass after the batch in progress, and start no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        while True:
            now_us = self._now_us()
            expired = retention_criteria(now_us, self._days, self._days_by_service)
            try:
                await bulk_delete(self._store, expired, now_us=now_us, pause_seconds=PAUSE_SECONDS)
            except StoreError as error:
                log.warning("retention goes on at its next pass", cause=str(error))
            except Exception:  # otherwise the task would end, and no later pass would run
                log.exception("retention has failed, and goes on at its next pass")
            await asyncio.sleep(PASS_SECONDS)
