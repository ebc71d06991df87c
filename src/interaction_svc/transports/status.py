"""The codes of each error: gRPC code, HTTP status, and the code in the body of an HTTP error."""

from typing import NamedTuple

from google.rpc import code_pb2

from interaction_svc.domain import errors
from interaction_svc.domain.errors import ServiceError


class Codes(NamedTuple):
    """The codes of an error in each protocol."""

    grpc: int
    """A value of google.rpc.Code."""
    http: int
    vendor: int
    """The `code` of an error body in the vendor's shape."""

    @property
    def grpc_name(self) -> str:
        """Return the name of the gRPC code, such as NOT_FOUND."""
        return str(code_pb2.Code.Name(self.grpc))

    @property
    def connect_name(self) -> str:
        """Return the code of Connect, such as not_found."""
        return self.grpc_name.lower()

    @property
    def connect_http(self) -> int:
        """Return the HTTP status that Connect prescribes for the code."""
        return _CONNECT_HTTP[self.grpc]


_CONNECT_HTTP = {
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DEADLINE_EXCEEDED: 504,
    code_pb2.INTERNAL: 500,
    code_pb2.DATA_LOSS: 500,
}
"""By gRPC code (connectrpc.com/docs/protocol, "Error Codes")."""


_CODES: dict[type[ServiceError], Codes] = {
    errors.InvalidField: Codes(code_pb2.INVALID_ARGUMENT, 400, 20001),
    errors.MalformedRequest: Codes(code_pb2.INVALID_ARGUMENT, 400, 20001),
    errors.UnsupportedCompression: Codes(code_pb2.UNIMPLEMENTED, 415, 20001),
    errors.HeadersTooLarge: Codes(code_pb2.INVALID_ARGUMENT, 431, 20001),
    errors.HeadersTooSlow: Codes(code_pb2.INVALID_ARGUMENT, 408, 20001),
    errors.RequestTooLarge: Codes(code_pb2.RESOURCE_EXHAUSTED, 413, 20001),
    errors.UnsupportedMediaType: Codes(code_pb2.INVALID_ARGUMENT, 415, 20001),
    errors.InteractionNotFound: Codes(code_pb2.NOT_FOUND, 404, 20404),
    errors.UnknownPath: Codes(code_pb2.NOT_FOUND, 404, 20404),
    errors.OwnerMismatch: Codes(code_pb2.FAILED_PRECONDITION, 409, 20409),
    errors.AmbiguousAccount: Codes(code_pb2.FAILED_PRECONDITION, 409, 20409),
    errors.DataLoss: Codes(code_pb2.DATA_LOSS, 500, 20500),
    errors.Unauthenticated: Codes(code_pb2.UNAUTHENTICATED, 401, 20003),
    errors.PermissionDenied: Codes(code_pb2.PERMISSION_DENIED, 403, 20403),
    errors.UnknownMethod: Codes(code_pb2.UNIMPLEMENTED, 405, 20004),
    errors.MethodNotAllowed: Codes(code_pb2.UNIMPLEMENTED, 405, 20004),
    errors.Overloaded: Codes(code_pb2.RESOURCE_EXHAUSTED, 429, 20429),
    errors.RateLimited: Codes(code_pb2.RESOURCE_EXHAUSTED, 429, 20429),
    errors.StoreFull: Codes(code_pb2.RESOURCE_EXHAUSTED, 503, 20503),
    errors.DeadlineExceeded: Codes(code_pb2.DEADLINE_EXCEEDED, 503, 20503),
    errors.StreamIdle: Codes(code_pb2.DEADLINE_EXCEEDED, 503, 20503),
    errors.Unavailable: Codes(code_pb2.UNAVAILABLE, 503, 20503),
    errors.Internal: Codes(code_pb2.INTERNAL, 500, 20500),
}


def codes_of(error: type[ServiceError]) -> Codes:
    """Return the codes of an error class: its own, or those of the nearest base class."""
    return next(_CODES[kind] for kind in error.__mro__ if kind in _CODES)
