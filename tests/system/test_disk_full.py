"""A full disk: writes are refused with a clear error until there is space; reads succeed."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from testing.build import NOON_US, Parents, new_interaction, new_session
from testing.process import COMMAND, served
from testing.requests import Code, failure, get_request, list_request
from testing.small_disk import change_disk, small_disk
from testing.stubs import Ingest, Reading

from interaction_svc.store import row_of
from interaction_svc.store.factory import check_store, open_store
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.ingest_service_pb2 import RecordInteractionRequest
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import DeleteInteractionRequest
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.store.sqlite.files import url


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    with small_disk(tmp_path / "disk", "3m") as folder:
        yield folder


@pytest.fixture
async def channel(disk: Path, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    with served(tmp_path, "--store", url(disk), "--no-http") as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as opened:
            yield opened


async def record_until_full(ingest: Ingest, parents: Parents, size: int) -> list[pb.Interaction]:
    """Record until the disk is full, check the error, and return the acknowledged records."""
    acknowledged: list[pb.Interaction] = []
    for n in range(100_000):
        interaction = new_interaction(parents, NOON_US + n, data="x" * size)
        try:
            await ingest.RecordInteraction(RecordInteractionRequest(interaction=interaction))
        except grpc.aio.AioRpcError:
            again = ingest.RecordInteraction(RecordInteractionRequest(interaction=interaction))
            code, reason, _ = await failure(again)
            assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "ERROR_REASON_STORE_FULL")
            return acknowledged
        acknowledged.append(interaction)
    pytest.fail("the disk never fills up")


async def all_of(reading: Reading, parents: Parents) -> list[pb.Interaction]:
    found: list[pb.Interaction] = []
    request = list_request(parents, page_size=1000)
    while True:
        page = await reading.ListInteractions(request)
        found += page.interactions
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def is_serving(channel: grpc.aio.Channel) -> bool:
    response = await HealthStub(channel).Check(HealthCheckRequest())
    return bool(response.status == HealthCheckResponse.SERVING)


async def stays_serving(channel: grpc.aio.Channel) -> None:
    for _ in range(15):  # longer than the interval of the health probe, 1 s
        assert await is_serving(channel)
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("size", [100, 100_000])
async def test_a_full_disk_refuses_records_but_serves_reads_until_there_is_space(
    channel: grpc.aio.Channel, disk: Path, parents: Parents, size: int
) -> None:
    ingest, reading = IngestServiceStub(channel), InteractionServiceStub(channel)
    acknowledged = await record_until_full(ingest, parents, size)
    # Small records still fit where a large one doesn't.
    acknowledged += await record_until_full(ingest, parents, 1)
    assert len(acknowledged) > 10
    assert await all_of(reading, parents) == sorted(
        acknowledged, key=lambda i: (i.create_time.ToNanoseconds(), i.sid)
    )
    assert (await reading.GetInteraction(get_request(acknowledged[0]))).interaction
    await stays_serving(channel)
    await asyncio.to_thread(change_disk, disk, "size=20m")
    more = new_session(parents, 20)
    for interaction in more:
        await ingest.RecordInteraction(RecordInteractionRequest(interaction=interaction))
    doomed = acknowledged[0]
    request = DeleteInteractionRequest(
        service_sid=doomed.service_sid, session_sid=doomed.session_sid, sid=doomed.sid
    )
    await reading.DeleteInteraction(request)
    assert len(await all_of(reading, parents)) == len(acknowledged) + len(more) - 1
    report = await check_store(url(disk))
    assert (report.ok, report.rows) == (True, len(acknowledged) + len(more) - 1)


async def test_a_delete_on_a_full_disk_succeeds_or_reports_the_full_disk(
    channel: grpc.aio.Channel, disk: Path, parents: Parents
) -> None:
    ingest, reading = IngestServiceStub(channel), InteractionServiceStub(channel)
    acknowledged = await record_until_full(ingest, parents, 1000)
    deleted: set[str] = set()
    for interaction in acknowledged:
        request = DeleteInteractionRequest(
            service_sid=interaction.service_sid,
            session_sid=interaction.session_sid,
            sid=interaction.sid,
        )
        try:
            await reading.DeleteInteraction(request)
        except grpc.aio.AioRpcError:
            code, reason, _ = await failure(reading.DeleteInteraction(request))
            assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "ERROR_REASON_STORE_FULL")
            break
        deleted.add(interaction.sid)
    assert {i.sid for i in await all_of(reading, parents)} == {
        i.sid for i in acknowledged if i.sid not in deleted
    }
    await stays_serving(channel)


LIMIT = 2_000_000


def set_limit(pid: int, size: str) -> None:
    """Set the file size limit of the process, like `ulimit -f`."""
    subprocess.run(["prlimit", "--pid", str(pid), f"--fsize={size}:"], check=True)


@pytest.mark.parametrize("size", [100, 100_000])
async def test_the_file_size_limit_refuses_records_like_a_full_disk(
    tmp_path: Path, parents: Parents, size: int
) -> None:
    with served(tmp_path, "--no-http") as server:
        set_limit(server.process.pid, str(LIMIT))
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            ingest, reading = IngestServiceStub(channel), InteractionServiceStub(channel)
            acknowledged = await record_until_full(ingest, parents, size)
            assert "the largest that this process may write" in server.log.read_text()
            assert "disk fails" not in server.log.read_text()
            assert len(await all_of(reading, parents)) == len(acknowledged) > 10
            await stays_serving(channel)
            set_limit(server.process.pid, "unlimited")
            for interaction in new_session(parents, 20):
                await ingest.RecordInteraction(RecordInteractionRequest(interaction=interaction))
    report = await check_store(url(tmp_path))
    assert (report.ok, report.rows) == (True, len(acknowledged) + 20)


def limited(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line under `ulimit -f`."""
    return subprocess.run(
        ["prlimit", f"--fsize={LIMIT}", *COMMAND, *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


async def test_the_file_size_limit_fails_a_backup_and_an_import_with_advice(
    tmp_path: Path, parents: Parents
) -> None:
    store = await open_store(url(tmp_path))
    rows = [row_of(new_interaction(parents, NOON_US + n, data="x" * 4000)) for n in range(1000)]
    await store.record(rows)
    await store.close()
    exported = tmp_path / "all.jsonl"
    done = await asyncio.to_thread(
        subprocess.run,
        [*COMMAND, "export", "--store", url(tmp_path)],
        capture_output=True, check=True,
    )  # fmt: skip
    exported.write_bytes(done.stdout)
    copy, imported = tmp_path / "copy.db", tmp_path / "imported.db"
    for arguments in (
        ["backup", str(copy), "--store", url(tmp_path)],
        ["import", str(exported), "--store", f"sqlite:///{imported}"],
    ):
        ended = await asyncio.to_thread(limited, *arguments)
        assert ended.returncode == 1, arguments
        assert "2,000,000 bytes, the largest that this process may write" in ended.stderr
        assert "ulimit -f" in ended.stderr
    assert not copy.exists()
    assert not (tmp_path / "copy.db.part").exists()
    assert (await check_store(f"sqlite:///{imported}")).ok
