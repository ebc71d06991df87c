"""The gRPC listener is opened again, in the same process, when its accept loop or socket ends."""

import asyncio
import os
import re
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from testing import listener_faults
from testing.build import Parents, new_interaction
from testing.certificates import Authority
from testing.hostile_client import SECRET
from testing.log_lines import logged
from testing.process import Served, served
from testing.requests import get_request, list_request
from testing.wait import wait_until

from interaction_svc.transports.address import Address
from interaction_svc.transports.grpcio import listener
from interaction_svc.transports.sockets import addresses_of
from interaction_svc.v1 import ingest_service_pb2 as pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.runtime.workers.test_workers import workers

OPENED_AGAIN = "the gRPC listener has been opened again"
FAULTS: dict[str, tuple[signal.Signals, str]] = {
    "accept loop": (listener_faults.END_ACCEPT_LOOP, "UnicodeDecodeError in grpc's accept loop"),
    "socket": (listener_faults.SHUT_DOWN, "its socket is closed"),
}


def plain(address: object) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(str(address), options=options)


async def break_listener(server: Served, fault: str, count: int = 1) -> None:
    """End the listener, and return when it has been opened again for the `count`th time."""
    listener_faults.choose(server.store.parent, server.grpc_address)
    server.process.send_signal(FAULTS[fault][0])
    await asyncio.to_thread(until_opened_again, server, count)


def until_opened_again(server: Served, count: int) -> None:
    wait_until(lambda: len(logged(server, OPENED_AGAIN)) == count)


async def code_of(call: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = await call.code()
    return code


async def restarts(server: Served) -> float:
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(server.metrics_url)).text
    found = re.search(
        r"^interaction_svc_listener_restarts_total\{listener=\"grpc\"\} (\S+)", text, re.MULTILINE
    )
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("fault", FAULTS)
async def test_it_listens_again_and_calls_in_progress_continue(
    tmp_path: Path, parents: Parents, fault: str
) -> None:
    interaction = new_interaction(parents)
    with served(tmp_path, env=listener_faults.prepared(tmp_path)) as server:
        async with plain(server.grpc_address) as channel:
            stream = IngestServiceStub(channel).RecordInteractions()
            await stream.write(pb.RecordInteractionsRequest(interactions=[interaction]))
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            await break_listener(server, fault)
            assert await watch.code() is grpc.StatusCode.UNAVAILABLE
            again = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), wait_for_ready=True
            )
            assert (await again.read()).status == health_pb2.HealthCheckResponse.SERVING
            reading = InteractionServiceStub(channel)
            await reading.GetInteraction(get_request(interaction))
            await stream.write(
                pb.RecordInteractionsRequest(interactions=[new_interaction(parents)])
            )
            await stream.done_writing()
            assert (await stream).created == 2
        assert await restarts(server) == 1
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{server.base_url}/readyz")).status_code == 200
    (line,) = logged(server, OPENED_AGAIN)
    assert (line["cause"], line["level"]) == (FAULTS[fault][1], "error")
    assert SECRET not in server.log.read_text()


async def test_a_drain_waits_for_calls_on_an_old_server(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path, env=listener_faults.prepared(tmp_path)) as server:
        async with plain(server.grpc_address) as old, plain(server.grpc_address) as new:
            streams = []
            for channel in (old, new):
                stream = IngestServiceStub(channel).RecordInteractions()
                await stream.write(
                    pb.RecordInteractionsRequest(interactions=[new_interaction(parents)])
                )
                streams.append(stream)
                await until_in_flight(server, len(streams))
                if channel is old:
                    await break_listener(server, "accept loop")
            server.terminate()
            await asyncio.to_thread(until_stopping, server)
            for stream in streams:
                await stream.done_writing()
                assert (await stream).created == 1


async def until_in_flight(server: Served, count: int) -> None:
    """Wait until the server has accepted the calls. A drain refuses those that it has not."""
    wanted = f'interaction_svc_calls_in_flight{{transport="grpc"}} {count}.0'
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(30):
        while wanted not in (await http.get(server.metrics_url)).text:
            await asyncio.sleep(0.02)


def until_stopping(server: Served) -> None:
    wait_until(lambda: bool(logged(server, "not serving: stopping")))


async def test_calls_of_a_bounded_number_of_old_servers_continue(
    tmp_path: Path, parents: Parents
) -> None:
    with served(tmp_path, env=listener_faults.prepared(tmp_path)) as server:
        channels = [plain(server.grpc_address) for _ in range(listener.MAX_RETIRED + 1)]
        streams = []
        for count, channel in enumerate(channels, 1):
            stream = IngestServiceStub(channel).RecordInteractions()
            await stream.write(
                pb.RecordInteractionsRequest(interactions=[new_interaction(parents)])
            )
            streams.append(stream)
            await until_in_flight(server, count)
            await break_listener(server, "accept loop", count)
        assert await code_of(streams[0]) in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        for stream in streams[1:]:
            await stream.done_writing()
            assert (await stream).created == 1
        for channel in channels:
            await channel.close()


@pytest.mark.parametrize("fault", FAULTS)
async def test_it_listens_again_with_tls_and_client_certificates(
    tmp_path: Path, authority: Authority, parents: Parents, fault: str
) -> None:
    clients = Authority(tmp_path, "clients")
    flags = ["--tls-client-ca", str(clients.path), "--tls-client-names", "reader"]
    environment = listener_faults.prepared(tmp_path)
    with served(tmp_path, *authority.issue().flags(), *flags, env=environment) as server:
        await break_listener(server, fault)
        for name, code in (
            ("reader", grpc.StatusCode.OK),
            ("other", grpc.StatusCode.PERMISSION_DENIED),
        ):
            client = clients.client(name, name)
            credentials = grpc.ssl_channel_credentials(
                authority.pem, client.key.read_bytes(), client.certificate.read_bytes()
            )
            async with grpc.aio.secure_channel(server.grpc_address, credentials) as channel:
                call = InteractionServiceStub(channel).ListInteractions(list_request(parents))
                assert await code_of(call) is code
        async with plain(server.grpc_address) as channel:
            call = InteractionServiceStub(channel).ListInteractions(list_request(parents))
            assert await code_of(call) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("fault", FAULTS)
async def test_it_listens_again_on_every_address_of_localhost(
    tmp_path: Path, parents: Parents, fault: str
) -> None:
    environment = listener_faults.prepared(tmp_path)
    with served(tmp_path, "--grpc-address", "localhost:0", env=environment) as server:
        await break_listener(server, fault)
        address = Address.parse(server.grpc_address)
        for one in addresses_of(address):
            async with plain(one) as channel:
                await InteractionServiceStub(channel).ListInteractions(list_request(parents))
            # Another program is still refused on the port.
            family = socket.AF_INET6 if ":" in one.host else socket.AF_INET
            with closing(socket.socket(family)) as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
                with pytest.raises(OSError, match="in use"):
                    other.bind(one)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_worker_listens_again_and_is_not_replaced(
    tmp_path: Path, parents: Parents, fault: str
) -> None:
    environment = listener_faults.prepared(tmp_path)
    with served(tmp_path, "--workers", "2", env=environment) as group:
        before = workers(group)
        listener_faults.choose(tmp_path, group.grpc_address)
        for count, process in enumerate(before.values(), 1):
            os.kill(process, FAULTS[fault][0])
            await asyncio.to_thread(until_opened_again, group, count)
        for _ in range(20):  # connections, which are spread over both workers
            async with plain(group.grpc_address) as channel:
                await InteractionServiceStub(channel).ListInteractions(list_request(parents))
        assert workers(group) == before
    assert {line["worker"] for line in logged(group, OPENED_AGAIN)} == {1, 2}


async def test_an_address_that_is_taken_meanwhile_ends_the_server(tmp_path: Path) -> None:
    environment = listener_faults.prepared(tmp_path)
    times = {"transports.grpcio.listener._REOPEN_SECONDS": 0.2}
    with served(tmp_path, env=environment, status=1, times=times) as server:
        listener_faults.choose(tmp_path, server.grpc_address)
        server.process.send_signal(listener_faults.TAKE_OVER)
        assert await asyncio.to_thread(server.exit_status) == 1
    assert server.log.read_text().endswith(
        "\ninteraction-svc: the gRPC listener has ended unexpectedly: its socket is closed, and its"
        " address can't be opened again: Address already in use\n"
    )
