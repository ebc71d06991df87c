"""Admit: refuses what is more than the service takes on, and what takes too long.

The deadline is for callers that set none: grpc ends a call at its own client's deadline itself.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from interaction_svc.calls import this_call
from interaction_svc.deadline import Deadline
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

    So are the methods of `exempt`. Those of `reads` change nothing, and may be refused at the end.

    A call without a deadline gets one; a stream of requests gets it for each of its requests.
    """

    def __init__(
        self,
        concurrency: Concurrency,
        deadline_seconds: float,
        *,
        reads: frozenset[str],
        exempt: frozenset[str],
    ) -> None:
        self._concurrency = concurrency
        self._deadline_seconds = deadline_seconds
        self._deadline = Deadline(deadline_seconds)
        self._reads = reads
        self._exempt = exempt
        self._unsent = Unsent()

    def refuses(self, method: str) -> bool:
        """Say whether a call to this method would be refused now."""
        return self._concurrency.is_full and not self._is_exempt(method)

    def _is_exempt(self, method: str) -> bool:
        return method.startswith(HEALTH_PREFIX) or method in self._exempt

    def around(self, method: str, behavior: Behavior) -> Behavior:
        """Admit calls."""
        if self._is_exempt(method):
            return behavior

        is_read = method in self._reads

        async def admitted(request: Any, context: Context) -> Any:
            call = this_call()
            self._unsent.check(call)
            with self._concurrency.slot():
                if context.time_remaining() is not None:
                    answer = await behavior(request, context)
                elif not isinstance(request, bytes):
                    answer = await behavior(self._each_in_time(request), context)
                else:
                    try:
                        with self._deadline:
                            answer = await behavior(request, context)
                    except TimeoutError as error:
                        raise DeadlineExceeded from error
            if is_read:  # what is written must not be refused afterwards
                self._unsent.check(call, len(answer))
            task = asyncio.current_task()
            if answer is not None and task is not None:  # which sends it when this has returned
                self._unsent.hold(call, len(answer), task)
            return answer

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
