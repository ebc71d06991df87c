"""A clock that a test sets."""


class Time:
    """A replacement for time.monotonic, which returns `now`, in seconds."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now
