"""The ASGI application of the RPC methods: Connect, gRPC-Web and gRPC, with one request each.

A call passes the stages of transports/pipeline. The caller is authenticated before the body of the
request is read, and the time of the whole call is limited, also while the body arrives.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext

from starlette.types import Receive, Scope, Send

from interaction_svc.app.consistency import CONSISTENCY_HEADER
from interaction_svc.domain.errors import (
    DeadlineExceeded,
    MethodNotAllowed,
    RequestTooLarge,
    ServiceError,
    StreamNotServed,
    Unauthenticated,
    Unavailable,
    UnknownMethod,
    UnsupportedMediaType,
)
from interaction_svc.telemetry.request_context import (
    REQUEST_ID_HEADER,
    RequestContext,
    request_id_of,
)
from interaction_svc.telemetry.request_scope import request_scope
from interaction_svc.transports.address import Address
from interaction_svc.transports.asgi.client_gone import ClientGoneError
from interaction_svc.transports.asgi.compression import MIN_BYTES, Compressor, accepts_gzip
from interaction_svc.transports.asgi.telemetry import NO_STORE
from interaction_svc.transports.connect.protocols import (
    POSTED,
    WITH_TRAILERS,
    Connect,
    Protocol,
    Response,
    protocol_of_query,
)
from interaction_svc.transports.operations import RPCS, UNKNOWN_RPC, Operation
from interaction_svc.transports.pipeline import ErrorBoundary, Pipeline
from interaction_svc.transports.rpc.methods import UnaryMethod
from interaction_svc.transports.status import codes_of

_DEFAULT = POSTED[b"application/json"]
"""The protocol of errors of requests that name none."""
_REQUEST_ID = REQUEST_ID_HEADER.encode()
_CONSISTENCY = CONSISTENCY_HEADER.encode()


class RpcApp:
    """Serves the methods that have one request and one response."""

    def __init__(
        self,
        methods: Mapping[Operation, UnaryMethod],
        pipeline: Pipeline,
        *,
        max_message_bytes: int,
    ) -> None:
        self._methods = methods
        self._pipeline = pipeline
        self._max_bytes = max_message_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        operation = RPCS.get(scope["path"], UNKNOWN_RPC)
        headers = dict(reversed(scope["headers"]))
        protocol = _protocol_of(scope, headers)
        call = _context_of(scope, headers, operation, (protocol or _DEFAULT).name)
        with request_scope(call):
            response: Response | None = None
            try:
                with ErrorBoundary(call, passes=ClientGoneError):
                    response = await self._respond(
                        _Request(scope, receive, headers), operation, protocol, call
                    )
            except ClientGoneError:
                call.code = "CANCELLED"
                return
            except asyncio.CancelledError:  # at the end of a drain
                call.error = Unavailable("The service is shutting down")
            if response is None:
                response = _error_response(scope, protocol or _DEFAULT, call)
            await self._send(scope, send, call, response)

    async def _respond(
        self,
        request: "_Request",
        operation: Operation,
        protocol: Protocol | None,
        call: RequestContext,
    ) -> Response:
        """Return the response to a call. Raises ServiceError, ClientGoneError."""
        method = self._methods.get(operation)
        if method is None:
            raise StreamNotServed if operation is not UNKNOWN_RPC else UnknownMethod
        is_get = request.scope["method"] == "GET" and operation.changes_nothing
        if not is_get and request.scope["method"] != "POST":
            raise MethodNotAllowed(
                f"The HTTP method must be {' or '.join(_methods_of(operation))}",
                allowed=_methods_of(operation),
            )
        if is_get:
            protocol = protocol_of_query(request.scope["query_string"])
        if protocol is None:
            raise UnsupportedMediaType(
                "The content-type must be one of " + ", ".join(_content_types(request.scope))
            )
        self._pipeline.response_backlog.check(call)
        if not operation.is_limited:
            message = await self._message(request, protocol, method, is_get=is_get)
            return protocol.response(method, call, await method.call(message))
        with self._pipeline.place(), self._pipeline.deadline:
            async with _client_deadline(protocol.timeout(request.headers)):
                if call.bad_authorization:
                    raise Unauthenticated(call.bad_authorization)
                await self._pipeline.authenticate(call, call.authorization)
                with self._pipeline.authorize(operation, call.principal):
                    message = await self._message(request, protocol, method, is_get=is_get)
                    answer = await method.call(message)
        if operation.changes_nothing:  # the response of a write is sent in any case
            self._pipeline.response_backlog.check(call, len(answer))
        return protocol.response(method, call, answer)

    async def _message(
        self, request: "_Request", protocol: Protocol, method: UnaryMethod, *, is_get: bool
    ) -> bytes:
        if is_get:
            assert isinstance(protocol, Connect)  # noqa: S101 protocol_of_query returns one
            query = request.scope["query_string"]
            return protocol.request_of_query(method, query, self._max_bytes)
        body = await request.body(self._pipeline, self._max_bytes)
        return protocol.request(method, request.headers, body, self._max_bytes)

    async def _send(
        self, scope: Scope, send: Send, call: RequestContext, response: Response
    ) -> None:
        status, headers, body, trailers = response
        headers += [NO_STORE]
        if trailers is None and len(body) >= MIN_BYTES and accepts_gzip(scope):
            body = await Compressor().compressed(body, is_last=True)
            headers.append((b"content-encoding", b"gzip"))
        if trailers is None:
            headers += [(b"vary", b"accept-encoding"), (b"content-length", b"%d" % len(body))]
        release = self._pipeline.response_backlog.held(call, len(body))
        start = {"type": "http.response.start", "status": status, "headers": headers}
        try:
            if trailers is None:
                await send(start)
                await send({"type": "http.response.body", "body": body})
            else:
                await send({**start, "trailers": True})
                await send({"type": "http.response.body", "body": body})
                await send({"type": "http.response.trailers", "headers": trailers})
        finally:
            release()


class _Request:
    """A request whose body is not read yet."""

    def __init__(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes]) -> None:
        self.scope = scope
        self.headers = headers
        self._receive = receive

    async def body(self, pipeline: Pipeline, max_bytes: int) -> bytes:
        """Return the whole body. Raises RequestTooLarge, Overloaded, ClientGoneError."""
        limit = max_bytes + max_bytes // 2  # base64 and prefixes; the message is checked later
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            raise RequestTooLarge(max_bytes)
        parts: list[bytes] = []
        size = 0
        with pipeline.request_bytes.request() as counted:
            while True:
                event = await self._receive()
                if event["type"] == "http.disconnect":
                    raise ClientGoneError
                part = event.get("body", b"")
                size += len(part)
                if size > limit:
                    raise RequestTooLarge(max_bytes)
                if not event.get("more_body", False):
                    return b"".join([*parts, part])
                counted.add(len(part))
                parts.append(part)


def _protocol_of(scope: Scope, headers: dict[bytes, bytes]) -> Protocol | None:
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if _sends_trailers(scope) and kind in WITH_TRAILERS:
        return WITH_TRAILERS[kind]
    return POSTED.get(kind)


def _sends_trailers(scope: Scope) -> bool:
    return "http.response.trailers" in (scope.get("extensions") or {})


def _content_types(scope: Scope) -> list[str]:
    served = [*POSTED, *WITH_TRAILERS] if _sends_trailers(scope) else [*POSTED]
    return [kind.decode() for kind in served]


def _methods_of(operation: Operation) -> list[str]:
    return ["GET", "POST"] if operation.changes_nothing else ["POST"]


def _context_of(
    scope: Scope, headers: dict[bytes, bytes], operation: Operation, transport: str
) -> RequestContext:
    sent = headers.get(_REQUEST_ID)
    authorization, problem = _authorization_of(scope)
    consistency = headers.get(_CONSISTENCY)
    return RequestContext(
        transport,
        operation.rpc_name,
        str(Address(*scope["client"])) if scope["client"] else "",
        request_id_of(None if sent is None else sent.decode("latin-1")),
        "OK",
        authorization,
        problem,
        consistency=None if consistency is None else consistency.decode("latin-1"),
        is_quiet=operation.is_quiet,
    )


def _authorization_of(scope: Scope) -> tuple[str | None, str]:
    """Return the credentials as sent, and their problem or an empty text."""
    sent = [value for name, value in scope["headers"] if name == b"authorization"]
    if not sent:
        return None, ""
    if len(sent) > 1:
        return "", "The request has more than one `authorization`; send exactly one"
    if not sent[0].isascii():
        return "", "The `authorization` has characters that are not ASCII; a key has none"
    return sent[0].decode(), ""


def _client_deadline(seconds: float | None) -> AbstractAsyncContextManager[object]:
    """Return a context manager that ends its block with DeadlineExceeded after this time."""
    return nullcontext() if seconds is None else _ClientDeadline(seconds)


class _ClientDeadline:
    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        try:
            await self._timeout.__aexit__(*error)  # type: ignore[arg-type]
        except TimeoutError as expired:
            raise DeadlineExceeded("The client's own deadline has passed") from expired


def _error_response(scope: Scope, protocol: Protocol, call: RequestContext) -> Response:
    error = call.error
    assert isinstance(error, ServiceError)  # noqa: S101 the boundary has set it
    call.code = codes_of(type(error)).grpc_name
    response = protocol.error(call, error)
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(error.allowed).encode()
        return response._replace(status=405, headers=[*response.headers, (b"allow", allowed)])
    if isinstance(error, UnsupportedMediaType):
        accepted = ", ".join(_content_types(scope)).encode()
        return response._replace(
            status=415, headers=[*response.headers, (b"accept-post", accepted)]
        )
    return response
