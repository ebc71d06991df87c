"""The servicers: bytes in, one call on the application, bytes out.

Requests are parsed here and not by grpc, which doesn't say that bad bytes are the caller's fault.
Responses are bytes already: the stored frames, and where a response has further fields, those
appended, for protobuf reads joined messages as one.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing

from interaction_svc.app import consistency
from interaction_svc.app.ingest import Ingest
from interaction_svc.app.interactions import Interactions
from interaction_svc.domain.errors import InvalidField
from interaction_svc.store import InteractionKey
from interaction_svc.telemetry.request_context import REQUEST_ID_HEADER, current_request
from interaction_svc.transports.grpcio.interceptors.chain import Context
from interaction_svc.transports.rpc.requests import interactions_of, parsed, parsed_record
from interaction_svc.v1.ingest_service_pb2 import (
    RecordInteractionResponse,
    RecordOutcome,
)
from interaction_svc.v1.interaction_service_pb2 import (
    DeleteInteractionRequest,
    GetInteractionRequest,
    ListInteractionsRequest,
    ListInteractionsResponse,
)

MAX_PAGE_BYTES = 4 * 1024 * 1024 - 64 * 1024
"""What gRPC clients accept by default, 4 MiB, less room for tokens and framing."""


class InteractionServicer:
    """interaction_svc.v1.InteractionService."""

    def __init__(self, interactions: Interactions) -> None:
        self._interactions = interactions

    async def get_interaction(self, request: bytes, _: Context) -> bytes:
        """GetInteraction: the stored frame is the response."""
        wanted = parsed(GetInteractionRequest, request)
        key = InteractionKey(wanted.service_sid, wanted.session_sid, wanted.sid)
        call = current_request()
        return await self._interactions.get(
            call.principal, key, account_sid=wanted.account_sid, consistency=call.consistency
        )

    async def list_interactions(self, request: bytes, _: Context) -> bytes:
        """ListInteractions: the stored frames, then the tokens."""
        wanted = parsed(ListInteractionsRequest, request)
        call = current_request()
        page = await self._interactions.page(
            call.principal, wanted, max_bytes=MAX_PAGE_BYTES, consistency=call.consistency
        )
        tokens = ListInteractionsResponse(
            next_page_token=page.next_page_token, previous_page_token=page.previous_page_token
        )
        return page.frames + tokens.SerializeToString()

    async def delete_interaction(self, request: bytes, context: Context) -> bytes:
        """DeleteInteraction: the response is empty."""
        wanted = parsed(DeleteInteractionRequest, request)
        key = InteractionKey(wanted.service_sid, wanted.session_sid, wanted.sid)
        token = await self._interactions.delete(
            current_request().principal,
            key,
            account_sid=wanted.account_sid,
            allow_missing=wanted.allow_missing,
        )
        _answer_token(token, context)
        return b""


class IngestServicer:
    """interaction_svc.v1.IngestService."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    async def record_interaction(self, request: bytes, context: Context) -> bytes:
        """RecordInteraction: the frame that is stored now, then the outcome."""
        given = parsed_record(request)
        if not given.HasField("interaction"):
            raise InvalidField("interaction", "is required")
        recorded = await self._ingest.record(current_request().principal, given.interaction)
        _answer_token(recorded.consistency_token, context)
        rest = RecordInteractionResponse(outcome=RecordOutcome.ValueType(recorded.outcome))
        return (recorded.frame or b"") + rest.SerializeToString()

    async def record_interactions(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """RecordInteractions: the response follows the last request's commit."""
        async with aclosing(interactions_of(request) async for request in requests) as batches:
            recorded = await self._ingest.record_stream(current_request().principal, batches)
        _answer_token(recorded.consistency_token, context)
        return recorded.response.SerializeToString()


def _answer_token(token: str | None, context: Context) -> None:
    """Put the consistency token of a write into the trailers, if there is one."""
    if token is not None:
        context.set_trailing_metadata(
            ((REQUEST_ID_HEADER, current_request().request_id), (consistency.KEY, token))
        )
