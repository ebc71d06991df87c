"""Queues of calls that wait for a place or for their share, and the limit on their number."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from interaction_svc.admission.share import Share
from interaction_svc.domain.errors import Overloaded
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.metric_buffer import add, observe


class WaitQueue(deque["asyncio.Future[None]"]):
    """Tasks that wait until something is passed to them, in the order of their arrival."""

    async def wait(self, return_it: Callable[[], None]) -> None:
        """Wait until `pass_on` selects this task.

        If the task is cancelled after that and before it continues, `return_it` is called.
        """
        turn = asyncio.get_running_loop().create_future()
        self.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                return_it()
            else:
                with suppress(ValueError):  # `pass_on` has removed it already
                    self.remove(turn)
            raise

    def pass_on(self) -> bool:
        """Select the first task. Return False if no task waits."""
        while self:
            turn = self.popleft()
            if not turn.done():  # a cancelled task has not run since
                turn.set_result(None)
                return True
        return False


class WaitingCalls:
    """The number of calls that wait, which is limited in total and for each name."""

    def __init__(self, most: int, share: float) -> None:
        self._most = most
        self._count = 0
        self._of_name = Share(math.ceil(most * share))

    @property
    def is_full(self) -> bool:
        """Return whether no further call may wait."""
        return self._count >= self._most

    @contextmanager
    def one(self, name: str, refusal: Callable[[], Overloaded] = Overloaded) -> Iterator[None]:
        """Count a call of this name while it waits. Raises `refusal()` beyond the limits."""
        if self.is_full or not self._of_name.take(name):
            raise refusal()
        self._count += 1
        add(metrics.waiting_calls, 1)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            yield
        finally:
            observe(metrics.call_wait_seconds, loop.time() - begun)
            add(metrics.waiting_calls, -1)
            self._count -= 1
            self._of_name.refund(name)
