"""Each kind of RPC, over each protocol, and REST pass each stage of the pipeline."""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client import REGISTRY
from testing import rpc_http
from testing.build import new_interaction, new_parents
from testing.pipelines import STREAM_TIMES, methods_of
from testing.requests import failure, get_request

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.control import AdmissionControl
from interaction_svc.admission.rate_limits import RequestRateLimit
from interaction_svc.app.api_keys import NewKey, create_key
from interaction_svc.app.authentication import Authenticator
from interaction_svc.app.ingest import Ingest
from interaction_svc.app.interactions import Interactions
from interaction_svc.domain.principals import Principal, Role
from interaction_svc.domain.units import MIB
from interaction_svc.runtime.http_app import http_app
from interaction_svc.store.factory import open_store
from interaction_svc.transports.connect.app import RpcApp
from interaction_svc.transports.operations import GET
from interaction_svc.transports.pipeline import Pipeline
from interaction_svc.v1.interaction_service_pb2 import GetInteractionResponse
from tests.store.sqlite import files
from tests.transports.grpcio import echo

PRIVATE = "a private text"
WEB = ("connect+json", "connect+get+proto", "web")
TRANSPORTS = (*echo.KINDS, "rest", *WEB)


class Transport(ABC):
    """One method behind the pipeline."""

    name: str
    method: str
    ok: str
    """The code of a successful request."""
    refused_as: str
    """The method name in log lines and metrics of a request that is refused for lack of a place."""
    concurrency: ConcurrencyLimit
    places: int

    @abstractmethod
    async def key(self, role: Role) -> NewKey:
        """Return a new key of the account."""

    @abstractmethod
    async def request(self, key: NewKey | None, *, fails: bool = False) -> tuple[str, str]:
        """Return the code and the text of the response; with `fails` the method raises."""


class Rpc(Transport):
    name = "grpc"
    ok = "OK"
    refused_as = "unknown"
    places = echo.PLACES

    def __init__(self, server: echo.EchoServer, channel: grpc.aio.Channel, kind: str) -> None:
        self._server = server
        self._channel = channel
        self._kind = kind
        self.method = echo.path_of(kind).removeprefix("/")
        self.concurrency = server.concurrency

    async def key(self, role: Role) -> NewKey:
        return await self._server.key(role)

    async def request(self, key: NewKey | None, *, fails: bool = False) -> tuple[str, str]:
        metadata = [] if key is None else echo.shown(key)
        request = b"crash" if fails else b"a"
        call = echo.start(self._channel, self._kind, request, metadata=metadata)
        answers = echo.answers_of(call, self._kind)
        if key is None or fails or self.concurrency.is_full or Role(key.key.role) is not Role.READ:
            code, _, details = await failure(answers)
            return code.name, str(details)
        return "OK", str(await answers)


class Failing(Interactions):
    async def get(self, *given: Any, **options: Any) -> bytes:
        if given[1].sid == FAILING_SID:
            raise RuntimeError(PRIVATE)
        return await super().get(*given, **options)


FAILING_SID = f"KI{'f' * 32}"


class Rest(Transport):
    name = "http"
    method = "fetch"
    ok = "200"
    refused_as = "fetch"
    places = 3

    def __init__(self, store: Any, client: httpx.AsyncClient, concurrency: Any) -> None:
        self._store = store
        self._client = client
        self.concurrency = concurrency
        self._parents = new_parents()
        self._interaction = new_interaction(self._parents)

    async def key(self, role: Role) -> NewKey:
        made = await create_key(self._store, self._parents.account_sid, role)
        principal = Principal(self._parents.account_sid)
        await Ingest(self._store).record(principal, self._interaction)
        return made

    async def request(self, key: NewKey | None, *, fails: bool = False) -> tuple[str, str]:
        sid = FAILING_SID if fails else self._interaction.sid
        auth = None if key is None else (key.key.sid, key.secret)
        response = await self._client.get(f"{self._parents.path}/{sid}", auth=auth)
        return str(response.status_code), response.text


class Web(Rest):
    ok = "OK"
    method = GET.rpc_name
    refused_as = method

    def __init__(
        self, store: Any, client: httpx.AsyncClient, concurrency: Any, protocol: str
    ) -> None:
        super().__init__(store, client, concurrency)
        self._protocol = protocol
        self.name = "grpc_web" if protocol == "web" else "connect"

    async def request(self, key: NewKey | None, *, fails: bool = False) -> tuple[str, str]:
        request = get_request(self._interaction)
        if fails:
            request.sid = FAILING_SID
        headers = {} if key is None else {"authorization": f"Bearer {key.key.sid}.{key.secret}"}
        answer = await rpc_http.call(
            self._client,
            self._protocol,
            self.method,
            request,
            GetInteractionResponse,
            headers=headers,
        )
        return answer.code, answer.text


@asynccontextmanager
async def opened(folder: Path, name: str) -> AsyncIterator[Transport]:
    if name in echo.KINDS:
        async with echo.opened(folder) as (server, channel):
            yield Rpc(server, channel, name)
        return
    store = await open_store(files.url(folder))
    concurrency = ConcurrencyLimit(Rest.places)
    control = AdmissionControl(concurrency, RequestRateLimit(0), 30)
    pipeline = Pipeline(Authenticator(store, allows_anonymous=False), control)
    interactions = Failing(store)
    methods = methods_of(interactions, Ingest(store))
    rpc = RpcApp(methods, pipeline, STREAM_TIMES, max_message_bytes=4 * MIB)
    app = http_app(interactions, rpc, "http://x", pipeline)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        if name == "rest":
            yield Rest(store, client, concurrency)
        else:
            yield Web(store, client, concurrency, name)
    await store.close()


def count_of(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"interaction_svc_{metric}_total", labels) or 0


REFUSALS = {
    "UNAUTHENTICATED": ("401", "UNAUTHENTICATED"),
    "PERMISSION_DENIED": ("403", "PERMISSION_DENIED"),
    "RESOURCE_EXHAUSTED": ("429", "OVERLOADED"),
    "INTERNAL": ("500", "INTERNAL"),
}
"""The HTTP status and the reason of each gRPC code."""


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_each_stage_runs(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with opened(tmp_path, name) as transport:
        reader, ingest = await transport.key(Role.READ), await transport.key(Role.INGEST)

        async def check(
            code: str,
            key: NewKey | None,
            *,
            fails: bool = False,
            reason: str = "",
            method: str = transport.method,
        ) -> str:
            labels = {"transport": transport.name, "method": method, "code": code}
            by_reason = {"transport": transport.name, "reason": f"ERROR_REASON_{reason}"}
            before = count_of("calls", **labels), count_of("errors", **by_reason)
            capfd.readouterr()
            answered, text = await transport.request(key, fails=fails)
            assert answered == code
            async with asyncio.timeout(20):  # it is counted after the response is sent
                await echo.turned(lambda: count_of("calls", **labels) > before[0])
            counted = count_of("calls", **labels), count_of("errors", **by_reason)
            assert counted == (before[0] + 1, before[1] + bool(reason))
            lines = capfd.readouterr().err.splitlines()
            logged = [json.loads(line) for line in lines if '"event":"call"' in line]
            assert [(line["method"], line["code"]) for line in logged] == [(method, code)]
            assert logged[0]["key_sid"] == (
                None if key is None or reason == "OVERLOADED" else key.key.sid
            )
            return text

        async def refused(grpc_code: str, key: NewKey | None, **options: Any) -> str:
            status, reason = REFUSALS[grpc_code]
            code = status if transport.name == "http" else grpc_code
            return await check(code, key, reason=reason, **options)

        await check(transport.ok, reader)
        await refused("UNAUTHENTICATED", None)
        await refused("PERMISSION_DENIED", ingest)
        assert PRIVATE not in await refused("INTERNAL", reader, fails=True)
        with ExitStack() as places:
            while (place := transport.concurrency.place()) is not None:
                places.enter_context(place)
            # grpc refuses such a call before it reads it, under one name for all methods.
            await refused("RESOURCE_EXHAUSTED", reader, method=transport.refused_as)
        await check(transport.ok, reader)
