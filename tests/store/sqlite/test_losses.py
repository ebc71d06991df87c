"""Files that are removed, replaced or overwritten under an open store."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from testing.build import NOON_US, Parents, new_interaction

from interaction_svc.store import Row, Store, StoreUnavailableError, row_of
from interaction_svc.store.factory import backup_store, open_store
from interaction_svc.store.sqlite.writes import UpsertBatch, record_batches
from tests.store.contract.stores import EVERYONE, query, sids
from tests.store.sqlite.files import url

NAME = "interactions.db"

_EXECUTE = f'import sqlite3, sys; sqlite3.connect("{NAME}").execute(sys.argv[1])'


def run(command: str, folder: Path) -> None:
    """Run a shell command in another process, like an operator."""
    subprocess.run(["sh", "-ec", command], cwd=folder, check=True)


class Deed(NamedTuple):
    command: str
    says: str
    keeps: bool = True
    """Whether acknowledged writes survive a crash and a restart."""


# backup.db is a recent backup, old-wal a copy of the log at that time.
DEEDS = {
    "log removed": Deed(f"rm {NAME}-wal", "write-ahead log.* replaced or removed"),
    "log moved": Deed(f"mv {NAME}-wal aside", "write-ahead log.* replaced or removed"),
    "log replaced": Deed(f"mv old-wal {NAME}-wal", "write-ahead log.* replaced or removed"),
    "log replaced by an empty one": Deed(
        f"rm {NAME}-wal; touch {NAME}-wal", "write-ahead log.* replaced or removed"
    ),
    "log emptied": Deed(f": > {NAME}-wal", "write-ahead log.* overwritten", keeps=False),
    "all removed": Deed(f"rm {NAME}*", "its file has been replaced or removed", keeps=False),
    "file replaced": Deed(f"mv backup.db {NAME}", "its file has been replaced", keeps=False),
    "file linked to another": Deed(f"ln -sf backup.db {NAME}", "its file has been", keeps=False),
    "file overwritten": Deed(f"cat backup.db > {NAME}", "its file has been overwr", keeps=False),
    "file emptied": Deed(f": > {NAME}", "its file has been overwritten", keeps=False),
    "shared memory removed": Deed(f"rm {NAME}-shm", "shared memory.* replaced or removed"),
}


class Kept:
    """A store, and the writes that it has acknowledged."""

    def __init__(self, store: Store, parents: Parents) -> None:
        self.store = store
        self.answered: list[str] = []
        self._parents = parents
        self._made = 0

    def row(self) -> Row:
        self._made += 1
        return row_of(new_interaction(self._parents, NOON_US + self._made, data="x" * 5000))

    async def record(self, count: int = 1) -> None:
        for _ in range(count):
            row = self.row()
            await self.store.record([row])
            self.answered.append(row.sid)


@pytest.fixture
async def kept(tmp_path: Path, parents: Parents) -> AsyncIterator[Kept]:
    """A store with rows in its file and in its log, and earlier copies of both."""
    store = await open_store(url(tmp_path))
    kept = Kept(store, parents)
    await kept.record(20)
    backup_store(url(tmp_path), tmp_path / "backup.db", lambda *_: None)
    await kept.record(20)
    await store.erase_traces()  # later rows are in a new log
    await kept.record(5)
    run(f"cp {NAME}-wal old-wal", tmp_path)
    await kept.record(5)
    yield kept
    await store.close()


async def found_after_a_crash(folder: Path, parents: Parents) -> list[str]:
    """Copy the files in their current state; return the rows in the copy."""
    after = folder / "after"
    after.mkdir()
    for ending in ("", "-wal"):
        if (folder / f"{NAME}{ending}").exists():
            shutil.copyfile(folder / f"{NAME}{ending}", after / f"{NAME}{ending}")
    store = await open_store(url(after))
    try:
        assert (await store.check()).ok
        return sids((await store.page(EVERYONE, query(parents, limit=1000))).frames)
    finally:
        await store.close()


@pytest.mark.parametrize("what", DEEDS)
async def test_a_record_fails_after_a_file_is_lost(
    kept: Kept, tmp_path: Path, parents: Parents, what: str
) -> None:
    deed = DEEDS[what]
    await kept.store.probe()
    run(deed.command, tmp_path)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=deed.says):
            await kept.record()
        with pytest.raises(StoreUnavailableError, match=deed.says):
            await kept.store.probe()
    if deed.keeps:
        assert set(kept.answered) <= set(await found_after_a_crash(tmp_path, parents))


@pytest.mark.parametrize("what", DEEDS)
async def test_a_record_fails_when_a_file_is_lost_during_its_commit(
    kept: Kept, tmp_path: Path, parents: Parents, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deed = DEEDS[what]

    def record_and_lose(db: sqlite3.Connection, together: list[UpsertBatch]) -> object:
        recorded = record_batches(db, together)
        run(deed.command, tmp_path)
        return recorded

    monkeypatch.setattr("interaction_svc.store.sqlite.writer.record_batches", record_and_lose)
    with pytest.raises(StoreUnavailableError, match=deed.says):
        await kept.record()
    monkeypatch.undo()
    with pytest.raises(StoreUnavailableError, match=deed.says):
        await kept.store.probe()
    if deed.keeps:
        assert set(kept.answered) <= set(await found_after_a_crash(tmp_path, parents))


async def test_the_wal_of_the_old_file_is_not_applied_to_its_replacement(
    kept: Kept, tmp_path: Path, parents: Parents
) -> None:
    run(DEEDS["file replaced"].command, tmp_path)
    with pytest.raises(StoreUnavailableError):
        await kept.store.probe()
    assert await found_after_a_crash(tmp_path, parents) == kept.answered[:20]


async def test_a_wal_that_was_moved_away_and_back_is_intact(
    kept: Kept, tmp_path: Path, parents: Parents
) -> None:
    run(f"mv {NAME}-wal aside", tmp_path)
    with pytest.raises(StoreUnavailableError):
        await kept.store.probe()
    run(f"mv aside {NAME}-wal", tmp_path)
    await kept.store.probe()
    await kept.record()
    assert await found_after_a_crash(tmp_path, parents) == kept.answered


async def test_reads_succeed_after_a_loss(kept: Kept, tmp_path: Path, parents: Parents) -> None:
    run(f"rm {NAME}*", tmp_path)
    with pytest.raises(StoreUnavailableError):
        await kept.store.probe()
    page = await kept.store.page(EVERYONE, query(parents, limit=1000))
    assert sids(page.frames) == kept.answered


async def test_sqlite_operations_of_other_processes_are_not_reported_as_loss(
    kept: Kept, tmp_path: Path, parents: Parents
) -> None:
    for statement in (
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA wal_checkpoint(RESTART)",
        "VACUUM",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "CREATE TABLE somebody_s (a)",
        "DROP TABLE somebody_s",
        "VACUUM",
    ):
        run(f"{sys.executable} -c '{_EXECUTE}' '{statement}'", tmp_path)
        await kept.store.probe()
        await kept.record()
    assert await found_after_a_crash(tmp_path, parents) == kept.answered


async def test_two_open_stores_of_one_file_report_no_loss(
    kept: Kept, tmp_path: Path, parents: Parents
) -> None:
    other = Kept(await open_store(url(tmp_path)), parents)
    for _ in range(20):
        await kept.record()
        await other.record()
        await other.store.erase_traces()
    await other.store.close()
    await kept.store.probe()
    await kept.record()
    found = await found_after_a_crash(tmp_path, parents)
    assert set(found) == {*kept.answered, *other.answered}


async def test_the_wal_of_a_symlinked_store_is_beside_its_target(
    tmp_path: Path, parents: Parents
) -> None:
    (tmp_path / "disk").mkdir()
    os.symlink(tmp_path / "disk" / NAME, tmp_path / NAME)
    await (await open_store(url(tmp_path / "disk"))).close()
    store = await open_store(url(tmp_path))
    kept = Kept(store, parents)
    await kept.record()
    run(f"rm disk/{NAME}-wal", tmp_path)
    with pytest.raises(StoreUnavailableError, match="write-ahead log"):
        await kept.record()
    await store.close()
