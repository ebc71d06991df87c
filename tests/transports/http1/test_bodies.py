"""Bodies of requests are read as the application asks for them, within limits."""

import json
import re
import socket
from collections.abc import Iterator

import pytest
from testing.hostile_client import resident_mib
from testing.http1 import (
    GOOD,
    LAST,
    MARK,
    PARENTS,
    connected,
    exchange,
    send_for_ever,
    statuses,
)
from testing.process import Served, served
from testing.wait import wait_until

PATH = "/interaction_svc.v1.InteractionService/ListInteractions"
LIST = json.dumps({"serviceSid": PARENTS.service_sid, "sessionSid": PARENTS.session_sid}).encode()


def post(headers: str, body: bytes = b"", path: str = PATH) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}\r\n"
    return head.encode() + body


def with_length(body: bytes) -> bytes:
    return post(f"Content-Length: {len(body)}\r\n", body)


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return post("Transfer-Encoding: chunked\r\n", chunks + b"0\r\n" + trailer + b"\r\n")


def answered(server: Served, sent: bytes) -> list[int]:
    """Return the statuses of the responses until the server closes the connection."""
    with connected(server) as opened:
        opened.sendall(sent)
        received = b""
        while part := opened.recv(65536):
            received += part
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


@pytest.mark.parametrize(
    "sent",
    [
        with_length(LIST),
        with_length(b" " * 100_000 + LIST),
        chunked(LIST),
        chunked(*(bytes([byte]) for byte in LIST)),
        chunked(LIST[:10], LIST[10:], trailer=b"X-Trailer: 1\r\nAuthorization: Basic x\r\n"),
        post(f"Content-Length: {len(LIST)}\r\nExpect: 100-continue\r\n", LIST),
    ],
    ids=["a length", "a large body", "one chunk", "many chunks", "trailers", "expect"],
)
def test_a_connection_is_kept_after_a_body(limited: Served, sent: bytes) -> None:
    """The requests behind it are served, one after the other."""
    final = [status for status in answered(limited, sent + sent + LAST) if status != 100]
    assert final == [200, 200, 200]


def test_a_client_that_waits_for_100_continue_gets_it(limited: Served) -> None:
    with connected(limited) as opened:
        opened.sendall(post(f"Content-Length: {len(LIST)}\r\nExpect: 100-continue\r\n"))
        assert opened.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        opened.sendall(LIST)
        assert opened.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_refused_request_gets_no_100_continue(limited: Served) -> None:
    path = "/interaction_svc.v1.InteractionService/Unknown"
    sent = post("Content-Length: 5\r\nExpect: 100-continue\r\n", path=path)
    assert answered(limited, sent) == [501]


def test_a_body_in_pieces_of_a_byte_is_read(limited: Served) -> None:
    with connected(limited) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in with_length(LIST):
            opened.sendall(bytes([byte]))
        assert opened.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent",
    [
        post("Transfer-Encoding: chunked\r\n", b"zz\r\n"),
        post("Transfer-Encoding: chunked\r\n", b"2\r\n{}x"),
        post("Transfer-Encoding: chunked\r\n", b"f" * 40),
    ],
)
def test_a_body_that_can_not_be_read_is_malformed(limited: Served, sent: bytes) -> None:
    """Nothing behind it is served."""
    assert answered(limited, sent + GOOD) == [400]


@pytest.mark.parametrize("part", [b"1;x=" + b"y" * 500 + b"\r\n{\r\n", b"1\r\n{\r\n"])
def test_an_endless_body_is_refused_in_bounded_memory(limited: Served, part: bytes) -> None:
    before = resident_mib(limited)
    with connected(limited) as opened:
        opened.sendall(post("Transfer-Encoding: chunked\r\n"))
        send_for_ever(opened, part * 1000)
    assert resident_mib(limited) - before < 30
    assert statuses(limited, LAST) == [200]


def test_endless_trailers_are_refused(limited: Served) -> None:
    with connected(limited) as opened:
        opened.sendall(post("Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n"))
        send_for_ever(opened, f"X-{MARK}: {'y' * 500}\r\n".encode() * 100)
    assert statuses(limited, LAST) == [200]


def test_a_length_above_the_limit_is_refused_before_the_body(limited: Served) -> None:
    answers = answered(limited, post("Content-Length: 100000000\r\nConnection: close\r\n"))
    assert answers == [429]


@pytest.fixture
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("impatient")
    with served(folder, "--deadline-seconds", "1", "--max-concurrent-calls", "2") as server:
        yield server


def test_a_body_that_does_not_arrive_ends_at_the_deadline_and_frees_its_place(
    impatient: Served,
) -> None:
    with connected(impatient) as one, connected(impatient) as other:
        for opened in (one, other):
            opened.sendall(post("Content-Length: 100\r\n", b"{"))
        statuses_ = [opened.recv(65536).split()[1] for opened in (one, other)]
        assert statuses_ == [b"504", b"504"]
    assert statuses(impatient, LAST) == [200]


def test_a_body_without_credentials_is_small(limited: Served) -> None:
    path = "/grpc.health.v1.Health/Check"
    service = json.dumps({"service": "x" * 3_000}).encode()
    head = f"Content-Length: {len(service)}\r\nConnection: close\r\n"
    assert answered(limited, post(head, service, path=path)) == [404]
    assert answered(limited, post("Content-Length: 8000\r\n", path=path)) == [429]


def test_a_health_check_whose_body_does_not_arrive_ends_at_the_deadline(
    impatient: Served,
) -> None:
    with connected(impatient) as opened:
        opened.sendall(post("Content-Length: 100\r\n", b"{", path="/grpc.health.v1.Health/Check"))
        assert opened.recv(65536).split()[1] == b"504"


def test_a_client_that_leaves_within_a_body_frees_its_place(impatient: Served) -> None:
    for _ in range(20):
        with connected(impatient) as opened:
            opened.sendall(post("Content-Length: 100\r\n", b"{"))
    wait_until(lambda: statuses(impatient, LAST) == [200])


def test_a_rest_request_with_a_body_is_answered_and_the_connection_ends(limited: Served) -> None:
    sent = GOOD[:-2] + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD + GOOD
    (answer,) = exchange(limited, sent, half_close=False)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
