"""Health: the service is healthy while its store is usable and it is not stopping."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from interaction_svc.store import Store, StoreBusyError, StoreError
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.task_failure import failure_of

log = structlog.get_logger()

PROBE_SECONDS = 1.0
"""The interval between probes of the store."""
PROBE_TIMEOUT_SECONDS = 15.0
"""After which time a probe that doesn't return has failed: a disk may hang.

More than it takes to find, behind somebody else's commit, that the lock isn't to be had.
"""


class Health:
    """Follows the store by probing it, and tells those who listen of every change.

    Not serving until it has been started, and for good once it is told to stop.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: list[Callable[[bool], Awaitable[None]]] = []
        self._probing: asyncio.Task[None] | None = None
        self._cause = ""
        self.is_serving = False
        metrics.serving.set(0)

    async def listen(self, listener: Callable[[bool], Awaitable[None]]) -> None:
        """Call `listener` with the present status, and again whenever it changes."""
        self._listeners.append(listener)
        await listener(self.is_serving)

    async def start(self) -> None:
        """Begin to follow the store; the first probe is done when it returns.

        Doing it again does nothing.
        """
        if self._probing is not None:
            return
        await self._probe()
        self._probing = asyncio.create_task(self._keep_probing())

    async def failure(self) -> str:
        """Return why the probing has ended, once it has by itself."""
        if self._probing is None:
            return "it was not started"
        return await failure_of(self._probing)

    async def stop(self) -> None:
        """Turn not serving for good. Doing it again does nothing."""
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
            # Else it has much to do, and does it.
        except TimeoutError:
            await self._set(False, "it doesn't answer")
        except StoreError as error:
            await self._set(False, str(error))
        except Exception:  # or nobody would look any more
            log.exception("the store can't be probed")
            await self._set(False, "it can't be probed")
        else:
            await self._set(True)

    async def _set(self, is_serving: bool, cause: str = "") -> None:
        if is_serving == self.is_serving and cause == self._cause:
            return
        self._cause = cause
        if cause:  # also where it never was serving, or another cause has taken over
            log.error("not serving: the store can't be used", cause=cause)
        else:
            log.info("serving" if is_serving else "not serving: stopping")
        if is_serving == self.is_serving:
            return
        self.is_serving = is_serving
        metrics.serving.set(is_serving)
        for listener in self._listeners:
            await listener(is_serving)
