"""The gRPC server: its start, failure detection and drain."""

import asyncio
import errno
import os
from collections.abc import Collection, Mapping
from contextlib import suppress

import grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE

from interaction_svc.transports.address import Address
from interaction_svc.transports.grpcio.channel_options import channel_options
from interaction_svc.transports.grpcio.credentials import server_credentials, subject_names
from interaction_svc.transports.grpcio.interceptors import (
    Admission,
    Authentication,
    Chain,
    Errors,
    InFlight,
    Telemetry,
)
from interaction_svc.transports.grpcio.interceptors.chain import Context
from interaction_svc.transports.grpcio.self_probe import SelfProbe, is_probe_call
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline import Pipeline, StreamTimes
from interaction_svc.transports.rpc.limits import GrpcLimits
from interaction_svc.transports.rpc.method import Method
from interaction_svc.transports.sockets import (
    CHECK_SECONDS,
    Listener,
    addresses_of,
    bind,
    cannot_listen,
    listeners_on,
)
from interaction_svc.transports.tls import Certificates

_WITHOUT_END_SECONDS = 7 * 24 * 3600.0
"""The grace period for grpc's `stop`, longer than any drain; `drain` has its own timer.

If grpc's grace period ended while `drain` cancels calls, grpc would cancel calls of a server that
no longer exists, and crash.
"""
_LAST_CALLS_SECONDS = 1.0


class GrpcServer:
    """Serves methods over gRPC with grpc.aio."""

    def __init__(
        self,
        methods: Mapping[Operation, Method],
        pipeline: Pipeline,
        times: StreamTimes,
        address: Address,
        limits: GrpcLimits,
        *,
        open_to_all: Collection[Operation] = (),
        certificates: Certificates | None = None,
        allowed_names: Collection[str] = (),
        reuse_port: bool = False,
    ) -> None:
        """Build a server, which listens once it is started.

        The methods in `open_to_all` need no credentials. With `certificates` it serves TLS only.
        With `allowed_names` it serves only clients whose certificate has one of these names. With
        `reuse_port` other processes of this user may listen on the same port.
        """
        self._address = address
        self._certificates = certificates
        self._reuses_port = reuse_port
        self._listeners: list[Listener] = []
        self._allowed_names = frozenset(allowed_names)
        self._in_flight = InFlight()
        authentication = Authentication(
            pipeline,
            open_to_all=open_to_all,
            is_peer_allowed=self._is_peer_allowed,
        )
        chain = Chain(
            [
                self._in_flight,
                Telemetry(),
                Errors(),
                Admission(pipeline, times),
                authentication,
            ],
            methods,
            refuses=pipeline.refuses,
        )
        self._probe = SelfProbe()
        self._server = grpc.aio.server(
            handlers=[self._probe, chain], options=channel_options(limits, reuse_port=reuse_port)
        )
        # A service with registered methods has its own queue in grpc's core.
        self._server.add_registered_method_handlers(
            HEALTH_SERVICE, chain.handlers_of(HEALTH_SERVICE)
        )

    async def start(self) -> Address:
        """Listen, and return the address with its real port. Raises OSError if that fails."""
        try:
            address = self._address if self._reuses_port else _with_free_port(self._address)
            for one in addresses_of(address):
                self._add_port(one)
        except OSError as error:
            raise cannot_listen("gRPC", self._address, error) from error
        self._probe.listen(self._server)
        await self._server.start()
        self._listeners = listeners_on(address.port)
        await self._probe.is_unresponsive()  # connects the probe before any client
        return address

    def _add_port(self, address: Address) -> None:
        try:
            if self._certificates is None:
                self._server.add_insecure_port(str(address))
            else:
                credentials = server_credentials(self._certificates)
                self._server.add_secure_port(str(address), credentials)
        except RuntimeError as error:  # the port was free a moment ago; grpc gives no reason
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from error

    async def failure(self) -> str:
        """Wait until the listener fails, and return the cause."""
        while True:
            try:
                # Raises the error that ended grpc's accept loop, which grpc itself only logs.
                is_running = await self._server.wait_for_termination(CHECK_SECONDS)
            except Exception as error:
                return f"{type(error).__name__} in grpc's accept loop"
            if not is_running:
                return "grpc has stopped it"
            if not all(listener.listens() for listener in self._listeners):
                return "its socket is closed"
            if await self._probe.is_unresponsive():
                return "it answers no calls"

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, wait up to `seconds` for those in progress, then cancel them."""
        stopping = asyncio.create_task(self._server.stop(_WITHOUT_END_SECONDS))
        await asyncio.sleep(0)  # lets `stop` begin to refuse calls
        with suppress(TimeoutError):
            await asyncio.wait_for(self._in_flight.idle(), seconds)
        # `stop` also waits for calls that grpc has accepted and that have not reached their
        # handlers. The timeout is for streams that never end, such as health's Watch.
        await asyncio.wait([stopping], timeout=min(seconds, _LAST_CALLS_SECONDS))
        await self._server.stop(None)
        await asyncio.wait([stopping])  # `await` would raise the error that ended the accept loop
        await self._in_flight.idle()
        await self._probe.close()

    def _is_peer_allowed(self, context: Context) -> bool:
        if is_probe_call(context):
            return False
        return not self._allowed_names or not self._allowed_names.isdisjoint(
            subject_names(context.auth_context())
        )


def _with_free_port(address: Address) -> Address:
    """Return the address, with a free port in place of 0. Raises OSError if the port is in use."""
    bound = bind(address)
    port = bound[0].getsockname()[1]
    for one in bound:
        one.close()
    return address._replace(port=port)
