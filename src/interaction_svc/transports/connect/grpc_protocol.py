"""gRPC and gRPC-Web (PROTOCOL-HTTP2.md and PROTOCOL-WEB.md of grpc)."""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator
from urllib.parse import quote

from interaction_svc.admission.request_bytes import RequestBody
from interaction_svc.domain.errors import MalformedRequest, ServiceError
from interaction_svc.telemetry.request_context import RequestContext
from interaction_svc.transports.connect.framing import trailers_frame
from interaction_svc.transports.connect.protocol import Pairs, StreamProtocol, metadata_of
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.rpc.error_details import status_of
from interaction_svc.transports.rpc.method import Method
from interaction_svc.transports.status import codes_of

_GRPC_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_GRPC_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_VISIBLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""The characters that are not escaped in a grpc-message."""


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
            return b"", [(b"grpc-status", b"0"), *metadata_of(call)]
        details = b64encode(status_of(error).SerializeToString()).rstrip(b"=")
        return b"", [
            (b"grpc-status", b"%d" % codes_of(type(error)).grpc),
            (b"grpc-message", quote(error.message, safe=_VISIBLE).encode()),
            (b"grpc-status-details-bin", details),
            *metadata_of(call),
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
