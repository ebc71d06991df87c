"""Options of a PostgreSQL store."""

from typing import NamedTuple


class PostgresLimits(NamedTuple):
    """The number of connections of a store, and the time limit of its statements."""

    connections: int = 10
    """The maximum number of connections, without the one for health probes."""
    statement_seconds: float = 10.0
    """The time limit for each statement, and for each wait for a connection, in seconds."""


class ReplicaStore(NamedTuple):
    """A replica for reads, with the same maximum number of connections as its primary."""

    url: str
    wait_seconds: float = 0.2
    """The longest time that a read with a consistency token waits for the replica, in seconds."""
