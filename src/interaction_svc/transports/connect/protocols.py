"""The protocols: the form of requests and responses on the wire.

Sources: connectrpc.com/docs/protocol, and PROTOCOL-HTTP2.md and PROTOCOL-WEB.md of grpc.
"""

import binascii
import re
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import parse_qsl, quote

import orjson

from interaction_svc.app.consistency import CONSISTENCY_HEADER
from interaction_svc.domain.errors import MalformedRequest, ServiceError
from interaction_svc.telemetry.request_context import REQUEST_ID_HEADER, RequestContext
from interaction_svc.transports.connect.framing import (
    decompressed,
    frame,
    only_message,
    trailers_frame,
)
from interaction_svc.transports.connect.json_messages import JsonMessages
from interaction_svc.transports.rpc.error_details import status_of
from interaction_svc.transports.rpc.methods import UnaryMethod
from interaction_svc.transports.status import codes_of

Pairs = list[tuple[bytes, bytes]]
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

    @abstractmethod
    def timeout(self, headers: dict[bytes, bytes]) -> float | None:
        """Return the client's deadline in seconds, or None. Raises MalformedRequest."""

    @abstractmethod
    def request(
        self, method: UnaryMethod, headers: dict[bytes, bytes], body: bytes, max_bytes: int
    ) -> bytes:
        """Return the request in a body, in protobuf's encoding.

        Raises MalformedRequest, RequestTooLarge, InvalidField.
        """

    @abstractmethod
    def response(self, method: UnaryMethod, call: RequestContext, message: bytes) -> Response:
        """Return the response with this message, which is in protobuf's encoding."""

    @abstractmethod
    def error(self, call: RequestContext, error: ServiceError) -> Response:
        """Return the response to a call that failed."""


class Connect(Protocol):
    """Connect for unary methods, with messages as JSON or in protobuf's encoding."""

    name = "connect"

    def __init__(self, content_type: bytes, json: JsonMessages | None = None) -> None:
        """Create the protocol. Without `json`, messages are in protobuf's encoding."""
        self._content_type = content_type
        self._json = json

    def timeout(self, headers: dict[bytes, bytes]) -> float | None:
        """See Protocol."""
        sent = headers.get(b"connect-timeout-ms")
        if sent is None:
            return None
        if not _CONNECT_TIMEOUT.fullmatch(sent):
            raise MalformedRequest("connect-timeout-ms: must be 1 to 10 digits")
        return int(sent) / 1000

    def request(
        self, method: UnaryMethod, headers: dict[bytes, bytes], body: bytes, max_bytes: int
    ) -> bytes:
        """See Protocol."""
        plain = decompressed(body, headers.get(b"content-encoding", b""), max_bytes)
        return self._in_protobuf(method, plain)

    def request_of_query(self, method: UnaryMethod, query: bytes, max_bytes: int) -> bytes:
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

    def _in_protobuf(self, method: UnaryMethod, message: bytes) -> bytes:
        return message if self._json is None else self._json.request(method, message)

    def response(self, method: UnaryMethod, call: RequestContext, message: bytes) -> Response:
        """See Protocol."""
        if self._json is not None:
            message = self._json.response(method, message)
        return Response(200, [(b"content-type", self._content_type), *_metadata(call)], message)

    def error(self, call: RequestContext, error: ServiceError) -> Response:
        """See Protocol."""
        status = status_of(error)
        codes = codes_of(type(error))
        body = {
            "code": codes.connect_name,
            "message": error.message,
            "details": [
                {
                    "type": detail.type_url.rpartition("/")[2],
                    "value": b64encode(detail.value).rstrip(b"=").decode(),
                }
                for detail in status.details
            ],
        }
        headers = [(b"content-type", b"application/json"), *_metadata(call)]
        if error.retry_after_seconds is not None:
            headers.append((b"retry-after", b"%d" % error.retry_after_seconds))
        return Response(codes.connect_http, headers, orjson.dumps(body))


class Grpc(Protocol):
    """gRPC, on servers that send trailers."""

    name = "grpc"

    def __init__(self, content_type: bytes) -> None:
        self._content_type = content_type

    def timeout(self, headers: dict[bytes, bytes]) -> float | None:
        """See Protocol."""
        sent = headers.get(b"grpc-timeout")
        if sent is None:
            return None
        found = _GRPC_TIMEOUT.fullmatch(sent)
        if found is None:
            raise MalformedRequest("grpc-timeout: must be 1 to 8 digits and a unit: H M S m u n")
        return int(found[1]) * _GRPC_UNITS[found[2]]

    def request(
        self, method: UnaryMethod, headers: dict[bytes, bytes], body: bytes, max_bytes: int
    ) -> bytes:
        """See Protocol."""
        return only_message(body, headers.get(b"grpc-encoding", b""), max_bytes)

    def response(self, method: UnaryMethod, call: RequestContext, message: bytes) -> Response:
        """See Protocol."""
        return self._respond(frame(message), [(b"grpc-status", b"0"), *_metadata(call)])

    def error(self, call: RequestContext, error: ServiceError) -> Response:
        """See Protocol."""
        details = b64encode(status_of(error).SerializeToString()).rstrip(b"=")
        return self._respond(
            b"",
            [
                (b"grpc-status", b"%d" % codes_of(type(error)).grpc),
                (b"grpc-message", quote(error.message, safe=_VISIBLE).encode()),
                (b"grpc-status-details-bin", details),
                *_metadata(call),
            ],
        )

    def _respond(self, messages: bytes, trailers: Pairs) -> Response:
        return Response(200, [(b"content-type", self._content_type)], messages, trailers)


class GrpcWeb(Grpc):
    """gRPC-Web, whose trailers are the last frame of the body; `is_text`: the body is base64."""

    name = "grpc_web"

    def __init__(self, content_type: bytes, *, is_text: bool) -> None:
        super().__init__(content_type)
        self._is_text = is_text

    def request(
        self, method: UnaryMethod, headers: dict[bytes, bytes], body: bytes, max_bytes: int
    ) -> bytes:
        """See Protocol."""
        if self._is_text:
            try:
                # A client may end each part of the text with padding.
                parts = re.findall(rb"[^=]+=*", body)
                body = b"".join([b64decode(part, validate=True) for part in parts])
            except binascii.Error as error:
                raise MalformedRequest("The request must be base64") from error
        return super().request(method, headers, body, max_bytes)

    def _respond(self, messages: bytes, trailers: Pairs) -> Response:
        body = messages + trailers_frame(trailers)
        if self._is_text:
            body = b64encode(body)
        return Response(200, [(b"content-type", self._content_type)], body)


def _metadata(call: RequestContext) -> Iterable[tuple[bytes, bytes]]:
    """Return the metadata of a response: the request id, and the consistency token of a write."""
    yield REQUEST_ID_HEADER.encode(), call.request_id.encode()
    if call.written is not None:
        yield CONSISTENCY_HEADER.encode(), call.written.encode()


class Protocols:
    """The protocols of one application. They share one cache of JSON."""

    def __init__(self) -> None:
        self.json = Connect(b"application/json", JsonMessages())
        proto = Connect(b"application/proto")
        self._of_query = {"json": self.json, "proto": proto}
        self._posted: dict[bytes, Protocol] = {
            b"application/json": self.json,
            b"application/proto": proto,
        }
        for kind in (b"application/grpc-web", b"application/grpc-web+proto"):
            self._posted[kind] = GrpcWeb(kind, is_text=False)
        for kind in (b"application/grpc-web-text", b"application/grpc-web-text+proto"):
            self._posted[kind] = GrpcWeb(kind, is_text=True)
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
