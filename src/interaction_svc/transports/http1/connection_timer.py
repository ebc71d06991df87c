"""A time limit of a connection, which every request starts and stops."""

import asyncio
from collections.abc import Callable


class ConnectionTimer:
    """Calls a function once after a time, unless it is stopped or started again before.

    `start` and `stop` only note the time. One timer of the loop stays and compares it with the
    clock when it fires. To cancel a timer and start another for every request would take 8
    microseconds instead of 1: 5 % of a request.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._until = 0.0
        self._then: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` after `seconds`, in place of the function of an earlier start."""
        self._until, self._then = self._loop.time() + seconds, then
        if self._timer is not None:
            if self._timer.when() <= self._until:
                return
            self._timer.cancel()
        self._schedule()

    def stop(self) -> None:
        """Call nothing, until the next start."""
        self._then = None

    def close(self) -> None:
        """Call nothing, and cancel the loop's timer."""
        self._then = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._timer = self._loop.call_at(self._until, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._then is None:
            return
        if self._loop.time() < self._until:
            self._schedule()
            return
        then, self._then = self._then, None
        then()
