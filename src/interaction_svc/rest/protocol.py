"""HTTP on one connection: uvicorn's protocol, and the bounds that it lacks."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one client can take up of the HTTP listener."""

    max_header_bytes: int
    """The largest headers of a request, its first line included."""
    max_connections: int
    """How many connections are held at once; what comes beyond is closed."""
    slow_sender_seconds: float
    """How long a TLS handshake may take, and how long the headers of a request."""
    connection_idle_seconds: float
    """After which time a connection is closed on which nothing is asked, or nothing read."""
