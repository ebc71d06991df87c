"""Start and end of a rival's server."""

import asyncio
import signal
import socket

import grpc
import uvicorn
from starlette.types import ASGIApp

ADDRESS = "127.0.0.1"
CACHE_KIB = 16 * 1024
"""The size of SQLite's page cache in rivals with a database, the same as the service's."""


async def serve_grpc(server: grpc.aio.Server) -> None:
    """Serve on a free port until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    port = server.add_insecure_port(f"{ADDRESS}:0")
    await server.start()
    print(f"gRPC on {ADDRESS}:{port}", flush=True)
    await ended.wait()
    await server.stop(grace=1)


def new_grpc_server() -> grpc.aio.Server:
    """Return a server with the library's default options, without a shared port."""
    # Otherwise another process could listen on the same port by mistake.
    return grpc.aio.server(options=[("grpc.so_reuseport", 0)])


def serve_http(app: ASGIApp, *, loop: str = "asyncio") -> None:
    """Serve on a free port until SIGTERM, as `uvicorn --no-access-log` does."""
    config = uvicorn.Config(
        app, ADDRESS, 0, loop=loop, http="httptools", access_log=False, log_level="warning"
    )
    _Server(config).run()


class _Server(uvicorn.Server):
    """A server that prints its address.

    It opens its socket itself, so that asyncio disables Nagle's algorithm on its connections.
    asyncio does not do so for a given socket without an explicit TCP protocol.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and print the address."""
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"REST on http://{ADDRESS}:{port}", flush=True)
