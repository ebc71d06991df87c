"""The progress of a migration in the log, for who opens a store without a terminal."""

import time

import structlog

_SECONDS_BETWEEN_LINES = 10.0

log = structlog.get_logger()


class LoggedProgress:
    """Writes how far a migration has come to the log, every 10 seconds at most."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        """Write a line if the last one is long enough ago."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _SECONDS_BETWEEN_LINES
            log.info("migrating the store", step=step, done=done, total=total)
