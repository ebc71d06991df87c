"""Copy of one store into another, of the same backend or of the other.

Both stores are scanned together in key order, and rows that the target lacks are loaded into it.
A second copy completes one that was interrupted, or that was made while the source was in use. It
reads the rows that the target already has, but does not write them again. Finally another scan of
both stores verifies that they are equal.
"""

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from interaction_svc.domain.units import MIB
from interaction_svc.store import ApiKey, Row, Store
from interaction_svc.store.factory import naming
from interaction_svc.store.tables import (
    INTERACTIONS,
    TABLES,
    TOMBSTONES,
    Table,
    TableKey,
    TableRow,
)

_SECOND_US = 1_000_000
_STEP_ROWS = 2_000
_STEP_BYTES = 4 * MIB
"""The maximum rows and bytes of a step. At most two steps of each store are in memory."""


class ForeignDataError(Exception):
    """The target has a row that the source never had, or a newer version of a row."""

    def __init__(self, target: str, table: Table, key: TableKey) -> None:
        """Name the target, and a row by its key."""
        super().__init__(
            f"{target} has data of its own: in {table.name}, {', '.join(key)} is not in the source,"
            " or newer than there; give a store that is empty, or a copy of this source"
        )


class NamedStore(NamedTuple):
    """An open store, with its name for errors."""

    name: str
    store: Store

    async def read(self, table: Table, after: TableKey | None) -> list[TableRow]:
        """Return a table's next rows after a key; an empty list at the end. Raises StoreError."""
        with naming(self.name):
            return await self.store.read(
                table, after=after, limit=_STEP_ROWS, max_bytes=_STEP_BYTES
            )

    async def load(self, table: Table, rows: list[TableRow]) -> None:
        """Store rows as they are. Raises StoreError."""
        with naming(self.name):
            await self.store.load(table, rows)


class Step(NamedTuple):
    """The rows of both stores with keys greater than `after` and at most `until`."""

    after: TableKey | None
    until: TableKey
    source: list[TableRow]
    target: list[TableRow]
    target_ended: bool
    """Whether the target has no rows after `after`."""


@dataclass
class Contents:
    """The number of rows of a table, and a checksum of all of them in order."""

    count: int = 0
    _sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, rows: list[TableRow]) -> None:
        """Add the next rows to the count and the checksum.

        A row is hashed as one line: a JSON array of its columns, with bytes as hex.
        """
        self.count += len(rows)
        for row in rows:
            columns = [one.hex() if isinstance(one, bytes) else one for one in row]
            self._sha256.update(orjson.dumps(columns, option=orjson.OPT_APPEND_NEWLINE))

    @property
    def checksum(self) -> str:
        """The SHA-256 of the lines of all rows, in hex."""
        return self._sha256.hexdigest()


@dataclass
class Verified:
    """The comparison of a table in both stores."""

    table: Table
    source: Contents
    target: Contents
    first_difference: TableKey | None = None
    """The key of the first row that differs, or that only one store has."""

    @property
    def ok(self) -> bool:
        """Return whether both are equal."""
        return (self.source.count, self.source.checksum) == (
            self.target.count,
            self.target.checksum,
        )


Watch = Callable[[str, Table, int], None]
"""A callback for progress: the activity, the table, and the number of source rows processed."""


class StoreCopier:
    """Makes a target store equal to a source store.

    Nothing else may write to the target meanwhile. If something writes to the source, `verify`
    detects it. All methods raise StoreError.
    """

    def __init__(self, source: NamedStore, target: NamedStore, watch: Watch) -> None:
        """Use two open stores, and call `watch` after each step."""
        self._source = source
        self._target = target
        self._watch = watch
        self._same: dict[Table, tuple[TableKey, int]] = {}
        """For each table, the last key up to which both stores are equal, and the rows up to it."""

    async def check_target(self) -> None:
        """Raise ForeignDataError unless the source has, or had, every row of the target.

        A target that passes is empty, or an interrupted or earlier copy of the source.
        """
        for table in TABLES:
            same = True
            done = 0
            step = await self._step(table, None)
            while step is not None and not step.target_ended:
                if step.source != step.target:
                    same = False
                    await self._check_is_earlier(table, step)
                done += len(step.source)
                if same:
                    self._same[table] = (step.until, done)
                self._watch("checking", table, done)
                step = await self._step(table, step.until)

    async def _check_is_earlier(self, table: Table, step: Step) -> None:
        source = {table.key_of(row): row for row in step.source}
        target = {table.key_of(row): row for row in step.target}
        gone = target.keys() - source.keys()
        if gone and table is INTERACTIONS:
            gone -= await self._deleted(step)
        wrong = gone | {
            key
            for key in target.keys() & source.keys()
            if not _is_earlier(target[key], source[key])
        }
        if wrong:
            raise ForeignDataError(self._target.name, table, min(wrong))

    async def _deleted(self, step: Step) -> set[TableKey]:
        """Return the keys of a step for which the source has tombstones."""
        deleted: set[TableKey] = set()
        after = step.after
        while True:
            found = await self._source.read(TOMBSTONES, after)
            keys = list(map(TOMBSTONES.key_of, found))
            deleted.update(key for key in keys if key <= step.until)
            if not keys or keys[-1] >= step.until:
                return deleted
            after = keys[-1]

    async def copy(self, table: Table) -> int:
        """Load the rows that are missing or different in the target, and return their number.

        Starts at the first difference that `check_target` found.
        """
        after, done = self._same.get(table, (None, 0))
        copied = 0
        step = await self._step(table, after)
        while step is not None:
            missing = _missing(step)
            # Read the next step while this one is written; the two have no key in common.
            _, following = await asyncio.gather(
                self._target.load(table, missing), self._step(table, step.until)
            )
            done += len(step.source)
            copied += len(missing)
            self._watch("copying", table, done)
            step = following
        return copied

    async def verify(self, table: Table) -> Verified:
        """Compare a whole table in both stores."""
        verified = Verified(table, Contents(), Contents())
        step = await self._step(table, None)
        while step is not None:
            verified.source.add(step.source)
            verified.target.add(step.target)
            if verified.first_difference is None and step.source != step.target:
                different = set(step.source) ^ set(step.target)
                verified.first_difference = min(map(table.key_of, different))
            self._watch("verifying", table, verified.source.count)
            step = await self._step(table, step.until)
        return verified

    async def _step(self, table: Table, after: TableKey | None) -> Step | None:
        """Return the next step, up to the smaller of the last keys; None at the end of both."""
        source, target = await asyncio.gather(
            self._source.read(table, after), self._target.read(table, after)
        )
        ends = [table.key_of(rows[-1]) for rows in (source, target) if rows]
        if not ends:
            return None
        until = min(ends)
        return Step(
            after, until, _up_to(table, source, until), _up_to(table, target, until), not target
        )


def _up_to(table: Table, rows: list[TableRow], until: TableKey) -> list[TableRow]:
    return rows[: bisect_right(rows, until, key=table.key_of)]


def _missing(step: Step) -> list[TableRow]:
    if not step.target:
        return step.source
    there = set(step.target)
    return [row for row in step.source if row not in there]


def _is_earlier(row: TableRow, newer: TableRow) -> bool:
    """Return whether `row` can be an earlier version of `newer`."""
    if row == newer:
        return True
    if isinstance(row, Row) and isinstance(newer, Row):
        # A merge keeps the earliest second of creation (see domain/merge).
        return (
            row.service_sid == newer.service_sid
            and row.created_us // _SECOND_US >= newer.created_us // _SECOND_US
            and row.updated_us <= newer.updated_us
        )
    if isinstance(row, ApiKey) and isinstance(newer, ApiKey):
        return row == newer._replace(revoked_us=None)
    return False
