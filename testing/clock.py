"""A clock that a test turns."""


class Time:
    """Seconds, as time.monotonic gives them."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now
