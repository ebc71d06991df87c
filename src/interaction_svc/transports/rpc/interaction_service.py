"""interaction_svc.v1.InteractionService, independent of the engine that serves it.

Requests and responses are bytes. Requests are parsed here, because grpc's own parsing does not
report malformed bytes as the caller's error. A response is the stored bytes, followed by the bytes
of its other fields. This is valid, because protobuf parses concatenated messages as one.
"""

from interaction_svc.app.interactions import Interactions
from interaction_svc.domain.interactions import InteractionKey
from interaction_svc.domain.units import KIB, MIB
from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.rpc.requests import parse_request
from interaction_svc.v1.interaction_service_pb2 import (
    DeleteInteractionRequest,
    GetInteractionRequest,
    ListInteractionsRequest,
    ListInteractionsResponse,
)

MAX_PAGE_BYTES = 4 * MIB - 64 * KIB
"""The default limit of gRPC clients, 4 MiB, less room for tokens and framing."""


class InteractionServicer:
    """interaction_svc.v1.InteractionService."""

    def __init__(self, interactions: Interactions) -> None:
        self._interactions = interactions

    async def get_interaction(self, request: bytes) -> bytes:
        """Serve GetInteraction. The response is the stored bytes."""
        wanted = parse_request(GetInteractionRequest, request)
        key = InteractionKey(wanted.service_sid, wanted.session_sid, wanted.sid)
        call = current_request()
        return await self._interactions.get(
            call.principal, key, account_sid=wanted.account_sid, consistency=call.consistency
        )

    async def list_interactions(self, request: bytes) -> bytes:
        """Serve ListInteractions. The response is the stored bytes of the rows, then the tokens."""
        wanted = parse_request(ListInteractionsRequest, request)
        call = current_request()
        page = await self._interactions.page(
            call.principal, wanted, max_bytes=MAX_PAGE_BYTES, consistency=call.consistency
        )
        tokens = ListInteractionsResponse(
            next_page_token=page.next_page_token, previous_page_token=page.previous_page_token
        )
        return page.frames + tokens.SerializeToString()

    async def delete_interaction(self, request: bytes) -> bytes:
        """Serve DeleteInteraction. The response is empty."""
        wanted = parse_request(DeleteInteractionRequest, request)
        key = InteractionKey(wanted.service_sid, wanted.session_sid, wanted.sid)
        call = current_request()
        call.written = await self._interactions.delete(
            call.principal,
            key,
            account_sid=wanted.account_sid,
            allow_missing=wanted.allow_missing,
        )
        return b""
