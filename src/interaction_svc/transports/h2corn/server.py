"""The gRPC listener on h2corn: start, restart, reload of certificates, and drain."""

import asyncio
import resource
import socket
from contextlib import suppress

import h2corn
import structlog
from starlette.types import ASGIApp

from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.task_failure import failure_of
from interaction_svc.transports.address import Address
from interaction_svc.transports.h2corn.config import config_of
from interaction_svc.transports.h2corn.pem_files import readable
from interaction_svc.transports.reserved_port import ReservedPort
from interaction_svc.transports.rpc.limits import GrpcLimits
from interaction_svc.transports.sockets import CHECK_SECONDS, bind, cannot_listen
from interaction_svc.transports.tls import Certificates, PemFiles

log = structlog.get_logger()

_BACKLOG = 2048
"""Connections that the kernel holds until they are accepted."""
_OTHER_FILES = 256
"""Open files that are kept for the store, the HTTP listener and the logs."""
_STOP_ACCEPTING_SECONDS = 0.05
"""The time in which h2corn stops accepting. A socket that is closed before would be an error."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 2.0
"""The pause before h2corn is started again after an error; it doubles at each error in a row."""
_STEADY_SECONDS = 10.0
_MAX_ERRORS_IN_A_ROW = 10


class H2cornServer:
    """Serves an application over HTTP/2, without TLS or with TLS only.

    An error of `accept`, such as no free file descriptor, ends h2corn. It is started again on the
    same sockets, so that new connections wait in the kernel meanwhile. The calls in progress are
    lost. h2corn reads its certificate once. When the files change, a second one starts with the
    new certificate on sockets of its own on the same port, and then the first one drains.
    """

    def __init__(
        self,
        app: ASGIApp,
        address: Address,
        limits: GrpcLimits,
        *,
        certificates: Certificates | None = None,
        reuse_port: bool = False,
    ) -> None:
        """Build a server, which listens once it is started.

        With a client CA in `certificates`, clients need a certificate. With `reuse_port` other
        processes of this user may listen on the same port.
        """
        self._app = app
        self._address = address
        self._limits = limits
        self._certificates = certificates
        self._reuses_port = reuse_port
        self._reserved: ReservedPort | None = None
        self._current: _Listener | None = None
        self._serving: asyncio.Task[None] | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self._max_connections = _max_connections(limits.max_connections)

    async def start(self) -> Address:
        """Listen, and return the address with its real port. Raises OSError if that fails."""
        try:
            if self._certificates is not None and not self._reuses_port:
                self._reserved = ReservedPort(self._address)  # a reload shares the port
                self._address = self._reserved.address
            self._current = self._listen()
        except OSError as error:
            raise cannot_listen("gRPC", self._address, error) from error
        port = self._current.sockets[0].getsockname()[1]
        self._address = self._address._replace(port=port)
        await self._current.start()
        self._serving = asyncio.create_task(self._serve())
        return self._address

    async def failure(self) -> str:
        """Wait until the listener fails for good, and return the cause."""
        if self._serving is None:
            return "it was not started"
        return await failure_of(self._serving)

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, wait up to `seconds` for those in progress, then cancel them.

        `seconds` is at most the drain time of the limits.
        """
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        if self._current is not None:
            self._retire(self._current)
        if self._draining:
            await asyncio.wait(self._draining, timeout=seconds + 2)
        if self._reserved is not None:
            self._reserved.close()

    def _listen(self) -> "_Listener":
        shares = self._reuses_port or self._reserved is not None
        sockets = bind(self._address, reuse_port=shares)
        for one in sockets:
            one.listen(_BACKLOG)
        pem = None if self._certificates is None else self._certificates.pem
        return _Listener(self._app, self._limits, sockets, pem, self._max_connections)

    async def _serve(self) -> None:
        """Serve until this task is cancelled. Raises OSError after too many errors in a row."""
        loop = asyncio.get_running_loop()
        errors, started_at = 0, loop.time()
        while True:
            assert self._current is not None  # noqa: S101 `start` has set it
            error = await self._current.error_within(CHECK_SECONDS)
            if error is None:
                await self._reload_if_changed()
                continue
            errors = 1 if loop.time() - started_at > _STEADY_SECONDS else errors + 1
            if errors > _MAX_ERRORS_IN_A_ROW:
                raise error
            log.error("the gRPC listener is started again", cause=error.strerror, errors=errors)
            metrics.listener_restarts.labels("grpc").inc()
            pause = min(_FIRST_PAUSE_SECONDS * 2 ** (errors - 1), _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)
            started_at = loop.time()
            with suppress(OSError):  # then `error_within` returns the error
                await self._current.start()

    async def _reload_if_changed(self) -> None:
        current, certificates = self._current, self._certificates
        if current is None or certificates is None or current.pem is certificates.pem:
            return
        try:
            listener = self._listen()
            await listener.start()
        except (OSError, ValueError) as error:
            log.error("the new certificate can't be served", problem=type(error).__name__)
            return
        self._current = listener
        self._retire(current)

    def _retire(self, listener: "_Listener") -> None:
        """Drain a listener in the background."""
        task = asyncio.create_task(listener.drain())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)


class _Listener:
    """h2corn on open sockets, with one certificate."""

    def __init__(
        self,
        app: ASGIApp,
        limits: GrpcLimits,
        sockets: list[socket.socket],
        pem: PemFiles | None,
        max_connections: int,
    ) -> None:
        self.sockets = sockets
        self.pem = pem
        self._app = app
        self._limits = limits
        self._max_connections = max_connections
        self._server: h2corn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start h2corn on the sockets, and return when it accepts connections. Raises OSError."""
        with readable(self.pem) as paths:
            descriptors = [one.fileno() for one in self.sockets]
            config = config_of(
                self._limits, descriptors, paths, max_connections=self._max_connections
            )
            self._server = h2corn.Server(self._app, config)
            self._serving = asyncio.create_task(self._server.serve())
            started = asyncio.ensure_future(self._server.wait_started())
            await asyncio.wait([self._serving, started], return_when=asyncio.FIRST_COMPLETED)
            if self._serving.done():
                started.cancel()
                self._serving.result()
            await started

    async def error_within(self, seconds: float) -> OSError | None:
        """Wait for an error of `accept` and return it; None if there is none within `seconds`.

        Raises any other error of h2corn.
        """
        assert self._serving is not None  # noqa: S101 `start` has set it
        done, _ = await asyncio.wait([self._serving], timeout=seconds)
        if not done:
            return None
        try:
            self._serving.result()
        except OSError as error:
            return error
        raise RuntimeError("h2corn has ended")

    async def drain(self) -> None:
        """Refuse new calls, wait for those in progress, cancel them at the end of the time."""
        assert self._server is not None  # noqa: S101 `start` has set it
        assert self._serving is not None  # noqa: S101 `start` has set it
        self._server.shutdown()
        await asyncio.sleep(_STOP_ACCEPTING_SECONDS)
        for one in self.sockets:
            # h2corn has a duplicate of the descriptor, so that `close` would leave it listening.
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        with suppress(OSError, RuntimeError):  # calls that ignored their cancellation
            await self._serving


def _max_connections(wanted: int) -> int:
    """Return the limit on connections: below the limit on open files, at which h2corn ends.

    The HTTP listener has connections too, so that this one may take half of the open files.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, (most - _OTHER_FILES) // 2)
    if allowed < wanted:
        log.warning(
            "max_connections is lowered for gRPC: the limit on open files is too low",
            max_connections=wanted,
            allowed=max(1, allowed),
            open_files=most,
        )
    return max(1, allowed)
