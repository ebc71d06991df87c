"""Sending of a response."""

from starlette.types import Message, Scope, Send

from interaction_svc.domain.errors import ServiceError
from interaction_svc.domain.units import KIB
from interaction_svc.telemetry.request_context import RequestContext
from interaction_svc.transports.asgi.client_gone import ClientGoneError
from interaction_svc.transports.asgi.compression import MIN_BYTES, Compressor, accepts_gzip
from interaction_svc.transports.asgi.telemetry import NO_STORE
from interaction_svc.transports.connect.protocol import Pairs, Response, StreamProtocol
from interaction_svc.transports.rpc.method import Method

_PART_BYTES = 256 * KIB
"""The largest part of a body that is sent at once. A server may copy each part while it waits."""


class Sender:
    """Sends the response of a request: a whole one, or a stream of messages."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send_event = send
        self.has_begun = False
        self.is_stream = False
        """Whether a response has begun that is a stream of messages."""

    async def send(self, response: Response) -> None:
        """Send a response, with gzip if the client accepts it. Return when all of it is sent.

        Raises ClientGoneError.
        """
        status, headers, body, trailers = response
        if trailers is None:
            headers.append(NO_STORE)
            if len(body) >= MIN_BYTES and accepts_gzip(self._scope):
                body = await Compressor().compressed(body, is_last=True)
                headers.append((b"content-encoding", b"gzip"))
            headers += [(b"vary", b"accept-encoding"), (b"content-length", b"%d" % len(body))]
            await self._begin(status, headers, has_trailers=False)
            await self._send({"type": "http.response.body", "body": body})
            return
        # Sent from this coroutine. Several more for each event would cost a Get 3 %.
        self.has_begun = True
        send = self._send_event
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": status,
                    "headers": headers,
                    "trailers": True,
                }
            )
            if len(body) > _PART_BYTES:
                await self._send_parts(body, more_body=False)
            else:
                await send({"type": "http.response.body", "body": body})
            await send({"type": "http.response.trailers", "headers": trailers})
        except OSError as error:  # as the ASGI specification defines it
            raise ClientGoneError from error

    async def send_message(self, protocol: StreamProtocol, method: Method, message: bytes) -> None:
        """Send a message of a stream, after the start of the response. Raises ClientGoneError."""
        await self._begin_stream(protocol)
        await self._send_parts(protocol.in_body(protocol.message(method, message)), more_body=True)

    async def end(
        self, protocol: StreamProtocol, call: RequestContext, error: ServiceError | None = None
    ) -> None:
        """Send the end of a stream, with an error if it has failed. Raises ClientGoneError."""
        await self._begin_stream(protocol)
        last, trailers = protocol.end(call, error)
        await self._send_parts(protocol.in_body(last), more_body=False)
        if trailers is not None:
            await self._send({"type": "http.response.trailers", "headers": trailers})

    async def _begin_stream(self, protocol: StreamProtocol) -> None:
        if not self.is_stream:
            self.is_stream = True
            headers = protocol.headers()
            if not protocol.has_trailers:
                headers.append(NO_STORE)
            await self._begin(200, headers, has_trailers=protocol.has_trailers)

    async def _begin(self, status: int, headers: Pairs, *, has_trailers: bool) -> None:
        self.has_begun = True
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await self._send(start if not has_trailers else {**start, "trailers": True})

    async def _send_parts(self, body: bytes, *, more_body: bool) -> None:
        last = 0
        while len(body) - last > _PART_BYTES:
            part = body[last : last + _PART_BYTES]
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
            last += _PART_BYTES
        rest = body[last:] if last else body
        await self._send({"type": "http.response.body", "body": rest, "more_body": more_body})

    async def _send(self, event: Message) -> None:
        try:
            await self._send_event(event)
        except OSError as error:  # as the ASGI specification defines it
            raise ClientGoneError from error
