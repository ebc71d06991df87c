"""Cache of the secret hashes of all keys that are not revoked.

It recognizes a wrong secret without a look-up in the store.
"""

import asyncio
import time

from interaction_svc.admission.token_bucket import Clock
from interaction_svc.app.store_calls import store_call
from interaction_svc.store import Store

FRESH_SECONDS = 2.0
"""The maximum age of the hashes, unless loading them is slow."""
_SHARE = 20
"""The hashes are kept at least 20 times as long as it took to load them."""


class KeyHashes:
    """Loads the hashes from the store on demand, when the cached ones are too old."""

    def __init__(self, store: Store, clock: Clock = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._hashes: frozenset[bytes] = frozenset()
        self._fresh_until = 0.0
        self._loading: asyncio.Task[None] | None = None

    async def has(self, secret_hash: bytes) -> bool:
        """Return whether a key that is not revoked has this hash. Raises Unavailable, Overloaded.

        It is also False for a key that was created after the hashes were loaded.
        """
        if self._fresh_until <= self._clock():
            if self._loading is None:  # concurrent callers share one load
                self._loading = asyncio.create_task(self._load())
                self._loading.add_done_callback(self._end_load)
            await asyncio.shield(self._loading)
        return secret_hash in self._hashes

    async def _load(self) -> None:
        begun = self._clock()
        with store_call("keys"):
            keys = await self._store.keys()
        self._hashes = frozenset(key.secret_hash for key in keys if key.revoked_us is None)
        now = self._clock()
        self._fresh_until = now + max(FRESH_SECONDS, _SHARE * (now - begun))

    def _end_load(self, loading: asyncio.Task[None]) -> None:
        self._loading = None
        if not loading.cancelled():
            loading.exception()  # retrieved, so that asyncio does not log it
