"""Parsing of requests.

grpc's own parsing is not used: it does not report malformed bytes as the caller's error, and it
parses a whole batch at once. An empty Interaction has 2 bytes in a batch, and 140 bytes in memory.
Parsing a batch of 4 MiB at once would take 300 MiB, and block the event loop for a second.
Splitting it into Interactions takes 60 MiB and 50 ms. Then they are counted, and parsed one by one.
"""

from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from interaction_svc.app.ingest import check_count
from interaction_svc.domain.errors import InvalidField, MalformedRequest, ServiceError
from interaction_svc.internal.v1.unparsed_pb2 import UnparsedInteractions
from interaction_svc.transports.rpc.wire_format import find_fault
from interaction_svc.v1.ingest_service_pb2 import (
    RecordInteractionRequest,
    RecordInteractionsRequest,
)
from interaction_svc.v1.interaction_pb2 import Interaction

M = TypeVar("M", bound=Message)


def parse_request(kind: type[M], data: bytes) -> M:
    """Parse a request. Raises InvalidField if one field is at fault, else MalformedRequest."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise _error_of(kind, data) from error


def parse_record(request: bytes) -> RecordInteractionRequest:
    """Parse the request of RecordInteraction.

    Raises as `parse_request` does, and InvalidField for a field that protobuf would drop.
    """
    given = parse_request(RecordInteractionRequest, request)
    _check_whole(given, request)
    return given


def split_interactions(request: bytes) -> Iterator[Interaction | ServiceError]:
    """Yield the Interactions of a RecordInteractionsRequest; each is parsed when it is yielded.

    An Interaction that can't be parsed is replaced by its error. Raises at once InvalidField if
    there are too many, and MalformedRequest if the bytes can't be divided into Interactions.
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
    """Raise InvalidField if a known field has the wire type of another kind of field.

    protobuf treats such a field as unknown, so a record would be stored without it. The bytes are
    searched only if the message has unknown fields, that is, if it is smaller without them.
    """
    message.DiscardUnknownFields()
    if message.ByteSize() != len(data) and (fault := find_fault(message.DESCRIPTOR, data)):
        raise InvalidField(*fault)


def _error_of(kind: type[Message], data: bytes) -> ServiceError:
    fault = find_fault(kind.DESCRIPTOR, data)
    return _malformed(kind) if fault is None else InvalidField(*fault)


def _malformed(kind: type[Message]) -> MalformedRequest:
    return MalformedRequest(f"The request is not a valid {kind.DESCRIPTOR.full_name}")
