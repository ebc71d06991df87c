"""Health: the service is healthy while its store can be used and it is not stopping."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from interaction_svc.store import Store, StoreBusyError, StoreError
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.task_failure import failure_of

log = structlog.get_logger()

PROBE_SECONDS = 1.0
"""The interval between two probes of the store."""
PROBE_TIMEOUT_SECONDS = 15.0
"""A probe that takes longer counts as failed, for example because the disk hangs.

It is longer than the wait of a probe for a write lock that another process holds.
"""


class Health:
    """Probes the store at an interval, and notifies listeners of each change.

    `is_serving` is False before `start` and after `stop`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: list[Callable[[bool], Awaitable[None]]] = []
        self._probing: asyncio.Task[None] | None = None
        self._cause = ""
        self.is_serving = False
        metrics.serving.set(0)

    async def listen(self, listener: Callable[[bool], Awaitable[None]]) -> None:
        """Call `listener` with whether the service is serving, now and at each change."""
        self._listeners.append(listener)
        await listener(self.is_serving)

    async def start(self) -> None:
        """Start probing, and return after the first probe. A second call does nothing."""
        if self._probing is not None:
            return
        await self._probe()
        self._probing = asyncio.create_task(self._keep_probing())

    async def failure(self) -> str:
        """Wait until the probing ends without `stop`, and return the cause."""
        if self._probing is None:
            return "it was not started"
        return await failure_of(self._probing)

    async def stop(self) -> None:
        """Stop probing, and set `is_serving` to False. A second call does nothing."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
            self._probing = None
        await self._set(False)

    async def _keep_probing(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._probe()

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                await self._store.probe()
        except StoreBusyError as error:
            if not self.is_serving:
                await self._set(False, str(error))
            # A full write queue does not make a healthy service unhealthy.
        except TimeoutError:
            await self._set(False, "it doesn't answer")
        except StoreError as error:
            await self._set(False, str(error))
        except Exception:  # otherwise the probing would end
            log.exception("the store can't be probed")
            await self._set(False, "it can't be probed")
        else:
            await self._set(True)

    async def _set(self, is_serving: bool, cause: str = "") -> None:
        if is_serving == self.is_serving and cause == self._cause:
            return
        self._cause = cause
        if cause:  # logged before the first success too, and when the cause changes
            log.error("not serving: the store can't be used", cause=cause)
        else:
            log.info("serving" if is_serving else "not serving: stopping")
        if is_serving == self.is_serving:
            return
        self.is_serving = is_serving
        metrics.serving.set(is_serving)
        for listener in self._listeners:
            await listener(is_serving)
