"""Under attack the log of the gRPC port has only JSON lines, without any bytes of requests."""

import asyncio
import json
import ssl
from pathlib import Path

import pytest
from testing import http2, listener_faults
from testing.build import Parents
from testing.certificates import Authority
from testing.hostile_client import FORGED, GET, LIST, RECORD_MANY, SECRET
from testing.process import Served, served
from testing.requests import list_request

from interaction_svc.transports.address import Address

PIECE = SECRET.encode()
ODD = PIECE + b"\xff\xfe" + FORGED


def attacks(request: bytes) -> dict[str, bytes]:
    """Return what is sent on a connection, by a name."""
    greeting = http2.greeting()

    def headers(path: bytes, *metadata: tuple[str, str | bytes]) -> bytes:
        return http2.call_headers(path, metadata)

    def call(block: bytes) -> bytes:
        return greeting + http2.call(1, block, http2.message(request))

    known = LIST.encode()
    return {
        "path": call(headers(b"/\xff" + PIECE)),
        "long path": call(headers(b"/" + ODD[:100])),
        "no path": call(http2.header_block([(":method", "POST"), ("x", ODD)])),
        "authorization": call(headers(known, ("authorization", b"Bearer " + ODD))),
        "other metadata": call(headers(known, ("x-other", ODD))),
        "binary metadata": call(headers(known, ("x-other-bin", ODD))),
        "name of metadata": call(headers(known) + b"\x00\x08X\xff\n\r \x00:a\x03abc"),
        "timeout": call(headers(known, ("grpc-timeout", ODD))),
        "encoding": call(headers(known, ("grpc-encoding", ODD))),
        "content type": call(headers(known, ("content-type", ODD))),
        "authority": call(headers(known, (":authority", ODD))),
        "index": call(headers(known) + b"\xff\xff\xff\xff\x0f" + ODD),
        "huffman": call(headers(known) + b"\x00\x01a" + bytes([0x80 | 40]) + ODD[:40]),
        "size of table": call(b"\x3f\xff\xff\xff\xff\x0f" + ODD),
        "length of message": greeting
        + http2.call(1, headers(GET.encode()), b"\x00\xff\xff\xff\xff" + ODD),
        "compressed message": greeting
        + http2.call(1, headers(known), b"\x01\x00\x00\x00\x10" + ODD),
        "stream": greeting + http2.call(1, headers(RECORD_MANY.encode()), http2.message(ODD)),
        "goaway": greeting + http2.frame(http2.GOAWAY, payload=b"\0" * 8 + ODD),
        "settings": greeting + http2.frame(http2.SETTINGS, payload=ODD[:60]),
        "unknown frame": greeting + http2.frame(200, payload=ODD),
        "HTTP/1.1": b"GET /" + ODD + b" HTTP/1.1\r\nAuthorization: " + ODD + b"\r\n\r\n",
        "no protocol": ODD * 10,
    }


async def send(address: Address, data: bytes, tls: ssl.SSLContext | None) -> None:
    reader, writer = await asyncio.open_connection(*address, ssl=tls, server_hostname=tls and "x")
    try:
        writer.write(data)
        async with asyncio.timeout(0.3):
            while await reader.read(65536):
                pass
    except (OSError, TimeoutError):
        pass  # some are refused at once, and some get no response
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_the_log_has_only_json_without_bytes_of_requests(
    tmp_path: Path, authority: Authority, parents: Parents, encrypted: bool
) -> None:
    flags = authority.issue().flags() if encrypted else []
    tls = None
    if encrypted:
        tls = authority.context()
        tls.check_hostname = False
        tls.set_alpn_protocols(["h2"])
    environment = listener_faults.prepared(tmp_path)
    request = list_request(parents).SerializeToString()
    with served(tmp_path, *flags, "--log-level", "debug", env=environment) as server:
        address = Address.parse(server.grpc_address)
        for data in attacks(request).values():
            await asyncio.gather(*(send(address, data, tls) for _ in range(3)))
            await send(address, data, None)  # to a TLS port, a failed handshake
        server.process.send_signal(listener_faults.END_ACCEPT_LOOP)
        data = attacks(request)["authorization"]
        await asyncio.gather(*(send(address, data, tls) for _ in range(3)))
        assert_clean(server)
    assert_clean(server)


def assert_clean(server: Served) -> None:
    text = server.log.read_bytes()
    assert PIECE not in text
    assert b"forged" not in text
    for line in text.splitlines():
        assert json.loads(line)["event"]
