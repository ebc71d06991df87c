"""The gRPC listener: one server of grpc.aio after the other on the same address.

When the accept loop of a server or its socket ends, a new server listens in the same process. Calls
in progress continue on the old one.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import structlog

from interaction_svc.telemetry import metrics
from interaction_svc.transports.address import Address
from interaction_svc.transports.grpcio.accept_loop import AcceptingServer
from interaction_svc.transports.grpcio.credentials import server_credentials
from interaction_svc.transports.grpcio.interceptors import Chain
from interaction_svc.transports.grpcio.self_probe import SelfProbe
from interaction_svc.transports.sockets import CHECK_SECONDS, Listener, addresses_of, listeners_on
from interaction_svc.transports.tls import Certificates

log = structlog.get_logger()

MAX_RETIRED = 3
"""Old servers whose calls may continue. Beyond this number the calls of the oldest are cancelled.

Each server counts its own connections, so a client that ends one accept loop after the other could
otherwise hold any number of connections and unfinished messages.
"""
_WITHOUT_END_SECONDS = 7 * 24 * 3600.0
"""The grace period for grpc's `stop`, longer than any drain; the caller has its own timer.

If grpc's grace period ended while calls are cancelled, grpc would cancel calls of a server that no
longer exists, and crash.
"""
_REOPEN_SECONDS = 5.0
"""The time limit to open the address again. A program that took the port meanwhile may leave it."""
_PAUSE_SECONDS = 0.001
_ACCEPT_LOOP = "AioServer._server_main_loop"


class GrpcListener:
    """Listens on an address, and opens it again when its server's accept loop or socket ends."""

    def __init__(
        self,
        chain: Chain,
        options: Sequence[tuple[str, int]],
        certificates: Certificates | None,
        *,
        on_restart: Callable[[], None],
    ) -> None:
        """Build a listener. It calls `on_restart` when calls of an old server may have to end."""
        self._chain = chain
        self._options = options
        self._certificates = certificates
        self._on_restart = on_restart
        self._address = Address("", 0)
        self._current = self._new_server()
        self._retired: dict[_Server, asyncio.Task[None]] = {}

    async def start(self, address: Address) -> None:
        """Listen on a port other than 0. Raises OSError if that fails."""
        self._address = address
        for one in addresses_of(address):
            self._current.add_port(one)
        await self._current.start(address.port)

    async def failure(self) -> str:
        """Open the address again after each failure. Return the cause of one that can't be ended.

        These are an address that can't be opened again, and a server that answers no calls.
        """
        while True:
            cause = await self._current.end()
            if cause is None:
                return "it answers no calls"
            began = monotonic()
            try:
                await self._restart()
            except OSError as error:
                return f"{cause}, and its address can't be opened again: {error.strerror}"
            metrics.listener_restarts.labels("grpc").inc()
            log.error(
                "the gRPC listener has been opened again",
                cause=cause,
                ms=round((monotonic() - began) * 1000, 1),
            )

    async def stop(self, *, cancels: bool) -> None:
        """Stop listening, and wait until all calls have ended; with `cancels`, cancel them."""
        servers = [self._current, *self._retired]
        await asyncio.gather(*(server.stop(cancels=cancels) for server in servers))

    async def _restart(self) -> None:
        old, self._current = self._current, self._new_server()
        retiring = asyncio.create_task(old.stop(cancels=False))
        self._retired[old] = retiring
        retiring.add_done_callback(lambda _: self._retired.pop(old, None))
        self._on_restart()
        for oldest in [*self._retired][:-MAX_RETIRED]:
            self._retired[oldest] = asyncio.create_task(oldest.stop(cancels=True))
        end = monotonic() + _REOPEN_SECONDS
        # grpc closes the sockets on another thread, and two sockets can't listen on one address.
        while old.listens() and monotonic() < end:  # noqa: ASYNC110 nothing signals it
            await asyncio.sleep(_PAUSE_SECONDS)
        for one in addresses_of(self._address):
            await self._add_port(one, end)
        await self._current.start(self._address.port)

    async def _add_port(self, address: Address, end: float) -> None:
        while True:
            try:
                return self._current.add_port(address)
            except OSError:
                if monotonic() >= end:
                    raise
            await asyncio.sleep(50 * _PAUSE_SECONDS)

    def _new_server(self) -> "_Server":
        return _Server(self._chain, self._options, self._certificates)


class _Server:
    """A server of grpc.aio, its sockets and its accept loop."""

    def __init__(
        self,
        chain: Chain,
        options: Sequence[tuple[str, int]],
        certificates: Certificates | None,
    ) -> None:
        self._certificates = certificates
        self._sockets: list[Listener] = []
        self._accept_loop: list[asyncio.Task[Any]] = []
        self._probe = SelfProbe()
        probe = self._probe
        self._server = AcceptingServer(
            {probe.method, *chain.methods},
            lambda details: (
                probe.handler if details.method == probe.method else chain.service(details)
            ),
            options,
        )

    def add_port(self, address: Address) -> None:
        """Bind an address. Raises OSError."""
        try:
            if self._certificates is None:
                self._server.add_insecure_port(str(address))
            else:
                credentials = server_credentials(self._certificates)
                self._server.add_secure_port(str(address), credentials)
        except RuntimeError as error:  # the port was free a moment ago; grpc gives no reason
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from error

    async def start(self, port: int) -> None:
        """Accept calls on the bound addresses, all with this port."""
        self._probe.listen(self._server)
        earlier = asyncio.all_tasks()
        await self._server.start()
        self._accept_loop = [
            task
            for task in asyncio.all_tasks() - earlier
            if getattr(task.get_coro(), "__qualname__", "") == _ACCEPT_LOOP
        ]
        self._sockets = listeners_on(port)
        # Connects the probe before any client. If the accept loop ends, there will be no answer.
        probing = asyncio.create_task(self._probe.is_unresponsive())
        ends: list[asyncio.Task[Any]] = [probing, *self._accept_loop]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        probing.cancel()

    async def end(self) -> str | None:
        """Wait until the server fails. Return the cause; None if it listens but does not answer."""
        while True:
            if self._accept_loop:
                await asyncio.wait(self._accept_loop, timeout=CHECK_SECONDS)
            else:  # another version of grpc; its end is noticed at the next check
                await asyncio.sleep(CHECK_SECONDS)
            try:
                # Raises the error that ended grpc's accept loop, which grpc itself only logs.
                is_running = await self._server.wait_for_termination(0)
            except Exception as error:
                return f"{type(error).__name__} in grpc's accept loop"
            if not is_running or any(task.done() for task in self._accept_loop):
                return "grpc has stopped it"
            if not all(listener.listens() for listener in self._sockets):
                return "its socket is closed"
            if await self._probe.is_unresponsive():
                return None

    def listens(self) -> bool:
        """Return whether one of its sockets still listens."""
        return any(listener.listens() for listener in self._sockets)

    async def stop(self, *, cancels: bool) -> None:
        """Refuse new calls, and wait until all others have ended; with `cancels`, cancel them."""
        grace = None if cancels else _WITHOUT_END_SECONDS
        for _ in range(2):  # the first one may only raise the error that ended the accept loop
            await asyncio.wait([asyncio.create_task(self._server.stop(grace))])
        await self._probe.close()
