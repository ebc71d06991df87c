"""The servicers: bytes in, one call on the application, bytes out.

Requests are parsed here and not by grpc, which doesn't say that bad bytes are the caller's fault.
Responses are bytes already: the stored frames, and where a response has further fields, those
appended, for protobuf reads joined messages as one.
"""

from collections import Counter
from collections.abc import AsyncIterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from interaction_svc.calls import this_call
from interaction_svc.errors import InvalidField, MalformedRequest, ServiceError
from interaction_svc.grpc_api.batches import check_batch
from interaction_svc.grpc_api.interceptors.base import Context
from interaction_svc.interactions import Interactions
from interaction_svc.store import Key, Outcome
from interaction_svc.v1.ingest_service_pb2 import (
    RecordFailure,
    RecordInteractionRequest,
    RecordInteractionResponse,
    RecordInteractionsRequest,
    RecordInteractionsResponse,
    RecordOutcome,
)
from interaction_svc.v1.interaction_service_pb2 import (
    DeleteInteractionRequest,
    GetInteractionRequest,
    ListInteractionsRequest,
    ListInteractionsResponse,
)

MAX_FAILURES = 100
"""How many refused Interactions of a stream are described."""

M = TypeVar("M", bound=Message)


class InteractionServicer:
    """interaction_svc.v1.InteractionService."""

    def __init__(self, interactions: Interactions) -> None:
        self._interactions = interactions

    async def get_interaction(self, request: bytes, _: Context) -> bytes:
        """GetInteraction: the stored frame is the response."""
        wanted = _parsed(GetInteractionRequest, request)
        key = Key(wanted.service_sid, wanted.session_sid, wanted.sid)
        return await self._interactions.get(this_call().caller, key)

    async def list_interactions(self, request: bytes, _: Context) -> bytes:
        """ListInteractions: the stored frames, then the tokens."""
        wanted = _parsed(ListInteractionsRequest, request)
        page = await self._interactions.page(this_call().caller, wanted)
        tokens = ListInteractionsResponse(
            next_page_token=page.next_page_token, previous_page_token=page.previous_page_token
        )
        return page.frames + tokens.SerializeToString()

    async def delete_interaction(self, request: bytes, _: Context) -> bytes:
        """DeleteInteraction: the response is empty."""
        wanted = _parsed(DeleteInteractionRequest, request)
        key = Key(wanted.service_sid, wanted.session_sid, wanted.sid)
        await self._interactions.delete(this_call().caller, key, allow_missing=wanted.allow_missing)
        return b""


class IngestServicer:
    """interaction_svc.v1.IngestService."""

    def __init__(self, interactions: Interactions) -> None:
        self._interactions = interactions

    async def record_interaction(self, request: bytes, _: Context) -> bytes:
        """RecordInteraction: the frame that is stored now, then the outcome."""
        given = _parsed(RecordInteractionRequest, request)
        if not given.HasField("interaction"):
            raise InvalidField("interaction", "is required")
        outcome, frame = await self._interactions.record(this_call().caller, given.interaction)
        rest = RecordInteractionResponse(outcome=RecordOutcome.ValueType(outcome))
        return (frame or b"") + rest.SerializeToString()

    async def record_interactions(self, requests: AsyncIterator[bytes], _: Context) -> bytes:
        """RecordInteractions: each request is on disk before the next one is read."""
        caller = this_call().caller
        counts: Counter[Outcome] = Counter()
        response = RecordInteractionsResponse()
        index = 0
        async for request in requests:
            check_batch(request)
            given = _parsed(RecordInteractionsRequest, request)
            for result in await self._interactions.record_many(caller, given.interactions):
                if isinstance(result, Outcome):
                    counts[result] += 1
                else:
                    response.failed += 1
                    if len(response.failures) < MAX_FAILURES:
                        response.failures.append(_failure(index, result))
                index += 1
        response.created = counts[Outcome.CREATED]
        response.updated = counts[Outcome.UPDATED]
        response.unchanged = counts[Outcome.UNCHANGED]
        response.stale = counts[Outcome.STALE]
        response.deleted = counts[Outcome.DELETED]
        return response.SerializeToString()


def _failure(index: int, error: ServiceError) -> RecordFailure:
    field, message = "", error.message
    if isinstance(error, InvalidField):
        field, message = error.field, error.problem
    return RecordFailure(index=index, reason=error.reason, field=field, message=message)


def _parsed(kind: type[M], request: bytes) -> M:
    try:
        return kind.FromString(request)
    except DecodeError as error:
        name = kind.DESCRIPTOR.full_name
        raise MalformedRequest(f"The request is not a valid {name}") from error
