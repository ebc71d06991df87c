"""Integrity of stored rows: whether a row's columns and checksum match its frame.

Both backends use these functions, so both report the same rows as damaged.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from interaction_svc.store.checksum import checksum_of
from interaction_svc.store.errors import DamagedRowError
from interaction_svc.store.interface import StoreReport
from interaction_svc.store.rows import Row, decode, row_of

MAX_NAMED_BAD_ROWS = 20
"""The number of damaged rows that a report names."""

Position = TypeVar("Position")
RowKey = tuple[str, str, str]
"""A row's session_sid, account_sid and sid."""


class CheckedRows(NamedTuple, Generic[Position]):
    """The result of checking one batch of rows."""

    rows: int
    """Number of rows checked."""
    bad: list[RowKey]
    next: Position | None
    """Position after the batch; None after the last one."""


def matches_frame(row: Row) -> bool:
    """Return whether the row's columns and checksum match its frame."""
    try:
        made = row_of(decode(row.frame), row.inbound_status_us, row.outbound_status_us)
    except (DamagedRowError, ValueError):
        return False
    # The frame itself is not compared: another version of protobuf may encode the same fields as
    # other bytes.
    return made[:-2] == row[:-2] and checksum_of(row.frame) == row.checksum


def row_name(session_sid: str, sid: str, account_sid: str | None = None) -> str:
    """Return the name of a row for error texts."""
    account = "" if account_sid is None else f"account {account_sid}, "
    return f"session {session_sid}, {account}interaction {sid}"


async def check_rows(
    check_batch: Callable[[Position | None], Awaitable[CheckedRows[Position]]],
    *,
    schema_version: int,
    known_version: int,
) -> StoreReport:
    """Check all rows in batches, and return the report for Store.check.

    `check_batch` checks the rows after a position. The first call gets None.
    """
    rows = bad_rows = 0
    some_bad: list[RowKey] = []
    after: Position | None = None
    while True:
        checked = await check_batch(after)
        rows += checked.rows
        bad_rows += len(checked.bad)
        some_bad += checked.bad[: MAX_NAMED_BAD_ROWS - len(some_bad)]
        after = checked.next
        if after is None:
            return StoreReport(schema_version, known_version, rows, bad_rows, tuple(some_bad))
