"""What every protocol has: the form of requests and responses on the wire."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import NamedTuple

from interaction_svc.admission.request_bytes import RequestBody
from interaction_svc.app.consistency import CONSISTENCY_HEADER
from interaction_svc.domain.errors import ServiceError
from interaction_svc.telemetry.request_context import REQUEST_ID_HEADER, RequestContext
from interaction_svc.transports.connect.framing import frame, only_message, read_messages
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.rpc.method import Method

Pairs = list[tuple[bytes, bytes]]
_REQUEST_ID = REQUEST_ID_HEADER.encode()


class Response(NamedTuple):
    """A response over HTTP."""

    status: int
    headers: Pairs
    body: bytes
    trailers: Pairs | None = None
    """The trailers; None if the protocol sends none outside the body."""


class Protocol(ABC):
    """A protocol, with one encoding of its messages."""

    name: str
    """The name of the protocol in log lines and metrics."""
    accept_header: bytes
    """The response header with the compressions that are supported."""

    @abstractmethod
    def serves(self, operation: Operation) -> bool:
        """Return whether the protocol is defined for the operation's kind of RPC."""

    @abstractmethod
    def timeout(self, headers: dict[bytes, bytes]) -> float | None:
        """Return the client's deadline in seconds, or None. Raises MalformedRequest."""

    @abstractmethod
    def request(
        self, method: Method, headers: dict[bytes, bytes], body: bytes, max_bytes: int
    ) -> bytes:
        """Return the request in a body, in protobuf's encoding.

        Raises MalformedRequest, RequestTooLarge, InvalidField.
        """

    @abstractmethod
    def response(self, method: Method, call: RequestContext, message: bytes) -> Response:
        """Return the response with this message, which is in protobuf's encoding."""

    @abstractmethod
    def error(self, call: RequestContext, error: ServiceError) -> Response:
        """Return the response to a call that failed."""


class StreamProtocol(Protocol):
    """A protocol whose messages have prefixes, so that a body can have several."""

    encoding_header: bytes
    """The request header with the compression of messages."""
    has_trailers = False

    def __init__(self, content_type: bytes) -> None:
        self.content_type = content_type

    def request(
        self, method: Method, headers: dict[bytes, bytes], body: bytes, max_bytes: int
    ) -> bytes:
        """See Protocol."""
        message = only_message(body, headers.get(self.encoding_header, b""), max_bytes)
        return self.in_protobuf(method, message)

    async def requests(
        self,
        method: Method,
        headers: dict[bytes, bytes],
        parts: AsyncIterator[bytes],
        max_bytes: int,
        held: RequestBody,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the requests in the parts of a body, in protobuf's encoding.

        `held` counts the bytes of the request that is not complete. Raises MalformedRequest,
        RequestTooLarge, InvalidField.
        """
        encoding = headers.get(self.encoding_header, b"")
        async for message in read_messages(parts, encoding, max_bytes, held):
            yield self.in_protobuf(method, message)

    def in_protobuf(self, method: Method, message: bytes) -> bytes:
        """Return a request in protobuf's encoding."""
        return message

    def headers(self) -> Pairs:
        """Return the headers of a response."""
        return [(b"content-type", self.content_type)]

    def message(self, method: Method, message: bytes) -> bytes:
        """Return the bytes of a response in the body."""
        return frame(message)

    @abstractmethod
    def end(self, call: RequestContext, error: ServiceError | None) -> tuple[bytes, Pairs | None]:
        """Return the last bytes of the body, and the trailers; None if it sends none."""

    def in_body(self, data: bytes) -> bytes:
        """Return the bytes of a body as they are sent."""
        return data

    def response(self, method: Method, call: RequestContext, message: bytes) -> Response:
        """See Protocol."""
        last, trailers = self.end(call, None)
        body = self.in_body(self.message(method, message) + last)
        return Response(200, self.headers(), body, trailers)

    def error(self, call: RequestContext, error: ServiceError) -> Response:
        """See Protocol."""
        last, trailers = self.end(call, error)
        return Response(200, self.headers(), self.in_body(last), trailers)


def metadata_of(call: RequestContext) -> Iterable[tuple[bytes, bytes]]:
    """Return the metadata of a response: the request id, and the consistency token of a write."""
    yield _REQUEST_ID, call.request_id.encode()
    if call.written is not None:
        yield CONSISTENCY_HEADER.encode(), call.written.encode()
