"""The RPC methods over Connect and gRPC-Web, against the same methods over gRPC."""

import asyncio
import base64
import json
import re
import socket
import uuid
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status
from testing.build import Parents, new_interaction, new_session, new_sid
from testing.log_lines import logged
from testing.process import Served, served
from testing.requests import get_request, list_request, record
from testing.rpc_http import PROTOCOLS, RpcAnswer, call
from testing.stubs import Ingest, Reading
from testing.wait import wait_until

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import (
    DeleteInteractionRequest,
    DeleteInteractionResponse,
    GetInteractionRequest,
    GetInteractionResponse,
    ListInteractionsRequest,
    ListInteractionsResponse,
)

READING = "interaction_svc.v1.InteractionService"
INGEST = "interaction_svc.v1.IngestService"
POSTS = [each for each in PROTOCOLS if "get" not in each]


async def get(
    http: httpx.AsyncClient, protocol: str, request: GetInteractionRequest, **given: Any
) -> RpcAnswer:
    method = f"{READING}/GetInteraction"
    return await call(http, protocol, method, request, GetInteractionResponse, **given)


async def list_(
    http: httpx.AsyncClient, protocol: str, request: ListInteractionsRequest, **given: Any
) -> RpcAnswer:
    method = f"{READING}/ListInteractions"
    return await call(http, protocol, method, request, ListInteractionsResponse, **given)


@pytest.fixture
async def http(server: Served) -> Any:
    """A client without credentials: on loopback without keys it needs none, as over gRPC."""
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_get_returns_the_interaction(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents, protocol: str
) -> None:
    interaction = new_interaction(parents, data='{"body":"žluťoučký 🐎"}')
    await record(ingest, interaction)
    answer = await get(http, protocol, get_request(interaction))
    assert (answer.code, answer.http.status_code) == ("OK", 200)
    assert GetInteractionResponse.FromString(answer.message).interaction == interaction
    assert answer.http.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("compress", ["", "gzip"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_list_pages_to_the_end(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents, protocol: str, compress: str
) -> None:
    made = new_session(parents, 25)
    await record(ingest, *made)
    listed: list[pb.Interaction] = []
    request = list_request(parents, page_size=10)
    while True:
        answer = await list_(http, protocol, request, compress=compress)
        page = ListInteractionsResponse.FromString(answer.message)
        listed += page.interactions
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert listed == made


@pytest.mark.parametrize("protocol", POSTS)
async def test_record_and_delete_change_the_store(
    http: httpx.AsyncClient, reading: Reading, parents: Parents, protocol: str
) -> None:
    interaction = new_interaction(parents)
    request = ingest_pb.RecordInteractionRequest(interaction=interaction)
    method = f"{INGEST}/RecordInteraction"
    answer = await call(http, protocol, method, request, ingest_pb.RecordInteractionResponse)
    recorded = ingest_pb.RecordInteractionResponse.FromString(answer.message)
    assert recorded.interaction == interaction
    assert recorded.outcome == ingest_pb.RECORD_OUTCOME_CREATED
    assert (await reading.GetInteraction(get_request(interaction))).interaction == interaction
    delete = DeleteInteractionRequest(
        service_sid=interaction.service_sid,
        session_sid=interaction.session_sid,
        sid=interaction.sid,
    )
    method = f"{READING}/DeleteInteraction"
    assert (await call(http, protocol, method, delete, DeleteInteractionResponse)).code == "OK"
    again = await call(http, protocol, method, delete, DeleteInteractionResponse)
    assert again.code == "NOT_FOUND"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "name", ["a missing SID", "a malformed SID", "not found", "a page token", "a page size"]
)
async def test_errors_are_those_of_grpc(
    http: httpx.AsyncClient, reading: Reading, parents: Parents, protocol: str, name: str
) -> None:
    requests: dict[str, Message] = {
        "a missing SID": GetInteractionRequest(service_sid=parents.service_sid),
        "a malformed SID": GetInteractionRequest(service_sid="% é\n" * 9),
        "not found": get_request(new_interaction(parents)),
        "a page token": list_request(parents, page_token="damaged"),
        "a page size": list_request(parents, page_size=-1),
    }
    request = requests[name]
    called: Awaitable[object]
    if isinstance(request, GetInteractionRequest):
        answer = await get(http, protocol, request)
        called = reading.GetInteraction(request)
    else:
        assert isinstance(request, ListInteractionsRequest)
        answer = await list_(http, protocol, request)
        called = reading.ListInteractions(request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await called
    assert answer.code == caught.value.code().name
    assert answer.text == caught.value.details()
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert answer.details == [
        (each.type_url.rpartition("/")[2], each.value) for each in status.details
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_unknown_compression_is_refused_with_those_that_are_known(
    http: httpx.AsyncClient, parents: Parents, protocol: str
) -> None:
    answer = await list_(http, protocol, list_request(parents), compress="snappy")
    assert answer.code == "UNIMPLEMENTED"
    assert "gzip, deflate or identity" in answer.text
    name = "accept-encoding" if protocol.startswith("connect") else "grpc-accept-encoding"
    assert answer.http.headers[name] == "gzip,deflate,identity"


@pytest.mark.parametrize("protocol", POSTS)
async def test_malformed_messages_are_refused(http: httpx.AsyncClient, protocol: str) -> None:
    kind = {"web": "grpc-web", "text": "grpc-web-text"}.get(protocol) or protocol.partition("+")[2]
    path = f"/{READING}/GetInteraction"
    headers = {"content-type": f"application/{kind}"}
    bodies = [
        b"\xff\xff",
        b"\0\0\0\0\2\xff\xff",
        b"\0\0\0\0\1",
        b"\7\0\0\0\0",
        b"{",
        b"AP//\xff",
        b"==",
    ]
    for body in bodies:
        answer = await http.post(path, content=body, headers=headers)
        if "web" in kind:
            is_text = protocol == "text"
            status = base64.b64decode(answer.content) if is_text else answer.content
            assert b"grpc-status: 3\r\n" in status, body
        else:
            assert answer.status_code == 400, body
            assert answer.json()["code"] == "invalid_argument", body


async def test_other_content_types_are_refused_with_those_that_are_served(
    http: httpx.AsyncClient,
) -> None:
    for kind in ("text/plain", "application/grpc", "application/connect+json", ""):
        headers = {"content-type": kind} if kind else {}
        answer = await http.post(f"/{READING}/GetInteraction", content=b"{}", headers=headers)
        assert answer.status_code == 415
        assert "application/json" in answer.headers["accept-post"].split(", ")
        assert answer.json()["code"] == "invalid_argument"


async def test_content_types_may_have_parameters_and_any_case(
    http: httpx.AsyncClient, parents: Parents
) -> None:
    body = json.dumps({"serviceSid": parents.service_sid, "sessionSid": parents.session_sid})
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    answer = await http.post(f"/{READING}/ListInteractions", content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {})


async def test_get_is_only_for_methods_without_side_effects(http: httpx.AsyncClient) -> None:
    for method in (f"{READING}/DeleteInteraction", f"{INGEST}/RecordInteraction"):
        answer = await http.get(f"/{method}?connect=v1&encoding=json&message={{}}")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = await http.put(f"/{READING}/GetInteraction", content=b"{}")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "encoding"),
        ("encoding=xml&message={}", "encoding"),
        ("encoding=proto&message=%21&base64=1", "message"),
        ("encoding=json&message={}&compression=br", "compression"),
    ],
)
async def test_a_bad_query_names_its_parameter(
    http: httpx.AsyncClient, query: str, field: str
) -> None:
    answer = await http.get(f"/{READING}/GetInteraction?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert field in answer.json()["message"]


@pytest.mark.parametrize("protocol", POSTS)
async def test_unknown_methods_are_unimplemented(http: httpx.AsyncClient, protocol: str) -> None:
    for method in (f"{READING}/Unknown", f"{INGEST}/Unknown", "grpc.health.v1.Health/Unknown"):
        answer = await call(http, protocol, method, GetInteractionRequest(), GetInteractionResponse)
        assert answer.code == "UNIMPLEMENTED"
        if protocol.startswith("connect"):
            assert answer.http.status_code == 501


@pytest.mark.parametrize("protocol", POSTS)
async def test_health_is_served(http: httpx.AsyncClient, protocol: str) -> None:
    async def check(service: str) -> RpcAnswer:
        request = health_pb2.HealthCheckRequest(service=service)
        method = "grpc.health.v1.Health/Check"
        return await call(http, protocol, method, request, health_pb2.HealthCheckResponse)

    for service in ("", READING, INGEST):
        answer = health_pb2.HealthCheckResponse.FromString((await check(service)).message)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert (await check("unknown")).code == "NOT_FOUND"
    method = "grpc.health.v1.Health/List"
    listed = await call(
        http, protocol, method, health_pb2.HealthListRequest(), health_pb2.HealthListResponse
    )
    statuses = health_pb2.HealthListResponse.FromString(listed.message).statuses
    assert set(statuses) == {"", READING, INGEST}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_request_id_is_returned_and_logged(
    http: httpx.AsyncClient, server: Served, parents: Parents, protocol: str
) -> None:
    request_id = uuid.uuid4().hex
    headers = {"x-request-id": request_id}
    answer = await list_(http, protocol, list_request(parents), headers=headers)
    assert answer.metadata["x-request-id"] == request_id
    wait_until(lambda: bool(logged(server, "call", request_id=request_id)))
    (line,) = logged(server, "call", request_id=request_id)
    transport = "connect" if protocol.startswith("connect") else "grpc_web"
    assert (line["transport"], line["code"]) == (transport, "OK")
    assert line["method"] == f"{READING}/ListInteractions"
    answer = await list_(http, protocol, list_request(parents))
    assert re.fullmatch("RQ[0-9a-f]{32}", answer.metadata["x-request-id"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_client_deadline_that_has_passed_ends_the_call(
    http: httpx.AsyncClient, parents: Parents, protocol: str
) -> None:
    is_connect = protocol.startswith("connect")
    name, values = (
        ("connect-timeout-ms", ("x", "-1", "1" * 11, "1.5"))
        if is_connect
        else ("grpc-timeout", ("x", "1", "S", "1s", "1" * 9 + "S", "-1S"))
    )
    for value in values:
        answer = await list_(http, protocol, list_request(parents), headers={name: value})
        assert answer.code == "INVALID_ARGUMENT"
        assert answer.text.startswith(f"{name}: ")
    past = {name: "0" if is_connect else "0m"}
    answer = await list_(http, protocol, list_request(parents), headers=past)
    assert answer.code == "DEADLINE_EXCEEDED"
    enough = {name: "20000" if is_connect else "20S"}
    assert (await list_(http, protocol, list_request(parents), headers=enough)).code == "OK"


@pytest.mark.parametrize("protocol", POSTS)
async def test_messages_above_the_limit_are_refused(tmp_path: Path, protocol: str) -> None:
    with served(tmp_path, "--max-message-bytes", "65536") as server:
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as http:
            request = GetInteractionRequest(service_sid="x" * 70_000)
            for compress in ("", "gzip", "deflate"):
                answer = await get(http, protocol, request, compress=compress)
                assert answer.code == "RESOURCE_EXHAUSTED"
                assert "65,536 bytes" in answer.text
            within = GetInteractionRequest(service_sid="x" * 60_000)
            assert (await get(http, protocol, within)).code == "INVALID_ARGUMENT"


async def test_large_responses_are_compressed_if_the_client_accepts_that(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    await record(ingest, *new_session(parents, 50))
    for protocol in PROTOCOLS:
        for accepted, encoding in (("gzip", "gzip"), ("identity", None)):
            headers = {"accept-encoding": accepted}
            answer = await list_(http, protocol, list_request(parents), headers=headers)
            assert answer.http.headers.get("content-encoding") == encoding
            assert len(ListInteractionsResponse.FromString(answer.message).interactions) == 50


async def test_a_response_that_the_client_does_not_read_is_cut_off_at_the_deadline(
    tmp_path: Path, parents: Parents
) -> None:
    flags = ("--deadline-seconds", "1", "--max-concurrent-calls", "1")
    with served(tmp_path, *flags) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            large = [
                new_interaction(parents, data="\x01" * 60_000) for _ in range(60)
            ]  # 21 MB of JSON
            await record(IngestServiceStub(channel), *large)
        body = json.dumps({"serviceSid": parents.service_sid, "sessionSid": parents.session_sid})
        sent = (
            f"POST /{READING}/ListInteractions HTTP/1.1\r\nHost: x\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        )
        host, _, port = server.base_url.removeprefix("http://").rpartition(":")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            client.sendall(sent.encode())
            cut_off = "ERROR_REASON_DEADLINE_EXCEEDED"
            await asyncio.to_thread(
                wait_until, lambda: bool(logged(server, "call", cut_off=cut_off))
            )
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as http:
            assert (
                await list_(http, "connect+proto", list_request(parents, page_size=1))
            ).code == "OK"


async def test_calls_are_counted_by_protocol(
    http: httpx.AsyncClient, server: Served, parents: Parents
) -> None:
    await list_(http, "web", list_request(parents))
    await get(http, "connect+json", GetInteractionRequest(service_sid=new_sid("KS")))
    text = (await http.get(server.metrics_url)).text
    method = f'method="{READING}/'
    assert f'calls_total{{code="OK",{method}ListInteractions",transport="grpc_web"}}' in text
    assert (
        f'calls_total{{code="INVALID_ARGUMENT",{method}GetInteraction",transport="connect"}}'
        in text
    )
    assert 'reason="ERROR_REASON_INVALID_FIELD",transport="connect"' in text
