"""A deadline for requests, with one timer for all of them."""

import asyncio
from typing import Self

from interaction_svc.domain.errors import DeadlineExceeded

_OVER = 0.0


class SharedDeadline:
    """Context manager that cancels its block after `seconds`, and raises DeadlineExceeded.

    It works like asyncio.timeout, for one block at a time in each task, and with one timer for all
    tasks. A timer for each request costs 12 µs, a third of the time of an empty request.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[asyncio.Task[object], float] = {}  # in the order of their ends
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        task = _current_task()
        self._ends[task] = end = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(end, self._look, loop)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        task = _current_task()
        is_over = self._ends.pop(task) == _OVER
        # As in asyncio.timeout, a cancellation by another cause must end the task.
        if is_over and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise DeadlineExceeded

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for task, end in self._ends.items():
            if end > now:
                self._timer = loop.call_at(end, self._look, loop)
                return
            if end != _OVER:
                self._ends[task] = _OVER
                task.cancel()


def _current_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 every coroutine runs in a task
    return task
