"""The statement that scans all Interactions in the order of Session, account, created_us, sid."""

from interaction_svc.domain.paging import Position
from interaction_svc.store.checksum import check_frame
from interaction_svc.store.interface import ScanPosition
from interaction_svc.store.postgres import row_format
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.reads import Values, beyond
from interaction_svc.store.postgres.row_format import digits
from interaction_svc.store.postgres.schema import LISTED

_ORDER = "session_sid, account_sid, created_us, sid"
_RANGE = (
    "(SELECT frame, checksum, session_sid, account_sid, created_us, sid FROM interactions"
    " WHERE {condition} ORDER BY {order} LIMIT {limit} + 1)"
)
_SCAN = """
SELECT frame, checksum, session_sid, account_sid, created_us, sid, seen
FROM (SELECT *, row_number() OVER listed AS n, count(*) OVER () AS seen,
             sum(octet_length(frame)) OVER listed AS size
      FROM (SELECT * FROM ({near}) AS either ORDER BY {order} LIMIT {limit} + 1) AS near
      WINDOW listed AS (ORDER BY {order} ROWS UNBOUNDED PRECEDING)) AS counted
WHERE n <= {limit} AND (n = 1 OR size <= {max_bytes}) ORDER BY n
"""


async def scan(
    db: Connection,
    after: ScanPosition | None,
    limit: int,
    max_bytes: int,
    service_sid: str | None,
    session_sid: str | None,
    account_sid: str | None,
) -> tuple[list[bytes], ScanPosition | None]:
    """See Store.scan."""
    statement, values = scan_statement(
        after, limit, max_bytes, service_sid, session_sid, account_sid
    )
    rows = await db.fetch(statement, *values)
    frames, place = [], None
    for frame, checksum, session, account, created_us, sid, _ in rows:
        place = ScanPosition(
            row_format.session(session),
            row_format.account(account),
            created_us,
            row_format.interaction(sid),
        )
        name = f"session {place.session_sid}, account {place.account_sid}, interaction {place.sid}"
        check_frame(frame, checksum, name)
        frames.append(frame)
    more = bool(rows) and rows[-1][-1] > len(rows)
    return frames, place if more else None


def scan_statement(
    after: ScanPosition | None,
    limit: int,
    max_bytes: int,
    service_sid: str | None,
    session_sid: str | None,
    account_sid: str | None,
) -> tuple[str, list[object]]:
    """Return the statement of a scan, and its values.

    The text depends only on which conditions are set, so that few texts are prepared.
    """
    values = Values()
    asked_limit, asked_bytes = f"{values.of(limit)}::bigint", values.of(max_bytes)
    clauses = [LISTED] + [
        f"{name} = {values.of(digits(sid))}"
        for name, sid in (
            ("service_sid", service_sid),
            ("session_sid", session_sid),
            ("account_sid", account_sid),
        )
        if sid is not None
    ]
    begins = [""]
    if after is not None:  # the rest of the account, the rest of the Session, the later Sessions
        session, account = (
            values.of(digits(after.session_sid)),
            values.of(digits(after.account_sid)),
        )
        place = Position(after.created_us, after.sid)
        begins = [
            f"session_sid = {session} AND account_sid = {account} AND {one}"
            for one in beyond(values, place, way="", inclusive=False)
        ]
        if account_sid is None:
            begins.append(f"session_sid = {session} AND account_sid > {account}")
        if session_sid is None:
            begins.append(f"session_sid > {session}")
    near = " UNION ALL ".join(
        _RANGE.format(
            condition=" AND ".join([*clauses, *filter(None, [one])]),
            order=_ORDER,
            limit=asked_limit,
        )
        for one in begins
    )
    statement = _SCAN.format(near=near, order=_ORDER, limit=asked_limit, max_bytes=asked_bytes)
    return statement, values
