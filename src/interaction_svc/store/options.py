"""What a server takes of a database."""

from typing import NamedTuple


class PostgresLimits(NamedTuple):
    """How much at once, and how long."""

    connections: int = 10
    """Connections at most, but for the one that health probes through."""
    statement_seconds: float = 10.0
    """How long a call waits for a connection, and each statement for its answer."""


class ReplicaStore(NamedTuple):
    """A replica to read from, which has as many connections as its primary."""

    url: str
    wait_seconds: float = 0.2
    """How long a read that has to see a write waits for the replica to have it."""
