"""KeyWatch: interrupts a stream whose key is revoked, also if nothing is sent on it."""

import asyncio
from types import TracebackType
from typing import Self

from interaction_svc.app.authentication import Authenticator
from interaction_svc.domain.errors import ServiceError, Unauthenticated
from interaction_svc.telemetry.request_context import RequestContext

CHECK_SECONDS = 1.0
"""How often a stream's key is checked. The Authenticator may know it for 2 seconds more."""


class KeyWatch:
    """Checks the key of a call while the block runs.

    Once it is found to be wrong, the task within `interruptible`, or the next to enter it, gets
    Unauthenticated there. What says nothing of the key, such as a store that can't be read, changes
    nothing.
    """

    def __init__(self, authenticator: Authenticator, call: RequestContext) -> None:
        self._authenticator = authenticator
        self._authorization = call.authorization
        self.interruptible = Interruptible()

    def __enter__(self) -> Self:
        self._checking = asyncio.create_task(self._check())
        return self

    def __exit__(self, *_: object) -> None:
        self._checking.cancel()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self._authenticator.check_again(self._authorization)
            except Unauthenticated:
                self.interruptible.interrupt(Unauthenticated())
                return
            except ServiceError:
                continue


class Interruptible:
    """A block in which a task can be interrupted with an error; one task at a time."""

    def __init__(self) -> None:
        self._error: ServiceError | None = None
        self._task: asyncio.Task[object] | None = None

    def interrupt(self, error: ServiceError) -> None:
        """Raise the error in the task that is in the block, or else in the next that enters it."""
        self._error = error
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> None:
        if self._error is not None:
            raise self._error
        self._task = asyncio.current_task()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if self._error is None or task is None:
            return
        # As asyncio.timeout: whoever else has cancelled the task means it to end.
        if task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise self._error from None
