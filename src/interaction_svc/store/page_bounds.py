"""Between which places of a Session's order a page's rows lie."""

from interaction_svc.domain.paging import Position
from interaction_svc.store.interface import PageQuery


def bounds(query: PageQuery, *, ascending: bool) -> tuple[Position | None, Position | None]:
    """Give the lower and the upper place; with the edge's, the tighter one of each side.

    No row has the empty SID of a bound in time, so it is all one whether that bound is inclusive.
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
