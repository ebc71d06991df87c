"""The event loop of a process that serves: uvloop's, or asyncio's where uvloop is not installed."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

NAME: str
"""The library that implements the event loop."""
new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    import uvloop
except ImportError:  # some platforms have no wheel of it
    NAME, new_event_loop = "asyncio", asyncio.new_event_loop
else:
    NAME, new_event_loop = "uvloop", uvloop.new_event_loop


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new event loop until it ends, as asyncio.run does."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)
