"""Health follows the store: NOT_SERVING while it can't be used, then SERVING again."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs
from testing import http2
from testing.build import Parents, new_interaction
from testing.log_lines import logged
from testing.process import Served, served
from testing.requests import Code, failure, get_request, list_request
from testing.store_lock import write_lock

from interaction_svc.runtime.health import Health
from interaction_svc.store.factory import open_store
from interaction_svc.store.sqlite.schema import PAGE_BYTES
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.store.sqlite import files

pytestmark = pytest.mark.each_engine

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ("", "interaction_svc.v1.InteractionService", "interaction_svc.v1.IngestService")


class Clients(NamedTuple):
    server: Served
    channel: grpc.aio.Channel
    http: httpx.AsyncClient

    async def is_ready(self) -> bool:
        """Return the state that all health interfaces report. Retry while they differ."""
        async with asyncio.timeout(20):
            while True:
                health = health_pb2_grpc.HealthStub(self.channel)
                checked = {
                    (await health.Check(health_pb2.HealthCheckRequest(service=name))).status
                    for name in SERVICES
                }
                checked |= {
                    SERVING if (await self.http.get("/readyz")).status_code == 200 else NOT_SERVING
                }
                assert (await self.http.get("/healthz")).status_code == 200
                if len(checked) == 1:
                    return checked == {SERVING}

    async def until_ready(self, wanted: bool) -> None:
        async with asyncio.timeout(40):
            while await self.is_ready() != wanted:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def clients(folder: Path, *flags: str, **times: float) -> AsyncIterator[Clients]:
    with served(folder, *flags, times=times or None) as server:
        async with (
            grpc.aio.insecure_channel(server.grpc_address) as channel,
            httpx.AsyncClient(base_url=server.base_url, trust_env=False) as http,
        ):
            yield Clients(server, channel, http)


async def test_a_lock_held_by_another_process(tmp_path: Path, parents: Parents) -> None:
    patience = {"store.sqlite.transactions.BUSY_TIMEOUT_SECONDS": 0.5}
    async with clients(tmp_path, **patience) as using:
        assert await using.is_ready()
        watch = health_pb2_grpc.HealthStub(using.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        recorded = new_interaction(parents)
        ingest, reading = IngestServiceStub(using.channel), InteractionServiceStub(using.channel)
        await ingest.RecordInteraction(ingest_pb.RecordInteractionRequest(interaction=recorded))
        with write_lock(using.server):
            call = ingest.RecordInteraction(
                ingest_pb.RecordInteractionRequest(interaction=new_interaction(parents))
            )
            code, reason, details = await failure(call)
            assert (code, reason) == (Code.UNAVAILABLE, "ERROR_REASON_UNAVAILABLE")
            assert "RetryInfo" in details
            assert (await watch.read()).status == NOT_SERVING
            await using.until_ready(False)
            assert (await using.http.get("/readyz")).json() == {"status": "unavailable"}
            assert (await reading.GetInteraction(get_request(recorded))).interaction == recorded
        assert (await watch.read()).status == SERVING
        await using.until_ready(True)
        await ingest.RecordInteraction(
            ingest_pb.RecordInteractionRequest(interaction=new_interaction(parents))
        )
        watch.cancel()
    (line,) = logged(using.server, "not serving: the store can't be used")
    assert line["cause"] == "it is locked by another process"


async def test_health_while_the_file_is_moved_away(tmp_path: Path, parents: Parents) -> None:
    async with clients(tmp_path) as using:
        ingest = IngestServiceStub(using.channel)
        away = tmp_path / "away.db"
        using.server.store.rename(away)
        await using.until_ready(False)
        # A record acknowledged now would be lost with the file.
        call = ingest.RecordInteraction(
            ingest_pb.RecordInteractionRequest(interaction=new_interaction(parents))
        )
        code, _, _ = await failure(call)
        assert code is Code.UNAVAILABLE
        away.rename(using.server.store)
        await using.until_ready(True)
        await ingest.RecordInteraction(
            ingest_pb.RecordInteractionRequest(interaction=new_interaction(parents))
        )


async def test_why_it_is_unhealthy_is_logged_from_the_first_probe_on(tmp_path: Path) -> None:
    file, away = tmp_path / "interactions.db", tmp_path / "away.db"
    async with AsyncExitStack() as stack:
        store = await open_store(files.url(tmp_path))
        stack.push_async_callback(store.close)
        health = Health(store)
        stack.push_async_callback(health.stop)
        file.rename(away)
        lines = stack.enter_context(capture_logs())
        await health.start()
        (line,) = [line for line in lines if line["event"].startswith("not serving")]
        assert line["event"] == "not serving: the store can't be used"
        assert not health.is_serving
        assert "file" in line["cause"]
        away.rename(file)
        await until(lambda: health.is_serving)
        assert lines[-1]["event"] == "serving"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_damaged_page(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            interactions = [new_interaction(parents, data="x" * 2000) for _ in range(500)]
            await IngestServiceStub(channel).RecordInteractions(
                iter([ingest_pb.RecordInteractionsRequest(interactions=interactions)])
            )
    place = place_of(server.store, "interactions")
    good = replaced(server.store, place, b"\xa5" * PAGE_BYTES)
    often = {"store.sqlite.probe.QUICK_CHECK_SECONDS": 0.2}
    async with clients(tmp_path, **often) as using:  # damage is detected when the page is read
        call = InteractionServiceStub(using.channel).ListInteractions(list_request(parents))
        code, reason, _ = await failure(call)
        assert (code, reason) == (Code.UNAVAILABLE, "ERROR_REASON_UNAVAILABLE")
        await using.until_ready(False)
        replaced(using.server.store, place, good)
        await using.until_ready(True)
        found = await InteractionServiceStub(using.channel).ListInteractions(list_request(parents))
        assert found.interactions
    assert "damaged" in using.server.log.read_text()
    assert "internal error" not in using.server.log.read_text()


def place_of(store: Path, table: str) -> int:
    """Return the offset of a table's first page in the file."""
    with closing(sqlite3.connect(store)) as db:
        assert db.execute("PRAGMA page_size").fetchone() == (PAGE_BYTES,)
        root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,))
        return (int(root.fetchone()[0]) - 1) * PAGE_BYTES


def replaced(store: Path, place: int, content: bytes) -> bytes:
    """Overwrite a part of the file, and return the old content."""
    file = os.open(store, os.O_RDWR)
    try:
        before = os.pread(file, len(content), place)
        os.pwrite(file, content, place)
    finally:
        os.close(file)
    return before


async def test_a_health_watcher_that_does_not_read_blocks_nobody(tmp_path: Path) -> None:
    async with clients(tmp_path) as using:
        host, _, port = using.server.grpc_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(http2.PREFACE + http2.settings((http2.INITIAL_WINDOW_SIZE, 0)))
        watch = http2.call_headers("/grpc.health.v1.Health/Watch")
        writer.write(http2.call(1, watch, http2.message(b"")))
        received = bytearray()
        while not any(kind == http2.HEADERS for kind, *_ in http2.frames(received)):
            received += await reader.read(4096)  # the call has begun
        away = tmp_path / "away.db"
        using.server.store.rename(away)
        await using.until_ready(False)
        away.rename(using.server.store)
        await using.until_ready(True)
        using.server.terminate()
        assert await asyncio.to_thread(using.server.exit_status) == 0
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_stopping_server_is_unhealthy_and_serves_until_the_drain_delay_ends(
    tmp_path: Path, parents: Parents
) -> None:
    async with clients(tmp_path, "--drain-delay-seconds", "3") as using:
        watch = health_pb2_grpc.HealthStub(using.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        using.server.terminate()
        assert (await watch.read()).status == NOT_SERVING
        assert (await using.http.get("/readyz")).status_code == 503
        # New connections and calls are accepted, because load balancers may not have noticed yet.
        async with grpc.aio.insecure_channel(using.server.grpc_address) as late:
            await InteractionServiceStub(late).ListInteractions(list_request(parents))
            await IngestServiceStub(late).RecordInteraction(
                ingest_pb.RecordInteractionRequest(interaction=new_interaction(parents))
            )
        assert (await using.http.get("/healthz")).status_code == 200
