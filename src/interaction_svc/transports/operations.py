"""The table of operations: one row for each RPC and each HTTP route, read by every transport.

A row says what a request needs before it reaches the application: a permission, credentials, a
place within the concurrency limit. The OpenAPI document is made from the rows with a route.
"""

from typing import NamedTuple

from interaction_svc.domain.principals import Permission

API_PREFIX = "/v1/"
"""Paths of the API over HTTP. Requests below it need credentials, even if nothing is served."""
LIST_PATH = "/v1/Services/{service_sid}/Sessions/{session_sid}/Interactions"
ITEM_PATH = f"{LIST_PATH}/{{sid}}"

_INTERACTIONS = "/interaction_svc.v1.InteractionService"
_INGEST = "/interaction_svc.v1.IngestService"
_HEALTH = "/grpc.health.v1.Health"


class Route(NamedTuple):
    """Where an operation is served over HTTP. A GET route answers HEAD as well."""

    method: str
    path: str
    name: str
    """The name of the operation in log lines and metrics of HTTP."""


class Operation(NamedTuple):
    """What the service does for one kind of request."""

    rpc: str = ""
    """The gRPC method as `/package.Service/Name`; empty: there is none."""
    route: Route | None = None
    permission: Permission | None = None
    """What the caller's key must allow; None: any key does."""
    needs_credentials: bool = True
    """Whether a caller without valid credentials is refused, where keys exist."""
    is_limited: bool = True
    """Whether a request takes a place within the concurrency limit and has a deadline."""
    is_quiet: bool = False
    """Whether its log line has level debug."""
    streams_requests: bool = False

    @property
    def changes_nothing(self) -> bool:
        """Return whether a request may be refused after its work is done."""
        return self.permission is Permission.READ

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
    f"{_INGEST}/RecordInteractions", permission=Permission.INGEST, streams_requests=True
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
    Operation(f"{_HEALTH}/{name}", needs_credentials=False, is_limited=False, is_quiet=True)
    for name in ("Check", "List", "Watch")
)
REFLECTION = tuple(
    Operation(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        is_limited=False,
        streams_requests=True,
    )
    for version in ("v1", "v1alpha")
)
UNKNOWN_RPC = Operation("unknown", needs_credentials=False, streams_requests=True)
"""Every gRPC method that is not served; their names are invented by callers."""
UNKNOWN_API_PATH = Operation(route=Route("", "", "other"))
UNKNOWN_PATH = Operation(route=Route("", "", "other"), needs_credentials=False, is_limited=False)

API = (GET, LIST, DELETE, RECORD, RECORD_STREAM)
"""The operations on Interactions."""
RPCS = {operation.rpc: operation for operation in (*API, *HEALTH, *REFLECTION)}
"""The operations by their gRPC method."""


def operation_of_path(path: str) -> Operation:
    """Return an operation with the needs of every request to this path, before it is routed.

    Requests below API_PREFIX have the same needs until the route is known.
    """
    return UNKNOWN_API_PATH if path.startswith(API_PREFIX) else UNKNOWN_PATH
