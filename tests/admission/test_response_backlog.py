"""Clients that read no responses: the memory for them is bounded, and other calls succeed."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
from testing import http2
from testing.api_keys import basic
from testing.build import Parents, new_interaction
from testing.hostile_client import resident_mib
from testing.log_lines import logged
from testing.process import Served, served
from testing.requests import list_request

from interaction_svc.admission.response_backlog import ResponseBacklog
from interaction_svc.domain.units import KIB, MIB
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

LIST = "/interaction_svc.v1.InteractionService/ListInteractions"
CALLS = 150
ANSWER_BYTES = 3 * MIB
"""The minimum size of a List of the Session of `fill`. As JSON it is six times as large."""


async def test_an_unread_http_response_is_aborted(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path, "--deadline-seconds", "1") as server:
        await fill(server, parents)
        host, _, port = server.base_url.removeprefix("http://").rpartition(":")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * KIB)
            client.settimeout(20)
            client.connect((host, int(port)))
            client.sendall(
                f"GET {parents.path} HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: {basic(parents.account_sid)}\r\n\r\n".encode()
            )
            async with asyncio.timeout(20):
                while not logged(server, "call", method="list"):
                    await asyncio.sleep(0.05)
            received = 0
            with suppress(ConnectionResetError):
                while taken := client.recv(65_536):
                    received += len(taken)
        # Far less than the response: only the part in the kernels' buffers.
        assert 0 < received < 5 * ANSWER_BYTES


@asynccontextmanager
async def taking_nothing(server: Served, parents: Parents) -> AsyncIterator[int]:
    """Make calls on a connection with an HTTP/2 window of 0; yield the number of refused calls.

    A refusal has only headers, to which the window does not apply.
    """
    host, _, port = server.grpc_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    nothing = (http2.INITIAL_WINDOW_SIZE, 0), (http2.HEADER_TABLE_SIZE, 0)
    request = http2.message(list_request(parents).SerializeToString())
    headers = http2.call_headers(LIST)
    writer.write(http2.PREFACE + http2.settings(*nothing))
    for number in range(CALLS):
        writer.write(http2.call(2 * number + 1, headers, request))
    received = bytearray()
    answered: set[int] = set()
    refused: set[int] = set()
    async with asyncio.timeout(60):
        while len(answered) < CALLS:  # every call gets at least headers
            received += await reader.read(65_536)
            for kind, flags, stream, payload in http2.frames(received):
                if kind == http2.PING and not flags & http2.ACK:
                    writer.write(http2.frame(http2.PING, http2.ACK, payload=payload))
                if kind == http2.HEADERS:
                    answered.add(stream)
                    if http2.status_in(payload) == "8":
                        refused.add(stream)
    try:
        yield len(refused)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def fill(server: Served, parents: Parents) -> None:
    interactions = [new_interaction(parents, data="\x01" * 260_000) for _ in range(14)]
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        await IngestServiceStub(channel).RecordInteractions(
            iter(
                ingest_pb.RecordInteractionsRequest(interactions=interactions[start::2])
                for start in range(2)
            )
        )


async def test_the_memory_of_unread_responses_is_bounded(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            await fill(server, parents)
            reading = InteractionServiceStub(channel)
            before = resident_mib(server)
            held = ResponseBacklog.MAX_BYTES_A_CONNECTION // ANSWER_BYTES
            for _ in range(3):
                async with taking_nothing(server, parents) as refused:
                    assert CALLS - held <= refused < CALLS
                    # Each response is in memory twice, and 150 MiB are allowed for the store's
                    # pages and the interpreter. All responses would need more than 1,000 MiB.
                    allowed = 2 * ResponseBacklog.MAX_BYTES_A_CONNECTION // MIB + 150
                    assert resident_mib(server) - before < allowed
                    page = await reading.ListInteractions(list_request(parents))
                    assert len(page.interactions) == 14
