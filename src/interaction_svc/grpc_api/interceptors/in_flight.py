"""InFlight: knows which calls are being worked on, so that a drain can wait for the right ones.

grpc.aio's own `stop` can return while a handler still runs, and waits for streams that never end,
such as health's Watch.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from inspect import isasyncgenfunction
from typing import Any

import grpc

from interaction_svc.grpc_api.interceptors.base import Behavior, Context, Handler, Interceptor


class InFlight(Interceptor):
    """Counts the calls with one response, and keeps the tasks of those with a stream of them."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._streams: set[asyncio.Task[Any]] = set()
        self._ending = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def call(self, behavior: Behavior, request: Any, context: Context) -> bytes:
        """Make the call."""
        self._count += 1
        self._idle.clear()
        try:
            return await behavior(request, context)
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    async def idle(self) -> None:
        """Return when no call with one response is being worked on."""
        await self._idle.wait()

    def end_streams(self) -> None:
        """End the calls that answer with a stream, which would go on for ever: UNAVAILABLE."""
        self._ending = True
        for task in self._streams:
            task.cancel()

    def _wrap(self, handler: Handler) -> Handler:
        if not handler.response_streaming:
            return super()._wrap(handler)
        behavior: Any = handler.stream_stream or handler.unary_stream

        async def pushing(request: Any, context: Context) -> None:  # as health's Watch does
            async with self._stream(context):
                await behavior(request, context)

        async def yielding(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._stream(context):
                async for response in behavior(request, context):
                    yield response

        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        wrapped: Handler = make(
            yielding if isasyncgenfunction(behavior) else pushing,
            handler.request_deserializer,
            handler.response_serializer,
        )
        return wrapped

    @asynccontextmanager
    async def _stream(self, context: Context) -> AsyncIterator[None]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 grpc.aio runs every call in a task of its own
        self._streams.add(task)
        try:
            if self._ending:
                raise asyncio.CancelledError
            yield
        except asyncio.CancelledError:
            if self._ending:  # without a status, grpc.aio would keep the call open until the end
                await context.abort(grpc.StatusCode.UNAVAILABLE, "The service is shutting down")
            raise
        finally:
            self._streams.discard(task)
