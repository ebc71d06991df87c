"""A dead listener is detected: health is NOT_SERVING, and the process ends with status 1."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs
from testing import listener_faults
from testing.build import Parents
from testing.log_lines import logged
from testing.pipelines import GRPC_LIMITS, STREAM_TIMES, methods_of, open_pipeline
from testing.process import Served, served
from testing.requests import failure, list_request
from testing.wait import wait_until

from interaction_svc.app import retention
from interaction_svc.app.ingest import Ingest
from interaction_svc.app.interactions import Interactions
from interaction_svc.runtime import metrics_server
from interaction_svc.runtime.liveness import Liveness
from interaction_svc.runtime.workers.control_messages import StartupReport
from interaction_svc.store.factory import open_store
from interaction_svc.telemetry.task_failure import failure_of
from interaction_svc.transports.address import Address
from interaction_svc.transports.grpcio import self_probe
from interaction_svc.transports.grpcio.server import GrpcServer
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.runtime.workers.test_workers import workers
from tests.store.sqlite import files

ENDED = "a part of the server has ended unexpectedly"

LISTENERS: dict[str, Callable[[Served], str]] = {
    "HTTP": lambda server: server.base_url,
    "metrics": lambda server: server.metrics_url,
}


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_listener_whose_socket_is_gone_ends_the_server(tmp_path: Path, listener: str) -> None:
    environment = listener_faults.prepared(tmp_path)
    with served(tmp_path, env=environment, status=1) as server:
        listener_faults.choose(tmp_path, LISTENERS[listener](server))
        server.process.send_signal(listener_faults.SHUT_DOWN)
        assert server.exit_status() == 1
    assert server.log.read_text().endswith(
        f"\ninteraction-svc: the {listener} listener has ended unexpectedly: its socket is closed\n"
    )


async def test_workers_whose_listener_has_died_are_replaced(
    tmp_path: Path, parents: Parents
) -> None:
    environment = listener_faults.prepared(tmp_path)
    with served(tmp_path, "--workers", "2", env=environment) as group:
        before = workers(group)
        listener_faults.choose(tmp_path, group.base_url)
        os.kill(before[1], listener_faults.SHUT_DOWN)
        await asyncio.to_thread(until_replacements, group, 1)
        assert workers(group)[1] != before[1]
        for _ in range(50):  # connections, which are spread over both workers
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(group.grpc_address, options=options) as channel:
                await InteractionServiceStub(channel).ListInteractions(list_request(parents))
    assert [line["part"] for line in logged(group, ENDED)] == ["the HTTP listener"]
    assert {line["how"] for line in logged(group, "a worker has ended")} == {"status 1"}


def until_replacements(group: Served, count: int) -> None:
    """Wait until so many workers have been restarted, and serve."""
    wait_until(lambda: len(logged(group, "a worker has been started again")) == count)


def test_a_supervisor_whose_metrics_listener_has_died_ends(tmp_path: Path) -> None:
    environment = listener_faults.prepared(tmp_path)
    with served(tmp_path, "--workers", "2", env=environment, status=1) as group:
        processes = workers(group).values()
        listener_faults.choose(tmp_path, group.metrics_url)
        group.process.send_signal(listener_faults.SHUT_DOWN)
        assert group.exit_status() == 1
        assert not any(Path(f"/proc/{process}").exists() for process in processes)
    assert "the metrics listener has ended unexpectedly" in group.log.read_text().splitlines()[-1]


async def test_a_grpc_server_that_answers_no_calls_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = asyncio.Event()

    async def hang(*_: object) -> None:
        await never.wait()

    monkeypatch.setattr(self_probe, "PROBE_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(self_probe, "_answer", hang)
    monkeypatch.setattr("interaction_svc.transports.grpcio.listener.CHECK_SECONDS", 0.05)
    store = await open_store(files.url(tmp_path))
    methods, pipeline = methods_of(Interactions(store), Ingest(store)), open_pipeline(store)
    server = GrpcServer(methods, pipeline, STREAM_TIMES, Address("127.0.0.1", 0), GRPC_LIMITS)
    await server.start()
    try:
        async with asyncio.timeout(20):
            assert await server.failure() == "it answers no calls"
    finally:
        await server.drain(0)
        await store.close()


async def test_the_probe_s_socket_accepts_only_probes(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path) as server:
        async with grpc.aio.insecure_channel(probe_address(server)) as channel:
            call = InteractionServiceStub(channel).ListInteractions(list_request(parents))
            code, _, _ = await failure(call)
            assert code is grpc.StatusCode.PERMISSION_DENIED
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            await InteractionServiceStub(channel).ListInteractions(list_request(parents))


def probe_address(server: Served) -> str:
    folder = Path(f"/proc/{server.process.pid}")
    own = {os.readlink(descriptor) for descriptor in (folder / "fd").iterdir()}
    lines = [line.split() for line in (folder / "net" / "unix").read_text().splitlines()]
    (name,) = {line[-1] for line in lines if line[-1][0] == "@" and f"socket:[{line[6]}]" in own}
    return f"unix-abstract:{name[1:]}"


async def test_a_metrics_thread_that_has_ended_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "CHECK_SECONDS", 0.05)
    server = metrics_server.MetricsServer(Address("127.0.0.1", 0))
    server.start()
    for listening, _ in server._servers:
        await asyncio.to_thread(listening.shutdown)
    try:
        async with asyncio.timeout(20):
            assert await server.failure() == "its thread has ended"
    finally:
        await server.stop()


async def test_a_task_that_ends_is_reported_with_its_exception_type_only(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def fail() -> None:
        raise RuntimeError("with a text that is private")

    watching = Liveness()
    watching.watch("the probing of the store", failure_of(asyncio.create_task(fail())))
    assert await watching.ended == "the probing of the store has ended unexpectedly: RuntimeError"
    await watching.stop()
    captured = capfd.readouterr()
    assert "private" not in captured.out + captured.err


async def test_retention_goes_on_after_an_unexpected_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(files.url(tmp_path))
    sweep, failed = store.bulk_delete, asyncio.Event()

    async def fail_once(*given: Any, **named: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("with a text that is private")
        swept.set()
        return await sweep(*given, **named)

    swept = asyncio.Event()
    monkeypatch.setattr(store, "bulk_delete", fail_once)
    monkeypatch.setattr(retention, "PASS_SECONDS", 0.01)
    running = retention.Retention(store, 30, {})
    with capture_logs() as lines:
        running.start()
        try:
            async with asyncio.timeout(20):
                await swept.wait()
        finally:
            await running.stop()
            await store.close()
    assert [line["log_level"] for line in lines] == ["error"]


@pytest.mark.parametrize("line", [b"", b"hello\n", b"[1]\n", b"7\n", b'{"reason": "Nothing"}\n'])
def test_a_malformed_startup_report_is_a_failed_start(line: bytes) -> None:
    assert isinstance(StartupReport.read(line).failure, OSError)


def test_a_signal_ends_with_status_0(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.exit_status() == 0
    assert not logged(server, ENDED)
