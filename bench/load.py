"""A load generator for gRPC servers that is cheap, so that it does not limit the measurement.

It sends HTTP/2 frames that are prepared beforehand (testing/http2.py). A call takes some 25
microseconds, a twentieth of the time of grpc's Python client.
"""

import asyncio
import random
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from testing import http2

_TICK_SECONDS = 0.002
_LAST_SECONDS = 10.0
"""The maximum wait for responses after the last call."""
_STATUS = (b"grpc-status", bytes.fromhex("9acac8b21234da8f"))
"""The name as plain text, and Huffman-coded, as grpc-go sends it. The value is plain in both."""


class Request(NamedTuple):
    """A prepared call: the payloads of its frames."""

    headers: bytes
    data: bytes
    answer_bytes: int | None = None
    """The length of the response message. Another length counts as refused; None accepts any."""


@dataclass
class Answered:
    """The results of calls; times are in seconds since the start of the load."""

    ok: list[tuple[float, float]] = field(default_factory=list)
    """The end and the duration of each successful call."""
    refused: dict[str, list[float]] = field(default_factory=dict)
    """By status code, the durations of refused calls."""
    offered: int = 0
    held_back: int = 0
    """Calls not sent, because the streams or the window of each connection were used up."""
    unanswered: int = 0
    closed: int = 0
    """Connections that the server ended."""

    def add(self, other: "Answered") -> None:
        """Add the results of another process."""
        self.ok += other.ok
        for code, took in other.refused.items():
            self.refused.setdefault(code, []).extend(took)
        self.offered += other.offered
        self.held_back += other.held_back
        self.unanswered += other.unanswered
        self.closed += other.closed


class Connection(asyncio.Protocol):
    """A connection and the calls on it; `on_end` is called after each."""

    def __init__(self, answered: Answered, begun: float, on_end: Callable[[], None]) -> None:
        self._answered = answered
        self._begun = begun
        self._on_end = on_end
        self._received = bytearray()
        self._stream = 1
        self._window = http2.FIRST_WINDOW
        self._most_streams = 100  # until the server sends its setting
        self._unread = 0
        self.sent: dict[int, float] = {}
        self._missing: dict[int, int] = {}  # by stream, bytes of the response to come
        self.transport: asyncio.Transport | None = None
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(http2.greeting())

    def connection_lost(self, exc: Exception | None) -> None:
        self._answered.closed += 1
        self.transport = None
        lost, self.sent = len(self.sent), {}
        for _ in range(lost):
            self._refused("closed", 0.0)

    def send(self, request: Request) -> bool:
        """Send a call. Return False if the connection's streams or window are used up."""
        size = len(request.data)
        if self.transport is None or len(self.sent) >= self._most_streams or self._window < size:
            return False
        self._window -= size
        self.sent[self._stream] = time.perf_counter()
        if request.answer_bytes is not None:
            self._missing[self._stream] = http2.MESSAGE_HEADER_BYTES + request.answer_bytes
        self.transport.write(http2.call(self._stream, request.headers, request.data))
        self._stream += 2
        return True

    def cancel(self) -> bool:
        """Reset the stream of the last call. Return False if the call has ended already."""
        stream = self._stream - 2
        if self.sent.pop(stream, None) is None or self.transport is None:
            return False
        self._missing.pop(stream, None)
        reset = struct.pack(">I", http2.CANCEL)
        self.transport.write(http2.frame(http2.RST_STREAM, stream=stream, payload=reset))
        return True

    def data_received(self, data: bytes) -> None:
        self._received += data
        for kind, flags, stream, payload in http2.frames(self._received):
            if kind == http2.DATA:
                self._unread += len(payload)
                if stream in self._missing:
                    self._missing[stream] -= len(payload)
            elif kind == http2.HEADERS and flags & http2.END_STREAM:
                self._end(stream, payload)
            elif kind == http2.RST_STREAM:
                self._end(stream, b"")
            elif kind == http2.WINDOW_UPDATE and not stream:
                self._window += int.from_bytes(payload)
            elif kind == http2.SETTINGS and not flags & http2.ACK:
                self._obey(payload)
            elif kind == http2.PING and not flags & http2.ACK and self.transport is not None:
                self.transport.write(http2.frame(http2.PING, http2.ACK, payload=payload))
        if self._unread > 2**20 and self.transport is not None:
            update = struct.pack(">I", self._unread)
            self.transport.write(http2.frame(http2.WINDOW_UPDATE, payload=update))
            self._unread = 0

    def _obey(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == http2.MAX_CONCURRENT_STREAMS:
                self._most_streams = value
        assert self.transport is not None
        self.transport.write(http2.frame(http2.SETTINGS, http2.ACK))
        if not self.ready.done():
            self.ready.set_result(None)

    def _end(self, stream: int, trailers: bytes) -> None:
        sent = self.sent.pop(stream, None)
        if sent is None:
            return
        now = time.perf_counter()
        name = _STATUS[0] if _STATUS[0] in trailers else _STATUS[1]
        place = trailers.find(name)
        if place < 0:
            self._refused("reset", now - sent)
        else:
            length = trailers[place + len(name)]
            begin = place + len(name) + 1
            code = trailers[begin : begin + length].decode()
            if code == "0" and self._missing.pop(stream, 0):
                self._refused("of another length", now - sent)
            elif code == "0":
                self._answered.ok.append((now - self._begun, now - sent))
            else:
                self._refused(code, now - sent)
        self._on_end()

    def _refused(self, code: str, seconds: float) -> None:
        self._answered.refused.setdefault(code, []).append(seconds)


@dataclass(frozen=True)
class Load:
    """The parameters of a load: open-loop with `per_second`, or closed-loop with `at_once`."""

    address: str
    requests: tuple[Request, ...]
    seconds: float
    connections: int = 8
    per_second: float = 0
    at_once: int = 0
    once_each: bool = False
    """Whether each request is sent once, in order. Otherwise they are chosen at random."""


def run(load: Load) -> Answered:
    """Generate the load from this process, and return the results."""
    return asyncio.run(_run(load))


async def _run(load: Load) -> Answered:
    answered, begun = Answered(), time.perf_counter()
    rng = random.Random(1)  # the same mix every time
    end = begun + load.seconds
    host, _, port = load.address.rpartition(":")
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []

    def send_one() -> None:
        place = answered.offered if load.once_each else rng.randrange(len(load.requests))
        request = load.requests[place]
        answered.offered += 1
        first = rng.randrange(len(connections))
        for number in range(len(connections)):
            if connections[(first + number) % len(connections)].send(request):
                return
        answered.held_back += 1

    def on_end() -> None:
        if load.at_once and time.perf_counter() < end:
            send_one()

    for _ in range(load.connections):
        _, connection = await loop.create_connection(
            lambda: Connection(answered, begun, on_end), host, int(port)
        )
        connections.append(connection)
    await asyncio.wait([connection.ready for connection in connections], timeout=5)
    if load.at_once:
        for _ in range(load.at_once):
            send_one()
        await asyncio.sleep(end - time.perf_counter())
    else:
        made, first = 0, time.perf_counter()
        while (now := time.perf_counter()) < end:
            due = int((now - first) * load.per_second)
            while made < due:
                send_one()
                made += 1
            await asyncio.sleep(_TICK_SECONDS)
    deadline = time.perf_counter() + _LAST_SECONDS
    while any(connection.sent for connection in connections) and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    answered.unanswered = sum(len(connection.sent) for connection in connections)
    for connection in connections:
        if connection.transport is not None:
            connection.sent.clear()
            answered.closed -= 1
            connection.transport.abort()
    await asyncio.sleep(0)
    return answered
