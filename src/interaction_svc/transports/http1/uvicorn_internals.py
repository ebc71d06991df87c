"""The undocumented parts of uvicorn that the service uses. No other module imports uvicorn.

tests/transports/http1/test_uvicorn_internals.py fails if an update of uvicorn changes one of them.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from interaction_svc.transports.http1.listener import LimitedListener

__all__ = ["STATUS_LINE", "Tls", "UvicornProtocol", "UvicornServer"]

PROTOCOL_ATTRIBUTES = frozenset(
    {"app", "cycle", "flow", "headers", "loop", "parser", "pipeline", "scope", "server_state"}
    | {"tasks", "transport"}
)
"""The attributes of uvicorn's protocol that subclasses of UvicornProtocol and cycles use.

uvicorn also sets `url`, at the first byte of a request.
"""
PROTOCOL_METHODS = frozenset(
    {"connection_made", "connection_lost", "data_received", "on_message_begin", "on_url"}
    | {"on_header", "on_headers_complete", "on_body", "on_message_complete", "shutdown"}
)
"""The methods of uvicorn's protocol that asyncio, httptools and uvicorn's server call."""
CYCLE_ATTRIBUTES = frozenset({"disconnected", "keep_alive", "message_event", "response_complete"})
"""The attributes of a cycle that the methods inherited from uvicorn's protocol use."""
FLOW_ATTRIBUTES = frozenset({"drain", "pause_reading", "resume_reading", "write_paused"})
SERVER_STATE_ATTRIBUTES = frozenset({"default_headers", "tasks", "total_requests"})
SERVER_ATTRIBUTES = frozenset(
    {"capture_signals", "config", "lifespan", "serve", "server_state", "should_exit", "shutdown"}
    | {"started", "startup"}
)

UvicornProtocol = HttpToolsProtocol
"""The base class of the HTTP protocol. PROTOCOL_ATTRIBUTES lists its attributes in use."""


@dataclass(frozen=True, slots=True)
class Tls:
    """The TLS options of a listener."""

    context: ssl.SSLContext
    handshake_timeout_seconds: float
    shutdown_timeout_seconds: float
    """The time limit for the client to read its responses and close its side."""


class UvicornServer(uvicorn.Server):
    """uvicorn's server on open sockets, without its command line, signals and access log."""

    def __init__(
        self,
        app: ASGIApp,
        make_protocol: Callable[..., UvicornProtocol],
        listeners: Sequence[LimitedListener],
        *,
        tls: Tls | None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=make_protocol,  # type: ignore[arg-type] # uvicorn accepts any callable
                interface="asgi3",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
            )
        )
        self._listeners = listeners
        self._tls_options: dict[str, Any] = {}
        if tls is not None:
            self._tls_options = {
                "ssl": tls.context,
                "ssl_handshake_timeout": tls.handshake_timeout_seconds,
                "ssl_shutdown_timeout": tls.shutdown_timeout_seconds,
            }

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections. uvicorn's method can't limit them or set the timeouts of TLS."""
        for listener in self._listeners:
            listener.start(self._connect)
        self.servers = [*self._listeners]  # type: ignore[list-item] # to be closed at the drain
        self.started = True

    def stop(self, seconds: float) -> None:
        """Refuse new requests, wait up to `seconds` for those in progress, then cancel them."""
        self.config.timeout_graceful_shutdown = seconds  # type: ignore[assignment]
        self.should_exit = True

    async def _connect(self, connection: socket.socket) -> None:
        """Serve a connection. Return once TLS is established. Raises OSError."""
        protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: protocol, connection, **self._tls_options
        )
        if self.should_exit and protocol in self.server_state.connections:
            protocol.shutdown()  # uvicorn has told only the connections before this one

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing, because the composition root handles signals.

        uvicorn's method raises SIGTERM again once it has stopped, which would kill the process
        before gRPC has drained.
        """
        yield
