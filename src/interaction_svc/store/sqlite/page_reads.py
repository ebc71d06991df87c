"""Statements that read pages.

Each account's rows of a Session are stored together. A page of one account reads only its rows; a
page of all accounts is merged from their lists.
"""

import sqlite3
from collections.abc import Generator
from contextlib import ExitStack, closing
from heapq import merge

from interaction_svc.domain.interactions import Scope
from interaction_svc.domain.paging import Position
from interaction_svc.store.checksum import checksum_of, damaged_row
from interaction_svc.store.integrity import row_name
from interaction_svc.store.interface import PageQuery, StoredPage
from interaction_svc.store.sqlite import page_concat
from interaction_svc.store.sqlite.reads import bounded
from interaction_svc.store.sqlite.row_format import pack, pack_resource, unpack

# The table of owners shows whether a Session is in the scope, so no row of another account is read.
# A list of another account's Session takes as long as a list of a missing Session.
_OWNERS = "SELECT account_sid FROM session_owners WHERE session_sid = ? AND service_sid = ?"
_OWNED = f"{_OWNERS} AND account_sid = ?"
_NO_ROWS = StoredPage(b"", 0, None, None, more=False)
_Merged = tuple[bytes, int, int, bytes, bytes]
"""A row of a page: its frame, checksum, created_us, sid and account_sid."""


def page(db: sqlite3.Connection, scope: Scope, query: PageQuery, *, concat: bool) -> StoredPage:
    """See Store.page. `concat` allows page concatenation where the filter permits it."""
    if concat and not query.filter.looks_at_rows:
        found = page_by_concat(db, scope, query)
        if found is not None:
            return found
    return _page_by_row(db, scope, query)


def page_by_concat(db: sqlite3.Connection, scope: Scope, query: PageQuery) -> StoredPage | None:
    """Return a page by concatenation, or None. The size of the page bounds the cost.

    Requires supports_blob_concat and a filter of times only. Returns None if the page must be read
    row by row.
    """
    if scope.account_sid is not None:
        return page_concat.page(db, scope, query, pack(scope.account_sid))
    accounts = _accounts(db, scope, query)
    if not accounts:
        return _NO_ROWS
    if len(accounts) > 1:
        return None
    return page_concat.page(db, scope, query, accounts[0])


def _accounts(db: sqlite3.Connection, scope: Scope, query: PageQuery) -> list[bytes]:
    """Return the accounts in the scope that have rows in the Session."""
    values = (pack(query.session_sid), pack(query.service_sid))
    if scope.account_sid is None:
        return [account for (account,) in db.execute(_OWNERS, values)]
    owned = db.execute(_OWNED, (*values, pack(scope.account_sid)))
    return [account for (account,) in owned]


def _page_by_row(db: sqlite3.Connection, scope: Scope, query: PageQuery) -> StoredPage:
    backward = query.edge is not None and query.edge.backward
    ascending = query.descending == backward
    with ExitStack() as stack:
        lists = [
            stack.enter_context(closing(_rows_of(db, account_sid, scope, query, ascending)))
            for account_sid in _accounts(db, scope, query)
        ]
        listed = lists[0] if len(lists) == 1 else merge(*lists, key=_order, reverse=not ascending)
        rows, more = bounded(listed, query.limit, query.max_bytes)
    if backward:
        rows.reverse()
    for frame, checksum, _, sid, _ in rows:
        if checksum_of(frame) != checksum:
            raise damaged_row(row_name(query.session_sid, unpack("sid", sid)))
    return StoredPage(
        frames=b"".join([row[0] for row in rows]),
        rows=len(rows),
        first=_position(scope, rows[0]) if rows else None,
        last=_position(scope, rows[-1]) if rows else None,
        more=more,
    )


def _order(row: _Merged) -> tuple[int, bytes, bytes]:
    return row[2:]


def _position(scope: Scope, row: _Merged) -> Position:
    _, _, created_us, sid, account_sid = row
    return page_concat.position(scope, created_us, sid, account_sid)


def _rows_of(
    db: sqlite3.Connection, account_sid: bytes, scope: Scope, query: PageQuery, ascending: bool
) -> Generator[_Merged, None, None]:
    """Yield an account's rows of the list, one by one.

    The statement's text depends on the conditions, not on their values. The cursor and the time
    bounds are positions in the order. On each side SQLite gets only the tighter one. With two on
    one side it may seek to the looser one and scan from there; then the last page would cost more
    than the first.
    """
    condition, values = page_concat.within(account_sid, scope, query, ascending=ascending)
    clauses = [condition]
    wanted = query.filter
    if wanted.type is not None:
        clauses.append("type = ?")
        values.append(wanted.type)
    for name, value in (
        ("participant_sid", wanted.participant_sid and pack(wanted.participant_sid)),
        ("resource_sid", wanted.resource_sid and pack_resource(wanted.resource_sid)),
        ("resource_status", wanted.resource_status),
    ):
        if value is not None:
            clauses.append(f"(inbound_{name} = ? OR outbound_{name} = ?)")
            values += [value, value]
    order = "" if ascending else " DESC"
    yield from db.execute(
        "SELECT frame, checksum, created_us, sid, account_sid FROM interactions"
        f" WHERE {' AND '.join(clauses)} ORDER BY created_us{order}, sid{order} LIMIT ?",
        [*values, query.limit + 1],
    )
