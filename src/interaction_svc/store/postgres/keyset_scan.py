"""A scan of all rows in the order of their keys, in batches."""

from collections.abc import Sequence

from interaction_svc.store.integrity import CheckedRows, RowKey, matches_frame
from interaction_svc.store.postgres import row_format
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.row_format import digits, row_from
from interaction_svc.store.rows import COLUMNS

KEY = ("session_sid", "account_sid", "sid")
_CHECKED_AT_ONCE = 250


def keyset_statement(
    columns: str, table: str = "interactions", key: Sequence[str] = KEY, *, after: bool
) -> str:
    """Return the statement for one batch: the first rows, or the rows `after` a key ($1, $2, $3).

    The parameter after the key is the limit. Three ranges of one index follow a key: the rest of
    the account's rows, the rest of the Session's rows, and the later Sessions. Each has its own
    subquery, because a single condition would read the Session from its beginning.
    """
    order = ", ".join(key)
    if not after:
        return f"SELECT {columns} FROM {table} ORDER BY {order} LIMIT $1"
    limit = f"${len(key) + 1}"
    ranges = [
        " AND ".join(
            [
                *(f"{name} = ${n}" for n, name in enumerate(key[:place], 1)),
                f"{key[place]} > ${place + 1}",
            ]
        )
        for place in reversed(range(len(key)))
    ]
    steps = [
        f"(SELECT {columns} FROM {table} WHERE {one} ORDER BY {order} LIMIT {limit})"
        for one in ranges
    ]
    return f"SELECT * FROM ({' UNION ALL '.join(steps)}) AS either ORDER BY {order} LIMIT {limit}"


_ROWS = {after: keyset_statement(COLUMNS, after=after) for after in (False, True)}
# The owners are read by a separate statement, because distributed engines can't join a limited
# number of rows. It runs after the statement for the rows. Owners are never removed, so none is
# missed.
_OWNERS = (
    "SELECT session_sid, service_sid, account_sid FROM session_owners"
    " WHERE session_sid = ANY($1::uuid[])"
)


async def check_batch(db: Connection, after: RowKey | None) -> CheckedRows[RowKey]:
    """Check the columns, the checksum and the owner of the rows after a key."""
    place = () if after is None else map(digits, after)
    found = await db.fetch(_ROWS[after is not None], *place, _CHECKED_AT_ONCE)
    rows = list(map(row_from, found))
    sessions = sorted({digits(row.session_sid) for row in rows})
    owners = {
        (row_format.session(row[0]), row_format.service(row[1]), row_format.account(row[2]))
        for row in await db.fetch(_OWNERS, sessions)
    }
    bad = [
        row[:3]
        for row in rows
        if (row.session_sid, row.service_sid, row.account_sid) not in owners
        or not matches_frame(row)
    ]
    last = rows[-1][:3] if len(rows) == _CHECKED_AT_ONCE else None
    return CheckedRows(len(rows), bad, last)
