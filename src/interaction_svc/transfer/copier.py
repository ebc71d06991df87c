"""Copying a store into another one of any kind, with everything in it as it is.

Both are walked at once in the order of their keys, and what the target doesn't have is loaded into
it. So a copy that was broken off goes on by being begun again, and one that was made while the
source was in use is brought up to date; what is there is read, not written. Afterwards both are
walked once more, and must be equal.
"""

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

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
_STEP_BYTES = 4 * 1024 * 1024
"""Of each store two steps are in memory at most."""


class ForeignDataError(Exception):
    """The target holds something that the source never had, or that is newer than the source's."""

    def __init__(self, target: str, table: Table, key: TableKey) -> None:
        """Name the target, and a record by its key."""
        super().__init__(
            f"{target} has data of its own: in {table.name}, {', '.join(key)} is not in the source,"
            " or newer than there; give a store that is empty, or a copy of this source"
        )


class NamedStore(NamedTuple):
    """A store that is open, and what to call it in errors."""

    name: str
    store: Store

    async def read(self, table: Table, after: TableKey | None) -> list[TableRow]:
        """Return a table's next records after a key; none at the end. Raises StoreError."""
        with naming(self.name):
            return await self.store.read(
                table, after=after, limit=_STEP_ROWS, max_bytes=_STEP_BYTES
            )

    async def load(self, table: Table, records: list[TableRow]) -> None:
        """Store records as they are. Raises StoreError."""
        with naming(self.name):
            await self.store.load(table, records)


class Step(NamedTuple):
    """All that both stores have after a key and up to another."""

    after: TableKey | None
    until: TableKey
    source: list[TableRow]
    target: list[TableRow]
    target_ended: bool
    """True if the target has nothing more, here and after it."""


@dataclass
class Contents:
    """The contents of a table: the number of records, and a checksum of all in their order."""

    count: int = 0
    _sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, records: list[TableRow]) -> None:
        """Add the next records: each is a line with a JSON array of its columns, bytes as hex."""
        self.count += len(records)
        for record in records:
            columns = [one.hex() if isinstance(one, bytes) else one for one in record]
            self._sha256.update(orjson.dumps(columns, option=orjson.OPT_APPEND_NEWLINE))

    @property
    def checksum(self) -> str:
        """The SHA-256 of these lines, in hex."""
        return self._sha256.hexdigest()


@dataclass
class Verified:
    """The contents of a table in both stores."""

    table: Table
    source: Contents
    target: Contents
    first_difference: TableKey | None = None
    """The key of the first record that only one has, or that differs."""

    @property
    def ok(self) -> bool:
        """Return whether both are the same."""
        return (self.source.count, self.source.checksum) == (
            self.target.count,
            self.target.checksum,
        )


Watch = Callable[[str, Table, int], None]
"""Gets what is being done, with which table, and how many of the source's records are done."""


class StoreCopier:
    """A source, and a target that is to become equal to it.

    The methods raise what stores raise, and load nothing again that is there. Nobody should write
    to the target meanwhile. Who writes to the source is noticed by `verify`.
    """

    def __init__(self, source: NamedStore, target: NamedStore, watch: Watch) -> None:
        """Take two stores that are open."""
        self._source = source
        self._target = target
        self._watch = watch
        self._same: dict[Table, tuple[TableKey, int]] = {}
        """Up to where tables are known to be the same, and how many records that is."""

    async def check_target(self) -> None:
        """Make sure that all the target holds is what the source has, or had before.

        That is the target of a copy that was broken off, or was made earlier; or an empty one.
        Raises ForeignDataError.
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
        source = {table.key_of(record): record for record in step.source}
        target = {table.key_of(record): record for record in step.target}
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
        """Return what the source has deleted among the keys of a step."""
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
        """Load what the target doesn't have as the source does, and give how many records.

        It goes on from where `check_target` has found the first difference.
        """
        after, done = self._same.get(table, (None, 0))
        copied = 0
        step = await self._step(table, after)
        while step is not None:
            missing = _missing(step)
            # Another step is read while this one is written: they have no key in common.
            _, following = await asyncio.gather(
                self._target.load(table, missing), self._step(table, step.until)
            )
            done += len(step.source)
            copied += len(missing)
            self._watch("copying", table, done)
            step = following
        return copied

    async def verify(self, table: Table) -> Verified:
        """Walk through all of a table, in both stores, and compare."""
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
        """Read on in both, as far as both have been read; None at the end of both."""
        source, target = await asyncio.gather(
            self._source.read(table, after), self._target.read(table, after)
        )
        ends = [table.key_of(records[-1]) for records in (source, target) if records]
        if not ends:
            return None
        until = min(ends)
        return Step(
            after, until, _up_to(table, source, until), _up_to(table, target, until), not target
        )


def _up_to(table: Table, records: list[TableRow], until: TableKey) -> list[TableRow]:
    return records[: bisect_right(records, until, key=table.key_of)]


def _missing(step: Step) -> list[TableRow]:
    if not step.target:
        return step.source
    there = set(step.target)
    return [record for record in step.source if record not in there]


def _is_earlier(record: TableRow, newer: TableRow) -> bool:
    """Return whether a record may have become the newer one, by what servers do with it."""
    if record == newer:
        return True
    if isinstance(record, Row) and isinstance(newer, Row):
        # Of several times of creation the earliest second counts (see domain/merge).
        return (
            record.service_sid == newer.service_sid
            and record.created_us // _SECOND_US >= newer.created_us // _SECOND_US
            and record.updated_us <= newer.updated_us
        )
    if isinstance(record, ApiKey) and isinstance(newer, ApiKey):
        return record == newer._replace(revoked_us=None)
    return False
