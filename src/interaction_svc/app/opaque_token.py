"""Opaque tokens: a checksum and a body, encoded as text.

The text is base64url without padding, `[A-Za-z0-9_-]` only: one of the vendor's SDKs can't pass on
other characters. The checksum detects damage. It needs no secret key, because a token grants no
permissions. They are checked for each request.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode


class DamagedTokenError(ValueError):
    """A text is not a token that `encode` has returned."""


def encode(body: bytes, *, checksum_bytes: int) -> str:
    """Return the token of `body`, which must not be empty."""
    return urlsafe_b64encode(_checksum(body, checksum_bytes) + body).rstrip(b"=").decode()


def decode(token: str, *, checksum_bytes: int, max_length: int) -> bytes:
    """Return the body of a token of at most `max_length` characters. Raises DamagedTokenError."""
    if len(token) > max_length:
        raise DamagedTokenError
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError as error:  # binascii.Error is one
        raise DamagedTokenError from error
    # The decoder ignores invalid characters and unused bits. Accept only what `encode` returns.
    if urlsafe_b64encode(raw).rstrip(b"=") != token.encode():
        raise DamagedTokenError
    body = raw[checksum_bytes:]
    if not body or raw[:checksum_bytes] != _checksum(body, checksum_bytes):
        raise DamagedTokenError
    return body


def _checksum(body: bytes, size: int) -> bytes:
    return hashlib.sha256(body).digest()[:size]
