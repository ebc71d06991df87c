"""Connect (connectrpc.com/docs/protocol)."""

import binascii
import re
from base64 import b64decode, b64encode
from urllib.parse import parse_qsl

import orjson

from interaction_svc.domain.errors import MalformedRequest, ServiceError
from interaction_svc.telemetry.request_context import RequestContext
from interaction_svc.transports.connect.framing import decompressed, end_frame, frame
from interaction_svc.transports.connect.json_messages import JsonMessages
from interaction_svc.transports.connect.protocol import (
    Pairs,
    Protocol,
    Response,
    StreamProtocol,
    metadata_of,
)
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.rpc.error_details import status_of
from interaction_svc.transports.rpc.method import Method
from interaction_svc.transports.status import codes_of

_CONNECT_TIMEOUT = re.compile(rb"[0-9]{1,10}")


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
        sent = parameters_of(query)
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
        return Response(200, [(b"content-type", self._content_type), *metadata_of(call)], message)

    def error(self, call: RequestContext, error: ServiceError) -> Response:
        """See Protocol."""
        headers = [(b"content-type", b"application/json"), *metadata_of(call)]
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

    def in_protobuf(self, method: Method, message: bytes) -> bytes:
        """See StreamProtocol."""
        return message if self._json is None else self._json.request(method, message)

    def message(self, method: Method, message: bytes) -> bytes:
        """See StreamProtocol."""
        return frame(message if self._json is None else self._json.response(method, message))

    def end(self, call: RequestContext, error: ServiceError | None) -> tuple[bytes, Pairs | None]:
        """See StreamProtocol."""
        last: dict[str, object] = {
            "metadata": {name.decode(): [value.decode()] for name, value in metadata_of(call)}
        }
        if error is not None:
            last["error"] = _connect_error(error)
        return end_frame(orjson.dumps(last)), None


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


def parameters_of(query: bytes) -> dict[str, str]:
    """Return the parameters in the query of a GET."""
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1"))
