"""Token buckets by name, in bounded memory."""

import time
from collections.abc import Callable

_ROUNDING = 1e-9
Clock = Callable[[], float]


class KeyedTokenBucket:
    """A token bucket for each name: `per_second` tokens on average, and up to `burst` at once.

    A bucket is stored as the time at which it will be full again (the generic cell rate algorithm).
    When there are MAX_NAMES buckets, full buckets are dropped, and then the oldest ones.
    """

    MAX_NAMES = 10_000

    def __init__(self, per_second: float, burst: float, clock: Clock = time.monotonic) -> None:
        self._interval = 1 / per_second
        self._tolerance = (burst - 1) * self._interval
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def take(self, name: str) -> float:
        """Remove a token and return 0. If there is none, return the seconds until there is one."""
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
        """Return a token to the bucket."""
        if name in self._full_at:
            self._full_at[name] -= self._interval

    def _forget(self, now: float) -> None:
        kept = [(name, at) for name, at in self._full_at.items() if at > now]
        # Half of the names are dropped at once, because dropping one costs the same search.
        self._full_at = dict(kept[-(self.MAX_NAMES // 2) :])
