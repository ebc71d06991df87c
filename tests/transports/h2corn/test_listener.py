"""The listener on h2corn: errors of accept, the limit on connections, and a missing package."""

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from prometheus_client import REGISTRY
from testing.build import Parents, new_interaction
from testing.engines import grpc_listener
from testing.pipelines import GRPC_LIMITS, methods_of, open_pipeline
from testing.process import run
from testing.requests import Code, failure, get_request

from interaction_svc.app.ingest import Ingest
from interaction_svc.app.interactions import Interactions
from interaction_svc.store import Store
from interaction_svc.store.factory import open_store
from interaction_svc.transports.address import Address
from interaction_svc.transports.h2corn import server
from interaction_svc.transports.h2corn.server import H2cornServer
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.store.sqlite import files


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(files.url(tmp_path))
    yield opened
    await opened.close()


def listener_on(store: Store, max_connections: int = 100) -> H2cornServer:
    limits = replace(GRPC_LIMITS, max_connections=max_connections)
    methods = methods_of(Interactions(store), Ingest(store))
    made = grpc_listener("h2corn", methods, open_pipeline(store), limits=limits)
    assert isinstance(made, H2cornServer)
    return made


async def code_of_get(address: Address, parents: Parents) -> Code:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(str(address), options=options) as channel:
        call = InteractionServiceStub(channel).GetInteraction(
            get_request(new_interaction(parents)), timeout=20, wait_for_ready=True
        )
        code, _, _ = await failure(call)
        return code


def restarts() -> float:
    name, labels = "interaction_svc_listener_restarts_total", {"listener": "grpc"}
    return REGISTRY.get_sample_value(name, labels) or 0


class Descriptors:
    """Takes all free file descriptors of the process within a block."""

    def __enter__(self) -> "Descriptors":
        self._taken: list[int] = []
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as lowest:  # nearly all lower descriptors are in use
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + 1, self._limits[1]))
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
        for descriptor in self._taken:
            os.close(descriptor)

    def take(self) -> None:
        """Open files until no descriptor is free."""
        with suppress(OSError):
            while True:
                self._taken.append(os.dup(0))


async def connect_each(
    clients: list[socket.socket], address: Address, descriptors: Descriptors
) -> None:
    """Connect, so that `accept` fails. One client may get a descriptor that has become free."""
    for client in clients:
        descriptors.take()
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (address.host, address.port))
        await asyncio.sleep(0.01)


async def test_it_serves_again_after_the_file_descriptors_were_exhausted(
    store: Store, parents: Parents
) -> None:
    listener = listener_on(store)
    address = await listener.start()
    failing = asyncio.create_task(listener.failure())
    assert await code_of_get(address, parents) is Code.NOT_FOUND
    before = restarts()
    clients = [socket.socket() for _ in range(20)]
    try:
        with Descriptors() as descriptors:
            await connect_each(clients, address, descriptors)
            async with asyncio.timeout(20):
                while restarts() == before:
                    await asyncio.sleep(0.01)
        assert await code_of_get(address, parents) is Code.NOT_FOUND
        assert not failing.done()
    finally:
        for client in clients:
            client.close()
        failing.cancel()
        await listener.drain(0)


async def test_it_fails_for_good_if_its_sockets_no_longer_listen(store: Store) -> None:
    listener = listener_on(store)
    await listener.start()
    try:
        for one in listener._sockets:
            one.shutdown(socket.SHUT_RDWR)
        async with asyncio.timeout(20):
            assert await listener.failure() == "ValueError"
    finally:
        await listener.drain(0)


async def test_it_fails_for_good_after_too_many_errors_in_a_row(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_MAX_ERRORS_IN_A_ROW", 0)
    listener = listener_on(store)
    address = await listener.start()
    clients = [socket.socket() for _ in range(20)]
    try:
        with Descriptors() as descriptors:
            await connect_each(clients, address, descriptors)
            async with asyncio.timeout(20):
                assert await listener.failure() == "OSError"
    finally:
        for client in clients:
            client.close()
        await listener.drain(0)


async def test_connections_beyond_the_limit_wait_until_another_ends(
    store: Store, parents: Parents
) -> None:
    listener = listener_on(store, max_connections=2)
    address = await listener.start()
    held = [await asyncio.open_connection(address.host, address.port) for _ in range(2)]
    waiting = asyncio.create_task(code_of_get(address, parents))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    held[0][1].close()
    assert await waiting is Code.NOT_FOUND
    held[1][1].close()
    await listener.drain(0)


@pytest.mark.parametrize(
    ("open_files", "wanted", "allowed"),
    [(1024, 4096, 384), (100_000, 4096, 4096), (resource.RLIM_INFINITY, 4096, 4096), (64, 10, 1)],
)
def test_the_limit_on_connections_is_below_that_on_open_files(
    monkeypatch: pytest.MonkeyPatch, open_files: int, wanted: int, allowed: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (open_files, open_files))
    assert server._max_connections(wanted) == allowed


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("--keepalive-seconds", b"keepalive_seconds: the engine h2corn sends no pings"),
        (
            "--connection-age-seconds",
            b"connection_age_seconds: the engine h2corn does not limit the age of connections",
        ),
    ],
)
def test_settings_that_it_does_not_have_are_refused(
    tmp_path: Path, flag: str, problem: bytes
) -> None:
    ended = run("serve", "--grpc-engine", "h2corn", flag, "60", cwd=tmp_path)
    assert ended.returncode == 2
    assert problem in ended.stderr


def test_without_the_package_the_error_names_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "h2corn.py").write_text("raise ModuleNotFoundError('h2corn')")
    path = f"{tmp_path}:{Path(server.__file__).parents[3]}"
    flags = ("--no-metrics", "--no-http", "--grpc-address", "127.0.0.1:0")
    ended = run("serve", "--grpc-engine", "h2corn", *flags, cwd=tmp_path, PYTHONPATH=path)
    assert ended.returncode == 2
    assert b"grpc_engine: h2corn is not installed; install interaction-svc[h2corn]" in ended.stderr
