"""API keys and their roles on both transports, and the isolation of accounts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from testing.api_keys import IssuedKey, basic, new_key, revoke
from testing.build import NOON_US, SECOND_US, Parents, new_interaction, new_parents, new_sid
from testing.process import served
from testing.requests import Code, failure, get_request, list_request
from twilio.base.exceptions import TwilioException
from twilio.rest import Client

from interaction_svc.transports import operations
from interaction_svc.transports.rpc.methods import INGEST_SERVICE, INTERACTION_SERVICE
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import DeleteInteractionRequest
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.app.guarded import ROLES, Guarded, calls, serve_with_keys, shown

pytestmark = pytest.mark.each_engine

ALLOWED = {
    "get": {"read", "operate", "admin"},
    "list": {"read", "operate", "admin"},
    "delete": {"operate", "admin"},
    "record": {"ingest", "admin"},
    "stream": {"ingest", "admin"},
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Guarded]:
    yield from serve_with_keys(tmp_path_factory.mktemp("guarded"))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Guarded]:
    """Another server, for tests with more than 10 failed attempts from an address."""
    times = {"admission.rate_limits.WRONG_AT_ONCE": 1000}
    yield from serve_with_keys(tmp_path_factory.mktemp("attacked"), times)


@pytest.fixture
async def channel(guarded: Guarded) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(guarded.server.grpc_address) as opened:
        yield opened


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("operation", ALLOWED)
async def test_a_role_grants_its_permissions_over_grpc(
    guarded: Guarded, channel: grpc.aio.Channel, role: str, operation: str
) -> None:
    call = calls(channel, guarded.parents)[operation]
    metadata = shown(guarded.keys[role].basic)
    if role not in ALLOWED[operation]:
        code, reason, _ = await failure(call(metadata=metadata))
        assert (code, reason) == (Code.PERMISSION_DENIED, "ERROR_REASON_PERMISSION_DENIED")
    elif operation == "get":
        code, _, _ = await failure(call(metadata=metadata))
        assert code is Code.NOT_FOUND
    else:
        allowed = call(metadata=metadata)
        if operation == "stream":
            await allowed.done_writing()
        await allowed


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "operation"), [("GET", "get"), ("DELETE", "delete")])
async def test_a_role_grants_its_permissions_over_http(
    guarded: Guarded, role: str, method: str, operation: str
) -> None:
    # The SID and the parameter are invalid: the permission is checked before they are parsed.
    unreadable = {f"{guarded.parents.path}/KI1": 404}
    if method == "GET":
        unreadable[f"{guarded.parents.path}?PageSize=x"] = 400
    async with httpx.AsyncClient(trust_env=False, base_url=guarded.server.base_url) as client:
        for path, status in unreadable.items():
            response = await client.request(method, path, auth=guarded.keys[role])
            if role in ALLOWED[operation]:
                assert response.status_code == status
            else:
                assert (response.status_code, response.json()["code"]) == (403, 20403)


@pytest.mark.parametrize(
    "forge",
    [
        lambda key, _: basic(key.sid, key.secret[:-1] + "-"),
        lambda key, _: basic(key.sid, key.secret + "x"),
        lambda key, _: basic(new_sid("SK"), key.secret),
        lambda _, account: basic(account, "secret"),
        lambda key, _: basic(new_sid("AC"), key.secret),
        lambda key, _: f"Bearer {key.sid}.{key.secret[:-1]}",
        lambda key, _: f"Bearer {key.sid}",
        lambda key, _: f"Bearer {key.secret}",
        lambda key, _: f"Digest {key.sid}:{key.secret}",
        lambda key, _: "",
        lambda key, _: basic(key.sid, "x" * 10_000),
    ],
    ids=["last-character", "longer", "other-key", "account-without-secret", "other-account",
         "bearer-cut", "bearer-without-secret", "bearer-without-key", "scheme", "empty", "huge"],
)  # fmt: skip
async def test_wrong_credentials_are_refused_on_both_transports(
    attacked: Guarded, forge: Callable[[IssuedKey, str], str]
) -> None:
    authorization = forge(attacked.keys["admin"], attacked.parents.account_sid)
    async with grpc.aio.insecure_channel(attacked.server.grpc_address) as channel:
        call = calls(channel, attacked.parents)["list"](metadata=shown(authorization))
        code, reason, _ = await failure(call)
    assert (code, reason) == (Code.UNAUTHENTICATED, "ERROR_REASON_UNAUTHENTICATED")
    async with httpx.AsyncClient(trust_env=False, base_url=attacked.server.base_url) as client:
        response = await client.get(attacked.parents.path, headers={"Authorization": authorization})
    assert (response.status_code, response.json()["code"]) == (401, 20003)


async def test_a_request_without_credentials_is_refused(
    guarded: Guarded, channel: grpc.aio.Channel
) -> None:
    for call in calls(channel, guarded.parents).values():
        code, reason, _ = await failure(call())
        assert (code, reason) == (Code.UNAUTHENTICATED, "ERROR_REASON_UNAUTHENTICATED")
    async with httpx.AsyncClient(trust_env=False, base_url=guarded.server.base_url) as client:
        response = await client.get(guarded.parents.path)
    assert (response.status_code, response.json()["message"]) == (401, "Authenticate")


async def test_credentials_are_checked_before_the_request_is_read(
    guarded: Guarded, channel: grpc.aio.Channel
) -> None:
    raw: Any = channel.unary_unary("/interaction_svc.v1.InteractionService/DeleteInteraction")
    code, _, _ = await failure(raw(b"\xff"))
    assert code is Code.UNAUTHENTICATED
    code, _, _ = await failure(raw(b"\xff", metadata=shown(guarded.keys["read"].basic)))
    assert code is Code.PERMISSION_DENIED


async def test_all_forms_of_credentials_are_accepted(
    guarded: Guarded, channel: grpc.aio.Channel
) -> None:
    key = guarded.keys["operate"]
    account_sid = guarded.parents.account_sid
    for authorization in (key.basic, key.bearer, basic(account_sid, key.secret)):
        await calls(channel, guarded.parents)["list"](metadata=shown(authorization))
    async with httpx.AsyncClient(trust_env=False, base_url=guarded.server.base_url) as client:
        for auth in (key, (account_sid, key.secret)):
            assert (await client.get(guarded.parents.path, auth=auth)).status_code == 200


async def test_health_and_on_loopback_reflection_need_no_key(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    checked = await health.Check(health_pb2.HealthCheckRequest())
    assert checked.status == health_pb2.HealthCheckResponse.SERVING
    raw: Any = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    reflection = raw(iter([b"\x3a\x00"]))
    assert b"interaction_svc.v1.IngestService" in await reflection.read()


async def test_interactions_of_another_account_are_not_found(
    guarded: Guarded, channel: grpc.aio.Channel
) -> None:
    theirs = new_parents(
        service_sid=guarded.parents.service_sid, session_sid=guarded.parents.session_sid
    )
    interaction = new_interaction(theirs)
    admin = shown(guarded.keys["admin"].basic)
    mine = shown(guarded.keys["operate"].basic)
    await IngestServiceStub(channel).RecordInteraction(
        ingest_pb.RecordInteractionRequest(interaction=interaction), metadata=admin
    )
    reading = InteractionServiceStub(channel)
    nowhere = get_request(new_interaction(theirs))
    told = []
    for request in (get_request(interaction), nowhere):
        code, reason, details = await failure(reading.GetInteraction(request, metadata=mine))
        told.append((code, reason, str(details).replace(request.sid, "")))
        deletion = DeleteInteractionRequest(
            service_sid=request.service_sid, session_sid=request.session_sid, sid=request.sid
        )
        code, reason, details = await failure(reading.DeleteInteraction(deletion, metadata=mine))
        told.append((code, reason, str(details).replace(request.sid, "")))
    assert len(set(told)) == 1
    assert told[0][0] is Code.NOT_FOUND
    page = await reading.ListInteractions(list_request(theirs, page_size=1000), metadata=mine)
    assert interaction.sid not in [found.sid for found in page.interactions]
    assert (await reading.GetInteraction(get_request(interaction), metadata=admin)).interaction


async def test_nothing_is_recorded_into_another_account(
    guarded: Guarded, channel: grpc.aio.Channel
) -> None:
    ingest = IngestServiceStub(channel)
    interaction = new_interaction(new_parents())
    metadata = shown(guarded.keys["ingest"].basic)
    request = ingest_pb.RecordInteractionRequest(interaction=interaction)
    code, _, _ = await failure(ingest.RecordInteraction(request, metadata=metadata))
    assert code is Code.PERMISSION_DENIED
    batch = ingest_pb.RecordInteractionsRequest(
        interactions=[interaction, new_interaction(guarded.parents)]
    )
    response = await ingest.RecordInteractions(iter([batch]), metadata=metadata)
    assert (response.created, response.failed) == (1, 1)
    assert response.failures[0].index == 0
    admin = shown(guarded.keys["admin"].basic)
    reading = InteractionServiceStub(channel)
    code, _, _ = await failure(reading.GetInteraction(get_request(interaction), metadata=admin))
    assert code is Code.NOT_FOUND


async def test_the_sdk_works_with_an_issued_key(guarded: Guarded) -> None:
    def listed(*credentials: str) -> Any:
        client = Client(*credentials)
        client.proxy.base_url = guarded.server.base_url
        session = client.proxy.v1.services(guarded.parents.service_sid).sessions(
            guarded.parents.session_sid
        )
        return session.interactions.list()

    key = guarded.keys["read"]
    await asyncio.to_thread(listed, guarded.parents.account_sid, key.secret)
    await asyncio.to_thread(listed, key.sid, key.secret, guarded.parents.account_sid)
    with pytest.raises(TwilioException, match="Authenticate"):
        await asyncio.to_thread(listed, guarded.parents.account_sid, "wrong")


async def test_keys_change_while_the_server_runs(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            listing = calls(channel, parents)["list"]
            await listing()  # the store has never had a key
            key = new_key(server.store, "read", parents.account_sid)
            await until_code(Code.UNAUTHENTICATED, listing)
            await listing(metadata=shown(key.basic))
            revoke(server.store, key)
            await until_code(Code.UNAUTHENTICATED, listing, metadata=shown(key.basic))
            # Callers need a key again, although all keys are revoked.
            code, _, _ = await failure(listing())
            assert code is Code.UNAUTHENTICATED


async def until_code(code: grpc.StatusCode, call: Callable[..., Any], **given: Any) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await call(**given)
            except grpc.aio.AioRpcError as error:
                if error.code() is code:
                    return
            await asyncio.sleep(0.05)


async def test_wrong_credentials_are_limited_and_valid_ones_are_not(
    tmp_path: Path, parents: Parents
) -> None:
    key = new_key(tmp_path / "interactions.db", "read", parents.account_sid)
    with served(tmp_path) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            listing = calls(channel, parents)["list"]
            for _ in range(30):  # successes don't count as attempts
                await listing(metadata=shown(key.basic))
            codes = []
            for number in range(40):
                wrong = shown(basic(key.sid, f"wrong{number}"))
                code, reason, details = await failure(listing(metadata=wrong))
                codes.append(code)
            assert codes[:10] == [Code.UNAUTHENTICATED] * 10
            assert codes.count(Code.RESOURCE_EXHAUSTED) >= 20
            assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "ERROR_REASON_RATE_LIMITED")
            retry: Any = details["RetryInfo"]
            assert retry.retry_delay.seconds >= 1
            await listing(metadata=shown(key.basic))  # from the same address
        async with httpx.AsyncClient(trust_env=False, base_url=server.base_url) as client:
            response = await client.get(parents.path, auth=(key.sid, "wrong"))
            assert (response.status_code, response.json()["code"]) == (429, 20429)
            assert int(response.headers["retry-after"]) >= 1


async def test_many_valid_keys_at_once_are_served_beside_wrong_ones(
    tmp_path: Path, parents: Parents
) -> None:
    """The server has not seen the 25 keys, and their address has no failed attempts left."""
    store = tmp_path / "interactions.db"
    keys = [new_key(store, "read", parents.account_sid) for _ in range(25)]
    with served(tmp_path) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            listing = calls(channel, parents)["list"]
            for number in range(12):
                wrong = shown(basic(keys[0].sid, f"wrong{number}"))
                code, _, _ = await failure(listing(metadata=wrong))
            assert code is Code.RESOURCE_EXHAUSTED
            wrong_ones = [
                asyncio.create_task(failure(listing(metadata=shown(basic(new_sid("SK"), "wrong")))))
                for _ in range(25)
            ]
            await asyncio.gather(*(listing(metadata=shown(key.basic)) for key in keys))
            codes = [code for code, _, _ in await asyncio.gather(*wrong_ones)]
            assert codes.count(Code.RESOURCE_EXHAUSTED) >= 20


async def test_an_ingest_key_reads_nothing_by_recording(
    guarded: Guarded, channel: grpc.aio.Channel
) -> None:
    ingest = IngestServiceStub(channel)
    later = new_interaction(guarded.parents, updated_us=NOON_US + 2 * SECOND_US, data="private")
    earlier = new_interaction(
        guarded.parents, sid=later.sid, updated_us=NOON_US + SECOND_US, data=""
    )
    outcomes = {}
    for role, interaction in (("admin", later), ("ingest", earlier), ("admin", earlier)):
        outcomes[role] = await ingest.RecordInteraction(
            ingest_pb.RecordInteractionRequest(interaction=interaction),
            metadata=shown(guarded.keys[role].basic),
        )
    assert {answer.outcome for answer in outcomes.values()} == {ingest_pb.RECORD_OUTCOME_STALE}
    assert not outcomes["ingest"].HasField("interaction")
    assert outcomes["admin"].interaction == later


async def test_a_stream_ends_when_its_key_is_revoked(tmp_path: Path, parents: Parents) -> None:
    key = new_key(tmp_path / "interactions.db", "ingest", parents.account_sid)
    with served(tmp_path) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            ingest = IngestServiceStub(channel)
            stream = ingest.RecordInteractions(metadata=shown(key.bearer))
            request = ingest_pb.RecordInteractionsRequest(interactions=[new_interaction(parents)])
            await stream.write(request)
            reader = new_key(server.store, "read", parents.account_sid)
            listing = calls(channel, parents)["list"]
            async with asyncio.timeout(20):
                while not (await listing(metadata=shown(reader.bearer))).interactions:
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(revoke, server.store, key)
            async with asyncio.timeout(20):  # the server ends it, with the counts in the details
                code, _, details = await failure(stream)
            assert code is Code.UNAUTHENTICATED
            assert details["RecordInteractionsResponse"] == ingest_pb.RecordInteractionsResponse(
                created=1
            )


async def test_a_method_that_does_not_exist_needs_no_key(
    guarded: Guarded, channel: grpc.aio.Channel
) -> None:
    for method in ("/AWS.ALB/healthcheck", "/interaction_svc.v1.InteractionService/Get", "/"):
        unknown: Any = channel.unary_unary(method)
        for metadata in ([], shown("Bearer wrong"), shown(guarded.keys["read"].bearer)):
            code, reason, details = await failure(unknown(b"", metadata=metadata))
            assert (code, reason) == (Code.UNIMPLEMENTED, "ERROR_REASON_METHOD_NOT_ALLOWED")
            assert set(details) == {"ErrorInfo"}


async def test_more_than_one_authorization_is_refused(
    guarded: Guarded, channel: grpc.aio.Channel
) -> None:
    good = guarded.keys["read"].bearer
    listing = calls(channel, guarded.parents)["list"]
    for pair in ((good, good), (good, "Bearer wrong"), ("", good)):
        metadata = [item for value in pair for item in shown(value)]
        call = listing(metadata=metadata)
        code, _, _ = await failure(call)
        assert code is Code.UNAUTHENTICATED
        assert "more than one `authorization`" in await call.details()
    # Metadata of another name is not an authorization.
    elsewhere = [("authorization-bin", good.encode()), ("x-request-id", "a"), ("x-request-id", "b")]
    code, _, _ = await failure(listing(metadata=elsewhere))
    assert code is Code.UNAUTHENTICATED
    await listing(metadata=[*elsewhere, *shown(good)])


def test_every_method_needs_a_permission() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for service in (INTERACTION_SERVICE, INGEST_SERVICE)
        for method in service.methods
    }
    assert {operation.rpc for operation in operations.API} == methods
