"""HTTP on one connection: uvicorn's protocol with limits that uvicorn lacks.

A request that does not reach the application is refused here with the API's error body. The status
is 400 if the input is not HTTP or is ambiguous, 431 if the headers are too large, and 408 if they
are too slow. A body is read when the application asks for it, at most 64 KiB ahead. If the
application answers without reading all of it, the connection ends. Otherwise unread bytes of a body
could be parsed as a request, which would let a client smuggle a request past a proxy.
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

from interaction_svc.domain.errors import (
    HeadersTooLarge,
    HeadersTooSlow,
    MalformedRequest,
    ServiceError,
)
from interaction_svc.domain.units import KIB
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.request_context import new_request_id
from interaction_svc.transports.asgi.client_gone import ON_DISCONNECT
from interaction_svc.transports.asgi.telemetry import NO_STORE
from interaction_svc.transports.http1.connection_timer import ConnectionTimer
from interaction_svc.transports.http1.request_cycle import RequestCycle
from interaction_svc.transports.http1.request_headers import announces_body, check_headers
from interaction_svc.transports.http1.uvicorn_internals import STATUS_LINE, UvicornProtocol
from interaction_svc.transports.status import codes_of

log = structlog.get_logger()

_PIECE_BYTES = 1024
"""The bytes parsed at once. This bounds the number of pipelined requests that wait."""
_UNPARSED_BYTES = 64 * KIB
"""The connection is not read while more bytes than this wait to be parsed."""
_END_OF_HEADERS = b"\r\n\r\n"
_LINGER_SECONDS = 2.0
"""The time that a connection stays open after its last response if some input was not read.

Closing the connection at once would reset it, and the client would lose an unread response.
"""
_REASON = MalformedRequest.reason_name()


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The limits of the HTTP listener."""

    max_header_bytes: int
    """The largest headers of a request, with its first line and the empty line."""
    max_connections: int
    """The maximum number of open connections. Further connections are closed."""
    header_timeout_seconds: float
    """The time limit of a TLS handshake, and of the headers of a request."""
    connection_idle_seconds: float
    """A connection is closed if its client sends no request or reads no response for this time."""


RenderError = Callable[[ServiceError, str], Response]
"""A function from an error and the request's path, or an empty string, to the response."""


class StopParsing(Exception):
    """Raised by a callback of the parser to ignore the rest of the connection's input."""


class RestProtocol(UvicornProtocol):
    """Serves the requests of one connection, one after the other, within HttpLimits.

    The header timeout starts with the connection; on a kept-alive connection it starts with the
    first byte of the next request. No timeout runs while a request is in progress. After a response
    the idle timeout starts. The kernel ends the connection of a client that does not read
    (listener.py), and uvicorn's flow control bounds the size of unread responses.
    """

    cycle: RequestCycle | None  # type: ignore[assignment]
    pipeline: deque[RequestCycle]  # type: ignore[assignment]

    def __init__(self, limits: HttpLimits, render_error: RenderError, **given: Any) -> None:
        super().__init__(**given)
        self._limits = limits
        self.render_error = render_error
        self._unparsed = bytearray()
        self._header_bytes = 0  # received of incomplete headers
        self._most_header_bytes = 0  # upper bound for the request being parsed
        self._timer = ConnectionTimer(self.loop)
        self._awaits_headers = False  # whether the timer is the header timeout
        self._read_closed = False  # whether further input is ignored
        self._refusal: MalformedRequest | None = None  # to send after the responses before it
        self._last_bytes = b""  # the last bytes parsed, where _END_OF_HEADERS may begin
        self._in_body = False  # whether the parser is behind headers and before the end of a body
        self._framing_bytes = 0  # bytes of chunked framing since the body's last part
        self._is_lost = False
        self._leave: Callable[[], None] | None = None  # called if the client disconnects
        self._extensions = {ON_DISCONNECT: self._on_disconnect}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the header timeout."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        super().connection_lost(exc)
        self._is_lost = True
        if self._leave is not None:
            self._leave()
        self._unparsed.clear()
        self._timer.close()

    def _on_disconnect(self, leave: Callable[[], None] | None) -> None:
        self._leave = leave
        if leave is not None and self._is_lost:
            leave()

    def data_received(self, data: bytes) -> None:
        """Parse the input, or keep it until the request in progress is answered."""
        if self._read_closed:
            return
        self._unparsed += data
        self._parse()

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self._header_bytes = self._header_bytes or 1  # not 0: the header timeout sends an error

    def on_headers_complete(self) -> None:
        """Create the request's cycle. This replaces uvicorn's method, and has fewer features."""
        parser = self.parser
        scope: Scope = self.scope  # type: ignore[assignment]
        method = parser.get_method()
        if (
            self._most_header_bytes > self._limits.max_header_bytes
        ):  # an upper bound: it may include bytes of the next request
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
        scope["extensions"] = self._extensions
        self._header_bytes = 0
        self._stop_timeout()
        is_last = parser.should_upgrade()
        keep_alive = not is_last and version != "1.0" and parser.should_keep_alive()
        self._in_body = has_body = announces_body(self.headers)
        if has_body:
            self.headers = []  # for the fields behind the body, which are ignored
        self._framing_bytes = 0
        cycle = self.cycle = RequestCycle(
            self,
            scope,
            keep_alive=keep_alive,
            has_body=has_body and not is_last,
            expects_continue=self.expect_100_continue,
        )
        self.pipeline.append(cycle)  # started once the parser accepts the headers
        if is_last:
            self._read_closed = True
            raise StopParsing

    def on_body(self, body: bytes) -> None:
        """Pass a part of a body to the application."""
        self._framing_bytes = -_PIECE_BYTES  # so the bytes of this piece are not counted
        if self.cycle is not None:
            self.cycle.add_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        if self._in_body and self.cycle is not None:
            self._in_body = False
            self.cycle.end_body()

    def read_on(self) -> None:
        """Read more of a body, because the application has asked for it."""
        self._parse()

    def response_sent(self, answered: RequestCycle) -> None:
        """Serve the next request, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not answered.keep_alive:
            if not answered.body_complete:
                self._read_closed = True
            if self._read_closed:
                self.linger()
            else:
                self.transport.close()
        elif self.pipeline:
            self._run(self.pipeline.popleft())
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        else:
            self._timer.start(self._limits.connection_idle_seconds, self.transport.close)
            self._parse()

    def linger(self) -> None:
        """Stop sending, ignore further input, and close the connection after _LINGER_SECONDS."""
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():  # false with TLS
            self.transport.write_eof()
        self.flow.resume_reading()
        self._timer.start(_LINGER_SECONDS, self.transport.close)

    def _run(self, cycle: RequestCycle) -> None:
        cycle.task = self.loop.create_task(cycle.run(self.app))
        self.tasks.add(cycle.task)

    def _parse(self) -> None:
        while self._unparsed and not self._read_closed and self._can_parse():
            self._feed(self._next_piece())
        self._after_parsing()

    def _next_piece(self) -> bytes:
        """Return the next bytes to parse. They extend at most to the end of a request's headers.

        So a body is parsed only when the application asks for it.
        """
        size = _PIECE_BYTES
        if not self._in_body:
            before = self._last_bytes
            begin = before + self._unparsed[:size]
            end = begin.find(_END_OF_HEADERS)
            if end < 0:
                self._last_bytes = bytes(begin[1 - len(_END_OF_HEADERS) :])
            else:
                self._last_bytes = b""
                size = end + len(_END_OF_HEADERS) - len(before)
        piece = bytes(self._unparsed[:size])
        del self._unparsed[:size]
        return piece

    def _after_parsing(self) -> None:
        if self._unparsed and not self._read_closed:
            if len(self._unparsed) > _UNPARSED_BYTES:  # pausing costs 2 system calls
                self.flow.pause_reading()
            return
        self._unparsed.clear()
        self.flow.resume_reading()
        if self._header_bytes and not self._read_closed and not self._is_answering():
            self._await_headers()

    def _feed(self, piece: bytes) -> None:
        cycle, before, was_in_body = self.cycle, self._header_bytes, self._in_body
        was_answering = self._is_answering()
        self._most_header_bytes = before + len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserError as error:
            if not self._read_closed:
                if self.cycle is not cycle:  # drop the unreadable request
                    self.pipeline.pop()
                    self.cycle = cycle
                cause = error.__context__
                self._refuse(
                    cause
                    if isinstance(cause, MalformedRequest)
                    else MalformedRequest("This is not an HTTP request")
                )
        else:
            if self._in_body:
                self._framing_bytes += len(piece)
                if self._framing_bytes > self._limits.max_header_bytes:
                    self._refuse(HeadersTooLarge(self._too_large()))
            elif was_in_body:  # the body has ended in this piece
                self._header_bytes = len(piece) if self._header_bytes else 0
            elif self.cycle is cycle:  # this piece completed no headers
                self._header_bytes = before + len(piece)
                if self._header_bytes > self._limits.max_header_bytes:
                    self._refuse(HeadersTooLarge(self._too_large()))
        if self.pipeline and not was_answering:
            self._run(self.pipeline.popleft())

    def _check_size(self, method: bytes) -> None:
        line = len(method) + len(self.url) + len("  HTTP/1.1\r\n")
        fields = sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        if line + fields + len("\r\n") > self._limits.max_header_bytes:
            raise HeadersTooLarge(self._too_large())

    def _can_parse(self) -> bool:
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.wants_body

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _too_large(self) -> str:
        return f"The headers are larger than {self._limits.max_header_bytes} bytes"

    def _await_headers(self) -> None:
        if not self._awaits_headers:
            self._awaits_headers = True
            self._timer.start(self._limits.header_timeout_seconds, self._end_header_timeout)

    def _stop_timeout(self) -> None:
        self._awaits_headers = False
        self._timer.stop()

    def _end_header_timeout(self) -> None:
        if self._read_closed or self.transport.is_closing():
            return
        if self._header_bytes:
            self._refuse(HeadersTooSlow("The headers of the request took too long"))
        else:  # no request: a client would match an error to its next request
            self.transport.close()

    def _refuse(self, error: MalformedRequest) -> None:
        self._read_closed = True
        self._unparsed.clear()
        self._stop_timeout()
        metrics.errors.labels("http", _REASON).inc()
        log.debug("request refused", status=codes_of(type(error)).http)  # never log the input
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._send_refusal(error)
        elif cycle.body_complete or cycle.response_started:
            self._refusal = error
        else:  # the application waits for the body, so send the refusal in its place
            cycle.disconnected = True
            cycle.message_event.set()
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
    """Decode the escapes of a path except %2F, because an escaped slash separates no segments."""
    return "%2F".join(unquote(part) for part in re.split("%2F", path, flags=re.IGNORECASE))
