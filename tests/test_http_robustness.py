"""What the HTTP port withstands: raw bytes against a served process."""

import asyncio
import json
import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from interaction_svc.addresses import Address
from interaction_svc.rest.protocol import HttpLimits, RestProtocol
from interaction_svc.rest.server import HttpServer
from tests.build import new_parents
from tests.conftest import basic
from tests.serving import Served, served
from tests.waiting import wait_until

MARK = "Zm9yYmlkZGVu"
"""Stands in what is sent, and must not stand in the log."""

LIMITS = ("--max-header-bytes", "2048", "--slow-sender-seconds", "1", "--log-level", "debug")

PARENTS = new_parents()
AUTHORIZATION = f"Authorization: {basic(PARENTS.account_sid)}\r\n"
GOOD = f"GET {PARENTS.path} HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\n".encode()
LAST = GOOD[:-2] + b"Connection: close\r\n\r\n"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def answers(received: bytes) -> list[Answer]:
    """Read what a server sent as answers, all of JSON or without a body."""
    found = []
    while received:
        head, separator, rest = received.partition(b"\r\n\r\n")
        assert separator, received
        line, *fields = head.decode("ascii").split("\r\n")
        assert line.startswith("HTTP/1.1 "), line
        headers = {name.lower(): value for name, value in (f.split(": ", 1) for f in fields)}
        size = int(headers.get("content-length", "0"))
        answer = Answer(int(line.split(" ")[1]), headers, rest[:size])
        assert len(answer.body) == size
        if answer.status != 204:
            assert headers["content-type"] == "application/json"
            body = json.loads(answer.body)
            if answer.status >= 400:
                assert set(body) == {"code", "message", "more_info", "status"}
                assert body["status"] == answer.status
        assert headers["twilio-request-id"].startswith("RQ")
        found.append(answer)
        received = rest[size:]
    return found


@contextmanager
def connected(server: Served) -> Iterator[socket.socket]:
    host, _, port = server.base_url.rpartition("/")[2].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as opened:
        yield opened


def read_all(opened: socket.socket) -> bytes:
    """Read until the server ends the connection; a reset is an end too."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := opened.recv(65536):
            received += chunk
    return received


def read_one(opened: socket.socket) -> Answer:
    """Read one answer from a connection that stays open."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(opened)
    head, _, rest = received.partition(b"\r\n\r\n")
    size = next(
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    while len(rest) < size:
        rest += _some(opened)
    (answer,) = answers(head + b"\r\n\r\n" + rest)
    return answer


def _some(opened: socket.socket) -> bytes:
    chunk = opened.recv(65536)
    assert chunk, "it ended the connection"
    return chunk


def send_for_ever(opened: socket.socket, sent: bytes) -> None:
    """Send until the server ends the connection."""
    with suppress(ConnectionError):
        while True:
            opened.sendall(sent)


def exchange(server: Served, sent: bytes, *, half_close: bool = True) -> list[Answer]:
    """Send something on a connection of its own, and give the answers until its end."""
    with connected(server) as opened:
        with suppress(ConnectionError):  # it may end the connection before it has all
            opened.sendall(sent)
            if half_close:
                opened.shutdown(socket.SHUT_WR)
        return answers(read_all(opened))


def statuses(server: Served, sent: bytes, *, half_close: bool = False) -> list[int]:
    return [answer.status for answer in exchange(server, sent, half_close=half_close)]


def descriptors(server: Served) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@contextmanager
def unharmed(server: Served) -> Iterator[None]:
    """Check that afterwards it serves, holds no more than before, and has logged nothing sent."""
    assert statuses(server, LAST) == [200]
    before = descriptors(server)
    yield
    assert statuses(server, LAST) == [200]
    wait_until(lambda: descriptors(server) <= before)
    logged = server.log.read_text()
    assert MARK not in logged
    assert "Traceback" not in logged


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("limited"), *LIMITS) as running:
        yield running


GET, POST = b"GET /v1/x HTTP/1.1\r\n", b"POST /v1/x HTTP/1.1\r\n"
GARBAGE = {
    "nothing": b"",
    "line ends": b"\r\n" * 50,
    "zeros": b"\0" * 5000,
    "half a request": GOOD[:40] + MARK.encode(),
    "one word": MARK.encode(),
    "another version": f"GET /{MARK} HTTP/9.9\r\n\r\n".encode(),
    "no version": b"GET /\r\n\r\n",
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    "a tls hello": bytes.fromhex("16030100c8010000c40303") + bytes(range(200)),
    "a method of its own": f"{MARK} / HTTP/1.1\r\n\r\n".encode(),
    "a tunnel": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "a proxy's request": b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: x\r\n\r\n",
    "the server itself": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header without a name": GET + f": {MARK}\r\n\r\n".encode(),
    "a header without a colon": GET + f"{MARK}\r\n\r\n".encode(),
    "a folded header": GET + f"A: b\r\n {MARK}\r\n\r\n".encode(),
    "a zero in a header": GET + f"A: \0{MARK}\r\n\r\n".encode(),
    "a space before the colon": GET + b"Content-Length : 5\r\n\r\nhello",
    "line feeds alone": f"GET / HTTP/1.1\nA: {MARK}\n\n".encode(),
    "carriage returns alone": f"GET / HTTP/1.1\rA: {MARK}\r\r".encode(),
    "a path of high bytes": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "escaped zeros": b"GET /v1/%00%ff%0d%0aA:%20b HTTP/1.1\r\nHost: x\r\n\r\n",
    "line ends in the query": b"GET /v1/x?a=%0d%0aSet-Cookie:%20a HTTP/1.1\r\nHost: x\r\n\r\n",
    "credentials that are none": GET + f"Authorization: Basic {MARK}\r\n\r\n".encode(),
    "both lengths": POST
    + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + GOOD,
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nhell" + GOOD,
    "a list of lengths": POST + b"Content-Length: 4, 4\r\n\r\nhell" + GOOD,
    "a signed length": POST + b"Content-Length: +4\r\n\r\nhell" + GOOD,
    "a negative length": POST + b"Content-Length: -1\r\n\r\nhell" + GOOD,
    "a length of words": POST + f"Content-Length: {MARK}\r\n\r\nhell".encode() + GOOD,
    "a length out of bounds": POST + f"Content-Length: {'9' * 40}\r\n\r\n".encode(),
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + GOOD,
    "two codings": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + GOOD,
    "a coding behind a tab": POST + b"Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" + GOOD,
    "bad chunks": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + GOOD,
    "a chunk out of bounds": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40,
    "a request in a body": GET + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD,
    "an upgrade": GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + GOOD,
    "an upgrade to http/2": GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + GOOD,
}  # fmt: skip


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE.keys())
def test_what_is_no_request_gets_one_refusal_at_most(limited: Served, sent: bytes) -> None:
    """One at most: what could be a second request, behind the body of the first, is not read."""
    with unharmed(limited):
        found = exchange(limited, sent)
        assert len(found) <= 1
        assert all(answer.status in {400, 401, 404, 405, 431} for answer in found)
        assert all(
            answer.headers["connection"] == "close" for answer in found if answer.status == 400
        )


def mutated(rng: random.Random) -> bytes:
    changed = bytearray(GOOD * rng.choice((1, 1, 3)))
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0:
                changed[at : at + 1] = rng.randbytes(1)
            case 1:
                changed[at:at] = rng.choice((b"\r\n", b"\0", b" ", b":", rng.randbytes(9)))
            case 2:
                del changed[at : at + rng.randrange(1, 20)]
            case _:
                del changed[at:]
                changed += b"\r"
    return bytes(changed)


def random_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 10, 300, 5000)))


@pytest.mark.parametrize("make", [mutated, random_bytes])
def test_garbage_by_the_thousand_harms_nothing(limited: Served, make: object) -> None:
    assert callable(make)
    rng = random.Random(20001)
    with unharmed(limited):
        for _ in range(1500):
            for answer in exchange(limited, make(rng)):
                assert answer.status < 500


def headers_of(size: int, more: bytes = b"Connection: close\r\n") -> bytes:
    """Make a request of this size."""
    start = b"GET / HTTP/1.1\r\n" + more + b"X: " + MARK.encode()
    return start.ljust(size - 4, b"x") + b"\r\n\r\n"


def test_headers_may_be_as_large_as_the_limit(limited: Served) -> None:
    with unharmed(limited):
        assert statuses(limited, headers_of(2048)) == [404]
        assert statuses(limited, headers_of(2049)) == [431]
        line = f"GET /{'x' * 2047} HTTP/1.1\r\nConnection: close\r\n\r\n".encode()
        assert statuses(limited, line) == [431]
        many = "".join(f"A{n}: {MARK}\r\n" for n in range(200))
        assert statuses(limited, f"GET / HTTP/1.1\r\n{many}\r\n".encode()) == [431]


@pytest.mark.parametrize(
    "start",
    [b"GET /", b"GET / HTTP/1.1\r\nA: ", b"GET / HTTP/1.1\r\nA", b"GET / HTTP/1.1\r\nA: b\r\n" * 2],
)
def test_headers_without_an_end_are_refused_before_they_fill_the_memory(
    limited: Served, start: bytes
) -> None:
    with unharmed(limited), connected(limited) as opened:
        opened.sendall(start)
        with suppress(ConnectionError):
            for _ in range(1000):  # a megabyte, if they were taken
                opened.sendall(b"a" * 1024)
        (refusal,) = answers(read_all(opened))
        assert refusal.status in {400, 431}


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


def test_between_requests_a_connection_may_be_idle_for_longer_than_a_sender_may_be_slow(
    limited: Served,
) -> None:
    with connected(limited) as kept:
        kept.sendall(GOOD)
        assert read_one(kept).status == 200
        assert exchange(limited, b"", half_close=False) == []  # that time has passed
        kept.sendall(GOOD)
        assert read_one(kept).status == 200


def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    with served(tmp_path, "--connection-idle-seconds", "1") as server, unharmed(server):
        assert statuses(server, GOOD) == [200]


async def test_no_time_runs_while_a_request_is_being_answered() -> None:
    finish = asyncio.Event()

    async def answer(request: Request) -> Response:
        if request.url.path == "/slow":
            await finish.wait()
        return Response()

    limits = HttpLimits(2048, 100, slow_sender_seconds=0.1, connection_idle_seconds=0.1)
    app = Starlette(routes=[Route("/{path:path}", answer)])
    server = HttpServer(lambda _: app, Address("127.0.0.1", 0), base_url=None, limits=limits)
    address = await server.start()
    first = headers_of(2048, b"")  # as much as is parsed at once, so that the next comes after it
    reader, writer = await asyncio.open_connection(*address)
    writer.write(first + b"GET /slow HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(30):
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(3):  # the times of others are over meanwhile
            for sent in (b"", b"GET / HTTP/1.1\r\n\r\n"):
                other, other_writer = await asyncio.open_connection(*address)
                other_writer.write(sent)
                await other.read()
                other_writer.close()
        finish.set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await reader.read() == b""  # and now it was idle
    writer.close()
    await server.drain(0)


async def test_answers_are_sent_without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.Transport] = []
    connection_made = RestProtocol.connection_made

    def noted(protocol: RestProtocol, transport: asyncio.Transport) -> None:
        made.append(transport)
        connection_made(protocol, transport)

    monkeypatch.setattr(RestProtocol, "connection_made", noted)
    limits = HttpLimits(2048, 100, slow_sender_seconds=10, connection_idle_seconds=10)
    server = HttpServer(
        lambda _: Starlette(), Address("127.0.0.1", 0), base_url=None, limits=limits
    )
    reader, writer = await asyncio.open_connection(*await server.start())
    writer.write(b"\0\r\n\r\n")
    await reader.readline()
    (transport,) = made
    assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    writer.close()
    await server.drain(0)


@pytest.mark.parametrize(
    "extra",
    [
        "Content-Length: 0\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Length: 000\r\n",
    ],
)
def test_a_request_without_a_body_keeps_the_connection(limited: Served, extra: str) -> None:
    with connected(limited) as opened:
        for _ in range(3):
            opened.sendall(GOOD[:-2] + extra.encode() + b"\r\n")
            answer = read_one(opened)
            assert (answer.status, "connection" in answer.headers) == (200, False)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "announced",
    [
        "Content-Length: 1000000000",
        "Transfer-Encoding: chunked",
        "Content-Length: 5\r\nExpect: 100-continue",
    ],
)
def test_a_body_is_not_waited_for(limited: Served, method: str, announced: str) -> None:
    request = f"{method} {PARENTS.path} HTTP/1.1\r\n{AUTHORIZATION}{announced}\r\n\r\n".encode()
    with unharmed(limited):
        (answer,) = exchange(limited, request, half_close=False)
        assert answer.status == (200 if method == "GET" else 405)
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (POST + b"Content-Length: 20000000\r\n\r\n" + b"x" * 20_000_000, 401),
        (GET + b"X: " + b"x" * 20_000_000, 431),
    ],
    ids=["a body", "headers"],
)
def test_who_reads_only_when_all_is_sent_sees_the_answer(
    limited: Served, sent: bytes, status: int
) -> None:
    """To close at once would reset the connection, and take the answer with it."""
    with unharmed(limited), connected(limited) as opened:
        opened.sendall(sent)
        assert [answer.status for answer in answers(read_all(opened))] == [status]


def test_a_body_without_an_end_is_not_taken(limited: Served) -> None:
    request = f"POST / HTTP/1.1\r\n{AUTHORIZATION}Transfer-Encoding: chunked\r\n\r\n".encode()
    with unharmed(limited), connected(limited) as opened:
        opened.sendall(request)
        assert read_one(opened).status == 404
        send_for_ever(opened, b"400\r\n" + b"x" * 1024 + b"\r\n")


def test_pipelined_requests_are_answered_in_their_order(limited: Served) -> None:
    paths = [f"/{n}" for n in range(500)]
    sent = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths).encode()
    found = exchange(limited, sent + LAST, half_close=False)
    assert [answer.status for answer in found] == [404] * 500 + [200]
    for path, answer in zip(paths, found, strict=False):
        assert f"resource {path} was" in answer.body.decode()


def test_what_was_asked_before_garbage_is_answered_first(limited: Served) -> None:
    assert statuses(limited, GOOD + GOOD + b"\0garbage\r\n\r\n" + GOOD) == [200, 200, 400]


def test_http_1_0_is_answered_and_the_connection_closed(limited: Served) -> None:
    sent = f"GET {PARENTS.path} HTTP/1.0\r\n{AUTHORIZATION}\r\n".encode()
    (answer,) = exchange(limited, sent + GOOD, half_close=False)
    assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_connections_beyond_the_limit_are_closed_and_those_within_it_served(tmp_path: Path) -> None:
    with served(tmp_path, "--max-connections", "3") as server:
        with connected(server) as first, connected(server), connected(server):
            first.sendall(GOOD)
            assert read_one(first).status == 200
            for _ in range(20):
                assert exchange(server, b"", half_close=False) == []
            first.sendall(GOOD)
            assert read_one(first).status == 200
        wait_until(lambda: statuses(server, LAST) == [200])


def test_a_client_that_reads_nothing_is_given_up(tmp_path: Path) -> None:
    with served(tmp_path, "--connection-idle-seconds", "1") as server, unharmed(server):
        with connected(server) as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            send_for_ever(opened, GOOD * 100)
        assert resident_kib(server) < 200_000


def resident_kib(server: Served) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])
