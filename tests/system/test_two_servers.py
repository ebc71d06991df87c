"""Two servers on one PostgreSQL, as behind a load balancer: each sees the other's writes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from testing.api_keys import new_key, revoke
from testing.build import NOON_US, SECOND_US, Parents, new_interaction, new_session
from testing.postgres import Cluster
from testing.process import Served, served
from testing.requests import Code, get_request, list_request, record
from testing.stubs import Ingest, Reading

from interaction_svc.app.authentication import SECONDS_KNOWN
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import DeleteInteractionRequest
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

CREATED, UNCHANGED, DELETED = (
    ingest_pb.RECORD_OUTCOME_CREATED,
    ingest_pb.RECORD_OUTCOME_UNCHANGED,
    ingest_pb.RECORD_OUTCOME_DELETED,
)


class Client(NamedTuple):
    """The client of one of the servers."""

    reading: Reading
    ingest: Ingest

    async def record(self, interaction: pb.Interaction) -> int:
        request = ingest_pb.RecordInteractionRequest(interaction=interaction)
        return int((await self.ingest.RecordInteraction(request)).outcome)

    async def delete(self, interaction: pb.Interaction) -> None:
        await self.reading.DeleteInteraction(
            DeleteInteractionRequest(
                service_sid=interaction.service_sid,
                session_sid=interaction.session_sid,
                sid=interaction.sid,
            )
        )

    async def is_there(self, interaction: pb.Interaction) -> bool:
        code = await self.reading.GetInteraction(get_request(interaction)).code()
        assert code in (Code.OK, Code.NOT_FOUND)
        return code is Code.OK


@contextmanager
def two_servers(url: str, folder: Path) -> Iterator[list[Served]]:
    with ExitStack() as stack:
        servers = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            servers.append(stack.enter_context(served(folder / name, "--store", url)))
        yield servers


@pytest.fixture(scope="module")
def servers(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, engine: str
) -> Iterator[list[Served]]:
    url = cluster.url(cluster.new_database())
    with two_servers(url, tmp_path_factory.mktemp("two")) as running:
        yield running


@asynccontextmanager
async def clients_of(servers: list[Served]) -> AsyncIterator[list[Client]]:
    async with (
        grpc.aio.insecure_channel(servers[0].grpc_address) as one,
        grpc.aio.insecure_channel(servers[1].grpc_address) as other,
    ):
        yield [
            Client(InteractionServiceStub(channel), IngestServiceStub(channel))
            for channel in (one, other)
        ]


@pytest.fixture
async def clients(servers: list[Served]) -> AsyncIterator[list[Client]]:
    async with clients_of(servers) as made:
        yield made


async def test_a_page_token_of_one_server_is_valid_on_the_other(
    clients: list[Client], parents: Parents
) -> None:
    made = new_session(parents, 25)
    await record(clients[0].ingest, *made)
    sids, tokens = [], [""]
    for client in (clients * 5)[:9]:
        asked = list_request(parents, page_size=3, page_token=tokens[-1])
        page = await client.reading.ListInteractions(asked)
        sids += [interaction.sid for interaction in page.interactions]
        tokens.append(page.next_page_token)
    assert sids == [interaction.sid for interaction in made]
    assert [bool(token) for token in tokens[1:]] == [True] * 8 + [False]
    back = list_request(parents, page_size=3, page_token=page.previous_page_token)
    before = await clients[1].reading.ListInteractions(back)
    assert [interaction.sid for interaction in before.interactions] == sids[21:24]


async def test_an_interaction_deleted_by_one_server_is_not_recorded_by_the_other(
    clients: list[Client], parents: Parents
) -> None:
    one, other = clients
    for _ in range(5):
        interaction = new_interaction(parents)
        assert await one.record(interaction) == CREATED
        assert await other.is_there(interaction)
        await other.delete(interaction)
        assert not await one.is_there(interaction)
        assert await one.record(interaction) == DELETED
        one, other = other, one


async def test_a_delete_wins_over_records_of_the_other_at_the_same_moment(
    clients: list[Client], parents: Parents
) -> None:
    one, other = clients
    for _ in range(100):
        interaction = new_interaction(parents)
        newer = new_interaction(parents, NOON_US, NOON_US + SECOND_US, sid=interaction.sid)
        await one.record(interaction)
        _, *outcomes = await asyncio.gather(
            one.delete(interaction),
            *(other.record(each) for each in (newer, interaction, newer)),
        )
        assert CREATED not in outcomes
        for client in clients:
            assert await client.record(newer) == DELETED
            assert not await client.is_there(interaction)
        one, other = other, one


async def test_concurrent_equal_records_through_both_servers_create_one(
    clients: list[Client], parents: Parents
) -> None:
    for _ in range(20):
        made = [new_interaction(parents) for _ in range(10)]
        outcomes = await asyncio.gather(
            *(client.record(each) for each in made for client in (*clients, *clients[::-1]))
        )
        for place in range(0, len(outcomes), 4):
            assert sorted(outcomes[place : place + 4]) == [CREATED] + [UNCHANGED] * 3


async def test_a_revoked_key_is_refused_by_both(
    cluster: Cluster, tmp_path: Path, parents: Parents
) -> None:
    url = cluster.url(cluster.new_database())
    key = new_key(url, "admin")
    with two_servers(url, tmp_path) as servers:
        async with clients_of(servers) as clients:
            asked = list_request(parents)
            metadata = [("authorization", key.bearer)]

            async def is_let_in(client: Client) -> bool:
                call = client.reading.ListInteractions(asked, metadata=metadata)
                code = await call.code()
                assert code in (Code.OK, Code.UNAUTHENTICATED)
                return code is Code.OK

            assert all([await is_let_in(client) for client in clients])
            await asyncio.to_thread(revoke, url, key)
            now = asyncio.get_running_loop().time
            end = now() + SECONDS_KNOWN
            for client in clients:
                begun = now()
                while await is_let_in(client):  # continuous calls do not extend the cache
                    assert begun < end
                    begun = now()
