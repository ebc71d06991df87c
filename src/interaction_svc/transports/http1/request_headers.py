"""The headers of a request that decide who reads it how: what is ambiguous is refused.

A proxy and this service have to see the same request. So what could be read in two ways is not
HTTP here: a host or credentials that are given twice, or no host.
"""

import re

from interaction_svc.domain.errors import MalformedRequest

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, and values."""

_is_host = re.compile(
    rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(:[0-9]*)?"  # RFC 3986, but for commas
).fullmatch


def announces_body(headers: Headers) -> bool:
    """Return whether a body is to follow."""
    for name, value in headers:  # a generator takes twice as long
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
            return True
    return False


def check_headers(headers: Headers, version: str) -> None:
    """Raise MalformedRequest if the request could be read in two ways.

    HTTP/1.0 has no Host header, but its clients may send one.
    """
    host = credentials = None
    for name, value in headers:
        if name == b"host":
            if host is not None:
                raise MalformedRequest("Host: is given twice; give it once")
            host = value.rstrip(b" \t")  # the parser leaves white space behind a value
        elif name == b"authorization":
            if credentials is not None:
                raise MalformedRequest("Authorization: is given twice; give it once")
            credentials = value
    if host is None:
        if version != "1.0":
            raise MalformedRequest("Host: is missing; HTTP/1.1 needs it")
    elif not _is_host(host):
        raise MalformedRequest("Host: is not a host, or a host, a colon and a port")
