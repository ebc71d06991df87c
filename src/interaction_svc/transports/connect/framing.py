"""Length-prefixed messages of gRPC, gRPC-Web and Connect, and compressed messages."""

import struct
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

from interaction_svc.admission.request_bytes import RequestBody
from interaction_svc.domain.errors import (
    MalformedRequest,
    RequestTooLarge,
    UnsupportedCompression,
)

_PREFIX = struct.Struct(">BI")
_COMPRESSED, _END, _TRAILERS = 0x01, 0x02, 0x80
_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""The argument of zlib for each compression; deflate is zlib's format, as in HTTP."""


def frame(message: bytes) -> bytes:
    """Return a message with its prefix."""
    return _PREFIX.pack(0, len(message)) + message


def trailers_frame(trailers: list[tuple[bytes, bytes]]) -> bytes:
    """Return trailers as the last frame of a gRPC-Web response."""
    lines = b"".join([b"%b: %b\r\n" % pair for pair in trailers])
    return _PREFIX.pack(_TRAILERS, len(lines)) + lines


def end_frame(end: bytes) -> bytes:
    """Return the last frame of a Connect stream; `end` is a JSON object."""
    return _PREFIX.pack(_END, len(end)) + end


def only_message(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """Return the only message of a body. A body with more or fewer messages is malformed.

    `encoding` is the compression of messages whose prefix marks them as compressed. Raises
    MalformedRequest, RequestTooLarge.
    """
    if len(body) < _PREFIX.size:
        raise MalformedRequest("The request has no message: its prefix has 5 bytes")
    is_compressed, size = _prefix(body, max_bytes)
    message = body[_PREFIX.size :]
    if len(message) != size:
        raise MalformedRequest("The request must have one message, as long as its prefix says")
    return decompressed(message, encoding, max_bytes) if is_compressed else message


async def read_messages(
    parts: AsyncIterator[bytes], encoding: bytes, max_bytes: int, held: RequestBody
) -> AsyncGenerator[bytes, None]:
    """Yield the messages in the parts of a body, each as soon as it is complete.

    `held` counts the bytes of incomplete messages. Raises MalformedRequest, RequestTooLarge,
    Overloaded.
    """
    buffer = bytearray()
    async for part in parts:
        held.add(len(part))
        buffer += part
        while len(buffer) >= _PREFIX.size:
            is_compressed, size = _prefix(buffer, max_bytes)
            end = _PREFIX.size + size
            if len(buffer) < end:
                break
            message = bytes(memoryview(buffer)[_PREFIX.size : end])
            del buffer[:end]
            held.release(end)
            yield decompressed(message, encoding, max_bytes) if is_compressed else message
    if buffer:
        raise MalformedRequest("The stream ends within a message")


def _prefix(data: bytes | bytearray, max_bytes: int) -> tuple[bool, int]:
    """Return whether the first message is compressed, and its size."""
    flags, size = _PREFIX.unpack_from(data)
    if flags & ~_COMPRESSED:
        raise MalformedRequest("The prefix of the message has an unknown flag")
    if size > max_bytes:
        raise RequestTooLarge(max_bytes)
    return bool(flags & _COMPRESSED), size


def decompressed(message: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """Decompress a message. `encoding` is gzip, deflate or identity.

    Raises MalformedRequest, UnsupportedCompression, RequestTooLarge.
    """
    if len(message) > max_bytes:
        raise RequestTooLarge(max_bytes)
    if encoding in (b"", b"identity"):
        return message
    window_bits = _WINDOW_BITS.get(encoding)
    if window_bits is None:
        raise UnsupportedCompression
    decompressor = zlib.decompressobj(window_bits)
    try:
        plain = decompressor.decompress(message, max_bytes + 1)
    except zlib.error as error:
        raise MalformedRequest("The request can't be decompressed") from error
    if len(plain) > max_bytes:
        raise RequestTooLarge(max_bytes)
    if not decompressor.eof or decompressor.unused_data:
        raise MalformedRequest("A compressed request must be one complete stream")
    return plain
