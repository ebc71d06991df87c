"""The statements that read, each run as one unit on a connection's thread."""

import sqlite3
from typing import Any

from interaction_svc.paging import Position
from interaction_svc.store.bounds import bounds
from interaction_svc.store.errors import DamagedRowError
from interaction_svc.store.interface import Key, PageQuery, ScanPosition, Scope, StoredPage
from interaction_svc.store.rows import COLUMNS, Row, decode, row_of
from interaction_svc.store.sqlite import joining

_GET = "SELECT frame FROM interactions WHERE session_sid = ? AND sid = ? AND service_sid = ?"
_GET_OF_ACCOUNT = f"{_GET} AND account_sid = ?"


def get(db: sqlite3.Connection, scope: Scope, key: Key) -> bytes | None:
    """See Store.get."""
    service_sid, session_sid, sid = key
    if scope.account_sid is None:
        found = db.execute(_GET, (session_sid, sid, service_sid)).fetchone()
    else:
        values = (session_sid, sid, service_sid, scope.account_sid)
        found = db.execute(_GET_OF_ACCOUNT, values).fetchone()
    return None if found is None else found[0]


# A Session that is another's is known by its owners, and its rows are not looked at: to ask for it
# costs as much as to ask for one that isn't there, however long it is.
_OWNERS = "SELECT service_sid, account_sid FROM session_owners WHERE session_sid = ? LIMIT 2"
_OWNED = "SELECT 1 FROM session_owners WHERE session_sid = ? AND service_sid = ?"
_OWNED_BY_ACCOUNT = f"{_OWNED} AND account_sid = ?"
_NO_ROWS = StoredPage(b"", 0, None, None, more=False)


def page(db: sqlite3.Connection, scope: Scope, query: PageQuery, *, joins: bool) -> StoredPage:
    """See Store.page. With `joins`, SQLite may join the frames, if the filter allows it."""
    if joins and not query.filter.looks_at_rows:
        joined = joined_page(db, scope, query)
        if joined is not None:
            return joined
    return _page_by_row(db, scope, query) if _is_owned(db, scope, query) else _NO_ROWS


def joined_page(db: sqlite3.Connection, scope: Scope, query: PageQuery) -> StoredPage | None:
    """Give a page that SQLite joins, whose cost is bounded by the page.

    For where joins_blobs says that it can, and a filter of times only. None: it has to be read row
    by row.
    """
    owners = db.execute(_OWNERS, (query.session_sid,)).fetchall()
    if len(owners) > 1:
        return None
    if not owners or owners[0] != (query.service_sid, scope.account_sid or owners[0][1]):
        return _NO_ROWS
    return joining.page(db, owners[0], query)


def _is_owned(db: sqlite3.Connection, scope: Scope, query: PageQuery) -> bool:
    if scope.account_sid is None:
        owned = db.execute(_OWNED, (query.session_sid, query.service_sid))
    else:
        values = (query.session_sid, query.service_sid, scope.account_sid)
        owned = db.execute(_OWNED_BY_ACCOUNT, values)
    return owned.fetchone() is not None


def _page_by_row(db: sqlite3.Connection, scope: Scope, query: PageQuery) -> StoredPage:
    backward = query.edge is not None and query.edge.backward
    ascending = query.descending == backward
    statement, values = _page_statement(scope, query, ascending=ascending)
    rows, more = _bounded(
        db.execute(statement, [*values, query.limit + 1]), query.limit, query.max_bytes
    )
    if backward:
        rows.reverse()
    return StoredPage(
        frames=b"".join([row[0] for row in rows]),
        rows=len(rows),
        first=Position(rows[0][1], rows[0][2]) if rows else None,
        last=Position(rows[-1][1], rows[-1][2]) if rows else None,
        more=more,
    )


def _page_statement(scope: Scope, query: PageQuery, *, ascending: bool) -> tuple[str, list[object]]:
    """Put the statement together: its text depends on which conditions there are, not on values.

    The edge and the bounds in time are both places in the order, so the tighter ones are chosen
    here, and SQLite gets at most one on each side. With two on a side it may seek to the looser
    one and walk from there, which makes the last page cost more than the first.
    """
    low, high = bounds(query, ascending=ascending)
    clauses = ["session_sid = ?", "service_sid = ?"]
    values: list[object] = [query.session_sid, query.service_sid]
    if scope.account_sid is not None:
        clauses.append("account_sid = ?")
        values.append(scope.account_sid)
    equal = "=" if query.edge is not None and query.edge.inclusive else ""
    if low is not None:
        clauses.append(f"(created_us, sid) >{equal} (?, ?)")
        values += low
    if high is not None:
        clauses.append(f"(created_us, sid) <{equal} (?, ?)")
        values += high
    wanted = query.filter
    if wanted.type is not None:
        clauses.append("type = ?")
        values.append(wanted.type)
    for name, value in (
        ("participant_sid", wanted.participant_sid),
        ("resource_sid", wanted.resource_sid),
        ("resource_status", wanted.resource_status),
    ):
        if value is not None:
            clauses.append(f"(inbound_{name} = ? OR outbound_{name} = ?)")
            values += [value, value]
    way = "" if ascending else " DESC"
    return (
        "SELECT frame, created_us, sid FROM interactions INDEXED BY interactions_by_creation"
        f" WHERE {' AND '.join(clauses)}"
        f" ORDER BY created_us{way}, sid{way} LIMIT ?",
        values,
    )


def scan(
    db: sqlite3.Connection,
    after: ScanPosition | None,
    limit: int,
    max_bytes: int,
    service_sid: str | None,
    session_sid: str | None,
) -> tuple[list[bytes], ScanPosition | None]:
    """See Store.scan."""
    clauses = ["(session_sid, created_us, sid) > (?, ?, ?)"]
    values: list[object] = list(after or ScanPosition(session_sid or "", -(2**63), ""))
    for column, value in (("session_sid", session_sid), ("service_sid", service_sid)):
        if value is not None:
            clauses.append(f"{column} = ?")
            values.append(value)
    rows, more = _bounded(
        db.execute(
            "SELECT frame, session_sid, created_us, sid FROM interactions"
            f" INDEXED BY interactions_by_creation WHERE {' AND '.join(clauses)}"
            " ORDER BY session_sid, created_us, sid LIMIT ?",
            [*values, limit + 1],
        ),
        limit,
        max_bytes,
    )
    return [row[0] for row in rows], ScanPosition(*rows[-1][1:]) if more else None


_CHECK_STEP = 1000
_CHECK = (
    f"SELECT rowid, (session_sid, service_sid, account_sid) IN session_owners, {COLUMNS}"
    f" FROM interactions WHERE rowid > ? ORDER BY rowid LIMIT {_CHECK_STEP}"
)


def check_rows(db: sqlite3.Connection, after: int) -> tuple[int, list[tuple[str, str]], int | None]:
    """Compare the columns of the next rows with their frames.

    Returns how many there were, the keys of the bad ones, and the rowid to go on after (None:
    done).
    """
    rows = db.execute(_CHECK, (after,)).fetchall()
    bad = [(row[2], row[3]) for row in rows if not (row[1] and _agrees(Row._make(row[2:])))]
    return len(rows), bad, rows[-1][0] if len(rows) == _CHECK_STEP else None


def _agrees(row: Row) -> bool:
    try:
        # All but the frame itself, whose bytes another version of protobuf may order differently.
        return row_of(decode(row.frame))[:-1] == row[:-1]
    except (DamagedRowError, ValueError):
        return False


def _bounded(cursor: sqlite3.Cursor, limit: int, max_bytes: int) -> tuple[list[Any], bool]:
    """Fetch up to `limit` rows whose first columns sum up to `max_bytes`; say if there are more.

    Rows are stepped through one by one, so that a page that ends early loads none of the rest.
    """
    rows: list[Any] = []
    size = 0
    for row in cursor:
        size += len(row[0])
        if rows and (len(rows) == limit or size > max_bytes):
            cursor.close()
            return rows, True
        rows.append(row)
    return rows, False
