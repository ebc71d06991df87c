"""The protocols: the form of requests and responses on the wire.

Sources: connectrpc.com/docs/protocol, and PROTOCOL-HTTP2.md and PROTOCOL-WEB.md of grpc.
"""

import binascii
import re
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import NamedTuple
from urllib.parse import parse_qsl, quote

import orjson

from interaction_svc.admission.request_bytes import RequestBody
from interaction_svc.app.consistency import CONSISTENCY_HEADER
from interaction_svc.domain.errors import MalformedRequest, ServiceError
from interaction_svc.telemetry.request_context import REQUEST_ID_HEADER, RequestContext
from interaction_svc.transports.connect.framing import (
    decompressed,
    end_frame,
    frame,
    only_message,
    read_messages,
    trailers_frame,
)
from interaction_svc.transports.connect.json_messages import JsonMessages
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.rpc.error_details import status_of
from interaction_svc.transports.rpc.method import Method
from interaction_svc.transports.status import codes_of

Pairs = list[tuple[bytes, bytes]]
_REQUEST_ID = REQUEST_ID_HEADER.encode()
_CONNECT_TIMEOUT = re.compile(rb"[0-9]{1,10}")
_GRPC_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_GRPC_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_VISIBLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""The characters that are not escaped in a grpc-message."""


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
        return only_message(body, headers.get(self.encoding_header, b""), max_bytes)

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
            yield message

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


class Connect(Protocol):
    """Connect for unary methods, with messages as JSON or in protobuf's encoding."""

    name = "connect"
    accept_header = b"accept-encoding"

    def __init__(self, content_type: bytes, json: JsonMessages | None = None) -> None:
        """Create the protocol. Without `json`, messages are in protobuf's encoding."""
        self._content_type = content_type
        self._json = json

    def serves(self, operation: Operation) -> bool:
        """See Protocol."""
        return not operation.is_streaming

    def timeout(self, headers: dict[bytes, bytes]) -> float | None:
        """See Protocol."""
        return _connect_timeout(headers)

    def request(
        self, method: Method, headers: dict[bytes, bytes], body: bytes, max_bytes: int
    ) -> bytes:
        """See Protocol."""
        plain = decompressed(body, headers.get(b"content-encoding", b""), max_bytes)
        return self._in_protobuf(method, plain)

    def request_of_query(self, method: Method, query: bytes, max_bytes: int) -> bytes:
        """Return the request in the query of a GET.

        Raises MalformedRequest, RequestTooLarge, InvalidField.
        """
        sent = _parameters(query)
        message = sent.get("message", "").encode("latin-1")
        if sent.get("base64") == "1":
            try:
                padded = message.rstrip(b"=") + b"=" * (-len(message.rstrip(b"=")) % 4)
                message = b64decode(padded, altchars=b"-_", validate=True)
            except binascii.Error as error:
                raise MalformedRequest("message: must be base64, as base64=1 says") from error
        plain = decompressed(message, sent.get("compression", "").encode(), max_bytes)
        return self._in_protobuf(method, plain)

    def _in_protobuf(self, method: Method, message: bytes) -> bytes:
        return message if self._json is None else self._json.request(method, message)

    def response(self, method: Method, call: RequestContext, message: bytes) -> Response:
        """See Protocol."""
        if self._json is not None:
            message = self._json.response(method, message)
        return Response(200, [(b"content-type", self._content_type), *_metadata(call)], message)

    def error(self, call: RequestContext, error: ServiceError) -> Response:
        """See Protocol."""
        headers = [(b"content-type", b"application/json"), *_metadata(call)]
        if error.retry_after_seconds is not None:
            headers.append((b"retry-after", b"%d" % error.retry_after_seconds))
        status = codes_of(type(error)).connect_http
        return Response(status, headers, orjson.dumps(_connect_error(error)))


class ConnectStream(StreamProtocol):
    """Connect for streams. The last frame of a response has the error and the trailers, as JSON."""

    name = "connect"
    accept_header = b"connect-accept-encoding"
    encoding_header = b"connect-content-encoding"

    def __init__(self, content_type: bytes, json: JsonMessages | None = None) -> None:
        """Create the protocol. Without `json`, messages are in protobuf's encoding."""
        super().__init__(content_type)
        self._json = json

    def serves(self, operation: Operation) -> bool:
        """See Protocol."""
        return operation.is_streaming

    def timeout(self, headers: dict[bytes, bytes]) -> float | None:
        """See Protocol."""
        return _connect_timeout(headers)

    def request(
        self, method: Method, headers: dict[bytes, bytes], body: bytes, max_bytes: int
    ) -> bytes:
        """See Protocol."""
        return self._in_protobuf(method, super().request(method, headers, body, max_bytes))

    async def requests(
        self,
        method: Method,
        headers: dict[bytes, bytes],
        parts: AsyncIterator[bytes],
        max_bytes: int,
        held: RequestBody,
    ) -> AsyncGenerator[bytes, None]:
        """See StreamProtocol."""
        async for message in super().requests(method, headers, parts, max_bytes, held):
            yield self._in_protobuf(method, message)

    def _in_protobuf(self, method: Method, message: bytes) -> bytes:
        return message if self._json is None else self._json.request(method, message)

    def message(self, method: Method, message: bytes) -> bytes:
        """See StreamProtocol."""
        return frame(message if self._json is None else self._json.response(method, message))

    def end(self, call: RequestContext, error: ServiceError | None) -> tuple[bytes, Pairs | None]:
        """See StreamProtocol."""
        last: dict[str, object] = {
            "metadata": {name.decode(): [value.decode()] for name, value in _metadata(call)}
        }
        if error is not None:
            last["error"] = _connect_error(error)
        return end_frame(orjson.dumps(last)), None


class Grpc(StreamProtocol):
    """gRPC, on servers that send trailers."""

    name = "grpc"
    has_trailers = True
    accept_header = b"grpc-accept-encoding"
    encoding_header = b"grpc-encoding"

    def serves(self, operation: Operation) -> bool:
        """See Protocol."""
        return True

    def timeout(self, headers: dict[bytes, bytes]) -> float | None:
        """See Protocol."""
        sent = headers.get(b"grpc-timeout")
        if sent is None:
            return None
        found = _GRPC_TIMEOUT.fullmatch(sent)
        if found is None:
            raise MalformedRequest("grpc-timeout: must be 1 to 8 digits and a unit: H M S m u n")
        return int(found[1]) * _GRPC_UNITS[found[2]]

    def end(self, call: RequestContext, error: ServiceError | None) -> tuple[bytes, Pairs | None]:
        """See StreamProtocol."""
        if error is None:
            return b"", [(b"grpc-status", b"0"), *_metadata(call)]
        details = b64encode(status_of(error).SerializeToString()).rstrip(b"=")
        return b"", [
            (b"grpc-status", b"%d" % codes_of(type(error)).grpc),
            (b"grpc-message", quote(error.message, safe=_VISIBLE).encode()),
            (b"grpc-status-details-bin", details),
            *_metadata(call),
        ]


class GrpcWeb(Grpc):
    """gRPC-Web, whose trailers are the last frame of the body."""

    name = "grpc_web"
    has_trailers = False

    def end(self, call: RequestContext, error: ServiceError | None) -> tuple[bytes, Pairs | None]:
        """See StreamProtocol."""
        _, trailers = super().end(call, error)
        return trailers_frame(trailers or []), None


class GrpcWebText(GrpcWeb):
    """gRPC-Web whose bodies are base64."""

    def request(
        self, method: Method, headers: dict[bytes, bytes], body: bytes, max_bytes: int
    ) -> bytes:
        """See Protocol."""
        return super().request(method, headers, _from_base64(body), max_bytes)

    async def requests(
        self,
        method: Method,
        headers: dict[bytes, bytes],
        parts: AsyncIterator[bytes],
        max_bytes: int,
        held: RequestBody,
    ) -> AsyncGenerator[bytes, None]:
        """See StreamProtocol."""
        decoded = _each_from_base64(parts)
        async for message in super().requests(method, headers, decoded, max_bytes, held):
            yield message

    def in_body(self, data: bytes) -> bytes:
        """See StreamProtocol."""
        return b64encode(data)


def _from_base64(text: bytes) -> bytes:
    """Decode a text. A client may end each part of it with padding. Raises MalformedRequest."""
    try:
        return b"".join([b64decode(part, validate=True) for part in re.findall(rb"[^=]+=*", text)])
    except binascii.Error as error:
        raise MalformedRequest("The request must be base64") from error


async def _each_from_base64(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    text = b""
    async for part in parts:
        text += part
        complete = len(text) // 4 * 4
        yield _from_base64(text[:complete])
        text = text[complete:]
    yield _from_base64(text)


def _connect_timeout(headers: dict[bytes, bytes]) -> float | None:
    """Return the client's deadline in seconds, or None. Raises MalformedRequest."""
    sent = headers.get(b"connect-timeout-ms")
    if sent is None:
        return None
    if not _CONNECT_TIMEOUT.fullmatch(sent):
        raise MalformedRequest("connect-timeout-ms: must be 1 to 10 digits")
    return int(sent) / 1000


def _connect_error(error: ServiceError) -> dict[str, object]:
    """Return the JSON object of an error."""
    return {
        "code": codes_of(type(error)).connect_name,
        "message": error.message,
        "details": [
            {
                "type": detail.type_url.rpartition("/")[2],
                "value": b64encode(detail.value).rstrip(b"=").decode(),
            }
            for detail in status_of(error).details
        ],
    }


def _metadata(call: RequestContext) -> Iterable[tuple[bytes, bytes]]:
    """Return the metadata of a response: the request id, and the consistency token of a write."""
    yield _REQUEST_ID, call.request_id.encode()
    if call.written is not None:
        yield CONSISTENCY_HEADER.encode(), call.written.encode()


class Protocols:
    """The protocols of one application. They share one cache of JSON."""

    def __init__(self) -> None:
        messages = JsonMessages()
        self.json = Connect(b"application/json", messages)
        proto = Connect(b"application/proto")
        self._of_query = {"json": self.json, "proto": proto}
        self._posted: dict[bytes, Protocol] = {
            b"application/json": self.json,
            b"application/proto": proto,
        }
        for stream in (
            ConnectStream(b"application/connect+json", messages),
            ConnectStream(b"application/connect+proto"),
            *map(GrpcWeb, (b"application/grpc-web", b"application/grpc-web+proto")),
            *map(GrpcWebText, (b"application/grpc-web-text", b"application/grpc-web-text+proto")),
        ):
            self._posted[stream.content_type] = stream
        grpc = {kind: Grpc(kind) for kind in (b"application/grpc", b"application/grpc+proto")}
        self._with_trailers = {**self._posted, **grpc}

    def posted(self, *, with_trailers: bool) -> dict[bytes, Protocol]:
        """Return the protocols of a POST by content type; gRPC only if the server has trailers."""
        return self._with_trailers if with_trailers else self._posted

    def of_query(self, query: bytes) -> Connect:
        """Return the protocol of a GET. Raises MalformedRequest."""
        protocol = self._of_query.get(_parameters(query).get("encoding", ""))
        if protocol is None:
            raise MalformedRequest("encoding: must be json or proto")
        return protocol


def _parameters(query: bytes) -> dict[str, str]:
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1"))
