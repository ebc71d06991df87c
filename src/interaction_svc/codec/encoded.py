"""Encoded Interactions: the bytes that a store holds, and that Get and List return.

An encoded Interaction is a serialized GetInteractionResponse. Field 1 of ListInteractionsResponse
is an Interaction as well, so the same bytes are one element of a List, and a page is the
concatenation of its rows. So a read returns stored bytes and builds no message.
"""

from google.protobuf.message import DecodeError

from interaction_svc.internal.v1.unparsed_pb2 import UnparsedInteractions
from interaction_svc.v1.interaction_pb2 import Interaction
from interaction_svc.v1.interaction_service_pb2 import GetInteractionResponse


class DamagedEncodingError(ValueError):
    """The bytes are not a valid encoded Interaction."""


def encode(interaction: Interaction) -> bytes:
    """Return the encoded form of an Interaction. Equal Interactions have equal bytes."""
    return GetInteractionResponse(interaction=interaction).SerializeToString()


def decode(encoded: bytes) -> Interaction:
    """Return the Interaction that these bytes encode. Raises DamagedEncodingError."""
    try:
        return GetInteractionResponse.FromString(encoded).interaction
    except DecodeError as error:
        raise DamagedEncodingError from error


def split_encoded(page: bytes) -> list[bytes]:
    """Return the items of concatenated encoded Interactions, each without its tag and length.

    Raises DamagedEncodingError.
    """
    try:
        return list(UnparsedInteractions.FromString(page).interactions)
    except DecodeError as error:
        raise DamagedEncodingError from error


def encoded_size(items: list[bytes]) -> int:
    """Return the size of the page that has these items of `split_encoded`."""
    size = 0
    for item in items:
        length = len(item)
        size += 1 + max(1, (length.bit_length() + 6) // 7) + length  # tag, varint, item
    return size


def decode_item(item: bytes) -> Interaction:
    """Return the Interaction of an item of `split_encoded`. Raises DamagedEncodingError."""
    try:
        return Interaction.FromString(item)
    except DecodeError as error:
        raise DamagedEncodingError from error
