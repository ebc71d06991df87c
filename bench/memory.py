"""The memory of the service: idle, with idle connections, and under load. Linux only."""

import resource
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from testing import http2
from testing.api_keys import new_key
from testing.build import new_parents, new_session
from testing.process import Served, served
from testing.requests import get_request, list_request

from bench.load import Load, Request, run
from bench.writing import stream_memory
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb

CONNECTIONS = 1000
AT_ONCE = 16
_PARTS = 5
_GET = "/interaction_svc.v1.InteractionService/GetInteraction"
_LIST = "/interaction_svc.v1.InteractionService/ListInteractions"
_RECORDS = "/interaction_svc.v1.IngestService/RecordInteractions"


def memory(seconds: float, rows: int) -> list[tuple[str, str]]:
    """Measure resident memory under loads of `seconds` each, and a stream of `rows` rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = new_key(folder / "interactions.db", "admin")
        with served(folder) as server:
            found = [("after the start", _shown(_resident(server)))]
            for transport, address, greeting in (
                ("gRPC", server.grpc_address, http2.greeting()),
                ("HTTP", server.base_url.removeprefix("http://"), b""),
            ):
                kib = _of_connections(server, address, greeting)
                found.append((f"an idle {transport} connection, of 1,000", f"{kib:.0f} KiB"))
            metadata = (("authorization", key.bearer),)
            session = new_session(new_parents(), 1000)
            with grpc.insecure_channel(server.grpc_address) as channel:
                record: Any = channel.stream_unary(_RECORDS)
                batch = ingest_pb.RecordInteractionsRequest(interactions=session)
                record(iter([batch.SerializeToString()]), metadata=metadata)

            def request(method: str, asked: Any) -> Request:
                data = http2.message(asked.SerializeToString())
                return Request(http2.call_headers(method, metadata), data)

            parents = new_parents(
                account_sid=session[0].account_sid,
                service_sid=session[0].service_sid,
                session_sid=session[0].session_sid,
            )
            large = request(_LIST, list_request(parents, page_size=1000))
            _most_begins_anew(server)
            _run(server, (large,), seconds)
            most = _shown(_resident(server, "VmHWM"))
            found.append((f"at most, {AT_ONCE} List 1000 at once for {seconds:g} s", most))
            mixed = (large, *(request(_GET, get_request(one)) for one in session[:20]))
            ends = []
            for _ in range(_PARTS):
                _run(server, mixed, seconds)
                ends.append(_shown(_resident(server)))
            found.append((f"after each {seconds:g} s of Get and List 1000", ", ".join(ends)))
    stream = stream_memory(rows)
    quarters = ", ".join(map(_shown, stream.quarters))
    found.append((f"at most, in each quarter of a stream of {rows:,} rows", quarters))
    return found


def _of_connections(server: Served, address: str, greeting: bytes) -> float:
    """Return the KiB of memory of a connection on which only a greeting was sent."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, _, port = address.rpartition(":")
    before = _resident(server)
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(greeting)
            if greeting:
                connection.settimeout(10)
                assert connection.recv(1)  # the server's settings: it has accepted the connection
        return (_resident(server) - before) * 1024 / CONNECTIONS


def _run(server: Served, requests: tuple[Request, ...], seconds: float) -> None:
    answered = run(Load(server.grpc_address, requests, seconds, 4, at_once=AT_ONCE))
    assert answered.ok
    assert not answered.refused


def _most_begins_anew(server: Served) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def _resident(server: Served, name: str = "VmRSS") -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def _shown(mib: float) -> str:
    return f"{mib:.0f} MiB"
