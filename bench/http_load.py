"""A load generator for HTTP servers that is cheap, so that it does not limit the measurement.

Requests are bytes that are prepared beforehand. Of a response only the status and the length are
read. A call takes some 20 microseconds, a twentieth of the time of httpx.
"""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

_LAST_SECONDS = 10.0
"""The maximum wait for responses after the last request."""
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_STATUS = slice(9, 12)  # of `HTTP/1.1 200 OK`


class HttpRequest(NamedTuple):
    """The bytes of a request, and the size of the body of its response."""

    sent: bytes
    body_bytes: int


@dataclass
class HttpAnswered:
    """The results of requests; times are in seconds since the start of the load."""

    ok: list[tuple[float, float]] = field(default_factory=list)
    """The end and the duration of each response with status 200 and the expected length."""
    failed: Counter[str] = field(default_factory=Counter)
    """Other results: another status, a body of another length, no response."""
    asked: int = 0
    """The number of requests."""

    def add(self, other: "HttpAnswered") -> None:
        """Add the results of another process."""
        self.ok += other.ok
        self.failed += other.failed
        self.asked += other.asked


@dataclass(frozen=True)
class HttpLoad:
    """The parameters of a closed-loop load: one request at a time on each connection."""

    address: str
    """Host and port."""
    requests: tuple[HttpRequest, ...]
    """The requests, which are chosen at random, or in their order with `in_turn`."""
    seconds: float
    connections: int = 8
    in_turn: bool = False


def get(path: str, *headers: str) -> bytes:
    """Return the bytes of a GET request."""
    lines = (f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", "")
    return "\r\n".join(lines).encode("ascii")


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Return the bytes of a POST request with a JSON body."""
    lines = (*headers, "Content-Type: application/json", f"Content-Length: {len(body)}")
    return get(path, *lines).replace(b"GET", b"POST", 1) + body


async def fetch(address: str, sent: bytes) -> tuple[int, bytes]:
    """Send one request on a new connection, and return the status and the body of the response."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(_LAST_SECONDS):
            writer.write(sent)
            head = await reader.readuntil(_HEAD_END)
            return int(head[_STATUS]), await reader.readexactly(_length_in(head))
    finally:
        writer.close()


def run(load: HttpLoad) -> HttpAnswered:
    """Generate the load from this process, and return the results."""
    return asyncio.run(_run(load))


class _Connection(asyncio.Protocol):
    """A connection that sends the next request after each response, until the time is over."""

    def __init__(
        self, load: HttpLoad, answered: HttpAnswered, rng: random.Random, begun: float
    ) -> None:
        self._load = load
        self._answered = answered
        self._rng = rng
        self._begun = begun
        self._head = b""
        self._missing = 0  # bytes of the body that have not arrived yet
        self._sent_at = 0.0
        self._is_good = False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self._answered.failed["closed"] += 1
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            head, separator, data = (self._head + data).partition(_HEAD_END)
            if not separator:
                self._head = head
                return
            self._head = b""
            self._missing = self._begin(head)
        self._missing -= len(data)
        if self._missing <= 0:
            self._end()

    def _begin(self, head: bytes) -> int:
        length, status = _length_in(head), head[_STATUS]
        self._is_good = status == b"200" and length == self._wanted.body_bytes
        if not self._is_good:
            self._answered.failed[f"{status.decode()} with {length} bytes"] += 1
        return length

    def _end(self) -> None:
        now = time.perf_counter()
        if self._missing:  # more bytes than announced: responses can't be separated any more
            self._answered.failed["too long"] += 1
            self.stop()
            return
        if self._is_good:
            self._answered.ok.append((now - self._begun, now - self._sent_at))
        if now - self._begun < self._load.seconds:
            self._ask()
        else:
            self.stop()

    def _ask(self) -> None:
        requests = self._load.requests
        if self._load.in_turn:
            place = self._answered.asked % len(requests)
        else:
            place = int(self._rng.random() * len(requests))
        self._answered.asked += 1
        self._wanted = requests[place]
        self._sent_at = time.perf_counter()
        self._transport.write(self._wanted.sent)

    def stop(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        self._transport.abort()


async def _run(load: HttpLoad) -> HttpAnswered:
    answered, begun = HttpAnswered(), time.perf_counter()
    rng = random.Random(1)  # the same mix every time
    host, _, port = load.address.rpartition(":")
    loop = asyncio.get_running_loop()
    connections = []
    for _ in range(load.connections):
        _, connection = await loop.create_connection(
            lambda: _Connection(load, answered, rng, begun), host, int(port)
        )
        connections.append(connection)
    await asyncio.wait(
        [connection.ended for connection in connections], timeout=load.seconds + _LAST_SECONDS
    )
    for connection in connections:
        if not connection.ended.done():
            answered.failed["unanswered"] += 1
            connection.stop()
    await asyncio.sleep(0)
    return answered


def _length_in(head: bytes) -> int:
    """Return the Content-Length of the headers; -1 if there is none."""
    head = head.lower()
    place = head.find(_LENGTH)
    if place < 0:
        return -1
    begin = place + len(_LENGTH)
    end = head.find(b"\r", begin)
    return int(head[begin:] if end < 0 else head[begin:end])
