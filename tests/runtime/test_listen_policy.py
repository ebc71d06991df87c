"""The listen policy: the listeners that may be served without keys and TLS."""

import json
import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from testing.api_keys import new_key
from testing.build import Parents, new_sid
from testing.certificates import Authority
from testing.process import run, served
from testing.requests import Code, failure, list_request

from interaction_svc.transports.address import Address
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

pytestmark = pytest.mark.each_engine

ANYWHERE = "0.0.0.0:0"


def refused(store: Path, *flags: str) -> str:
    ports = ("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0")
    answer = run(
        "serve", "--store", f"sqlite:///{store}", *ports, "--metrics-address", "127.0.0.1:0", *flags
    )
    assert answer.returncode == 2, answer.stderr
    return answer.stderr.decode().strip().splitlines()[-1]


@pytest.mark.parametrize("listener", ["grpc", "http"])
def test_addresses_other_than_loopback_need_keys_and_tls(tmp_path: Path, listener: str) -> None:
    store = tmp_path / "interactions.db"
    exposed = (f"--{listener}-address", ANYWHERE)
    message = refused(store, *exposed)
    assert f"{listener}_address {ANYWHERE} can be reached from other machines" in message
    assert "keys create" in message
    assert "tls_certificate and tls_key" in message
    assert "--insecure" in message
    new_key(store, "read", new_sid("AC"))
    message = refused(store, *exposed)
    assert "keys create" not in message
    assert "tls_certificate and tls_key" in message


def test_listeners_that_are_off_need_no_keys_and_no_tls(tmp_path: Path) -> None:
    with served(tmp_path, "--no-http", "--http-address", ANYWHERE) as server:
        assert server.grpc_address


def test_on_loopback_without_keys_it_serves_anonymous_callers_with_a_warning(
    tmp_path: Path,
) -> None:
    with served(tmp_path) as server:
        pass
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    said = [line for line in lines if "serving without keys" in line["event"]]
    assert len(said) == 1
    assert said[0]["level"] == "warning"
    assert "keys create" in said[0]["event"]
    new_key(server.store, "read", new_sid("AC"))
    with served(tmp_path) as server:
        pass
    assert "serving without keys" not in server.log.read_text()


async def test_insecure_serves_on_any_address_and_still_checks_existing_keys(
    tmp_path: Path, parents: Parents
) -> None:
    with served(tmp_path, "--grpc-address", ANYWHERE, "--insecure") as server:
        port = Address.parse(server.grpc_address).port
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await InteractionServiceStub(channel).ListInteractions(list_request(parents))
    assert "serving without TLS" in server.log.read_text()
    new_key(server.store, "read", parents.account_sid)
    with served(tmp_path, "--grpc-address", ANYWHERE, "--insecure") as server:
        port = Address.parse(server.grpc_address).port
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = InteractionServiceStub(channel).ListInteractions(list_request(parents))
            code, _, _ = await failure(call)
            assert code is Code.UNAUTHENTICATED


async def test_with_keys_and_tls_it_serves_on_any_address(tmp_path: Path, parents: Parents) -> None:
    key = new_key(tmp_path / "interactions.db", "operate", parents.account_sid)
    authority = Authority(tmp_path)
    files = authority.issue()
    flags = ("--grpc-address", ANYWHERE, "--http-address", ANYWHERE, *files.flags())
    with served(tmp_path, *flags) as server:
        address = f"127.0.0.1:{Address.parse(server.grpc_address).port}"
        credentials = grpc.ssl_channel_credentials(authority.pem)
        async with grpc.aio.secure_channel(address, credentials) as channel:
            shown = [("authorization", key.bearer)]
            reading = InteractionServiceStub(channel)
            await reading.ListInteractions(list_request(parents), metadata=shown)
            # On addresses other than loopback, reflection needs a key too. Health needs none.
            for name in ("v1", "v1alpha"):
                method = f"/grpc.reflection.{name}.ServerReflection/ServerReflectionInfo"
                raw: Any = channel.stream_stream(method)
                # Without a write, because grpc's client reports INTERNAL if a call is refused
                # before its first write.
                assert await raw(timeout=20).code() is Code.UNAUTHENTICATED
                assert await raw(iter([b"\x3a\x00"]), metadata=shown).read()
            health = health_pb2_grpc.HealthStub(channel)
            checked = await health.Check(health_pb2.HealthCheckRequest())
            assert checked.status == health_pb2.HealthCheckResponse.SERVING
        assert server.base_url.startswith("https://localhost:")
        context = ssl.create_default_context(cafile=authority.path)
        async with httpx.AsyncClient(verify=context, trust_env=False) as http:
            url = f"{server.base_url}{parents.path}"
            response = await http.get(url, auth=key)
            assert response.status_code == 200
            assert response.json()["meta"]["url"].startswith(url)
            assert (await http.get(url)).status_code == 401
        listed = run(
            "list", parents.service_sid, parents.session_sid,
            "--server", address, "--server-tls", "--server-ca", str(authority.path),
            INTERACTION_SVC_API_KEY=f"{key.sid}:{key.secret}",
        )  # fmt: skip
        assert listed.returncode == 0, listed.stderr
        without = run(
            "list", parents.service_sid, parents.session_sid,
            "--server", address, "--server-tls", "--server-ca", str(authority.path),
        )  # fmt: skip
        assert b"UNAUTHENTICATED" in without.stderr
    log = server.log.read_text()
    assert "serving without keys" not in log
    assert key.secret not in log


async def test_client_certificates_and_their_names(tmp_path: Path, parents: Parents) -> None:
    authority, clients = Authority(tmp_path), Authority(tmp_path, "clients")
    flags = (*authority.issue().flags(), "--tls-client-ca", str(clients.path))
    names = ("--tls-client-names", "relay.internal, billing")
    with served(tmp_path, *flags, *names) as server:

        async def listed_with(name: str, common_name: str, *identities: str) -> grpc.StatusCode:
            files = clients.client(name, common_name, *identities)
            credentials = grpc.ssl_channel_credentials(
                authority.pem, files.key.read_bytes(), files.certificate.read_bytes()
            )
            async with grpc.aio.secure_channel(server.grpc_address, credentials) as channel:
                try:
                    await InteractionServiceStub(channel).ListInteractions(list_request(parents))
                except grpc.aio.AioRpcError as error:
                    return error.code()
            return Code.OK

        assert await listed_with("a", "billing", "whatever.internal") is Code.OK
        assert await listed_with("b", "other", "relay.internal") is Code.OK
        assert await listed_with("c", "other", "other.internal") is Code.PERMISSION_DENIED
        without = grpc.ssl_channel_credentials(authority.pem)
        async with grpc.aio.secure_channel(server.grpc_address, without) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await InteractionServiceStub(channel).ListInteractions(list_request(parents))
            assert caught.value.code() is Code.UNAVAILABLE
        files = clients.client("d", "billing")
        shown = run(
            "list", parents.service_sid, parents.session_sid, "--server", server.grpc_address,
            "--server-tls", "--server-ca", str(authority.path),
            "--client-certificate", str(files.certificate), "--client-key", str(files.key),
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tls-certificate", "no.pem", "--tls-key", "no.key"), "tls_certificate: can't be read"),
        (("--tls-certificate", "no.pem"), "tls_certificate: its private key is missing"),
        (("--tls-client-names", "x"), "tls_client_names: without tls_client_ca"),
    ],
)
def test_invalid_combinations_of_tls_settings_fail_with_the_reason(
    tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    assert message in refused(tmp_path / "interactions.db", *flags)
