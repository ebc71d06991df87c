"""Malformed and hostile HTTP requests against a served process."""

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest
from testing.http1 import (
    AUTHORIZATION,
    GOOD,
    LAST,
    MARK,
    PARENTS,
    answers,
    connected,
    exchange,
    headers_of,
    read_all,
    read_one,
    send_for_ever,
    statuses,
    unharmed,
)
from testing.process import Served

GET, POST = b"GET /v1/x HTTP/1.1\r\nHost: x\r\n", b"POST /v1/x HTTP/1.1\r\nHost: x\r\n"
END = b"Connection: close\r\n\r\n"
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
    "a proxy's request": b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: x\r\n" + END,
    "the server itself": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n" + END,
    "a header without a name": GET + f": {MARK}\r\n\r\n".encode(),
    "a header without a colon": GET + f"{MARK}\r\n\r\n".encode(),
    "a folded header": GET + f"A: b\r\n {MARK}\r\n\r\n".encode(),
    "a zero in a header": GET + f"A: \0{MARK}\r\n\r\n".encode(),
    "a space before the colon": GET + b"Content-Length : 5\r\n\r\nhello",
    "line feeds alone": f"GET / HTTP/1.1\nA: {MARK}\n\n".encode(),
    "carriage returns alone": f"GET / HTTP/1.1\rA: {MARK}\r\r".encode(),
    "a path of high bytes": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "escaped zeros": b"GET /v1/%00%ff%0d%0aA:%20b HTTP/1.1\r\nHost: x\r\n" + END,
    "line ends in the query": b"GET /v1/x?a=%0d%0aSet-Cookie:%20a HTTP/1.1\r\nHost: x\r\n" + END,
    "credentials that are none": GET + f"Authorization: Basic {MARK}\r\n".encode() + END,
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


REFUSALS = {
    "nothing": None,
    "line ends": 408,
    "half a request": 408,
    "a proxy's request": 404,
    "the server itself": 404,
    # These have a valid request line and headers, and no credentials.
    **dict.fromkeys(
        (
            "escaped zeros", "line ends in the query", "credentials that are none",
            "a coding behind a tab", "bad chunks", "a chunk out of bounds",
            "a request in a body", "an upgrade", "an upgrade to http/2",
        ),
        401,
    ),
}  # fmt: skip
"""The status of each response that isn't 400; None: there is no response."""


@pytest.mark.parametrize("name", GARBAGE)
def test_malformed_input_gets_at_most_one_error_response(limited: Served, name: str) -> None:
    """Bytes after the body of the first request could be a second one, and are not read."""
    with unharmed(limited):
        found = exchange(limited, GARBAGE[name], half_close=False)
        status = REFUSALS.get(name, 400)
        assert [answer.status for answer in found] == ([] if status is None else [status])
        assert all(answer.headers["connection"] == "close" for answer in found)


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


@pytest.mark.parametrize(
    ("make", "expected", "possible"),
    [(mutated, {400, 401, 404}, {200}), (random_bytes, {400}, set())],
    ids=["mutated", "random"],
)
def test_thousands_of_malformed_requests_do_no_harm(
    limited: Served,
    make: Callable[[random.Random], bytes],
    expected: set[int],
    possible: set[int],
) -> None:
    """A mutation can leave the request valid, for example with another Host."""
    rng = random.Random(20001)
    found: Counter[int] = Counter()
    with unharmed(limited):
        for _ in range(1500):
            found.update(answer.status for answer in exchange(limited, make(rng)))
    assert expected <= set(found) <= expected | possible
    assert found[400] > 750


def test_headers_may_be_as_large_as_the_limit(limited: Served) -> None:
    with unharmed(limited):
        assert statuses(limited, headers_of(2048)) == [404]
        assert statuses(limited, headers_of(2049)) == [431]
        line = f"GET /{'x' * 2047} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        assert statuses(limited, line) == [431]
        many = "".join(f"A{n}: {MARK}\r\n" for n in range(200))
        assert statuses(limited, f"GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n".encode()) == [431]


@pytest.mark.parametrize(
    "start",
    [b"GET /", b"GET / HTTP/1.1\r\nA: ", b"GET / HTTP/1.1\r\nA", GET + b"A: b\r\n" * 2 + b"A: "],
)
def test_endless_headers_are_refused_in_bounded_memory(limited: Served, start: bytes) -> None:
    with unharmed(limited), connected(limited) as opened:
        opened.sendall(start)
        with suppress(ConnectionError):
            for _ in range(1000):  # a megabyte, if they were read
                opened.sendall(b"a" * 1024)
        (refusal,) = answers(read_all(opened))
        assert refusal.status == 431


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
def test_a_request_with_a_body_is_answered_before_the_body_arrives(
    limited: Served, method: str, announced: str
) -> None:
    line = f"{method} {PARENTS.path} HTTP/1.1\r\nHost: x\r\n"
    request = f"{line}{AUTHORIZATION}{announced}\r\n\r\n".encode()
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
def test_a_client_that_sends_its_whole_body_first_can_read_the_response(
    limited: Served, sent: bytes, status: int
) -> None:
    """Closing at once would reset the connection, and the client would lose the response."""
    with unharmed(limited), connected(limited) as opened:
        opened.sendall(sent)
        assert [answer.status for answer in answers(read_all(opened))] == [status]


def test_an_endless_body_is_not_read(limited: Served) -> None:
    request = GOOD.replace(b"GET", b"POST")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
    with unharmed(limited), connected(limited) as opened:
        opened.sendall(request)
        assert read_one(opened).status == 405
        send_for_ever(opened, b"400\r\n" + b"x" * 1024 + b"\r\n")


def test_pipelined_requests_are_answered_in_their_order(limited: Served) -> None:
    paths = [f"/{n}" for n in range(500)]
    sent = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths).encode()
    found = exchange(limited, sent + LAST, half_close=False)
    assert [answer.status for answer in found] == [404] * 500 + [200]
    for path, answer in zip(paths, found, strict=False):
        assert f"resource {path} was" in answer.body.decode()


def test_requests_before_malformed_input_are_answered_first(limited: Served) -> None:
    assert statuses(limited, GOOD + GOOD + b"\0garbage\r\n\r\n" + GOOD) == [200, 200, 400]


def test_http_1_0_is_answered_and_the_connection_closed(limited: Served) -> None:
    sent = f"GET {PARENTS.path} HTTP/1.0\r\n{AUTHORIZATION}\r\n".encode()
    (answer,) = exchange(limited, sent + GOOD, half_close=False)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
