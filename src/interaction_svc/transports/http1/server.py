"""The HTTP server: its start, failure detection and drain."""

import asyncio
import ssl
from collections.abc import Callable
from functools import partial

from starlette.types import ASGIApp

from interaction_svc.telemetry.task_failure import failure_of
from interaction_svc.transports.address import Address
from interaction_svc.transports.http1.listener import LimitedListener, OpenConnections
from interaction_svc.transports.http1.protocol import HttpLimits, RenderError, RestProtocol
from interaction_svc.transports.http1.uvicorn_internals import Tls, UvicornServer
from interaction_svc.transports.sockets import CHECK_SECONDS, bind, cannot_listen, listens


class HttpServer:
    """Serves an application over HTTP, or with `ssl_context` over HTTPS only.

    `make_app` is called with the base URL of the links in responses: `base_url`, or else the
    address that the server listens on. With `reuse_port`, other sockets of this user may listen on
    the same port.
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
        self._server: UvicornServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self._listeners: list[LimitedListener] = []

    async def start(self) -> Address:
        """Start to listen, and return the address with the actual port. Raises OSError."""
        limits = self._limits
        connections = OpenConnections(limits.max_connections)
        try:
            self._listeners = [
                LimitedListener(one, connections, unread_seconds=limits.connection_idle_seconds)
                for one in bind(self._address, reuse_port=self._reuses_port)
            ]
        except OSError as error:
            raise cannot_listen("HTTP", self._address, error) from error
        address = self._address._replace(port=self._listeners[0].socket.getsockname()[1])
        scheme = "http" if self._ssl_context is None else "https"
        self._server = UvicornServer(
            self._make_app(self._base_url or address.url(scheme)),
            partial(RestProtocol, limits, self._render_error),
            self._listeners,
            tls=self._tls(),
        )
        self._serving = asyncio.create_task(self._server.serve())
        return address

    async def failure(self) -> str:
        """Wait until the listener fails, and return the cause."""
        if self._serving is None:
            return "it was not started"
        while True:
            done, _ = await asyncio.wait([self._serving], timeout=CHECK_SECONDS)
            if done:
                return await failure_of(self._serving)
            if not all(listens(listener.socket) for listener in self._listeners):
                return "its socket is closed"

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, wait up to `seconds` for those in progress, then cancel them."""
        if self._server is None or self._serving is None:
            return
        if not self._serving.done():  # already done if the listener failed
            self._server.stop(seconds)
            await self._serving

    def _tls(self) -> Tls | None:
        if self._ssl_context is None:
            return None
        return Tls(
            self._ssl_context,
            handshake_timeout_seconds=self._limits.header_timeout_seconds,
            shutdown_timeout_seconds=self._limits.connection_idle_seconds,
        )
