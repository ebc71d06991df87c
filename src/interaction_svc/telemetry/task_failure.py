"""A description of the failure of a background task."""

import asyncio
from typing import Any


async def failure_of(task: asyncio.Task[Any]) -> str:
    """Wait for the end of a task that should never end, and return the cause of its end.

    For an exception only the class is returned: its text may contain data of a client.
    """
    await asyncio.wait([task])
    if task.cancelled():
        return "it was cancelled"
    error = task.exception()
    return "it has returned" if error is None else type(error).__name__
