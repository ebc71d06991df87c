"""Admission: refuses calls beyond the limits, and ends calls that take too long.

grpc itself enforces the deadline of the client. The earlier of both deadlines ends a call.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from interaction_svc.admission.response_backlog import ResponseBacklog
from interaction_svc.telemetry.request_context import RequestContext, current_request
from interaction_svc.transports.grpcio.interceptors.chain import Behavior, Context, Interceptor
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline import Pipeline, StreamTimes


class Admission(Interceptor):
    """Holds a place for each call, and ends calls that take too long.

    Every response counts as unread until grpc has sent it, because grpc keeps a copy until then.
    """

    def __init__(self, pipeline: Pipeline, times: StreamTimes) -> None:
        self._pipeline = pipeline
        self._times = times
        self._backlog = pipeline.response_backlog

    def around(self, operation: Operation, behavior: Behavior) -> Behavior:
        """Admit calls."""
        if not operation.is_limited:
            return behavior
        if operation.kind.streams_responses:
            return self._around_responses(operation, behavior)
        pipeline = self._pipeline
        changes_nothing, has_deadline = operation.changes_nothing, operation.has_deadline

        async def admitted(request: Any, context: Context) -> Any:
            call = current_request()
            self._backlog.check(call)
            if has_deadline:
                with (
                    pipeline.deadline,
                    pipeline.place()
                    or await pipeline.wait_for_place(operation, call.authorization),
                ):
                    response = await behavior(request, context)
            else:
                with pipeline.place() or await pipeline.wait_for_place(
                    operation, call.authorization
                ):
                    requests = self._times.limit(_to_their_end(request, context))
                    response = await behavior(requests, context)
            if changes_nothing:  # a write has happened, so its response is always sent
                self._backlog.check(call, len(response))
            task = asyncio.current_task()
            if task is not None:  # the task sends the response after this function has returned
                self._backlog.hold(call, len(response), task)
            return response

        return admitted

    def _around_responses(self, operation: Operation, behavior: Behavior) -> Behavior:
        pipeline = self._pipeline

        async def admitted(request: Any, context: Context) -> None:
            call = current_request()
            self._backlog.check(call)
            with pipeline.place() or await pipeline.wait_for_place(operation, call.authorization):
                counted: Any = _CountedResponses(context, call, self._backlog)
                await behavior(request, counted)

        return admitted


async def _to_their_end(
    requests: AsyncIterator[bytes], context: Context
) -> AsyncGenerator[bytes, None]:
    """Yield the requests of a stream. Raises grpc.aio.BaseError if the call was cancelled.

    grpc ends the requests without an error if the client cancels the call or its deadline passes.
    Only then nothing can be sent.
    """
    async for request in requests:
        yield request
    await context.send_initial_metadata(())


class _CountedResponses:
    """Wraps the context of a stream of responses. A response counts as unread while it is written.

    `write` returns once grpc has sent the response, which it does only if the client reads.
    """

    def __init__(self, context: Any, call: RequestContext, backlog: ResponseBacklog) -> None:
        self._context = context
        self._call = call
        self._backlog = backlog

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, response: bytes) -> None:
        """Write a response. Raises Overloaded if too many bytes wait already."""
        self._backlog.check(self._call, len(response))
        release = self._backlog.held(self._call, len(response))
        try:
            await self._context.write(response)
        except BaseException:  # grpc keeps the response until the call is over
            self._context.add_done_callback(lambda _: release())
            raise
        release()
