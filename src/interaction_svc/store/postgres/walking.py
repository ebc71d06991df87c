"""Walking through all rows in the order of their keys, for what looks at each of them."""

from collections.abc import Sequence

from interaction_svc.store.errors import DamagedRowError
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.rows import COLUMNS, Row, decode, row_of

BEGINNING = ("", "")
_CHECKED_AT_ONCE = 250


def walk(
    columns: str, table: str = "interactions", key: Sequence[str] = ("session_sid", "sid")
) -> str:
    """Give the statement of a step: the rows after the key ($1, $2), at most $3 of them.

    The rest of a Session and the Sessions after it are two ranges of one index, each read by
    itself: a condition on both at once would read a Session from its beginning. A key of another
    table has one range for each of its columns.
    """
    order, limit = ", ".join(key), f"${len(key) + 1}"
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


_ROWS = walk(COLUMNS)
# Asked for after the rows, in a statement of its own, for distributed engines don't look up
# something for each row of a limited number: an owner stays, so none is missed.
_OWNERS = (
    "SELECT session_sid, service_sid, account_sid FROM session_owners"
    " WHERE session_sid = ANY($1::text[])"
)

Key = tuple[str, str]


async def check_rows(db: Connection, after: Key) -> tuple[int, list[Key], Key | None]:
    """Compare the columns of the next rows with their frames.

    Returns how many there were, the keys of the bad ones, and where to go on (None: done).
    """
    rows = [Row(*row) for row in await db.fetch(_ROWS, *after, _CHECKED_AT_ONCE)]
    sessions = sorted({row.session_sid for row in rows})
    owners = {tuple(row) for row in await db.fetch(_OWNERS, sessions)}
    bad = [
        (row.session_sid, row.sid)
        for row in rows
        if (row.session_sid, row.service_sid, row.account_sid) not in owners or not _agrees(row)
    ]
    last = rows[-1] if len(rows) == _CHECKED_AT_ONCE else None
    return len(rows), bad, None if last is None else (last.session_sid, last.sid)


def _agrees(row: Row) -> bool:
    try:
        # All but the frame itself, whose bytes another version of protobuf may order differently.
        return row_of(decode(row.frame))[:-1] == row[:-1]
    except (DamagedRowError, ValueError):
        return False
