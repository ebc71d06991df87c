"""The HTTP server: uvicorn on a socket that is opened here, and drained from here."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from interaction_svc.addresses import Address
from interaction_svc.rest.protocol import HttpLimits

_BACKLOG = 2048


class HttpServer:
    """Serves an application, which is made of what its links begin with.

    That is `base_url`, or the address it listens on. With `ssl_context` it serves HTTPS only.
    """

    def __init__(
        self,
        make_app: Callable[[str], ASGIApp],
        address: Address,
        *,
        base_url: str | None,
        limits: HttpLimits,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._make_app = make_app
        self._address = address
        self._base_url = base_url
        self._limits = limits
        self._ssl_context = ssl_context
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> Address:
        """Listen, and give the address with its real port. Raises OSError if that can't be."""
        listener = _listen(self._address)
        address = self._address._replace(port=listener.getsockname()[1])
        scheme = "http" if self._ssl_context is None else "https"
        app = self._make_app(self._base_url or address.url(scheme))
        config = uvicorn.Config(
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
        self._server = _Server(config, self._limits, self._ssl_context)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        self._serving.add_done_callback(self._end)
        return address

    @property
    def is_draining(self) -> bool:
        """Whether it was told to stop."""
        return self._server is not None and self._server.should_exit

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, let those under way finish, and cut them off after their time."""
        if self._server is not None and self._serving is not None:
            self._server.config.timeout_graceful_shutdown = seconds  # type: ignore[assignment]
            self._server.should_exit = True
            await self._serving

    def _end(self, _: object) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, limits: HttpLimits, ssl_context: ssl.SSLContext | None
    ) -> None:
        super().__init__(config)
        self._limits = limits
        self._ssl_context = ssl_context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, with the times that uvicorn leaves as they are: a minute for a handshake."""
        seconds = self._limits.slow_sender_seconds if self._ssl_context else None
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                self._protocol,
                sock=listener,
                backlog=_BACKLOG,
                ssl=self._ssl_context,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
            for listener in sockets or []
        ]
        self.started = True

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

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
