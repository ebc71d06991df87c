"""An RPC request over HTTP. Its body is read after its headers are checked."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive, Scope

from interaction_svc.admission.request_bytes import RequestBytes
from interaction_svc.app.consistency import CONSISTENCY_HEADER
from interaction_svc.domain.errors import RequestTooLarge
from interaction_svc.telemetry.request_context import (
    REQUEST_ID_HEADER,
    RequestContext,
    request_id_of,
)
from interaction_svc.transports.address import Address
from interaction_svc.transports.asgi.client_gone import ClientGoneError
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline import Interruptible

_AUTHORIZATION = b"authorization"
_REQUEST_ID = REQUEST_ID_HEADER.encode()
_CONSISTENCY = CONSISTENCY_HEADER.encode()


class Request:
    """The headers of a request, its operation, and its body once it is read."""

    def __init__(self, operation: Operation, scope: Scope, receive: Receive) -> None:
        self.operation = operation
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        """The headers by name. Of a repeated header the first value is used."""
        self._receive = receive

    @property
    def method(self) -> str:
        """Return the HTTP method."""
        return str(self.scope["method"])

    @property
    def query(self) -> bytes:
        """Return the query."""
        return bytes(self.scope["query_string"])

    @property
    def content_type(self) -> bytes:
        """Return the content type without parameters, in lower case."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()

    @property
    def server_sends_trailers(self) -> bool:
        """Return whether the server can send trailers, which gRPC needs."""
        return "http.response.trailers" in (self.scope.get("extensions") or {})

    def context(self, transport: str) -> RequestContext:
        """Return the context of the call."""
        sent, consistency = self.headers.get(_REQUEST_ID), self.headers.get(_CONSISTENCY)
        authorization = self.headers.get(_AUTHORIZATION)
        problem = "" if authorization is None else self._problem_of(authorization)
        client = self.scope["client"]
        return RequestContext(
            transport,
            self.operation.rpc_name,
            str(Address(*client)) if client else "",
            request_id_of(None if sent is None else sent.decode("latin-1")),
            "OK",
            None if authorization is None or problem else authorization.decode(),
            problem,
            consistency=None if consistency is None else consistency.decode("latin-1"),
            is_quiet=self.operation.is_quiet,
        )

    def _problem_of(self, authorization: bytes) -> str:
        """Return the error text for credentials that no key can match; an empty text for others."""
        if not authorization.isascii():
            return "The `authorization` has characters that are not ASCII; a key has none"
        sent = self.scope["headers"]
        if len(sent) > len(self.headers) and (  # a header is repeated
            sum(name == _AUTHORIZATION for name, _ in sent) > 1
        ):
            return "The request has more than one `authorization`; send exactly one"
        return ""

    async def body(self, all_requests: RequestBytes, max_bytes: int) -> bytes:
        """Read the whole body. Its message may have at most `max_bytes`.

        The body may have 1.5 times as many bytes, because of base64 and prefixes. The bytes of an
        unfinished body count against the limit of `all_requests`. Raises RequestTooLarge,
        Overloaded, ClientGoneError.
        """
        limit = max_bytes + max_bytes // 2
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            raise RequestTooLarge(max_bytes)
        event = await self._receive()  # not `_part`: a further coroutine for each request
        if event["type"] == "http.disconnect":
            raise ClientGoneError
        body: bytes = event.get("body", b"")
        more: bool = event.get("more_body", False)
        if not more and len(body) <= limit:
            return body
        with all_requests.request() as counted:
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

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Yield the parts of the body. Raises ClientGoneError."""
        more = True
        while more:
            part, more = await self._part()
            yield part

    @asynccontextmanager
    async def interrupted_if_client_leaves(
        self, interruptible: Interruptible
    ) -> AsyncIterator[None]:
        """Raise ClientGoneError in the block once the client is gone; its body must be read."""

        async def wait() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            interruptible.interrupt(ClientGoneError())

        waiting = asyncio.create_task(wait())
        try:
            with interruptible:
                yield
        finally:
            waiting.cancel()

    async def _part(self) -> tuple[bytes, bool]:
        """Return the next part of the body, and whether there is more. Raises ClientGoneError."""
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise ClientGoneError
        return event.get("body", b""), event.get("more_body", False)
