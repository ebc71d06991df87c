"""The methods of the API by operation, for engines that have no generated stubs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from google.protobuf.message import Message

from interaction_svc.app.ingest import Ingest
from interaction_svc.app.interactions import Interactions
from interaction_svc.transports.operations import (
    DELETE,
    GET,
    LIST,
    RECORD,
    RECORD_STREAM,
    Operation,
)
from interaction_svc.transports.rpc.ingest_service import IngestServicer
from interaction_svc.transports.rpc.interaction_service import InteractionServicer
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_service_pb2 as pb

INTERACTION_SERVICE = pb.DESCRIPTOR.services_by_name["InteractionService"]
INGEST_SERVICE = ingest_pb.DESCRIPTOR.services_by_name["IngestService"]
SERVICES = (INTERACTION_SERVICE.full_name, INGEST_SERVICE.full_name)
"""The names of the two services."""

UnaryCall = Callable[[bytes], Awaitable[bytes]]
StreamCall = Callable[[AsyncIterator[bytes]], Awaitable[bytes]]


class UnaryMethod(NamedTuple):
    """A method with one request and one response, both as bytes."""

    call: UnaryCall
    request: type[Message]
    response: type[Message]


def unary_methods(interactions: Interactions, ingest: Ingest) -> dict[Operation, UnaryMethod]:
    """Return the methods of both services with one request and one response."""
    reading, recording = InteractionServicer(interactions), IngestServicer(ingest)
    return {
        GET: UnaryMethod(
            reading.get_interaction, pb.GetInteractionRequest, pb.GetInteractionResponse
        ),
        LIST: UnaryMethod(
            reading.list_interactions, pb.ListInteractionsRequest, pb.ListInteractionsResponse
        ),
        DELETE: UnaryMethod(
            reading.delete_interaction, pb.DeleteInteractionRequest, pb.DeleteInteractionResponse
        ),
        RECORD: UnaryMethod(
            recording.record_interaction,
            ingest_pb.RecordInteractionRequest,
            ingest_pb.RecordInteractionResponse,
        ),
    }


def stream_methods(ingest: Ingest) -> dict[Operation, StreamCall]:
    """Return the methods of both services with a stream of requests and one response."""
    return {RECORD_STREAM: IngestServicer(ingest).record_interactions}
