"""Refusal of requests with ambiguous headers.

A proxy and this service must interpret a request in the same way. A request with two hosts or
credentials, or without a host, can be interpreted in several ways, so it is refused as malformed.
"""

import re

from interaction_svc.domain.errors import MalformedRequest

Headers = list[tuple[bytes, bytes]]
"""Pairs of a name in lower case and a value."""

_is_host = re.compile(
    rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(:[0-9]*)?"  # RFC 3986 without comma
).fullmatch


def announces_body(headers: Headers) -> bool:
    """Return whether the headers announce a body."""
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
            return True
    return False


def check_headers(headers: Headers, version: str) -> None:
    """Raise MalformedRequest if the headers are ambiguous.

    HTTP/1.1 requires exactly one Host header. HTTP/1.0 permits at most one.
    """
    host = credentials = None
    for name, value in headers:
        if name == b"host":
            if host is not None:
                raise MalformedRequest("Host: is given twice; give it once")
            host = value.rstrip(b" \t")  # the parser keeps white space after a value
        elif name == b"authorization":
            if credentials is not None:
                raise MalformedRequest("Authorization: is given twice; give it once")
            credentials = value
    if host is None:
        if version != "1.0":
            raise MalformedRequest("Host: is missing; HTTP/1.1 needs it")
    elif not _is_host(host):
        raise MalformedRequest("Host: is not a host, or a host, a colon and a port")
