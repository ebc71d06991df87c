"""Fixtures: one running service for the tests of a process; each test has parents of its own."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import hypothesis
import pytest
from testing.build import Parents, new_parents
from testing.certificates import Authority
from testing.postgres import Cluster, found_programs, running_cluster
from testing.process import Served, served
from testing.stubs import Ingest, Reading

from interaction_svc.runtime import event_loop
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

# A shared machine is no place for deadlines; CI repeats what it did before.
hypothesis.settings.register_profile("here", deadline=None, max_examples=60)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


ENGINES = ("grpcio", "h2corn")
"""The engines of the gRPC listener."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests with the mark `each_engine` on both engines, or on those that it names."""
    mark = metafunc.definition.get_closest_marker("each_engine")
    if mark is not None:
        metafunc.parametrize("engine", mark.args or ENGINES, indirect=True, scope="module")


@pytest.fixture(scope="module", autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The engine of the servers that a test starts, in this process or in another."""
    name: str = getattr(request, "param", ENGINES[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERACTION_SVC_GRPC_ENGINE", name)
        yield name


LoopFactories = dict[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(item: pytest.Item) -> LoopFactories:
    """Run tests on the event loop of a server, and those marked `both_loops` on asyncio's too."""
    factories = {event_loop.NAME: event_loop.new_event_loop}
    if item.get_closest_marker("both_loops"):
        factories["asyncio"] = asyncio.new_event_loop
    return factories


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Served]]:
    """Return the running service of an engine; it is started once."""
    running: dict[str, Served] = {}
    with ExitStack() as stack:

        def server_of(engine: str) -> Served:
            if engine not in running:
                folder = tmp_path_factory.mktemp("served")
                running[engine] = stack.enter_context(served(folder, "--grpc-engine", engine))
            return running[engine]

        yield server_of


@pytest.fixture
def server(servers: Callable[[str], Served], engine: str) -> Served:
    return servers(engine)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL of this process's tests; each has a database of its own in it."""
    if found_programs() is None:
        pytest.skip("PostgreSQL isn't on this machine")
    with running_cluster() as running:
        yield running


@pytest.fixture
async def channel(server: Served) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.grpc_address) as opened:
        yield opened


@pytest.fixture
def reading(channel: grpc.aio.Channel) -> Reading:
    return InteractionServiceStub(channel)


@pytest.fixture
def ingest(channel: grpc.aio.Channel) -> Ingest:
    return IngestServiceStub(channel)


@pytest.fixture
def parents() -> Parents:
    return new_parents()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def http(server: Served, parents: Parents) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the credentials of the test's account."""
    async with httpx.AsyncClient(
        base_url=server.base_url, auth=(parents.account_sid, "secret"), trust_env=False
    ) as client:
        yield client
