"""Length-prefixed messages of gRPC and gRPC-Web, and compressed messages."""

import struct
import zlib

from interaction_svc.domain.errors import MalformedRequest, RequestTooLarge

_PREFIX = struct.Struct(">BI")
_COMPRESSED, _TRAILERS = 0x01, 0x80
_GZIP = 16 + zlib.MAX_WBITS


def frame(message: bytes) -> bytes:
    """Return a message with its prefix."""
    return _PREFIX.pack(0, len(message)) + message


def trailers_frame(trailers: list[tuple[bytes, bytes]]) -> bytes:
    """Return trailers as the last frame of a gRPC-Web response."""
    lines = b"".join([b"%b: %b\r\n" % pair for pair in trailers])
    return _PREFIX.pack(_TRAILERS, len(lines)) + lines


def only_message(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """Return the only message of a body. A body with more or fewer messages is malformed.

    `encoding` is the compression of messages whose prefix marks them as compressed. Raises
    MalformedRequest, RequestTooLarge.
    """
    if len(body) < _PREFIX.size:
        raise MalformedRequest("The request has no message: its prefix has 5 bytes")
    flags, size = _PREFIX.unpack_from(body)
    if flags & ~_COMPRESSED:
        raise MalformedRequest("The prefix of the message has an unknown flag")
    if size > max_bytes:
        raise RequestTooLarge(max_bytes)
    message = body[_PREFIX.size :]
    if len(message) != size:
        raise MalformedRequest("The request must have one message, as long as its prefix says")
    return decompressed(message, encoding, max_bytes) if flags & _COMPRESSED else message


def decompressed(message: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """Decompress a message. `encoding` is gzip or identity.

    Raises MalformedRequest, RequestTooLarge.
    """
    if len(message) > max_bytes:
        raise RequestTooLarge(max_bytes)
    if encoding in (b"", b"identity"):
        return message
    if encoding != b"gzip":
        raise MalformedRequest("The compression of the request is unknown; use gzip or identity")
    decompressor = zlib.decompressobj(_GZIP)
    try:
        plain = decompressor.decompress(message, max_bytes + 1)
    except zlib.error as error:
        raise MalformedRequest("The request can't be decompressed with gzip") from error
    if len(plain) > max_bytes:
        raise RequestTooLarge(max_bytes)
    if not decompressor.eof or decompressor.unused_data:
        raise MalformedRequest("The request must be one gzip stream, and nothing behind it")
    return plain
