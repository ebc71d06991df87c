"""The HTTP server: uvicorn on a socket that is opened here, and drained from here."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from interaction_svc.addresses import Address
from interaction_svc.interactions import Interactions
from interaction_svc.rest.app import create_app

_BACKLOG = 2048


class HttpServer:
    """Serves the REST API."""

    def __init__(
        self,
        interactions: Interactions,
        address: Address,
        base_url: str | None,
    ) -> None:
        self._interactions = interactions
        self._address = address
        self._base_url = base_url
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> Address:
        """Listen, and give the address with its real port. Raises OSError if that can't be."""
        listener = _listen(self._address)
        address = self._address._replace(port=listener.getsockname()[1])
        base_url = self._base_url or address.url()
        app = create_app(self._interactions, base_url, is_draining=self._is_draining)
        self._server = _Server(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
            )
        )
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        self._serving.add_done_callback(self._end)
        return address

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, let those under way finish, and cut them off after their time."""
        if self._server is not None and self._serving is not None:
            self._server.config.timeout_graceful_shutdown = seconds  # type: ignore[assignment]
            self._server.should_exit = True
            await self._serving

    def _end(self, _: object) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _is_draining(self) -> bool:
        return self._server is not None and self._server.should_exit


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises SIGTERM again when it has stopped, which would kill the process before
        # gRPC has drained. The composition root has the signals.
        yield


def _listen(address: Address) -> socket.socket:
    try:
        return socket.create_server(
            (address.host, address.port),
            family=socket.AF_INET6 if ":" in address.host else socket.AF_INET,
            backlog=_BACKLOG,
            dualstack_ipv6=address.host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise OSError(f"can't listen for HTTP on {address}: {error.strerror}") from error
