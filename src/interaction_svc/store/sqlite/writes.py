"""Statements that write. Each function runs inside a transaction of the writer."""

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from interaction_svc.admission.fairness import (
    MAX_STATEMENT_PAUSE_SECONDS,
    ROWS_PER_STATEMENT,
    ReadPriority,
)
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

_STATEMENT_ROWS = (250, ROWS_PER_STATEMENT, *range(25, 0, -1))
"""The numbers of rows for which there is an INSERT statement. Each is prepared once.

Each statement releases the interpreter lock, and may wait to get it back from the event loop. With
several rows per statement there are fewer waits: 100 rows cost 15 % less.
"""
_KEY_COLUMNS = ("session_sid", "account_sid", "sid")
_KEY = " AND ".join(f"{name} = ?" for name in _KEY_COLUMNS)
_SID_BYTES = 16
_KEY_BYTES = _SID_BYTES * len(_KEY_COLUMNS)


def _values(columns: int, rows: int) -> str:
    one = f"({', '.join('?' * columns)})"
    return f"VALUES {', '.join([one] * rows)}"


def _statements(form: str, columns: int) -> tuple[tuple[int, str], ...]:
    """Return a statement for each number of rows. `form` has a placeholder `{values}`."""
    return tuple((count, form.format(values=_values(columns, count))) for count in _STATEMENT_ROWS)


# All keys are concatenated into one parameter, which costs half as much as one parameter per key.
# LEFT JOIN fixes the join order: each key is looked up.
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
# OR IGNORE, although no row with the key exists. For a statement that can fail, SQLite saves each
# page before it changes the page, which costs several times as much.
_INSERT = _statements(
    f"INSERT OR IGNORE INTO interactions ({COLUMNS}) {{values}}", len(Columns._fields)
)
_INSERT_OWNERS = _statements(
    "INSERT OR IGNORE INTO session_owners (session_sid, service_sid, account_sid) {values}", 3
)
_UPDATE = (
    "UPDATE interactions INDEXED BY interactions_by_sid"
    f" SET {', '.join(f'{name} = ?' for name in Columns._fields)} WHERE {_KEY}"
)
_DELETE = (
    f"DELETE FROM interactions INDEXED BY interactions_by_sid WHERE {_KEY} AND service_sid = ?"
)
_SELECT_ACCOUNTS = (
    "SELECT old.account_sid FROM session_owners AS owner CROSS JOIN interactions AS old"
    " INDEXED BY interactions_by_sid USING (session_sid, account_sid)"
    " WHERE owner.session_sid = ? AND owner.service_sid = ? AND old.sid = ?"
    " AND old.service_sid = owner.service_sid LIMIT 2"
)
_INSERT_TOMBSTONE = (
    "INSERT OR IGNORE INTO tombstones (session_sid, account_sid, sid, deleted_us)"
    " VALUES (?, ?, ?, ?)"
)
PackedKey = tuple[bytes, bytes, bytes]
"""A row's session_sid, account_sid and sid."""


@dataclass(frozen=True, slots=True)
class UpsertBatch:
    """An operation of the writer that records rows."""

    rows: Sequence[Row]
    reads: ReadPriority
    """Statements pause while these reads run."""

    def __call__(self, db: sqlite3.Connection) -> list[Recorded]:
        """Record the rows; see Store.record."""
        return record(db, self.rows, self.reads)


def record_batches(db: sqlite3.Connection, works: Sequence[UpsertBatch]) -> list[list[Recorded]]:
    """Record several batches with shared statements, and return the results of each batch."""
    rows = [row for work in works for row in work.rows]
    recorded = iter(record(db, rows, works[0].reads))
    return [list(islice(recorded, len(work.rows))) for work in works]


def record(
    db: sqlite3.Connection, rows: Sequence[Row], reads: ReadPriority | None = None
) -> list[Recorded]:
    """See Store.record."""
    packed = list(map(pack_row, rows))
    keys = list(map(_key_of, packed))
    stored, deleted_keys = _find(db, keys)
    new: dict[PackedKey, Packed] = {}
    changed: dict[PackedKey, Packed] = {}
    recorded = []
    for key, row, columns in zip(keys, rows, packed, strict=True):
        if key in deleted_keys:
            recorded.append(Recorded(Outcome.DELETED, None))
        elif (old := stored.get(key)) is None:
            stored[key] = row  # the batch may contain the key again
            new[key] = columns
            recorded.append(Recorded(Outcome.CREATED, row.frame))
        else:
            outcome, merged = merge_row(old, row)
            recorded.append(outcome)
            if merged is not None:
                stored[key] = merged
                (new if key in new else changed)[key] = pack_row(merged)
    created = list(new.values())
    insert(db, created, reads)
    owners = {(columns[0], columns[4], columns[1]) for columns in created}
    _insert_all(db, _INSERT_OWNERS, list(owners), reads)
    update(db, changed.values())
    return recorded


def _key_of(columns: Packed) -> PackedKey:
    return columns[0], columns[1], columns[3]


def replace(db: sqlite3.Connection, rows: Sequence[Row]) -> bool:
    """Store rows unchanged, except those with a tombstone.

    The keys must be distinct. Returns whether stored content was replaced.
    """
    packed = {_key_of(columns): columns for columns in map(pack_row, rows)}
    stored, deleted_keys = _find(db, list(packed))
    for key in deleted_keys:
        del packed[key]
    insert(db, [columns for key, columns in packed.items() if key not in stored])
    different = [packed[key] for key, row in stored.items() if packed[key] != pack_row(row)]
    update(db, different)
    return bool(different)


def _find(
    db: sqlite3.Connection, keys: Sequence[PackedKey]
) -> tuple[dict[PackedKey, Row], set[PackedKey]]:
    """Return the stored rows of these keys, and the keys that have a tombstone."""
    stored: dict[PackedKey, Row] = {}
    deleted_keys: set[PackedKey] = set()
    for found in db.execute(_FIND, (b"".join(chain.from_iterable(keys)),)):
        key, columns = found[:3], found[3:]
        if columns[-1] is None:
            deleted_keys.add(key)
        else:
            stored[key] = unpack_row(columns)
    return stored, deleted_keys


def insert(
    db: sqlite3.Connection,
    rows: Sequence[Packed],
    reads: ReadPriority | None = None,
) -> None:
    """Insert rows whose keys are not stored."""
    _insert_all(db, _INSERT, rows, reads)


def update(db: sqlite3.Connection, rows: Iterable[Packed]) -> None:
    """Update stored rows to these columns. A new created_us moves the row within the table."""
    db.executemany(_UPDATE, [(*row, *_key_of(row)) for row in rows])


def _insert_all(
    db: sqlite3.Connection,
    inserts: Sequence[tuple[int, str]],
    rows: Sequence[Packed],
    reads: ReadPriority | None,
) -> None:
    """Insert rows, with pauses while reads run."""
    begin = 0
    for count, statement in inserts:
        while len(rows) - begin >= count:
            yields = count >= ROWS_PER_STATEMENT and reads is not None and reads.has_recent_read()
            if yields and count > ROWS_PER_STATEMENT:
                break
            values = tuple(chain.from_iterable(rows[begin : begin + count]))
            begun = time.perf_counter()
            db.execute(statement, values)
            if yields:
                time.sleep(min(time.perf_counter() - begun, MAX_STATEMENT_PAUSE_SECONDS))
            begin += count


def delete(db: sqlite3.Connection, scope: Scope, key: InteractionKey, now_us: int) -> bool:
    """See Store.delete."""
    service_sid, session_sid, sid = map(pack, key)
    if scope.account_sid is not None:
        account_sid = pack(scope.account_sid)
    else:
        holders = db.execute(_SELECT_ACCOUNTS, (session_sid, service_sid, sid)).fetchall()
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
    """Add a tombstone, so that a late record doesn't restore the Interaction."""
    db.execute(_INSERT_TOMBSTONE, (*key, now_us))
