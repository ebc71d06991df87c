"""The ASGI application of the RPC methods: Connect, gRPC-Web and gRPC, with one request each.

A call passes the stages of transports/pipeline. The caller is authenticated before the body of the
request is read, and the time of the whole call is limited, also while the body arrives.
"""

import asyncio
from collections.abc import Mapping

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
    Connect,
    Protocol,
    Protocols,
    Response,
)
from interaction_svc.transports.operations import RPCS, UNKNOWN_RPC, Operation
from interaction_svc.transports.pipeline import ErrorBoundary, Pipeline
from interaction_svc.transports.rpc.methods import UnaryMethod
from interaction_svc.transports.status import codes_of

_AUTHORIZATION = b"authorization"
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
        self._protocols = Protocols()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        operation = RPCS.get(scope["path"], UNKNOWN_RPC)
        headers = dict(reversed(scope["headers"]))  # the first of repeated ones counts
        served = self._protocols.posted(with_trailers=_sends_trailers(scope))
        sent = headers.get(b"content-type", b"")
        protocol = served.get(sent) or served.get(_media_type(sent))
        rendering = protocol or self._protocols.json
        call = _context_of(scope, headers, operation, rendering.name)
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
                response = _error_response(served, rendering, call)
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
            protocol = self._protocols.of_query(request.scope["query_string"])
        if protocol is None:
            raise UnsupportedMediaType("The content-type is none of those in accept-post")
        if not operation.is_limited:
            message = await self._message(request, protocol, method)
            return protocol.response(method, call, await method.call(message))
        self._pipeline.response_backlog.check(call)
        with self._pipeline.place(), self._pipeline.deadline:
            seconds = protocol.timeout(request.headers)
            if seconds is None:
                answer = await self._answer(request, operation, protocol, method, call)
            else:
                try:
                    async with asyncio.timeout(seconds):
                        answer = await self._answer(request, operation, protocol, method, call)
                except TimeoutError as expired:
                    raise DeadlineExceeded("The client's own deadline has passed") from expired
        if operation.changes_nothing:  # the response of a write is sent in any case
            self._pipeline.response_backlog.check(call, len(answer))
        return protocol.response(method, call, answer)

    async def _answer(
        self,
        request: "_Request",
        operation: Operation,
        protocol: Protocol,
        method: UnaryMethod,
        call: RequestContext,
    ) -> bytes:
        """Authenticate and authorize the caller, read the request, and call the method."""
        if call.bad_authorization:
            raise Unauthenticated(call.bad_authorization)
        await self._pipeline.authenticate(call, call.authorization)
        with self._pipeline.authorize(operation, call.principal):
            return await method.call(await self._message(request, protocol, method))

    async def _message(self, request: "_Request", protocol: Protocol, method: UnaryMethod) -> bytes:
        if request.scope["method"] == "GET":
            assert isinstance(protocol, Connect)  # noqa: S101 of_query returned it
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
        start = {"type": "http.response.start", "status": status, "headers": headers}
        with self._pipeline.response_backlog.holding(call, len(body)):
            if trailers is None:
                await send(start)
                await send({"type": "http.response.body", "body": body})
            else:
                await send({**start, "trailers": True})
                await send({"type": "http.response.body", "body": body})
                await send({"type": "http.response.trailers", "headers": trailers})


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
        body, more = await self._part()
        if not more and len(body) <= limit:
            return body
        with pipeline.request_bytes.request() as counted:
            parts = [body]
            counted.add(len(body))
            size = len(body)
            while more and size <= limit:
                part, more = await self._part()
                size += len(part)
                counted.add(len(part))
                parts.append(part)
        if size > limit:
            raise RequestTooLarge(max_bytes)
        return b"".join(parts)

    async def _part(self) -> tuple[bytes, bool]:
        """Return the next part of the body, and whether there is more. Raises ClientGoneError."""
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise ClientGoneError
        return event.get("body", b""), event.get("more_body", False)


def _media_type(content_type: bytes) -> bytes:
    return content_type.partition(b";")[0].strip().lower()


def _sends_trailers(scope: Scope) -> bool:
    return "http.response.trailers" in (scope.get("extensions") or {})


def _methods_of(operation: Operation) -> list[str]:
    return ["GET", "POST"] if operation.changes_nothing else ["POST"]


def _context_of(
    scope: Scope, headers: dict[bytes, bytes], operation: Operation, transport: str
) -> RequestContext:
    sent, consistency = headers.get(_REQUEST_ID), headers.get(_CONSISTENCY)
    authorization = headers.get(_AUTHORIZATION)
    problem = "" if authorization is None else _problem_of(authorization, scope)
    return RequestContext(
        transport,
        operation.rpc_name,
        str(Address(*scope["client"])) if scope["client"] else "",
        request_id_of(None if sent is None else sent.decode("latin-1")),
        "OK",
        None if authorization is None or problem else authorization.decode(),
        problem,
        consistency=None if consistency is None else consistency.decode("latin-1"),
        is_quiet=operation.is_quiet,
    )


def _problem_of(authorization: bytes, scope: Scope) -> str:
    """Return the problem of credentials that no key can have, or an empty text."""
    if not authorization.isascii():
        return "The `authorization` has characters that are not ASCII; a key has none"
    if sum(name == _AUTHORIZATION for name, _ in scope["headers"]) > 1:
        return "The request has more than one `authorization`; send exactly one"
    return ""


def _error_response(
    served: Mapping[bytes, Protocol], protocol: Protocol, call: RequestContext
) -> Response:
    error = call.error
    assert isinstance(error, ServiceError)  # noqa: S101 the boundary has set it
    call.code = codes_of(type(error)).grpc_name
    response = protocol.error(call, error)
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(error.allowed).encode()
        return response._replace(status=405, headers=[*response.headers, (b"allow", allowed)])
    if isinstance(error, UnsupportedMediaType):
        accepted = b", ".join(served)
        return response._replace(
            status=415, headers=[*response.headers, (b"accept-post", accepted)]
        )
    return response
