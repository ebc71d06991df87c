"""Consistency tokens: a write returns one, and a read that sends it sees that write.

A consistency token is an opaque token (interaction_svc.app.opaque_token) of a format version and a
revision of the store (interaction_svc.store.revision).
"""

import struct

from interaction_svc.app import opaque_token
from interaction_svc.app.store_calls import store_call
from interaction_svc.domain.errors import InvalidConsistencyToken
from interaction_svc.store import UNKNOWN_REVISION, Revision, Store

CONSISTENCY_HEADER = "interaction-svc-consistency"
"""The name of the gRPC metadata key, and of the HTTP header, that carries a token."""
MAX_TOKEN_LENGTH = 64
"""The maximum length in characters. Tokens of this version have 34."""
_VERSION = 1
_REVISION = struct.Struct(">QIQ")
_CHECKSUM_BYTES = 4


def encode_token(revision: Revision) -> str:
    """Return the token of a revision."""
    body = bytes([_VERSION]) + _REVISION.pack(*revision)
    return opaque_token.encode(body, checksum_bytes=_CHECKSUM_BYTES)


def decode_token(token: str) -> Revision:
    """Return the revision of a token. Raises InvalidConsistencyToken.

    The revision in a token of another version of this service is UNKNOWN_REVISION.
    """
    try:
        body = opaque_token.decode(
            token, checksum_bytes=_CHECKSUM_BYTES, max_length=MAX_TOKEN_LENGTH
        )
        if body[0] != _VERSION:
            return UNKNOWN_REVISION
        return Revision(*_REVISION.unpack(body[1:]))
    except (opaque_token.DamagedTokenError, struct.error) as error:
        raise InvalidConsistencyToken(CONSISTENCY_HEADER) from error


async def current_token(store: Store) -> str | None:
    """Return a token of all writes so far; None if every read sees all writes anyway.

    Raises Unavailable.
    """
    with store_call("current_revision"):
        revision = await store.current_revision()
    return None if revision is None else encode_token(revision)
