"""Interrupts a stream when its key is revoked, even if nothing is sent on the stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Self, TypeVar

from interaction_svc.app.authentication import Authenticator
from interaction_svc.domain.errors import ServiceError, Unauthenticated
from interaction_svc.telemetry.request_context import RequestContext

T = TypeVar("T")

CHECK_SECONDS = 1.0
"""The interval of the checks of a key. The Authenticator may cache a success for 2 s more."""


class KeyWatch:
    """Context manager that checks the key of a stream every CHECK_SECONDS.

    Once the key is invalid, Unauthenticated is raised in the task that is in `interruptible`, or in
    the next task that enters it. Other errors of a check, such as an unavailable store, are
    ignored.
    """

    def __init__(self, authenticator: Authenticator, request: RequestContext) -> None:
        self._authenticator = authenticator
        self._authorization = request.authorization
        self.interruptible = Interruptible()

    def __enter__(self) -> Self:
        self._checking = asyncio.create_task(self._check())
        return self

    def __exit__(self, *_: object) -> None:
        self._checking.cancel()

    async def interrupt_between(self, requests: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """Yield the requests of a stream, which can be interrupted only between two requests.

        Therefore the outcome of each request is known when the stream ends.
        """
        while True:
            try:
                with self.interruptible:
                    request = await anext(requests)
            except StopAsyncIteration:
                return
            yield request

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
        self._error: Exception | None = None
        self._task: asyncio.Task[object] | None = None

    def interrupt(self, error: Exception) -> None:
        """Raise the error in the task that is in the block, or in the next that enters it."""
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
        # As in asyncio.timeout: if something else has cancelled the task too, it stays cancelled.
        if task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise self._error from None
