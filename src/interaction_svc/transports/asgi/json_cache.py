"""A cache of the JSON of rows."""

import asyncio
from collections.abc import Callable, Iterator

from interaction_svc.codec.encoded import DamagedEncodingError, decode_item, split_encoded
from interaction_svc.domain.errors import DataLoss
from interaction_svc.domain.units import MIB
from interaction_svc.v1.interaction_pb2 import Interaction

KEPT_BYTES = 16 * MIB
"""The maximum size of the cache, rows and JSON together. One page may exceed it."""
SECONDS_KEPT = 60.0
"""An unused entry is dropped after one to two times this time."""

_OVERHEAD_BYTES = 200
"""The memory overhead of an entry: two objects and a slot of the dict."""


class JsonCache:
    """Renders rows as JSON. The second request for a row caches its JSON.

    A client that polls a list or pages through a Session gets the same rows repeatedly. The cache
    key is the stored bytes of a row. A lookup takes 1/15 of the time of rendering. The store is
    read for each request, so the cache never returns a row that has changed or was deleted. The
    first request for a row caches nothing, because caching every row would make the first read 20 %
    slower.

    The cache has two generations. A row that is used moves to the younger one. When the younger one
    exceeds half of KEPT_BYTES or is SECONDS_KEPT old, the older one is dropped, and the younger one
    takes its place.
    """

    def __init__(self, render: Callable[[Interaction], bytes]) -> None:
        """Create an empty cache. `render` returns the JSON of an Interaction."""
        self._render = render
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._young_bytes = 0
        self._asked_for: set[int] = set()  # hashes of rows requested once
        self._timer: asyncio.TimerHandle | None = None

    def render_page(self, encoded: bytes) -> list[bytes]:
        """Return the JSON of each row of joined encoded rows. Raises DataLoss."""
        return self.render_rows(split_rows(encoded))

    def render_rows(self, records: list[bytes]) -> list[bytes]:
        """Return the JSON of each row of `split_rows`. Raises DataLoss."""
        rendered = list(map(self._young.get, records))
        return [
            self._found(record) if json is None else json
            for record, json in zip(records, rendered, strict=True)
        ]

    def render_each(self, encoded: bytes) -> Iterator[bytes]:
        """Yield the JSON of each row of joined encoded rows, for a response sent in parts.

        Raises DataLoss.
        """
        for record in split_rows(encoded):
            yield self._young.get(record) or self._found(record)

    def render_item(self, encoded: bytes) -> bytes:
        """Return the JSON of one encoded row. Raises DataLoss."""
        (record,) = split_rows(encoded)
        return self._young.get(record) or self._found(record)

    def _found(self, record: bytes) -> bytes:
        json = self._old.pop(record, None)
        if json is None:
            json = self._render(_decode(record))
            if (key := hash(record)) not in self._asked_for:
                self._asked_for.add(key)
                self._grow(_OVERHEAD_BYTES)
                return json
            self._asked_for.discard(key)
        self._young[record] = json
        self._grow(len(record) + len(json) + _OVERHEAD_BYTES)
        return json

    def _grow(self, size: int) -> None:
        self._young_bytes += size
        if self._young_bytes > KEPT_BYTES // 2:
            self._age()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SECONDS_KEPT, self._age)

    def _age(self) -> None:
        """Drop the older generation; schedule the next drop while entries are left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._old, self._young, self._young_bytes = self._young, {}, 0
        self._asked_for.clear()
        if self._old:
            self._timer = asyncio.get_running_loop().call_later(SECONDS_KEPT, self._age)


def split_rows(encoded: bytes) -> list[bytes]:
    """Return the rows of joined encoded rows. Raises DataLoss."""
    try:
        return split_encoded(encoded)
    except DamagedEncodingError as error:
        raise DataLoss from error


def _decode(record: bytes) -> Interaction:
    try:
        return decode_item(record)
    except DamagedEncodingError as error:
        raise DataLoss from error
