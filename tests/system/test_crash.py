"""Acknowledged writes are on disk: the server is killed repeatedly, and the store is checked.

In every second round the server is killed at a random time. In the others it is killed right after
a response, which detects writes that are acknowledged too early.
"""

import asyncio
import itertools
import random
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from testing.build import NOON_US, Parents, new_interaction, new_parents
from testing.process import COMMAND
from testing.requests import Code, list_request
from testing.stubs import Ingest, Reading

from interaction_svc.store.factory import check_store
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.ingest_service_pb2 import (
    RecordInteractionRequest,
    RecordInteractionsRequest,
)
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import DeleteInteractionRequest
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.store.sqlite.files import url

pytestmark = pytest.mark.each_engine

ROUNDS = 10
BATCH = 20


@dataclass
class Known:
    """Acknowledged writes, and requests without a response when the server was killed."""

    parents: Parents
    stored: dict[str, pb.Interaction] = field(default_factory=dict)
    deleted: dict[str, pb.Interaction] = field(default_factory=dict)
    recording: list[pb.Interaction] = field(default_factory=list)
    deleting: list[pb.Interaction] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    answers_left: int = 0
    """The number of further responses to wait for."""

    def answered(self) -> None:
        self.answers_left -= 1
        if self.answers_left == 0:
            self.enough.set()


@asynccontextmanager
async def killed(folder: Path) -> AsyncIterator[tuple[Ingest, Reading, subprocess.Popen[str]]]:
    """Serve the store of a folder. The server is killed at the end of the block at the latest."""
    with (
        (folder / "log.jsonl").open("w") as log,
        subprocess.Popen(  # noqa: ASYNC220
            [
                *COMMAND, "serve", "--store", url(folder), "--grpc-address", "127.0.0.1:0",
                "--no-http", "--no-metrics",
            ],
            stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder,
        ) as process,
    ):  # fmt: skip
        try:
            assert process.stdout is not None
            line = await asyncio.to_thread(process.stdout.readline)
            what, _, address = line.strip().partition(" on ")
            assert what == "gRPC", (folder / "log.jsonl").read_text()
            async with grpc.aio.insecure_channel(address) as channel:
                yield IngestServiceStub(channel), InteractionServiceStub(channel), process
        finally:
            process.kill()


async def write(ingest: Ingest, known: Known, chance: random.Random) -> None:
    """Record single Interactions, batches and updates in turn."""
    for n in itertools.count(len(known.stored)):
        what = chance.choice(["one", "batch", "update"])
        made = [
            new_interaction(known.parents, NOON_US + n, data=f"{n} " + "x" * chance.randrange(3000))
            for _ in range(BATCH if what == "batch" else 1)
        ]
        if what == "update" and known.stored:
            old = chance.choice(list(known.stored.values()))
            made[0].sid = old.sid
            made[0].create_time.CopyFrom(old.create_time)
            made[0].update_time.CopyFrom(old.update_time)
            made[0].update_time.seconds += 1
        known.recording = made
        if what == "batch":
            await ingest.RecordInteractions(iter([RecordInteractionsRequest(interactions=made)]))
        else:
            await ingest.RecordInteraction(RecordInteractionRequest(interaction=made[0]))
        known.answered()
        known.recording = []
        # An update after the deletion changes nothing.
        known.stored.update({i.sid: i for i in made if i.sid not in known.deleted})


async def delete(reading: Reading, known: Known, chance: random.Random) -> None:
    while True:
        updating = {interaction.sid for interaction in known.recording}
        free = [i for i in known.stored.values() if i.sid not in updating]
        if len(free) < 2 * BATCH:
            await asyncio.sleep(0.001)
            continue
        known.deleting = [chance.choice(free)]
        (doomed,) = known.deleting
        request = DeleteInteractionRequest(
            service_sid=doomed.service_sid, session_sid=doomed.session_sid, sid=doomed.sid
        )
        await reading.DeleteInteraction(request)
        known.answered()
        known.deleting = []
        known.deleted[doomed.sid] = known.stored.pop(doomed.sid, doomed)


async def all_stored(reading: Reading, known: Known) -> dict[str, pb.Interaction]:
    stored: dict[str, pb.Interaction] = {}
    request = list_request(known.parents, page_size=1000)
    while True:
        page = await reading.ListInteractions(request)
        stored.update({interaction.sid: interaction for interaction in page.interactions})
        if not page.next_page_token:
            return stored
        request.page_token = page.next_page_token


async def settle(ingest: Ingest, reading: Reading, known: Known) -> None:
    """Compare the store with the acknowledged writes, and determine the outcome of the others."""
    there = await all_stored(reading, known)
    if len(known.recording) == BATCH:
        assert len({i.sid in there for i in known.recording}) == 1, "half a batch is there"
    for asked in known.recording:
        version = there.get(asked.sid)
        assert version in (asked, known.stored.get(asked.sid)), "neither the new one nor the old"
        if version is not None:
            known.stored[asked.sid] = version
    for doomed in known.deleting:
        if doomed.sid not in there:
            known.deleted[doomed.sid] = known.stored.pop(doomed.sid)
    known.recording, known.deleting = [], []
    assert there == known.stored
    deleted = list(known.deleted.values())
    requests = [
        RecordInteractionsRequest(interactions=deleted[start : start + 1000])
        for start in range(0, len(deleted), 1000)
    ]
    assert (await ingest.RecordInteractions(iter(requests))).deleted == len(deleted)
    assert await all_stored(reading, known) == there


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_killed_server_keeps_acknowledged_writes(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    known = Known(new_parents())
    answered = 0
    for number in range(ROUNDS):
        async with killed(tmp_path) as (ingest, reading, process):
            await settle(ingest, reading, known)
            known.enough.clear()
            known.answers_left = chance.randrange(50, 200)
            tasks = [
                asyncio.create_task(write(ingest, known, chance)),
                asyncio.create_task(delete(reading, known, chance)),
            ]
            if number % 2:
                await known.enough.wait()
            else:
                await asyncio.sleep(chance.uniform(0.02, 0.5))
            process.kill()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            codes = [error.code() for error in results if isinstance(error, grpc.aio.AioRpcError)]
            assert len(codes) == len(tasks), results
            assert set(codes) <= {Code.UNAVAILABLE, Code.CANCELLED, Code.UNKNOWN}, results
        answered = len(known.stored) + len(known.deleted)
        with closing(sqlite3.connect(tmp_path / "interactions.db")) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    async with killed(tmp_path) as (ingest, reading, _):
        await settle(ingest, reading, known)
    report = await check_store(url(tmp_path))
    assert (report.ok, report.rows) == (True, len(known.stored))
    assert answered > ROUNDS * BATCH
    assert len(known.deleted) > ROUNDS
