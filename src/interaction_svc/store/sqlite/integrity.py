"""The statement that checks rows: their columns, checksums and owners."""

import sqlite3

from interaction_svc.store.integrity import CheckedRows, RowKey, matches_frame
from interaction_svc.store.sqlite.row_format import COLUMNS, Columns, unpack_row

_KEY = "session_sid, account_sid, created_us, sid"
CheckPosition = tuple[bytes, bytes, int, bytes]
"""The last row of a checked batch: its session_sid, account_sid, created_us and sid."""
_BEFORE_ALL: CheckPosition = (b"", b"", -(2**63), b"")
_CHECK_BATCH_ROWS = 1000
_CHECK = (
    f"SELECT (session_sid, service_sid, account_sid) IN session_owners, {COLUMNS}"
    f" FROM interactions WHERE ({_KEY}) > (?, ?, ?, ?) ORDER BY {_KEY} LIMIT {_CHECK_BATCH_ROWS}"
)


def check_batch(db: sqlite3.Connection, after: CheckPosition | None) -> CheckedRows[CheckPosition]:
    """Check the columns, the checksums and the owners of the next 1,000 rows."""
    rows = db.execute(_CHECK, after or _BEFORE_ALL).fetchall()
    bad: list[RowKey] = []
    for is_owned, *columns in rows:
        row = unpack_row(tuple(columns))
        if not (is_owned and matches_frame(row)):
            bad.append((row.session_sid, row.account_sid, row.sid))
    if len(rows) < _CHECK_BATCH_ROWS:
        return CheckedRows(len(rows), bad, None)
    last = Columns._make(rows[-1][1:])
    following = (last.session_sid, last.account_sid, last.created_us, last.sid)
    return CheckedRows(len(rows), bad, following)
