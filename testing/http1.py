"""Raw HTTP/1.1 connections, for tests of hostile and slow clients."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from testing.build import new_parents
from testing.process import Served
from testing.requests import basic
from testing.wait import wait_until

MARK = "Zm9yYmlkZGVu"
"""A text that the tests send, and that the log must not contain."""

LIMITS = ("--max-header-bytes", "2048", "--header-timeout-seconds", "1", "--log-level", "debug")
PARENTS = new_parents()
AUTHORIZATION = f"Authorization: {basic(PARENTS.account_sid)}\r\n"
GOOD = f"GET {PARENTS.path} HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\n".encode()
LAST = GOOD[:-2] + b"Connection: close\r\n\r\n"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def answers(received: bytes) -> list[Answer]:
    """Parse the received bytes as responses, with JSON or without a body."""
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
    """Read until the server closes or resets the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := opened.recv(65536):
            received += chunk
    return received


def read_one(opened: socket.socket) -> Answer:
    """Read one response from a connection that stays open."""
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
    """Send until the server closes the connection."""
    with suppress(ConnectionError):
        while True:
            opened.sendall(sent)


def exchange(server: Served, sent: bytes, *, half_close: bool = True) -> list[Answer]:
    """Send bytes on a new connection, and return all responses until the connection ends."""
    with connected(server) as opened:
        with suppress(ConnectionError):  # the server may close before it has read all
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
    """Check that after the block the server serves, leaked no descriptors, and logged no MARK."""
    assert statuses(server, LAST) == [200]
    before = descriptors(server)
    yield
    assert statuses(server, LAST) == [200]
    wait_until(lambda: descriptors(server) <= before)
    logged = server.log.read_text()
    assert MARK not in logged
    assert "Traceback" not in logged


def headers_of(size: int, more: bytes = b"Connection: close\r\n") -> bytes:
    """Return a request of `size` bytes, without a body."""
    start = b"GET / HTTP/1.1\r\nHost: x\r\n" + more + b"X: " + MARK.encode()
    return start.ljust(size - 4, b"x") + b"\r\n\r\n"
