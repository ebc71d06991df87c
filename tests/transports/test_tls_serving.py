"""TLS of a served process, set by its flags."""

import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import httpx
import pytest
from testing.build import new_interaction, new_parents
from testing.certificates import Authority, Files
from testing.event_loops import LOOPS, on_loop
from testing.process import Served, run, served
from testing.requests import basic, get_request, record
from testing.wait import wait_until

from interaction_svc.transports.address import Address
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

pytestmark = pytest.mark.each_engine

PARENTS = new_parents()
REQUEST = (
    f"GET {PARENTS.path} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(PARENTS.account_sid)}\r\n\r\n"
).encode()


def addresses(server: Served) -> list[Address]:
    """Return the addresses of HTTP and gRPC."""
    texts = server.base_url.removeprefix("https://"), server.grpc_address
    return [Address.parse(text) for text in texts if text]


@contextmanager
def encrypted(address: Address, authority: Authority) -> Iterator[ssl.SSLSocket]:
    context = authority.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(address, timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=address.host) as opened,
    ):
        yield opened


def serials(server: Served, authority: Authority) -> set[str]:
    """Return the serial numbers of both listeners' certificates on new connections."""
    found = set()
    for address in addresses(server):
        with encrypted(address, authority) as opened:
            certificate = opened.getpeercert()
            assert certificate is not None
            found.add(str(certificate["serialNumber"]))
    return found


def secure_channel(
    server: Served, authority: Authority, client: Files | None = None
) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        authority.pem,
        client.key.read_bytes() if client else None,
        client.certificate.read_bytes() if client else None,
    )
    return grpc.aio.secure_channel(server.grpc_address, credentials)


async def test_both_listeners_serve_only_tls(authority: Authority, tmp_path: Path) -> None:
    interaction = new_interaction(PARENTS)
    path = f"{PARENTS.path}/{interaction.sid}"
    with served(tmp_path, *authority.issue().flags()) as server:
        async with secure_channel(server, authority) as channel:
            await record(IngestServiceStub(channel), interaction)
            found = await InteractionServiceStub(channel).GetInteraction(get_request(interaction))
            assert found.interaction == interaction
        assert server.base_url.startswith("https://")
        async with httpx.AsyncClient(
            verify=authority.context(), auth=(PARENTS.account_sid, "secret"), trust_env=False
        ) as client:
            response = await client.get(server.base_url + path)
            assert response.json()["url"] == server.base_url + path
        for address in addresses(server):
            with socket.create_connection(address, timeout=30) as plain:
                plain.sendall(REQUEST)
                assert b"HTTP/" not in _read_all(plain)


async def test_grpc_clients_need_a_certificate_of_the_ca_with_an_allowed_name(
    authority: Authority, tmp_path: Path
) -> None:
    clients, strangers = Authority(tmp_path, "clients"), Authority(tmp_path, "strangers")
    interaction = new_interaction(PARENTS)
    flags = ["--tls-client-ca", str(clients.path), "--tls-client-names", "ingest,other.example"]
    with served(tmp_path, *authority.issue().flags(), *flags) as server:
        for client, code in (
            (None, grpc.StatusCode.UNAVAILABLE),
            (strangers.client("stranger", "ingest"), grpc.StatusCode.UNAVAILABLE),
            (clients.client("reader", "a", "a.example"), grpc.StatusCode.PERMISSION_DENIED),
            (clients.client("by name", "ingest"), grpc.StatusCode.NOT_FOUND),
            (clients.client("by host", "x", "other.example"), grpc.StatusCode.NOT_FOUND),
        ):
            async with secure_channel(server, authority, client) as channel:
                call = InteractionServiceStub(channel).GetInteraction(get_request(interaction))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() == code
        async with httpx.AsyncClient(verify=authority.context(), trust_env=False) as http:
            # Over HTTP there are no client certificates.
            assert (await http.get(f"{server.base_url}/healthz")).status_code == 200


async def test_a_renewed_certificate_is_served_without_a_restart(
    authority: Authority, tmp_path: Path
) -> None:
    interaction = new_interaction(PARENTS)
    with served(tmp_path, *authority.issue().flags()) as server:
        (old,) = serials(server, authority)
        async with secure_channel(server, authority) as channel:
            await record(IngestServiceStub(channel), interaction)
            with encrypted(addresses(server)[0], authority) as opened:
                _ask(opened)
                authority.issue()
                wait_until(lambda: old not in serials(server, authority))
                (new,) = serials(server, authority)
                _ask(opened)  # on the earlier connection
            await InteractionServiceStub(channel).GetInteraction(get_request(interaction))
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        (loaded,) = (line for line in lines if line["event"] == "certificate loaded")
        assert int(loaded["serial"], 16) == int(new, 16)


def test_a_slow_handshake_is_ended(authority: Authority, tmp_path: Path) -> None:
    flags = (*authority.issue().flags(), "--header-timeout-seconds", "1")
    with served(tmp_path, *flags) as server:
        for address in addresses(server):
            for sent in (b"", bytes.fromhex("16030100c8010000c40303")):
                with socket.create_connection(address, timeout=30) as plain:
                    plain.sendall(sent)
                    _read_all(plain)


@pytest.mark.parametrize("loop", LOOPS)
def test_connections_count_before_their_handshake_ends(
    authority: Authority, tmp_path: Path, loop: str
) -> None:
    flags = (
        *authority.issue().flags(),
        *("--max-connections", "3", "--header-timeout-seconds", "600", "--no-grpc"),
    )
    with served(tmp_path, *flags, env=on_loop(loop, tmp_path)) as server:
        (address,) = addresses(server)
        for _ in range(10):  # failed handshakes don't count
            with socket.create_connection(address, timeout=30) as plain:
                plain.sendall(REQUEST)
                assert b"HTTP/" not in _read_all(plain)
        with ExitStack() as held:
            for _ in range(3):
                held.enter_context(socket.create_connection(address, timeout=30))
            with socket.create_connection(address, timeout=30) as beyond:
                assert _read_all(beyond) == b""

        def is_served() -> bool:
            try:
                with encrypted(address, authority) as opened:
                    _ask(opened)
            except OSError:
                return False
            return True

        wait_until(is_served)
        for _ in range(10):  # established connections that ended don't count
            wait_until(is_served)
    log = server.log.read_text()
    assert "Traceback" not in log
    assert not [line for line in log.splitlines() if json.loads(line)["level"] == "error"]


def test_unusable_files_end_the_service_at_start(authority: Authority, tmp_path: Path) -> None:
    files, other = authority.issue(), authority.issue("other")
    for flags, problem in (
        (["--tls-certificate", str(files.certificate)], "tls_certificate: .*set tls_key too"),
        (Files(files.certificate, other.key).flags(), "tls_key: is not the key of"),
        (Files(tmp_path / "none", files.key).flags(), "tls_certificate: can't be read"),
        ([*files.flags(), "--tls-client-names", "a"], "tls_client_names: .*tls_client_ca"),
    ):
        ended = run("serve", "--store", f"sqlite:///{tmp_path}/x.db", *flags)
        assert ended.returncode == 2
        assert not (tmp_path / "x.db").exists()
        assert re.search(problem, ended.stderr.decode())


def _ask(opened: ssl.SSLSocket) -> None:
    """Send one HTTP request on a connection that stays open."""
    opened.sendall(REQUEST)
    received = b""
    while not received.endswith(b"}}"):
        chunk = opened.recv(65536)
        assert chunk, "it ended the connection"
        received += chunk
    assert received.startswith(b"HTTP/1.1 200")


def _read_all(opened: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while chunk := opened.recv(65536):
            received += chunk
    return received
