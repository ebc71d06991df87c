"""Faults of the file: damage, locks, missing permissions, a full disk."""

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from testing.build import NOON_US, Parents, new_interaction
from testing.small_disk import change_disk, small_disk

from interaction_svc.domain.units import MIB
from interaction_svc.store import (
    NotAStoreError,
    Store,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    row_of,
)
from interaction_svc.store.factory import check_store, open_store
from interaction_svc.store.sqlite import probe, schema, transactions
from interaction_svc.store.sqlite.errors import translated
from interaction_svc.store.sqlite.write_errors import os_failure
from tests.store.contract.stores import EVERYONE, NOW_US, query
from tests.store.sqlite.files import another_process, url

PAGE = schema.PAGE_BYTES


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setattr(transactions, "BUSY_TIMEOUT_SECONDS", 0.05)
    opened = await open_store(url(tmp_path))
    yield opened
    await opened.close()


async def fill(folder: Path, parents: Parents, rows: int = 300) -> None:
    store = await open_store(url(folder))
    made = [row_of(new_interaction(parents, NOON_US + n, data="x" * 1200)) for n in range(rows)]
    await store.record(made)
    await store.close()


@contextmanager
def damaged(folder: Path, page: int) -> Iterator[None]:
    """Overwrite a page of the file in another process; restore it after the block."""
    file = folder / "interactions.db"

    def write(content: bytes) -> None:
        command = ["dd", f"of={file}", f"bs={PAGE}", f"seek={page}", "conv=notrunc", "status=none"]
        subprocess.run(command, input=content, check=True)

    read = ["dd", f"if={file}", f"bs={PAGE}", f"skip={page}", "count=1", "status=none"]
    before = subprocess.run(read, check=True, capture_output=True).stdout
    write(b"\xff" * PAGE)
    try:
        yield
    finally:
        write(before)


async def read_all(store: Store) -> None:
    after = None
    while True:
        _, after = await store.scan(after=after, limit=1000, max_bytes=MIB)
        if after is None:
            return


async def open_and_read_all(folder: Path) -> None:
    store = await open_store(url(folder))
    try:
        await read_all(store)
    finally:
        await store.close()


async def test_the_probe_of_an_intact_store_succeeds(store: Store, parents: Parents) -> None:
    await store.probe()
    await store.record([row_of(new_interaction(parents))])
    await asyncio.gather(*(store.probe() for _ in range(20)))


async def test_the_probe_writes_nothing(store: Store, tmp_path: Path, parents: Parents) -> None:
    await store.record([row_of(new_interaction(parents))])
    before = (tmp_path / "interactions.db-wal").stat().st_size
    for _ in range(5):
        await store.probe()
    assert (tmp_path / "interactions.db-wal").stat().st_size == before


async def test_the_probe_fails_while_the_store_is_locked(store: Store, tmp_path: Path) -> None:
    with another_process(tmp_path) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked by another process"):
            await store.probe()
        db.execute("ROLLBACK")
        await store.probe()


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_removed_or_replaced_file_is_not_written_to(
    store: Store, tmp_path: Path, parents: Parents, replaced: bool
) -> None:
    kept = row_of(new_interaction(parents))
    await store.record([kept])
    file, aside = tmp_path / "interactions.db", tmp_path / "aside.db"
    file.rename(aside)
    if replaced:
        file.touch()
    row = row_of(new_interaction(parents))
    for call in (
        store.probe(),
        store.record([row]),
        store.delete(EVERYONE, parents.key(kept.sid), NOW_US),
    ):
        with pytest.raises(StoreUnavailableError, match="replaced or removed"):
            await call
    assert await store.get(EVERYONE, parents.key(kept.sid)) == kept.frame
    aside.rename(file)
    await store.probe()
    assert await store.get(EVERYONE, parents.key(row.sid)) is None
    await store.record([row])


async def test_the_probe_fails_after_a_damaged_page_was_read_until_it_is_repaired(
    tmp_path: Path, parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "QUICK_CHECK_SECONDS", 0.05)
    await fill(tmp_path, parents)
    with damaged(tmp_path, 15):
        store = await open_store(url(tmp_path))
        await store.probe()  # the damaged page has not been read yet
        with pytest.raises(StoreDamagedError, match="restore it from a backup"):
            await read_all(store)
        for _ in range(3):
            with pytest.raises(StoreDamagedError, match="has not been repaired"):
                await store.probe()
            await asyncio.sleep(0.1)  # longer than the interval of checks
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    await store.probe()
                    break
                except StoreDamagedError:
                    await asyncio.sleep(0.01)
        await read_all(store)
    finally:
        await store.close()


async def test_a_damaged_store_is_checked_at_intervals(
    tmp_path: Path, parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0

    def look(db: sqlite3.Connection) -> bool:
        nonlocal looked
        looked += 1
        return False

    monkeypatch.setattr(probe, "_is_whole", look)
    await fill(tmp_path, parents)
    with damaged(tmp_path, 15):
        store = await open_store(url(tmp_path))
        with pytest.raises(StoreDamagedError):
            await read_all(store)
        async with asyncio.timeout(30):
            while looked == 0:
                with pytest.raises(StoreDamagedError):
                    await store.probe()
        for _ in range(20):
            with pytest.raises(StoreDamagedError):
                await store.probe()
        await store.close()
    assert looked == 1


async def test_a_file_with_a_damaged_first_page_is_not_a_store(
    tmp_path: Path, parents: Parents
) -> None:
    await fill(tmp_path, parents)
    with damaged(tmp_path, 0):
        for call in (open_store(url(tmp_path)), check_store(url(tmp_path))):
            with pytest.raises(
                NotAStoreError, match=r"interactions\.db: the file is not an SQLite"
            ):
                await call
    assert (await check_store(url(tmp_path))).ok


async def test_a_damaged_schema_fails_the_start(tmp_path: Path, parents: Parents) -> None:
    await fill(tmp_path, parents)
    file = tmp_path / "interactions.db"
    content = bytearray(file.read_bytes())
    content[100:PAGE] = b"\xff" * (PAGE - 100)  # an intact header on a damaged page
    file.write_bytes(content)
    with pytest.raises(StoreDamagedError, match=r"interactions\.db: it is damaged"):
        await open_store(url(tmp_path))


async def test_a_truncated_file_is_damaged(tmp_path: Path, parents: Parents) -> None:
    await fill(tmp_path, parents)
    os.truncate(tmp_path / "interactions.db", 10 * PAGE)
    with pytest.raises(StoreDamagedError):
        await open_and_read_all(tmp_path)


async def test_a_permanently_locked_file_fails_the_start(
    tmp_path: Path, parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "BUSY_TIMEOUT_SECONDS", 0.05)
    await fill(tmp_path, parents)
    with another_process(tmp_path) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailableError, match=r"interactions\.db: it is locked by ano"):
            await open_store(url(tmp_path))


_OPEN = """
import asyncio, os, sys
from interaction_svc.store import StoreError
from interaction_svc.store.factory import open_store
asyncio.run(asyncio.to_thread(int))  # imports what that user may not be able to read
if os.geteuid() == 0:
    os.setuid(65534)

async def main():
    store = await open_store(sys.argv[1])
    await store.close()
    print("opened")

try:
    asyncio.run(main())
except StoreError as error:
    print(type(error).__name__, error)
"""


def opened_by_an_ordinary_user(folder: Path) -> str:
    """Open the store as a user without write permission; return the error."""
    command = [sys.executable, "-c", _OPEN, url(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() or done.stderr


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Path]:
    """A folder that other users can access, unlike tmp_path."""
    folder = Path(f"/tmp/interaction-svc-test-{tmp_path.parent.name}-{tmp_path.name}")
    folder.mkdir(mode=0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


async def test_a_file_without_write_permission_fails_the_start(
    public: Path, parents: Parents
) -> None:
    await fill(public, parents)
    file = public / "interactions.db"
    file.chmod(0o000)
    assert "StoreUnavailableError" in opened_by_an_ordinary_user(public)
    file.chmod(0o444)
    public.chmod(0o777)
    said = opened_by_an_ordinary_user(public)
    assert said.startswith("StoreUnavailableError")
    assert "is the file or its directory read-only?" in said
    file.chmod(0o666)
    for left in ("-wal", "-shm"):  # created while the directory was writable
        (public / f"interactions.db{left}").unlink(missing_ok=True)
    public.chmod(0o555)
    said = opened_by_an_ordinary_user(public)
    assert said.startswith("StoreUnavailableError")
    assert "may this user write it?" in said or "read-only?" in said


async def test_a_read_only_file_system_fails_the_start(tmp_path: Path, parents: Parents) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        await fill(disk, parents)
        await asyncio.to_thread(change_disk, disk, "ro")
        with pytest.raises(StoreUnavailableError, match=r"interactions\.db: .*mounted read-only"):
            await open_store(url(disk))
        with pytest.raises(StoreError):
            await open_store(f"sqlite:///{disk}/new.db")
        assert os.listdir(disk) == ["interactions.db"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (sqlite3.SQLITE_FULL, "StoreFullError"),
        (sqlite3.SQLITE_IOERR_SHMSIZE, "StoreFullError"),
        (sqlite3.SQLITE_CORRUPT, "StoreDamagedError"),
        (sqlite3.SQLITE_CORRUPT_INDEX, "StoreDamagedError"),
        (sqlite3.SQLITE_NOTADB, "StoreDamagedError"),
        (sqlite3.SQLITE_IOERR_CORRUPTFS, "StoreDamagedError"),
        (sqlite3.SQLITE_IOERR_FSYNC, "StoreUnavailableError"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "StoreUnavailableError"),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, "StoreError"),
    ],
)
def test_sqlite_errors_map_to_store_errors(code: int, error: str) -> None:
    made = sqlite3.OperationalError("near 'the body of somebody': syntax error")
    made.sqlite_errorcode = code
    assert type(translated(made)).__name__ == error
    assert "somebody" not in str(translated(made))


@pytest.mark.parametrize(
    ("number", "error", "says"),
    [
        (errno.ENOSPC, StoreFullError, "its disk is full"),
        (errno.EDQUOT, StoreFullError, "quota"),
        (errno.EFBIG, StoreFullError, "ulimit -f"),
        (errno.EROFS, StoreUnavailableError, "read-only"),
    ],
)
def test_os_errors_of_writes_map_to_store_errors(
    number: int, error: type[StoreError], says: str
) -> None:
    made = os_failure(OSError(number, os.strerror(number)))
    assert type(made) is error
    assert says in str(made)
    assert os_failure(OSError(errno.EACCES, "")) is None


@pytest.mark.parametrize("size", ["16k", "1m,nr_inodes=1", "1m,nr_inodes=2"])
async def test_a_new_store_on_a_full_disk_raises_store_full(tmp_path: Path, size: str) -> None:
    with (
        small_disk(tmp_path / "disk", size) as disk,
        pytest.raises(StoreFullError, match=r"interactions\.db: its disk is full"),
    ):
        await open_store(url(disk))


async def test_reads_succeed_while_another_process_writes(
    store: Store, tmp_path: Path, parents: Parents
) -> None:
    row = row_of(new_interaction(parents))
    await store.record([row])
    with another_process(tmp_path) as db:
        db.execute("BEGIN IMMEDIATE")
        page = await store.page(EVERYONE, query(parents))
        assert page.frames == row.frame
        db.execute("ROLLBACK")
