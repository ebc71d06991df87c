"""Consistency tokens: what a write answers, and a read sends to see it.

A token is a version, a moment of the store (interaction_svc.store.revision) and a checksum, in
base64url without padding: only `[A-Za-z0-9_-]`. The checksum tells a damaged token from a good one;
it is no secret, for a token grants nothing.
"""

import binascii
import hashlib
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode

from interaction_svc.domain.errors import InvalidConsistencyToken
from interaction_svc.store import UNKNOWN_REVISION, Revision

KEY = "interaction-svc-consistency"
"""The name of the metadata, and of the HTTP header, that has a token."""
MAX_TOKEN_LENGTH = 64
"""Characters; those of this version have 34."""
_VERSION = 1
_MOMENT = struct.Struct(">QIQ")
_CHECKSUM_BYTES = 4


def encode_token(revision: Revision) -> str:
    """Make the token of a moment."""
    body = bytes([_VERSION]) + _MOMENT.pack(*revision)
    return urlsafe_b64encode(_checksum(body) + body).rstrip(b"=").decode()


def decode_token(token: str) -> Revision:
    """Give the moment that a token was made of. Raises InvalidConsistencyToken.

    What another version of this service has put into one is not known: UNKNOWN.
    """
    try:
        if not 0 < len(token) <= MAX_TOKEN_LENGTH:
            raise InvalidConsistencyToken(KEY)
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        # The decoder passes over foreign characters and spare bits; a token has one spelling only.
        if urlsafe_b64encode(raw).rstrip(b"=") != token.encode():
            raise InvalidConsistencyToken(KEY)
    except (binascii.Error, ValueError) as error:
        raise InvalidConsistencyToken(KEY) from error
    body = raw[_CHECKSUM_BYTES:]
    if not body or raw[:_CHECKSUM_BYTES] != _checksum(body):
        raise InvalidConsistencyToken(KEY)
    if body[0] != _VERSION:
        return UNKNOWN_REVISION
    try:
        return Revision(*_MOMENT.unpack(body[1:]))
    except struct.error as error:
        raise InvalidConsistencyToken(KEY) from error


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]
