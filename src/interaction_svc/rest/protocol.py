"""HTTP on one connection: uvicorn's protocol, and the bounds that it lacks.

What is not a request of this API is refused here, in the contract's words, before there is a call:
what isn't HTTP (400), headers that are too large (431) or too slow (408). A request that announces
a body is answered like one without, and then the connection ends: the API takes no bodies, so
nothing can be fed to it for ever, or be smuggled past a proxy as a second request.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from interaction_svc import metrics
from interaction_svc.calls import new_request_id
from interaction_svc.errors import MalformedRequest
from interaction_svc.rest.responses import error_response

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
    slow_sender_seconds: float
    """How long a TLS handshake may take, and how long the headers of a request."""
    connection_idle_seconds: float
    """After which time a connection is closed on which nothing is asked, or nothing read."""


class HeadersTooLarge(MalformedRequest):
    """The headers are larger than max_header_bytes."""

    http_status = 431


class HeadersTooSlow(MalformedRequest):
    """The headers were not complete within slow_sender_seconds."""

    http_status = 408


class LastRequest(Exception):
    """Raised out of the parser: what follows on the connection is not read."""


class RestProtocol(HttpToolsProtocol):
    """A connection's requests, one after the other, within the limits.

    Its timers: the headers have to be complete some time after the connection was opened, or after
    their first byte on one that was kept open; no time runs while a request is being answered; then
    the connection may be idle for a time. That a client doesn't read its answers is noticed by the
    kernel (see server.py), and their size bounded by uvicorn's flow control.
    """

    def __init__(self, limits: HttpLimits, **given: Any) -> None:
        super().__init__(**given)
        self._limits = limits
        self.timeout_keep_alive = limits.connection_idle_seconds  # type: ignore[assignment]
        self._unparsed = bytearray()
        self._header_bytes = 0  # of headers that are not complete
        self._header_timer: asyncio.TimerHandle | None = None
        self._is_deaf = False  # nothing more is read of the connection
        self._refusal: MalformedRequest | None = None  # to be sent after the answers before it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        super().connection_lost(exc)
        self._unparsed.clear()
        self._unset_keepalive_if_required()
        self._stop_header_timer()

    def data_received(self, data: bytes) -> None:
        """Parse what came, or leave it until the request before is answered."""
        if not self._is_deaf:
            self._unset_keepalive_if_required()
            self._unparsed += data
            self._parse()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._header_bytes = self._header_bytes or 1  # more than none

    def on_headers_complete(self) -> None:
        """Hand the request to the application."""
        line = len(self.parser.get_method()) + len(self.url) + len("  HTTP/1.1\r\n")
        fields = sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        if line + fields + len("\r\n") > self._limits.max_header_bytes:
            raise HeadersTooLarge(self._largest())
        super().on_headers_complete()
        self._header_bytes = 0
        self._stop_header_timer()
        self._unset_keepalive_if_required()
        self.cycle.transport = _Answer(self)  # type: ignore[assignment]
        if self._announces_more():
            self.cycle.keep_alive = False
            self.cycle.more_body = False
            self.cycle.message_event.set()
            self.cycle.transport = _LastAnswer(self)  # type: ignore[assignment]
            self._is_deaf = True
            raise LastRequest

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for one."""
        super().on_response_complete()
        if self.transport.is_closing() or self._is_answering():
            return
        if self._refusal is not None:
            self._send_refusal(self._refusal)
        elif self._is_deaf:
            self.linger()
        else:
            self._parse()

    def linger(self) -> None:
        """Send nothing more, and soon close; until then, what is received is thrown away."""
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():  # not with TLS
            self.transport.write_eof()
        self.flow.resume_reading()
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            _LINGER_SECONDS, self.timeout_keep_alive_handler
        )

    def _parse(self) -> None:
        while self._unparsed and not self._is_deaf and not self._is_answering():
            piece = bytes(self._unparsed[:_PIECE_BYTES])
            del self._unparsed[:_PIECE_BYTES]
            self._feed(piece)
        if self._unparsed and not self._is_deaf:
            self.flow.pause_reading()
            return
        self._unparsed.clear()
        self.flow.resume_reading()
        if self._header_bytes and not self._is_deaf and not self._is_answering():
            self._unset_keepalive_if_required()
            self._await_headers()

    def _feed(self, piece: bytes) -> None:
        cycle, before = self.cycle, self._header_bytes
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserError as error:
            if not self._is_deaf:
                cause = error.__context__
                self._refuse(
                    cause
                    if isinstance(cause, HeadersTooLarge)
                    else MalformedRequest("This is not an HTTP request")
                )
            return
        if self.cycle is cycle:  # no headers became complete in this piece
            self._header_bytes = before + len(piece)
            if self._header_bytes > self._limits.max_header_bytes:
                self._refuse(HeadersTooLarge(self._largest()))

    def _announces_more(self) -> bool:
        return self.parser.should_upgrade() or any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in self.headers
        )

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _largest(self) -> str:
        return f"The headers are larger than {self._limits.max_header_bytes} bytes"

    def _await_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(
                self._limits.slow_sender_seconds, self._end_slow_sender
            )

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _end_slow_sender(self) -> None:
        if self._is_deaf or self.transport.is_closing():
            return
        if self._header_bytes:
            self._refuse(HeadersTooSlow("The headers of the request took too long"))
        else:  # an answer to nothing would be taken for that to the next request
            self.transport.close()

    def _refuse(self, error: MalformedRequest) -> None:
        self._is_deaf = True
        self._unparsed.clear()
        self._stop_header_timer()
        metrics.refused.labels("http", _REASON).inc()
        log.debug("request refused", status=error.http_status)  # and nothing of what was sent
        if self._is_answering():
            self._refusal = error
        else:
            self._send_refusal(error)

    def _send_refusal(self, error: MalformedRequest) -> None:
        response = error_response(error, path="")
        request_id = new_request_id().encode()
        headers = [
            *self.server_state.default_headers,
            *response.raw_headers,
            (b"x-request-id", request_id),
            (b"twilio-request-id", request_id),
            (b"twilio-request-duration", b"0.000"),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[error.http_status] + lines + b"\r\n" + response.body)
        self.linger()


class _Answer:
    """The transport of one answer."""

    def __init__(self, protocol: RestProtocol) -> None:
        self._protocol = protocol
        self._cycle = protocol.cycle
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        """End the connection after the answer, or, in the middle of one, at once.

        Then the client hasn't taken it in the time that a request has, and what it hasn't taken
        would wait in memory.
        """
        if self._cycle.response_started and not self._cycle.response_complete:
            self._protocol.transport.abort()
        else:
            self._protocol.transport.close()


class _LastAnswer(_Answer):
    """The transport of an answer after which the connection lingers instead of being closed."""

    def close(self) -> None:
        self._protocol.linger()
