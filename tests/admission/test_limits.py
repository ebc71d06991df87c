"""The limits of the service, with a simulated clock and on a running server."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st
from testing.api_keys import basic, new_key, revoke
from testing.build import Parents, new_interaction, new_sid
from testing.clock import Time
from testing.process import served
from testing.requests import Code, failure, get_request, list_request
from testing.store_lock import write_lock

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.rate_limits import FailedAuthLimiter, RequestRateLimit
from interaction_svc.admission.token_bucket import KeyedTokenBucket
from interaction_svc.domain.errors import Overloaded, RateLimited, Unauthenticated, Unavailable
from interaction_svc.domain.principals import ANONYMOUS, Principal
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

pytestmark = pytest.mark.each_engine


@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.lists(st.floats(0, 3, allow_nan=False), max_size=80),
)
def test_a_token_bucket_allows_its_burst_and_then_its_rate(
    per_second: int, burst: int, pauses: list[float]
) -> None:
    time = Time()
    rate = KeyedTokenBucket(per_second, burst, time)
    taken: list[float] = []
    for pause in pauses:
        time.now += pause
        wait = rate.take("x")
        if not wait:
            taken.append(time.now)
        else:
            time.now += wait + 1e-6
            assert rate.take("x") == 0.0
            taken.append(time.now)
    for first, last in itertools.combinations(range(len(taken)), 2):
        count = last - first + 1
        assert count <= burst + per_second * (taken[last] - taken[first]) + 1e-3


def test_each_name_has_a_bucket_and_old_buckets_are_dropped() -> None:
    time = Time()
    rate = KeyedTokenBucket(1, 2, time)
    assert [rate.take("a") for _ in range(2)] == [0, 0]
    assert rate.take("a") == pytest.approx(1)
    assert rate.take("b") == 0
    rate.refund("a")
    assert rate.take("a") == 0
    for number in range(3 * KeyedTokenBucket.MAX_NAMES):
        rate.take(str(number))
    assert len(rate._full_at) <= KeyedTokenBucket.MAX_NAMES
    time.now += 10
    assert [rate.take("a") for _ in range(3)] == [0, 0, pytest.approx(1)]


def test_wrong_attempts_count_by_the_machine_that_makes_them() -> None:
    attempts = FailedAuthLimiter(Time())

    def wait_after_a_wrong_one(peer: str) -> float:
        with suppress(Unauthenticated), attempts.one(peer) as wait:
            raise Unauthenticated
        return wait

    for port in range(10):
        assert wait_after_a_wrong_one(f"[2001:db8::{port}]:{port}") == 0
    assert wait_after_a_wrong_one("[2001:db8::ffff]:1") == 1
    for other in ("[2001:db8:0:1::1]:1", "192.0.2.1:1", "[::ffff:192.0.2.2]:5", "192.0.2.2:6"):
        assert wait_after_a_wrong_one(other) == 0


def test_only_wrong_attempts_count() -> None:
    attempts = FailedAuthLimiter(Time())
    for _ in range(100):
        with attempts.one("192.0.2.1:1") as wait:
            assert wait == 0
        with suppress(Unavailable), attempts.one("192.0.2.1:1") as wait:
            raise Unavailable("nothing is known of them")
        assert wait == 0


def test_concurrent_attempts_are_limited() -> None:
    attempts = FailedAuthLimiter(Time())
    with ExitStack() as under_way:
        for _ in range(10):
            assert under_way.enter_context(attempts.one("192.0.2.1:1")) == 0
        assert under_way.enter_context(attempts.one("192.0.2.1:1")) == 1
    with attempts.one("192.0.2.1:1") as wait:  # none of the eleven attempts was wrong
        assert wait == 0


def test_the_rate_limit_is_per_account() -> None:
    rate = RequestRateLimit(3, Time())
    one, other = Principal(new_sid("AC")), Principal(new_sid("AC"))
    for _ in range(3):
        rate.count(one)
    with pytest.raises(RateLimited, match="3 calls a second"):
        rate.count(one)
    with pytest.raises(RateLimited):
        rate.count(Principal(one.account_sid, new_sid("SK")))
    rate.count(other)
    unlimited = RequestRateLimit(0, Time())
    for _ in range(1000):
        unlimited.count(one)


def caller_of(account_sid: str | None, key: str = "SK") -> Principal:
    return Principal(account_sid, new_sid(key) if key else None)


def begun(concurrency: ConcurrencyLimit, caller: Principal, *, is_stream: bool = False) -> bool:
    """Begin a request, and return whether the limits allowed it."""
    try:
        concurrency.begin(caller, is_stream=is_stream)
    except Overloaded:
        return False
    return True


def test_an_account_is_limited_to_its_share_of_the_places() -> None:
    concurrency = ConcurrencyLimit(10, call_share=0.75)
    account_sid = new_sid("AC")
    callers = [caller_of(account_sid) for _ in range(20)]
    assert sum(begun(concurrency, caller) for caller in callers) == 8  # 7.5, rounded up
    assert begun(concurrency, caller_of(new_sid("AC")))
    assert begun(concurrency, caller_of(None))
    concurrency.end(callers[0])
    assert [begun(concurrency, caller) for caller in callers[:2]] == [True, False]
    with pytest.raises(Overloaded) as refused:
        concurrency.begin(callers[0])
    assert refused.value.metadata == {"scope": "account", "limit": "8"}
    # Callers without a key have no share: they may take every place.
    assert all(begun(concurrency, ANONYMOUS) for _ in range(100))


def test_streams_are_limited_per_account_and_per_key() -> None:
    concurrency = ConcurrencyLimit(10, call_share=0.75, stream_share=0.5, streams_per_key=3)
    account_sid = new_sid("AC")
    key = caller_of(account_sid)
    assert [begun(concurrency, key, is_stream=True) for _ in range(5)] == [True] * 3 + [False] * 2
    others = [caller_of(account_sid) for _ in range(4)]
    assert sum(begun(concurrency, caller, is_stream=True) for caller in others) == 2
    # Refused streams hold no place: 5 of the account's 8 places are taken.
    assert [begun(concurrency, key) for _ in range(4)] == [True] * 3 + [False]
    concurrency.end(key, is_stream=True)
    assert begun(concurrency, key, is_stream=True)
    assert sum(begun(concurrency, ANONYMOUS, is_stream=True) for _ in range(10)) == 5


def test_a_share_is_at_least_one_place() -> None:
    concurrency = ConcurrencyLimit(1, call_share=0.1, stream_share=0.1)
    caller = caller_of(new_sid("AC"))
    assert begun(concurrency, caller, is_stream=True)
    concurrency.end(caller, is_stream=True)
    assert begun(concurrency, caller)


def test_places_are_released() -> None:
    concurrency = ConcurrencyLimit(2)

    def fail() -> None:
        with concurrency.slot():
            assert concurrency.is_full
            with pytest.raises(Overloaded), concurrency.slot():
                pass
            raise ZeroDivisionError

    for _ in range(3):
        with concurrency.slot(), pytest.raises(ZeroDivisionError):
            fail()
    assert not concurrency.is_full


async def test_calls_above_the_limit_are_refused_except_health(
    tmp_path: Path, parents: Parents
) -> None:
    with served(tmp_path, "--max-concurrent-calls", "3", "--calls-per-second", "0") as server:
        async with (
            grpc.aio.insecure_channel(server.grpc_address) as channel,
            httpx.AsyncClient(
                base_url=server.base_url, auth=(parents.account_sid, "x"), trust_env=False
            ) as http,
        ):
            ingest, reading = IngestServiceStub(channel), InteractionServiceStub(channel)
            with write_lock(server):
                waiting = [
                    asyncio.ensure_future(
                        ingest.RecordInteraction(
                            ingest_pb.RecordInteractionRequest(interaction=new_interaction(parents))
                        )
                    )
                    for _ in range(3)
                ]
                in_flight = 'interaction_svc_calls_in_flight{transport="grpc"} 3.0'
                async with asyncio.timeout(4):  # the store waits for the lock for 5 seconds
                    while in_flight not in (await http.get(server.metrics_url)).text:
                        await asyncio.sleep(0.01)
                response = await http.get(parents.path)
                assert response.status_code == 429
                assert response.json()["code"] == 20429
                assert response.headers["retry-after"] == "1"
                for _ in range(5):
                    call = reading.ListInteractions(list_request(parents))
                    code, reason, details = await failure(call)
                    assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "ERROR_REASON_OVERLOADED")
                    assert "RetryInfo" in details
                checked = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest()
                )
                assert checked.status == health_pb2.HealthCheckResponse.SERVING
                assert (await http.get("/readyz")).status_code == 200
            for recording in waiting:
                assert (await recording).outcome == ingest_pb.RECORD_OUTCOME_CREATED
            assert (await http.get(parents.path)).status_code == 200
            await reading.ListInteractions(list_request(parents))


async def test_silent_streams_of_an_account_leave_places_to_others(
    tmp_path: Path, parents: Parents
) -> None:
    store = tmp_path / "interactions.db"
    account_sid = new_sid("AC")
    flooding = [new_key(store, "ingest", account_sid) for _ in range(2)]
    reader = new_key(store, "read", parents.account_sid)
    limits = ("--max-concurrent-calls", "20", "--max-streams-per-key", "7")
    with served(tmp_path, *limits, times={"app.authentication.SECONDS_KNOWN": 0.1}) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            ingest, reading = IngestServiceStub(channel), InteractionServiceStub(channel)
            flood = []
            # The first key gets 7 streams, and the second the other 3 of the account's 10.
            for key, held in zip(flooding, (7, 3), strict=True):
                metadata = [("authorization", key.bearer)]  # without a deadline
                streams = [ingest.RecordInteractions(metadata=metadata) for _ in range(128)]
                codes = Counter(await first_codes(streams, 128 - held))
                assert codes == {Code.RESOURCE_EXHAUSTED: 128 - held}
                flood.append(streams)
            for _ in range(30):
                await reading.ListInteractions(
                    list_request(parents), metadata=[("authorization", reader.bearer)]
                )
            for key, streams, held in zip(flooding, flood, (7, 3), strict=True):
                await asyncio.to_thread(revoke, server.store, key)
                codes = Counter(await first_codes(streams, 128))
                assert codes == {Code.RESOURCE_EXHAUSTED: 128 - held, Code.UNAUTHENTICATED: held}


async def test_http_requests_count_against_the_account_s_share(
    tmp_path: Path, parents: Parents
) -> None:
    limits = ("--max-concurrent-calls", "4", "--account-call-share", "0.5")
    with served(tmp_path, *limits) as server:
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=30) as http:
            mine, other = (parents.account_sid, "x"), (new_sid("AC"), "x")
            with write_lock(server):
                deleting = [
                    asyncio.ensure_future(http.delete(f"{parents.path}/{new_sid('KI')}", auth=mine))
                    for _ in range(2)
                ]
                in_flight = 'interaction_svc_calls_in_flight{transport="http"} 2.0'
                async with asyncio.timeout(4):  # the store waits for the lock for 5 seconds
                    while in_flight not in (await http.get(server.metrics_url)).text:
                        await asyncio.sleep(0.01)
                refused = await http.get(parents.path, auth=mine)
                assert (refused.status_code, refused.json()["code"]) == (429, 20429)
                assert "an account may have 2" in refused.json()["message"]
                assert (await http.get(parents.path, auth=other)).status_code == 200
            assert [(await one).status_code for one in deleting] == [404, 404]
            assert (await http.get(parents.path, auth=mine)).status_code == 200


async def first_codes(streams: list[Any], count: int) -> list[Code]:
    """Wait until `count` streams have ended; return the codes of the ended ones."""
    async with asyncio.timeout(30):
        while sum(stream.done() for stream in streams) < count:
            await asyncio.sleep(0.02)
    return [await stream.code() for stream in streams if stream.done()]


async def test_calls_per_second_of_an_account_are_limited(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path, "--calls-per-second", "5") as server:
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as http:
            mine, other = (parents.account_sid, "x"), (new_sid("AC"), "x")
            responses = [await http.get(parents.path, auth=mine) for _ in range(50)]
            statuses = [response.status_code for response in responses]
            assert statuses[:5] == [200] * 5
            refused = next(response for response in responses if response.status_code == 429)
            assert refused.json()["code"] == 20429
            assert "5 calls a second" in refused.json()["message"]
            assert refused.headers["retry-after"] == "1"
            assert (await http.get(parents.path, auth=other)).status_code == 200
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            reading = InteractionServiceStub(channel)
            results = await asyncio.gather(
                *(
                    reading.ListInteractions(
                        list_request(parents), metadata=[("authorization", basic(other[0]))]
                    )
                    for _ in range(50)
                ),
                return_exceptions=True,
            )
            refusals = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
            assert 0 < len(refusals) < 50
            status = rpc_status.from_call(refusals[0])
            assert refusals[0].code() is Code.RESOURCE_EXHAUSTED
            assert any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details)
            info = ErrorInfo()
            assert status.details[0].Unpack(info)
            assert dict(info.metadata) == {"scope": "account", "per_second": "5"}


async def test_a_call_ends_at_the_service_s_deadline(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path, "--deadline-seconds", "0.3", "--stream-idle-seconds", "0.3") as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            ingest, reading = IngestServiceStub(channel), InteractionServiceStub(channel)
            interaction = new_interaction(parents)
            request = ingest_pb.RecordInteractionRequest(interaction=interaction)
            with write_lock(server):
                for seconds in (None, 3600):
                    call = ingest.RecordInteraction(request, timeout=seconds)
                    code, reason, _ = await failure(call)
                    assert (code, reason) == (
                        Code.DEADLINE_EXCEEDED,
                        "ERROR_REASON_DEADLINE_EXCEEDED",
                    )
                async with httpx.AsyncClient(trust_env=False) as http:
                    url = f"{server.base_url}{parents.path}/{new_sid('KI')}"
                    response = await http.delete(url, auth=(parents.account_sid, "x"))
                    assert (response.status_code, response.json()["code"]) == (503, 20503)

            # A stream may take longer than the deadline, but not the wait for each request.
            async def slowly(pause: float) -> AsyncIterator[Any]:
                for _ in range(5):
                    yield ingest_pb.RecordInteractionsRequest(
                        interactions=[new_interaction(parents)]
                    )
                    await asyncio.sleep(pause)

            assert (await ingest.RecordInteractions(slowly(0.1))).created == 5
            code, reason, details = await failure(
                ingest.RecordInteractions(slowly(3), timeout=3600)
            )
            assert (code, reason) == (Code.DEADLINE_EXCEEDED, "ERROR_REASON_STREAM_IDLE")
            assert details["RecordInteractionsResponse"] == ingest_pb.RecordInteractionsResponse(
                created=1
            )
            assert (await reading.GetInteraction(get_request(interaction))).interaction


async def test_sizes_are_limited(tmp_path: Path, parents: Parents) -> None:
    limits = ("--max-message-bytes", "65536", "--max-header-bytes", "2048")
    with served(tmp_path, *limits) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            ingest, reading = IngestServiceStub(channel), InteractionServiceStub(channel)
            for size, fits in ((60_000, True), (70_000, False)):
                interaction = new_interaction(parents, data="x" * size)
                call = ingest.RecordInteraction(
                    ingest_pb.RecordInteractionRequest(interaction=interaction)
                )
                if fits:
                    await call
                else:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call
                    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
            for size, fits in ((1000, True), (3000, False)):
                padding = [("x-padding", "x" * size)]
                listing = reading.ListInteractions(list_request(parents), metadata=padding)
                if fits:
                    await listing
                else:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await listing
                    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
