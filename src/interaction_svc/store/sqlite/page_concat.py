"""A page whose frames SQLite joins: one step of its virtual machine for Python, not one a row.

Where the page ends is found first; then one statement joins the frames between its first row and
its last. A page of 1,000 costs half of what it costs row by row, and the thread that reads lets go
of the interpreter once and not a thousand times.

That group_concat joins blobs byte for byte is so in every SQLite there is, but documented for texts
only: `supports_blob_concat` tries it.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from interaction_svc.domain.interactions import Scope
from interaction_svc.domain.paging import Position
from interaction_svc.store.interface import PageQuery, StoredPage
from interaction_svc.store.page_bounds import bounds
from interaction_svc.store.sqlite.row_format import pack, unpack

_BETWEEN = (
    "FROM interactions WHERE session_sid = ? AND account_sid = ? AND service_sid = ?"
    " AND (created_us, sid) >= (?, ?) AND (created_us, sid) <= (?, ?)"
)
_JOINED = "SELECT CAST(group_concat(frame, '') AS BLOB), count(*)"
# Without a subquery, which copies each row once more (a fifth of the whole), rows come in the order
# of the table's key. `page` looks whether they did.
_JOIN = f"{_JOINED} {_BETWEEN}"
_JOIN_DESCENDING = f"{_JOINED} FROM (SELECT frame {_BETWEEN} ORDER BY created_us DESC, sid DESC)"
_TIMES_TOO_LARGE = 4
"""How many times its `max_bytes` a page of rows like the first would have to be not to be tried.

To join what doesn't fit, SQLite reads all of it: of 1,000 rows of 256 KiB a quarter of a gigabyte,
of which a page has a hundredth.
"""
_SID_WITHIN = 64
"""A frame begins with its SID: after a tag and a length, twice."""


def supports_blob_concat(db: sqlite3.Connection) -> bool:
    """Say whether this SQLite, with this file, joins blobs as they are and in their order."""
    blobs = [bytes(range(256)), b"", b"\x00", b"\xff\xfe\x00", "\u20ac".encode()]
    rows = ", ".join(f"({n}, x'{blob.hex()}')" for n, blob in enumerate(blobs))
    joined = (
        "SELECT CAST(group_concat(blob, '') AS BLOB) FROM"
        f" (SELECT column2 AS blob FROM (VALUES {rows}) ORDER BY column1 %s)"
    )
    (forward,), (backward,) = (db.execute(joined % way).fetchone() for way in ("", "DESC"))
    return bool(forward == b"".join(blobs) and backward == b"".join(reversed(blobs)))


def page(
    db: sqlite3.Connection, scope: Scope, query: PageQuery, account_sid: bytes
) -> StoredPage | None:
    """Return a page of the one account that has rows of the Session in its scope.

    The filter must be one of times only. None: the page has to be read row by row, because it would
    exceed its `max_bytes`, as far as its first row tells, or because rows came or went between the
    statements.
    """
    backward = query.edge is not None and query.edge.backward
    ascending = query.descending == backward
    condition, values = within(account_sid, scope, query, ascending=ascending)
    way, reverse = ("", " DESC") if ascending else (" DESC", "")
    positions = (
        f"SELECT created_us, sid%s FROM interactions WHERE {condition}"
        " ORDER BY created_us%s, sid%s LIMIT %s"
    )
    sized = db.execute(positions % (", length(frame)", way, way, "1"), values).fetchone()
    if sized is None:
        return StoredPage(b"", 0, None, None, more=False)
    *near, size = sized
    if size * query.limit > _TIMES_TOO_LARGE * query.max_bytes:
        return None
    ends = db.execute(
        positions % ("", way, way, "2 OFFSET ?"), [*values, query.limit - 1]
    ).fetchall()
    far = (
        ends[0] if ends else db.execute(positions % ("", reverse, reverse, "1"), values).fetchone()
    )
    first, last = (far, near) if backward else (near, far)
    lowest, highest = (last, first) if query.descending else (first, last)
    with _longest(db, query.max_bytes):
        try:
            frames, count = db.execute(
                _JOIN_DESCENDING if query.descending else _JOIN,
                (*values[:3], *lowest, *highest),
            ).fetchone()
        except sqlite3.DataError:  # too big
            return None
    begin, end = (position(scope, us, sid, account_sid) for us, sid in (first, last))
    is_in_order = frames is not None and begin.sid.encode() in frames[:_SID_WITHIN]
    if not is_in_order or count > query.limit:
        return None
    return StoredPage(frames, count, begin, end, more=len(ends) > 1)


def position(scope: Scope, created_us: int, sid: bytes, account_sid: bytes) -> Position:
    """Return a row's place in a list, which has the account in the scope of all accounts."""
    account = "" if scope.account_sid is not None else unpack("account_sid", account_sid)
    return Position(created_us, unpack("sid", sid), account)


@contextmanager
def _longest(db: sqlite3.Connection, size: int) -> Iterator[None]:
    """Let no value be larger than this in the block, which bounds what is joined: for nothing."""
    usual = db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, size)
    try:
        yield
    finally:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, usual)


def within(
    account_sid: bytes, scope: Scope, query: PageQuery, *, ascending: bool
) -> tuple[str, list[object]]:
    """Return the condition on an account's rows of the list that the page is the beginning of."""
    condition = "session_sid = ? AND account_sid = ? AND service_sid = ?"
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
    """Return whether a row of the account at the edge's time and SID is of the list.

    In a list of all accounts that depends on the account, which is the last part of its order.
    """
    if query.edge is None:
        return False
    edge_account = pack(query.edge.position.account_sid)
    if scope.account_sid is not None or account_sid == edge_account:
        return query.edge.inclusive
    return (account_sid > edge_account) == ascending
