"""JSON responses, including those of errors."""

import asyncio
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Scope, Send

from interaction_svc.admission.response_backlog import UNCOUNTED_BYTES, ResponseBacklog
from interaction_svc.domain.errors import (
    InteractionNotFound,
    MethodNotAllowed,
    ServiceError,
    Unauthenticated,
    UnknownPath,
)
from interaction_svc.domain.units import MIB
from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.asgi.compression import MIN_BYTES, Compressor, accepts_gzip
from interaction_svc.transports.status import codes_of

STREAM_BYTES = 4 * MIB
"""The size counted for a response in parts: one part and one read from the store are in memory."""

_MORE_INFO = "https://www.twilio.com/docs/errors/"
_VERSION = "/v1"
_JSON = (b"content-type", b"application/json")
_VARY = (b"vary", b"accept-encoding")
_GZIP = (b"content-encoding", b"gzip")


class JsonResponses:
    """Sends JSON with status 200, compressed if the client accepts it, and bounded in memory.

    Large responses count as unread until they are sent. Starlette's Response is not used, because
    it encodes the header names and values again for each request.
    """

    def __init__(self, backlog: ResponseBacklog) -> None:
        self._backlog = backlog

    async def send(self, scope: Scope, send: Send, body: bytes) -> None:
        """Send a whole response. Raises Overloaded if too many bytes wait to be read."""
        headers = [_JSON, _VARY]
        if len(body) >= MIN_BYTES:
            if len(body) > UNCOUNTED_BYTES:
                self._hold(len(body))
            if accepts_gzip(scope):
                body = await Compressor().compressed(body, is_last=True)
                headers.append(_GZIP)
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def stream(self, scope: Scope, send: Send) -> "JsonStream":
        """Return a response in parts. Raises Overloaded if too many bytes wait to be read."""
        self._hold(STREAM_BYTES)
        return JsonStream(send, Compressor() if accepts_gzip(scope) else None)

    def _hold(self, size: int) -> None:
        call = current_request()
        self._backlog.check(call, size)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 every request has one
        self._backlog.hold(call, size, task)


class JsonStream:
    """A response in parts. A part is sent once the client has read nearly all previous parts."""

    def __init__(self, send: Send, compressor: Compressor | None) -> None:
        self._send = send
        self._compressor = compressor

    async def start(self) -> None:
        """Set the status and the headers, which are sent with the first part."""
        headers = [_JSON, _VARY]
        if self._compressor is not None:
            headers.append(_GZIP)
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def send(self, part: bytes, *, is_last: bool = False) -> None:
        """Send a part. Raises ClientGoneError if the client has gone before the last one."""
        if self._compressor is not None:
            part = await self._compressor.compressed(part, is_last=is_last)
        message = {"type": "http.response.body", "body": part, "more_body": not is_last}
        await self._send(message)


def json_response(content: Any, status: int = 200) -> Response:
    """Return a response with a JSON body."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def error_response(error: ServiceError, path: str) -> Response:
    """Return an error in the vendor's shape: code, message, more_info and status.

    It has no `type` and `title`, because with them the Python SDK raises another exception.
    """
    message = error.message
    if isinstance(error, InteractionNotFound | UnknownPath):
        resource = path[len(_VERSION) :] if path.startswith(f"{_VERSION}/") else path
        message = f"The requested resource {resource} was not found"
    codes = codes_of(type(error))
    response = json_response(
        {
            "code": codes.vendor,
            "message": message,
            "more_info": f"{_MORE_INFO}{codes.vendor}",
            "status": codes.http,
        },
        codes.http,
    )
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = 'Basic realm="Twilio API"'
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.allowed)
    return response
