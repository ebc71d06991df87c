"""Parsing of requests: bad bytes are the caller's fault, and a large request is read in parts.

grpc's own parsing does neither. Two bytes of a streamed request can be an empty Interaction, which
takes a hundred and forty in memory: 4 MiB of them would be 300 MiB and a second in which nothing
else is done. As bytes they are 60 MiB and a twentieth of a second, until they have been counted.
"""

from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from interaction_svc.errors import MalformedRequest
from interaction_svc.interactions import check_count
from interaction_svc.internal.v1.unparsed_pb2 import UnparsedInteractions
from interaction_svc.v1.ingest_service_pb2 import RecordInteractionsRequest
from interaction_svc.v1.interaction_pb2 import Interaction

M = TypeVar("M", bound=Message)


def parsed(kind: type[M], data: bytes, request: type[Message] | None = None) -> M:
    """Parse a message, which is a request or part of one. Raises MalformedRequest."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        name = (request or kind).DESCRIPTOR.full_name
        raise MalformedRequest(f"The request is not a valid {name}") from error


def interactions_of(request: bytes) -> Iterator[Interaction]:
    """Give the Interactions of a RecordInteractionsRequest, each parsed when its turn comes.

    Raises InvalidField at once if they are too many, MalformedRequest when the bad bytes are met.
    """
    unparsed = parsed(UnparsedInteractions, request, RecordInteractionsRequest).interactions
    check_count(len(unparsed))
    return (parsed(Interaction, one, RecordInteractionsRequest) for one in unparsed)
