"""A token bucket for each of many names, in bounded memory."""

import time
from collections.abc import Callable

_ROUNDING = 1e-9
Clock = Callable[[], float]


class KeyedTokenBucket:
    """A token bucket for each name: `per_second` on average, and up to `burst` at once.

    Kept as one time a name, at which its bucket will be full again (the generic cell rate
    algorithm). Names whose bucket is full are forgotten when there are many, so memory is bounded
    by how many names are active at once.
    """

    MAX_NAMES = 10_000

    def __init__(self, per_second: float, burst: float, clock: Clock = time.monotonic) -> None:
        self._interval = 1 / per_second
        self._tolerance = (burst - 1) * self._interval
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def take(self, name: str) -> float:
        """Take a token; give 0, or the seconds to wait until there is one, and then take none."""
        now = self._clock()
        full_at = max(self._full_at.get(name, now), now)
        wait = full_at - self._tolerance - now
        if wait > _ROUNDING:
            return wait
        if name not in self._full_at and len(self._full_at) >= self.MAX_NAMES:
            self._forget(now)
        self._full_at[name] = full_at + self._interval
        return 0.0

    def refund(self, name: str) -> None:
        """Put a token back."""
        if name in self._full_at:
            self._full_at[name] -= self._interval

    def _forget(self, now: float) -> None:
        kept = [(name, at) for name, at in self._full_at.items() if at > now]
        # Better to forget the oldest than to grow; and many at once, for to look costs as many.
        self._full_at = dict(kept[-(self.MAX_NAMES // 2) :])
