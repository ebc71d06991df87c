"""A time limit of a connection, which is set and lifted with every request."""

import asyncio
from collections.abc import Callable


class ConnectionTimer:
    """Calls something once after a time, unless it is lifted or set anew before.

    To set or lift it is to write down a time. One timer stays, and looks at that when it is over:
    to cancel one and start another for every request costs 5 microseconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._until = 0.0
        self._then: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` after this time, and not what was to be called before."""
        self._until, self._then = self._loop.time() + seconds, then
        if self._timer is not None:
            if self._timer.when() <= self._until:
                return
            self._timer.cancel()
        self._start()

    def lift(self) -> None:
        """Call nothing."""
        self._then = None

    def end(self) -> None:
        """Call nothing, and keep no timer."""
        self._then = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self._timer = self._loop.call_at(self._until, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._then is None:
            return
        if self._loop.time() < self._until:
            self._start()
            return
        then, self._then = self._then, None
        then()
