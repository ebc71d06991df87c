"""Liveness: detects listeners and background tasks that ended unexpectedly.

Without this check the process would look healthy but not serve.
"""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import structlog

log = structlog.get_logger()


class Liveness:
    """Watches listeners and background tasks (parts) until it is stopped."""

    ended: asyncio.Future[str]
    """Done when a part has ended unexpectedly; the result is a text with the part and the cause."""

    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._watching: list[asyncio.Task[str]] = []

    def watch(self, part: str, failure: Coroutine[Any, Any, str]) -> None:
        """Watch a part. `failure` waits until the part ends, and returns the cause."""
        task = asyncio.create_task(failure)
        task.add_done_callback(partial(self._end, part))
        self._watching.append(task)

    async def stop(self) -> None:
        """Stop watching, before the parts are stopped on purpose."""
        for task in self._watching:
            task.cancel()
        if self._watching:
            await asyncio.wait(self._watching)

    def _end(self, part: str, task: asyncio.Task[str]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        # Log only the type of an exception: its text may have bytes of a request.
        cause = task.result() if error is None else type(error).__name__
        log.error("a part of the server has ended unexpectedly", part=part, cause=cause)
        if not self.ended.done():
            self.ended.set_result(f"{part} has ended unexpectedly: {cause}")
