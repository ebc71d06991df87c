"""Admit: refuses what is more than the service takes on, and ends what takes too long.

A client's own deadline, which grpc keeps by itself, can only be shorter than the service's.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.deadline import SharedDeadline
from interaction_svc.admission.response_backlog import ResponseBacklog
from interaction_svc.domain.errors import DeadlineExceeded, StreamIdle
from interaction_svc.telemetry.request_context import RequestContext, current_request
from interaction_svc.transports.grpcio.interceptors.chain import (
    HEALTH_PREFIX,
    Behavior,
    Context,
    Interceptor,
    Method,
)


class Times(NamedTuple):
    """How long calls may take, in seconds."""

    call: float
    """A call without streams."""
    idle: float
    """The wait for the next request of a stream of requests."""
    stream: float
    """A stream of requests."""


class Admit(Interceptor):
    """Holds a place for each call, within the limit. Health is exempt, and may be watched for ever.

    So are the methods of `exempt`. Those of `reads` change nothing, and may be refused at the end.

    Time limits depend on the kind of the method. Without streams, the whole call has one. A stream
    of requests with one answer has two, for the wait for each request and for the whole. A stream
    of answers has none: it lasts until its client, its key or its connection ends it.
    """

    def __init__(
        self,
        concurrency: ConcurrencyLimit,
        times: Times,
        unsent: ResponseBacklog,
        *,
        reads: frozenset[str],
        exempt: frozenset[str],
    ) -> None:
        self._concurrency = concurrency
        self._times = times
        self._deadline = SharedDeadline(times.call)
        self._reads = reads
        self._exempt = exempt
        self._unsent = unsent

    def refuses(self, method: str) -> bool:
        """Return whether a call to this method would be refused now."""
        return self._concurrency.is_full and not self._is_exempt(method)

    def _is_exempt(self, method: str) -> bool:
        return method.startswith(HEALTH_PREFIX) or method in self._exempt

    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Admit calls."""
        if self._is_exempt(method.name):
            return behavior
        if method.response_streaming:
            return self._streaming_answers(behavior)

        is_read = method.name in self._reads
        is_stream = method.request_streaming

        async def admitted(request: Any, context: Context) -> Any:
            call = current_request()
            self._unsent.check(call)
            with self._concurrency.slot():
                if is_stream:
                    answer = await behavior(self._in_time(request), context)
                else:
                    try:
                        with self._deadline:
                            answer = await behavior(request, context)
                    except TimeoutError as error:
                        raise DeadlineExceeded from error
            if is_read:  # what is written must not be refused afterwards
                self._unsent.check(call, len(answer))
            task = asyncio.current_task()
            if task is not None:  # which sends the answer when this has returned
                self._unsent.hold(call, len(answer), task)
            return answer

        return admitted

    def _streaming_answers(self, behavior: Behavior) -> Behavior:
        async def admitted(request: Any, context: Context) -> None:
            call = current_request()
            self._unsent.check(call)
            with self._concurrency.slot():
                counted: Any = _CountedAnswers(context, call, self._unsent)
                await behavior(request, counted)

        return admitted

    async def _in_time(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Pass on the requests of a stream. Raises StreamIdle, DeadlineExceeded."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._times.stream
        while True:
            idle_end = loop.time() + self._times.idle
            try:
                async with asyncio.timeout_at(min(idle_end, end)):
                    request = await anext(requests)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                if idle_end < end:
                    raise StreamIdle(self._times.idle) from error
                raise DeadlineExceeded(
                    f"The stream took longer than {self._times.stream:g} seconds,"
                    " the most that a stream may take"
                ) from error
            yield request


class _CountedAnswers:
    """The context of a stream of answers, each of which counts as unsent while it is written.

    `write` returns once grpc has passed the answer on, for which the client has to read.
    """

    def __init__(self, context: Any, call: RequestContext, unsent: ResponseBacklog) -> None:
        self._context = context
        self._call = call
        self._unsent = unsent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, answer: bytes) -> None:
        """Write an answer. Raises Overloaded if too many wait already."""
        self._unsent.check(self._call, len(answer))
        release = self._unsent.held(self._call, len(answer))
        try:
            await self._context.write(answer)
        except BaseException:  # grpc keeps the answer until the call is over
            self._context.add_done_callback(lambda _: release())
            raise
        release()
