"""Waiting for another process."""

import threading
from collections.abc import Callable
from time import monotonic

_ATTEMPT_SECONDS = 0.02


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Return when the condition is true. Fail if it is not true within `seconds`."""
    end = monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert monotonic() < end, "it did not come about in time"
        pause.wait(_ATTEMPT_SECONDS)
