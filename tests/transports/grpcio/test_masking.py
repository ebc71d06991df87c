"""Unexpected errors over gRPC: callers get a reference, and the log has the cause.

tests/transports/rest/test_rest.py tests the same over REST.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from testing.build import Parents, new_interaction, new_parents
from testing.engines import grpc_listener
from testing.pipelines import methods_of, open_pipeline
from testing.requests import Code, failure, get_request, list_request

from interaction_svc.app.ingest import Ingest
from interaction_svc.app.interactions import Interactions
from interaction_svc.store.factory import open_store
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.store.sqlite import files

pytestmark = pytest.mark.each_engine

INTERNALS = "SELECT body FROM somewhere"


class Failing(Interactions):
    """Interactions whose every method fails."""

    async def get(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(INTERNALS)

    page: Any = get


class FailingIngest(Ingest):
    """An Ingest whose every method fails."""

    async def record(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(INTERNALS)

    prepare: Any = record


@pytest.fixture
async def channel(tmp_path: Path, engine: str) -> AsyncIterator[grpc.aio.Channel]:
    store = await open_store(files.url(tmp_path))
    methods = methods_of(Failing(store), FailingIngest(store))
    server = grpc_listener(engine, methods, open_pipeline(store))
    address = await server.start()
    async with grpc.aio.insecure_channel(str(address)) as opened:
        yield opened
    await server.drain(0)
    await store.close()


async def test_unexpected_errors_are_masked(
    channel: grpc.aio.Channel, parents: Parents, capfd: pytest.CaptureFixture[str]
) -> None:
    reading, ingest = InteractionServiceStub(channel), IngestServiceStub(channel)
    interaction = new_interaction(parents)
    batch = ingest_pb.RecordInteractionsRequest(interactions=[interaction])
    references = []
    for call in (
        reading.GetInteraction(get_request(interaction)),
        reading.ListInteractions(list_request(parents)),
        ingest.RecordInteraction(ingest_pb.RecordInteractionRequest(interaction=interaction)),
        ingest.RecordInteractions(iter([batch])),
    ):
        code, reason, details = await failure(call)
        assert (code, reason) == (Code.INTERNAL, "ERROR_REASON_INTERNAL")
        info: Any = details["ErrorInfo"]
        references.append(info.metadata["reference"])
        assert await call.details() == f"Internal error, reference {references[-1]}"
        assert INTERNALS not in str(details) + str(await call.trailing_metadata())
    captured = capfd.readouterr()
    logged = captured.out + captured.err
    assert "RuntimeError" in logged
    assert len(set(references)) == 4
    assert all(reference in logged for reference in references)


async def test_a_drain_of_zero_seconds_always_ends(tmp_path: Path, engine: str) -> None:
    """With grpcio it calls grpc's stop twice, and the second must not free the server too early."""
    store = await open_store(files.url(tmp_path))
    for _ in range(15):
        methods = methods_of(Failing(store), FailingIngest(store))
        server = grpc_listener(engine, methods, open_pipeline(store))
        address = await server.start()
        async with grpc.aio.insecure_channel(str(address)) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await InteractionServiceStub(channel).GetInteraction(
                    get_request(new_interaction(new_parents()))
                )
        await server.drain(0)
    await store.close()
