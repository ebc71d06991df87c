"""Log lines about the progress of a migration, for programs without a terminal."""

import time

import structlog

_SECONDS_BETWEEN_LINES = 10.0

log = structlog.get_logger()


class LoggedProgress:
    """Logs the progress of a migration at most every 10 seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        """Log a line unless the last one is less than 10 seconds old."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _SECONDS_BETWEEN_LINES
            log.info("migrating the store", step=step, done=done, total=total)
