"""What a server takes of a database."""

from typing import NamedTuple


class PostgresLimits(NamedTuple):
    """How much at once, and how long."""

    connections: int = 10
    """Connections at most, but for the one that health probes through."""
    statement_seconds: float = 10.0
    """How long a call waits for a connection, and each statement for its answer."""
