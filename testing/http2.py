"""HTTP/2 frames as bytes, for cheap calls and for input that no HTTP/2 library would send.

Headers are not compressed: they are sent as literals. The settings request the same of the peer, so
that its trailers contain the status as plain text.
"""

import re
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


def call_headers(
    method: str | bytes, metadata: Pairs = (), authority: str | None = "localhost"
) -> bytes:
    """Return the header block of a gRPC call."""
    return header_block(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            *([] if authority is None else [(":authority", authority)]),
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


_STATUS = re.compile(rb"(?:grpc-status|\x9a\xca\xc8\xb2\x12\x34\xda\x8f)[\x01\x02](\d+)")
"""The status after its name, which may be Huffman-coded. The value is plain text."""


def status_in(block: bytes) -> str | None:
    """Return the gRPC status in a header block, which has no indexed fields; None without one."""
    found = _STATUS.search(block)
    return None if found is None else found[1].decode()


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


class Sender:
    """Sends unfinished messages on streams, within the flow control of the peer."""

    def __init__(self, sizes: dict[int, int]) -> None:
        self.left = sizes
        """The bytes that each stream has yet to send. The last byte of a message is never sent."""
        self._begun: set[int] = set()
        self._first = FIRST_WINDOW
        self._window = FIRST_WINDOW
        self._windows = dict.fromkeys(sizes, FIRST_WINDOW)
        self._received = bytearray()

    def data(self) -> bytes:
        """Return the frames that may be sent now."""
        sent = []
        for stream in self.left:
            while size := min(self.left[stream], self._window, self._windows[stream], 16_384):
                content = bytes(size)
                if stream not in self._begun:
                    content = (struct.pack(">BI", 0, self.left[stream]) + content)[:size]
                    self._begun.add(stream)
                sent.append(frame(DATA, 0, stream, content))
                self.left[stream] -= size
                self._window -= size
                self._windows[stream] -= size
        return b"".join(sent)

    def receive(self, received: bytes) -> bytes:
        """Return the frames that acknowledge bytes of the peer."""
        self._received += received
        answers = []
        for kind, flags, stream, payload in frames(self._received):
            if kind == WINDOW_UPDATE and stream == 0:
                self._window += int.from_bytes(payload)
            elif kind == WINDOW_UPDATE:
                self._windows[stream] += int.from_bytes(payload)
            elif kind == RST_STREAM or (flags & END_STREAM and kind == HEADERS):
                self.left[stream] = 0
            elif kind == PING and not flags & ACK:
                answers.append(frame(PING, ACK, payload=payload))
            elif kind == SETTINGS and not flags & ACK:
                self._apply(payload)
                answers.append(frame(SETTINGS, ACK))
        return b"".join(answers)

    def _apply(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == INITIAL_WINDOW_SIZE:
                for stream in self._windows:
                    self._windows[stream] += value - self._first
                self._first = value
