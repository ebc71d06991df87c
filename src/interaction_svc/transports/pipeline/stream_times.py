"""The time limits of a stream of requests."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple, TypeVar

from interaction_svc.domain.errors import DeadlineExceeded, StreamIdle

T = TypeVar("T")


class StreamTimes(NamedTuple):
    """Time limits of a stream of requests, in seconds."""

    idle: float
    """The limit of the wait for the next request."""
    total: float

    async def limit(self, requests: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """Yield the requests of a stream. Raises StreamIdle, DeadlineExceeded."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.total
        while True:
            idle_end = loop.time() + self.idle
            try:
                async with asyncio.timeout_at(min(idle_end, end)):
                    request = await anext(requests)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                if idle_end < end:
                    raise StreamIdle(self.idle) from error
                raise DeadlineExceeded(
                    f"The stream took longer than {self.total:g} seconds,"
                    " the most that a stream may take"
                ) from error
            yield request
