"""Revisions of a store, for reads from replicas that may lag behind."""

from typing import NamedTuple


class Revision(NamedTuple):
    """A position in the history of a database, ordered like its commits.

    Revisions of different systems or timelines can't be compared.
    """

    system: int
    """Identifier of the database cluster, shared by its replicas: 64 bits."""
    timeline: int
    """Branch of the history, which begins at a failover: 32 bits."""
    position: int
    """Position in the write-ahead log: 64 bits."""


UNKNOWN_REVISION = Revision(0, 0, 0)
"""A revision that could not be determined. No replica ever reaches it."""
