"""`copy`: copies of whole stores, copies that are killed, and refused targets."""

import asyncio
import hashlib
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import grpc
import httpx
import pytest
from testing import api_keys
from testing.build import NOON_US, Parents, new_interaction, new_parents
from testing.peak_memory import measured
from testing.postgres import Cluster
from testing.process import COMMAND, Served, run, served

from interaction_svc.store import Row, decode, row_of
from interaction_svc.store.postgres.row_format import packed_row
from interaction_svc.store.rows import COLUMNS
from interaction_svc.store.sqlite.row_format import pack
from interaction_svc.v1.ingest_service_pb2 import RECORD_OUTCOME_DELETED, RecordInteractionRequest
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from tests.store.sqlite.files import url
from tests.transfer.copies import (
    Copied,
    Opened,
    contents,
    copied,
    copied_here,
    fill,
    source,
    target,
)

__all__ = ["source", "target"]

MANY = 20_000
DELETED = 100


def copying_process(source: str, target: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*COMMAND, "copy", "--from", source, "--to", target],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def killed_in_the_middle(cluster: Cluster, source: str, database: str, row: Row) -> int:
    """Kill a copy while it loads the batch with this row, and return the number of copied rows."""
    async with cluster.connected(database) as db, cluster.connected(database) as onlooker:
        holding = db.transaction()
        await holding.start()  # the load of the same row waits for this transaction
        places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        statement = f"INSERT INTO interactions ({COLUMNS}) VALUES ({places})"
        await db.execute(statement, *packed_row(row))
        process = copying_process(source, cluster.url(database))
        async with asyncio.timeout(60):
            while not await onlooker.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ):
                assert process.poll() is None
                await asyncio.sleep(0.01)
        process.kill()
        process.communicate()
        await holding.rollback()
        return int(await onlooker.fetchval("SELECT count(*) FROM interactions"))


async def test_20_000_rows_survive_a_killed_copy_and_a_copy_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    source, database = url(tmp_path), cluster.new_database()
    target = cluster.url(database)
    rows = await fill(source, MANY, sessions=200, deleted=DELETED)
    key = await asyncio.to_thread(api_keys.new_key, tmp_path / "interactions.db", "admin")
    async with Opened(target):
        pass  # opening it creates the tables
    live = sorted(rows[DELETED:])
    there = await killed_in_the_middle(cluster, source, database, live[MANY // 2])
    assert MANY // 2 - 2_000 <= there <= MANY // 2 + 2_000

    went_on = await asyncio.to_thread(copied, source, target)
    assert (went_on.status, went_on.errors) == (0, "")
    count = MANY - DELETED
    in_both = f"{count:,} in both, SHA-256 "
    left = int(went_on.tables["interactions"].split(" ")[0].replace(",", ""))
    assert count - there - 2_000 <= left <= count - there
    assert in_both in went_on.tables["interactions"]
    assert went_on.tables["tombstones"].startswith(f"0 copied, {DELETED} in both, ")
    assert went_on.tables["api_keys"].startswith("3 copied, 3 in both, ")

    with served(tmp_path, "--store", target) as server:
        await assert_it_serves(server, key, live[0], rows[0])

    back = f"sqlite:///{tmp_path / 'back.db'}"
    returned = await asyncio.to_thread(copied, target, back)
    assert (returned.status, sha256s(returned)) == (0, sha256s(went_on))
    assert returned.tables["interactions"].startswith(f"{count:,} copied, {in_both}")
    checked = await asyncio.to_thread(run, "migrate", "--check", "--store", back)
    assert checked.returncode == 0
    assert f"{count:,} rows checked, 0 bad" in checked.stdout.decode()


async def assert_it_serves(
    server: Served, key: api_keys.IssuedKey, live: Row, deleted: Row
) -> None:
    """Check that the copy accepts the source's keys and no others, and keeps its deletions."""
    path = Parents(live.account_sid, live.service_sid, live.session_sid).path
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as http:
        got = await http.get(f"{path}/{live.sid}", auth=(key.sid, key.secret))
        assert (got.status_code, got.json()["sid"]) == (200, live.sid)
        refused = await http.get(f"{path}/{live.sid}", auth=(live.account_sid, "secret"))
        assert refused.status_code == 401
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        answer = await IngestServiceStub(channel).RecordInteraction(
            RecordInteractionRequest(interaction=decode(deleted.frame)),
            metadata=(("authorization", key.bearer),),
        )
        assert answer.outcome == RECORD_OUTCOME_DELETED


async def test_copies_between_all_kinds_of_stores_are_equal(source: str, target: str) -> None:
    await fill(source, 300)
    first = await asyncio.to_thread(copied, source, target)
    assert (first.status, first.errors) == (0, "")
    assert list(first.tables) == ["tombstones", "session_owners", "interactions", "api_keys"]
    assert first.tables["tombstones"].startswith("5 copied, 5 in both, SHA-256 ")
    assert first.tables["session_owners"].startswith("20 copied, 20 in both, SHA-256 ")
    assert first.tables["interactions"].startswith("295 copied, 295 in both, SHA-256 ")
    assert first.tables["api_keys"].startswith("2 copied, 2 in both, SHA-256 ")
    there = await contents(target)
    assert there == await contents(source)
    again = await asyncio.to_thread(copied, source, target)
    assert again.status == 0
    assert [printed.split(", ")[0] for printed in again.tables.values()] == ["0 copied"] * 4
    assert sha256s(again) == sha256s(first)


def sha256s(printed: Copied) -> list[str]:
    return [line.rpartition(" ")[2] for line in printed.tables.values()]


def test_the_checksum_is_the_sha256_of_json_lines(tmp_path: Path) -> None:
    asyncio.run(fill(url(tmp_path), 40))
    printed = copied(url(tmp_path), f"sqlite:///{tmp_path / 'copy.db'}")
    with closing(sqlite3.connect(tmp_path / "interactions.db")) as db:
        db.create_aggregate("lines_sha256", 1, LinesSha256)  # type: ignore[arg-type]
        (ours,) = db.execute(
            "SELECT lines_sha256(line) FROM (SELECT json_array(sid, account_sid, role,"
            " lower(hex(secret_hash)), created_us, revoked_us) AS line FROM api_keys ORDER BY sid)"
        ).fetchone()
    assert printed.tables["api_keys"].endswith(f"SHA-256 {ours}")


class LinesSha256:
    """An aggregate function for SQLite: the SHA-256 of lines."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def step(self, line: str) -> None:
        self._sha256.update(line.encode() + b"\n")

    def finalize(self) -> str:
        return self._sha256.hexdigest()


@pytest.mark.parametrize("changed_one", ["source", "target"])
async def test_verify_finds_a_changed_row(
    cluster: Cluster, tmp_path: Path, changed_one: str
) -> None:
    source, database = url(tmp_path), cluster.new_database()
    rows = await fill(source, 60)
    await copied_here(source, cluster.url(database))
    row = sorted(rows[10:])[7]
    if changed_one == "source":
        with closing(sqlite3.connect(tmp_path / "interactions.db")) as db, db:
            db.execute("UPDATE interactions SET type = 2 WHERE sid = ?", (pack(row.sid),))
    else:
        cluster.sql(
            database, f"UPDATE interactions SET type = 2 WHERE created_us = {row.created_us}"
        )
    found = await asyncio.to_thread(copied, source, cluster.url(database), "--verify-only")
    assert found.status == 1
    assert found.tables["interactions"].startswith("55 in ")
    first = ", ".join((row.session_sid, row.account_sid, row.sid))
    assert found.tables["interactions"].endswith(f"first at {first}")
    assert "SHA-256" in found.tables["tombstones"]
    assert "the stores differ" in found.errors


def test_a_copy_that_can_not_start_creates_nothing(tmp_path: Path, cluster: Cluster) -> None:
    source, target = url(tmp_path), f"sqlite:///{tmp_path / 'target.db'}"
    none = copied(source, target)
    assert (none.status, "interactions.db: it can't be opened" in none.errors) == (1, True)
    asyncio.run(fill(source, 10))
    same = copied(source, f"sqlite:///{tmp_path}/../{tmp_path.name}/interactions.db")
    assert (same.status, "--to: is the store to copy from" in same.errors) == (2, True)
    unmade = copied(source, target, "--verify-only")
    assert (unmade.status, "target.db: it can't be opened" in unmade.errors) == (1, True)
    wrong = copied(source, "mysql://x")
    assert (wrong.status, "is not the URL of a store" in wrong.errors) == (1, True)
    other = tmp_path / "other.db"
    asyncio.run(fill(f"sqlite:///{other}", 1, deleted=0))
    refused = copied(source, f"sqlite:///{other}")
    assert (refused.status, refused.tables) == (1, {})
    assert f"{other} has data of its own: in session_owners, KC" in refused.errors
    assert "give a store that is empty, or a copy of this source" in refused.errors
    other.unlink()
    absent = copied(source, cluster.url("nowhere"))
    assert (absent.status, "there is no such database" in absent.errors) == (1, True)
    assert [file.name for file in tmp_path.iterdir()] == ["interactions.db"]


def test_large_interactions_are_not_all_in_memory(tmp_path: Path) -> None:
    async def fill_largely() -> None:
        async with Opened(url(tmp_path)) as store:
            for _ in range(10):
                parents = new_parents()
                data = "x" * 262_144
                await store.record(
                    [row_of(new_interaction(parents, NOON_US + n, data=data)) for n in range(30)]
                )

    asyncio.run(fill_largely())
    small = measured("copy", "--help", cwd=tmp_path)
    large = measured(
        "copy", "--from", url(tmp_path), "--to", f"sqlite:///{tmp_path / 'b.db'}", cwd=tmp_path
    )
    assert (large.status, "300 copied" in large.output.read_text()) == (0, True)
    # 75 MiB are copied; 48 of these are SQLite's caches, 16 those of a transaction.
    assert large.peak_mib < small.peak_mib + 110
