"""Logs, request ids and audit lines, and the data that they must not contain."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
import structlog
from google.protobuf.json_format import MessageToJson
from grpc_health.v1 import health_pb2, health_pb2_grpc
from testing.api_keys import IssuedKey, basic, new_key
from testing.build import Parents, new_interaction, new_parents
from testing.log_lines import logged
from testing.process import COMMAND, Served, run, served
from testing.requests import Code, failure, get_request, list_request
from testing.store_lock import write_lock
from testing.stubs import Reading

from interaction_svc.telemetry.logs import configure_logs
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_pb2 import Interaction
from interaction_svc.v1.interaction_service_pb2 import DeleteInteractionRequest
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

pytestmark = pytest.mark.each_engine

SERVICE = "interaction_svc.v1.InteractionService"


class Seen(NamedTuple):
    server: Served
    parents: Parents
    admin: IssuedKey
    reader: IssuedKey

    def shown(self, key: IssuedKey | None = None) -> list[tuple[str, str]]:
        return [("authorization", (key or self.admin).basic)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("seen")
    parents = new_parents()
    admin = new_key(folder / "interactions.db", "admin")
    reader = new_key(folder / "interactions.db", "read", parents.account_sid)
    with served(folder, "--log-level", "debug") as server:
        yield Seen(server, parents, admin, reader)


@pytest.fixture
async def channel(seen: Seen) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(seen.server.grpc_address) as opened:
        yield opened


@pytest.fixture
async def http(seen: Seen) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=seen.server.base_url, trust_env=False) as client:
        yield client


async def until_logged(seen: Seen, event: str, **fields: Any) -> dict[str, Any]:
    """Wait for the only line with these fields. It is written after the response is sent."""
    async with asyncio.timeout(20):
        while True:
            lines = logged(seen.server, event, **fields)
            if lines:
                assert len(lines) == 1
                return lines[0]
            await asyncio.sleep(0.01)


async def test_a_grpc_call_logs_one_line(seen: Seen, channel: grpc.aio.Channel) -> None:
    call = InteractionServiceStub(channel).ListInteractions(
        list_request(seen.parents),
        metadata=[*seen.shown(seen.reader), ("x-request-id", "grpc-line-1")],
    )
    await call
    assert ("x-request-id", "grpc-line-1") in [*(await call.trailing_metadata())]
    line = await until_logged(seen, "call", request_id="grpc-line-1")
    assert line["transport"] == "grpc"
    assert line["method"] == f"{SERVICE}/ListInteractions"
    assert line["code"] == "OK"
    assert line["level"] == "info"
    assert line["ms"] > 0
    assert re.fullmatch(r"127\.0\.0\.1:\d+", line["peer"])
    assert line["key_sid"] == seen.reader.sid
    assert line["account_sid"] == seen.parents.account_sid


async def test_an_http_request_logs_one_line(seen: Seen, http: httpx.AsyncClient) -> None:
    path = f"{seen.parents.path}/KI{'0' * 32}"
    response = await http.get(path, auth=seen.reader, headers={"X-Request-Id": "http-line-1"})
    assert response.headers["x-request-id"] == "http-line-1"
    line = await until_logged(seen, "call", request_id="http-line-1")
    assert (line["transport"], line["method"], line["code"]) == ("http", "fetch", "404")
    assert line["path"] == path
    assert line["twilio_request_id"] == response.headers["twilio-request-id"]
    assert re.fullmatch("RQ[0-9a-f]{32}", line["twilio_request_id"])
    assert (line["key_sid"], line["account_sid"]) == (seen.reader.sid, seen.parents.account_sid)


async def test_missing_and_invalid_request_ids_are_replaced(
    seen: Seen, channel: grpc.aio.Channel, http: httpx.AsyncClient
) -> None:
    for given in (None, "", "x" * 129, "two words", '{"json": 1}'):
        metadata = seen.shown() + ([] if given is None else [("x-request-id", given)])
        call = InteractionServiceStub(channel).ListInteractions(
            list_request(seen.parents), metadata=metadata
        )
        await call
        trailers = dict([*(await call.trailing_metadata())])
        assert re.fullmatch("RQ[0-9a-f]{32}", str(trailers["x-request-id"]))
        headers = {} if given is None else {"X-Request-Id": given}
        response = await http.get(seen.parents.path, auth=seen.admin, headers=headers)
        made = response.headers["x-request-id"]
        assert re.fullmatch("RQ[0-9a-f]{32}", made)
        assert response.headers["twilio-request-id"] == made
    twilio_s = "RQ" + "ab" * 16
    response = await http.get("/nothing", headers={"X-Request-Id": twilio_s})
    assert response.headers["twilio-request-id"] == twilio_s


async def test_a_failed_call_has_a_request_id(seen: Seen, channel: grpc.aio.Channel) -> None:
    raw: Any = channel.unary_unary(f"/{SERVICE}/GetInteraction")
    for metadata, code in (([], "UNAUTHENTICATED"), (seen.shown(), "INVALID_ARGUMENT")):
        call = raw(b"\xff", metadata=[*metadata, ("x-request-id", f"failed-{code}")])
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        assert ("x-request-id", f"failed-{code}") in [*(await call.trailing_metadata())]
        line = await until_logged(seen, "call", request_id=f"failed-{code}")
        assert line["code"] == code


async def test_unknown_methods_are_logged_under_one_name(
    seen: Seen, channel: grpc.aio.Channel
) -> None:
    raw: Any = channel.unary_unary(f"/{SERVICE}/Nothing")
    code, _, _ = await failure(raw(b"", metadata=[*seen.shown(), ("x-request-id", "unknown-1")]))
    assert code is Code.UNIMPLEMENTED
    line = await until_logged(seen, "call", request_id="unknown-1")
    assert (line["method"], line["code"]) == ("unknown", "UNIMPLEMENTED")


async def until_recorded(seen: Seen, reading: Reading, interaction: Interaction) -> None:
    while True:  # a call that is cancelled before it reaches the service is not logged
        get = reading.GetInteraction(get_request(interaction), metadata=seen.shown())
        if await get.code() is Code.OK:
            return


async def test_a_call_cancelled_by_its_client_is_logged(
    seen: Seen, channel: grpc.aio.Channel, reading: Reading
) -> None:
    interaction = new_interaction(seen.parents)
    stream = IngestServiceStub(channel).RecordInteractions(
        metadata=[*seen.shown(), ("x-request-id", "gone-1")]
    )
    await stream.write(ingest_pb.RecordInteractionsRequest(interactions=[interaction]))
    await until_recorded(seen, reading, interaction)
    stream.cancel()
    line = await until_logged(seen, "call", request_id="gone-1")
    assert line["code"] == "CANCELLED"


@pytest.mark.parametrize("seconds", [None, 1])
async def test_a_stream_that_its_client_gives_up_is_not_logged_as_ok(
    seen: Seen, channel: grpc.aio.Channel, reading: Reading, seconds: float | None
) -> None:
    interaction = new_interaction(seen.parents)
    stream = IngestServiceStub(channel).RecordInteractions(
        metadata=[*seen.shown(), ("x-request-id", f"given-up-{seconds}")], timeout=seconds
    )
    await stream.write(ingest_pb.RecordInteractionsRequest(interactions=[interaction]))
    await until_recorded(seen, reading, interaction)  # then it waits for the next request
    if seconds is None:
        stream.cancel()
    assert await stream.code() in (Code.CANCELLED, Code.DEADLINE_EXCEEDED)
    line = await until_logged(seen, "call", request_id=f"given-up-{seconds}")
    assert line["code"] in ("CANCELLED", "DEADLINE_EXCEEDED")


async def test_a_call_whose_client_gives_up_before_its_request_is_logged_as_such(
    seen: Seen, channel: grpc.aio.Channel
) -> None:
    raw: Any = channel.stream_unary(f"/{SERVICE}/GetInteraction")
    call = raw(metadata=[*seen.shown(), ("x-request-id", "no-request-1")], timeout=1)
    assert await call.code() is Code.DEADLINE_EXCEEDED
    line = await until_logged(seen, "call", request_id="no-request-1")
    assert line["code"] in ("CANCELLED", "DEADLINE_EXCEEDED")


async def test_health_is_logged_at_debug(
    seen: Seen, channel: grpc.aio.Channel, http: httpx.AsyncClient
) -> None:
    await health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(), metadata=[("x-request-id", "health-1")]
    )
    assert (await until_logged(seen, "call", request_id="health-1"))["level"] == "debug"
    for path in ("/healthz", "/readyz"):
        response = await http.get(path, headers={"X-Request-Id": f"health{path}"})
        assert response.json() == {"status": "ok"}
        assert (await until_logged(seen, "call", request_id=f"health{path}"))["level"] == "debug"


def test_the_level_of_the_log_is_a_setting(tmp_path: Path) -> None:
    with served(tmp_path, "--log-level", "error") as server:
        httpx.get(f"{server.base_url}/nothing", trust_env=False)
    assert server.log.read_text() == ""


async def test_deletes_and_refusals_are_audited_at_any_log_level(tmp_path: Path) -> None:
    store, parents = tmp_path / "interactions.db", new_parents()
    made = run(
        "keys", "create", "--role", "operate", "--account", parents.account_sid, "--store",
        f"sqlite:///{store}",
    )  # fmt: skip
    sid, secret = re.findall(r"(?:sid|secret) +(\S+)", made.stdout.decode())
    assert '"action":"key created"' in made.stderr.decode()
    assert secret not in made.stderr.decode()
    admin = new_key(store, "admin")
    with served(tmp_path, "--log-level", "error") as server:
        async with (
            grpc.aio.insecure_channel(server.grpc_address) as channel,
            httpx.AsyncClient(base_url=server.base_url, trust_env=False) as http,
        ):
            interaction = new_interaction(parents)
            ingest = IngestServiceStub(channel)
            for number, authorization in enumerate((basic(sid, secret), basic(sid, "wrong"))):
                call = ingest.RecordInteraction(
                    ingest_pb.RecordInteractionRequest(interaction=interaction),
                    metadata=[
                        ("authorization", authorization), ("x-request-id", f"refused-{number}")
                    ],
                )  # fmt: skip
                await failure(call)
            for created_in in (interaction, new_interaction(parents)):
                await ingest.RecordInteraction(
                    ingest_pb.RecordInteractionRequest(interaction=created_in),
                    metadata=[("authorization", admin.basic)],
                )
            await InteractionServiceStub(channel).DeleteInteraction(
                DeleteInteractionRequest(
                    service_sid=interaction.service_sid,
                    session_sid=interaction.session_sid,
                    sid=interaction.sid,
                ),
                metadata=[("authorization", basic(sid, secret)), ("x-request-id", "deleted-0")],
            )
            path = f"{parents.path}/{created_in.sid}"
            headers = {"X-Request-Id": "deleted-1"}
            assert (await http.delete(path, auth=(sid, secret), headers=headers)).status_code == 204
            assert (await http.delete(path, auth=(sid, secret))).status_code == 404
    audited = logged(server, "audit")
    assert [(line["action"], line["request_id"]) for line in audited] == [
        ("refused", "refused-0"),
        ("refused", "refused-1"),
        ("delete", "deleted-0"),
        ("delete", "deleted-1"),
    ]
    denied, unknown, over_grpc, over_http = audited
    assert denied["reason"] == "ERROR_REASON_PERMISSION_DENIED"
    assert (denied["key_sid"], denied["account_sid"]) == (sid, parents.account_sid)
    assert denied["method"] == "interaction_svc.v1.IngestService/RecordInteraction"
    assert (unknown["reason"], unknown["key_sid"]) == ("ERROR_REASON_UNAUTHENTICATED", None)
    assert re.fullmatch(r"127\.0\.0\.1:\d+", unknown["peer"])
    assert (over_grpc["sid"], over_http["sid"]) == (interaction.sid, created_in.sid)
    assert {over_grpc["key_sid"], over_http["key_sid"]} == {sid}
    revoked = run("keys", "revoke", sid, "--store", f"sqlite:///{store}")
    assert '"action":"key revoked"' in revoked.stderr.decode()


async def test_a_delete_is_audited_after_its_caller_has_left(
    tmp_path: Path, parents: Parents
) -> None:
    with served(tmp_path) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            interaction = new_interaction(parents)
            await IngestServiceStub(channel).RecordInteraction(
                ingest_pb.RecordInteractionRequest(interaction=interaction)
            )
            request = DeleteInteractionRequest(
                service_sid=interaction.service_sid,
                session_sid=interaction.session_sid,
                sid=interaction.sid,
            )
            with write_lock(server):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await InteractionServiceStub(channel).DeleteInteraction(request, timeout=0.5)
                assert caught.value.code() is Code.DEADLINE_EXCEEDED
            async with asyncio.timeout(20):
                while not logged(server, "audit", action="delete", sid=interaction.sid):
                    await asyncio.sleep(0.05)


async def test_an_unwritable_log_fails_no_call(tmp_path: Path) -> None:
    """The log is a broken pipe, because its reader has gone."""
    parents = new_parents()
    with unread(tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().removeprefix("gRPC on ").strip()
        process.stderr.close()
        async with grpc.aio.insecure_channel(address) as channel:
            ingest, reading = IngestServiceStub(channel), InteractionServiceStub(channel)
            interaction = new_interaction(parents)
            for _ in range(3):
                await ingest.RecordInteraction(
                    ingest_pb.RecordInteractionRequest(interaction=interaction)
                )
                await reading.ListInteractions(list_request(parents))
            await reading.DeleteInteraction(
                DeleteInteractionRequest(
                    service_sid=interaction.service_sid,
                    session_sid=interaction.session_sid,
                    sid=interaction.sid,
                )
            )
        process.terminate()
        assert await asyncio.to_thread(process.wait, 60) == 0


@contextmanager
def unread(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a server whose log goes to a pipe."""
    command = [
        *COMMAND, "serve", "--store", f"sqlite:///{folder}/interactions.db", "--no-metrics",
        "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0",
    ]  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=folder) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_the_log_contains_no_body_and_no_secret(
    seen: Seen, channel: grpc.aio.Channel, http: httpx.AsyncClient
) -> None:
    marker = "MARKER-of-a-body"
    interaction = new_interaction(seen.parents, data=f'{{"body": "{marker}"}}')
    ingest, shown = IngestServiceStub(channel), seen.shown()
    await ingest.RecordInteraction(
        ingest_pb.RecordInteractionRequest(interaction=interaction), metadata=shown
    )
    for bad in (
        new_interaction(seen.parents, data=marker * 20_000),
        new_interaction(seen.parents, data=marker, session_sid=marker),
        new_interaction(seen.parents, data=marker, type=99),
    ):
        call = ingest.RecordInteraction(
            ingest_pb.RecordInteractionRequest(interaction=bad), metadata=shown
        )
        await failure(call)
    raw: Any = channel.unary_unary("/interaction_svc.v1.IngestService/RecordInteraction")
    await failure(raw(marker.encode(), metadata=shown))
    wrong = basic(seen.admin.sid, marker)
    await failure(raw(b"", metadata=[("authorization", wrong)]))
    found = await InteractionServiceStub(channel).GetInteraction(
        get_request(interaction), metadata=shown
    )
    assert marker in MessageToJson(found)
    body = MessageToJson(interaction)
    await http.request("POST", seen.parents.path, auth=seen.admin, content=body)
    await http.get(f"{seen.parents.path}?Nothing={marker}", auth=seen.admin)
    headers = {"X-Request-Id": "without-bodies", "Authorization": wrong}
    assert (await http.get(seen.parents.path, headers=headers)).status_code == 401
    await until_logged(seen, "call", request_id="without-bodies")  # so are all earlier lines
    log = seen.server.log.read_text()
    assert marker not in log
    for secret in (seen.admin.secret, seen.reader.secret):
        assert secret not in log
    for authorization in (seen.admin.basic, seen.reader.basic, wrong):
        assert authorization.removeprefix("Basic ") not in log


def test_only_known_exception_texts_are_logged(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    try:
        try:
            raise ValueError("a body that it stumbled over")
        except ValueError as error:
            raise FileNotFoundError(2, "No such file or directory") from error
    except OSError as error:
        structlog.get_logger().exception("internal error", exc_info=error)
    logged = capfd.readouterr().err
    assert "stumbled" not in logged
    assert "ValueError" in logged
    assert "No such file or directory" in logged
    assert "test_observability.py" in logged
