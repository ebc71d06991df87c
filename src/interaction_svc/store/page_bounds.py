"""Bounds of a page in the order of a Session's rows."""

from interaction_svc.domain.paging import Position
from interaction_svc.store.interface import PageQuery


def bounds(query: PageQuery, *, ascending: bool) -> tuple[Position | None, Position | None]:
    """Return the lower and the upper bound (None: unbounded), from the filter and the cursor.

    On each side the tighter bound is used. A bound in time has an empty SID. No row has an empty
    SID, so such a bound may count as inclusive or exclusive.
    """
    from_us, before_us = query.filter.created_from_us, query.filter.created_before_us
    low = None if from_us is None else Position(from_us, "")
    high = None if before_us is None else Position(before_us, "")
    if query.edge is not None:
        edge = query.edge.position
        if ascending:
            low = edge if low is None else max(low, edge)
        else:
            high = edge if high is None else min(high, edge)
    return low, high
