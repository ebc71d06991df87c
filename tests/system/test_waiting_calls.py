"""Calls above the limit wait: they are served in the end, or leave the queue."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from google.protobuf import json_format
from testing.api_keys import IssuedKey, new_key, revoke
from testing.build import Parents, new_interaction, new_parents, new_sid
from testing.process import Served, served
from testing.requests import failure, list_request
from testing.store_lock import write_lock

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

pytestmark = pytest.mark.each_engine

CALLERS = 512
TIMES = {"store.sqlite.transactions.BUSY_TIMEOUT_SECONDS": 60}
RECORD = "/interaction_svc.v1.IngestService/RecordInteraction"
FEW = ("--max-concurrent-calls", "4", "--max-waiting-calls", "4", "--account-call-share", "0.5")


class Clients(NamedTuple):
    """Clients of one server. Each HTTP request gets its own connection."""

    server: Served
    channels: list[grpc.aio.Channel]
    http: httpx.AsyncClient

    async def call(self, protocol: str, number: int, key: IssuedKey | None, at: Parents) -> str:
        """Write something; return `ok` or the error."""
        if protocol == "grpc":
            try:
                await self.record(number, key, at)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "ok"
        if protocol == "rest":
            auth = (at.account_sid, "x") if key is None else (key.sid, key.secret)
            deleted = await self.http.delete(f"{at.path}/{new_sid('KI')}", auth=auth)
            return "ok" if deleted.status_code == 404 else deleted.text
        recorded = await self.http.post(
            RECORD,
            content=json.dumps({"interaction": json_format.MessageToDict(new_interaction(at))}),
            headers={"content-type": "application/json", **headers_of(key)},
        )
        return "ok" if recorded.status_code == 200 else recorded.text

    def record(self, number: int, key: IssuedKey | None, at: Parents, **given: Any) -> Any:
        """Start a write over gRPC."""
        return IngestServiceStub(self.channels[number % len(self.channels)]).RecordInteraction(
            ingest_pb.RecordInteractionRequest(interaction=new_interaction(at)),
            metadata=list(headers_of(key).items()),
            **given,
        )

    async def reads(self, key: IssuedKey, at: Parents) -> None:
        """Read a list, which needs no lock."""
        reading = InteractionServiceStub(self.channels[0])
        await reading.ListInteractions(list_request(at), metadata=list(headers_of(key).items()))

    async def measured(self, **expected: int) -> None:
        """Wait until gauges have these values; `in_flight` is the sum over the transports."""
        async with asyncio.timeout(60):
            while True:
                text = (await self.http.get(self.server.metrics_url)).text
                found = {"in_flight": 0.0, "waiting": 0.0}
                for line in text.splitlines():
                    if line.startswith("interaction_svc_calls_in_flight"):
                        found["in_flight"] += float(line.split()[1])
                    elif line.startswith("interaction_svc_waiting_calls"):
                        found["waiting"] = float(line.split()[1])
                if all(found[name] == value for name, value in expected.items()):
                    return
                await asyncio.sleep(0.02)


def headers_of(key: IssuedKey | None) -> dict[str, str]:
    return {} if key is None else {"authorization": key.bearer}


@asynccontextmanager
async def clients(
    folder: Path, *flags: str, times: dict[str, float] | None = None
) -> AsyncIterator[Clients]:
    with served(folder, "--calls-per-second", "0", *flags, times=TIMES | (times or {})) as server:
        async with AsyncExitStack() as opened:
            options = [("grpc.use_local_subchannel_pool", 1)]
            channels = [
                await opened.enter_async_context(
                    grpc.aio.insecure_channel(server.grpc_address, options=options)
                )
                for _ in range(4)
            ]
            http = await opened.enter_async_context(
                httpx.AsyncClient(
                    base_url=server.base_url,
                    trust_env=False,
                    timeout=90,
                    limits=httpx.Limits(max_connections=None),
                )
            )
            yield Clients(server, channels, http)


@pytest.mark.parametrize("protocol", ["grpc", "connect", "rest"])
@pytest.mark.parametrize("has_key", [True, False])
async def test_512_callers_of_one_key_and_without_a_key_are_served(
    tmp_path: Path, parents: Parents, protocol: str, has_key: bool
) -> None:
    roles = "operate" if protocol == "rest" else "ingest"
    key = new_key(tmp_path / "interactions.db", roles, parents.account_sid) if has_key else None
    async with clients(tmp_path) as opened:
        with write_lock(opened.server):
            calling = [
                asyncio.ensure_future(opened.call(protocol, number, key, parents))
                for number in range(CALLERS)
            ]
            # One account may take 192 of the 256 places. REST callers without a key have one too.
            is_account = has_key or protocol == "rest"
            await opened.measured(in_flight=CALLERS, waiting=320 if is_account else 256)
        assert Counter(await asyncio.gather(*calling)) == {"ok": CALLERS}
        await opened.measured(in_flight=0, waiting=0)


async def test_calls_beyond_the_queue_are_refused_and_other_accounts_served(
    tmp_path: Path,
) -> None:
    first, second, third = (new_parents() for _ in range(3))
    store = tmp_path / "interactions.db"
    keys = [new_key(store, "ingest,read", at.account_sid) for at in (first, second, third)]
    async with clients(tmp_path, *FEW) as opened:
        for key, at in zip(keys, (first, second, third), strict=True):  # caches the keys
            await opened.reads(key, at)
        with write_lock(opened.server):
            flood = [asyncio.ensure_future(opened.record(n, keys[0], first)) for n in range(9)]
            await opened.measured(in_flight=4, waiting=2)
            await opened.reads(keys[1], second)
            others = [asyncio.ensure_future(opened.record(n, keys[1], second)) for n in range(2)]
            await opened.measured(in_flight=6, waiting=2)
            # All places are taken. The third account waits, although the first has filled its part.
            late = asyncio.ensure_future(opened.record(0, keys[2], third))
            await opened.measured(in_flight=7, waiting=3)
            code, reason, _ = await failure(opened.record(0, keys[0], first))
            assert (code, reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED, "ERROR_REASON_OVERLOADED",
            )  # fmt: skip
            last = asyncio.ensure_future(opened.record(0, keys[2], third))
            await opened.measured(in_flight=8, waiting=4)
            code, reason, details = await failure(opened.record(0, keys[1], second))
            assert (code, reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED, "ERROR_REASON_OVERLOADED",
            )  # fmt: skip
            assert "RetryInfo" in details
        results = await asyncio.gather(*flood, *others, late, last, return_exceptions=True)
        errors = [one for one in results if isinstance(one, grpc.aio.AioRpcError)]
        assert len(errors) == 5  # of the flood: 2 had places, 2 waited
        assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert not [one for one in results[9:] if isinstance(one, Exception)]


@pytest.mark.parametrize("share", ["0.5", "1"])  # 0.5: they wait for the share; 1: for a place
async def test_calls_leave_the_queue_when_their_time_or_their_client_ends(
    tmp_path: Path, parents: Parents, share: str
) -> None:
    store = tmp_path / "interactions.db"
    key = new_key(store, "ingest,operate", parents.account_sid)
    flags = ("--max-concurrent-calls", "2", "--account-call-share", share)
    places = 1 if share == "0.5" else 2
    async with clients(tmp_path, *flags) as opened:
        body = json.dumps({"interaction": json_format.MessageToDict(new_interaction(parents))})
        with write_lock(opened.server):
            running = [asyncio.ensure_future(opened.record(n, key, parents)) for n in range(places)]
            await opened.measured(in_flight=places)
            timed_out = opened.record(0, key, parents, timeout=0.3)
            assert await timed_out.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            timed = await opened.http.post(
                RECORD,
                content=body,
                headers={
                    "content-type": "application/json",
                    "connect-timeout-ms": "300",
                    **headers_of(key),
                },
            )
            assert timed.json()["code"] == "deadline_exceeded"
            await opened.measured(in_flight=places, waiting=0)
            leaving = [
                asyncio.ensure_future(opened.call(protocol, 0, key, parents))
                for protocol in ("grpc", "connect", "rest")
            ]
            await opened.measured(in_flight=places + 3, waiting=3)
            for call in leaving:
                call.cancel()  # httpx closes the connection
            await opened.measured(in_flight=places, waiting=0)
        await asyncio.gather(*running)
        for protocol in ("grpc", "connect", "rest"):
            calling = [opened.call(protocol, n, key, parents) for n in range(20)]
            assert Counter(await asyncio.gather(*calling)) == {"ok": 20}


@pytest.mark.parametrize("protocol", ["grpc", "connect", "rest"])
async def test_a_waiting_call_ends_at_the_deadline_of_the_service(
    tmp_path: Path, parents: Parents, protocol: str
) -> None:
    flags = ("--max-concurrent-calls", "1", "--deadline-seconds", "2")
    async with clients(tmp_path, *flags) as opened:
        with write_lock(opened.server):
            stream = IngestServiceStub(opened.channels[0]).RecordInteractions()
            await opened.measured(in_flight=1)  # a stream has another deadline
            answer = await opened.call(protocol, 0, None, parents)
            assert (
                "DEADLINE_EXCEEDED" in answer or "deadline_exceeded" in answer or "20503" in answer
            )
            stream.cancel()
        assert await opened.call(protocol, 0, None, parents) == "ok"


@pytest.mark.parametrize("protocol", ["grpc", "connect", "rest"])
async def test_a_call_whose_key_is_revoked_while_it_waits_is_refused(
    tmp_path: Path, parents: Parents, protocol: str
) -> None:
    store = tmp_path / "interactions.db"
    key, other = (new_key(store, "ingest,operate", parents.account_sid) for _ in range(2))
    times = {"app.authentication.SECONDS_KNOWN": 0.1}
    async with clients(tmp_path, *FEW, times=times) as opened:
        stubs = IngestServiceStub(opened.channels[0])
        streams = [
            stubs.RecordInteractions(metadata=[("authorization", other.bearer)]) for _ in range(2)
        ]
        await opened.measured(in_flight=2)
        waiting = asyncio.ensure_future(opened.call(protocol, 0, key, parents))
        await opened.measured(in_flight=3, waiting=1)
        await asyncio.to_thread(revoke, store, key)
        await asyncio.sleep(0.2)  # longer than the key is cached
        for stream in streams:
            stream.cancel()
        answer = await waiting
        assert "unauthenticated" in answer.lower() or "20003" in answer


async def test_a_stream_waits_for_a_place_until_the_deadline_of_other_calls(tmp_path: Path) -> None:
    flags = ("--max-concurrent-calls", "1", "--deadline-seconds", "2")
    async with clients(tmp_path, *flags) as opened:
        stubs = IngestServiceStub(opened.channels[0])
        first = stubs.RecordInteractions()
        await opened.measured(in_flight=1)
        second = stubs.RecordInteractions()
        await opened.measured(in_flight=2, waiting=1)
        code, reason, _ = await failure(second)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert reason == "ERROR_REASON_DEADLINE_EXCEEDED"
        third = stubs.RecordInteractions()
        await opened.measured(in_flight=2, waiting=1)
        first.cancel()
        await third.done_writing()
        assert (await third).created == 0
