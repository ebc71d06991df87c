"""The statements that read: one round trip each."""

from collections.abc import Sequence

from interaction_svc.paging import Position
from interaction_svc.store.bounds import bounds
from interaction_svc.store.interface import Key, PageQuery, ScanPosition, Scope, StoredPage
from interaction_svc.store.postgres.connection import Connection

_GET = (
    "SELECT frame FROM interactions WHERE session_sid = $1 AND sid = $2 AND service_sid = $3"
    " AND ($4::text IS NULL OR account_sid = $4)"
)
_GET_EACH = (
    "SELECT wanted.place, frame"
    " FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY"
    " AS wanted (session_sid, sid, service_sid, account_sid, place)"
    " JOIN interactions AS stored"
    " ON stored.session_sid = wanted.session_sid AND stored.sid = wanted.sid"
    " AND stored.service_sid = wanted.service_sid"
    " AND (wanted.account_sid IS NULL OR stored.account_sid = wanted.account_sid)"
)

Wanted = tuple[Scope, Key]


async def get(db: Connection, wanted: Wanted) -> bytes | None:
    """See Store.get."""
    (account_sid,), (service_sid, session_sid, sid) = wanted
    found = await db.fetch(_GET, session_sid, sid, service_sid, account_sid)
    return found[0][0] if found else None


async def get_each(db: Connection, wanted: Sequence[Wanted]) -> list[bytes | None]:
    """Do several Gets in one round trip."""
    found: list[bytes | None] = [None] * len(wanted)
    columns = (
        [key.session_sid for _, key in wanted],
        [key.sid for _, key in wanted],
        [key.service_sid for _, key in wanted],
        [scope.account_sid for scope, _ in wanted],
    )
    for place, frame in await db.fetch(_GET_EACH, *columns):
        found[place - 1] = frame
    return found


class _Values(list[object]):
    """The values of a statement; `of` gives the place of one in its text."""

    def of(self, value: object) -> str:
        self.append(value)
        return f"${len(self)}"


# The owner is looked up first, and only once: of a Session that is another's no row is looked at.
# Then the database joins the frames, up to the last that fits: one row of an answer and not
# hundreds, which halves what a page of 1,000 costs here, for a fifth more there.
_PAGE = """
SELECT string_agg(frame, ''::bytea ORDER BY n{joined}) FILTER (WHERE kept),
       count(*) FILTER (WHERE kept), count(*),
       max(created_us) FILTER (WHERE n = 1), max(sid) FILTER (WHERE n = 1),
       max(created_us) FILTER (WHERE kept AND next_kept IS NOT TRUE),
       max(sid) FILTER (WHERE kept AND next_kept IS NOT TRUE)
FROM (SELECT *, lead(kept) OVER (ORDER BY n) AS next_kept
      FROM (SELECT *, n <= {limit} AND (n = 1 OR size <= {max_bytes}) AS kept
            FROM (SELECT frame, created_us, sid, row_number() OVER listed AS n,
                         sum(octet_length(frame)) OVER listed AS size
                  FROM (SELECT * FROM ({near}) AS either
                        WHERE EXISTS (SELECT 1 FROM session_owners
                                      WHERE session_sid = $1 AND service_sid = $2{account})
                        ORDER BY created_us{way}, sid{way} LIMIT {limit} + 1) AS near
                  WINDOW listed AS (ORDER BY created_us{way}, sid{way}
                                    ROWS UNBOUNDED PRECEDING)) AS counted) AS marked) AS page
"""
_RANGE = (
    "(SELECT frame, session_sid, created_us, sid FROM interactions WHERE {condition}"
    " ORDER BY {order} LIMIT {limit} + 1)"
)


async def page(db: Connection, scope: Scope, query: PageQuery) -> StoredPage:
    """See Store.page."""
    statement, values = page_statement(scope, query)
    ((frames, rows, seen, *ends),) = await db.fetch(statement, *values)
    if not rows:
        return StoredPage(b"", 0, None, None, more=False)
    near, far = Position(*ends[:2]), Position(*ends[2:])
    backward = query.edge is not None and query.edge.backward
    first, last = (far, near) if backward else (near, far)
    return StoredPage(frames, rows, first, last, more=seen > rows)


def page_statement(scope: Scope, query: PageQuery) -> tuple[str, list[object]]:
    """Put the statement together: its text depends on which conditions there are, not on values."""
    backward = query.edge is not None and query.edge.backward
    ascending = query.descending == backward
    way = "" if ascending else " DESC"
    values = _Values((query.session_sid, query.service_sid))
    limit = f"{values.of(query.limit)}::bigint"
    account = ""
    clauses, conditions = ["session_sid = $1"], ["service_sid = $2"]
    if scope.account_sid is not None:
        conditions.append(f"account_sid = {values.of(scope.account_sid)}")
        account = f" AND {conditions[-1]}"
    begin, end = bounds(query, ascending=ascending)
    if not ascending:
        begin, end = end, begin
    if end is not None:  # the edge is where a page begins, so that this is a time
        clauses.append(f"created_us {'<' if ascending else '>='} {values.of(end.created_us)}")
    wanted = query.filter
    if wanted.type is not None:
        conditions.append(f"type = {values.of(wanted.type)}")
    for name, value in (
        ("participant_sid", wanted.participant_sid),
        ("resource_sid", wanted.resource_sid),
        ("resource_status", wanted.resource_status),
    ):
        if value is not None:
            place = values.of(value)
            conditions.append(f"(inbound_{name} = {place} OR outbound_{name} = {place})")
    # The planner takes these for independent, so that hardly a row is left and it may as well sort
    # the whole Session. Of a CASE it expects half of the rows, and goes along the index.
    clauses.append(f"CASE WHEN {' AND '.join(conditions)} THEN true ELSE false END")
    inclusive = query.edge is not None and query.edge.inclusive
    statement = _PAGE.format(
        near=_ranges(
            clauses,
            [""] if begin is None else _from(values, begin, way=way, inclusive=inclusive),
            order=f"created_us{way}, sid{way}",
            limit=limit,
        ),
        account=account,
        way=way,
        joined=" DESC" if backward else "",
        limit=limit,
        max_bytes=values.of(query.max_bytes),
    )
    return statement, values


def _from(values: _Values, place: Position, *, way: str, inclusive: bool) -> list[str]:
    """Give the conditions on what lies beyond a place in the order: that of each of its ranges.

    Not as a row value, for engines have had wrong results with these; nor with an OR, which would
    read all rows of one moment from its beginning. Each range is one of the index.
    """
    sign = "<" if way else ">"
    created = values.of(place.created_us)
    if not place.sid:  # the place before all rows of a moment
        return [f"created_us {sign}{'' if way else '='} {created}"]
    equal = "=" if inclusive else ""
    return [
        f"created_us = {created} AND sid {sign}{equal} {values.of(place.sid)}",
        f"created_us {sign} {created}",
    ]


def _ranges(clauses: Sequence[str], ranges: Sequence[str], *, order: str, limit: str) -> str:
    """Give the statement of the first rows of these ranges, which the clauses hold of too."""
    return " UNION ALL ".join(
        _RANGE.format(
            condition=" AND ".join([*clauses, *filter(None, [one])]), order=order, limit=limit
        )
        for one in ranges
    )


_SCAN = """
SELECT frame, session_sid, created_us, sid, seen
FROM (SELECT *, row_number() OVER listed AS n, count(*) OVER () AS seen,
             sum(octet_length(frame)) OVER listed AS size
      FROM (SELECT * FROM ({near}) AS either
            ORDER BY session_sid, created_us, sid LIMIT {limit} + 1) AS near
      WINDOW listed AS (ORDER BY session_sid, created_us, sid
                        ROWS UNBOUNDED PRECEDING)) AS counted
WHERE n <= {limit} AND (n = 1 OR size <= {max_bytes}) ORDER BY n
"""


async def scan(
    db: Connection,
    after: ScanPosition | None,
    limit: int,
    max_bytes: int,
    service_sid: str | None,
    session_sid: str | None,
) -> tuple[list[bytes], ScanPosition | None]:
    """See Store.scan."""
    values = _Values()
    asked_limit, asked_bytes = f"{values.of(limit)}::bigint", values.of(max_bytes)
    clauses = []
    if service_sid is not None:
        clauses.append(f"service_sid = {values.of(service_sid)}")
    ranges = []
    if after is not None:  # the rest of its Session, then the Sessions after it
        session = values.of(after.session_sid)
        place = Position(after.created_us, after.sid)
        ranges += [
            f"session_sid = {session} AND {one}"
            for one in _from(values, place, way="", inclusive=False)
        ]
        if session_sid is None:
            ranges.append(f"session_sid > {session}")
    elif session_sid is not None:
        ranges.append(f"session_sid = {values.of(session_sid)}")
    else:
        ranges.append("")
    order = "session_sid, created_us, sid"
    statement = _SCAN.format(
        near=_ranges(clauses or ["true"], ranges, order=order, limit=asked_limit),
        limit=asked_limit,
        max_bytes=asked_bytes,
    )
    rows = await db.fetch(statement, *values)
    more = bool(rows) and rows[-1][4] > len(rows)
    return [row[0] for row in rows], ScanPosition(*rows[-1][1:4]) if more else None
