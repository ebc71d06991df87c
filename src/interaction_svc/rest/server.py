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

from interaction_svc import metrics
from interaction_svc.addresses import Address
from interaction_svc.errors import Overloaded
from interaction_svc.rest.protocol import HttpLimits, RestProtocol

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
        ssl_context: ssl.SSLContext | None = None,
        shares_port: bool = False,
    ) -> None:
        self._make_app = make_app
        self._address = address
        self._base_url = base_url
        self._limits = limits
        self._ssl_context = ssl_context
        self._shares_port = shares_port
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> Address:
        """Listen, and give the address with its real port. Raises OSError if that can't be."""
        listener = _Listener(_listen(self._address, self._shares_port), self._limits)
        address = self._address._replace(port=listener.getsockname()[1])
        scheme = "http" if self._ssl_context is None else "https"
        app = self._make_app(self._base_url or address.url(scheme))
        config = uvicorn.Config(
            app,
            http=partial(RestProtocol, self._limits),  # type: ignore[arg-type]
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
            "ssl_handshake_timeout": self._limits.slow_sender_seconds,
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


class _Listener(socket.socket):
    """A listening socket that holds so many connections; the rest it closes.

    It counts sockets, not protocols: a connection has none before its TLS handshake is over.
    """

    def __init__(self, listener: socket.socket, limits: HttpLimits) -> None:
        super().__init__(listener.family, listener.type, listener.proto, listener.detach())
        self._limits = limits
        self.held = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, as soon as there is one that may be held."""
        while True:
            accepted, peer = super().accept()
            if self.held < self._limits.max_connections:
                break
            accepted.close()
            metrics.refused.labels("http", _REASON).inc()
        # asyncio does so only where it opened the socket itself. Without, an answer's body waits
        # for the client to acknowledge its headers, which takes Linux 40 ms.
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform == "linux":
            # The kernel drops a client that takes nothing of what is sent for this time, be the
            # connection open or already being closed. Others wait for it as TCP has it: for ever.
            milliseconds = int(self._limits.connection_idle_seconds * 1000)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        return _Connection(accepted, self), peer


class _Connection(socket.socket):
    def __init__(self, accepted: socket.socket, listener: _Listener) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._listener = listener
        listener.held += 1

    def close(self) -> None:
        if self.fileno() != -1:  # it may be closed again
            self._listener.held -= 1
        super().close()


def cannot_listen(address: Address, error: OSError) -> OSError:
    """Give the error of an address that can't be listened on."""
    return OSError(f"can't listen for HTTP on {address}: {error.strerror}")


def _listen(address: Address, shares_port: bool) -> socket.socket:
    try:
        return socket.create_server(
            (address.host, address.port),
            family=socket.AF_INET6 if ":" in address.host else socket.AF_INET,
            backlog=_BACKLOG,
            reuse_port=shares_port,
            dualstack_ipv6=address.host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise cannot_listen(address, error) from error
