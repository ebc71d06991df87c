"""Metadata that no client library sends: bytes that are not ASCII, and malformed deadlines."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from testing import http2
from testing.api_keys import IssuedKey, new_key
from testing.build import Parents, new_parents
from testing.hostile_client import LIST, RECORD_MANY, SECRET
from testing.log_lines import logged
from testing.process import Served, served
from testing.requests import list_request

from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

pytestmark = pytest.mark.each_engine

OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED = "0", "3", "4"
UNIMPLEMENTED, INTERNAL, UNAUTHENTICATED = "12", "13", "16"
LOG_BYTES_A_CALL = 800
"""The maximum size of the two log lines of a refused call: its audit line and its own."""


@pytest.fixture(scope="module")
def parents() -> Parents:
    return new_parents()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory, parents: Parents) -> IssuedKey:
    folder = tmp_path_factory.getbasetemp() / "metadata"
    folder.mkdir(exist_ok=True)
    return new_key(folder / "interactions.db", "read", parents.account_sid)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, key: IssuedKey, engine: str
) -> Iterator[Served]:
    with served(tmp_path_factory.getbasetemp() / "metadata") as running:
        yield running


class Client:
    """A connection on which calls are made one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._stream = -1
        self._received = bytearray()

    async def status_of(
        self,
        method: str | bytes,
        metadata: http2.Pairs,
        request: bytes,
        authority: str | None = "localhost",
    ) -> str:
        """Make a call, and return its status; an empty string if it ended without one."""
        self._stream += 2
        headers = http2.call_headers(method, metadata, authority)
        self._writer.write(http2.call(self._stream, headers, http2.message(request)))
        async with asyncio.timeout(20):
            while True:
                taken = await self._reader.read(65_536)
                assert taken, "the connection was closed"
                self._received += taken
                for kind, flags, stream, payload in http2.frames(self._received):
                    if kind == http2.PING and not flags & http2.ACK:
                        self._writer.write(http2.frame(http2.PING, http2.ACK, payload=payload))
                    if stream != self._stream:
                        continue
                    if kind == http2.RST_STREAM:
                        return ""
                    if flags & http2.END_STREAM:
                        return http2.status_in(payload) or ""


@asynccontextmanager
async def client_of(server: Served) -> AsyncIterator[Client]:
    host, _, port = server.grpc_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(http2.greeting())
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


async def serves(server: Served, key: IssuedKey, parents: Parents) -> None:
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        await InteractionServiceStub(channel).ListInteractions(
            list_request(parents), metadata=[("authorization", key.bearer)]
        )


@pytest.mark.parametrize("odd", [b"\xff\xfe", b"\x80", "\u00e9".encode(), "\u4e2d".encode()])
async def test_an_authorization_that_is_not_ascii_is_refused_and_not_logged(
    server: Served, key: IssuedKey, parents: Parents, odd: bytes
) -> None:
    request = list_request(parents).SerializeToString()
    before = server.log.stat().st_size
    calls = 50
    async with client_of(server) as client:
        for number in range(calls):
            value = f"Bearer {SECRET}{number}".encode() + odd
            assert await client.status_of(LIST, [("authorization", value)], request) == (
                UNAUTHENTICATED
            )
        # In other metadata such bytes are ignored, and not logged.
        elsewhere: http2.Pairs = [("authorization", key.bearer), ("x-other", SECRET.encode() + odd)]
        assert await client.status_of(LIST, elsewhere, request) == OK
    await serves(server, key, parents)
    text = server.log.read_text()
    assert SECRET not in text
    assert "Invalid encoding" not in text
    assert server.log.stat().st_size - before < LOG_BYTES_A_CALL * (calls + 10)


async def test_a_request_without_a_host_is_refused(
    server: Served, key: IssuedKey, parents: Parents, engine: str
) -> None:
    request = list_request(parents).SerializeToString()
    async with client_of(server) as client:
        metadata = [("authorization", key.bearer)]
        refused = {"grpcio": "", "h2corn": "3"}  # grpc's core resets the stream
        assert await client.status_of(LIST, metadata, request, authority=None) == refused[engine]
        assert await client.status_of(LIST, metadata, request) == OK


async def test_a_second_authorization_is_refused(
    server: Served, key: IssuedKey, parents: Parents
) -> None:
    request = list_request(parents).SerializeToString()
    async with client_of(server) as client:
        for other in ("Bearer x", key.bearer):
            metadata = [("authorization", key.bearer), ("authorization", other)]
            assert await client.status_of(LIST, metadata, request) == UNAUTHENTICATED


async def test_paths_that_are_not_utf_8_do_not_affect_other_calls(
    server: Served, key: IssuedKey, parents: Parents
) -> None:
    async with (
        grpc.aio.insecure_channel(server.grpc_address) as channel,
        client_of(server) as client,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        for path in (b"/\xff", b"/a/\x80b", b"\xff", f"/{SECRET}".encode() + b"\xc3"):
            for _ in range(20):
                assert await client.status_of(path, [], b"") == UNIMPLEMENTED
            await InteractionServiceStub(channel).ListInteractions(
                list_request(parents), metadata=[("authorization", key.bearer)]
            )
        assert not watch.done()
    assert not logged(server, "the gRPC listener has been opened again")
    assert SECRET not in server.log.read_text()


@pytest.mark.parametrize("method", [LIST, RECORD_MANY])
async def test_any_grpc_timeout_header_gets_a_response(
    server: Served, key: IssuedKey, parents: Parents, method: str, engine: str
) -> None:
    request = list_request(parents).SerializeToString()
    # The key lacks the permission to record, so that both methods end in the pipeline.
    good = OK if method == LIST else "7"
    malformed = {INTERNAL if engine == "grpcio" else INVALID_ARGUMENT}
    expected: Sequence[tuple[str, set[str]]] = [
        ("0n", {DEADLINE_EXCEEDED, ""}),
        ("1n", {DEADLINE_EXCEEDED, good, ""}),
        ("99999999H", {good}),
        ("99999999S", {good}),
        ("-1S", malformed),
        ("1", malformed),
        ("", malformed),
        ("999999999999H", {*malformed, good}),
    ]
    async with client_of(server) as client:
        for value, statuses in expected:
            metadata = [("authorization", key.bearer), ("grpc-timeout", value)]
            assert await client.status_of(method, metadata, request) in statuses, value
    await serves(server, key, parents)


async def test_a_refusal_that_the_client_no_longer_gets_is_logged(
    tmp_path: Path, parents: Parents
) -> None:
    request = list_request(parents).SerializeToString()
    new_key(tmp_path / "interactions.db", "read", parents.account_sid)
    with served(tmp_path) as server:
        async with client_of(server) as client:
            for microseconds in range(0, 1500, 5):
                timeout = [("grpc-timeout", f"{microseconds}u")]
                status = await client.status_of(LIST, timeout, request)
                assert status in (DEADLINE_EXCEEDED, UNAUTHENTICATED, "")
    codes = Counter(line["code"] for line in logged(server, "call"))
    assert set(codes) <= {"UNAUTHENTICATED", "CANCELLED"}
    assert codes["UNAUTHENTICATED"] == len(logged(server, "audit", action="refused")) > 0
