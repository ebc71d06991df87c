"""The HTTP server: uvicorn on a socket that is opened here, and drained from here."""

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from interaction_svc.domain.errors import Overloaded
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.task_failure import failure_of
from interaction_svc.transports.address import Address
from interaction_svc.transports.http1.protocol import HttpLimits, RenderError, RestProtocol
from interaction_svc.transports.sockets import CHECK_SECONDS, bind, cannot_listen, listens

_BACKLOG = 2048
_REASON = Overloaded.reason_name()


class HttpServer:
    """Serves an application, which is made of what its links begin with.

    That is `base_url`, or the address it listens on. With `ssl_context` it serves HTTPS only. On a
    port that it shares, others of this user listen beside it.
    """

    def __init__(
        self,
        make_app: Callable[[str], ASGIApp],
        address: Address,
        *,
        base_url: str | None,
        limits: HttpLimits,
        render_error: RenderError,
        ssl_context: ssl.SSLContext | None = None,
        reuse_port: bool = False,
    ) -> None:
        self._make_app = make_app
        self._address = address
        self._base_url = base_url
        self._limits = limits
        self._render_error = render_error
        self._ssl_context = ssl_context
        self._reuses_port = reuse_port
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._listeners: list[_Listener] = []

    async def start(self) -> Address:
        """Listen, and give the address with its real port. Raises OSError if that can't be."""
        connections = _Connections(self._limits)
        try:
            bound = bind(self._address, reuse_port=self._reuses_port)
            self._listeners = [_Listener(one, connections) for one in bound]
            for listener in self._listeners:
                listener.listen(_BACKLOG)
        except OSError as error:
            raise cannot_listen("HTTP", self._address, error) from error
        address = self._address._replace(port=self._listeners[0].getsockname()[1])
        scheme = "http" if self._ssl_context is None else "https"
        app = self._make_app(self._base_url or address.url(scheme))
        config = uvicorn.Config(
            app,
            http=partial(RestProtocol, self._limits, self._render_error),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        self._server = _Server(config, self._limits, self._ssl_context)
        self._serving = asyncio.create_task(self._server.serve(sockets=[*self._listeners]))
        return address

    async def failure(self) -> str:
        """Return why the listener has ended, once it has by itself."""
        if self._serving is None:
            return "it was not started"
        while True:
            done, _ = await asyncio.wait([self._serving], timeout=CHECK_SECONDS)
            if done:
                return await failure_of(self._serving)
            if not all(map(listens, self._listeners)):
                return "its socket is closed"

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, let those under way finish, and cut them off after their time."""
        if self._server is None or self._serving is None:
            return
        if not self._serving.done():  # by itself
            self._server.config.timeout_graceful_shutdown = seconds  # type: ignore[assignment]
            self._server.should_exit = True
            await self._serving


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, limits: HttpLimits, ssl_context: ssl.SSLContext | None
    ) -> None:
        super().__init__(config)
        self._limits = limits
        self._ssl_context = ssl_context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, with the times that uvicorn leaves as they are: a minute for a handshake."""
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                self._protocol,
                sock=listener,
                backlog=_BACKLOG,
                **self._tls(),
            )
            for listener in sockets or []
        ]
        self.started = True

    def _tls(self) -> dict[str, Any]:
        if self._ssl_context is None:
            return {}
        return {
            "ssl": self._ssl_context,
            "ssl_handshake_timeout": self._limits.header_timeout_seconds,
            # Its time has to do for what the client has not read yet.
            "ssl_shutdown_timeout": self._limits.connection_idle_seconds,
        }

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises SIGTERM again when it has stopped, which would kill the process before
        # gRPC has drained. The composition root has the signals.
        yield


class _Connections:
    """How many connections the listeners hold together, and may hold."""

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self.held = 0


class _Listener(socket.socket):
    """A listening socket that holds so many connections; the rest it closes.

    It counts sockets, not protocols: a connection has none before its TLS handshake is over.
    """

    def __init__(self, bound: socket.socket, connections: _Connections) -> None:
        super().__init__(bound.family, bound.type, bound.proto, bound.detach())
        self._connections = connections

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, as soon as there is one that may be held."""
        limits = self._connections.limits
        while True:
            accepted, peer = super().accept()
            if self._connections.held < limits.max_connections:
                break
            accepted.close()
            metrics.errors.labels("http", _REASON).inc()
        # asyncio does so only where it opened the socket itself. Without, an answer's body waits
        # for the client to acknowledge its headers, which takes Linux 40 ms.
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform == "linux":
            # The kernel drops a client that takes nothing of what is sent for this time, be the
            # connection open or already being closed. Others wait for it as TCP has it: for ever.
            milliseconds = int(limits.connection_idle_seconds * 1000)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        return _Connection(accepted, self._connections), peer


class _Connection(socket.socket):
    def __init__(self, accepted: socket.socket, connections: _Connections) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._connections = connections
        connections.held += 1

    def close(self) -> None:
        if self.fileno() != -1:  # it may be closed again
            self._connections.held -= 1
        super().close()
