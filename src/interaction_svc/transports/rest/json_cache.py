"""The JSON of rows, kept for a while for those who ask again."""

import asyncio
from collections.abc import Iterator

import orjson

from interaction_svc.codec import twilio_json
from interaction_svc.codec.encoded import DamagedEncodingError, decode_item, split_encoded
from interaction_svc.domain.errors import DataLoss
from interaction_svc.v1.interaction_pb2 import Interaction

KEPT_BYTES = 16 * 1024 * 1024
"""How much is kept at most, rows and their JSON together; beyond that by at most a page."""
SECONDS_KEPT = 60.0
"""After this time to twice this time what nobody asked for again is forgotten."""

_OVERHEAD_BYTES = 200
"""What an entry takes beside its bytes: two objects, and its place in the dict."""


class JsonCache:
    """Renders rows as the vendor's JSON, and keeps that of rows that are asked for again.

    Whoever polls a list, or leafs through a Session, is shown the same rows again and again: to
    find a row's JSON by its stored bytes takes a fifteenth of rendering it. What is stored is read
    each time, so nothing that has changed, or is gone, is ever shown. Whoever reads everything once
    has nothing kept, which would cost a fifth more.

    Rows that are asked for are moved to the younger of two generations; when it is half of what may
    be kept, or SECONDS_KEPT old, the older one is dropped and it becomes the older one.
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._young_bytes = 0
        self._asked_for: set[int] = set()  # hashes of rows whose JSON isn't kept yet
        self._timer: asyncio.TimerHandle | None = None

    def of(self, frames: bytes) -> list[bytes]:
        """Give the JSON of each row of joined frames. Raises DataLoss."""
        records = _split(frames)
        rendered = list(map(self._young.get, records))
        return [
            self._found(record) if json is None else json
            for record, json in zip(records, rendered, strict=True)
        ]

    def each(self, frames: bytes) -> Iterator[bytes]:
        """Yield the JSON of each row of joined frames, one after the other.

        For an answer in parts, of which not all may be in memory. Raises DataLoss.
        """
        for record in _split(frames):
            yield self._young.get(record) or self._found(record)

    def of_one(self, frame: bytes) -> bytes:
        """Give the JSON of a frame's row. Raises DataLoss."""
        (record,) = _split(frame)
        return self._young.get(record) or self._found(record)

    def _found(self, record: bytes) -> bytes:
        json = self._old.pop(record, None)
        if json is None:
            json = orjson.dumps(twilio_json.to_json(_decode(record), self._base_url))
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
        """Drop the older generation; go on until nothing is kept."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._old, self._young, self._young_bytes = self._young, {}, 0
        self._asked_for.clear()
        if self._old:
            self._timer = asyncio.get_running_loop().call_later(SECONDS_KEPT, self._age)


def _split(frames: bytes) -> list[bytes]:
    try:
        return split_encoded(frames)
    except DamagedEncodingError as error:
        raise DataLoss from error


def _decode(record: bytes) -> Interaction:
    try:
        return decode_item(record)
    except DamagedEncodingError as error:
        raise DataLoss from error
