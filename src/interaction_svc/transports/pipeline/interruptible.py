"""A block in which an error can be raised from outside."""

import asyncio
from types import TracebackType


class Interruptible:
    """A block in which a task can be interrupted with an error; one task at a time."""

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._task: asyncio.Task[object] | None = None

    def interrupt(self, error: Exception) -> None:
        """Raise the error in the task that is in the block, or in the next that enters it."""
        self._error = error
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> None:
        if self._error is not None:
            raise self._error
        self._task = asyncio.current_task()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if self._error is None or task is None:
            return
        # As in asyncio.timeout: if something else has cancelled the task too, it stays cancelled.
        if task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise self._error from None
