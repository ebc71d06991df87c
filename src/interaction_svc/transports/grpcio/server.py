"""The gRPC server: its start, failure detection and drain."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from interaction_svc.transports.address import Address
from interaction_svc.transports.grpcio.channel_options import channel_options
from interaction_svc.transports.grpcio.credentials import subject_names
from interaction_svc.transports.grpcio.interceptors import (
    Admission,
    Authentication,
    Chain,
    Errors,
    InFlight,
    Telemetry,
)
from interaction_svc.transports.grpcio.interceptors.chain import Context
from interaction_svc.transports.grpcio.listener import GrpcListener
from interaction_svc.transports.grpcio.self_probe import is_probe_call
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline import Pipeline, StreamTimes
from interaction_svc.transports.rpc.limits import GrpcLimits
from interaction_svc.transports.rpc.method import Method
from interaction_svc.transports.sockets import bind, cannot_listen
from interaction_svc.transports.tls import Certificates

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
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        """Build a server, which listens once it is started.

        The methods in `open_to_all` need no credentials. With `certificates` it serves TLS only.
        With `allowed_names` it serves only clients whose certificate has one of these names. With
        `reuse_port` other processes of this user may listen on the same port. It calls `on_restart`
        when it listens again, so that endless streams end on the old connections.
        """
        self._address = address
        self._reuses_port = reuse_port
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
        self._listener = GrpcListener(
            chain,
            channel_options(limits, reuse_port=reuse_port),
            certificates,
            on_restart=on_restart,
        )

    async def start(self) -> Address:
        """Listen, and return the address with its real port. Raises OSError if that fails."""
        try:
            address = self._address if self._reuses_port else _with_free_port(self._address)
            await self._listener.start(address)
        except OSError as error:
            raise cannot_listen("gRPC", self._address, error) from error
        return address

    async def failure(self) -> str:
        """Wait until the listener fails and can't be opened again, and return the cause."""
        return await self._listener.failure()

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, wait up to `seconds` for those in progress, then cancel them."""
        stopping = asyncio.create_task(self._listener.stop(cancels=False))
        await asyncio.sleep(0)  # lets `stop` begin to refuse calls
        with suppress(TimeoutError):
            await asyncio.wait_for(self._in_flight.idle(), seconds)
        # `stop` also waits for calls that grpc has accepted and that have not reached their
        # handlers. The timeout is for streams that never end, such as health's Watch.
        await asyncio.wait([stopping], timeout=min(seconds, _LAST_CALLS_SECONDS))
        await self._listener.stop(cancels=True)
        await stopping
        await self._in_flight.idle()

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
