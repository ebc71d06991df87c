"""Writers and readers that continue after failures, and count their responses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from testing.build import Parents, new_interaction
from testing.requests import Code, failure, get_request, list_request

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_PAUSE_SECONDS = 0.02
_CALL_SECONDS = 20.0


async def until(condition: Callable[[], bool], what: str, seconds: float = 40) -> None:
    """Return when the condition is true. Fail if it is not true within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(_PAUSE_SECONDS)
    except TimeoutError:
        raise AssertionError(f"in {seconds} seconds there was no {what}") from None


class Traffic:
    """Calls of one client to one server, and their results."""

    def __init__(self, channel: grpc.aio.Channel, parents: Parents, seconds: float | None) -> None:
        self.reading = InteractionServiceStub(channel)
        self.ingest = IngestServiceStub(channel)
        self.parents = parents
        self.seconds = seconds
        self.acknowledged: list[pb.Interaction] = []
        self.in_doubt: list[pb.Interaction] = []
        """Interactions whose record had no response."""
        self.reads = 0
        self.refused: list[Code] = []
        self.health: list[int] = []
        self._health = health_pb2_grpc.HealthStub(channel)

    async def record(self) -> None:
        """Record a new Interaction."""
        interaction = new_interaction(self.parents)
        request = ingest_pb.RecordInteractionRequest(interaction=interaction)
        call = self.ingest.RecordInteraction(request, timeout=self.seconds)
        if await self._answered(call):
            self.acknowledged.append(interaction)
        else:
            self.in_doubt.append(interaction)

    async def read(self) -> None:
        """Get the Interaction that was recorded last, or list, in turn."""
        if self.reads % 2 and self.acknowledged:
            wanted = self.acknowledged[-1]
            asked = get_request(wanted)
            call: Awaitable[Any] = self.reading.GetInteraction(asked, timeout=self.seconds)
        else:
            page = list_request(self.parents, page_size=5)
            call = self.reading.ListInteractions(page, timeout=self.seconds)
        self.reads += await self._answered(call)

    async def _answered(self, call: Awaitable[Any]) -> bool:
        """Return whether a call succeeded. Check that a failure may be retried."""
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self.refused.append(error.code())
        else:
            return True
        if self.refused[-1] is not Code.DEADLINE_EXCEEDED:
            code, reason, details = await failure(call)
            assert (code, reason) == (Code.UNAVAILABLE, "ERROR_REASON_UNAVAILABLE")
            assert "RetryInfo" in details
            await asyncio.sleep(_PAUSE_SECONDS)
        return False

    async def watch(self) -> None:
        """Note each change of health."""
        async for answer in self._health.Watch(health_pb2.HealthCheckRequest()):
            self.health.append(answer.status)

    async def until_serving(self, wanted: bool) -> None:
        """Wait until health is SERVING, or NOT_SERVING if `wanted` is False."""
        status = SERVING if wanted else NOT_SERVING
        await until(lambda: self.health[-1:] == [status], f"health with serving={wanted}")

    async def until_one_succeeds(self) -> None:
        """Wait until a record succeeds. It may be one that is already in progress."""
        recorded = len(self.acknowledged)
        await until(lambda: len(self.acknowledged) > recorded, "record that succeeds")

    async def until_all_succeed(self) -> None:
        """Wait until records and reads succeed that begin after this call."""
        recorded, reads = len(self.acknowledged), self.reads
        # The first ones may have begun before. There are 6 writers and 6 readers.
        await until(
            lambda: len(self.acknowledged) >= recorded + 20 and self.reads >= reads + 20,
            "calls that succeed",
        )

    async def check_nothing_is_lost(self) -> None:
        """Check that every acknowledged Interaction is stored unchanged."""
        there: dict[str, pb.Interaction] = {}
        token = ""
        while True:
            asked = list_request(self.parents, page_size=1000, page_token=token)
            page = await self.reading.ListInteractions(asked)
            there |= {interaction.sid: interaction for interaction in page.interactions}
            token = page.next_page_token
            if not token:
                break
        lost = [one.sid for one in self.acknowledged if there.pop(one.sid, None) != one]
        assert lost == []
        # All others were sent, without a response.
        assert set(there) <= {one.sid for one in self.in_doubt}


@asynccontextmanager
async def traffic(
    address: str, parents: Parents, *, seconds: float | None = _CALL_SECONDS
) -> AsyncIterator[Traffic]:
    """Run writers and readers until the end of the block. Then check that nothing is lost.

    Calls have a deadline of `seconds`; if it is None, only the service's deadline applies.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        made = Traffic(channel, parents, seconds)
        ended = asyncio.Event()

        async def go_on(call: Callable[[], Awaitable[None]]) -> None:
            while not ended.is_set():
                await call()

        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(made.watch())
            for _ in range(6):
                tasks.create_task(go_on(made.record))
                tasks.create_task(go_on(made.read))
            await made.until_serving(True)
            await made.until_all_succeed()
            yield made
            ended.set()
            watching.cancel()
        await made.check_nothing_is_lost()
