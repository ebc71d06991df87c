"""Faults that end a listener of a server, while its process keeps running."""

import asyncio
import os
import signal
from pathlib import Path

from testing import http2

_SITE = """
import os, signal, socket
from pathlib import Path

def shut_down(*_):
    port = int(Path(__file__).with_name("port").read_text())
    for name in os.listdir("/proc/self/fd"):
        try:
            own = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with own:
            if own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and (
                own.family in (socket.AF_INET, socket.AF_INET6) and own.getsockname()[1] == port
            ):
                own.shutdown(socket.SHUT_RDWR)

signal.signal(signal.SIGUSR1, shut_down)
"""
SHUT_DOWN = signal.SIGUSR1


def prepared(folder: Path) -> dict[str, str]:
    """Return the environment of a process that stops listening on a port at SHUT_DOWN."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_SITE)
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def choose(folder: Path, address: str) -> None:
    """Set the port for SHUT_DOWN to that of an address or URL."""
    (folder / "site" / "port").write_text(address.rpartition(":")[2].partition("/")[0])


async def send_undecodable_path(address: str) -> None:
    """Send a gRPC call whose path is not UTF-8, and return when the server accepts no more calls.

    Such a call ends the accept loop of grpc.aio's server.
    """
    headers = http2.call_headers("/~").replace(b"/~", b"/\xff")
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(http2.greeting() + http2.frame(http2.HEADERS, http2.END_HEADERS, 1, headers))
    received = bytearray()
    async with asyncio.timeout(30):
        while not any(kind == http2.GOAWAY for kind, *_ in http2.frames(received)):
            received += await reader.read(65536)
    writer.close()
