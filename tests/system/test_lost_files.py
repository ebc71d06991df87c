"""A server loses the files of its SQLite store while it records. No acknowledged write is lost."""

import asyncio
import itertools
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from testing.build import NOON_US, Parents, new_interaction
from testing.log_lines import logged
from testing.process import Served, served
from testing.requests import Code, failure
from testing.stubs import Ingest

from interaction_svc.store.factory import check_store, open_store
from interaction_svc.v1.ingest_service_pb2 import (
    RecordInteractionRequest,
    RecordInteractionsRequest,
)
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from tests.store.contract.stores import EVERYONE, query, sids
from tests.store.sqlite.files import url

_DEAD = -9


class Recorder:
    """Records Interactions one by one until one is refused."""

    def __init__(self, ingest: Ingest, parents: Parents) -> None:
        self._ingest = ingest
        self._parents = parents
        self.answered: list[str] = []

    async def record(self) -> tuple[Code, str]:
        for n in itertools.count():
            interaction = new_interaction(self._parents, NOON_US + n, data="x" * 500)
            request = RecordInteractionRequest(interaction=interaction)
            try:
                await self._ingest.RecordInteraction(request)
            except grpc.aio.AioRpcError:
                code, reason, _ = await failure(self._ingest.RecordInteraction(request))
                return code, reason
            self.answered.append(interaction.sid)
        raise AssertionError

    async def stream(self) -> None:
        """Send one stream until it is refused."""

        async def requests() -> AsyncIterator[RecordInteractionsRequest]:
            for n in itertools.count():
                made = [new_interaction(self._parents, NOON_US + n) for _ in range(20)]
                yield RecordInteractionsRequest(interactions=made)

        # The client reports INTERNAL if it was sending when the answer arrived.
        with pytest.raises(grpc.aio.AioRpcError):
            await self._ingest.RecordInteractions(requests())


async def until_not_serving(channel: grpc.aio.Channel) -> None:
    async with asyncio.timeout(30):
        while True:
            response = await HealthStub(channel).Check(HealthCheckRequest())
            if response.status == HealthCheckResponse.NOT_SERVING:
                return
            await asyncio.sleep(0.05)


async def lose_while_recording(
    server: Served, parents: Parents, command: str, cause: str
) -> list[str]:
    """Run the command during records and a stream, and return the acknowledged records."""
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        recorders = [Recorder(IngestServiceStub(channel), parents) for _ in range(4)]
        *calls, stream = recorders
        tasks = [asyncio.create_task(recorder.record()) for recorder in calls]
        streaming = asyncio.create_task(stream.stream())
        async with asyncio.timeout(60):
            while any(len(recorder.answered) < 10 for recorder in calls):
                await asyncio.sleep(0.01)
            await asyncio.to_thread(
                subprocess.run, ["sh", "-ec", command], cwd=server.store.parent, check=True
            )
            for code, reason in await asyncio.gather(*tasks):
                assert (code, reason) == (Code.UNAVAILABLE, "ERROR_REASON_UNAVAILABLE")
            await streaming
        await until_not_serving(channel)
    method = "interaction_svc.v1.IngestService/RecordInteractions"
    (call,) = logged(server, "call", method=method)
    assert call["code"] == "UNAVAILABLE"
    (line,) = logged(server, "not serving: the store can't be used")
    assert cause in line["cause"]
    return [sid for recorder in calls for sid in recorder.answered]


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        ("rm interactions.db-wal", "with -wal, has been replaced or removed"),
        ("mv interactions.db-wal aside", "with -wal, has been replaced or removed"),
        ("cp interactions.db-wal c; mv c interactions.db-wal", "with -wal, has been replaced"),
        ("rm interactions.db-shm", "with -shm, has been replaced or removed"),
    ],
)
async def test_writes_acknowledged_before_a_loss_survive_a_crash(
    tmp_path: Path, parents: Parents, command: str, cause: str
) -> None:
    with served(tmp_path, "--no-http", "--no-metrics", status=_DEAD) as server:
        answered = await lose_while_recording(server, parents, command, cause)
        server.process.kill()
        server.told = True
    with served(tmp_path, "--no-http", "--no-metrics"):
        pass
    assert (await check_store(url(tmp_path))).ok
    store = await open_store(url(tmp_path))
    asked = query(parents, limit=1_000_000, max_bytes=1 << 30)
    found = sids((await store.page(EVERYONE, asked)).frames)
    await store.close()
    assert set(answered) <= set(found)


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        ("rm interactions.db", "its file has been replaced or removed"),
        ("cat backup.db > interactions.db", "its file has been overwritten"),
    ],
)
async def test_no_write_is_acknowledged_after_the_file_is_lost(
    tmp_path: Path, parents: Parents, command: str, cause: str
) -> None:
    await (await open_store(f"sqlite:///{tmp_path}/backup.db")).close()
    with served(tmp_path, "--no-http", "--no-metrics") as server:
        await lose_while_recording(server, parents, command, cause)
