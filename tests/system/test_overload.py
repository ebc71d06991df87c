"""Overload: admitted calls are served, the rest are refused, and the service recovers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from bench.load import Load, Request, run
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from testing import http2
from testing.build import Parents, new_interaction, new_sid
from testing.hostile_client import resident_mib
from testing.process import Served, served
from testing.requests import Code, get_request
from testing.store_lock import write_lock

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

pytestmark = pytest.mark.each_engine

AT_ONCE = 20
WAITING = 10
SERVED = AT_ONCE + WAITING
LIMITS = (
    "--max-concurrent-calls", str(AT_ONCE), "--max-waiting-calls", str(WAITING),
    "--calls-per-second", "0", "--account-call-share", "1",
)  # fmt: skip
GROWTH_MIB = 120
"""The permitted growth of the server's memory: 2,000 waiting calls with their responses, at about
30 KiB each, and the allocator's reserve."""
GET = "/interaction_svc.v1.InteractionService/GetInteraction"
OVERLOADED = 'interaction_svc_errors_total{reason="ERROR_REASON_OVERLOADED",transport="%s"} %d.0'


@asynccontextmanager
async def connections(server: Served, count: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Open this number of connections; by default the channels of a process share one."""
    async with AsyncExitStack() as opened:
        options = [("grpc.use_local_subchannel_pool", 1)]
        yield [
            await opened.enter_async_context(
                grpc.aio.insecure_channel(server.grpc_address, options=options)
            )
            for _ in range(count)
        ]


async def refused(server: Served, transport: str, count: int) -> None:
    """Wait until `count` calls were refused. The store waits 5 seconds for the lock."""
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(30):
        while OVERLOADED % (transport, count) not in (await http.get(server.metrics_url)).text:
            await asyncio.sleep(0.02)


async def is_serving(channel: grpc.aio.Channel) -> bool:
    checked = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return bool(checked.status == health_pb2.HealthCheckResponse.SERVING)


async def test_under_overload_calls_succeed_or_get_retry_info(
    tmp_path: Path, parents: Parents
) -> None:
    many = 20 * AT_ONCE
    with served(tmp_path, *LIMITS) as server:
        async with connections(server, 5) as channels:

            async def record(number: int) -> Code:
                ingest = IngestServiceStub(channels[number % len(channels)])
                call = ingest.RecordInteraction(
                    ingest_pb.RecordInteractionRequest(interaction=new_interaction(parents))
                )
                try:
                    await call
                except grpc.aio.AioRpcError as error:
                    status = rpc_status.from_call(error)
                    assert status is not None
                    details = [detail.TypeName() for detail in status.details]
                    assert details == ["google.rpc.ErrorInfo", "google.rpc.RetryInfo"]
                    return error.code()
                return Code.OK

            with write_lock(server):
                recording = [asyncio.ensure_future(record(number)) for number in range(many)]
                await refused(server, "grpc", many - SERVED)
                assert await is_serving(channels[0])
            assert Counter(await asyncio.gather(*recording)) == {
                Code.OK: SERVED,
                Code.RESOURCE_EXHAUSTED: many - SERVED,
            }
            for number in range(SERVED):  # succeeds only if all places are free again
                assert await record(number) is Code.OK


async def test_a_flood_of_calls_is_partly_served_and_partly_refused_at_once(
    tmp_path: Path, parents: Parents, engine: str
) -> None:
    interaction = new_interaction(parents)
    with served(tmp_path, *LIMITS) as server:
        async with connections(server, 2) as channels:
            request = ingest_pb.RecordInteractionRequest(interaction=interaction)
            await IngestServiceStub(channels[0]).RecordInteraction(request)
            before = resident_mib(server)
            asking = Request(
                http2.call_headers(GET),
                http2.message(get_request(interaction).SerializeToString()),
            )
            load = Load(server.grpc_address, (asking,), seconds=2, connections=16, per_second=8000)
            flood = asyncio.create_task(asyncio.to_thread(run, load))
            checks = 0
            while not flood.done():
                assert await is_serving(channels[1])
                checks += 1
                await asyncio.sleep(0.02)
            answered = await flood
            assert checks > 1
            # The service refuses with RESOURCE_EXHAUSTED (8). grpc refuses calls that wait for
            # Python with CANCELLED (1). h2corn has no such queue.
            assert set(answered.refused) <= ({"1", "8"} if engine == "grpcio" else {"8", "reset"})
            assert ("1" if engine == "grpcio" else "8") in answered.refused
            assert len(answered.ok) >= AT_ONCE
            assert (answered.unanswered, answered.closed) == (0, 0)
            assert resident_mib(server) <= before + GROWTH_MIB
            reading = InteractionServiceStub(channels[0])
            for _ in range(2 * AT_ONCE):
                found = await reading.GetInteraction(get_request(interaction))
                assert found.interaction == interaction


async def test_http_requests_above_the_limit_get_retry_after(
    tmp_path: Path, parents: Parents
) -> None:
    many = 5 * AT_ONCE
    with served(tmp_path, *LIMITS) as server:
        async with httpx.AsyncClient(
            base_url=server.base_url,
            auth=(parents.account_sid, "x"),
            trust_env=False,
            timeout=60,
            limits=httpx.Limits(max_connections=None),
        ) as http:
            before = resident_mib(server)
            with write_lock(server):
                paths = [f"{parents.path}/{new_sid('KI')}" for _ in range(many)]
                deleting = [asyncio.ensure_future(http.delete(path)) for path in paths]
                await refused(server, "http", many - SERVED)
                assert (await http.get("/readyz")).status_code == 200
            responses: list[Any] = await asyncio.gather(*deleting)
            statuses = Counter(response.status_code for response in responses)
            assert statuses == {404: SERVED, 429: many - SERVED}
            for response in responses:
                if response.status_code == 429:
                    assert response.json()["code"] == 20429
                    assert response.headers["retry-after"] == "1"
            listings = await asyncio.gather(*(http.get(parents.path) for _ in range(many)))
            assert {response.status_code for response in listings} in ({200}, {200, 429})
            for _ in range(2 * AT_ONCE):
                assert (await http.get(parents.path)).status_code == 200
            assert resident_mib(server) <= before + GROWTH_MIB
