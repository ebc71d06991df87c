"""The ASGI application of the RPC methods: Connect, gRPC-Web and gRPC.

A call passes the stages of transports/pipeline. The caller is authenticated before the body of the
request is read. The deadline includes the arrival of the body and the sending of the response.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any

from starlette.types import Receive, Scope, Send

from interaction_svc.domain.errors import (
    DeadlineExceeded,
    MalformedRequest,
    MethodNotAllowed,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    UnknownMethod,
    UnsupportedCompression,
    UnsupportedMediaType,
)
from interaction_svc.domain.units import KIB
from interaction_svc.telemetry.request_context import RequestContext
from interaction_svc.telemetry.request_scope import request_scope
from interaction_svc.transports.asgi.client_gone import ClientGoneError, unless_gone
from interaction_svc.transports.connect.client_names import AllowedNames
from interaction_svc.transports.connect.connect_protocol import Connect
from interaction_svc.transports.connect.protocol import Protocol, StreamProtocol
from interaction_svc.transports.connect.protocols import Protocols
from interaction_svc.transports.connect.request import Request
from interaction_svc.transports.connect.sender import Sender
from interaction_svc.transports.operations import UNKNOWN_RPC, Operation
from interaction_svc.transports.pipeline import (
    ErrorBoundary,
    Interruptible,
    KeyWatch,
    Pipeline,
    StreamTimes,
)
from interaction_svc.transports.rpc.method import Method
from interaction_svc.transports.status import codes_of

_STOPPING = "The service is shutting down"
_ANONYMOUS_BYTES = 4 * KIB
"""The largest message of an operation that needs no credentials, such as a health check."""


class RpcApp:
    """Serves RPC methods of all four kinds.

    Operations that need no credentials, and those in `open_to_all`, are not authenticated. With
    `allowed_names` the others need a client certificate with one of these names.
    """

    def __init__(
        self,
        methods: Mapping[Operation, Method],
        pipeline: Pipeline,
        times: StreamTimes,
        *,
        max_message_bytes: int,
        open_to_all: Collection[Operation] = (),
        allowed_names: Collection[str] = (),
    ) -> None:
        self._methods = {
            operation.rpc: (operation, method) for operation, method in methods.items()
        }
        self._pipeline = pipeline
        self._times = times
        self._max_bytes = max_message_bytes
        self._open_to_all = frozenset(open_to_all)
        self._is_peer_allowed = AllowedNames(allowed_names) if allowed_names else None
        self._protocols = Protocols()
        self._without_end: set[asyncio.Task[object]] = set()
        self._is_ending = False

    def end_streams(self) -> None:
        """End the streams that need no permission, which can last for ever, for a drain.

        Their clients get UNAVAILABLE. Further ones are refused.
        """
        self._is_ending = True
        for task in self._without_end:
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request.

        Raises an error only if a response has begun that can't end with an error.
        """
        operation, method = self._methods.get(scope["path"], (UNKNOWN_RPC, None))
        request = Request(operation, scope, receive)
        served = self._protocols.posted(with_trailers=request.server_sends_trailers)
        protocol = served.get(request.content_type)
        if protocol is not None and not protocol.serves(operation):
            protocol = None
        rendering = protocol or self._protocols.json
        call = request.context(rendering.name)
        with request_scope(call):
            sender = Sender(scope, send)
            try:
                with ErrorBoundary(call, passes=ClientGoneError):
                    if method is None:
                        raise UnknownMethod
                    await self._serve(request, protocol, method, call, sender)
                    return
            except ClientGoneError:
                call.code = "CANCELLED"
                return
            except asyncio.CancelledError:
                # At the end of a drain. Some servers also cancel if the client is gone: then
                # sending raises ClientGoneError.
                call.error = Unavailable(_STOPPING)
            error = call.error
            assert error is not None  # noqa: S101 ErrorBoundary or the branch above has set it
            call.code = codes_of(type(error)).grpc_name
            if sender.has_begun and not sender.is_stream:
                call.about["cut_off"] = error.reason_name()
                raise error
            try:
                if sender.is_stream:
                    assert isinstance(rendering, StreamProtocol)  # noqa: S101 it has begun one
                    await sender.end(rendering, call, error)
                    return
                response = rendering.error(call, error)
                if isinstance(error, MethodNotAllowed):
                    response.headers.append((b"allow", ", ".join(error.allowed).encode()))
                    response = response._replace(status=405)
                elif isinstance(error, UnsupportedMediaType):
                    kinds = [k for k, one in served.items() if one.serves(operation)]
                    response.headers.append((b"accept-post", b", ".join(kinds)))
                    response = response._replace(status=415)
                elif isinstance(error, UnsupportedCompression):
                    response.headers.append((rendering.accept_header, b"gzip,deflate,identity"))
                await sender.send(response)
            except ClientGoneError:
                call.code, call.error = "CANCELLED", None

    async def _serve(
        self,
        request: Request,
        protocol: Protocol | None,
        method: Method,
        call: RequestContext,
        sender: Sender,
    ) -> None:
        """Serve a call. Raises ServiceError, ClientGoneError."""
        operation = request.operation
        if b"host" not in request.headers:
            raise MalformedRequest("The request names no host: send `:authority` or `Host`")
        if request.method == "GET" and operation.changes_nothing and not operation.is_streaming:
            protocol = self._protocols.of_query(request.query)
        elif request.method != "POST":
            allowed = ["GET", "POST"] if operation.changes_nothing else ["POST"]
            raise MethodNotAllowed(
                f"The HTTP method must be {' or '.join(allowed)}", allowed=allowed
            )
        if protocol is None:
            raise UnsupportedMediaType("The content-type is none of those in accept-post")
        if operation.is_streaming:
            assert isinstance(protocol, StreamProtocol)  # noqa: S101 it serves streams
            seconds = protocol.timeout(request.headers)
            end = None if seconds is None else asyncio.get_running_loop().time() + seconds
            with self._ended_at_drain(operation):
                async with _client_deadline(end):
                    await self._stream(request, protocol, method, call, sender)
            return
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
                    place = await self._wait_for_place(request, call)
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

    async def _wait_for_place(
        self, request: Request, call: RequestContext
    ) -> AbstractContextManager[None]:
        waiting = self._pipeline.wait_for_place(request.operation, call.authorization)
        return await unless_gone(request.scope, waiting)

    async def _answer(
        self, request: Request, protocol: Protocol, method: Method, call: RequestContext
    ) -> bytes:
        """Authenticate and authorize the caller, read the request, and call the method."""
        if call.bad_authorization or self._is_peer_allowed is not None:
            self._check_caller(request, call)
        if not self._pipeline.authenticate_cached(call, call.authorization):
            await self._pipeline.authenticate(call, call.authorization)
        share = self._pipeline.authorize(request.operation, call.principal)
        if share is None:
            share = await unless_gone(request.scope, self._pipeline.wait_for_share(call))
        with share:
            answer: bytes = await method.call(await self._message(request, protocol, method))
            return answer

    def _check_caller(self, request: Request, call: RequestContext) -> None:
        """Raise an error if the client's certificate or the form of its credentials is bad."""
        if self._is_peer_allowed is not None and not self._is_peer_allowed(request.scope):
            raise PermissionDenied("The client certificate's names are not among those allowed")
        if call.bad_authorization:
            raise Unauthenticated(call.bad_authorization)

    async def _message(self, request: Request, protocol: Protocol, method: Method) -> bytes:
        max_bytes = self._max_bytes_of(request.operation)
        if request.method == "GET":
            assert isinstance(protocol, Connect)  # noqa: S101 of_query returns a Connect
            return protocol.request_of_query(method, request.query, max_bytes)
        body = await request.body(self._pipeline.request_bytes, max_bytes)
        return protocol.request(method, request.headers, body, max_bytes)

    def _max_bytes_of(self, operation: Operation) -> int:
        return self._max_bytes if self._needs_credentials(operation) else _ANONYMOUS_BYTES

    def _needs_credentials(self, operation: Operation) -> bool:
        return operation.needs_credentials and operation not in self._open_to_all

    @contextmanager
    def _ended_at_drain(self, operation: Operation) -> Iterator[None]:
        """Cancel the block at `end_streams` if its operation needs no permission."""
        task = asyncio.current_task()
        if operation.permission is not None or task is None:
            yield
            return
        if self._is_ending:
            raise Unavailable(_STOPPING)
        self._without_end.add(task)
        try:
            yield
        finally:
            self._without_end.discard(task)

    async def _stream(
        self,
        request: Request,
        protocol: StreamProtocol,
        method: Method,
        call: RequestContext,
        sender: Sender,
    ) -> None:
        """Serve a call with a stream of requests, of responses, or of both."""
        operation = request.operation
        backlog = self._pipeline.response_backlog
        async with AsyncExitStack() as stages:
            if operation.is_limited:
                backlog.check(call)
                stages.enter_context(
                    self._pipeline.place() or await self._wait_for_place(request, call)
                )
            watch: KeyWatch | None = None
            if self._needs_credentials(operation):
                self._check_caller(request, call)
                if not self._pipeline.authenticate_cached(call, call.authorization):
                    await self._pipeline.authenticate(call, call.authorization)
                if operation.permission is not None:
                    share = self._pipeline.authorize(operation, call.principal)
                    assert share is not None  # noqa: S101 a stream does not wait for a share
                    stages.enter_context(share)
                    watch = stages.enter_context(self._pipeline.watch_key(call))
            argument: Any
            if operation.kind.streams_requests:
                argument = await self._requests(request, protocol, method, watch, stages)
            else:
                with self._pipeline.deadline:
                    argument = await self._message(request, protocol, method)
            if operation.kind.streams_responses:
                is_limited = operation.is_limited
                interruptible = Interruptible() if watch is None else watch.interruptible
                async with (
                    aclosing(method.call(argument)) as responses,
                    nullcontext()
                    if operation.kind.streams_requests  # then reading notices a lost client
                    else request.interrupted_if_client_leaves(interruptible),
                ):
                    async for response in responses:
                        if is_limited:
                            backlog.check(call, len(response))
                        with backlog.holding(call, len(response)):
                            await sender.send_message(protocol, method, response)
                await sender.end(protocol, call)
                return
            answer = await method.call(argument)
            if operation.changes_nothing:
                backlog.check(call, len(answer))
            with backlog.holding(call, len(answer)):
                await sender.send(protocol.response(method, call, answer))

    async def _requests(
        self,
        request: Request,
        protocol: StreamProtocol,
        method: Method,
        watch: KeyWatch | None,
        stages: AsyncExitStack,
    ) -> AsyncGenerator[bytes, None]:
        """Return the requests of a stream, which end with a revoked key.

        A stream with one response also ends at the time limits.
        """
        held = stages.enter_context(self._pipeline.request_bytes.request())
        parts = await stages.enter_async_context(aclosing(request.parts()))
        max_bytes = self._max_bytes_of(request.operation)
        requests = await stages.enter_async_context(
            aclosing(protocol.requests(method, request.headers, parts, max_bytes, held))
        )
        if not request.operation.kind.streams_responses:
            requests = await stages.enter_async_context(aclosing(self._times.limit(requests)))
        if watch is not None:
            requests = await stages.enter_async_context(aclosing(watch.interrupt_between(requests)))
        return requests


@asynccontextmanager
async def _client_deadline(end: float | None) -> AsyncIterator[None]:
    """Raise DeadlineExceeded if the block takes longer than until `end`; None: no limit.

    If `end` has passed already, the block does not begin.
    """
    expired_text = "The client's own deadline has passed"
    if end is not None and end <= asyncio.get_running_loop().time():
        raise DeadlineExceeded(expired_text)
    try:
        async with asyncio.timeout_at(end):
            yield
    except TimeoutError as expired:
        raise DeadlineExceeded(expired_text) from expired
