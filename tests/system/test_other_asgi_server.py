"""The application on another ASGI server, hypercorn: over HTTP/1.1 and HTTP/2."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from testing.api_keys import IssuedKey, new_key
from testing.build import Parents, new_session
from testing.requests import failure, get_request, list_request
from testing.rpc_http import call
from testing.wait import wait_until

from interaction_svc.asgi import create_app
from interaction_svc.runtime.settings import SettingsError, load_settings
from interaction_svc.transports.address import Address
from interaction_svc.transports.sockets import bind
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import GetInteractionResponse
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

PROGRAM = """
import asyncio, sys
from hypercorn.asyncio import serve
from hypercorn.config import Config
from interaction_svc.asgi import create_app
from interaction_svc.runtime.settings import load_settings

config = Config()
config.bind = [f"fd://{sys.argv[1]}"]
config.errorlog = None
asyncio.run(serve(create_app(load_settings(store=sys.argv[2], metrics=False)), config))
"""


@contextmanager
def hosted(folder: Path) -> Iterator[str]:
    """Serve a store on hypercorn in a process of its own; give host and port."""
    (listener,) = bind(Address("127.0.0.1", 0))
    with listener:
        listener.listen()
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        store = f"sqlite:///{folder}/interactions.db"
        command = [sys.executable, "-c", PROGRAM, str(listener.fileno()), store]
        with subprocess.Popen(command, pass_fds=[listener.fileno()], cwd=folder) as process:
            try:
                wait_until(lambda: is_ready(port))
                yield f"127.0.0.1:{port}"
                process.terminate()
                assert process.wait(30) == 0
            finally:
                process.kill()


def is_ready(port: int) -> bool:
    try:
        url = f"http://127.0.0.1:{port}/readyz"
        return httpx.get(url, trust_env=False, timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def keys(tmp_path: Path, parents: Parents) -> dict[str, IssuedKey]:
    store = tmp_path / "interactions.db"
    return {role: new_key(store, role, parents.account_sid) for role in ("read", "ingest")}


async def test_rest_connect_and_grpc_web_are_served(
    tmp_path: Path, parents: Parents, keys: dict[str, IssuedKey]
) -> None:
    made = new_session(parents, 5)
    with hosted(tmp_path) as address:
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as http:
            for interaction in made:
                recorded = await call(
                    http,
                    "connect+json",
                    "interaction_svc.v1.IngestService/RecordInteraction",
                    ingest_pb.RecordInteractionRequest(interaction=interaction),
                    ingest_pb.RecordInteractionResponse,
                    headers={"authorization": keys["ingest"].bearer},
                )
                assert recorded.code == "OK"
            for protocol in ("connect+json", "connect+get+proto", "web", "text"):
                answer = await call(
                    http,
                    protocol,
                    "interaction_svc.v1.InteractionService/GetInteraction",
                    get_request(made[0]),
                    GetInteractionResponse,
                    headers={"authorization": keys["read"].bearer},
                )
                assert GetInteractionResponse.FromString(answer.message).interaction == made[0]
            key = keys["read"]
            listed = await http.get(parents.path, auth=(key.sid, key.secret))
            assert [each["sid"] for each in listed.json()["interactions"]] == [
                each.sid for each in made
            ]
            assert (await http.get(parents.path)).status_code == 401
            twice = [("authorization", key.basic), ("authorization", key.basic)]
            assert (await http.get(parents.path, headers=twice)).status_code == 401


async def test_grpc_clients_are_served_over_http_2(
    tmp_path: Path, parents: Parents, keys: dict[str, IssuedKey]
) -> None:
    made = new_session(parents, 5)
    with hosted(tmp_path) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            reading: Any = InteractionServiceStub(channel)
            ingest: Any = IngestServiceStub(channel)
            for interaction in made:
                await ingest.RecordInteraction(
                    ingest_pb.RecordInteractionRequest(interaction=interaction),
                    metadata=[("authorization", keys["ingest"].bearer)],
                )
            metadata = [("authorization", keys["read"].bearer), ("x-request-id", "mine")]
            listing = reading.ListInteractions(list_request(parents), metadata=metadata)
            assert list((await listing).interactions) == made
            assert dict(await listing.trailing_metadata())["x-request-id"] == "mine"
            # Not a call that is refused before its request has arrived: hypercorn 0.18 then ends
            # the connection.
            code, reason, _ = await failure(
                reading.ListInteractions(list_request(parents, page_size=-1), metadata=metadata)
            )
            assert code == grpc.StatusCode.INVALID_ARGUMENT
            assert reason == "ERROR_REASON_INVALID_FIELD"


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[list[dict[str, Any]]]:
    """Run the lifespan of an application, and give the messages that it sends."""
    sent: list[dict[str, Any]] = []
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    has_sent = asyncio.Event()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        has_sent.set()

    running = asyncio.create_task(app({"type": "lifespan"}, events.get, send))
    events.put_nowait({"type": "lifespan.startup"})
    async with asyncio.timeout(30):
        await has_sent.wait()
    yield sent
    events.put_nowait({"type": "lifespan.shutdown"})
    await asyncio.wait([running])


async def test_a_store_without_keys_is_served_only_if_that_is_allowed(
    tmp_path: Path, parents: Parents
) -> None:
    settings = load_settings(store=f"sqlite:///{tmp_path}/interactions.db", metrics=False)
    async with lifespan(create_app(settings)) as sent:
        assert sent[0]["type"] == "lifespan.startup.failed"
        assert "interaction-svc keys create" in sent[0]["message"]
    allowed = settings.model_copy(update={"insecure": True, "drain_delay_seconds": 0})
    app = create_app(allowed)
    async with lifespan(app) as sent:
        assert sent[0]["type"] == "lifespan.startup.complete"
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://x"
        ) as http:
            body = (
                f'{{"serviceSid": "{parents.service_sid}", "sessionSid": "{parents.session_sid}"}}'
            )
            path = "/interaction_svc.v1.InteractionService/ListInteractions"
            headers = {"content-type": "application/json"}
            answer = await http.post(path, content=body, headers=headers)
            assert answer.json() == {}
    assert sent[-1]["type"] == "lifespan.shutdown.complete"


async def test_without_a_lifespan_requests_fail() -> None:
    app = create_app(load_settings())
    with pytest.raises(RuntimeError, match="lifespan"):
        await app({"type": "http"}, None, None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="websocket is not served"):
        await app({"type": "websocket"}, None, None)  # type: ignore[arg-type]


def test_bad_settings_are_reported_when_the_application_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INTERACTION_SVC_MAX_MESSAGE_BYTES", "1")
    with pytest.raises(SettingsError, match="max_message_bytes"):
        create_app()
