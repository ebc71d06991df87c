"""`serve --workers 2`: for clients, two processes that share their ports are one server."""

import asyncio
import os
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from testing import build
from testing.build import Parents, new_interaction, new_sid
from testing.log_lines import logged
from testing.process import Served, run, served
from testing.requests import list_request
from testing.store_lock import write_lock
from testing.wait import wait_until

from interaction_svc.domain.validation import EARLIEST_US
from interaction_svc.runtime.settings import SettingsError, load_settings
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.system.test_shutdown import exit_status, until_refused
from tests.telemetry.test_metrics import samples

pytestmark = pytest.mark.each_engine

MANY_CONNECTIONS = 100
"""Connections. The probability that one worker gets none of them is 2^-99."""


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Served]:
    with served(
        tmp_path_factory.mktemp("workers"), "--workers", "2", "--retain-days", "5000"
    ) as running:
        yield running


def workers(group: Served) -> dict[int, int]:
    """Return the process IDs of the workers, by their numbers."""
    parent = group.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found: dict[int, int] = {}
    for pid in children:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        # Before its exec a worker has its parent's command line, and after its end an empty one.
        if b"interaction_svc.runtime.workers" in command:
            found[int(command[-2])] = int(pid)
    return found


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def exposed(group: Served) -> str:
    return httpx.get(group.metrics_url, trust_env=False).text


def metric(group: Served, name: str, **labels: str) -> float:
    return samples(exposed(group)).get(
        (f"interaction_svc_{name}", tuple(sorted(labels.items()))), 0
    )


def calls(group: Served) -> float:
    found = samples(exposed(group)).items()
    return sum(value for (name, _), value in found if name == "interaction_svc_calls_total")


def until_in_flight(group: Served, count: int) -> None:
    # Shorter than the idle timeout, after which the server ends a stream itself.
    wait_until(lambda: metric(group, "calls_in_flight", transport="grpc") == count, seconds=20)


def until_both_serve(group: Served) -> None:
    wait_until(lambda: metric(group, "workers") == 2 and metric(group, "serving") == 1)


@asynccontextmanager
async def connected(group: Served) -> AsyncIterator[grpc.aio.Channel]:
    """Open a new connection; by default the channels of a process share one."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(group.grpc_address, options=options) as channel:
        yield channel


async def worker_of(channel: grpc.aio.Channel, group: Served, parents: Parents) -> int:
    request_id = new_sid("RQ")
    await InteractionServiceStub(channel).ListInteractions(
        list_request(parents), metadata=(("x-request-id", request_id),)
    )
    await asyncio.to_thread(wait_until, lambda: logged(group, "call", request_id=request_id) != [])
    (line,) = logged(group, "call", request_id=request_id)
    return int(line["worker"])


async def connected_to_each(
    group: Served, parents: Parents, stack: AsyncExitStack
) -> list[grpc.aio.Channel]:
    found: dict[int, grpc.aio.Channel] = {}
    for _ in range(MANY_CONNECTIONS):
        channel = await stack.enter_async_context(connected(group))
        found[await worker_of(channel, group, parents)] = channel
        if len(found) == 2:
            return [found[1], found[2]]
    raise AssertionError("one worker has all connections")


async def record(
    channel: grpc.aio.Channel, parents: Parents, created_us: int = build.NOON_US
) -> str:
    interaction = new_interaction(parents, created_us)
    request = ingest_pb.RecordInteractionRequest(interaction=interaction)
    answer = await IngestServiceStub(channel).RecordInteraction(request)
    assert answer.outcome == ingest_pb.RECORD_OUTCOME_CREATED
    return interaction.sid


async def streaming(channel: grpc.aio.Channel, parents: Parents) -> Any:
    """Start a stream of records that stays open."""
    stream = IngestServiceStub(channel).RecordInteractions()
    await stream.write(ingest_pb.RecordInteractionsRequest(interactions=[new_interaction(parents)]))
    return stream


async def test_both_workers_serve_both_ports(group: Served, parents: Parents) -> None:
    async with AsyncExitStack() as stack:
        await connected_to_each(group, parents, stack)

    def answering() -> set[int]:
        return {line["worker"] for line in logged(group, "call", transport="http")}

    for _ in range(MANY_CONNECTIONS):
        async with httpx.AsyncClient(
            base_url=group.base_url, auth=(parents.account_sid, "x"), trust_env=False
        ) as http:
            assert (await http.get(parents.path)).status_code == 200
        if answering() == {1, 2}:
            break
    await asyncio.to_thread(wait_until, lambda: answering() == {1, 2})


async def test_concurrent_records_of_both_workers_are_stored(
    group: Served, parents: Parents
) -> None:
    async with AsyncExitStack() as stack:
        channels = await connected_to_each(group, parents, stack)
        recorded = await asyncio.gather(
            *(record(channel, parents) for _ in range(150) for channel in channels)
        )
        for channel in channels:
            page = await InteractionServiceStub(channel).ListInteractions(
                list_request(parents, page_size=1000)
            )
            assert {interaction.sid for interaction in page.interactions} == set(recorded)


async def test_metrics_are_the_sums_over_the_workers(group: Served, parents: Parents) -> None:
    method = "interaction_svc.v1.IngestService/RecordInteraction"
    labels = {"transport": "grpc", "method": method, "code": "OK"}
    before = metric(group, "calls_total", **labels)
    buckets = {"transport": "grpc", "method": method, "le": "+Inf"}
    timed = metric(group, "call_duration_seconds_bucket", **buckets)
    async with AsyncExitStack() as stack:
        for channel in await connected_to_each(group, parents, stack):
            await record(channel, parents)
    # A worker counts its calls after the response.
    await asyncio.to_thread(
        wait_until, lambda: metric(group, "calls_total", **labels) == before + 2
    )
    await asyncio.to_thread(
        wait_until,
        lambda: metric(group, "call_duration_seconds_bucket", **buckets) == timed + 2,
    )
    assert metric(group, "calls_in_flight", transport="grpc") == 0
    assert metric(group, "serving") == 1
    assert metric(group, "workers") == 2
    assert metric(group, "wal_bytes") > 0
    text = exposed(group)
    assert text.count("interaction_svc_build_info{") == 1
    assert 'process_cpu_seconds_total{worker="2"}' in text
    assert "pid=" not in text


@pytest.mark.parametrize(("what", "count"), [("grpc", "1"), ("http", "2")])
def test_other_programs_can_not_bind_the_ports_of_workers(
    group: Served, tmp_path: Path, what: str, count: str
) -> None:
    taken = group.grpc_address if what == "grpc" else group.base_url.removeprefix("http://")
    addresses = {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", what: taken}
    answer = run(
        "serve", "--workers", count, "--no-metrics",
        "--grpc-address", addresses["grpc"], "--http-address", addresses["http"],
        cwd=tmp_path,
    )  # fmt: skip
    assert answer.returncode == 1
    name = "gRPC" if what == "grpc" else "HTTP"
    assert f"interaction-svc: can't listen for {name} on {taken}" in answer.stderr.decode()


async def test_a_killed_worker_is_restarted(group: Served, parents: Parents) -> None:
    """Its metrics are kept, and its successor runs retention, which is the task of worker 1."""
    until_both_serve(group)
    async with AsyncExitStack() as stack:
        first, second = await connected_to_each(group, parents, stack)
        await record(first, parents, created_us=EARLIEST_US)
        streams = [await streaming(channel, parents) for channel in (first, second)]
        await asyncio.to_thread(until_in_flight, group, 2)
        before = calls(group)
        killed = workers(group)
        os.kill(killed[1], signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError):
            await streams[0]
        assert await record(second, parents)
        await asyncio.to_thread(wait_until, lambda: metric(group, "worker_restarts_total") == 1)
        await asyncio.to_thread(until_both_serve, group)
        await asyncio.to_thread(until_in_flight, group, 1)
        streams[1].cancel()
    assert calls(group) > before
    assert workers(group)[1] != killed[1]
    assert workers(group)[2] == killed[2]
    assert logged(group, "a worker has ended", worker=1, how="signal 9")
    assert logged(group, "a worker has been started again", worker=1)
    wait_until(lambda: logged(group, "audit", action="purge", worker=1, deleted=1) != [])
    async with AsyncExitStack() as stack:
        await connected_to_each(group, parents, stack)


def test_the_pause_before_a_worker_is_restarted_doubles(tmp_path: Path) -> None:
    with served(tmp_path, "--workers", "2") as group:
        aside = group.store.rename(tmp_path / "aside")
        os.kill(workers(group)[2], signal.SIGKILL)
        wait_until(lambda: len(logged(group, "a worker has ended")) == 2)
        lines = logged(group, "a worker has ended")
        assert [line["again_in_seconds"] for line in lines] == [0.1, 0.2]
        assert "the file isn't there" in lines[-1]["cause"]
        aside.rename(group.store)
        until_both_serve(group)


async def test_running_calls_of_each_worker_finish(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path, "--workers", "2") as group:
        async with AsyncExitStack() as stack:
            channels = await connected_to_each(group, parents, stack)
            with write_lock(group):
                recording = [asyncio.create_task(record(channel, parents)) for channel in channels]
                await asyncio.to_thread(until_in_flight, group, 2)
                group.terminate()
                await until_refused(group.grpc_address, parents)
                for process in workers(group).values():  # a service manager may signal all of them
                    os.kill(process, signal.SIGTERM)
                assert not any(task.done() for task in recording)
            await asyncio.gather(*recording)
        assert await exit_status(group) == 0
        assert not logged(group, "a worker has ended")
    with closing(sqlite3.connect(group.store)) as db:
        assert db.execute("SELECT count(*) FROM interactions").fetchone() == (2,)


async def test_a_second_signal_ends_all_workers_at_once(tmp_path: Path, parents: Parents) -> None:
    status = 128 + signal.SIGINT
    with served(tmp_path, "--workers", "2", status=status) as group:
        processes = list(workers(group).values())
        async with connected(group) as channel:
            await streaming(channel, parents)
            await asyncio.to_thread(until_in_flight, group, 1)
            group.terminate()
            await until_refused(group.grpc_address, parents)
            group.process.send_signal(signal.SIGINT)
            assert await exit_status(group) == status
        wait_until(lambda: not any(map(is_there, processes)))


def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    """After SIGKILL of the supervisor the workers end, free the ports, and remove the folder."""
    with served(tmp_path, "--workers", "2", status=-signal.SIGKILL) as group:
        processes = list(workers(group).values())
        folder = metrics_folder(group)
        assert folder.is_dir()
        group.process.kill()
        wait_until(lambda: not any(map(is_there, processes)))
        assert not folder.exists()
        for address in (group.grpc_address, group.base_url.removeprefix("http://")):
            host, _, port = address.rpartition(":")
            socket.create_server((host, int(port))).close()


def metrics_folder(group: Served) -> Path:
    process = workers(group)[1]
    environment = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
    (folder,) = (
        Path(variable.partition("=")[2])
        for variable in environment
        if variable.startswith("PROMETHEUS_MULTIPROC_DIR=")
    )
    return folder


def test_the_metrics_folder_of_a_killed_supervisor_is_removed_by_the_next(
    group: Served, tmp_path: Path
) -> None:
    """The supervisor is killed together with its workers, which would remove the folder."""
    with served(tmp_path, "--workers", "2", status=-signal.SIGKILL) as killed:
        processes = list(workers(killed).values())
        left = metrics_folder(killed)
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        killed.process.kill()
        for process in processes:
            os.kill(process, signal.SIGKILL)
        killed.exit_status()
    assert left.is_dir()
    with served(tmp_path, "--workers", "2") as following:
        assert not left.exists()
        folder = metrics_folder(following)
        assert folder.is_dir()
        assert metrics_folder(group).is_dir()  # it is in use
    assert not folder.exists()


def test_workers_ignore_ctrl_c(group: Served) -> None:
    before = workers(group)
    for process in before.values():
        os.kill(process, signal.SIGINT)
    until_both_serve(group)
    assert workers(group) == before


def test_a_startup_failure_of_workers_is_printed_once(tmp_path: Path) -> None:
    answer = run(
        "serve", "--workers", "2", "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0",
        "--no-metrics", "--tls-certificate", "no.pem", "--tls-key", "no.pem",
        cwd=tmp_path,
    )  # fmt: skip
    assert answer.returncode == 2
    lines = answer.stderr.decode().splitlines()
    assert lines[-1].startswith("interaction-svc: tls_certificate: can't be read")
    assert sum("can't be read" in line for line in lines) == 1


@pytest.mark.parametrize("count", [0, 65])
def test_the_number_of_workers_is_from_1_to_64(count: int) -> None:
    with pytest.raises(SettingsError, match="workers"):
        load_settings(workers=count)
