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
    new certificate on the same sockets, and the first one drains.
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
        self._max_connections = _max_connections(limits.max_connections)
        self._sockets: list[socket.socket] = []
        self._current: _Running | None = None
        self._serving: asyncio.Task[None] | None = None
        self._draining: set[asyncio.Task[None]] = set()

    async def start(self) -> Address:
        """Listen, and return the address with its real port. Raises OSError if that fails."""
        try:
            self._sockets = bind(self._address, reuse_port=self._reuses_port)
            for one in self._sockets:
                one.listen(_BACKLOG)
        except OSError as error:
            raise cannot_listen("gRPC", self._address, error) from error
        self._current = await self._run()
        self._serving = asyncio.create_task(self._serve(self._current))
        return self._address._replace(port=self._sockets[0].getsockname()[1])

    async def failure(self) -> str:
        """Wait until the listener fails for good, and return the cause."""
        if self._serving is None:
            return "it was not started"
        return await failure_of(self._serving)

    async def drain(self, _: float) -> None:
        """Refuse new calls, wait for those in progress, and cancel them at the end of the time.

        The time is that of the limits, because h2corn can't change it.
        """
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        if self._current is not None:
            self._retire(self._current)
            await asyncio.sleep(_STOP_ACCEPTING_SECONDS)
        for one in self._sockets:
            # h2corn has a duplicate of the descriptor, so that `close` would leave it listening.
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        if self._draining:
            await asyncio.wait(self._draining)

    async def _run(self) -> "_Running":
        """Start h2corn with the current certificate. Raises OSError, ValueError."""
        pem = None if self._certificates is None else self._certificates.pem
        with readable(pem) as paths:
            descriptors = [one.fileno() for one in self._sockets]
            config = config_of(
                self._limits, descriptors, paths, max_connections=self._max_connections
            )
            running = _Running(h2corn.Server(self._app, config), pem)
            await running.started()
        return running

    async def _serve(self, current: "_Running") -> None:
        """Serve until this task is cancelled. Raises OSError after too many errors in a row."""
        loop = asyncio.get_running_loop()
        errors, started_at = 0, loop.time()
        while True:
            error = await current.error_within(CHECK_SECONDS)
            if error is None:
                self._current = current = await self._with_current_certificate(current)
                continue
            while error is not None:
                errors = 1 if loop.time() - started_at > _STEADY_SECONDS else errors + 1
                if errors > _MAX_ERRORS_IN_A_ROW:
                    raise error
                log.error("the gRPC listener is started again", cause=str(error))
                metrics.listener_restarts.labels("grpc").inc()
                pause = min(_FIRST_PAUSE_SECONDS * 2 ** (errors - 1), _LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause)
                started_at, error = loop.time(), None
                try:
                    self._current = current = await self._run()
                except OSError as again:
                    error = again

    async def _with_current_certificate(self, current: "_Running") -> "_Running":
        """Return a new h2corn if the certificate has changed, else the one that runs."""
        if self._certificates is None or self._certificates.pem is current.pem:
            return current
        try:
            renewed = await self._run()
        except (OSError, ValueError) as error:  # tried again at the next check
            log.error("the new certificate can't be served", problem=type(error).__name__)
            return current
        self._retire(current)
        return renewed

    def _retire(self, running: "_Running") -> None:
        """Drain a running h2corn in the background."""
        task = asyncio.create_task(running.drain())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)


class _Running:
    """h2corn from its start to its end, with one certificate."""

    def __init__(self, server: h2corn.Server, pem: PemFiles | None) -> None:
        self.pem = pem
        self._server = server
        self._serving = asyncio.create_task(server.serve())

    async def started(self) -> None:
        """Return when it accepts connections. Raises OSError, ValueError if it can't start."""
        started = asyncio.ensure_future(self._server.wait_started())
        await asyncio.wait([self._serving, started], return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            started.cancel()
            await asyncio.wait([started])
            if not started.cancelled():
                started.exception()  # the same error
            self._serving.result()
        await started

    async def error_within(self, seconds: float) -> OSError | None:
        """Wait for an error of `accept` and return it; None if there is none within `seconds`.

        Raises any other error of h2corn.
        """
        done, _ = await asyncio.wait([self._serving], timeout=seconds)
        if not done:
            return None
        try:
            self._serving.result()
        except OSError as error:
            return error
        raise RuntimeError("h2corn has ended")

    async def drain(self) -> None:
        """Refuse new calls, wait for those in progress, and cancel them at the end of the time."""
        self._server.shutdown()
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
