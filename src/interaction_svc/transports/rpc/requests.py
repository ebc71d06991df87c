"""Parsing of requests: bad bytes are the caller's fault, and a large request is read in parts.

grpc's own parsing does neither. Two bytes of a streamed request can be an empty Interaction, which
takes a hundred and forty in memory: 4 MiB of them would be 300 MiB and a second in which nothing
else is done. As bytes they are 60 MiB and a twentieth of a second, until they have been counted.
"""

from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from interaction_svc.app.ingest import check_count
from interaction_svc.domain.errors import InvalidField, MalformedRequest, ServiceError
from interaction_svc.internal.v1.unparsed_pb2 import UnparsedInteractions
from interaction_svc.transports.rpc.wire_format import fault_of
from interaction_svc.v1.ingest_service_pb2 import (
    RecordInteractionRequest,
    RecordInteractionsRequest,
)
from interaction_svc.v1.interaction_pb2 import Interaction

M = TypeVar("M", bound=Message)


def parsed(kind: type[M], data: bytes) -> M:
    """Parse a request. Raises InvalidField if the fault is one field's, else MalformedRequest."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise _error_of(kind, data) from error


def parsed_record(request: bytes) -> RecordInteractionRequest:
    """Parse the request of RecordInteraction. Raises as `parsed`, and for what would be dropped."""
    given = parsed(RecordInteractionRequest, request)
    _check_whole(given, request)
    return given


def interactions_of(request: bytes) -> Iterator[Interaction | ServiceError]:
    """Yield the Interactions of a RecordInteractionsRequest, each parsed when its turn comes.

    In the place of one that can't be parsed comes its error. Raises InvalidField at once if they
    are too many, MalformedRequest if they can't be told apart.
    """
    try:
        unparsed = UnparsedInteractions.FromString(request).interactions
    except DecodeError as error:
        raise _malformed(RecordInteractionsRequest) from error
    check_count(len(unparsed))
    return map(_interaction_of, unparsed)


def _interaction_of(data: bytes) -> Interaction | ServiceError:
    try:
        interaction = Interaction.FromString(data)
        _check_whole(interaction, data)
    except DecodeError:
        return _error_of(Interaction, data)
    except InvalidField as error:
        return error
    return interaction


def _check_whole(message: Message, data: bytes) -> None:
    """Raise InvalidField if a field that is known has the wire type of another kind of field.

    To protobuf such a field is an unknown one, so that a record would be stored without it. Only if
    the size changes without the unknown fields are there any, and is it worth to look which.
    """
    message.DiscardUnknownFields()
    if message.ByteSize() != len(data) and (fault := fault_of(message.DESCRIPTOR, data)):
        raise InvalidField(*fault)


def _error_of(kind: type[Message], data: bytes) -> ServiceError:
    fault = fault_of(kind.DESCRIPTOR, data)
    return _malformed(kind) if fault is None else InvalidField(*fault)


def _malformed(kind: type[Message]) -> MalformedRequest:
    return MalformedRequest(f"The request is not a valid {kind.DESCRIPTOR.full_name}")
