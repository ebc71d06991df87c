"""Options of a store on PostgreSQL."""

from typing import NamedTuple


class PostgresLimits(NamedTuple):
    """The connections of a store, and the time limit of its statements."""

    connections: int = 10
    """Connections at most, but for the one that health probes through."""
    statement_seconds: float = 10.0
    """The time limit of a wait for a connection, and of each statement, in seconds."""


class ReplicaStore(NamedTuple):
    """A replica to read from, which has as many connections as its primary."""

    url: str
    wait_seconds: float = 0.2
    """The longest wait of a read with a consistency token for the replica, in seconds."""
