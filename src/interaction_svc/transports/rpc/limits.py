"""The limits of the gRPC listener, for every engine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """The limits of the gRPC listener. Sizes are in bytes."""

    max_message_bytes: int
    max_header_bytes: int
    """The largest metadata of a call."""
    max_streams_per_connection: int
    """The number of calls in progress on a connection. Further ones wait in the client."""
    max_connections: int
    """The number of open connections. Further ones are closed."""
    header_timeout_seconds: float
    """The time limit of a TLS handshake."""
    connection_idle_seconds: float
    """A connection without calls is closed after this time."""
    connection_age_seconds: float
    """A connection is replaced after this time; 0: never."""
    max_calls: int
    """The number of calls in progress or waiting, on all connections."""
    drain_seconds: float
    """The time that calls have to finish after the listener stops accepting new ones."""
    keepalive_seconds: float
    """A client that sends nothing for this time gets a ping."""
