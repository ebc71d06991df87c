"""Reads the request of calls that have one request, in bounded memory."""

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from interaction_svc.domain.errors import DeadlineExceeded, MalformedRequest
from interaction_svc.transports.operations import Operation

if TYPE_CHECKING:
    from interaction_svc.transports.grpcio.interceptors.chain import Behavior, Context

MAX_UNLIMITED = 64
"""Requests of calls without a place that are read at the same time. Beyond it the oldest ends."""
UNLIMITED_SECONDS = 5.0
"""The time limit for the request of a call without a place to arrive."""


class RequestReader:
    """Reads requests as the innermost stage of a call.

    grpc takes the bytes of a request beyond the first 64 KiB only when it is read. So it takes them
    only from callers that are identified, for calls that hold a place and have a deadline. Calls of
    health need neither, so their unfinished requests are limited here.
    """

    def __init__(self) -> None:
        self._unlimited: dict[asyncio.Timeout, None] = {}

    def reads(self, operation: Operation, behavior: "Behavior") -> "Behavior":
        """Return a behavior that reads the request of a call. Its own argument is ignored."""

        async def limited(_: Any, context: "Context") -> Any:
            return await behavior(await _checked(await context.read(), context), context)

        async def unlimited(_: Any, context: "Context") -> Any:
            return await behavior(await _checked(await self._read(context), context), context)

        return limited if operation.is_limited else unlimited

    async def _read(self, context: "Context") -> Any:
        try:
            async with asyncio.timeout(UNLIMITED_SECONDS) as limit:
                self._unlimited[limit] = None
                try:
                    if len(self._unlimited) > MAX_UNLIMITED:
                        oldest = next(iter(self._unlimited))
                        del self._unlimited[oldest]
                        oldest.reschedule(0)  # it expires at once
                    return await context.read()
                finally:
                    self._unlimited.pop(limit, None)
        except TimeoutError as error:
            raise DeadlineExceeded("The request did not arrive in time") from error


async def _checked(request: Any, context: "Context") -> bytes:
    if request is grpc.aio.EOF:
        # It is the end of a cancelled call, too. Then this raises, for nothing can be sent.
        await context.send_initial_metadata(())
        raise MalformedRequest("The call has no request message")
    message: bytes = request
    return message
