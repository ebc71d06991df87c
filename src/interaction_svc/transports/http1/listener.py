"""Listening sockets with a limit on open connections."""

import socket
import sys
from dataclasses import dataclass
from typing import Any

from interaction_svc.domain.errors import Overloaded
from interaction_svc.telemetry import metrics

_REASON = Overloaded.reason_name()


@dataclass(slots=True)
class OpenConnections:
    """The number of open connections of all listeners together."""

    maximum: int
    count: int = 0


class LimitedListener(socket.socket):
    """A listening socket that closes new connections while the maximum number is open.

    It counts sockets, so that connections count during their TLS handshake too.
    """

    def __init__(
        self, bound: socket.socket, connections: OpenConnections, *, unread_seconds: float
    ) -> None:
        """Adopt the descriptor of a bound socket.

        On Linux, the kernel closes a connection if its client reads nothing for `unread_seconds`.
        """
        super().__init__(bound.family, bound.type, bound.proto, bound.detach())
        self._connections = connections
        self._unread_milliseconds = int(unread_seconds * 1000)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection. While the maximum number is open, close each new one at once."""
        while True:
            accepted, peer = super().accept()
            if self._connections.count < self._connections.maximum:
                break
            accepted.close()
            metrics.errors.labels("http", _REASON).inc()
        # Without TCP_NODELAY a response's body is delayed until the client acknowledges its
        # headers: 40 ms on Linux. asyncio sets it only for sockets that it opens itself.
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform == "linux":
            # This timeout applies to open connections and to those that are being closed. Without
            # it TCP waits forever for a client that reads nothing.
            accepted.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._unread_milliseconds
            )
        return _CountedConnection(accepted, self._connections), peer


class _CountedConnection(socket.socket):
    def __init__(self, accepted: socket.socket, connections: OpenConnections) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._connections = connections
        connections.count += 1

    def close(self) -> None:
        if self.fileno() != -1:  # -1: the socket is already closed
            self._connections.count -= 1
        super().close()
