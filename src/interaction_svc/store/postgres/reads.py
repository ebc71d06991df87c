"""The statements that read. Each takes one round trip, unless its function says otherwise."""

from collections.abc import Sequence
from typing import Any

from interaction_svc.domain.interactions import InteractionKey, Scope
from interaction_svc.domain.paging import Position
from interaction_svc.store.checksum import check_frame
from interaction_svc.store.errors import AmbiguousAccountError, DamagedRowError
from interaction_svc.store.interface import PageQuery, StoredPage
from interaction_svc.store.page_bounds import bounds
from interaction_svc.store.postgres import row_format
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.row_format import digits, digits_or_none, packed_resource
from interaction_svc.store.postgres.schema import LISTED

_GET = (
    "SELECT frame, checksum FROM interactions WHERE session_sid = $1 AND account_sid = $2"
    " AND sid = $3 AND service_sid = $4"
)
# A Get without an account: session_owners lists the Session's accounts, and each account requires
# one lookup in the primary key. Each lookup is a lateral subquery, because otherwise the planner
# searches the whole Session for the sid.
OF_EVERY_ACCOUNT = (
    "SELECT {columns} FROM session_owners AS owner CROSS JOIN LATERAL"
    " (SELECT account_sid, frame, checksum FROM interactions WHERE session_sid = $1"
    " AND account_sid = owner.account_sid AND sid = $2 AND service_sid = $3 LIMIT 1) AS stored"
    " WHERE owner.session_sid = $1 AND owner.service_sid = $3 LIMIT 2"
)
_GET_OF_EVERY_ACCOUNT = OF_EVERY_ACCOUNT.format(columns="stored.frame, stored.checksum")
_GET_EACH = (
    "SELECT wanted.place, frame, checksum"
    " FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[]) WITH ORDINALITY"
    " AS wanted (session_sid, account_sid, sid, service_sid, place)"
    " JOIN interactions AS stored ON stored.session_sid = wanted.session_sid"
    " AND stored.account_sid = wanted.account_sid AND stored.sid = wanted.sid"
    " AND stored.service_sid = wanted.service_sid"
)
_GET_EACH_OF_EVERY_ACCOUNT = (
    "SELECT wanted.place, frame, checksum"
    " FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) WITH ORDINALITY"
    " AS wanted (session_sid, sid, service_sid, place)"
    " JOIN session_owners AS owner ON owner.session_sid = wanted.session_sid"
    " AND owner.service_sid = wanted.service_sid CROSS JOIN LATERAL"
    " (SELECT frame, checksum FROM interactions WHERE session_sid = wanted.session_sid"
    " AND account_sid = owner.account_sid AND sid = wanted.sid"
    " AND service_sid = wanted.service_sid LIMIT 1) AS stored"
)

Wanted = tuple[Scope, InteractionKey]
Got = bytes | DamagedRowError | AmbiguousAccountError | None


async def get(db: Connection, wanted: Wanted) -> bytes | None:
    """See Store.get."""
    (account_sid,), key = wanted
    session_sid, sid, service_sid = (
        digits(key.session_sid),
        digits(key.sid),
        digits(key.service_sid),
    )
    if account_sid is None:
        found = await db.fetch(_GET_OF_EVERY_ACCOUNT, session_sid, sid, service_sid)
    else:
        found = await db.fetch(_GET, session_sid, digits(account_sid), sid, service_sid)
    got = _the_one(found, key)
    if isinstance(got, Exception):
        raise got
    return got


async def get_each(db: Connection, wanted: Sequence[Wanted]) -> list[Got]:
    """Run several Gets: one round trip for Gets with an account, another for Gets without.

    If one Get fails, its error is returned in place of its result.
    """
    of_one = [place for place, (scope, _) in enumerate(wanted) if scope.account_sid is not None]
    of_every = [place for place, (scope, _) in enumerate(wanted) if scope.account_sid is None]
    found: list[list[Any]] = [[] for _ in wanted]
    for statement, places in ((_GET_EACH, of_one), (_GET_EACH_OF_EVERY_ACCOUNT, of_every)):
        if places:
            columns = zip(*(_values_of(wanted[place]) for place in places), strict=True)
            for place, *row in await db.fetch(statement, *map(list, columns)):
                found[places[place - 1]].append(row)
    return [_the_one(rows, key) for rows, (_, key) in zip(found, wanted, strict=True)]


def _values_of(wanted: Wanted) -> tuple[str, ...]:
    (account_sid,), (service_sid, session_sid, sid) = wanted
    account = () if account_sid is None else (digits(account_sid),)
    return (digits(session_sid), *account, digits(sid), digits(service_sid))


def _the_one(found: Sequence[Any], key: InteractionKey) -> Got:
    """Return the frame of the only row, None if there is no row, or the error to raise.

    There is an error if the row is damaged, or if there are several rows.
    """
    if not found:
        return None
    if len(found) > 1:
        return ambiguous()
    frame: bytes
    ((frame, checksum),) = found
    try:
        check_frame(frame, checksum, f"session {key.session_sid}, interaction {key.sid}")
    except DamagedRowError as error:
        return error
    return frame


def ambiguous() -> AmbiguousAccountError:
    """Return the error for a key that exists in several accounts."""
    return AmbiguousAccountError("several accounts have an Interaction of this SID in the Session")


class Values(list[object]):
    """The parameter values of a statement."""

    def of(self, value: object) -> str:
        """Append a value, and return its placeholder, such as `$3`."""
        self.append(value)
        return f"${len(self)}"


# The owner is looked up first, and once, so no row of another owner's Session is read. The database
# concatenates the frames that fit, and returns one row instead of up to 1,000. For a page of 1,000
# rows that halves the time in this process, and adds 20 % to the time in the database.
_PAGE = """
SELECT string_agg(frame, ''::bytea ORDER BY n{joined}) FILTER (WHERE kept),
       count(*) FILTER (WHERE kept), count(*),
       max(created_us) FILTER (WHERE n = 1), (array_agg(sid) FILTER (WHERE n = 1))[1],
       (array_agg(account_sid) FILTER (WHERE n = 1))[1],
       max(created_us) FILTER (WHERE is_last), (array_agg(sid) FILTER (WHERE is_last))[1],
       (array_agg(account_sid) FILTER (WHERE is_last))[1]
FROM (SELECT *, kept AND lead(kept) OVER (ORDER BY n) IS NOT TRUE AS is_last
      FROM (SELECT *, n <= {limit} AND (n = 1 OR size <= {max_bytes}) AS kept
            FROM (SELECT frame, created_us, sid, account_sid, row_number() OVER listed AS n,
                         sum(octet_length(frame)) OVER listed AS size
                  FROM ({near} ORDER BY {order} LIMIT {limit} + 1) AS near
                  WINDOW listed AS (ORDER BY {order}
                                    ROWS UNBOUNDED PRECEDING)) AS counted) AS marked) AS page
"""
_OF_ONE_ACCOUNT = (
    "SELECT * FROM ({ranges}) AS either WHERE EXISTS (SELECT 1 FROM session_owners"
    " WHERE session_sid = $1 AND service_sid = $2 AND account_sid = {account})"
)
# The rows of each account are a separate range of the index.
_OF_EACH_ACCOUNT = (
    "SELECT either.* FROM (SELECT account_sid FROM session_owners"
    " WHERE session_sid = $1 AND service_sid = $2) AS owner CROSS JOIN LATERAL ({ranges}) AS either"
)
_RANGE = (
    "(SELECT frame, session_sid, created_us, sid, account_sid FROM interactions WHERE {condition}"
    " ORDER BY {order} LIMIT {limit} + 1)"
)


async def page(db: Connection, scope: Scope, query: PageQuery) -> StoredPage:
    """See Store.page."""
    statement, values = page_statement(scope, query)
    ((frames, rows, seen, *ends),) = await db.fetch(statement, *values)
    if not rows:
        return StoredPage(b"", 0, None, None, more=False)
    near, far = (
        Position(
            created_us,
            row_format.interaction(sid),
            "" if scope.account_sid is not None else row_format.account(account_sid),
        )
        for created_us, sid, account_sid in (ends[:3], ends[3:])
    )
    backward = query.edge is not None and query.edge.backward
    first, last = (far, near) if backward else (near, far)
    return StoredPage(frames, rows, first, last, more=seen > rows)


def page_statement(scope: Scope, query: PageQuery) -> tuple[str, list[object]]:
    """Return the statement of a page, and its values.

    The text depends only on which conditions are set, so that few texts are prepared.
    """
    backward = query.edge is not None and query.edge.backward
    ascending = query.descending == backward
    way = "" if ascending else " DESC"
    values = Values((digits(query.session_sid), digits(query.service_sid)))
    limit = f"{values.of(query.limit)}::bigint"
    of_one = scope.account_sid is not None
    account = values.of(digits(scope.account_sid)) if scope.account_sid else "owner.account_sid"
    clauses = [LISTED, "session_sid = $1", f"account_sid = {account}"]
    begin, end = bounds(query, ascending=ascending)
    if not ascending:
        begin, end = end, begin
    if end is not None:  # a time of the filter, because an edge bounds only the beginning of a page
        clauses.append(f"created_us {'<' if ascending else '>='} {values.of(end.created_us)}")
    # The planner assumes that the conditions are independent, expects almost no rows, and sorts the
    # whole Session. For a CASE it expects half of the rows, and scans the index.
    clauses.append(f"CASE WHEN {_conditions(query, values)} THEN true ELSE false END")
    inclusive = query.edge is not None and query.edge.inclusive
    order = f"created_us{way}, sid{way}"
    begins = [""]
    if begin is not None:
        begins = beyond(values, begin, way=way, inclusive=inclusive, every_account=not of_one)
    near = (_OF_ONE_ACCOUNT if of_one else _OF_EACH_ACCOUNT).format(
        ranges=ranges(clauses, begins, order=order, limit=limit), account=account
    )
    statement = _PAGE.format(
        near=near,
        order=order if of_one else f"{order}, account_sid{way}",
        joined=" DESC" if backward else "",
        limit=limit,
        max_bytes=values.of(query.max_bytes),
    )
    return statement, values


def _conditions(query: PageQuery, values: Values) -> str:
    """Return the conditions of the filter, except those on the position in the order."""
    wanted = query.filter
    conditions = ["service_sid = $2"]
    if wanted.type is not None:
        conditions.append(f"type = {values.of(wanted.type)}")
    for name, value in (
        ("participant_sid", digits_or_none(wanted.participant_sid)),
        ("resource_sid", packed_resource(wanted.resource_sid)),
        ("resource_status", wanted.resource_status),
    ):
        if value is not None:
            place = values.of(value)
            conditions.append(f"(inbound_{name} = {place} OR outbound_{name} = {place})")
    return " AND ".join(conditions)


def beyond(
    values: Values, place: Position, *, way: str, inclusive: bool, every_account: bool = False
) -> list[str]:
    """Return the conditions on the rows beyond a position, one for each index range.

    A row-value comparison is avoided: some engines have returned wrong results for it. A single
    condition with OR would read all rows with the same created_us from the first one on.
    """
    sign = "<" if way else ">"
    created = values.of(place.created_us)
    if not place.sid:  # the position before all rows of this created_us
        return [f"created_us {sign}{'' if way else '='} {created}"]
    equal = "=" if inclusive else ""
    sid = values.of(digits(place.sid))
    conditions = [f"created_us {sign} {created}"]
    if every_account and place.account_sid:
        account = values.of(digits(place.account_sid))
        conditions += [
            f"created_us = {created} AND sid {sign} {sid}",
            f"created_us = {created} AND sid = {sid} AND account_sid {sign}{equal} {account}",
        ]
    else:
        conditions.append(f"created_us = {created} AND sid {sign}{equal} {sid}")
    return conditions


def ranges(clauses: Sequence[str], begins: Sequence[str], *, order: str, limit: str) -> str:
    """Return the statement for the first rows of the ranges that also satisfy the clauses."""
    return " UNION ALL ".join(
        _RANGE.format(
            condition=" AND ".join([*clauses, *filter(None, [one])]), order=order, limit=limit
        )
        for one in begins
    )
