"""HTTP/2 frames as bytes, for cheap calls and for input that no HTTP/2 library would send.

Headers are not compressed: they are sent as literals. The settings request the same of the peer, so
that its trailers contain the status as plain text.
"""

import struct
from collections.abc import Iterator, Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4

CANCEL = 0x8
"""The code of a RST_STREAM whose sender no longer needs the response."""

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = range(1, 5)
LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 65_535
HEADER_BYTES = 9
MESSAGE_HEADER_BYTES = 5
"""The bytes that `message` puts before the data."""

Pairs = Sequence[tuple[str, str | bytes]]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in pairs))


def greeting() -> bytes:
    """Return the start of a connection that disables the peer's flow control and compression."""
    return (
        PREFACE
        + settings((HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, LARGEST_WINDOW))
        + frame(WINDOW_UPDATE, payload=struct.pack(">I", LARGEST_WINDOW - FIRST_WINDOW))
    )


def header_block(headers: Pairs) -> bytes:
    """Return headers as literals without indexing."""
    return b"".join(
        b"\x00"
        + _string(name.encode())
        + _string(value if isinstance(value, bytes) else value.encode())
        for name, value in headers
    )


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, length = len(text) - 127, bytearray([127])
    while rest > 127:
        length.append(rest % 128 + 128)
        rest //= 128
    length.append(rest)
    return bytes(length) + text


def call_headers(method: str, metadata: Pairs = ()) -> bytes:
    """Return the header block of a gRPC call."""
    return header_block(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *metadata,
        ]
    )


def message(data: bytes) -> bytes:
    """Return a message for DATA: uncompressed, after its length."""
    return struct.pack(">BI", 0, len(data)) + data


def call(stream: int, headers: bytes, data: bytes) -> bytes:
    """Return a call with one request, from the payloads of its frames."""
    return frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, data)


def frames(received: bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """Remove and yield the complete frames: kind, flags, stream, payload."""
    begin = 0
    while len(received) - begin >= HEADER_BYTES:
        length = int.from_bytes(received[begin : begin + 3])
        end = begin + HEADER_BYTES + length
        if len(received) < end:
            break
        kind, flags, stream = struct.unpack_from(">BBI", received, begin + 3)
        yield kind, flags, stream & LARGEST_WINDOW, bytes(received[begin + HEADER_BYTES : end])
        begin = end
    del received[:begin]
