"""Hostile connections to the gRPC port: malformed bytes, half-open connections, and floods.

All tests use one server. Its log and memory are checked after each test.
"""

import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from testing import http2
from testing.hostile_client import (
    CALL_SECONDS,
    FORGED,
    GET,
    RECORD,
    SECRET,
    Hostile,
    attacked,
    unharmed,
)

pytestmark = pytest.mark.each_engine


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Hostile]:
    with attacked(tmp_path_factory.mktemp("hostile")) as opened:
        yield opened


@contextmanager
def connected(hostile: Hostile) -> Iterator[socket.socket]:
    host, _, port = hostile.server.grpc_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=CALL_SECONDS) as opened:
        yield opened


def exchange(hostile: Hostile, sent: bytes, *, most: int = 2**22) -> bytes:
    """Send bytes, and return the received bytes until the connection ends, or up to a size."""
    received = b""
    with connected(hostile) as opened:
        try:
            opened.sendall(sent)
            opened.shutdown(socket.SHUT_WR)
            while len(received) < most and (data := opened.recv(65_536)):
                received += data
        except TimeoutError:
            raise
        except OSError:  # the server may close the connection during the send
            pass
    return received


def garbage_frames(rng: random.Random) -> bytes:
    """Return frames of all kinds, flags and streams, with wrong payloads and lengths."""
    made = b""
    for _ in range(rng.randint(1, 12)):
        payload = rng.randbytes(rng.choice([0, 1, 4, 5, 8, 9, 100, 16_384, 20_000]))
        stream = rng.choice([0, 1, 2, 3, 2**31 - 1, 2**31, 2**32 - 1])
        one = http2.frame(rng.randrange(12), rng.randrange(256), stream, payload)
        made += one if rng.random() < 0.8 else one[: rng.randrange(len(one))]
    return made


def bad_headers(rng: random.Random) -> bytes:
    """Return a call with header names, values and encodings that no library would send."""
    name = rng.choice(
        ["authorization", "X-Upper", "", "x\0y", "te", ":path", "grpc-timeout", "x\n"]
    )
    value = rng.choice(
        [
            f"Basic {SECRET}",
            f"Bearer {SECRET}\0",
            "",
            "\x01\x7f\xff",
            "9" * 30 + "S",
            "é\n",
            "x" * 9000,
        ]
    )
    pairs = [(name, value), ("content-type", "application/grpc"), ("grpc-timeout", "1q")]
    block = http2.call_headers(GET, rng.sample(pairs, rng.randint(1, 3)))
    if rng.random() < 0.3:
        block += rng.randbytes(rng.randint(1, 40))
    return http2.call(1, block, http2.message(rng.randbytes(rng.randint(0, 50))))


GARBAGE: dict[str, Callable[[random.Random], bytes]] = {
    "random bytes": lambda rng: rng.randbytes(rng.choice([1, 10, 100, 5000])),
    "a part of the preface": lambda rng: http2.PREFACE[: rng.randrange(len(http2.PREFACE))],
    "the preface and random bytes": lambda rng: http2.PREFACE + rng.randbytes(300),
    "garbage frames": lambda rng: http2.PREFACE + http2.settings() + garbage_frames(rng),
    "garbage settings": lambda rng: (
        http2.PREFACE
        + http2.settings(*((rng.getrandbits(4), rng.getrandbits(32)) for _ in range(20)))
    ),
    "garbage headers": lambda rng: http2.greeting() + bad_headers(rng),
    "messages that don't fit their lengths": lambda rng: (
        http2.greeting()
        + http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.call_headers(RECORD))
        + http2.frame(http2.DATA, http2.END_STREAM, 1,
                      struct.pack(">BI", rng.randrange(3), rng.getrandbits(32)) + rng.randbytes(20))
    ),
    "a GOAWAY that forges a log line": lambda rng: (
        http2.greeting()
        + http2.frame(http2.GOAWAY, payload=struct.pack(">II", 0, 7) + FORGED)
    ),
    "HTTP/1": lambda rng: rng.choice(
        [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST " + GET.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n",
            b"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
            b"GET / HTTP/0.9\r\n" * 1000,
        ]
    ),
    "TLS": lambda rng: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),
}  # fmt: skip


@pytest.mark.parametrize("name", GARBAGE)
def test_malformed_input_on_a_connection_does_not_affect_others(
    hostile: Hostile, name: str
) -> None:
    rng = random.Random(name)
    with unharmed(hostile):
        for _ in range(60):
            exchange(hostile, GARBAGE[name](rng))


def test_half_open_connections_do_not_block_others(hostile: Hostile) -> None:
    begins = [b"", http2.PREFACE[:10], http2.PREFACE, http2.greeting()]
    begins.append(http2.greeting() + http2.frame(http2.HEADERS, 0, 1, http2.call_headers(GET)))
    begins.append(
        http2.greeting()
        + http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.call_headers(RECORD))
        + http2.frame(http2.DATA, 0, 1, b"\0\0\1")
    )
    with unharmed(hostile):
        opened = []
        try:
            for number in range(300):
                host, _, port = hostile.server.grpc_address.rpartition(":")
                opened.append(socket.create_connection((host, int(port))))
                opened[-1].sendall(begins[number % len(begins)])
            hostile.serves()
        finally:
            for connection in opened:
                connection.close()


def headers_frame(stream: int, flags: int = http2.END_HEADERS) -> bytes:
    return http2.frame(http2.HEADERS, flags, stream, http2.call_headers(GET))


def rapid_reset() -> bytes:
    """2,000 streams, each opened and reset at once by the client (CVE-2023-44487)."""
    cancel = struct.pack(">I", 8)
    return b"".join(
        headers_frame(stream) + http2.frame(http2.RST_STREAM, stream=stream, payload=cancel)
        for stream in range(1, 4000, 2)
    )


def made_you_reset() -> bytes:
    """2,000 streams, each reset at once by the server (CVE-2025-8671)."""
    nothing = struct.pack(">I", 0)
    return b"".join(
        headers_frame(stream) + http2.frame(http2.WINDOW_UPDATE, stream=stream, payload=nothing)
        for stream in range(1, 4000, 2)
    )


def continuations() -> bytes:
    """Headers of 16 MiB in CONTINUATION frames (CVE-2024-27316)."""
    block = http2.header_block([("x-more", "y" * 8000)] * 2)
    return headers_frame(1, 0) + http2.frame(http2.CONTINUATION, 0, 1, block) * 1000


FLOODS: dict[str, Callable[[], bytes]] = {
    "streams opened and reset": rapid_reset,
    "streams that the server resets": made_you_reset,
    "streams without an end": lambda: b"".join(map(headers_frame, range(1, 4000, 2))),
    "pings": lambda: http2.frame(http2.PING, payload=bytes(8)) * 20_000,
    "settings": lambda: http2.settings((http2.INITIAL_WINDOW_SIZE, 1)) * 20_000,
    "empty settings": lambda: http2.settings() * 20_000,
    "continuations": continuations,
    "empty continuations": lambda: (
        headers_frame(1, 0) + http2.frame(http2.CONTINUATION, 0, 1) * 20_000
    ),
    "empty data": lambda: headers_frame(1) + http2.frame(http2.DATA, 0, 1) * 20_000,
    "window updates": lambda: (
        http2.frame(http2.WINDOW_UPDATE, payload=struct.pack(">I", 1)) * 20_000
    ),
    "priorities": lambda: http2.frame(http2.PRIORITY, 0, 3, bytes(5)) * 20_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_of_frames_do_not_affect_other_connections(hostile: Hostile, name: str) -> None:
    flood = http2.greeting() + FLOODS[name]()
    with unharmed(hostile):
        for _ in range(3):
            exchange(hostile, flood)
            hostile.serves()
