"""A gRPC service for tests, with all four kinds of RPC behind the interceptors.

Its methods take and return bytes, like those of the service. The text of a request selects
what a method does.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf.empty_pb2 import Empty
from testing.build import new_sid
from testing.engines import grpc_listener
from testing.requests import failure

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.control import AdmissionControl
from interaction_svc.admission.rate_limits import RequestRateLimit
from interaction_svc.app.api_keys import NewKey, create_key
from interaction_svc.app.authentication import Authenticator
from interaction_svc.domain.errors import InvalidField
from interaction_svc.domain.principals import Permission, Role
from interaction_svc.domain.units import MIB
from interaction_svc.store import Store
from interaction_svc.store.factory import open_store
from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.operations import Kind, Operation
from interaction_svc.transports.pipeline import Pipeline, StreamTimes
from interaction_svc.transports.rpc.method import Method
from tests.store.sqlite import files

KINDS = ("unary_unary", "stream_unary", "unary_stream", "stream_stream")
STREAMS = KINDS[1:]
STREAMS_OF_A_KEY = 2
PLACES = 8
LARGE = MIB


class Times(NamedTuple):
    """Time limits in seconds: of a unary call, and of a stream of requests."""

    call: float
    idle: float
    stream: float


LONG = Times(30, 30, 30)
Metadata = list[tuple[str, str]]


class Echo:
    """Returns the caller's key and the request. Some requests have another effect."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        """Set when a hanging call has ended, by success, error or cancellation."""

    async def unary_unary(self, request: bytes) -> bytes:
        return await self._answer(request)

    async def stream_unary(self, requests: AsyncIterator[bytes]) -> bytes:
        try:
            return b"".join([await self._answer(request) async for request in requests])
        finally:
            self.left.set()

    async def unary_stream(self, request: bytes) -> AsyncIterator[bytes]:
        for part in request.split(b","):
            yield await self._answer(part)

    async def stream_stream(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                yield await self._answer(request)
        finally:
            self.left.set()

    async def _answer(self, request: bytes) -> bytes:
        if request == b"bad":
            raise InvalidField("field", "is bad")
        if request == b"crash":
            raise RuntimeError("a private text")
        if request == b"hang":
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        if request == b"large":
            return bytes(LARGE)
        return f"{current_request().principal.key_sid}:".encode() + request


class EchoServer:
    """The served methods and their limits."""

    port: int

    def __init__(self, engine: str, store: Store, times: Times, *, cached_forever: bool) -> None:
        self.store = store
        self.echo = Echo()
        self.concurrency = ConcurrencyLimit(PLACES, streams_per_key=STREAMS_OF_A_KEY)
        self.admission = AdmissionControl(self.concurrency, RequestRateLimit(0), times.call)
        clock = (lambda: 0.0) if cached_forever else asyncio.get_running_loop().time
        stages = Pipeline(Authenticator(store, allows_anonymous=False, clock=clock), self.admission)
        self.listener = grpc_listener(
            engine,
            {
                Operation(path_of(kind), None, Permission.READ, kind=Kind(kind)): Method(
                    getattr(self.echo, kind), Empty, Empty
                )
                for kind in KINDS
            },
            stages,
            times=StreamTimes(times.idle, times.stream),
        )

    @property
    def places(self) -> int:
        """The number of places in use."""
        return self.concurrency._count

    @property
    def unsent(self) -> int:
        """The number of unread bytes of responses."""
        return self.admission.response_backlog._all

    async def key(self, role: Role = Role.READ) -> NewKey:
        return await create_key(self.store, new_sid("AC"), role)


def path_of(kind: str) -> str:
    return f"/test.Echo/{kind}"


def shown(key: NewKey) -> Metadata:
    return [("authorization", f"Bearer {key.key.sid}.{key.secret}")]


@asynccontextmanager
async def opened(
    folder: Path, times: Times = LONG, *, cached_forever: bool = True
) -> AsyncIterator[tuple[EchoServer, grpc.aio.Channel]]:
    async with AsyncExitStack() as stack:
        store = await open_store(files.url(folder))
        stack.push_async_callback(store.close)
        engine = os.environ["INTERACTION_SVC_GRPC_ENGINE"]
        pipeline = EchoServer(engine, store, times, cached_forever=cached_forever)
        pipeline.port = (address := await pipeline.listener.start()).port
        stack.push_async_callback(pipeline.listener.drain, 0)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(str(address)))
        await stack.enter_async_context(asyncio.timeout(30))
        yield pipeline, channel


def start(channel: grpc.aio.Channel, kind: str, *requests: bytes, **given: Any) -> Any:
    """Start a call of a kind with these requests."""
    method: Any = getattr(channel, kind)(path_of(kind))
    if kind.startswith("unary"):
        return method(requests[0], **given)
    return method(iter(requests), **given)


def open_call(channel: grpc.aio.Channel, kind: str, **given: Any) -> Any:
    """Start a call that does not end: it sends no requests, or waits for responses."""
    method: Any = getattr(channel, kind)(path_of(kind))
    return method(b"hang", **given) if kind.startswith("unary") else method(**given)


async def answers_of(call: Any, kind: str) -> list[bytes]:
    if kind.endswith("stream"):
        return [answer async for answer in call]
    return [await call]


async def ended(call: Any, kind: str) -> Any:
    """Await the end of a call that fails."""
    return await failure(answers_of(call, kind))


async def turned(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true, while other tasks run."""
    while not condition():
        await asyncio.sleep(0.01)
