"""Interrupts a stream when its key is revoked, even if nothing is sent on the stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Self, TypeVar

from interaction_svc.app.authentication import Authenticator
from interaction_svc.domain.errors import ServiceError, Unauthenticated
from interaction_svc.telemetry.request_context import RequestContext
from interaction_svc.transports.pipeline.interruptible import Interruptible

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
