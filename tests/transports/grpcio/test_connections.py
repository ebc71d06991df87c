"""Limits of gRPC connections: their number, their age, and their calls."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from testing.build import Parents
from testing.log_lines import logged
from testing.process import Served, served
from testing.requests import list_request

from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

pytestmark = pytest.mark.each_engine

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_SETTINGS = bytes(3) + b"\x04" + bytes(5)
SETTINGS, PING, GOAWAY = 4, 6, 7
MAX_CONCURRENT_STREAMS = 3


class Connection:
    """A minimal HTTP/2 client, which reads the frames of the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def begin(self) -> None:
        self.writer.write(PREFACE + NO_SETTINGS)

    async def frame(self) -> tuple[int, int, bytes]:
        """Return the type, flags and payload of the next frame."""
        head = await self.reader.readexactly(9)
        return head[3], head[4], await self.reader.readexactly(int.from_bytes(head[:3]))

    async def until(self, kind: int) -> bytes:
        async with asyncio.timeout(20):
            while True:
                found, _, payload = await self.frame()
                if found == kind:
                    return payload

    async def until_closed(self) -> None:
        async with asyncio.timeout(20):
            while await self.reader.read(4096):
                pass


@asynccontextmanager
async def connection(server: Served) -> AsyncIterator[Connection]:
    host, _, port = server.grpc_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


@pytest.mark.each_engine("grpcio")  # on h2corn they wait: tests/transports/h2corn
async def test_connections_are_limited(tmp_path: Path) -> None:
    async def is_served(opened: Connection) -> bool:
        opened.begin()
        try:
            await opened.until(SETTINGS)
        except (ConnectionError, asyncio.IncompleteReadError):
            return False
        return True

    with served(tmp_path, "--max-connections", "2") as server:
        async with connection(server) as a, connection(server) as b, connection(server) as c:
            assert [await is_served(opened) for opened in (a, b, c)] == [True, True, False]
        async with asyncio.timeout(20):  # a new connection is possible once they are closed
            while True:
                async with connection(server) as late:
                    if await is_served(late):
                        break
                await asyncio.sleep(0.05)


async def test_calls_of_a_connection_are_limited(tmp_path: Path) -> None:
    with served(tmp_path, "--max-streams-per-connection", "77") as server:
        async with connection(server) as opened:
            opened.begin()
            settings = await opened.until(SETTINGS)
    found = dict(struct.iter_unpack(">HI", settings))
    assert found[MAX_CONCURRENT_STREAMS] == 77


async def test_a_connection_without_a_handshake_is_closed(tmp_path: Path) -> None:
    with served(tmp_path, "--header-timeout-seconds", "1") as server:
        async with connection(server) as opened:
            await opened.until_closed()
        async with connection(server) as opened:
            opened.writer.write(PREFACE[:10])
            await opened.until_closed()


async def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    with served(tmp_path, "--connection-idle-seconds", "1") as server:
        async with connection(server) as opened:
            opened.begin()
            await opened.until(GOAWAY)
            await opened.until_closed()


@pytest.mark.each_engine("grpcio")
async def test_a_silent_client_gets_a_keepalive_ping(tmp_path: Path) -> None:
    with served(tmp_path, "--keepalive-seconds", "1") as server:
        async with connection(server) as opened:
            opened.begin()
            await opened.until(PING)


@pytest.mark.each_engine("grpcio")
async def test_an_old_connection_is_replaced_without_failing_its_calls(
    tmp_path: Path, parents: Parents
) -> None:
    with served(tmp_path, "--connection-age-seconds", "1") as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            reading = InteractionServiceStub(channel)
            async with asyncio.timeout(20):
                while len({line["peer"] for line in logged(server, "call")}) < 3:
                    await reading.ListInteractions(list_request(parents), wait_for_ready=True)
                    await asyncio.sleep(0.05)
