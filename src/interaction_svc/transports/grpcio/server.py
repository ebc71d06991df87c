"""The gRPC server: its services, start and drain."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from interaction_svc.app.ingest import Ingest
from interaction_svc.app.interactions import Interactions
from interaction_svc.transports.address import Address
from interaction_svc.transports.grpcio import reflection
from interaction_svc.transports.grpcio.credentials import subject_names
from interaction_svc.transports.grpcio.health import HealthServicer
from interaction_svc.transports.grpcio.interceptors import (
    Admission,
    Authentication,
    Chain,
    Errors,
    InFlight,
    Telemetry,
)
from interaction_svc.transports.grpcio.interceptors.chain import Behavior, Context
from interaction_svc.transports.grpcio.limits import GrpcLimits, channel_options
from interaction_svc.transports.grpcio.listener import GrpcListener
from interaction_svc.transports.grpcio.self_probe import is_probe_call
from interaction_svc.transports.operations import REFLECTION
from interaction_svc.transports.pipeline import Pipeline, StreamTimes
from interaction_svc.transports.rpc.methods import SERVICES, stream_methods, unary_methods
from interaction_svc.transports.sockets import bind, cannot_listen
from interaction_svc.transports.tls import Certificates

_HEALTH_OF = ("", *SERVICES)
_LAST_CALLS_SECONDS = 1.0


class GrpcServer:
    """Serves the API, health, and reflection (v1 and v1alpha)."""

    def __init__(
        self,
        interactions: Interactions,
        ingest: Ingest,
        pipeline: Pipeline,
        address: Address,
        limits: GrpcLimits,
        *,
        certificates: Certificates | None = None,
        allowed_names: Collection[str] = (),
        reuse_port: bool = False,
    ) -> None:
        """Build a server, which listens once it is started.

        With `certificates` it serves TLS only. With `allowed_names` it serves only clients whose
        certificate has one of these names. With `reuse_port` other processes of this user may
        listen on the same port.
        """
        self._address = address
        self._reuses_port = reuse_port
        self._allowed_names = frozenset(allowed_names)
        self._in_flight = InFlight()
        self._health = HealthServicer(_HEALTH_OF)
        times = StreamTimes(limits.stream_idle_seconds, limits.stream_seconds)
        authentication = Authentication(
            pipeline,
            # On loopback reflection needs no key.
            open_to_all=REFLECTION if address.is_loopback else (),
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
            refuses=pipeline.refuses,
        )
        chain.add_generic_rpc_handlers(_handlers(interactions, ingest))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, chain)
        reflection.add_reflection(chain, SERVICES)
        self._listener = GrpcListener(
            chain,
            channel_options(limits, reuse_port=reuse_port),
            certificates,
            on_restart=self._health.end_watches,
        )

    async def start(self) -> Address:
        """Listen, and return the address with its real port. Raises OSError if that fails."""
        # The library's servicer is SERVING at first.
        await self.set_serving(False)
        try:
            address = self._address if self._reuses_port else _with_free_port(self._address)
            await self._listener.start(address)
        except OSError as error:
            raise cannot_listen("gRPC", self._address, error) from error
        return address

    async def set_serving(self, is_serving: bool) -> None:
        """Set the health of the services to SERVING or NOT_SERVING."""
        statuses = health_pb2.HealthCheckResponse
        for service in _HEALTH_OF:
            await self._health.set(
                service, statuses.SERVING if is_serving else statuses.NOT_SERVING
            )

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


def _handlers(interactions: Interactions, ingest: Ingest) -> list[grpc.GenericRpcHandler]:
    """Return the handlers of the two services. They have no serializers: bytes pass through."""
    unary: Any = grpc.unary_unary_rpc_method_handler
    streamed: Any = grpc.stream_unary_rpc_method_handler
    handlers: dict[str, Any] = {
        operation.rpc: unary(_behavior(method.call))
        for operation, method in unary_methods(interactions, ingest).items()
    } | {
        operation.rpc: streamed(_behavior(call))
        for operation, call in stream_methods(ingest).items()
    }
    return [
        grpc.method_handlers_generic_handler(
            service,
            {
                rpc.rpartition("/")[2]: handler
                for rpc, handler in handlers.items()
                if rpc.startswith(f"/{service}/")
            },
        )
        for service in SERVICES
    ]


def _behavior(method: Callable[[Any], Awaitable[bytes]]) -> Behavior:
    """Return a grpc behavior that calls a method of a service without the context."""
    return lambda request, _: method(request)
