"""gRPC requests for tests, and checks of failed calls."""

import base64
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.interaction_service_pb2 import (
    GetInteractionRequest,
    ListInteractionsRequest,
)
from testing.build import Parents
from testing.stubs import Ingest

Order = ListInteractionsRequest.Order

Code = grpc.StatusCode


def basic(user: str, secret: str = "secret") -> str:
    """Return the value of an `authorization` header with Basic credentials."""
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


def get_request(interaction: pb.Interaction) -> GetInteractionRequest:
    return GetInteractionRequest(
        service_sid=interaction.service_sid,
        session_sid=interaction.session_sid,
        sid=interaction.sid,
    )


def list_request(parents: Parents, **given: Any) -> ListInteractionsRequest:
    return ListInteractionsRequest(
        service_sid=parents.service_sid, session_sid=parents.session_sid, **given
    )


async def record(ingest: Ingest, *interactions: pb.Interaction) -> None:
    async def requests() -> AsyncIterator[ingest_pb.RecordInteractionsRequest]:
        for start in range(0, len(interactions), 1000):
            batch = interactions[start : start + 1000]
            yield ingest_pb.RecordInteractionsRequest(interactions=batch)

    response = await ingest.RecordInteractions(requests())
    assert response.created == len(interactions)


async def failure(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, dict[str, Message]]:
    """Return the code, message and details (by name) of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()} without details"
    assert (status.code, status.message) == (error.code().value[0], error.details())
    details: dict[str, Message] = {}
    for packed in status.details:
        name = packed.TypeName().rpartition(".")[2]
        kind = getattr(error_details_pb2, name, ingest_pb.RecordInteractionsResponse)
        details[name] = kind()
        assert packed.Unpack(details[name])
    info: Any = details["ErrorInfo"]
    assert info.domain == "interaction-svc"
    return error.code(), info.reason, details
