"""The rewrite of a store of an earlier layout, also when it is interrupted."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest
from testing.build import NOON_US, new_interaction, new_leg, new_sid
from testing.small_disk import small_disk

from interaction_svc.domain.interactions import Outcome, Scope
from interaction_svc.domain.units import MIB
from interaction_svc.store import (
    DamagedRowError,
    StoreClosedError,
    StoreDamagedError,
    StoreFullError,
    StoreUnavailableError,
    row_of,
)
from interaction_svc.store.factory import check_store, open_store
from interaction_svc.store.sqlite.rewrite import rewriter as rewriting
from interaction_svc.store.sqlite.rewrite.files import size_of
from interaction_svc.store.sqlite.rewrite.rewriter import needed_bytes
from interaction_svc.v1 import interaction_pb2 as pb
from tests.store.contract.stores import EVERYONE
from tests.store.sqlite.files import url
from tests.store.sqlite.old_stores import add, delete, make_old_store, opened
from tests.store.sqlite.rewrites import (
    COMMAND,
    PARENTS,
    everything,
    in_order,
    path,
    rewrite,
    small_batches,
    some,
    stored,
)

__all__ = ["path", "small_batches"]


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_every_earlier_layout_is_rewritten_completely(
    tmp_path: Path, path: Path, version: int
) -> None:
    interactions = some(35)
    make_old_store(path, interactions, version=version)
    with closing(opened(path)) as db:
        delete(db, interactions[7])
        if version >= 2:
            key = (new_sid("SK"), PARENTS.account_sid, "read", bytes(32), NOON_US, None)
            upper = PARENTS.account_sid[:2] + PARENTS.account_sid[2:].upper()
            stored_key = (key[0], upper, *key[2:])
            db.execute("INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?)", stored_key)
    kept = [one for one in interactions if one is not interactions[7]]

    store = await open_store(url(tmp_path))
    try:
        assert await everything(store) == in_order(kept)
        assert await store.has_keys() is (version >= 2)
        if version >= 2:
            assert [tuple(one) for one in await store.keys()] == [key]
        (recorded,) = await store.record([row_of(interactions[7])])
        assert recorded.outcome is Outcome.DELETED
        assert (await store.check()).ok
    finally:
        await store.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["interactions.db"]


async def test_a_store_of_the_current_layout_is_not_rewritten(tmp_path: Path, path: Path) -> None:
    make_old_store(path, some(5))
    assert rewrite(path) is not None
    inode = path.stat().st_ino
    assert rewrite(path) is None
    assert needed_bytes(path) == 0
    await stored(tmp_path)
    assert path.stat().st_ino == inode


async def test_upper_case_sids_become_lower_case_and_duplicates_are_merged(
    tmp_path: Path, path: Path
) -> None:
    lower = new_interaction(
        PARENTS, sid="KI" + "ab" * 16, outbound=new_leg(pb.RESOURCE_STATUS_SENT)
    )
    upper = pb.Interaction()
    upper.CopyFrom(lower)
    upper.sid = "KI" + "AB" * 16
    upper.outbound.resource_sid = "SM" + lower.outbound.resource_sid[2:].upper()
    upper.outbound.resource_status = pb.RESOURCE_STATUS_DELIVERED
    alone = new_interaction(PARENTS, sid="KI" + "CD" * 16)
    make_old_store(path, [lower, upper, alone])
    rewritten = rewrite(path)
    assert rewritten is not None
    assert rewritten.rows == 2
    merged, other = await stored(tmp_path)
    lower.outbound.resource_status = pb.RESOURCE_STATUS_DELIVERED
    assert merged == lower
    assert other.sid == alone.sid[:2] + alone.sid[2:].lower()


async def test_damaged_rows_are_kept_and_never_returned(tmp_path: Path, path: Path) -> None:
    good, bad, wrong = (new_interaction(PARENTS, NOON_US + n) for n in range(3))
    make_old_store(path, [good, bad, wrong])
    with closing(opened(path)) as db:
        for sid, change in ((bad.sid, "x'ff'"), (wrong.sid, "CAST(frame || x'0a022803' AS BLOB)")):
            db.execute(f"UPDATE interactions SET frame = {change} WHERE sid = ?", (sid,))
    rewritten = rewrite(path)
    assert rewritten is not None
    assert (rewritten.rows, rewritten.damaged) == (3, 2)
    report = await check_store(url(tmp_path))
    assert {sid for _, _, sid in report.some_bad} == {bad.sid, wrong.sid}
    store = await open_store(url(tmp_path))
    try:
        assert await store.get(Scope(PARENTS.account_sid), PARENTS.key(good.sid)) is not None
        for sid in (bad.sid, wrong.sid):
            with pytest.raises(DamagedRowError):
                await store.get(EVERYONE, PARENTS.key(sid))
    finally:
        await store.close()


@pytest.mark.parametrize("column", ["inbound_participant_sid", "outbound_resource_sid", "type"])
async def test_a_row_with_a_damaged_column_is_kept_and_never_returned(
    tmp_path: Path, path: Path, column: str
) -> None:
    interaction = new_interaction(PARENTS)
    make_old_store(path, [interaction])
    with closing(opened(path)) as db:
        value = 0 if column == "type" else "\x00damaged"
        db.execute(f"UPDATE interactions SET {column} = ?", (value,))
    rewritten = rewrite(path)
    assert rewritten is not None
    assert (rewritten.rows, rewritten.damaged) == (1, 1)
    store = await open_store(url(tmp_path))
    try:
        with pytest.raises(DamagedRowError):
            await store.get(EVERYONE, PARENTS.key(interaction.sid))
    finally:
        await store.close()


@pytest.mark.parametrize("column", ["session_sid", "sid", "account_sid", "service_sid"])
async def test_a_row_without_a_valid_key_fails_the_rewrite_without_changes(
    path: Path, column: str
) -> None:
    make_old_store(path, [new_interaction(PARENTS) for _ in range(3)])
    with closing(opened(path)) as db:
        db.execute(f"UPDATE interactions SET {column} = 'no SID' WHERE rowid = 2")
    with pytest.raises(StoreDamagedError, match="'no SID' where a SID must match"):
        rewrite(path)
    with closing(opened(path)) as db:
        assert db.execute("SELECT count(*) FROM interactions").fetchone() == (3,)


async def test_an_interrupted_copy_resumes_from_its_position(tmp_path: Path, path: Path) -> None:
    interactions = some(100)
    make_old_store(path, interactions)
    stop = threading.Event()
    reached: list[tuple[str, int, int]] = []

    def stop_at_50(step: str, done: int, total: int) -> None:
        reached.append((step, done, total))
        if done == 50:
            stop.set()

    with pytest.raises(StoreClosedError, match="resumes"):
        rewrite(path, stop_at_50, stop)
    assert reached[-1] == ("copy", 50, 100)
    reached.clear()
    stop.clear()
    assert rewrite(path, lambda step, done, total: reached.append((step, done, total))) is not None
    assert reached[0] == ("copy", 60, 100)
    assert reached[-1] == ("compare", 100, 100)
    assert await stored(tmp_path) == in_order(interactions)


async def test_the_next_process_completes_the_rewrite_of_a_killed_one(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    interactions = [new_interaction(PARENTS, NOON_US + n, data="x" * 500) for n in range(6_000)]
    make_old_store(path, interactions)
    part = Path(f"{path}{rewriting.ENDING}")
    for size in (1, 3 * MIB):
        process = subprocess.Popen(  # noqa: ASYNC220
            [*COMMAND, "migrate", "--store", url(tmp_path)], stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(60):
            while process.poll() is None and size_of(part) <= size:
                await asyncio.sleep(0)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    done = subprocess.run(  # noqa: ASYNC221
        [*COMMAND, "migrate", "--store", url(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "6,000 rows checked, 0 bad" in done.stdout
    assert await stored(tmp_path) == in_order(interactions)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["interactions.db"]


async def test_a_server_of_the_previous_version_works_until_the_switch(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "_SWITCH_SECONDS", 0)
    interactions = some(60)
    make_old_store(path, interactions)
    with closing(opened(path)) as server:
        server.execute("SELECT * FROM interactions").fetchone()
        with pytest.raises(StoreUnavailableError, match="another process has it open"):
            rewrite(path)
        changed = pb.Interaction()
        changed.CopyFrom(interactions[3])
        changed.data = "changed after the copy"
        new = new_interaction(PARENTS, NOON_US - 1)
        add(server, [changed, new], owners=True)
        delete(server, interactions[20])
        delete(server, interactions[59])
    assert rewrite(path) is not None
    kept = [one for n, one in enumerate(interactions) if n not in (3, 20, 59)]
    assert await stored(tmp_path) == in_order([*kept, changed, new])


async def test_rows_deleted_after_the_copy_leave_no_bytes(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "_SWITCH_SECONDS", 0)
    interactions = [
        new_interaction(PARENTS, NOON_US + n, data=f"body {n:04d} " * 20) for n in range(300)
    ]
    make_old_store(path, interactions)
    with closing(opened(path)) as server:
        server.execute("SELECT * FROM interactions").fetchone()
        with pytest.raises(StoreUnavailableError):
            rewrite(path)
        for one in interactions[::3]:
            delete(server, one)
    assert rewrite(path) is not None
    content = path.read_bytes()
    for n, one in enumerate(interactions):
        assert (one.data.encode() in content) is bool(n % 3)


async def test_a_copy_of_another_state_is_replaced(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "_SWITCH_SECONDS", 0)
    make_old_store(path, some(30))
    with closing(opened(path)) as server:
        server.execute("SELECT * FROM interactions").fetchone()
        with pytest.raises(StoreUnavailableError):
            rewrite(path)
        # Another program deletes rows without tombstones.
        server.execute("DELETE FROM interactions")
    assert rewrite(path) is not None
    assert await stored(tmp_path) == []


async def test_too_little_disk_space_fails_before_the_copy(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        path = disk / "interactions.db"
        interactions = some(50)
        make_old_store(path, interactions)
        with pytest.raises(StoreFullError, match=r"needs [0-9,]+ bytes beside it"):
            rewrite(path)
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT count(*) FROM interactions").fetchone() == (50,)
        assert {file.name for file in disk.iterdir()} == {"interactions.db"}
        report = await check_store(f"sqlite:///{path}")
        assert report.migration_bytes == needed_bytes(path) > 0


async def test_symlink_mode_and_owner_are_preserved(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    make_old_store(folder / "real.db", some(5))
    (folder / "real.db").chmod(0o640)
    link = tmp_path / "interactions.db"
    link.symlink_to(folder / "real.db")
    before = (folder / "real.db").stat()
    assert rewrite(link) is not None
    after = (folder / "real.db").stat()
    assert link.is_symlink()
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    assert after.st_ino != before.st_ino
    assert {file.name for file in folder.iterdir()} == {"real.db"}
    await stored(tmp_path)


async def test_check_prints_the_disk_space_that_the_migration_needs(
    tmp_path: Path, path: Path
) -> None:
    make_old_store(path, some(5))
    checked = subprocess.run(  # noqa: ASYNC221
        [*COMMAND, "migrate", "--check", "--store", url(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert checked.returncode == 1
    assert f"the migration needs {needed_bytes(path):,} bytes of disk" in checked.stdout
