"""Pages whose frames SQLite concatenates, so that Python reads one row per page.

One statement finds the first and the last row of the page. Another concatenates the frames between
them. A page of 50 or 1,000 rows costs half as much as reading it row by row. The reading thread
releases the interpreter lock once per page instead of once per row.

group_concat concatenates blobs byte for byte in every known version of SQLite, but its
documentation covers only text. So `supports_blob_concat` tests it when a store is opened.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from interaction_svc.domain.interactions import Scope
from interaction_svc.domain.paging import Position
from interaction_svc.store.interface import PageQuery, StoredPage
from interaction_svc.store.page_bounds import bounds
from interaction_svc.store.sqlite.row_format import pack, unpack

_OF_SESSION = "session_sid = ? AND account_sid = ? AND service_sid = ?"
_BETWEEN = (
    f"FROM interactions WHERE {_OF_SESSION}"
    " AND (created_us, sid) >= (?, ?) AND (created_us, sid) <= (?, ?)"
)
_SELECT_CONCAT = "SELECT CAST(group_concat(frame, '') AS BLOB), count(*)"
# Ascending order needs no subquery, which would copy each row (20 % of the cost): rows come in the
# order of the table's key. SQLite doesn't guarantee that order, so `page` checks it.
_CONCAT = f"{_SELECT_CONCAT} {_BETWEEN}"
_CONCAT_DESCENDING = (
    f"{_SELECT_CONCAT} FROM (SELECT frame {_BETWEEN} ORDER BY created_us DESC, sid DESC)"
)
# The table of owners comes first, so that a list of another Service's Session reads no row of it.
_OWNED = (
    "session_owners AS owner CROSS JOIN interactions AS item"
    " ON item.session_sid = owner.session_sid AND item.account_sid = owner.account_sid"
    " AND item.service_sid = owner.service_sid"
    " WHERE owner.session_sid = ? AND owner.account_sid = ? AND owner.service_sid = ?"
)
_MAX_SIZE_FACTOR = 4
"""A page is read row by row if `limit` times its first row's size exceeds 4 * `max_bytes`.

SQLite reads all rows of the range, even those beyond `max_bytes`. With 1,000 rows of 256 KiB it
would read 256 MiB, and a page has 1 % of that.
"""
_SID_END = 64
"""The first 64 bytes of a frame contain its SID, after two tags with lengths."""


def supports_blob_concat(db: sqlite3.Connection) -> bool:
    """Return whether SQLite concatenates blobs unchanged and in order in this file's encoding."""
    blobs = [bytes(range(256)), b"", b"\x00", b"\xff\xfe\x00", "\u20ac".encode()]
    rows = ", ".join(f"({n}, x'{blob.hex()}')" for n, blob in enumerate(blobs))
    statement = (
        "SELECT CAST(group_concat(blob, '') AS BLOB) FROM"
        f" (SELECT column2 AS blob FROM (VALUES {rows}) ORDER BY column1 %s)"
    )
    (forward,), (backward,) = (
        db.execute(statement % direction).fetchone() for direction in ("", "DESC")
    )
    return bool(forward == b"".join(blobs) and backward == b"".join(reversed(blobs)))


def page(
    db: sqlite3.Connection, scope: Scope, query: PageQuery, account_sid: bytes
) -> StoredPage | None:
    """Return a page of one account's rows. The scope must have no other account in the Session.

    The filter may contain times only. Returns None if the page must be read row by row: it would
    exceed `max_bytes`, or rows were added or deleted between the statements.
    """
    backward = query.edge is not None and query.edge.backward
    ascending = query.descending == backward
    condition, values = within(account_sid, scope, query, ascending=ascending)
    bounds_ = condition.removeprefix(_OF_SESSION)
    order, reverse = ("", " DESC") if ascending else (" DESC", "")
    positions = (
        f"SELECT created_us, sid, %s FROM {_OWNED}{bounds_} ORDER BY created_us%s, sid%s LIMIT %s"
    )
    # One statement, because each costs 5 µs before its first row.
    near_and_ends = (
        f"SELECT * FROM ({positions % ('length(frame)', order, order, '1')}) UNION ALL"
        f" SELECT * FROM ({positions % ('-1', order, order, '2 OFFSET ?')})"
    )
    found = db.execute(near_and_ends, [*values, *values, query.limit - 1]).fetchall()
    if not found:
        return StoredPage(b"", 0, None, None, more=False)
    (*near, size), *ends = found
    if size < 0 or size * query.limit > _MAX_SIZE_FACTOR * query.max_bytes:
        return None
    far = (
        ends[0][:2]
        if ends
        else db.execute(positions % ("-1", reverse, reverse, "1"), values).fetchone()[:2]
    )
    first, last = (far, near) if backward else (near, far)
    lowest, highest = (last, first) if query.descending else (first, last)
    with _limit_value_size(db, query.max_bytes):
        try:
            frames, count = db.execute(
                _CONCAT_DESCENDING if query.descending else _CONCAT,
                (*values[:3], *lowest, *highest),
            ).fetchone()
        except sqlite3.DataError:  # larger than max_bytes
            return None
    begin, end = (position(scope, us, sid, account_sid) for us, sid in (first, last))
    is_in_order = frames is not None and begin.sid.encode() in frames[:_SID_END]
    if not is_in_order or count > query.limit:
        return None
    return StoredPage(frames, count, begin, end, more=len(ends) > 1)


def position(scope: Scope, created_us: int, sid: bytes, account_sid: bytes) -> Position:
    """Return a row's position in a list. It has an account only if the scope is all accounts."""
    account = "" if scope.account_sid is not None else unpack("account_sid", account_sid)
    return Position(created_us, unpack("sid", sid), account)


@contextmanager
def _limit_value_size(db: sqlite3.Connection, size: int) -> Iterator[None]:
    """Limit the size of any value in the block, and so the size of the concatenation."""
    previous = db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, size)
    try:
        yield
    finally:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, previous)


def within(
    account_sid: bytes, scope: Scope, query: PageQuery, *, ascending: bool
) -> tuple[str, list[object]]:
    """Return the condition for an account's rows from the start of the page on, and its values."""
    condition = _OF_SESSION
    values: list[object] = [pack(query.session_sid), account_sid, pack(query.service_sid)]
    equal = "=" if _has_edge(account_sid, scope, query, ascending=ascending) else ""
    low, high = bounds(query, ascending=ascending)
    if low is not None:
        condition += f" AND (created_us, sid) >{equal} (?, ?)"
        values += [low.created_us, pack(low.sid)]
    if high is not None:
        condition += f" AND (created_us, sid) <{equal} (?, ?)"
        values += [high.created_us, pack(high.sid)]
    return condition, values


def _has_edge(account_sid: bytes, scope: Scope, query: PageQuery, *, ascending: bool) -> bool:
    """Return whether a row of the account at the edge's time and SID belongs to the page.

    In a list of all accounts the answer depends on the account, the last column of the order.
    """
    if query.edge is None:
        return False
    edge_account = pack(query.edge.position.account_sid)
    if scope.account_sid is not None or account_sid == edge_account:
        return query.edge.inclusive
    return (account_sid > edge_account) == ascending
