"""The statements that write. Each function runs inside a transaction that the writer has begun."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from interaction_svc.store.interface import Key, Scope
from interaction_svc.store.outcomes import Outcome, Recorded
from interaction_svc.store.rows import COLUMNS, Row

_ROWS_WHILE_OTHERS_READ = 50
"""How many rows a statement of a batch takes at most beside reads; the thread then rests as long.

Of two cores a batch would keep one busy for 30 ms, and the slowest of 100 Lists would take 2.6
times as long as on an idle server; so it is 2.2. A stream is as quick, which rests more itself.
"""
_LONGEST_REST_SECONDS = 0.005
"""What takes longer waits for the disk, which leaves the cores to others; and rests hold the lock.
"""
_ROWS_A_STATEMENT = (250, _ROWS_WHILE_OTHERS_READ, *range(25, 0, -1))
"""How many new rows one statement takes, and owners of Sessions; each is prepared once.

It runs without Python's lock, which it gives up and takes back once, and not once a row: a batch of
1,000 takes 26 ms instead of 34, as many as executemany does without asking for tombstones. Each
time the event loop may have it first, so that what waits together had better be one statement.
"""


def _insert(count: int) -> str:
    places = ", ".join("?" * len(Row._fields))
    values = ", ".join([f"({places})"] * count)
    return (
        f"INSERT INTO interactions ({COLUMNS}) SELECT * FROM (VALUES {values}) AS new"
        # The first and second columns of the values are those of the key.
        " WHERE NOT EXISTS (SELECT 1 FROM tombstones"
        " WHERE session_sid = new.column1 AND sid = new.column2)"
        " ON CONFLICT (session_sid, sid) DO NOTHING"
    )


def _own(count: int) -> str:
    values = ", ".join(["(?, ?, ?)"] * count)
    return (
        "INSERT OR IGNORE INTO session_owners (session_sid, service_sid, account_sid)"
        f" VALUES {values}"
    )


_INSERTS = tuple((count, _insert(count)) for count in _ROWS_A_STATEMENT)
_OWNS = tuple((count, _own(count)) for count in _ROWS_A_STATEMENT)
_SINCE = "SELECT session_sid, sid FROM interactions WHERE rowid > ?"
_STORED = (
    "SELECT account_sid, service_sid, created_us, updated_us, frame FROM interactions"
    " WHERE session_sid = ? AND sid = ?"
)
_KEY_COLUMNS = ("session_sid", "sid")
UPDATE = (
    "UPDATE interactions SET "
    + ", ".join(
        f"{name} = ?{n}" for n, name in enumerate(Row._fields, 1) if name not in _KEY_COLUMNS
    )
    + " WHERE session_sid = ?1 AND sid = ?2"
)
_DELETE = (
    "DELETE FROM interactions WHERE session_sid = ?1 AND sid = ?2 AND service_sid = ?3"
    " AND (?4 IS NULL OR account_sid = ?4)"
)
_BURY = "INSERT OR IGNORE INTO tombstones (session_sid, sid, deleted_us) VALUES (?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Records:
    """Work for the writer: records of rows."""

    rows: Sequence[Row]
    others_read: Callable[[], bool] = lambda: False
    """Says, on any thread, whether others are reading at the moment."""

    def __call__(self, db: sqlite3.Connection) -> list[Recorded]:
        """Record them."""
        return record(db, self.rows, self.others_read)


def record_together(db: sqlite3.Connection, works: Sequence[Records]) -> list[list[Recorded]]:
    """Do several as one, which has fewer statements, and give the result of each."""
    rows = [row for work in works for row in work.rows]
    recorded = iter(record(db, rows, works[0].others_read))
    return [list(islice(recorded, len(work.rows))) for work in works]


def record(
    db: sqlite3.Connection, rows: Sequence[Row], others_read: Callable[[], bool] = lambda: False
) -> list[Recorded]:
    """See Store.record."""
    # New rows are by far the most, so all are tried as such first; those that aren't are ignored.
    count, last = insert(db, rows, others_read)
    if count == len(rows):
        created = rows
        recorded = [Recorded(Outcome.CREATED, row.frame) for row in rows]
    else:
        # SQLite gives new rows the rowids after the largest there is.
        new = set(db.execute(_SINCE, (last - count,))) if count else set()
        created = []
        recorded = []
        for row in rows:
            if (key := (row.session_sid, row.sid)) in new:
                new.remove(key)  # if it comes once more, it is there
                created.append(row)
                recorded.append(Recorded(Outcome.CREATED, row.frame))
            else:
                recorded.append(_record_again(db, row))
    owners = {(row.session_sid, row.service_sid, row.account_sid) for row in created}
    _insert_all(db, _OWNS, list(owners), others_read)
    return recorded


class Inserted(NamedTuple):
    """How many rows were inserted, and the rowid of the last one, if there was one."""

    rows: int
    last: int


def insert(
    db: sqlite3.Connection, rows: Sequence[Row], others_read: Callable[[], bool] = lambda: False
) -> Inserted:
    """Insert the rows that are new and have no tombstone."""
    return _insert_all(db, _INSERTS, rows, others_read)


def _insert_all(
    db: sqlite3.Connection,
    inserts: Sequence[tuple[int, str]],
    rows: Sequence[Sequence[object]],
    others_read: Callable[[], bool],
) -> Inserted:
    """Insert the rows that aren't there, with few statements."""
    begin = inserted = last = 0
    for count, insert in inserts:
        while len(rows) - begin >= count:
            gives_way = count >= _ROWS_WHILE_OTHERS_READ and others_read()
            if gives_way and count > _ROWS_WHILE_OTHERS_READ:
                break
            values = tuple(chain.from_iterable(rows[begin : begin + count]))
            begun = time.perf_counter()
            cursor = db.execute(insert, values)
            if gives_way:
                time.sleep(min(time.perf_counter() - begun, _LONGEST_REST_SECONDS))
            inserted += cursor.rowcount
            last = cursor.lastrowid or 0  # of this connection, whichever statement it was
            begin += count
    return Inserted(inserted, last)


def _record_again(db: sqlite3.Connection, row: Row) -> Recorded:
    stored = db.execute(_STORED, (row.session_sid, row.sid)).fetchone()
    if stored is None:
        return Recorded(Outcome.DELETED, None)
    account_sid, service_sid, created_us, updated_us, frame = stored
    if (account_sid, service_sid) != (row.account_sid, row.service_sid):
        return Recorded(Outcome.OWNER_MISMATCH, None)
    if row.updated_us < updated_us:
        return Recorded(Outcome.STALE, frame)
    if row.created_us != created_us:
        row = with_created(row, created_us)
    if row.frame == frame:
        return Recorded(Outcome.UNCHANGED, frame)
    db.execute(UPDATE, row)
    return Recorded(Outcome.UPDATED, row.frame)


def delete(db: sqlite3.Connection, scope: Scope, key: Key, now_us: int) -> bool:
    """See Store.delete."""
    service_sid, session_sid, sid = key
    if db.execute(_DELETE, (session_sid, sid, service_sid, scope.account_sid)).rowcount == 0:
        return False
    bury(db, session_sid, sid, now_us)
    return True


def bury(db: sqlite3.Connection, session_sid: str, sid: str, now_us: int) -> None:
    """Leave a tombstone, which keeps a late record from bringing the Interaction back."""
    db.execute(_BURY, (session_sid, sid, now_us))
