"""Walking through all rows in the order of their keys, for what looks at each of them."""

from collections.abc import Sequence

from interaction_svc.store.checksum import checksum_of
from interaction_svc.store.errors import DamagedRowError
from interaction_svc.store.postgres import row_format
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.row_format import digits, row_from
from interaction_svc.store.rows import COLUMNS, Row, decode, row_of

KEY = ("session_sid", "account_sid", "sid")
_CHECKED_AT_ONCE = 250


def keyset_statement(
    columns: str, table: str = "interactions", key: Sequence[str] = KEY, *, after: bool
) -> str:
    """Return the statement of a step: the first rows, or those `after` the key ($1, $2, $3).

    The value that follows is their number at most. The rest of an account's rows, of a Session's,
    and the Sessions after it are ranges of one index, each read by itself: a condition on all of
    them at once would read a Session from its beginning.
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
# Asked for after the rows, in a statement of its own, for distributed engines don't look up
# something for each row of a limited number: an owner stays, so none is missed.
_OWNERS = (
    "SELECT session_sid, service_sid, account_sid FROM session_owners"
    " WHERE session_sid = ANY($1::uuid[])"
)

InteractionKey = tuple[str, str, str]
"""session_sid, account_sid, sid."""


async def check_rows(
    db: Connection, after: InteractionKey | None
) -> tuple[int, list[InteractionKey], InteractionKey | None]:
    """Compare the columns and the checksum of the next rows with their frames.

    Returns how many there were, the keys of the bad ones, and where to go on (None: done).
    """
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
        if (row.session_sid, row.service_sid, row.account_sid) not in owners or not agrees(row)
    ]
    last = rows[-1][:3] if len(rows) == _CHECKED_AT_ONCE else None
    return len(rows), bad, last


def agrees(row: Row) -> bool:
    """Return whether a row's columns and checksum are those of its frame."""
    try:
        made = row_of(decode(row.frame), row.inbound_status_us, row.outbound_status_us)
    except (DamagedRowError, ValueError):
        return False
    # The bytes themselves may be ordered differently by another version of protobuf.
    return made[:-2] == row[:-2] and checksum_of(row.frame) == row.checksum
