"""Unfinished request messages of gRPC calls: their memory, their keys and their deadline."""

import asyncio
import re
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from testing import http2
from testing.api_keys import new_key
from testing.build import Parents
from testing.hostile_client import RECORD, resident_mib
from testing.process import served
from testing.requests import list_request

from interaction_svc.domain.units import MIB
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

HEALTH_CHECK = "/grpc.health.v1.Health/Check"


@pytest.mark.parametrize("method", [RECORD, HEALTH_CHECK])
async def test_unfinished_messages_use_bounded_memory(tmp_path: Path, method: str) -> None:
    places, connections, streams, size = 16, 8, 64, 2 * MIB
    # A waiting call may hold a message too.
    limits = ("--max-concurrent-calls", str(places), "--max-waiting-calls", "0")
    times = {"transports.grpcio.interceptors.request_reader.MAX_UNLIMITED": places}
    with served(tmp_path, *limits, "--calls-per-second", "0", times=times) as server:
        before = resident_mib(server)
        opened = await asyncio.gather(
            *(
                send_unfinished(server.grpc_address, method, streams, size)
                for _ in range(connections)
            )
        )
        try:
            # Without the limits it would be a GiB.
            assert resident_mib(server) - before < 400
            async with grpc.aio.insecure_channel(server.grpc_address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        finally:
            for writer in opened:
                writer.close()


async def send_unfinished(
    address: str, method: str, streams: int, size: int
) -> asyncio.StreamWriter:
    """Send messages of which the last byte is missing, as far as the server's windows allow."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    sender = http2.Sender(dict.fromkeys(range(1, 2 * streams, 2), size))
    writer.write(http2.greeting())
    for stream in sender.left:
        writer.write(
            http2.frame(http2.HEADERS, http2.END_HEADERS, stream, http2.call_headers(method))
        )
    with suppress(TimeoutError):
        while True:
            writer.write(sender.data())
            async with asyncio.timeout(1):
                received = await reader.read(65536)
            assert received
            writer.write(sender.receive(received))
    return writer


async def test_an_unfinished_message_without_a_key_is_refused_at_once(
    tmp_path: Path, parents: Parents
) -> None:
    new_key(tmp_path / "interactions.db", "ingest", parents.account_sid)
    with served(tmp_path) as server:
        assert await status_of_unfinished(server.grpc_address, RECORD) == "16"


@pytest.mark.parametrize("method", [RECORD, HEALTH_CHECK])
async def test_an_unfinished_message_ends_at_the_deadline_and_frees_its_place(
    tmp_path: Path, parents: Parents, method: str
) -> None:
    flags = ("--deadline-seconds", "1", "--max-concurrent-calls", "1")
    times = {"transports.grpcio.interceptors.request_reader.UNLIMITED_SECONDS": 1}
    with served(tmp_path, *flags, times=times) as server:
        assert await status_of_unfinished(server.grpc_address, method) == "4"
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            await InteractionServiceStub(channel).ListInteractions(list_request(parents))


async def test_a_call_without_a_message_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        assert await status_of(server.grpc_address, RECORD, b"", http2.END_STREAM) == "3"


async def status_of_unfinished(address: str, method: str) -> str:
    return await status_of(address, method, http2.message(b"unfinished")[:-1], 0)


async def status_of(address: str, method: str, data: bytes, flags: int) -> str:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    headers = http2.call_headers(method)
    writer.write(
        http2.greeting()
        + http2.frame(http2.HEADERS, http2.END_HEADERS, 1, headers)
        + http2.frame(http2.DATA, flags, 1, data)
    )
    received = b""
    async with asyncio.timeout(20):
        while not (found := re.search(rb"grpc-status[\x01\x02](\d+)", received)):
            received += await reader.read(65536)
    writer.close()
    return found[1].decode()
