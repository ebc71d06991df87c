"""TLS on both listeners: who gets in, and certificates that change while it runs."""

import asyncio
import os
import shutil
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import structlog
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from interaction_svc import tls
from interaction_svc.addresses import Address
from interaction_svc.rest.protocol import HttpLimits
from interaction_svc.rest.server import HttpServer
from interaction_svc.settings import SettingsError, load_settings
from interaction_svc.tls import Certificates, TlsError, certificates_of, subject_names
from tests.certificates import LONG_AGO, Authority, Files, encrypted, replace

LIMITS = HttpLimits(
    max_header_bytes=16384, max_connections=100, slow_sender_seconds=10, connection_idle_seconds=60
)
SOMEWHERE = Address("127.0.0.1", 0)
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

pytestmark = pytest.mark.usefixtures("looks")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Have the files looked at often, and list each time that one was."""
    found: list[Path] = []
    stamp_of = tls._stamp_of

    def noted(path: Path) -> object:
        found.append(path)
        return stamp_of(path)

    monkeypatch.setattr(tls, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(tls, "_stamp_of", noted)
    return found


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@dataclass
class Listeners:
    """Both listeners, with the same certificates."""

    http: Address
    grpc: Address


@asynccontextmanager
async def listening(files: Files, client_ca: Path | None = None) -> AsyncIterator[Listeners]:
    certificates = Certificates(files.certificate, files.key, client_ca)
    http = HttpServer(
        lambda base_url: Starlette(routes=[Route("/", lambda _: PlainTextResponse(base_url))]),
        SOMEWHERE,
        base_url=None,
        limits=LIMITS,
        ssl_context=certificates.ssl_context,
    )
    server = grpc.aio.server()
    method: Any = grpc.unary_unary_rpc_method_handler
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("Test", {"Who": method(who)}),)
    )
    port = server.add_secure_port(str(SOMEWHERE), certificates.grpc_credentials)
    await certificates.start()
    await server.start()
    try:
        yield Listeners(await http.start(), SOMEWHERE._replace(port=port))
    finally:
        await http.drain(0)
        await server.stop(None)
        await certificates.stop()


async def who(_: bytes, context: Any) -> bytes:
    """Answer with the names in the client's certificate, and the client's address."""
    return repr((sorted(subject_names(context.auth_context())), context.peer())).encode()


def channel(
    listeners: Listeners, authority: Authority, client: Files | None = None
) -> grpc.aio.Channel:
    certificate = client.certificate.read_bytes() if client else None
    key = client.key.read_bytes() if client else None
    credentials = grpc.ssl_channel_credentials(authority.pem, key, certificate)
    return grpc.aio.secure_channel(str(listeners.grpc), credentials)


async def call(opened: grpc.aio.Channel) -> str:
    method: Any = opened.unary_unary("/Test/Who")
    answer: bytes = await method(b"", timeout=10)
    return answer.decode()


@asynccontextmanager
async def connection(
    address: Address, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def serial(address: Address, context: ssl.SSLContext) -> str:
    """Give the serial number of the certificate that a new connection is shown."""
    async with connection(address, context) as (_, writer):
        return str(writer.get_extra_info("peercert")["serialNumber"])


async def serials(listeners: Listeners, authority: Authority) -> set[str]:
    h2 = authority.context()
    h2.set_alpn_protocols(["h2"])
    return {
        await serial(listeners.http, authority.context()),
        await serial(listeners.grpc, h2),
    }


async def until(
    condition: Callable[[], Awaitable[bool]] | Callable[[], bool], seconds: float = 20
) -> None:
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if (await found) if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.01)


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


async def test_both_listeners_serve_with_tls(authority: Authority) -> None:
    async with listening(authority.issue()) as listeners:
        base_url = listeners.http.url("https")
        async with httpx.AsyncClient(verify=authority.context(), trust_env=False) as client:
            assert (await client.get(base_url)).text == base_url
        async with channel(listeners, authority) as opened:
            assert (await call(opened)).startswith("([], ")


async def test_a_client_that_does_not_know_the_ca_goes_away(authority: Authority) -> None:
    async with listening(authority.issue()) as listeners:
        for address in (listeners.http, listeners.grpc):
            with pytest.raises(ssl.SSLCertVerificationError):
                await serial(address, ssl.create_default_context())


async def test_plain_text_to_a_tls_port_gets_no_answer(authority: Authority) -> None:
    async with listening(authority.issue()) as listeners:
        for address in (listeners.http, listeners.grpc):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(REQUEST)
            async with asyncio.timeout(20):
                assert b"HTTP/" not in await reader.read()
            writer.close()
        async with grpc.aio.insecure_channel(str(listeners.grpc)) as opened:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(opened)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def only(authority: Authority, version: str) -> ssl.SSLContext:
    """Make a client's side that speaks this version, old ones too, which OpenSSL has put away."""
    context = authority.context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.set_alpn_protocols(["h2", "http/1.1"])
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    return context


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
async def test_tls_before_1_2_is_refused(authority: Authority, version: str) -> None:
    async with listening(authority.issue()) as listeners:
        for address in (listeners.http, listeners.grpc):
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await serial(address, only(authority, version))


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_tls_from_1_2_is_taken(authority: Authority, version: str) -> None:
    async with listening(authority.issue()) as listeners:
        for address, protocol in ((listeners.http, "http/1.1"), (listeners.grpc, "h2")):
            async with connection(address, only(authority, version)) as (_, writer):
                found = writer.get_extra_info("ssl_object")
                assert found.version() == version.replace("_", ".")
                assert found.selected_alpn_protocol() == protocol


async def test_a_client_that_names_no_server_is_served(authority: Authority) -> None:
    files = authority.issue()
    context = authority.context()
    context.check_hostname = False
    async with listening(files) as listeners, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(
            *listeners.http, ssl=context, server_hostname=""
        )
        writer.write(REQUEST)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.abort()


async def test_with_a_client_ca_grpc_wants_a_certificate_of_it(
    authority: Authority, tmp_path: Path
) -> None:
    clients = Authority(tmp_path, "clients")
    strangers = Authority(tmp_path, "strangers")
    async with listening(authority.issue(), clients.path) as listeners:
        for refused in (
            None,
            strangers.client("stranger", "ingest"),
            clients.issue("late", until=LONG_AGO),
        ):
            async with channel(listeners, authority, refused) as opened:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(opened)
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        async with channel(listeners, authority, clients.client("good", "ingest")) as opened:
            assert (await call(opened)).startswith("(['ingest'], ")
        # HTTP has Basic credentials only.
        assert await serial(listeners.http, authority.context())


async def test_the_names_of_a_client_are_its_common_and_alternative_names(
    authority: Authority,
) -> None:
    names = ["a.example", "*.b.example", "192.0.2.7", "2001:db8::7", "who@example.org"]
    client = authority.client("client", "Ingest of A, Inc.", *names)
    async with (
        listening(authority.issue(), authority.path) as listeners,
        channel(listeners, authority, client) as opened,
    ):
        assert (await call(opened)).startswith(f"({sorted([*names, 'Ingest of A, Inc.'])!r}, ")


async def test_a_uri_is_a_name_of_a_client(authority: Authority) -> None:
    client = authority.client_with_uri("client", "spiffe://example.org/ingest")
    async with (
        listening(authority.issue(), authority.path) as listeners,
        channel(listeners, authority, client) as opened,
    ):
        assert (await call(opened)).startswith("(['spiffe://example.org/ingest'], ")


async def test_new_connections_see_a_new_certificate_and_open_ones_go_on(
    authority: Authority, logged: list[Any]
) -> None:
    async with listening(authority.issue()) as listeners:
        (old,) = await serials(listeners, authority)
        async with (
            connection(listeners.http, authority.context()) as (reader, writer),
            channel(listeners, authority) as opened,
        ):
            peer = await call(opened)

            async def ask() -> None:
                writer.write(REQUEST)
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                await reader.readexactly(len(listeners.http.url("https")))

            await ask()
            authority.issue()
            await until(lambda: any(entry["event"] == "certificate loaded" for entry in logged))
            (new,) = await serials(listeners, authority)
            assert new != old
            entry = next(entry for entry in logged if entry["event"] == "certificate loaded")
            assert int(entry["serial"], 16) == int(new, 16)
            await ask()
            assert await call(opened) == peer


async def test_a_secret_of_kubernetes_is_followed(
    authority: Authority, tmp_path: Path, logged: list[Any]
) -> None:
    """It swaps a link to the folder that the files' links lead through."""
    mount = tmp_path / "mount"
    mount.mkdir()
    for version in ("1", "2"):
        issued = authority.issue(f"server{version}")
        (mount / version).mkdir()
        shutil.copy(issued.certificate, mount / version / "tls.crt")
        shutil.copy(issued.key, mount / version / "tls.key")
    (mount / "..data").symlink_to("1")
    files = Files(mount / "tls.crt", mount / "tls.key")
    for path in (files.certificate, files.key):
        path.symlink_to(Path("..data") / path.name)
    async with listening(files) as listeners:
        (old,) = await serials(listeners, authority)
        (mount / "..new").symlink_to("2")
        os.replace(mount / "..new", mount / "..data")
        await until(lambda: any(entry["event"] == "certificate loaded" for entry in logged))
        (new,) = await serials(listeners, authority)
        assert new != old


@pytest.mark.parametrize("fault", ["cut", "other key", "gone", "empty"])
async def test_bad_new_files_leave_the_old_in_force(
    authority: Authority, logged: list[Any], looks: list[Path], fault: str
) -> None:
    files = authority.issue()
    async with listening(files) as listeners:
        (old,) = await serials(listeners, authority)
        other = authority.issue("other")
        if fault == "cut":
            replace(files.certificate, other.certificate.read_bytes()[:300])
        elif fault == "other key":
            replace(files.certificate, other.certificate.read_bytes())
        elif fault == "gone":
            files.key.unlink()
        else:
            replace(files.key, b"")
        await until(lambda: bool(logged))
        assert await serials(listeners, authority) == {old}
        seen = len(looks)
        await until(lambda: len(looks) > seen + 20)
        (warning,) = logged
        assert warning["log_level"] == "warning"
        assert warning["problem"].startswith("tls_")
        assert str(files.certificate.parent) not in warning["problem"]
        authority.issue()
        await until(lambda: len(logged) > 1)
        assert logged[-1]["event"] == "certificate loaded"
        (new,) = await serials(listeners, authority)
        assert new != old


async def test_a_new_client_ca_counts_for_new_connections(
    authority: Authority, tmp_path: Path, logged: list[Any]
) -> None:
    before, after = Authority(tmp_path, "before"), Authority(tmp_path, "after")
    client = after.client("client", "ingest")
    trusted = tmp_path / "trusted.pem"
    replace(trusted, before.pem)
    async with listening(authority.issue(), trusted) as listeners:
        async with channel(listeners, authority, client) as opened:
            with pytest.raises(grpc.aio.AioRpcError):
                await call(opened)
        replace(trusted, before.pem + after.pem)
        await until(lambda: bool(logged))
        async with channel(listeners, authority, client) as opened:
            assert "ingest" in await call(opened)


def test_a_certificate_that_is_not_valid_is_warned_of(
    authority: Authority, logged: list[Any]
) -> None:
    files = authority.issue(until=LONG_AGO)
    Certificates(files.certificate, files.key)
    (warning,) = logged
    assert (warning["log_level"], warning["not_after"]) == ("warning", "2001-01-01T00:00:00+00:00")


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.issue("good"), authority.issue("other")
    text = tmp_path / "text.pem"
    text.write_text("-----BEGIN CERTIFICATE-----\nnonsense")
    folder = tmp_path / "folder"
    folder.mkdir()
    locked = encrypted(good.key)
    for certificate, key, client_ca, problem in (
        (tmp_path / "none", good.key, None, "tls_certificate: can't be read .No such file"),
        (folder, good.key, None, "tls_certificate: can't be read .Is a directory"),
        (text, good.key, None, "tls_certificate: is not a PEM file of certificates"),
        (good.key, good.key, None, "tls_certificate: is not a PEM file of certificates"),
        (good.certificate, text, None, "tls_key: is not a private key in PEM"),
        (good.certificate, good.certificate, None, "tls_key: is not a private key in PEM"),
        (good.certificate, locked, None, "tls_key: is encrypted"),
        (good.certificate, other.key, None, "tls_key: is not the key of tls_certificate"),
        (good.certificate, good.key, text, "tls_client_ca: is not a PEM file"),
        (good.certificate, good.key, other.certificate, "tls_client_ca: .* may not sign others"),
    ):
        with pytest.raises(TlsError, match=f"^{problem}"):
            Certificates(certificate, key, client_ca)


def test_settings_that_do_not_fit_together_are_refused(
    authority: Authority, tmp_path: Path
) -> None:
    files = authority.issue()
    both = {"tls_certificate": files.certificate, "tls_key": files.key}
    assert certificates_of(load_settings()) is None
    assert certificates_of(load_settings(**both)) is not None
    assert certificates_of(load_settings(**both, tls_client_ca=authority.path)) is not None
    for given, problem in (
        ({"tls_certificate": files.certificate}, "^tls_certificate: .* set tls_key too"),
        ({"tls_key": files.key}, "^tls_key: .* set tls_certificate too"),
        ({"tls_client_ca": authority.path}, "^tls_client_ca: .* set tls_certificate and tls_key"),
        ({**both, "tls_client_names": "a"}, "^tls_client_names: .* tls_client_ca"),
    ):
        with pytest.raises(SettingsError, match=problem):
            certificates_of(load_settings(**given))
