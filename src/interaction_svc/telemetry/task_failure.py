"""Why a background task has ended."""

import asyncio
from typing import Any


async def failure_of(task: asyncio.Task[Any]) -> str:
    """Wait for the end of a task that should never end, and return why it ended.

    Of an exception only the class is named: its text may hold what a client sent.
    """
    await asyncio.wait([task])
    if task.cancelled():
        return "it was cancelled"
    error = task.exception()
    return "it has returned" if error is None else type(error).__name__
