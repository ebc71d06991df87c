"""TLS on both listeners: accepted clients and versions, and unusable files."""

import asyncio
import errno
import socket
import ssl
import warnings
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from testing.certificates import LONG_AGO, Authority, encrypted
from testing.tls_listeners import (
    LIMITS,
    REQUEST,
    SOMEWHERE,
    call,
    channel,
    connection,
    listening,
    serial,
)

from interaction_svc.runtime.certificates import certificates_of
from interaction_svc.runtime.settings import SettingsError, load_settings
from interaction_svc.transports.address import Address
from interaction_svc.transports.http1.server import HttpServer
from interaction_svc.transports.rest.responses import error_response
from interaction_svc.transports.tls import Certificates, TlsError

pytestmark = [pytest.mark.each_engine, pytest.mark.both_loops]


async def test_both_listeners_serve_with_tls(authority: Authority) -> None:
    async with listening(authority.issue()) as listeners:
        base_url = listeners.http.url("https")
        async with httpx.AsyncClient(verify=authority.context(), trust_env=False) as client:
            assert (await client.get(base_url)).text == base_url
        async with channel(listeners, authority) as opened:
            assert (await call(opened)).startswith("([], ")


async def test_a_client_that_does_not_know_the_ca_disconnects(authority: Authority) -> None:
    async with listening(authority.issue()) as listeners:
        for address in (listeners.http, listeners.grpc):
            with pytest.raises(ssl.SSLCertVerificationError):
                await serial(address, ssl.create_default_context())


async def test_plain_text_to_a_tls_port_gets_no_response(authority: Authority) -> None:
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
    """Return a client context for one version, also for those that OpenSSL disables."""
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
async def test_tls_1_2_and_1_3_are_accepted(authority: Authority, version: str) -> None:
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


async def test_with_a_client_ca_grpc_requires_a_certificate_of_it(
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


async def until_refused(address: Address) -> None:
    while True:
        with socket.socket() as tried:
            if tried.connect_ex(address) == errno.ECONNREFUSED:
                return
        await asyncio.sleep(0.01)


async def test_a_connection_whose_handshake_ends_during_the_drain_is_closed(
    authority: Authority,
) -> None:
    asked, finish = asyncio.Event(), asyncio.Event()

    async def answer(_: Request) -> PlainTextResponse:
        asked.set()
        await finish.wait()
        return PlainTextResponse("finished")

    files = authority.issue()
    server = HttpServer(
        lambda _: Starlette(routes=[Route("/", answer)]),
        SOMEWHERE,
        base_url=None,
        limits=replace(LIMITS, header_timeout_seconds=600),
        render_error=error_response,
        ssl_context=Certificates(files.certificate, files.key).ssl_context,
    )
    address = await server.start()
    async with asyncio.timeout(30), connection(address, authority.context()) as (reader, writer):
        late, late_writer = await asyncio.open_connection(*address)
        writer.write(REQUEST)
        await asked.wait()
        drain = asyncio.create_task(server.drain(600))
        await until_refused(address)
        await late_writer.start_tls(authority.context(), server_hostname=address.host)
        assert await late.read() == b""
        late_writer.transport.abort()
        finish.set()
        assert (await reader.read()).endswith(b"finished")
        await drain


def test_an_expired_certificate_is_logged_as_a_warning(authority: Authority) -> None:
    files = authority.issue(until=LONG_AGO)
    with structlog.testing.capture_logs() as logged:
        Certificates(files.certificate, files.key)
    (warning,) = logged
    assert (warning["log_level"], warning["not_after"]) == ("warning", "2001-01-01T00:00:00+00:00")


def test_the_error_for_an_unusable_file_names_it(authority: Authority, tmp_path: Path) -> None:
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
