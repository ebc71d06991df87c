"""Requests that a proxy could read differently are refused."""

import json

import httpx
import pytest
from testing.http1 import (
    AUTHORIZATION,
    GOOD,
    LAST,
    MARK,
    PARENTS,
    exchange,
    statuses,
    unharmed,
)
from testing.process import Served


def good(host: str) -> str:
    return f"GET {PARENTS.path} HTTP/1.1\r\nHost: {host}\r\n{AUTHORIZATION}\r\n"


def with_header(line: str) -> str:
    return f"{good('x')[:-2]}{line}\r\n\r\n"


_NO_HTTP = "This is not an HTTP request"
_TWICE = "Authorization: is given twice; give it once"
_TWO_HOSTS = "Host: is given twice; give it once"
_NO_HOST = "Host: is not a host, or a host, a colon and a port"
AMBIGUOUS = {
    "no host": (good("x").replace("Host: x\r\n", ""), "Host: is missing; HTTP/1.1 needs it"),
    "two hosts": (with_header("Host: y"), _TWO_HOSTS),
    "the host twice": (with_header("Host: x"), _TWO_HOSTS),
    "two hosts over HTTP/1.0": (
        with_header("Host: y").replace("HTTP/1.1", "HTTP/1.0"), _TWO_HOSTS,
    ),
    "a list of hosts": (good("x, y"), _NO_HOST),
    "a host with a path": (good("x/y"), _NO_HOST),
    "a host with a user": (good("user@x"), _NO_HOST),
    "a host with a port of words": (good("x:http"), _NO_HOST),
    "a host of high bytes": (good("\xff"), _NO_HOST),
    "two credentials": (with_header(f"Authorization: Basic {MARK}"), _TWICE),
    "the credentials twice": (with_header(AUTHORIZATION.strip()), _TWICE),
    "no credentials and some": (with_header("authorization:"), _TWICE),
    "two lengths": (with_header("Content-Length: 4\r\nContent-Length: 5"), _NO_HTTP),
    "a length twice": (with_header("Content-Length: 0\r\nContent-Length: 0"), _NO_HTTP),
    "a length and a coding": (
        with_header("Content-Length: 5\r\nTransfer-Encoding: chunked"), _NO_HTTP,
    ),
    "a coding and a length": (
        with_header("Transfer-Encoding: chunked\r\nContent-Length: 5"), _NO_HTTP,
    ),
    "a coding that is none": (with_header("Transfer-Encoding: chunked, x"), _NO_HTTP),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "message"), AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_ambiguous_requests_are_refused_and_counted(
    limited: Served, sent: str, message: str
) -> None:
    """The next request on the connection is neither read nor answered."""
    with unharmed(limited):
        before = refused(limited)
        (answer,) = exchange(limited, sent.encode("latin-1") + GOOD, half_close=False)
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        body = json.loads(answer.body)
        assert body["code"] == 20001
        assert body["message"] == message
        assert refused(limited) == before + 1


@pytest.mark.parametrize(
    "host",
    [
        "x",
        "x:8080",
        "127.0.0.1",
        "[::1]:8080",
        "my_service.local",
        "",
        "x:",
        "a-b.example.",
        " x\t ",
    ],
)
def test_every_valid_host_header_is_accepted(limited: Served, host: str) -> None:
    """Links never use the Host header, so any valid host is accepted."""
    assert statuses(limited, LAST.replace(b"Host: x", f"Host: {host}".encode())) == [200]


@pytest.mark.parametrize(
    "value",
    [
        "Basic \xff\xfe",
        "Basic QUM\xe9",
        "Bearer SK" + "0" * 32 + ".s\xe9cret",
        "B\xe1sic x",
        "\x80",
    ],
)
def test_credentials_that_are_not_ascii_are_refused(limited: Served, value: str) -> None:
    sent = LAST.replace(AUTHORIZATION.encode(), f"Authorization: {value}\r\n".encode("latin-1"))
    with unharmed(limited):
        before = refused(limited, "ERROR_REASON_UNAUTHENTICATED")
        (answer,) = exchange(limited, sent, half_close=False)
        assert (answer.status, json.loads(answer.body)["code"]) == (401, 20003)
        assert refused(limited, "ERROR_REASON_UNAUTHENTICATED") == before + 1


def refused(server: Served, reason: str = "ERROR_REASON_MALFORMED_REQUEST") -> float:
    """Return the number of requests refused for this reason."""
    text = httpx.get(server.metrics_url, trust_env=False).text
    sample = f'interaction_svc_errors_total{{reason="{reason}",transport="http"}} '
    return float(next((line[len(sample) :] for line in text.splitlines() if sample in line), 0))
