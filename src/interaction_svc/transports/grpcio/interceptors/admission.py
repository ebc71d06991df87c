"""Admission: refuses calls beyond the limits, and ends calls that take too long.

grpc keeps a client's own deadline by itself. It can only be shorter than the service's.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from interaction_svc.admission.response_backlog import ResponseBacklog
from interaction_svc.domain.errors import DeadlineExceeded, StreamIdle
from interaction_svc.telemetry.request_context import RequestContext, current_request
from interaction_svc.transports.grpcio.interceptors.chain import (
    Behavior,
    Context,
    Interceptor,
    Method,
)
from interaction_svc.transports.pipeline import Pipeline


class StreamTimes(NamedTuple):
    """Time limits of a stream of requests, in seconds."""

    idle: float
    """The wait for the next request."""
    whole: float


class Admission(Interceptor):
    """Holds a place for each call, and ends calls that take too long.

    A unary call has one time limit. A stream of requests has two: for the wait for each request,
    and for the whole. A stream of responses has none: it lasts until its client, its key or its
    connection ends it.
    """

    def __init__(self, pipeline: Pipeline, times: StreamTimes) -> None:
        self._pipeline = pipeline
        self._times = times
        self._backlog = pipeline.response_backlog

    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Admit calls."""
        if not method.operation.is_limited:
            return behavior
        if method.response_streaming:
            return self._streaming_answers(behavior)

        changes_nothing = method.operation.changes_nothing
        is_stream = method.request_streaming

        async def admitted(request: Any, context: Context) -> Any:
            call = current_request()
            self._backlog.check(call)
            with self._pipeline.place():
                if is_stream:
                    answer = await behavior(self._in_time(request), context)
                else:
                    with self._pipeline.deadline:
                        answer = await behavior(request, context)
            if changes_nothing:  # what is written must not be refused afterwards
                self._backlog.check(call, len(answer))
            task = asyncio.current_task()
            if task is not None:  # which sends the answer when this has returned
                self._backlog.hold(call, len(answer), task)
            return answer

        return admitted

    def _streaming_answers(self, behavior: Behavior) -> Behavior:
        async def admitted(request: Any, context: Context) -> None:
            call = current_request()
            self._backlog.check(call)
            with self._pipeline.place():
                counted: Any = _CountedAnswers(context, call, self._backlog)
                await behavior(request, counted)

        return admitted

    async def _in_time(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Pass on the requests of a stream. Raises StreamIdle, DeadlineExceeded."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._times.whole
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
                    f"The stream took longer than {self._times.whole:g} seconds,"
                    " the most that a stream may take"
                ) from error
            yield request


class _CountedAnswers:
    """The context of a stream of responses, each of which counts as unsent while it is written.

    `write` returns once grpc has passed the answer on, for which the client has to read.
    """

    def __init__(self, context: Any, call: RequestContext, backlog: ResponseBacklog) -> None:
        self._context = context
        self._call = call
        self._backlog = backlog

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, answer: bytes) -> None:
        """Write an answer. Raises Overloaded if too many wait already."""
        self._backlog.check(self._call, len(answer))
        release = self._backlog.held(self._call, len(answer))
        try:
            await self._context.write(answer)
        except BaseException:  # grpc keeps the answer until the call is over
            self._context.add_done_callback(lambda _: release())
            raise
        release()
