"""interaction_svc.v1.IngestService, independent of the engine that serves it."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from interaction_svc.app.ingest import Ingest
from interaction_svc.domain.errors import InvalidField
from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.rpc.requests import parse_record, split_interactions
from interaction_svc.v1.ingest_service_pb2 import RecordInteractionResponse, RecordOutcome


class IngestServicer:
    """interaction_svc.v1.IngestService."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    async def record_interaction(self, request: bytes) -> bytes:
        """Serve RecordInteraction. The response is the stored Interaction, then the outcome."""
        given = parse_record(request)
        if not given.HasField("interaction"):
            raise InvalidField("interaction", "is required")
        call = current_request()
        recorded = await self._ingest.record(call.principal, given.interaction)
        call.written = recorded.consistency_token
        rest = RecordInteractionResponse(outcome=RecordOutcome.ValueType(recorded.outcome))
        return (recorded.frame or b"") + rest.SerializeToString()

    async def record_interactions(self, requests: AsyncIterator[bytes]) -> bytes:
        """Serve RecordInteractions. The response follows the commit of the last request."""
        call = current_request()
        async with aclosing(split_interactions(request) async for request in requests) as batches:
            recorded = await self._ingest.record_stream(call.principal, batches)
        call.written = recorded.consistency_token
        return recorded.response.SerializeToString()
