"""The table of operations: one row for each RPC and each HTTP route, read by every transport.

A row states the conditions of a request: credentials, a permission, a place within the concurrency
limit. The OpenAPI document is generated from the rows with a route.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import NamedTuple

from interaction_svc.domain.principals import Permission
from interaction_svc.transports.address import Address

API_PREFIX = "/v1/"
"""The prefix of the API's HTTP paths. Requests below it need credentials, even on unknown paths."""
LIST_PATH = "/v1/Services/{service_sid}/Sessions/{session_sid}/Interactions"
ITEM_PATH = f"{LIST_PATH}/{{sid}}"

_INTERACTIONS = "/interaction_svc.v1.InteractionService"
_INGEST = "/interaction_svc.v1.IngestService"
_HEALTH = "/grpc.health.v1.Health"


class Kind(StrEnum):
    """The kind of an RPC: which sides send a stream. A request over HTTP is UNARY_UNARY."""

    UNARY_UNARY = "unary_unary"
    UNARY_STREAM = "unary_stream"
    STREAM_UNARY = "stream_unary"
    STREAM_STREAM = "stream_stream"

    @property
    def streams_requests(self) -> bool:
        """Return whether the client sends a stream."""
        return self in (Kind.STREAM_UNARY, Kind.STREAM_STREAM)

    @property
    def streams_responses(self) -> bool:
        """Return whether the server sends a stream."""
        return self in (Kind.UNARY_STREAM, Kind.STREAM_STREAM)


class Route(NamedTuple):
    """The HTTP method and path of an operation. A GET route serves HEAD as well."""

    method: str
    path: str
    """A name in braces stands for one segment, and is the name of its value in `path_params`."""
    name: str
    """The name of the operation in log lines and metrics of HTTP."""


class Operation(NamedTuple):
    """An operation, and the conditions of its requests."""

    rpc: str = ""
    """The gRPC method as `/package.Service/Name`; empty if there is none."""
    route: Route | None = None
    permission: Permission | None = None
    """The permission that the caller's key must have; None if any key is accepted."""
    needs_credentials: bool = True
    """True if a caller without valid credentials is refused, where keys exist."""
    is_limited: bool = True
    """True if a request takes a place within the concurrency limit."""
    is_quiet: bool = False
    """True if its log line has level debug."""
    kind: Kind = Kind.UNARY_UNARY

    @property
    def has_deadline(self) -> bool:
        """Return whether a request must end within `deadline_seconds`.

        A stream of requests with one response has other time limits (StreamTimes). A stream of
        responses has none: it lasts until its client, its connection or a revoked key ends it.
        """
        return self.is_limited and self.kind is Kind.UNARY_UNARY

    @property
    def is_streaming(self) -> bool:
        """Return whether either side sends a stream."""
        return self.kind is not Kind.UNARY_UNARY

    @property
    def changes_nothing(self) -> bool:
        """Return whether a request only reads, so that it may be refused after its work is done."""
        return self.permission is Permission.READ

    @property
    def http_name(self) -> str:
        """Return the name of the operation in log lines and metrics of HTTP."""
        return self.route.name if self.route is not None else "other"

    @property
    def rpc_name(self) -> str:
        """Return the gRPC method as log lines and metrics show it."""
        return self.rpc.removeprefix("/")


GET = Operation(
    f"{_INTERACTIONS}/GetInteraction", Route("GET", ITEM_PATH, "fetch"), Permission.READ
)
LIST = Operation(
    f"{_INTERACTIONS}/ListInteractions", Route("GET", LIST_PATH, "list"), Permission.READ
)
DELETE = Operation(
    f"{_INTERACTIONS}/DeleteInteraction", Route("DELETE", ITEM_PATH, "delete"), Permission.DELETE
)
RECORD = Operation(f"{_INGEST}/RecordInteraction", permission=Permission.INGEST)
RECORD_STREAM = Operation(
    f"{_INGEST}/RecordInteractions", permission=Permission.INGEST, kind=Kind.STREAM_UNARY
)
OPENAPI = Operation(
    route=Route("GET", "/openapi.json", "openapi"), needs_credentials=False, is_limited=False
)
HEALTHZ = Operation(
    route=Route("GET", "/healthz", "healthz"),
    needs_credentials=False,
    is_limited=False,
    is_quiet=True,
)
READYZ = HEALTHZ._replace(route=Route("GET", "/readyz", "readyz"))
HEALTH = tuple(
    Operation(
        f"{_HEALTH}/{name}", needs_credentials=False, is_limited=False, is_quiet=True, kind=kind
    )
    for name, kind in (
        ("Check", Kind.UNARY_UNARY),
        ("List", Kind.UNARY_UNARY),
        ("Watch", Kind.UNARY_STREAM),
    )
)
REFLECTION = tuple(
    Operation(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        is_limited=False,
        kind=Kind.STREAM_STREAM,
    )
    for version in ("v1", "v1alpha")
)
UNKNOWN_RPC = Operation("unknown", needs_credentials=False, kind=Kind.STREAM_UNARY)
"""All gRPC methods that are not served. They share one name, so that metric labels are bounded."""
UNKNOWN_API_PATH = Operation()
"""All HTTP requests below API_PREFIX without a route."""
UNKNOWN_PATH = Operation(needs_credentials=False, is_limited=False)
"""All other HTTP requests without a route."""

API = (GET, LIST, DELETE, RECORD, RECORD_STREAM)
"""The operations on Interactions."""
HTTP = (GET, DELETE, LIST, OPENAPI, HEALTHZ, READYZ)
"""The operations with a route, in the order of the router: the most frequent ones first."""
RPCS = {operation.rpc: operation for operation in (*API, *HEALTH, *REFLECTION)}
"""The operations by their gRPC method."""


def open_methods(address: Address) -> Collection[Operation]:
    """Return the operations that need no credentials on this address: reflection, on loopback."""
    return REFLECTION if address.is_loopback else ()
