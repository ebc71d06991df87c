"""The table of the RPC methods that every engine serves."""

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
from interaction_svc.transports.rpc.health import HealthServicer
from interaction_svc.transports.rpc.ingest_service import IngestServicer
from interaction_svc.transports.rpc.interaction_service import InteractionServicer
from interaction_svc.transports.rpc.method import Method
from interaction_svc.transports.rpc.reflection import reflection_methods
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_service_pb2 as pb

INTERACTION_SERVICE = pb.DESCRIPTOR.services_by_name["InteractionService"]
INGEST_SERVICE = ingest_pb.DESCRIPTOR.services_by_name["IngestService"]
SERVICES = (INTERACTION_SERVICE.full_name, INGEST_SERVICE.full_name)
"""The names of the two services of the API."""


def rpc_methods(
    interactions: Interactions, ingest: Ingest, health: HealthServicer
) -> dict[Operation, Method]:
    """Return all methods: of both services of the API, of health, and of reflection."""
    reading, recording = InteractionServicer(interactions), IngestServicer(ingest)
    return {
        GET: Method(reading.get_interaction, pb.GetInteractionRequest, pb.GetInteractionResponse),
        LIST: Method(
            reading.list_interactions, pb.ListInteractionsRequest, pb.ListInteractionsResponse
        ),
        DELETE: Method(
            reading.delete_interaction, pb.DeleteInteractionRequest, pb.DeleteInteractionResponse
        ),
        RECORD: Method(
            recording.record_interaction,
            ingest_pb.RecordInteractionRequest,
            ingest_pb.RecordInteractionResponse,
        ),
        RECORD_STREAM: Method(
            recording.record_interactions,
            ingest_pb.RecordInteractionsRequest,
            ingest_pb.RecordInteractionsResponse,
        ),
        **health.methods(),
        **reflection_methods(SERVICES),
    }
