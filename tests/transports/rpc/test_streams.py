"""Streams of records: their order, and the effects of failed and cancelled ones."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from testing.build import NOON_US, SECOND_US, Parents, new_interaction, new_parents
from testing.requests import failure, get_request, list_request
from testing.stubs import Ingest, Reading

from interaction_svc.app.ingest import Ingest as IngestApp
from interaction_svc.domain.errors import Unavailable
from interaction_svc.store import Store
from interaction_svc.store.factory import open_store
from interaction_svc.telemetry import request_context
from interaction_svc.telemetry.request_context import RequestContext
from interaction_svc.transports.rpc.ingest_service import IngestServicer
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.error_reason_pb2 import ERROR_REASON_MALFORMED_REQUEST, ErrorReason
from interaction_svc.v1.ingest_service_pb2 import (
    RecordInteractionsRequest,
    RecordInteractionsResponse,
)
from tests.store.sqlite import files

pytestmark = pytest.mark.each_engine

Code = grpc.StatusCode
RECORD_MANY = "/interaction_svc.v1.IngestService/RecordInteractions"


def request_of(*interactions: pb.Interaction) -> RecordInteractionsRequest:
    return RecordInteractionsRequest(interactions=interactions)


def batches_of(parents: Parents, count: int, size: int) -> list[RecordInteractionsRequest]:
    return [
        request_of(*(new_interaction(parents, NOON_US + n * size + m) for m in range(size)))
        for n in range(count)
    ]


async def stored_of(reading: Reading, parents: Parents) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        page = await reading.ListInteractions(
            list_request(parents, page_size=1000, page_token=token)
        )
        found += [interaction.sid for interaction in page.interactions]
        token = page.next_page_token
        if not token:
            return found


async def test_requests_of_a_stream_are_recorded_in_their_order(
    reading: Reading, ingest: Ingest, parents: Parents
) -> None:
    first = [new_interaction(parents, NOON_US + n) for n in range(500)]
    newer = [
        new_interaction(parents, NOON_US, sid=one.sid, updated_us=NOON_US + SECOND_US)
        for one in first
    ]
    stream = [first, newer, first, newer, first]
    response = await ingest.RecordInteractions(request_of(*batch) for batch in stream)
    assert response == RecordInteractionsResponse(
        created=500, updated=500, stale=1000, unchanged=500
    )
    stored = (await reading.GetInteraction(get_request(newer[0]))).interaction
    assert stored.update_time == newer[0].update_time


async def test_failures_are_counted_over_all_requests(ingest: Ingest, parents: Parents) -> None:
    batches = batches_of(parents, 6, 30)
    for batch in batches[1::2]:
        batch.interactions[7].sid = ""
        batch.interactions[29].account_sid = "AC1"
    response = await ingest.RecordInteractions(iter(batches))
    assert (response.created, response.failed) == (6 * 30 - 6, 6)
    assert [failure.index for failure in response.failures] == [37, 59, 97, 119, 157, 179]


@pytest.mark.parametrize("bad", [b"\x0a\xff", b"\x0b", b"\xff" * 11])
async def test_only_requests_before_a_bad_one_are_recorded(
    channel: grpc.aio.Channel, reading: Reading, parents: Parents, bad: bytes
) -> None:
    before, within, after = (batch.SerializeToString() for batch in batches_of(parents, 3, 900))
    stream: Any = channel.stream_unary(RECORD_MANY)
    code, reason, details = await failure(stream(iter([before, within + bad, after])))
    assert (code, reason) == (
        Code.INVALID_ARGUMENT,
        ErrorReason.Name(ERROR_REASON_MALFORMED_REQUEST),
    )
    assert details["RecordInteractionsResponse"] == RecordInteractionsResponse(created=900)
    sids = [one.sid for one in RecordInteractionsRequest.FromString(before).interactions]
    assert await stored_of(reading, parents) == sids


async def test_a_cancelled_stream_leaves_whole_requests_and_a_working_store(
    reading: Reading, ingest: Ingest
) -> None:
    for sent in range(1, 6):
        parents = new_parents()
        batches = batches_of(parents, sent, 1000)
        call: Any = ingest.RecordInteractions()
        for batch in batches:
            await call.write(batch)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        last = new_interaction(new_parents())
        # The writer keeps the order of its queue, so all earlier rows are written now.
        assert (await ingest.RecordInteractions(iter([request_of(last)]))).created == 1
        stored = await stored_of(reading, parents)
        sids = [one.sid for batch in batches for one in batch.interactions]
        assert len(stored) % 1000 == 0
        assert stored == sids[: len(stored)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(files.url(tmp_path))
    yield opened
    await opened.close()


class Stream:
    """The requests of a stream, and the number of those that were read."""

    def __init__(self, requests: Sequence[RecordInteractionsRequest]) -> None:
        self.requests = requests
        self.asked = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for request in self.requests:
            self.asked += 1
            yield request.SerializeToString()

    def recorded_by(self, store: Store) -> asyncio.Task[bytes]:
        """Start recording the requests."""

        async def recording() -> bytes:
            request_context.begin(RequestContext("grpc", "m", "p", "id", "OK"))
            return await IngestServicer(IngestApp(store)).record_interactions(aiter(self))

        return asyncio.create_task(recording())


async def idle() -> None:
    """Run the event loop until every other task waits."""
    for _ in range(2000):
        await asyncio.sleep(0)


async def test_one_request_at_most_is_read_while_another_is_written(
    store: Store, tmp_path: Path, parents: Parents
) -> None:
    stream = Stream(batches_of(parents, 5, 10))
    with files.another_process(tmp_path) as other:
        other.execute("BEGIN IMMEDIATE")
        recording = stream.recorded_by(store)
        await idle()
        asked = stream.asked
        other.execute("ROLLBACK")
    assert asked == 2
    assert RecordInteractionsResponse.FromString(await recording).created == 50


async def test_a_failed_write_ends_the_stream_with_its_error(
    store: Store, tmp_path: Path, parents: Parents
) -> None:
    stream = Stream(batches_of(parents, 5, 10))
    file, elsewhere = tmp_path / "interactions.db", tmp_path / "moved.db"
    file.rename(elsewhere)
    with pytest.raises(Unavailable):
        await stream.recorded_by(store)
    elsewhere.rename(file)
    assert stream.asked == 2
    response = await Stream(stream.requests).recorded_by(store)
    assert RecordInteractionsResponse.FromString(response).created == 50  # the store was empty
