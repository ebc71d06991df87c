"""Streams over Connect and gRPC-Web, against a served process."""

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from testing.api_keys import new_key
from testing.build import Parents, new_interaction
from testing.log_lines import logged
from testing.process import Served, served
from testing.requests import get_request
from testing.rpc_http import (
    STREAM_PROTOCOLS,
    StreamAnswer,
    call,
    call_stream,
    opened_stream,
    request_frame,
)
from testing.wait import wait_until

from interaction_svc.v1.ingest_service_pb2 import (
    RecordInteractionsRequest,
    RecordInteractionsResponse,
)
from interaction_svc.v1.interaction_service_pb2 import GetInteractionResponse

RECORD = "interaction_svc.v1.IngestService/RecordInteractions"
GET = "interaction_svc.v1.InteractionService/GetInteraction"
WATCH = "grpc.health.v1.Health/Watch"
REFLECTION = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@pytest.fixture
async def http(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(server) as client:
        yield client


def client_of(server: Served) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.base_url, trust_env=False)


async def record(http: httpx.AsyncClient, protocol: str, *requests: Message, **given: Any) -> Any:
    return await call_stream(http, protocol, RECORD, RecordInteractionsResponse, *requests, **given)


def batch(parents: Parents, size: int = 1) -> RecordInteractionsRequest:
    return RecordInteractionsRequest(interactions=[new_interaction(parents) for _ in range(size)])


@pytest.mark.parametrize("protocol", STREAM_PROTOCOLS)
async def test_a_stream_of_requests_is_recorded(
    http: httpx.AsyncClient, parents: Parents, protocol: str
) -> None:
    batches = [batch(parents, 3), batch(parents, 2)]
    for compress in ("", "gzip", "deflate"):
        sent = {"x-request-id": "mine"}
        answer = await record(http, protocol, *batches, compress=compress, headers=sent)
        assert (answer.code, answer.text) == ("OK", "")
        (response,) = answer.messages
        counted = RecordInteractionsResponse.FromString(response)
        assert (counted.created, counted.unchanged) == ((0, 5) if compress else (5, 0))
        assert answer.metadata["x-request-id"] == "mine"
    written = get_request(batches[1].interactions[1])
    found = await call(http, "connect+proto", GET, written, GetInteractionResponse)
    assert found.code == "OK"


@pytest.mark.parametrize("protocol", STREAM_PROTOCOLS)
async def test_requests_may_arrive_in_parts_of_any_size(
    http: httpx.AsyncClient, parents: Parents, protocol: str
) -> None:
    async def in_parts(size: int) -> AsyncIterator[bytes]:
        sent = b"".join(request_frame(protocol, each) for each in batches)
        for at in range(0, len(sent), size):
            yield sent[at : at + size]

    batches = [batch(parents, 2), RecordInteractionsRequest(), batch(parents)]
    for size in (1, 7, 4096):
        answer = await record(http, protocol, body=in_parts(size))
        assert answer.code == "OK"
        (response,) = answer.messages
        counted = RecordInteractionsResponse.FromString(response)
        assert counted.created + counted.unchanged == 3


@pytest.mark.parametrize("protocol", STREAM_PROTOCOLS)
async def test_a_failed_stream_of_requests_keeps_what_it_has_recorded(
    http: httpx.AsyncClient, parents: Parents, protocol: str
) -> None:
    async def cut_off() -> AsyncIterator[bytes]:
        yield request_frame(protocol, first)
        last = struct.pack(">BI", 0, 99) + b"x"
        yield last if protocol != "text" else b"AAAAAGN4"

    first = batch(parents)
    answer = await record(http, protocol, body=cut_off())
    assert (answer.code, answer.messages) == ("INVALID_ARGUMENT", [])
    assert answer.text == "The stream ends within a message"
    written = get_request(first.interactions[0])
    assert (await call(http, "web", GET, written, GetInteractionResponse)).code == "OK"


@pytest.mark.parametrize("protocol", STREAM_PROTOCOLS)
async def test_health_is_watched_until_the_client_leaves(tmp_path: Path, protocol: str) -> None:
    with served(tmp_path, "--log-level", "debug") as server:
        async with client_of(server) as http:
            request = health_pb2.HealthCheckRequest()
            async with opened_stream(http, protocol, WATCH, request) as answer:
                first = await anext(answer.aiter_raw())
                assert first
            method = WATCH
            await asyncio.to_thread(
                wait_until, lambda: bool(logged(server, "call", method=method, code="CANCELLED"))
            )


async def test_the_end_of_a_watched_server_is_an_error_in_the_stream(tmp_path: Path) -> None:
    with served(tmp_path, "--drain-seconds", "3600") as server:
        async with client_of(server) as http:
            watching = asyncio.create_task(
                call_stream(
                    http, "web", WATCH, health_pb2.HealthCheckResponse,
                    health_pb2.HealthCheckRequest(),
                )
            )  # fmt: skip
            await asyncio.to_thread(wait_until, lambda: in_flight(server) == 1)
            server.terminate()
            answer: StreamAnswer = await watching
    statuses = [health_pb2.HealthCheckResponse.FromString(each).status for each in answer.messages]
    serving, stopping = (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    )
    assert statuses == [serving, stopping]
    assert answer.code == "UNAVAILABLE"


def in_flight(server: Served) -> float:
    text = httpx.get(server.metrics_url, trust_env=False).text
    name = 'interaction_svc_calls_in_flight{transport="grpc_web"} '
    return sum(float(line.removeprefix(name)) for line in text.splitlines() if name in line)


@pytest.mark.parametrize("protocol", STREAM_PROTOCOLS)
async def test_reflection_answers_each_request_of_its_stream(
    http: httpx.AsyncClient, protocol: str
) -> None:
    asked = reflection_pb2.ServerReflectionRequest
    answer = await call_stream(
        http, protocol, REFLECTION, reflection_pb2.ServerReflectionResponse,
        asked(list_services=""), asked(file_containing_symbol="interaction_svc.v1.Leg"),
    )  # fmt: skip
    assert answer.code == "OK"
    listed, found = map(reflection_pb2.ServerReflectionResponse.FromString, answer.messages)
    names = {service.name for service in listed.list_services_response.service}
    assert "interaction_svc.v1.InteractionService" in names
    assert found.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize("protocol", STREAM_PROTOCOLS)
async def test_streams_are_refused_as_over_grpc(
    tmp_path: Path, parents: Parents, protocol: str
) -> None:
    flags = ("--max-message-bytes", "65536", "--stream-idle-seconds", "0.2")
    with served(tmp_path, *flags) as server:
        async with client_of(server) as http:
            large = new_interaction(parents, data="x" * 60_000)
            answer = await record(
                http, protocol, RecordInteractionsRequest(interactions=[large, large])
            )
            assert answer.code == "RESOURCE_EXHAUSTED"
            assert "65,536 bytes" in answer.text
            header, past = (
                ("connect-timeout-ms", "0")
                if protocol.startswith("stream")
                else ("grpc-timeout", "0m")
            )
            answer = await record(http, protocol, batch(parents), headers={header: past})
            assert answer.code == "DEADLINE_EXCEEDED"
            idle = await record(
                http, protocol, body=silent(request_frame(protocol, batch(parents)))
            )
            assert idle.code == "DEADLINE_EXCEEDED"
            assert "ERROR_REASON_STREAM_IDLE" in str(idle.details)
            reader = new_key(server.store, "read", parents.account_sid)
            answer = await record(http, protocol, batch(parents))
            assert answer.code == "UNAUTHENTICATED"
            answer = await record(
                http, protocol, batch(parents), headers={"authorization": reader.bearer}
            )
            assert answer.code == "PERMISSION_DENIED"


async def silent(first: bytes) -> AsyncIterator[bytes]:
    yield first
    await asyncio.sleep(2)  # httpx reads the response after it
