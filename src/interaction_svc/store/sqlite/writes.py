"""The statements that write. Each function runs inside a transaction that the writer has begun."""

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from interaction_svc.domain.interactions import InteractionKey, Outcome, Scope
from interaction_svc.store.errors import AmbiguousAccountError
from interaction_svc.store.recorded import Recorded
from interaction_svc.store.rows import Row, merge_row
from interaction_svc.store.sqlite.row_format import (
    COLUMNS,
    Columns,
    Packed,
    pack,
    pack_row,
    unpack_row,
)

_ROWS_WHILE_OTHERS_READ = 50
"""How many rows a statement of a batch takes at most beside reads; the thread then rests as long.

Of two cores a batch would keep one busy for 30 ms, and the slowest of 100 Lists would take 2.6
times as long as on an idle server; so it is 2.2. A stream is as quick, which rests more itself.
"""
_LONGEST_REST_SECONDS = 0.005
"""What takes longer waits for the disk, which leaves the cores to others; and rests hold the lock.
"""
_ROWS_A_STATEMENT = (250, _ROWS_WHILE_OTHERS_READ, *range(25, 0, -1))
"""How many rows, keys or owners of Sessions one statement takes; each is prepared once.

It runs without Python's lock, which it gives up and takes back once, and not once a row. Each time
the event loop may have it first, so that what waits together had better be one statement.
"""
_KEY_COLUMNS = ("session_sid", "account_sid", "sid")
_KEY = " AND ".join(f"{name} = ?" for name in _KEY_COLUMNS)
_SID_BYTES = 16
_KEY_BYTES = _SID_BYTES * len(_KEY_COLUMNS)


def _values(columns: int, rows: int) -> str:
    one = f"({', '.join('?' * columns)})"
    return f"VALUES {', '.join([one] * rows)}"


def _statements(form: str, columns: int) -> tuple[tuple[int, str], ...]:
    """Return a statement for each number of rows; `form` has a place for its values."""
    return tuple(
        (count, form.format(values=_values(columns, count))) for count in _ROWS_A_STATEMENT
    )


# All keys are one value, one behind the other, which costs half of what a value for each does. LEFT
# JOIN: in this order, so that each key is looked up.
_FIND = f"""
WITH RECURSIVE
    place(at) AS (SELECT 1 UNION ALL SELECT at + {_KEY_BYTES} FROM place
        WHERE at + {_KEY_BYTES} < length(?1)),
    key({", ".join(_KEY_COLUMNS)}) AS (SELECT
        {", ".join(f"substr(?1, at + {n * _SID_BYTES}, {_SID_BYTES})" for n in range(3))}
        FROM place)
SELECT {", ".join(f"key.{name}" for name in _KEY_COLUMNS)},
    {", ".join(f"old.{name}" for name in Columns._fields)}
FROM key
LEFT JOIN interactions AS old INDEXED BY interactions_by_sid USING ({", ".join(_KEY_COLUMNS)})
LEFT JOIN tombstones AS tombstone USING ({", ".join(_KEY_COLUMNS)})
WHERE old.frame IS NOT NULL OR tombstone.deleted_us IS NOT NULL
"""
# OR IGNORE, though nothing is there: a statement that may fail keeps each page as it was before,
# which makes it several times as expensive.
_INSERT = _statements(
    f"INSERT OR IGNORE INTO interactions ({COLUMNS}) {{values}}", len(Columns._fields)
)
_OWN = _statements(
    "INSERT OR IGNORE INTO session_owners (session_sid, service_sid, account_sid) {values}", 3
)
_UPDATE = (
    "UPDATE interactions INDEXED BY interactions_by_sid"
    f" SET {', '.join(f'{name} = ?' for name in Columns._fields)} WHERE {_KEY}"
)
_DELETE = (
    f"DELETE FROM interactions INDEXED BY interactions_by_sid WHERE {_KEY} AND service_sid = ?"
)
_HOLDERS = (
    "SELECT old.account_sid FROM session_owners AS owner CROSS JOIN interactions AS old"
    " INDEXED BY interactions_by_sid USING (session_sid, account_sid)"
    " WHERE owner.session_sid = ? AND owner.service_sid = ? AND old.sid = ?"
    " AND old.service_sid = owner.service_sid LIMIT 2"
)
_BURY = (
    "INSERT OR IGNORE INTO tombstones (session_sid, account_sid, sid, deleted_us)"
    " VALUES (?, ?, ?, ?)"
)
PackedKey = tuple[bytes, bytes, bytes]
"""A row's session_sid, account_sid and sid."""


@dataclass(frozen=True, slots=True)
class UpsertBatch:
    """Work for the writer: records of rows."""

    rows: Sequence[Row]
    others_read: Callable[[], bool] = lambda: False
    """Says, on any thread, whether others are reading at the moment."""

    def __call__(self, db: sqlite3.Connection) -> list[Recorded]:
        """Record them."""
        return record(db, self.rows, self.others_read)


def record_together(db: sqlite3.Connection, works: Sequence[UpsertBatch]) -> list[list[Recorded]]:
    """Do several as one, which has fewer statements, and give the result of each."""
    rows = [row for work in works for row in work.rows]
    recorded = iter(record(db, rows, works[0].others_read))
    return [list(islice(recorded, len(work.rows))) for work in works]


def record(
    db: sqlite3.Connection, rows: Sequence[Row], others_read: Callable[[], bool] = lambda: False
) -> list[Recorded]:
    """See Store.record."""
    packed = list(map(pack_row, rows))
    keys = list(map(_key_of, packed))
    stored, buried = _find(db, keys)
    new: dict[PackedKey, Packed] = {}
    changed: dict[PackedKey, Packed] = {}
    recorded = []
    for key, row, columns in zip(keys, rows, packed, strict=True):
        if key in buried:
            recorded.append(Recorded(Outcome.DELETED, None))
        elif (old := stored.get(key)) is None:
            stored[key] = row  # if it comes once more, it is there
            new[key] = columns
            recorded.append(Recorded(Outcome.CREATED, row.frame))
        else:
            outcome, merged = merge_row(old, row)
            recorded.append(outcome)
            if merged is not None:
                stored[key] = merged
                (new if key in new else changed)[key] = pack_row(merged)
    created = sorted(new.values())  # so that those of a page come one after the other
    insert(db, created, others_read)
    owners = {(columns[0], columns[4], columns[1]) for columns in created}
    _insert_all(db, _OWN, list(owners), others_read)
    update(db, changed.values())
    return recorded


def _key_of(columns: Packed) -> PackedKey:
    return columns[0], columns[1], columns[3]


def replace(db: sqlite3.Connection, rows: Sequence[Row]) -> bool:
    """Store rows exactly as they are, but for those with a tombstone; return if some were there.

    The keys differ.
    """
    packed = {_key_of(columns): columns for columns in map(pack_row, rows)}
    stored, buried = _find(db, list(packed))
    for key in buried:
        del packed[key]
    insert(db, [columns for key, columns in packed.items() if key not in stored])
    different = [packed[key] for key, row in stored.items() if packed[key] != pack_row(row)]
    update(db, different)
    return bool(different)


def _find(
    db: sqlite3.Connection, keys: Sequence[PackedKey]
) -> tuple[dict[PackedKey, Row], set[PackedKey]]:
    """Return which of the keys are stored, with their rows, and which have a tombstone."""
    stored: dict[PackedKey, Row] = {}
    buried: set[PackedKey] = set()
    for found in db.execute(_FIND, (b"".join(chain.from_iterable(keys)),)):
        key, columns = found[:3], found[3:]
        if columns[-1] is None:
            buried.add(key)
        else:
            stored[key] = unpack_row(columns)
    return stored, buried


def insert(
    db: sqlite3.Connection,
    rows: Sequence[Packed],
    others_read: Callable[[], bool] = lambda: False,
) -> None:
    """Insert rows that are not there."""
    _insert_all(db, _INSERT, rows, others_read)


def update(db: sqlite3.Connection, rows: Iterable[Packed]) -> None:
    """Replace rows that are there, and move those whose time of creation has changed."""
    db.executemany(_UPDATE, [(*row, *_key_of(row)) for row in rows])


def _insert_all(
    db: sqlite3.Connection,
    inserts: Sequence[tuple[int, str]],
    rows: Sequence[Packed],
    others_read: Callable[[], bool],
) -> None:
    """Insert rows, and rest in between while others read."""
    begin = 0
    for count, statement in inserts:
        while len(rows) - begin >= count:
            gives_way = count >= _ROWS_WHILE_OTHERS_READ and others_read()
            if gives_way and count > _ROWS_WHILE_OTHERS_READ:
                break
            values = tuple(chain.from_iterable(rows[begin : begin + count]))
            begun = time.perf_counter()
            db.execute(statement, values)
            if gives_way:
                time.sleep(min(time.perf_counter() - begun, _LONGEST_REST_SECONDS))
            begin += count


def delete(db: sqlite3.Connection, scope: Scope, key: InteractionKey, now_us: int) -> bool:
    """See Store.delete."""
    service_sid, session_sid, sid = map(pack, key)
    if scope.account_sid is not None:
        account_sid = pack(scope.account_sid)
    else:
        holders = db.execute(_HOLDERS, (session_sid, service_sid, sid)).fetchall()
        if len(holders) > 1:
            raise AmbiguousAccountError("several accounts have this Interaction")
        if not holders:
            return False
        (account_sid,) = holders[0]
    if db.execute(_DELETE, (session_sid, account_sid, sid, service_sid)).rowcount == 0:
        return False
    add_tombstone(db, (session_sid, account_sid, sid), now_us)
    return True


def add_tombstone(db: sqlite3.Connection, key: PackedKey, now_us: int) -> None:
    """Leave a tombstone, which keeps a late record from bringing the Interaction back."""
    db.execute(_BURY, (*key, now_us))
