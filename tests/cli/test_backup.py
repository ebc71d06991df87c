"""Backup: a copy of a store in use, which can be served as a store."""

import asyncio
import itertools
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from testing.build import NOON_US, Parents, new_interaction, new_parents
from testing.process import COMMAND, run, served
from testing.small_disk import small_disk
from testing.stubs import Ingest, Reading

from interaction_svc.store import (
    NotAStoreError,
    SchemaTooNewError,
    StoreDamagedError,
    StoreFullError,
    StoreUnavailableError,
    row_of,
)
from interaction_svc.store.factory import backup_store, check_store, open_store
from interaction_svc.store.sqlite import schema
from interaction_svc.store.sqlite.migrations import LATEST
from interaction_svc.v1.ingest_service_pb2 import RecordInteractionRequest
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import DeleteInteractionRequest
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.store.contract.api_keys import new_key
from tests.store.contract.stores import EVERYONE, query, sids
from tests.store.sqlite.files import another_process, url


def nobody(done: int, total: int) -> None:
    """Ignore the progress."""


async def fill(folder: Path, parents: Parents, rows: int, data: str = "x" * 2000) -> list[str]:
    store = await open_store(url(folder))
    made = [row_of(new_interaction(parents, NOON_US + n, data=data)) for n in range(rows)]
    for start in range(0, rows, 1000):
        await store.record(made[start : start + 1000])
    await store.close()
    return [row.sid for row in made]


async def sids_of(url: str, parents: Parents) -> list[str]:
    store = await open_store(url)
    try:
        asked = query(parents, limit=1_000_000, max_bytes=1 << 30)
        return sids((await store.page(EVERYONE, asked)).frames)
    finally:
        await store.close()


class Writer:
    """Records Interactions one by one, and deletes every third one."""

    def __init__(self, ingest: Ingest, reading: Reading) -> None:
        self._ingest, self._run_read = ingest, reading
        self.parents = new_parents()
        self.recorded: list[str] = []
        self.deleted: list[str] = []

    async def write(self) -> None:
        for n in itertools.count():
            interaction = new_interaction(self.parents, NOON_US + n)
            await self._ingest.RecordInteraction(RecordInteractionRequest(interaction=interaction))
            self.recorded.append(interaction.sid)
            if n % 3 == 2:
                doomed = self.recorded[n - 1]
                request = DeleteInteractionRequest(
                    service_sid=self.parents.service_sid,
                    session_sid=self.parents.session_sid,
                    sid=doomed,
                )
                await self._run_read.DeleteInteraction(request)
                self.deleted.append(doomed)


@pytest.fixture
async def writers(tmp_path: Path, parents: Parents) -> AsyncIterator[list[Writer]]:
    """Yield three writers on a server whose store is in tmp_path. Each has written."""
    await fill(tmp_path, parents, 3000)
    with served(tmp_path) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            stubs = IngestServiceStub(channel), InteractionServiceStub(channel)
            made = [Writer(*stubs) for _ in range(3)]
            tasks = [asyncio.create_task(writer.write()) for writer in made]
            async with asyncio.timeout(60):
                while any(len(writer.deleted) < 3 for writer in made):
                    await asyncio.sleep(0.01)
            yield made
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks), "a writer was refused"


async def test_a_copy_made_during_writes_is_a_consistent_snapshot(
    tmp_path: Path, writers: list[Writer]
) -> None:
    loop = asyncio.get_running_loop()
    steps = 0

    async def written_more() -> None:
        """Wait until each writer has written more: the copy is made while they write."""
        before = [len(writer.recorded) for writer in writers]
        async with asyncio.timeout(60):
            while any(
                len(writer.recorded) <= count for writer, count in zip(writers, before, strict=True)
            ):
                await asyncio.sleep(0.001)

    def on_progress(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        asyncio.run_coroutine_threadsafe(written_more(), loop).result(60)

    target = tmp_path / "copies" / "copy.db"
    target.parent.mkdir()
    acknowledged = [(len(writer.recorded), len(writer.deleted)) for writer in writers]
    await asyncio.to_thread(backup_store, url(tmp_path), target, on_progress)
    assert steps > 3
    assert os.listdir(target.parent) == ["copy.db"]
    assert target.stat().st_mode & 0o777 == 0o600
    copied = f"sqlite:///{target}"
    for writer, (recorded, deleted) in zip(writers, acknowledged, strict=True):
        there = await sids_of(copied, writer.parents)
        assert set(writer.recorded[:recorded]) - set(writer.deleted) <= set(there)
        assert not set(writer.deleted[:deleted]) & set(there)
        # The copy has all writes of a writer up to one point, and none after it.
        states: list[list[str]] = [[]]
        for n, sid in enumerate(writer.recorded):
            states.append([*states[-1], sid])
            if n % 3 == 2:
                states.append([s for s in states[-1] if s != writer.recorded[n - 1]])
        # The copy may have the last write although its response has not arrived yet.
        known = there if there[-1] in writer.recorded else there[:-1]
        assert known in states
    report = await check_store(copied)
    assert report.ok


async def test_the_command_copies_what_was_acknowledged_and_it_serves(
    tmp_path: Path, writers: list[Writer], parents: Parents
) -> None:
    acknowledged = [set(w.recorded) - set(w.recorded[1::3]) for w in writers]
    target = tmp_path / "copy.db"
    done = await asyncio.to_thread(run, "backup", str(target), "--store", url(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == f"{target}: {target.stat().st_size:,} bytes\n"
    restored = tmp_path / "restored"
    restored.mkdir()
    target.rename(restored / "interactions.db")
    with served(restored):
        pass
    checked = await asyncio.to_thread(run, "migrate", "--check", "--store", url(restored))
    assert checked.returncode == 0, checked.stdout
    assert b" 0 bad" in checked.stdout
    for writer, expected in zip(writers, acknowledged, strict=True):
        assert expected <= set(await sids_of(url(restored), writer.parents))
    assert len(await sids_of(url(restored), parents)) == 3000


async def test_keys_and_tombstones_are_in_the_copy(tmp_path: Path, parents: Parents) -> None:
    deleted = new_interaction(parents)
    store = await open_store(url(tmp_path))
    await store.record([row_of(deleted)])
    await store.delete(EVERYONE, parents.key(deleted.sid), NOON_US)
    key = new_key()
    await store.add_key(key)
    await store.close()
    target = tmp_path / "copy.db"
    backup_store(url(tmp_path), target, nobody)
    copy = await open_store(f"sqlite:///{target}")
    (recorded,) = await copy.record([row_of(deleted)])
    assert recorded.outcome.name == "DELETED"
    assert await copy.keys() == [key]
    await copy.close()


async def test_a_backup_does_not_replace_a_file(tmp_path: Path, parents: Parents) -> None:
    await fill(tmp_path, parents, 1)
    target = tmp_path / "copy.db"
    target.write_text("something else")
    with pytest.raises(StoreUnavailableError, match=r"copy\.db is there already"):
        backup_store(url(tmp_path), target, nobody)
    assert target.read_text() == "something else"
    target.unlink()

    def somebody_is_faster(done: int, total: int) -> None:
        target.write_text("something else")

    with pytest.raises(StoreUnavailableError, match=r"copy\.db is there already"):
        backup_store(url(tmp_path), target, somebody_is_faster)
    assert target.read_text() == "something else"
    assert sorted(os.listdir(tmp_path)) == ["copy.db", "interactions.db"]


async def test_two_backups_to_one_file_do_not_mix(tmp_path: Path, parents: Parents) -> None:
    await fill(tmp_path, parents, 10)
    target = tmp_path / "copy.db"

    def begin_another(done: int, total: int) -> None:
        with pytest.raises(StoreUnavailableError, match=r"copy\.db\.part: another backup is"):
            backup_store(url(tmp_path), target, nobody)

    backup_store(url(tmp_path), target, begin_another)
    assert (await check_store(f"sqlite:///{target}")).rows == 10


@pytest.mark.parametrize(
    "name",
    ["file:copy.db", "file::memory:", ":memory:", "my copy.db", "copy.db?mode=memory", "%41"],
)
async def test_a_backup_is_written_to_the_given_name(
    tmp_path: Path, parents: Parents, name: str
) -> None:
    await fill(tmp_path, parents, 10)
    copies = tmp_path / "copies"
    copies.mkdir()
    done = await asyncio.to_thread(run, "backup", name, "--store", url(tmp_path), cwd=copies)
    assert done.returncode == 0, done.stderr
    assert os.listdir(copies) == [name]
    assert (copies / name).stat().st_size == (tmp_path / "interactions.db").stat().st_size
    (copies / name).rename(copies / "interactions.db")
    assert (await check_store(url(copies))).rows == 10


@pytest.mark.parametrize("name", ["copy.db\n", " copy.db", "co\x1bpy.db", "copy.db\u200b"])
async def test_a_backup_to_a_name_with_white_space_or_control_characters_is_refused(
    tmp_path: Path, parents: Parents, name: str
) -> None:
    await fill(tmp_path, parents, 1)
    with pytest.raises(StoreUnavailableError, match="white space around it or characters") as said:
        backup_store(url(tmp_path), tmp_path / name, nobody)
    assert str(said.value).isprintable()
    assert os.listdir(tmp_path) == ["interactions.db"]


async def test_the_part_file_of_a_killed_backup_is_replaced(
    tmp_path: Path, parents: Parents
) -> None:
    await fill(tmp_path, parents, 20_000)
    part, target = tmp_path / "copy.db.part", tmp_path / "copy.db"
    backup = [*COMMAND, "backup", str(target), "--store", url(tmp_path)]
    process = subprocess.Popen(backup)  # noqa: ASYNC220
    async with asyncio.timeout(60):
        while not (part.exists() and part.stat().st_size > 4096):
            assert process.poll() is None
            await asyncio.sleep(0)
    process.kill()
    process.wait()
    assert part.exists()
    part.chmod(0o644)
    for ending in ("-journal", "-wal", "-shm"):
        Path(f"{part}{ending}").write_text("left behind")
    done = await asyncio.to_thread(run, *backup[len(COMMAND) :])
    assert done.returncode == 0, done.stderr
    assert f"{part}, left by a backup that was killed, was replaced" in done.stderr.decode()
    assert sorted(os.listdir(tmp_path)) == ["copy.db", "interactions.db"]
    assert target.stat().st_mode & 0o777 == 0o600
    assert (await check_store(f"sqlite:///{target}")).rows == 20_000


async def test_a_part_file_that_is_not_a_backup_is_not_replaced(
    tmp_path: Path, parents: Parents
) -> None:
    await fill(tmp_path, parents, 1)
    part = tmp_path / "copy.db.part"
    part.write_text("the second part of a film")
    with pytest.raises(StoreUnavailableError, match=r"copy\.db\.part is there already and is no"):
        backup_store(url(tmp_path), tmp_path / "copy.db", nobody)
    assert part.read_text() == "the second part of a film"
    part.unlink()
    part.symlink_to("interactions.db")
    with pytest.raises(StoreUnavailableError, match=r"copy\.db\.part: "):
        backup_store(url(tmp_path), tmp_path / "copy.db", nobody)
    assert (await check_store(url(tmp_path))).rows == 1


async def test_a_file_that_is_not_a_store_is_not_backed_up(
    tmp_path: Path, parents: Parents
) -> None:
    target = tmp_path / "copy.db"
    with pytest.raises(StoreUnavailableError, match="can't be opened"):
        backup_store(url(tmp_path), target, nobody)
    (tmp_path / "interactions.db").touch()
    with pytest.raises(NotAStoreError, match="empty"):
        backup_store(url(tmp_path), target, nobody)
    with another_process(tmp_path) as db:
        db.execute("CREATE TABLE somebody_elses (a)")
    with pytest.raises(NotAStoreError, match="not one of interaction-svc"):
        backup_store(url(tmp_path), target, nobody)
    (tmp_path / "interactions.db").unlink()
    await fill(tmp_path, parents, 1)
    with another_process(tmp_path) as db:
        db.execute("INSERT INTO schema_migrations VALUES (?, 'later', '')", (LATEST + 1,))
    with pytest.raises(SchemaTooNewError):
        backup_store(url(tmp_path), target, nobody)
    assert os.listdir(tmp_path) == ["interactions.db"]


async def test_a_damaged_store_is_not_copied(tmp_path: Path, parents: Parents) -> None:
    await fill(tmp_path, parents, 300)
    with (tmp_path / "interactions.db").open("r+b") as file:
        file.seek(20 * schema.PAGE_BYTES)
        file.write(b"\xff" * schema.PAGE_BYTES)
    with pytest.raises(StoreDamagedError):
        backup_store(url(tmp_path), tmp_path / "copy.db", nobody)
    assert os.listdir(tmp_path) == ["interactions.db"]


async def test_a_store_with_a_damaged_interaction_is_not_copied(
    tmp_path: Path, parents: Parents
) -> None:
    """SQLite's own check does not detect the damage."""
    await fill(tmp_path, parents, 10)
    with another_process(tmp_path) as db:
        sid, frame = db.execute("SELECT sid, frame FROM interactions LIMIT 1").fetchone()
        damaged = frame[:-1] + bytes([frame[-1] ^ 1])
        db.execute("UPDATE interactions SET frame = ? WHERE sid = ?", (damaged, sid))
    with pytest.raises(StoreDamagedError, match="an Interaction in it is damaged"):
        backup_store(url(tmp_path), tmp_path / "copy.db", nobody)
    assert os.listdir(tmp_path) == ["interactions.db"]


async def test_a_full_disk_leaves_no_partial_backup(tmp_path: Path, parents: Parents) -> None:
    await fill(tmp_path, parents, 1000)
    with small_disk(tmp_path / "small", "1m") as small:
        with pytest.raises(StoreFullError, match=r"copy\.db\.part: its disk is full"):
            backup_store(url(tmp_path), small / "copy.db", nobody)
        assert os.listdir(small) == []


async def test_an_interrupt_in_the_middle_of_the_copy_leaves_no_file(
    tmp_path: Path, parents: Parents
) -> None:
    await fill(tmp_path, parents, 2_000)

    def interrupt(done: int, total: int) -> None:
        assert done < total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup_store(url(tmp_path), tmp_path / "copy.db", interrupt)
    assert os.listdir(tmp_path) == ["interactions.db"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_command_and_leaves_no_file(
    tmp_path: Path, parents: Parents, number: signal.Signals
) -> None:
    await fill(tmp_path, parents, 1)
    # The lock keeps the backup from ending before it gets the signal.
    with another_process(tmp_path) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("BEGIN EXCLUSIVE")
        process = subprocess.Popen(  # noqa: ASYNC220
            [*COMMAND, "backup", str(tmp_path / "copy.db"), "--store", url(tmp_path)],
            stderr=subprocess.DEVNULL,
        )
        async with asyncio.timeout(60):
            while not (tmp_path / "copy.db.part").exists():
                assert process.poll() is None
                await asyncio.sleep(0)
        process.send_signal(number)
    assert process.wait(60) != 0
    assert os.listdir(tmp_path) == ["interactions.db"]
