"""Admit: refuses what is more than the service takes on, and what takes too long.

The deadline is for callers that set none: grpc ends a call at its own client's deadline itself.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from interaction_svc.calls import this_call
from interaction_svc.errors import DeadlineExceeded
from interaction_svc.grpc_api.interceptors.base import (
    HEALTH_PREFIX,
    Behavior,
    Context,
    Interceptor,
)
from interaction_svc.limits import Concurrency, Unsent


class Admit(Interceptor):
    """Holds a place for each call, within the limit. Health is exempt, and may be watched for ever.

    A call without a deadline gets one; a stream of requests gets it for each of its requests.
    """

    def __init__(self, concurrency: Concurrency, deadline_seconds: float) -> None:
        self._concurrency = concurrency
        self._deadline_seconds = deadline_seconds
        self._unsent = Unsent()

    def refuses(self, method: str) -> bool:
        """Say whether a call to this method would be refused now."""
        return self._concurrency.is_full and not method.startswith(HEALTH_PREFIX)

    def around(self, method: str, behavior: Behavior) -> Behavior:
        """Admit calls."""
        if method.startswith(HEALTH_PREFIX):
            return behavior

        async def admitted(request: Any, context: Context) -> Any:
            peer = this_call().peer
            self._unsent.check(peer)
            answer = await worked_on(request, context)
            task = asyncio.current_task()
            if answer is not None and task is not None:  # which sends it when this has returned
                self._unsent.hold(peer, len(answer), task)
            return answer

        async def worked_on(request: Any, context: Context) -> Any:
            with self._concurrency.slot():
                if context.time_remaining() is not None:
                    return await behavior(request, context)
                if not isinstance(request, bytes):
                    return await behavior(self._each_in_time(request), context)
                try:
                    async with asyncio.timeout(self._deadline_seconds):
                        return await behavior(request, context)
                except TimeoutError as error:
                    raise DeadlineExceeded from error

        return admitted

    async def _each_in_time(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        while True:
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    request = await anext(requests)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise DeadlineExceeded from error
            yield request
