"""The ASGI application of the unary RPC methods: Connect, gRPC-Web and gRPC.

A call passes the stages of transports/pipeline. The caller is authenticated before the body of the
request is read. The deadline includes the arrival of the body and the sending of the response.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.types import Receive, Scope, Send

from interaction_svc.domain.errors import (
    DeadlineExceeded,
    MethodNotAllowed,
    StreamNotServed,
    Unauthenticated,
    Unavailable,
    UnknownMethod,
    UnsupportedMediaType,
)
from interaction_svc.domain.units import KIB
from interaction_svc.telemetry.request_context import RequestContext
from interaction_svc.telemetry.request_scope import request_scope
from interaction_svc.transports.asgi.client_gone import ClientGoneError, unless_gone
from interaction_svc.transports.asgi.compression import MIN_BYTES, Compressor, accepts_gzip
from interaction_svc.transports.asgi.telemetry import NO_STORE
from interaction_svc.transports.connect.protocols import Connect, Protocol, Protocols, Response
from interaction_svc.transports.connect.request import Request
from interaction_svc.transports.operations import UNKNOWN_RPC, Operation
from interaction_svc.transports.pipeline import ErrorBoundary, Pipeline
from interaction_svc.transports.rpc.methods import UnaryMethod
from interaction_svc.transports.status import codes_of

_ANONYMOUS_BYTES = 4 * KIB
"""The largest message of an operation that needs no credentials, such as a health check."""


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
        """Serve a request. Raises an error only if the response has already begun."""
        request = Request(scope, receive)
        served = self._protocols.posted(with_trailers=request.server_sends_trailers)
        protocol = served.get(request.content_type)
        rendering = protocol or self._protocols.json
        call = request.context(rendering.name)
        with request_scope(call):
            sender = _Sender(request, send)
            try:
                with ErrorBoundary(call, passes=ClientGoneError):
                    await self._serve(request, protocol, call, sender)
                    return
            except ClientGoneError:
                call.code = "CANCELLED"
                return
            except asyncio.CancelledError:  # at the end of a drain
                call.error = Unavailable("The service is shutting down")
            error = call.error
            assert error is not None  # noqa: S101 ErrorBoundary or the branch above has set it
            call.code = codes_of(type(error)).grpc_name
            if sender.has_begun:
                call.about["cut_off"] = error.reason_name()
                raise error
            response = rendering.error(call, error)
            if isinstance(error, MethodNotAllowed):
                response.headers.append((b"allow", ", ".join(error.allowed).encode()))
                response = response._replace(status=405)
            elif isinstance(error, UnsupportedMediaType):
                response.headers.append((b"accept-post", b", ".join(served)))
                response = response._replace(status=415)
            await sender.send(response)

    async def _serve(
        self,
        request: Request,
        protocol: Protocol | None,
        call: RequestContext,
        sender: "_Sender",
    ) -> None:
        """Serve a call. Raises ServiceError, ClientGoneError."""
        operation = request.operation
        method = self._methods.get(operation)
        if method is None:
            raise StreamNotServed if operation is not UNKNOWN_RPC else UnknownMethod
        if request.method == "GET" and operation.changes_nothing:
            protocol = self._protocols.of_query(request.query)
        elif request.method != "POST":
            allowed = ["GET", "POST"] if operation.changes_nothing else ["POST"]
            raise MethodNotAllowed(
                f"The HTTP method must be {' or '.join(allowed)}", allowed=allowed
            )
        if protocol is None:
            raise UnsupportedMediaType("The content-type is none of those in accept-post")
        if not operation.is_limited:
            with self._pipeline.deadline:
                message = await self._message(request, protocol, method)
                await sender.send(protocol.response(method, call, await method.call(message)))
            return
        backlog = self._pipeline.response_backlog
        backlog.check(call)
        pipeline = self._pipeline
        with pipeline.deadline:
            seconds = protocol.timeout(request.headers)
            end = None if seconds is None else asyncio.get_running_loop().time() + seconds
            place = pipeline.place()
            if place is None:
                async with _client_deadline(end):
                    waiting = pipeline.wait_for_place(operation, call.authorization)
                    place = await unless_gone(request.scope, waiting)
            with place:
                if end is None:
                    answer = await self._answer(request, protocol, method, call)
                else:
                    async with _client_deadline(end):
                        answer = await self._answer(request, protocol, method, call)
                if operation.changes_nothing:  # a write is done already, so its response is sent
                    backlog.check(call, len(answer))
                response = protocol.response(method, call, answer)
                with backlog.holding(call, len(response.body)):
                    await sender.send(response)

    async def _answer(
        self, request: Request, protocol: Protocol, method: UnaryMethod, call: RequestContext
    ) -> bytes:
        """Authenticate and authorize the caller, read the request, and call the method."""
        if call.bad_authorization:
            raise Unauthenticated(call.bad_authorization)
        if not self._pipeline.authenticate_cached(call, call.authorization):
            await self._pipeline.authenticate(call, call.authorization)
        share = self._pipeline.authorize(request.operation, call.principal)
        if share is None:
            share = await unless_gone(request.scope, self._pipeline.wait_for_share(call))
        with share:
            return await method.call(await self._message(request, protocol, method))

    async def _message(self, request: Request, protocol: Protocol, method: UnaryMethod) -> bytes:
        max_bytes = self._max_bytes if request.operation.needs_credentials else _ANONYMOUS_BYTES
        if request.method == "GET":
            assert isinstance(protocol, Connect)  # noqa: S101 of_query returns a Connect
            return protocol.request_of_query(method, request.query, max_bytes)
        body = await request.body(self._pipeline.request_bytes, max_bytes)
        return protocol.request(method, request.headers, body, max_bytes)


@asynccontextmanager
async def _client_deadline(end: float | None) -> AsyncIterator[None]:
    """Raise DeadlineExceeded if the block takes longer than until `end`; None: no limit."""
    try:
        async with asyncio.timeout_at(end):
            yield
    except TimeoutError as expired:
        raise DeadlineExceeded("The client's own deadline has passed") from expired


class _Sender:
    """Sends the response of a request."""

    def __init__(self, request: Request, send: Send) -> None:
        self._scope = request.scope
        self._send = send
        self.has_begun = False

    async def send(self, response: Response) -> None:
        """Send a response, with gzip if the client accepts it. Return when all of it is sent."""
        status, headers, body, trailers = response
        headers.append(NO_STORE)
        if trailers is None:
            if len(body) >= MIN_BYTES and accepts_gzip(self._scope):
                body = await Compressor().compressed(body, is_last=True)
                headers.append((b"content-encoding", b"gzip"))
            headers += [(b"vary", b"accept-encoding"), (b"content-length", b"%d" % len(body))]
        self.has_begun = True
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await self._send(start if trailers is None else {**start, "trailers": True})
        await self._send({"type": "http.response.body", "body": body})
        if trailers is not None:
            await self._send({"type": "http.response.trailers", "headers": trailers})
