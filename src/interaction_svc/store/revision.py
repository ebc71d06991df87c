"""Moments of a store's history, for reads that may be of a copy which lags behind."""

from typing import NamedTuple


class Revision(NamedTuple):
    """A moment in the history of a database: what was committed before it comes before it.

    Moments of another system or timeline can't be compared with it.
    """

    system: int
    """Which database server's history it is, with those of its replicas: 64 bits."""
    timeline: int
    """Which branch of that history, for each failover begins a new one: 32 bits."""
    position: int
    """Where in it: 64 bits."""


UNKNOWN_REVISION = Revision(0, 0, 0)
"""Stands for a moment that couldn't be found out: no replica can be known to have reached it."""
