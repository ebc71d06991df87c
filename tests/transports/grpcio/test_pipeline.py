"""The interceptors around all four kinds of RPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from testing import http2
from testing.requests import Code, failure

from interaction_svc.admission.response_backlog import ResponseBacklog
from interaction_svc.app import authentication
from interaction_svc.app.api_keys import revoke_key
from interaction_svc.domain.principals import Role
from interaction_svc.transports.pipeline import key_watch
from tests.transports.grpcio.echo import (
    KINDS,
    LARGE,
    PLACES,
    STREAMS,
    STREAMS_OF_A_KEY,
    Times,
    answers_of,
    ended,
    open_call,
    opened,
    path_of,
    shown,
    start,
    turned,
)

pytestmark = pytest.mark.each_engine


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_of_call_is_answered_and_refused_in_the_same_way(
    tmp_path: Path, kind: str
) -> None:
    async with opened(tmp_path) as (pipeline, channel):
        key = await pipeline.key()
        sid = key.key.sid.encode()
        requests = [b"a"] if kind.startswith("unary") else [b"a", b"b"]
        call = start(channel, kind, *requests, metadata=[*shown(key), ("x-request-id", "mine")])
        assert b"".join(await answers_of(call, kind)) == b"".join(
            sid + b":" + request for request in requests
        )
        assert ("x-request-id", "mine") in tuple(await call.trailing_metadata())
        code, reason, _ = await ended(start(channel, kind, b"bad", metadata=shown(key)), kind)
        assert (code, reason) == (Code.INVALID_ARGUMENT, "ERROR_REASON_INVALID_FIELD")
        code, reason, details = await ended(
            start(channel, kind, b"crash", metadata=shown(key)), kind
        )
        assert (code, reason) == (Code.INTERNAL, "ERROR_REASON_INTERNAL")
        assert "private" not in str(details)
        code, reason, _ = await ended(open_call(channel, kind), kind)
        assert (code, reason) == (Code.UNAUTHENTICATED, "ERROR_REASON_UNAUTHENTICATED")
        ingest = await pipeline.key(Role.INGEST)
        code, reason, _ = await ended(open_call(channel, kind, metadata=shown(ingest)), kind)
        assert (code, reason) == (Code.PERMISSION_DENIED, "ERROR_REASON_PERMISSION_DENIED")


async def test_responses_before_an_error_arrive(tmp_path: Path) -> None:
    async with opened(tmp_path) as (pipeline, channel):
        key = await pipeline.key()
        call = start(channel, "unary_stream", b"a,b,bad", metadata=shown(key))
        assert (await call.read())[-1:] == b"a"
        assert (await call.read())[-1:] == b"b"
        code, _, _ = await failure(call.read())
        assert code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_call_releases_its_place(tmp_path: Path, kind: str) -> None:
    async with opened(tmp_path) as (pipeline, channel):
        method: Any = getattr(channel, kind)(path_of(kind))
        for _ in range(2):
            keyed = [await pipeline.key() for _ in range(PLACES)]
            hanging = [
                method(b"hang" if kind.startswith("unary") else hang(), metadata=shown(key))
                for key in keyed
            ]
            await turned(lambda: pipeline.concurrency.is_full)
            # It sends no request: grpc.aio reports INTERNAL if a stream ends while it sends.
            refused = open_call(channel, kind, metadata=shown(keyed[0]))
            code, reason, _ = await ended(refused, kind)
            assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "ERROR_REASON_OVERLOADED")
            for call in hanging:
                call.cancel()
            await turned(lambda: pipeline.places == 0)
        await answers_of(start(channel, kind, b"a", metadata=shown(keyed[0])), kind)


async def hang() -> AsyncIterator[bytes]:
    yield b"hang"
    await asyncio.Event().wait()


@pytest.mark.parametrize("kind", STREAMS)
async def test_the_number_of_streams_is_limited_for_each_key(tmp_path: Path, kind: str) -> None:
    async with opened(tmp_path) as (pipeline, channel):
        one, other = await pipeline.key(), await pipeline.key()
        calls = [open_call(channel, kind, metadata=shown(one)) for _ in range(STREAMS_OF_A_KEY)]
        await turned(lambda: pipeline.places == STREAMS_OF_A_KEY)
        code, reason, details = await ended(open_call(channel, kind, metadata=shown(one)), kind)
        assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "ERROR_REASON_OVERLOADED")
        info: Any = details["ErrorInfo"]
        assert dict(info.metadata) == {"scope": "key", "limit": str(STREAMS_OF_A_KEY)}
        await answers_of(start(channel, "unary_unary", b"a", metadata=shown(one)), "unary_unary")
        await answers_of(start(channel, kind, b"a", metadata=shown(other)), kind)
        calls[0].cancel()
        await turned(lambda: pipeline.places < STREAMS_OF_A_KEY)
        await answers_of(start(channel, kind, b"a", metadata=shown(one)), kind)


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_silent_stream_ends_when_its_key_is_revoked(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_watch, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(authentication, "SECONDS_KNOWN", 0.05)
    async with opened(tmp_path, cached_forever=False) as (pipeline, channel):
        key, kept = await pipeline.key(), await pipeline.key()
        call, other = (open_call(channel, kind, metadata=shown(one)) for one in (key, kept))
        await turned(lambda: pipeline.places == 2)
        await revoke_key(pipeline.store, key.key.sid)
        code, reason, _ = await ended(call, kind)
        assert (code, reason) == (Code.UNAUTHENTICATED, "ERROR_REASON_UNAUTHENTICATED")
        await asyncio.wait_for(pipeline.echo.left.wait(), 10)
        await turned(lambda: pipeline.places == 1)
        assert not other.done()


async def test_an_unavailable_store_ends_no_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_watch, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(authentication, "SECONDS_KNOWN", 0.02)
    async with opened(tmp_path, cached_forever=False) as (pipeline, channel):
        key = await pipeline.key()
        call = open_call(channel, "stream_stream", metadata=shown(key))
        await call.write(b"a")
        assert (await call.read()).endswith(b":a")
        await pipeline.store.close()
        for _ in range(3):
            await asyncio.sleep(0.05)  # longer than the key is cached
            other = start(channel, "unary_unary", b"a", metadata=shown(key))
            code, _, _ = await ended(other, "unary_unary")
            assert code is Code.UNAVAILABLE
        await call.write(b"b")
        assert (await call.read()).endswith(b":b")


async def test_streams_of_responses_have_no_deadline(tmp_path: Path) -> None:
    async with opened(tmp_path, Times(0.1, 0.1, 0.1)) as (pipeline, channel):
        key = await pipeline.key()
        calls = {
            kind: open_call(channel, kind, metadata=shown(key))
            for kind in ("unary_stream", "stream_stream")
        }
        code, reason, _ = await ended(
            open_call(channel, "unary_unary", metadata=shown(key), timeout=3600), "unary_unary"
        )
        assert (code, reason) == (Code.DEADLINE_EXCEEDED, "ERROR_REASON_DEADLINE_EXCEEDED")
        await asyncio.sleep(0.3)  # three times the deadline of other calls
        assert not any(call.done() for call in calls.values())
        await calls["stream_stream"].write(b"a")
        assert (await calls["stream_stream"].read()).endswith(b":a")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_s_own_deadline_ends_each_kind(tmp_path: Path, kind: str) -> None:
    async with opened(tmp_path) as (pipeline, channel):
        key = await pipeline.key()
        call = open_call(channel, kind, metadata=shown(key), timeout=0.3)
        await turned(lambda: pipeline.places == 1)
        assert await call.code() is Code.DEADLINE_EXCEEDED
        await turned(lambda: pipeline.places == 0)


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (Times(30, 0.2, 30), "ERROR_REASON_STREAM_IDLE"),
        (Times(30, 30, 0.2), "ERROR_REASON_DEADLINE_EXCEEDED"),
    ],
)
async def test_a_stream_of_requests_ends_when_it_is_idle_or_old(
    tmp_path: Path, times: Times, reason: str
) -> None:
    async with opened(tmp_path, times) as (pipeline, channel):
        call = open_call(
            channel, "stream_unary", metadata=shown(await pipeline.key()), timeout=3600
        )
        code, found, details = await ended(call, "stream_unary")
        assert (code, found) == (Code.DEADLINE_EXCEEDED, reason)
        info: Any = details["ErrorInfo"]
        assert info.metadata.get("idle_seconds", "0.2") == "0.2"
        await turned(lambda: pipeline.places == 0)


@pytest.mark.each_engine("grpcio")  # h2corn keeps up to 2 MiB of a connection's responses
async def test_responses_of_a_stream_count_until_the_client_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResponseBacklog, "MAX_BYTES_A_CONNECTION", 3 * LARGE)
    async with opened(tmp_path) as (pipeline, channel):
        request = http2.message(b",".join([b"large"] * 9))
        reader, writer = await asyncio.open_connection("127.0.0.1", pipeline.port)
        writer.write(http2.PREFACE + http2.settings((http2.INITIAL_WINDOW_SIZE, 0)))
        for number in range(5):
            headers = http2.call_headers(path_of("unary_stream"), shown(await pipeline.key()))
            writer.write(http2.call(2 * number + 1, headers, request))
        # Two calls wait to send a response. The other three fail at once: flow control does not
        # apply to trailers.
        received, ends = bytearray(), 0
        while ends < 3:
            received += await reader.read(65_536)
            for kind, flags, _, _ in http2.frames(received):
                ends += kind == http2.HEADERS and bool(flags & http2.END_STREAM)
        assert (pipeline.places, pipeline.unsent) == (
            2,
            2 * (LARGE + ResponseBacklog.OVERHEAD_BYTES),
        )
        writer.close()
        await turned(lambda: (pipeline.places, pipeline.unsent) == (0, 0))
        call = start(
            channel,
            "unary_stream",
            b",".join([b"large"] * 9),
            metadata=shown(await pipeline.key()),
        )
        assert len(await answers_of(call, "unary_stream")) == 9
        await turned(lambda: pipeline.unsent == 0)


async def test_a_call_of_an_unknown_method_needs_no_key(tmp_path: Path, engine: str) -> None:
    async with opened(tmp_path) as (pipeline, channel):
        call: Any = channel.unary_unary("/AWS.ALB/healthcheck")
        code, reason, _ = await failure(call(b"", metadata=[("authorization", "Bearer wrong")]))
        assert (code, reason) == (Code.UNIMPLEMENTED, "ERROR_REASON_METHOD_NOT_ALLOWED")
        with ExitStack() as places:
            while (place := pipeline.concurrency.place()) is not None:
                places.enter_context(place)
            code, _, _ = await failure(call(b""))
            # It needs a place on grpcio, because its requests would be read.
            expected = {"grpcio": Code.RESOURCE_EXHAUSTED, "h2corn": Code.UNIMPLEMENTED}
            assert code is expected[engine]
