"""`purge` and `erase` on the store of a running server."""

import asyncio
import subprocess
from pathlib import Path

import pytest
from testing.build import Parents, new_interaction, new_leg, new_parents, new_sid
from testing.process import command, run

from interaction_svc.app.retention import DAY_US
from interaction_svc.domain.timestamps import now_us
from interaction_svc.store import row_of
from interaction_svc.store.factory import open_store
from tests.store.contract.stores import EVERYONE, query, sids
from tests.store.sqlite.files import another_process, url


async def fill(folder: Path, *interactions: object) -> None:
    store = await open_store(url(folder))
    await store.record([row_of(interaction) for interaction in interactions])  # type: ignore[arg-type]
    await store.close()


async def left(folder: Path, parents: Parents) -> list[str]:
    store = await open_store(url(folder))
    try:
        return sids((await store.page(EVERYONE, query(parents, limit=100))).frames)
    finally:
        await store.close()


async def test_purge_prints_counts_in_a_dry_run_and_then_deletes_the_expired(
    tmp_path: Path, parents: Parents
) -> None:
    other = new_parents()
    old = [new_interaction(parents, now_us() - days * DAY_US) for days in (12, 11)]
    young = new_interaction(parents, now_us() - 9 * DAY_US)
    others = [new_interaction(other, now_us() - days * DAY_US) for days in (9, 4)]
    await fill(tmp_path, *old, young, *others)
    flags = ["--store", url(tmp_path), "--retain-days", "10"]
    flags += ["--retain-days-by-service", f"{other.service_sid}=5"]
    would = run("purge", "--dry-run", *flags)
    assert would.returncode == 0, would.stderr
    expected = {f"{parents.service_sid}: 2", f"{other.service_sid}: 1", "3 Interactions"}
    assert set(would.stdout.decode().splitlines()) == {f"{e} would be deleted" for e in expected}
    assert len(await left(tmp_path, parents)) == 3
    done = run("purge", *flags)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.decode().splitlines()) == {f"{e} deleted" for e in expected}
    assert await left(tmp_path, parents) == [young.sid]
    assert await left(tmp_path, other) == [others[1].sid]


@pytest.mark.parametrize("flags", [[], ["--retain-days-by-service", f"KS{'0' * 32}=0"]])
async def test_purge_without_a_number_of_days_fails(tmp_path: Path, flags: list[str]) -> None:
    await fill(tmp_path)
    done = run("purge", "--store", url(tmp_path), *flags)
    assert done.returncode == 2
    assert b"retain-days DAYS" in done.stderr


async def test_erase_deletes_all_that_someone_took_part_in(
    tmp_path: Path, parents: Parents
) -> None:
    leg, there = new_leg(), new_parents()
    kept = new_interaction(parents)
    await fill(
        tmp_path,
        kept,
        new_interaction(parents, inbound=leg),
        new_interaction(parents, outbound=leg),
        new_interaction(there, inbound=leg, outbound=None),
    )
    arguments = ["--store", url(tmp_path), "--participant", leg.participant_sid]
    assert run("erase", "--dry-run", *arguments).stdout.endswith(
        b"3 Interactions would be deleted\n"
    )
    done = run("erase", *arguments)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.decode().splitlines()) == {
        f"{parents.service_sid}: 2 deleted",
        f"{there.service_sid}: 1 deleted",
        "3 Interactions deleted",
    }
    assert leg.participant_sid.encode() not in done.stderr
    assert await left(tmp_path, parents) == [kept.sid]
    assert run("erase", *arguments).stdout == b"0 Interactions deleted\n"


def is_in_files(folder: Path, text: str) -> bool:
    """Search in another process: closing a file in this one would release SQLite's locks on it."""
    status = subprocess.run(["grep", "-raqF", text, str(folder)], check=False).returncode
    assert status in (0, 1)  # 2 is an error
    return status == 0


async def test_erase_leaves_nothing_in_the_files_of_a_store_that_is_open(
    tmp_path: Path, parents: Parents
) -> None:
    leg = new_leg()
    store = await open_store(url(tmp_path))
    try:
        await store.record([row_of(new_interaction(parents, inbound=leg, data="the erased text"))])
        texts = ("the erased text", leg.participant_sid, leg.resource_sid)
        assert [is_in_files(tmp_path, text) for text in texts] == [True] * 3
        arguments = ("--store", url(tmp_path), "--participant", leg.participant_sid)
        done = await asyncio.to_thread(run, "erase", *arguments)
        assert done.returncode == 0, done.stderr
        assert [is_in_files(tmp_path, text) for text in texts] == [False] * 3
        assert await store.page(EVERYONE, query(parents)) == (b"", 0, None, None, False)
    finally:
        await store.close()


async def test_erase_fails_while_another_process_reads_what_was_deleted(
    tmp_path: Path, parents: Parents
) -> None:
    leg = new_leg()
    await fill(tmp_path, new_interaction(parents, inbound=leg))
    with another_process(tmp_path) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM interactions").fetchone()
        impatient = command({"cli.bulk_delete.ERASE_TRACES_SECONDS": 0.5})
        erase = ["erase", "--store", url(tmp_path), "--participant", leg.participant_sid]
        done = await asyncio.to_thread(
            subprocess.run, [*impatient, *erase], capture_output=True, check=False
        )
    assert b"another process is reading the store" in done.stderr
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, b"1 Interactions deleted")
    assert await left(tmp_path, parents) == []


@pytest.mark.parametrize("participant", ["", "KP1", "KC" + "0" * 32])
def test_erase_refuses_an_invalid_participant_sid(tmp_path: Path, participant: str) -> None:
    done = run("erase", "--store", url(tmp_path), "--participant", participant)
    assert done.returncode == 2
    assert b"must match ^KP" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["purge", "--retain-days", "1"], ["erase", "--participant", new_sid("KP")]],
    ids=["purge", "erase"],
)
def test_purge_and_erase_create_no_store(tmp_path: Path, arguments: list[str]) -> None:
    done = run(*arguments, "--store", url(tmp_path))
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []
