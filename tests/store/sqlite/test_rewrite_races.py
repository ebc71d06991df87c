"""Processes that use a store while another one rewrites it."""

import asyncio
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from interaction_svc.store.factory import backup_store, open_store
from interaction_svc.store.sqlite import connection, migrations
from interaction_svc.store.sqlite.migrations import LATEST
from tests.store.sqlite.files import url
from tests.store.sqlite.old_stores import make_old_store
from tests.store.sqlite.rewrites import (
    COMMAND,
    in_order,
    path,
    rewrite,
    small_batches,
    some,
    stored,
)

__all__ = ["path", "small_batches"]


async def test_one_of_two_processes_rewrites_while_the_other_waits(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    interactions = some(3000)
    make_old_store(path, interactions)
    processes = [
        subprocess.Popen([*COMMAND, "migrate", "--store", url(tmp_path)])  # noqa: ASYNC220
        for _ in range(2)
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert await stored(tmp_path) == in_order(interactions)


def migrate(folder: Path) -> None:
    async def opened_and_closed() -> None:
        await (await open_store(url(folder))).close()

    asyncio.run(opened_and_closed())


def check_and_serve(folder: Path) -> None:
    asyncio.run(stored(folder))


def back_up(folder: Path) -> None:
    backup_store(url(folder), folder / "backup.db", lambda _done, _total: None)
    with closing(sqlite3.connect(folder / "backup.db")) as db:
        assert db.execute("SELECT max(version) FROM schema_migrations").fetchone() == (LATEST,)


@pytest.mark.parametrize("use", [migrate, check_and_serve, back_up])
@pytest.mark.parametrize("is_read", [False, True], ids=["just opened", "header read"])
async def test_a_process_that_opened_the_old_file_before_the_switch_uses_the_new_one(
    tmp_path: Path,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[Path], None],
    is_read: bool,
) -> None:
    interactions = some(5)
    make_old_store(path, interactions)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = DELETE")  # no lock is held between two statements
    is_open, is_rewritten = threading.Event(), threading.Event()
    module, name = (migrations, "_checked_version") if is_read else (connection, "_read_header")
    read = getattr(module, name)

    def read_after_the_rewrite(db: sqlite3.Connection) -> object:
        monkeypatch.setattr(module, name, read)
        is_open.set()
        is_rewritten.wait(10)
        return read(db)

    monkeypatch.setattr(module, name, read_after_the_rewrite)
    using = asyncio.create_task(asyncio.to_thread(use, tmp_path))
    await asyncio.to_thread(is_open.wait, 10)
    assert await asyncio.to_thread(rewrite, path) is not None
    is_rewritten.set()
    await using
    assert await stored(tmp_path) == in_order(interactions)
