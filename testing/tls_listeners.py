"""The gRPC and HTTP listeners with TLS, in the process of the test, and connections to them."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from interaction_svc.transports.address import Address
from interaction_svc.transports.grpcio.credentials import server_credentials, subject_names
from interaction_svc.transports.http1.protocol import HttpLimits
from interaction_svc.transports.http1.server import HttpServer
from interaction_svc.transports.rest.responses import error_response
from interaction_svc.transports.tls import Certificates
from testing.certificates import Authority, Files

LIMITS = HttpLimits(
    max_header_bytes=16384,
    max_connections=100,
    header_timeout_seconds=10,
    connection_idle_seconds=60,
)
SOMEWHERE = Address("127.0.0.1", 0)
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


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
        render_error=error_response,
        ssl_context=certificates.ssl_context,
    )
    server = grpc.aio.server()
    method: Any = grpc.unary_unary_rpc_method_handler
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("Test", {"Who": method(who)}),)
    )
    port = server.add_secure_port(str(SOMEWHERE), server_credentials(certificates))
    await certificates.start()
    await server.start()
    try:
        yield Listeners(await http.start(), SOMEWHERE._replace(port=port))
    finally:
        await http.drain(0)
        await server.stop(None)
        await certificates.stop()


async def who(_: bytes, context: Any) -> bytes:
    """Return the names in the client's certificate, and the client's address."""
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
    """Return the serial number of the server's certificate on a new connection."""
    async with connection(address, context) as (_, writer):
        return str(writer.get_extra_info("peercert")["serialNumber"])
