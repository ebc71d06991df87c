"""Limits of HTTP connections: their number, and timeouts of slow and idle ones."""

import asyncio
import resource
import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from testing.event_loops import LOOPS, on_loop
from testing.http1 import (
    GOOD,
    LAST,
    answers,
    connected,
    descriptors,
    exchange,
    headers_of,
    read_all,
    read_one,
    send_for_ever,
    statuses,
    unharmed,
)
from testing.log_lines import logged
from testing.process import Served, served
from testing.wait import wait_until

from interaction_svc.transports.address import Address
from interaction_svc.transports.http1.connection_timer import ConnectionTimer
from interaction_svc.transports.http1.listener import LimitedListener, OpenConnections
from interaction_svc.transports.http1.protocol import HttpLimits, RestProtocol
from interaction_svc.transports.http1.server import HttpServer
from interaction_svc.transports.rest.responses import error_response
from interaction_svc.transports.sockets import bind


@pytest.mark.parametrize(
    "sent",
    [b"G", b"\r\n", GOOD[:-2], GOOD + GOOD[:-2]],
    ids=["a byte", "a line end", "no end", "the second"],
)
def test_a_request_that_stops_halfway_is_timed_out(limited: Served, sent: bytes) -> None:
    with unharmed(limited):
        *before, refusal = exchange(limited, sent, half_close=False)
        assert [answer.status for answer in before] == ([200] if sent.startswith(GOOD) else [])
        assert (refusal.status, refusal.headers["connection"]) == (408, "close")


def test_a_request_byte_by_byte_is_timed_out(limited: Served) -> None:
    with unharmed(limited), connected(limited) as opened:
        ended = threading.Event()

        def trickle() -> None:
            with suppress(OSError):
                opened.sendall(b"GET / HTTP/1.1\r\n")
                while not ended.wait(0.05):
                    opened.sendall(b"A: b\r\n")

        sender = threading.Thread(target=trickle)
        sender.start()
        (refusal,) = answers(read_all(opened))
        ended.set()
        sender.join()
        assert refusal.status == 408


def test_a_connection_on_which_nothing_is_sent_is_closed(limited: Served) -> None:
    with unharmed(limited):
        assert exchange(limited, b"", half_close=False) == []


def test_the_idle_timeout_replaces_the_header_timeout_between_requests(
    limited: Served,
) -> None:
    with connected(limited) as kept:
        kept.sendall(GOOD)
        assert read_one(kept).status == 200
        assert exchange(limited, b"", half_close=False) == []  # the header timeout has passed
        kept.sendall(GOOD)
        assert read_one(kept).status == 200


def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    with served(tmp_path, "--connection-idle-seconds", "1") as server, unharmed(server):
        assert statuses(server, GOOD) == [200]


@pytest.mark.both_loops
async def test_no_timeout_runs_while_a_request_is_answered() -> None:
    finish = asyncio.Event()

    async def answer(request: Request) -> Response:
        if request.url.path == "/slow":
            await finish.wait()
        return Response()

    limits = HttpLimits(2048, 100, header_timeout_seconds=0.1, connection_idle_seconds=0.1)
    app = Starlette(routes=[Route("/{path:path}", answer)])
    server = HttpServer(
        lambda _: app,
        Address("127.0.0.1", 0),
        base_url=None,
        limits=limits,
        render_error=error_response,
    )
    address = await server.start()
    first = headers_of(2048, b"")  # the size of one parsed piece, so that the next request is kept
    reader, writer = await asyncio.open_connection(*address)
    writer.write(first + b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(30):
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(3):  # the timeouts of other connections end meanwhile
            for sent in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
                other, other_writer = await asyncio.open_connection(*address)
                other_writer.write(sent)
                await other.read()
                other_writer.close()
        finish.set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await reader.read() == b""  # the idle timeout has closed it
    writer.close()
    await server.drain(0)


@pytest.mark.both_loops
async def test_a_timer_that_is_due_is_started_again() -> None:
    timer, fired = ConnectionTimer(asyncio.get_running_loop()), asyncio.Event()
    timer.start(0, pytest.fail)
    timer.start(0.01, fired.set)
    async with asyncio.timeout(30):
        await fired.wait()
    timer.close()


@pytest.mark.both_loops
async def test_responses_are_sent_without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.Transport] = []
    connection_made = RestProtocol.connection_made

    def noted(protocol: RestProtocol, transport: asyncio.Transport) -> None:
        made.append(transport)
        connection_made(protocol, transport)

    monkeypatch.setattr(RestProtocol, "connection_made", noted)
    limits = HttpLimits(2048, 100, header_timeout_seconds=10, connection_idle_seconds=10)
    server = HttpServer(
        lambda _: Starlette(),
        Address("127.0.0.1", 0),
        base_url=None,
        limits=limits,
        render_error=error_response,
    )
    reader, writer = await asyncio.open_connection(*await server.start())
    writer.write(b"\0\r\n\r\n")
    await reader.readline()
    (transport,) = made
    assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    writer.close()
    await server.drain(0)


@pytest.mark.both_loops
async def test_a_connection_that_can_not_be_served_is_closed_and_does_not_count() -> None:
    async def connect(_: socket.socket) -> None:
        raise OSError

    (bound,) = bind(Address("127.0.0.1", 0))
    connections = OpenConnections(1)
    listener = LimitedListener(bound, connections, unread_seconds=1)
    listener.start(connect)
    for _ in range(3):
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        assert await reader.read() == b""
        writer.close()
    assert connections.count == 0
    listener.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_connections_beyond_the_limit_are_closed_and_those_within_it_served(
    tmp_path: Path, loop: str
) -> None:
    # The timeout is so long that open connections stay open during the test.
    flags = ("--max-connections", "3", "--header-timeout-seconds", "600")
    with served(tmp_path, *flags, env=on_loop(loop, tmp_path)) as server:
        with connected(server) as first, connected(server), connected(server):
            first.sendall(GOOD)
            assert read_one(first).status == 200
            for _ in range(20):
                assert exchange(server, b"", half_close=False) == []
            first.sendall(GOOD)
            assert read_one(first).status == 200
        wait_until(lambda: statuses(server, LAST) == [200])


@pytest.mark.parametrize("loop", LOOPS)
def test_connections_are_accepted_again_after_too_many_files_were_open(
    tmp_path: Path, loop: str
) -> None:
    message = "HTTP connections can't be accepted for a second"
    flags = ("--no-grpc", "--no-metrics", "--header-timeout-seconds", "600")
    with served(tmp_path, *flags, env=on_loop(loop, tmp_path)) as server:
        process, limit = server.process.pid, resource.RLIMIT_NOFILE
        before = resource.prlimit(process, limit)
        resource.prlimit(process, limit, (descriptors(server) + 3, before[1]))
        with ExitStack() as opened:
            for _ in range(10):
                opened.enter_context(connected(server))
            wait_until(lambda: bool(logged(server, message)))
        assert statuses(server, LAST) == [200]
        lines = logged(server, message)
        assert {line["problem"] for line in lines} == {"Too many open files"}
        assert len(lines) < 50  # it pauses between its attempts


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_whose_client_reads_nothing_is_closed(tmp_path: Path, loop: str) -> None:
    env = on_loop(loop, tmp_path)
    with served(tmp_path, "--connection-idle-seconds", "1", env=env) as server, unharmed(server):
        with connected(server) as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            send_for_ever(opened, GOOD * 100)
        assert resident_kib(server) < 200_000


def resident_kib(server: Served) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])
