"""The memory of the service: idle, with idle connections, and under load. Linux only."""

import resource
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from testing import http2
from testing.api_keys import IssuedKey, new_key
from testing.build import Parents, new_parents, new_session
from testing.process import Served, served
from testing.requests import get_request, list_request

from bench.load import Load, Request, run
from bench.processes import ENGINES, GRPCIO, resident_mib
from bench.writing import stream_memory
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb

CONNECTIONS = 1000
UNREAD = 100
"""Unread responses, each on a connection of its own."""
AT_ONCE = 16
_PARTS = 5
_STEADY_SECONDS = 1.0
_MAX_WAIT_SECONDS = 20.0
_GET = "/interaction_svc.v1.InteractionService/GetInteraction"
_LIST = "/interaction_svc.v1.InteractionService/ListInteractions"
_RECORDS = "/interaction_svc.v1.IngestService/RecordInteractions"


def memory(seconds: float, rows: int) -> list[tuple[str, str]]:
    """Measure resident memory under loads of `seconds` each, and a stream of `rows` rows."""
    found = [row for engine in ENGINES for row in _of_engine(engine)]
    with _large_session(GRPCIO) as (server, key, parents, session):
        metadata = (("authorization", key.bearer),)
        address = server.base_url.removeprefix("http://")
        kib = _of_connections(server, address, b"")
        found.append((f"an idle HTTP connection, of {CONNECTIONS:,}", f"{kib:.0f} KiB"))
        large = _request(_LIST, list_request(parents, page_size=1000), metadata)
        _most_begins_anew(server)
        _run(server, (large,), seconds)
        most = _shown(resident_mib(server.process.pid, "VmHWM"))
        found.append((f"at most, {AT_ONCE} List 1000 at once for {seconds:g} s", most))
        mixed = (large, *(_request(_GET, get_request(one), metadata) for one in session[:20]))
        ends = []
        for _ in range(_PARTS):
            _run(server, mixed, seconds)
            ends.append(_shown(resident_mib(server.process.pid)))
        found.append((f"after each {seconds:g} s of Get and List 1000", ", ".join(ends)))
    stream = stream_memory(rows)
    quarters = ", ".join(map(_shown, stream.quarters))
    found.append((f"at most, in each quarter of a stream of {rows:,} rows", quarters))
    return found


def _of_engine(engine: str) -> Iterator[tuple[str, str]]:
    """Yield the rows of an engine. Each has a new server, so that no freed memory is reused."""
    with _large_session(engine) as (server, _, _, _):
        yield f"{engine}: after the start", _shown(resident_mib(server.process.pid))
        kib = _of_connections(server, server.grpc_address, http2.greeting())
        yield f"{engine}: an idle gRPC connection, of {CONNECTIONS:,}", f"{kib:.0f} KiB"
    with _large_session(engine) as (server, key, parents, _):
        kib, size = _of_unread(server, key, parents)
        what = f"{engine}: an unread List 1000 of {size / 1024:.0f} KiB, of {UNREAD}"
        yield what, f"{kib:.0f} KiB"


@contextmanager
def _large_session(engine: str) -> Iterator[tuple[Served, IssuedKey, Parents, list[Any]]]:
    """Serve a Session of 1,000 Interactions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = new_key(folder / "interactions.db", "admin")
        session = new_session(new_parents(), 1000)
        with served(folder, "--grpc-engine", engine) as server:
            with grpc.insecure_channel(server.grpc_address) as channel:
                record: Any = channel.stream_unary(_RECORDS)
                batch = ingest_pb.RecordInteractionsRequest(interactions=session)
                metadata = (("authorization", key.bearer),)
                record(iter([batch.SerializeToString()]), metadata=metadata)
            parents = new_parents(
                account_sid=session[0].account_sid,
                service_sid=session[0].service_sid,
                session_sid=session[0].session_sid,
            )
            yield server, key, parents, session


def _request(method: str, asked: Any, metadata: http2.Pairs) -> Request:
    data = http2.message(asked.SerializeToString())
    return Request(http2.call_headers(method, metadata), data)


def _of_unread(server: Served, key: IssuedKey, parents: Parents) -> tuple[float, int]:
    """Return the KiB of memory of an unread response with its connection, and its bytes.

    The clients allow 65,535 bytes of a response, HTTP/2's default, and read the first of them.
    """
    metadata = (("authorization", key.bearer),)
    asked = list_request(parents, page_size=1000)
    with grpc.insecure_channel(server.grpc_address) as channel:
        call: Any = channel.unary_unary(_LIST)
        size = len(call(asked.SerializeToString(), metadata=metadata))
    request = _request(_LIST, asked, metadata)
    begun = http2.PREFACE + http2.settings() + http2.call(1, request.headers, request.data)
    host, _, port = server.grpc_address.rpartition(":")
    before = resident_mib(server.process.pid)
    with ExitStack() as stack:
        for _ in range(UNREAD):
            client = stack.enter_context(socket.create_connection((host, int(port))))
            client.settimeout(_MAX_WAIT_SECONDS)
            client.sendall(begun)
            received = bytearray()
            kinds: list[int] = []
            while http2.DATA not in kinds:  # until the response has begun
                received += client.recv(1024)
                kinds += [kind for kind, *_ in http2.frames(received)]
        return (_steady(server) - before) * 1024 / UNREAD, size


def _steady(server: Served) -> float:
    """Return the resident memory once it no longer changes."""
    end = time.monotonic() + _MAX_WAIT_SECONDS
    pause = threading.Event()
    before = -1.0
    while before != (now := resident_mib(server.process.pid)) and time.monotonic() < end:
        before = now
        pause.wait(_STEADY_SECONDS)
    return now


def _of_connections(server: Served, address: str, greeting: bytes) -> float:
    """Return the KiB of memory of a connection on which only a greeting was sent."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, _, port = address.rpartition(":")
    before = resident_mib(server.process.pid)
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(greeting)
            if greeting:
                connection.settimeout(10)
                assert connection.recv(1)  # the server's settings: it has accepted the connection
        return (_steady(server) - before) * 1024 / CONNECTIONS


def _run(server: Served, requests: tuple[Request, ...], seconds: float) -> None:
    answered = run(Load(server.grpc_address, requests, seconds, 4, at_once=AT_ONCE))
    assert answered.ok
    assert not answered.refused


def _most_begins_anew(server: Served) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def _shown(mib: float) -> str:
    return f"{mib:.0f} MiB"
