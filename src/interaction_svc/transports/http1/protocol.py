"""HTTP on one connection: uvicorn's protocol, and the bounds that it lacks.

What is not a request of this API is refused here, in the contract's words, before there is a call:
what isn't HTTP or could be read in two ways (400), headers that are too large (431) or too slow
(408). A request that announces
a body is answered like one without, and then the connection ends: the API takes no bodies, so
nothing can be fed to it for ever, or be smuggled past a proxy as a second request.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import httptools
import structlog
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from interaction_svc.domain.errors import (
    HeadersTooLarge,
    HeadersTooSlow,
    MalformedRequest,
    ServiceError,
)
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.request_context import new_request_id
from interaction_svc.transports.asgi.telemetry import NO_STORE
from interaction_svc.transports.http1.connection_timer import ConnectionTimer
from interaction_svc.transports.http1.request_cycle import RequestCycle
from interaction_svc.transports.http1.request_headers import announces_body, check_headers
from interaction_svc.transports.status import codes_of

log = structlog.get_logger()

_PIECE_BYTES = 1024
"""How much is parsed at once: it bounds the requests that wait for the one under way."""
_LINGER_SECONDS = 2.0
"""How long what is not read any more is taken, so that it doesn't reset the connection at once.

A reset would take the answer with it that the client has not read yet.
"""
_REASON = MalformedRequest.reason_name()


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one client can take up of the HTTP listener."""

    max_header_bytes: int
    """The largest headers of a request, its first line and the empty one included."""
    max_connections: int
    """How many connections are held at once; what comes beyond is closed."""
    header_timeout_seconds: float
    """How long a TLS handshake may take, and how long the headers of a request."""
    connection_idle_seconds: float
    """After which time a connection is closed on which nothing is asked, or nothing read."""


RenderError = Callable[[ServiceError, str], Response]
"""Returns the response to an error, given the path of the request or an empty text."""


class StopParsing(Exception):
    """Raised out of the parser: what follows on the connection is not read."""


class RestProtocol(HttpToolsProtocol):
    """A connection's requests, one after the other, within the limits.

    Its time limits: the headers have to be complete some time after the connection was opened, or
    after their first byte on one that was kept open; no time runs while a request is being
    answered; then the connection may be idle for a time. That a client doesn't read its answers is
    noticed by the kernel (see server.py), and their size bounded by uvicorn's flow control.
    """

    cycle: RequestCycle | None  # type: ignore[assignment]
    pipeline: deque[RequestCycle]  # type: ignore[assignment]

    def __init__(self, limits: HttpLimits, render_error: RenderError, **given: Any) -> None:
        super().__init__(**given)
        self._limits = limits
        self.render_error = render_error
        self._unparsed = bytearray()
        self._header_bytes = 0  # of headers that are not complete
        self._most_header_bytes = 0  # that those of the request being parsed can have
        self._timer = ConnectionTimer(self.loop)
        self._awaits_headers = False  # whether that is for them
        self._read_closed = False  # nothing more is read of the connection
        self._refusal: MalformedRequest | None = None  # to be sent after the answers before it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        super().connection_lost(exc)
        self._unparsed.clear()
        self._timer.close()

    def data_received(self, data: bytes) -> None:
        """Parse what came, or leave it until the request before is answered."""
        if self._read_closed:
            return
        if self._unparsed or len(data) > _PIECE_BYTES or self._is_answering():
            self._unparsed += data
            self._parse()
        else:  # as nearly always; the detour costs a microsecond
            self._feed(data)
            self._after_parsing()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._header_bytes = self._header_bytes or 1  # more than none

    def on_headers_complete(self) -> None:
        """Hand the request to the application, as uvicorn does; what it never needs is left out."""
        parser = self.parser
        scope: Scope = self.scope  # type: ignore[assignment]
        method = parser.get_method()
        if self._most_header_bytes > self._limits.max_header_bytes:  # or some are of what follows
            self._check_size(method)
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        version = parser.get_http_version()
        check_headers(self.headers, version)
        scope["http_version"] = version
        scope["method"] = method.decode("ascii")
        scope["path"] = _decoded(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        self._header_bytes = 0
        self._lift_time_limit()
        is_last = announces_body(self.headers) or parser.should_upgrade()
        keep_alive = not is_last and version != "1.0" and parser.should_keep_alive()
        is_answering = self._is_answering()
        exchange = self.cycle = RequestCycle(self, scope, keep_alive=keep_alive)
        if is_answering:
            self.flow.pause_reading()
            self.pipeline.append(exchange)
        else:
            self._answer(exchange)
        if is_last:
            self._read_closed = True
            raise StopParsing

    def on_body(self, body: bytes) -> None:
        """Take no bodies: after a request that announces one, nothing is parsed."""

    def on_message_complete(self) -> None:
        """Do nothing: the request was complete with its headers."""

    def go_on(self, answered: RequestCycle) -> None:
        """Go on with the next request, or wait for one, when one has been answered."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not answered.keep_alive:
            if self._read_closed:
                self.linger()
            else:
                self.transport.close()
        elif self.pipeline:
            self._answer(self.pipeline.popleft())
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        else:
            self._timer.start(self._limits.connection_idle_seconds, self.transport.close)
            self._parse()

    def linger(self) -> None:
        """Send nothing more, and soon close; until then, what is received is thrown away."""
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():  # not with TLS
            self.transport.write_eof()
        self.flow.resume_reading()
        self._timer.start(_LINGER_SECONDS, self.transport.close)

    def _answer(self, exchange: RequestCycle) -> None:
        exchange.task = self.loop.create_task(exchange.run(self.app))
        self.tasks.add(exchange.task)

    def _parse(self) -> None:
        while self._unparsed and not self._read_closed and not self._is_answering():
            piece = bytes(self._unparsed[:_PIECE_BYTES])
            del self._unparsed[:_PIECE_BYTES]
            self._feed(piece)
        self._after_parsing()

    def _after_parsing(self) -> None:
        if self._unparsed and not self._read_closed:
            self.flow.pause_reading()
            return
        self._unparsed.clear()
        self.flow.resume_reading()
        if self._header_bytes and not self._read_closed and not self._is_answering():
            self._await_headers()

    def _feed(self, piece: bytes) -> None:
        cycle, before = self.cycle, self._header_bytes
        self._most_header_bytes = before + len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserError as error:
            if not self._read_closed:
                cause = error.__context__
                self._refuse(
                    cause
                    if isinstance(cause, MalformedRequest)
                    else MalformedRequest("This is not an HTTP request")
                )
            return
        if self.cycle is cycle:  # no headers became complete in this piece
            self._header_bytes = before + len(piece)
            if self._header_bytes > self._limits.max_header_bytes:
                self._refuse(HeadersTooLarge(self._largest()))

    def _check_size(self, method: bytes) -> None:
        line = len(method) + len(self.url) + len("  HTTP/1.1\r\n")
        fields = sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        if line + fields + len("\r\n") > self._limits.max_header_bytes:
            raise HeadersTooLarge(self._largest())

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _largest(self) -> str:
        return f"The headers are larger than {self._limits.max_header_bytes} bytes"

    def _await_headers(self) -> None:
        if not self._awaits_headers:
            self._awaits_headers = True
            self._timer.start(self._limits.header_timeout_seconds, self._end_slow_sender)

    def _lift_time_limit(self) -> None:
        self._awaits_headers = False
        self._timer.stop()

    def _end_slow_sender(self) -> None:
        if self._read_closed or self.transport.is_closing():
            return
        if self._header_bytes:
            self._refuse(HeadersTooSlow("The headers of the request took too long"))
        else:  # an answer to nothing would be taken for that to the next request
            self.transport.close()

    def _refuse(self, error: MalformedRequest) -> None:
        self._read_closed = True
        self._unparsed.clear()
        self._lift_time_limit()
        metrics.errors.labels("http", _REASON).inc()
        log.debug(
            "request refused", status=codes_of(type(error)).http
        )  # and nothing of what was sent
        if self._is_answering():
            self._refusal = error
        else:
            self._send_refusal(error)

    def _send_refusal(self, error: MalformedRequest) -> None:
        response = self.render_error(error, "")
        request_id = new_request_id().encode()
        headers = [
            *self.server_state.default_headers,
            *response.raw_headers,
            NO_STORE,
            (b"x-request-id", request_id),
            (b"twilio-request-id", request_id),
            (b"twilio-request-duration", b"0.000"),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(
            STATUS_LINE[codes_of(type(error)).http] + lines + b"\r\n" + response.body
        )
        self.linger()


def _decoded(path: str) -> str:
    """Return a path without escapes, but for those of slashes, which separate nothing."""
    return "%2F".join(unquote(part) for part in re.split("%2F", path, flags=re.IGNORECASE))
