"""The statements that read pages, each run as one unit on a thread.

Each account's rows of a Session lie together. So a page of one account reads no others, and a page
of all accounts is merged from theirs.
"""

import sqlite3
from collections.abc import Generator
from contextlib import ExitStack, closing
from heapq import merge

from interaction_svc.domain.interactions import Scope
from interaction_svc.domain.paging import Position
from interaction_svc.store.checksum import check_frame, checksum_of
from interaction_svc.store.integrity import row_name
from interaction_svc.store.interface import PageQuery, StoredPage
from interaction_svc.store.sqlite import page_concat
from interaction_svc.store.sqlite.reads import bounded
from interaction_svc.store.sqlite.row_format import pack, pack_resource, unpack

# A Session that is another's is known by its owners, and its rows are not looked at: to ask for it
# costs as much as to ask for one that isn't there, however long it is.
_OWNERS = "SELECT account_sid FROM session_owners WHERE session_sid = ? AND service_sid = ?"
_OWNED = f"{_OWNERS} AND account_sid = ?"
_NO_ROWS = StoredPage(b"", 0, None, None, more=False)
_Merged = tuple[bytes, int, int, bytes, bytes]
"""A row of a page: its frame, checksum, created_us, sid and account_sid."""


def page(db: sqlite3.Connection, scope: Scope, query: PageQuery, *, joins: bool) -> StoredPage:
    """See Store.page. With `joins`, SQLite may join the frames, if the filter allows it."""
    if joins and not query.filter.looks_at_rows:
        joined = joined_page(db, scope, query)
        if joined is not None:
            return joined
    return _page_by_row(db, scope, query)


def joined_page(db: sqlite3.Connection, scope: Scope, query: PageQuery) -> StoredPage | None:
    """Return a page that SQLite joins, whose cost is bounded by the page.

    Needs supports_blob_concat and a filter of times only. None: it has to be read row
    by row.
    """
    accounts = _accounts(db, scope, query)
    if not accounts:
        return _NO_ROWS
    if len(accounts) > 1:
        return None
    return page_concat.page(db, scope, query, accounts[0])


def _accounts(db: sqlite3.Connection, scope: Scope, query: PageQuery) -> list[bytes]:
    """Return which accounts of the scope have rows of the Session."""
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
            check_frame(frame, checksum, row_name(query.session_sid, unpack("sid", sid)))
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

    The statement's text depends on which conditions there are, not on values. The edge and the
    bounds in time are both places in the order, so the tighter ones are chosen here, and SQLite
    gets at most one on each side. With two on a side it may seek to the looser one and walk from
    there, which makes the last page cost more than the first.
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
    way = "" if ascending else " DESC"
    yield from db.execute(
        "SELECT frame, checksum, created_us, sid, account_sid FROM interactions"
        f" WHERE {' AND '.join(clauses)} ORDER BY created_us{way}, sid{way} LIMIT ?",
        [*values, query.limit + 1],
    )
