"""The protocols that the application serves, by content type."""

from interaction_svc.domain.errors import MalformedRequest
from interaction_svc.transports.connect.connect_protocol import (
    Connect,
    ConnectStream,
    parameters_of,
)
from interaction_svc.transports.connect.grpc_protocol import Grpc, GrpcWeb, GrpcWebText
from interaction_svc.transports.connect.json_messages import JsonMessages
from interaction_svc.transports.connect.protocol import Protocol


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
        protocol = self._of_query.get(parameters_of(query).get("encoding", ""))
        if protocol is None:
            raise MalformedRequest("encoding: must be json or proto")
        return protocol
