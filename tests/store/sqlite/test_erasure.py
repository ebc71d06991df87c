"""Deleted content leaves all files of the store within seconds."""

import asyncio
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from testing.build import NOON_US, SECOND_US, Parents, new_interaction, new_leg, new_parents

from interaction_svc.app.bulk_delete import bulk_delete
from interaction_svc.domain.interactions import InteractionKey
from interaction_svc.domain.units import MIB
from interaction_svc.store import Expired, InvolvesParticipant, Row, Store, decode, row_of
from interaction_svc.store.factory import open_store
from interaction_svc.store.sqlite import schema
from interaction_svc.store.sqlite.connection import connect
from interaction_svc.store.sqlite.erasure import wal_truncation
from interaction_svc.store.sqlite.erasure.page_wiper import PageWiper, has_residue
from interaction_svc.store.sqlite.erasure.wal_truncation import ERASED_WITHIN_SECONDS
from interaction_svc.store.sqlite.row_format import pack
from interaction_svc.store.tables import INTERACTIONS, TOMBSTONES, Tombstone
from tests.store.contract.stores import EVERYONE, NOW_US
from tests.store.sqlite.files import another_process, url

_INNER_PAGE = 0x02


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(url(tmp_path))
    assert await opened.erase_traces()  # of the creation; the tests request later erasures
    yield opened
    await opened.close()


def texts_of(row: Row, body: str) -> list[str]:
    """Return the texts of an Interaction that must be erased: its data, and SIDs of both legs."""
    sids = (
        row.inbound_participant_sid,
        row.outbound_participant_sid,
        row.inbound_resource_sid,
        row.outbound_resource_sid,
    )
    return [body, *(sid for sid in sids if sid is not None)]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of the store's files.

    By a process of its own: to open and close the file here would release SQLite's locks on it.
    """
    return {
        file.name: subprocess.run(["cat", str(file)], capture_output=True, check=False).stdout
        for file in folder.glob("*.db*")
    }


def found(folder: Path, texts: list[str]) -> dict[str, list[str]]:
    """Return the files that contain each text, or a SID in its packed form."""
    files = contents(folder)
    return {
        text: sorted(
            name
            for name, content in files.items()
            if text.encode() in content or (_is_sid(text) and pack(text) in content)
        )
        for text in texts
    }


def _is_sid(text: str) -> bool:
    return re.fullmatch("[A-Z]{2}[0-9a-f]{32}", text) is not None


async def until_gone(folder: Path, texts: list[str]) -> None:
    async with asyncio.timeout(ERASED_WITHIN_SECONDS + 20):  # the bound, on a busy machine
        while any(found(folder, texts).values()):
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("length", [20, 1_000, 200_000])
async def test_a_deleted_interaction_leaves_no_bytes_in_any_file(
    store: Store, tmp_path: Path, parents: Parents, length: int
) -> None:
    kept = row_of(new_interaction(parents, NOON_US, data="kept"))
    body = "the deleted text " + "x" * length
    row = row_of(new_interaction(parents, NOON_US + 1, data=body + " and its end"))
    texts = [*texts_of(row, body[:20]), "and its end"]
    await store.record([kept, row])
    assert all(found(tmp_path, texts).values())
    await store.delete(EVERYONE, parents.key(row.sid), NOW_US)
    await until_gone(tmp_path, texts)
    assert all(found(tmp_path, texts_of(kept, "kept")).values())
    assert await store.get(EVERYONE, parents.key(kept.sid)) == kept.frame


async def test_an_updated_interaction_leaves_no_bytes_of_its_earlier_version(
    store: Store, tmp_path: Path, parents: Parents
) -> None:
    first = new_interaction(parents, data="the earlier text")
    update = new_interaction(parents, sid=first.sid, updated_us=NOW_US, data="the later")
    await store.record([row_of(first)])
    texts = texts_of(row_of(first), "the earlier text")
    assert all(found(tmp_path, texts).values())
    await store.record([row_of(update)])
    await until_gone(tmp_path, texts)
    assert all(found(tmp_path, texts_of(row_of(update), "the later")).values())


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_load_leaves_no_bytes_of_replaced_or_deleted_rows(
    store: Store, tmp_path: Path, parents: Parents, replaced: bool
) -> None:
    first = new_interaction(parents, data="the earlier text")
    update = new_interaction(parents, sid=first.sid, updated_us=NOW_US, data="the later")
    await store.record([row_of(first)])
    texts = texts_of(row_of(first), "the earlier text")
    assert all(found(tmp_path, texts).values())
    if replaced:
        await store.load(INTERACTIONS, [row_of(update)])
    else:
        tombstone = Tombstone(parents.session_sid, parents.account_sid, first.sid, NOW_US)
        await store.load(TOMBSTONES, [tombstone])
    await until_gone(tmp_path, texts)


def bodies_in(folder: Path) -> set[str]:
    """Return the numbered bodies that any file contains, completely or partly."""
    return {
        body.decode()
        for content in contents(folder).values()
        for body in re.findall(rb"<[0-9]{8}>", content)
    }


@pytest.mark.parametrize(
    ("seed", "longest", "others"),
    [(1, 40, False), (1, 400, False), (2, 400, True), (1, 3_000, False), (2, 40_000, False)],
)
async def test_page_splits_and_merges_leave_no_bytes_of_deleted_rows(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    longest: int,
    others: bool,
) -> None:
    """Rows of several Sessions are inserted interleaved, then updated, moved and deleted."""
    if others:  # other processes that truncate the log right before a scan
        look = PageWiper.scan_wal

        def look_after_another(self: PageWiper) -> None:
            with another_process(tmp_path) as other, suppress(sqlite3.OperationalError):
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            look(self)

        monkeypatch.setattr(PageWiper, "scan_wal", look_after_another)
    chance = random.Random(seed)
    numbers = iter(range(10**6))
    leg = new_leg()
    places = [new_parents() for _ in range(4)]
    living: dict[str, tuple[Parents, Row, str]] = {}

    def made(parents: Parents, created_us: int, **given: Any) -> tuple[Row, str]:
        body = f"<{next(numbers):08d}>"
        data = body * (1 + chance.randrange(longest) // 10)
        return row_of(new_interaction(parents, created_us, data=data, **given)), body

    async def record(rows: list[tuple[Parents, Row, str]]) -> None:
        await store.record([row for _, row, _ in rows])
        living.update({row.sid: (parents, row, body) for parents, row, body in rows})

    async def delete(keys: list[InteractionKey]) -> None:
        await asyncio.gather(*(store.delete(EVERYONE, key, NOW_US) for key in keys))

    for step in range(6):
        created_us = NOON_US + step * 10 * SECOND_US
        await record(
            [
                (p, *made(p, created_us + chance.randrange(SECOND_US), inbound=leg))
                if chance.random() < 0.2
                else (p, *made(p, created_us + chance.randrange(SECOND_US)))
                for p in chance.choices(places, k=120)
            ]
        )
        changed = chance.sample(sorted(living), 30)
        updates = []
        for sid in changed:
            p, row, _ = living[sid]
            moved_us = row.created_us - chance.randrange(2) * SECOND_US
            updates.append((p, *made(p, moved_us, updated_us=NOW_US + step * SECOND_US, sid=sid)))
        await record(updates)
        doomed = chance.sample(sorted(living), 40)
        await delete([living[sid][0].key(sid) for sid in doomed])
        for sid in doomed:
            del living[sid]
    await bulk_delete(store, InvolvesParticipant(leg.participant_sid), now_us=NOW_US)
    await bulk_delete(store, Expired(NOON_US + 15 * SECOND_US), now_us=NOW_US)
    assert await store.erase_traces()
    frames, _ = await store.scan(after=None, limit=10_000, max_bytes=1 << 30)
    kept = [decode(frame) for frame in frames]
    assert 50 < len(kept) < len(living)
    assert bodies_in(tmp_path) == {one.data[:10] for one in kept}
    assert not any(found(tmp_path, [leg.participant_sid, leg.resource_sid]).values())
    assert (await store.check()).ok
    with another_process(tmp_path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_the_wal_restarts_under_continuous_records(
    store: Store, tmp_path: Path, parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits held in the WAL until they are scanned must not prevent its restart."""
    monkeypatch.setattr(wal_truncation, "CHECKPOINT_BYTES", MIB)
    for batch in range(40):
        made = [
            new_interaction(parents, NOON_US + batch * 100 + n, data="x" * 10_000)
            for n in range(50)
        ]
        await store.record([row_of(one) for one in made])
    assert (tmp_path / "interactions.db-wal").stat().st_size < 12 * MIB < 40 * 50 * 10_000


async def test_close_wipes_residue_of_inserts(tmp_path: Path) -> None:
    """Before any row is deleted, because a later process would not look for residue."""
    store = await open_store(url(tmp_path))
    places = [new_parents() for _ in range(10)]
    rows = [
        row_of(new_interaction(places[n % 10], NOON_US + n, data=f"<{n:08d}>" * (n % 60 + 1)))
        for n in range(3_000)
    ]
    for start in range(0, 3_000, 100):
        await store.record(rows[start : start + 100])
    await store.close()
    assert residue_pages(tmp_path) == 0


def residue_pages(folder: Path) -> int:
    content, size = contents(folder)["interactions.db"], schema.PAGE_BYTES
    return sum(
        has_residue(content[begin : begin + size], begin // size + 1)
        for begin in range(0, len(content), size)
    )


_CRASH_AFTER_A_CHECKPOINT = """
import asyncio, os, sys
from interaction_svc.store.factory import open_store
from interaction_svc.store import row_of
from testing.build import NOON_US, new_interaction, new_parents

async def main():
    store = await open_store(sys.argv[1])
    places = [new_parents() for _ in range(10)]
    rows = [
        row_of(new_interaction(places[n % 10], NOON_US + n, data="x" * (n % 700)))
        for n in range(3_000)
    ]
    for start in range(0, 3_000, 100):
        await store.record(rows[start : start + 100])
    await store._write.run(lambda db: db.execute("PRAGMA wal_checkpoint(FULL)").fetchall())
    await store.record([row_of(new_interaction(places[0]))])
    os._exit(0)

asyncio.run(main())
"""


async def test_the_next_start_wipes_residue_of_a_killed_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _CRASH_AFTER_A_CHECKPOINT, url(tmp_path)]
    await asyncio.to_thread(subprocess.run, command, check=True)
    assert residue_pages(tmp_path) > 0
    store = await open_store(url(tmp_path))
    async with asyncio.timeout(30):
        while residue_pages(tmp_path):
            await asyncio.sleep(0.1)
    assert (await store.check()).ok
    await store.close()


async def test_a_reader_in_another_process_only_delays_the_erasure(
    store: Store, tmp_path: Path, parents: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_truncation, "ERASED_WITHIN_SECONDS", 0.0)  # so that it warns at once
    row = row_of(new_interaction(parents, data="the deleted text"))
    texts = texts_of(row, "the deleted text")
    await store.record([row])
    with structlog.testing.capture_logs() as logged, another_process(tmp_path) as db:
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM interactions").fetchone() == (1,)
        await store.delete(EVERYONE, parents.key(row.sid), NOW_US)
        assert not await store.erase_traces()
        async with asyncio.timeout(30):
            while not logged:
                await asyncio.sleep(0.05)
        assert all(found(tmp_path, texts).values())
        assert (await store.record([row_of(new_interaction(parents))]))[0].frame is not None
        db.execute("COMMIT")
        await until_gone(tmp_path, texts)
        async with asyncio.timeout(30):
            while len(logged) < 2:
                await asyncio.sleep(0.05)
    assert [entry["log_level"] for entry in logged] == ["warning", "info"]


async def test_erase_traces_erases_at_once(store: Store, tmp_path: Path, parents: Parents) -> None:
    row = row_of(new_interaction(parents, data="the deleted text"))
    await store.record([row])
    await store.delete(EVERYONE, parents.key(row.sid), NOW_US)
    assert await store.erase_traces()
    assert not any(found(tmp_path, texts_of(row, "the deleted text")).values())


async def test_a_cancelled_delete_is_erased_too(
    store: Store, tmp_path: Path, parents: Parents
) -> None:
    row = row_of(new_interaction(parents, data="the deleted text"))
    await store.record([row])
    deleting = asyncio.create_task(store.delete(EVERYONE, parents.key(row.sid), NOW_US))
    for _ in range(3):  # the writer takes it from the queue
        await asyncio.sleep(0)
    deleting.cancel()
    await asyncio.wait([deleting])
    await until_gone(tmp_path, texts_of(row, "the deleted text"))


_CRASH = """
import asyncio, os, sys
from interaction_svc.store.factory import open_store
from interaction_svc.store import row_of
from interaction_svc.domain.interactions import Scope
from testing.build import new_interaction, new_parents

async def main():
    store = await open_store(sys.argv[1])
    parents = new_parents()
    row = row_of(new_interaction(parents, data="the deleted text"))
    await store.record([row])
    await store.delete(Scope(None), parents.key(row.sid), 1)
    os._exit(0)

asyncio.run(main())
"""


async def test_the_next_start_erases_what_a_killed_process_deleted(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", _CRASH, url(tmp_path)]
    await asyncio.to_thread(subprocess.run, command, check=True)
    assert found(tmp_path, ["the deleted text"]) == {"the deleted text": ["interactions.db-wal"]}
    store = await open_store(url(tmp_path))
    try:
        await until_gone(tmp_path, ["the deleted text"])
    finally:
        await store.close()


async def test_wiping_an_inner_page_changes_only_its_residue(tmp_path: Path) -> None:
    """SQLite leaves residue there rarely, so the test writes it itself."""
    store = await open_store(url(tmp_path))
    places = [new_parents() for _ in range(10)]
    rows = [row_of(new_interaction(places[n % 10], NOON_US + n)) for n in range(1_000)]
    await store.record(rows)
    await store.close()
    file, size = tmp_path / "interactions.db", schema.PAGE_BYTES
    content = bytearray(file.read_bytes())
    inner = [at for at in range(size, len(content), size) if content[at] == _INNER_PAGE]
    for at in inner:
        begin, end = 12 + 2 * int.from_bytes(content[at + 3 : at + 5]), content[at + 5 : at + 7]
        length = int.from_bytes(end) - begin
        content[at + begin : at + begin + length] = (b"<00000000>" * size)[:length]
    file.write_bytes(content)
    assert residue_pages(tmp_path) == len(inner) > 0
    wiper = PageWiper(file, Path(f"{file}-wal"))
    with closing(wiper), closing(connect(file)) as db:
        wiper.scan_file()
        assert wiper.wipe(db)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert residue_pages(tmp_path) == 0
    assert bodies_in(tmp_path) == set()
    store = await open_store(url(tmp_path))
    assert (await store.check()).ok
    frames, _ = await store.scan(after=None, limit=2_000, max_bytes=1 << 30)
    assert sorted(frames) == sorted(row.frame for row in rows)
    await store.close()
