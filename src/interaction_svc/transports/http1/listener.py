"""Listening sockets with a limit on open connections."""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from interaction_svc.domain.errors import Overloaded
from interaction_svc.telemetry import metrics

log = structlog.get_logger()

BACKLOG = 2048
"""Connections that the kernel holds until they are accepted, and that one turn may accept."""
_PAUSE_SECONDS = 1.0
"""The pause after the system has refused to accept, for example because too many files are open."""
_REASON = Overloaded.reason_name()

Connect = Callable[[socket.socket], Awaitable[None]]
"""A function that serves a connection. It returns once TLS is established, or raises OSError."""


@dataclass(slots=True)
class OpenConnections:
    """The number of open connections of all listeners together."""

    maximum: int
    count: int = 0


class LimitedListener:
    """Accepts connections, and closes new ones while the maximum number is open.

    It counts sockets, so that connections count during their TLS handshake too. It accepts them
    itself, because `create_server` of uvloop leaves no place for a limit.
    """

    def __init__(
        self, bound: socket.socket, connections: OpenConnections, *, unread_seconds: float
    ) -> None:
        """Listen on a bound socket. Raises OSError.

        On Linux, the kernel closes a connection if its client reads nothing for `unread_seconds`.
        """
        bound.setblocking(False)
        bound.listen(BACKLOG)
        self.socket = bound
        self._connections = connections
        self._unread_milliseconds = int(unread_seconds * 1000)
        self._opening: set[asyncio.Task[None]] = set()  # the loop refers to tasks only weakly

    def start(self, connect: Connect) -> None:
        """Accept connections on the running event loop, and call `connect` with each."""
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._resume()

    def close(self) -> None:
        """Stop listening. Open connections stay open."""
        if self.socket.fileno() != -1:
            self._loop.remove_reader(self.socket)
            self.socket.close()

    async def wait_closed(self) -> None:
        """Return at once. uvicorn's server itself waits for open connections."""

    def _resume(self) -> None:
        if self.socket.fileno() != -1:
            self._loop.add_reader(self.socket, self._accept)

    def _accept(self) -> None:
        for _ in range(BACKLOG):
            try:
                accepted, _ = self.socket.accept()
            except BlockingIOError:
                return
            except ConnectionError:  # the client has closed it already
                continue
            except OSError as error:
                # The socket stays readable, so without a pause this would repeat at once.
                self._loop.remove_reader(self.socket)
                self._loop.call_later(_PAUSE_SECONDS, self._resume)
                problem = error.strerror or type(error).__name__
                log.error("HTTP connections can't be accepted for a second", problem=problem)
                return
            if self._connections.count < self._connections.maximum:
                task = self._loop.create_task(
                    self._open(_CountedConnection(accepted, self._connections))
                )
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)
            else:
                accepted.close()
                metrics.errors.labels("http", _REASON).inc()

    async def _open(self, connection: socket.socket) -> None:
        """Serve a connection. If its client or its TLS handshake fails, close it."""
        with suppress(OSError):
            try:
                # Without TCP_NODELAY a response's body is delayed until the client acknowledges its
                # headers: 40 ms on Linux. asyncio sets it only for sockets that it opens itself.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if sys.platform == "linux":
                    # This timeout applies to open connections and to those that are being closed.
                    # Without it TCP waits forever for a client that reads nothing.
                    connection.setsockopt(
                        socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._unread_milliseconds
                    )
                await self._connect(connection)
            except BaseException:
                connection.close()
                raise


class _CountedConnection(socket.socket):
    """A socket that counts as open until it is closed: by `close`, or by uvloop with `detach`."""

    def __init__(self, accepted: socket.socket, connections: OpenConnections) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._connections = connections
        self._is_counted = True
        connections.count += 1

    def close(self) -> None:
        self._end_count()
        super().close()

    def detach(self) -> int:
        self._end_count()
        return super().detach()

    def _end_count(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._connections.count -= 1
